//! TLS of `https` checks.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Failure, Limit, Shared, socket::Route};
use crate::health::Target;
use lb_model::{
    config::{CaFile, HttpCheck},
    error::chain,
};

/// For how long the host's trusted certificates are not read again.
const HOST_ROOTS_FOR: Duration = Duration::from_secs(2);

/// Client configurations, shared by targets with the same settings: loading the host's trusted
/// certificates takes longer than a check.
#[derive(Debug, Default)]
pub struct TlsConfigs(Mutex<HashMap<Settings, (Instant, Arc<ClientConfig>)>>);

/// Whether certificates are verified, and the CA certificates if not the host's.
type Settings = (bool, Option<CaFile>);

impl TlsConfigs {
    fn get(&self, settings: &Settings) -> Result<Arc<ClientConfig>, Failure> {
        let mut configs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_of_host = *settings == (true, None);
        let known = configs.get(settings);
        if let Some((made, config)) = known
            && (!is_of_host || made.elapsed() < HOST_ROOTS_FOR)
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(make(settings.0, settings.1.as_ref())?);
        configs.insert(settings.clone(), (Instant::now(), Arc::clone(&config)));
        Ok(config)
    }
}

fn make(verify: bool, ca: Option<&CaFile>) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(ring::default_provider());
    let failed = |error: rustls::Error| Failure::of_node(format!("cannot set up TLS: {error}"));
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let mut config = if verify {
        builder
            .with_root_certificates(roots(ca)?)
            .with_no_client_auth()
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(NoVerification(provider)))
            .with_no_client_auth()
    };
    // A resumed session shows no certificate, so that an expired one would go unnoticed.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Loads the trusted CA certificates.
fn roots(ca: Option<&CaFile>) -> Result<RootCertStore, Failure> {
    let mut store = RootCertStore::empty();
    let Some(ca) = ca else {
        let found = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(found.certs);
        if store.is_empty() {
            return Err(Failure::of_node(
                "the host has no trusted CA certificates; install the package ca-certificates, set \
                 `ca_file`, or set `verify = false`",
            ));
        }
        return Ok(store);
    };
    let wrong = |why: String| {
        Failure::of_node(format!(
            "cannot use the certificates in {}: {why}",
            ca.path.display()
        ))
    };
    for certificate in CertificateDer::pem_slice_iter(ca.pem.as_bytes()) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        store
            .add(certificate)
            .map_err(|error| wrong(error.to_string()))?;
    }
    Ok(store)
}

/// The TLS settings of a target.
pub(super) struct Session {
    settings: Settings,
    shared: Arc<Shared>,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Session").field(&self.name).finish()
    }
}

impl Session {
    pub(super) fn new(
        target: &Target,
        check: &HttpCheck,
        verify: bool,
        ca: Option<&CaFile>,
        shared: &Arc<Shared>,
    ) -> Result<Self, Failure> {
        let name = match &check.host {
            None => ServerName::from(target.vip_address),
            Some(host) => {
                let name = without_port(host).to_owned();
                ServerName::try_from(name).map_err(|_| {
                    Failure::of_node(format!("{host:?} is not a valid name for a certificate"))
                })?
            }
        };
        let settings = (verify, ca.cloned());
        if ca.is_some() {
            shared.tls.get(&settings)?;
        }
        let shared = Arc::clone(shared);
        Ok(Self {
            settings,
            shared,
            name,
        })
    }

    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        route: &Route,
        limit: Limit,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let connector = TlsConnector::from(self.shared.tls.get(&self.settings)?);
        let handshake = async {
            let opened = connector.connect(self.name.clone(), stream).await;
            opened.map_err(|error| failure(&error, route))
        };
        let late = |limit| {
            Failure::new(format!(
                "{route} accepted the connection but did not complete the TLS handshake within {limit}"
            ))
        };
        limit.within(handshake, late).await
    }
}

fn failure(error: &io::Error, route: &Route) -> Failure {
    Failure::new(format!(
        "TLS handshake with {route} failed: {}",
        chain(error)
    ))
}

/// Returns the name in `name`, `name:port`, `[v6]` and `[v6]:port`.
fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') => name,
        _ => host,
    }
}

/// Accepts every certificate, for `verify = false`.
#[derive(Debug)]
struct NoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::without_port;

    #[test]
    fn strips_the_port_of_a_host() {
        for (host, name) in [
            ("api.example", "api.example"),
            ("api.example:8443", "api.example"),
            ("10.0.0.1:443", "10.0.0.1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}

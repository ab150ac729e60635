//! Mutual TLS between nodes. The files are read for each connection, so that certificates can be renewed.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

use crate::handle::Tls;

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn roots(tls: &Tls) -> Result<RootCertStore, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", tls.ca.display());
    let mut store = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(&tls.ca).map_err(|error| wrong(&error))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        store.add(certificate).map_err(|error| wrong(&error))?;
    }
    Ok(store)
}

fn identity(tls: &Tls) -> Result<Identity, String> {
    let (certificate, key) = tls.client.as_ref().ok_or("no certificate")?;
    let wrong = |error| format!("{}: {error}", certificate.display());
    let chain = CertificateDer::pem_file_iter(certificate).map_err(wrong)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    let private = PrivateKeyDer::from_pem_file(key);
    let private = private.map_err(|error| format!("{}: {error}", key.display()))?;
    Ok((chain, private))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// For the node that asks. Who answers must have a certificate of the authority with the node's name.
pub(super) fn client(tls: &Tls) -> Result<Arc<ClientConfig>, String> {
    let (chain, key) = identity(tls)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(text)?
        .with_root_certificates(roots(tls)?);
    let mut config = builder.with_client_auth_cert(chain, key).map_err(text)?;
    // A resumed session shows no certificate.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// For the node that answers. Who asks must have a certificate of the authority.
pub(super) fn server(tls: &Tls) -> Result<Arc<ServerConfig>, String> {
    let (chain, key) = identity(tls)?;
    let provider = Arc::new(ring::default_provider());
    let roots = Arc::new(roots(tls)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(text)?;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(text)?
        .with_client_cert_verifier(verifier);
    let config = builder.with_single_cert(chain, key).map_err(text)?;
    Ok(Arc::new(config))
}

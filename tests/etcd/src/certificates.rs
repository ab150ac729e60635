//! Certificates: the right ones, and ones to be refused with.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

/// PEM files: certificate and key.
pub type Pair = (PathBuf, PathBuf);

/// The files of a cluster.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority that clients and members trust.
    pub ca: PathBuf,
    /// The members' certificate.
    pub server: Pair,
    /// A client's certificate.
    pub client: Pair,
    /// A client's certificate that has expired.
    pub expired: Pair,
    /// Another authority.
    pub other_ca: PathBuf,
    /// A client's certificate of the other authority.
    pub stranger: Pair,
    folder: PathBuf,
    issuer: Arc<Authority>,
}

type Authority = Issuer<'static, KeyPair>;

impl Certificates {
    /// Makes them in a folder; members listen at `address`.
    ///
    /// # Panics
    /// If a file can't be written.
    #[must_use]
    pub fn new(folder: &Path, address: IpAddr) -> Self {
        let (ca, issuer) = authority(folder, "ca");
        let (other_ca, other) = authority(folder, "other-ca");
        let mut server = leaf("etcd");
        server.subject_alt_names = vec![SanType::IpAddress(address)];
        let mut expired = leaf("expired");
        expired.not_before = date_time_ymd(2020, 1, 1);
        expired.not_after = date_time_ymd(2020, 2, 1);
        Self {
            server: write(folder, "server", &server, &issuer),
            client: write(folder, "client", &leaf("node"), &issuer),
            expired: write(folder, "expired", &expired, &issuer),
            stranger: write(folder, "stranger", &leaf("stranger"), &other),
            ca,
            other_ca,
            folder: folder.to_owned(),
            issuer: Arc::new(issuer),
        }
    }

    /// Makes a certificate with this DNS name, or returns the one that was made: for a node that is a client of
    /// etcd, and a server and a client of other nodes.
    ///
    /// # Panics
    /// If a file can't be written, or the name is no DNS name.
    #[must_use]
    pub fn node(&self, name: &str) -> Pair {
        let file = format!("node-{name}");
        let made = pair(&self.folder, &file);
        if made.0.exists() {
            return made;
        }
        let mut node = leaf(name);
        let dns = name.try_into().expect("a DNS name");
        node.subject_alt_names = vec![SanType::DnsName(dns)];
        write(&self.folder, &file, &node, &self.issuer)
    }
}

fn leaf(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

fn authority(folder: &Path, name: &str) -> (PathBuf, Authority) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("make a key");
    let certificate = params.self_signed(&key).expect("sign a certificate");
    let path = folder.join(format!("{name}.pem"));
    fs::write(&path, certificate.pem()).expect("write a certificate");
    (path, Issuer::new(params, key))
}

fn pair(folder: &Path, name: &str) -> Pair {
    let file = |kind| folder.join(format!("{name}.{kind}"));
    (file("pem"), file("key"))
}

fn write(folder: &Path, name: &str, params: &CertificateParams, issuer: &Authority) -> Pair {
    let key = KeyPair::generate().expect("make a key");
    let certificate = params.signed_by(&key, issuer).expect("sign a certificate");
    let paths = pair(folder, name);
    fs::write(&paths.0, certificate.pem()).expect("write a certificate");
    fs::write(&paths.1, key.serialize_pem()).expect("write a key");
    paths
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
        server::WebPkiClientVerifier,
    };

    use super::*;

    fn roots(ca: &Path) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(ca).expect("a certificate");
        roots.add(ca).expect("an authority");
        Arc::new(roots)
    }

    fn provider() -> Arc<CryptoProvider> {
        Arc::new(ring::default_provider())
    }

    fn is_server(ca: &Path, pair: &Pair, name: &'static str) -> bool {
        let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca), provider()).build();
        let verifier = verifier.expect("a verifier");
        let leaf = CertificateDer::from_pem_file(&pair.0).expect("a certificate");
        let name = ServerName::try_from(name).expect("a name");
        let verified = verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now());
        verified.is_ok()
    }

    fn is_client(ca: &Path, pair: &Pair) -> bool {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca), provider()).build();
        let verifier = verifier.expect("a verifier");
        let leaf = CertificateDer::from_pem_file(&pair.0).expect("a certificate");
        verifier
            .verify_client_cert(&leaf, &[], UnixTime::now())
            .is_ok()
    }

    #[test]
    fn a_node_is_a_server_of_its_name_and_a_client() {
        let folder = tempfile::tempdir().expect("make a folder");
        let files = Certificates::new(folder.path(), Ipv4Addr::LOCALHOST.into());
        let (first, second) = (files.node("lb-0"), files.node("lb-1"));
        let key = || fs::read(&first.1).expect("a key");
        let before = key();
        assert_eq!((files.node("lb-0"), key()), (first.clone(), before));
        PrivateKeyDer::from_pem_file(&first.1).expect("a key");
        assert!(is_server(&files.ca, &first, "lb-0"));
        assert!(!is_server(&files.ca, &first, "lb-1"));
        assert!(!is_server(&files.other_ca, &first, "lb-0"));
        assert!(is_client(&files.ca, &first) && is_client(&files.ca, &second));
        assert!(!is_client(&files.ca, &files.stranger) && !is_client(&files.ca, &files.expired));
    }
}

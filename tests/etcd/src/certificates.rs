//! Certificates: the right ones, and ones to be refused with.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
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
        }
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

fn write(folder: &Path, name: &str, params: &CertificateParams, issuer: &Authority) -> Pair {
    let key = KeyPair::generate().expect("make a key");
    let certificate = params.signed_by(&key, issuer).expect("sign a certificate");
    let paths = (
        folder.join(format!("{name}.pem")),
        folder.join(format!("{name}.key")),
    );
    fs::write(&paths.0, certificate.pem()).expect("write a certificate");
    fs::write(&paths.1, key.serialize_pem()).expect("write a key");
    paths
}

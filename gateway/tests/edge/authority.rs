//! A certificate authority of the tests' own: leaves for servers and clients, and revocation lists, in files.

use std::path::{Path, PathBuf};

use nearfield_gateway::listener::tls::install_provider;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    pub(crate) der: CertificateDer<'static>,
}

/// A leaf with its key.
pub(crate) struct Leaf {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key: KeyPair,
    pem: String,
}

impl Leaf {
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }

    /// Writes `<name>.pem` and `<name>-key.pem` into `dir`.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}-key.pem")));
        fs_err::write(&certificate, &self.pem).unwrap();
        fs_err::write(&key, self.key.serialize_pem()).unwrap();
        (certificate, key)
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        install_provider();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { issuer: Issuer::new(params, key), pem, der }
    }

    pub(crate) fn write(&self, dir: &Path) -> PathBuf {
        let file = dir.join("authority.pem");
        fs_err::write(&file, &self.pem).unwrap();
        file
    }

    /// A leaf for these DNS names and URIs.
    pub(crate) fn leaf(&self, serial: u64, names: &[&str], uris: &[&str]) -> Leaf {
        let mut params = CertificateParams::new(names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>()).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.subject_alt_names.extend(uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap())));
        self.sign(params)
    }

    pub(crate) fn sign(&self, params: CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { der: certificate.der().clone(), pem: certificate.pem(), key }
    }

    /// A list of these revoked serial numbers.
    pub(crate) fn revoke(&self, dir: &Path, serials: &[u64]) -> PathBuf {
        let now = rcgen::date_time_ymd(2026, 1, 1);
        let revoked = |&serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: rcgen::date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(serials.len() as u64 + 1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let file = dir.join("revoked.pem");
        fs_err::write(&file, params.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        file
    }
}

//! One certificate with its key, as files and in memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Error;

/// `[[tls.certificates]]`: a certificate for clients that ask for one of its names (SNI).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The certificate chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The names that it is served for, `www.example.com` or `*.example.com`. Absent: those that stand in it.
    #[serde(default)]
    pub names: Vec<String>,
}

/// A certificate that can be served.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) config: Config,
    pub(super) key: Arc<CertifiedKey>,
    /// In lower case.
    pub(super) names: Vec<String>,
    /// Seconds of Unix time.
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

impl Loaded {
    /// # Errors
    /// When the files cannot be read, or do not belong together.
    pub(super) fn read(config: &Config, provider: &CryptoProvider) -> Result<Self, Error> {
        let path = &config.certificate;
        let chain = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| Error::Certificate(path.clone(), e))?;
        let leaf = chain.first().ok_or_else(|| Error::Empty(path.clone()))?;
        let leaf = Leaf::parse(leaf).ok_or_else(|| Error::NotX509(path.clone()))?;
        let names = if config.names.is_empty() { leaf.dns_names } else { config.names.clone() };
        let key = PrivateKeyDer::from_pem_file(&config.key).map_err(|e| Error::Key(config.key.clone(), e))?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|e| Error::Unusable(path.clone(), e))?;
        Ok(Self {
            config: config.clone(),
            key: Arc::new(key),
            names: names.iter().map(|name| name.to_ascii_lowercase()).collect(),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        })
    }

    /// Whether clients would take it by their clocks.
    pub(super) fn is_current(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// What is asked of a leaf: whom it names, and when it holds.
pub(super) struct Leaf {
    pub(super) dns_names: Vec<String>,
    pub(super) uris: Vec<String>,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

impl Leaf {
    /// None when `der` is no X.509 certificate.
    pub(super) fn parse(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        let mut leaf = Self {
            dns_names: Vec::new(),
            uris: Vec::new(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        };
        if let Ok(Some(names)) = certificate.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::DNSName(name) => leaf.dns_names.push((*name).to_owned()),
                    GeneralName::URI(uri) => leaf.uris.push((*uri).to_owned()),
                    _ => {}
                }
            }
        }
        Some(leaf)
    }
}

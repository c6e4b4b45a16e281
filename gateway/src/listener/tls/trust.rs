//! Mutual TLS: which client certificates are taken, and what they say of the client.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use serde::Deserialize;

use super::Error;
use super::certificate::Leaf;
use crate::request::PeerIdentity;

/// `[tls.client]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The authorities whose client certificates are taken, PEM. Absent: clients are not asked for any.
    pub ca: Option<PathBuf>,
    /// Their revocation lists, PEM, one for each authority that issues leaves.
    pub crl: Option<PathBuf>,
    /// Whether a client without a certificate is refused.
    pub required: bool,
}

/// The files of `[tls.client]`, read.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Changes when anything does that decides who is taken.
    pub(super) digest: [u8; 32],
}

impl Trust {
    /// None when clients are not asked for certificates.
    ///
    /// # Errors
    /// Files that cannot be read, or that hold no certificates or lists.
    pub(super) fn read(config: &Config, provider: &Arc<CryptoProvider>) -> Result<Option<Self>, Error> {
        let Some(ca) = &config.ca else { return Ok(None) };
        let mut digest = blake3::Hasher::new();
        digest.update(&[u8::from(config.required)]);
        let mut roots = RootCertStore::empty();
        let authorities = CertificateDer::pem_file_iter(ca).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        for authority in authorities.map_err(|e| Error::ClientCa(ca.clone(), e))? {
            digest.update(blake3::hash(&authority).as_bytes());
            roots.add(authority).map_err(|e| Error::Unusable(ca.clone(), e))?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        if let Some(crl) = &config.crl {
            let lists = CertificateRevocationListDer::pem_file_iter(crl);
            let lists = lists.and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let lists = lists.map_err(|e| Error::Crl(crl.clone(), e))?;
            if lists.is_empty() {
                return Err(Error::Empty(crl.clone()));
            }
            for list in &lists {
                digest.update(blake3::hash(list).as_bytes());
            }
            builder = builder.with_crls(lists).only_check_end_entity_revocation();
        }
        if !config.required {
            builder = builder.allow_unauthenticated();
        }
        let verifier = builder.build().map_err(|e| Error::ClientTrust(ca.clone(), e))?;
        Ok(Some(Self { verifier, digest: *digest.finalize().as_bytes() }))
    }
}

/// Whom the certificates that a client has proved to own speak of; none when it showed none.
pub(crate) fn identity(certificates: Option<&[CertificateDer<'_>]>) -> Option<PeerIdentity> {
    let leaf = Leaf::parse(certificates?.first()?)?;
    Some(PeerIdentity { uris: leaf.uris.into(), dns_names: leaf.dns_names.into() })
}

//! TLS: one certificate for TCP and QUIC, replaced while running when its files change.
//!
//! The whole rustls configuration is swapped, not only the certificate, so that tickets minted under the old one die
//! with it. A replacement that does not parse, or whose key is another certificate's, is refused and the old kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::server::ServerSessionMemoryCache;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio::sync::watch;

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The certificate chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// From the accepted connection to the end of the TLS handshake.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// How often the two files are looked at for a change.
    #[serde(with = "humantime_serde")]
    pub reload_interval: Duration,
    /// Sessions that clients may resume, per transport; each takes about a kilobyte.
    pub session_cache: usize,
    /// TLS 1.3 tickets sent per handshake; each lets a client come back cheaper.
    pub tickets: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            certificate: PathBuf::from("tls/leaf.pem"),
            key: PathBuf::from("tls/leaf-key.pem"),
            handshake_timeout: Duration::from_secs(10),
            reload_interval: Duration::from_secs(10),
            session_cache: 10_240,
            tickets: 2,
        }
    }
}

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading the certificate {}", .0.display())]
    Certificate(PathBuf, #[source] rustls_pki_types::pem::Error),
    #[error("no certificate in {}", .0.display())]
    Empty(PathBuf),
    #[error("reading the private key {}", .0.display())]
    Key(PathBuf, #[source] rustls_pki_types::pem::Error),
    #[error("the certificate and key cannot be served")]
    Unusable(#[source] rustls::Error),
    #[error("the certificate and key cannot be served over QUIC")]
    UnusableForQuic(#[source] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// The two configurations made of one certificate.
#[derive(Clone)]
pub(crate) struct Material {
    pub(crate) tcp: Arc<ServerConfig>,
    pub(crate) quic: Arc<quinn::crypto::rustls::QuicServerConfig>,
}

/// The certificate in use. Readers load it per handshake.
pub struct Certificates {
    config: Config,
    current: watch::Sender<Material>,
}

/// Makes aws-lc-rs the process's cryptography; later calls change nothing. Two providers are compiled in through
/// pingora, and rustls panics when neither is chosen.
pub fn install_provider() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

impl Certificates {
    /// # Errors
    /// When the files cannot be read or do not belong together.
    pub fn load(config: Config) -> Result<Self, Error> {
        let material = material(&config)?;
        Ok(Self { config, current: watch::Sender::new(material) })
    }

    pub(crate) fn current(&self) -> Material {
        self.current.borrow().clone()
    }

    /// Sees every replacement.
    pub(crate) fn replaced(&self) -> watch::Receiver<Material> {
        self.current.subscribe()
    }

    pub(crate) fn handshake_timeout(&self) -> Duration {
        self.config.handshake_timeout
    }

    /// Reads the files again. On an error the certificate in use stays.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn reload(&self) -> Result<(), Error> {
        self.current.send_replace(material(&self.config)?);
        tracing::info!(certificate = %self.config.certificate.display(), "certificate replaced");
        Ok(())
    }

    /// Reloads whenever a file's modification time moves. Never returns.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut seen = self.stamps();
        let mut ticks = tokio::time::interval(self.config.reload_interval.max(MIN_RELOAD_INTERVAL));
        loop {
            ticks.tick().await;
            let stamps = self.stamps();
            if stamps == seen {
                continue;
            }
            match self.reload() {
                Ok(()) => seen = stamps,
                // The two files are rarely written in one instant: the next tick tries again.
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "certificate refused, keeping the old");
                }
            }
        }
    }

    fn stamps(&self) -> [Option<SystemTime>; 2] {
        [modified(&self.config.certificate), modified(&self.config.key)]
    }
}

const MIN_RELOAD_INTERVAL: Duration = Duration::from_millis(10);

fn modified(path: &Path) -> Option<SystemTime> {
    fs_err::metadata(path).and_then(|m| m.modified()).ok()
}

fn material(config: &Config) -> Result<Material, Error> {
    let chain = CertificateDer::pem_file_iter(&config.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| Error::Certificate(config.certificate.clone(), e))?;
    if chain.is_empty() {
        return Err(Error::Empty(config.certificate.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(|e| Error::Key(config.key.clone(), e))?;
    let mut tcp = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .with_no_client_auth()
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(Error::Unusable)?;
    tcp.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    tcp.send_tls13_tickets = config.tickets;
    tcp.session_storage = ServerSessionMemoryCache::new(config.session_cache);
    let mut quic = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(Error::Unusable)?;
    quic.alpn_protocols = vec![b"h3".to_vec()];
    quic.send_tls13_tickets = config.tickets;
    quic.session_storage = ServerSessionMemoryCache::new(config.session_cache);
    let quic = quinn::crypto::rustls::QuicServerConfig::try_from(quic).map_err(Error::UnusableForQuic)?;
    Ok(Material { tcp: Arc::new(tcp), quic: Arc::new(quic) })
}

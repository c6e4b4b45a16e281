//! TLS: certificates for TCP and QUIC, client certificates, session tickets, replaced while running when files change.
//!
//! The rustls configurations are made anew and swapped whole, so a handshake sees one state of all files. What does not
//! parse, or whose key is another certificate's, is refused and the old kept, each file by itself. Sessions outlive a
//! swap unless it changes who is admitted: see [`tickets`].

mod certificate;
mod metrics;
mod names;
mod sessions;
mod tickets;
mod trust;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use rustls::{ServerConfig, SupportedProtocolVersion};
use serde::Deserialize;
use tokio::sync::watch;

pub use self::certificate::Config as CertificateConfig;
use self::certificate::Loaded;
pub(crate) use self::metrics::Metrics;
use self::names::Names;
use self::sessions::{Sessions, policy};
pub use self::trust::Config as ClientConfig;
use self::trust::Trust;
pub(crate) use self::trust::identity;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The default certificate's chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Others, for clients that ask for their names.
    pub certificates: Vec<CertificateConfig>,
    pub min_version: MinVersion,
    /// Client certificates.
    pub client: ClientConfig,
    /// From the accepted connection to the end of the TLS handshake.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// How often all these files are looked at for a change.
    #[serde(with = "humantime_serde")]
    pub reload_interval: Duration,
    /// Sessions kept here: of TLS 1.2 clients without tickets and, with early data, of QUIC; each takes about a kilobyte.
    pub session_cache: usize,
    /// TLS 1.3 tickets sent per handshake; each lets a client come back cheaper.
    pub tickets: usize,
    /// How often the tickets' key moves; the one before is still taken.
    #[serde(with = "humantime_serde")]
    pub ticket_rotation: Duration,
    /// Secrets that gateways share, so that each takes the others' tickets. Absent: this process makes its own.
    pub ticket_keys: Option<PathBuf>,
    /// Whether requests over QUIC are taken before the handshake is done (0-RTT).
    pub early_data: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            certificate: PathBuf::from("tls/leaf.pem"),
            key: PathBuf::from("tls/leaf-key.pem"),
            certificates: Vec::new(),
            min_version: MinVersion::Tls12,
            client: ClientConfig::default(),
            handshake_timeout: Duration::from_secs(10),
            reload_interval: Duration::from_secs(10),
            session_cache: 10_240,
            tickets: 2,
            ticket_rotation: Duration::from_secs(6 * 3600),
            ticket_keys: None,
            early_data: false,
        }
    }
}

/// The oldest version that is spoken over TCP; QUIC always has 1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum MinVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// Why a certificate cannot be served, or another file of `[tls]` not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading the certificate {}", .0.display())]
    Certificate(PathBuf, #[source] rustls_pki_types::pem::Error),
    #[error("reading the clients' authorities {}", .0.display())]
    ClientCa(PathBuf, #[source] rustls_pki_types::pem::Error),
    #[error("the clients' authorities {} cannot be used", .0.display())]
    ClientTrust(PathBuf, #[source] rustls::server::VerifierBuilderError),
    #[error("reading the revocation lists {}", .0.display())]
    Crl(PathBuf, #[source] rustls_pki_types::pem::Error),
    #[error("there is nothing in {}", .0.display())]
    Empty(PathBuf),
    #[error("reading the private key {}", .0.display())]
    Key(PathBuf, #[source] rustls_pki_types::pem::Error),
    #[error("{} does not begin with an X.509 certificate", .0.display())]
    NotX509(PathBuf),
    #[error("the certificate {} has expired or is not valid yet", .0.display())]
    OutOfDate(PathBuf),
    #[error(transparent)]
    Read(io::Error),
    #[error("`tls.ticket_rotation` is {0:?}; it takes 1 minute to 7 days")]
    Rotation(Duration),
    #[error("the ticket secrets {}: {reason}", file.display())]
    TicketKeys { file: PathBuf, reason: &'static str },
    #[error("the certificate {} cannot be served with its key", .0.display())]
    Unusable(PathBuf, #[source] rustls::Error),
    #[error("the certificate cannot be served over QUIC")]
    UnusableForQuic(#[source] quinn::crypto::rustls::NoInitialCipherSuite),
    #[error("TLS cannot be configured")]
    Versions(#[source] rustls::Error),
}

/// The two configurations made of one state of the files.
#[derive(Clone)]
pub(crate) struct Material {
    pub(crate) tcp: Arc<ServerConfig>,
    pub(crate) quic: Arc<quinn::crypto::rustls::QuicServerConfig>,
}

/// What is served now. Readers load it per handshake.
pub struct Certificates {
    state: Mutex<State>,
    current: watch::Sender<Material>,
    metrics: Metrics,
}

struct State {
    config: Config,
    files: Files,
    sessions: Sessions,
}

/// Makes aws-lc-rs the process's cryptography; later calls change nothing. Two providers are compiled in through
/// pingora, and rustls panics when neither is chosen.
pub fn install_provider() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

impl Certificates {
    /// # Errors
    /// When the files cannot be read or do not belong together.
    pub(crate) fn load(config: Config, metrics: Metrics) -> Result<Self, Error> {
        let mut sessions = Sessions::default();
        let files = Files::read(&config)?;
        let material = material(&config, &files, &mut sessions)?;
        metrics.serving(&files.certificates);
        Ok(Self {
            state: Mutex::new(State { config, files, sessions }),
            current: watch::Sender::new(material),
            metrics,
        })
    }

    pub(crate) fn current(&self) -> Material {
        self.current.borrow().clone()
    }

    /// Sees every replacement.
    pub(crate) fn replaced(&self) -> watch::Receiver<Material> {
        self.current.subscribe()
    }

    pub(crate) fn handshake_timeout(&self) -> Duration {
        self.state.lock().config.handshake_timeout
    }

    /// Reads the files again. Of each that is bad the old one stays; the others are served.
    ///
    /// # Errors
    /// The first that is bad.
    pub fn reload(&self) -> Result<(), Error> {
        let mut state = self.state.lock();
        let State { config, files, sessions } = &mut *state;
        let mut refused = Vec::new();
        let read = files.read_again(config, &mut refused);
        let made = material(config, &read, sessions);
        match made {
            Ok(material) => {
                self.serve(&read, material);
                *files = read;
            }
            Err(error) => refused.push(error),
        }
        if refused.is_empty() {
            return Ok(());
        }
        self.metrics.refused();
        Err(refused.swap_remove(0))
    }

    /// Goes on with other settings: all of them, or, when a file of theirs is bad, none.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn replace(&self, config: &Config) -> Result<(), Error> {
        let mut state = self.state.lock();
        let files = Files::read(config).inspect_err(|_| self.metrics.refused())?;
        let material = material(config, &files, &mut state.sessions).inspect_err(|_| self.metrics.refused())?;
        self.serve(&files, material);
        state.config = config.clone();
        state.files = files;
        Ok(())
    }

    fn serve(&self, files: &Files, material: Material) {
        self.current.send_replace(material);
        self.metrics.replaced();
        self.metrics.serving(&files.certificates);
        tracing::info!(certificates = files.certificates.len(), "certificates read and served");
    }

    /// Reloads whenever a file's modification time moves. Never returns.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut seen = self.stamps();
        loop {
            let interval = self.state.lock().config.reload_interval.max(MIN_RELOAD_INTERVAL);
            tokio::time::sleep(interval).await;
            let stamps = self.stamps();
            if stamps == seen {
                continue;
            }
            match self.reload() {
                Ok(()) => seen = stamps,
                // A certificate and its key are rarely written in one instant: the next look tries again.
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "refused, keeping what was served");
                }
            }
        }
    }

    fn stamps(&self) -> Vec<Option<SystemTime>> {
        self.state.lock().config.files().map(modified).collect()
    }
}

const MIN_RELOAD_INTERVAL: Duration = Duration::from_millis(10);

fn modified(path: &Path) -> Option<SystemTime> {
    fs_err::metadata(path).and_then(|m| m.modified()).ok()
}

impl Config {
    /// All certificates, the default first.
    fn certificates(&self) -> impl Iterator<Item = CertificateConfig> {
        let Self { certificate, key, certificates, .. } = self;
        let default = CertificateConfig { certificate: certificate.clone(), key: key.clone(), names: Vec::new() };
        std::iter::once(default).chain(certificates.iter().cloned())
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        let others = self.certificates.iter().flat_map(|other| [&other.certificate, &other.key]);
        let optional = [&self.client.ca, &self.client.crl, &self.ticket_keys];
        [&self.certificate, &self.key]
            .into_iter()
            .chain(others)
            .chain(optional.into_iter().flatten())
            .map(PathBuf::as_path)
    }
}

/// What the files of `[tls]` hold.
#[derive(Clone)]
struct Files {
    certificates: Vec<Loaded>,
    trust: Option<Trust>,
    /// None: the process has its own.
    secrets: Option<Vec<tickets::Secret>>,
}

impl Files {
    fn read(config: &Config) -> Result<Self, Error> {
        let provider = provider();
        let certificates: Vec<Loaded> =
            config.certificates().map(|one| Loaded::read(&one, &provider)).collect::<Result<_, _>>()?;
        for stale in certificates.iter().filter(|one| !one.is_current()) {
            tracing::warn!(certificate = %stale.config.certificate.display(), "it has expired or is not valid yet");
        }
        let trust = Trust::read(&config.client, &provider)?;
        let secrets = config.ticket_keys.as_deref().map(tickets::read).transpose()?;
        Ok(Self { certificates, trust, secrets })
    }

    /// Reads them again; in the place of a bad one stands what was there, and why it is bad is added to `refused`.
    fn read_again(&self, config: &Config, refused: &mut Vec<Error>) -> Self {
        let provider = provider();
        let mut kept = self.clone();
        for (one, old) in config.certificates().zip(&mut kept.certificates) {
            match Loaded::read(&one, &provider) {
                Ok(new) if old.is_current() && !new.is_current() => refused.push(Error::OutOfDate(one.certificate)),
                Ok(new) => *old = new,
                Err(error) => refused.push(error),
            }
        }
        match Trust::read(&config.client, &provider) {
            Ok(trust) => kept.trust = trust,
            Err(error) => refused.push(error),
        }
        match config.ticket_keys.as_deref().map(tickets::read).transpose() {
            Ok(secrets) => kept.secrets = secrets,
            Err(error) => refused.push(error),
        }
        kept
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

const QUIC: &str = "quic";
const TCP: &str = "tcp";

fn material(config: &Config, files: &Files, sessions: &mut Sessions) -> Result<Material, Error> {
    if !(tickets::MIN_ROTATION..=tickets::MAX_ROTATION).contains(&config.ticket_rotation) {
        return Err(Error::Rotation(config.ticket_rotation));
    }
    let names = Arc::new(Names::new(&files.certificates));
    let versions: &[&'static SupportedProtocolVersion] = match config.min_version {
        MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        MinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let mut configure =
        |transport: &'static str, versions: &[&'static SupportedProtocolVersion], protocols: &[&[u8]]| {
            let policy = policy(transport, config.min_version, files.trust.as_ref());
            let builder = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(versions)
                .map_err(Error::Versions)?;
            let builder = match &files.trust {
                Some(trust) => builder.with_client_cert_verifier(trust.verifier.clone()),
                None => builder.with_no_client_auth(),
            };
            let mut server = builder.with_cert_resolver(names.clone());
            server.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            server.send_tls13_tickets = config.tickets;
            server.session_storage = sessions.stored(transport, policy, config.session_cache);
            // Whoever shows a certificate does more than ask.
            if config.early_data && transport == QUIC && files.trust.is_none() {
                // QUIC knows no other size (RFC 9001 section 4.6.1): its windows are the limit. Without a ticketer, sessions are
                // taken from the storage, and so once: a ticket that carries its session could be used again with the same
                // early data, at any gateway that reads it (RFC 8446 section 8.1).
                server.max_early_data_size = u32::MAX;
            } else {
                server.ticketer = sessions.ticketer(files.secrets.as_deref(), policy, config.ticket_rotation);
            }
            Ok(server)
        };
    let quic = configure(QUIC, &[&rustls::version::TLS13], &[b"h3"])?;
    let tcp = configure(TCP, versions, &[b"h2", b"http/1.1"])?;
    let quic = quinn::crypto::rustls::QuicServerConfig::try_from(quic).map_err(Error::UnusableForQuic)?;
    Ok(Material { tcp: Arc::new(tcp), quic: Arc::new(quic) })
}

//! What proves that a request came through a hop of ours beside its address: a secret in a header, the name in a
//! client's certificate (mutual TLS).
//!
//! The secret is read from a file that may hold two, one a line, so that it rotates without a gap: the new one is added
//! here, the load balancer is changed, the old one is removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use tokio_util::task::AbortOnDropHandle;

use crate::file_watch;
use crate::request::PeerIdentity;

/// Secrets that count at once.
const MAX_SECRETS: usize = 2;
/// The least length of one, in bytes.
const MIN_SECRET_BYTES: usize = 16;

/// `[client.proof]`. Whatever is set is asked for; `client.trusted`, when it is not empty, too.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Holds one or two secrets, one a line.
    pub secret_file: Option<PathBuf>,
    /// The header that carries one of them.
    pub secret_header: String,
    /// The client's certificate is to be for one of these names (DNS or URI).
    pub peers: Vec<String>,
    /// How often the file is looked at.
    #[serde(with = "humantime_serde")]
    pub reload_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            secret_file: None,
            secret_header: "x-perimeter-secret".to_owned(),
            peers: Vec::new(),
            reload_interval: Duration::from_secs(10),
        }
    }
}

/// What is wrong with the proof's settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the secrets of `client.proof.secret_file`")]
    File(#[from] std::io::Error),
    #[error("`client.proof.secret_header` is {0:?}, which is no header's name")]
    Header(String),
    #[error("`client.proof.secret_file` holds {found} lines; it takes 1 or {MAX_SECRETS} secrets, one a line")]
    Number { found: usize },
    #[error(
        "`client.proof.secret_file` holds a secret of less than {MIN_SECRET_BYTES} bytes or not of printable ASCII"
    )]
    Secret,
}

impl Config {
    pub(super) fn is_any(&self) -> bool {
        self.secret_file.is_some() || !self.peers.is_empty()
    }

    /// Is the certificate's owner one of those named? Always where none is asked for.
    pub(super) fn admits(&self, peer: Option<&PeerIdentity>) -> bool {
        self.peers.is_empty()
            || peer.is_some_and(|peer| peer.uris.iter().chain(&*peer.dns_names).any(|name| self.peers.contains(name)))
    }
}

/// The secrets that count now. Clones are the same.
#[derive(Clone)]
pub(crate) struct Secrets(Option<Arc<Watched>>);

struct Watched {
    header: HeaderName,
    current: Arc<ArcSwap<Hashes>>,
    _watching: AbortOnDropHandle<()>,
}

/// Their hashes: comparing these takes the same time wherever a guess is wrong, and as long as any other.
type Hashes = Vec<blake3::Hash>;

impl Secrets {
    /// Reads the file and goes on reading it whenever it changes; needs a runtime. A bad change is told and not taken.
    ///
    /// # Errors
    /// A file that cannot be read, or does not hold what it should.
    pub(crate) fn start(config: &Config) -> Result<Self, Error> {
        let Some(path) = &config.secret_file else { return Ok(Self(None)) };
        let header = header(config)?;
        let current = Arc::new(ArcSwap::<Hashes>::default());
        let (file, taken) = (path.clone(), current.clone());
        let watching = file_watch::start(path.clone(), config.reload_interval, move || {
            taken.store(Arc::new(read(&file)?));
            Ok::<_, Error>(())
        })?;
        Ok(Self(Some(Arc::new(Watched { header, current, _watching: watching }))))
    }

    /// What [`Self::start`] would fail with.
    pub(crate) fn check(config: &Config) -> Result<(), Error> {
        header(config)?;
        config.secret_file.as_deref().map_or(Ok(()), |path| read(path).map(drop))
    }

    /// Does the request carry one of the secrets? Always where none is asked for.
    pub(super) fn admit(&self, headers: &HeaderMap) -> bool {
        let Some(watched) = &self.0 else { return true };
        let mut given = headers.get_all(&watched.header).into_iter();
        // Two values: one of them may be the client's.
        let (Some(one), None) = (given.next(), given.next()) else { return false };
        let hash = blake3::hash(one.as_bytes());
        // All of them are compared, so that time does not tell which one it was.
        watched.current.load().iter().fold(false, |found, secret| found | (*secret == hash))
    }

    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        if let Some(watched) = &self.0 {
            headers.remove(&watched.header);
        }
    }
}

fn header(config: &Config) -> Result<HeaderName, Error> {
    config.secret_header.parse().map_err(|_| Error::Header(config.secret_header.clone()))
}

fn read(path: &Path) -> Result<Hashes, Error> {
    let text = fs_err::read_to_string(path)?;
    let secrets: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if secrets.is_empty() || secrets.len() > MAX_SECRETS {
        return Err(Error::Number { found: secrets.len() });
    }
    let sound = |secret: &&str| secret.len() >= MIN_SECRET_BYTES && secret.bytes().all(|byte| byte.is_ascii_graphic());
    if !secrets.iter().all(sound) {
        return Err(Error::Secret);
    }
    Ok(secrets.iter().map(|secret| blake3::hash(secret.as_bytes())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "0123456789abcdef-old";
    const NEW: &str = "0123456789abcdef-new";

    #[test]
    fn a_file_of_secrets_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets");
        let check = |text: &str| {
            fs_err::write(&path, text).unwrap();
            read(&path)
        };
        assert_eq!(check(&format!("{OLD}\n")).unwrap().len(), 1);
        assert_eq!(check(&format!("{OLD}\n\n{NEW}\n")).unwrap().len(), 2);
        assert!(matches!(check(""), Err(Error::Number { found: 0 })));
        assert!(matches!(check(&format!("{OLD}\n").repeat(3)), Err(Error::Number { found: 3 })));
        assert!(matches!(check("short"), Err(Error::Secret)));
        assert!(matches!(check("sixteen bytes but with blanks"), Err(Error::Secret)));
        let config = Config { secret_file: Some("/nowhere".into()), ..Config::default() };
        assert!(matches!(Secrets::check(&config), Err(Error::File(_))));
        let config = Config { secret_header: "not a name".to_owned(), ..Config::default() };
        assert!(matches!(Secrets::check(&config), Err(Error::Header(_))));
    }

    #[tokio::test]
    async fn two_secrets_count_at_once_and_a_removed_one_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets");
        fs_err::write(&path, OLD).unwrap();
        let interval = Duration::from_millis(10);
        let config = Config { secret_file: Some(path.clone()), reload_interval: interval, ..Config::default() };
        let secrets = Secrets::start(&config).unwrap();
        let admits = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| {
                headers.append("x-perimeter-secret", value.parse().unwrap());
            });
            secrets.admit(&headers)
        };
        assert!(admits(&[OLD]) && !admits(&[NEW]) && !admits(&[]) && !admits(&[OLD, OLD]) && !admits(&[""]));
        let becomes = async |text: &str, done: &dyn Fn() -> bool| {
            fs_err::write(&path, text).unwrap();
            let waited = tokio::time::timeout(Duration::from_secs(10), async {
                while !done() {
                    tokio::task::yield_now().await;
                }
            });
            waited.await.unwrap();
        };
        becomes(&format!("{NEW}\n{OLD}\n"), &|| admits(&[NEW]) && admits(&[OLD])).await;
        becomes(NEW, &|| admits(&[NEW]) && !admits(&[OLD])).await;
    }
}

//! The hand-over of sockets to a newer process, so that a binary is replaced without a client noticing.
//!
//! The running process waits at `server.upgrade_socket`. A newer one (`gateway --upgrade`) comes, is given the sockets, starts
//! with them, and takes over when it is ready; only then does the older one drain. If the newer one fails before that, nothing
//! has happened. One exchange over a Unix socket: an offer with the sockets, `TAKE`, `GIVEN`.

mod offer;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nearfield_telemetry::admin;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

pub(crate) use self::offer::{Listening, Offer};
use self::offer::{Udp, VERSION, receive, send};
use crate::gateway;
use crate::listener::sockets::{self, Bound};
use crate::listener::{Config, Mark, QuicSecrets, SharedSocket};

/// How long each message may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// From the offer until the newer process is ready: it may have to wait for issuers and searchds.
const START_PATIENCE: Duration = Duration::from_secs(300);
/// Accepting fails while the process is out of file descriptors: a breath, not a spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const TAKE: u8 = b'T';
const GIVEN: u8 = b'G';

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the hand-over at {}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    #[error("the other process speaks version {0} of the hand-over, this one {VERSION}")]
    Version(u32),
    #[error("the other process's offer is malformed")]
    Malformed,
    #[error("{0} sockets are too many for one hand-over")]
    TooMany(usize),
}

/// What a running process keeps so that it can make an offer. Dropping it closes the sockets once the listeners have.
pub struct Estate {
    pub(crate) secrets: QuicSecrets,
    pub(crate) mark: Mark,
    pub(crate) admin: (SocketAddr, OwnedFd),
    pub(crate) listening: Vec<Kept>,
}

/// A [`Listening`] that is in use.
pub(crate) struct Kept {
    pub(crate) asked: SocketAddr,
    pub(crate) addr: SocketAddr,
    pub(crate) tcp: OwnedFd,
    pub(crate) udp: Option<(OwnedFd, Option<Arc<SharedSocket>>)>,
}

/// The sockets that a process starts with.
pub(crate) struct Sockets {
    pub(crate) sockets: Vec<Bound>,
    pub(crate) admin: TcpListener,
}

impl Sockets {
    /// Those of `offer`, or new ones; and what is kept of them to hand them on.
    pub(crate) fn of(config: &Config, offer: Option<Offer>) -> Result<(Self, Estate), gateway::Error> {
        let mark = Mark::random().map_err(|_unspecified| gateway::Error::Keys)?;
        let (secrets, admin, listening) = match offer {
            Some(Offer { secrets, admin, listening }) => (secrets, Some(admin), listening),
            None => (QuicSecrets::random().map_err(|_unspecified| gateway::Error::Keys)?, None, Vec::new()),
        };
        let handed = admin.filter(|(asked, _)| *asked == config.admin).map(|(_, socket)| socket.into());
        let admin = handed.map_or_else(|| admin::Server::bind(config.admin), Ok).map_err(gateway::Error::Admin)?;
        let sockets = sockets::adopt(&config.https, config.http3.enabled, listening).map_err(gateway::Error::Bind)?;
        let keep = |bound: &Bound| {
            let udp = bound.udp.as_ref().map(|udp| udp.socket.try_clone()).transpose()?;
            let (tcp, udp) = (bound.tcp.try_clone()?.into(), udp.map(|socket| (socket.into(), None)));
            Ok(Kept { asked: bound.asked, addr: bound.addr, tcp, udp })
        };
        let failed = |addr| move |source| gateway::Error::Bind(sockets::Error { addr, source });
        let listening: io::Result<_> = sockets.iter().map(keep).collect();
        let listening = listening.map_err(failed(config.https[0]))?;
        let kept = admin.try_clone().map_err(failed(config.admin))?;
        let estate = Estate { secrets, mark, admin: (config.admin, kept.into()), listening };
        Ok((Self { sockets, admin }, estate))
    }
}

/// A UDP socket, and the end of its relay that the newer process does not get.
type Staying = (Arc<SharedSocket>, OwnedFd);

impl Estate {
    /// QUIC runs on these now, in the order of those addresses that have UDP.
    pub(crate) fn share(&mut self, running: &[Arc<SharedSocket>]) {
        let kept = self.listening.iter_mut().filter_map(|kept| kept.udp.as_mut());
        for ((_, shared), socket) in kept.zip(running) {
            *shared = Some(socket.clone());
        }
    }

    /// The offer, and for each UDP socket the end of the relay that stays here.
    fn offer(&self) -> io::Result<(Offer, Vec<Staying>)> {
        let mut staying = Vec::new();
        let mut listening = Vec::with_capacity(self.listening.len());
        for kept in &self.listening {
            let udp = match &kept.udp {
                None | Some((_, None)) => None,
                Some((socket, Some(shared))) => {
                    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                    let (here, there) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
                    staying.push((shared.clone(), here));
                    let mut elders = vec![(self.mark, there)];
                    for elder in shared.elders() {
                        elders.push((elder.mark, elder.relay.try_clone()?));
                    }
                    Some(Udp { socket: socket.try_clone()?, elders })
                }
            };
            listening.push(Listening { asked: kept.asked, addr: kept.addr, tcp: kept.tcp.try_clone()?, udp });
        }
        let admin = (self.admin.0, self.admin.1.try_clone()?);
        Ok((Offer { secrets: self.secrets, admin, listening }, staying))
    }

    /// Waits at `door` for a newer process, and ends when that has taken over.
    pub async fn hand_over(&self, door: &Door) {
        while let Err(error) = self.give(door.visitor().await).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "a newer process did not take over, this one goes on");
        }
        tracing::info!("a newer process has taken over");
    }

    /// Gives everything to the newer process behind `visitor`, once that is ready. On an error everything is as it was.
    async fn give(&self, mut visitor: Visitor) -> Result<(), Error> {
        let failed = |e| Error::Io(visitor.path.clone(), e);
        let (offer, staying) = self.offer().map_err(failed)?;
        let sent = within(PATIENCE, send(&mut visitor.stream, &offer)).await;
        sent.map_err(failed)??;
        drop(offer);
        if within(START_PATIENCE, visitor.stream.read_u8()).await.map_err(failed)? != TAKE {
            return Err(Error::Malformed);
        }
        let given = staying.into_iter().try_for_each(|(shared, relay)| shared.give(relay));
        let told = match given {
            Ok(()) => within(PATIENCE, visitor.stream.write_u8(GIVEN)).await,
            Err(error) => Err(error),
        };
        told.map_err(|error| {
            // Those that were given already, too.
            let shared = self.listening.iter().filter_map(|kept| kept.udp.as_ref()?.1.as_ref());
            shared.for_each(|socket| socket.take());
            failed(error)
        })
    }
}

/// Where a running process waits for a newer one.
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
}

/// A newer process.
pub(crate) struct Visitor {
    stream: UnixStream,
    path: PathBuf,
}

impl Door {
    /// Needs a tokio runtime around it.
    ///
    /// # Errors
    /// A path that cannot be bound.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |e| Error::Io(path.to_owned(), e);
        match fs_err::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            // Left behind, or an older process's, which has given its sockets away.
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// The next newer process of this user or of root.
    pub(crate) async fn visitor(&self) -> Visitor {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) if is_ours(&stream) => return Visitor { stream, path: self.path.clone() },
                Ok(_) => tracing::warn!("a process of another user asked for the sockets"),
                Err(error) => {
                    tracing::warn!(%error, "accepting at the upgrade socket failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn is_ours(stream: &UnixStream) -> bool {
    // SAFETY: geteuid(2) takes nothing and cannot fail.
    let own = unsafe { libc::geteuid() };
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// The newer process's side.
pub(crate) struct Taking {
    stream: UnixStream,
    path: PathBuf,
}

/// Asks the process at `path` for its sockets. It keeps serving until [`Taking::take`].
///
/// # Errors
/// When nobody is there, or it offers what cannot be understood.
pub(crate) async fn ask(path: &Path) -> Result<(Offer, Taking), Error> {
    let failed = |e| Error::Io(path.to_owned(), e);
    let mut stream = UnixStream::connect(path).await.map_err(failed)?;
    let offer = within(PATIENCE, receive(&mut stream)).await.map_err(failed)??;
    Ok((offer, Taking { stream, path: path.to_owned() }))
}

impl Taking {
    /// From its end on the older process reads and accepts no more.
    pub(crate) async fn take(mut self) -> Result<(), Error> {
        let exchange = async {
            self.stream.write_u8(TAKE).await?;
            self.stream.read_u8().await
        };
        match within(PATIENCE, exchange).await {
            Ok(GIVEN) => Ok(()),
            Ok(_) => Err(Error::Malformed),
            Err(e) => Err(Error::Io(self.path, e)),
        }
    }
}

async fn within<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()))
}

//! Clients that want to do harm, each in one way that is known for it. All are bounded: in time, in connections, to one address.

mod http2;
mod quic;
mod slow;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{Protocol, tls};

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Requests that are given up as soon as they have begun (CVE-2023-44487).
    RapidReset,
    /// The same over HTTP/3.
    RapidResetHttp3,
    /// Requests that the server has to reset for an error of their client's (CVE-2025-8671).
    MadeYouReset,
    /// A head that does not end (CVE-2024-27316).
    Continuation,
    Ping,
    Settings,
    /// A body in frames of one byte.
    SmallData,
    /// A few bytes that stand for many fields.
    HpackBomb,
    QpackBomb,
    /// Heads that come byte by byte, over HTTP/1.1 and HTTP/2.
    SlowHeaders,
    SlowBody,
    /// Answers that nobody takes.
    SlowRead,
    /// As many connections as there may be.
    Connections,
    /// Handshakes of QUIC that are begun and left.
    Initials,
}

/// Who is to be harmed.
#[derive(Clone, Debug)]
pub struct Target {
    pub addr: SocketAddr,
    /// What its certificate comes from.
    pub ca: PathBuf,
    /// Of a caller who may search.
    pub token: String,
}

/// What it came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Toll {
    /// Rounds: connections, or groups of them.
    pub rounds: usize,
    /// Of those that the server ended.
    pub ended: usize,
    /// How long the first of these lasted.
    pub first_ended: Option<Duration>,
}

/// Between two rounds that fail.
const PAUSE: Duration = Duration::from_millis(10);

impl Flood {
    pub const ALL: [Self; 14] = [
        Self::RapidReset,
        Self::RapidResetHttp3,
        Self::MadeYouReset,
        Self::Continuation,
        Self::Ping,
        Self::Settings,
        Self::SmallData,
        Self::HpackBomb,
        Self::QpackBomb,
        Self::SlowHeaders,
        Self::SlowBody,
        Self::SlowRead,
        Self::Connections,
        Self::Initials,
    ];

    /// Whether it is patience that it wears out: then it is ended by time limits, or not at all.
    pub fn is_slow(self) -> bool {
        matches!(self, Self::SlowHeaders | Self::SlowBody | Self::SlowRead)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::RapidReset => "rapid reset, h2",
            Self::RapidResetHttp3 => "rapid reset, h3",
            Self::MadeYouReset => "made you reset",
            Self::Continuation => "CONTINUATION",
            Self::Ping => "PING",
            Self::Settings => "SETTINGS",
            Self::SmallData => "small DATA",
            Self::HpackBomb => "HPACK bomb",
            Self::QpackBomb => "QPACK bomb",
            Self::SlowHeaders => "slow headers",
            Self::SlowBody => "slow body",
            Self::SlowRead => "slow read",
            Self::Connections => "connections",
            Self::Initials => "QUIC initials",
        }
    }

    /// Floods `target` again and again for `time`, or until it has ended `enough` rounds.
    ///
    /// # Errors
    /// What has nothing to do with the target.
    pub async fn run(self, target: &Target, time: Duration, enough: usize) -> Result<Toll> {
        crate::install_crypto_provider();
        let end = tokio::time::Instant::now() + time;
        let (mut toll, mut pauses) = (Toll::default(), tokio::time::interval(PAUSE));
        let initials = if self == Self::Initials { quic::initials(target).await? } else { Vec::new() };
        while toll.ended < enough && tokio::time::Instant::now() < end {
            let began = Instant::now();
            let round = async {
                match self {
                    Self::RapidReset => http2::rapid_reset(target).await,
                    Self::RapidResetHttp3 => quic::rapid_reset(target).await,
                    Self::MadeYouReset => http2::made_you_reset(target).await,
                    Self::Continuation => http2::continuation(target).await,
                    Self::Ping => http2::pings(target).await,
                    Self::Settings => http2::settings(target).await,
                    Self::SmallData => http2::small_data(target).await,
                    Self::HpackBomb => http2::bomb(target).await,
                    Self::QpackBomb => quic::bomb(target).await,
                    Self::SlowHeaders => slow::headers(target).await,
                    Self::SlowBody => slow::body(target).await,
                    Self::SlowRead => slow::read(target).await,
                    Self::Connections => slow::connections(target).await,
                    Self::Initials => quic::send(target, &initials).await,
                }
            };
            toll.rounds += 1;
            match tokio::time::timeout_at(end, round).await {
                Ok(Ok(())) => {
                    toll.ended += 1;
                    toll.first_ended = toll.first_ended.or_else(|| Some(began.elapsed()));
                }
                // It is not let in.
                Ok(Err(_refused)) => drop(pauses.tick().await),
                Err(_over) => break,
            }
        }
        Ok(toll)
    }
}

async fn connect(target: &Target, protocol: Protocol) -> Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(tls::config(Some(&target.ca), protocol)?));
    let stream = TcpStream::connect(target.addr).await?;
    stream.set_nodelay(true)?;
    Ok(connector.connect(ServerName::from(target.addr.ip()), stream).await?)
}

/// Sends, and reads and drops what comes beside it, until the server closes.
async fn until_closed(sending: impl Future<Output = std::io::Result<()>>, mut read: impl AsyncRead + Unpin) {
    let reading = async {
        let mut buffer = vec![0; 16 << 10];
        while read.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    };
    tokio::select! {
        _closed = sending => {}
        () = reading => {}
    }
}

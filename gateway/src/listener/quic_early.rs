//! The beginning of a QUIC connection: its handshake, and requests that come before that is done (TLS early data).
//!
//! A handshake sets nothing else up until it is done or a request is there, so that one that leads nowhere costs no more than
//! it has to. Whether early data is taken at all is in the TLS configuration; see [`tls`](super::tls).

use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use h3::error::Code;
use quinn::{Connection, ConnectionError, Incoming, ZeroRttAccepted};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, error::Elapsed, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::door::{Door, Place};
use super::quic_streams::{Streams, varint};
use crate::request::Early;

/// A connection on which there is something to do.
pub(super) struct Opened {
    pub(super) quic: Connection,
    /// The stream of a request that came before the handshake was done.
    pub(super) first: Option<Streams>,
    pub(super) handshake: Handshake,
}

/// Why none was opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("the handshake took too long")]
    TooLong,
}

impl From<Elapsed> for Failure {
    fn from(_: Elapsed) -> Self {
        Self::TooLong
    }
}

/// Waits for the handshake, `patience` at most, or for the first request of a client that did not.
pub(super) async fn open(incoming: Incoming, patience: Duration) -> Result<Opened, Failure> {
    let connecting = incoming.accept()?;
    let until = Instant::now() + patience;
    let (quic, mut done) = match connecting.into_0rtt() {
        Ok(open) => open,
        // Of clients alone.
        Err(connecting) => {
            let quic = timeout_at(until, connecting).await??;
            return Ok(Opened { quic, first: None, handshake: Handshake::Done });
        }
    };
    let first = tokio::select! {
        biased;
        _ = &mut done => None,
        first = quic.accept_bi() => Some(first?),
        () = sleep_until(until) => return Err(Failure::TooLong),
    };
    let handshake = match first {
        None => {
            ended_well(&quic)?;
            Handshake::Done
        }
        Some(_) => Handshake::UnderWay(Rest { quic: quic.clone(), done, until, settled: CancellationToken::new() }),
    };
    Ok(Opened { quic, first, handshake })
}

/// Whether the handshake that is over left a connection: quinn says it only so.
fn ended_well(quic: &Connection) -> Result<(), ConnectionError> {
    quic.close_reason().map_or(Ok(()), Err)
}

/// The address that a client has proven by a handshake, once it has. It stays the same where the connection moves on: a
/// datagram of it may say that it comes from anywhere.
pub(super) type Proven = Arc<OnceLock<IpAddr>>;

/// Who connects. Until its handshake is done it may be anybody's address, so only then it counts as a client's.
pub(super) enum Client {
    Outside {
        /// Counts a handshake.
        _under_way: Option<OwnedSemaphorePermit>,
        place: Place,
        /// Where its first datagram came from.
        addr: IpAddr,
        /// It had proven that before, and the door has admitted it.
        admitted: bool,
    },
    Inside {
        _place: Place,
    },
    Refused,
}

/// There are as many connections of one client as there may be, or it comes too often.
#[derive(Debug, thiserror::Error)]
#[error("too many connections")]
pub(super) struct TooMany;

impl Client {
    /// The handshake is done.
    ///
    /// # Errors
    /// When the client has its connections already, or comes too often; then this one is closed.
    pub(super) fn enter(&mut self, quic: &Connection, door: &Arc<Door>, proven: &Proven) -> Result<(), TooMany> {
        let before = std::mem::replace(self, Self::Refused);
        if let Self::Outside { place, addr, admitted, .. } = before
            && (admitted || door.admits(addr))
            && let Some(place) = place.of(addr, door)
        {
            // It comes once only.
            let _again = proven.set(addr);
            *self = Self::Inside { _place: place };
            return Ok(());
        }
        quic.close(varint(Code::H3_EXCESSIVE_LOAD.value()), TooMany.to_string().as_bytes());
        Err(TooMany)
    }
}

pub(super) enum Handshake {
    Done,
    UnderWay(Rest),
}

/// What is left of a handshake.
pub(super) struct Rest {
    quic: Connection,
    done: ZeroRttAccepted,
    until: Instant,
    settled: CancellationToken,
}

impl Handshake {
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// For a request of now; none when the handshake is done.
    pub(super) fn early(&self) -> Option<Early> {
        match self {
            Self::Done => None,
            Self::UnderWay(rest) => Some(Early::until(rest.settled.clone())),
        }
    }

    /// Waits for its end, and tells those who wait for it; for ever when that is past. Nothing is lost when it is dropped.
    ///
    /// # Errors
    /// When it fails, or takes too long.
    pub(super) async fn rest(&mut self) -> Result<(), Failure> {
        let Self::UnderWay(rest) = self else { return std::future::pending().await };
        timeout_at(rest.until, &mut rest.done).await?;
        ended_well(&rest.quic)?;
        rest.settled.cancel();
        *self = Self::Done;
        Ok(())
    }

    /// Goes on with it while `work` is done, which may wait for it.
    ///
    /// # Errors
    /// As of [`Self::rest`].
    pub(super) async fn beside(&mut self, work: impl Future<Output = ()>) -> Result<(), Failure> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                () = &mut work => return Ok(()),
                done = self.rest() => done?,
            }
        }
    }
}

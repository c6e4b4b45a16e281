//! The beginning of a QUIC connection: its handshake, and requests that come before that is done (TLS early data).
//!
//! A handshake sets nothing else up until it is done or a request is there, so that one that leads nowhere costs no more than
//! it has to. Whether early data is taken at all is in the TLS configuration; see [`tls`](super::tls).

use std::time::Duration;

use quinn::{Connection, ConnectionError, Incoming, ZeroRttAccepted};
use tokio::time::{Instant, error::Elapsed, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::quic_streams::Streams;
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
}

//! Leaving HTTP: what an opening handshake ends in, bytes both ways, whatever the protocol was.
//!
//! hyper hands over HTTP/1.1 connections and HTTP/2 streams; those of HTTP/3 come from our own listener.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use crate::body::Request;

/// Bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection or a stream that is HTTP's no more.
pub type Upgraded = Box<dyn Io>;

/// By the HTTP/3 listener, on an extended CONNECT.
#[derive(Clone)]
pub(crate) struct Offer(Arc<Mutex<Option<oneshot::Receiver<Upgraded>>>>);

impl Offer {
    /// An offer, and where the stream goes once it was taken and the answer's head is out.
    pub(crate) fn new() -> (Self, oneshot::Sender<Upgraded>) {
        let (give, taken) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(taken)))), give)
    }

    /// Whether nobody wants the stream.
    pub(crate) fn is_open(&self) -> bool {
        self.0.lock().is_some()
    }
}

/// What comes once the answer to the handshake is out.
pub enum Upgrade {
    Hyper(OnUpgrade),
    Stream(oneshot::Receiver<Upgraded>),
}

/// Why nothing came.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    #[error("the stream ended before it was handed over")]
    Gone(#[from] oneshot::error::RecvError),
}

impl Upgrade {
    /// Takes what `request` may become.
    pub fn of(request: &mut Request) -> Self {
        let offer = request.extensions_mut().remove::<Offer>();
        match offer.and_then(|Offer(offer)| offer.lock().take()) {
            Some(stream) => Self::Stream(stream),
            None => Self::Hyper(hyper::upgrade::on(request)),
        }
    }

    /// # Errors
    /// When the connection broke before.
    pub async fn done(self) -> Result<Upgraded, Error> {
        Ok(match self {
            Self::Hyper(upgrade) => Box::new(TokioIo::new(upgrade.await?)),
            Self::Stream(stream) => stream.await?,
        })
    }
}

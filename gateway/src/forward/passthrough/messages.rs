//! The messages of a call as they come in, whole and undecoded; and the end of a call one of whose messages is refused.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use super::named::Named;
use crate::body::{self, Body, BodyError};
use crate::error::Error;
use crate::forward::grpc;
use crate::rescue;

/// A body cut into messages.
pub(super) struct Messages {
    body: Body,
    buffer: BytesMut,
    /// Bytes of one message.
    limit: usize,
    ended: bool,
}

impl Messages {
    pub(super) fn of(body: Body, limit: usize) -> Self {
        Self { body, buffer: BytesMut::new(), limit, ended: false }
    }

    /// The next message with its prefix. A body that ends within a message gives what there is of it: searchd says
    /// what is wrong with that. Giving up the wait loses nothing.
    ///
    /// # Errors
    /// A body that breaks off, and a message that is too large.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(length) = self.length()?
                && self.buffer.len() >= length
            {
                return Ok(Some(self.buffer.split_to(length).freeze()));
            }
            if self.ended {
                let rest = std::mem::take(&mut self.buffer).freeze();
                return Ok((!rest.is_empty()).then_some(rest));
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(frame) => match frame.map_err(Error::of_body)?.into_data() {
                    Ok(data) if self.buffer.is_empty() => {
                        self.buffer = data.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                    }
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(_trailers) => {}
                },
            }
        }
    }

    /// Of the message that the buffer begins with.
    fn length(&self) -> Result<Option<usize>, Error> {
        let Some([_compressed, length @ ..]) = self.buffer.first_chunk::<{ grpc::PREFIX }>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > self.limit {
            return Err(Error::TooLarge { what: "a message", limit: self.limit as u64 });
        }
        Ok(Some(grpc::PREFIX + length))
    }

    /// `first`, and whatever comes behind it, as a body.
    pub(super) fn into_body(self, first: Option<Bytes>) -> Body {
        if self.ended && self.buffer.is_empty() {
            return first.map_or_else(body::empty, body::full);
        }
        let rest = (!self.buffer.is_empty()).then(|| self.buffer.freeze());
        body::boxed(Behind { before: [first, rest], body: self.body })
    }

    /// The same, message by message, each of which `may_pass` is asked about. One that may not ends the call, and
    /// `refusal` says why.
    pub(super) fn into_guarded<F>(
        self,
        path: &'static str,
        first: Option<Bytes>,
        may_pass: impl FnMut(Named) -> F + Send + 'static,
        refusal: Refusal,
    ) -> Body
    where
        F: Future<Output = Result<(), Error>> + Send,
    {
        let state = (self, first, may_pass, refusal);
        let frames =
            futures::stream::try_unfold(state, move |(mut messages, first, mut may_pass, refusal)| async move {
                let next = async {
                    // The first was looked at before the call had its region.
                    if let Some(first) = first {
                        return Ok::<_, Error>(Some(first));
                    }
                    let Some(message) = messages.next().await? else { return Ok(None) };
                    may_pass(named(path, &message)).await?;
                    Ok(Some(message))
                };
                match next.await {
                    Ok(next) => Ok(next.map(|message| (Frame::data(message), (messages, None, may_pass, refusal)))),
                    Err(error) => {
                        let text = error.to_string();
                        let _ = refusal.0.set(error);
                        Err(BodyError::new(text))
                    }
                }
            });
        body::boxed(StreamBody::new(frames))
    }
}

/// What a message with its prefix names.
pub(super) fn named(path: &str, message: &[u8]) -> Named {
    match message.split_first_chunk::<{ grpc::PREFIX }>() {
        // A compressed one is none that searchd takes.
        Some(([0, ..], message)) => Named::of(path, message),
        _ => Named::default(),
    }
}

/// Bytes that were read before a body was passed on.
struct Behind {
    before: [Option<Bytes>; 2],
    body: Body,
}

impl http_body::Body for Behind {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.before.iter_mut().find_map(Option::take) {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => Pin::new(&mut self.body).poll_frame(context),
        }
    }
}

/// Why a call's messages ended before their time.
#[derive(Clone, Default)]
pub(super) struct Refusal(Arc<OnceLock<Error>>);

impl Refusal {
    /// In the place of a failure that it caused. The messages may be held by others still, so it is a copy.
    pub(super) fn error(&self) -> Option<Error> {
        self.0.get().cloned()
    }

    /// An answer that ends with the refusal where it would only break off.
    pub(super) fn tell(self, answer: Body) -> Body {
        body::boxed(Told { answer, refusal: self })
    }
}

struct Told {
    answer: Body,
    refusal: Refusal,
}

impl http_body::Body for Told {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.answer).poll_frame(context));
        let Some(Err(error)) = frame else { return Poll::Ready(frame) };
        let refused = self.refusal.0.get().map(rescue::grpc_trailers);
        if refused.is_some() {
            self.answer = body::empty();
        }
        Poll::Ready(Some(refused.map_or(Err(error), |trailers| Ok(Frame::trailers(trailers)))))
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }
}

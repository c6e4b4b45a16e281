//! gRPC's framing over HTTP/2, as far as a client of unary and server-streaming calls needs it.
//!
//! A request is framed once and sent as often as it takes; a body that tonic's client encodes could be sent only once.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Version, header};
use http_body_util::BodyExt;
use prost::Message;
use tonic::{Code, Status};

use super::connection::Origin;
use crate::body::{self, Body};

/// The largest message that is taken from searchd: 10,000 hits with their values at 1,000 dimensions fit.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A message with its length in front.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("a request is bounded far below 4 GiB"));
    message.encode(&mut frame).expect("the buffer has room for the message");
    frame.freeze()
}

/// A call of one message. `headers` come from the call's context.
pub(crate) fn request(origin: &Origin, path: &'static str, headers: HeaderMap, frame: Bytes) -> http::Request<Body> {
    let mut request = http::Request::new(body::full(frame));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri(origin, path);
    *request.headers_mut() = headers;
    let headers = request.headers_mut();
    headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    request
}

/// The path of a call at an endpoint.
pub(crate) fn uri(origin: &Origin, path: &str) -> http::Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some(origin.authority.clone());
    parts.path_and_query = path.parse().ok();
    http::Uri::from_parts(parts).unwrap_or_default()
}

/// The messages of an answer, then its status.
pub struct Messages<M> {
    body: Body,
    buffer: BytesMut,
    ended: bool,
    message: std::marker::PhantomData<fn() -> M>,
}

impl<M: Message + Default> Messages<M> {
    /// Reads the head of an answer.
    ///
    /// # Errors
    /// The status, when the call failed before its first message, or the answer is not gRPC.
    pub(crate) fn new(response: http::Response<Body>) -> Result<Self, Status> {
        let (head, body) = response.into_parts();
        check_head(head.status, &head.headers)?;
        Ok(Self { body, buffer: BytesMut::new(), ended: false, message: std::marker::PhantomData })
    }

    /// The next message, or `None` after the last one.
    ///
    /// # Errors
    /// The status that ended the call; UNAVAILABLE when the connection broke.
    pub async fn next(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.feed(frame)?,
                Some(Err(error)) => return Err(Status::unavailable(format!("the answer broke off: {error}"))),
                None => return Err(Status::unavailable("the answer ended without a status")),
            }
        }
    }

    /// The only message of a unary call.
    ///
    /// # Errors
    /// As [`Messages::next`]; UNAVAILABLE when there is none, or another.
    pub(crate) async fn only(mut self) -> Result<M, Status> {
        let message = self.next().await?.ok_or_else(|| nonsense("OK without a message"))?;
        // The status comes behind the message, and decides.
        match self.next().await? {
            None => Ok(message),
            Some(_) => Err(nonsense("a second message where there is one")),
        }
    }

    fn feed(&mut self, frame: http_body::Frame<Bytes>) -> Result<(), Status> {
        match frame.into_data() {
            Ok(data) if self.buffer.is_empty() => {
                self.buffer = data.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            }
            Ok(data) => self.buffer.extend_from_slice(&data),
            Err(frame) => {
                check_status(&frame.into_trailers().unwrap_or_default())?;
                self.ended = true;
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Option<M>, Status> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        let length = u32::from_be_bytes(length) as usize;
        if compressed != 0 || length > MESSAGE_BYTES_MAX {
            return Err(nonsense("a message that is compressed or too large"));
        }
        if self.buffer.len() < PREFIX + length {
            // Room for what is announced, but not on its word alone.
            self.buffer.reserve((PREFIX + length - self.buffer.len()).min(RESERVE_MAX));
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = self.buffer.split_to(length).freeze();
        M::decode(message).map(Some).map_err(|e| nonsense(&format!("a bad message: {e}")))
    }
}

/// Reads the head of an answer: the status when the call is over with it, or when it is no answer of gRPC.
pub(super) fn check_head(http: http::StatusCode, headers: &HeaderMap) -> Result<(), Status> {
    if http != http::StatusCode::OK {
        return Err(Status::unavailable(format!("searchd answered HTTP {http}")));
    }
    let media = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if !media.starts_with(b"application/grpc") {
        return Err(nonsense("something that is not gRPC"));
    }
    // Trailers-only: the call is over. An OK without a message is told by whoever misses it.
    if headers.contains_key(GRPC_STATUS) { check_status(headers) } else { Ok(()) }
}

/// The status in trailers, when it is not OK.
pub(super) fn check_status(trailers: &HeaderMap) -> Result<(), Status> {
    let code = trailers.get(GRPC_STATUS).ok_or_else(|| Status::unavailable("the answer ended without a status"))?;
    let is_code = code.to_str().ok().and_then(|code| code.parse().ok()).is_some_and(|code| (0..=16u8).contains(&code));
    if !is_code {
        return Err(nonsense("a status that is none"));
    }
    match Status::from_header_map(trailers) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(()),
    }
}

/// Who does not speak the protocol is as good as not there: a read goes elsewhere.
pub(super) fn nonsense(what: &str) -> Status {
    Status::unavailable(format!("searchd sent {what}"))
}

const GRPC_STATUS: &str = "grpc-status";
/// Room made at once for a message, in bytes.
const RESERVE_MAX: usize = 1 << 20;
/// A flag and a length of four bytes.
pub(super) const PREFIX: usize = 5;

#[cfg(test)]
mod tests {
    use http_body::Frame;
    use http_body_util::StreamBody;
    use nearfield_proto::v1::SearchResult;

    use super::*;

    fn answer(frames: Vec<Frame<Bytes>>) -> http::Response<Body> {
        let frames = frames.into_iter().map(Ok::<_, std::convert::Infallible>);
        let body = body::boxed(StreamBody::new(futures::stream::iter(frames)));
        http::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    }

    fn status(code: &'static str) -> Frame<Bytes> {
        Frame::trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(code))]))
    }

    fn hit(id: &str) -> SearchResult {
        SearchResult { vector_id: id.to_owned(), score: 0.5, ..SearchResult::default() }
    }

    #[tokio::test]
    async fn messages_are_found_however_they_are_cut() {
        let bytes = [frame(&hit("a")), frame(&hit("b"))].concat();
        for size in 1..bytes.len() {
            let mut frames: Vec<_> = bytes.chunks(size).map(|c| Frame::data(Bytes::copy_from_slice(c))).collect();
            frames.push(status("0"));
            let mut messages = Messages::<SearchResult>::new(answer(frames)).unwrap();
            assert_eq!(messages.next().await.unwrap(), Some(hit("a")));
            assert_eq!(messages.next().await.unwrap(), Some(hit("b")));
            assert_eq!(messages.next().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn an_answer_without_a_status_is_a_failure() {
        let mut messages = Messages::<SearchResult>::new(answer(vec![Frame::data(frame(&hit("a")))])).unwrap();
        messages.next().await.unwrap();
        assert_eq!(messages.next().await.unwrap_err().code(), Code::Unavailable);
    }

    #[tokio::test]
    async fn nonsense_is_as_good_as_no_answer() {
        let only = async |frames| match Messages::<SearchResult>::new(answer(frames)) {
            Ok(messages) => messages.only().await.unwrap_err().code(),
            Err(status) => status.code(),
        };
        let data = |bytes: &'static [u8]| Frame::data(Bytes::from_static(bytes));
        assert_eq!(only(vec![status("0")]).await, Code::Unavailable, "no message");
        assert_eq!(only(vec![data(b"\0\0\0\0\x02\xff\xff"), status("0")]).await, Code::Unavailable, "no protobuf");
        assert_eq!(only(vec![data(b"\x01\0\0\0\0"), status("0")]).await, Code::Unavailable, "compressed");
        assert_eq!(only(vec![data(b"\0\xff\xff\xff\xff")]).await, Code::Unavailable, "too large");
        for garbage in ["", "seven", "99", "-1"] {
            assert_eq!(
                only(vec![Frame::data(frame(&hit("a"))), status(garbage)]).await,
                Code::Unavailable,
                "{garbage}"
            );
        }
        let twice = [frame(&hit("a")), frame(&hit("a"))].concat().into();
        assert_eq!(only(vec![Frame::data(twice)]).await, Code::Unavailable, "two messages");
        let html = http::Response::builder().header("content-type", "text/html").body(body::empty()).unwrap();
        assert_eq!(Messages::<SearchResult>::new(html).err().unwrap().code(), Code::Unavailable);
    }

    #[tokio::test]
    async fn the_status_behind_a_message_decides() {
        let broken = answer(vec![Frame::data(frame(&hit("a"))), status("13")]);
        assert_eq!(Messages::<SearchResult>::new(broken).unwrap().only().await.unwrap_err().code(), Code::Internal);
    }
}

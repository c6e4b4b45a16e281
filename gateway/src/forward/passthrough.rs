//! gRPC calls passed through: messages, streams and trailers as they come, nothing decoded.
//!
//! Only the metadata is rewritten: credentials stay here, and who the caller is, this gateway alone says.

mod messages;
mod named;

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use nearfield_proto::{AREAS_METADATA, TENANT_METADATA};

use self::messages::{Messages, Refusal};
pub(crate) use self::named::Named;
use super::balance::Key;
use super::call::{CallContext, Writing};
use super::class::Class;
use super::codec::name::DEFAULT_COLLECTION;
use super::connection::Failure;
use super::grpc;
use super::members::Tried;
use super::race;
use super::upstream::{Call, Upstream};
use crate::body::{self, Body, BodyError, Response};
use crate::error::Error;
use crate::route::GrpcMethod;

/// A call that came in, as far as it takes to know where it may be answered.
pub(crate) struct Incoming {
    method: GrpcMethod,
    path: String,
    headers: HeaderMap,
    /// Of the first message.
    pub(crate) named: Named,
    body: Body,
    /// Set when messages behind the first are looked at, too.
    refusal: Option<Refusal>,
}

impl Incoming {
    /// Reads the first message of a call. `may_pass` is asked about those behind it.
    ///
    /// # Errors
    /// [`Error::UnsupportedMediaType`] for what is no gRPC, and a message that cannot be read.
    pub(crate) async fn read<F>(
        method: GrpcMethod,
        path: &str,
        mut headers: HeaderMap,
        body: Body,
        may_pass: impl FnMut(Named) -> F + Send + 'static,
    ) -> Result<Self, Error>
    where
        F: Future<Output = Result<(), Error>> + Send,
    {
        expect_grpc(&headers)?;
        rewrite(&mut headers);
        let incoming = |named, body, refusal| Self { method, path: path.to_owned(), headers, named, body, refusal };
        let limit = match method {
            GrpcMethod::Health | GrpcMethod::Reflection | GrpcMethod::Unknown => {
                return Ok(incoming(Named::default(), body, None));
            }
            GrpcMethod::Admin | GrpcMethod::Read => MESSAGE_BYTES_MAX,
            GrpcMethod::Write => WRITE_BYTES_MAX,
        };
        let mut messages = Messages::of(body, limit);
        // A caller may open a stream long before it has something to ask.
        let patience = if path == BIDIRECTIONAL_SEARCH { FIRST_MESSAGE_PATIENCE } else { Duration::MAX };
        let first = tokio::time::timeout(patience, messages.next()).await.unwrap_or(Ok(None))?;
        let named = first.as_deref().map(|message| messages::named(path, message)).unwrap_or_default();
        Ok(match CLIENT_STREAMS.into_iter().find(|stream| *stream == path) {
            Some(path) => {
                let refusal = Refusal::default();
                incoming(named, messages.into_guarded(path, first, may_pass, refusal.clone()), Some(refusal))
            }
            None => incoming(named, messages.into_body(first), None),
        })
    }
}

impl Upstream {
    /// Passes a call on and its answer back. It goes to another endpoint when the first never got it; a read of one
    /// message also when the first broke off or is leaving.
    ///
    /// # Errors
    /// [`Error::NoRegion`] when nobody can be asked.
    pub(crate) async fn pass(&self, context: &CallContext, call: Incoming) -> Result<Response, Error> {
        let Incoming { method, path, mut headers, named, body, refusal } = call;
        self.write(context, &mut headers)?;
        let mut outgoing = http::Request::new(body::empty());
        *outgoing.method_mut() = http::Method::POST;
        *outgoing.version_mut() = http::Version::HTTP_2;
        *outgoing.headers_mut() = headers;
        if method == GrpcMethod::Read
            && let Some((path, class)) = READS.into_iter().find(|(read, _)| *read == path)
        {
            return self.pass_read(context, path, class, outgoing.headers(), body).await;
        }
        let (key, writing) = match method {
            GrpcMethod::Admin | GrpcMethod::Write => {
                let collection = named.collections.first().map_or(DEFAULT_COLLECTION, String::as_str);
                // A client stream may go on to other collections than its first message's.
                let streams = path == INSERT_STREAM;
                let writing = if streams { context.writing_somewhere() } else { context.writing(collection) };
                (context.write_key(collection), Some(writing))
            }
            GrpcMethod::Health | GrpcMethod::Read | GrpcMethod::Reflection | GrpcMethod::Unknown => {
                (context.read_key(), None)
            }
        };
        *outgoing.body_mut() = body;
        let answered = self.send_somewhere(key, &path, outgoing).await;
        match refusal {
            None => Ok(returned(answered?, writing)),
            Some(refusal) => match answered {
                Ok(response) => Ok(returned(response.map(|answer| refusal.tell(answer)), writing)),
                Err(error) => Err(refusal.error().unwrap_or(error)),
            },
        }
    }

    async fn send_somewhere(&self, key: Key, path: &str, mut outgoing: http::Request<Body>) -> Result<Response, Error> {
        let mut tried = Tried::default();
        for _ in 0..self.attempts() {
            let endpoint = self.choose(key, &mut tried).ok_or(Error::NoRegion)?;
            *outgoing.uri_mut() = grpc::uri(&endpoint.origin, path);
            match endpoint.send(outgoing).await {
                Ok(response) => return Ok(response),
                Err(failure) => {
                    self.note_failure(&endpoint);
                    match failure {
                        Failure::Unsent { request: Some(request), .. } => outgoing = *request,
                        Failure::Unsent { request: None, .. } => break,
                        Failure::Broken(_) => return Err(race::broken()),
                    }
                }
            }
        }
        Err(Error::NoRegion)
    }

    /// A read of one message: small enough to be kept, and so to be sent again. It is answered when its answer is known
    /// to be one: whole, or the first frame of a stream.
    async fn pass_read(
        &self,
        context: &CallContext,
        path: &'static str,
        class: Class,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, Error> {
        let message = Limited::new(body, MESSAGE_BYTES_MAX).collect().await;
        let message = message.map_err(|e| Error::malformed(format!("the message could not be read: {e}")))?.to_bytes();
        let call = Call { path, context, key: context.read_key(), home: None, class, headers: Some(headers) };
        let streams = path == STREAM_SEARCH;
        let read = |response: http::Response<Body>| async move {
            let (head, mut body) = response.into_parts();
            grpc::check_head(head.status, &head.headers)?;
            if streams {
                let first = body.frame().await.transpose().map_err(broke_off)?;
                let body = body::boxed(Peeked { first: first.map(Ok), rest: body });
                return Ok(Response::from_parts(head, body));
            }
            let limited = Limited::new(body, grpc::MESSAGE_BYTES_MAX).collect().await.map_err(broke_off)?;
            let ends_in_head = head.headers.contains_key("grpc-status");
            match limited.trailers() {
                Some(trailers) => grpc::check_status(trailers)?,
                None if ends_in_head => {}
                None => return Err(grpc::nonsense("an answer without a status")),
            }
            Ok(Response::from_parts(head, body::boxed(limited)))
        };
        self.attempt(&call, message, read).await.map(|response| returned(response, None))
    }
}

fn broke_off(error: impl std::fmt::Display) -> tonic::Status {
    tonic::Status::unavailable(format!("the answer broke off: {error}"))
}

fn expect_grpc(headers: &HeaderMap) -> Result<(), Error> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let rest = media.strip_prefix("application/grpc");
    // gRPC-Web has another framing.
    if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';'])) {
        return Ok(());
    }
    Err(Error::UnsupportedMediaType("this path takes application/grpc".to_owned()))
}

fn rewrite(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP.iter().chain(&PRIVATE) {
        headers.remove(name);
    }
    for name in [AREAS_METADATA, TENANT_METADATA] {
        headers.remove(name);
    }
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
}

fn returned(response: Response, writing: Option<Writing>) -> Response {
    let (mut parts, mut body) = response.into_parts();
    if let Some(writing) = writing {
        // A refusal is all in the head; an answer is told by its body.
        if !body.is_end_stream() {
            body = body::boxed(Written { body, writing });
        }
    }
    for name in &HOP_BY_HOP {
        parts.headers.remove(name);
    }
    // The version of the connection to searchd says nothing about the caller's.
    parts.version = http::Version::default();
    Response::from_parts(parts, body)
}

/// A body whose first frame was looked at.
struct Peeked {
    first: Option<Result<Frame<Bytes>, BodyError>>,
    rest: Body,
}

impl http_body::Body for Peeked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// The answer to a write: caches are purged before each piece of it goes to the caller.
struct Written {
    body: Body,
    writing: Writing,
}

impl http_body::Body for Written {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            self.writing.applied();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

const BIDIRECTIONAL_SEARCH: &str = "/nearfield.v1.VectorSearch/BidirectionalSearch";
const INSERT_STREAM: &str = "/nearfield.v1.VectorSearch/InsertStream";
const STREAM_SEARCH: &str = "/nearfield.v1.VectorSearch/StreamSearch";
/// Calls of many messages, each of which may name another collection.
const CLIENT_STREAMS: [&str; 2] = [BIDIRECTIONAL_SEARCH, INSERT_STREAM];
/// Reads of one message in and one out, and the search whose stream begins with its first hit.
const READS: [(&str, Class); 7] = [
    ("/nearfield.v1.Collections/Describe", Class::Lookup),
    ("/nearfield.v1.Collections/List", Class::Lookup),
    ("/nearfield.v1.Collections/MeasureRecall", Class::Measure),
    ("/nearfield.v1.VectorSearch/BatchSearch", Class::Batch),
    ("/nearfield.v1.VectorSearch/Fetch", Class::Lookup),
    ("/nearfield.v1.VectorSearch/Search", Class::Search),
    (STREAM_SEARCH, Class::Search),
];
/// Bytes of a message that writes; searchd takes no more.
const WRITE_BYTES_MAX: usize = 16 << 20;
/// Bytes of any other: a hundred searches of 4,096 numbers fit.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// How long a stream's first message is waited for before the stream gets a region.
const FIRST_MESSAGE_PATIENCE: Duration = Duration::from_millis(500);

/// What belongs to the client's connection (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
];

/// What searchd has no business to see.
const PRIVATE: [HeaderName; 4] = [
    header::AUTHORIZATION,
    header::COOKIE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-request-id"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_say_who_it_is() {
        let mut headers = HeaderMap::new();
        for name in ["nearfield-tenant", "authorization", "x-api-key", "cookie", "connection"] {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        headers.insert("custom", HeaderValue::from_static("kept"));
        rewrite(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>().len(), 2, "{headers:?}");
        assert_eq!(headers["te"], "trailers");
    }

    #[test]
    fn grpc_is_told_from_others() {
        let check = |media: &str, accepted: bool| {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, media.parse().unwrap())]);
            assert_eq!(expect_grpc(&headers).is_ok(), accepted, "{media}");
        };
        check("application/grpc", true);
        check("application/grpc+proto", true);
        check("application/grpc;charset=utf-8", true);
        check("application/grpc-web", false);
        check("application/json", false);
    }
}

//! gRPC calls passed through: messages, streams and trailers as they come, nothing decoded.
//!
//! Only the metadata is rewritten: credentials stay here, and who the caller is, this gateway alone says.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use nearfield_proto::TENANT_METADATA;

use super::call::{CallContext, Writing};
use super::class::Class;
use super::connection::Failure;
use super::grpc;
use super::members::Tried;
use super::race;
use super::upstream::{Call, Upstream};
use crate::body::{self, Body, BodyError, Request, Response};
use crate::error::Error;
use crate::route::GrpcMethod;

impl Upstream {
    /// Passes a call on and its answer back. It goes to another endpoint when the first never got it; a read of one
    /// message also when the first broke off or is leaving.
    ///
    /// # Errors
    /// [`Error::NoRegion`] when nobody can be asked, [`Error::UnsupportedMediaType`] for what is no gRPC.
    pub async fn pass(&self, method: GrpcMethod, context: &CallContext, request: Request) -> Result<Response, Error> {
        let (mut parts, body) = request.into_parts();
        expect_grpc(&parts.headers)?;
        rewrite(&mut parts.headers);
        context.write(&mut parts.headers)?;
        let path = parts.uri.path().to_owned();
        let mut outgoing = http::Request::new(body::empty());
        *outgoing.method_mut() = http::Method::POST;
        *outgoing.version_mut() = http::Version::HTTP_2;
        *outgoing.headers_mut() = parts.headers;
        if method == GrpcMethod::Read
            && let Some((path, class)) = READS.into_iter().find(|(read, _)| *read == path)
        {
            return self.pass_read(context, path, class, outgoing.headers(), body).await;
        }
        let (key, body, writing) = match method {
            GrpcMethod::Admin | GrpcMethod::Write => {
                let (collection, body) = peek_collection(body).await;
                // A client stream may go on to other collections than its first message's.
                let streams = path.ends_with("/InsertStream");
                let writing = if streams { context.writing_somewhere() } else { context.writing(&collection) };
                (context.write_key(&collection), body, Some(writing))
            }
            GrpcMethod::Health | GrpcMethod::Read | GrpcMethod::Reflection | GrpcMethod::Unknown => {
                (context.read_key(), body, None)
            }
        };
        *outgoing.body_mut() = body;
        let mut tried = Tried::default();
        for _ in 0..self.attempts() {
            let endpoint = self.choose(key, &mut tried).ok_or(Error::NoRegion)?;
            *outgoing.uri_mut() = grpc::uri(&endpoint.origin, &path);
            match endpoint.send(outgoing).await {
                Ok(response) => return Ok(returned(response, writing)),
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
    headers.remove(TENANT_METADATA);
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

/// The collection that a write names: field 1 of all of them, and so, by every encoder's order, their first bytes.
/// Empty when it cannot be seen; it only chooses who is asked first.
async fn peek_collection(mut body: Body) -> (String, Body) {
    let Some(frame) = body.frame().await else { return (String::new(), body::empty()) };
    let collection = frame.as_ref().ok().and_then(|frame| frame.data_ref()).and_then(|data| collection_of(data));
    let collection = collection.unwrap_or(super::codec::name::DEFAULT_COLLECTION).to_owned();
    (collection, body::boxed(Peeked { first: Some(frame), rest: body }))
}

fn collection_of(data: &[u8]) -> Option<&str> {
    const PREFIX: usize = 5;
    const FIELD_1_TEXT: u8 = 0x0a;
    let [tag, length, rest @ ..] = data.get(PREFIX..)? else { return None };
    // A name has at most 63 bytes, so its length is one byte.
    let name = (*tag == FIELD_1_TEXT).then(|| rest.get(..usize::from(*length)))??;
    std::str::from_utf8(name).ok()
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

const STREAM_SEARCH: &str = "/nearfield.v1.VectorSearch/StreamSearch";
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
/// Bytes of such a message: a hundred searches of 4,096 numbers fit.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

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
    use nearfield_proto::v1::{DeleteCollectionRequest, InsertRequest};

    use super::*;

    #[test]
    fn the_collection_of_a_write_is_seen() {
        let framed = grpc::frame(&InsertRequest { collection: "shoes".to_owned(), vectors: Vec::new() });
        assert_eq!(collection_of(&framed), Some("shoes"));
        let framed = grpc::frame(&DeleteCollectionRequest { name: "a".to_owned() });
        assert_eq!(collection_of(&framed), Some("a"));
        for cut in 0..framed.len() {
            assert_eq!(collection_of(&framed[..cut]), None);
        }
    }

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

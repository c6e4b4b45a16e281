//! What a request's body may be: decompressed here (br, gzip, zstd), and limited before and after, by route.
//!
//! A body that passes its limit fails with [`Error::TooLarge`]; whoever reads it gets that error out again with
//! [`Error::of_body`]. gRPC bodies pass untouched: their messages have limits of their own inside.

use std::pin::Pin;
use std::task::{Context, Poll};

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::{Either, Ready, ready};
use http::{HeaderMap, header};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyDataStream, StreamBody};
use serde::Deserialize;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use super::classify;
use crate::body::{self, Body, BodyError, Request, Response};
use crate::error::Error;
use crate::route::Route;

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes of a JSON insert, decompressed. NDJSON inserts have no limit: they are streamed.
    pub max_insert_bytes: u64,
    /// Bytes of a batch of searches, decompressed.
    pub max_batch_bytes: u64,
    /// Bytes of any other body, decompressed. A vector of 65,536 numbers takes about 1 MiB as JSON.
    pub max_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_insert_bytes: 64 << 20, max_batch_bytes: 16 << 20, max_bytes: 4 << 20 }
    }
}

impl Config {
    /// The most that `route` takes; none when it is streamed.
    fn limit(&self, route: Route, headers: &HeaderMap) -> Option<u64> {
        match route {
            Route::Insert if super::deadline::is_ndjson(headers) => None,
            Route::Insert => Some(self.max_insert_bytes),
            Route::SearchBatch => Some(self.max_batch_bytes),
            _ => Some(self.max_bytes),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Layer {
    config: Config,
}

impl Layer {
    pub(crate) fn new(config: Config) -> Self {
        Self { config }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, config: self.config.clone() }
    }
}

pub(crate) struct Service<S> {
    inner: S,
    config: Config,
}

impl<S: hyper::service::Service<Request, Response = Response, Error = Error>> hyper::service::Service<Request>
    for Service<S>
{
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Ready<Result<Response, Error>>>;

    fn call(&self, request: Request) -> Self::Future {
        match admit(request, &self.config) {
            Ok(request) => Either::Left(self.inner.call(request)),
            Err(error) => Either::Right(ready(Err(error))),
        }
    }
}

const WHAT: &str = "the body";

fn admit(request: Request, config: &Config) -> Result<Request, Error> {
    let route = classify::route(&request);
    if route.is_grpc() || route == Route::WebSocket || http_body::Body::is_end_stream(request.body()) {
        return Ok(request);
    }
    let encoding = Encoding::of(request.headers())?;
    let limit = config.limit(route, request.headers());
    if let Some(limit) = limit
        && http_body::Body::size_hint(request.body()).lower() > limit
    {
        return Err(Error::TooLarge { what: WHAT, limit });
    }
    if encoding.is_none() && limit.is_none() {
        return Ok(request);
    }
    let (mut parts, mut inner) = request.into_parts();
    if let Some(encoding) = encoding {
        parts.headers.remove(header::CONTENT_ENCODING);
        parts.headers.remove(header::CONTENT_LENGTH);
        inner = encoding.decode(inner);
    }
    if let Some(limit) = limit {
        inner = body::boxed(Limited { inner, limit, left: limit });
    }
    Ok(Request::from_parts(parts, inner))
}

/// One content coding (RFC 9110 section 8.4.1).
#[derive(Clone, Copy)]
enum Encoding {
    Brotli,
    Gzip,
    Zstd,
}

/// The most memory that a zstd frame may ask its reader for, as a power of two: 8 MiB, what RFC 8878 recommends.
const ZSTD_WINDOW_LOG: u32 = 23;

impl Encoding {
    fn of(headers: &HeaderMap) -> Result<Option<Self>, Error> {
        let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let name = value.to_str().unwrap_or_default().trim();
        let encoding = match name.to_ascii_lowercase().as_str() {
            "" | "identity" => None,
            "br" => Some(Self::Brotli),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            _ => {
                let detail = format!("the content encoding {name:?} is not one of br, gzip, zstd");
                return Err(Error::UnsupportedMediaType(detail));
            }
        };
        if values.next().is_some() {
            return Err(Error::UnsupportedMediaType("a body has at most one content encoding".to_owned()));
        }
        Ok(encoding)
    }

    fn decode(self, body: Body) -> Body {
        let reader = StreamReader::new(BodyDataStream::new(body).map_err(std::io::Error::other));
        match self {
            Self::Brotli => from_reader(BrotliDecoder::new(reader)),
            Self::Gzip => {
                let mut decoder = GzipDecoder::new(reader);
                decoder.multiple_members(true);
                from_reader(decoder)
            }
            Self::Zstd => {
                let window = async_compression::zstd::DParameter::window_log_max(ZSTD_WINDOW_LOG);
                let mut decoder = ZstdDecoder::with_params(reader, &[window]);
                decoder.multiple_members(true);
                from_reader(decoder)
            }
        }
    }
}

fn from_reader(reader: impl AsyncRead + Send + 'static) -> Body {
    body::boxed(StreamBody::new(ReaderStream::new(reader).map_ok(Frame::data).map_err(unreadable)))
}

/// The cause of a decoder's failure: what the body itself failed with, or what is wrong with the compressed bytes.
fn unreadable(error: std::io::Error) -> BodyError {
    match error.downcast::<BodyError>() {
        Ok(body) => body,
        Err(decoder) => Error::malformed(format!("the body could not be decompressed: {decoder}")).into(),
    }
}

/// Fails once more than `limit` bytes came.
struct Limited {
    inner: Body,
    limit: u64,
    left: u64,
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            match this.left.checked_sub(data.len() as u64) {
                Some(left) => this.left = left,
                None => {
                    this.inner = body::empty();
                    return Poll::Ready(Some(Err(Error::TooLarge { what: WHAT, limit: this.limit }.into())));
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZstdEncoder};
    use http_body_util::BodyExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn read(encoding: &str, bytes: Vec<u8>) -> Result<Bytes, Error> {
        let config = Config { max_bytes: 1000, ..Config::default() };
        // Chunked, so that only reading shows its length.
        let chunks = bytes.chunks(100).map(|c| Ok::<_, BodyError>(Frame::data(Bytes::copy_from_slice(c))));
        let chunks: Vec<_> = chunks.collect();
        let mut request = http::Request::builder().uri("/api/v1/search");
        if !encoding.is_empty() {
            request = request.header("content-encoding", encoding);
        }
        let mut request = request.body(body::boxed(StreamBody::new(futures::stream::iter(chunks)))).unwrap();
        request.extensions_mut().insert(Route::Search);
        let admitted = admit(request, &config)?;
        assert!(!admitted.headers().contains_key("content-encoding"));
        Ok(admitted.into_body().collect().await.map_err(Error::of_body)?.to_bytes())
    }

    async fn compressed(encoding: &str, bytes: &[u8]) -> Vec<u8> {
        macro_rules! with {
            ($encoder:ident) => {{
                let mut encoder = $encoder::new(Vec::new());
                encoder.write_all(bytes).await.unwrap();
                encoder.shutdown().await.unwrap();
                encoder.into_inner()
            }};
        }
        match encoding {
            "br" => with!(BrotliEncoder),
            "gzip" => with!(GzipEncoder),
            "zstd" => with!(ZstdEncoder),
            _ => bytes.to_vec(),
        }
    }

    #[tokio::test]
    async fn the_limit_is_exact_and_counts_what_comes_out_of_the_decoder() {
        for encoding in ["", "br", "gzip", "zstd"] {
            let fits = vec![b'x'; 1000];
            assert_eq!(read(encoding, compressed(encoding, &fits).await).await.unwrap(), fits, "{encoding}");
            let bomb = compressed(encoding, &vec![0; 1001]).await;
            let refused = read(encoding, bomb).await;
            assert!(matches!(refused, Err(Error::TooLarge { limit: 1000, .. })), "{encoding} {refused:?}");
        }
    }

    #[tokio::test]
    async fn what_is_not_compressed_as_it_says_is_malformed() {
        for encoding in ["br", "gzip", "zstd"] {
            let refused = read(encoding, b"this is no archive".to_vec()).await;
            assert!(matches!(refused, Err(Error::Malformed { .. })), "{encoding} {refused:?}");
            let mut cut = compressed(encoding, &[7; 500]).await;
            cut.truncate(cut.len() / 2);
            let refused = read(encoding, cut).await;
            assert!(matches!(refused, Err(Error::Malformed { .. })), "{encoding} {refused:?}");
        }
        assert!(matches!(read("deflate", vec![]).await, Err(Error::UnsupportedMediaType(_))));
        assert!(matches!(read("gzip, br", vec![]).await, Err(Error::UnsupportedMediaType(_))));
    }
}

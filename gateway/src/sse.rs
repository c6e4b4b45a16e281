//! Searches as server-sent events: `GET` and `POST /stream/search`.
//!
//! The first hit is waited for before the answer begins, so that a search that cannot start is an ordinary problem.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderName, HeaderValue, header};
use http_body::Frame;
use http_body_util::StreamBody;
use nearfield_proto::v1::{SearchRequest, SearchResult};
use serde::{Deserialize, Serialize};

use crate::body::{self, BodyError, Response};
use crate::error::Error;
use crate::forward::codec::answer::{self, Include, Writer};
use crate::forward::{CallContext, Messages, Upstream};
use crate::request::RequestId;
use crate::rescue::{self, Problem};

/// The settings' section `[stream]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A stream that is silent for so long sends a comment, which keeps it open in the proxies on its way.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { ping_interval: Duration::from_secs(15) }
    }
}

/// Answers a search by a stream of events. Dropping the answer's body ends the call behind it.
///
/// # Errors
/// What keeps the search from starting.
pub(crate) async fn search(
    config: &Config,
    upstream: &Upstream,
    context: &CallContext,
    request: &SearchRequest,
) -> Result<Response, Error> {
    let (first, hits) = upstream.stream_search(context, request).await?;
    let request_id = context.request_id.clone();
    let query_id =
        request_id.as_ref().map_or_else(|| format!("{:016x}", rand::random::<u64>()), |id| id.as_str().to_owned());
    let mut events = Events {
        first,
        hits,
        include: Include::of(request),
        ping_interval: config.ping_interval,
        request_id,
        sent: 0,
        ended: false,
    };
    let mut start = Writer::default();
    event(&mut start, |out| {
        out.raw("\"search_start\",\"query_id\":").value(&query_id);
    });
    events.ready(&mut start);
    let start = futures::stream::once(std::future::ready(start.finish()));
    let rest = futures::stream::unfold(events, |mut events| async move {
        let bytes = events.next().await?;
        Some((bytes, events))
    });
    let frames =
        futures::StreamExt::map(futures::StreamExt::chain(start, rest), |b| Ok::<_, BodyError>(Frame::data(b)));
    let mut response = Response::new(body::boxed(StreamBody::new(frames)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// Writes `data: {"event":…}` and the blank line behind it.
fn event(out: &mut Writer, fields: impl FnOnce(&mut Writer)) {
    out.raw("data: {\"event\":");
    fields(out);
    out.raw("}\n\n");
}

/// The events behind `search_start`.
struct Events {
    first: Option<SearchResult>,
    hits: Messages<SearchResult>,
    include: Include,
    ping_interval: Duration,
    request_id: Option<RequestId>,
    sent: u64,
    ended: bool,
}

impl Events {
    /// What is to be sent next: the events that have arrived, or a comment after a silence. `None` after the last.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = Writer::default();
        // Dropping the wait for a message loses nothing of it.
        match tokio::time::timeout(self.ping_interval, self.hits.next()).await {
            Err(_) => {
                out.raw(": ping\n\n");
            }
            Ok(next) => {
                self.take(next, &mut out);
                self.ready(&mut out);
            }
        }
        Some(out.finish())
    }

    /// Writes the events that are there already, to send them in one piece.
    fn ready(&mut self, out: &mut Writer) {
        if let Some(first) = self.first.take() {
            self.take(Ok(Some(first)), out);
        }
        while !self.ended && out.len() < PIECE_BYTES {
            let Some(next) = self.hits.next().now_or_never() else { return };
            self.take(next, out);
        }
    }

    fn take(&mut self, next: Result<Option<SearchResult>, tonic::Status>, out: &mut Writer) {
        match next {
            Ok(Some(hit)) => {
                if !hit.vector_id.is_empty() {
                    self.sent += 1;
                    let include = self.include;
                    event(out, |out| {
                        out.raw("\"result\",\"vector_id\":").value(&hit.vector_id);
                        out.raw(",\"score\":").value(&hit.score);
                        answer::hit_rest(out, &hit, include);
                    });
                }
                if hit.last {
                    self.complete(hit.total_results, out);
                }
            }
            Ok(None) => self.complete(self.sent, out),
            Err(status) => {
                self.ended = true;
                let problem = rescue::problem(&Error::from(status), self.request_id.as_ref().map(RequestId::as_str));
                failed(out, &problem);
            }
        }
    }

    fn complete(&mut self, total_results: u64, out: &mut Writer) {
        self.ended = true;
        event(out, |out| {
            out.raw("\"search_complete\",\"total_results\":").value(&total_results);
        });
    }
}

/// The event that ends a stream which has begun.
pub(crate) fn failure(error: &Error, request_id: Option<&str>) -> Bytes {
    let mut out = Writer::default();
    failed(&mut out, &rescue::problem(error, request_id));
    out.finish()
}

fn failed(out: &mut Writer, problem: &Problem) {
    out.raw("data: ").value(&Failed { event: "error", problem }).raw("\n\n");
}

#[derive(Serialize)]
struct Failed<'a> {
    event: &'static str,
    #[serde(flatten)]
    problem: &'a Problem,
}

/// Events that have arrived together go out in pieces of about this size.
const PIECE_BYTES: usize = 16 << 10;

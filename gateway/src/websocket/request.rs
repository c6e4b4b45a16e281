//! Runs one message's request and sends its answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nearfield_auth::Scope;
use nearfield_proto::v1::SearchRequest;
use tokio::sync::mpsc;
use tracing::Instrument;

use super::message::{self, Ask, Message};
use super::{Asked, Shared};
use crate::error::Error;
use crate::forward::codec::answer::{self, Include};
use crate::forward::{CallContext, Upstream};
use crate::request::RequestId;
use crate::rescue;
use crate::route::Route;

/// Where a connection's answers go; sending waits when its peer is slow. An error says that the connection is gone,
/// and then nobody is left to tell.
pub(crate) type Answers = mpsc::Sender<Bytes>;

/// Runs the request of one message to its end. Dropping this cancels the calls behind it.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut context: CallContext,
    message: Message,
    answers: Answers,
    patience: Duration,
) {
    context.deadline = Some(Instant::now() + patience);
    let id = message.id.as_deref();
    let done = match message.ask {
        Ok(ask) => {
            // The request that opened the connection has ended: each message is a part of the caller's trace by itself.
            let span = tracing::info_span!(target: "span", "WebSocket message", otel.kind = "server");
            context.continue_trace(&span);
            answer(&shared, &context, id, ask, &answers).instrument(span).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = done {
        let problem = rescue::problem(&error, context.request_id.as_ref().map(RequestId::as_str));
        let _ = answers.send(message::error(id, &problem)).await;
    }
}

async fn answer(
    shared: &Shared,
    context: &CallContext,
    id: Option<&str>,
    ask: Ask,
    answers: &Answers,
) -> Result<(), Error> {
    let write = |route, points| (Asked::Write { route, points }, Scope::VectorsWrite);
    let ((asked, scope), collection) = match &ask {
        Ask::Delete(request) => (write(Route::Delete, request.ids.len()), &request.collection),
        Ask::Insert(request) => (write(Route::Insert, request.vectors.len()), &request.collection),
        Ask::Ping => {
            let _ = answers.send(message::pong(id)).await;
            return Ok(());
        }
        Ask::Search { request, stream } => {
            ((Asked::Search { request, stream: *stream }, Scope::VectorsRead), &request.collection)
        }
        Ask::Update(request) => (write(Route::Update, 1), &request.collection),
    };
    if context.principal.as_ref().is_some_and(|principal| !principal.scopes.contains(scope)) {
        return Err(Error::Forbidden(scope));
    }
    let mut place = shared.admission.admit(context, &asked).await?;
    let regions = shared.regions.get();
    let upstream = regions.route_for(context, collection).await?.upstream;
    let bytes = match ask {
        Ask::Search { request, stream: true } => return stream(&upstream, context, id, &request, answers).await,
        Ask::Search { request, stream: false } => {
            let found = upstream.search(context, &request).await?;
            message::results(id, &found, Include::of(&request))
        }
        Ask::Insert(request) => message::ack(id, &answer::Inserted::from(&upstream.insert(context, &request).await?)),
        Ask::Update(request) => message::ack(id, &answer::Updated::from(&upstream.update(context, &request).await?)),
        Ask::Delete(request) => message::ack(id, &answer::Deleted::from(&upstream.delete(context, &request).await?)),
        Ask::Ping => message::pong(id),
    };
    if let Some(place) = &mut place {
        place.answered();
    }
    let _ = answers.send(bytes).await;
    Ok(())
}

async fn stream(
    upstream: &Upstream,
    context: &CallContext,
    id: Option<&str>,
    request: &SearchRequest,
    answers: &Answers,
) -> Result<(), Error> {
    let include = Include::of(request);
    let (mut next, mut hits) = upstream.stream_search(context, request).await?;
    let mut sent = 0;
    while let Some(hit) = next {
        if !hit.vector_id.is_empty() {
            sent += 1;
            if answers.send(message::result(id, &hit, include)).await.is_err() {
                return Ok(());
            }
        }
        if hit.last {
            sent = hit.total_results;
            break;
        }
        next = hits.next().await?;
    }
    let _ = answers.send(message::search_complete(id, sent)).await;
    Ok(())
}

//! `/search` and `/search/batch`.

use nearfield_proto::v1;

use super::{Job, body, pay, reply};
use crate::body::Response;
use crate::error::Error;
use crate::forward::codec::{self, DecodedSearch, answer, batch};
use crate::{rescue, sse};

pub(super) async fn search(mut job: Job) -> Result<Response, Error> {
    let request = decoded(&mut job).await?;
    let found = job.upstream.search(&job.context, &request).await?;
    let span = tracing::info_span!(target: "span", "serialization", hits = found.results.len());
    let bytes = span.in_scope(|| answer::search(&found, answer::Include::of(&request)));
    if request.explain {
        return Ok(reply::json(bytes));
    }
    let (collection, point) = (&request.collection, &request.query_vector_id);
    Ok(reply::cacheable(reply::json(bytes), reply::SEARCH_MAX_AGE, collection, Some(point)))
}

pub(super) async fn stream(mut job: Job, config: &sse::Config) -> Result<Response, Error> {
    let request = decoded(&mut job).await?;
    sse::search(config, &job.upstream, &job.context, &request).await
}

/// The request's search, which the cache layer may have decoded already.
pub(super) async fn decoded(job: &mut Job) -> Result<v1::SearchRequest, Error> {
    let request = match job.parts.extensions.remove() {
        Some(DecodedSearch(request)) => request,
        None => {
            let body = body::read(std::mem::replace(&mut job.body, crate::body::empty())).await?;
            codec::decode_search(&job.parts, &body)?
        }
    };
    pay(&job.parts, |prices| prices.search(&request))?;
    Ok(request)
}

/// Each search gets its result or its problem; those that are not valid are not sent on.
pub(super) async fn batch(job: Job) -> Result<Response, Error> {
    codec::expect_json_of(&job.parts.method, &job.parts.headers)?;
    let body = body::read(job.body).await?;
    let mut searches = batch::searches(&body)?;
    let mut valid = Vec::with_capacity(searches.len());
    for search in &mut searches {
        if let Ok(request) = search {
            match codec::session(&job.parts.headers, std::mem::take(&mut request.session)) {
                Ok(session) => request.session = session,
                Err(error) => *search = Err(error),
            }
        }
        valid.extend(search.as_ref().ok().cloned());
    }
    pay(&job.parts, |prices| prices.batch(&valid))?;
    let answered = if valid.is_empty() {
        v1::BatchSearchResponse::default()
    } else {
        job.upstream.batch_search(&job.context, &v1::BatchSearchRequest { searches: valid }).await?
    };
    let request_id = job.context.request_id.as_deref();
    let mut items = answered.responses.into_iter();
    let mut out = answer::Writer::with_capacity(1 << 12);
    out.raw("{\"responses\":[");
    for (i, search) in searches.iter().enumerate() {
        out.raw(if i == 0 { "" } else { "," });
        match search {
            Err(error) => {
                out.value(&rescue::problem(error, request_id));
            }
            Ok(request) => item(&mut out, items.next(), answer::Include::of(request), request_id),
        }
    }
    out.raw("]}");
    Ok(reply::json(out.finish()))
}

fn item(
    out: &mut answer::Writer,
    item: Option<v1::BatchSearchItem>,
    include: answer::Include,
    request_id: Option<&str>,
) {
    use v1::batch_search_item::Outcome;
    match item.and_then(|item| item.outcome) {
        Some(Outcome::Response(response)) => answer::search_into(out, &response, include),
        Some(Outcome::Problem(problem)) => {
            out.value(&rescue::problem(&Error::from(codec::status_of(problem)), request_id));
        }
        None => {
            let missing = Error::from(tonic::Status::internal("searchd left a search unanswered"));
            out.value(&rescue::problem(&missing, request_id));
        }
    }
}

//! `/search` and `/search/batch`.

use futures::future::join_all;
use nearfield_proto::v1;

use super::{Job, body, pay, reply};
use crate::body::Response;
use crate::error::Error;
use crate::forward::codec::{self, DecodedSearch, answer, batch};
use crate::region::Chosen;
use crate::request::RequestId;
use crate::{rescue, sse};

pub(super) async fn search(job: &mut Job) -> Result<Response, Error> {
    let request = decoded(job).await?;
    let upstream = job.upstream(&request.collection).await?;
    let found = upstream.search(&job.context, &request).await?;
    let span = tracing::info_span!(target: "span", "serialization", hits = found.results.len());
    let bytes = span.in_scope(|| answer::search(&found, answer::Include::of(&request)));
    if request.explain {
        return Ok(reply::json(bytes));
    }
    let (collection, point) = (&request.collection, &request.query_vector_id);
    Ok(reply::cacheable(reply::json(bytes), reply::SEARCH_MAX_AGE, collection, Some(point)))
}

pub(super) async fn stream(job: &mut Job, config: &sse::Config) -> Result<Response, Error> {
    let request = decoded(job).await?;
    let upstream = job.upstream(&request.collection).await?;
    sse::search(config, &upstream, &job.context, &request).await
}

/// The request's search, which the cache layer may have decoded already.
pub(super) async fn decoded(job: &mut Job) -> Result<v1::SearchRequest, Error> {
    let request = match job.parts.extensions.remove() {
        Some(DecodedSearch(request)) => request,
        None => {
            let body = body::read(job.take_body()).await?;
            codec::decode_search(&job.parts, &body)?
        }
    };
    pay(&job.parts, |prices| prices.search(&request))?;
    Ok(request)
}

/// Each search gets its result or its problem; those that are not valid are not sent on.
pub(super) async fn batch(job: &mut Job) -> Result<Response, Error> {
    codec::expect_json_of(&job.parts.method, &job.parts.headers)?;
    let body = body::read(job.take_body()).await?;
    let mut searches = batch::searches(&body)?;
    for search in &mut searches {
        if let Ok(request) = search {
            match codec::session(&job.parts.headers, std::mem::take(&mut request.session)) {
                Ok(session) => request.session = session,
                Err(error) => *search = Err(error),
            }
        }
    }
    pay(&job.parts, |prices| prices.batch(searches.iter().flatten()))?;
    let mut shares = Shares::default();
    let mut owners = Vec::with_capacity(searches.len());
    for search in &mut searches {
        owners.push(shares.take(job, search).await?);
    }
    let mut answers = shares.ask(job).await?;
    let request_id = job.context.request_id.as_ref().map(RequestId::as_str);
    let mut out = answer::Writer::with_capacity(1 << 12);
    out.raw("{\"responses\":[");
    for (i, (search, owner)) in searches.iter().zip(owners).enumerate() {
        out.raw(if i == 0 { "" } else { "," });
        match search {
            Err(error) => {
                out.value(&rescue::problem(error, request_id));
            }
            Ok(request) => match &mut answers[owner] {
                Ok(items) => item(&mut out, items.next(), answer::Include::of(request), request_id),
                Err(error) => {
                    out.value(&rescue::problem(error, request_id));
                }
            },
        }
    }
    out.raw("]}");
    Ok(reply::json(out.finish()))
}

/// A batch's searches by the region that answers them: almost always one.
#[derive(Default)]
struct Shares(Vec<(Chosen, Vec<v1::SearchRequest>)>);

type Answers = std::vec::IntoIter<v1::BatchSearchItem>;

impl Shares {
    /// Whose share a valid search is in. One whose data may nowhere be read becomes a problem by itself.
    async fn take(&mut self, job: &mut Job, search: &mut Result<v1::SearchRequest, Error>) -> Result<usize, Error> {
        let Ok(request) = search else { return Ok(0) };
        let chosen = match job.regions.route_for(&job.context, &request.collection).await {
            Ok(chosen) => chosen,
            Err(error @ Error::Residency { .. }) => {
                *search = Err(error);
                return Ok(0);
            }
            Err(error) => return Err(error),
        };
        let known = self.0.iter().position(|(owner, _)| owner.region == chosen.region);
        let owner = known.unwrap_or(self.0.len());
        if owner == self.0.len() {
            self.0.push((chosen, Vec::new()));
        }
        self.0[owner].1.push(request.clone());
        Ok(owner)
    }

    /// The answers of each share. A region that fails fails its own share, or all when it has all.
    async fn ask(self, job: &mut Job) -> Result<Vec<Result<Answers, Error>>, Error> {
        let context = &job.context;
        let first = self.0.first().map(|(chosen, _)| chosen.clone());
        let asked = self.0.into_iter().map(|(chosen, searches)| async move {
            let answered = chosen.upstream.batch_search(context, &v1::BatchSearchRequest { searches }).await;
            answered.map(|answered| answered.responses.into_iter())
        });
        let answers = join_all(asked).await;
        job.chosen = first;
        match <[_; 1]>::try_from(answers) {
            Ok([only]) => only.map(|items| vec![Ok(items)]),
            Err(several) => Ok(several),
        }
    }
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

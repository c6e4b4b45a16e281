//! `nearfield.v1.VectorSearch`: the methods; searching itself, fetching and scanning.

use std::pin::Pin;

use futures::Stream;
use nearfield_proto::v1;
use nearfield_proto::v1::vector_search_server::VectorSearch;
use tonic::{Request, Response, Status, Streaming};

use super::caller::Caller;
use super::{MAX_ANSWER_BYTES, Service, explanation, status};
use crate::search::{Answer, Found};

/// Most searches of one batch.
const MAX_BATCH: usize = 100;

pub(super) type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl VectorSearch for Service {
    type StreamSearchStream = Outgoing<v1::SearchResult>;
    type BidirectionalSearchStream = Outgoing<v1::SearchResult>;
    type ScanStream = Outgoing<v1::Record>;

    async fn search(&self, request: Request<v1::SearchRequest>) -> Result<Response<v1::SearchResponse>, Status> {
        let caller = Caller::of(request.metadata())?;
        let answer = caller.limit(self.search_once(request.into_inner(), &caller)).await?;
        Ok(Response::new(response(&answer)?))
    }

    async fn stream_search(
        &self,
        request: Request<v1::SearchRequest>,
    ) -> Result<Response<Self::StreamSearchStream>, Status> {
        let caller = Caller::of(request.metadata())?;
        let blocks = caller.limit(self.blocks(request.into_inner(), &caller)).await?;
        Ok(Response::new(blocks.into_stream(self.0.drain.admit())))
    }

    async fn bidirectional_search(
        &self,
        request: Request<Streaming<v1::SearchRequest>>,
    ) -> Result<Response<Self::BidirectionalSearchStream>, Status> {
        let caller = Caller::of(request.metadata())?;
        Ok(Response::new(self.clone().search_stream(request.into_inner(), caller)))
    }

    async fn batch_search(
        &self,
        request: Request<v1::BatchSearchRequest>,
    ) -> Result<Response<v1::BatchSearchResponse>, Status> {
        let caller = Caller::of(request.metadata())?;
        let searches = request.into_inner().searches;
        if searches.len() > MAX_BATCH {
            let description = format!("has {} searches, at most {MAX_BATCH} are allowed", searches.len());
            return Err(status::violation("/searches", description));
        }
        let outcomes = caller.limit(async { Ok(self.search_batch(searches, &caller).await) }).await?;
        let responses = outcomes.into_iter().map(|outcome| {
            let outcome = match outcome.and_then(|answer| response(&answer)) {
                Ok(response) => v1::batch_search_item::Outcome::Response(response),
                Err(status) => v1::batch_search_item::Outcome::Problem(status::problem(&status)),
            };
            v1::BatchSearchItem { outcome: Some(outcome) }
        });
        let responses = responses.collect();
        Ok(Response::new(v1::BatchSearchResponse { responses }))
    }

    async fn insert(&self, request: Request<v1::InsertRequest>) -> Result<Response<v1::InsertResponse>, Status> {
        let caller = Caller::of(request.metadata())?;
        let _admitted = self.0.drain.admit();
        let response = caller.limit(self.insert_points(request.into_inner(), &caller)).await?;
        Ok(Response::new(response))
    }

    async fn insert_stream(
        &self,
        request: Request<Streaming<v1::InsertRequest>>,
    ) -> Result<Response<v1::InsertResponse>, Status> {
        let caller = Caller::of(request.metadata())?;
        let _admitted = self.0.drain.admit();
        let mut requests = request.into_inner();
        let inserting = async {
            let mut total = v1::InsertResponse::default();
            while let Some(request) = requests.message().await? {
                let done = self.insert_points(request, &caller).await?;
                total.inserted += done.inserted;
                total.session = done.session;
            }
            Ok(total)
        };
        Ok(Response::new(caller.limit(inserting).await?))
    }

    async fn update(&self, request: Request<v1::UpdateRequest>) -> Result<Response<v1::UpdateResponse>, Status> {
        let caller = Caller::of(request.metadata())?;
        let _admitted = self.0.drain.admit();
        Ok(Response::new(caller.limit(self.update_point(request.into_inner(), &caller)).await?))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        let caller = Caller::of(request.metadata())?;
        let _admitted = self.0.drain.admit();
        Ok(Response::new(caller.limit(self.delete_points(request.into_inner(), &caller)).await?))
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        let caller = Caller::of(request.metadata())?;
        let message = request.into_inner();
        let fetching = async {
            self.await_session(&message.session).await?;
            self.fetch_records(&caller, &message.collection, message.ids).await
        };
        let records = caller.limit(fetching).await?;
        Ok(Response::new(v1::FetchResponse { records }))
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let caller = Caller::of(request.metadata())?;
        let message = request.into_inner();
        caller.limit(self.await_session(&message.session)).await?;
        Ok(Response::new(self.scan_records(&caller, &message)?))
    }
}

fn response(answer: &Answer) -> Result<v1::SearchResponse, Status> {
    let bytes: usize =
        answer.hits.iter().map(|hit| hit.values.len() * 4 + hit.metadata.len() + hit.id.len() + 16).sum();
    if bytes > MAX_ANSWER_BYTES {
        return Err(Status::resource_exhausted(
            "the answer is larger than one message may be; ask for fewer hits, leave out values, or stream it",
        ));
    }
    Ok(v1::SearchResponse {
        total_results: answer.hits.len() as u64,
        collection_version: answer.generation,
        results: answer.hits.iter().map(result).collect(),
        explanation: answer.explanation.as_deref().map(explanation::message),
    })
}

pub(super) fn result(found: &Found) -> v1::SearchResult {
    v1::SearchResult {
        vector_id: found.id.clone(),
        score: found.score,
        metadata: found.metadata.clone(),
        values: found.values.clone(),
        ..Default::default()
    }
}

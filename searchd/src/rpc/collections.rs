//! `nearfield.v1.Collections`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nearfield_proto::v1;
use nearfield_proto::v1::collections_server::Collections;
use tonic::{Request, Response, Status};

use super::caller::Caller;
use super::{Service, request, status};
use crate::commit::command::{Change, Outcome};
use crate::engine::settings::{Settings, Violation};
use crate::engine::{Address, Collection};
use crate::index::Index;
use crate::recall::{self, Measured};

/// How long recall is measured at most.
const MAX_MEASURING: Duration = Duration::from_secs(10);

#[tonic::async_trait]
impl Collections for Service {
    async fn create(
        &self,
        request: Request<v1::CreateCollectionRequest>,
    ) -> Result<Response<v1::CreateCollectionResponse>, Status> {
        let caller = Caller::of(request.metadata())?;
        let _admitted = self.0.drain.admit();
        let message = request.into_inner();
        let address = request::address(&caller.tenant, &message.name, "/name");
        let settings = Settings::from_message(&message.settings.unwrap_or_default());
        let (address, settings) = match (address, settings) {
            (Ok(address), Ok(settings)) => (address, settings),
            (address, settings) => {
                let wrong: Vec<Violation> =
                    address.err().into_iter().chain(settings.err().unwrap_or_default()).collect();
                return Err(status::violations(wrong));
            }
        };
        self.confine_to(&caller, &address.name, &settings.residency)?;
        let creating = self.commit(&address, Change::CreateCollection { settings }, "");
        let done = caller.limit(creating).await?;
        let created = done.outcome == Outcome::Created(true);
        let collection = self.describe_collection(&address)?;
        let session = done.session.to_token();
        Ok(Response::new(v1::CreateCollectionResponse { collection: Some(collection), created, session }))
    }

    async fn list(
        &self,
        request: Request<v1::ListCollectionsRequest>,
    ) -> Result<Response<v1::ListCollectionsResponse>, Status> {
        let caller = Caller::of(request.metadata())?;
        caller.limit(self.await_session(&request.into_inner().session)).await?;
        let store = &self.0.store;
        let names: Vec<_> = {
            let state = store.read();
            state.collections(&caller.tenant).map(|(name, _)| Address::new(&caller.tenant, name)).collect()
        };
        // One that is deleted meanwhile is left out.
        let collections = names.iter().filter_map(|address| self.describe_collection(address).ok()).collect();
        Ok(Response::new(v1::ListCollectionsResponse { collections }))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeCollectionRequest>,
    ) -> Result<Response<v1::Collection>, Status> {
        let caller = Caller::of(request.metadata())?;
        let message = request.into_inner();
        let address = request::address(&caller.tenant, &message.name, "/name");
        let address = address.map_err(|violation| status::violations(vec![violation]))?;
        caller.limit(self.await_session(&message.session)).await?;
        Ok(Response::new(self.describe_collection(&address)?))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteCollectionRequest>,
    ) -> Result<Response<v1::DeleteCollectionResponse>, Status> {
        let caller = Caller::of(request.metadata())?;
        let _admitted = self.0.drain.admit();
        let address = request::address(&caller.tenant, &request.into_inner().name, "/name");
        let address = address.map_err(|violation| status::violations(vec![violation]))?;
        let done = caller.limit(self.commit(&address, Change::DeleteCollection, "")).await?;
        Ok(Response::new(v1::DeleteCollectionResponse { session: done.session.to_token() }))
    }

    async fn measure_recall(
        &self,
        request: Request<v1::MeasureRecallRequest>,
    ) -> Result<Response<v1::MeasureRecallResponse>, Status> {
        let caller = Caller::of(request.metadata())?;
        let message = request.into_inner();
        let address = request::address(&caller.tenant, &message.name, "/name");
        let address = address.map_err(|violation| status::violations(vec![violation]))?;
        self.confine(&caller, &address)?;
        let samples = if message.samples == 0 { recall::SAMPLES } else { message.samples as usize };
        if samples > recall::MAX_SAMPLES {
            let description = format!("must be between 1 and {}, is {samples}", recall::MAX_SAMPLES);
            return Err(status::violation("/samples", description));
        }
        let measured = caller.limit(self.measured_recall(&address, samples, &message.session, caller.deadline)).await?;
        Ok(Response::new(v1::MeasureRecallResponse {
            recall_at_10: measured.recall_at_10,
            samples: measured.samples as u32,
            ef: measured.ef as u32,
            took_ms: measured.took.as_secs_f64() * 1e3,
        }))
    }
}

impl Service {
    async fn measured_recall(
        &self,
        address: &Address,
        samples: usize,
        session: &str,
        deadline: Option<Instant>,
    ) -> Result<Measured, Status> {
        self.await_session(session).await?;
        let index = self.0.store.with_collection(address, |_, index| index.clone());
        let index = index.ok_or_else(|| status::no_collection(&address.name))?;
        // An answer from fewer questions is better than none: the last tenth of the time is for giving it.
        let now = Instant::now();
        let left = deadline.map_or(MAX_MEASURING, |deadline| deadline.saturating_duration_since(now).mul_f64(0.9));
        let until = now.checked_add(left.min(MAX_MEASURING));
        let measuring = self.0.pool.run(until, move |stop| recall::measure(&index, samples, stop));
        measuring.await.map_err(status::pool)?.map_err(status::stopped)
    }

    fn describe_collection(&self, address: &Address) -> Result<v1::Collection, Status> {
        let described = self.0.store.with_collection(address, |collection, index| describe(address, collection, index));
        described.ok_or_else(|| status::no_collection(&address.name))
    }
}

fn describe(address: &Address, collection: &Collection, index: &Arc<Index>) -> v1::Collection {
    v1::Collection {
        name: address.name.to_string(),
        settings: Some(collection.settings.to_message()),
        count: collection.count(),
        version: collection.generation,
        status: if index.is_behind() { "indexing" } else { "ready" }.to_owned(),
        memory_bytes: index.memory_bytes(),
        disk_bytes: index.disk_bytes(),
    }
}

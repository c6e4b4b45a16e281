//! `nearfield.v1.Collections`.

use std::sync::Arc;

use nearfield_proto::v1;
use nearfield_proto::v1::collections_server::Collections;
use tonic::{Request, Response, Status};

use super::caller::Caller;
use super::{Service, request, status};
use crate::commit::command::{Change, Outcome};
use crate::engine::settings::{Settings, Violation};
use crate::engine::{Address, Collection};
use crate::index::Index;

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
}

impl Service {
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

//! The methods that change points.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use nearfield_proto::log::v1::PutPoint;
use nearfield_proto::v1;
use tonic::Status;

use super::caller::Caller;
use super::request::{self, Metadata};
use super::{Service, status};
use crate::commit::Turn;
use crate::commit::command::{Change, Committed, Outcome};
use crate::engine::Address;
use crate::index::Index;
use crate::processor;
use crate::store::encode_values;

/// Points that are checked on the reactor's threads: some hundred microseconds of work.
const MAX_CHECKED_AT_ONCE: usize = 64;
/// Most ids of one delete.
const MAX_DELETE: usize = 100_000;

impl Service {
    pub(super) async fn insert_points(
        &self,
        message: v1::InsertRequest,
        caller: &Caller,
    ) -> Result<v1::InsertResponse, Status> {
        let address = self.address(caller, &message.collection)?;
        let found = self.0.store.with_collection(&address, |collection, index| (collection.incarnation, index.clone()));
        let (incarnation, index) = found.ok_or_else(|| status::no_collection(&address.name))?;
        let inserted = message.vectors.len() as u64;
        let points = self.check(message.vectors, &index).await?;
        let _room = self.make_room(&index, points.len(), caller).await?;
        let _turn = self.take_turn(points.len()).await;
        let done = self.commit(&address, Change::Insert { incarnation, points }, "").await?;
        Ok(v1::InsertResponse { inserted, session: done.session.to_token() })
    }

    pub(super) async fn update_point(
        &self,
        message: v1::UpdateRequest,
        caller: &Caller,
    ) -> Result<v1::UpdateResponse, Status> {
        let address = self.address(caller, &message.collection)?;
        let found = self.0.store.with_collection(&address, |collection, index| (collection.incarnation, index.clone()));
        let (incarnation, index) = found.ok_or_else(|| status::no_collection(&address.name))?;
        let mut wrong: Vec<_> = request::id(&message.id, "/id").err().into_iter().collect();
        if !message.values.is_empty() {
            wrong.extend(request::vector(&message.values, &index.settings, "/values").err());
        }
        let patch = match request::metadata(&message.metadata, "/metadata") {
            Ok(object) => (!object.is_empty()).then_some(object),
            Err(Metadata::TooLarge(violation)) => return Err(status::too_large(violation)),
            Err(Metadata::Wrong(violation)) => {
                wrong.push(violation);
                None
            }
        };
        if !wrong.is_empty() {
            return Err(status::violations(wrong));
        }
        let values = if message.values.is_empty() { Bytes::new() } else { encode_values(&message.values) };
        let _room = match values.is_empty() {
            true => None,
            false => Some(self.make_room(&index, 1, caller).await?),
        };
        let _turn = self.take_turn(1).await;
        let (id, if_version) = (message.id.clone(), message.if_version);
        let change = Change::Update { incarnation, id, values, patch, if_version };
        let done = self.commit(&address, change, &message.id).await?;
        let Outcome::Updated { version } = done.outcome else {
            return Err(Status::internal("an update was answered as something else"));
        };
        Ok(v1::UpdateResponse { version, session: done.session.to_token() })
    }

    pub(super) async fn delete_points(
        &self,
        message: v1::DeleteRequest,
        caller: &Caller,
    ) -> Result<v1::DeleteResponse, Status> {
        let address = self.address(caller, &message.collection)?;
        let change = match (message.ids.is_empty(), message.filter.is_empty()) {
            (false, true) => Change::Delete { ids: ids(message.ids)? },
            (true, false) => {
                let filter = crate::filter::parse(&message.filter, "/filter");
                Change::DeleteWhere { filter: filter.map_err(|violation| status::violations(vec![violation]))? }
            }
            (true, true) => return Err(status::violation("/ids", "is missing: give ids, or a filter")),
            (false, false) => return Err(status::violation("/filter", "must not be given together with ids")),
        };
        let done = self.commit(&address, change, "").await?;
        let Outcome::Deleted(deleted) = done.outcome else {
            return Err(Status::internal("a delete was answered as something else"));
        };
        Ok(v1::DeleteResponse { deleted, session: done.session.to_token() })
    }

    /// `point` is the id for an error that speaks of one.
    pub(super) async fn commit(&self, address: &Address, change: Change, point: &str) -> Result<Committed, Status> {
        let committing = self.0.committer.commit(address.clone(), change);
        committing.await.map_err(|refusal| status::refusal(refusal, &address.name, point))
    }

    /// A collection whose points the caller may have here.
    pub(super) fn address(&self, caller: &Caller, name: &str) -> Result<Address, Status> {
        let address = request::address(&caller.tenant, name, "/collection");
        let address = address.map_err(|violation| status::violations(vec![violation]))?;
        self.confine(caller, &address)?;
        Ok(address)
    }

    /// Checks points to be inserted: many of them beside the reactor, which has searches to answer meanwhile.
    async fn check(&self, points: Vec<v1::Point>, index: &Arc<Index>) -> Result<Vec<PutPoint>, Status> {
        if points.len() <= MAX_CHECKED_AT_ONCE {
            return request::points(points, &index.settings);
        }
        let (index, pace) = (index.clone(), self.0.pace.clone());
        let checking = tokio::task::spawn_blocking(move || {
            let before = processor::time_of_thread();
            let checked = request::points(points, &index.settings);
            pace.spent(processor::time_of_thread().saturating_sub(before), Instant::now());
            checked
        });
        checking.await.unwrap_or_else(|_| Err(Status::internal("the points could not be checked")))
    }

    /// Returns when so many points may be stored beside the searches that are asked; to be kept until they are.
    async fn take_turn(&self, points: usize) -> Option<Turn<'_>> {
        tokio::select! {
            turn = self.0.pace.turn(points, || self.0.pool.is_asked()) => turn,
            () = self.0.drain.started() => None,
        }
    }
}

fn ids(mut ids: Vec<String>) -> Result<Vec<String>, Status> {
    if ids.len() > MAX_DELETE {
        let description = format!("has {} ids, at most {MAX_DELETE} are allowed", ids.len());
        return Err(status::violation("/ids", description));
    }
    let wrong: Vec<_> =
        ids.iter().enumerate().filter_map(|(i, id)| request::id(id, &format!("/ids/{i}")).err()).collect();
    if !wrong.is_empty() {
        return Err(status::violations(wrong));
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

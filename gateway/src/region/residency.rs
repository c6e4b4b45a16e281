//! Where a collection's data may be. Its searchds know; they are asked once in a while, and what they say is remembered.
//!
//! Who has not heard of a collection says nothing of where it may be: then a region of every other area is asked too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use moka::future::Cache;
use nearfield_proto::v1::DescribeCollectionRequest;
use tonic::Code;

use super::Regions;
use super::decision::{self, Client};
use crate::error::Error;
use crate::forward::{CallContext, Upstream};

/// Areas that data may be in; none: anywhere.
pub(crate) type Areas = Arc<[String]>;

/// What is known of collections, by tenant and name.
pub(super) struct Residencies(Cache<String, Areas>);

/// Why nothing is known.
enum Unknown {
    /// There is no such collection, or its name is none.
    Absent,
    Failed(Error),
}

impl Residencies {
    /// A collection that was deleted and made anew may be elsewhere: nothing is known for longer than `ttl`.
    pub(super) fn new(ttl: Duration) -> Self {
        Self(Cache::builder().max_capacity(COLLECTIONS_MAX).time_to_live(ttl).build())
    }
}

impl Regions {
    /// Where a collection's data may be; `None` when no region has heard of it.
    ///
    /// # Errors
    /// When it may exist and nobody can be asked. Then nothing may be done with it: a guess could be wrong.
    pub(crate) async fn residency_of(&self, context: &CallContext, collection: &str) -> Result<Option<Areas>, Error> {
        if self.0.holds_all {
            return Ok(Some(Areas::default()));
        }
        let Residencies(known) = &self.0.residencies;
        let key = key(context.tenant(), collection);
        if let Some(areas) = known.get(&key).await {
            return Ok(Some(areas));
        }
        // Many that ask at once wait for one answer.
        match known.try_get_with(key, Box::pin(self.ask(context, collection))).await {
            Ok(areas) => Ok(Some(areas)),
            Err(unknown) => match &*unknown {
                Unknown::Absent => Ok(None),
                Unknown::Failed(error) => Err(error.clone()),
            },
        }
    }

    /// A collection is being made or deleted: what was known of it may not hold.
    pub(crate) async fn forget_residency(&self, context: &CallContext, collection: &str) {
        self.0.residencies.0.invalidate(&key(context.tenant(), collection)).await;
    }

    async fn ask(&self, context: &CallContext, collection: &str) -> Result<Areas, Unknown> {
        // Others may wait for the answer, so no caller's deadline ends it.
        let deadline = Some(Instant::now() + PATIENCE);
        let mut context = context.clone();
        (context.deadline, context.invalidation) = (deadline, None);
        let nearest = self.route(&context, &[]).map_err(Unknown::Failed)?;
        let mut unknown = match describe(&nearest.upstream, &context, collection).await {
            Ok(areas) => return Ok(areas),
            Err(unknown) => unknown,
        };
        let elsewhere = self.one_of_each_other_area(&context, nearest.region);
        let asked = join_all(elsewhere.iter().map(|upstream| describe(upstream, &context, collection))).await;
        for answer in asked {
            match answer {
                Ok(areas) => return Ok(areas),
                // Only when all say so, there is no such collection.
                Err(failure @ Unknown::Failed(_)) => unknown = failure,
                Err(Unknown::Absent) => {}
            }
        }
        Err(unknown)
    }

    /// The searchds that answer for each area but that of the region `asked`.
    fn one_of_each_other_area(&self, context: &CallContext, asked: usize) -> Vec<Upstream> {
        let (regions, states) = (&self.0.topology.regions, self.states());
        let mut areas: Vec<&str> = regions.iter().map(super::topology::Region::residency).collect();
        areas.sort_unstable();
        areas.dedup();
        let others = areas.into_iter().filter(|area| *area != regions[asked].residency());
        let client = Client { place: context.location, ..Client::default() };
        let of = |area: &str| {
            let decision = decision::decide(client, regions, &states, &[area.to_owned()])?;
            self.0.upstreams[decision.region].clone().filter(|_| decision.region != asked)
        };
        others.filter_map(of).collect()
    }
}

async fn describe(upstream: &Upstream, context: &CallContext, collection: &str) -> Result<Areas, Unknown> {
    let request = DescribeCollectionRequest { name: collection.to_owned(), session: String::new() };
    match upstream.describe_collection(context, &request).await {
        Ok(described) => Ok(described.settings.unwrap_or_default().residency.into()),
        // Of a name that is none the call itself tells better.
        Err(Error::Upstream(status)) if matches!(status.code(), Code::NotFound | Code::InvalidArgument) => {
            Err(Unknown::Absent)
        }
        Err(error) => Err(Unknown::Failed(error)),
    }
}

fn key(tenant: &str, collection: &str) -> String {
    // No tenant holds a line feed: it stands in a header field.
    [tenant, "\n", collection].concat()
}

/// Of so many collections it is remembered.
const COLLECTIONS_MAX: u64 = 100_000;
/// For one collection's residency.
const PATIENCE: Duration = Duration::from_secs(3);

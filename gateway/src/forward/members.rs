//! The endpoints that a cluster has now. A set is never changed: another one takes its place, and keeps what both have.

use std::sync::Arc;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::balance::{Key, Table};
use super::connection::Origin;
use super::endpoint::{Endpoint, Rank};
use super::{Config, EndpointConfig, watch};
use crate::forward::upstream::Changes;

/// Endpoints with the table over them.
pub(crate) struct Members {
    list: Vec<Member>,
    table: Table,
}

#[derive(Clone)]
struct Member {
    endpoint: Arc<Endpoint>,
    weight: u32,
    /// When no set has the endpoint any more, its checks end and its calls get their last time.
    _watched: Arc<DropGuard>,
}

/// What new endpoints are made with.
pub(crate) struct Maker {
    pub config: Config,
    pub changes: Changes,
    /// Where checks run, whoever changes the set.
    pub runtime: tokio::runtime::Handle,
}

impl Maker {
    fn make(&self, url: &str, origin: Origin, is_first: bool) -> (Arc<Endpoint>, Arc<DropGuard>) {
        let endpoint = Arc::new(Endpoint::new(url, origin, &self.config, &self.changes, is_first));
        let left = CancellationToken::new();
        let watching = watch::watch(endpoint.clone(), self.config.clone(), left.clone());
        self.runtime.spawn(watching);
        (endpoint, Arc::new(left.drop_guard()))
    }
}

impl Members {
    /// The set that `configured` names; endpoints that `before` has stay as they are. URLs are valid and differ.
    pub(crate) fn of(configured: &[EndpointConfig], before: Option<&Self>, maker: &Maker) -> Self {
        let member = |config: &EndpointConfig| {
            let (url, weight) = (config.url(), config.weight());
            let known = before.and_then(|before| before.list.iter().find(|member| member.endpoint.id == url));
            if let Some(known) = known {
                return Some(Member { weight, ..known.clone() });
            }
            let (endpoint, watched) =
                maker.make(url, Origin::parse(url)?, before.is_none_or(|before| before.list.is_empty()));
            Some(Member { endpoint, weight, _watched: watched })
        };
        let list: Vec<Member> = configured.iter().filter_map(member).collect();
        let named: Vec<(&str, u32)> = list.iter().map(|m| (m.endpoint.id.as_str(), m.weight)).collect();
        let table = Table::build(&named);
        Self { list, table }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.list.iter().map(|member| &member.endpoint)
    }

    pub(crate) fn weighted(&self) -> impl Iterator<Item = (&Arc<Endpoint>, u32)> {
        self.list.iter().map(|member| (&member.endpoint, member.weight))
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The endpoint for `key` among those not tried yet: the well ones that spare it no call, else the well ones, else
    /// those that a call was just refused by, else the ejected ones.
    pub(crate) fn choose(&self, key: Key, tried: &Tried) -> Option<&Arc<Endpoint>> {
        let rank = |i: usize| {
            let endpoint = &self.list[i].endpoint;
            if tried.has(endpoint) { Rank::Out } else { endpoint.rank() }
        };
        let calm = |i: usize| rank(i) == Rank::Well && !self.list[i].endpoint.spares(key);
        let any = |admits: &dyn Fn(usize) -> bool| (0..self.list.len()).any(admits);
        let of = |wanted: Rank| move |i: usize| rank(i) == wanted;
        let chosen = if any(&calm) {
            self.table.pick(key.hash(), calm)
        } else {
            let best = [Rank::Well, Rank::Suspect, Rank::Ejected].into_iter().find(|wanted| any(&of(*wanted)))?;
            self.table.pick(key.hash(), of(best))
        }?;
        Some(&self.list[chosen].endpoint)
    }
}

/// The endpoints that a call has been to.
#[derive(Default)]
pub(crate) struct Tried(Vec<Arc<Endpoint>>);

impl Tried {
    fn has(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.0.iter().any(|tried| Arc::ptr_eq(tried, endpoint))
    }

    pub(crate) fn add(&mut self, endpoint: &Arc<Endpoint>) {
        self.0.push(endpoint.clone());
    }
}

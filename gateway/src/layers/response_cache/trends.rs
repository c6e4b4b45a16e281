//! The questions that are asked the most, so that they can be asked again: after a purge, or by another gateway of the
//! region, which hears of them through Redis.

use std::borrow::Cow;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Uri, header};
use nearfield_cache::Content;
use nearfield_cache::redis::trends::{MAX_TOLD, MAX_TREND_BYTES};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};

use super::asked::Exchange;
use super::subject::{Known, Subject};
use super::{Cache, Shared};
use crate::request::Caller;
use crate::route::Route;

/// A longer question is counted, and not kept.
const MAX_QUESTION_BYTES: usize = 64 << 10;
/// How often the region is told what is hot here.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What was asked, so that it can be asked again.
#[derive(Debug, PartialEq)]
pub(crate) struct Trend {
    pub(crate) route: Route,
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) uri: Uri,
    pub(crate) media: Option<HeaderValue>,
    pub(crate) body: Bytes,
    pub(super) tenant: Option<String>,
    /// As a CDN is told.
    pub(super) tags: String,
}

impl Trend {
    /// Of our own questions; what an origin has at some path is its own to warm.
    pub(super) fn of(known: &Arc<Known>, exchange: &Exchange) -> Option<Arc<Self>> {
        let Subject::Answer { content, cache_tag, .. } = &known.subject else { return None };
        let parts = &exchange.parts;
        let path = parts.uri.path_and_query()?;
        if path.as_str().len() + exchange.body.len() > MAX_QUESTION_BYTES {
            return None;
        }
        Some(Arc::new(Self {
            route: match content {
                Content::Embed => Route::Embed,
                Content::Search => Route::Search,
            },
            method: if parts.method == Method::HEAD { Method::GET } else { parts.method.clone() },
            uri: Uri::from(path.clone()),
            media: parts.headers.get(header::CONTENT_TYPE).cloned(),
            // A copy: what was read may be a piece of something much larger.
            body: Bytes::copy_from_slice(&exchange.body),
            tenant: parts.extensions.get().and_then(|Caller(caller)| caller.tenant.clone()),
            tags: cache_tag.to_str().ok()?.to_owned(),
        }))
    }

    /// An empty `collection` is any.
    fn is_of(&self, tenant: Option<&str>, collection: &str) -> bool {
        let first = self.tags.split(',').next().and_then(|tag| tag.strip_prefix("collection:"));
        self.tenant.as_deref() == tenant && (collection.is_empty() || first == Some(collection))
    }

    /// For other gateways; None for a body that is no text.
    fn write(&self) -> Option<Vec<u8>> {
        let media = self.media.as_ref().map(|media| media.to_str()).transpose().ok()?;
        let written = Written {
            tenant: self.tenant.as_deref().map(Cow::from),
            search: self.route == Route::Search,
            method: self.method.as_str().into(),
            uri: self.uri.to_string().into(),
            media: media.map(Cow::from),
            body: std::str::from_utf8(&self.body).ok()?.into(),
            tags: self.tags.as_str().into(),
        };
        serde_json::to_vec(&written).ok()
    }

    /// None for what another version may have written.
    fn read(bytes: &[u8]) -> Option<Self> {
        let written: Written<'_> = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            route: if written.search { Route::Search } else { Route::Embed },
            method: written.method.parse().ok()?,
            uri: written.uri.parse().ok()?,
            media: written.media.map(|media| HeaderValue::from_str(&media)).transpose().ok()?,
            body: written.body.into_owned().into(),
            tenant: written.tenant.map(Cow::into_owned),
            tags: written.tags.into_owned(),
        })
    }
}

/// A question as gateways tell it to each other.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    tenant: Option<Cow<'a, str>>,
    search: bool,
    method: Cow<'a, str>,
    uri: Cow<'a, str>,
    media: Option<Cow<'a, str>>,
    body: Cow<'a, str>,
    tags: Cow<'a, str>,
}

impl Cache {
    /// The hottest questions of a tenant that this gateway, or another of the region, was asked of late: of one collection
    /// unless `collection` is empty.
    pub(crate) async fn trends(&self, tenant: Option<&str>, collection: &str, most: usize) -> Vec<Arc<Trend>> {
        if most == 0 {
            return Vec::new();
        }
        let here = self.0.heat.keys.hottest(0.0);
        let mut trends: Vec<(Arc<Trend>, f64)> =
            here.into_iter().filter_map(|hottest| Some((hottest.kept?, hottest.requests))).collect();
        trends.retain(|(trend, _)| trend.is_of(tenant, collection));
        if let Some(redis) = &self.0.redis {
            for (written, requests) in redis.trends(self.0.tiers.clock.now()).await {
                let Some(other) = Trend::read(&written).filter(|other| other.is_of(tenant, collection)) else {
                    continue;
                };
                match trends.iter_mut().find(|(trend, _)| **trend == other) {
                    Some((_, here)) => *here = requests.max(*here),
                    None => trends.push((Arc::new(other), requests)),
                }
            }
        }
        trends.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        trends.into_iter().map(|(trend, _)| trend).take(most).collect()
    }
}

/// Tells the region what is hot here, as long as the cache is there.
pub(super) async fn tell(cache: Weak<Shared>) {
    let mut ticks = interval(TOLD_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(shared) = cache.upgrade() else { return };
        let Some(redis) = &shared.redis else { return };
        let hottest = shared.heat.keys.hottest(0.0).into_iter();
        let told = hottest.filter_map(|hottest| Some((hottest.kept?.write()?, hottest.requests)));
        let told: Vec<_> = told.filter(|(written, _)| written.len() <= MAX_TREND_BYTES).take(MAX_TOLD).collect();
        redis.tell_trends(&told, shared.tiers.clock.now()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_told_as_it_was_asked() {
        let trend = Trend {
            route: Route::Search,
            method: Method::POST,
            uri: Uri::from_static("/api/v1/search?x=%20"),
            media: Some(HeaderValue::from_static("application/json")),
            body: Bytes::from_static(br#"{"query":[1]}"#),
            tenant: Some("a".to_owned()),
            tags: "collection:shoes".to_owned(),
        };
        let written = trend.write().unwrap();
        assert_eq!(Trend::read(&written).as_ref(), Some(&trend));
        let binary = Trend { body: Bytes::from_static(&[0xff]), ..trend };
        assert_eq!(binary.write(), None);
        assert_eq!(Trend::read(b"{}"), None);
    }
}

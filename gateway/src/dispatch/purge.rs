//! `POST /cache/purge`: what caches hold is forgotten, here and wherever this gateway's purges reach.

use std::time::{Duration, Instant};

use nearfield_cache::feed::{Name, Told};
use nearfield_cache::{Invalidation, Purge, Tag};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::{body, reply};
use crate::audit::Target;
use crate::body::{Request, Response};
use crate::error::Error;
use crate::forward::CallContext;
use crate::forward::codec::json::{Pointer, Report};
use crate::forward::codec::name::DEFAULT_COLLECTION;
use crate::forward::codec::{self, answer, operating};

/// What is left of the caller's time for the answer itself.
const RESERVE: Duration = Duration::from_millis(50);

#[derive(Serialize)]
struct PurgeAnswer<'a> {
    purged: Purged,
    spread_seconds: u32,
    /// All that are there have confirmed.
    complete: bool,
    confirmed: usize,
    unconfirmed: usize,
    gateways: Vec<Gateway<'a>>,
}

#[derive(Serialize)]
struct Purged {
    all: bool,
    soft: bool,
    collections: usize,
    points: usize,
    tags: usize,
}

#[derive(Serialize)]
struct Gateway<'a> {
    region: &'a str,
    instance: &'a str,
    confirmed: bool,
}

impl<'a> Gateway<'a> {
    fn of(name: &'a Name, confirmed: bool) -> Self {
        Self { region: &name.region, instance: &name.instance, confirmed }
    }
}

pub(super) async fn purge(here: &Name, request: Request) -> Result<Response, Error> {
    let (parts, incoming) = request.into_parts();
    codec::expect_json(&parts.headers)?;
    let context = CallContext::of(&parts)?;
    let asked = operating::purge(&body::read(incoming).await?)?;
    let purges = purges(&context, &asked)?;
    // None when the feed does not say who else is there.
    let mut others = Some(Vec::new());
    if let Some(invalidation) = &context.invalidation {
        for purge in purges {
            invalidation.purge(purge.softly(asked.soft).over(asked.spread_seconds));
        }
        others = confirmed(invalidation, context.deadline).await;
    }
    let told = others.as_deref().unwrap_or_default();
    let gateways: Vec<Gateway<'_>> = std::iter::once(Gateway::of(here, true))
        .chain(told.iter().map(|told| Gateway::of(&told.name, told.confirmed)))
        .collect();
    let confirmed = gateways.iter().filter(|gateway| gateway.confirmed).count();
    let answer = PurgeAnswer {
        purged: Purged {
            all: asked.all,
            soft: asked.soft,
            collections: usize::from(asked.collection.is_some() && asked.ids.is_empty()),
            points: asked.ids.len(),
            tags: asked.tags.len(),
        },
        spread_seconds: asked.spread_seconds,
        complete: others.is_some() && confirmed == gateways.len(),
        confirmed,
        unconfirmed: gateways.len() - confirmed,
        gateways,
    };
    let mut response = reply::json(answer::plain(&answer));
    response.extensions_mut().insert(Target(target(&asked)));
    Ok(response)
}

/// What the other gateways say while the caller waits.
async fn confirmed(invalidation: &Invalidation, deadline: Option<Instant>) -> Option<Vec<Told>> {
    match invalidation.confirmed(deadline.and_then(|at| at.checked_sub(RESERVE)).map(Into::into)).await {
        Ok(told) => Some(told),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "nobody knows which gateways have purged");
            None
        }
    }
}

/// For the audit log.
fn target(asked: &operating::Purge) -> String {
    if asked.all {
        return "everything".to_owned();
    }
    let collection = asked.collection.as_deref().unwrap_or(DEFAULT_COLLECTION);
    format!("collection {collection}, {} ids, {} tags", asked.ids.len(), asked.tags.len())
}

/// What is asked for, within the caller's tenant.
fn purges(context: &CallContext, asked: &operating::Purge) -> Result<Vec<Purge>, Error> {
    let tenant = context.principal.as_ref().and_then(|principal| principal.tenant.as_deref());
    if asked.all {
        return Ok(vec![if tenant.is_some() { Purge::tag(Tag::tenant(tenant)) } else { Purge::EVERYTHING }]);
    }
    let report = Report::default();
    let mut tags = Vec::with_capacity(1 + asked.ids.len() + asked.tags.len());
    let collection = asked.collection.as_deref().unwrap_or(DEFAULT_COLLECTION);
    if asked.collection.is_some() && asked.ids.is_empty() {
        tags.push(Tag::collection(tenant, collection));
    }
    tags.extend(asked.ids.iter().map(|id| Tag::point(tenant, collection, id)));
    for (i, text) in asked.tags.iter().enumerate() {
        // `Cache-Tag` escapes what an id may hold and a header may not.
        let plain = percent_decode_str(text).decode_utf8().ok();
        match plain.and_then(|plain| Tag::parse(tenant, &plain)) {
            Some(tag) => tags.push(tag),
            None => {
                let at = Pointer::Root;
                report.add(&at.key("tags").index(i), "is neither collection:<name> nor point:<collection>/<id>");
            }
        }
    }
    report.finish(tags.into_iter().map(Purge::tag).collect())
}

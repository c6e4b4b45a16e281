//! `POST /cache/purge`: what caches hold is forgotten, here and wherever this gateway's purges reach.

use std::time::Duration;

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
use crate::region::Regions;

#[derive(Serialize)]
struct PurgeAnswer<'a> {
    purged: Purged,
    after_seconds: u32,
    gateways: [Confirmed<'a>; 1],
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
struct Confirmed<'a> {
    region: &'a str,
    confirmed: bool,
}

pub(super) async fn purge(regions: &Regions, request: Request) -> Result<Response, Error> {
    let (parts, incoming) = request.into_parts();
    codec::expect_json(&parts.headers)?;
    let context = CallContext::of(&parts)?;
    let asked = operating::purge(&body::read(incoming).await?)?;
    let purges: Vec<Purge> = purges(&context, &asked)?.into_iter().map(|purge| purge.softly(asked.soft)).collect();
    if let Some(invalidation) = context.invalidation {
        run(invalidation, purges, asked.spread_seconds);
    }
    let answer = PurgeAnswer {
        purged: Purged {
            all: asked.all,
            soft: asked.soft,
            collections: usize::from(asked.collection.is_some() && asked.ids.is_empty()),
            points: asked.ids.len(),
            tags: asked.tags.len(),
        },
        after_seconds: asked.spread_seconds,
        gateways: [Confirmed { region: regions.here(), confirmed: true }],
    };
    let mut response = reply::json(answer::plain(&answer));
    response.extensions_mut().insert(Target(target(&asked)));
    Ok(response)
}

/// For the audit log.
fn target(asked: &operating::Purge) -> String {
    if asked.all {
        return "everything".to_owned();
    }
    let collection = asked.collection.as_deref().unwrap_or(DEFAULT_COLLECTION);
    format!("collection {collection}, {} ids, {} tags", asked.ids.len(), asked.tags.len())
}

fn run(invalidation: Invalidation, purges: Vec<Purge>, after_seconds: u32) {
    let purge = move || purges.iter().for_each(|purge| invalidation.purge(*purge));
    if after_seconds == 0 {
        return purge();
    }
    // Until then answers expire one by one and are asked for again one by one; the rest goes at the end.
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(after_seconds.into())).await;
        purge();
    });
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

//! `GET /regions`.

use http::Extensions;
use serde::Serialize;

use super::reply;
use crate::body::Response;
use crate::forward::codec::answer;
use crate::region::geo::ClientLocation;
use crate::region::{RegionStatus, Regions};

#[derive(Serialize)]
struct RegionsAnswer<'a> {
    regions: Vec<RegionStatus<'a>>,
}

pub(super) fn list(regions: &Regions, extensions: &Extensions) -> Response {
    let client = extensions.get::<ClientLocation>().map(|location| location.0);
    reply::json(answer::plain(&RegionsAnswer { regions: regions.status(client) }))
}

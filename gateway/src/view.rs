//! What `/debug` shows of the edge itself: connections, streams, cache, limits, and what is shed by which levels.

use nearfield_telemetry::debug::Views;
use serde_json::{Value, json};

use crate::current::Current;
use crate::layers::gate::Passed;
use crate::layers::response_cache::Cache;
use crate::listener::door::Door;
use crate::streams::Streams;

/// Streams that are shown, those idle the longest.
const STREAMS_SHOWN: usize = 50;

/// What is looked at; handles all.
pub(crate) struct Edge {
    pub(crate) door: std::sync::Arc<Door>,
    pub(crate) streams: Streams,
    pub(crate) cache: Cache,
    pub(crate) passed: Current<Passed>,
}

impl Edge {
    /// Adds the views `connections`, `streams`, `cache`, `limits`, `places` and `pressure`.
    pub(crate) fn show_in(self, views: &Views) {
        let Self { door, streams, cache, passed } = self;
        views.add("connections", move || door.view());
        views.add("streams", move || streams_view(&streams));
        views.add("cache", move || cache.view());
        let limits = passed.clone();
        views.add("limits", move || limits.get().limits.view());
        let places = passed.clone();
        views.add("places", move || places.get().shedding.places());
        views.add("pressure", move || passed.get().shedding.gauge.view());
    }
}

fn streams_view(streams: &Streams) -> Value {
    let row = |(number, opened, idle): (u64, std::time::Duration, std::time::Duration)| json!({ "stream": number, "open_s": opened.as_secs(), "idle_s": idle.as_secs() });
    let rows: Vec<Value> = streams.idle_longest(STREAMS_SHOWN).into_iter().map(row).collect();
    json!({ "open": streams.len(), "idle_longest": rows })
}

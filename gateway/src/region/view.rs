//! What `/debug` shows of regions and their searchds.

use nearfield_telemetry::debug::Views;
use serde_json::{Value, json};

use super::Regions;
use crate::forward::Upstream;

impl Regions {
    /// Adds the views `regions`, `upstreams` and `calls`.
    pub fn show_in(&self, views: &Views) {
        let (regions, endpoints, calls) = (self.clone(), self.clone(), self.clone());
        views.add("regions", move || serde_json::to_value(regions.status(None)).unwrap_or_default());
        views.add("upstreams", move || endpoints.rows(endpoint_rows));
        views.add("calls", move || calls.rows(|region, upstream| vec![call_row(region, upstream)]));
    }

    fn rows(&self, rows_of: impl Fn(&str, &Upstream) -> Vec<Value>) -> Value {
        let regions = self.0.topology.regions.iter().zip(&self.0.upstreams);
        let with_upstream = regions.filter_map(|(region, upstream)| Some((&region.name, upstream.as_ref()?)));
        with_upstream.flat_map(|(name, upstream)| rows_of(name, upstream)).collect()
    }
}

fn endpoint_rows(region: &str, upstream: &Upstream) -> Vec<Value> {
    let row = |endpoint: crate::forward::EndpointStatus| {
        json!({
            "region": region,
            "endpoint": endpoint.id,
            "health": endpoint.state,
            "ejected": endpoint.ejected.map(|(reason, _)| reason),
            "ejected_for_s": endpoint.ejected.map(|(_, left)| left.as_secs()),
            "weight": endpoint.weight,
            "share": endpoint.share,
            "in_flight": endpoint.in_flight,
            "utilization": endpoint.told.map(|told| told.utilization),
            "queue_delay_ms": endpoint.told.map(|told| told.queue_delay.as_secs_f64() * 1_000.0),
        })
    };
    upstream.endpoints().into_iter().map(row).collect()
}

fn call_row(region: &str, upstream: &Upstream) -> Value {
    let mut row = serde_json::to_value(upstream.counts()).unwrap_or_default();
    row["region"] = region.into();
    for (class, delay) in upstream.hedge_delays() {
        row[format!("{class}_hedge_ms")] = json!(delay.as_secs_f64() * 1_000.0);
    }
    row
}

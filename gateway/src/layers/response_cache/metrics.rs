//! The cache's counters and sizes for Prometheus, read when they are asked for.

use std::fmt;

use nearfield_cache::{Snapshot, Tiered};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

pub(super) fn register(registry: &mut Registry, tiers: Tiered) {
    registry.sub_registry_with_prefix("gateway").register_collector(Box::new(Figures(tiers)));
}

struct Figures(Tiered);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        lookups(&mut encoder, &self.0.metrics.snapshot())?;
        let (bytes, entries) = self.0.memory_use();
        let gauge = MetricType::Gauge;
        ConstGauge::new(bytes as i64).encode(encoder.encode_descriptor(
            "cache_memory",
            "bytes of answers in memory",
            Some(&Unit::Bytes),
            gauge,
        )?)?;
        ConstGauge::new(entries as i64).encode(encoder.encode_descriptor(
            "cache_entries",
            "answers in memory",
            None,
            gauge,
        )?)
    }
}

fn lookups(encoder: &mut DescriptorEncoder<'_>, counts: &Snapshot) -> fmt::Result {
    let counter = MetricType::Counter;
    let mut results = encoder.encode_descriptor("cache_lookups", "questions, by what came of them", None, counter)?;
    for (result, count) in [
        ("bypass", counts.bypassed),
        ("coalesced", counts.coalesced),
        ("hit_memory", counts.hits_memory),
        ("hit_redis", counts.hits_redis),
        ("miss", counts.misses),
        ("stale", counts.stale),
    ] {
        ConstCounter::new(count).encode(results.encode_family(&[("result", result)])?)?;
    }
    for (name, help, count) in [
        ("cache_stored", "answers kept", counts.stored),
        ("cache_too_large", "answers too large to be kept", counts.too_large),
        ("cache_purges_learnt", "purges of other gateways that were applied", counts.purges_learnt),
        ("cache_feed_failures", "exchanges with the purge feed that failed", counts.feed_failures),
        ("cache_feed_gaps", "times that all was forgotten because purges may have been missed", counts.feed_gaps),
        ("cache_feed_silences", "times that the purge feed was silent for too long", counts.feed_silences),
        ("cache_redis_misses", "look-ups that Redis had nothing for", counts.redis_misses),
        ("cache_redis_failures", "commands that Redis failed or answered too late", counts.redis_failures),
        ("cache_redis_skipped", "commands not sent because Redis was failing or behind", counts.redis_skipped),
    ] {
        ConstCounter::new(count).encode(encoder.encode_descriptor(name, help, None, counter)?)?;
    }
    Ok(())
}

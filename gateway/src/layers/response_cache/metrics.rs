//! The cache's counters and sizes for Prometheus, read when they are asked for.

use std::fmt;

use nearfield_cache::Snapshot;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::Cache;

pub(super) fn register(registry: &mut Registry, cache: Cache) {
    registry.sub_registry_with_prefix("gateway").register_collector(Box::new(Figures(cache)));
}

struct Figures(Cache);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let tiers = &self.0.0.tiers;
        lookups(&mut encoder, &tiers.metrics.snapshot())?;
        let memory = tiers.memory();
        let counter = MetricType::Counter;
        for (name, help, count) in [
            ("cache_evicted", "answers that went from memory for others", memory.evicted()),
            ("cache_refused", "answers not worth what would have had to go from memory for them", memory.refused()),
        ] {
            ConstCounter::new(count).encode(encoder.encode_descriptor(name, help, None, counter)?)?;
        }
        let gauge = MetricType::Gauge;
        if let Some(disk) = &self.0.0.disk {
            for (name, help, value) in [
                ("cache_disk_up", "1 while answers are stored on disk", u64::from(disk.is_up())),
                ("cache_disk_bytes", "bytes on disk", disk.bytes()),
                ("cache_disk_entries", "answers on disk", disk.len()),
            ] {
                ConstGauge::new(value as i64).encode(encoder.encode_descriptor(name, help, None, gauge)?)?;
            }
        }
        let (hot, rate) = self.0.0.heat.hot();
        ConstGauge::new(hot as i64).encode(encoder.encode_descriptor(
            "cache_hot_keys",
            "questions that are hot",
            None,
            gauge,
        )?)?;
        ConstGauge::new(rate).encode(encoder.encode_descriptor(
            "cache_hot_requests_per_second",
            "requests for hot answers of late",
            None,
            gauge,
        )?)?;
        ConstGauge::new(memory.bytes() as i64).encode(encoder.encode_descriptor(
            "cache_memory",
            "bytes of answers in memory",
            Some(&Unit::Bytes),
            gauge,
        )?)?;
        ConstGauge::new(memory.len() as i64).encode(encoder.encode_descriptor(
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
        ("hit_disk", counts.hits_disk),
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
        ("cache_refreshed_ahead", "hot answers that were asked for anew in time", counts.refreshed_ahead),
        ("cache_refreshes_failed", "hot answers that could not be had anew in time", counts.refreshes_failed),
        ("cache_refreshes_skipped", "hot answers not asked for because too many were", counts.refreshes_skipped),
        ("cache_purges_learnt", "purges of other gateways that were applied", counts.purges_learnt),
        ("cache_feed_failures", "exchanges with the purge feed that failed", counts.feed_failures),
        ("cache_feed_gaps", "times that all was forgotten because purges may have been missed", counts.feed_gaps),
        ("cache_feed_silences", "times that the purge feed was silent for too long", counts.feed_silences),
        ("cache_disk_misses", "look-ups that the disk had nothing for", counts.disk_misses),
        ("cache_disk_failures", "times that the disk failed or was too slow", counts.disk_failures),
        (
            "cache_disk_skipped",
            "answers not read from or written to a disk that was busy or failing",
            counts.disk_skipped,
        ),
        ("cache_disk_damaged", "answers on disk that were torn or damaged", counts.disk_damaged),
        ("cache_redis_misses", "look-ups that Redis had nothing for", counts.redis_misses),
        ("cache_redis_failures", "commands that Redis failed or answered too late", counts.redis_failures),
        ("cache_redis_skipped", "commands not sent because Redis was failing or behind", counts.redis_skipped),
    ] {
        ConstCounter::new(count).encode(encoder.encode_descriptor(name, help, None, counter)?)?;
    }
    Ok(())
}

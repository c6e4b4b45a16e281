//! What searchd tells whoever scrapes `/metrics`. Counters are kept where things happen; gauges are read when asked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use nearfield_telemetry::exemplar::Latencies;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::exponential_buckets;
use prometheus_client::registry::Registry;

use crate::backup::arriving::Arriving;
use crate::backup::running::States;
use crate::cache::{Caches, Counts, Results};
use crate::commit::{Pace, Queue};
use crate::index::engines::Work;
use crate::replication::Link;
use crate::rpc::backpressure::Backpressure;
use crate::search::pool::Pool;
use crate::store::Store;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Call {
    /// `VectorSearch/Search`, or `other`.
    pub method: &'static str,
    /// A gRPC status code by its number.
    pub code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Method {
    pub method: &'static str,
}

/// Counted per call.
#[derive(Clone)]
pub struct Calls {
    pub total: Family<Call, Counter>,
    pub duration: Family<Method, Latencies>,
    /// Calls that came and whose answers have not begun.
    pub under_way: Arc<AtomicUsize>,
}

impl Calls {
    pub fn register(registry: &mut Registry) -> Self {
        let buckets = || Latencies::new(exponential_buckets(0.000_1, 2.0, 16));
        let calls = Self {
            total: Family::default(),
            duration: Family::new_with_constructor(buckets),
            under_way: Arc::default(),
        };
        registry.register("nearfield_searchd_calls", "gRPC calls answered", calls.total.clone());
        registry.register(
            "nearfield_searchd_call_duration_seconds",
            "Time from a gRPC call to the head of its answer",
            calls.duration.clone(),
        );
        calls
    }
}

/// Read when scraped.
pub struct Gauges {
    pub store: Arc<Store>,
    pub committer: Queue,
    pub pool: Pool,
    pub results: Results,
    pub backpressure: Arc<Backpressure>,
    pub pace: Arc<Pace>,
    pub caches: Caches,
    pub links: Vec<(String, Arc<Link>)>,
    pub archive: Option<States>,
    pub arriving: Arriving,
    pub built: Arc<Work>,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gauges").finish_non_exhaustive()
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: u64| {
            let metric = ConstGauge::new(value as i64);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        let (waiting, running) = self.pool.jobs();
        gauge("nearfield_searchd_searches_waiting", "Searches that wait for a thread", waiting as u64)?;
        gauge("nearfield_searchd_searches_running", "Searches under way", running as u64)?;
        gauge(
            "nearfield_searchd_writes_waiting",
            "Writes that wait for the committer",
            self.committer.waiting() as u64,
        )?;
        let indexes = self.store.indexes();
        let behind = indexes.iter().filter(|(_, index)| index.is_behind()).count();
        let rows: usize = indexes.iter().map(|(_, index)| index.waiting_rows()).sum();
        let segments: usize = indexes.iter().map(|(_, index)| index.segments().len()).sum();
        let memory = indexes.iter().map(|(_, index)| index.memory_bytes()).sum();
        let disk = indexes.iter().map(|(_, index)| index.disk_bytes()).sum();
        gauge("nearfield_searchd_collections", "Collections", indexes.len() as u64)?;
        gauge("nearfield_searchd_collections_indexing", "Collections with a backlog to be sealed", behind as u64)?;
        gauge("nearfield_searchd_rows_waiting", "Rows that wait to be sealed", rows as u64)?;
        gauge("nearfield_searchd_segments", "Sealed segments", segments as u64)?;
        gauge("nearfield_searchd_index_memory_bytes", "Memory of heads and graphs", memory)?;
        gauge("nearfield_searchd_index_disk_bytes", "Files of sealed segments", disk)?;
        let filters = self.store.metadata_bytes();
        gauge("nearfield_searchd_metadata_index_bytes", "Memory of the indexes over metadata, about", filters)?;
        gauge("nearfield_searchd_result_cache_bytes", "Answers that are kept", self.results.bytes())?;
        gauge("nearfield_searchd_vector_cache_bytes", "Vectors that are kept", self.caches.vectors.bytes())?;
        gauge("nearfield_searchd_filter_cache_bytes", "What filters admit that is kept", self.caches.masks.bytes())?;
        let missing = self.arriving.missing_bytes();
        gauge(
            "nearfield_searchd_restore_missing_bytes",
            "Vectors that have not come from the object storage",
            missing,
        )?;
        self.caches(&mut encoder)?;
        let mut count = |name: &str, help: &str, value: &AtomicU64| {
            let counter = ConstCounter::new(value.load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
        };
        let help = "Answers that were refused because a vector that they need is damaged";
        count("nearfield_searchd_damaged_answers", help, &self.store.damages)?;
        let help = "Short searches that were done on the reactor that they came to";
        count("nearfield_searchd_searches_on_reactor", help, &AtomicU64::new(self.pool.done_here()))?;
        let help =
            "Rests that search threads took, though there was work for them, for what is indexed behind the scenes";
        count("nearfield_searchd_search_rests", help, &AtomicU64::new(self.pool.rests()))?;
        let help = "Hits that were looked up for streams of more than one block";
        count("nearfield_searchd_streamed_hits", help, &self.store.streamed)?;
        self.built(&mut encoder)?;
        self.backpressure(&mut encoder)?;
        self.archive(&mut encoder)?;
        self.replication(&mut encoder)
    }
}

impl Gauges {
    fn caches(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Look-ups in a cache";
        let kind = ConstCounter::new(0u64).metric_type();
        let mut family = encoder.encode_descriptor("nearfield_searchd_cache_lookups", help, None, kind)?;
        let mut count = |cache: &str, outcome: &str, value: &AtomicU64| {
            let labels = [("cache", cache), ("outcome", outcome)];
            ConstCounter::new(value.load(Ordering::Relaxed)).encode(family.encode_family(&labels)?)
        };
        let caches: [(&str, &Counts); 3] = [
            ("filter", &self.caches.masks.counts),
            ("result", &self.results.counts),
            ("vector", &self.caches.vectors.counts),
        ];
        for (cache, counts) in caches {
            count(cache, "hit", &counts.hits)?;
            count(cache, "miss", &counts.misses)?;
        }
        Ok(())
    }

    fn built(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Rows of graphs that were built: placed among others, or kept where they were";
        let kind = ConstCounter::new(0u64).metric_type();
        let mut family = encoder.encode_descriptor("nearfield_searchd_graph_rows", help, None, kind)?;
        for (work, rows) in [("placed", &self.built.placed), ("kept", &self.built.kept)] {
            ConstCounter::new(rows.load(Ordering::Relaxed)).encode(family.encode_family(&[("work", work)])?)?;
        }
        Ok(())
    }

    fn backpressure(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Backpressure { waiting, waited, refused, .. } = &*self.backpressure;
        let help = "Writes that wait for rows to be sealed";
        let gauge = ConstGauge::new(waiting.load(Ordering::Relaxed) as i64);
        let name = "nearfield_searchd_writes_held";
        gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        let help = "How long writes have waited for rows to be sealed, those that wait now left out";
        let counter = ConstCounter::new(waited.load(Ordering::Relaxed) as f64 / 1e9);
        let name = "nearfield_searchd_writes_held_seconds";
        counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        let help = "How long writes have waited for searches, those that wait now left out";
        let counter = ConstCounter::new(self.pace.waited.load(Ordering::Relaxed) as f64 / 1e9);
        let name = "nearfield_searchd_writes_paced_seconds";
        counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        let help = "Writes that were refused because too much waits to be sealed";
        let counter = ConstCounter::new(refused.load(Ordering::Relaxed));
        let name = "nearfield_searchd_writes_held_refused";
        counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
    }

    fn archive(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(States { archive, backups }) = &self.archive else { return Ok(()) };
        let help = "How long the oldest write that is not in the archive may have been acknowledged";
        let lag = ConstGauge::new(archive.lag_seconds());
        lag.encode(encoder.encode_descriptor(
            "nearfield_searchd_archive_lag_seconds",
            help,
            None,
            lag.metric_type(),
        )?)?;
        let help = "Unix time of the last backup, 0 for none";
        let last = ConstGauge::new(backups.finished.load(Ordering::Relaxed) as i64);
        let name = "nearfield_searchd_backup_finished_seconds";
        last.encode(encoder.encode_descriptor(name, help, None, last.metric_type())?)?;
        let counters = [
            ("nearfield_searchd_archive_pieces", "Pieces of the log sent to the archive", &archive.pieces),
            ("nearfield_searchd_archive_failures", "Times that sending the log failed", &archive.failures),
            ("nearfield_searchd_backup_failures", "Backups that failed", &backups.failures),
            ("nearfield_searchd_backup_sent_bytes", "Bytes sent for backups", &backups.sent_bytes),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value.load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }

    fn replication(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if self.links.is_empty() {
            return Ok(());
        }
        let kind = ConstGauge::new(0i64).metric_type();
        let name = "nearfield_searchd_replication_connected";
        let mut family = encoder.encode_descriptor(name, "Whether a peer's log is being followed", None, kind)?;
        for (peer, link) in &self.links {
            let connected = i64::from(link.connected.load(Ordering::Relaxed));
            ConstGauge::new(connected).encode(family.encode_family(&[("peer", peer.as_str())])?)?;
        }
        let kind = ConstCounter::new(0u64).metric_type();
        let name = "nearfield_searchd_replication_entries";
        let mut family = encoder.encode_descriptor(name, "Entries that came from a peer", None, kind)?;
        for (peer, link) in &self.links {
            let entries = link.entries.load(Ordering::Relaxed);
            ConstCounter::new(entries).encode(family.encode_family(&[("peer", peer.as_str())])?)?;
        }
        Ok(())
    }
}

//! Caches: answers of searches, what filters admit, and vectors that searches start from. Bounded in bytes, and never stale.
//!
//! An answer is kept under the collection's incarnation and generation, which grows with every change that is applied
//! here; so a write makes all older answers unreachable at once. What a filter admits is kept with the moment at which it
//! was so, from which whoever uses it goes on. A row of a segment never changes, so a vector is kept under its row.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::sync::Cache;

use crate::config;
use crate::engine::settings::Effort;
use crate::filter::Filter;
use crate::index::Row;
use crate::index::admitted::Admitted;
use crate::metadata::recent::Moment;
use crate::search::{Answer, Query, Target};

/// What the bookkeeping of one entry costs, about.
const OVERHEAD: usize = 256;

/// The caches that the engine itself looks into.
#[derive(Clone)]
pub struct Caches {
    pub vectors: HotVectors,
    pub masks: Masks,
}

impl Caches {
    pub fn new(config: &config::Cache) -> Self {
        Self { vectors: HotVectors::new(config.vector_bytes), masks: Masks::new(config.filter_bytes) }
    }
}

#[derive(Default)]
pub struct Counts {
    pub hits: AtomicU64,
    pub misses: AtomicU64,
}

impl Counts {
    fn count<T>(&self, found: Option<T>) -> Option<T> {
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }
}

/// All of a query that its answer depends on, but the state of what it asks: the incarnation of a collection stands for
/// tenant and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(query: &Query) -> Self {
        let mut hash = blake3::Hasher::new();
        // What is long comes first: then whole chunks of it are hashed side by side. How long it was is told behind.
        let (kind, target) = match &query.target {
            Target::Values(values) => (0, bytemuck::cast_slice(values)),
            Target::Point(id) => (1, id.as_bytes()),
        };
        hash.update(target);
        let filter = query.filter.as_ref().map(|filter| filter.canonical()).unwrap_or_default();
        hash.update(filter.as_bytes());
        let effort = match query.effort {
            None => 0,
            Some(Effort::Candidates(ef)) => u64::from(ef),
            Some(Effort::Recall(recall)) => recall.share().to_bits(),
        };
        let numbers = [kind, target.len() as u64, filter.len() as u64, query.k as u64, effort];
        let flags = [query.exact, query.include.metadata, query.include.values].map(u64::from);
        for number in numbers.into_iter().chain(flags) {
            hash.update(&number.to_le_bytes());
        }
        Self(*hash.finalize().as_bytes())
    }
}

/// A query and the incarnation and generation that it asks.
type Asked = (Fingerprint, u64, u64);

/// Answers. Clones share one cache.
#[derive(Clone)]
pub struct Results {
    cache: Option<Cache<Asked, Arc<Answer>>>,
    pub counts: Arc<Counts>,
}

impl Results {
    /// 0 bytes for no cache.
    pub fn new(bytes: u64) -> Self {
        let weigh = |_: &Asked, answer: &Arc<Answer>| {
            let hits = answer.hits.iter().map(|hit| 96 + hit.id.len() + hit.metadata.len() + hit.values.len() * 4);
            u32::try_from(hits.sum::<usize>() + OVERHEAD).unwrap_or(u32::MAX)
        };
        let cache = (bytes > 0).then(|| Cache::builder().max_capacity(bytes).weigher(weigh).build());
        Self { cache, counts: Arc::default() }
    }

    /// What a query is kept under; none where nothing is kept.
    pub fn fingerprint(&self, query: &Query) -> Option<Fingerprint> {
        self.cache.as_ref().map(|_| Fingerprint::of(query))
    }

    pub fn get(&self, query: Fingerprint, incarnation: u64, generation: u64) -> Option<Arc<Answer>> {
        let cache = self.cache.as_ref()?;
        self.counts.count(cache.get(&(query, incarnation, generation)))
    }

    /// Keeps an answer that is exactly of the generation that it names.
    pub fn put(&self, query: Fingerprint, incarnation: u64, answer: &Arc<Answer>) {
        let (Some(cache), true) = (&self.cache, answer.is_settled && answer.explanation.is_none()) else { return };
        cache.insert((query, incarnation, answer.generation), answer.clone());
    }

    /// Whether an answer is kept; nothing is counted.
    pub fn has(&self, query: Fingerprint, incarnation: u64, generation: u64) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.contains_key(&(query, incarnation, generation)))
    }

    pub fn bytes(&self) -> u64 {
        self.cache.as_ref().map_or(0, Cache::weighted_size)
    }
}

/// What filters admit. Clones share one cache.
#[derive(Clone)]
pub struct Masks {
    cache: Option<Cache<Name, (Moment, Arc<Admitted>)>>,
    pub counts: Arc<Counts>,
}

/// What a filter's mask is kept under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name([u8; 32]);

impl Masks {
    /// 0 bytes for no cache.
    pub fn new(bytes: u64) -> Self {
        let weigh =
            |_: &Name, (_, mask): &(Moment, Arc<Admitted>)| u32::try_from(mask.bytes() + OVERHEAD).unwrap_or(u32::MAX);
        let cache = (bytes > 0).then(|| Cache::builder().max_capacity(bytes).weigher(weigh).build());
        Self { cache, counts: Arc::default() }
    }

    /// None where nothing is kept.
    pub fn name(&self, filter: &Filter, incarnation: u64) -> Option<Name> {
        self.cache.as_ref()?;
        let mut hash = blake3::Hasher::new();
        hash.update(&incarnation.to_le_bytes()).update(filter.canonical().as_bytes());
        Some(Name(*hash.finalize().as_bytes()))
    }

    /// A mask, and what leads from its moment to now; none where nothing does.
    pub fn get<T>(&self, name: Name, lead: impl FnOnce(Moment) -> Option<T>) -> Option<(Arc<Admitted>, T)> {
        let kept = self.cache.as_ref()?.get(&name);
        self.counts.count(kept.and_then(|(then, mask)| Some((mask, lead(then)?))))
    }

    /// Keeps a mask that is exactly of the moment.
    pub fn put(&self, name: Name, moment: Moment, mask: &Arc<Admitted>) {
        if let Some(cache) = &self.cache {
            cache.insert(name, (moment, mask.clone()));
        }
    }

    pub fn bytes(&self) -> u64 {
        self.cache.as_ref().map_or(0, Cache::weighted_size)
    }
}

/// A row of a collection, by its incarnation.
type SealedRow = (u64, u32, u32);

/// Vectors of sealed rows. Clones share one cache.
#[derive(Clone)]
pub struct HotVectors {
    cache: Option<Cache<SealedRow, Arc<[f32]>>>,
    pub counts: Arc<Counts>,
}

impl HotVectors {
    /// 0 bytes for no cache.
    pub fn new(bytes: u64) -> Self {
        let weigh = |_: &SealedRow, values: &Arc<[f32]>| (values.len() * 4 + OVERHEAD) as u32;
        let cache = (bytes > 0).then(|| Cache::builder().max_capacity(bytes).weigher(weigh).build());
        Self { cache, counts: Arc::default() }
    }

    pub fn get(&self, incarnation: u64, row: Row, read: impl FnOnce() -> Vec<f32>) -> Vec<f32> {
        let Some(cache) = &self.cache else { return read() };
        let key = (incarnation, row.part, row.row);
        if let Some(values) = self.counts.count(cache.get(&key)) {
            return values.to_vec();
        }
        let values = read();
        cache.insert(key, values.as_slice().into());
        values
    }

    pub fn bytes(&self) -> u64 {
        self.cache.as_ref().map_or(0, Cache::weighted_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Address;
    use crate::filter;
    use crate::search::Include;

    #[test]
    fn every_part_of_a_query_is_in_its_fingerprint() {
        let plain = Query {
            address: Address::new("", "c"),
            target: Target::Values(vec![1.0, 2.0]),
            k: 10,
            effort: None,
            exact: false,
            filter: None,
            include: Include::default(),
            explain: false,
        };
        let filter = |json: &str| Some(Arc::new(filter::parse(json.as_bytes(), "").unwrap()));
        let others = [
            Query { target: Target::Values(vec![1.0, 2.5]), ..plain.clone() },
            Query { target: Target::Point("a".into()), ..plain.clone() },
            Query { k: 11, ..plain.clone() },
            Query { effort: Some(Effort::Candidates(64)), ..plain.clone() },
            Query { exact: true, ..plain.clone() },
            Query { filter: filter(r#"{"a":1}"#), ..plain.clone() },
            Query { filter: filter(r#"{"a":2}"#), ..plain.clone() },
            Query { include: Include { metadata: true, values: false }, ..plain.clone() },
            Query { include: Include { metadata: false, values: true }, ..plain.clone() },
        ];
        let mut fingerprints: Vec<_> = others.iter().chain([&plain]).map(Fingerprint::of).collect();
        // What one part ends with is not what the next begins with.
        let text =
            |id: &str, json: &str| Query { target: Target::Point(id.into()), filter: filter(json), ..plain.clone() };
        fingerprints.extend([text("a", r#"{"a":1}"#), text("a{", r#"{"a":1}"#)].iter().map(Fingerprint::of));
        let distinct: std::collections::HashSet<_> = fingerprints.iter().collect();
        assert_eq!(distinct.len(), fingerprints.len());
    }

    #[test]
    fn an_answer_is_kept_for_its_generation_alone() {
        let results = Results::new(1 << 20);
        let (query, other) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        let answer = Arc::new(Answer { generation: 7, is_settled: true, ..Answer::default() });
        results.put(query, 3, &answer);
        assert!(results.get(query, 3, 7).is_some() && results.has(query, 3, 7));
        for (query, incarnation, generation) in [(other, 3, 7), (query, 4, 7), (query, 3, 8)] {
            assert!(results.get(query, incarnation, generation).is_none());
        }
    }
}

//! A collection's vectors and how the nearest of them are found.
//!
//! New rows go to the *head*, chunks that are searched exactly, so that a write is found the moment it is applied.
//! Sealed *segments* hold the bulk in graphs. A row never changes: a new vector for a slot is a new row, and the old one
//! gets a tombstone. Readers take no lock that a writer holds for longer than one row.

pub mod admitted;
pub mod arrival;
pub mod batch;
pub mod bits;
pub mod calibration;
mod claims;
pub mod damage;
pub mod engines;
mod estimate;
pub mod graph;
pub mod head;
pub mod headroom;
pub mod kernel;
mod learning;
pub mod nearest;
mod newcomers;
pub mod plan;
pub mod proposer;
pub mod recall;
pub mod score;
pub mod seal;
pub mod segment;
pub mod trial;
pub mod values;
pub mod vectors;

mod hnsw;
mod mend;
mod merge;
mod packed;
mod parts;
mod restore;
mod sweep;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};

use crate::cache::HotVectors;
use crate::engine::Slot;
use crate::engine::settings::{Effort, Settings};
use crate::graph::flat::Packer;
use crate::search::stop::{Stop, Stopped};
use admitted::Admitted;
use batch::Found;
use claims::Claims;
use damage::Damaged;
use head::Chunk;
use headroom::Headroom;
use kernel::Kernel;
use nearest::ById;
use parts::{Listed, Parts};
use score::Scorer;
use segment::Segment;

/// Where a vector is: a part of the index (a chunk or a segment) and a row in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub part: u32,
    pub row: u32,
}

/// What is looked for.
pub struct Wanted<'a> {
    pub scorer: &'a Scorer,
    pub k: usize,
    /// How hard a graph search tries.
    pub effort: Effort,
    /// Compare with every row; use no graph.
    pub exact: bool,
    /// The slots that may be found; none for all.
    pub admitted: Option<&'a Admitted>,
    /// A slot that is left out.
    pub except: Option<Slot>,
}

impl Wanted<'_> {
    pub(crate) fn admits(&self, slot: Slot) -> bool {
        self.except != Some(slot) && self.admitted.is_none_or(|admitted| admitted.contains(slot))
    }
}

pub struct Index {
    pub settings: Settings,
    kernel: Kernel,
    parts: ArcSwap<Parts>,
    /// Held while rows change their place: by the committer for each row, by sealing when it is done.
    moving: Mutex<()>,
    /// Slot → its live row.
    rows: RwLock<Vec<Option<Row>>>,
    next_part: AtomicU32,
    /// Vectors that were asked for by id, kept under this collection's number.
    hot: Option<(HotVectors, u64)>,
    recent: recall::Recent,
    /// Packs chunks; made with the first that is full, none where that is not worth while.
    packer: OnceLock<Option<Arc<Packer>>>,
    /// Room for rows that wait to be sealed.
    pub headroom: Headroom,
    /// Vectors that were given to slots.
    written: AtomicU64,
    /// Held while a checkpoint looks which row is where, and while a segment takes the place of others.
    places: Mutex<()>,
    /// Parts whose files are being written.
    unfinished: Mutex<Vec<u32>>,
    /// Segments that are being built into others.
    claims: Claims,
    /// Searches, one after the other, that found all in memory; no more of them are counted than it takes.
    warm: AtomicU32,
}

impl Index {
    pub fn new(settings: Settings, kernel: Kernel) -> Self {
        Self {
            settings,
            kernel,
            parts: ArcSwap::default(),
            moving: Mutex::new(()),
            rows: RwLock::default(),
            next_part: AtomicU32::new(0),
            hot: None,
            recent: recall::Recent::default(),
            packer: OnceLock::new(),
            headroom: Headroom::default(),
            written: AtomicU64::new(0),
            places: Mutex::new(()),
            unfinished: Mutex::default(),
            claims: Claims::default(),
            warm: AtomicU32::new(0),
        }
    }

    /// Keeps vectors that are asked for by id in `hot`, under the collection's `incarnation`.
    pub fn with_cache(self, hot: HotVectors, incarnation: u64) -> Self {
        Self { hot: Some((hot, incarnation)), ..self }
    }

    pub fn scorer(&self, query: &[f32]) -> Scorer {
        Scorer::new(self.settings.metric, self.kernel, query)
    }

    /// Gives `slot` this vector. Called by the committer only, so appends never race.
    pub fn put(&self, slot: Slot, values: &[f32]) {
        let inverse_norm = score::inverse_norm(values);
        let _moving = self.moving.lock();
        let tail = self.parts.load().head.last().cloned();
        let row = match tail.as_ref().and_then(|chunk| chunk.append(slot, values, inverse_norm)) {
            Some(row) => {
                tail.filter(|chunk| chunk.is_full()).into_iter().for_each(|chunk| self.pack(chunk));
                row
            }
            None => {
                let chunk = match tail {
                    Some(_) => Chunk::following(self.new_part(), values.len()),
                    None => Chunk::new(self.new_part(), values.len()),
                };
                let chunk = Arc::new(chunk);
                let row = chunk.append(slot, values, inverse_norm).expect("a new chunk has room");
                self.replace(|parts| parts.head.push(chunk));
                row
            }
        };
        // Before the one in whose place it comes is dead.
        self.written.fetch_add(1, Ordering::Release);
        let before = {
            let mut rows = self.rows.write();
            if rows.len() <= slot as usize {
                rows.resize(slot as usize + 1, None);
            }
            rows[slot as usize].replace(row)
        };
        self.bury(before);
    }

    pub fn remove(&self, slot: Slot) {
        let _moving = self.moving.lock();
        let before = self.rows.write().get_mut(slot as usize).and_then(Option::take);
        self.bury(before);
    }

    pub fn row(&self, slot: Slot) -> Option<Row> {
        self.rows.read().get(slot as usize).copied().flatten()
    }

    /// Whether the row is in a segment.
    pub fn is_sealed(&self, row: Row) -> bool {
        self.parts.load().segment(row.part).is_some()
    }

    /// Whether all vectors are there: after a start from object storage they come bit by bit.
    pub fn is_there(&self) -> bool {
        self.parts.load().segments.iter().all(|segment| segment.vectors.is_there())
    }

    /// Returns when the vectors of these slots are there. To be called by whoever is about to ask for them under a lock.
    pub fn bring(&self, slots: impl Iterator<Item = Slot>, stop: &Stop) -> Result<(), Stopped> {
        if self.is_there() {
            return Ok(());
        }
        let listed = Listed::of_rows(slots.filter_map(|slot| self.row(slot)));
        let parts = self.parts.load_full();
        parts.segments.iter().try_for_each(|segment| segment.vectors.bring(listed.of(segment.part()), stop))
    }

    /// The slot's vector in full precision. One that has not come yet is waited for, however long it takes: see
    /// [`Index::bring`].
    ///
    /// # Errors
    /// It is damaged.
    pub fn values(&self, slot: Slot) -> Result<Option<Vec<f32>>, Damaged> {
        // A row that moves between the two look-ups is found where it went.
        for _ in 0..MOVES {
            let Some(row) = self.row(slot) else { return Ok(None) };
            let parts = self.parts.load();
            if let Some(chunk) = parts.chunk(row.part) {
                return Ok(chunk.values(row.row));
            }
            if let Some(segment) = parts.segment(row.part) {
                segment.vectors.await_row(row.row);
                if !segment.vectors.is_sound(row.row) {
                    return Err(Damaged { row, slot });
                }
                let read = || segment.vectors.row(row.row).to_vec();
                return Ok(Some(match &self.hot {
                    Some((hot, incarnation)) => hot.get(*incarnation, row, read),
                    None => read(),
                }));
            }
        }
        Ok(None)
    }

    /// A search has ended that waited for so many pages from the disk.
    pub fn searched(&self, faults: u64) {
        let warm = self.warm.load(Ordering::Relaxed);
        if faults > 0 {
            self.warm.store(0, Ordering::Relaxed);
        } else if warm < WARM {
            // One that is lost to another thread comes again.
            self.warm.store(warm + 1, Ordering::Relaxed);
        }
    }

    /// Whether a search most probably waits for nothing from the disk: many have not, one after the other.
    pub fn is_warm(&self) -> bool {
        self.warm.load(Ordering::Relaxed) >= WARM && self.is_there()
    }

    /// About how long a search takes that may find every row.
    pub fn cost(&self, wanted: &Wanted<'_>) -> Duration {
        Duration::from_nanos(self.parts.load().cost(wanted) as u64)
    }

    /// As [`Index::search_all`], of one.
    pub fn search(&self, wanted: &Wanted<'_>, by_id: ById<'_>, stop: &Stop) -> Result<Found, Stopped> {
        let found = self.search_all(std::slice::from_ref(wanted), by_id, stop)?.pop();
        Ok(found.expect("one answer for one that is wanted"))
    }

    /// Bytes that the vectors and tables take in memory.
    pub fn memory_bytes(&self) -> u64 {
        let parts = self.parts.load();
        let head: usize = parts.head.iter().map(|chunk| chunk.bytes()).sum();
        let segments: u64 = parts.segments.iter().map(|segment| segment.memory_bytes()).sum();
        segments + (head + self.rows.read().capacity() * size_of::<Option<Row>>()) as u64
    }

    /// Bytes of the segments' files.
    pub fn disk_bytes(&self) -> u64 {
        self.parts.load().segments.iter().map(|segment| segment.disk_bytes()).sum()
    }

    /// The segments as they are now.
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.parts.load().segments.clone()
    }

    fn bury(&self, row: Option<Row>) {
        let Some(row) = row else { return };
        let parts = self.parts.load();
        if let Some(chunk) = parts.chunk(row.part) {
            chunk.dead.insert(row.row);
        } else if let Some(segment) = parts.segment(row.part) {
            segment.dead.insert(row.row);
        }
    }

    fn new_part(&self) -> u32 {
        self.next_part.fetch_add(1, Ordering::Relaxed)
    }

    /// Call with `moving` held.
    fn replace(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = Parts::clone(&self.parts.load());
        change(&mut parts);
        self.parts.store(Arc::new(parts));
    }
}

/// How often a row may move while it is being read.
const MOVES: usize = 4;
/// Searches without a wait for the disk after which the next are taken to need none.
const WARM: u32 = 1_024;

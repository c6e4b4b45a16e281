//! A collection's vectors and how the nearest of them are found.
//!
//! New rows go to the *head*, chunks that are searched exactly, so that a write is found the moment it is applied.
//! Sealed *segments* hold the bulk in graphs. A row never changes: a new vector for a slot is a new row, and the old one
//! gets a tombstone. Readers take no lock that a writer holds for longer than one row.

pub mod bits;
pub mod head;
pub mod kernel;
pub mod nearest;
pub mod score;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};

use crate::engine::Slot;
use crate::engine::settings::Settings;
use crate::search::stop::{Stop, Stopped};
use bits::Bits;
use head::Chunk;
use kernel::Kernel;
use nearest::{ById, Hit, Nearest};
use score::Scorer;

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
    /// Candidates that a graph search keeps.
    pub ef: usize,
    /// Compare with every row; use no graph.
    pub exact: bool,
    /// The slots that may be found; none for all.
    pub admitted: Option<&'a Bits>,
    /// A slot that is left out.
    pub except: Option<Slot>,
}

impl Wanted<'_> {
    pub(crate) fn admits(&self, slot: Slot) -> bool {
        self.except != Some(slot) && self.admitted.is_none_or(|admitted| admitted.contains(slot))
    }
}

/// The parts at one moment.
#[derive(Clone, Default)]
struct Parts {
    head: Vec<Arc<Chunk>>,
}

pub struct Index {
    pub settings: Settings,
    kernel: Kernel,
    parts: ArcSwap<Parts>,
    /// Held while `parts` are replaced.
    replacing: Mutex<()>,
    /// Slot → its live row.
    rows: RwLock<Vec<Option<Row>>>,
    next_part: AtomicU32,
}

impl Index {
    pub fn new(settings: Settings, kernel: Kernel) -> Self {
        Self {
            settings,
            kernel,
            parts: ArcSwap::default(),
            replacing: Mutex::new(()),
            rows: RwLock::default(),
            next_part: AtomicU32::new(0),
        }
    }

    pub fn scorer(&self, query: &[f32]) -> Scorer {
        Scorer::new(self.settings.metric, self.kernel, query)
    }

    /// Gives `slot` this vector. Called by the committer only, so appends never race.
    pub fn put(&self, slot: Slot, values: &[f32]) {
        let inverse_norm = score::inverse_norm(values);
        let tail = self.parts.load().head.last().cloned();
        let row = match tail.as_ref().and_then(|chunk| chunk.append(slot, values, inverse_norm)) {
            Some(row) => row,
            None => {
                let chunk = Arc::new(Chunk::new(self.new_part(), values.len()));
                let row = chunk.append(slot, values, inverse_norm).expect("a new chunk has room");
                self.replace(|parts| parts.head.push(chunk));
                row
            }
        };
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
        let before = self.rows.write().get_mut(slot as usize).and_then(Option::take);
        self.bury(before);
    }

    pub fn row(&self, slot: Slot) -> Option<Row> {
        self.rows.read().get(slot as usize).copied().flatten()
    }

    /// The slot's vector in full precision.
    pub fn values(&self, slot: Slot) -> Option<Vec<f32>> {
        // A row that moves between the two look-ups is found where it went.
        for _ in 0..MOVES {
            let row = self.row(slot)?;
            let parts = self.parts.load();
            if let Some(chunk) = parts.head.iter().find(|chunk| chunk.part == row.part) {
                return chunk.values(row.row);
            }
        }
        None
    }

    /// The best hits, best first. A hit may have been replaced since: compare its row with [`Index::row`].
    pub fn search(&self, wanted: &Wanted<'_>, by_id: ById<'_>, stop: &Stop) -> Result<Vec<Hit>, Stopped> {
        let parts = self.parts.load_full();
        let mut nearest = Nearest::new(wanted.k, by_id);
        for chunk in &parts.head {
            stop.check()?;
            chunk.scan(wanted, &mut nearest);
        }
        Ok(nearest.into_sorted())
    }

    /// Bytes that the vectors and tables take in memory.
    pub fn memory_bytes(&self) -> u64 {
        let head: usize = self.parts.load().head.iter().map(|chunk| chunk.bytes()).sum();
        (head + self.rows.read().capacity() * size_of::<Option<Row>>()) as u64
    }

    fn bury(&self, row: Option<Row>) {
        let Some(row) = row else { return };
        let parts = self.parts.load();
        if let Some(chunk) = parts.head.iter().rfind(|chunk| chunk.part == row.part) {
            chunk.dead.insert(row.row);
        }
    }

    fn new_part(&self) -> u32 {
        self.next_part.fetch_add(1, Ordering::Relaxed)
    }

    fn replace(&self, change: impl FnOnce(&mut Parts)) {
        let _guard = self.replacing.lock();
        let mut parts = Parts::clone(&self.parts.load());
        change(&mut parts);
        self.parts.store(Arc::new(parts));
    }
}

/// How often a row may move while it is being read.
const MOVES: usize = 4;

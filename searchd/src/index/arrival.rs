//! A file of vectors that is still on its way: which of its blocks are there, and waiting for those that a search needs.
//!
//! A searchd that starts from object storage serves before all vectors have come. Whoever is about to look at rows asks for
//! them here first; a block that is missing is fetched once, whoever else waits for it, while the rest comes in the
//! background. What cannot be fetched ends the search: a hole is never taken for a vector.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::search::stop::{Stop, Stopped};

/// Bytes that are fetched for a row that is missing: a few dozen rows, at hardly more than the price of one.
pub const BLOCK_BYTES: usize = 64 * 1024;
/// Most neighbouring blocks that are asked for in one request.
const MOST_BLOCKS: usize = 16;
/// Between two looks at whether a search that waits is still wanted.
const LOOK: Duration = Duration::from_millis(20);

/// Where the file comes from.
pub trait Source: Send + Sync {
    /// Begins to fetch these blocks, without waiting for them. Ends with [`Arrival::place`] or [`Arrival::failed`].
    fn begin(&self, arrival: &Arc<Arrival>, blocks: Range<usize>);

    /// Writes bytes to their place in the file.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// By the paths of the files.
pub type Arrivals = HashMap<PathBuf, Arc<Arrival>>;

pub struct Arrival {
    source: Box<dyn Source>,
    bytes: u64,
    /// Where the rows are: all else was there, and checked, from the beginning.
    rows: Range<u64>,
    there: Box<[AtomicU64]>,
    missing: AtomicUsize,
    /// Everything is there, checked and durable.
    is_whole: AtomicBool,
    under_way: Mutex<BTreeSet<usize>>,
    changed: Condvar,
    /// Held while bytes are put to their place, so that what was checked is never overwritten.
    placing: Mutex<()>,
}

impl Arrival {
    /// Of a file of so many bytes, in which no row is taken to be there.
    pub fn new(source: Box<dyn Source>, bytes: u64, rows: Range<u64>) -> Self {
        let blocks = bytes.div_ceil(BLOCK_BYTES as u64) as usize;
        Self {
            source,
            bytes,
            rows,
            there: (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            missing: AtomicUsize::new(blocks),
            is_whole: AtomicBool::new(false),
            under_way: Mutex::default(),
            changed: Condvar::new(),
            placing: Mutex::default(),
        }
    }

    pub fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }

    /// From now on nobody asks any more. Call when all of it is there, checked and durable.
    pub fn finish(&self) {
        self.is_whole.store(true, Ordering::Release);
    }

    /// About how many bytes have not come yet.
    pub fn missing_bytes(&self) -> u64 {
        (self.missing.load(Ordering::Relaxed) as u64 * BLOCK_BYTES as u64).min(self.bytes)
    }

    /// Returns when these bytes of the file are there, as far as anybody can tell without looking at them.
    pub fn bring(self: &Arc<Self>, ranges: impl Iterator<Item = Range<usize>>, stop: &Stop) -> Result<(), Stopped> {
        let blocks = ranges.flat_map(|range| range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES));
        let mut missing: Vec<usize> = blocks.filter(|block| !self.is_there(*block)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        missing.sort_unstable();
        missing.dedup();
        let mut under_way = self.under_way.lock();
        missing.retain(|block| !self.is_there(*block));
        let claimed: Vec<usize> = missing.iter().copied().filter(|block| under_way.insert(*block)).collect();
        drop(under_way);
        runs(&claimed).for_each(|run| self.source.begin(self, run));
        let mut under_way = self.under_way.lock();
        loop {
            missing.retain(|block| !self.is_there(*block));
            if missing.is_empty() {
                return Ok(());
            }
            if missing.iter().any(|block| !under_way.contains(block)) {
                return Err(Stopped::Unavailable);
            }
            stop.check()?;
            self.changed.wait_for(&mut under_way, LOOK);
        }
    }

    /// Puts whole blocks to their place. `is_checked`: they are known to be right; what is there already and may not be is
    /// written over.
    pub fn place(&self, blocks: Range<usize>, bytes: &[u8], is_checked: bool) -> io::Result<()> {
        let written = {
            let _placing = self.placing.lock();
            let mut written = Ok(());
            for (block, bytes) in blocks.clone().zip(bytes.chunks(BLOCK_BYTES)) {
                let start = (block * BLOCK_BYTES) as u64;
                written = match is_checked {
                    true => self.source.write(start, bytes),
                    false if self.is_there(block) => Ok(()),
                    false => self.write_rows(start, bytes),
                };
                if written.is_err() {
                    break;
                }
                self.mark(block);
            }
            written
        };
        self.settle(blocks);
        written
    }

    fn write_rows(&self, start: u64, bytes: &[u8]) -> io::Result<()> {
        let end = start + bytes.len() as u64;
        let (from, to) = (self.rows.start.clamp(start, end), self.rows.end.clamp(start, end));
        self.source.write(from, &bytes[(from - start) as usize..(to - start) as usize])
    }

    /// Blocks that turned out to be in the file already, as they must be.
    pub fn found(&self, blocks: Range<usize>) {
        blocks.clone().for_each(|block| self.mark(block));
        self.settle(blocks);
    }

    /// These blocks could not be fetched: whoever waits for them is told.
    pub fn failed(&self, blocks: Range<usize>) {
        self.settle(blocks);
    }

    fn settle(&self, blocks: Range<usize>) {
        let mut under_way = self.under_way.lock();
        for block in blocks {
            under_way.remove(&block);
        }
        drop(under_way);
        self.changed.notify_all();
    }

    fn is_there(&self, block: usize) -> bool {
        self.there[block / 64].load(Ordering::Acquire) & (1 << (block % 64)) != 0
    }

    fn mark(&self, block: usize) {
        let before = self.there[block / 64].fetch_or(1 << (block % 64), Ordering::AcqRel);
        if before & (1 << (block % 64)) == 0 {
            self.missing.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Neighbouring blocks together, in pieces that do not cross a multiple of [`MOST_BLOCKS`].
fn runs(blocks: &[usize]) -> impl Iterator<Item = Range<usize>> {
    let together = |a: &usize, b: &usize| a + 1 == *b && !b.is_multiple_of(MOST_BLOCKS);
    blocks.chunk_by(together).map(|run| run[0]..run[0] + run.len())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    /// A source that notes what it is asked for; nothing comes by itself.
    #[derive(Default)]
    struct Asked(Arc<Mutex<Vec<Range<usize>>>>, Arc<Mutex<Vec<(u64, usize)>>>);

    impl Source for Asked {
        fn begin(&self, _: &Arc<Arrival>, blocks: Range<usize>) {
            self.0.lock().push(blocks);
        }

        fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.1.lock().push((offset, bytes.len()));
            Ok(())
        }
    }

    const MISSING: Range<usize> = 0..BLOCK_BYTES * 3;
    /// A header before them, a table behind.
    const ROWS: Range<u64> = 64..MISSING.end as u64 - 100;

    #[test]
    fn a_block_is_asked_for_once_and_all_who_wait_get_it() {
        let source = Asked::default();
        let (asked, written) = (source.0.clone(), source.1.clone());
        let arrival = Arc::new(Arrival::new(Box::new(source), MISSING.end as u64 - 5, ROWS));
        std::thread::scope(|scope| {
            let waiting: Vec<_> =
                (0..4).map(|_| scope.spawn(|| arrival.bring([MISSING].into_iter(), &Stop::default()))).collect();
            while asked.lock().is_empty() {
                std::thread::yield_now();
            }
            arrival.place(0..3, &vec![1; MISSING.end - 5], false).unwrap();
            waiting.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Ok(())));
        });
        assert_eq!(asked.lock().drain(..).map(|run| (run.start, run.end)).collect::<Vec<_>>(), [(0, 3)]);
        let rows_alone = [(64, BLOCK_BYTES - 64), (65_536, BLOCK_BYTES), (131_072, BLOCK_BYTES - 100)];
        assert_eq!((&written.lock()[..], arrival.missing_bytes()), (&rows_alone[..], 0));
        // What comes again unchecked is not written, what is checked is.
        arrival.place(0..1, &[2; BLOCK_BYTES], false).unwrap();
        assert_eq!(written.lock().len(), 3);
        arrival.place(0..1, &[2; BLOCK_BYTES], true).unwrap();
        assert_eq!(written.lock().len(), 4);
    }

    #[test]
    fn what_cannot_be_fetched_or_takes_too_long_ends_the_wait() {
        let source = Asked::default();
        let asked = source.0.clone();
        let arrival = Arc::new(Arrival::new(Box::new(source), MISSING.end as u64, ROWS));
        let past = Stop { deadline: Some(Instant::now()), ..Stop::default() };
        assert_eq!(arrival.bring([MISSING].into_iter(), &past), Err(Stopped::Deadline));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| arrival.bring([MISSING].into_iter(), &Stop::default()));
            arrival.failed(1..2);
            // Whether it waited already or asks again and fails again.
            while !waiting.is_finished() {
                arrival.failed(0..3);
                std::thread::yield_now();
            }
            assert_eq!(waiting.join().unwrap(), Err(Stopped::Unavailable));
        });
        let before = asked.lock().len();
        assert_eq!(arrival.bring([MISSING].into_iter(), &past), Err(Stopped::Deadline));
        assert!(asked.lock().len() > before, "the next one asks again");
    }

    proptest! {
        #[test]
        fn runs_hold_every_block_once_and_are_bounded(blocks in prop::collection::btree_set(0..200usize, 0..100)) {
            let blocks: Vec<usize> = blocks.into_iter().collect();
            let runs: Vec<Range<usize>> = runs(&blocks).collect();
            prop_assert!(runs.iter().all(|run| run.len() <= MOST_BLOCKS && run.start / MOST_BLOCKS == (run.end - 1) / MOST_BLOCKS));
            prop_assert_eq!(runs.into_iter().flatten().collect::<Vec<_>>(), blocks);
        }
    }
}

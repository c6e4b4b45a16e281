//! The purges that hold for answers on disk, in a file beside them, so that one who starts anew knows what was purged
//! before.
//!
//! The file is mapped: noting a purge is a store into memory, at worst a page fault, and what is stored there outlives
//! the process, however it ends. It does not outlive the machine's kernel. So a ledger says in which boot of the machine it was written, and in
//! another one it is worth nothing, nor are the answers that it stands for. Each number stands there twice, once
//! inverted: a ledger that was changed by anything else is worth nothing either.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use super::table::PLACES;

const MAGIC: u64 = u64::from_le_bytes(*b"NFPURGE\x01");
/// Magic and boot; then pairs: the last stamp, the hard table, the soft table.
const HEAD: usize = 3;
const PAIRS: usize = 1 + 2 * PLACES;
const WORDS: usize = HEAD + 2 * PAIRS;
pub(crate) const BYTES: u64 = 8 * WORDS as u64;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

pub(crate) struct Ledger {
    map: MmapRaw,
}

/// Which boot of the machine this is; None where that is not told.
fn boot() -> Option<u128> {
    let text = std::fs::read_to_string(BOOT_ID).ok()?;
    u128::from_str_radix(&text.trim().replace('-', ""), 16).ok()
}

impl Ledger {
    /// The one at `path`, if it is of this boot and whole.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
        if file.metadata().ok()?.len() != BYTES {
            return None;
        }
        let ledger = Self::map(&file).ok()?;
        let [magic, low, high] = [0, 1, 2].map(|at| ledger.words()[at].load(Ordering::SeqCst));
        let written = u128::from(low) | u128::from(high) << 64;
        let is_whole = || (0..PAIRS).all(|pair| ledger.pair(pair).is_some());
        (magic == MAGIC && Some(written) == boot() && is_whole()).then_some(ledger)
    }

    /// An empty one in the place of whatever is at `path`. Its bytes are all written, so that storing into them takes no
    /// room that the disk may not have.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let boot = boot().unwrap_or_else(rand::random);
        let mut words = vec![MAGIC, boot as u64, (boot >> 64) as u64];
        words.extend([0, u64::MAX].repeat(PAIRS));
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        let new = path.with_extension("new");
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&new)?;
        file.write_all(&bytes)?;
        std::fs::rename(&new, path)?;
        Self::map(&file)
    }

    fn map(file: &File) -> io::Result<Self> {
        Ok(Self { map: MmapOptions::new().len(BYTES as usize).map_raw(file)? })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the map begins at a page, has that many bytes, and lives as long as `self`. Nothing but these atomics
        // touches it here; any bytes are an atomic.
        unsafe { std::slice::from_raw_parts(self.map.as_mut_ptr().cast::<AtomicU64>(), WORDS) }
    }

    /// None for one that was not written so. After a crash between its two stores the later number counts.
    fn pair(&self, pair: usize) -> Option<u64> {
        let at = HEAD + 2 * pair;
        let [number, inverse] = [at, at + 1].map(|at| self.words()[at].load(Ordering::SeqCst));
        (number == !inverse).then_some(number)
    }

    fn raise(&self, pair: usize, number: u64) {
        let at = HEAD + 2 * pair;
        self.words()[at].fetch_max(number, Ordering::SeqCst);
        self.words()[at + 1].fetch_min(!number, Ordering::SeqCst);
    }

    /// The latest stamp of an answer that this stands for.
    pub(crate) fn last(&self) -> u64 {
        self.pair(0).unwrap_or(u64::MAX)
    }

    /// Before an answer of that stamp is written.
    pub(crate) fn stamped(&self, micros: u64) {
        self.raise(0, micros);
    }

    pub(super) fn note(&self, soft: bool, place: usize, micros: u64) {
        self.raise(Self::of(soft, place), micros);
    }

    pub(super) fn at(&self, soft: bool, place: usize) -> u64 {
        self.pair(Self::of(soft, place)).unwrap_or(u64::MAX)
    }

    /// For whoever comes next, all answers from before are purged.
    pub(crate) fn end_all(&self, micros: u64) {
        self.note(false, 0, micros);
    }

    fn of(soft: bool, place: usize) -> usize {
        1 + usize::from(soft) * PLACES + place
    }
}

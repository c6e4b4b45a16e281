//! The log: segments that are written one after the other and go as a whole, the oldest first.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Shared;
use super::index::Place;
use super::record::{self, HEAD_BYTES, Head, Unreadable};
use crate::{Entry, Key};

/// A segment is this part of all bytes, …
const PARTS: u64 = 16;
/// … and between these; a larger one has room for the largest record.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(64 << 20);
/// Restarts begin a segment each: with more files, the oldest goes.
const MAX_SEGMENTS: usize = 256;
/// An index has an entry for each so many bytes of disk at most.
const INDEXED_BYTES: u64 = 2048;
/// So much may wait in the system's memory to be written: a machine that has too much of it makes everybody wait.
const UNSYNCED_BYTES: u64 = 8 << 20;
const SUFFIX: &str = "segment";
const READ_AHEAD: usize = 256 << 10;

/// One file.
pub(super) struct Segment {
    path: PathBuf,
    file: File,
}

/// Those that can be read, by their numbers.
#[derive(Default)]
pub(super) struct Segments(BTreeMap<u32, (Arc<Segment>, u64)>);

impl Segments {
    pub(super) fn get(&self, number: u32) -> Option<Arc<Segment>> {
        self.0.get(&number).map(|(segment, _)| Arc::clone(segment))
    }

    fn bytes(&self) -> u64 {
        self.0.values().map(|(_, length)| length).sum()
    }
}

impl Segment {
    pub(super) fn read(&self, key: &Key, place: Place) -> Result<Entry, Unreadable> {
        let mut record = vec![0; place.length as usize];
        self.file.read_exact_at(&mut record, u64::from(place.at))?;
        record::decode(key, record)
    }

    /// Tells of every record up to the first that is torn or damaged; how many bytes they take.
    fn records(&self, mut told: impl FnMut(Head, u64)) -> io::Result<u64> {
        let length = self.file.metadata()?.len();
        let mut reader = BufReader::with_capacity(READ_AHEAD, &self.file);
        let mut at = 0;
        while length - at >= HEAD_BYTES as u64 {
            let mut head = [0; HEAD_BYTES];
            reader.read_exact(&mut head)?;
            let Some(head) = Head::decode(&head) else { break };
            let end = at + HEAD_BYTES as u64 + u64::from(head.length);
            if end > length {
                break;
            }
            told(head, at);
            reader.seek_relative(i64::from(head.length))?;
            at = end;
        }
        Ok(at)
    }
}

/// The log as its writer has it: what can be read of it is shared.
pub(super) struct Log {
    directory: PathBuf,
    /// Bytes that all segments may take.
    bytes: u64,
    shared: Arc<Shared>,
    /// The segment that is written, if there is one yet.
    last: Option<u32>,
    next: u32,
    unsynced: u64,
}

impl Log {
    /// Reads what is in `directory`, from its beginning, into the index; what is dead at `now`, in Unix microseconds, is
    /// left out.
    pub(super) fn open(directory: &Path, bytes: u64, now: u64, shared: &Arc<Shared>) -> io::Result<Self> {
        let shared = Arc::clone(shared);
        let mut log = Self { directory: directory.to_owned(), bytes, shared, last: None, next: 0, unsynced: 0 };
        for number in numbers(directory)? {
            log.next = number.saturating_add(1);
            if let Err(error) = log.restore(number, now) {
                tracing::warn!(number, error = &error as &dyn std::error::Error, "a segment of answers cannot be read");
                remove(&path(directory, number))?;
            }
        }
        log.shrink(0)?;
        Ok(log)
    }

    fn restore(&self, number: u32, now: u64) -> io::Result<()> {
        let path = path(&self.directory, number);
        let segment = Segment { file: File::open(&path)?, path };
        let mut live = 0_u64;
        let length = segment.records(|head, at| {
            let place = Place { segment: number, at: at as u32, length: HEAD_BYTES as u32 + head.length };
            let lives = head.length > 0 && head.dies > now;
            live += u64::from(lives);
            self.shared.index.restore(&head.key, lives.then_some(place));
        })?;
        let mut segments = self.shared.segments.write();
        // What is dead may have replaced what an older segment has, and has to stay as long as that.
        if live == 0 && segments.0.is_empty() {
            return remove(&segment.path);
        }
        segments.0.insert(number, (Arc::new(segment), length));
        Ok(())
    }

    fn segment_bytes(&self) -> u64 {
        (self.bytes / PARTS).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end())
    }

    /// Writes a record behind all others, for which the oldest go if need be. None for one that no segment has room for.
    pub(super) fn append(&mut self, record: &[u8]) -> io::Result<Option<Place>> {
        let length = record.len() as u64;
        if length > self.segment_bytes() {
            return Ok(None);
        }
        self.shrink(length)?;
        let (number, segment, at) = self.room(length)?;
        if let Err(error) = segment.file.write_all_at(record, at) {
            // A piece of it would be no more than that: it is cut, or is passed over by its head.
            let _ = segment.file.set_len(at);
            return Err(error);
        }
        if let Some((_, end)) = self.shared.segments.write().0.get_mut(&number) {
            *end = at + length;
        }
        self.unsynced += length;
        if self.unsynced > UNSYNCED_BYTES {
            segment.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(Some(Place { segment: number, at: at as u32, length: record.len() as u32 }))
    }

    /// The segment that is written, or a new one.
    fn room(&mut self, length: u64) -> io::Result<(u32, Arc<Segment>, u64)> {
        if let Some(number) = self.last
            && let Some((segment, end)) = self.shared.segments.read().0.get(&number)
            && end + length <= self.segment_bytes()
        {
            return Ok((number, Arc::clone(segment), *end));
        }
        let (number, path) = (self.next, path(&self.directory, self.next));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        let segment = Arc::new(Segment { path, file });
        self.shared.segments.write().0.insert(number, (Arc::clone(&segment), 0));
        (self.last, self.next) = (Some(number), number.wrapping_add(1));
        Ok((number, segment, 0))
    }

    /// Lets the oldest go until there is room for `more` bytes.
    fn shrink(&mut self, more: u64) -> io::Result<()> {
        loop {
            let oldest = {
                let segments = self.shared.segments.read();
                let is_full = segments.bytes() + more > self.bytes
                    || segments.0.len() > MAX_SEGMENTS
                    || self.shared.index.len() > self.bytes / INDEXED_BYTES;
                segments.0.keys().next().copied().filter(|_| is_full)
            };
            let Some(oldest) = oldest else { return Ok(()) };
            // Whoever reads it at this moment still can.
            let removed = self.shared.segments.write().0.remove(&oldest);
            self.shared.index.forget_segment(oldest);
            if let Some((segment, _)) = removed {
                remove(&segment.path)?;
            }
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.shared.segments.read().bytes()
    }
}

/// Whatever is in `directory` is of no use: nobody knows what was purged of it.
pub(super) fn discard(directory: &Path) -> io::Result<()> {
    numbers(directory)?.into_iter().try_for_each(|number| remove(&path(directory, number)))
}

/// The segments that are there, in the order in which they were written.
fn numbers(directory: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = PathBuf::from(entry?.file_name());
        let stem = path.extension().filter(|suffix| *suffix == SUFFIX).and_then(|_| path.file_stem()?.to_str());
        numbers.extend(stem.and_then(|stem| stem.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:010}.{SUFFIX}"))
}

/// Gone already is as good.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

//! Sealing: rows of the head become a segment, a bounded piece at a time, so that the head shrinks every few seconds.
//!
//! The building runs beside searches and writes and takes its time; putting the new segment in the place of its sources
//! is one short step. Segments that are alike or half dead become one in the same way ([`super::merge`]), at the same time:
//! no segment is a source of both ([`super::claims`]).
//!
//! A piece does not become a segment of its own where there is a small one: it comes into that one's graph. Its rows look for their
//! place among those that are there, which keep their neighbours at a fraction of what it takes to find them. So while much is
//! stored searches have one young segment to go through beside the old ones, not as many as there were pieces.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::claims::Claimed;
use super::graph::{Builder, Source};
use super::head::Chunk;
use super::proposer::Basis;
use super::segment::{Error, Segment, graph_file, unfinished_graph_file, vectors_file};
use super::values::{Fitting, Form};
use super::vectors::Writer;
use super::{Index, Row};
use crate::engine::Slot;

/// Full chunks that make sealing worth while: up to this many rows, comparing each is about as fast as a graph.
pub const SEAL_CHUNKS: usize = 16;
/// Most chunks of one piece: some seconds of work.
const PIECE_CHUNKS: usize = 32;
/// Rows that make sealing worth while once nobody writes.
pub(super) const REST_ROWS: usize = 256;

/// A piece comes into segments that have at most this many times its rows together. To keep a row takes about a seventh of what it takes to
/// place one, so a piece takes twice as long at the most.
const GROWN_TIMES: usize = 8;

/// What one sealing takes in. While it is held nothing else takes its segments in.
pub struct Sources {
    chunks: Vec<Arc<Chunk>>,
    claimed: Option<Claimed>,
}

/// A segment that is to take the place of its sources.
pub struct Built {
    part: u32,
    /// None where no row was left.
    segment: Option<Arc<Segment>>,
    /// By slot.
    moves: Vec<Move>,
}

/// A row of the new segment, and where it comes from.
struct Move {
    slot: Slot,
    row: u32,
    origin: Row,
}

impl Sources {
    /// Whether somebody else holds one of them.
    pub fn are_looked_at(&self) -> bool {
        let chunks = self.chunks.iter().any(|chunk| Arc::strong_count(chunk) > 1);
        chunks || self.segments().iter().any(|segment| Arc::strong_count(segment) > 1)
    }

    /// Rows that live, about: some may go meanwhile.
    pub fn rows(&self) -> usize {
        let chunks = self.chunks.iter().map(|chunk| chunk.len()).sum::<usize>();
        chunks + self.segments().iter().map(|segment| segment.live()).sum::<usize>()
    }

    pub(super) fn of_segments(claimed: Claimed) -> Self {
        Self { chunks: Vec::new(), claimed: Some(claimed) }
    }

    fn segments(&self) -> &[Arc<Segment>] {
        self.claimed.as_ref().map_or(&[], |claimed| &claimed.segments)
    }

    /// The narrowest form that holds the rows which live.
    fn form(&self) -> Form {
        let mut fitting = Fitting::default();
        for segment in self.segments() {
            match segment.vectors.form() {
                // They may have been written before there were other forms.
                Form::Floats => segment.for_each(|_, _, values| fitting.take(values)),
                form => fitting.take_all(form),
            }
        }
        self.chunks.iter().for_each(|chunk| chunk.for_each(|_, _, values| fitting.take(values)));
        fitting.form()
    }

    /// The graphs that the rows come from, with the new numbers of these.
    fn graphs(&self, origins: &[Row]) -> Vec<Source<'_>> {
        let graphs = self.segments().iter().filter_map(|segment| {
            let mut rows = vec![None; segment.vectors.len()];
            for (row, origin) in origins.iter().enumerate().filter(|(_, origin)| origin.part == segment.part()) {
                rows[origin.row as usize] = Some(row as u32);
            }
            Some(Source { graph: segment.proposer()?.graph(), rows })
        });
        graphs.collect()
    }

    fn has(&self, part: u32) -> bool {
        self.chunks.iter().any(|chunk| chunk.part == part)
            || self.segments().iter().any(|segment| segment.part() == part)
    }
}

impl Index {
    /// Whether rows wait to be sealed.
    pub fn is_behind(&self) -> bool {
        self.parts.load().head.len() > SEAL_CHUNKS
    }

    /// What should be done first now, if anything: sealing where so many chunks are closed, then merging.
    pub fn sources(&self, at_least: usize) -> Option<Sources> {
        self.head_sources(at_least).or_else(|| self.merge_sources())
    }

    /// The same once nobody writes, and has not for so long.
    pub fn sources_at_rest(&self, quiet: Duration) -> Option<Sources> {
        self.head_sources_at_rest().or_else(|| self.merge_sources_at_rest(quiet))
    }

    /// The oldest rows of the head, where so many of its chunks are closed, with the segments that they come into.
    pub fn head_sources(&self, at_least: usize) -> Option<Sources> {
        let mut chunks = self.parts.load().closed();
        if chunks.len() < at_least.max(1) {
            return None;
        }
        chunks.truncate(PIECE_CHUNKS);
        let claimed = self.young(chunks.iter().map(|chunk| chunk.len()).sum());
        Some(Sources { chunks, claimed })
    }

    /// The smallest segments, as many as it pays for so many rows to come into.
    fn young(&self, rows: usize) -> Option<Claimed> {
        let choose = |mut free: Vec<Arc<Segment>>| {
            free.retain(|segment| segment.can_grow());
            free.sort_by_key(|segment| segment.live());
            let mut together = 0;
            let is_worth = |segment: &Arc<Segment>| {
                together += segment.live();
                together <= GROWN_TIMES * rows
            };
            let young: Vec<_> = free.into_iter().take_while(is_worth).collect();
            (!young.is_empty()).then_some(young)
        };
        self.claims.take(|| self.parts.load_full(), choose)
    }

    /// The same once nobody writes: then little waits in memory.
    pub fn head_sources_at_rest(&self) -> Option<Sources> {
        self.close_chunk(REST_ROWS);
        if let Some(chunk) = self.parts.load().head.last() {
            chunk.give_back();
        }
        self.head_sources(1)
    }

    /// The same where writers wait for room: whatever there is.
    pub fn head_sources_in_need(&self) -> Option<Sources> {
        self.head_sources(1).or_else(|| {
            self.close_chunk(1);
            self.head_sources(1)
        })
    }

    /// Lets no more rows into the last chunk, if it has so many.
    fn close_chunk(&self, rows: usize) {
        let _moving = self.moving.lock();
        if self.parts.load().head.last().is_some_and(|chunk| chunk.len() >= rows) {
            let chunk = Arc::new(Chunk::new(self.new_part(), self.settings.dimension as usize));
            self.replace(|parts| parts.head.push(chunk));
        }
    }

    /// Is another one after each write that gave a slot a vector.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Parts whose files are being written, which nothing names yet.
    pub fn unfinished(&self) -> Vec<u32> {
        self.unfinished.lock().clone()
    }

    /// Keeps every row where it is until the guard is dropped.
    pub fn hold_places(&self) -> MutexGuard<'_, ()> {
        self.places.lock()
    }

    /// Builds a segment from the sources and puts it in their place. `directory` exists. When it fails, nothing is left of it.
    pub fn seal(&self, sources: &Sources, directory: &Path, builder: &dyn Builder) -> Result<(), Error> {
        let built = self.build(sources, directory, builder)?;
        self.install(sources, built);
        Ok(())
    }

    /// The first, long step of [`Index::seal`], during which nobody is held up.
    pub fn build(&self, sources: &Sources, directory: &Path, builder: &dyn Builder) -> Result<Built, Error> {
        let part = self.new_part();
        self.unfinished.lock().push(part);
        let outcome = self.build_part(part, sources, directory, builder);
        if outcome.is_err() {
            let files =
                [vectors_file(directory, part), graph_file(directory, part), unfinished_graph_file(directory, part)];
            // What cannot be removed now is removed with what else no checkpoint names.
            files.iter().for_each(|file| drop(std::fs::remove_file(file)));
            self.unfinished.lock().retain(|unfinished| *unfinished != part);
        }
        outcome
    }

    fn build_part(
        &self,
        part: u32,
        sources: &Sources,
        directory: &Path,
        builder: &dyn Builder,
    ) -> Result<Built, Error> {
        let file = vectors_file(directory, part);
        let io = |source| Error::Io { doing: "writing", file: file.clone(), source };
        let mut writer = Writer::create(&file, self.settings.dimension as usize, sources.form()).map_err(io)?;
        // Where each row of the new segment comes from.
        let mut origins: Vec<Row> = Vec::new();
        let mut failure = None;
        let mut take = |part: u32, row: u32, slot: Slot, values: &[f32]| {
            origins.push(Row { part, row });
            if let Err(error) = writer.push(slot, values) {
                failure.get_or_insert(error);
            }
        };
        for segment in sources.segments() {
            segment.for_each(|row, slot, values| take(segment.part(), row, slot, values));
        }
        for chunk in &sources.chunks {
            chunk.for_each(|row, slot, values| take(chunk.part, row, slot, values));
        }
        failure.map_or_else(|| writer.finish(), Err).map_err(io)?;
        if origins.is_empty() {
            std::fs::remove_file(&file).map_err(io)?;
            return Ok(Built { part, segment: None, moves: Vec::new() });
        }
        let basis = Basis { sources: sources.graphs(&origins), taken: self.recent.taken() };
        let segment = Segment::build(directory, part, &self.settings, builder, &basis)?;
        let slots = segment.vectors.slots().iter().zip(origins).enumerate();
        let mut moves: Vec<Move> =
            slots.map(|(row, (slot, origin))| Move { slot: *slot, row: row as u32, origin }).collect();
        // In the order in which they are looked up while everybody waits: of a million that takes a tenth of the time then.
        moves.sort_unstable_by_key(|moved| moved.slot);
        Ok(Built { part, segment: Some(Arc::new(segment)), moves })
    }

    /// The second, short step of [`Index::seal`]. Writers wait for it, and searches for them: it is not to be put off. Rows that
    /// were replaced or removed during the building are dead in the new segment from the start.
    pub fn install(&self, sources: &Sources, built: Built) {
        let Built { part, segment, moves } = built;
        self.put_in(sources, segment, &moves);
        self.unfinished.lock().retain(|unfinished| *unfinished != part);
    }

    fn put_in(&self, sources: &Sources, segment: Option<Arc<Segment>>, moves: &[Move]) {
        let _places = self.places.lock();
        let _moving = self.moving.lock();
        let mut rows = self.rows.write();
        if let Some(segment) = &segment {
            for Move { slot, row, origin } in moves {
                match rows.get_mut(*slot as usize) {
                    Some(place) if *place == Some(*origin) => *place = Some(Row { part: segment.part(), row: *row }),
                    _ => segment.dead.insert(*row),
                }
            }
        }
        self.replace(|parts| {
            parts.head.retain(|chunk| !sources.has(chunk.part));
            parts.sealed = parts.sealed.max(sources.chunks.iter().map(|chunk| chunk.part).max());
            parts.segments.retain(|known| !sources.has(known.part()));
            parts.segments.extend(segment);
        });
        self.headroom.freed();
    }
}

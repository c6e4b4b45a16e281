//! Sealing: rows of the head, and of segments that are small or half dead, become one new segment.
//!
//! The building runs beside searches and writes and takes its time; putting the new segment in the place of its sources
//! is one short step. Sizes grow geometrically, so there are few segments and each row is built into few of them. When
//! nobody has written for a while, what is there becomes one segment.

use std::path::Path;
use std::sync::Arc;

use super::graph::Builder;
use super::head::Chunk;
use super::segment::{Error, Segment, vectors_file};
use super::vectors::Writer;
use super::{Index, Row};
use crate::engine::Slot;

/// Full chunks that make sealing worth while: up to this many rows, comparing each is about as fast as a graph.
pub const SEAL_CHUNKS: usize = 16;
/// A segment is merged with what is at least a half of its size.
const MERGE_RATIO: usize = 2;
/// Larger segments are left alone until they are half dead.
const MAX_MERGED_ROWS: usize = 4_000_000;
/// Rows that make sealing worth while once nobody writes.
const REST_ROWS: usize = 256;
/// Once nobody writes, rows beside the largest segment are merged into it when they are this part of it.
const REST_PART: usize = 8;
/// The share of dead rows past which a segment is written anew.
const DEAD_SHARE: f64 = 0.2;

/// What one sealing takes in.
pub struct Sources {
    chunks: Vec<Arc<Chunk>>,
    segments: Vec<Arc<Segment>>,
}

impl Sources {
    fn has(&self, part: u32) -> bool {
        self.chunks.iter().any(|chunk| chunk.part == part) || self.segments.iter().any(|segment| segment.part() == part)
    }
}

impl Index {
    /// Whether rows wait to be sealed.
    pub fn is_behind(&self) -> bool {
        self.parts.load().head.len() > SEAL_CHUNKS
    }

    /// What should be sealed now, if anything.
    pub fn sources(&self, at_least: usize) -> Option<Sources> {
        let parts = self.parts.load();
        if parts.segments.is_empty() && parts.head.len() < at_least.max(1) {
            // A small collection, of which there may be thousands.
            return None;
        }
        let full = parts.closed();
        let mut by_size = parts.fit();
        by_size.sort_by_key(|segment| segment.live());
        if full.len() >= at_least.max(1) {
            let mut rows: usize = full.iter().map(|chunk| chunk.len()).sum();
            let mut merged = Vec::new();
            for segment in by_size {
                if segment.live() >= MERGE_RATIO * rows || rows + segment.live() > MAX_MERGED_ROWS {
                    break;
                }
                rows += segment.live();
                merged.push(segment);
            }
            return Some(Sources { chunks: full, segments: merged });
        }
        let rotten = |segment: &Arc<Segment>| {
            segment.dead.len() as f64 > DEAD_SHARE * (segment.dead.len() + segment.live()) as f64
        };
        let rotten = by_size.into_iter().find(rotten)?;
        Some(Sources { chunks: Vec::new(), segments: vec![rotten] })
    }

    /// What should be sealed once nobody writes: then a search goes through few parts, and little waits in memory. It takes
    /// more work for each row than [`Index::sources`], so it is for when there is time.
    pub fn sources_at_rest(&self) -> Option<Sources> {
        self.close_chunk();
        let parts = self.parts.load();
        let chunks = parts.closed();
        let waiting: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        let segments = parts.fit();
        let sealed: usize = segments.iter().map(|segment| segment.live()).sum();
        let largest = segments.iter().map(|segment| segment.live()).max().unwrap_or(0);
        let beside = waiting + sealed - largest;
        if beside > 0 && beside * REST_PART >= largest && waiting + sealed <= MAX_MERGED_ROWS {
            return Some(Sources { chunks, segments });
        }
        (!chunks.is_empty()).then(|| self.sources(1)).flatten()
    }

    /// Lets no more rows into the last chunk, if it has enough for a segment.
    fn close_chunk(&self) {
        let _moving = self.moving.lock();
        if self.parts.load().head.last().is_some_and(|chunk| chunk.len() >= REST_ROWS) {
            let chunk = Arc::new(Chunk::new(self.new_part(), self.settings.dimension as usize));
            self.replace(|parts| parts.head.push(chunk));
        }
    }

    /// Is another one after each write that gave a slot a vector.
    pub fn written(&self) -> (u32, usize) {
        self.parts.load().head.last().map_or((0, 0), |chunk| (chunk.part, chunk.len()))
    }

    /// Builds a segment from the sources and puts it in their place. `directory` exists.
    pub fn seal(&self, sources: &Sources, directory: &Path, builder: &dyn Builder) -> Result<(), Error> {
        let part = self.new_part();
        let file = vectors_file(directory, part);
        let io = |source| Error::Io { doing: "writing", file: file.clone(), source };
        let mut writer = Writer::create(&file, self.settings.dimension as usize).map_err(io)?;
        // Where each row of the new segment comes from.
        let mut origins: Vec<Row> = Vec::new();
        let mut failure = None;
        let mut take = |part: u32, row: u32, slot: Slot, values: &[f32]| {
            origins.push(Row { part, row });
            if let Err(error) = writer.push(slot, values) {
                failure.get_or_insert(error);
            }
        };
        for segment in &sources.segments {
            segment.for_each(|row, slot, values| take(segment.part(), row, slot, values));
        }
        for chunk in &sources.chunks {
            chunk.for_each(|row, slot, values| take(chunk.part, row, slot, values));
        }
        failure.map_or_else(|| writer.finish(), Err).map_err(io)?;
        if origins.is_empty() {
            self.install(sources, None, &origins);
            return std::fs::remove_file(&file).map_err(io);
        }
        let segment = Segment::build(directory, part, &self.settings, builder)?;
        self.install(sources, Some(Arc::new(segment)), &origins);
        Ok(())
    }

    /// Rows that were replaced or removed during the building are dead in the new segment from the start.
    fn install(&self, sources: &Sources, segment: Option<Arc<Segment>>, origins: &[Row]) {
        let _moving = self.moving.lock();
        let mut rows = self.rows.write();
        if let Some(segment) = &segment {
            for (row, (slot, origin)) in segment.vectors.slots().iter().zip(origins).enumerate() {
                match rows.get_mut(*slot as usize) {
                    Some(place) if *place == Some(*origin) => {
                        *place = Some(Row { part: segment.part(), row: row as u32 });
                    }
                    _ => segment.dead.insert(row as u32),
                }
            }
        }
        self.replace(|parts| {
            parts.head.retain(|chunk| !sources.has(chunk.part));
            parts.segments.retain(|known| !sources.has(known.part()));
            parts.segments.extend(segment);
        });
    }
}

//! What is damaged on the disk: noticed, and built anew where that can be done.
//!
//! A graph follows from its vectors; one that is damaged was noticed when it was opened or searched, and is built again. Vectors follow
//! from nothing: an answer that needs a damaged row is refused, and whoever runs this searchd is told.

use std::path::Path;
use std::sync::Arc;

use super::Index;
use super::graph::Builder;
use super::proposer::Basis;
use super::segment::{Error, Segment, vectors_file};

impl Index {
    /// Whether a segment has no graph, and could have one.
    pub fn has_to_mend(&self) -> bool {
        self.parts.load().segments.iter().any(|segment| is_broken(segment))
    }

    /// Whether the graph of a segment is where its file is mapped.
    pub fn has_to_load(&self) -> bool {
        self.parts.load().segments.iter().any(|segment| segment.has_mapped_graph())
    }

    /// Whether the vectors of a segment are there and were not checked.
    pub fn has_to_check(&self) -> bool {
        self.parts.load().segments.iter().any(|segment| is_unchecked(segment))
    }

    /// Builds the graphs of segments that have none; returns how many.
    pub fn mend(&self, directory: &Path, builder: &dyn Builder) -> Result<usize, Error> {
        let broken: Vec<Arc<Segment>> = self.segments().into_iter().filter(|segment| is_broken(segment)).collect();
        for segment in &broken {
            let basis = Basis { sources: Vec::new(), taken: self.recent.taken() };
            self.put_in_place(segment.with_graph(directory, &self.settings, builder, &basis)?);
        }
        Ok(broken.len())
    }

    /// Reads the mapped graph of one segment into memory, where searches go through it faster, and checks it; false when there is
    /// none. One that turns out to be damaged is left out until it is built anew.
    pub fn load_one(&self, directory: &Path, builder: &dyn Builder) -> Result<bool, Error> {
        let mapped = self.segments().into_iter().find(|segment| segment.has_mapped_graph());
        let Some(segment) = mapped else { return Ok(false) };
        self.put_in_place(segment.with_graph_in_memory(directory, &self.settings, builder)?);
        Ok(true)
    }

    /// Puts a segment in place of the one whose files it has.
    fn put_in_place(&self, segment: Segment) {
        let _moving = self.moving.lock();
        self.replace(|parts| {
            if let Some(place) = parts.segments.iter_mut().find(|known| known.part() == segment.part()) {
                *place = Arc::new(segment);
            }
        });
    }

    /// Checks the vectors of one segment that was opened from the disk and not checked yet. Damaged rows are looked at again
    /// whenever they come up, and the segment with them is not taken for checked; it is reported once.
    pub fn check_one(&self, directory: &Path) -> Option<usize> {
        let segments = self.segments();
        let unchecked = segments.iter().find(|segment| is_unchecked(segment))?;
        let damaged = unchecked.vectors.check_all();
        if let Some(first) = damaged.first() {
            let (file, slot) = (vectors_file(directory, unchecked.part()), unchecked.vectors.slot(*first));
            tracing::error!(
                file = %file.display(), rows = damaged.len(), slot,
                "vectors are damaged, and answers that need them are refused; store the points anew, or restore a backup"
            );
        }
        Some(damaged.len())
    }
}

fn is_broken(segment: &Segment) -> bool {
    !segment.is_whole() && segment.vectors.is_there()
}

fn is_unchecked(segment: &Segment) -> bool {
    segment.vectors.is_there() && !segment.vectors.is_reviewed()
}

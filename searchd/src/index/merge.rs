//! Merging: segments of like sizes become one, so that there are few, and each row is built into few of them.
//!
//! It is the slow half of the work behind the scenes, and has a thread of its own: the head is sealed meanwhile.

use std::sync::Arc;
use std::time::Duration;

use super::Index;
use super::seal::{REST_ROWS, Sources};
use super::segment::Segment;

/// A segment is merged with smaller ones that have at least a half of its rows together.
const MERGE_RATIO: usize = 2;
/// So many segments are worth a merge while there are writes.
const MERGE_LEAST: usize = 4;
/// Larger segments are left alone until they are half dead.
const MAX_MERGED_ROWS: usize = 4_000_000;
/// Once nobody writes, rows beside the largest segment are merged into it when they are this part of it…
const REST_PART: usize = 16;
/// …and however few they are when nobody has written for so many times as long as it takes: every search goes through one segment
/// more for them.
const PATIENCE: u32 = 16;
/// To take a row from a graph into another, with its codes, its vector and its part of the trial.
const KEEPING: Duration = Duration::from_micros(25);
/// The share of dead rows past which a segment is written anew.
const DEAD_SHARE: f64 = 0.2;

impl Index {
    /// What should become one segment now, if anything.
    pub fn merge_sources(&self) -> Option<Sources> {
        self.merge_of(MERGE_LEAST)
    }

    /// The same once nobody writes, and has not for so long: then a search goes through few parts. It takes more work for each
    /// row, so it is for when there is time.
    pub fn merge_sources_at_rest(&self, quiet: Duration) -> Option<Sources> {
        // What waits is sealed first, and comes with the rest.
        if self.waiting_rows() >= REST_ROWS {
            return self.merge_sources();
        }
        let all = |segments: Vec<Arc<Segment>>| {
            let sealed: usize = segments.iter().map(|segment| segment.live()).sum();
            let beside = sealed - segments.iter().map(|segment| segment.live()).max().unwrap_or(0);
            let is_much = beside * REST_PART >= sealed - beside || quiet >= KEEPING * PATIENCE * sealed as u32;
            (beside > 0 && is_much && sealed <= MAX_MERGED_ROWS).then_some(segments)
        };
        // What is being built comes with the rest.
        let all = if self.claims.is_any() { None } else { self.claim(all) };
        all.or_else(|| self.merge_of(2)).or_else(|| self.narrowed_sources())
    }

    pub(super) fn claim(&self, choose: impl FnOnce(Vec<Arc<Segment>>) -> Option<Vec<Arc<Segment>>>) -> Option<Sources> {
        self.claims.take(|| self.parts.load_full(), choose).map(Sources::of_segments)
    }

    /// A segment whose codes may take fewer bits, now that users have asked: it is written anew once.
    fn narrowed_sources(&self) -> Option<Sources> {
        let may_narrow =
            |segment: &Arc<Segment>| segment.proposer().is_some_and(|proposer| proposer.may_narrow(&self.settings));
        self.claim(|segments| Some(vec![segments.into_iter().find(may_narrow)?]))
    }

    fn merge_of(&self, least: usize) -> Option<Sources> {
        self.claim(|mut by_size| {
            by_size.sort_by_key(|segment| segment.live());
            if let Some(end) = like(&by_size, least) {
                by_size.truncate(end);
                return Some(by_size);
            }
            let rotten = |segment: &Arc<Segment>| {
                segment.dead.len() as f64 > DEAD_SHARE * (segment.dead.len() + segment.live()) as f64
            };
            Some(vec![by_size.into_iter().find(rotten)?])
        })
    }
}

/// How many of the segments, the smallest first, are merged: up to the end of the first run of at least so many, each less
/// than twice as large as all before it in the run together.
fn like(by_size: &[Arc<Segment>], least: usize) -> Option<usize> {
    let runs = (0..by_size.len()).map(|start| {
        let (mut rows, mut end) = (0, start);
        let is_like = |segment: &Arc<Segment>, rows: usize| rows == 0 || segment.live() < MERGE_RATIO * rows;
        while by_size.get(end).is_some_and(|segment| is_like(segment, rows)) {
            rows += by_size[end].live();
            end += 1;
        }
        (start, end)
    });
    let mut long = runs.filter(|(start, end)| end - start >= least).map(|(_, end)| end);
    let rows = |end: usize| by_size[..end].iter().map(|segment| segment.live()).sum::<usize>();
    // Not with what would make it too large, as long as there is something to merge without.
    long.next().and_then(|end| (2..=end).rev().find(|end| rows(*end) <= MAX_MERGED_ROWS))
}

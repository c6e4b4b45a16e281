//! Searches that go through the index together: one look at its parts, one listing of what a filter admits, and rows
//! that are compared for all of them while they are in the cache. What each finds is what it would find alone.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::damage::Damaged;
use super::nearest::{ById, Hit, Nearest};
use super::newcomers::Reach;
use super::parts::{Listed, Parts};
use super::plan::Trail;
use super::{Index, Wanted};
use crate::search::stop::{Stop, Stopped};

/// The best hits, best first, and how they were found. A hit may have been replaced since: compare its row with
/// [`Index::row`].
pub type Found = Result<(Vec<Hit>, Trail), Lost>;

/// Why a search that ended has found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It needs this row.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// So much was written meanwhile that points which were there all the time may be missing.
    #[error("overtaken by writes")]
    Overtaken,
}

/// What a search starts from.
#[derive(Clone)]
pub(super) struct Start {
    parts: Arc<Parts>,
    /// Where the admitted rows are, if that is worth while to know.
    listed: Option<Rc<Listed>>,
    reach: Reach,
}

impl Start {
    /// All rows of these parts.
    pub(super) fn from_parts(parts: Arc<Parts>) -> Self {
        Self { reach: parts.reach(), parts, listed: None }
    }
}

/// One search under way.
pub(super) struct Search<'a> {
    pub(super) wanted: &'a Wanted<'a>,
    parts: Arc<Parts>,
    /// Where the admitted rows are, if that is worth while to know.
    pub(super) listed: Option<Rc<Listed>>,
    /// Rows of the head that come after that are left for the end.
    pub(super) reach: Reach,
    pub(super) nearest: Nearest<'a>,
    /// Live rows of the parts that it has been through.
    pub(super) seen: usize,
    /// Rows of the head that were compared in full precision.
    pub(super) compared: usize,
    pub(super) trail: Trail,
    /// A row that it needs; without it there is no answer.
    pub(super) damaged: Option<Damaged>,
}

impl<'a> Search<'a> {
    pub(super) fn new(wanted: &'a Wanted<'a>, start: Start, by_id: ById<'a>) -> Self {
        let Start { parts, listed, reach } = start;
        let (nearest, trail) = (Nearest::new(wanted.k, by_id), Trail::with_capacity(parts.segments.len() + 1));
        Self { wanted, parts, listed, reach, nearest, seen: 0, compared: 0, trail, damaged: None }
    }

    /// What came of it.
    pub(super) fn found(self) -> Found {
        match self.damaged {
            None => Ok((self.nearest.into_sorted(), self.trail)),
            Some(damaged) => Err(Lost::Damaged(damaged)),
        }
    }
}

impl Index {
    /// Finds for each what is wanted, in their order.
    pub fn search_all(&self, wanted: &[Wanted<'_>], by_id: ById<'_>, stop: &Stop) -> Result<Vec<Found>, Stopped> {
        if !self.parts.load().segments.is_empty() {
            let of_anywhere =
                |wanted: &&Wanted<'_>| wanted.admitted.is_none() && wanted.except.is_none() && !wanted.exact;
            wanted.iter().filter(of_anywhere).for_each(|wanted| self.recent.note(wanted.scorer.query()));
        }
        let is_alone = wanted.len() == 1;
        let written = self.written.load(Ordering::Acquire);
        let mut searches: Vec<Search<'_>> = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let start = self.start(wanted, &searches, is_alone);
            searches.push(Search::new(wanted, start, by_id));
        }
        // One, but where a segment was sealed or a chunk begun between the looks.
        let mut moments: Vec<Arc<Parts>> = Vec::with_capacity(1);
        for search in &searches {
            if !moments.iter().any(|parts| Arc::ptr_eq(parts, &search.parts)) {
                moments.push(search.parts.clone());
            }
        }
        for parts in moments {
            let of_then = searches.iter_mut().filter(|search| Arc::ptr_eq(&parts, &search.parts));
            parts.search(&mut of_then.collect::<Vec<_>>(), stop)?;
        }
        let is_whole = self.catch_up(&mut searches, written, stop)?;
        let found = searches.into_iter().map(Search::found);
        Ok(found.map(|found| if is_whole { found } else { found.and(Err(Lost::Overtaken)) }).collect())
    }

    /// The parts at one moment, and in which of their rows the admitted slots are at that moment, if that is worth while
    /// to know. `others` may know it.
    fn start(&self, wanted: &Wanted<'_>, others: &[Search<'_>], is_alone: bool) -> Start {
        let parts = self.parts.load_full();
        let Some(admitted) = wanted.admitted.filter(|admitted| parts.pays_to_list(wanted, admitted)) else {
            return Start::from_parts(parts);
        };
        let may_find_the_same = |other: &&Search<'_>| {
            other.wanted.except == wanted.except
                && other.wanted.admitted.is_some_and(|theirs| std::ptr::eq(theirs, admitted))
                && other.listed.is_some()
        };
        if let Some(other) = others.iter().find(may_find_the_same) {
            return Start { parts: other.parts.clone(), listed: other.listed.clone(), reach: other.reach };
        }
        // Rows change their part only under this lock; so the parts loaded under it have all rows that are found.
        let rows = self.rows.read();
        let parts = self.parts.load_full();
        let reach = parts.reach().short();
        let places = admitted.iter().take_while(|slot| (*slot as usize) < rows.len());
        let places = places.filter(|slot| wanted.except != Some(*slot)).filter_map(|slot| rows[slot as usize]);
        let mut listed = Listed::of_rows(places);
        drop(rows);
        if !is_alone {
            listed.sort();
        }
        Start { parts, listed: Some(Rc::new(listed)), reach }
    }
}

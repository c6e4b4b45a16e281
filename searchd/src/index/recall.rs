//! How much of the truth searches find: the same question asked as searches ask it, and exactly.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rand::RngExt;

use super::batch::{Search, Start};
use super::nearest::Hit;
use super::parts::Parts;
use super::trial::{ASKED, K};
use super::{Index, Wanted};
use crate::engine::Slot;
use crate::engine::settings::Effort;
use crate::search::stop::{Stop, Stopped};

/// Questions of users that are kept for each collection that has a graph: enough to know a recall to about a hundredth.
const KEPT: usize = 128;
/// Once so many are kept, one of this many takes the place of the oldest.
const EVERY: u64 = 16;
/// Looks for a live slot at random, where most may be dead.
const TRIES: usize = 64;

/// Some of the questions that users asked last.
#[derive(Default)]
pub(super) struct Recent {
    questions: Mutex<VecDeque<Vec<f32>>>,
    asked: AtomicU64,
}

impl Recent {
    pub(super) fn note(&self, query: &[f32]) {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if asked >= KEPT as u64 && !asked.is_multiple_of(EVERY) {
            return;
        }
        // Who looks at them may have been put off for long, and one more or less makes no difference.
        let Some(mut questions) = self.questions.try_lock() else { return };
        if questions.len() == KEPT {
            questions.pop_front();
        }
        questions.push_back(query.to_vec());
    }

    /// What to try a graph with.
    pub(super) fn taken(&self) -> Taken {
        let asked = self.asked.load(Ordering::Relaxed);
        let mut questions: Vec<Vec<f32>> = self.questions.lock().iter().cloned().collect();
        // Who asks one thing again and again says little about what else is asked.
        questions.sort_by(|a, b| a.iter().map(|value| value.to_bits()).cmp(b.iter().map(|value| value.to_bits())));
        questions.dedup();
        if questions.len() < ASKED {
            return Taken::default();
        }
        Taken { questions, asked }
    }
}

/// Questions of users, none of them twice; none where there are too few to go by.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub questions: Vec<Vec<f32>>,
    /// How many were asked until then.
    pub asked: u64,
}

/// What recall is measured with.
pub struct Question {
    values: Vec<f32>,
    /// The stored point that it is, which is no answer.
    own: Option<Slot>,
}

/// The answers to one question: how many of the nearest were found, of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub hits: usize,
    pub nearest: usize,
}

impl Index {
    /// How many questions users have asked of the graphs.
    pub fn asked(&self) -> u64 {
        self.recent.asked.load(Ordering::Relaxed)
    }

    /// A question: of a user, every other time and while there are any; else a stored point, at random. None where nothing
    /// is stored.
    pub fn question(&self, number: usize) -> Option<Question> {
        let mut random = rand::rng();
        if number.is_multiple_of(2) {
            let recent = self.recent.questions.lock();
            if !recent.is_empty() {
                let values = recent[random.random_range(0..recent.len())].clone();
                return Some(Question { values, own: None });
            }
        }
        let slots = self.rows.read().len();
        (0..if slots == 0 { 0 } else { TRIES }).find_map(|_| {
            let slot = random.random_range(0..slots) as Slot;
            Some(Question { values: self.values(slot).ok()??, own: Some(slot) })
        })
    }

    /// Asks it with this effort, and exactly. What is written meanwhile may count as missed. None where a row is damaged
    /// that an answer needs.
    pub fn try_question(&self, question: &Question, effort: Effort, stop: &Stop) -> Result<Option<Found>, Stopped> {
        self.try_in(self.parts.load_full(), question, effort, stop)
    }

    /// The same, leaving out the last rows that came, for whoever is put off: a writer never waits for it.
    pub fn try_aside(&self, question: &Question, effort: Effort, stop: &Stop) -> Result<Option<Found>, Stopped> {
        self.try_in(Arc::new(self.parts.load().without_open_chunk()), question, effort, stop)
    }

    fn try_in(
        &self,
        parts: Arc<Parts>,
        question: &Question,
        effort: Effort,
        stop: &Stop,
    ) -> Result<Option<Found>, Stopped> {
        let scorer = self.scorer(&question.values);
        let ask = |exact| {
            let wanted = Wanted { scorer: &scorer, k: K, effort, exact, admitted: None, except: question.own };
            let mut search = Search::new(&wanted, Start::from_parts(parts.clone()), &|a, b| a.cmp(&b));
            parts.search(&mut [&mut search], stop)?;
            Ok::<Option<Vec<Hit>>, Stopped>(search.found().ok().map(|(hits, _)| hits))
        };
        let (Some(found), Some(nearest)) = (ask(false)?, ask(true)?) else { return Ok(None) };
        // By score, for of equals one is as good as the other.
        let least = nearest.last().map_or(f32::INFINITY, |worst| worst.rank);
        let hits = found.iter().filter(|hit| hit.rank >= least).count().min(nearest.len());
        Ok(Some(Found { hits, nearest: nearest.len() }))
    }

    /// Candidates that the hardest of the segments keeps; 0 while there is no graph.
    pub fn candidates(&self, effort: Effort) -> usize {
        let segments = self.segments();
        let proposers = segments.iter().filter_map(|segment| segment.proposer());
        proposers.map(|proposer| proposer.candidates(effort, K)).max().unwrap_or(0)
    }
}

//! How searches go through a segment: by the graph, by the rows that a filter admits, or over all rows.
//!
//! Which way is decided by cost ([`super::super::plan`]): comparing every admitted row is often cheaper than a graph that
//! has to wade through the rest. A walk through the graph is one search's own; what is compared row by row is compared for
//! all searches of a batch together.

use std::time::{Duration, Instant};

use super::super::batch::Search;
use super::super::damage::Damaged;
use super::super::estimate::Estimates;
use super::super::graph::{self, Admission, Admits, Asked, Cost, Proposal, Ranked};
use super::super::nearest::Hit;
use super::super::plan::{self, Findable, Part, Plan, Step, Way};
use super::super::proposer::Proposer;
use super::super::sweep::{Course, Rows, Sweep};
use super::super::{Row, Wanted};
use super::Segment;
use super::living::Living;
use crate::engine::Slot;
use crate::search::stop::{Stop, Stopped};

impl Segment {
    /// Finds the best of this segment for each search, by the cheapest way.
    pub(in crate::index) fn search(&self, searches: &mut [&mut Search<'_>], stop: &Stop) -> Result<(), Stopped> {
        let listed: Vec<_> = searches.iter().map(|search| search.listed.clone()).collect();
        let mut courses = Vec::new();
        for (place, search) in searches.iter_mut().enumerate() {
            let started = Instant::now();
            let rows = listed[place].as_ref().map(|listed| listed.of(self.part()));
            let mut step = self.step(search.wanted, rows);
            let has_walked = match (step.plan.way, self.proposer()) {
                _ if search.damaged.is_some() => true,
                (Way::Skip, _) => true,
                (Way::Graph | Way::TwoHop | Way::Codes, Some(proposer)) => {
                    self.propose(proposer, search, rows, &mut step, stop)?
                }
                _ => false,
            };
            if !has_walked {
                courses.push(match rows {
                    Some(rows) if step.plan.way != Way::Scan => Course::new(place, Rows::Listed(rows)),
                    _ => Course::new(place, Rows::All(0..self.vectors.len() as u32)),
                });
            }
            step.took = started.elapsed();
            search.trail.push(step);
        }
        self.sweep(courses, searches, stop)
    }

    /// Compares row by row.
    fn sweep(&self, courses: Vec<Course<'_>>, searches: &mut [&mut Search<'_>], stop: &Stop) -> Result<(), Stopped> {
        if courses.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let together: Vec<usize> = courses.iter().map(|course| course.search).collect();
        let mut compared = vec![0; searches.len()];
        let mut sweep = Sweep::new(courses, searches[together[0]].wanted.scorer.query().len());
        while sweep.advance() {
            stop.check()?;
            for course in sweep.courses() {
                let search = &mut *searches[course.search];
                self.bring(&course.rows, search.wanted, stop)?;
                compared[course.search] += self.compare(&course.rows, search);
            }
        }
        // What is done together is each one's in equal parts.
        let took = started.elapsed() / together.len() as u32;
        for place in together {
            if let Some(step) = searches[place].trail.last_mut() {
                step.compared = compared[place];
                step.took += took;
            }
        }
        Ok(())
    }

    /// What is going to be done here, as far as it is known.
    fn step(&self, wanted: &Wanted<'_>, listed: Option<&[u32]>) -> Step {
        let findable = self.findable(wanted, listed);
        Step {
            part: Part::Segment(self.part()),
            rows: self.vectors.len(),
            live: self.live(),
            findable,
            plan: self.plan(wanted, findable),
            fell_back: false,
            computed: None,
            proposed: 0,
            compared: 0,
            took: Duration::ZERO,
        }
    }

    /// The cheapest way, and what each would cost.
    pub(in crate::index) fn plan(&self, wanted: &Wanted<'_>, findable: Findable) -> Plan {
        let rows = self.vectors.len();
        let row = plan::Row { dimension: wanted.scorer.query().len(), bytes: self.vectors.row_bytes() };
        let share = findable.number() / rows.max(1) as f64;
        let is_listed = matches!(findable, Findable::Counted(_));
        let proposing = self.proposer().filter(|_| !wanted.exact).map(|proposer| {
            let ef = proposer.candidates(wanted.effort, wanted.k);
            let is_narrowed = !self.is_all(wanted);
            proposer.costs(Cost { k: wanted.k, ef, share, is_narrowed, is_listed, row })
        });
        Plan::cheapest(rows, findable, row, proposing.unwrap_or_default())
    }

    fn findable(&self, wanted: &Wanted<'_>, listed: Option<&[u32]>) -> Findable {
        match (listed, wanted.admitted) {
            (Some(rows), _) => Findable::Counted(rows.len()),
            (None, Some(_)) => self.sample(wanted),
            (None, None) if self.live() == 0 => Findable::Counted(0),
            (None, None) => Findable::Estimated(self.live() as f64),
        }
    }

    /// Asks the graph; false when rows have to be compared instead.
    fn propose(
        &self,
        proposer: &Proposer,
        search: &mut Search<'_>,
        listed: Option<&[u32]>,
        step: &mut Step,
        stop: &Stop,
    ) -> Result<bool, Stopped> {
        let wanted = search.wanted;
        let admits = Living::of(self, wanted);
        let share = (step.findable.number() / step.rows as f64).clamp(1.0 / step.rows as f64, 1.0);
        let admission = (!self.is_all(wanted)).then_some(Admission { admits: &admits, share, listed });
        let ef = proposer.candidates(wanted.effort, wanted.k);
        let asked = Asked { query: wanted.scorer.query(), k: wanted.k, ef, way: step.plan.way, admission, stop };
        if asked.way != Way::Codes {
            let mut found = Vec::new();
            for ef in self.glance(search, ef).into_iter().chain([ef]) {
                let proposal = ask(proposer, &Asked { ef, ..asked }, step)?;
                // A graph that is cut into pieces by what is not admitted may end early, and the rows around the query may be
                // just those that are not. Fewer than k, or what happened to be near, is never an answer while there are more.
                let Some(mut proposal) =
                    proposal.filter(|proposal| !proposal.is_short && self.is_enough(proposal, wanted, step))
                else {
                    continue;
                };
                // Nothing is found twice.
                proposal.rows.retain(|row| found.binary_search(row).is_err());
                self.vectors.bring(&proposal.rows, stop)?;
                step.compared += self.compare(&Rows::Listed(&proposal.rows), search);
                match self.glanced(search) {
                    Some(more) if ef < asked.ef => found = more,
                    _ => return Ok(true),
                }
            }
            // All is looked at anew.
            search.nearest.forget(|hit| hit.row.part == self.part());
            step.fell_back = true;
            if step.plan.proposing.codes.is_none() {
                return Ok(false);
            }
        }
        self.rank(proposer, &asked, search, step)
    }

    /// Has the graph rank what is admitted, and compares from the top for as long as it may pay; false when all have to be
    /// compared instead.
    fn rank(
        &self,
        proposer: &Proposer,
        asked: &Asked<'_>,
        search: &mut Search<'_>,
        step: &mut Step,
    ) -> Result<bool, Stopped> {
        let mut estimates = Estimates::new(search.wanted.scorer, 0.0);
        let (mut proposed, mut compared, mut brought) = (0, 0, Ok(()));
        let outcome = proposer.rank(&Asked { way: Way::Codes, ..*asked }, &mut |rows, estimated| {
            proposed += rows.len();
            brought = self.vectors.bring(rows, asked.stop);
            if brought.is_ok() {
                compared += self.rescore(rows, estimated, &mut estimates, search);
            }
            let is_over = brought.is_err() || search.damaged.is_some();
            if is_over { f32::NEG_INFINITY } else { estimates.limit(search.nearest.threshold()) }
        });
        brought?;
        asked.stop.check()?;
        step.proposed += proposed;
        step.compared += compared;
        let Some(Ranked { computed, is_whole }) = unless_failed(outcome)? else { return Ok(false) };
        step.computed = Some(step.computed.unwrap_or(0) + computed);
        if !is_whole {
            search.nearest.forget(|hit| hit.row.part == self.part());
            step.fell_back = true;
        }
        // Whatever is admitted was ranked: fewer than are wanted are all there are.
        Ok(is_whole && proposed > 0)
    }

    /// Whether every row may be found.
    fn is_all(&self, wanted: &Wanted<'_>) -> bool {
        self.dead.is_empty() && wanted.admitted.is_none() && wanted.except.is_none()
    }

    /// Whether there are as many rows as there can be hits.
    fn is_enough(&self, proposal: &Proposal, wanted: &Wanted<'_>, step: &Step) -> bool {
        let least = match step.findable {
            Findable::Counted(rows) => wanted.k.min(rows),
            Findable::Estimated(_) => wanted.k.min(step.live),
        };
        proposal.rows.len() >= least
    }

    /// Returns when what is about to be compared is there, which it nearly always is.
    fn bring(&self, rows: &Rows<'_>, wanted: &Wanted<'_>, stop: &Stop) -> Result<(), Stopped> {
        match rows {
            _ if self.vectors.is_there() => Ok(()),
            Rows::Listed(rows) => self.vectors.bring(rows, stop),
            Rows::All(rows) => self.vectors.bring(&self.compared(rows.clone(), wanted), stop),
        }
    }

    /// Returns how many rows were compared. A damaged one ends the search.
    fn compare(&self, rows: &Rows<'_>, search: &mut Search<'_>) -> usize {
        if search.damaged.is_some() {
            return 0;
        }
        let (listed, is_dense);
        let rows = match rows {
            Rows::Listed(rows) => {
                is_dense = false;
                *rows
            }
            Rows::All(rows) => {
                listed = self.compared(rows.clone(), search.wanted);
                // The processor sees by itself where rows in order lead, and does not where there are gaps.
                is_dense = listed.len() * 4 > rows.len() * 3;
                &listed
            }
        };
        search.damaged = self.compare_listed(rows, is_dense, search).err();
        rows.len()
    }

    /// Those of the rows that are compared.
    fn compared(&self, rows: std::ops::Range<u32>, wanted: &Wanted<'_>) -> Vec<u32> {
        let slots = &self.vectors.slots()[rows.start as usize..rows.end as usize];
        let is_compared = |(row, slot): &(u32, &Slot)| wanted.admits(**slot) && !self.dead.contains(*row);
        rows.zip(slots).filter(is_compared).map(|(row, _)| row).collect()
    }

    fn compare_listed(&self, rows: &[u32], is_dense: bool, search: &mut Search<'_>) -> Result<(), Damaged> {
        let ahead = if is_dense { &[] } else { rows };
        ahead.iter().take(AHEAD).for_each(|row| self.vectors.prefetch(*row));
        for (i, row) in rows.iter().enumerate() {
            if let Some(next) = ahead.get(i + AHEAD) {
                self.vectors.prefetch(*next);
            }
            self.score(*row, search)?;
        }
        Ok(())
    }

    /// Compares what was ranked, but for rows that are most probably no nearer than what was found meanwhile. Returns how many
    /// that were. A damaged row ends the search.
    fn rescore(
        &self,
        rows: &[u32],
        estimated: &[f32],
        estimates: &mut Estimates<'_>,
        search: &mut Search<'_>,
    ) -> usize {
        let (mut limit, mut compared) = (f32::INFINITY, 0);
        rows.iter().take(AHEAD).for_each(|row| self.vectors.prefetch(*row));
        for (i, (row, estimate)) in rows.iter().zip(estimated).enumerate() {
            if i % LEARNED == 0 {
                limit = estimates.limit(search.nearest.threshold());
            }
            if let Some(next) = rows.get(i + AHEAD).filter(|_| estimated[i + AHEAD] <= limit) {
                self.vectors.prefetch(*next);
            }
            if *estimate > limit {
                continue;
            }
            compared += 1;
            match self.score(*row, search) {
                Ok(rank) => estimates.learn(*estimate, rank),
                Err(damaged) => {
                    search.damaged = Some(damaged);
                    break;
                }
            }
        }
        compared
    }

    fn score(&self, row: u32, search: &mut Search<'_>) -> Result<f32, Damaged> {
        let here = Row { part: self.part(), row };
        // Before its score is believed: a flipped bit may well move a row away.
        if !self.vectors.is_sound(row) {
            return Err(Damaged { row: here, slot: self.vectors.slot(row) });
        }
        let scorer = search.wanted.scorer;
        // One look less into memory where nobody asks.
        let inverse_norm = if scorer.has_norms() { self.vectors.inverse_norm(row) } else { 1.0 };
        let rank = scorer.rank(self.vectors.row(row), inverse_norm);
        if rank >= search.nearest.threshold() {
            search.nearest.push(Hit { rank, slot: self.vectors.slot(row), row: here });
        }
        Ok(rank)
    }

    /// How many rows may be found, from a sample.
    fn sample(&self, wanted: &Wanted<'_>) -> Findable {
        let (living, rows) = (Living::of(self, wanted), self.vectors.len() as u64);
        // In steps of the golden ratio of all rows: even ones would find all or nothing where every other row is admitted.
        let at = |i: u64| (((i.wrapping_mul(GOLDEN) >> 32) * rows) >> 32) as u32;
        let sampled = rows.min(SAMPLE);
        let found = if rows <= SAMPLE {
            (0..rows as u32).filter(|row| living.admits(*row)).count()
        } else {
            (0..SAMPLE).filter(|i| living.admits(at(*i))).count()
        };
        Findable::Estimated(found as f64 / sampled.max(1) as f64 * rows as f64)
    }
}

/// What the graph proposes; none where it failed.
fn ask(proposer: &Proposer, asked: &Asked<'_>, step: &mut Step) -> Result<Option<Proposal>, Stopped> {
    let proposal = proposer.propose(asked);
    asked.stop.check()?;
    let proposal = unless_failed(proposal)?;
    if let Some(proposal) = &proposal {
        step.proposed += proposal.rows.len();
        step.computed = proposal.computed.map(|computed| step.computed.unwrap_or(0) + computed);
    }
    Ok(proposal)
}

/// What a graph gave; none where it failed.
fn unless_failed<T>(outcome: Result<T, graph::Error>) -> Result<Option<T>, Stopped> {
    match outcome {
        Ok(given) => Ok(Some(given)),
        Err(graph::Error::Stopped(stopped)) => Err(stopped),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a graph failed; comparing every row");
            Ok(None)
        }
    }
}

/// Rows looked at to estimate how many a filter admits.
const SAMPLE: u64 = 2_048;
/// The golden ratio's part of 2⁶⁴ (Knuth, The Art of Computer Programming 3, 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// Rows that are asked for ahead of the one being compared.
const AHEAD: usize = 4;
/// Rows that are compared before what was learned from them is made use of.
const LEARNED: usize = 8;

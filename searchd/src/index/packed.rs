//! Our own graph behind the seam: which width of codes a segment gets, and what a search asks of it.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use super::calibration::Calibration;
use super::engines::Crew;
use super::graph::{Admission, Asked, Cost, Each, Error, Graph, Kind, Proposal, Ranked, Source, Stored};
use super::plan::{Proposing, TURN, Way, compare_code};
use super::trial::Trial;
use super::vectors::Vectors;
use crate::engine::settings::{self, Effort, Quantization, Recall, Settings};
use crate::graph::build::{Plan, grow};
use crate::graph::search::{Filter, Halted, Searcher, Through, Wanted};
use crate::graph::{self, Metric, Width};
use crate::search::stop::Stopped;

/// Neighbours of a row at most, for each `hnsw.m`: HNSW, too, keeps twice `m` on the layer that counts, and here lists are as
/// long as pruning leaves them.
const DEGREE_PER_M: u32 = 4;
/// Longest lists that are of use.
const MAX_DEGREE: u32 = 80;
/// Candidates above which codes of more bits are tried: past these a search spends more on wrong turns than on bytes.
const SANE_EF: usize = 240;
/// Of how many rows for each hit a ranking without a walk tells at first, in order: how many more are worth a comparison is
/// seen meanwhile.
const RANKED_FIRST: usize = 8;
/// Below so many dimensions two bits are not tried: there is too little to average over.
const MIN_TWO_BITS: usize = 96;
/// The same of one bit, where rows are long enough for it to save memory worth an eighth more time.
const MIN_ONE_BIT: usize = 512;

// Nanoseconds of a walk, measured like those of `plan`.

/// To turn the query, and to come to where the nearest rows are.
const START: f64 = 20_000.0;
/// To look at one candidate's neighbours, and for each bit of a row's code on top of it.
const CANDIDATE: f64 = 450.0;
const BIT: f64 = 0.25;
/// To ask whether a row is admitted.
const ASK: f64 = 3.0;
/// To look for admitted rows around a candidate, where hardly any is.
const CROSS: f64 = 7_500.0;
/// A walk under a filter takes this many times one that keeps as many more candidates as the filter keeps out.
const FILTERED: f64 = 1.5;

thread_local! {
    /// What a search needs, kept for each thread that searches: one byte for each row of the largest graph, and little more.
    static SEARCHER: RefCell<Searcher> = RefCell::default();
}

pub(super) struct Packed(graph::Graph);

pub(super) fn build(
    settings: &Settings,
    vectors: &Vectors,
    sources: &[Source<'_>],
    trial: &Trial<'_>,
    crew: &Crew,
) -> Result<(Packed, Calibration), Error> {
    let engine = |error: graph::BuildError| match error {
        graph::BuildError::Stopped => Error::Stopped(Stopped::Cancelled),
        error => Error::Engine(Box::new(error)),
    };
    let widths = widths(settings);
    let (first, wider) = widths.split_first().expect("there is always a width");
    let ours =
        sources.iter().filter_map(|source| Some(grow::Source { graph: source.graph.packed()?, rows: &source.rows }));
    let (metric, plan, ours) = (metric(settings.metric), plan(settings, crew), ours.collect::<Vec<_>>());
    let built = graph::Graph::grow(metric, vectors, *first, &plan, &ours).map_err(engine)?;
    crew.work.kept.fetch_add(built.inherited() as u64, Ordering::Relaxed);
    crew.work.placed.fetch_add((built.len() - built.inherited()) as u64, Ordering::Relaxed);
    let mut packed = Packed(built);
    if settings.quantization == Quantization::Pq {
        packed.0.partition(vectors, Some(&*crew.stop)).map_err(engine)?;
    }
    let mut calibration = trial.calibrate(&packed)?;
    let target = match settings.effort {
        Effort::Candidates(_) => Recall::USUAL,
        Effort::Recall(recall) => recall,
    };
    let is_enough = |calibration: &Calibration| calibration.reaches(target) && calibration.ef_for(target) <= SANE_EF;
    for width in wider {
        if is_enough(&calibration) {
            break;
        }
        packed.0.repack(vectors, *width);
        calibration = trial.calibrate(&packed)?;
    }
    if packed.0.is_partitioned() && !is_enough(&calibration) {
        // Rows that lie otherwise than partitions take for granted may still be well to walk through.
        packed.0.unite();
        calibration = trial.calibrate(&packed)?;
    }
    Ok((packed, calibration))
}

pub(super) fn open(settings: &Settings, vectors: &Vectors, stored: Stored) -> Result<Packed, Error> {
    let opened = graph::Graph::open(stored.bytes, stored.check);
    let graph = opened.map_err(|error| Error::Engine(Box::new(error)))?;
    let is_of_vectors = graph.len() == vectors.len()
        && graph.dimension() == settings.dimension as usize
        && graph.metric() == metric(settings.metric);
    if is_of_vectors { Ok(Packed(graph)) } else { Err(Error::Foreign) }
}

/// The widths to try, the narrowest first. None takes as many bytes as the next, which finds more: rows of four and eight bits begin
/// on cache lines.
fn widths(settings: &Settings) -> Vec<Width> {
    let dimension = settings.dimension as usize;
    let all: &[Width] = match settings.quantization {
        Quantization::Binary => &[Width::One],
        Quantization::Pq if dimension >= MIN_ONE_BIT => &[Width::One, Width::Two, Width::Four, Width::Eight],
        Quantization::Pq if dimension >= MIN_TWO_BITS => &[Width::Two, Width::Four, Width::Eight],
        Quantization::Pq => &[Width::Four, Width::Eight],
        _ => &[Width::Eight],
    };
    let bytes = |width: &Width| graph::Graph::row_bytes(metric(settings.metric), dimension, *width);
    let is_least = |at: usize| all.get(at + 1).is_none_or(|next| bytes(&all[at]) < bytes(next));
    (0..all.len()).filter(|at| is_least(*at)).map(|at| all[at]).collect()
}

fn plan(settings: &Settings, crew: &Crew) -> Plan {
    let degree = (settings.m * DEGREE_PER_M).min(MAX_DEGREE) as usize;
    let ef = (settings.ef_construction as usize).max(degree);
    Plan { degree, ef, threads: crew.threads, stop: Some(crew.stop.clone()), ..Plan::default() }
}

pub(super) fn metric(metric: settings::Metric) -> Metric {
    match metric {
        settings::Metric::Cosine => Metric::Cosine,
        settings::Metric::Dot => Metric::Dot,
        settings::Metric::Euclidean => Metric::Euclidean,
    }
}

impl Packed {
    /// Of `ef` candidates, how many are worth an exact comparison to find `k`: the coarser the codes, the more.
    fn rescored(&self, k: usize, ef: usize) -> usize {
        let worth = match self.0.width() {
            Width::Eight => k + k / 2,
            Width::Four => (3 * k).max(ef / 16),
            Width::Two => (8 * k).max(ef / 4),
            Width::One => ef,
        };
        worth.min(ef)
    }

    /// Candidates of a walk.
    fn kept(&self, asked: &Asked<'_>) -> usize {
        asked.ef.min(self.0.len()).max(asked.k)
    }
}

/// As the graph has it.
fn filter<'a>(asked: &Asked<'a>) -> Option<Filter<'a>> {
    let through = if asked.way == Way::TwoHop { Through::Admitted } else { Through::All };
    let Admission { admits, share, listed } = asked.admission?;
    Some(Filter { admits, fraction: share as f32, listed, through })
}

/// The search asked and was told to stop; a deadline doesn't come back.
fn halted(halted: Halted, asked: &Asked<'_>) -> Error {
    match halted {
        Halted::Stopped => asked.stop.check().err().map_or(Error::Foreign, Error::Stopped),
        Halted::Damaged => Error::Damaged,
    }
}

impl Graph for Packed {
    fn kind(&self) -> Kind {
        Kind::Packed
    }

    fn propose(&self, asked: &Asked<'_>) -> Result<Proposal, Error> {
        let stop = || asked.stop.check().is_err();
        let (Asked { query, k, .. }, ef) = (*asked, self.kept(asked));
        let rescored = self.rescored(k, ef);
        let wanted = Wanted { query, k, ef, rescored, filter: filter(asked), stop: Some(&stop) };
        SEARCHER.with_borrow_mut(|searcher| {
            let proposed = self.0.propose(searcher, &wanted).map_err(|reason| halted(reason, asked))?;
            let (rows, is_short) = (proposed.rows.to_vec(), proposed.is_short);
            Ok(Proposal { rows, is_short, computed: Some(searcher.effort().distances) })
        })
    }

    fn rank(&self, asked: &Asked<'_>, each: Each<'_>) -> Result<Ranked, Error> {
        let stop = || asked.stop.check().is_err();
        let Asked { query, k, .. } = *asked;
        let first = k.saturating_mul(RANKED_FIRST).min(self.0.len());
        let wanted = Wanted { query, k, ef: first, rescored: first, filter: filter(asked), stop: Some(&stop) };
        SEARCHER.with_borrow_mut(|searcher| {
            let is_whole = self.0.rank(searcher, &wanted, each).map_err(|reason| halted(reason, asked))?;
            Ok(Ranked { computed: searcher.effort().distances, is_whole })
        })
    }

    fn costs(&self, search: Cost) -> Proposing {
        let Cost { k, ef, share, row, .. } = search;
        let dimension = row.dimension;
        let (rows, share) = (self.0.len() as f64, share.max(1e-9));
        let bits = (self.0.width().bits() * dimension) as f64;
        let candidate = CANDIDATE + BIT * bits;
        let wading = if share < 1.0 { FILTERED / share } else { 1.0 };
        let compared = self.rescored(k, ef) as f64 * row.compare_at_random();
        let listing = if search.is_listed { 0.0 } else { rows * ASK };
        let codes = TURN + listing + share * rows * compare_code(dimension) + compared;
        let two_hop = START + ef as f64 * (candidate * FILTERED + CROSS * (1.0 - share)) + compared;
        let filtered = |cost: f64| search.is_narrowed.then_some(cost);
        let graph = Some(START + ef as f64 * candidate * wading + compared);
        Proposing { codes: filtered(codes), two_hop: filtered(two_hop), graph }
    }

    fn least(&self, k: usize) -> usize {
        match self.0.width() {
            Width::Eight => k + k / 2,
            Width::Four => 3 * k,
            Width::Two => 8 * k,
            // Long codes rank well enough for a few candidates to do; how many is measured from there on.
            Width::One if self.0.dimension() >= MIN_ONE_BIT => 4 * k,
            Width::One => 16 * k,
        }
    }

    fn unreachable(&self, _: &Vectors) -> Result<Vec<u32>, Error> {
        Ok(self.0.unreachable())
    }

    fn has_open_way(&self) -> bool {
        self.0.is_partitioned()
    }

    fn is_sound(&self) -> bool {
        self.0.is_sound()
    }

    fn is_checked(&self) -> bool {
        self.0.is_checked()
    }

    fn memory_bytes(&self) -> u64 {
        self.0.bytes() as u64
    }

    fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        Ok(self.0.to_bytes())
    }

    fn is_widened(&self, settings: &Settings) -> bool {
        widths(settings).first().is_some_and(|narrowest| self.0.width().bits() > narrowest.bits())
    }

    fn packed(&self) -> Option<&graph::Graph> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use nearfield_proto::v1;

    use super::*;

    #[test]
    fn a_width_that_saves_no_bytes_is_not_tried() {
        let widths = |dimension, metric: &str| {
            let message = v1::CollectionSettings { dimension, metric: metric.into(), ..Default::default() };
            let settings = Settings::from_message(&message).unwrap();
            let bytes = |width| graph::Graph::row_bytes(super::metric(settings.metric), dimension as usize, width);
            let widths = widths(&settings);
            assert!(widths.is_sorted_by(|a, b| a < b && bytes(*a) < bytes(*b)), "{metric} {dimension}: {widths:?}");
            assert_eq!(widths.last(), Some(&Width::Eight), "what finds all is never out of reach");
            widths
        };
        for metric in ["cosine", "dot", "euclidean"] {
            (1..=1_600).for_each(|dimension| drop(widths(dimension, metric)));
        }
        assert_eq!(widths(50, "cosine"), [Width::Eight]);
        assert_eq!(widths(50, "euclidean"), [Width::Four, Width::Eight]);
        assert_eq!(widths(384, "cosine"), [Width::Two, Width::Four, Width::Eight]);
    }
}

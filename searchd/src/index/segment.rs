//! A sealed part of the index: vectors in a mapped file, a graph that proposes, tombstones for what is gone.
//!
//! Its files never change, but for a graph that was damaged and is built anew. Which way a search goes through it is
//! decided by cost ([`super::plan`]): comparing every admitted row is often cheaper than a graph that has to wade through
//! the rest.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bits::Tombstones;
use super::graph::{self, Admission, Asked, Builder, Cost};
use super::nearest::{Hit, Nearest};
use super::plan::{Findable, Part, Plan, Step, Way};
use super::proposer::{self, Proposer};
use super::vectors::Vectors;
use super::{Row, Wanted};
use crate::engine::Slot;
use crate::engine::settings::Settings;
use crate::search::stop::{Stop, Stopped};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} the segment file {}", .file.display())]
    Io { doing: &'static str, file: PathBuf, source: io::Error },
    #[error("the graph file {}", .file.display())]
    Graph { file: PathBuf, source: proposer::Error },
}

/// What a manifest remembers of a segment: its number in its collection and what its files must hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub part: u32,
    pub vectors: blake3::Hash,
    pub graph: blake3::Hash,
}

pub struct Segment {
    pub sealed: Sealed,
    pub vectors: Arc<Vectors>,
    pub dead: Arc<Tombstones>,
    /// None while a damaged one waits to be built anew: then every row is compared.
    proposer: Option<Proposer>,
    disk_bytes: u64,
}

pub(crate) fn vectors_file(directory: &Path, part: u32) -> PathBuf {
    directory.join(format!("segment-{part:08}.vectors"))
}

pub(crate) fn graph_file(directory: &Path, part: u32) -> PathBuf {
    directory.join(format!("segment-{part:08}.graph"))
}

impl Segment {
    /// Builds the graph of a vectors file that was written just now.
    pub fn build(directory: &Path, part: u32, settings: &Settings, builder: &dyn Builder) -> Result<Self, Error> {
        let file = vectors_file(directory, part);
        let vectors = Vectors::open_fresh(&file).map_err(|source| opening(&file, source))?;
        let sealed = Sealed { part, vectors: hash(&file)?, graph: blake3::Hash::from_bytes([0; blake3::OUT_LEN]) };
        let dead = Arc::new(Tombstones::new(vectors.len()));
        let bare = Self { sealed, vectors: Arc::new(vectors), dead, proposer: None, disk_bytes: 0 };
        bare.with_graph(directory, settings, builder)
    }

    /// Opens what was built before. A graph that is missing or damaged is no error: it can be built anew.
    /// Damaged vectors are one: where the file is small enough for all of it to be checked here.
    pub fn open(directory: &Path, sealed: Sealed, settings: &Settings, builder: &dyn Builder) -> Result<Self, Error> {
        let segment = Self::open_unchecked(directory, sealed, settings, builder)?;
        if segment.vectors.file_bytes() <= CHECKED_AT_OPEN && !segment.vectors.check_all().is_empty() {
            let source = io::Error::new(io::ErrorKind::InvalidData, "its vectors are damaged");
            return Err(opening(&vectors_file(directory, sealed.part), source));
        }
        Ok(segment)
    }

    /// As [`Segment::open`], without looking at all vectors: each is checked when it is looked at first.
    pub fn open_unchecked(
        directory: &Path,
        sealed: Sealed,
        settings: &Settings,
        builder: &dyn Builder,
    ) -> Result<Self, Error> {
        let (vectors_file, graph_file) = (vectors_file(directory, sealed.part), graph_file(directory, sealed.part));
        let vectors = Vectors::open(&vectors_file).map_err(|source| opening(&vectors_file, source))?;
        let proposer = match Proposer::open(&graph_file, builder, settings, &vectors) {
            Ok(proposer) => Some(proposer),
            Err(source @ proposer::Error::Unknown(_)) => return Err(Error::Graph { file: graph_file, source }),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, file = %graph_file.display(), "a graph is damaged; it will be built anew");
                None
            }
        };
        let dead = Arc::new(Tombstones::new(vectors.len()));
        let disk_bytes = vectors.file_bytes() + length(&graph_file);
        Ok(Self { sealed, vectors: Arc::new(vectors), dead, proposer, disk_bytes })
    }

    /// The same segment, tombstones and all, with a graph that is built now.
    pub fn with_graph(&self, directory: &Path, settings: &Settings, builder: &dyn Builder) -> Result<Self, Error> {
        let file = graph_file(directory, self.part());
        let failed = |source| Error::Graph { file: file.clone(), source };
        let proposer = Proposer::build(builder, settings, &self.vectors).map_err(failed)?;
        // Under another name first: a crash must not leave a half of it.
        let unfinished = file.with_extension("tmp");
        proposer.write(&unfinished).map_err(failed)?;
        std::fs::rename(&unfinished, &file).map_err(|source| opening(&file, source))?;
        let sealed = Sealed { graph: hash(&file)?, ..self.sealed };
        let disk_bytes = self.vectors.file_bytes() + length(&file);
        let (vectors, dead) = (self.vectors.clone(), self.dead.clone());
        Ok(Self { sealed, vectors, dead, proposer: Some(proposer), disk_bytes })
    }

    /// Whether its graph is there.
    pub fn is_whole(&self) -> bool {
        self.proposer.is_some()
    }

    pub fn proposer(&self) -> Option<&Proposer> {
        self.proposer.as_ref()
    }

    pub fn part(&self) -> u32 {
        self.sealed.part
    }

    pub fn live(&self) -> usize {
        self.vectors.len() - self.dead.len()
    }

    pub fn memory_bytes(&self) -> u64 {
        self.proposer.as_ref().map_or(0, Proposer::memory_bytes)
            + self.vectors.memory_bytes()
            + self.dead.bytes() as u64
    }

    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Calls `each` with the rows that live.
    pub fn for_each(&self, mut each: impl FnMut(u32, Slot, &[f32])) {
        let is_there = |row: &u32| !self.dead.contains(*row) && self.vectors.is_sound(*row);
        for row in (0..self.vectors.len() as u32).filter(is_there) {
            each(row, self.vectors.slot(row), self.vectors.row(row));
        }
    }

    /// Finds the best of this segment by the cheapest way. `listed` are the live rows of what is admitted, where they
    /// were looked up.
    pub fn search(
        &self,
        wanted: &Wanted<'_>,
        listed: Option<&[u32]>,
        nearest: &mut Nearest<'_>,
        stop: &Stop,
    ) -> Result<Step, Stopped> {
        let started = Instant::now();
        let findable = self.findable(wanted, listed);
        let plan = self.plan(wanted, findable);
        let mut step = Step {
            part: Part::Segment(self.part()),
            rows: self.vectors.len(),
            live: self.live(),
            findable,
            plan,
            fell_back: false,
            computed: None,
            proposed: 0,
            compared: 0,
            took: Duration::ZERO,
        };
        match (plan.way, listed) {
            (Way::Skip, _) => {}
            (Way::Rows, Some(rows)) => step.compared = self.compare(rows, wanted, nearest, stop)?,
            (Way::Rows | Way::Scan, _) => step.compared = self.scan(wanted, nearest, stop)?,
            (Way::Graph, _) => match &self.proposer {
                Some(proposer) => self.walk(proposer, wanted, listed, &mut step, nearest, stop)?,
                None => step.compared = self.scan(wanted, nearest, stop)?,
            },
        }
        step.took = started.elapsed();
        Ok(step)
    }

    fn plan(&self, wanted: &Wanted<'_>, findable: Findable) -> Plan {
        let (rows, dimension) = (self.vectors.len(), wanted.scorer.query().len());
        let share = findable.number() / rows as f64;
        let graph = self.proposer.as_ref().filter(|_| !wanted.exact).map(|proposer| {
            let ef = proposer.candidates(wanted.effort, wanted.k);
            proposer.cost(Cost { ef, share, dimension })
        });
        Plan::cheapest(rows, findable, dimension, graph)
    }

    /// Nanoseconds that this segment would cost if so large a share of it were admitted.
    pub fn expected_cost(&self, wanted: &Wanted<'_>, share: f64) -> f64 {
        self.plan(wanted, Findable::Estimated(share * self.live() as f64)).cost()
    }

    fn findable(&self, wanted: &Wanted<'_>, listed: Option<&[u32]>) -> Findable {
        match (listed, wanted.admitted) {
            (Some(rows), _) => Findable::Counted(rows.len()),
            (None, Some(_)) => self.sample(wanted),
            (None, None) if self.live() == 0 => Findable::Counted(0),
            (None, None) => Findable::Estimated(self.live() as f64),
        }
    }

    fn walk(
        &self,
        proposer: &Proposer,
        wanted: &Wanted<'_>,
        listed: Option<&[u32]>,
        step: &mut Step,
        nearest: &mut Nearest<'_>,
        stop: &Stop,
    ) -> Result<(), Stopped> {
        let admits = |row: u32| !self.dead.contains(row) && wanted.admits(self.vectors.slot(row));
        let everything = self.dead.is_empty() && wanted.admitted.is_none() && wanted.except.is_none();
        let share = (step.findable.number() / step.rows as f64).clamp(1.0 / step.rows as f64, 1.0);
        let admission = (!everything).then_some(Admission { admits: &admits, share });
        let ef = proposer.candidates(wanted.effort, wanted.k);
        let asked = Asked { query: wanted.scorer.query(), k: wanted.k, ef, admission, stop };
        let proposal = proposer.propose(&asked);
        stop.check()?;
        // A graph that is cut into pieces by what is not admitted may end early, and the rows around the query may be just
        // those that are not. Fewer than k, or what happened to be near, is never an answer while there are more.
        let least = match step.findable {
            Findable::Counted(rows) => wanted.k.min(rows),
            Findable::Estimated(_) => wanted.k.min(step.live),
        };
        match proposal {
            Ok(proposal) => {
                (step.proposed, step.computed) = (proposal.rows.len(), proposal.computed);
                if proposal.rows.len() >= least && !proposal.is_short {
                    step.compared = proposal.rows.len();
                    self.score_all(&proposal.rows, wanted, nearest);
                    return Ok(());
                }
            }
            Err(graph::Error::Stopped(stopped)) => return Err(stopped),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a graph failed; comparing every row");
            }
        }
        step.fell_back = true;
        step.compared = match listed {
            Some(rows) => self.compare(rows, wanted, nearest, stop)?,
            None => self.scan(wanted, nearest, stop)?,
        };
        Ok(())
    }

    /// Returns how many rows were compared.
    fn scan(&self, wanted: &Wanted<'_>, nearest: &mut Nearest<'_>, stop: &Stop) -> Result<usize, Stopped> {
        let slots = self.vectors.slots();
        let mut compared = 0;
        for (block, slots) in slots.chunks(SCAN_BLOCK).enumerate() {
            stop.check()?;
            for (i, slot) in slots.iter().enumerate() {
                let row = (block * SCAN_BLOCK + i) as u32;
                if wanted.admits(*slot) && !self.dead.contains(row) {
                    self.score(row, wanted, nearest);
                    compared += 1;
                }
            }
        }
        Ok(compared)
    }

    /// Compares these rows, which lived when they were looked up.
    fn compare(
        &self,
        rows: &[u32],
        wanted: &Wanted<'_>,
        nearest: &mut Nearest<'_>,
        stop: &Stop,
    ) -> Result<usize, Stopped> {
        for block in rows.chunks(SCAN_BLOCK) {
            stop.check()?;
            self.score_all(block, wanted, nearest);
        }
        Ok(rows.len())
    }

    fn score_all(&self, rows: &[u32], wanted: &Wanted<'_>, nearest: &mut Nearest<'_>) {
        rows.iter().take(AHEAD).for_each(|row| self.vectors.prefetch(*row));
        for (i, row) in rows.iter().enumerate() {
            if let Some(next) = rows.get(i + AHEAD) {
                self.vectors.prefetch(*next);
            }
            self.score(*row, wanted, nearest);
        }
    }

    fn score(&self, row: u32, wanted: &Wanted<'_>, nearest: &mut Nearest<'_>) {
        let rank = wanted.scorer.rank(self.vectors.row(row), self.vectors.inverse_norm(row));
        if rank >= nearest.threshold() && self.vectors.is_sound(row) {
            let slot = self.vectors.slot(row);
            nearest.push(Hit { rank, slot, row: Row { part: self.part(), row } });
        }
    }

    /// How many rows may be found, from an even sample.
    fn sample(&self, wanted: &Wanted<'_>) -> Findable {
        let slots = self.vectors.slots();
        let step = slots.len().div_ceil(SAMPLE).max(1);
        let findable = |(row, slot): &(usize, &Slot)| wanted.admits(**slot) && !self.dead.contains(*row as u32);
        let found = slots.iter().enumerate().step_by(step).filter(findable).count();
        Findable::Estimated(found as f64 / slots.len().div_ceil(step).max(1) as f64 * slots.len() as f64)
    }
}

fn opening(file: &Path, source: io::Error) -> Error {
    Error::Io { doing: "opening", file: file.into(), source }
}

fn length(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |file| file.len())
}

fn hash(file: &Path) -> Result<blake3::Hash, Error> {
    let read = || {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(std::fs::File::open(file)?)?;
        Ok(hasher.finalize())
    };
    read().map_err(|source| Error::Io { doing: "reading", file: file.into(), source })
}

/// Bytes of vectors that are all checked before they are served: some ten milliseconds. Larger files are served at once and
/// checked meanwhile.
const CHECKED_AT_OPEN: u64 = 64 << 20;
/// Rows between two looks at the clock.
const SCAN_BLOCK: usize = 1_024;
/// Rows looked at to estimate how many a filter admits.
const SAMPLE: usize = 2_048;
/// Rows that are asked for ahead of the one being compared.
const AHEAD: usize = 4;

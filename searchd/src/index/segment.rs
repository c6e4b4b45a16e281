//! A sealed part of the index: vectors in a mapped file, a graph that proposes, tombstones for what is gone.
//!
//! Its files never change. Which way a search goes through it is decided by cost ([`super::plan`]): comparing every
//! admitted row is often cheaper than a graph that has to wade through the rest.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::bits::Tombstones;
use super::graph::{self, Admission, Builder, Cost, Graph, Rows};
use super::nearest::{Hit, Nearest};
use super::plan::{Findable, Part, Plan, Step, Way};
use super::vectors::Vectors;
use super::{Row, Wanted};
use crate::engine::Slot;
use crate::engine::settings::Settings;
use crate::search::stop::{Stop, Stopped};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} the segment file {}", .file.display())]
    Io { doing: &'static str, file: PathBuf, source: io::Error },
    #[error("the segment file {} is damaged: its checksum is another one", .0.display())]
    Damaged(PathBuf),
    #[error(transparent)]
    Graph(#[from] graph::Error),
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
    pub vectors: Vectors,
    pub dead: Tombstones,
    graph: Box<dyn Graph>,
    disk_bytes: u64,
}

pub(crate) fn vectors_file(directory: &Path, part: u32) -> PathBuf {
    directory.join(format!("segment-{part:08}.vectors"))
}

pub(crate) fn graph_file(directory: &Path, part: u32) -> PathBuf {
    directory.join(format!("segment-{part:08}.graph"))
}

impl Segment {
    /// Builds the graph of a vectors file that is already there.
    pub fn build(directory: &Path, part: u32, settings: &Settings, builder: &dyn Builder) -> Result<Self, Error> {
        let (vectors_file, graph_file) = (vectors_file(directory, part), graph_file(directory, part));
        let vectors = open_vectors(&vectors_file)?;
        builder.build(settings, &vectors, &graph_file)?;
        let sealed = Sealed { part, vectors: hash(&vectors_file)?, graph: hash(&graph_file)? };
        Self::assemble(&graph_file, sealed, vectors, settings, builder)
    }

    /// Opens what was built before, and checks that it is what it was.
    pub fn open(directory: &Path, sealed: Sealed, settings: &Settings, builder: &dyn Builder) -> Result<Self, Error> {
        let (vectors_file, graph_file) = (vectors_file(directory, sealed.part), graph_file(directory, sealed.part));
        for (file, expected) in [(&vectors_file, sealed.vectors), (&graph_file, sealed.graph)] {
            if hash(file)? != expected {
                return Err(Error::Damaged(file.clone()));
            }
        }
        let vectors = open_vectors(&vectors_file)?;
        Self::assemble(&graph_file, sealed, vectors, settings, builder)
    }

    fn assemble(
        graph_file: &Path,
        sealed: Sealed,
        vectors: Vectors,
        settings: &Settings,
        builder: &dyn Builder,
    ) -> Result<Self, Error> {
        let graph = builder.open(settings, &vectors, graph_file)?;
        let dead = Tombstones::new(vectors.len());
        let disk_bytes = vectors.file_bytes() + std::fs::metadata(graph_file).map_or(0, |file| file.len());
        Ok(Self { sealed, vectors, dead, graph, disk_bytes })
    }

    pub fn part(&self) -> u32 {
        self.sealed.part
    }

    pub fn live(&self) -> usize {
        self.vectors.len() - self.dead.len()
    }

    pub fn memory_bytes(&self) -> u64 {
        self.graph.memory_bytes() + self.vectors.len() as u64 / 8
    }

    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Calls `each` with the rows that live.
    pub fn for_each(&self, mut each: impl FnMut(u32, Slot, &[f32])) {
        for row in (0..self.vectors.len() as u32).filter(|row| !self.dead.contains(*row)) {
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
            (Way::Graph, _) => self.walk(wanted, listed, &mut step, nearest, stop)?,
        }
        step.took = started.elapsed();
        Ok(step)
    }

    fn plan(&self, wanted: &Wanted<'_>, findable: Findable) -> Plan {
        let (rows, dimension) = (self.vectors.len(), wanted.scorer.query().len());
        let share = findable.number() / rows as f64;
        let graph = (!wanted.exact).then(|| self.graph.cost(Cost { count: self.count(wanted), share, dimension }));
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

    /// Rows that the graph is asked for.
    fn count(&self, wanted: &Wanted<'_>) -> usize {
        self.graph.expansion(wanted.ef).max(wanted.k + wanted.k / 2)
    }

    fn walk(
        &self,
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
        let proposal = self.graph.propose(wanted.scorer.query(), self.count(wanted), admission);
        stop.check()?;
        // A graph that is cut into pieces by what is not admitted may end early. Fewer than k is never an answer while
        // there are more.
        let least = match step.findable {
            Findable::Counted(rows) => wanted.k.min(rows),
            Findable::Estimated(_) => wanted.k.min(step.live),
        };
        match proposal {
            Ok(proposal) => {
                (step.proposed, step.computed) = (proposal.rows.len(), proposal.computed);
                if proposal.rows.len() >= least {
                    step.compared = proposal.rows.len();
                    proposal.rows.into_iter().for_each(|row| self.score(row, wanted, nearest));
                    return Ok(());
                }
            }
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
            block.iter().for_each(|row| self.score(*row, wanted, nearest));
        }
        Ok(rows.len())
    }

    fn score(&self, row: u32, wanted: &Wanted<'_>, nearest: &mut Nearest<'_>) {
        let rank = wanted.scorer.rank(self.vectors.row(row), self.vectors.inverse_norm(row));
        if rank >= nearest.threshold() {
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

fn open_vectors(file: &Path) -> Result<Vectors, Error> {
    Vectors::open(file).map_err(|source| Error::Io { doing: "opening", file: file.into(), source })
}

fn hash(file: &Path) -> Result<blake3::Hash, Error> {
    let read = || {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(std::fs::File::open(file)?)?;
        Ok(hasher.finalize())
    };
    read().map_err(|source| Error::Io { doing: "reading", file: file.into(), source })
}

/// Rows between two looks at the clock.
const SCAN_BLOCK: usize = 1_024;
/// Rows looked at to estimate how many a filter admits.
const SAMPLE: usize = 2_048;

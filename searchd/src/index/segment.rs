//! A sealed part of the index: vectors in a mapped file, a graph that proposes, tombstones for what is gone.
//!
//! Its files never change, but for a graph that was damaged and is built anew.

mod glance;
mod living;
mod search;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::arrival::Arrival;
use super::bits::Tombstones;
use super::graph::{self, Builder, Check, Kind};
use super::proposer::{self, Basis, Proposer};
use super::vectors::Vectors;
use crate::engine::Slot;
use crate::engine::settings::Settings;
use crate::graph::Rows;

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

impl Error {
    /// Whether it was told to stop, and nothing is wrong.
    pub fn is_stop(&self) -> bool {
        matches!(self, Self::Graph { source: proposer::Error::Graph(graph::Error::Stopped(_)), .. })
    }
}

pub struct Segment {
    pub sealed: Sealed,
    pub vectors: Arc<Vectors>,
    pub dead: Arc<Tombstones>,
    /// None while a damaged one waits to be built anew: then every row is compared.
    proposer: Option<Proposer>,
    disk_bytes: u64,
}

/// How the names of files of vectors end.
pub(crate) const VECTORS: &str = ".vectors";

pub(crate) fn vectors_file(directory: &Path, part: u32) -> PathBuf {
    directory.join(format!("segment-{part:08}{VECTORS}"))
}

pub(crate) fn graph_file(directory: &Path, part: u32) -> PathBuf {
    directory.join(format!("segment-{part:08}.graph"))
}

/// Where a graph is written before it gets its name.
pub(crate) fn unfinished_graph_file(directory: &Path, part: u32) -> PathBuf {
    graph_file(directory, part).with_extension("tmp")
}

impl Segment {
    /// Builds the graph of a vectors file that was written just now.
    pub fn build(
        directory: &Path,
        part: u32,
        settings: &Settings,
        builder: &dyn Builder,
        basis: &Basis<'_>,
    ) -> Result<Self, Error> {
        let file = vectors_file(directory, part);
        let vectors = Vectors::open_fresh(&file).map_err(|source| opening(&file, source))?;
        let sealed = Sealed { part, vectors: hash(&file)?, graph: blake3::Hash::from_bytes([0; blake3::OUT_LEN]) };
        let dead = Arc::new(Tombstones::new(vectors.len()));
        let bare = Self { sealed, vectors: Arc::new(vectors), dead, proposer: None, disk_bytes: 0 };
        bare.with_graph(directory, settings, builder, basis)
    }

    /// Opens what was built before. A graph that is missing or damaged is no error: it can be built anew.
    /// Damaged vectors are one: where the file is small enough for all of it to be checked here.
    pub fn open(directory: &Path, sealed: Sealed, settings: &Settings, builder: &dyn Builder) -> Result<Self, Error> {
        Self::open_arriving(directory, sealed, settings, builder, None)
    }

    /// As [`Segment::open`], where the vectors may still be on their way: those are checked when they come.
    pub fn open_arriving(
        directory: &Path,
        sealed: Sealed,
        settings: &Settings,
        builder: &dyn Builder,
        arrival: Option<Arc<Arrival>>,
    ) -> Result<Self, Error> {
        let segment = Self::open_unchecked(directory, sealed, settings, builder)?;
        if let Some(arrival) = arrival {
            let vectors = Arc::into_inner(segment.vectors).expect("nobody else has it yet");
            return Ok(Self { vectors: Arc::new(vectors.arriving(arrival)), ..segment });
        }
        if segment.vectors.file_bytes() <= CHECKED_AT_OPEN && !segment.vectors.check_all().is_empty() {
            let source = io::Error::new(io::ErrorKind::InvalidData, "its vectors are damaged");
            return Err(opening(&vectors_file(directory, sealed.part), source));
        }
        Ok(segment)
    }

    /// As [`Segment::open`], without looking at all vectors: each is checked when it is looked at first, and so is a large
    /// graph.
    pub fn open_unchecked(
        directory: &Path,
        sealed: Sealed,
        settings: &Settings,
        builder: &dyn Builder,
    ) -> Result<Self, Error> {
        let (vectors_file, graph_file) = (vectors_file(directory, sealed.part), graph_file(directory, sealed.part));
        let vectors = Vectors::open(&vectors_file).map_err(|source| opening(&vectors_file, source))?;
        let proposer = open_graph(&graph_file, settings, builder, &vectors, Check::WhenTouched)?;
        let dead = Arc::new(Tombstones::new(vectors.len()));
        let disk_bytes = vectors.file_bytes() + length(&graph_file);
        Ok(Self { sealed, vectors: Arc::new(vectors), dead, proposer, disk_bytes })
    }

    /// The same segment, tombstones and all, with a graph that is built now.
    pub fn with_graph(
        &self,
        directory: &Path,
        settings: &Settings,
        builder: &dyn Builder,
        basis: &Basis<'_>,
    ) -> Result<Self, Error> {
        let file = graph_file(directory, self.part());
        let failed = |source| Error::Graph { file: file.clone(), source };
        let proposer = Proposer::build(builder, settings, &self.vectors, basis).map_err(failed)?;
        // Under another name first: a crash must not leave a half of it.
        let unfinished = unfinished_graph_file(directory, self.part());
        proposer.write(&unfinished).map_err(failed)?;
        std::fs::rename(&unfinished, &file).map_err(|source| opening(&file, source))?;
        let sealed = Sealed { graph: hash(&file)?, ..self.sealed };
        let disk_bytes = self.vectors.file_bytes() + length(&file);
        let (vectors, dead) = (self.vectors.clone(), self.dead.clone());
        Ok(Self { sealed, vectors, dead, proposer: Some(proposer), disk_bytes })
    }

    /// The same segment, tombstones and all, with its graph read into memory and checked; without one if that is damaged.
    pub fn with_graph_in_memory(
        &self,
        directory: &Path,
        settings: &Settings,
        builder: &dyn Builder,
    ) -> Result<Self, Error> {
        let file = graph_file(directory, self.part());
        let proposer = open_graph(&file, settings, builder, &self.vectors, Check::AtOnce)?;
        let (sealed, vectors, dead) = (self.sealed, self.vectors.clone(), self.dead.clone());
        Ok(Self { sealed, vectors, dead, proposer, disk_bytes: self.disk_bytes })
    }

    /// Whether its graph is there, and nothing is known against it.
    pub fn is_whole(&self) -> bool {
        self.proposer().is_some()
    }

    /// Whether its graph is still where its file is mapped, to be checked as searches come to it.
    pub fn has_mapped_graph(&self) -> bool {
        self.proposer().is_some_and(|proposer| !proposer.is_checked())
    }

    pub fn proposer(&self) -> Option<&Proposer> {
        self.proposer.as_ref().filter(|proposer| proposer.is_sound())
    }

    /// Whether others can be built from its graph, and keep for nearly nothing what it took to build it: partitions are learned anew.
    pub(super) fn can_grow(&self) -> bool {
        let can_grow = |proposer: &Proposer| proposer.kind() == Kind::Packed && !proposer.graph().has_open_way();
        self.proposer().is_some_and(can_grow)
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

    /// Whether all rows that live can be written to another file: they were checked, and none is damaged.
    pub fn is_fit(&self) -> bool {
        let is_fit = |row| self.dead.contains(row) || self.vectors.is_sound(row);
        self.vectors.is_reviewed() && (!self.vectors.is_damaged() || (0..self.vectors.len() as u32).all(is_fit))
    }

    /// Calls `each` with the rows that live and are not damaged.
    pub fn for_each(&self, mut each: impl FnMut(u32, Slot, &[f32])) {
        let is_there = |row: &u32| !self.dead.contains(*row) && self.vectors.is_sound(*row);
        let mut values = vec![0.0; self.vectors.dimension()];
        for row in (0..self.vectors.len() as u32).filter(is_there) {
            self.vectors.row(row).read(&mut values);
            each(row, self.vectors.slot(row), &values);
        }
    }
}

/// None if it is missing or damaged.
fn open_graph(
    file: &Path,
    settings: &Settings,
    builder: &dyn Builder,
    vectors: &Vectors,
    check: Check,
) -> Result<Option<Proposer>, Error> {
    match Proposer::open(file, builder, settings, vectors, check) {
        Ok(proposer) => Ok(Some(proposer)),
        Err(source @ proposer::Error::Unknown(_)) => Err(Error::Graph { file: file.into(), source }),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, file = %file.display(), "a graph is damaged; it will be built anew");
            Ok(None)
        }
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

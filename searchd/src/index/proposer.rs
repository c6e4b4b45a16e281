//! A segment's graph with what is known of it, and the file in which both are kept.
//!
//! All numbers are little endian.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | `NFPROP` and the version of this layout, 1 |
//! | 8..11 | the kind of graph: 1 packed codes, 2 HNSW |
//! | 11 | 1 where users' questions had a say in how it was built |
//! | 12..20 | points of the calibration, strays |
//! | 20..28 | bytes of the graph |
//! | 28..32 | CRC-32 of bytes 0..28, whatever the layout |
//! | 32..36 | CRC-32 of the tables |
//! | 36..64 | 0 |
//! | 64.. | the calibration (ef as u32, recall as f32), strays as u32; 0 up to a multiple of 64 |
//! | … | the graph in the form of its kind, which has checksums of its own |

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use memmap2::Mmap;

use super::calibration::{Calibration, Point};
use super::graph::{self, Asked, Builder, Check, Cost, Each, Graph, Kind, Proposal, Ranked, Source, Stored};
use super::plan::Proposing;
use super::recall::Taken;
use super::trial::{K, Trial};
use super::vectors::Vectors;
use crate::engine::settings::{Effort, Quantization, Settings};
use crate::graph::memory::{LINE, Lines};
use crate::search::stop::Stop;

const MAGIC: [u8; 8] = *b"NFPROP\0\x01";
/// Bytes of the magic that name the file, without the version.
const NAME: usize = 7;
const HEADER: usize = 64;
/// Which byte of it says whether users' questions had a say.
const INFORMED: usize = 11;
/// Most strays, as a part of the rows: past it the graph is no good.
const MAX_STRAY_PART: usize = 50;
/// Strays that any graph may have.
const FEW_STRAYS: usize = 16;
/// Most points of a calibration.
const MAX_POINTS: usize = 64;
/// Larger graphs are mapped where they need not be checked at once; smaller ones are read within a millisecond.
const MAPPED: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the file")]
    Io(#[from] io::Error),
    #[error("its checksum is another one, or it is cut off")]
    Damaged,
    #[error("it was written by a searchd of another version ({0}): this one does not know it")]
    Unknown(String),
    #[error(transparent)]
    Graph(#[from] graph::Error),
    #[error("{0} vectors of its graph cannot be reached")]
    Unreachable(usize),
}

/// What is known before a graph is built.
#[derive(Default)]
pub struct Basis<'a> {
    /// Graphs that rows are in already.
    pub sources: Vec<Source<'a>>,
    /// What users asked last.
    pub(super) taken: Taken,
}

/// Proposes rows for a search.
pub struct Proposer {
    graph: Box<dyn Graph>,
    tried: ArcSwap<Tried>,
    /// Whether users' questions had a say in how it was built.
    is_informed: bool,
    /// Rows that the graph does not lead to: they are always proposed.
    strays: Vec<u32>,
}

/// What came of a trial.
struct Tried {
    calibration: Calibration,
    /// See [`Proposer::asked`].
    asked: u64,
}

impl Proposer {
    /// Builds a graph that misses no row, from those of the sources where it can.
    pub fn build(
        builder: &dyn Builder,
        settings: &Settings,
        vectors: &Vectors,
        basis: &Basis<'_>,
    ) -> Result<Self, Error> {
        match Self::try_build(builder, settings, vectors, basis) {
            Err(error @ Error::Graph(graph::Error::Stopped(_))) => Err(error),
            Err(error) if settings.quantization != Quantization::Pq => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a graph failed; building one of another kind"
                );
                let settings = Settings { quantization: Quantization::Pq, ..settings.clone() };
                Self::try_build(builder, &settings, vectors, basis)
            }
            outcome => outcome,
        }
    }

    fn try_build(
        builder: &dyn Builder,
        settings: &Settings,
        vectors: &Vectors,
        basis: &Basis<'_>,
    ) -> Result<Self, Error> {
        let Basis { sources, taken } = basis;
        let trial = Trial::new(settings, vectors, &taken.questions, &Stop::default()).map_err(graph::Error::from)?;
        let (graph, calibration) = builder.build(settings, vectors, sources, &trial)?;
        let strays = graph.unreachable(vectors)?;
        if strays.len() > FEW_STRAYS.max(vectors.len() / MAX_STRAY_PART) {
            return Err(Error::Unreachable(strays.len()));
        }
        if !strays.is_empty() {
            tracing::warn!(
                strays = strays.len(),
                "a graph does not lead to all of its rows; those are compared always"
            );
        }
        let is_informed = !taken.questions.is_empty();
        Ok(Self { graph, tried: ArcSwap::from_pointee(Tried { calibration, asked: taken.asked }), is_informed, strays })
    }

    /// Rows for an exact comparison. See [`Graph::propose`].
    pub fn propose(&self, asked: &Asked<'_>) -> Result<Proposal, graph::Error> {
        let mut proposal = self.graph.propose(asked)?;
        for stray in self.strays(asked) {
            if !proposal.rows.contains(&stray) {
                proposal.rows.push(stray);
            }
        }
        Ok(proposal)
    }

    /// All that is admitted, in order. See [`Graph::rank`].
    pub fn rank(&self, asked: &Asked<'_>, each: Each<'_>) -> Result<Ranked, graph::Error> {
        let mut strays: Vec<u32> = self.strays(asked).collect();
        if strays.is_empty() {
            return self.graph.rank(asked, each);
        }
        // First, wherever they are ranked, and not again.
        let mut first = vec![f32::NEG_INFINITY; strays.len()];
        let is_stray = |row: &u32| self.strays.contains(row);
        self.graph.rank(asked, &mut |rows, estimates| {
            let (mut run, mut estimated) = (std::mem::take(&mut strays), std::mem::take(&mut first));
            for (row, estimate) in rows.iter().zip(estimates).filter(|(row, _)| !is_stray(row)) {
                run.push(*row);
                estimated.push(*estimate);
            }
            each(&run, &estimated)
        })
    }

    /// Those that are admitted.
    fn strays(&self, asked: &Asked<'_>) -> impl Iterator<Item = u32> {
        let admission = asked.admission;
        let admits = move |row: &u32| admission.is_none_or(|admission| admission.admits.admits(*row));
        self.strays.iter().copied().filter(admits)
    }

    /// See [`Graph::is_sound`].
    pub fn is_sound(&self) -> bool {
        self.graph.is_sound()
    }

    /// See [`Graph::is_checked`].
    pub fn is_checked(&self) -> bool {
        self.graph.is_checked()
    }

    /// See [`Graph::costs`].
    pub fn costs(&self, search: Cost) -> Proposing {
        self.graph.costs(search)
    }

    /// Candidates to keep for `k` hits.
    pub fn candidates(&self, effort: Effort, k: usize) -> usize {
        // The calibration is of few hits. More of them need more candidates, whatever the effort.
        let least = if k > K { self.graph.least(k) } else { k };
        self.tried.load().calibration.candidates(effort, self.graph.expansion()).max(least)
    }

    pub fn calibration(&self) -> Calibration {
        self.tried.load().calibration.clone()
    }

    /// How many questions users had asked of the collection when some of those were what the graph was tried with; 0 where it
    /// was not, or was opened since.
    pub(super) fn asked(&self) -> u64 {
        self.tried.load().asked
    }

    /// Whether it was built before anything was known of what users ask, took more bits for it than it may need, and would be built
    /// otherwise now.
    pub(super) fn may_narrow(&self, settings: &Settings) -> bool {
        !self.is_informed && self.asked() > 0 && self.graph.is_widened(settings)
    }

    /// Measures anew, with what users asked.
    pub(super) fn try_with(
        &self,
        taken: &Taken,
        settings: &Settings,
        vectors: &Vectors,
        stop: &Stop,
    ) -> Result<(), graph::Error> {
        let calibration = Trial::new(settings, vectors, &taken.questions, stop)?.calibrate(self.graph())?;
        self.tried.store(Arc::new(Tried { calibration, asked: taken.asked }));
        Ok(())
    }

    pub fn graph(&self) -> &dyn Graph {
        &*self.graph
    }

    pub fn kind(&self) -> Kind {
        self.graph.kind()
    }

    pub fn memory_bytes(&self) -> u64 {
        self.graph.memory_bytes() + (self.strays.capacity() * size_of::<u32>()) as u64
    }

    /// Writes the file, which is durable afterwards; its name is not yet.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let (graph, calibration) = (self.graph.to_bytes()?, self.calibration());
        let mut tables: Vec<u8> = Vec::new();
        for point in calibration.points() {
            tables.extend(point.ef.to_le_bytes());
            tables.extend(point.recall.to_le_bytes());
        }
        tables.extend(self.strays.iter().flat_map(|row| row.to_le_bytes()));
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&(self.graph.kind() as u32).to_le_bytes());
        header[INFORMED] = self.is_informed.into();
        header[12..16].copy_from_slice(&(calibration.points().len() as u32).to_le_bytes());
        header[16..20].copy_from_slice(&(self.strays.len() as u32).to_le_bytes());
        header[20..28].copy_from_slice(&(graph.len() as u64).to_le_bytes());
        let checksum = crc32fast::hash(&header[..28]);
        header[28..32].copy_from_slice(&checksum.to_le_bytes());
        tables.resize(tables.len().next_multiple_of(LINE), 0);
        header[32..36].copy_from_slice(&crc32fast::hash(&tables).to_le_bytes());
        let mut file = File::create(path)?;
        for part in [&header[..], &tables, &graph] {
            file.write_all(part)?;
        }
        Ok(file.sync_all()?)
    }

    /// Opens what [`Proposer::write`] wrote: read into memory and checked, or mapped, where that is asked for and worth while.
    pub fn open(
        path: &Path,
        builder: &dyn Builder,
        settings: &Settings,
        vectors: &Vectors,
        check: Check,
    ) -> Result<Self, Error> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(|_| Error::Damaged)?;
        let head = Head::read(&header)?;
        let filled = head.points * 8 + head.strays * 4;
        let start = HEADER + filled.next_multiple_of(LINE);
        if length != start as u64 + head.graph as u64 {
            return Err(Error::Damaged);
        }
        let mut tables = vec![0; start - HEADER];
        file.read_exact_at(&mut tables, HEADER as u64)?;
        if crc32fast::hash(&tables) != head.tables {
            return Err(Error::Damaged);
        }
        let kind = Kind::from_number(head.kind).ok_or_else(|| Error::Unknown(format!("graph kind {}", head.kind)))?;
        let (points, strays) = tables[..filled].split_at(head.points * 8);
        let points =
            points.chunks_exact(8).map(|point| Point { ef: word(point, 0), recall: f32::from_bits(word(point, 4)) });
        let strays: Vec<u32> = strays.chunks_exact(4).map(|row| word(row, 0)).collect();
        if strays.iter().any(|row| *row as usize >= vectors.len()) {
            return Err(Error::Damaged);
        }
        let check = if kind.is_used_in_place() && head.graph > MAPPED { check } else { Check::AtOnce };
        let bytes = match check {
            Check::AtOnce => Lines::read(&file, start as u64, head.graph)?.into_shared(),
            Check::WhenTouched => map(&file, length)?.slice(start..),
        };
        let graph = builder.open(settings, vectors, Stored { kind, bytes, check })?;
        let calibration = Calibration::new(points.collect());
        let is_informed = header[INFORMED] != 0;
        Ok(Self { graph, tried: ArcSwap::from_pointee(Tried { calibration, asked: 0 }), is_informed, strays })
    }
}

/// A file of so many bytes, where it is.
fn map(file: &File, length: u64) -> Result<Bytes, Error> {
    // SAFETY: graph files are written once, under the data directory's lock, and only ever replaced by name or unlinked.
    let map = unsafe { Mmap::map(file)? };
    // Of this length when it was looked at just now, and it does not shrink.
    if map.len() as u64 == length { Ok(Bytes::from_owner(map)) } else { Err(Error::Damaged) }
}

/// The header's numbers.
struct Head {
    kind: u32,
    points: usize,
    strays: usize,
    graph: usize,
    /// Checksum of the tables.
    tables: u32,
}

impl Head {
    fn read(header: &[u8; HEADER]) -> Result<Self, Error> {
        if header[..NAME] != MAGIC[..NAME] || crc32fast::hash(&header[..28]) != word(header, 28) {
            return Err(Error::Damaged);
        }
        if header[NAME] != MAGIC[NAME] {
            return Err(Error::Unknown(format!("layout {}", header[NAME])));
        }
        if header[36..].iter().any(|byte| *byte != 0) {
            return Err(Error::Damaged);
        }
        let graph = u64::from(word(header, 20)) | u64::from(word(header, 24)) << 32;
        let head = Self {
            kind: word(header, 8) & 0x00ff_ffff,
            points: word(header, 12) as usize,
            strays: word(header, 16) as usize,
            graph: usize::try_from(graph).map_err(|_| Error::Damaged)?,
            tables: word(header, 32),
        };
        let is_sane = head.points <= MAX_POINTS && head.strays <= crate::graph::MAX_ROWS && graph <= 1 << 48;
        if is_sane { Ok(head) } else { Err(Error::Damaged) }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

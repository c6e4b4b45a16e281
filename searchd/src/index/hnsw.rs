//! HNSW (Malkov and Yashunin, 2016) by usearch, over vectors of floats.
//!
//! What there is to know about usearch, and how it is kept from harm here:
//! - every call takes a thread context and fails when none is free: contexts are reserved for every search thread;
//! - concurrent `add`s leave some vectors unreachable: each graph has one writer, is never changed once it is built, and
//!   every vector is looked for afterwards;
//! - the expansion is one for the whole index, but a search keeps at least as many candidates as it returns: so the
//!   expansion stays small and each search asks for as many as it needs;
//! - filtered searches cost the inverse of the share that is admitted: the caller plans around that;
//! - what it saves has no checksum, and reading a damaged file is anybody's guess: we add one.
//!
//! Cosine is inner product of vectors of length one. Inner product itself is no metric and makes poor graphs; with one
//! more coordinate, sqrt(longest² - length²), it orders as the Euclidean distance does (Bachrach et al., 2014).

mod space;

use std::sync::atomic::{AtomicBool, Ordering};

use usearch::{Index as Usearch, IndexOptions, MetricKind, ScalarKind};

use super::graph::{Asked, Cost, Error, Graph, Kind, Proposal};
use super::plan::Proposing;
use super::vectors::Vectors;
use crate::engine::settings::{Metric, Quantization, Settings};
use crate::search::stop::Stopped;
use space::Space;

/// usearch needs about three times the candidates that other HNSW engines need for the same recall, on graphs of any
/// size worth the name: measured on 63,666 sentence embeddings of 384 dimensions, 64 candidates found .895 of the ten
/// nearest, 192 found .968.
const EXPANSION: usize = 3;
/// Candidates when a vector is looked for by itself.
const SELF_EF: usize = 64;
/// Bytes after what usearch writes.
const CHECKSUM: usize = size_of::<u32>();

/// Builds usearch graphs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hnsw {
    /// Threads that may search one graph at a time.
    pub(super) threads: usize,
}

pub(super) struct HnswGraph {
    index: Usearch,
    space: Space,
}

impl Hnsw {
    pub(super) fn build(&self, settings: &Settings, vectors: &Vectors, stop: &AtomicBool) -> Result<HnswGraph, Error> {
        let space = Space::of(settings, vectors);
        let index = empty(settings, &space)?;
        index.reserve_capacity_and_threads(vectors.len(), self.threads).map_err(engine)?;
        for row in 0..vectors.len() as u32 {
            index.add(u64::from(row), &space.row(vectors.row(row).to_vec())).map_err(engine)?;
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped(Stopped::Cancelled));
            }
        }
        Ok(HnswGraph { index, space })
    }

    pub(super) fn open(&self, settings: &Settings, vectors: &Vectors, bytes: &[u8]) -> Result<HnswGraph, Error> {
        let (saved, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(Error::Foreign)?;
        if crc32fast::hash(saved) != u32::from_le_bytes(*checksum) {
            return Err(Error::Foreign);
        }
        let space = Space::of(settings, vectors);
        let index = empty(settings, &space)?;
        // Loading keeps the number of contexts that was reserved before.
        index.reserve_capacity_and_threads(0, self.threads).map_err(engine)?;
        index.load_from_buffer(saved).map_err(engine)?;
        if index.size() != vectors.len() || index.dimensions() != space.dimensions() {
            return Err(Error::Foreign);
        }
        Ok(HnswGraph { index, space })
    }
}

impl Graph for HnswGraph {
    fn kind(&self) -> Kind {
        Kind::Hnsw
    }

    fn propose(&self, asked: &Asked<'_>) -> Result<Proposal, Error> {
        asked.stop.check()?;
        let count = asked.ef.max(asked.k).min(self.index.size());
        let point = self.space.query(asked.query);
        let found = match asked.admission {
            None => self.index.search(&point, count),
            Some(admission) => {
                self.index.filtered_search(&point, count, |key: u64| admission.admits.admits(key as u32))
            }
        };
        let rows = found.map_err(engine)?.keys.into_iter().map(|key| key as u32).collect();
        // It goes on until it has met `count` that are admitted.
        Ok(Proposal { rows, is_short: false, computed: None })
    }

    /// Measured on sets of 50 to 784 dimensions: it looks at the inverse of the share that is admitted.
    fn costs(&self, search: Cost) -> Proposing {
        let graph = search.ef as f64 * (400.0 + 2.0 * search.row.dimension as f64) / search.share.max(1e-9);
        Proposing { graph: Some(graph), ..Proposing::default() }
    }

    fn least(&self, k: usize) -> usize {
        k + k / 2
    }

    fn expansion(&self) -> usize {
        EXPANSION
    }

    fn unreachable(&self, vectors: &Vectors) -> Result<Vec<u32>, Error> {
        let mut lost = Vec::new();
        for row in 0..vectors.len() as u32 {
            let found = self.index.search(&self.space.row(vectors.row(row).to_vec()), SELF_EF).map_err(engine)?;
            // Among more equals than there are candidates any will do: one that is there leads to its like.
            let is_full = found.distances.last() == found.distances.first();
            if !is_full && !found.keys.contains(&u64::from(row)) {
                lost.push(row);
            }
        }
        Ok(lost)
    }

    fn memory_bytes(&self) -> u64 {
        self.index.memory_usage() as u64
    }

    fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; self.index.serialized_length()];
        self.index.save_to_buffer(&mut bytes).map_err(engine)?;
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        Ok(bytes)
    }
}

fn empty(settings: &Settings, space: &Space) -> Result<Usearch, Error> {
    let options = IndexOptions {
        dimensions: space.dimensions(),
        metric: if settings.metric == Metric::Cosine { MetricKind::IP } else { MetricKind::L2sq },
        quantization: match settings.quantization {
            Quantization::F16 => ScalarKind::F16,
            Quantization::Bf16 => ScalarKind::BF16,
            _ => ScalarKind::F32,
        },
        connectivity: settings.m as usize,
        expansion_add: settings.ef_construction as usize,
        expansion_search: 1,
        multi: false,
    };
    Usearch::new(&options).map_err(engine)
}

fn engine(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Engine(Box::new(error))
}

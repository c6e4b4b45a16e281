//! HNSW (Malkov and Yashunin, 2016) by usearch.
//!
//! What there is to know about usearch, and how it is kept from harm here:
//! - every call takes a thread context and fails when none is free: contexts are reserved for every search thread;
//! - concurrent `add`s leave some vectors unreachable: each graph has one writer, and is never changed once it is built;
//! - the expansion is one for the whole index, but a search keeps at least as many candidates as it returns: so the
//!   expansion stays small and each search asks for as many as it needs;
//! - filtered searches cost the inverse of the share that is admitted: the caller plans around that.
//!
//! Cosine is inner product of vectors of length one. Inner product itself is no metric and makes poor graphs; with one
//! more coordinate, sqrt(longest² - length²), it orders as the Euclidean distance does (Bachrach et al., 2014).

use std::path::Path;

use usearch::{Index as Usearch, IndexOptions, MetricKind, ScalarKind, b1x8};

use super::code::{Code, Coded};
use super::graph::{Admission, Builder, Cost, Error, Graph, Proposal, Rows};
use crate::engine::settings::{Metric, Settings};

/// usearch needs about three times the candidates that other HNSW engines need for the same recall, on graphs of any
/// size worth the name: measured on 63,666 sentence embeddings of 384 dimensions, 64 candidates found .895 of the ten
/// nearest, 192 found .968.
const EXPANSION: usize = 3;

/// Builds usearch graphs.
#[derive(Clone, Copy, Debug)]
pub struct Hnsw {
    /// Threads that may search one graph at a time.
    pub threads: usize,
}

struct HnswGraph {
    index: Usearch,
    code: Code,
}

impl Builder for Hnsw {
    fn build(&self, settings: &Settings, rows: &dyn Rows, file: &Path) -> Result<(), Error> {
        let code = Code::fit(settings, rows);
        let index = empty(settings, &code)?;
        index.reserve_capacity_and_threads(rows.len(), 1).map_err(engine)?;
        for row in 0..rows.len() as u32 {
            let key = u64::from(row);
            match code.row(rows.row(row)) {
                Coded::Bits(bits) => index.add(key, b1x8::from_u8s(&bits)),
                Coded::Bytes(bytes) => index.add(key, &bytes),
                Coded::Floats(floats) => index.add(key, &floats),
            }
            .map_err(engine)?;
        }
        let path = file.to_str().ok_or_else(|| Error::Foreign(file.display().to_string()))?;
        index.save(path).map_err(engine)?;
        std::fs::File::open(file).and_then(|file| file.sync_all()).map_err(|error| Error::Engine(error.into()))
    }

    fn open(&self, settings: &Settings, rows: &dyn Rows, file: &Path) -> Result<Box<dyn Graph>, Error> {
        let code = Code::fit(settings, rows);
        let index = empty(settings, &code)?;
        // Loading keeps the number of contexts that was reserved before.
        index.reserve_capacity_and_threads(0, self.threads).map_err(engine)?;
        let path = file.to_str().ok_or_else(|| Error::Foreign(file.display().to_string()))?;
        index.load(path).map_err(engine)?;
        if index.size() != rows.len() || index.dimensions() != code.dimensions() {
            return Err(Error::Foreign(path.to_owned()));
        }
        Ok(Box::new(HnswGraph { index, code }))
    }
}

impl Graph for HnswGraph {
    fn propose(&self, query: &[f32], count: usize, admission: Option<Admission<'_>>) -> Result<Proposal, Error> {
        let count = count.min(self.index.size());
        let index = &self.index;
        let admits = admission.map(|admission| move |key: u64| (admission.admits)(key as u32));
        let found = match (self.code.query(query), admits) {
            (Coded::Bits(bits), None) => index.search(b1x8::from_u8s(&bits), count),
            (Coded::Bits(bits), Some(admits)) => index.filtered_search(b1x8::from_u8s(&bits), count, admits),
            (Coded::Bytes(bytes), None) => index.search(&bytes, count),
            (Coded::Bytes(bytes), Some(admits)) => index.filtered_search(&bytes, count, admits),
            (Coded::Floats(floats), None) => index.search(&floats, count),
            (Coded::Floats(floats), Some(admits)) => index.filtered_search(&floats, count, admits),
        };
        let rows = found.map_err(engine)?.keys.into_iter().map(|key| key as u32).collect();
        Ok(Proposal { rows, computed: None })
    }

    /// Measured on sets of 50 to 784 dimensions: it looks at the inverse of the share that is admitted.
    fn cost(&self, search: Cost) -> f64 {
        search.count as f64 * (400.0 + 2.0 * search.dimension as f64) / search.share.max(1e-9)
    }

    fn expansion(&self, ef: usize) -> usize {
        ef * EXPANSION * self.code.oversampling()
    }

    fn memory_bytes(&self) -> u64 {
        self.index.memory_usage() as u64
    }
}

fn empty(settings: &Settings, code: &Code) -> Result<Usearch, Error> {
    let metric = match (code, settings.metric) {
        (Code::Bits { .. }, _) => MetricKind::Hamming,
        (_, Metric::Cosine) => MetricKind::IP,
        (_, Metric::Dot | Metric::Euclidean) => MetricKind::L2sq,
    };
    let options = IndexOptions {
        dimensions: code.dimensions(),
        metric,
        quantization: match code {
            Code::Bf16 { .. } => ScalarKind::BF16,
            Code::Bits { .. } => ScalarKind::B1,
            Code::Bytes { .. } => ScalarKind::I8,
            Code::F16 { .. } => ScalarKind::F16,
            Code::F32 { .. } => ScalarKind::F32,
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

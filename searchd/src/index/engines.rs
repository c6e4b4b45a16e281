//! Which kind of graph a collection gets, by its `quantization`.
//!
//! `none`, `f16` and `bf16` mean what they say of the floats inside a graph, and usearch is good at those. All others pack
//! vectors into fewer bits, which is what our own graph is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::calibration::Calibration;
use super::graph::{Builder, Error, Graph, Kind, Source, Stored};
use super::hnsw::Hnsw;
use super::packed;
use super::trial::Trial;
use super::vectors::Vectors;
use crate::engine::settings::{Quantization, Settings};

/// All kinds of graphs.
#[derive(Clone, Debug)]
pub struct Engines {
    hnsw: Hnsw,
    crew: Crew,
}

/// Who builds graphs: so many threads, for all that are built at a time together, until they are told to stop.
#[derive(Clone, Debug)]
pub struct Crew {
    pub threads: usize,
    pub stop: Arc<AtomicBool>,
    pub work: Arc<Work>,
}

impl Default for Crew {
    fn default() -> Self {
        Self { threads: 1, stop: Arc::default(), work: Arc::default() }
    }
}

/// What was built of graphs: a row is placed again in each that it comes into, unless it brings its neighbours.
#[derive(Debug, Default)]
pub struct Work {
    /// Rows that looked for their neighbours.
    pub placed: AtomicU64,
    /// Rows that kept those which they had in the largest of the graphs that became one.
    pub kept: AtomicU64,
}

impl Engines {
    /// For graphs that at most `threads` threads search at a time.
    pub fn new(threads: usize) -> Self {
        Self { hnsw: Hnsw { threads }, crew: Crew::default() }
    }

    /// Built by these.
    pub fn by(self, crew: Crew) -> Self {
        Self { crew, ..self }
    }
}

impl Builder for Engines {
    fn build(
        &self,
        settings: &Settings,
        vectors: &Vectors,
        sources: &[Source<'_>],
        trial: &Trial<'_>,
    ) -> Result<(Box<dyn Graph>, Calibration), Error> {
        match settings.quantization {
            Quantization::None | Quantization::F16 | Quantization::Bf16 => {
                let graph = self.hnsw.build(settings, vectors, &self.crew.stop)?;
                self.crew.work.placed.fetch_add(vectors.len() as u64, Ordering::Relaxed);
                let calibration = trial.calibrate(&graph)?;
                Ok((Box::new(graph), calibration))
            }
            Quantization::Int8 | Quantization::Binary | Quantization::Pq => {
                let (graph, calibration) = packed::build(settings, vectors, sources, trial, &self.crew)?;
                Ok((Box::new(graph), calibration))
            }
        }
    }

    fn open(&self, settings: &Settings, vectors: &Vectors, stored: Stored) -> Result<Box<dyn Graph>, Error> {
        Ok(match stored.kind {
            Kind::Packed => Box::new(packed::open(settings, vectors, stored)?),
            Kind::Hnsw => Box::new(self.hnsw.open(settings, vectors, &stored.bytes)?),
        })
    }
}

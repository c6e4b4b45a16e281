//! The seam to graphs: what a segment asks of the structure that proposes candidates.
//!
//! A graph proposes, full precision decides: whatever form the vectors have inside it, the segment computes the scores
//! of the proposed rows again.

use std::path::Path;

use crate::engine::settings::Settings;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the graph engine")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the graph file {0} does not belong to its vectors")]
    Foreign(String),
}

/// Full-precision rows from which a graph is built.
pub trait Rows {
    fn len(&self) -> usize;
    fn row(&self, row: u32) -> &[f32];

    /// The largest Euclidean norm of a row.
    fn longest(&self) -> f64;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which rows may be proposed.
#[derive(Clone, Copy)]
pub struct Admission<'a> {
    pub admits: &'a dyn Fn(u32) -> bool,
    /// The share of all rows that is admitted, as well as is known; above 0.
    pub share: f64,
}

/// What a graph found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    pub rows: Vec<u32>,
    /// Distances that were computed for it, where they are counted.
    pub computed: Option<usize>,
}

/// A search whose cost is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    pub count: usize,
    pub share: f64,
    pub dimension: usize,
}

/// A graph over the rows of one segment.
pub trait Graph: Send + Sync {
    /// Rows near the query, at most about `count` of them, those that `admission` refuses left out. `query` is as the
    /// scorer has it: of length one for cosine.
    fn propose(&self, query: &[f32], count: usize, admission: Option<Admission<'_>>) -> Result<Proposal, Error>;

    /// Nanoseconds that `propose` and the comparison of what it proposes take, about.
    fn cost(&self, search: Cost) -> f64;

    /// Candidates that `propose` needs for the recall that a search with `ef` candidates is expected to have.
    fn expansion(&self, ef: usize) -> usize;

    /// Bytes in memory, mapped files left out.
    fn memory_bytes(&self) -> u64;
}

/// Builds and opens graphs of one kind.
pub trait Builder: Send + Sync {
    /// Builds the graph and writes it to `file`, which is durable afterwards.
    fn build(&self, settings: &Settings, rows: &dyn Rows, file: &Path) -> Result<(), Error>;

    /// Opens what `build` wrote.
    fn open(&self, settings: &Settings, rows: &dyn Rows, file: &Path) -> Result<Box<dyn Graph>, Error>;
}

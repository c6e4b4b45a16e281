//! The seam to graphs: what a segment asks of the structure that proposes candidates.
//!
//! A graph proposes, full precision decides: whatever form the vectors have inside it, the segment computes the scores
//! of the proposed rows again. There are two kinds. Which one a segment gets its collection's settings say; which one
//! it has its file says ([`file`](super::proposer)).

use bytes::Bytes;

use super::calibration::Calibration;
use super::plan::{Proposing, Row, Way};
use super::trial::Trial;
use super::vectors::Vectors;
use crate::engine::settings::Settings;
use crate::graph;
pub use crate::graph::file::Check;
pub use crate::graph::ranking::Each;
pub use crate::graph::search::{Admits, mask};
use crate::search::stop::{Stop, Stopped};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the graph engine")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the graph does not belong to its vectors")]
    Foreign,
    #[error("the graph is damaged")]
    Damaged,
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// What built a graph, as files name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nearfield's own graph over packed codes.
    Packed = 1,
    /// HNSW by usearch, over floats.
    Hnsw = 2,
}

impl Kind {
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Packed, Self::Hnsw].into_iter().find(|kind| *kind as u32 == number)
    }

    /// Whether it is searched where its bytes are.
    pub fn is_used_in_place(self) -> bool {
        self == Self::Packed
    }
}

/// What a graph is asked for.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// As the scorer has it: of length one for cosine.
    pub query: &'a [f32],
    pub k: usize,
    /// Candidates that the walk keeps.
    pub ef: usize,
    /// One of those that it has: see [`Graph::costs`].
    pub way: Way,
    pub admission: Option<Admission<'a>>,
    pub stop: &'a Stop,
}

/// Which rows may be proposed.
#[derive(Clone, Copy)]
pub struct Admission<'a> {
    pub admits: &'a dyn Admits,
    /// The share of all rows that is admitted, as well as is known; above 0.
    pub share: f64,
    /// The rows that are admitted, in any order, where they are known.
    pub listed: Option<&'a [u32]>,
}

/// What a graph found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proposal {
    pub rows: Vec<u32>,
    /// The walk met so few of the admitted rows that nearer ones may be where it did not come.
    pub is_short: bool,
    /// Distances that were computed for it, where they are counted.
    pub computed: Option<usize>,
}

/// What came of a ranking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ranked {
    /// Distances that it took.
    pub computed: usize,
    /// Whether all rows that were asked for were told of.
    pub is_whole: bool,
}

/// A search whose cost is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    pub k: usize,
    pub ef: usize,
    pub share: f64,
    /// Whether some rows may not be found.
    pub is_narrowed: bool,
    /// Whether the rows that are admitted are known.
    pub is_listed: bool,
    pub row: Row,
}

/// A graph over the rows of one segment.
pub trait Graph: Send + Sync {
    fn kind(&self) -> Kind;

    /// Rows that are worth an exact comparison, the likeliest first, none that is not admitted. Fewer than `k` only
    /// where the walk met no more.
    fn propose(&self, asked: &Asked<'_>) -> Result<Proposal, Error>;

    /// Ranks all that is admitted without a walk, and tells `each` of the rows in runs, the likeliest first, by squared distances
    /// less what is the same for all rows. Where there is no such way nothing is told.
    fn rank(&self, _asked: &Asked<'_>, _each: Each<'_>) -> Result<Ranked, Error> {
        Ok(Ranked::default())
    }

    /// What `propose` and the comparison of what it proposes take, about, by each way that it has.
    fn costs(&self, search: Cost) -> Proposing;

    /// How many candidates, at the least, are worth keeping for `k`.
    fn least(&self, k: usize) -> usize;

    /// How many times the candidates of other graphs this kind needs for the recall that they have.
    fn expansion(&self) -> usize {
        1
    }

    /// Whether a search that hardly any row is kept out of goes another way than others ([`Way::TwoHop`] is one of those): then
    /// either must find what it is asked for.
    fn has_open_way(&self) -> bool {
        false
    }

    /// Rows that no search can find.
    fn unreachable(&self, vectors: &Vectors) -> Result<Vec<u32>, Error>;

    /// False once a search has come to something that is not what was written. It must not be searched any more then.
    fn is_sound(&self) -> bool {
        true
    }

    /// Whether all of it was checked.
    fn is_checked(&self) -> bool {
        true
    }

    /// Bytes that searches read.
    fn memory_bytes(&self) -> u64;

    /// The graph as bytes for [`Builder::open`].
    fn to_bytes(&self) -> Result<Vec<u8>, Error>;

    /// Whether its codes have more bits than a graph of these settings may make do with.
    fn is_widened(&self, _settings: &Settings) -> bool {
        false
    }

    /// Where it is one of our own, for others to grow from.
    fn packed(&self) -> Option<&graph::Graph> {
        None
    }
}

/// A graph that rows of a new segment are in already.
pub struct Source<'a> {
    pub graph: &'a dyn Graph,
    /// The new number of each of its rows; none for one that is gone.
    pub rows: Vec<Option<u32>>,
}

/// A graph as it was written.
pub struct Stored {
    pub kind: Kind,
    pub bytes: Bytes,
    pub check: Check,
}

/// Builds and opens graphs.
pub trait Builder: Send + Sync {
    /// Builds the graph that the settings ask for, from those of the sources if it is of a kind that can, and measures on the
    /// trial what it is worth.
    fn build(
        &self,
        settings: &Settings,
        vectors: &Vectors,
        sources: &[Source<'_>],
        trial: &Trial<'_>,
    ) -> Result<(Box<dyn Graph>, Calibration), Error>;

    /// Opens what [`Graph::to_bytes`] gave, and checks that it is undamaged: now or, if it is of a kind that can, later.
    fn open(&self, settings: &Settings, vectors: &Vectors, stored: Stored) -> Result<Box<dyn Graph>, Error>;
}

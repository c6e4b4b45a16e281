//! What the committer is asked to do, and what it answers.

use bytes::Bytes;
use nearfield_proto::log::v1::{Entry, PutPoint};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use crate::engine::Address;
use crate::engine::settings::{Settings, Violation};
use crate::engine::vector_clock::VectorClock;
use crate::filter::Filter;
use crate::wal::AppendError;

/// A change that a client asks for. What can be checked without the state has been checked.
#[derive(Debug)]
pub enum Change {
    CreateCollection {
        settings: Settings,
    },
    DeleteCollection,
    /// Upserts. `version` of the points is not set yet. Ids do not repeat.
    Insert {
        incarnation: u64,
        points: Vec<PutPoint>,
    },
    Update {
        incarnation: u64,
        id: String,
        values: Bytes,
        patch: Option<Map<String, Value>>,
        if_version: Option<u64>,
    },
    Delete {
        ids: Vec<String>,
    },
    DeleteWhere {
        filter: Filter,
    },
}

impl Change {
    /// Whether it only takes away, so that a nearly full disk must not be in its way.
    pub fn is_removal(&self) -> bool {
        matches!(self, Self::Delete { .. } | Self::DeleteCollection | Self::DeleteWhere { .. })
    }
}

#[derive(Debug)]
pub struct Command {
    pub address: Address,
    pub change: Change,
    pub reply: oneshot::Sender<Result<Committed, Refusal>>,
}

/// Entries of another instance, to be stored and applied as they are.
#[derive(Debug)]
pub struct Replicated {
    pub entries: Vec<Entry>,
    pub reply: oneshot::Sender<Result<(), Refusal>>,
}

#[derive(Debug)]
pub enum Work {
    Command(Command),
    Replicated(Replicated),
}

/// What was done. It is durable and visible.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    pub outcome: Outcome,
    /// A read that waits for this sees the change.
    pub session: VectorClock,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// False when the collection existed alike.
    Created(bool),
    Deleted(u64),
    Dropped,
    Inserted(u64),
    Updated {
        version: u64,
    },
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("searchd is draining or its log is closed")]
    Closed,
    #[error("the collection was replaced meanwhile")]
    Replaced,
    #[error("a collection of this name exists with other settings")]
    Differs,
    #[error("writing the log failed")]
    Log(#[from] std::sync::Arc<AppendError>),
    #[error("no such collection")]
    NoCollection,
    #[error("no such point")]
    NoPoint,
    /// Less room is left on the disk than is kept for checkpoints.
    #[error("the disk is nearly full")]
    NoRoom,
    #[error("too many writes are waiting")]
    Overloaded,
    #[error("the point has version {actual}, not {expected}")]
    Version { expected: u64, actual: u64 },
    #[error("the request is not right")]
    Violations(Vec<Violation>),
    /// The metadata would be larger than is allowed.
    #[error("too large")]
    TooLarge(Violation),
}

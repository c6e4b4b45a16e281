//! One batch: the entries of several commands that become durable by one sync.
//!
//! Commands are planned against the state as applied. One that touches what an earlier one of the same batch has
//! touched would be planned against the past, so it has to wait for the next batch; [`Batch::conflicts`] tells.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use nearfield_proto::log::v1::Entry;
use prost::Message;
use tokio::sync::oneshot;

use super::command::{Change, Command, Committed, Outcome, Refusal};
use crate::engine::Address;
use crate::engine::vector_clock::VectorClock;

/// Most bytes of entries that one sync makes durable. A command may be larger; it then has a batch of its own.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Most commands of a batch.
const MAX_COMMANDS: usize = 512;

#[derive(Default)]
pub(super) struct Batch {
    pub entries: Vec<Entry>,
    replies: Vec<Reply>,
    bytes: usize,
    /// Hashes of (collection, id). Two ids that share one only split a batch.
    ids: HashSet<u64>,
    collections: HashSet<Address>,
    hasher: RandomState,
}

struct Reply {
    to: oneshot::Sender<Result<Committed, Refusal>>,
    committed: Committed,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= MAX_BYTES || self.replies.len() >= MAX_COMMANDS
    }

    /// Whether the command must see this batch applied before it is planned.
    pub(super) fn conflicts(&self, command: &Command) -> bool {
        if self.is_empty() {
            return false;
        }
        if self.collections.contains(&command.address) {
            return true;
        }
        match &command.change {
            // What these do depends on everything in the collection.
            Change::CreateCollection { .. } | Change::DeleteCollection | Change::DeleteWhere { .. } => true,
            Change::Insert { points, .. } => points.iter().any(|point| self.touched(&command.address, &point.id)),
            Change::Update { id, .. } => self.touched(&command.address, id),
            Change::Delete { ids } => ids.iter().any(|id| self.touched(&command.address, id)),
        }
    }

    /// Remembers what the command touches.
    pub(super) fn touch(&mut self, address: &Address, change: &Change) {
        match change {
            Change::CreateCollection { .. } | Change::DeleteCollection | Change::DeleteWhere { .. } => {
                self.collections.insert(address.clone());
            }
            Change::Insert { points, .. } => {
                for point in points {
                    self.ids.insert(self.hasher.hash_one((address, &point.id)));
                }
            }
            Change::Update { id, .. } => {
                self.ids.insert(self.hasher.hash_one((address, id)));
            }
            Change::Delete { ids } => {
                for id in ids {
                    self.ids.insert(self.hasher.hash_one((address, id)));
                }
            }
        }
    }

    pub(super) fn push(
        &mut self,
        entries: Vec<Entry>,
        outcome: Outcome,
        session: VectorClock,
        to: oneshot::Sender<Result<Committed, Refusal>>,
    ) {
        self.bytes += entries.iter().map(Message::encoded_len).sum::<usize>();
        self.entries.extend(entries);
        self.replies.push(Reply { to, committed: Committed { outcome, session } });
    }

    /// Answers everyone; whoever no longer waits has lost nothing but the answer.
    pub(super) fn answer(self, refusal: impl Fn() -> Option<Refusal>) {
        for reply in self.replies {
            let answer = refusal().map_or(Ok(reply.committed), Err);
            let _ = reply.to.send(answer);
        }
    }

    fn touched(&self, address: &Address, id: &String) -> bool {
        self.ids.contains(&self.hasher.hash_one((address, id)))
    }
}

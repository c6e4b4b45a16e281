//! Entries that came before the creation of their collection, which another instance admitted.

use std::collections::VecDeque;

use nearfield_proto::log::v1 as log;
use prost::Message;

use super::Address;

/// Most bytes of entries that wait. What is pushed out comes again when the peer is tailed from its beginning.
const MAX_PENDING_BYTES: usize = 64 * 1024 * 1024;

#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    entries: VecDeque<log::Entry>,
    bytes: usize,
}

impl Pending {
    pub(super) fn hold(&mut self, entry: log::Entry) {
        self.bytes += entry.encoded_len();
        self.entries.push_back(entry);
        while self.bytes > MAX_PENDING_BYTES {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.encoded_len();
        }
    }

    /// Takes out what waits for this collection, oldest first.
    pub(super) fn take(&mut self, address: &Address) -> Vec<log::Entry> {
        let (taken, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|entry| *entry.tenant == *address.tenant && *entry.collection == *address.name);
        self.entries = kept.into();
        self.bytes -= taken.iter().map(Message::encoded_len).sum::<usize>();
        taken
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &log::Entry> {
        self.entries.iter()
    }
}

//! The truth: what is stored, as a deterministic function of the log entries applied.
//!
//! [`State::apply`] is the only way in. It has no clock and does no I/O, so a local write, a replayed log record and a
//! replicated entry are the same thing; and since every register merges by stamp, entries may come in any order and any
//! number of times.

pub mod collection;
pub mod record;
pub mod records;
pub mod settings;
pub mod stamp;
pub mod vector_clock;

mod pending;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use nearfield_proto::log::v1 as log;
use nearfield_proto::log::v1::entry;

pub use collection::{Change, Collection, Slot, Vectors};
use pending::Pending;
use settings::Settings;
use stamp::{Sites, Stamp};
use vector_clock::VectorClock;

/// A collection's identity. Tenants never meet: the same name under another tenant is another collection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Empty for callers without a tenant.
    pub tenant: Box<str>,
    pub name: Box<str>,
}

impl Address {
    pub fn new(tenant: &str, name: &str) -> Self {
        Self { tenant: tenant.into(), name: name.into() }
    }
}

/// What an applied entry means for the indexes.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Created {
        incarnation: u64,
        settings: Settings,
    },
    /// In the order in which they happened.
    Changed {
        incarnation: u64,
        changes: Vec<Change>,
    },
    Dropped {
        incarnation: u64,
    },
}

/// An entry that no instance of this service writes.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error("the entry has no stamp")]
    Stamp,
    #[error("the entry creates a collection with settings that are not allowed")]
    Settings,
}

/// What a name stands for.
#[derive(Debug, Default)]
pub struct Holder {
    /// The latest deletion of the collection: everything up to it is void.
    pub deleted: Option<Stamp>,
    /// Present while it is live, or while something in it is later than the deletion.
    pub collection: Option<Collection>,
    /// Goes on where a deleted collection's generation ended.
    pub generation: u64,
}

impl Holder {
    fn live(&self) -> Option<&Collection> {
        self.collection.as_ref().filter(|collection| Some(&collection.created) > self.deleted.as_ref())
    }
}

#[derive(Debug, Default)]
pub struct State {
    holders: BTreeMap<Address, Holder>,
    sites: Sites,
    clock: VectorClock,
    /// The latest stamp seen; later ones of this instance must win over it.
    latest: Option<Stamp>,
    pending: Pending,
}

impl State {
    /// A live collection.
    pub fn collection(&self, address: &Address) -> Option<&Collection> {
        self.holders.get(address)?.live()
    }

    /// A tenant's live collections, by name.
    pub fn collections(&self, tenant: &str) -> impl Iterator<Item = (&str, &Collection)> {
        let first = Address::new(tenant, "");
        let of_tenant = self.holders.range(first..).take_while(move |(address, _)| &*address.tenant == tenant);
        of_tenant.filter_map(|(address, holder)| Some((&*address.name, holder.live()?)))
    }

    /// Every name that was ever used, for snapshots and for peers that start from nothing.
    pub fn holders(&self) -> impl Iterator<Item = (&Address, &Holder)> {
        self.holders.iter()
    }

    pub fn holder(&self, address: &Address) -> Option<&Holder> {
        self.holders.get(address)
    }

    /// What has been applied.
    pub fn clock(&self) -> &VectorClock {
        &self.clock
    }

    /// Entries for collections that are not known yet.
    pub fn pending(&self) -> impl Iterator<Item = &log::Entry> {
        self.pending.iter()
    }

    /// Puts back what waited in a snapshot.
    pub fn restore_pending(&mut self, entries: impl IntoIterator<Item = log::Entry>) {
        entries.into_iter().for_each(|entry| self.pending.hold(entry));
    }

    pub fn latest(&self) -> Option<&Stamp> {
        self.latest.as_ref()
    }

    pub fn sites_mut(&mut self) -> &mut Sites {
        &mut self.sites
    }

    /// Puts back what a snapshot kept of a name.
    pub fn restore(&mut self, address: Address, holder: Holder) {
        self.holders.insert(address, holder);
    }

    /// Puts back what a snapshot had applied, and the latest stamp that it had seen.
    pub fn restore_clock(&mut self, clock: &VectorClock, latest: Option<&log::Stamp>) {
        self.latest = latest.map(|stamp| self.sites.stamp(stamp));
        for (origin, sequence) in clock.iter() {
            self.clock.raise(origin, sequence);
        }
    }

    /// Merges one entry. `vectors` are the indexes as they are before it.
    pub fn apply(&mut self, entry: &log::Entry, vectors: &dyn Vectors) -> Result<Vec<Effect>, Malformed> {
        let mut effects = Vec::new();
        // An entry without a change only tells that everything up to its number has been sent.
        if let Some(change) = &entry.change {
            let stamp = self.sites.stamp(entry.stamp.as_ref().ok_or(Malformed::Stamp)?);
            let address = Address::new(&entry.tenant, &entry.collection);
            if self.latest.as_ref() < Some(&stamp) {
                self.latest = Some(stamp.clone());
            }
            match change {
                entry::Change::CreateCollection(create) => {
                    self.create(address, stamp, create, vectors, &mut effects)?;
                }
                entry::Change::DeleteCollection(_) => self.drop_collection(&address, &stamp, vectors, &mut effects),
                _ => {
                    let mut changes = Vec::new();
                    let merged = self.merge(&address, &stamp, entry, vectors, &mut changes);
                    if let (Some(incarnation), false) = (merged, changes.is_empty()) {
                        effects.push(Effect::Changed { incarnation, changes });
                    }
                }
            }
        }
        self.clock.raise(entry.origin, entry.sequence);
        Ok(effects)
    }

    fn create(
        &mut self,
        address: Address,
        stamp: Stamp,
        create: &log::CreateCollection,
        vectors: &dyn Vectors,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Malformed> {
        let message = create.settings.clone().unwrap_or_default();
        let settings = Settings::from_message(&message).map_err(|_| Malformed::Settings)?;
        let holder = self.holders.entry(address.clone()).or_default();
        if holder.deleted.as_ref() >= Some(&stamp) {
            return Ok(());
        }
        match &mut holder.collection {
            Some(known) if known.settings == settings => {
                if known.created < stamp {
                    known.created = stamp;
                    known.generation += 1;
                }
            }
            // Two instances created the name differently at the same time: the later wins, and what the other held has
            // no place in it.
            Some(known) if known.created > stamp => {}
            other => {
                if let Some(known) = other.take() {
                    holder.generation = holder.generation.max(known.generation);
                    effects.push(Effect::Dropped { incarnation: known.incarnation });
                }
                let incarnation = incarnation(&address, &stamp);
                holder.generation += 1;
                effects.push(Effect::Created { incarnation, settings: settings.clone() });
                *other = Some(Collection::new(settings, stamp, incarnation, holder.generation));
            }
        }
        let incarnation = holder.collection.as_ref().map(|collection| collection.incarnation);
        let mut changes = Vec::new();
        for waiting in self.pending.take(&address) {
            let stamp = self.sites.stamp(waiting.stamp.as_ref().ok_or(Malformed::Stamp)?);
            self.merge(&address, &stamp, &waiting, vectors, &mut changes);
        }
        if let (Some(incarnation), false) = (incarnation, changes.is_empty()) {
            effects.push(Effect::Changed { incarnation, changes });
        }
        Ok(())
    }

    fn drop_collection(&mut self, address: &Address, stamp: &Stamp, vectors: &dyn Vectors, effects: &mut Vec<Effect>) {
        let holder = self.holders.entry(address.clone()).or_default();
        if holder.deleted.as_ref() >= Some(stamp) {
            return;
        }
        holder.deleted = Some(stamp.clone());
        for waiting in self.pending.take(address) {
            if waiting.stamp.as_ref().is_some_and(|waits| self.sites.stamp(waits) > *stamp) {
                self.pending.hold(waiting);
            }
        }
        let Some(collection) = &mut holder.collection else { return };
        let mut changes = Vec::new();
        collection.clear(stamp, vectors, &mut changes);
        collection.generation += 1;
        let incarnation = collection.incarnation;
        if collection.created <= *stamp && collection.is_void(stamp) {
            holder.generation = collection.generation;
            holder.collection = None;
            effects.push(Effect::Dropped { incarnation });
        } else {
            effects.push(Effect::Changed { incarnation, changes });
        }
    }

    /// Merges a change of points; returns whose it was, when the collection is known and the change is not void.
    fn merge(
        &mut self,
        address: &Address,
        stamp: &Stamp,
        entry: &log::Entry,
        vectors: &dyn Vectors,
        changes: &mut Vec<Change>,
    ) -> Option<u64> {
        let holder = self.holders.get_mut(address);
        let floor = holder.as_ref().and_then(|holder| holder.deleted.clone());
        if floor.as_ref() >= Some(stamp) {
            return None;
        }
        let Some(collection) = holder.and_then(|holder| holder.collection.as_mut()) else {
            self.pending.hold(entry.clone());
            return None;
        };
        match &entry.change {
            Some(entry::Change::Put(put)) => {
                for point in &put.points {
                    collection.put(floor.as_ref(), stamp, point, changes);
                }
            }
            Some(entry::Change::Patch(patch)) => collection.patch(floor.as_ref(), stamp, patch, changes),
            Some(entry::Change::Delete(delete)) => {
                for id in &delete.ids {
                    collection.delete(stamp, id, vectors, changes);
                }
            }
            Some(entry::Change::CreateCollection(_) | entry::Change::DeleteCollection(_)) | None => {}
        }
        Some(collection.incarnation)
    }
}

/// A number that names this creation of this collection, the same on every instance.
fn incarnation(address: &Address, created: &Stamp) -> u64 {
    let mut hash = blake3::Hasher::new();
    for part in [&*address.tenant, &*address.name, &*created.site.region] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    for number in [created.physical, u64::from(created.logical), created.site.writer] {
        hash.update(&number.to_le_bytes());
    }
    u64::from_le_bytes(hash.finalize().as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
}

//! What a checkpoint writes, in protobuf. Private to one data directory; a change of meaning is a new `FORMAT`.

use bytes::Bytes;
use nearfield_proto::log::v1 as log;
use nearfield_proto::v1;

use crate::index::segment::Sealed;

/// The manifest's format, checked before anything else of it is believed.
pub(super) const FORMAT: u32 = 3;
/// The oldest that is read: one in which collections share no files.
pub(super) const OLDEST: u32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Manifest {
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// The first record of the log that may not be in the checkpoint.
    #[prost(uint64, tag = "2")]
    pub from_record: u64,
    /// What had been applied when that record was next.
    #[prost(message, repeated, tag = "3")]
    pub clock: Vec<Applied>,
    /// At least the latest stamp that was seen.
    #[prost(message, optional, tag = "4")]
    pub latest: Option<log::Stamp>,
    #[prost(message, repeated, tag = "5")]
    pub holders: Vec<Holder>,
    /// Entries that wait for their collection.
    #[prost(message, repeated, tag = "6")]
    pub pending: Vec<log::Entry>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Applied {
    #[prost(fixed64, tag = "1")]
    pub origin: u64,
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Holder {
    #[prost(string, tag = "1")]
    pub tenant: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, optional, tag = "3")]
    pub deleted: Option<log::Stamp>,
    #[prost(uint64, tag = "4")]
    pub generation: u64,
    #[prost(message, optional, tag = "5")]
    pub collection: Option<Collection>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Collection {
    #[prost(message, optional, tag = "1")]
    pub settings: Option<v1::CollectionSettings>,
    #[prost(message, optional, tag = "2")]
    pub created: Option<log::Stamp>,
    #[prost(fixed64, tag = "3")]
    pub incarnation: u64,
    #[prost(uint64, tag = "4")]
    pub generation: u64,
    #[prost(message, repeated, tag = "5")]
    pub segments: Vec<Segment>,
    /// The number of the file with the records, and what they must hash to.
    #[prost(uint64, tag = "6")]
    pub records: u64,
    #[prost(bytes = "bytes", tag = "7")]
    pub records_hash: Bytes,
    /// Which part of the file they are, where small collections share one.
    #[prost(message, optional, tag = "8")]
    pub part: Option<Part>,
}

/// Bytes of a file.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Part {
    #[prost(uint64, tag = "1")]
    pub start: u64,
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Segment {
    #[prost(uint32, tag = "1")]
    pub part: u32,
    #[prost(bytes = "bytes", tag = "2")]
    pub vectors: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub graph: Bytes,
}

impl Segment {
    pub(super) fn of(sealed: &Sealed) -> Self {
        let hash = |hash: &blake3::Hash| Bytes::copy_from_slice(hash.as_bytes());
        Self { part: sealed.part, vectors: hash(&sealed.vectors), graph: hash(&sealed.graph) }
    }

    /// None where the hashes are no hashes.
    pub(super) fn sealed(&self) -> Option<Sealed> {
        let hash = |bytes: &[u8]| Some(blake3::Hash::from_bytes(bytes.try_into().ok()?));
        Some(Sealed { part: self.part, vectors: hash(&self.vectors)?, graph: hash(&self.graph)? })
    }
}

/// One slot's record in a file of records (see [`super::records`]).
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Record {
    #[prost(uint64, tag = "1")]
    pub version: u64,
    #[prost(message, optional, tag = "2")]
    pub base: Option<Stamp>,
    #[prost(message, optional, tag = "3")]
    pub deleted: Option<Stamp>,
    /// Absent when it equals `base`, as it mostly does.
    #[prost(message, optional, tag = "4")]
    pub vector: Option<Stamp>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub waiting: Option<Bytes>,
    #[prost(bytes = "bytes", tag = "6")]
    pub metadata: Bytes,
    #[prost(message, repeated, tag = "7")]
    pub patches: Vec<Patch>,
    /// Of a live record that is in no segment.
    #[prost(bytes = "bytes", tag = "8")]
    pub values: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Patch {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "2")]
    pub stamp: Option<Stamp>,
    #[prost(bool, tag = "3")]
    pub removed: bool,
}

/// A stamp, whose site is a place in [`Tail::sites`].
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Stamp {
    #[prost(fixed64, tag = "1")]
    pub physical: u64,
    #[prost(uint32, tag = "2")]
    pub logical: u32,
    #[prost(uint32, tag = "3")]
    pub site: u32,
}

/// What a file of records says of all of them.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Tail {
    #[prost(uint32, tag = "1")]
    pub slots: u32,
    #[prost(uint64, tag = "2")]
    pub live: u64,
    #[prost(message, repeated, tag = "3")]
    pub sites: Vec<Site>,
    /// Slots whose values are in their records, in order.
    #[prost(uint32, repeated, tag = "4")]
    pub waiting: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Site {
    #[prost(string, tag = "1")]
    pub region: String,
    #[prost(fixed64, tag = "2")]
    pub writer: u64,
}

//! A vector that is not what was written.

use super::Row;
use crate::engine::Slot;

/// The values of a row do not have their checksum: nobody can tell how near it is, so whatever needs it has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {} of segment {} is damaged", .row.row, .row.part)]
pub struct Damaged {
    pub row: Row,
    /// Whose vector it is.
    pub slot: Slot,
}

//! Kinds of calls, by how long they may take and what may be done about one that takes longer.

use super::retry::Safety;

/// What a call asks for. Calls of one class are alike enough to be measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// Many searches at once.
    Batch,
    /// Points by id, and what is known of collections.
    Lookup,
    /// A measurement that takes as long as it takes.
    Measure,
    /// All points, one after the other.
    Scan,
    Search,
    Write,
}

impl Class {
    pub(crate) const ALL: [Self; 6] = [Self::Batch, Self::Lookup, Self::Measure, Self::Scan, Self::Search, Self::Write];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Lookup => "lookup",
            Self::Measure => "measure",
            Self::Scan => "scan",
            Self::Search => "search",
            Self::Write => "write",
        }
    }

    pub(crate) fn safety(self) -> Safety {
        match self {
            Self::Write => Safety::Once,
            Self::Batch | Self::Lookup | Self::Measure | Self::Scan | Self::Search => Safety::Repeatable,
        }
    }

    /// Small, and alike: one that is late is worth asking for twice.
    pub(crate) fn hedges(self) -> bool {
        matches!(self, Self::Lookup | Self::Search)
    }

    /// Is there a time after which its silence means that the endpoint hangs?
    pub(crate) fn can_hang(self) -> bool {
        matches!(self, Self::Batch | Self::Lookup | Self::Scan | Self::Search)
    }
}

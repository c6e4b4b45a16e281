//! What an index knows of a filter: the slots that match for sure, and those that only their records can decide.
//!
//! Three-valued logic over sets. What is in neither set does not match. Where the index holds everything there is no
//! doubt; where it holds a part only (a long string, a record with too many values, records not read yet), the parts
//! that it lacks are in doubt in every test, and `not` keeps them so.

use roaring::RoaringBitmap;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bounds {
    pub sure: RoaringBitmap,
    /// None of them is sure.
    pub doubt: RoaringBitmap,
}

impl Bounds {
    /// How many slots may match.
    pub fn possible(&self) -> u64 {
        self.sure.len() + self.doubt.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sure.is_empty() && self.doubt.is_empty()
    }

    pub(super) fn and(self, other: &Self) -> Self {
        if self.doubt.is_empty() && other.doubt.is_empty() {
            return Self { sure: self.sure & &other.sure, doubt: RoaringBitmap::new() };
        }
        let possible = (&self.sure | &self.doubt) & (&other.sure | &other.doubt);
        let sure = self.sure & &other.sure;
        Self { doubt: possible - &sure, sure }
    }

    pub(super) fn and_not(self, other: &Self) -> Self {
        if self.doubt.is_empty() && other.doubt.is_empty() {
            return Self { sure: self.sure - &other.sure, doubt: RoaringBitmap::new() };
        }
        let possible = (&self.sure | &self.doubt) - &other.sure;
        let sure = self.sure - &other.sure - &other.doubt;
        Self { doubt: possible - &sure, sure }
    }

    pub(super) fn or(self, other: &Self) -> Self {
        let sure = self.sure | &other.sure;
        let doubt = (self.doubt | &other.doubt) - &sure;
        Self { sure, doubt }
    }

    /// Something else must hold as well of which nothing is known.
    pub(super) fn and_unknown(self) -> Self {
        Self { sure: RoaringBitmap::new(), doubt: self.sure | self.doubt }
    }
}

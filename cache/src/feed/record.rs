//! What stands in the log, as bytes: purges, and questions whether a gateway has come so far.

use crate::invalidation::{Purge, Reach};
use crate::{Stamp, Tag};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Purge(Purge, Stamp),
    /// Whoever reads this has read all that was appended before, and says so.
    Question {
        number: u64,
        /// Who asks.
        origin: u64,
    },
}

const PURGE: u8 = 0;
const TAGGED: u8 = 1;
const SOFT: u8 = 2;
const QUESTION: u8 = 4;
const BYTES: usize = 29;

impl Record {
    pub(super) fn encode(self) -> Vec<u8> {
        let (kind, [first, second, third], last) = match self {
            Self::Purge(Purge { reach, soft, over }, Stamp { micros, origin }) => {
                let (tagged, tag) = match reach {
                    Reach::Everything => (0, 0),
                    Reach::Tag(tag) => (TAGGED, tag.0),
                };
                (PURGE | tagged | if soft { SOFT } else { 0 }, [tag, micros, origin], over)
            }
            Self::Question { number, origin } => (QUESTION, [number, 0, origin], 0),
        };
        let mut bytes = vec![kind];
        [first, second, third].iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        bytes.extend_from_slice(&last.to_le_bytes());
        bytes
    }

    /// None for what a newer gateway may have written.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let number = |at: usize| bytes[at..at + 8].try_into().ok().map(u64::from_le_bytes);
        let (tag, micros, origin) = (number(1)?, number(9)?, number(17)?);
        let reach = match bytes[0] {
            QUESTION => return Some(Self::Question { number: tag, origin }),
            kind if kind & !(TAGGED | SOFT) != 0 => return None,
            kind if kind & TAGGED != 0 => Reach::Tag(Tag(tag)),
            _ => Reach::Everything,
        };
        let over = u32::from_le_bytes(bytes[25..].try_into().ok()?);
        Some(Self::Purge(Purge { reach, soft: bytes[0] & SOFT != 0, over }, Stamp { micros, origin }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_travel_as_bytes() {
        let stamp = Stamp { micros: 1, origin: 2 };
        for purge in [Purge::EVERYTHING, Purge::tag(Tag::collection(None, "shoes"))] {
            for purge in [purge, purge.softly(true), purge.over(300)] {
                let record = Record::Purge(purge, stamp);
                assert_eq!(Record::decode(&record.encode()), Some(record));
            }
        }
        let question = Record::Question { number: 3, origin: 4 };
        assert_eq!(Record::decode(&question.encode()), Some(question));
        assert_eq!(Record::decode(b"x"), None);
        assert_eq!(Record::decode(&[8; BYTES]), None);
    }
}

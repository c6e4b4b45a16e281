//! Parts of what is stored (RFC 9110 section 14, RFC 9111 sections 3.3 and 3.4): byte ranges, one at a time.

use http::{HeaderMap, HeaderValue, header};

/// A range that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    From(u64),
    FromTo(u64, u64),
    /// The last so many bytes.
    Last(u64),
}

/// Where a stored part lies in the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub first: u64,
    pub last: u64,
    /// The whole's bytes, where they are known.
    pub total: Option<u64>,
}

/// How a range is answered out of a stored body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// These bytes of the body, and the `Content-Range` that tells where they lie in the whole.
    Bytes(std::ops::Range<usize>, Span),
    /// The stored part does not hold them.
    Elsewhere,
    /// The whole has no such bytes.
    Unsatisfiable { total: u64 },
}

impl Range {
    /// None for a request of several ranges, of another unit, or of none that is understood: the whole is the answer.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(header::RANGE).iter();
        let line = lines.next()?.to_str().ok()?;
        if lines.next().is_some() {
            return None;
        }
        let (unit, set) = line.split_once('=')?;
        let (first, last) = set.trim().split_once('-').filter(|_| unit.trim().eq_ignore_ascii_case("bytes"))?;
        match (number(first), number(last)) {
            (Some(first), Some(last)) => (first <= last).then_some(Self::FromTo(first, last)),
            (Some(first), None) if last.is_empty() => Some(Self::From(first)),
            (None, Some(last)) if first.is_empty() => Some(Self::Last(last)),
            _ => None,
        }
    }

    /// Cuts the range out of a body of `length` bytes: of the whole where `span` is none, else of that part.
    pub fn cut(self, length: usize, span: Option<Span>) -> Cut {
        let bytes = length as u64;
        let whole = || Span { first: 0, last: bytes.saturating_sub(1), total: Some(bytes) };
        let stored = span.unwrap_or_else(whole);
        let (first, last) = match (self, stored.total) {
            (Self::FromTo(first, last), Some(total)) => (first, last.min(total.saturating_sub(1))),
            (Self::FromTo(first, last), None) => (first, last),
            (Self::From(first), Some(total)) => (first, total.saturating_sub(1)),
            (Self::Last(count), Some(total)) => (total.saturating_sub(count), total.saturating_sub(1)),
            (Self::From(_) | Self::Last(_), None) => return Cut::Elsewhere,
        };
        if let Some(total) = stored.total.filter(|total| first >= *total || self == Self::Last(0)) {
            return Cut::Unsatisfiable { total };
        }
        if first < stored.first || last > stored.last {
            return Cut::Elsewhere;
        }
        // Counted from the end for what is asked for from the end: an origin that miscounted the first byte of a part
        // has still sent the last ones.
        let (from, to) = match self {
            Self::Last(_) => (bytes.checked_sub(stored.last - first + 1), bytes.checked_sub(stored.last - last)),
            Self::From(_) if last == stored.last => (Some(first - stored.first), Some(bytes)),
            Self::From(_) | Self::FromTo(..) => (Some(first - stored.first), Some(last - stored.first + 1)),
        };
        match (from, to) {
            (Some(from), Some(to)) if from < to && to <= bytes => {
                Cut::Bytes(from as usize..to as usize, Span { first, last, total: stored.total })
            }
            _ => Cut::Elsewhere,
        }
    }
}

impl Span {
    /// Of an answer of one part. None for what is none, or makes no sense.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let line = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
        let (positions, total) = line.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = positions.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let total = if total == "*" { None } else { Some(number(total)?) };
        (first <= last && total.is_none_or(|total| last < total)).then_some(Self { first, last, total })
    }

    /// `Content-Range`.
    pub fn field(&self) -> HeaderValue {
        let Self { first, last, total } = self;
        let text = match total {
            Some(total) => format!("bytes {first}-{last}/{total}"),
            None => format!("bytes {first}-{last}/*"),
        };
        HeaderValue::try_from(text).expect("words and digits")
    }
}

/// `Content-Range` of an answer that there are no such bytes.
pub fn unsatisfiable(total: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes */{total}")).expect("words and digits")
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Option<Range> {
        Range::of(&HeaderMap::from_iter([(header::RANGE, HeaderValue::from_str(text).unwrap())]))
    }

    #[test]
    fn single_ranges_are_read() {
        assert_eq!(range("bytes=0-1"), Some(Range::FromTo(0, 1)));
        assert_eq!(range("Bytes=1-"), Some(Range::From(1)));
        assert_eq!(range("bytes=-5"), Some(Range::Last(5)));
        for text in ["bytes=", "bytes=-", "bytes=2-1", "bytes=0-1,3-4", "lines=0-1", "bytes=+1-2", "bytes 0-1"] {
            assert_eq!(range(text), None, "{text}");
        }
    }

    fn check(asked: &str, body: &str, span: Option<&str>, expected: Result<(&str, &str), Option<u64>>) {
        let span = span.map(|text| {
            let headers = HeaderMap::from_iter([(header::CONTENT_RANGE, HeaderValue::from_str(text).unwrap())]);
            Span::of(&headers).unwrap()
        });
        let cut = match range(asked).unwrap().cut(body.len(), span) {
            Cut::Bytes(bytes, span) => Ok((&body[bytes], span.field().to_str().unwrap().to_owned())),
            Cut::Elsewhere => Err(None),
            Cut::Unsatisfiable { total } => Err(Some(total)),
        };
        assert_eq!(cut, expected.map(|(body, span)| (body, span.to_owned())), "{asked} {span:?}");
    }

    #[test]
    fn ranges_are_cut_out_of_the_whole() {
        let check = |asked, expected| check(asked, "0123456789", None, expected);
        check("bytes=0-1", Ok(("01", "bytes 0-1/10")));
        check("bytes=8-", Ok(("89", "bytes 8-9/10")));
        check("bytes=-1", Ok(("9", "bytes 9-9/10")));
        check("bytes=-20", Ok(("0123456789", "bytes 0-9/10")));
        check("bytes=5-100", Ok(("56789", "bytes 5-9/10")));
        check("bytes=10-", Err(Some(10)));
        check("bytes=-0", Err(Some(10)));
    }

    #[test]
    fn ranges_are_cut_out_of_a_part() {
        let check = |asked, expected| check(asked, "56789", Some("bytes 5-9/10"), expected);
        check("bytes=-5", Ok(("56789", "bytes 5-9/10")));
        check("bytes=6-8", Ok(("678", "bytes 6-8/10")));
        check("bytes=6-", Ok(("6789", "bytes 6-9/10")));
        check("bytes=-1", Ok(("9", "bytes 9-9/10")));
        check("bytes=4-8", Err(None));
        check("bytes=-6", Err(None));
        check("bytes=10-", Err(Some(10)));
    }

    #[test]
    fn a_part_of_an_unknown_whole_answers_for_itself_alone() {
        check("bytes=1-2", "0123", Some("bytes 0-3/*"), Ok(("12", "bytes 1-2/*")));
        check("bytes=1-", "0123", Some("bytes 0-3/*"), Err(None));
        check("bytes=-1", "0123", Some("bytes 0-3/*"), Err(None));
    }

    #[test]
    fn a_part_that_is_shorter_than_it_says_gives_no_bytes_that_it_has_not() {
        check("bytes=6-9", "56", Some("bytes 5-9/10"), Err(None));
        check("bytes=-4", "56", Some("bytes 5-9/10"), Err(None));
        check("bytes=0-", "", None, Err(Some(0)));
    }

    #[test]
    fn a_content_range_that_makes_no_sense_is_none() {
        for text in ["bytes 5-4/10", "bytes 0-10/10", "bytes */10", "bytes 0-1", "items 0-1/2", "bytes a-b/c"] {
            let headers = HeaderMap::from_iter([(header::CONTENT_RANGE, HeaderValue::from_str(text).unwrap())]);
            assert_eq!(Span::of(&headers), None, "{text}");
        }
    }
}

//! Values of header fields that differ from answer to answer, put together by hand: for texts this short the formatting
//! machinery costs several times what they do.

use std::time::Duration;

use http::HeaderValue;
use smallvec::SmallVec;

/// The text of a value so far; on the stack, unless it is longer than most.
pub(crate) struct Text(SmallVec<[u8; ROOM]>);

const ROOM: usize = 160;

impl Text {
    pub(crate) fn new() -> Self {
        Self(SmallVec::new())
    }

    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    pub(crate) fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        self
    }

    /// Milliseconds with three digits behind the point, as `Server-Timing` has them.
    pub(crate) fn millis(mut self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self = self.number(micros / 1_000);
        let digit = |place: u64| b'0' + (micros / place % 10) as u8;
        self.0.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
        self
    }

    /// The low `digits` digits in base 16.
    pub(crate) fn hex(mut self, number: u64, digits: u32) -> Self {
        let digit = |place: u32| b"0123456789abcdef"[(number >> (4 * place) & 15) as usize];
        self.0.extend((0..digits).rev().map(digit));
        self
    }

    /// Empty for what no value may hold.
    pub(crate) fn value(self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).unwrap_or(HeaderValue::from_static(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_formatting_would_make_of_them() {
        for micros in [0, 1, 9, 10, 123, 999, 1_000, 1_234_567, 86_400_000_000] {
            let written = Text::new().text("total;dur=").millis(Duration::from_micros(micros)).value();
            assert_eq!(written, format!("total;dur={:.3}", micros as f64 / 1_000.0));
        }
        for number in [0, 1, 0xabc, 0xdead_beef_0123, u64::MAX] {
            let written = Text::new().hex(number, 12).number(number).value();
            assert_eq!(written, format!("{:012x}{number}", number & 0xffff_ffff_ffff));
        }
        assert_eq!(Text::new().text("a\nb").value(), "");
    }
}

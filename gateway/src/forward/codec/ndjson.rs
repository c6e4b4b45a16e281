//! Newline-delimited JSON, cut into lines as it arrives.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::Error;

/// Bytes of one line: a vector of 4,096 numbers and full metadata fit several times.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// The lines of a body, whatever pieces it comes in.
#[derive(Default)]
pub(crate) struct Lines {
    buffer: BytesMut,
    /// Bytes of the buffer that were searched already and hold no line end.
    searched: usize,
    /// Lines handed out, so the number of the last one, counted from 1.
    number: u64,
}

impl Lines {
    pub(crate) fn feed(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The number of the line handed out last, counted from 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The next whole line that is not blank.
    ///
    /// # Errors
    /// [`Error::TooLarge`] as soon as a line passes the bound.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                self.bound(self.searched)?;
                return Ok(None);
            };
            let end = self.searched + end;
            self.bound(end)?;
            let line = self.buffer.split_to(end).freeze();
            self.buffer.advance(1);
            self.searched = 0;
            self.number += 1;
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(line));
            }
        }
    }

    /// What stands behind the last line end, once the body has ended.
    pub(crate) fn rest(&mut self) -> Option<Bytes> {
        let rest = self.buffer.split().freeze();
        self.searched = 0;
        self.number += 1;
        (!rest.iter().all(u8::is_ascii_whitespace)).then_some(rest)
    }

    fn bound(&mut self, length: usize) -> Result<(), Error> {
        if length <= LINE_BYTES_MAX {
            return Ok(());
        }
        self.number += 1;
        Err(Error::TooLarge { what: "a line", limit: LINE_BYTES_MAX as u64 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(text: &[u8], size: usize) -> Vec<(u64, Bytes)> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for piece in text.chunks(size) {
            lines.feed(piece);
            while let Some(line) = lines.next().unwrap() {
                found.push((lines.number(), line));
            }
        }
        found.extend(lines.rest().map(|line| (lines.number(), line)));
        found
    }

    #[test]
    fn blank_lines_are_passed_over_and_counted() {
        let found = cut(b"{\"a\":1}\n\n \r\n{}\r\n", 3);
        assert_eq!(found, [(1, Bytes::from_static(b"{\"a\":1}")), (4, Bytes::from_static(b"{}\r"))]);
        assert_eq!(cut(b"1\n2", 1), [(1, Bytes::from_static(b"1")), (2, Bytes::from_static(b"2"))]);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        lines.feed(&vec![b'x'; LINE_BYTES_MAX]);
        assert!(lines.next().unwrap().is_none());
        lines.feed(b"x");
        assert!(matches!(lines.next(), Err(Error::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_pieces(text in "[a\n ]{0,60}", size in 1usize..60) {
            prop_assert_eq!(cut(text.as_bytes(), size), cut(text.as_bytes(), 100));
        }
    }
}

//! One frame (RFC 6455 section 5.2), well-formed or not.

use anyhow::{Context, Result, ensure};

pub(super) const CONTINUATION: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) fin: bool,
    /// The three reserved bits.
    pub(super) rsv: u8,
    pub(super) opcode: u8,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn new(opcode: u8, payload: &[u8]) -> Self {
        Self { fin: true, rsv: 0, opcode, payload: payload.to_vec() }
    }

    pub(super) fn text(payload: &[u8]) -> Self {
        Self::new(TEXT, payload)
    }

    pub(super) fn close(code: u16, reason: &[u8]) -> Self {
        Self::new(CLOSE, &[&code.to_be_bytes()[..], reason].concat())
    }

    /// With more of the message to come.
    pub(super) fn unfinished(self) -> Self {
        Self { fin: false, ..self }
    }

    /// The code of a close; none when it has none.
    pub(super) fn code(&self) -> Option<u16> {
        Some(u16::from_be_bytes(self.payload.get(..2)?.try_into().ok()?))
    }

    /// As a client sends it.
    pub(super) fn masked(&self) -> Vec<u8> {
        self.masked_with(KEY)
    }

    pub(super) fn masked_with(&self, key: [u8; 4]) -> Vec<u8> {
        let mut bytes = self.head(0x80);
        bytes.extend(key);
        bytes.extend(self.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }

    /// As only a server may.
    pub(super) fn plain(&self) -> Vec<u8> {
        let mut bytes = self.head(0);
        bytes.extend(&self.payload);
        bytes
    }

    fn head(&self, mask: u8) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.fin) << 7 | self.rsv << 4 | self.opcode];
        match self.payload.len() {
            length @ 0..126 => bytes.push(mask | length as u8),
            length @ 126..65_536 => {
                bytes.push(mask | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes
    }
}

/// Takes a server's frame off the front. None when more has to come first; an error when it is masked.
pub(super) fn take(bytes: &mut Vec<u8>) -> Result<Option<Frame>> {
    let Some((head, length)) = length(bytes)? else { return Ok(None) };
    let end = usize::try_from(length)?.checked_add(head).context("a length that memory has room for")?;
    let Some(payload) = bytes.get(head..end) else { return Ok(None) };
    let first = bytes[0];
    let frame = Frame { fin: first & 0x80 != 0, rsv: first >> 4 & 7, opcode: first & 15, payload: payload.to_vec() };
    bytes.drain(..end);
    Ok(Some(frame))
}

/// Of the head, and of the payload behind it.
fn length(bytes: &[u8]) -> Result<Option<(usize, u64)>> {
    let Some(second) = bytes.get(1) else { return Ok(None) };
    ensure!(second & 0x80 == 0, "a server does not mask");
    Ok(match second & 0x7f {
        126 => bytes.get(2..4).map(|b| (4, u64::from(u16::from_be_bytes([b[0], b[1]])))),
        127 => bytes.get(2..10).map(|b| (10, b.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))),
        short => Some((2, u64::from(short))),
    })
}

#[test]
fn a_frame_is_read_as_it_was_written() {
    for length in [0, 1, 125, 126, 65_535, 65_536] {
        let frame = Frame::new(BINARY, &vec![3; length]);
        let mut bytes = frame.plain();
        let last = bytes.pop().unwrap();
        assert_eq!(take(&mut bytes).unwrap(), None);
        bytes.extend([last, 7]);
        assert_eq!(take(&mut bytes).unwrap(), Some(frame.clone()));
        assert_eq!(bytes, [7]);
        assert!(take(&mut frame.masked()).is_err());
    }
}

//! The frames of an HTTP/3 client's control stream on their way to h3 (RFC 9114 sections 6.2.1 and 7.2).
//!
//! h3 keeps whatever comes there, and does not look at all that the protocol forbids: pushes that nobody promised, limits
//! that shrink, settings that are no settings. A frame here has a bounded length, or none of it is kept.

use bytes::Bytes;
use h3::error::Code;

use super::allowance::{Allowance, Purse};
use super::quic_fields::varint;
use super::quic_framing::{
    CANCEL_PUSH, Framing, GOAWAY, Held, MAX_PUSH_ID, OF_HTTP2, PUSH_PROMISE, Piece, SETTINGS, Violation, Way,
};
use super::quic_framing::{DATA, HEADERS};

pub(super) struct Control {
    framing: Framing,
    order: Order,
    max_push: Option<u64>,
}

struct Order {
    settings_seen: bool,
    frames: Purse,
}

/// Bytes of a SETTINGS frame. Seven settings are known, and a few are greased.
const SETTINGS_MAX: u64 = 1024;
/// Bytes of any other frame that is looked at: one integer.
const INTEGER_MAX: u64 = 8;
/// Frames behind SETTINGS. Browsers tell priorities here, one for a request or two.
const FRAMES: Allowance = Allowance { burst: 1_000, per_second: 200 };

/// Settings that are 0 or 1: extended CONNECT (RFC 9220) and datagrams (RFC 9297).
const SWITCHES: [u64; 2] = [0x8, 0x33];

const MISSING: Violation = Violation::new(Code::H3_MISSING_SETTINGS, "the control stream does not begin with SETTINGS");
const UNEXPECTED: Violation = Violation::new(Code::H3_FRAME_UNEXPECTED, "a frame that must not be on a control stream");
const LENGTH: Violation = Violation::new(Code::H3_FRAME_ERROR, "a frame has not the length of what it carries");
const SETTINGS_LONG: Violation = Violation::new(Code::H3_EXCESSIVE_LOAD, "more settings than there can be");
const SETTING_TWICE: Violation = Violation::new(Code::H3_SETTINGS_ERROR, "a setting stands twice");
const SETTING_VALUE: Violation = Violation::new(Code::H3_SETTINGS_ERROR, "a setting is neither 0 nor 1");
const NO_PUSH: Violation = Violation::new(Code::H3_ID_ERROR, "a push is cancelled that nobody promised");
const PUSH_LIMIT: Violation = Violation::new(Code::H3_ID_ERROR, "the limit of pushes shrinks");
const LOAD: Violation = Violation::new(Code::H3_EXCESSIVE_LOAD, "too many frames on the control stream");

impl Control {
    pub(super) fn new() -> Self {
        let order = Order { settings_seen: false, frames: Purse::new(FRAMES) };
        // No frame that is held here is longer than SETTINGS.
        Self { framing: Framing::new(Held::new(2 * SETTINGS_MAX)), order, max_push: None }
    }

    /// Takes what has come next. All that came before has to be taken out first.
    pub(super) fn feed(&mut self, chunk: Bytes) {
        self.framing.feed(chunk);
    }

    /// What goes on to h3 of what has come; none when there is to come more first.
    ///
    /// # Errors
    /// What the client must not do.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Violation> {
        loop {
            let order = &mut self.order;
            match self.framing.next(|kind, length| order.judge(kind, length))? {
                Some(Piece::Whole { kind: SETTINGS, at, frame }) => {
                    settings(&frame[at..])?;
                    return Ok(Some(frame));
                }
                Some(Piece::Whole { kind, at, frame }) => {
                    let payload = &frame[at..];
                    let Some((value, end)) = varint(payload, 0) else { return Err(LENGTH) };
                    if end != payload.len() {
                        return Err(LENGTH);
                    }
                    match kind {
                        // h3 compares it with the one before.
                        GOAWAY => return Ok(Some(frame)),
                        MAX_PUSH_ID if self.max_push.is_some_and(|before| value < before) => return Err(PUSH_LIMIT),
                        MAX_PUSH_ID => self.max_push = Some(value),
                        // Nothing is pushed here, so nothing can be cancelled.
                        _ => return Err(NO_PUSH),
                    }
                }
                Some(Piece::Passed(bytes)) => return Ok(Some(bytes)),
                None => return Ok(None),
            }
        }
    }

    /// The stream has ended, which h3 takes for the end of the connection.
    ///
    /// # Errors
    /// When it did so within a frame.
    pub(super) fn end(&self) -> Result<(), Violation> {
        self.framing.end()
    }
}

impl Order {
    fn judge(&mut self, kind: u64, length: u64) -> Result<Way, Violation> {
        let is_first = !std::mem::replace(&mut self.settings_seen, true);
        if is_first {
            return match kind {
                SETTINGS if length > SETTINGS_MAX => Err(SETTINGS_LONG),
                SETTINGS => Ok(Way::Hold),
                _ => Err(MISSING),
            };
        }
        if !self.frames.spend() {
            return Err(LOAD);
        }
        match kind {
            DATA | HEADERS | SETTINGS | PUSH_PROMISE => Err(UNEXPECTED),
            kind if OF_HTTP2.contains(&kind) => Err(UNEXPECTED),
            CANCEL_PUSH | GOAWAY | MAX_PUSH_ID if length > INTEGER_MAX => Err(LENGTH),
            CANCEL_PUSH | GOAWAY | MAX_PUSH_ID => Ok(Way::Hold),
            _ => Ok(Way::Skip),
        }
    }
}

/// Looks at what h3 does not: h3 knows which settings are forbidden.
fn settings(payload: &[u8]) -> Result<(), Violation> {
    let (mut at, mut seen) = (0, Vec::new());
    while at < payload.len() {
        let (setting, after) = varint(payload, at).ok_or(LENGTH)?;
        let (value, after) = varint(payload, after).ok_or(LENGTH)?;
        // At most `SETTINGS_MAX` / 2 of them.
        if seen.contains(&setting) {
            return Err(SETTING_TWICE);
        }
        if SWITCHES.contains(&setting) && value > 1 {
            return Err(SETTING_VALUE);
        }
        seen.push(setting);
        at = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::quic_framing::tests::frame;
    use super::*;

    fn run(stream: &[u8]) -> Result<Vec<u8>, Violation> {
        let mut control = Control::new();
        let mut out = Vec::new();
        // Byte by byte: nothing depends on where a stream is cut.
        for byte in stream {
            control.feed(Bytes::copy_from_slice(&[*byte]));
            while let Some(bytes) = control.next()? {
                out.extend_from_slice(&bytes);
            }
        }
        control.end()?;
        Ok(out)
    }

    #[test]
    fn what_a_client_may_say_passes_or_is_thrown_away() {
        let settings = frame(SETTINGS, &[0x6, 0x40, 100, 0x1, 0, 0x7, 0, 0x33, 1, 0x21, 5]);
        let goaway = frame(GOAWAY, &[0]);
        let ignored = [frame(MAX_PUSH_ID, &[3]), frame(MAX_PUSH_ID, &[3]), frame(0x21, &[7; 3000])].concat();
        assert_eq!(run(&[&settings[..], &ignored, &goaway].concat()), Ok([settings, goaway].concat()));
    }

    #[test]
    fn what_a_client_must_not_say_has_its_code() {
        let settings = frame(SETTINGS, &[]);
        let behind = |kind, payload: &[u8]| [&settings[..], &frame(kind, payload)].concat();
        for (stream, expected) in [
            (frame(GOAWAY, &[0]), MISSING),
            (frame(0x21, &[]), MISSING),
            (behind(SETTINGS, &[]), UNEXPECTED),
            (behind(DATA, &[]), UNEXPECTED),
            (behind(HEADERS, &[0; 100_000]), UNEXPECTED),
            (behind(PUSH_PROMISE, &[0]), UNEXPECTED),
            (behind(0x6, &[0]), UNEXPECTED),
            (behind(GOAWAY, &[]), LENGTH),
            (behind(GOAWAY, &[0, 0]), LENGTH),
            (behind(GOAWAY, &[0; 9]), LENGTH),
            (behind(MAX_PUSH_ID, &[0x40]), LENGTH),
            (behind(CANCEL_PUSH, &[0]), NO_PUSH),
            ([behind(MAX_PUSH_ID, &[3]), frame(MAX_PUSH_ID, &[2])].concat(), PUSH_LIMIT),
            (frame(SETTINGS, &[0x6]), LENGTH),
            (frame(SETTINGS, &[0x6, 0x40]), LENGTH),
            (frame(SETTINGS, &[0x21, 0, 0x21, 0]), SETTING_TWICE),
            (frame(SETTINGS, &[0x8, 2]), SETTING_VALUE),
            (frame(SETTINGS, &[0x33, 2]), SETTING_VALUE),
            (frame(SETTINGS, &[0; 2000]), SETTINGS_LONG),
            ([&settings[..], &frame(0x21, &[]).repeat(FRAMES.burst as usize + 1)].concat(), LOAD),
        ] {
            assert_eq!(run(&stream), Err(expected), "{:?}", &stream[..stream.len().min(20)]);
        }
    }
}

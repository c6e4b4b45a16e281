//! HTTP/2 frame by frame (RFC 9113): each thing that must not come ends the connection, or its stream, with the code that tells
//! why, and what has no meaning is let be. Behind each case come a ping and another request, which are answered where the
//! connection goes on and not where it ends; a request on a new connection always is.

mod cases;
mod heads;
mod wire;

use anyhow::{Context, Result, bail};
use nearfield_testkit::Protocol;
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsConnector;

use crate::space::dev;
use crate::{frame_cases, raw};
use cases::{Case, Expected};
use wire::{ACK, Frame, GOAWAY, HEADERS, PING, RST_STREAM, WHOLE};

/// The stream of the request behind a case.
const BEHIND: u32 = 101;
/// The payload of the ping behind a case.
const PROBE: [u8; 8] = *b"a probe.";
/// `:status 200` by its index.
const OK: u8 = 0x88;

/// What came.
#[derive(Debug, Default)]
struct Heard {
    goaway: Option<u32>,
    /// Of stream 1.
    reset: Option<u32>,
    answered: bool,
    /// The request and the ping behind the case.
    behind: bool,
    pong: bool,
    closed: bool,
}

impl Heard {
    fn take(&mut self, frame: &Frame) {
        match (frame.kind, frame.stream) {
            (GOAWAY, _) => self.goaway = Some(frame.code()),
            (RST_STREAM, 1) => self.reset = Some(frame.code()),
            (HEADERS, 1) => self.answered = true,
            (HEADERS, BEHIND) => self.behind = frame.payload.first() == Some(&OK),
            (PING, 0) if frame.flags & ACK != 0 => self.pong |= frame.payload == PROBE,
            _ => {}
        }
    }

    /// Whether this is what was expected; none while more is to come.
    fn is(&self, expected: Expected) -> Option<bool> {
        let goes_on = self.behind && self.pong;
        let ended = self.closed || self.goaway.is_some();
        match expected {
            Expected::Connection(codes) => match self.goaway {
                Some(code) if codes.contains(&code) => self.closed.then_some(!goes_on),
                Some(_) => Some(false),
                None => ended.then_some(false),
            },
            Expected::Left => self.closed.then_some(self.goaway.is_none_or(|code| code == 0)),
            Expected::Closed => self.closed.then_some(!goes_on),
            Expected::Stream(codes) => match (self.reset, self.goaway) {
                (Some(code), None) if codes.contains(&code) => {
                    (goes_on || self.closed).then_some(goes_on && !self.closed)
                }
                (_, Some(code)) => Some(codes.contains(&code)),
                (Some(_), None) => Some(false),
                (None, None) => (self.closed).then_some(false),
            },
            Expected::Answered if ended || self.reset.is_some() => Some(false),
            Expected::Answered => (self.answered && goes_on).then_some(true),
            Expected::Ignored if ended => Some(false),
            Expected::Ignored => goes_on.then_some(true),
        }
    }
}

async fn run(connector: &TlsConnector, case: &Case) -> Result<()> {
    let mut stream = raw::connect(connector).await?;
    let ping = wire::frame(PING, 0, 0, &PROBE);
    let request = wire::frame(HEADERS, WHOLE, BEHIND, &wire::probe(&[]));
    raw::say(&mut stream, &[&case.bytes[..], &request, &ping].concat()).await;
    let (mut heard, mut bytes, mut buffer) = (Heard::default(), Vec::new(), [0; 8192]);
    loop {
        while let Some(frame) = Frame::take(&mut bytes) {
            heard.take(&frame);
        }
        match heard.is(case.expected) {
            Some(true) => return Ok(()),
            Some(false) => bail!("{heard:?}"),
            None => {}
        }
        let read = tokio::time::timeout(raw::PATIENCE, stream.read(&mut buffer)).await;
        match read.with_context(|| format!("it hangs: {heard:?}"))? {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            // Some ends are resets: there was input that nobody reads.
            Ok(_) | Err(_) => heard.closed = true,
        }
    }
}

#[tokio::test]
async fn every_frame_that_must_not_come_has_its_code_and_others_are_let_be() -> Result<()> {
    let connector = &raw::connector(Protocol::Http2)?;
    let client = &dev()?.client(Protocol::Http2)?;
    frame_cases::all_hold(&cases::all(), 200, client, |case| run(connector, case)).await
}

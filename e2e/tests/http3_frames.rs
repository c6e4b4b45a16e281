//! HTTP/3 frame by frame (RFC 9114, RFC 9204): each thing that must not come has its error code, and what has no meaning is
//! let be. Beside each case another request waits, on the same connection where that goes on, and on a new one.

mod cases;
mod wire;

use anyhow::{Context, Result, bail};
use nearfield_testkit::{Protocol, Quic};
use quinn::{ConnectionError, ReadError, ReadToEndError, RecvStream, VarInt};

use crate::frame_cases;
use crate::raw::{self, PATIENCE};
use crate::space::{Space, dev};
use cases::{Case, End, Expected, Stream};

const REQUEST_CANCELLED: u32 = 0x10c;
/// Bytes of an answer.
const MOST: usize = 1 << 20;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Status(u16),
    Reset(u64),
    Nothing,
}

/// Reads an answer to its end.
async fn answer(stream: &mut RecvStream) -> Result<Heard> {
    match stream.read_to_end(MOST).await {
        Ok(bytes) => Ok(status(&bytes).map_or(Heard::Nothing, Heard::Status)),
        Err(ReadToEndError::Read(ReadError::Reset(code))) => Ok(Heard::Reset(code.into_inner())),
        Err(error) => Err(error.into()),
    }
}

/// The `:status` that an answer begins with, in whichever coding the server has for it.
fn status(bytes: &[u8]) -> Option<u16> {
    // HEADERS, a length of one or two bytes, no dynamic table.
    let at = 1 + (1 << (bytes.get(1)? >> 6));
    match bytes.get(at..)? {
        [0, 0, 0xd9, ..] => Some(200),
        [0, 0, 0xff, 4, ..] => Some(400),
        // `:status` by its name's index, its value in Huffman's code.
        [0, 0, 0x5f, 9, 0x83, digits @ ..] => Some(three_digits(digits.get(..3)?)),
        [0, 0, 0x5f, 9, 0x82, digits @ ..] => Some(three_digits(&[digits.get(..2)?, &[0xff]].concat())),
        _ => None,
    }
}

/// Three digits in Huffman's code (RFC 7541 appendix B): 0 to 2 have five bits, the others six.
fn three_digits(bytes: &[u8]) -> u16 {
    let mut bits = bytes.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << 8;
    (0..3).fold(0, |number, _| {
        let (digit, length) = match bits >> 27 {
            short @ 0..3 => (short, 5),
            _ => ((bits >> 26) - 0x19 + 3, 6),
        };
        bits <<= length;
        number * 10 + digit as u16
    })
}

async fn probe(quic: &quinn::Connection) -> Result<Heard> {
    let (mut send, mut recv) = quic.open_bi().await?;
    send.write_all(&wire::probe(&[])).await?;
    send.finish()?;
    answer(&mut recv).await
}

async fn run(case: &Case) -> Result<()> {
    let quic = Quic::connect(raw::address()?, &dev()?.ca()).await?;
    let quic = &quic.connection;
    let (mut sent, mut request) = (Vec::new(), None);
    for stream in &case.streams {
        let (mut send, bytes, end) = match stream {
            Stream::Uni(bytes, end) => (quic.open_uni().await?, bytes, *end),
            Stream::Request(bytes, end) => {
                let (send, recv) = quic.open_bi().await?;
                request = Some(recv);
                (send, bytes, *end)
            }
        };
        // The server may have closed already, which is what is looked at.
        let _closed = send.write_all(bytes).await;
        sent.push((send, end));
    }
    if sent.iter().any(|(_, end)| *end == End::Reset) {
        // A reset takes along what has not arrived.
        probe(quic).await?;
    }
    for (send, end) in &mut sent {
        match end {
            End::Open => {}
            End::Fin => drop(send.finish()),
            End::Reset => drop(send.reset(VarInt::from_u32(REQUEST_CANCELLED))),
        }
    }
    let closed = || async {
        match quic.closed().await {
            ConnectionError::ApplicationClosed(close) => Ok(close.error_code.into_inner()),
            other => bail!("the connection ended otherwise: {other}"),
        }
    };
    let heard = match (case.expected, &mut request) {
        (Expected::Connection(expected), _) => {
            let code = tokio::time::timeout(PATIENCE, closed()).await.context("the connection stays open")??;
            anyhow::ensure!(code == expected, "the connection ended with {code:#x}");
            return Ok(());
        }
        (Expected::Ignored, _) => Heard::Nothing,
        (_, Some(recv)) => tokio::time::timeout(PATIENCE, answer(recv)).await.context("no answer")??,
        (_, None) => bail!("there is no request"),
    };
    let expected = match case.expected {
        Expected::Stream(code) => Heard::Reset(code),
        Expected::Answered(status) => Heard::Status(status),
        _ => Heard::Nothing,
    };
    anyhow::ensure!(heard == expected, "{heard:?}");
    // Twice: what was said on another stream has been looked at by then.
    for _ in 0..2 {
        let probed = tokio::time::timeout(PATIENCE, probe(quic)).await.context("no answer to the probe")??;
        anyhow::ensure!(probed == Heard::Status(200), "the probe: {probed:?}");
    }
    Ok(())
}

#[tokio::test]
async fn every_frame_that_must_not_come_has_its_code_and_others_are_let_be() -> Result<()> {
    let space = &Space::over(Protocol::Http3, "h3-frames")?;
    frame_cases::all_hold(&cases::all(&space.token), 150, &space.client, run).await
}

//! The unidirectional streams of an HTTP/3 client (RFC 9114 section 6.2), of which h3 gets the control stream alone.
//!
//! h3 takes QPACK's two without ever reading them: what a client sends there would fill the connection's window, and an
//! instruction that must not come would go unseen. Here they are read; with no dynamic table hardly anything may stand there.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h3::error::Code;
use h3::quic::{ConnectionErrorIncoming, RecvStream as _, StreamErrorIncoming};

use super::allowance::{Allowance, Purse};
use super::quic_control::Control;
use super::quic_fields;
use super::quic_framing::Violation;
use super::quic_recv::{Filter, Recv};

/// Stream types (RFC 9114 section 6.2, RFC 9204 section 4.2).
const CONTROL: u64 = 0x0;
const PUSH: u64 = 0x1;
const ENCODER: u64 = 0x2;
const DECODER: u64 = 0x3;

/// Streams of no type that is known. Greasing takes one.
const UNKNOWN: Allowance = Allowance { burst: 32, per_second: 1 };

const SECOND: Violation = Violation::new(Code::H3_STREAM_CREATION_ERROR, "a stream that there is one of already");
const PUSHED: Violation = Violation::new(Code::H3_STREAM_CREATION_ERROR, "a client pushes nothing");
const CLOSED: Violation = Violation::new(Code::H3_CLOSED_CRITICAL_STREAM, "a stream of QPACK has ended");
const LOAD: Violation = Violation::new(Code::H3_EXCESSIVE_LOAD, "too many streams of no known type");
const INSTRUCTION: Violation =
    Violation::new(Code::QPACK_ENCODER_STREAM_ERROR, "an instruction for a dynamic table that there is not");
const ACKNOWLEDGED: Violation = Violation::new(Code::QPACK_DECODER_STREAM_ERROR, "what was never sent is acknowledged");

/// Those of one connection.
pub(super) struct Uni {
    /// Whose type has not come yet. As many as the client may open at once.
    opening: Vec<Opening>,
    control_seen: bool,
    encoder: Option<Recv>,
    decoder: Option<Decoder>,
    unknown: Purse,
}

struct Opening {
    stream: Recv,
    /// The beginning of its type.
    start: BytesMut,
}

struct Decoder {
    stream: Recv,
    /// Within an integer of more than one byte.
    continues: bool,
}

/// Why a connection's streams are read no more.
pub(super) enum Ended {
    /// What its client must not do; it is to be told.
    Violation(Violation),
    Lost(ConnectionErrorIncoming),
}

impl From<Violation> for Ended {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// What a stream gave.
enum Read {
    Chunk(Bytes),
    /// It ended, or was reset.
    End,
    Pending,
}

impl Uni {
    pub(super) fn new() -> Self {
        let (opening, unknown) = (Vec::new(), Purse::new(UNKNOWN));
        Self { opening, control_seen: false, encoder: None, decoder: None, unknown }
    }

    /// A stream that the client has opened.
    pub(super) fn add(&mut self, stream: Recv) {
        self.opening.push(Opening { stream, start: BytesMut::new() });
    }

    /// Reads what has come. Gives the control stream once it is known.
    ///
    /// # Errors
    /// Whatever ends the connection.
    pub(super) fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<Result<Recv, Ended>> {
        self.read_qpack(cx)?;
        let mut at = 0;
        while at < self.opening.len() {
            let opening = &mut self.opening[at];
            match read(&mut opening.stream, cx)? {
                Read::Pending => at += 1,
                // It may go before it says what it is (RFC 9114 section 6.2).
                Read::End if self.unknown.spend() => drop(self.opening.swap_remove(at)),
                Read::End => return Poll::Ready(Err(LOAD.into())),
                Read::Chunk(chunk) => {
                    opening.start.extend_from_slice(&chunk);
                    let Some((kind, typed)) = quic_fields::varint(&opening.start, 0) else { continue };
                    let Opening { stream, start } = self.opening.swap_remove(at);
                    if let Some(control) = self.settle(stream, kind, start.freeze(), typed)? {
                        return Poll::Ready(Ok(control));
                    }
                    self.read_qpack(cx)?;
                }
            }
        }
        Poll::Pending
    }

    /// Puts a stream in its place. `start` is what has come of it, its type in the first `typed` bytes.
    fn settle(&mut self, mut stream: Recv, kind: u64, start: Bytes, typed: usize) -> Result<Option<Recv>, Violation> {
        match kind {
            CONTROL if !std::mem::replace(&mut self.control_seen, true) => {
                let mut control = Control::new();
                control.feed(start.slice(typed..));
                stream.filter(Filter::Control { kind: Some(start.slice(..typed)), control });
                return Ok(Some(stream));
            }
            ENCODER if self.encoder.is_none() => {
                encoder(&start[typed..])?;
                self.encoder = Some(stream);
            }
            DECODER if self.decoder.is_none() => {
                let decoder = self.decoder.insert(Decoder { stream, continues: false });
                decoder.take(&start[typed..])?;
            }
            CONTROL | ENCODER | DECODER => return Err(SECOND),
            PUSH => return Err(PUSHED),
            _ if self.unknown.spend() => stream.stop_sending(Code::H3_STREAM_CREATION_ERROR.value()),
            _ => return Err(LOAD),
        }
        Ok(None)
    }

    fn read_qpack(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        while let Some(stream) = &mut self.encoder {
            match read(stream, cx)? {
                Read::Chunk(chunk) => encoder(&chunk)?,
                Read::End => return Err(CLOSED.into()),
                Read::Pending => break,
            }
        }
        while let Some(decoder) = &mut self.decoder {
            match read(&mut decoder.stream, cx)? {
                Read::Chunk(chunk) => decoder.take(&chunk)?,
                Read::End => return Err(CLOSED.into()),
                Read::Pending => break,
            }
        }
        Ok(())
    }
}

fn read(stream: &mut Recv, cx: &mut Context<'_>) -> Result<Read, Ended> {
    match stream.poll_data(cx) {
        Poll::Ready(Ok(Some(chunk))) => Ok(Read::Chunk(chunk)),
        Poll::Ready(Err(StreamErrorIncoming::ConnectionErrorIncoming { connection_error })) => {
            Err(Ended::Lost(connection_error))
        }
        Poll::Ready(Ok(None) | Err(_)) => Ok(Read::End),
        Poll::Pending => Ok(Read::Pending),
    }
}

/// Looks at instructions of the client's encoder. Without a dynamic table it has nothing to say but that its capacity is 0
/// (RFC 9204 section 3.2.3).
fn encoder(instructions: &[u8]) -> Result<(), Violation> {
    const CAPACITY_ZERO: u8 = 0x20;
    if instructions.iter().all(|byte| *byte == CAPACITY_ZERO) { Ok(()) } else { Err(INSTRUCTION) }
}

impl Decoder {
    /// Looks at instructions of the client's decoder. What we encode needs no dynamic table, so there is nothing to
    /// acknowledge; streams may be cancelled (RFC 9204 section 4.4.2).
    fn take(&mut self, instructions: &[u8]) -> Result<(), Violation> {
        const CANCELLATION: u8 = 0x40;
        const FULL: u8 = 0x3f;
        for byte in instructions {
            self.continues = if self.continues {
                byte & 0x80 != 0
            } else if byte & 0xc0 == CANCELLATION {
                byte & FULL == FULL
            } else {
                return Err(ACKNOWLEDGED);
            };
        }
        Ok(())
    }
}

//! Extended CONNECT over HTTP/3 (RFC 9220), which h3's client cannot ask for: the few frames that it takes, by hand.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::connection::Way;
use super::http3::quic;

const DATA: u64 = 0x0;
const HEADERS: u64 = 0x1;
const SETTINGS: u64 = 0x4;
const CONTROL: u64 = 0x0;
const ENABLE_CONNECT_PROTOCOL: u64 = 0x8;
/// Bytes under way inside of this process, each way.
const BUFFER: usize = 4 << 10;

/// Opens a stream on a connection of its own.
///
/// # Errors
/// A status other than 200 is an error that names it.
pub(crate) async fn open(
    uri: &Uri,
    headers: &HeaderMap,
    (way, host): (Way, &str),
    tls: &Arc<rustls::ClientConfig>,
) -> Result<DuplexStream> {
    let (endpoint, connection) = quic(way, host, tls).await?;
    let mut control = connection.open_uni().await?;
    control.write_all(&[CONTROL as u8, SETTINGS as u8, 0]).await?;
    ensure!(allows_connect(&connection).await?, "the server's SETTINGS do not allow extended CONNECT");
    let (mut send, mut recv) = connection.open_bi().await?;
    let fields = fields(uri, headers)?;
    send.write_all(&frame(HEADERS, &fields)).await?;
    let mut received = BytesMut::new();
    let head = loop {
        let (kind, payload) = next_frame(&mut recv, &mut received).await?.context("an answer")?;
        if kind == HEADERS {
            break payload;
        }
    };
    let status = status(&head).context("an answer begins with its status")?;
    ensure!(status == 200, "refused with {status}");
    let (near, far) = tokio::io::duplex(BUFFER);
    let (mut from_near, mut to_near) = tokio::io::split(far);
    tokio::spawn(async move {
        // They live as long as the stream.
        let _kept = (endpoint, connection, control);
        let sending = async {
            let mut data = BytesMut::with_capacity(BUFFER);
            while from_near.read_buf(&mut data).await? > 0 {
                send.write_all(&frame(DATA, &data.split())).await?;
            }
            send.finish()?;
            anyhow::Ok(())
        };
        let receiving = async {
            while let Some((kind, payload)) = next_frame(&mut recv, &mut received).await? {
                if kind == DATA {
                    to_near.write_all(&payload).await?;
                }
            }
            to_near.shutdown().await?;
            anyhow::Ok(())
        };
        // Whichever way fails first, the other sees it.
        let _ = tokio::join!(sending, receiving);
    });
    Ok(near)
}

/// Whether the server's SETTINGS say so.
async fn allows_connect(connection: &quinn::Connection) -> Result<bool> {
    loop {
        let mut stream = connection.accept_uni().await?;
        let mut received = BytesMut::new();
        let Some(kind) = read_varint(&mut stream, &mut received).await? else { continue };
        if kind != CONTROL {
            continue;
        }
        let (kind, mut settings) = next_frame(&mut stream, &mut received).await?.context("SETTINGS")?;
        ensure!(kind == SETTINGS, "a control stream that begins with {kind}");
        while settings.has_remaining() {
            let setting = (take_varint(&mut settings).context("a setting")?, take_varint(&mut settings));
            if setting == (ENABLE_CONNECT_PROTOCOL, Some(1)) {
                // It ends with the connection, not with us.
                tokio::spawn(async move { stream.read_to_end(usize::MAX).await });
                return Ok(true);
            }
        }
        return Ok(false);
    }
}

/// The field section: literal lines only.
fn fields(uri: &Uri, headers: &HeaderMap) -> Result<Bytes> {
    let mut out = BytesMut::from(&[0, 0][..]);
    let authority = uri.authority().context("an authority")?.as_str();
    let path = uri.path_and_query().context("a path")?.as_str();
    let pseudo = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", path),
        (":authority", authority),
    ];
    for (name, value) in pseudo {
        literal(&mut out, name.as_bytes(), value.as_bytes());
    }
    for (name, value) in headers {
        literal(&mut out, name.as_str().as_bytes(), value.as_bytes());
    }
    Ok(out.freeze())
}

fn literal(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    prefixed(out, 0x20, 3, name.len());
    out.put_slice(name);
    prefixed(out, 0, 7, value.len());
    out.put_slice(value);
}

/// RFC 7541 section 5.1.
fn prefixed(out: &mut BytesMut, first: u8, bits: u32, mut value: usize) {
    let full = (1 << bits) - 1;
    if value < full {
        out.put_u8(first | value as u8);
        return;
    }
    out.put_u8(first | full as u8);
    value -= full;
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The status that a field section begins with: by its index, or its name's index and digits.
fn status(section: &[u8]) -> Option<u16> {
    let known = |index: u8| {
        Some(match index {
            24 => 103,
            25 => 200,
            26 => 304,
            27 => 404,
            28 => 503,
            _ => return None,
        })
    };
    match *section.get(2..)? {
        [line @ 0xc0..=0xfe, ..] => known(line & 0x3f),
        // Past the prefix: 63 and up.
        [0xff, more, ..] => [100, 204, 206, 302, 400, 403, 421, 425, 500].get(usize::from(more)).copied(),
        [0x5f, _, length, ref rest @ ..] => {
            let text = rest.get(..usize::from(length & 0x7f))?;
            if length & 0x80 == 0 { std::str::from_utf8(text).ok()?.parse().ok() } else { huffman_number(text) }
        }
        _ => None,
    }
}

/// Digits in HPACK's code: 0, 1, 2 take five bits, the others six.
fn huffman_number(bytes: &[u8]) -> Option<u16> {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let value = |bits: &[u8]| bits.iter().fold(0u16, |value, bit| value << 1 | u16::from(*bit));
    let (mut rest, mut number) = (&bits[..], 0);
    // What is left is shorter than a byte, and padding.
    while rest.len() >= 5 && !rest.iter().all(|bit| *bit == 1) {
        let digit = match value(&rest[..5]) {
            short @ 0..=2 => {
                rest = &rest[5..];
                short
            }
            _ => {
                let long = value(rest.get(..6)?);
                rest = &rest[6..];
                long.checked_sub(0x19)? + 3
            }
        };
        number = number * 10 + digit;
    }
    Some(number)
}

fn frame(kind: u64, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 9);
    out.put_u8(kind as u8);
    // Always in eight bytes: longer than needed, and allowed.
    out.put_u64(payload.len() as u64 | 0xc000_0000_0000_0000);
    out.put_slice(payload);
    out.freeze()
}

async fn next_frame(stream: &mut quinn::RecvStream, received: &mut BytesMut) -> Result<Option<(u64, Bytes)>> {
    let Some(kind) = read_varint(stream, received).await? else { return Ok(None) };
    let length = read_varint(stream, received).await?.context("a frame's length")? as usize;
    while received.len() < length {
        if !more(stream, received).await? {
            bail!("a frame that is broken off");
        }
    }
    Ok(Some((kind, received.split_to(length).freeze())))
}

async fn read_varint(stream: &mut quinn::RecvStream, received: &mut BytesMut) -> Result<Option<u64>> {
    loop {
        if let Some(value) = take_varint(received) {
            return Ok(Some(value));
        }
        if !more(stream, received).await? {
            return Ok(None);
        }
    }
}

async fn more(stream: &mut quinn::RecvStream, received: &mut BytesMut) -> Result<bool> {
    let chunk = stream.read_chunk(usize::MAX, true).await?;
    if let Some(chunk) = &chunk {
        received.extend_from_slice(&chunk.bytes);
    }
    Ok(chunk.is_some())
}

/// RFC 9000 section 16.
fn take_varint(from: &mut impl Buf) -> Option<u64> {
    let first = *from.chunk().first()?;
    let length = 1 << (first >> 6);
    if from.remaining() < length {
        return None;
    }
    let value = from.get_uint(length);
    Some(if length == 8 { value & !0xc000_0000_0000_0000 } else { value & ((1 << (8 * length - 2)) - 1) })
}

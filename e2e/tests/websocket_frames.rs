//! WebSocket frames of every shape (RFC 6455), byte by byte: what is in order is answered, what is not ends the connection
//! with the close code that tells why. Behind each case comes a question, which must be answered in the one case and must
//! not be in the other.

mod cases;
mod frame;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::{StreamExt, TryStreamExt};
use nearfield_testkit::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::raw;
use crate::space::Space;
use cases::{Case, Expected};
use frame::{CLOSE, Frame, PONG, TEXT};

/// Connections at once.
const AT_ONCE: usize = 32;

/// Upgrades a connection and returns it with nothing read behind the handshake.
async fn open(connector: &tokio_rustls::TlsConnector, token: &str) -> Result<TlsStream<TcpStream>> {
    let mut stream = raw::connect(connector).await?;
    let key = BASE64_STANDARD.encode([7; 16]);
    let head = format!(
        "GET /api/v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(raw::PATIENCE, stream.read_u8()).await??;
        answer.push(byte);
    }
    if !answer.starts_with(b"HTTP/1.1 101 ") {
        bail!("{}", String::from_utf8_lossy(&answer));
    }
    Ok(stream)
}

/// The frames that come until one is `last`, or the server closes. What is read behind it stays in `bytes`.
async fn frames(
    stream: &mut TlsStream<TcpStream>,
    bytes: &mut Vec<u8>,
    last: impl Fn(&Frame) -> bool,
) -> Result<Vec<Frame>> {
    let (mut buffer, mut frames) = ([0; 8192], Vec::new());
    loop {
        while let Some(frame) = frame::take(bytes)? {
            let is_last = last(&frame);
            frames.push(frame);
            if is_last {
                return Ok(frames);
            }
        }
        match tokio::time::timeout(raw::PATIENCE, stream.read(&mut buffer)).await {
            Ok(Ok(n)) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            // Some peers reset a connection that has unread input.
            Ok(_) => return Ok(frames),
            Err(_open) => bail!("the connection is still open after {frames:?}"),
        }
    }
}

fn is_answer(frame: &Frame) -> bool {
    frame.opcode == TEXT && frame.payload.windows(8).any(|word| word == b"\"behind\"")
}

async fn run(connector: &tokio_rustls::TlsConnector, token: &str, case: &Case) -> Result<Option<String>> {
    let mut stream = open(connector, token).await?;
    let question = Frame::text(br#"{"type":"ping","id":"behind"}"#).masked();
    raw::say(&mut stream, &[&case.bytes[..], &question].concat()).await;
    let mut bytes = Vec::new();
    let mut heard = frames(&mut stream, &mut bytes, is_answer).await.with_context(|| case.to_string())?;
    let is_answered = heard.last().is_some_and(is_answer);
    if is_answered {
        raw::say(&mut stream, &Frame::close(1000, b"").masked()).await;
        heard.extend(frames(&mut stream, &mut bytes, |_| false).await.with_context(|| case.to_string())?);
    }
    let close = heard.iter().find(|f| f.opcode == CLOSE).map(Frame::code);
    let pongs: Vec<&[u8]> = heard.iter().filter(|f| f.opcode == PONG).map(|f| &*f.payload).collect();
    let is_right = match &case.expected {
        Expected::Answered { pongs: expected } => is_answered && close == Some(Some(1000)) && pongs == *expected,
        Expected::Closed { codes } => !is_answered && close.is_some_and(|code| codes.contains(&code)),
        Expected::Either { codes } => is_answered || close.is_some_and(|code| codes.contains(&code)),
    };
    let told = || {
        format!(
            "{case}: answered: {is_answered}, close: {close:?}, pongs: {}; expected {:?}",
            pongs.len(),
            case.expected
        )
    };
    Ok((!is_right).then(told))
}

#[tokio::test]
async fn every_shape_of_frame_is_taken_or_refused_as_it_must_be() -> Result<()> {
    let space = Space::new("ws-frames")?;
    let connector = raw::connector(Protocol::Http1)?;
    let cases = cases::all();
    assert!(cases.len() >= 500, "{}", cases.len());
    let wrong: Vec<Option<String>> = futures::stream::iter(&cases)
        .map(|case| run(&connector, &space.token, case))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    Ok(())
}

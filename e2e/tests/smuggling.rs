//! Request smuggling: framings that two readers could take for different requests. Each is sent with a second request
//! hidden behind, or inside, the first; a reader written from RFC 9112 says which answers may come, and in which order.
//!
//! The server may always refuse, and then must hang up: what follows a framing error is not a request (section 11.2).

mod framings;
mod reference;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use nearfield_testkit::Protocol;

use crate::raw;
use framings::Framing;
use reference::Answers;

/// Connections at once.
const AT_ONCE: usize = 100;

/// The statuses of the answers in `bytes`, by their own Content-Length.
fn statuses(mut bytes: &[u8]) -> Result<Vec<u16>> {
    let mut statuses = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").context("an answer's head that ends")?;
        let head = std::str::from_utf8(&bytes[..end])?;
        let status = head.get(9..12).context("a status")?.parse()?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        // Before a body that the client holds back; and what never has a body.
        let length =
            if matches!(status, 100 | 204) { 0 } else { length.with_context(|| format!("a length: {head}"))? };
        bytes = bytes.get(end + 4 + length..).with_context(|| format!("an answer that is whole: {head}"))?;
        statuses.push(status);
    }
    Ok(statuses.into_iter().filter(|status| *status != 100).collect())
}

/// What a server says to bytes that are no request.
fn is_refusal(status: u16) -> bool {
    matches!(status, 400 | 405 | 408 | 411 | 413 | 414 | 417 | 426 | 431 | 501 | 505)
}

/// Whether the answers are those that may come, or the first of them and then a refusal. Who closes may stop anywhere.
fn is_in_step(heard: &[u16], closed: bool, allowed: &Answers) -> bool {
    let same = heard.iter().zip(&allowed.statuses).take_while(|(a, b)| a == b).count();
    match heard.len() - same {
        0 => closed || same == allowed.statuses.len() && !allowed.must_close,
        1 => is_refusal(heard[same]) && closed,
        _ => false,
    }
}

#[test]
fn the_judge_can_tell() {
    let check = |heard: &[u16], closed, allowed: &[u16], must_close, expected| {
        let allowed = Answers { statuses: allowed.to_vec(), must_close };
        assert_eq!(is_in_step(heard, closed, &allowed), expected, "{heard:?} {closed} {:?}", allowed.statuses);
    };
    check(&[401, 200], true, &[401, 200], true, true);
    check(&[401, 400], true, &[401, 200], true, true);
    check(&[400], true, &[], true, true);
    // A refusal that leaves the connection open, and a request that does.
    check(&[400], false, &[], true, false);
    check(&[401], false, &[401], true, false);
    // A request that was hidden, one that was swallowed, one behind a framing error.
    check(&[401, 200], true, &[401], true, false);
    check(&[401], false, &[401, 200], true, false);
    check(&[200], true, &[401, 200], true, false);
    check(&[400, 200], true, &[], true, false);
    let two = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 400 Bad\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(statuses(two).unwrap(), [200, 400]);
}

#[tokio::test]
async fn no_framing_hides_a_request() -> Result<()> {
    let framings = framings::all();
    assert!(framings.len() >= 300, "{}", framings.len());
    let connector = raw::connector(Protocol::Http1)?;
    let heard: Vec<(&Framing, raw::Heard)> = futures::stream::iter(&framings)
        .map(|framing| {
            let connector = connector.clone();
            async move {
                let mut stream = raw::connect(&connector).await?;
                raw::say(&mut stream, &framing.bytes).await;
                anyhow::Ok((framing, raw::listen(&mut stream).await))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let mut out_of_step = Vec::new();
    let mut read_whole = 0;
    for (framing, heard) in heard {
        let allowed = reference::answers(&framing.bytes);
        let told = statuses(&heard.bytes).with_context(|| framing.to_string())?;
        if !is_in_step(&told, heard.closed, &allowed) {
            let Answers { statuses, must_close } = &allowed;
            let heard = format!("{told:?}, closed: {}", heard.closed);
            out_of_step.push(format!("{framing}: {heard}; allowed: {statuses:?}, must close: {must_close}"));
        }
        read_whole += usize::from(told.len() > 1 && told == allowed.statuses);
    }
    assert!(out_of_step.is_empty(), "{} of {}:\n{}", out_of_step.len(), framings.len(), out_of_step.join("\n"));
    // A server that refused everything would pass all of the above.
    assert!(read_whole >= framings::PLAIN, "{read_whole} were read whole");
    Ok(())
}

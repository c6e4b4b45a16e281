//! What the suites that go frame by frame have in common: HTTP/2's and HTTP/3's heads are the same, and so is how cases are run.

use std::fmt::Display;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};
use nearfield_testkit::Client;

/// Connections at once.
const AT_ONCE: usize = 16;

/// Fields of which each makes a head malformed (RFC 9113 section 8.2, RFC 9114 section 4.2).
pub(crate) const NO_HEAD_HAS: [(&str, &str); 15] = [
    ("connection", "close"),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "close"),
    ("transfer-encoding", "chunked"),
    ("upgrade", "websocket"),
    ("te", "gzip"),
    ("X-Upper", "1"),
    ("x space", "1"),
    ("", "1"),
    (":status", "200"),
    (":unknown", "1"),
    (":protocol", "websocket"),
    ("x-nul", "a\0b"),
    ("x-newline", "a\nb"),
    ("x-return", "a\rb"),
];

/// Runs at least so many `cases`; beside each another request of the `honest` client waits on a new connection.
pub(crate) async fn all_hold<'a, C: Display, R: Future<Output = Result<()>>>(
    cases: &'a [C],
    at_least: usize,
    honest: &Client,
    run: impl Fn(&'a C) -> R,
) -> Result<()> {
    assert!(cases.len() >= at_least, "{}", cases.len());
    let wrong: Vec<Option<String>> = futures::stream::iter(cases)
        .map(|case| {
            let ran = run(case);
            async move {
                let ran = ran.await;
                honest.separate().get("/health/ready").send().await?.expect(200)?;
                anyhow::Ok(ran.err().map(|error| format!("{case}: {error:#}")))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    Ok(())
}

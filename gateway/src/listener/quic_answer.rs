//! Answers over HTTP/3: written as their client takes them, and seen to its end.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h3::server::RequestStream;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;

use super::quic::Cause;
use super::quic_streams::{self, Stopped};
use crate::body::Response;

type SendHalf = RequestStream<quic_streams::Send, Bytes>;

/// As hyper does for the other two.
pub(super) fn date(headers: &mut HeaderMap) {
    if let header::Entry::Vacant(date) = headers.entry(header::DATE)
        && let Ok(now) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now()))
    {
        date.insert(now);
    }
}

pub(super) async fn answer(
    send: &mut SendHalf,
    response: Response,
    is_head: bool,
    patience: Duration,
) -> Result<(), Cause> {
    let (mut parts, mut body) = response.into_parts();
    date(&mut parts.headers);
    if let Some(exact) = http_body::Body::size_hint(&body).exact()
        && !parts.status.is_informational()
        && parts.status != http::StatusCode::NO_CONTENT
        && !(is_head && exact == 0)
    {
        parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(exact));
    }
    tokio::time::timeout(patience, send.send_response(http::Response::from_parts(parts, ()))).await??;
    if !is_head {
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => tokio::time::timeout(patience, send.send_data(data)).await??,
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        tokio::time::timeout(patience, send.send_trailers(trailers)).await??;
                    }
                }
            }
        }
    }
    send.finish().await?;
    Ok(())
}

/// Waits until the client has all of an answer, or wants no more of it.
///
/// # Errors
/// When it takes nothing.
pub(super) async fn taken(stopped: &mut Stopped, quic: &quinn::Connection, patience: Duration) -> Result<(), Cause> {
    let mut before = None;
    while let Err(elapsed) = tokio::time::timeout(patience, &mut *stopped).await {
        let sent = Some(quic.stats().frame_tx.stream);
        if std::mem::replace(&mut before, sent) == sent {
            return Err(elapsed.into());
        }
    }
    Ok(())
}

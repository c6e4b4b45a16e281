//! W3C Trace Context: who asked, carried from the client through the gateway to the index.
//!
//! A server calls [`TraceContext::begin`] with the request's headers and its span; whatever it asks others to do for that
//! request gets [`TraceContext::inject`]. That works with and without an OTLP exporter: without one the ids still join
//! the logs of both tiers.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// `traceparent`, <https://www.w3.org/TR/trace-context/#traceparent-header>.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate`: what tracing systems tell each other; passed on untouched.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The specification asks for at least 512 characters to be passed on; longer values are dropped.
const MAX_TRACESTATE_BYTES: usize = 512;

/// Version, trace, span and flags, with dashes between them.
const TRACEPARENT_BYTES: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;

/// One step of one trace. The ids are never zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    /// The step that is under way: the parent of whatever it asks for.
    span_id: [u8; 8],
    sampled: bool,
    state: Option<HeaderValue>,
}

impl TraceContext {
    /// Takes up the caller's trace, or begins one, and makes `span` part of it. The result is what to pass on. `span`
    /// must be new: once it was entered its parent is settled.
    pub fn begin(headers: &HeaderMap, span: &tracing::Span) -> Self {
        let remote = Self::extract(headers);
        if let Some(remote) = &remote {
            // Fails when nothing is exported; the ids are passed on all the same.
            let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(remote.span_context()));
        }
        let context = span.context();
        let exported = context.span().span_context().clone();
        if exported.is_valid() {
            return Self {
                trace_id: exported.trace_id().to_bytes(),
                span_id: exported.span_id().to_bytes(),
                sampled: exported.is_sampled(),
                state: remote.and_then(|remote| remote.state),
            };
        }
        remote.map_or_else(Self::fresh, |remote| Self { span_id: nonzero(), ..remote })
    }

    /// A trace of its own, not sampled.
    pub fn fresh() -> Self {
        Self { trace_id: nonzero(), span_id: nonzero(), sampled: false, state: None }
    }

    /// What the headers say. None when there is no `traceparent`, several, or an invalid one.
    pub fn extract(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let context = Self::parse(value.to_str().ok()?)?;
        let state = headers.get(TRACESTATE).filter(|state| state.len() <= MAX_TRACESTATE_BYTES).cloned();
        Some(Self { state, ..context })
    }

    /// Parses a `traceparent`: `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, in lower case. A version above 00 may
    /// have more fields behind these; ff is forbidden.
    pub fn parse(value: &str) -> Option<Self> {
        let mut fields = value.split('-');
        let [version] = unhex(fields.next()?)?;
        let trace_id = unhex(fields.next()?)?;
        let span_id = unhex(fields.next()?)?;
        let [flags] = unhex(fields.next()?)?;
        let complete = match version {
            0 => fields.next().is_none(),
            255 => false,
            _ => true,
        };
        let valid = complete && trace_id != [0; 16] && span_id != [0; 8];
        valid.then_some(Self { trace_id, span_id, sampled: flags & 1 == 1, state: None })
    }

    /// Sets the headers for whoever is asked next.
    pub fn inject(&self, headers: &mut HeaderMap) {
        let value = HeaderValue::from_bytes(&self.traceparent()).expect("hex digits and dashes");
        headers.insert(TRACEPARENT, value);
        match &self.state {
            Some(state) => headers.insert(TRACESTATE, state.clone()),
            None => headers.remove(TRACESTATE),
        };
    }

    /// 32 hex digits.
    pub fn trace_id(&self) -> String {
        let mut digits = [0; 32];
        hex(&self.trace_id, &mut digits);
        String::from_utf8_lossy(&digits).into_owned()
    }

    fn traceparent(&self) -> [u8; TRACEPARENT_BYTES] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex(&self.trace_id, &mut text[3..35]);
        hex(&self.span_id, &mut text[36..52]);
        hex(&[u8::from(self.sampled)], &mut text[53..]);
        text
    }

    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    fn span_context(&self) -> SpanContext {
        SpanContext::new(
            TraceId::from_bytes(self.trace_id),
            SpanId::from_bytes(self.span_id),
            if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() },
            true,
            TraceState::default(),
        )
    }
}

/// Makes an exported `span` the parent of what the request with these headers asks for. Without an exporter the headers
/// stay as they are.
pub fn pass_on(span: &tracing::Span, headers: &mut HeaderMap) {
    if span.is_disabled() {
        return;
    }
    let context = span.context();
    let exported = context.span().span_context().clone();
    if exported.is_valid() {
        let step = TraceContext {
            trace_id: exported.trace_id().to_bytes(),
            span_id: exported.span_id().to_bytes(),
            sampled: exported.is_sampled(),
            state: headers.get(TRACESTATE).cloned(),
        };
        step.inject(headers);
    }
}

/// The `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.traceparent()))
    }
}

/// Writes two digits for each byte.
fn hex(bytes: &[u8], digits: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(digits.chunks_exact_mut(2)) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// Exactly `N` bytes in lower-case hex digits.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn nonzero<const N: usize>() -> [u8; N] {
    loop {
        let mut bytes = [0; N];
        rand::fill(&mut bytes[..]);
        if bytes != [0; N] {
            return bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(values: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(*name, HeaderValue::from_str(value).expect("a header value"));
        }
        headers
    }

    #[test]
    fn a_traceparent_is_read_and_written_alike() {
        let context = TraceContext::parse(VALID).expect("the example of the specification");
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), VALID);
    }

    #[test]
    fn what_the_specification_forbids_is_no_context() {
        for invalid in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(invalid), None, "{invalid}");
        }
        assert!(TraceContext::parse(&VALID.replacen("00", "42", 1)).is_some(), "a later version");
        assert!(TraceContext::parse(&format!("{}-more", VALID.replacen("00", "42", 1))).is_some());
    }

    #[test]
    fn the_callers_trace_goes_on_under_a_span_of_ours() {
        let incoming = headers(&[("traceparent", VALID), ("tracestate", "vendor=1")]);
        let context = TraceContext::begin(&incoming, &tracing::Span::none());
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(context.to_string(), VALID, "the span must be another");
        assert!(context.is_sampled());
        let mut outgoing = HeaderMap::new();
        context.inject(&mut outgoing);
        assert_eq!(outgoing["tracestate"], "vendor=1");
        assert_eq!(TraceContext::extract(&outgoing), Some(context));
    }

    #[test]
    fn without_a_valid_one_a_trace_begins() {
        for incoming in [headers(&[]), headers(&[("traceparent", "nonsense")]), headers(&[("traceparent", VALID); 2])] {
            let context = TraceContext::begin(&incoming, &tracing::Span::none());
            assert_ne!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
            assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
        }
    }
}

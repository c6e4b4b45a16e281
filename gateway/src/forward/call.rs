//! What of a caller's request goes with every call that is made for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use nearfield_auth::Principal;
use nearfield_cache::Invalidation;
use nearfield_proto::TENANT_METADATA;
use nearfield_telemetry::trace_context::TraceContext;

use super::balance::Key;
use crate::error::Error;
use crate::region::geo::{ClientLocation, Coordinates};
use crate::request::{Caller, ClientAddr, Deadline, RequestId};

/// Who calls, until when, and under which trace.
#[derive(Clone, Default)]
pub struct CallContext {
    pub principal: Option<Arc<Principal>>,
    pub client: Option<IpAddr>,
    pub deadline: Option<Instant>,
    pub location: Option<Coordinates>,
    pub request_id: Option<RequestId>,
    /// Where a write says what it changed, so that no cache hides it.
    pub invalidation: Option<Invalidation>,
    /// `traceparent` and `tracestate` (W3C Trace Context).
    trace: [Option<HeaderValue>; 2],
    tenant: Option<HeaderValue>,
}

impl CallContext {
    /// Reads the extensions and headers of a request.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] when the caller's tenant cannot be carried: it must never be dropped on the way.
    pub fn of(parts: &http::request::Parts) -> Result<Self, Error> {
        let extensions = &parts.extensions;
        let principal = extensions.get::<Caller>().map(|caller| caller.0.clone());
        let tenant = principal.as_ref().and_then(|p| p.tenant.as_deref()).map(tenant_value).transpose()?;
        Ok(Self {
            client: extensions.get::<ClientAddr>().map(|client| client.0.ip()),
            deadline: extensions.get::<Deadline>().map(|deadline| deadline.0),
            location: extensions.get::<ClientLocation>().map(|location| location.0),
            invalidation: extensions.get::<Invalidation>().cloned(),
            request_id: extensions.get::<RequestId>().cloned(),
            trace: TRACE_HEADERS.map(|name| parts.headers.get(name).cloned()),
            tenant,
            principal,
        })
    }

    /// Makes `span`, which must be new, a part of the caller's trace, where spans are exported.
    pub(crate) fn continue_trace(&self, span: &tracing::Span) {
        if span.is_disabled() {
            return;
        }
        let carried = TRACE_HEADERS.into_iter().zip(&self.trace);
        let headers = carried.filter_map(|(name, value)| Some((name, value.clone()?))).collect();
        TraceContext::begin(&headers, span);
    }

    pub fn tenant(&self) -> &str {
        self.principal.as_ref().and_then(|p| p.tenant.as_deref()).unwrap_or_default()
    }

    /// Writes the metadata that searchd reads: tenant, deadline, request id, trace.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] when no time is left.
    pub fn write(&self, headers: &mut HeaderMap) -> Result<(), Error> {
        if let Some(tenant) = &self.tenant {
            headers.insert(TENANT_METADATA, tenant.clone());
        }
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::DeadlineExceeded);
            }
            headers.insert("grpc-timeout", grpc_timeout(left));
        }
        if let Some(RequestId(id)) = &self.request_id {
            headers.insert(RequestId::HEADER, id.clone());
        }
        for (name, value) in TRACE_HEADERS.into_iter().zip(&self.trace) {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        Ok(())
    }

    /// To be held over a write to `collection` until its answer is known: then, or when the write is given up half way,
    /// what caches hold of the collection is purged, before the caller is told.
    pub(crate) fn writing(&self, collection: &str) -> Writing {
        Writing { invalidation: self.invalidation.clone(), tenant: self.tenant_id(), collection: collection.into() }
    }

    /// The same for a write of which only the tenant is known.
    pub(crate) fn writing_somewhere(&self) -> Writing {
        self.writing("")
    }

    fn tenant_id(&self) -> Option<Box<str>> {
        self.principal.as_ref().and_then(|p| p.tenant.as_deref()).map(Into::into)
    }

    /// The affinity key of this caller's reads.
    pub fn read_key(&self) -> Key {
        self.client.map_or_else(Key::of_nobody, Key::of_client)
    }

    /// The affinity key of this caller's writes to a collection.
    pub fn write_key(&self, collection: &str) -> Key {
        Key::of_collection(self.tenant(), collection)
    }
}

/// A write under way; purges when dropped.
pub(crate) struct Writing {
    invalidation: Option<Invalidation>,
    tenant: Option<Box<str>>,
    /// Empty when unknown.
    collection: Box<str>,
}

impl Writing {
    /// The write has been applied, as far as it ever will.
    pub(crate) fn applied(&self) {
        let Some(invalidation) = &self.invalidation else { return };
        match &*self.collection {
            "" => invalidation.tenant_changed(self.tenant.as_deref()),
            collection => invalidation.collection_changed(self.tenant.as_deref(), collection),
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.applied();
    }
}

fn tenant_value(tenant: &str) -> Result<HeaderValue, Error> {
    let printable = !tenant.is_empty() && tenant.bytes().all(|byte| byte.is_ascii_graphic());
    let value = printable.then(|| HeaderValue::from_str(tenant).ok()).flatten();
    value.ok_or_else(|| Error::Unauthenticated("the tenant is empty or not printable ASCII".to_owned()))
}

/// A duration as gRPC writes it: at most eight digits and a unit.
fn grpc_timeout(left: Duration) -> HeaderValue {
    let micros = left.as_micros().max(1);
    let text = match micros {
        0..100_000_000 => format!("{micros}u"),
        100_000_000..100_000_000_000 => format!("{}m", micros / 1_000),
        _ => format!("{}S", left.as_secs().min(99_999_999)),
    };
    HeaderValue::try_from(text).expect("digits and a letter")
}

const TRACE_HEADERS: [HeaderName; 2] = [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_at_most_eight_digits() {
        let check = |millis: u64, expected: &str| {
            assert_eq!(grpc_timeout(Duration::from_millis(millis)), expected, "{millis} ms");
        };
        check(0, "1u");
        check(250, "250000u");
        check(99_999, "99999000u");
        check(100_000, "100000m");
        check(300_000_000, "300000S");
    }

    #[test]
    fn a_tenant_that_cannot_be_carried_is_refused() {
        assert!(tenant_value("acme").is_ok());
        for bad in ["", "a b", "zürich", "a\nb"] {
            assert!(tenant_value(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_deadline_that_has_passed_ends_the_call() {
        let context = CallContext { deadline: Some(Instant::now()), ..CallContext::default() };
        assert!(matches!(context.write(&mut HeaderMap::new()), Err(Error::DeadlineExceeded)));
    }
}

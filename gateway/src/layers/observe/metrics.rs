//! Rate, errors and duration by route, transport and outcome: labels that only the code can add values to.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use nearfield_telemetry::exemplar::{self, Latencies};
use nearfield_telemetry::trace_context::TraceContext;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::request::Transport;
use crate::route::Route;

/// How a request ended, for whoever watches a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// The client left, or the answer broke off.
    Aborted,
    /// 4xx: the caller's fault.
    ClientError,
    /// 429.
    Limited,
    Ok,
    /// 5xx but 503.
    ServerError,
    /// 503: shed, draining, no region.
    Unavailable,
}

impl Outcome {
    /// Of an answer that was sent whole. gRPC tells its status apart from HTTP's.
    pub(crate) fn of(status: StatusCode, grpc: Option<i32>) -> Self {
        if let Some(code) = grpc {
            return Self::of_grpc(tonic::Code::from(code));
        }
        match status.as_u16() {
            429 => Self::Limited,
            503 => Self::Unavailable,
            400..=499 => Self::ClientError,
            500..=599 => Self::ServerError,
            _ => Self::Ok,
        }
    }

    fn of_grpc(code: tonic::Code) -> Self {
        use tonic::Code;
        match code {
            Code::Ok => Self::Ok,
            Code::ResourceExhausted => Self::Limited,
            Code::Unavailable => Self::Unavailable,
            Code::Cancelled => Self::Aborted,
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated => Self::ClientError,
            Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::DataLoss => Self::ServerError,
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::ClientError => "client_error",
            Self::Limited => "limited",
            Self::Ok => "ok",
            Self::ServerError => "server_error",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Who had the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tier {
    /// The gateway itself: refusals, and what it knows without asking.
    Edge,
    Memory,
    Redis,
    Upstream,
}

impl Tier {
    /// By what the layers inside say in the head.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let cache = headers.get(CACHE_STATUS).and_then(|status| status.to_str().ok()).unwrap_or_default();
        if cache.contains("; hit") || cache.contains("fwd=stale; fwd-status=5") {
            return if cache.contains("detail=redis") { Self::Redis } else { Self::Memory };
        }
        if headers.contains_key(REGION) { Self::Upstream } else { Self::Edge }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::Upstream => "upstream",
        }
    }
}

/// The region that answered, as its header names it: the topology bounds them. Empty when none did.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Region(HeaderValue);

impl Region {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        Self(headers.get(REGION).cloned().unwrap_or(HeaderValue::from_static("")))
    }

    fn label(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const REGION: HeaderName = HeaderName::from_static("nearfield-region");

macro_rules! label_value {
    ($kind:ty, $text:ident) => {
        impl EncodeLabelValue for $kind {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                EncodeLabelValue::encode(&self.$text(), encoder)
            }
        }
    };
}
label_value!(Outcome, label);
label_value!(Region, label);
label_value!(Route, label);
label_value!(Tier, label);
label_value!(Transport, label);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Asked {
    pub(super) route: Route,
    pub(super) transport: Transport,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    route: Route,
    transport: Transport,
    tier: Tier,
    region: Region,
    outcome: Outcome,
}

/// `gateway_requests_*`.
#[derive(Clone)]
pub(crate) struct Metrics {
    ended: Family<Ended, Counter>,
    in_flight: Family<Asked, Gauge>,
    seconds: Family<Asked, Latencies>,
}

/// From a cache hit to the longest deadline of a unary call; dense around the targets of 10, 30 and 50 ms.
const BUCKETS: [f64; 17] =
    [0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("gateway");
        let metrics = Self {
            ended: Family::default(),
            in_flight: Family::default(),
            seconds: Family::new_with_constructor(|| Latencies::new(BUCKETS.into_iter())),
        };
        registry.register("requests", "requests that ended, by how", metrics.ended.clone());
        registry.register("requests_in_flight", "requests that have not ended", metrics.in_flight.clone());
        registry.register(
            "request_first_byte_seconds",
            "from a request's head to the head of its answer",
            metrics.seconds.clone(),
        );
        metrics
    }

    pub(super) fn begin(&self, route: Route, transport: Transport) {
        self.in_flight.get_or_create(&Asked { route, transport }).inc();
    }

    /// `trace` is the one that the request belongs to.
    pub(super) fn end(
        &self,
        asked: Asked,
        (tier, region): (Tier, Region),
        outcome: Outcome,
        first_byte: Duration,
        trace: Option<&TraceContext>,
    ) {
        let Asked { route, transport } = asked;
        self.in_flight.get_or_create(&asked).dec();
        exemplar::observe(&self.seconds.get_or_create(&asked), first_byte, trace);
        self.ended.get_or_create(&Ended { route, transport, tier, region, outcome }).inc();
    }
}

//! The load that a searchd tells of itself with every answer, in the form that gRPC's ecosystem reads.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use prost::Message;

/// The trailing metadata key of a [`LoadReport`] (gRFC A51).
pub const LOAD_METADATA: &str = "endpoint-load-metrics-bin";

/// Key of [`LoadReport::named_metrics`]: milliseconds that a search waits for a thread, lately.
pub const QUEUE_DELAY: &str = "nearfield.queue_delay_ms";

/// `xds.data.orca.v3.OrcaLoadReport`: the fields that are used here.
#[derive(Clone, PartialEq, Message)]
pub struct LoadReport {
    #[prost(map = "string, double", tag = "8")]
    pub named_metrics: std::collections::HashMap<String, f64>,
    /// The share of the search threads' time that is spent, 0 to 1.
    #[prost(double, tag = "9")]
    pub application_utilization: f64,
}

impl LoadReport {
    pub fn new(utilization: f64, queue_delay_ms: f64) -> Self {
        let named_metrics = [(QUEUE_DELAY.to_owned(), queue_delay_ms)].into();
        Self { named_metrics, application_utilization: utilization }
    }

    /// Milliseconds; 0 when not told.
    pub fn queue_delay_ms(&self) -> f64 {
        self.named_metrics.get(QUEUE_DELAY).copied().unwrap_or_default()
    }

    /// The value under [`LOAD_METADATA`], as it stands in a header field.
    pub fn to_header(&self) -> http::HeaderValue {
        // Binary metadata is base64, and written without padding.
        http::HeaderValue::try_from(STANDARD_NO_PAD.encode(self.encode_to_vec())).expect("base64 is ASCII")
    }

    /// `None` for what is no report.
    pub fn from_header(value: &http::HeaderValue) -> Option<Self> {
        let value = value.to_str().ok()?.trim_end_matches('=');
        Self::decode(STANDARD_NO_PAD.decode(value).ok()?.as_slice()).ok()
    }
}

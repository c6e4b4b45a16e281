//! How much a request matters when there is not room for all: by what it asks for, by the caller's plan, and by what the
//! caller says of it, who may only make it matter less.

use http::{HeaderMap, HeaderName};
use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use serde::Deserialize;

use crate::error::Error;
use crate::route::{GrpcMethod, Route};

/// `Nearfield-Criticality: sheddable`, for what a caller can do without.
pub const CRITICALITY: HeaderName = HeaderName::from_static("nearfield-criticality");

/// The first to go first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Criticality {
    /// Can be done another time: exports, measurements, what a caller marks so.
    Sheddable,
    #[default]
    Normal,
    /// Premium traffic.
    High,
    /// Nothing works without it: health, purges, what operators do.
    Critical,
}

impl Criticality {
    pub(super) const ALL: [Self; 4] = [Self::Sheddable, Self::Normal, Self::High, Self::Critical];
    /// How many there are.
    pub(super) const COUNT: usize = Self::ALL.len();

    /// `plan` is what the caller's plan gives.
    ///
    /// # Errors
    /// A header that is none of the four words.
    pub(crate) fn of(route: Route, plan: Self, headers: &HeaderMap) -> Result<Self, Error> {
        let given = match route {
            Route::CachePurge | Route::Grpc(GrpcMethod::Health) | Route::HealthReady | Route::Regions => Self::Critical,
            Route::CacheWarm | Route::Export | Route::Recall => Self::Sheddable,
            Route::Audit
            | Route::Collection
            | Route::Collections
            | Route::Delete
            | Route::Embed
            | Route::Grpc(GrpcMethod::Admin | GrpcMethod::Read | GrpcMethod::Reflection | GrpcMethod::Unknown)
            | Route::Grpc(GrpcMethod::Write)
            | Route::Insert
            | Route::Key
            | Route::KeyRotate
            | Route::Keys
            | Route::OpenApi
            | Route::Search
            | Route::SearchBatch
            | Route::StreamSearch
            | Route::Unknown
            | Route::Update
            | Route::WebSocket => plan,
        };
        let Some(value) = headers.get(&CRITICALITY) else { return Ok(given) };
        let asked = match value.as_bytes() {
            b"critical" => Self::Critical,
            b"high" => Self::High,
            b"normal" => Self::Normal,
            b"sheddable" => Self::Sheddable,
            _ => {
                let detail = "is not one of critical, high, normal, sheddable";
                return Err(Error::invalid("Nearfield-Criticality", detail));
            }
        };
        Ok(given.min(asked))
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Sheddable => "sheddable",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl EncodeLabelValue for Criticality {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        EncodeLabelValue::encode(&self.label(), encoder)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_caller_may_make_a_request_matter_less_and_never_more() {
        let check = |route, plan, header: Option<&'static str>, expected| {
            let headers = header.map(|value| (CRITICALITY, HeaderValue::from_static(value)));
            let headers = HeaderMap::from_iter(headers);
            assert_eq!(Criticality::of(route, plan, &headers).ok(), expected, "{route:?} {plan:?} {header:?}");
        };
        use Criticality::{Critical, High, Normal, Sheddable};
        check(Route::Search, Normal, None, Some(Normal));
        check(Route::Search, High, None, Some(High));
        check(Route::Search, High, Some("sheddable"), Some(Sheddable));
        check(Route::Search, Normal, Some("critical"), Some(Normal));
        check(Route::Export, High, None, Some(Sheddable));
        check(Route::CachePurge, Normal, None, Some(Critical));
        check(Route::CachePurge, Normal, Some("normal"), Some(Normal));
        check(Route::Search, Normal, Some("Normal"), None);
        check(Route::Search, Normal, Some(""), None);
    }
}

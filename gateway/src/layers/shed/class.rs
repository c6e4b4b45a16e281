//! What shares a limit: requests that keep the same things busy for about as long.

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

use crate::body::Request;
use crate::layers::{classify, deadline};
use crate::route::{GrpcMethod, Route};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    Read,
    /// What lasts as long as its client likes.
    Stream,
    Write,
}

/// gRPC methods that stream one way or both.
const STREAMING: [&str; 4] = ["/BidirectionalSearch", "/InsertStream", "/Scan", "/StreamSearch"];

impl Class {
    pub(crate) fn of(request: &Request) -> Self {
        let route = classify::route(request);
        if route == Route::Insert && deadline::is_ndjson(request.headers()) {
            return Self::Stream;
        }
        let path = request.uri().path();
        if route.is_grpc() && STREAMING.iter().any(|method| path.ends_with(method)) {
            return Self::Stream;
        }
        Self::of_route(route)
    }

    pub(crate) fn of_route(route: Route) -> Self {
        match route {
            Route::CachePurge
            | Route::Delete
            | Route::Insert
            | Route::Update
            | Route::Grpc(GrpcMethod::Write | GrpcMethod::Admin) => Self::Write,
            Route::CacheWarm | Route::Export | Route::StreamSearch | Route::WebSocket => Self::Stream,
            Route::Grpc(GrpcMethod::Reflection) => Self::Stream,
            Route::Audit
            | Route::Collection
            | Route::Collections
            | Route::Embed
            | Route::Grpc(GrpcMethod::Health | GrpcMethod::Read | GrpcMethod::Unknown)
            | Route::HealthReady
            | Route::Key
            | Route::KeyRotate
            | Route::Keys
            | Route::OpenApi
            | Route::Recall
            | Route::Regions
            | Route::Search
            | Route::SearchBatch
            | Route::Unknown => Self::Read,
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Stream => "stream",
            Self::Write => "write",
        }
    }
}

impl EncodeLabelValue for Class {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        EncodeLabelValue::encode(&self.label(), encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body;

    #[test]
    fn what_streams_does_not_take_the_places_of_what_does_not() {
        let check = |path: &str, kind: &str, expected| {
            let request = http::Request::post(path).header("content-type", kind).body(body::empty());
            let mut request = request.unwrap();
            request.extensions_mut().insert(Route::of(path));
            assert_eq!(Class::of(&request), expected, "{path} {kind}");
        };
        check("/api/v1/search", "application/json", Class::Read);
        check("/api/v1/insert", "application/json", Class::Write);
        check("/api/v1/insert", "application/x-ndjson", Class::Stream);
        check("/nearfield.v1.VectorSearch/Search", "application/grpc", Class::Read);
        check("/nearfield.v1.VectorSearch/BidirectionalSearch", "application/grpc", Class::Stream);
        check("/nearfield.v1.VectorSearch/InsertStream", "application/grpc", Class::Stream);
    }
}

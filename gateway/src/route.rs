//! The routes: what each path is, which methods it takes, the scope it needs, and how it may be cached.
//!
//! Classified once, before any layer, so that authentication, limits, cache and metrics speak of the same thing.

use http::Method;
use nearfield_auth::Scope;

/// What a request asks for. The variants are also the bounded `route` label of metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    Audit,
    CachePurge,
    CacheWarm,
    Collection,
    Collections,
    Delete,
    Embed,
    Export,
    Grpc(GrpcMethod),
    HealthReady,
    Insert,
    Key,
    KeyRotate,
    Keys,
    OpenApi,
    Recall,
    Regions,
    Search,
    SearchBatch,
    StreamSearch,
    Unknown,
    Update,
    WebSocket,
}

/// The gRPC methods that the gateway passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrpcMethod {
    /// Writes collections.
    Admin,
    /// `grpc.health.v1.Health`, answered without credentials.
    Health,
    Read,
    /// Server reflection, answered without credentials.
    Reflection,
    Unknown,
    Write,
}

const API: &str = "/api/v1";

impl Route {
    pub fn of(path: &str) -> Self {
        if path == "/health/ready" {
            return Self::HealthReady;
        }
        let Some(path) = path.strip_prefix(API) else { return Self::of_grpc(path) };
        match path {
            "/audit" => Self::Audit,
            "/cache/purge" => Self::CachePurge,
            "/cache/warm" => Self::CacheWarm,
            "/collections" => Self::Collections,
            "/delete" => Self::Delete,
            "/export" => Self::Export,
            "/insert" => Self::Insert,
            "/keys" => Self::Keys,
            "/openapi.json" => Self::OpenApi,
            "/regions" => Self::Regions,
            "/search" => Self::Search,
            "/search/batch" => Self::SearchBatch,
            "/stream/search" => Self::StreamSearch,
            "/update" => Self::Update,
            "/ws" => Self::WebSocket,
            _ if path.strip_suffix("/recall").is_some_and(|path| segment_after(path, "/collections/")) => Self::Recall,
            _ if segment_after(path, "/collections/") => Self::Collection,
            _ if path.strip_suffix("/rotate").is_some_and(|path| segment_after(path, "/keys/")) => Self::KeyRotate,
            _ if segment_after(path, "/keys/") => Self::Key,
            _ if path.len() > "/embed/".len() && path.starts_with("/embed/") => Self::Embed,
            _ => Self::Unknown,
        }
    }

    fn of_grpc(path: &str) -> Self {
        let Some((service, method)) = path.strip_prefix('/').and_then(|p| p.split_once('/')) else {
            return Self::Unknown;
        };
        Self::Grpc(match (service, method) {
            ("nearfield.v1.VectorSearch", "Insert" | "InsertStream" | "Update" | "Delete") => GrpcMethod::Write,
            (
                "nearfield.v1.VectorSearch",
                "Search" | "StreamSearch" | "BidirectionalSearch" | "BatchSearch" | "Fetch" | "Scan",
            )
            | ("nearfield.v1.Collections", "List" | "Describe" | "MeasureRecall") => GrpcMethod::Read,
            ("nearfield.v1.Collections", "Create" | "Delete") => GrpcMethod::Admin,
            ("grpc.health.v1.Health", _) => GrpcMethod::Health,
            ("grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection", _) => {
                GrpcMethod::Reflection
            }
            _ if service.contains('.') => GrpcMethod::Unknown,
            _ => return Self::Unknown,
        })
    }

    /// As a metric label and in logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::CachePurge => "cache_purge",
            Self::CacheWarm => "cache_warm",
            Self::Collection => "collection",
            Self::Collections => "collections",
            Self::Delete => "delete",
            Self::Embed => "embed",
            Self::Export => "export",
            Self::Grpc(GrpcMethod::Admin) => "grpc_admin",
            Self::Grpc(GrpcMethod::Health) => "grpc_health",
            Self::Grpc(GrpcMethod::Read) => "grpc_read",
            Self::Grpc(GrpcMethod::Reflection) => "grpc_reflection",
            Self::Grpc(GrpcMethod::Unknown) => "grpc_unknown",
            Self::Grpc(GrpcMethod::Write) => "grpc_write",
            Self::HealthReady => "health_ready",
            Self::Insert => "insert",
            Self::Key => "key",
            Self::KeyRotate => "key_rotate",
            Self::Keys => "keys",
            Self::OpenApi => "openapi",
            Self::Recall => "recall",
            Self::Regions => "regions",
            Self::Search => "search",
            Self::SearchBatch => "search_batch",
            Self::StreamSearch => "stream_search",
            Self::Unknown => "unknown",
            Self::Update => "update",
            Self::WebSocket => "websocket",
        }
    }

    /// The methods that the route takes, as an `Allow` header lists them.
    pub fn allow(self) -> &'static str {
        match self {
            Self::Audit
            | Self::Collections
            | Self::Embed
            | Self::Export
            | Self::HealthReady
            | Self::OpenApi
            | Self::Recall
            | Self::Regions => "GET, HEAD, OPTIONS",
            Self::Collection => "GET, HEAD, PUT, DELETE, OPTIONS",
            Self::Key => "GET, HEAD, DELETE, OPTIONS",
            Self::Keys => "GET, HEAD, POST, OPTIONS",
            // QUERY (RFC 10008) asks as POST does, and is safe, idempotent and cacheable.
            Self::Search | Self::StreamSearch => "GET, HEAD, POST, QUERY, OPTIONS",
            Self::SearchBatch => "POST, QUERY, OPTIONS",
            Self::CachePurge
            | Self::CacheWarm
            | Self::Delete
            | Self::Grpc(_)
            | Self::Insert
            | Self::KeyRotate
            | Self::Update => "POST, OPTIONS",
            // CONNECT is the extended CONNECT of RFC 8441 and RFC 9220.
            Self::WebSocket => "GET, CONNECT, OPTIONS",
            Self::Unknown => "",
        }
    }

    pub fn allows(self, method: &Method) -> bool {
        self.allow().split(',').any(|allowed| allowed.trim_start() == method.as_str())
    }

    /// The scope that the caller needs; none for what is open to all.
    pub fn scope(self, method: &Method) -> Option<Scope> {
        match self {
            Self::HealthReady
            | Self::OpenApi
            | Self::Unknown
            | Self::Grpc(GrpcMethod::Health | GrpcMethod::Reflection | GrpcMethod::Unknown) => None,
            Self::Audit => Some(Scope::AuditRead),
            Self::CachePurge | Self::CacheWarm => Some(Scope::CacheAdmin),
            Self::Collection if *method != Method::GET && *method != Method::HEAD => Some(Scope::CollectionsAdmin),
            Self::Grpc(GrpcMethod::Admin) => Some(Scope::CollectionsAdmin),
            Self::Key | Self::KeyRotate | Self::Keys => Some(Scope::KeysAdmin),
            Self::Regions => Some(Scope::RegionsRead),
            Self::Delete | Self::Insert | Self::Update | Self::Grpc(GrpcMethod::Write) => Some(Scope::VectorsWrite),
            // A WebSocket's writes ask for vectors:write message by message.
            Self::Collection
            | Self::Collections
            | Self::Embed
            | Self::Export
            | Self::Grpc(GrpcMethod::Read)
            | Self::Recall
            | Self::Search
            | Self::SearchBatch
            | Self::StreamSearch
            | Self::WebSocket => Some(Scope::VectorsRead),
        }
    }

    pub fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc(_))
    }

    /// Answers that last: never buffered, never under the unary deadline.
    pub fn streams(self) -> bool {
        matches!(self, Self::CacheWarm | Self::Export | Self::Grpc(_) | Self::StreamSearch | Self::WebSocket)
    }
}

fn segment_after(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Route) {
        assert_eq!(Route::of(path), expected, "{path}");
    }

    #[test]
    fn paths_are_classified() {
        check("/api/v1/search", Route::Search);
        check("/api/v1/search/", Route::Unknown);
        check("/api/v1/embed/a%2Fb", Route::Embed);
        check("/api/v1/embed/", Route::Unknown);
        check("/api/v1/collections/shoes", Route::Collection);
        check("/api/v1/collections/", Route::Unknown);
        check("/api/v1/collections/shoes/recall", Route::Recall);
        check("/api/v1/collections/recall", Route::Collection);
        check("/api/v1/collections//recall", Route::Unknown);
        check("/api/v1/keys", Route::Keys);
        check("/api/v1/keys/00ff", Route::Key);
        check("/api/v1/keys/00ff/rotate", Route::KeyRotate);
        check("/api/v1/keys/", Route::Unknown);
        check("/api/v1/keys//rotate", Route::Unknown);
        check("/health/ready", Route::HealthReady);
        check("/nearfield.v1.VectorSearch/Search", Route::Grpc(GrpcMethod::Read));
        check("/nearfield.v1.VectorSearch/Nothing", Route::Grpc(GrpcMethod::Unknown));
        check("/", Route::Unknown);
    }

    #[test]
    fn writing_a_collection_needs_more_than_reading_it() {
        assert_eq!(Route::Collection.scope(&Method::GET), Some(Scope::VectorsRead));
        assert_eq!(Route::Collection.scope(&Method::PUT), Some(Scope::CollectionsAdmin));
    }
}

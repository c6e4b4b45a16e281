//! The published contract: `openapi.json`, written by hand and served as it is. Tests hold it to the routes and to real
//! answers.

use http::{HeaderValue, header};

use crate::body::{self, Response};

/// The OpenAPI 3.1 document.
pub const DOCUMENT: &str = include_str!("../openapi.json");

pub(crate) fn response() -> Response {
    let mut response = Response::new(body::full(DOCUMENT));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // The same for everybody, and only a new version of the program changes it.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::route::Route;

    #[test]
    fn every_path_of_the_document_is_a_route_and_every_method_its_own() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        for (path, item) in document["paths"].as_object().unwrap() {
            let route = Route::of(&path.replace("{collection}", "c").replace("{id}", "a"));
            assert_ne!(route, Route::Unknown, "{path}");
            let documented = |method: &&str| item.get(method.to_ascii_lowercase()).is_some();
            let methods = ["GET", "PUT", "POST", "DELETE"];
            let taken: Vec<&str> = route.allow().split(", ").filter(|m| methods.contains(m)).collect();
            let told: Vec<&str> = taken.iter().copied().filter(documented).collect();
            assert_eq!(told, taken, "{path}");
        }
    }

    #[test]
    fn every_route_is_in_the_document() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let paths: Vec<Route> = document["paths"]
            .as_object()
            .unwrap()
            .keys()
            .map(|path| Route::of(&path.replace("{collection}", "c").replace("{id}", "a")))
            .collect();
        for route in [
            Route::Audit,
            Route::CachePurge,
            Route::CacheWarm,
            Route::Collection,
            Route::Collections,
            Route::Delete,
            Route::Embed,
            Route::Export,
            Route::HealthReady,
            Route::Insert,
            Route::Key,
            Route::KeyRotate,
            Route::Keys,
            Route::OpenApi,
            Route::Recall,
            Route::Regions,
            Route::Search,
            Route::SearchBatch,
            Route::StreamSearch,
            Route::Update,
            Route::WebSocket,
        ] {
            assert!(paths.contains(&route), "{route:?}");
        }
    }
}

//! What pages in browsers need: preflights answered, answers and refusals that they may read.

use http::Method;
use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::error::Error;

use crate::support::{Edge, READ, TRANSPORTS};

async fn fine(_request: Request) -> Result<Response, Error> {
    Ok(Response::new(body::full("fine")))
}

const PAGE: &str = "https://app.example.com";

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_allowed_origins_may_call_and_others_may_not() {
    let allow = |config: &mut nearfield_gateway::config::Config| config.cors.allowed_origins = vec![PAGE.to_owned()];
    let edge = Edge::start(allow, hyper::service::service_fn(fine)).await;
    for transport in TRANSPORTS {
        let mut client = edge.connect(transport).await;
        for path in [READ, "/nearfield.v1.VectorSearch/Search"] {
            let preflight = http::Request::builder()
                .method(Method::OPTIONS)
                .uri(path)
                .header("origin", PAGE)
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "authorization,x-grpc-web");
            let answer = client.send(preflight, "").await;
            assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, PAGE), "{transport:?}");
            assert_eq!(answer.header("access-control-allow-headers"), "authorization,x-grpc-web", "{transport:?}");
            assert!(answer.header("access-control-allow-methods").contains("QUERY"), "{transport:?}");
        }
        let answer = client.send(http::Request::get(READ).header("origin", PAGE), "").await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, PAGE), "{transport:?}");
        assert!(answer.header("access-control-expose-headers").contains("grpc-status"), "{transport:?}");
        let refused = client.send(http::Request::get("/nothing").header("origin", PAGE), "").await;
        assert_eq!((refused.status, refused.header("access-control-allow-origin")), (404, PAGE), "{transport:?}");
        let other = client.send(http::Request::get(READ).header("origin", "https://evil.example"), "").await;
        assert_eq!(other.header("access-control-allow-origin"), "", "{transport:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_setting_no_page_may() {
    let edge = Edge::start(|_| {}, hyper::service::service_fn(fine)).await;
    let mut client = edge.connect(crate::support::Transport::Http2).await;
    let answer = client.send(http::Request::get(READ).header("origin", PAGE), "").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, ""));
    assert_eq!(answer.header("vary"), "");
}

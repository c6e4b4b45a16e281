//! Refusals: the right status and a problem that helps, for every way of asking wrongly.

use anyhow::Result;
use http::Method;
use nearfield_testkit::Protocol;
use serde_json::json;

use crate::space::{API, Space};

#[tokio::test]
async fn what_is_not_there_is_404() -> Result<()> {
    let space = Space::new("errors-404")?;
    for path in
        ["/", "/api", "/api/v2/search", "/api/v1/serach", "/api/v1/search/", "/api/v1/collections/a/b", "/metrics"]
    {
        space.client.get(path).send().await?.problem(404)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_method_that_a_route_does_not_take_is_405() -> Result<()> {
    let space = Space::new("errors-405")?;
    for (method, path) in [
        (Method::GET, "/insert"),
        (Method::DELETE, "/search"),
        (Method::PUT, "/update"),
        (Method::PATCH, "/collections/c"),
        (Method::POST, "/collections"),
        (Method::POST, "/embed/a"),
        (Method::from_bytes(b"BREW")?, "/search"),
    ] {
        let answer = space.client.request(method.clone(), &format!("{API}{path}")).send().await?;
        answer.problem(405)?;
        let allow = answer.header("allow");
        assert!(!allow.is_empty() && !allow.contains(method.as_str()), "{method} {path}: Allow: {allow}");
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_no_json_is_400() -> Result<()> {
    let space = Space::new("errors-json")?;
    space.create("c", json!({"dimension": 2})).await?;
    for body in [
        "",
        "{",
        "nul",
        "[1,2",
        "{\"query\":[1,2],}",
        "\"text\"",
        "[]",
        "17",
        "{\"query\":[1,2]} trailing",
        "\u{feff}{}",
    ] {
        for call in ["search", "insert", "update", "delete", "search/batch"] {
            let request = space.client.post(&format!("{API}/{call}")).header("content-type", "application/json");
            request.body(body).send().await?.problem(400)?;
        }
    }
    let not_utf8 = b"{\"collection\":\"c\",\"query_vector_id\":\"\xff\xfe\"}".to_vec();
    let request = space.client.post(&format!("{API}/search")).header("content-type", "application/json");
    request.body(not_utf8).send().await?.problem(400)?;
    Ok(())
}

#[tokio::test]
async fn json_nested_past_all_reason_is_400() -> Result<()> {
    let space = Space::new("errors-deep")?;
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    for body in [
        deep.clone(),
        format!("{{\"filter\":{deep}}}"),
        format!("{{\"vectors\":[{{\"id\":\"a\",\"metadata\":{deep}}}]}}"),
    ] {
        for call in ["search", "insert"] {
            let request = space.client.post(&format!("{API}/{call}")).header("content-type", "application/json");
            request.body(body.clone()).send().await?.problem(400)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_body_of_another_type_is_415() -> Result<()> {
    let space = Space::new("errors-415")?;
    for kind in
        ["text/plain", "application/xml", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
    {
        let request = space.client.post(&format!("{API}/search")).header("content-type", kind);
        request.body("{}").send().await?.problem(415)?;
    }
    // Parameters of the type do not matter.
    space.create("c", json!({"dimension": 2})).await?;
    let request = space.client.post(&format!("{API}/search")).header("content-type", "Application/JSON; charset=UTF-8");
    request.body(r#"{"collection":"c","query":[1,2]}"#).send().await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_body_past_the_limit_is_413_over_every_protocol() -> Result<()> {
    for protocol in Protocol::ALL {
        let space = Space::over(protocol, "errors-413")?;
        // Larger than any one JSON request has need to be.
        let body = vec![b' '; 80 << 20];
        let request = space.client.post(&format!("{API}/insert")).header("content-type", "application/json");
        request.body(body).send().await?.problem(413)?;
        // The connection, or a new one, goes on.
        assert_eq!(space.client.get("/health/ready").send().await?.status, 200, "{protocol:?}");
    }
    Ok(())
}

#[tokio::test]
async fn headers_past_the_limit_are_refused() -> Result<()> {
    for protocol in Protocol::ALL {
        let space = Space::over(protocol, "errors-431")?;
        let request = space.client.get(&format!("{API}/collections")).header("x-large", &"x".repeat(300_000));
        // The peer may also end the connection, or have announced its limit beforehand.
        if let Ok(answer) = request.send().await {
            assert!(answer.status.is_client_error(), "{protocol:?}: {}", answer.status);
        }
        assert_eq!(space.client.separate().get("/health/ready").send().await?.status, 200, "{protocol:?}");
    }
    Ok(())
}

#[tokio::test]
async fn every_answer_says_who_answered() -> Result<()> {
    let space = Space::new("errors-headers")?;
    for path in ["/api/v1/collections", "/api/v1/collections/nowhere", "/api/v1/nothing", "/api/v1/openapi.json"] {
        let answer = space.client.get(path).send().await?;
        let id = answer.header("x-request-id");
        assert!(id.starts_with("req_") && id.split('_').count() >= 4, "{path}: X-Request-Id: {id}");
        assert!(id.contains(answer.header("nearfield-region")), "{path}: {id}");
        assert!(!answer.header("nearfield-region").is_empty(), "{path}");
        assert!(!answer.header("server-timing").is_empty(), "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn two_requests_have_two_ids() -> Result<()> {
    let space = Space::new("errors-ids")?;
    let path = format!("{API}/collections");
    let (a, b) = (space.client.get(&path).send().await?, space.client.get(&path).send().await?);
    assert_ne!(a.header("x-request-id"), b.header("x-request-id"));
    Ok(())
}

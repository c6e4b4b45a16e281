//! Dispatch in front of a real searchd, called without a network between test and gateway.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use nearfield_auth::Authenticator;
use nearfield_cache::feed::Name;
use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::current::Current;
use nearfield_gateway::dispatch::{Administered, Dispatch};
use nearfield_gateway::error::Error;
use nearfield_gateway::forward::EndpointConfig;
use nearfield_gateway::forward::metrics::Metrics;
use nearfield_gateway::region::Regions;
use nearfield_gateway::request::ClientAddr;
use nearfield_gateway::streams::Streams;
use nearfield_gateway::{audit, forward, region, rescue, sse, websocket};
use nearfield_searchd::Searchd;
use nearfield_telemetry::drain::Drain;
use prometheus_client::registry::Registry;
use serde_json::Value;

/// A loopback address with a free port.
pub(crate) const ANY: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

/// A gateway's inside with what stands behind it.
pub(crate) struct Inside {
    pub(crate) dispatch: Dispatch,
    pub(crate) regions: Regions,
    pub(crate) drain: Drain,
    pub(crate) searchd: Option<Searchd>,
    registry: Registry,
    _data: tempfile::TempDir,
}

impl Inside {
    /// In front of one searchd with empty storage.
    pub(crate) async fn start() -> Self {
        let (searchd, url, data) = searchd().await;
        let mut inside = Self::around(vec![url], websocket::Config::default()).await;
        inside.searchd = Some(searchd);
        inside._data = data;
        inside
    }

    /// In front of whatever listens at `urls`.
    pub(crate) async fn around(urls: Vec<String>, websocket: websocket::Config) -> Self {
        Self::with(Self::config(urls), websocket).await
    }

    /// The default settings around searchds at `urls`.
    pub(crate) fn config(urls: Vec<String>) -> forward::Config {
        let endpoints = urls.into_iter().map(EndpointConfig::Url).collect();
        forward::Config { endpoints, ..forward::Config::default() }
    }

    /// Around what `upstream` names.
    pub(crate) async fn with(upstream: forward::Config, websocket: websocket::Config) -> Self {
        // Whoever stands in for a searchd knows of no collections.
        let anywhere = region::Config { residency: vec!["*".to_owned()], ..region::Config::default() };
        Self::placed(&anywhere, "local", upstream, websocket).await
    }

    /// In the region `here` of a topology.
    pub(crate) async fn placed(
        topology: &region::Config,
        here: &str,
        upstream: forward::Config,
        websocket: websocket::Config,
    ) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let regions = Regions::start(topology, here, &upstream, &metrics).unwrap();
        regions.checked().await;
        let drain = Drain::new();
        let unlimited = Arc::new(websocket::Unlimited);
        let authenticator = Authenticator::start(&nearfield_auth::Config::default()).await.unwrap();
        let authenticator = Current::from(authenticator);
        let audit = audit::Audit::open(&audit::Config::default(), &mut Registry::default()).unwrap();
        let websockets = websocket::Server::new(
            websocket,
            regions.clone(),
            drain.clone(),
            unlimited,
            authenticator.clone(),
            Streams::default(),
        );
        let name = Name { region: "local".to_owned(), instance: "gateway-0".to_owned() };
        let administered = Administered { authenticator, audit, name };
        let dispatch = Dispatch::new(regions.clone(), websockets, sse::Config::default(), administered);
        Self { dispatch, regions, drain, searchd: None, registry, _data: tempfile::tempdir().unwrap() }
    }

    /// The value of a metric with these labels, as a scrape shows it; NaN when it shows none.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.map_or(f64::NAN, |value| value.trim().parse().unwrap())
    }

    /// Who answers a search by the client number `client`; an error is a panic.
    pub(crate) async fn asked_by(&self, client: u32) -> String {
        let body = body::full(serde_json::json!({"query": [1]}).to_string());
        let mut request = request(Method::POST, "/search", "application/json", body);
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + client);
        request.extensions_mut().insert(ClientAddr((address, 1).into()));
        let answer = self.send(request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["results"][0]["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn raw(&self, request: Request) -> Result<Response, Error> {
        hyper::service::Service::call(&self.dispatch, request).await
    }

    pub(crate) async fn send(&self, request: Request) -> Answer {
        let response = self.raw(request).await.unwrap_or_else(|error| rescue::response(&error, None));
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { body::empty() } else { body::full(body.to_string()) };
        self.send(request(method, path, "application/json", body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, &body).await
    }

    /// A collection `c` of two dimensions with points `p0`, `p1`, … at `[1, i]`, metadata `{"i": i}`.
    pub(crate) async fn fill(&self, points: usize) -> String {
        let created = self.call(Method::PUT, "/collections/c", &serde_json::json!({"dimension": 2})).await;
        assert_eq!(created.status, 201, "{}", created.text());
        let point = |i| serde_json::json!({"id": format!("p{i}"), "values": [1, i], "metadata": {"i": i}});
        let vectors: Vec<Value> = (0..points).map(point).collect();
        let inserted = self.post("/insert", serde_json::json!({"collection": "c", "vectors": vectors})).await;
        assert_eq!(inserted.json()["inserted"], points, "{}", inserted.text());
        inserted.headers["nearfield-session"].to_str().unwrap().to_owned()
    }
}

/// A searchd with empty storage, its URL and its directory.
pub(crate) async fn searchd() -> (Searchd, String, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    let searchd = searchd_at(ANY.into(), data.path()).await;
    let url = format!("http://{}", searchd.grpc_addr());
    (searchd, url, data)
}

pub(crate) async fn searchd_at(listen: SocketAddr, data: &Path) -> Searchd {
    let mut config = nearfield_searchd::Config::default();
    config.server.listen = listen;
    config.server.admin = ANY.into();
    config.storage.data_dir = data.to_owned();
    Searchd::start(config).await.unwrap()
}

/// One region of a topology's file.
pub(crate) fn region(name: &str, area: &str, longitude: f64, endpoints: &[&str]) -> String {
    format!(
        "[[region]]\nname = {name:?}\nplace = \"x\"\narea = {area:?}\ncapacity = 1\ntier = 1\n\
         latitude = 40.0\nlongitude = {longitude:?}\nendpoints = {endpoints:?}\n"
    )
}

pub(crate) fn request(method: Method, path: &str, kind: &str, body: body::Body) -> Request {
    let uri = if path.starts_with("/api") { path.to_owned() } else { format!("/api/v1{path}") };
    http::Request::builder().method(method).uri(uri).header("content-type", kind).body(body).unwrap()
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The problem's pointers.
    pub(crate) fn pointers(&self) -> Vec<String> {
        let errors = self.json()["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
    }
}

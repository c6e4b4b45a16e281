//! Building and sending one request.

use std::io;

use anyhow::Result;
use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full, StreamBody};
use serde::Serialize;

use super::connection::RequestBody;
use super::{Answer, Client, StreamingAnswer};

pub struct RequestBuilder {
    client: Client,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: RequestBody,
}

impl RequestBuilder {
    pub(super) fn new(client: Client, method: Method, path: String, headers: HeaderMap) -> Self {
        let body = Full::default().map_err(|never| match never {}).boxed_unsync();
        Self { client, method, path, headers, body }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("tests use header names that are valid");
        self.headers.insert(name, HeaderValue::from_str(value).expect("tests use header values that are valid"));
        self
    }

    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    #[must_use]
    pub fn json(self, value: &impl Serialize) -> Self {
        let bytes = serde_json::to_vec(value).expect("tests send what can be JSON");
        self.header("content-type", "application/json").body(bytes)
    }

    #[must_use]
    pub fn body(mut self, bytes: impl Into<Bytes>) -> Self {
        self.body = Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync();
        self
    }

    /// A body that is sent as it comes, its length untold.
    #[must_use]
    pub fn stream(mut self, chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        use futures::StreamExt;
        self.body = BodyExt::boxed_unsync(StreamBody::new(chunks.map(|chunk| chunk.map(hyper::body::Frame::data))));
        self
    }

    fn build(self) -> Result<(Client, Request<RequestBody>)> {
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.client.uri(&self.path)?;
        *request.headers_mut() = self.headers;
        Ok((self.client, request))
    }

    /// The answer, read to its end.
    pub async fn send(self) -> Result<Answer> {
        let (client, request) = self.build()?;
        let (answer, connection) = client.exchange(request).await?.collect_with_connection().await?;
        client.checkin(connection).await;
        Ok(answer)
    }

    /// The head of the answer; its body is still to come.
    pub async fn send_streaming(self) -> Result<StreamingAnswer> {
        let (client, request) = self.build()?;
        client.exchange(request).await
    }
}

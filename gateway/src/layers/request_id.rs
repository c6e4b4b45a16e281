//! Names every request `req_<id>_<region>_<instance>`, tells the client, and lets logs and problems speak of it.
//!
//! A client's own `X-Request-Id` is not taken over: what is in our logs must be unique and free of foreign text.
//! Clients that want to correlate send `traceparent`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue};

use super::Answering;
use crate::body::{Request, Response};
use crate::field::Text;
use crate::request::RequestId;

const NEARFIELD_REGION: HeaderName = HeaderName::from_static("nearfield-region");

#[derive(Clone)]
pub(crate) struct Layer {
    /// `_<region>_<instance>`.
    suffix: Arc<str>,
    region: HeaderValue,
}

impl Layer {
    /// `region` and `instance` hold visible ASCII, as the configuration has checked.
    pub(crate) fn new(region: &str, instance: &str) -> Self {
        Self {
            suffix: format!("_{region}_{instance}").into(),
            region: HeaderValue::from_str(region).unwrap_or(HeaderValue::from_static("")),
        }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, layer: self.clone() }
    }
}

pub(crate) struct Service<S> {
    inner: S,
    layer: Layer,
}

impl<S> hyper::service::Service<Request> for Service<S>
where
    S: hyper::service::Service<Request, Response = Response>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Answering<S::Error>;

    fn call(&self, mut request: Request) -> Self::Future {
        let id = fresh(&self.layer.suffix);
        // Inside, the header is ours whatever the client sent: it travels on to searchd.
        request.headers_mut().insert(RequestId::HEADER, id.clone());
        request.extensions_mut().insert(RequestId(id.clone()));
        let region = self.layer.region.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            response.headers_mut().insert(RequestId::HEADER, id);
            // Who forwards names the region that answered; everything else was answered here.
            response.headers_mut().entry(NEARFIELD_REGION).or_insert(region);
            Ok(response)
        })
    }
}

/// Time first, so that ids sort as the requests came; then 48 random bits.
fn fresh(suffix: &str) -> HeaderValue {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let random = rand::random::<u64>() >> 16;
    Text::new().text("req_").hex(millis, 12).hex(random, 12).text(suffix).value()
}

#[cfg(test)]
mod tests {
    use hyper::service::Service as _;
    use tower::Layer as _;

    use super::*;
    use crate::body;

    #[tokio::test]
    async fn each_request_gets_an_id_of_its_own_whatever_the_client_says() {
        let inner = hyper::service::service_fn(|request: Request| async move {
            let RequestId(id) = request.extensions().get().cloned().unwrap();
            assert_eq!(request.headers()[RequestId::HEADER], id);
            Ok::<_, std::convert::Infallible>(Response::new(body::empty()))
        });
        let service = Layer::new("europe-west1", "gw-7").layer(inner);
        let mut ids = std::collections::HashSet::new();
        for _ in 0..2 {
            let request = http::Request::builder().header("x-request-id", "mine").body(body::empty()).unwrap();
            let response = service.call(request).await.unwrap();
            let id = response.headers()[RequestId::HEADER].to_str().unwrap().to_owned();
            assert!(id.starts_with("req_") && id.ends_with("_europe-west1_gw-7"), "{id}");
            assert_eq!(response.headers()[NEARFIELD_REGION], "europe-west1");
            ids.insert(id);
        }
        assert_eq!(ids.len(), 2);
    }
}

//! One HTTP/1.1 origin, asked over kept connections.

use futures::future::BoxFuture;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri, Version, header};
use hyper::ext::on_informational;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use nearfield_cache::semantics::fields::remove_hop_by_hop;

use crate::body::{self, Body, Request, Response};
use crate::error::Error;
use crate::request::{Early, Interim};

/// How intermediaries are told that there was this one (RFC 9110 section 7.6.3).
const VIA: HeaderValue = HeaderValue::from_static("1.1 nearfield");

#[derive(Clone)]
pub(super) struct Origin {
    client: Client<HttpConnector, Body>,
    authority: Authority,
}

impl Origin {
    /// Needs the runtime that will call it only when it is called.
    pub(super) fn new(authority: Authority) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), authority }
    }

    /// The request as the origin is to see it: its own host name stays the client's.
    fn address(&self, request: &mut Request) {
        let asked = request.uri().authority().and_then(|authority| HeaderValue::try_from(authority.as_str()).ok());
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = request.uri().path_and_query().cloned().or(Some(PathAndQuery::from_static("/")));
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        if let Some(host) = asked {
            headers.insert(header::HOST, host);
        }
        remove_hop_by_hop(headers);
        headers.append(header::VIA, VIA);
    }
}

impl hyper::service::Service<Request> for Origin {
    type Response = Response;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response, Error>>;

    fn call(&self, mut request: Request) -> Self::Future {
        self.address(&mut request);
        if let Some(interim) = request.extensions_mut().remove::<Interim>() {
            on_informational(&mut request, move |answer| interim.send(answer.status(), answer.headers()));
        }
        let (client, early) = (self.client.clone(), request.extensions_mut().remove::<Early>());
        Box::pin(async move {
            // Nothing of ours knows what the origin may be asked twice (RFC 8470 section 5.1).
            if let Some(early) = early {
                early.settled().await;
            }
            let answer = client.request(request);
            let mut response =
                answer.await.map_err(|error| Error::from(tonic::Status::unavailable(error.to_string())))?;
            let headers = response.headers_mut();
            remove_hop_by_hop(headers);
            headers.append(header::VIA, VIA);
            Ok(response.map(body::boxed))
        })
    }
}

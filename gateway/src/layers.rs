//! The concerns of the pipeline, one a file. `pipeline.rs` says in which order they stand and why.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::service::Service;

use crate::body::{Request, Response};
use crate::error::Error;

pub(crate) mod audit;
pub(crate) mod authenticate;
pub(crate) mod classify;
pub mod client_addr;
pub mod compression;
pub mod cors;
pub mod deadline;
pub(crate) mod early_data;
pub(crate) mod gate;
pub(crate) mod grpc_web;
pub(crate) mod head;
pub(crate) mod lasting;
pub mod locate;
pub(crate) mod observe;
pub(crate) mod options;
pub mod pace;
pub(crate) mod perimeter;
pub mod rate_limit;
pub(crate) mod ready;
pub mod request_body;
pub(crate) mod request_id;
pub(crate) mod rescue;
pub mod response_cache;
pub(crate) mod server_timing;
pub mod shed;
pub(crate) mod target;

/// The future of a layer that does something after the answer too.
pub(crate) type Answering<E = Error> = Pin<Box<dyn Future<Output = Result<Response, E>> + Send>>;

/// Layers around a service, as one. Services are called by reference, so a request costs no copy of the stack; each is
/// always ready, and one that has no room refuses in `call`.
pub type Stack<E = Infallible> =
    Arc<dyn Service<Request, Response = Response, Error = E, Future = Answering<E>> + Send + Sync>;

/// A service of ours where tower's trait is asked for, by layers of other crates.
pub(crate) struct AsTower<S>(Arc<S>);

impl<S> AsTower<S> {
    pub(crate) fn new(inner: &Arc<S>) -> Self {
        Self(Arc::clone(inner))
    }
}

impl<S> Clone for AsTower<S> {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl<S: Service<Request>> tower::Service<Request> for AsTower<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> S::Future {
        self.0.call(request)
    }
}

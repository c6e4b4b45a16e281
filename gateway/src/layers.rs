//! The concerns of the pipeline, one a file. `pipeline.rs` says in which order they stand and why.

use std::future::Future;
use std::pin::Pin;

use crate::body::Response;
use crate::error::Error;

pub(crate) mod audit;
pub(crate) mod authenticate;
pub(crate) mod classify;
pub mod client_addr;
pub mod compression;
pub mod cors;
pub mod deadline;
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

//! Health of the gateway itself by `grpc.health.v1.Health` on its public port; `/health/ready` is a layer's.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio_stream::wrappers::IntervalStream;
use tonic::{Request as Call, Response as Answer, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::ServiceExt;

use crate::body::{self, Request, Response};
use crate::current::Current;
use crate::error::Error;
use crate::region::Regions;

/// Not an `async fn`: the compiler does not find the service's future general enough inside of another one.
pub(super) fn grpc(regions: Current<Regions>, request: Request) -> BoxFuture<'static, Result<Response, Error>> {
    let server = HealthServer::new(Gateway { regions });
    Box::pin(server.oneshot(request).map(|answered| {
        let response = answered.unwrap_or_else(|never| match never {});
        Ok(response.map(body::boxed))
    }))
}

/// The gateway is well while any searchd is.
struct Gateway {
    regions: Current<Regions>,
}

impl Gateway {
    fn status(regions: &Regions) -> HealthCheckResponse {
        let status = if regions.is_healthy() { ServingStatus::Serving } else { ServingStatus::NotServing };
        HealthCheckResponse { status: status.into() }
    }
}

#[tonic::async_trait]
impl Health for Gateway {
    async fn check(&self, call: Call<HealthCheckRequest>) -> Result<Answer<HealthCheckResponse>, Status> {
        if !SERVICES.contains(&call.get_ref().service.as_str()) {
            return Err(Status::not_found("there is no such service"));
        }
        Ok(Answer::new(Self::status(&self.regions.get())))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, call: Call<HealthCheckRequest>) -> Result<Answer<Self::WatchStream>, Status> {
        let known = SERVICES.contains(&call.get_ref().service.as_str());
        let regions = self.regions.clone();
        let mut told = None;
        let looks = IntervalStream::new(tokio::time::interval(WATCH_INTERVAL));
        let changes = looks.filter_map(move |_| {
            // The protocol wants an unknown service watched, in case it appears.
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
            let status = if known { Self::status(&regions.get()) } else { unknown };
            let changed = told != Some(status.status);
            told = Some(status.status);
            std::future::ready(changed.then_some(Ok(status)))
        });
        Ok(Answer::new(changes.boxed()))
    }
}

const SERVICES: [&str; 3] = ["", "nearfield.v1.VectorSearch", "nearfield.v1.Collections"];

/// How soon a watcher learns of a change.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

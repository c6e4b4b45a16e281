//! Watches one endpoint: checks its health for as long as it is a member, then gives its calls their last time.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use super::Config;
use super::endpoint::Endpoint;
use super::grpc::{self, Messages};
use super::health::{self, Observation};

/// Ends when the endpoint has `left` and its calls have ended or had their time.
pub(super) async fn watch(endpoint: Arc<Endpoint>, config: Config, left: CancellationToken) {
    let checking = check_for_ever(&endpoint, &config.health, config.drain_timeout);
    let _ = left.run_until_cancelled(checking).await;
    tracing::info!(endpoint = %endpoint.id, in_flight = endpoint.in_flight(), "upstream endpoint left");
    let ended = async {
        while endpoint.in_flight() > 0 {
            tokio::time::sleep(LAST_CALLS_POLL).await;
        }
    };
    let _ = tokio::time::timeout(config.drain_timeout, ended).await;
    endpoint.cut();
}

async fn check_for_ever(endpoint: &Endpoint, config: &health::Config, drain_timeout: Duration) {
    loop {
        let observation = tokio::time::timeout(config.timeout, check(endpoint)).await.unwrap_or(Observation::Failed);
        if observation == Observation::Failed {
            // A connection that does not answer is not asked a second time.
            endpoint.forget_check_connection();
        }
        endpoint.observe(observation);
        endpoint.cut_if_drained(drain_timeout);
        let pause = if endpoint.is_eager() { config.interval_eager.min(config.interval) } else { config.interval };
        // A call that was refused asks for a check at once; not more often than the eager interval, or a storm of
        // refused calls would become one of checks.
        tokio::time::sleep(config.interval_eager.min(pause)).await;
        let rest = pause.saturating_sub(config.interval_eager);
        let _ = tokio::time::timeout(rest, endpoint.recheck.notified()).await;
    }
}

async fn check(endpoint: &Endpoint) -> Observation {
    let frame = grpc::frame(&HealthCheckRequest { service: String::new() });
    let request = grpc::request(&endpoint.origin, "/grpc.health.v1.Health/Check", HeaderMap::new(), frame);
    let Ok(response) = endpoint.send_check(request).await else { return Observation::Failed };
    let answer = match Messages::<HealthCheckResponse>::new(response) {
        Ok(messages) => messages.only().await,
        Err(status) => Err(status),
    };
    match answer.map(|answer| answer.status()) {
        Ok(ServingStatus::Serving) => Observation::Serving,
        Ok(ServingStatus::NotServing) => Observation::NotServing,
        Ok(ServingStatus::Unknown | ServingStatus::ServiceUnknown) | Err(_) => Observation::Failed,
    }
}

/// How often the calls of an endpoint that left are counted.
const LAST_CALLS_POLL: Duration = Duration::from_millis(100);

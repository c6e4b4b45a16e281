//! The gRPC server: which services there are, and who speaks for them ([`reactors`]).

mod reactors;

use std::time::Duration;

use nearfield_proto::admin::v1::backups_server::BackupsServer;
use nearfield_proto::log::v1::replication_server::ReplicationServer;
use nearfield_proto::v1::collections_server::CollectionsServer;
use nearfield_proto::v1::vector_search_server::VectorSearchServer;
use nearfield_telemetry::drain::Drain;
use nearfield_telemetry::readiness::{Readiness, State as Ready};
use tokio::net::TcpListener;
use tonic::transport::Server;

use crate::metrics::Calls;
use crate::replication;
use crate::rpc::observe::Observe;
use crate::rpc::{MAX_ANSWER_BYTES, MAX_MESSAGE_BYTES, Service, backups, load_report};
use crate::search::pool::Pool;
use reactors::Reactors;

/// Streams of one connection; the gateway has a pool of connections.
const MAX_STREAMS: u32 = 100;
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// The whole server, and each service.
const SERVICES: [&str; 3] = ["", "nearfield.v1.VectorSearch", "nearfield.v1.Collections"];
/// Between two attempts to accept when the system has no room for another connection.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("describing the services for reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("starting a reactor")]
    Reactor(#[from] std::io::Error),
}

pub struct Services {
    pub service: Service,
    pub replication: replication::Server,
    pub backups: backups::Server,
    pub calls: Calls,
    pub pool: Pool,
}

/// Serves until the drain has begun and all connections are closed, or the future is dropped, which cuts them.
pub fn serve(
    listener: TcpListener,
    services: Services,
    drain: Drain,
    readiness: Readiness,
) -> Result<impl Future<Output = ()> + Send, Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(nearfield_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (reflection_v1, reflection_v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
    tokio::spawn(report(reporter, readiness));
    let Services { service, replication, backups, calls, pool } = services;
    let points = VectorSearchServer::new(service.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES + 1024 * 1024);
    let collections = CollectionsServer::new(service);
    let router = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .layer(Observe(calls))
        .layer(load_report::layer(pool))
        .add_service(points)
        .add_service(collections)
        .add_service(ReplicationServer::new(replication))
        .add_service(BackupsServer::new(backups))
        .add_service(health)
        .add_service(reflection_v1)
        .add_service(reflection_v1alpha);
    let ending = drain.clone();
    let reactors = Reactors::start(reactors(), move |incoming| {
        let (router, drain) = (router.clone(), ending.clone());
        async move {
            let served = router.serve_with_incoming_shutdown(incoming, async move { drain.started().await });
            if let Err(error) = served.await {
                tracing::error!(error = &error as &dyn std::error::Error, "the gRPC server ended");
            }
        }
    })?;
    Ok(accept(listener, reactors, drain))
}

/// One for each processor.
fn reactors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

async fn accept(listener: TcpListener, mut reactors: Reactors, drain: Drain) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.started() => break,
        };
        // Without it small answers wait 40 ms for an ACK.
        let stream = accepted.and_then(|(stream, _)| stream.set_nodelay(true).and_then(|()| stream.into_std()));
        match stream {
            Ok(stream) => reactors.give(stream).await,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    reactors.finish().await;
}

/// Tells gRPC health clients what the admin port tells everyone else.
async fn report(reporter: tonic_health::server::HealthReporter, readiness: Readiness) {
    let mut states = readiness.watch();
    loop {
        let serving = *states.borrow_and_update() == Ready::Ready;
        let status =
            if serving { tonic_health::ServingStatus::Serving } else { tonic_health::ServingStatus::NotServing };
        for service in SERVICES {
            reporter.set_service_status(service, status).await;
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

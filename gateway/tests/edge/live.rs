//! Settings change while requests go on: whole, or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::config::Config;
use nearfield_gateway::error::Error;
use nearfield_gateway::layers::client_addr::Mode;
use nearfield_telemetry::settings::Changed;

use crate::support::{Edge, TRANSPORTS, WRITE};

/// Reads the body, so that its limit is felt.
async fn length(request: Request) -> Result<Response, Error> {
    let bytes = request.into_body().collect().await.map_err(Error::of_body)?.to_bytes();
    Ok(Response::new(body::full(bytes.len().to_string())))
}

async fn edge() -> Edge {
    Edge::start(|config| config.rate_limit.enabled = false, hyper::service::service_fn(length)).await
}

fn limited(edge: &Edge, max_bytes: u64) -> Config {
    let mut config = edge.config.clone();
    config.body.max_bytes = max_bytes;
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_holds_for_the_next_request_of_an_open_connection() {
    let edge = edge().await;
    for transport in TRANSPORTS {
        let mut client = edge.connect(transport).await;
        let body = vec![b'x'; 2000];
        for (limit, status) in [(1000, 413), (3000, 200), (1999, 413), (2000, 200)] {
            edge.gateway.apply(limited(&edge, limit), &Changed::from_iter(["body.max_bytes"])).await.unwrap();
            let answer = client.send(http::Request::post(WRITE), body.clone()).await;
            assert_eq!(answer.status, status, "{transport:?} {limit}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_settings_with_one_thing_wrong_nothing_is_taken() {
    let edge = edge().await;
    let mut client = edge.connect(TRANSPORTS[1]).await;
    let all = Changed::from_iter(["body.max_bytes", "tls.certificate", "deadline.unary", "auth.issuers"]);
    let mut bad_tls = limited(&edge, 1);
    bad_tls.tls.certificate = "/nowhere".into();
    let mut bad_deadline = limited(&edge, 1);
    bad_deadline.deadline.unary = Duration::ZERO;
    let mut bad_auth = limited(&edge, 1);
    bad_auth.auth.issuers[0].jwks_file = Some("/nowhere".into());
    for bad in [bad_tls, bad_deadline, bad_auth] {
        edge.gateway.apply(bad, &all).await.unwrap_err();
        assert_eq!(client.send(http::Request::post(WRITE), "body").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_changes_fail_no_request() {
    let edge = Arc::new(edge().await);
    let done = Arc::new(AtomicBool::new(false));
    let mut load = tokio::task::JoinSet::new();
    for transport in TRANSPORTS {
        let (edge, done) = (edge.clone(), done.clone());
        load.spawn(async move {
            let mut client = edge.connect(transport).await;
            let mut answered = 0;
            while !done.load(Ordering::Relaxed) || answered == 0 {
                let answer = client.send(http::Request::post(WRITE), "body").await;
                assert_eq!((answer.status, &answer.body[..]), (200, &b"4"[..]));
                answered += 1;
            }
        });
    }
    let every = ["auth.issuers", "body.max_bytes", "client.trusted", "deadline.unary", "tls.tickets"];
    for i in 0..100 {
        let mut config = limited(&edge, 1000 + i);
        config.tls.tickets = i as usize % 3;
        edge.gateway.apply(config, &Changed::from_iter(every)).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    while let Some(worker) = load.join_next().await {
        worker.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_places_change_for_open_connections() {
    let edge = edge().await;
    let changed = Changed::from_iter(["rate_limit.enabled", "rate_limit.ip_per_second", "shed.max_writes"]);
    for transport in TRANSPORTS {
        let mut client = edge.connect(transport).await;
        let mut refused = async |set: &dyn Fn(&mut Config)| {
            let mut config = edge.config.clone();
            set(&mut config);
            edge.gateway.apply(config, &changed).await.unwrap();
            let mut statuses: Vec<u16> = Vec::new();
            for _ in 0..20 {
                statuses.push(client.send(http::Request::post(WRITE), "body").await.status);
            }
            statuses.retain(|status| *status != 200);
            statuses.dedup();
            statuses
        };
        let one_a_second = |config: &mut Config| {
            config.rate_limit.enabled = true;
            config.rate_limit.ip_per_second = std::num::NonZeroU32::MIN;
        };
        assert_eq!(refused(&one_a_second).await, [429], "{transport:?}");
        assert_eq!(refused(&|_| {}).await, [0_u16; 0], "{transport:?}");
        assert_eq!(refused(&|config| config.shed.max_writes = 0).await, [503], "{transport:?}");
        assert_eq!(refused(&|_| {}).await, [0_u16; 0], "{transport:?}");
    }
    let mut bad = edge.config.clone();
    bad.rate_limit.redis_url = Some("nowhere".to_owned());
    bad.rate_limit.enabled = true;
    edge.gateway.apply(bad, &Changed::from_iter(["rate_limit.redis_url"])).await.unwrap_err();
    assert_eq!(edge.connect(TRANSPORTS[0]).await.send(http::Request::post(WRITE), "body").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proof_of_the_perimeter_outlives_changes_and_changes_itself() {
    let dir = tempfile::tempdir().unwrap();
    let secrets = ["the-first-of-the-secrets", "the-second-of-the-secrets", "the-third-of-the-secrets"];
    let files: Vec<_> = secrets.iter().map(|secret| dir.path().join(secret)).collect();
    files.iter().zip(secrets).for_each(|(file, secret)| fs_err::write(file, secret).unwrap());
    let set = |config: &mut Config| {
        config.rate_limit.enabled = false;
        config.client.mode = Mode::Fronted;
        config.client.proof.secret_file = Some(files[0].clone());
        config.client.proof.reload_interval = Duration::from_millis(10);
    };
    let edge = Edge::start(set, hyper::service::service_fn(length)).await;
    let mut client = edge.connect(TRANSPORTS[1]).await;
    let mut admits = async |secret: &str| {
        let request = http::Request::post(WRITE).header("x-perimeter-secret", secret);
        client.send(request, "body").await.status == 200
    };
    assert!(admits(secrets[0]).await && !admits(secrets[1]).await);

    let mut config = limited(&edge, 1000);
    config.client.max_hops = 3;
    let changed = Changed::from_iter(["body.max_bytes", "client.max_hops"]);
    edge.gateway.apply(config.clone(), &changed).await.unwrap();
    assert!(admits(secrets[0]).await && !admits(secrets[1]).await);

    config.client.proof.secret_file = Some(files[1].clone());
    let changed = Changed::from_iter(["client.proof.secret_file"]);
    edge.gateway.apply(config.clone(), &changed).await.unwrap();
    assert!(!admits(secrets[0]).await && admits(secrets[1]).await);

    // It goes on being watched.
    fs_err::write(&files[1], format!("{}\n{}", secrets[1], secrets[2])).unwrap();
    let rotated = async { while !admits(secrets[2]).await {} };
    tokio::time::timeout(Duration::from_secs(30), rotated).await.unwrap();

    config.client.proof.secret_file = Some("/nowhere".into());
    edge.gateway.apply(config.clone(), &changed).await.unwrap_err();
    config.client.proof.secret_file = Some(files[0].clone());
    config.client.geo.database = Some("/nowhere".into());
    let changed = Changed::from_iter(["client.proof.secret_file", "client.geo.database"]);
    edge.gateway.apply(config, &changed).await.unwrap_err();
    assert!(!admits(secrets[0]).await && admits(secrets[1]).await, "what is refused is refused whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_tells_of_changes_taken_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    let set = |config: &mut Config| config.audit.directory = Some(dir.path().to_owned());
    let edge = Edge::start(set, hyper::service::service_fn(length)).await;
    let changed = Changed::from_iter(["body.max_bytes", "tls.certificate"]);
    edge.gateway.apply(limited(&edge, 1000), &changed).await.unwrap();
    let mut bad = limited(&edge, 1000);
    bad.tls.certificate = "/nowhere".into();
    edge.gateway.apply(bad, &changed).await.unwrap_err();
    edge.gateway.note_refused_settings().await;
    let log = fs_err::read_to_string(dir.path().join(format!("audit-{:020}.jsonl", 1))).unwrap();
    let told = log.lines().map(|line| {
        let act: serde_json::Value = serde_json::from_str(line).unwrap();
        format!("{} {} {}", act["subject"], act["action"], act["target"]).replace('"', "")
    });
    let expected = [
        "operator settings.reload taken body.max_bytes tls.certificate",
        "operator settings.reload refused body.max_bytes tls.certificate",
        "operator settings.reload refused",
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

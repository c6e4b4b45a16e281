//! The program, its certificates and its settings are replaced under a load of every protocol, and no client can tell.
//!
//! A few of each; `nearfield-bench restarts` does as many as the goal names.

use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_testkit::{
    Claims, Cluster, ClusterOptions, KeyAlgorithm, MixedLoad, Process, Protocol, Upload, WebSocket, eventually,
    mixed_load,
};
use serde_json::json;

use crate::space::{API, Space};

const WAIT: Duration = Duration::from_secs(60);
const RESTARTS: usize = 3;

fn cluster() -> Result<Cluster> {
    Cluster::start(&ClusterOptions {
        searchds: 1,
        gateway: vec![("NEARFIELD_SERVER__RELOAD_INTERVAL", "20ms"), ("NEARFIELD_TLS__RELOAD_INTERVAL", "20ms")],
        ..ClusterOptions::default()
    })
}

/// Everything was answered, or would have been by any client.
async fn finish(load: MixedLoad) -> Result<()> {
    let outcome = load.finish().await?;
    println!("{outcome:?}");
    anyhow::ensure!(outcome.failed == 0, "{outcome:?}");
    Ok(())
}

/// What the load asks for, and a collection for uploads, of one tenant.
async fn filled(cluster: &Cluster, claims: &Claims) -> Result<Space> {
    mixed_load::fill(cluster, claims).await?;
    let space = Space::with(cluster.client_as(Protocol::Http2, claims)?, cluster.token(claims)?);
    space.create("uploads", json!({"dimension": 4})).await?;
    Ok(space)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_program_takes_over_and_no_request_fails() -> Result<()> {
    let mut cluster = cluster()?;
    let claims = Claims::of_tenant("restarts");
    let space = filled(&cluster, &claims).await?;
    let load = MixedLoad::start(&cluster, &claims).await?;
    let mut leaving: Vec<Process> = Vec::new();
    for round in 0..RESTARTS {
        load.more(50).await?;
        let uploads: Vec<Upload> = Protocol::ALL
            .into_iter()
            .map(|protocol| Ok(Upload::start(&cluster.client_as(protocol, &claims)?, "uploads")))
            .collect::<Result<_>>()?;
        for (i, upload) in uploads.iter().enumerate() {
            upload.line(&format!("r{round}-{i}-before"))?;
        }
        load.more(50).await?;
        leaving.push(cluster.upgrade_gateway()?);
        load.more(100).await?;
        for (i, upload) in uploads.into_iter().enumerate() {
            upload.line(&format!("r{round}-{i}-after"))?;
            let stored = upload.finish().await.with_context(|| format!("{:?}", Protocol::ALL[i]))?;
            assert_eq!(stored["inserted"], 2, "{:?} goes on in the process that it began in", Protocol::ALL[i]);
        }
    }
    finish(load).await?;
    for process in leaving {
        let exit = process.wait_exit(WAIT)?;
        assert!(exit.success(), "{exit}:\n{}", process.tail(40));
    }
    let stored = space.get("/collections/uploads").await?.expect(200)?;
    assert_eq!(stored["count"], RESTARTS * 2 * Protocol::ALL.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_program_that_cannot_start_changes_nothing() -> Result<()> {
    let mut cluster = cluster()?;
    let claims = Claims::of_tenant("restarts-bad");
    let _space = filled(&cluster, &claims).await?;
    let load = MixedLoad::start(&cluster, &claims).await?;
    let good = fs_err::read_to_string(cluster.gateway_config())?;
    let level = "\n[log]\nlevel = \"loud=x=y\"\n";
    fs_err::write(cluster.gateway_config(), format!("{good}{level}"))?;
    assert!(cluster.upgrade_gateway().is_err(), "its settings are wrong");
    let text = good.replace("leaf.pem", "nowhere.pem");
    fs_err::write(cluster.gateway_config(), text)?;
    assert!(cluster.upgrade_gateway().is_err(), "its certificate is missing");
    load.more(100).await?;
    assert!(cluster.gateway().is_running());
    fs_err::write(cluster.gateway_config(), good)?;
    let old = cluster.upgrade_gateway()?;
    load.more(100).await?;
    finish(load).await?;
    assert!(old.wait_exit(WAIT)?.success());
    Ok(())
}

async fn reaches(cluster: &Cluster, series: &str, least: u64) -> Result<()> {
    let reached = || async { cluster.gateway_metric(series).await.ok().filter(|&n| n >= least).map(drop) };
    eventually(series, WAIT, reached).await
}

const SERVED: &str = "gateway_tls_reloads_total{outcome=\"served\"}";
const APPLIED: &str = "gateway_settings_reloads_total{outcome=\"applied\"}";
const REFUSED: &str = "gateway_settings_reloads_total{outcome=\"refused\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_settings_change_and_no_request_fails() -> Result<()> {
    let cluster = cluster()?;
    let claims = Claims::of_tenant("swaps");
    let space = filled(&cluster, &claims).await?;
    let load = MixedLoad::start(&cluster, &claims).await?;
    for _ in 0..4 {
        let before = cluster.gateway_metric(SERVED).await?;
        cluster.renew_certificate(KeyAlgorithm::EcdsaP256)?;
        reaches(&cluster, SERVED, before + 1).await?;
        load.more(20).await?;
    }
    let good = fs_err::read_to_string(cluster.gateway_config())?;
    let too_large = json!({"collection": "mixed", "query": [1, 2, 3, 4], "k": 1, "filter": {"x": "y".repeat(3000)}});
    for round in 0..12 {
        let before = cluster.gateway_metric(APPLIED).await?;
        let small = round % 2 == 0;
        let limit = if small { 2000 } else { 100_000 };
        fs_err::write(cluster.gateway_config(), format!("{good}\n[body]\nmax_bytes = {limit}\n# {round}\n"))?;
        reaches(&cluster, APPLIED, before + 1).await?;
        let answer = space.client.post(&format!("{API}/search")).json(&too_large).send().await?;
        assert_eq!(answer.status, if small { 413 } else { 200 }, "{}", answer.text());
        load.more(10).await?;
    }
    fs_err::write(cluster.gateway_config(), format!("{good}\n[body]\nmax_bites = 1\n"))?;
    reaches(&cluster, REFUSED, 1).await?;
    fs_err::write(cluster.gateway_config(), format!("{good}\n[stream]\nping_interval = \"1s\"\n"))?;
    let warned = || async { cluster.gateway().log().iter().any(|l| l.contains("stream.ping_interval")).then_some(()) };
    eventually("a key that needs a restart is named", WAIT, warned).await?;
    load.more(50).await?;
    assert_eq!(load.reconnected(), 0, "connections outlive what they were made under");
    finish(load).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_api_keys_and_searchds_count_everywhere_at_once() -> Result<()> {
    let cluster = cluster()?;
    let claims = Claims::of_tenant("swaps-keys");
    let space = filled(&cluster, &claims).await?;
    let new = json!({"subject": "ci", "scope": "vectors:read"});
    let made = space.client.post(&format!("{API}/keys")).json(&new).send().await?.expect(201)?;
    let (id, key) = (made["id"].as_str().context("the id")?, made["key"].as_str().context("the key")?);
    let with_key = cluster.client(Protocol::Http2)?.with_header("x-api-key", key);
    let read = async || with_key.get(&format!("{API}/collections")).send().await;
    let look = async || space.get(&format!("/keys/{id}")).await;
    let debug = async || anyhow::Ok(reqwest::get(format!("{}/debug.json", cluster.admin()?)).await?.text().await?);
    read().await?.expect(200)?;
    look().await?.expect(200)?;
    let mut socket = WebSocket::connect(&cluster.client(Protocol::Http1)?.with_header("x-api-key", key)).await?;

    let good = fs_err::read_to_string(cluster.gateway_config())?;
    let port = cluster.searchd_url(0).rsplit(':').next().context("a port")?.to_owned();
    let changed =
        good.replace("keys.db", "others.db").replace(&cluster.searchd_url(0), &format!("http://localhost:{port}"));
    assert!(!debug().await?.contains(&format!("localhost:{port}")));
    fs_err::write(cluster.gateway_config(), &changed)?;
    reaches(&cluster, APPLIED, 1).await?;
    read().await?.problem(401)?;
    look().await?.problem(404)?;
    let closed = socket.closed().await?.context("a close frame")?;
    assert_eq!(u16::from(closed.code), 1008, "{closed:?}");
    assert!(debug().await?.contains(&format!("localhost:{port}")));
    let audited = |line: &String| line.contains("settings.reload") && line.contains("auth.api_keys");
    let told = || async { cluster.gateway().log().iter().any(audited).then_some(()) };
    eventually("the change is audited", WAIT, told).await?;

    fs_err::write(cluster.gateway_config(), &good)?;
    reaches(&cluster, APPLIED, 2).await?;
    read().await?.expect(200)?;
    look().await?.expect(200)?;
    Ok(())
}

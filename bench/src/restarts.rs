//! The program, its certificates and its settings are replaced again and again under a mixed load: how many requests failed,
//! and whether QUIC's connections were kept.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nearfield_testkit::{
    Claims, Client, Cluster, KeyAlgorithm, MixedLoad, MixedOutcome, Process, Protocol, Upload, eventually, mixed_load,
};
use serde_json::json;

use crate::server::Server;
use crate::table::Table;

const RESTARTS: usize = 20;
const CERTIFICATES: usize = 20;
const SETTINGS: usize = 100;
/// Requests between two replacements.
const BETWEEN: usize = 200;
/// Uploads over QUIC that are under way at a restart, a connection each.
const UPLOADS: usize = 8;
/// How long one replacement may take, and the older process to go.
const WAIT: Duration = Duration::from_secs(60);
const COLLECTION: &str = "uploads";

/// Files are looked at so often that the measurement is of swaps, not of waiting for them.
const GATEWAY: [(&str, &str); 2] =
    [("NEARFIELD_SERVER__RELOAD_INTERVAL", "20ms"), ("NEARFIELD_TLS__RELOAD_INTERVAL", "20ms")];

pub(crate) async fn run() -> Result<()> {
    let mut cluster = Server::start_with(&GATEWAY)?.cluster;
    let claims = Claims { expires_in: 6 * 3600, ..Claims::of_tenant("restarts") };
    mixed_load::fill(&cluster, &claims).await?;
    let client = cluster.client_as(Protocol::Http3, &claims)?;
    let collection = format!("/api/v1/collections/{COLLECTION}");
    client.put(&collection).json(&json!({"dimension": 4})).send().await?.expect(201)?;

    let mut table =
        Table::new(&["replaced under load", "times", "requests", "sent twice", "longest ms", "failed", "goal", "met"]);
    let mut kept = Table::new(&["QUIC kept", "of", "were", "goal", "met"]);
    let mut failures = Vec::new();
    let mut record = |what: &str, times: usize, outcome: MixedOutcome| {
        table.row([
            what.to_owned(),
            times.to_string(),
            outcome.answered.to_string(),
            outcome.repeated.to_string(),
            format!("{:.0}", outcome.longest.as_secs_f64() * 1e3),
            outcome.failed.to_string(),
            "0".to_owned(),
            met(outcome.failed == 0),
        ]);
        failures.extend(outcome.failure.map(|failure| format!("{what}: {failure}")));
    };

    let load = MixedLoad::start(&cluster, &claims).await?;
    let uploads = restarts(&mut cluster, &client, &load).await?;
    record("the program", RESTARTS, load.finish().await?);
    kept.row([
        "uploads under way at a restart".to_owned(),
        (RESTARTS * UPLOADS).to_string(),
        uploads.to_string(),
        "all".to_owned(),
        met(uploads == RESTARTS * UPLOADS),
    ]);

    let load = MixedLoad::start(&cluster, &claims).await?;
    certificates(&cluster, &load).await?;
    let mut reconnected = load.reconnected();
    record("its certificates", CERTIFICATES, load.finish().await?);
    let load = MixedLoad::start(&cluster, &claims).await?;
    settings(&cluster, &load).await?;
    reconnected += load.reconnected();
    record("its settings", SETTINGS, load.finish().await?);
    kept.row([
        "connections over all swaps (h2 and QUIC), made again".to_owned(),
        "4".to_owned(),
        reconnected.to_string(),
        "none".to_owned(),
        met(reconnected == 0),
    ]);
    table.print();
    kept.print();
    for failure in failures {
        println!("{failure}");
    }
    Ok(())
}

fn met(met: bool) -> String {
    if met { "yes" } else { "no" }.to_owned()
}

/// Replaces the process; of the uploads over QUIC that were under way, how many ended well in the one that they began in.
async fn restarts(cluster: &mut Cluster, client: &Client, load: &MixedLoad) -> Result<usize> {
    let mut leaving: Vec<Process> = Vec::new();
    let mut kept = 0;
    for round in 0..RESTARTS {
        let uploads: Vec<Upload> = (0..UPLOADS).map(|_| Upload::start(client, COLLECTION)).collect();
        for (i, upload) in uploads.iter().enumerate() {
            upload.line(&format!("r{round}-{i}-before"))?;
        }
        load.more(BETWEEN).await?;
        leaving.push(cluster.upgrade_gateway()?);
        load.more(BETWEEN).await?;
        for (i, upload) in uploads.into_iter().enumerate() {
            // One that has been broken off is counted, not reported.
            if upload.line(&format!("r{round}-{i}-after")).is_ok()
                && upload.finish().await.is_ok_and(|stored| stored["inserted"] == 2)
            {
                kept += 1;
            }
        }
    }
    for process in leaving {
        let exit = process.wait_exit(WAIT)?;
        ensure!(exit.success(), "an older process ended with {exit}:\n{}", process.tail(20));
    }
    Ok(kept)
}

async fn certificates(cluster: &Cluster, load: &MixedLoad) -> Result<()> {
    const SERVED: &str = "gateway_tls_reloads_total{outcome=\"served\"}";
    for i in 0..CERTIFICATES {
        let before = cluster.gateway_metric(SERVED).await?;
        cluster.renew_certificate(if i % 2 == 0 { KeyAlgorithm::EcdsaP256 } else { KeyAlgorithm::Rsa2048 })?;
        reaches(cluster, SERVED, before + 1).await?;
        load.more(BETWEEN).await?;
    }
    Ok(())
}

async fn settings(cluster: &Cluster, load: &MixedLoad) -> Result<()> {
    const APPLIED: &str = "gateway_settings_reloads_total{outcome=\"applied\"}";
    let before = fs_err::read_to_string(cluster.gateway_config()).context("the settings")?;
    for i in 0..SETTINGS {
        let applied = cluster.gateway_metric(APPLIED).await?;
        // Every other time the searchds are set anew too: the same ones by another name, so that the connections to them go.
        let text = if i % 2 == 0 { before.replace("//127.0.0.1:", "//localhost:") } else { before.clone() };
        let changed = format!("{text}\n[body]\nmax_bytes = {}\n", (1 << 20) + i);
        fs_err::write(cluster.gateway_config(), changed)?;
        reaches(cluster, APPLIED, applied + 1).await?;
        load.more(BETWEEN).await?;
    }
    Ok(())
}

async fn reaches(cluster: &Cluster, series: &str, least: u64) -> Result<()> {
    let reached = || async { cluster.gateway_metric(series).await.ok().filter(|&n| n >= least).map(drop) };
    eventually(series, WAIT, reached).await
}

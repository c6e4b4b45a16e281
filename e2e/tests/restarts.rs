//! The program, its certificates and its settings are replaced under a load of every protocol, and no client can tell.
//!
//! `NEARFIELD_SWAPS=full` runs as many of each as the goal names; without it there are a few.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use nearfield_testkit::{
    Answer, Claims, Client, Cluster, ClusterOptions, KeyAlgorithm, Process, Protocol, WebSocket, eventually,
};
use serde_json::{Value, json};

use crate::space::{API, Space, points};

const WAIT: Duration = Duration::from_secs(60);

/// Either of them by whether the full run was asked for.
fn count(few: usize, full: usize) -> usize {
    if std::env::var_os("NEARFIELD_SWAPS").is_some_and(|runs| runs == "full") { full } else { few }
}

fn cluster() -> Result<Cluster> {
    Cluster::start(&ClusterOptions {
        searchds: 1,
        gateway: vec![("NEARFIELD_SERVER__RELOAD_INTERVAL", "20ms"), ("NEARFIELD_TLS__RELOAD_INTERVAL", "20ms")],
        ..ClusterOptions::default()
    })
}

/// A request that fails is asked once more on a new connection, as RFC 9110 section 9.2.2 has it for those that are
/// idempotent; what fails then has failed.
async fn ask(client: &mut Client, i: usize, repeated: &AtomicUsize) -> Result<Answer> {
    let send = |client: &Client| client.get(&format!("{API}/embed/p{:04}?collection=c", i % 200)).send();
    match send(client).await {
        Ok(answer) => Ok(answer),
        Err(_gone) => {
            repeated.fetch_add(1, Ordering::Relaxed);
            *client = client.separate();
            send(client).await
        }
    }
}

async fn ask_socket(socket: &mut WebSocket, i: usize) -> Result<()> {
    let id = format!("q{i}");
    let search =
        json!({"type": "search", "id": id, "collection": "c", "query": [i % 7, 1, 2, 3], "k": 3, "stream": false});
    socket.send(&search).await?;
    let answers = socket.until(&id, &["results", "error"]).await?;
    anyhow::ensure!(answers.last().is_some_and(|last| last["type"] == "results"), "{answers:?}");
    Ok(())
}

/// Searches on WebSockets, one after the other as the server closes them.
async fn sockets(client: Client, stop: Arc<AtomicBool>, rounds: Arc<AtomicUsize>) -> Result<()> {
    let mut socket = WebSocket::connect(&client).await?;
    let mut i = 0;
    while !stop.load(Ordering::Relaxed) {
        if ask_socket(&mut socket, i).await.is_err() {
            socket = WebSocket::connect(&client.separate()).await.context("a closed WebSocket is opened anew")?;
            ask_socket(&mut socket, i).await.context("and answers")?;
        }
        i += 1;
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    repeated: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Load {
    fn start(cluster: &Cluster, claims: &Claims) -> Result<Self> {
        let mut load =
            Self { stop: Arc::default(), rounds: Arc::default(), repeated: Arc::default(), tasks: Vec::new() };
        for protocol in Protocol::ALL {
            let mut client = cluster.client_as(protocol, claims)?;
            let (stop, rounds, repeated) = (load.stop.clone(), load.rounds.clone(), load.repeated.clone());
            load.tasks.push(tokio::spawn(async move {
                for i in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    // New handshakes beside old connections.
                    if i % 20 == 0 {
                        client = client.separate();
                    }
                    let answer = ask(&mut client, i, &repeated).await.with_context(|| format!("{protocol:?}"))?;
                    answer.expect(200).with_context(|| format!("{protocol:?}"))?;
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }));
        }
        let client = cluster.client_as(Protocol::Http1, claims)?;
        load.tasks.push(tokio::spawn(sockets(client, load.stop.clone(), load.rounds.clone())));
        Ok(load)
    }

    /// Waits until so many more requests were answered, or one has failed.
    async fn more(&self, rounds: usize) -> Result<()> {
        let target = self.rounds.load(Ordering::Relaxed) + rounds;
        let failed = || self.tasks.iter().any(tokio::task::JoinHandle::is_finished);
        let done = || async { (self.rounds.load(Ordering::Relaxed) >= target || failed()).then_some(()) };
        eventually("the load goes on", WAIT, done).await
    }

    async fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        println!(
            "{} requests, {} of them sent twice",
            self.rounds.load(Ordering::Relaxed),
            self.repeated.load(Ordering::Relaxed)
        );
        Ok(())
    }
}

/// An insert of any length that is under way: only the process that it began in can finish it.
struct Upload {
    lines: tokio::sync::mpsc::UnboundedSender<std::io::Result<Bytes>>,
    answer: tokio::task::JoinHandle<Result<Answer>>,
}

impl Upload {
    fn start(client: &Client) -> Self {
        let (lines, body) = tokio::sync::mpsc::unbounded_channel();
        let body = tokio_stream::wrappers::UnboundedReceiverStream::new(body);
        let request = client.separate().post(&format!("{API}/insert?collection=uploads"));
        let request = request.header("content-type", "application/x-ndjson").stream(body);
        Self { lines, answer: tokio::spawn(request.send()) }
    }

    fn line(&self, id: &str) -> Result<()> {
        let line = json!({"id": id, "values": [1, 2, 3, 4]});
        self.lines.send(Ok(format!("{line}\n").into())).map_err(|_| anyhow::anyhow!("the upload has ended early"))
    }

    async fn finish(self) -> Result<Value> {
        drop(self.lines);
        self.answer.await??.expect(200)
    }
}

async fn filled(cluster: &Cluster, claims: &Claims) -> Result<Space> {
    let space = Space::with(cluster.client_as(Protocol::Http2, claims)?, cluster.token(claims)?);
    space.fill("c", json!({"dimension": 4}), &points(131, 200, 4)).await?;
    space.create("uploads", json!({"dimension": 4})).await?;
    Ok(space)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_program_takes_over_and_no_request_fails() -> Result<()> {
    let mut cluster = cluster()?;
    let claims = Claims::of_tenant("restarts");
    let space = filled(&cluster, &claims).await?;
    let load = Load::start(&cluster, &claims)?;
    let mut leaving: Vec<Process> = Vec::new();
    for round in 0..count(3, 20) {
        load.more(50).await?;
        let uploads: Vec<Upload> = Protocol::ALL
            .into_iter()
            .map(|protocol| Ok(Upload::start(&cluster.client_as(protocol, &claims)?)))
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
    load.finish().await?;
    for process in leaving {
        let exit = process.wait_exit(WAIT)?;
        assert!(exit.success(), "{exit}:\n{}", process.tail(40));
    }
    let stored = space.get("/collections/uploads").await?.expect(200)?;
    assert_eq!(stored["count"], count(3, 20) * 2 * Protocol::ALL.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_program_that_cannot_start_changes_nothing() -> Result<()> {
    let mut cluster = cluster()?;
    let claims = Claims::of_tenant("restarts-bad");
    let _space = filled(&cluster, &claims).await?;
    let load = Load::start(&cluster, &claims)?;
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
    load.finish().await?;
    assert!(old.wait_exit(WAIT)?.success());
    Ok(())
}

async fn metric(cluster: &Cluster, line: &str) -> Option<u64> {
    let text = reqwest::get(format!("{}/metrics", cluster.admin().ok()?)).await.ok()?.text().await.ok()?;
    let value = text.lines().find_map(|l| l.strip_prefix(line))?;
    value.trim().parse().ok()
}

async fn reaches(cluster: &Cluster, line: &str, least: u64) -> Result<()> {
    let reached = || async { metric(cluster, line).await.filter(|&n| n >= least).map(drop) };
    eventually(line, WAIT, reached).await
}

const SERVED: &str = "gateway_tls_reloads_total{outcome=\"served\"}";
const APPLIED: &str = "gateway_settings_reloads_total{outcome=\"applied\"}";
const REFUSED: &str = "gateway_settings_reloads_total{outcome=\"refused\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_settings_change_and_no_request_fails() -> Result<()> {
    let cluster = cluster()?;
    let claims = Claims::of_tenant("swaps");
    let space = filled(&cluster, &claims).await?;
    let load = Load::start(&cluster, &claims)?;
    for _ in 0..count(4, 20) {
        let before = metric(&cluster, SERVED).await.context("the metric")?;
        cluster.renew_certificate(KeyAlgorithm::EcdsaP256)?;
        reaches(&cluster, SERVED, before + 1).await?;
        load.more(20).await?;
    }
    let good = fs_err::read_to_string(cluster.gateway_config())?;
    let too_large = json!({"collection": "c", "query": [1, 2, 3, 4], "k": 1, "filter": {"x": "y".repeat(3000)}});
    for round in 0..count(12, 100) {
        let before = metric(&cluster, APPLIED).await.context("the metric")?;
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
    load.finish().await
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

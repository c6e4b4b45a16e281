//! What a request costs at the edge, beside nginx and HAProxy in the same run: CPU µs a request of each process, whatever
//! else the machine does. One worker each, the same answer's bytes, TLS; `h2load` (Debian's nghttp2-client) asks.

mod load;
mod peers;

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use nearfield_testkit::{Claims, Client, Cluster, ClusterOptions, Process, Protocol};
use serde_json::json;

use crate::Arguments;
use crate::table::Table;
use load::Load;
use peers::Peers;

const COLLECTION: &str = "edge";
const DIMENSION: usize = 384;
const POINTS: usize = 100;
const API: &str = "/api/v1";
/// Each row is measured so often, in turn with the others; the least disturbed one counts.
const ROUNDS: usize = 3;
/// Limits that are kept and never reached.
const UNREACHED: &str = "100000000";

/// One line of the table.
struct Row<'a> {
    server: &'static str,
    what: &'static str,
    over: &'static str,
    process: &'a Process,
    load: Load,
    micros: Vec<f64>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let gateway = Gateway::start("nearfield", None).await?;
    let beside = match &arguments.beside {
        Some(program) => Some(Gateway::start("beside", Some(program.clone())).await?),
        None => None,
    };
    let path = format!("{API}/search?collection={COLLECTION}&query_vector_id=p0&k=10");
    let answer = gateway.client()?.get(&path).send().await?;
    anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    println!("the answer: {} bytes; h2load: {} requests, {} rounds", answer.body.len(), arguments.requests, ROUNDS);

    let directory = tempfile::tempdir()?;
    let peers = Peers::start(directory.path(), &gateway.cluster, &answer.body)?;
    let url = |base: &str| format!("{base}{path}");
    let load = |url: String| Load::new(url, arguments.requests);
    let query = json!({"collection": COLLECTION, "query": vector(7), "k": 10}).to_string();
    let packed = nearfield_testkit::vectors::base64(&vector(7));
    let packed = json!({"collection": COLLECTION, "query": packed, "k": 10}).to_string();
    let row = |server, what, over, process, load| Row { server, what, over, process, load, micros: Vec::new() };
    let (hit, guarded) = ("cache hit", "JWT (ES256), limits, cache hit");
    let mut rows = Vec::new();
    for Gateway { name, cluster, token } in [Some(&gateway), beside.as_ref()].into_iter().flatten() {
        println!("{name}: {}", cluster.gateway_program().display());
        let (ours, process) = (cluster.https()?, cluster.gateway());
        let bearer = format!("authorization: Bearer {token}");
        let search = |body: &str| {
            let load = load(format!("{ours}{API}/search")).with(&bearer).with("content-type: application/json");
            // Asked of searchd each time, and stored each time.
            load.with("cache-control: no-cache").posting(directory.path(), body)
        };
        rows.extend([
            row(name, guarded, "h2", process, load(url(&ours)).with(&bearer)),
            row(name, guarded, "h1", process, load(url(&ours)).with(&bearer).http1()),
            row(name, "JSON search, passed on by gRPC", "h2", process, search(&query)?.fewer()),
            row(name, "base64 search, passed on by gRPC", "h2", process, search(&packed)?.fewer()),
        ]);
    }
    println!();
    let bearer = format!("authorization: Bearer {}", gateway.token);
    rows.extend([
        row("HAProxy", guarded, "h2", &peers.haproxy, load(url(&peers.haproxy_guarded)).with(&bearer)),
        row("HAProxy", hit, "h2", &peers.haproxy, load(url(&peers.haproxy_plain))),
        row("nginx", hit, "h2", &peers.nginx, load(url(&peers.nginx_url))),
        row("nginx", hit, "h1", &peers.nginx, load(url(&peers.nginx_url)).http1()),
        row("nearfield", hit, "h2", &peers.front, load(url(&peers.front_url))),
        row("nearfield", hit, "h1", &peers.front, load(url(&peers.front_url)).http1()),
    ]);
    for round in 0..=ROUNDS {
        for row in &mut rows {
            let before = row.process.cpu_time()?;
            let answered = row.load.run()?;
            let spent = row.process.cpu_time()?.saturating_sub(before);
            // The first round warms what can be warmed.
            if round > 0 {
                row.micros.push(spent.as_micros() as f64 / answered as f64);
            }
        }
    }
    let parse = parse_micros(&query);
    let mut table = Table::new(&["server", "what", "over", "CPU µs a request: least", "most"]);
    for row in rows {
        let least = row.micros.iter().copied().reduce(f64::min).context("rounds")?;
        let most = row.micros.iter().copied().reduce(f64::max).context("rounds")?;
        let cells = [row.server, row.what, row.over].map(str::to_owned);
        table.row(cells.into_iter().chain([format!("{least:.1}"), format!("{most:.1}")]));
    }
    table.row(["serde_json", "parsing that JSON alone", "", &format!("{parse:.1}"), ""].map(str::to_owned));
    table.print();
    Ok(())
}

/// A gateway with a searchd of its own, and a token for it.
struct Gateway {
    name: &'static str,
    cluster: Cluster,
    token: String,
}

impl Gateway {
    async fn start(name: &'static str, gateway_program: Option<PathBuf>) -> Result<Self> {
        let cluster = Cluster::start(&ClusterOptions {
            searchds: 1,
            rate_limits: true,
            gateway_program,
            gateway: vec![
                ("NEARFIELD_LOG__LEVEL", "warn"),
                ("NEARFIELD_SERVER__THREADS", "1"),
                ("NEARFIELD_RATE_LIMIT__IP_PER_SECOND", UNREACHED),
                ("NEARFIELD_RATE_LIMIT__PLANS__STANDARD__USER_PER_SECOND", UNREACHED),
                ("NEARFIELD_RATE_LIMIT__PLANS__STANDARD__TENANT_PER_SECOND", UNREACHED),
                ("NEARFIELD_CACHE__SEARCH_TTL", "1h"),
            ],
            searchd: vec![("NEARFIELD_LOG__LEVEL", "warn")],
            ..ClusterOptions::default()
        })?;
        let token = cluster.token(&Claims { expires_in: 6 * 3600, ..Claims::of_tenant("bench") })?;
        let gateway = Self { name, cluster, token };
        fill(&gateway.client()?).await?;
        Ok(gateway)
    }

    fn client(&self) -> Result<Client> {
        let (https, ca) = (self.cluster.https()?, self.cluster.ca());
        Ok(Client::new(&https, Some(&ca), Protocol::Http2)?.with_bearer(&self.token))
    }
}

async fn fill(client: &Client) -> Result<()> {
    let settings = json!({"dimension": DIMENSION, "metric": "cosine"});
    client.put(&format!("{API}/collections/{COLLECTION}")).json(&settings).send().await?.expect(201)?;
    let point = |i: usize| json!({"id": format!("p{i}"), "values": vector(i), "metadata": {"number": i, "kind": "point of a benchmark"}});
    let points: Vec<_> = (0..POINTS).map(point).collect();
    let body = json!({"collection": COLLECTION, "vectors": points});
    client.post(&format!("{API}/insert")).json(&body).send().await?.expect(200)?;
    Ok(())
}

/// Numbers with as many digits as a real embedding has.
fn vector(seed: usize) -> Vec<f32> {
    (0..DIMENSION).map(|i| ((seed * DIMENSION + i) as f32 * 0.618_034).sin() / 20.0).collect()
}

/// The least of several batches: what else the machine does is in all but the quickest.
fn parse_micros(body: &str) -> f64 {
    #[derive(serde::Deserialize)]
    struct Search {
        query: Vec<f32>,
    }
    const BATCHES: usize = 50;
    const BATCH: usize = 100;
    let batch = |_| {
        let started = Instant::now();
        for _ in 0..BATCH {
            let search: Search = serde_json::from_str(black_box(body)).expect("it was just made");
            assert_eq!(black_box(search).query.len(), DIMENSION);
        }
        started.elapsed().as_nanos() as f64 / 1_000.0 / BATCH as f64
    };
    (0..BATCHES).map(batch).fold(f64::INFINITY, f64::min)
}

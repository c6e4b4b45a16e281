//! What equal questions cost that come at once and that nobody has asked before: how often what is behind is asked, and how
//! long those wait who ask, beside nginx and Varnish in the same run.
//!
//! Each has an upstream of its own that takes 50 ms; `h2load` asks, so many requests at once, a new question each round.
//! nearfield speaks TLS, checks a token and limits, and asks by gRPC; nginx speaks TLS; Varnish plain HTTP/1.1.

mod peers;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nearfield_testkit::{Claims, Cluster, ClusterOptions, PacedUpstream};

use crate::table::Table;
use peers::Peers;

const REQUESTS: usize = 200;
const TAKES: Duration = Duration::from_millis(50);
/// The first of them warms what can be warmed.
const ROUNDS: usize = 11;
/// Streams of one HTTP/2 connection.
const STREAMS: usize = 50;
/// What waits at once behind the upstream, should all be passed on.
const WORKERS: usize = 1_000;
const GOAL: Duration = Duration::from_millis(65);
const UNREACHED: &str = "100000000";

struct Row<'a> {
    server: &'static str,
    over: &'static str,
    upstream: &'a PacedUpstream,
    arguments: Vec<String>,
    /// Up to the number of the round.
    url: String,
    micros: Vec<u64>,
    fetches: usize,
}

pub(crate) async fn run() -> Result<()> {
    let upstream = || PacedUpstream::start(WORKERS, TAKES);
    let [ours, behind_nginx, behind_varnish] = [upstream().await?, upstream().await?, upstream().await?];
    let cluster = start(&ours)?;
    let token = cluster.token(&Claims { expires_in: 6 * 3600, ..Claims::of_tenant("bench") })?;
    let directory = tempfile::tempdir()?;
    let peers = Peers::start(directory.path(), &cluster, behind_nginx.url(), behind_varnish.url())?;
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let multiplexed = words(&format!("-c {} -m {STREAMS}", REQUESTS / STREAMS));
    let bearer = vec!["-H".to_owned(), format!("authorization: Bearer {token}")];
    let row = |server, over, upstream, arguments, url| Row {
        server,
        over,
        upstream,
        arguments,
        url,
        micros: Vec::new(),
        fetches: 0,
    };
    let search = format!("{}/api/v1/search?collection=c&k=10&query_vector_id=p", cluster.https()?);
    let mut rows = [
        row("nearfield", "h2, TLS, JWT", &ours, [multiplexed.clone(), bearer].concat(), search),
        row("nginx", "h2, TLS", &behind_nginx, multiplexed, format!("{}/", peers.nginx_url)),
        row(
            "Varnish",
            "h1",
            &behind_varnish,
            words(&format!("--h1 -c {REQUESTS} -m 1")),
            format!("{}/", peers.varnish_url),
        ),
    ];
    for round in 0..ROUNDS {
        for row in &mut rows {
            let before = row.upstream.asked();
            let micros = ask(&format!("{}{round}", row.url), &row.arguments, directory.path())?;
            if round > 0 {
                row.micros.extend(micros);
                row.fetches += row.upstream.asked() - before;
            }
        }
    }
    println!("{REQUESTS} equal questions at once, {TAKES:?} each, {} rounds\n", ROUNDS - 1);
    let mut table = Table::new(&["server", "over", "asked upstream a round", "p50 ms", "p99 ms", "most ms"]);
    for row in &mut rows {
        row.micros.sort_unstable();
        let fetches = row.fetches as f64 / (ROUNDS - 1) as f64;
        let ms = |share: f64| format!("{:.1}", quantile(&row.micros, share) as f64 / 1e3);
        let cells = [row.server.to_owned(), row.over.to_owned(), format!("{fetches:.1}"), ms(0.5), ms(0.99), ms(1.0)];
        table.row(cells);
    }
    table.print();
    let p99 = Duration::from_micros(quantile(&rows[0].micros, 0.99));
    println!(
        "goal: asked once, p99 at most {GOAL:?}; here {} and {p99:?}\n",
        rows[0].fetches as f64 / (ROUNDS - 1) as f64
    );
    Ok(())
}

fn start(upstream: &PacedUpstream) -> Result<Cluster> {
    Cluster::start(&ClusterOptions {
        searchds: 0,
        upstreams: vec![upstream.url().to_owned()],
        rate_limits: true,
        gateway: vec![
            ("NEARFIELD_LOG__LEVEL", "warn"),
            ("NEARFIELD_RATE_LIMIT__IP_PER_SECOND", UNREACHED),
            ("NEARFIELD_RATE_LIMIT__PLANS__STANDARD__USER_PER_SECOND", UNREACHED),
            ("NEARFIELD_RATE_LIMIT__PLANS__STANDARD__TENANT_PER_SECOND", UNREACHED),
        ],
        ..ClusterOptions::default()
    })
}

/// How long each answer took, in microseconds; all have to be good.
fn ask(url: &str, arguments: &[String], directory: &Path) -> Result<Vec<u64>> {
    let log = directory.join("answers.tsv");
    // h2load appends.
    let _ = fs_err::remove_file(&log);
    let mut command = Command::new("h2load");
    command.args(["-t", "1", "-n", &REQUESTS.to_string()]).args(arguments).arg("--log-file").arg(&log).arg(url);
    let output = command.output().context("h2load is needed: apt-get install nghttp2-client")?;
    let written = fs_err::read_to_string(&log)?;
    let mut micros = Vec::with_capacity(REQUESTS);
    for line in written.lines() {
        let mut cells = line.split('\t').skip(1);
        let status = cells.next().context("a status")?;
        ensure!(status == "200", "{url}: {line}\n{}", String::from_utf8_lossy(&output.stdout));
        micros.push(cells.next().context("a duration")?.parse()?);
    }
    ensure!(micros.len() == REQUESTS, "{url}: {} answers", micros.len());
    Ok(micros)
}

/// Of ascending numbers.
fn quantile(numbers: &[u64], share: f64) -> u64 {
    let last = numbers.len().saturating_sub(1);
    numbers.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

//! What one core that floods does to everybody else, and what becomes of it.
//!
//! A gateway on loopback answers the same question at a steady rate from its cache, over HTTP/2, while it is left alone and then
//! while one thread floods it in one way. The latencies are those of the honest client, each counted from when it was due. The same
//! flood is sent to another gateway first: what that does to the honest client the cores do that all of them share.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use nearfield_testkit::{Client, Flood, Protocol, Target, Toll};
use serde_json::json;

use crate::Arguments;
use crate::idle::raise_descriptor_limit;
use crate::server::Server;
use crate::table::Table;

/// Honest requests a second.
const RATE: f64 = 200.0;
/// Honest connections.
const CONNECTIONS: usize = 8;
/// What the flood is given before latencies count.
const LEAD: Duration = Duration::from_millis(200);
/// Who floods has the other address.
const HONEST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// Who comes from this machine may come as often as it likes, by default.
const EVERYBODY_COUNTS: (&str, &str) = ("NEARFIELD_LISTENER__ARRIVALS__EXEMPT", "[]");
/// For one who wants all the connections there are, on both ends.
const DESCRIPTORS: u64 = 12_000;
/// Latencies that are kept: a microsecond to a minute, three digits.
const LONGEST_MICROS: u64 = 60_000_000;

const GOAL_LATENCY: f64 = 2.0;
const GOAL_GROWTH: u64 = 64 << 20;
const GOAL_ENDED: Duration = Duration::from_secs(1);

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    raise_descriptor_limit(DESCRIPTORS)?;
    let mut table = Table::new(&[
        "flood",
        "rounds",
        "ended",
        "first ended after s",
        "p99 ms alone",
        "p99 ms beside it",
        "beside one of another gateway",
        "ratio",
        "failed",
        "grown MiB",
        "goals",
    ]);
    let wanted = |flood: &Flood| arguments.only.as_ref().is_none_or(|only| flood.name().starts_with(only));
    for flood in Flood::ALL.into_iter().filter(wanted) {
        // A gateway of its own: what an earlier flood left in its allocator would hide this one's.
        let [server, other] = [Server::start_with(&[EVERYBODY_COUNTS])?, Server::start_with(&[EVERYBODY_COUNTS])?];
        table.row(measure([&server, &other], flood, arguments.time).await?);
    }
    table.print();
    println!(
        "goals: a p99 at most {GOAL_LATENCY} times that of a gateway left alone, at most {} MiB more, the first round ended within {GOAL_ENDED:?} \
         (those who are only slow, by the time limits that the settings give)\n",
        GOAL_GROWTH >> 20
    );
    Ok(())
}

async fn measure([server, other]: [&Server; 2], flood: Flood, time: Duration) -> Result<[String; 11]> {
    let gateway = server.cluster.gateway();
    let client = server.client(Protocol::Http2)?.from_source(HONEST);
    let settings = json!({"dimension": 2});
    client.put("/api/v1/collections/floods").json(&settings).send().await?.expect(201)?;
    let clients: Vec<Client> = (0..CONNECTIONS).map(|_| client.separate()).collect();
    for client in &clients {
        ask(client).await?;
    }
    let (alone, _) = honest(&clients, time).await?;
    let (elsewhere, ..) = beside_flood(other, &clients, flood, time).await?;
    let before = gateway.peak_resident_bytes()?;
    let (beside, failed, toll) = beside_flood(server, &clients, flood, time).await?;
    let grown = gateway.peak_resident_bytes()?.saturating_sub(before);
    let ratio = beside as f64 / alone.max(1) as f64;
    let ended = toll.first_ended;
    let missed: Vec<&str> = [
        ("latency", ratio > GOAL_LATENCY || failed > 0),
        ("memory", grown > GOAL_GROWTH),
        ("end", !flood.is_slow() && ended.is_none_or(|ended| ended > GOAL_ENDED)),
    ]
    .into_iter()
    .filter_map(|(goal, is_missed)| is_missed.then_some(goal))
    .collect();
    Ok([
        flood.name().to_owned(),
        toll.rounds.to_string(),
        toll.ended.to_string(),
        ended.map_or_else(|| "–".to_owned(), |ended| format!("{:.2}", ended.as_secs_f64())),
        format!("{:.1}", alone as f64 / 1e3),
        format!("{:.1}", beside as f64 / 1e3),
        format!("{:.1}", elsewhere as f64 / 1e3),
        format!("{ratio:.1}"),
        failed.to_string(),
        (grown >> 20).to_string(),
        if missed.is_empty() { "met".to_owned() } else { format!("missed: {}", missed.join(", ")) },
    ])
}

/// The 99th percentile of the honest clients' latencies, in microseconds, while `flooded` is flooded, how many of their requests
/// failed, and what came of the flood.
async fn beside_flood(
    flooded: &Server,
    clients: &[Client],
    flood: Flood,
    time: Duration,
) -> Result<(u64, usize, Toll)> {
    let addr = flooded.client(Protocol::Http2)?.addr();
    let target = Target { addr, ca: flooded.cluster.ca(), token: flooded.token.clone() };
    let flooding = begin(flood, target, LEAD + time)?;
    tokio::time::sleep(LEAD).await;
    let (p99, failed) = honest(clients, time).await?;
    Ok((p99, failed, flooding.await.context("the flood's thread")??))
}

/// On a thread of its own, so that it has one core at most.
fn begin(flood: Flood, target: Target, time: Duration) -> Result<impl Future<Output = Result<Result<Toll>>>> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("flood".to_owned()).spawn(move || {
        // The measurement may have failed, and wait no more.
        let _nobody = tell.send(runtime.block_on(flood.run(&target, time, usize::MAX)));
    })?;
    Ok(async move { told.await.map_err(|_gone| anyhow!("it has died")) })
}

/// The 99th percentile of latencies, in microseconds, and how many requests failed.
async fn honest(clients: &[Client], time: Duration) -> Result<(u64, usize)> {
    let total = (RATE * time.as_secs_f64()) as usize;
    let began = Instant::now();
    let mut asked = Vec::with_capacity(total);
    for number in 0..total {
        let due = began + Duration::from_secs_f64(number as f64 / RATE);
        tokio::time::sleep_until(due.into()).await;
        let client = clients[number % clients.len()].clone();
        asked.push(tokio::spawn(async move { ask(&client).await.map(|()| due.elapsed()) }));
    }
    let (mut latencies, mut failed) = (Histogram::<u64>::new_with_bounds(1, LONGEST_MICROS, 3)?, 0);
    for answered in asked {
        match answered.await? {
            Ok(latency) => latencies.saturating_record(latency.as_micros() as u64),
            Err(_failed) => failed += 1,
        }
    }
    Ok((latencies.value_at_quantile(0.99), failed))
}

async fn ask(client: &Client) -> Result<()> {
    let body = json!({"collection": "floods", "query": [1, 0], "k": 1});
    client.post("/api/v1/search").json(&body).send().await?.expect(200).map(drop)
}

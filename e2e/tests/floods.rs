//! Floods, each against a real gateway: whoever floods is shown out, others are answered meanwhile, and the process does not grow.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use nearfield_testkit::{Claims, Client, Cluster, ClusterOptions, Flood, Protocol, Target, Toll, metrics};
use serde_json::json;

/// The longest that a flood goes on.
const TIME: Duration = Duration::from_secs(90);
/// The same of one that need not be ended.
const SHORT: Duration = Duration::from_secs(5);
/// What a flood may add to the process.
const GROWTH_MAX: u64 = 64 << 20;
/// Who floods has the other address.
const HONEST: IpAddr = client(2);
/// The loopback address that ends so.
const fn client(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))
}

/// Long enough for honest clients here, and short enough to be seen.
const SETTINGS: [(&str, &str); 7] = [
    ("NEARFIELD_LISTENER__HTTP1__HEADER_TIMEOUT", "2s"),
    ("NEARFIELD_LISTENER__HTTP2__HEADER_TIMEOUT", "2s"),
    ("NEARFIELD_LISTENER__HTTP3__HEADER_TIMEOUT", "2s"),
    ("NEARFIELD_LISTENER__SEND_TIMEOUT", "2s"),
    ("NEARFIELD_LISTENER__MAX_CONNECTIONS_PER_CLIENT", "60"),
    ("NEARFIELD_LISTENER__HTTP3__MAX_HANDSHAKES", "16"),
    ("NEARFIELD_PACE__GRACE", "2s"),
];
/// Who comes from this machine counts as well.
const EVERYBODY_COUNTS: (&str, &str) = ("NEARFIELD_LISTENER__ARRIVALS__EXEMPT", "[]");
/// Honest clients here make many connections. Whoever is shown out is so for half a minute, however fast this machine is.
const STRICT: [(&str, &str); 4] = [
    EVERYBODY_COUNTS,
    ("NEARFIELD_LISTENER__ARRIVALS__PER_SECOND", "2000"),
    ("NEARFIELD_LISTENER__ARRIVALS__BURST", "2000"),
    ("NEARFIELD_LISTENER__ARRIVALS__PENALTY", "30s"),
];

struct Besieged {
    cluster: Cluster,
    target: Target,
}

impl Besieged {
    fn start() -> Result<Self> {
        Self::start_with(&SETTINGS)
    }

    fn start_with(gateway: &[(&'static str, &'static str)]) -> Result<Self> {
        let options = ClusterOptions { searchds: 1, gateway: gateway.to_vec(), ..ClusterOptions::default() };
        let cluster = Cluster::start(&options)?;
        let addr = cluster.client(Protocol::Http1)?.addr();
        let target = Target { addr, ca: cluster.ca(), token: cluster.token(&Claims::of_tenant("floods"))? };
        Ok(Self { cluster, target })
    }

    fn honest(&self) -> Result<Vec<Client>> {
        Protocol::ALL.into_iter().map(|protocol| Ok(self.cluster.client(protocol)?.from_source(HONEST))).collect()
    }

    /// Floods until `rounds` of it were ended by the gateway.
    async fn withstand(&self, flood: Flood, rounds: usize) -> Result<()> {
        let toll = self.endure(flood, TIME, rounds).await?;
        ensure!(toll.ended >= rounds, "{}: {toll:?}", flood.name());
        Ok(())
    }

    /// Floods for `time`, or until `rounds` were ended.
    async fn endure(&self, flood: Flood, time: Duration, rounds: usize) -> Result<Toll> {
        let clients = self.honest()?;
        answered(&clients).await?;
        let gateway = self.cluster.gateway();
        let before = gateway.peak_resident_bytes()?;
        let over = Arc::new(AtomicBool::new(false));
        let others = tokio::spawn({
            let over = over.clone();
            async move {
                while !over.load(Ordering::Relaxed) {
                    answered(&clients).await?;
                    // On new connections too.
                    answered(&clients.iter().map(Client::separate).collect::<Vec<_>>()).await?;
                }
                anyhow::Ok(())
            }
        });
        let toll = flood.run(&self.target, time, rounds).await?;
        over.store(true, Ordering::Relaxed);
        others.await?.with_context(|| format!("an honest request beside {}", flood.name()))?;
        ensure!(gateway.is_running());
        let grown = gateway.peak_resident_bytes()?.saturating_sub(before);
        ensure!(grown <= GROWTH_MAX, "{}: the gateway has grown by {grown} bytes", flood.name());
        Ok(toll)
    }

    /// The gateway's counters that begin with `name`.
    async fn counted(&self, name: &str) -> Result<String> {
        let metrics = reqwest::get(format!("{}/metrics", self.cluster.admin()?)).await?.text().await?;
        Ok(metrics.lines().filter(|line| line.starts_with(name)).collect::<Vec<_>>().join("\n"))
    }
}

async fn answered(clients: &[Client]) -> Result<()> {
    for client in clients {
        let answer = client.get("/health/ready").send().await;
        answer.with_context(|| format!("{:?}", client.protocol()))?.expect(200)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_end_their_connections() -> Result<()> {
    let besieged = Besieged::start()?;
    for flood in [
        Flood::RapidReset,
        Flood::RapidResetHttp3,
        Flood::MadeYouReset,
        Flood::Continuation,
        Flood::Ping,
        Flood::Settings,
        Flood::SmallData,
        Flood::HpackBomb,
        Flood::QpackBomb,
    ] {
        besieged.withstand(flood, 2).await?;
    }
    let cut = besieged.counted("gateway_connections_cut_total").await?;
    for limit in ["http2_frames", "http3_resets"] {
        ensure!(cut.contains(&format!("{{limit=\"{limit}\"}}")), "{limit}: {cut}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_too_slow_are_cut_off() -> Result<()> {
    let besieged = Besieged::start()?;
    for flood in [Flood::SlowHeaders, Flood::SlowBody, Flood::SlowRead] {
        besieged.withstand(flood, 1).await?;
    }
    let cut = besieged.counted("gateway_connections_cut_total").await?;
    for limit in ["head", "answer"] {
        ensure!(cut.contains(&format!("{{limit=\"{limit}\"}}")), "{limit}: {cut}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_has_so_many_connections_and_begun_handshakes_cost_little() -> Result<()> {
    let besieged = Besieged::start()?;
    besieged.withstand(Flood::Connections, 2).await?;
    besieged.withstand(Flood::Initials, 3).await?;
    let refused = besieged.counted("gateway_connections_refused_total").await?;
    ensure!(refused.contains("{reason=\"client\"}"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_floods_is_kept_out_for_a_while_and_others_are_not() -> Result<()> {
    for flood in [Flood::Ping, Flood::RapidReset, Flood::RapidResetHttp3] {
        let besieged = Besieged::start_with(&STRICT)?;
        let toll = besieged.endure(flood, SHORT, usize::MAX).await?;
        // Another one may have begun before the first was counted; without an end there are hundreds.
        ensure!((1..=3).contains(&toll.ended) && toll.rounds > 3, "{}: {toll:?}", flood.name());
        for protocol in Protocol::ALL {
            // What is owed is owed over every transport.
            let answer = besieged.cluster.client(protocol)?.get("/health/ready").send().await;
            ensure!(answer.is_err(), "{}: {protocol:?}", flood.name());
        }
        let refused = besieged.counted("gateway_connections_refused_total").await?;
        ensure!(refused.contains("{reason=\"rate\"}"), "{}: {refused}", flood.name());
        let debug = metrics::page(&besieged.cluster.admin()?, "/debug.json", "*/*").await?;
        let debug: serde_json::Value = serde_json::from_str(&debug)?;
        ensure!(debug["connections"]["arrivals"]["too_often"] == json!([client(1)]), "{debug}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_behind_one_address_are_all_let_in() -> Result<()> {
    let besieged = Besieged::start_with(&[EVERYBODY_COUNTS])?;
    let office: Vec<Client> = Protocol::ALL
        .into_iter()
        .map(|protocol| Ok(besieged.cluster.client(protocol)?.from_source(client(3))))
        .collect::<Result<_>>()?;
    let everybody: Vec<Client> = (0..50).flat_map(|_| office.iter().map(Client::separate)).collect();
    try_join_all(everybody.iter().map(|one| async { one.get("/health/ready").send().await?.expect(200) })).await?;
    let refused = besieged.counted("gateway_connections_refused_total").await?;
    ensure!(!refused.contains("reason=\"rate\""), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_are_begun_without_an_end_are_not_even_looked_at() -> Result<()> {
    let besieged = Besieged::start_with(&[EVERYBODY_COUNTS])?;
    Flood::Initials.run(&besieged.target, SHORT, usize::MAX).await?;
    let unheard = besieged.cluster.gateway_metric("gateway_quic_initials_unheard_total").await?;
    ensure!(unheard > 0);
    // Others are heard as before, and nothing counts against whoever has that address: it was not proven.
    answered(&besieged.honest()?).await?;
    besieged.cluster.client(Protocol::Http2)?.get("/health/ready").send().await?.expect(200)?;
    Ok(())
}

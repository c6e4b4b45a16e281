//! Floods, each against a real gateway: whoever floods is shown out, others are answered meanwhile, and the process does not grow.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nearfield_testkit::{Claims, Client, Cluster, ClusterOptions, Flood, Protocol, Target, Toll};

/// The longest that a flood goes on.
const TIME: Duration = Duration::from_secs(90);
/// The same of one that need not be ended.
const SHORT: Duration = Duration::from_secs(5);
/// What a flood may add to the process.
const GROWTH_MAX: u64 = 64 << 20;
/// Who floods has the other address.
const HONEST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
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

struct Besieged {
    cluster: Cluster,
    target: Target,
}

impl Besieged {
    fn start() -> Result<Self> {
        let options = ClusterOptions { searchds: 1, gateway: SETTINGS.to_vec(), ..ClusterOptions::default() };
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
    ] {
        besieged.withstand(flood, 2).await?;
    }
    // Each is refused for itself; how many are too many depends on how fast they come.
    besieged.endure(Flood::QpackBomb, SHORT, usize::MAX).await?;
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

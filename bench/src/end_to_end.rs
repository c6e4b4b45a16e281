//! Searches through the gateway over each protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use nearfield_testkit::Protocol;

use crate::Arguments;
use crate::dataset::FashionMnist;
use crate::drive::{self, Figures, Queries};
use crate::exact::recall;
use crate::server::Server;
use crate::table::Table;
use crate::transport::{Query, Sender, Transport};

const TRANSPORTS: [Transport; 4] = [
    Transport::Http(Protocol::Http1),
    Transport::Http(Protocol::Http2),
    Transport::Http(Protocol::Http3),
    Transport::Grpc,
];
/// Queries that are asked again and again in the cached runs.
const HOT: usize = 64;
const WARM_UP: Duration = Duration::from_secs(1);
/// The open loop's share of the closed loop's rate: busy, but not a queue that only grows.
const OPEN_SHARE: f64 = 0.5;
/// More than are ever in flight at that rate, unless the server stalls.
const OPEN_SENDERS: usize = 64;

pub(crate) async fn run(
    arguments: &Arguments,
    server: &Server,
    data: &FashionMnist,
    truth: &[Vec<usize>],
) -> Result<()> {
    let recall = measure_recall(server, data, truth).await?;
    println!("recall@10 of {} queries through the gateway, default settings: {recall:.4}\n", truth.len());
    let queries = Workloads::new(data);
    let mut table =
        Table::new(&["searches", "loop", "over", "per s", "p50 ms", "p99 ms", "gateway µs", "searchd µs", "recall@10"]);
    for (name, workload) in [("uncached", queries.uncached()), ("cached", queries.cached())] {
        for transport in TRANSPORTS {
            // The edge answers HTTP from its cache; gRPC goes through to searchd's.
            let senders = Sender::several(server, transport, arguments.concurrency).await?;
            let watched = [server.cluster.gateway(), server.cluster.searchd(0)];
            drive::closed(senders.clone(), &workload, WARM_UP, &watched).await?;
            let closed = drive::closed(senders, &workload, arguments.time, &watched).await?;
            table.row(row(name, "closed", transport, &closed, recall));
            let senders = Sender::several(server, transport, OPEN_SENDERS).await?;
            let rate = closed.per_second() * OPEN_SHARE;
            let open = drive::open(senders, &workload, rate, arguments.time, &watched).await?;
            table.row(row(name, "open", transport, &open, recall));
        }
    }
    table.print();
    Ok(())
}

fn row(name: &str, kind: &str, transport: Transport, figures: &Figures, recall: f64) -> Vec<String> {
    vec![
        name.to_owned(),
        kind.to_owned(),
        transport.name().to_owned(),
        format!("{:.0}", figures.per_second()),
        format!("{:.2}", figures.latency(0.5)),
        format!("{:.2}", figures.latency(0.99)),
        format!("{:.0}", figures.cpu_micros(0)),
        format!("{:.0}", figures.cpu_micros(1)),
        format!("{recall:.4}"),
    ]
}

async fn measure_recall(server: &Server, data: &FashionMnist, truth: &[Vec<usize>]) -> Result<f64> {
    let mut sender = Sender::open(server, Transport::Http(Protocol::Http2)).await?;
    let mut total = 0.0;
    for (i, exact) in truth.iter().enumerate() {
        total += recall(exact, &sender.find(Query::new(data.query_values(i))).await?);
    }
    Ok(total / truth.len().max(1) as f64)
}

struct Workloads {
    queries: Arc<Vec<Vec<f32>>>,
    asked: Arc<AtomicUsize>,
}

impl Workloads {
    fn new(data: &FashionMnist) -> Self {
        let queries = (0..10_000).map(|i| data.query_values(i)).collect();
        Self { queries: Arc::new(queries), asked: Arc::default() }
    }

    /// Never the same query twice: the first pixel is a little different each time.
    fn uncached(&self) -> Queries {
        let (queries, asked) = (self.queries.clone(), self.asked.clone());
        Arc::new(move |_| {
            let i = asked.fetch_add(1, Ordering::Relaxed);
            let mut values = queries[i % queries.len()].clone();
            values[0] += (1 + i) as f32 / 4096.0 / 64.0;
            Query::new(values)
        })
    }

    fn cached(&self) -> Queries {
        let queries = self.queries.clone();
        Arc::new(move |i| Query::new(queries[i % HOT].clone()))
    }
}

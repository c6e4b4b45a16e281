//! What a filter costs: recall and latency by how much it admits, beside the same searches without one.
//!
//! One search at a time over searchd's own port, each asked once, so no answer comes from a cache. *Kept* means that the
//! filter was used before and nothing was written since; *after a write*, that each search follows an update. What searchd itself
//! counted is the median of the same searches, explained: rows compared by their codes, in full precision, and the time that
//! it took to search.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nearfield_proto::v1;
use nearfield_proto::v1::collections_client::CollectionsClient;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_testkit::eventually;
use nearfield_testkit::grpc::{self, AuthorizedChannel, Credentials};
use serde_json::{Value, json};

use crate::Arguments;
use crate::server::{Server, is_in_one_segment};
use crate::table::Table;
use crate::texts::Texts;

const COLLECTION: &str = "texts";
const K: usize = 10;
const BATCH: usize = 500;
const INDEXING: Duration = Duration::from_secs(900);
/// Tenants among whom the texts are dealt out.
const TENANTS: usize = 10_000;
/// A number that is coprime to every power of two and ten: it deals rows out so that order means nothing.
const STRIDE: usize = 7_919;

/// What the query at a place is filtered by.
type Filter<'a> = (&'static str, Box<dyn Fn(usize) -> Value + 'a>);

pub(crate) async fn run(arguments: &Arguments, folder: &std::path::Path) -> Result<()> {
    let texts = Texts::load(folder).await?;
    let mut server = Server::start()?;
    let mut bench = Bench::open(&server, &texts).await?;
    bench.fill().await?;
    let queries = arguments.recall_queries.min(texts.queries.len());
    let near = bench.sections_near(queries).await?;
    let rows = texts.rows.len();
    let mut table = Table::new(&[
        "filter",
        "selectivity",
        "plan",
        "recall@10",
        "by codes",
        "compared",
        "filter µs",
        "search µs",
        "p50 µs",
        "p99 µs",
        "p99 × unfiltered",
        "after a write: p50 µs",
        "p99 µs",
    ]);
    let mut unfiltered = None;
    for (name, filter) in filters(rows, &near) {
        let kept = bench.measure(queries, &*filter, false).await?;
        let written = bench.measure(queries, &*filter, true).await?;
        let base = *unfiltered.get_or_insert_with(|| kept.latency(0.99));
        table.row([
            name.to_owned(),
            format!("{:.3} %", kept.selectivity * 100.0),
            kept.plans(),
            format!("{:.4}", kept.recall.min(written.recall)),
            kept.median(|effort| effort.by_codes).to_string(),
            kept.median(|effort| effort.compared).to_string(),
            kept.median(|effort| effort.filter_us).to_string(),
            kept.median(|effort| effort.search_us).to_string(),
            format!("{:.0}", kept.latency(0.5)),
            format!("{:.0}", kept.latency(0.99)),
            format!("{:.2}", kept.latency(0.99) / base),
            format!("{:.0}", written.latency(0.5)),
            format!("{:.0}", written.latency(0.99)),
        ]);
    }
    table.print();
    println!("Every search had min(k, matches) hits.\n");
    restart(&mut server, &texts).await
}

/// Kills searchd, starts it again and asks at once: the indexes over metadata are not there yet.
async fn restart(server: &mut Server, texts: &Texts) -> Result<()> {
    server.cluster.kill_searchd(0)?;
    server.cluster.restart_searchd(0)?;
    let up = Instant::now();
    let mut bench = Bench::open(server, texts).await?;
    let mut first = None;
    loop {
        bench.asked += 1;
        let filter = json!({"section": "doc", "n": {"$lt": 1_000 + bench.asked}});
        let request = v1::SearchRequest { explain: true, ..bench.request(bench.asked % texts.queries.len(), &filter) };
        let asked = Instant::now();
        let explanation = bench.points.search(request).await?.into_inner().explanation.context("an explanation")?;
        let used = explanation.filter.context("a filter")?;
        let took = asked.elapsed();
        first.get_or_insert((took, used.records_read));
        if used.index == "complete" {
            break;
        }
    }
    if let Some((took, read)) = first {
        println!(
            "After kill -9 and start: the first filtered answer took {:.1} ms and read {read} records; metadata were indexed {:.2} s after the start.\n",
            took.as_secs_f64() * 1e3,
            up.elapsed().as_secs_f64(),
        );
    }
    Ok(())
}

fn filters<'a>(rows: usize, near: &'a [Vec<String>]) -> Vec<Filter<'a>> {
    let below = move |share: f64| {
        let end = ((rows as f64 * share).round() as usize).max(1);
        Box::new(move |_: usize| json!({"n": {"$lt": end}})) as Box<dyn Fn(usize) -> Value>
    };
    vec![
        ("none", Box::new(|_| json!({}))),
        ("n < half", below(0.5)),
        ("n < a tenth", below(0.1)),
        ("n < a hundredth", below(0.01)),
        ("n < a thousandth", below(0.001)),
        ("n < a ten-thousandth", below(0.000_1)),
        ("not n < half", Box::new(move |_| json!({"$not": {"n": {"$lt": rows / 2}}}))),
        ("section of the nearest", Box::new(|i| json!({"section": near[i][0]}))),
        ("no section that is near", Box::new(|i| json!({"section": {"$nin": near[i]}}))),
        (
            "section, size, dependencies, tags, n",
            Box::new(|i| {
                json!({"section": {"$in": near[i]}, "installed_size_kib": {"$gte": 50, "$lt": 100_000},
                    "n_depends": {"$not": {"$gt": 20}}, "$or": [{"tags": {"$exists": true}}, {"n": {"$gt": 100}}]})
            }),
        ),
        ("a tenant of 10,000", Box::new(|i| json!({"tenant": format!("t{}", i * 13 % TENANTS)}))),
        (
            "a tenant, and half of n",
            Box::new(move |i| json!({"tenant": format!("t{}", i * 13 % TENANTS), "n": {"$lt": rows / 2}})),
        ),
    ]
}

/// What a search took, by its own account.
struct Effort {
    /// Rows compared by their codes.
    by_codes: u64,
    /// Rows compared in full precision.
    compared: u64,
    /// To find out what the filter admits.
    filter_us: u64,
    search_us: u64,
}

impl Effort {
    fn of(explanation: &v1::Explanation) -> Self {
        let took = |name: &str| explanation.phases.iter().find(|phase| phase.name == name).map_or(0, |phase| phase.us);
        Self {
            by_codes: explanation.distances.saturating_sub(explanation.rescored),
            compared: explanation.rescored,
            filter_us: took("filter"),
            search_us: took("search"),
        }
    }
}

#[derive(Default)]
struct Measured {
    recall: f64,
    selectivity: f64,
    plans: BTreeMap<String, usize>,
    efforts: Vec<Effort>,
    latencies: Vec<Duration>,
}

impl Measured {
    /// Microseconds.
    fn latency(&self, quantile: f64) -> f64 {
        let at = ((self.latencies.len() - 1) as f64 * quantile).round() as usize;
        self.latencies[at].as_secs_f64() * 1e6
    }

    fn median(&self, of: impl Fn(&Effort) -> u64) -> u64 {
        let mut all: Vec<u64> = self.efforts.iter().map(of).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or(0)
    }

    fn plans(&self) -> String {
        let mut plans: Vec<_> = self.plans.iter().collect();
        plans.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
        plans.iter().map(|(plan, _)| plan.as_str()).collect::<Vec<_>>().join(", ")
    }
}

struct Bench<'a> {
    texts: &'a Texts,
    points: VectorSearchClient<AuthorizedChannel>,
    collections: CollectionsClient<AuthorizedChannel>,
    /// Searches asked: each is made a little different, so that none is answered from a cache.
    asked: usize,
}

impl<'a> Bench<'a> {
    async fn open(server: &Server, texts: &'a Texts) -> Result<Self> {
        let channel = grpc::searchd(&server.cluster.searchd_url(0), Credentials::none()).await?;
        let points = VectorSearchClient::new(channel.clone());
        Ok(Self { texts, points, collections: CollectionsClient::new(channel), asked: 0 })
    }

    async fn fill(&mut self) -> Result<()> {
        let settings = v1::CollectionSettings { dimension: self.texts.dimension as u32, ..Default::default() };
        let request = v1::CreateCollectionRequest { name: COLLECTION.into(), settings: Some(settings) };
        self.collections.create(request).await?;
        let rows = self.texts.rows.len();
        for first in (0..rows).step_by(BATCH) {
            let vectors = (first..rows.min(first + BATCH)).map(|i| {
                let mut metadata = self.texts.metadata[i].clone();
                let n = i * STRIDE % rows;
                metadata.insert("n".into(), n.into());
                metadata.insert("tenant".into(), format!("t{}", n % TENANTS).into());
                let metadata = serde_json::to_vec(&metadata).unwrap_or_default().into();
                v1::Point { id: format!("{i:06}"), values: self.texts.rows[i].clone(), metadata }
            });
            let request = v1::InsertRequest { collection: COLLECTION.into(), vectors: vectors.collect() };
            self.points.insert(request).await?;
        }
        let started = Instant::now();
        eventually("the collection is indexed", INDEXING, || {
            let mut collections = self.collections.clone();
            let mut points = self.points.clone();
            let probe = self.request(0, &json!({"n": 0}));
            async move {
                let request = v1::DescribeCollectionRequest { name: COLLECTION.into(), ..Default::default() };
                let described = collections.describe(request).await.ok()?.into_inner();
                let found = points.search(v1::SearchRequest { explain: true, ..probe }).await.ok()?.into_inner();
                let explanation = found.explanation?;
                let is_indexed = explanation.filter.as_ref()?.index == "complete";
                (described.status == "ready" && is_indexed && is_in_one_segment(&explanation)).then_some(())
            }
        })
        .await?;
        println!("{rows} texts, indexed {:.1} s after the last was stored\n", started.elapsed().as_secs_f64());
        Ok(())
    }

    fn request(&self, query: usize, filter: &Value) -> v1::SearchRequest {
        let mut values = self.texts.queries[query].clone();
        values[0] += self.asked as f32 * 1e-9;
        v1::SearchRequest {
            collection: COLLECTION.into(),
            query: values,
            k: K as i32,
            filter: filter.to_string().into(),
            ..Default::default()
        }
    }

    /// The sections of the fifty nearest texts of each query, nearest first.
    async fn sections_near(&mut self, queries: usize) -> Result<Vec<Vec<String>>> {
        let mut near = Vec::with_capacity(queries);
        for query in 0..queries {
            let request = v1::SearchRequest { k: 50, exact: true, ..self.request(query, &json!({})) };
            let found = self.points.search(request).await?.into_inner();
            let mut sections: Vec<String> = Vec::new();
            for hit in found.results {
                let metadata: Value = serde_json::from_slice(&hit.metadata)?;
                let section = metadata["section"].as_str().context("a section")?;
                if !sections.iter().any(|known| known == section) {
                    sections.push(section.to_owned());
                }
            }
            near.push(sections);
        }
        Ok(near)
    }

    async fn measure(&mut self, queries: usize, filter: &dyn Fn(usize) -> Value, writes: bool) -> Result<Measured> {
        let mut measured = Measured::default();
        let mut counted = 0;
        for query in 0..queries {
            let filter = filter(query);
            let exact = v1::SearchRequest { exact: true, explain: true, ..self.request(query, &filter) };
            let exact = self.points.search(exact).await?.into_inner();
            if writes {
                self.write(query).await?;
            }
            self.asked += 1;
            let request = v1::SearchRequest { include: vec!["id".into()], ..self.request(query, &filter) };
            let started = Instant::now();
            let found = self.points.search(request.clone()).await?.into_inner();
            measured.latencies.push(started.elapsed());
            ensure!(found.results.len() == exact.results.len(), "{filter}: {} hits", found.results.len());
            let expected: Vec<_> = exact.results.iter().map(|hit| &hit.vector_id).collect();
            if !expected.is_empty() {
                let hits = found.results.iter().filter(|hit| expected.contains(&&hit.vector_id)).count();
                measured.recall += hits as f64 / expected.len() as f64;
                counted += 1;
            }
            let explained = self.points.search(v1::SearchRequest { explain: true, ..request }).await?.into_inner();
            let explanation = explained.explanation.context("an explanation")?;
            measured.efforts.push(Effort::of(&explanation));
            let share = explanation.filter.map_or(1.0, |filter| filter.selectivity);
            measured.selectivity += share / queries as f64;
            *measured.plans.entry(explanation.plan).or_default() += 1;
        }
        measured.recall /= f64::from(counted.max(1));
        measured.latencies.sort_unstable();
        Ok(measured)
    }

    /// Changes a point's metadata, which voids all that caches have of the collection.
    async fn write(&mut self, query: usize) -> Result<()> {
        let id = format!("{:06}", query * STRIDE % self.texts.rows.len());
        let metadata = json!({"priority": format!("p{}", self.asked)}).to_string().into();
        let request = v1::UpdateRequest { collection: COLLECTION.into(), id, metadata, ..Default::default() };
        self.points.update(request).await?;
        Ok(())
    }
}

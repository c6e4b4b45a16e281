//! The two tiers under test, filled through the public API.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::StreamExt;
use nearfield_proto::v1;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_testkit::grpc::{self, Credentials};
use nearfield_testkit::{Claims, Client, Cluster, ClusterOptions, Protocol, eventually};
use serde_json::json;

use crate::dataset::{DIMENSION, FashionMnist};
use crate::exact::id;

pub(crate) const COLLECTION: &str = "fashion";
const API: &str = "/api/v1";
/// Points of one message of the upload.
const BATCH: usize = 500;
const INDEXING: Duration = Duration::from_secs(900);

pub(crate) struct Server {
    pub(crate) cluster: Cluster,
    pub(crate) token: String,
    /// After the last write: every search is asked to see it once, then never again.
    pub(crate) session: String,
}

/// Rows in the head that are left alone at rest.
const AT_REST: u64 = 256;

/// Whether all that was written is in one segment, or nearly all.
pub(crate) fn is_at_rest(explanation: &v1::Explanation) -> bool {
    let (waiting, sealed) = rows(explanation);
    let largest = sealed.iter().copied().max().unwrap_or(0);
    // What is beside the largest is less than a sixteenth of it.
    waiting < AT_REST && sealed.iter().sum::<u64>() - largest <= largest / 16
}

/// Whether it is in one segment, as it is when nobody has written for long.
pub(crate) fn is_in_one_segment(explanation: &v1::Explanation) -> bool {
    let (waiting, sealed) = rows(explanation);
    waiting < AT_REST && sealed.len() == 1
}

/// Rows of the head, and live ones of each segment.
fn rows(explanation: &v1::Explanation) -> (u64, Vec<u64>) {
    let (head, sealed): (Vec<_>, Vec<_>) = explanation.segments.iter().partition(|part| part.segment == "head");
    (head.iter().map(|head| head.rows).sum(), sealed.iter().map(|part| part.live).collect())
}

impl Server {
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// With environment overrides of the gateway's settings.
    pub(crate) fn start_with(gateway: &[(&'static str, &'static str)]) -> Result<Self> {
        Self::start_program(None, gateway)
    }

    /// The same with another gateway's program, when there is one.
    pub(crate) fn start_program(program: Option<PathBuf>, gateway: &[(&'static str, &'static str)]) -> Result<Self> {
        Self::start_all(program, gateway, &[])
    }

    /// With environment overrides of searchd's settings.
    pub(crate) fn start_searchd(searchd: &[(String, String)]) -> Result<Self> {
        Self::start_all(None, &[], searchd)
    }

    fn start_all(
        program: Option<PathBuf>,
        gateway: &[(&'static str, &'static str)],
        searchd: &[(String, String)],
    ) -> Result<Self> {
        // A process has one of these.
        let forever = |text: &String| -> &'static str { text.clone().leak() };
        let searchd = searchd.iter().map(|(name, value)| (forever(name), forever(value)));
        let options = ClusterOptions {
            searchds: 1,
            gateway_program: program,
            // One line a request would be a good part of what is measured, and production samples its log.
            gateway: [&[("NEARFIELD_LOG__LEVEL", "warn")], gateway].concat(),
            searchd: std::iter::once(("NEARFIELD_LOG__LEVEL", "warn")).chain(searchd).collect(),
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(&options)?;
        let token = cluster.token(&Claims { expires_in: 6 * 3600, ..Claims::of_tenant("bench") })?;
        Ok(Self { cluster, token, session: String::new() })
    }

    pub(crate) fn client(&self, protocol: Protocol) -> Result<Client> {
        Ok(Client::new(&self.cluster.https()?, Some(&self.cluster.ca()), protocol)?.with_bearer(&self.token))
    }

    pub(crate) async fn filled(data: &FashionMnist) -> Result<Self> {
        let mut server = Self::start()?;
        let client = server.client(Protocol::Http2)?;
        let settings = json!({"dimension": DIMENSION, "metric": "euclidean"});
        client.put(&format!("{API}/collections/{COLLECTION}")).json(&settings).send().await?.expect(201)?;
        let started = Instant::now();
        let mut inserts = futures::stream::iter((0..data.points()).step_by(BATCH).map(|first| {
            let points: Vec<_> = (first..data.points().min(first + BATCH))
                .map(|i| {
                    let values: Vec<f32> = data.point(i).iter().map(|p| f32::from(*p)).collect();
                    json!({"id": id(i), "values": nearfield_testkit::vectors::base64(&values)})
                })
                .collect();
            let body = serde_json::to_vec(&json!({"collection": COLLECTION, "vectors": points}));
            let request = client.post(&format!("{API}/insert")).header("content-type", "application/json");
            async move { request.body(Bytes::from(body?)).send().await }
        }))
        .buffered(2);
        while let Some(answer) = inserts.next().await {
            let answer = answer?.expect(200)?;
            server.session = answer["session"].as_str().context("a session")?.to_owned();
        }
        drop(inserts);
        let stored = started.elapsed();
        server.wait_indexed(&client).await?;
        let searchd = server.cluster.searchd(0);
        println!(
            "stored {} points of {DIMENSION} dimensions in {:.1} s, at rest after {:.1} s; searchd: {:.1} s CPU, {} MiB resident\n",
            data.points(),
            stored.as_secs_f64(),
            started.elapsed().as_secs_f64(),
            searchd.cpu_time()?.as_secs_f64(),
            searchd.resident_bytes()? >> 20,
        );
        Ok(server)
    }

    async fn wait_indexed(&self, client: &Client) -> Result<()> {
        let path = format!("{API}/collections/{COLLECTION}");
        let ready = || async {
            let request =
                client.get(&path).header("nearfield-session", &self.session).header("cache-control", "no-cache");
            let described = request.send().await.ok()?.json().ok()?;
            (described["status"] == "ready").then_some(())
        };
        eventually("the collection is indexed", INDEXING, ready).await?;
        let channel = grpc::searchd(&self.cluster.searchd_url(0), Credentials::tenant("bench")?).await?;
        let points = VectorSearchClient::new(channel);
        eventually("the collection is at rest", INDEXING, || async {
            let probe = v1::SearchRequest {
                collection: COLLECTION.into(),
                query: vec![0.5; DIMENSION],
                explain: true,
                ..Default::default()
            };
            let explanation = points.clone().search(probe).await.ok()?.into_inner().explanation?;
            is_at_rest(&explanation).then_some(())
        })
        .await
    }
}

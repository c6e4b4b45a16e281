//! One search over one protocol, as cheaply as the load generator can send it.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use nearfield_proto::v1::SearchRequest;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_testkit::grpc::{self, AuthorizedChannel, Credentials};
use nearfield_testkit::{Client, Protocol};
use serde_json::json;

use crate::exact::{K, number};
use crate::server::{COLLECTION, Server};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Http(Protocol),
    Grpc,
    /// Past the gateway: searchd's own port, in clear.
    Direct,
}

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http(Protocol::Http1) => "h1",
            Self::Http(Protocol::Http2) => "h2",
            Self::Http(Protocol::Http3) => "h3",
            Self::Grpc => "gRPC",
            Self::Direct => "searchd",
        }
    }
}

/// A search ready to be sent.
#[derive(Clone)]
pub(crate) struct Query {
    values: Vec<f32>,
    ef: u32,
}

impl Query {
    pub(crate) fn new(values: Vec<f32>) -> Self {
        Self { values, ef: 0 }
    }

    #[must_use]
    pub(crate) fn with_ef(mut self, ef: u32) -> Self {
        self.ef = ef;
        self
    }

    fn json(&self) -> Result<Bytes> {
        let query = nearfield_testkit::vectors::base64(&self.values);
        let mut body = json!({"collection": COLLECTION, "query": query, "k": K});
        if self.ef > 0 {
            body["ef_search"] = json!(self.ef);
        }
        Ok(serde_json::to_vec(&body)?.into())
    }
}

/// One connection, or a share of one.
#[derive(Clone)]
pub(crate) enum Sender {
    Http(Client),
    Grpc(VectorSearchClient<AuthorizedChannel>),
}

impl Sender {
    pub(crate) async fn open(server: &Server, transport: Transport) -> Result<Self> {
        let cluster = &server.cluster;
        Ok(match transport {
            Transport::Http(protocol) => Self::Http(server.client(protocol)?),
            Transport::Grpc => {
                let credentials = Credentials::bearer(&server.token)?;
                let channel = grpc::gateway(&cluster.https()?, &cluster.ca(), credentials).await?;
                Self::Grpc(VectorSearchClient::new(channel))
            }
            Transport::Direct => {
                let channel = grpc::searchd(&cluster.searchd_url(0), Credentials::tenant("bench")?).await?;
                Self::Grpc(VectorSearchClient::new(channel))
            }
        })
    }

    /// As many senders as are in flight at once, over as many connections as a client of this protocol would hold.
    pub(crate) async fn several(server: &Server, transport: Transport, concurrency: usize) -> Result<Vec<Self>> {
        let shared_by = if transport == Transport::Http(Protocol::Http1) { 1 } else { 4 };
        let mut senders = Vec::new();
        while senders.len() < concurrency {
            let sender = Self::open(server, transport).await?;
            senders.extend(std::iter::repeat_n(sender, shared_by.min(concurrency - senders.len())));
        }
        Ok(senders)
    }

    /// Sends a search and checks that it has its hits; their ids are not looked at.
    pub(crate) async fn send(&mut self, query: Query) -> Result<()> {
        match self {
            Self::Http(client) => {
                let request = client.post("/api/v1/search").header("content-type", "application/json");
                let answer = request.body(query.json()?).send().await?;
                ensure!(answer.status == 200 && answer.body.len() > 100, "{}: {}", answer.status, answer.text());
            }
            Self::Grpc(client) => {
                let answer = client.search(request(query)).await?.into_inner();
                ensure!(answer.results.len() == K, "{} hits", answer.results.len());
            }
        }
        Ok(())
    }

    /// The ids that a search finds.
    pub(crate) async fn find(&mut self, query: Query) -> Result<Vec<usize>> {
        match self {
            Self::Http(client) => {
                let request = client.post("/api/v1/search").header("content-type", "application/json");
                let answer = request.body(query.json()?).send().await?.expect(200)?;
                let results = answer["results"].as_array().context("results")?;
                Ok(results.iter().filter_map(|hit| number(hit["id"].as_str()?)).collect())
            }
            Self::Grpc(client) => {
                let answer = client.search(request(query)).await?.into_inner();
                Ok(answer.results.iter().filter_map(|hit| number(&hit.vector_id)).collect())
            }
        }
    }
}

fn request(query: Query) -> SearchRequest {
    SearchRequest {
        collection: COLLECTION.to_owned(),
        query: query.values,
        k: K as i32,
        ef_search: query.ef,
        ..Default::default()
    }
}

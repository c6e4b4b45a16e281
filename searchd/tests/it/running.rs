//! A searchd in this process, on free ports and a temporary directory.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nearfield_proto::v1;
use nearfield_proto::v1::collections_client::CollectionsClient;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_searchd::{Config, Searchd};
use tonic::transport::Channel;

pub(crate) struct Running {
    pub(crate) searchd: Searchd,
    pub(crate) points: VectorSearchClient<Channel>,
    pub(crate) collections: CollectionsClient<Channel>,
}

pub(crate) fn config(directory: &Path) -> Config {
    let mut config = Config::default();
    config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.server.admin = config.server.listen;
    config.storage.data_dir = directory.into();
    config.engine.search_threads = 2;
    // What is sealed when is up to each test.
    config.engine.rest_after = Duration::from_secs(3_600);
    config
}

impl Running {
    pub(crate) async fn start(directory: &Path) -> Self {
        Self::with(config(directory)).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let searchd = Searchd::start(config).await.unwrap();
        let channel = Channel::from_shared(format!("http://{}", searchd.grpc_addr())).unwrap().connect().await.unwrap();
        Self {
            searchd,
            points: VectorSearchClient::new(channel.clone()).max_decoding_message_size(128 * 1024 * 1024),
            collections: CollectionsClient::new(channel),
        }
    }

    pub(crate) async fn stop(self) {
        drop((self.points, self.collections));
        self.searchd.shutdown().await;
    }

    pub(crate) async fn create(&mut self, name: &str, dimension: u32, metric: &str) {
        let settings = v1::CollectionSettings { dimension, metric: metric.into(), ..Default::default() };
        let request = v1::CreateCollectionRequest { name: name.into(), settings: Some(settings) };
        assert!(self.collections.create(request).await.unwrap().into_inner().created);
    }

    pub(crate) async fn insert(&mut self, collection: &str, points: Vec<v1::Point>) -> v1::InsertResponse {
        let request = v1::InsertRequest { collection: collection.into(), vectors: points };
        self.points.insert(request).await.unwrap().into_inner()
    }

    pub(crate) async fn search(&mut self, request: v1::SearchRequest) -> Result<v1::SearchResponse, tonic::Status> {
        self.points.search(request).await.map(tonic::Response::into_inner)
    }
}

pub(crate) fn point(id: &str, values: &[f32], metadata: &str) -> v1::Point {
    v1::Point { id: id.into(), values: values.to_vec(), metadata: metadata.to_owned().into() }
}

pub(crate) fn ids(response: &v1::SearchResponse) -> Vec<&str> {
    response.results.iter().map(|result| result.vector_id.as_str()).collect()
}

/// The fields that an error names.
pub(crate) fn fields(status: &tonic::Status) -> Vec<String> {
    use tonic_types::StatusExt;
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

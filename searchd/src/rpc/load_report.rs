//! Behind every answer: how loaded this instance is, so that gateways lean on it less before it is too much.

use http::{HeaderName, Response};
use http_body_util::BodyExt;
use nearfield_proto::load::{LOAD_METADATA, LoadReport};
use tonic::body::Body;
use tower::util::MapResponseLayer;

use crate::search::pool::Pool;

/// Adds a load report (gRFC A51) to the trailing metadata of every call that has any, as it is when they are sent.
pub fn layer(pool: Pool) -> MapResponseLayer<impl FnOnce(Response<Body>) -> Response<Body> + Clone> {
    MapResponseLayer::new(move |answer: Response<Body>| {
        answer.map(|body| {
            Body::new(body.map_frame(move |mut frame| {
                if let Some(trailers) = frame.trailers_mut() {
                    let load = pool.load();
                    let report = LoadReport::new(load.utilization, load.queue_delay.as_secs_f64() * 1_000.0);
                    trailers.insert(HeaderName::from_static(LOAD_METADATA), report.to_header());
                }
                frame
            }))
        })
    })
}

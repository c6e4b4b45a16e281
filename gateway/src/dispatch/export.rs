//! `GET /export`: every point of a collection as NDJSON, as fast as the reader takes it.

use bytes::Bytes;
use http::{HeaderValue, header};
use http_body::Frame;
use http_body_util::StreamBody;
use nearfield_proto::v1::Record;

use super::Job;
use crate::body::{self, BodyError, Response};
use crate::error::Error;
use crate::forward::codec::{self, answer, point};

pub(super) async fn export(job: &mut Job) -> Result<Response, Error> {
    let mut request = point::scan(job.query())?;
    request.session = codec::session(&job.parts.headers, std::mem::take(&mut request.session))?;
    let upstream = job.upstream(&request.collection).await?;
    let (first, rest) = upstream.scan(&job.context, &request).await?;
    let lines = futures::stream::try_unfold((first, rest), |(first, mut rest)| async move {
        let next = match first {
            Some(record) => Some(record),
            None => rest.next().await.map_err(Box::new)?,
        };
        let Some(record) = next else { return Ok::<_, BodyError>(None) };
        Ok(Some((Frame::data(line(&record)), (None::<Record>, rest))))
    });
    let mut response = Response::new(body::boxed(StreamBody::new(lines)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn line(record: &Record) -> Bytes {
    let mut out = answer::Writer::with_capacity(64 + record.values.len() * 12 + record.metadata.len());
    answer::record_into(&mut out, record);
    out.raw("\n");
    out.finish()
}

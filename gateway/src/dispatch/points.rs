//! `/insert`, `/update`, `/delete` and `/embed/{id}`.

use super::{Job, body, lines, pay, reply};
use crate::body::Response;
use crate::error::Error;
use crate::forward::codec::{self, answer, point};

pub(super) async fn insert(job: &mut Job) -> Result<Response, Error> {
    let media = codec::media_type(&job.parts.headers)?;
    if media.as_deref().is_some_and(|media| matches!(media, "application/x-ndjson" | "application/jsonl")) {
        return lines::insert(job).await;
    }
    codec::expect_json(&job.parts.headers)?;
    let request = point::insert(&body::read(job.take_body()).await?)?;
    pay(&job.parts, |prices| prices.points(request.vectors.len()))?;
    let upstream = job.upstream(&request.collection).await?;
    let inserted = upstream.insert(&job.context, &request).await?;
    Ok(reply::written(answer::plain(&answer::Inserted::from(&inserted)), &inserted.session))
}

pub(super) async fn update(job: &mut Job) -> Result<Response, Error> {
    codec::expect_json(&job.parts.headers)?;
    let request = point::update(&body::read(job.take_body()).await?)?;
    let upstream = job.upstream(&request.collection).await?;
    let updated = upstream.update(&job.context, &request).await?;
    Ok(reply::written(answer::plain(&answer::Updated::from(&updated)), &updated.session))
}

pub(super) async fn delete(job: &mut Job) -> Result<Response, Error> {
    codec::expect_json(&job.parts.headers)?;
    let request = point::delete(&body::read(job.take_body()).await?)?;
    pay(&job.parts, |prices| prices.points(request.ids.len()))?;
    let upstream = job.upstream(&request.collection).await?;
    let deleted = upstream.delete(&job.context, &request).await?;
    Ok(reply::written(answer::plain(&answer::Deleted::from(&deleted)), &deleted.session))
}

pub(super) async fn embed(job: &mut Job) -> Result<Response, Error> {
    let mut request = point::fetch(job.path(), job.query())?;
    request.session = codec::session(&job.parts.headers, std::mem::take(&mut request.session))?;
    let upstream = job.upstream(&request.collection).await?;
    let fetched = upstream.fetch_somewhere(&job.context, &request).await?;
    let record = fetched.records.into_iter().next();
    let record = record.ok_or_else(|| Error::NotFound("there is no point of this id".to_owned()))?;
    let response = reply::json(answer::record(&record));
    Ok(reply::cacheable(response, reply::EMBED_MAX_AGE, &request.collection, Some(&record.id)))
}

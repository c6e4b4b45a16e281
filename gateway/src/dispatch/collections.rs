//! `/collections` and `/collections/{c}`.

use http::{Method, StatusCode, header};
use nearfield_proto::v1;

use super::{Job, body, reply};
use crate::body::Response;
use crate::error::Error;
use crate::forward::codec::{self, answer, collection};

pub(super) async fn list(job: Job) -> Result<Response, Error> {
    let session = read_session(&job)?;
    let listed = job.upstream.list_collections(&job.context, &v1::ListCollectionsRequest { session }).await?;
    let collections = listed.collections.iter().map(answer::CollectionAnswer::from).collect();
    Ok(reply::json(answer::plain(&answer::CollectionsAnswer { collections })))
}

pub(super) async fn one(job: Job) -> Result<Response, Error> {
    match job.parts.method {
        Method::PUT => create(job).await,
        Method::DELETE => delete(job).await,
        _ => describe(job).await,
    }
}

async fn describe(job: Job) -> Result<Response, Error> {
    let name = collection::name_of(job.path())?;
    let request = v1::DescribeCollectionRequest { name, session: read_session(&job)? };
    let described = job.upstream.describe_collection(&job.context, &request).await?;
    Ok(reply::json(answer::plain(&answer::CollectionAnswer::from(&described))))
}

pub(super) async fn recall(job: Job) -> Result<Response, Error> {
    let request = collection::recall(job.path(), job.query(), read_session(&job)?)?;
    let measured = job.upstream.measure_recall(&job.context, &request).await?;
    Ok(reply::json(answer::plain(&answer::RecallAnswer::from(measured))))
}

async fn create(job: Job) -> Result<Response, Error> {
    codec::expect_json(&job.parts.headers)?;
    collection::name_of(job.path())?;
    let body = body::read(job.body).await?;
    let request = collection::create(job.parts.uri.path(), &body)?;
    let created = job.upstream.create_collection(&job.context, &request).await?;
    let collection = created.collection.unwrap_or_default();
    let status = if created.created { StatusCode::CREATED } else { StatusCode::OK };
    let bytes = answer::plain(&answer::CollectionAnswer::from(&collection));
    let mut response = reply::with_status(reply::written(bytes, &created.session), status);
    if let Ok(location) = job.parts.uri.path().parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

async fn delete(job: Job) -> Result<Response, Error> {
    let request = v1::DeleteCollectionRequest { name: collection::name_of(job.path())? };
    let deleted = job.upstream.delete_collection(&job.context, &request).await?;
    let mut response = reply::with_session(Response::new(crate::body::empty()), &deleted.session);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    Ok(response)
}

fn read_session(job: &Job) -> Result<String, Error> {
    codec::session(&job.parts.headers, codec::session_parameter(job.query())?)
}

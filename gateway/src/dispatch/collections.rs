//! `/collections` and `/collections/{c}`.

use http::{Method, StatusCode, header};
use nearfield_proto::v1;

use super::{Job, body, reply};
use crate::body::Response;
use crate::error::Error;
use crate::forward::Upstream;
use crate::forward::codec::{self, answer, collection};

pub(super) async fn list(job: &mut Job) -> Result<Response, Error> {
    let session = read_session(job)?;
    let listed =
        job.upstream_within(&[])?.list_collections(&job.context, &v1::ListCollectionsRequest { session }).await?;
    let collections = listed.collections.iter().map(answer::CollectionAnswer::from).collect();
    Ok(reply::json(answer::plain(&answer::CollectionsAnswer { collections })))
}

pub(super) async fn one(job: &mut Job) -> Result<Response, Error> {
    match job.parts.method {
        Method::PUT => create(job).await,
        Method::DELETE => delete(job).await,
        _ => describe(job).await,
    }
}

async fn describe(job: &mut Job) -> Result<Response, Error> {
    let name = collection::name_of(job.path())?;
    let request = v1::DescribeCollectionRequest { name, session: read_session(job)? };
    let described = job.upstream(&request.name).await?.describe_collection(&job.context, &request).await?;
    Ok(reply::json(answer::plain(&answer::CollectionAnswer::from(&described))))
}

pub(super) async fn recall(job: &mut Job) -> Result<Response, Error> {
    let request = collection::recall(job.path(), job.query(), read_session(job)?)?;
    let measured = job.upstream(&request.name).await?.measure_recall(&job.context, &request).await?;
    Ok(reply::json(answer::plain(&answer::RecallAnswer::from(measured))))
}

async fn create(job: &mut Job) -> Result<Response, Error> {
    codec::expect_json(&job.parts.headers)?;
    collection::name_of(job.path())?;
    let body = body::read(job.take_body()).await?;
    let request = collection::create(job.parts.uri.path(), &body)?;
    let upstream = upstream_for_new(job, &request).await?;
    let created = upstream.create_collection(&job.context, &request).await?;
    let collection = created.collection.unwrap_or_default();
    let status = if created.created { StatusCode::CREATED } else { StatusCode::OK };
    let bytes = answer::plain(&answer::CollectionAnswer::from(&collection));
    let mut response = reply::with_status(reply::written(bytes, &created.session), status);
    if let Ok(location) = job.parts.uri.path().parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Where a collection is made: where it is, should it exist, so that it is told whether it is alike; else where its settings
/// let it be.
async fn upstream_for_new(job: &mut Job, request: &v1::CreateCollectionRequest) -> Result<Upstream, Error> {
    let known = job.regions.residency_of(&job.context, &request.name).await?;
    let asked = request.settings.as_ref().map(|settings| &settings.residency[..]).unwrap_or_default();
    job.upstream_within(known.as_deref().unwrap_or(asked))
}

async fn delete(job: &mut Job) -> Result<Response, Error> {
    let request = v1::DeleteCollectionRequest { name: collection::name_of(job.path())? };
    let upstream = job.upstream(&request.name).await?;
    job.regions.forget_residency(&job.context, &request.name).await;
    let deleted = upstream.delete_collection(&job.context, &request).await?;
    let mut response = reply::with_session(Response::new(crate::body::empty()), &deleted.session);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    Ok(response)
}

fn read_session(job: &Job) -> Result<String, Error> {
    codec::session(&job.parts.headers, codec::session_parameter(job.query())?)
}

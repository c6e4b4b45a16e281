//! gRPC calls: each goes, message and all, to the nearest region that may hold what it names.

use std::sync::Arc;

use super::Job;
use crate::body::Response;
use crate::error::Error;
use crate::forward::{CallContext, Incoming, Named};
use crate::region::{Chosen, Regions};
use crate::route::GrpcMethod;

pub(super) async fn pass(job: &mut Job, method: GrpcMethod) -> Result<Response, Error> {
    let headers = std::mem::take(&mut job.parts.headers);
    let body = job.take_body();
    let stream = Stream::default();
    let incoming = Incoming::read(method, job.path(), headers, body, stream.guard(job)).await?;
    let areas = areas(&job.regions, &job.context, &incoming.named).await?;
    let upstream = job.upstream_within(&areas)?;
    stream.begin(job.chosen.clone());
    upstream.pass(&job.context, incoming).await
}

/// Where all that a message names may be.
async fn areas(regions: &Regions, context: &CallContext, named: &Named) -> Result<Vec<String>, Error> {
    let mut within: Vec<String> = Vec::new();
    for collection in &named.collections {
        let known = regions.residency_of(context, collection).await?;
        let areas = known.as_deref().unwrap_or(&named.residency);
        if within.is_empty() {
            within = areas.to_vec();
        } else if !areas.is_empty() {
            let both: Vec<String> = within.iter().filter(|area| areas.contains(area)).cloned().collect();
            if both.is_empty() {
                let areas = format!("{} and {}", within.join(", "), areas.join(", "));
                return Err(Error::Residency { areas, may_pass: false });
            }
            within = both;
        }
    }
    Ok(within)
}

/// The region that a stream is bound to by its first message.
#[derive(Clone, Default)]
struct Stream(Arc<std::sync::OnceLock<Chosen>>);

impl Stream {
    fn begin(&self, chosen: Option<Chosen>) {
        if let Some(chosen) = chosen {
            let _ = self.0.set(chosen);
        }
    }

    /// Lets messages pass that name what may be at the stream's region.
    fn guard(
        &self,
        job: &Job,
    ) -> impl Fn(Named) -> futures::future::BoxFuture<'static, Result<(), Error>> + Send + use<> {
        let (stream, regions, context) = (self.clone(), job.regions.clone(), Arc::new(job.context.clone()));
        move |named| {
            let (stream, regions, context) = (stream.clone(), regions.clone(), context.clone());
            Box::pin(async move {
                let areas = areas(&regions, &context, &named).await?;
                match stream.0.get() {
                    Some(chosen) if !regions.may_answer(chosen, &areas) => {
                        Err(Error::Residency { areas: areas.join(", "), may_pass: false })
                    }
                    _ => Ok(()),
                }
            })
        }
    }
}

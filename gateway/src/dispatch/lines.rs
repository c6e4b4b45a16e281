//! `POST /insert` as NDJSON: points are stored in batches while they arrive, so a body may be of any length.
//!
//! The next piece of the body is read only when the batch before it is stored: a sender is as fast as the storage.

use http_body_util::BodyExt;
use nearfield_proto::v1::{InsertRequest, Point};

use super::{Job, reply};
use crate::body::Response;
use crate::error::Error;
use crate::forward::codec::json::Report;
use crate::forward::codec::ndjson::Lines;
use crate::forward::codec::query::Parameters;
use crate::forward::codec::{answer, point};
use crate::forward::{CallContext, Upstream};
use crate::layers::rate_limit::toll::Toll;

/// Points of one batch.
const BATCH_POINTS: usize = 512;
/// Bytes of vectors and metadata after which a batch is stored, however few its points.
const BATCH_BYTES: usize = 4 << 20;

pub(super) async fn insert(job: &mut Job) -> Result<Response, Error> {
    let report = Report::default();
    let collection = Parameters::read(job.query(), &["collection"], &report).collection();
    let collection = report.finish(collection)?;
    let upstream = job.upstream(&collection).await?;
    let mut body = job.take_body();
    let toll = job.parts.extensions.get().cloned();
    let mut batches = Batches::new(upstream, job.context.clone(), collection, toll);
    let mut lines = Lines::default();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| batches.end(lines.number(), Error::of_body(e)))?.into_data() else { continue };
        lines.feed(&data);
        while let Some(line) = next_line(&mut lines, &mut batches).await? {
            batches.take(lines.number(), &line).await?;
        }
    }
    if let Some(line) = lines.rest() {
        batches.take(lines.number(), &line).await?;
    }
    batches.store().await?;
    let inserted = nearfield_proto::v1::InsertResponse { inserted: batches.stored, session: batches.session };
    Ok(reply::written(answer::plain(&answer::Inserted::from(&inserted)), &inserted.session))
}

async fn next_line(lines: &mut Lines, batches: &mut Batches) -> Result<Option<bytes::Bytes>, Error> {
    match lines.next() {
        Ok(line) => Ok(line),
        Err(error) => Err(batches.fail(lines.number(), error).await),
    }
}

/// The points that wait to be stored, and what was stored.
struct Batches {
    upstream: Upstream,
    context: CallContext,
    request: InsertRequest,
    /// The line of each waiting point.
    lines: Vec<u64>,
    bytes: usize,
    stored: u64,
    session: String,
    toll: Option<Toll>,
}

impl Batches {
    fn new(upstream: Upstream, context: CallContext, collection: String, toll: Option<Toll>) -> Self {
        let request = InsertRequest { collection, vectors: Vec::new() };
        let (lines, session) = (Vec::new(), String::new());
        Self { upstream, context, request, lines, bytes: 0, stored: 0, session, toll }
    }

    async fn take(&mut self, number: u64, line: &[u8]) -> Result<(), Error> {
        let point = match point::line(line) {
            Ok(point) => point,
            Err(error) => return Err(self.fail(number, error).await),
        };
        self.bytes += weight(&point);
        self.request.vectors.push(point);
        self.lines.push(number);
        if self.lines.len() >= BATCH_POINTS || self.bytes >= BATCH_BYTES {
            self.store().await?;
        }
        Ok(())
    }

    /// Stores what waits. When searchd refuses a point, those before it are stored, so that what is stored does not
    /// depend on where a batch happened to end.
    async fn store(&mut self) -> Result<(), Error> {
        if self.lines.is_empty() {
            return Ok(());
        }
        match self.send().await {
            Ok(()) => Ok(()),
            Err(error) => {
                let Some(index) = refused_point(&error).filter(|index| *index < self.lines.len()) else {
                    return Err(self.end(self.lines[0], error));
                };
                let number = self.lines[index];
                self.request.vectors.truncate(index);
                self.lines.truncate(index);
                if index > 0 {
                    self.send().await.map_err(|error| self.end(self.lines[0], error))?;
                }
                Err(self.end(number, error))
            }
        }
    }

    async fn send(&mut self) -> Result<(), Error> {
        if let Some(toll) = &self.toll {
            toll.pay_in_time(toll.prices().points(self.lines.len()), self.context.deadline).await?;
        }
        let inserted = self.upstream.insert(&self.context, &self.request).await?;
        self.stored += inserted.inserted;
        self.session = inserted.session;
        self.request.vectors.clear();
        self.lines.clear();
        self.bytes = 0;
        Ok(())
    }

    /// A line that cannot be read: what came before it is stored first.
    async fn fail(&mut self, number: u64, error: Error) -> Error {
        match self.store().await {
            Ok(()) => self.end(number, error),
            Err(earlier) => earlier,
        }
    }

    fn end(&self, line: u64, cause: Error) -> Error {
        Error::Line { line, stored: self.stored, cause: Box::new(cause) }
    }
}

fn weight(point: &Point) -> usize {
    point.values.len() * size_of::<f32>() + point.metadata.len() + point.id.len()
}

/// The point that searchd's first violation speaks of: the index in `/vectors/3/values`.
fn refused_point(error: &Error) -> Option<usize> {
    let Error::Upstream(status) = error else { return None };
    let details = tonic_types::StatusExt::get_details_bad_request(&**status)?;
    let indices = details
        .field_violations
        .iter()
        .filter_map(|violation| violation.field.strip_prefix("/vectors/")?.split('/').next()?.parse().ok());
    indices.min()
}

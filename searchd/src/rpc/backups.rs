//! What operators ask of a running searchd about backups.

use nearfield_proto::admin::v1::backups_server;
use nearfield_proto::admin::v1::{CreateBackupRequest, CreateBackupResponse};
use nearfield_telemetry::drain::Drain;
use tonic::{Request, Response, Status};

use super::status;
use crate::backup::schedule::Backups;

/// The service. Clones are the same.
#[derive(Clone)]
pub struct Server {
    /// None without an archive.
    pub backups: Option<Backups>,
    pub drain: Drain,
}

#[tonic::async_trait]
impl backups_server::Backups for Server {
    async fn create(&self, _: Request<CreateBackupRequest>) -> Result<Response<CreateBackupResponse>, Status> {
        let backups = self.backups.clone().ok_or_else(status::no_archive)?;
        let creating = tokio::spawn(async move { backups.create().await });
        let created = tokio::select! {
            () = self.drain.started() => return Err(status::draining()),
            created = creating => created.map_err(|_| Status::internal("the backup failed"))?,
        };
        let created = created.map_err(|error| status::backup(&error))?;
        let (bytes, sent_bytes) = (created.backup.bytes(), created.sent_bytes);
        Ok(Response::new(CreateBackupResponse { id: created.backup.id, bytes, sent_bytes }))
    }
}

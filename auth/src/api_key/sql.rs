//! The statements that both databases understand, and a row as a record.

use sqlx::{ColumnIndex, Decode, Row, Type};

use super::store::{Error, Lifetime, Listing, MAX_LISTED, Record};
use crate::Scopes;

pub(super) const FIND: &str = "SELECT * FROM api_keys WHERE id = $1";
pub(super) const INSERT: &str = "INSERT INTO api_keys
    (id, hash, subject, scopes, tenant, plan, created, expires, revoked, last_used, replaces)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
pub(super) const LIST: &str = "SELECT * FROM api_keys
    WHERE ($1 IS NULL OR tenant = $1) AND ($2 IS NULL OR created < $2 OR (created = $2 AND id > $3))
    ORDER BY created DESC, id LIMIT $4";
pub(super) const REVOKE: &str = "UPDATE api_keys SET revoked = $2 WHERE id = $1 AND revoked IS NULL";
/// The key that is replaced lives until then at most; only one that counts is. How long it was to live is kept, once.
pub(super) const RETIRE: &str =
    "UPDATE api_keys SET retired = CASE WHEN retired IS NOT NULL THEN retired WHEN expires IS NULL THEN -1 ELSE expires - created END,
    expires = CASE WHEN expires IS NULL OR expires > $2 THEN $2 ELSE expires END
    WHERE id = $1 AND revoked IS NULL AND (expires IS NULL OR expires > $3)";

/// In the column `retired`, of a key that was to live for ever.
const EVER: i64 = -1;

/// Binds a record to [`INSERT`].
macro_rules! bind_record {
    ($query:expr, $record:expr) => {
        $query
            .bind(&$record.id)
            .bind($record.hash.as_bytes().as_slice())
            .bind(&$record.subject)
            .bind($record.scopes.to_string())
            .bind(&$record.tenant)
            .bind(&$record.plan)
            .bind($record.created as i64)
            .bind($record.expires.map(|at| at as i64))
            .bind($record.revoked.map(|at| at as i64))
            .bind($record.last_used.map(|at| at as i64))
            .bind(&$record.replaces)
    };
}
pub(super) use bind_record;

/// What [`LIST`] is bound to: tenant, created, id, limit.
pub(super) fn list_of(listing: &Listing) -> (Option<&str>, Option<i64>, &str, i64) {
    let after = listing.after.as_ref();
    let limit = listing.limit.unwrap_or(MAX_LISTED).min(MAX_LISTED);
    let id = after.map_or("", |position| position.id.as_str());
    (listing.tenant.as_deref(), after.map(|position| position.created as i64), id, limit.into())
}

pub(super) fn record<R>(row: &R) -> Result<Record, Error>
where
    R: Row,
    for<'a> &'a str: ColumnIndex<R>,
    for<'a> Vec<u8>: Decode<'a, R::Database> + Type<R::Database>,
    for<'a> String: Decode<'a, R::Database> + Type<R::Database>,
    for<'a> i64: Decode<'a, R::Database> + Type<R::Database>,
    for<'a> Option<String>: Decode<'a, R::Database> + Type<R::Database>,
    for<'a> Option<i64>: Decode<'a, R::Database> + Type<R::Database>,
{
    let hash: Vec<u8> = row.try_get("hash")?;
    let damaged = || sqlx::Error::ColumnDecode { index: "hash".to_owned(), source: "a hash has 32 bytes".into() };
    let hash = <[u8; 32]>::try_from(hash).map_err(|_| damaged())?;
    let seconds = |at: i64| at.max(0) as u64;
    let moment = |column: &str| row.try_get::<Option<i64>, _>(column).map(|at| at.map(seconds));
    Ok(Record {
        id: row.try_get("id")?,
        hash: blake3::Hash::from_bytes(hash),
        subject: row.try_get("subject")?,
        scopes: Scopes::from_claim(&row.try_get::<String, _>("scopes")?),
        tenant: row.try_get("tenant")?,
        plan: row.try_get("plan")?,
        created: seconds(row.try_get("created")?),
        expires: moment("expires")?,
        revoked: moment("revoked")?,
        last_used: moment("last_used")?,
        replaces: row.try_get("replaces")?,
        retired: row.try_get::<Option<i64>, _>("retired")?.map(|lived| match lived {
            EVER => Lifetime::Ever,
            seconds => Lifetime::Seconds(seconds.max(0) as u64),
        }),
    })
}

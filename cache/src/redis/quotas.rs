//! Quotas that the gateways of a Redis have together: each leases a share for a moment, by what is asked of it.
//!
//! A settling gives back what is left of the last share, or says what is owed, and takes the next. It is one script for
//! each quota, atomic, by Redis's clock; many go in one pipeline. A gateway that falls silent loses its share with its
//! lease.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Script};
use tokio::time::timeout;

use super::BadUrl;

/// How long a share is valid that is not settled anew.
pub const LEASE: Duration = Duration::from_secs(1);
/// How long a settling may take, connecting included.
const TIMEOUT: Duration = Duration::from_millis(500);
const SETTLE: &str = include_str!("settle.lua");
const ATTEND: &str = include_str!("attend.lua");

/// What a gateway says of one quota.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub policy: &'static str,
    /// Who shares it.
    pub key: u128,
    /// Units a second.
    pub limit: u32,
    /// Of the share that it had; below zero: it let more pass.
    pub left: i64,
    /// Units asked of it since; none gives the share up.
    pub asked: u64,
    /// Most units that it gets of a quota that nobody has settled yet, what it let pass included: others may have let some
    /// pass, too.
    pub first: u32,
}

/// What it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub units: u32,
    /// Gateways that have one, this one included.
    pub sharers: u32,
}

/// All that a settling gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Gateways that share any quotas at this Redis.
    pub gateways: u32,
    /// In the order of the claims.
    pub shares: Vec<Share>,
}

/// Why there was no settling.
#[derive(Debug, thiserror::Error)]
pub enum Unsettled {
    #[error("Redis did not answer in time")]
    Late,
    #[error("Redis failed")]
    Redis(#[from] redis::RedisError),
}

/// One gateway's way to the quotas.
pub struct Quotas {
    client: Client,
    gateway: String,
    connection: Option<MultiplexedConnection>,
    settle: String,
    attend: String,
}

impl Quotas {
    /// Does not connect yet. `gateway` tells this one from the others.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn open(url: &str, gateway: String) -> Result<Self, BadUrl> {
        let client = Client::open(url).map_err(BadUrl)?;
        let [settle, attend] = [SETTLE, ATTEND].map(|code| Script::new(code).get_hash().to_owned());
        Ok(Self { client, gateway, connection: None, settle, attend })
    }

    /// Settles all of `claims` in one exchange.
    ///
    /// # Errors
    /// When Redis fails or is late. It may have settled some of them then.
    pub async fn settle(&mut self, claims: &[Claim]) -> Result<Settled, Unsettled> {
        let answered = timeout(TIMEOUT, self.exchange(claims)).await;
        let settled = answered.map_err(|_elapsed| Unsettled::Late).and_then(|answer| answer.map_err(Into::into));
        if settled.is_err() {
            self.connection = None;
        }
        settled
    }

    async fn exchange(&mut self, claims: &[Claim]) -> Result<Settled, redis::RedisError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let config = AsyncConnectionConfig::new().set_connection_timeout(Some(TIMEOUT));
                self.client.get_multiplexed_async_connection_with_config(&config).await?
            }
        };
        let mut pipeline = redis::pipe();
        // Cheap, and a Redis that has been started anew knows no scripts.
        for code in [SETTLE, ATTEND] {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(code).ignore();
        }
        let lease = LEASE.as_millis() as u64;
        pipeline.cmd("EVALSHA").arg(&self.attend).arg(1).arg("nearfield:1:gateways").arg(&self.gateway).arg(lease);
        for claim in claims {
            let name = format!("nearfield:1:quota:{}:{:032x}", claim.policy, claim.key);
            pipeline.cmd("EVALSHA").arg(&self.settle).arg(1).arg(name).arg(&self.gateway);
            pipeline.arg(claim.limit).arg(claim.left).arg(claim.asked).arg(lease).arg(claim.first);
        }
        let answers: Vec<(u32, u32)> = pipeline.query_async(&mut connection).await?;
        self.connection = Some(connection);
        let gateways = answers.first().map_or(1, |(gateways, _)| *gateways);
        let shares = answers.iter().skip(1).map(|(units, sharers)| Share { units: *units, sharers: *sharers });
        Ok(Settled { gateways, shares: shares.collect() })
    }
}

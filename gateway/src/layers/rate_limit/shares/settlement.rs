//! Settles the shares with Redis, over and over, behind the requests' backs.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nearfield_cache::redis::BadUrl;
use nearfield_cache::redis::quotas::{Quotas, Unsettled};
use tokio::time::MissedTickBehavior;

use super::Shares;
use crate::layers::rate_limit::metrics::Metrics;

/// Between two settlings.
const INTERVAL: Duration = Duration::from_millis(100);
/// Quotas settled at once; the others' turn comes with the next.
const MAX_CLAIMS: usize = 5_000;

/// Begins to settle and returns. It ends when the shares are dropped.
///
/// # Errors
/// A URL that is none. A Redis that does not answer is no error.
pub(in crate::layers::rate_limit) fn start(url: &str, instance: &str, metrics: Metrics) -> Result<Arc<Shares>, BadUrl> {
    // Two processes of one name, as while one is replaced, are still two.
    let quotas = Quotas::open(url, format!("{instance}-{:08x}", rand::random::<u32>()))?;
    let shares = Arc::new(Shares::default());
    tokio::spawn(run(quotas, Arc::downgrade(&shares), metrics));
    Ok(shares)
}

async fn run(mut quotas: Quotas, shares: Weak<Shares>, metrics: Metrics) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut well = None;
    loop {
        ticks.tick().await;
        let Some(shares) = shares.upgrade() else { return };
        let claims = shares.claims(MAX_CLAIMS, Instant::now());
        match quotas.settle(&claims).await {
            Ok(settled) => {
                metrics.settled(Some(shares.settle(&claims, &settled, Instant::now())));
                if well.replace(true) == Some(false) {
                    tracing::info!("quotas are shared again");
                }
            }
            Err(error) => {
                shares.lose_sight();
                metrics.settled(None);
                if well.replace(false) != Some(false) {
                    lost(&error);
                }
            }
        }
    }
}

fn lost(error: &Unsettled) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(error, "quotas cannot be shared, each gateway goes on with its own");
}

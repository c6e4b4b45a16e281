//! What the gateways of a region are asked for the most, in one sorted set: any of them knows what is hot at others, or
//! was before it began.
//!
//! A question's score is the logarithm of how often it was asked for, and of what that would be worth in the end of time:
//! counts that fade all fade alike, so scores of any time and gateway compare without being written anew.

use super::Redis;
use crate::hot::HALF_LIFE;

/// Questions that a region knows.
pub const MAX_TRENDS: usize = 256;
/// Of one gateway at a time.
pub const MAX_TOLD: usize = 32;
/// Longer ones are not told.
pub const MAX_TREND_BYTES: usize = 8 << 10;
const SET: &str = "nearfield:trends:1";
/// Half an hour without any gateway, and nobody is interested.
const TTL_SECONDS: u64 = 1800;

impl Redis {
    /// Tells which questions are asked for the most here, each with its requests of late; `now` in Unix microseconds.
    pub async fn tell_trends(&self, trends: &[(Vec<u8>, f64)], now: u64) {
        let mut command = redis::cmd("ZADD");
        // Another gateway may be asked for it more.
        command.arg(SET).arg("GT");
        let told = trends.iter().filter(|(question, requests)| question.len() <= MAX_TREND_BYTES && *requests > 0.0);
        let told: Vec<_> = told.take(MAX_TOLD).collect();
        for (question, requests) in &told {
            command.arg(requests.log2() + half_lives(now)).arg(question);
        }
        if told.is_empty() || self.shared.ask::<i64>(command).await.is_none() {
            return;
        }
        let mut shorten = redis::cmd("ZREMRANGEBYRANK");
        shorten.arg(SET).arg(0).arg(-1 - MAX_TRENDS as i64);
        let mut expire = redis::cmd("EXPIRE");
        expire.arg(SET).arg(TTL_SECONDS);
        for command in [shorten, expire] {
            let _: Option<Option<i64>> = self.shared.ask(command).await;
        }
    }

    /// The questions that any gateway of the region was asked the most of late, and how often at least; none when Redis
    /// does not say.
    pub async fn trends(&self, now: u64) -> Vec<(Vec<u8>, f64)> {
        let mut command = redis::cmd("ZREVRANGE");
        command.arg(SET).arg(0).arg(MAX_TRENDS - 1).arg("WITHSCORES");
        let trends: Vec<(Vec<u8>, f64)> = self.shared.ask(command).await.flatten().unwrap_or_default();
        trends.into_iter().map(|(question, score)| (question, (score - half_lives(now)).exp2())).collect()
    }
}

fn half_lives(micros: u64) -> f64 {
    micros as f64 / HALF_LIFE.as_micros() as f64
}

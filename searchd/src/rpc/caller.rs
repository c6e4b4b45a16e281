//! What a request's metadata says: whose it is and until when it matters.

use std::time::{Duration, Instant};

use nearfield_proto::TENANT_METADATA;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::{residency, status};

/// Longest tenant name.
const MAX_TENANT_BYTES: usize = 256;
/// The part of a caller's patience that is kept for telling it that its deadline has passed: one in so many, within bounds.
const ANSWERING_PART: u32 = 10;
const ANSWERING_LEAST: Duration = Duration::from_millis(2);
const ANSWERING_MOST: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Empty for none.
    pub tenant: String,
    pub deadline: Option<Instant>,
    /// For which areas the gateway takes this to hold data.
    pub areas: Option<Box<str>>,
}

impl Caller {
    pub(super) fn of(metadata: &MetadataMap) -> Result<Self, Status> {
        let tenant = match metadata.get(TENANT_METADATA) {
            None => "",
            Some(value) => value.to_str().map_err(|_| Status::invalid_argument("the tenant is not ASCII text"))?,
        };
        if tenant.len() > MAX_TENANT_BYTES {
            return Err(Status::invalid_argument("the tenant's name is too long"));
        }
        let timeout = metadata.get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
        let deadline =
            timeout.and_then(|timeout| Instant::now().checked_add(timeout.saturating_sub(answering(timeout))));
        Ok(Self { tenant: tenant.to_owned(), deadline, areas: residency::told(metadata)? })
    }

    /// `work`, as long as it matters.
    pub(super) async fn limit<T>(&self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        match self.deadline {
            None => work.await,
            Some(deadline) => {
                tokio::time::timeout_at(deadline.into(), work).await.unwrap_or_else(|_| Err(status::deadline()))
            }
        }
    }
}

/// The value of `grpc-timeout`: up to eight digits and a unit.
fn timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// Kept back from the caller's patience, so that it hears of the deadline from us rather than of a cancelled call from
/// the server around us, which runs the same timer.
fn answering(timeout: Duration) -> Duration {
    (timeout / ANSWERING_PART).clamp(ANSWERING_LEAST, ANSWERING_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "m", "250", "-1m", "999999999m", "1x", "1é"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }
}

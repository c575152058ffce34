//! The operator's only clock: wall time derived from tokio's, so that it stands
//! still, jumps and replays with tokio's paused time.
//!
//! Nothing else in this crate may read the system's time: who needs the time
//! gets a [`Clock`], and who decides gets a timestamp as an argument.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use tokio::time::Instant;

/// A wall clock that advances with tokio's. Cheap to copy; copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    epoch: Duration,
}

impl Clock {
    /// A clock that shows `epoch` (time since 1970-01-01T00:00:00Z) now.
    pub fn starting_at(epoch: Duration) -> Self {
        Self { origin: Instant::now(), epoch }
    }

    /// A clock that shows the system's time now. Later corrections of the
    /// system's time are not seen: intervals stay true, as tokio's are.
    pub fn system() -> Self {
        Self::starting_at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// Time since 1970-01-01T00:00:00Z.
    pub fn since_epoch(&self) -> Duration {
        self.epoch + self.origin.elapsed()
    }

    /// The present time.
    pub fn now(&self) -> jiff::Timestamp {
        let now = self.since_epoch();
        jiff::Timestamp::new(
            i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            i32::try_from(now.subsec_nanos()).unwrap_or(0),
        )
        .unwrap_or(jiff::Timestamp::MAX)
    }
}

/// A timestamp as the contract with policies has it: whole seconds since 1970.
pub fn seconds(at: jiff::Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or_default()
}

/// A timestamp as `meta/v1 Time`: whole seconds, because the API server keeps
/// no more, and a status that is compared before it is written has to come
/// back as it went.
pub fn k8s_time(at: jiff::Timestamp) -> Time {
    Time(jiff::Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// A timestamp as `meta/v1 MicroTime` (leases, events): whole microseconds.
pub fn k8s_micro_time(at: jiff::Timestamp) -> MicroTime {
    MicroTime(jiff::Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn advances_with_tokio_alone() {
        let clock = Clock::starting_at(Duration::from_secs(1_000));
        assert_eq!(clock.now().as_second(), 1_000);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(clock.since_epoch(), Duration::from_secs(4_600));
    }

    #[test]
    fn kubernetes_times_survive_the_round_trip() {
        let at: jiff::Timestamp = "2026-03-04T05:06:07.123456789Z".parse().unwrap();
        let time = k8s_time(at);
        assert_eq!(serde_json::to_value(&time).unwrap(), "2026-03-04T05:06:07Z");
        assert_eq!(serde_json::from_value::<Time>(serde_json::to_value(&time).unwrap()).unwrap(), time);
        let micro = k8s_micro_time(at);
        assert_eq!(serde_json::from_value::<MicroTime>(serde_json::to_value(&micro).unwrap()).unwrap(), micro);
    }
}

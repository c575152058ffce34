//! The simulators' only clock: wall time derived from tokio's, so that it
//! stands still, jumps and replays with tokio's paused time.
//!
//! Must not read the system's clock anywhere else than in [`Clock::system`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A wall clock that advances with tokio's.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    epoch: Duration,
}

impl Clock {
    /// A clock that shows `epoch` (time since 1970) now.
    pub fn starting_at(epoch: Duration) -> Self {
        Self { origin: Instant::now(), epoch }
    }

    /// A clock that shows the system's time now.
    pub fn system() -> Self {
        Self::starting_at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// Time since 1970.
    pub fn since_epoch(&self) -> Duration {
        self.epoch + self.origin.elapsed()
    }

    /// The present time as a timestamp.
    pub fn now(&self) -> jiff::Timestamp {
        let t = self.since_epoch();
        jiff::Timestamp::new(
            i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            i32::try_from(t.subsec_nanos()).unwrap_or(0),
        )
        .unwrap_or(jiff::Timestamp::MAX)
    }
}

//! How many calls a second vCenter gets: whoever comes too soon waits for his turn.
//!
//! A second's worth may go out at once, then they go evenly. Knows no call.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What may go out at once is as much as may in this time.
const BURST: Duration = Duration::from_secs(1);

/// The pace of one client's calls.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// From one call to the next; none: at once.
    interval: Option<Duration>,
    /// When all that have been let through would have gone out, one by one.
    busy_until: Option<Instant>,
}

impl Pace {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many calls a second from now on; none: as many as come.
    pub(crate) fn set(&self, per_second: Option<u32>) {
        self.state().interval = per_second.map(|calls| Duration::from_secs(1) / calls.max(1));
    }

    /// Waits for a turn. The wait that it would be, if it is longer than `most`: then
    /// there is no turn.
    pub(crate) async fn turn(&self, most: Duration) -> Result<(), Duration> {
        let wait = self.take(Instant::now(), most)?;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    fn take(&self, now: Instant, most: Duration) -> Result<Duration, Duration> {
        let mut state = self.state();
        let Some(interval) = state.interval else { return Ok(Duration::ZERO) };
        let until = state.busy_until.filter(|until| *until > now).unwrap_or(now) + interval;
        let wait = until.saturating_duration_since(now + BURST.max(interval));
        if wait > most {
            return Err(wait);
        }
        state.busy_until = Some(until);
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_seconds_worth_goes_at_once_and_the_rest_evenly() {
        let pace = Pace::default();
        let began = Instant::now();
        for _ in 0..1_000 {
            pace.turn(MOST).await.unwrap();
        }
        assert_eq!(began.elapsed(), Duration::ZERO, "without a limit nobody waits");
        pace.set(Some(10));
        for _ in 0..10 {
            pace.turn(MOST).await.unwrap();
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            pace.turn(MOST).await.unwrap();
        }
        assert!(began.elapsed() >= Duration::from_secs(2) && began.elapsed() < Duration::from_millis(2_100));
        tokio::time::advance(Duration::from_secs(5)).await;
        let rested = Instant::now();
        pace.turn(MOST).await.unwrap();
        assert_eq!(rested.elapsed(), Duration::ZERO, "who has not called for a while is in credit");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_too_long_is_none() {
        let pace = Pace::default();
        pace.set(Some(1));
        let now = Instant::now();
        let took: Vec<bool> = (0..4).map(|_| pace.take(now, Duration::from_secs(2)).is_ok()).collect();
        assert_eq!(took, [true, true, true, false]);
    }
}

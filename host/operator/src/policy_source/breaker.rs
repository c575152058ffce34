//! The circuit breaker: counts how often what is in force failed in a window of
//! time. Pure; must not know what a policy is, or what becomes of the count.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use vmgroup_api::policy_file::Breaker as Settings;

/// Failures of one edition of the policies.
#[derive(Debug, Default)]
pub struct Breaker {
    settings: Settings,
    failures: VecDeque<Instant>,
}

impl Breaker {
    /// None yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, failures: VecDeque::new() }
    }

    /// Counts a failure. True if there are too many now; never, if the breaker
    /// is off.
    pub fn failed(&mut self, now: Instant) -> bool {
        self.forget_before(now);
        let enough = self.settings.failures as usize;
        // No more than count: a storm of failures must not fill the memory.
        if self.failures.len() >= enough {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        enough > 0 && self.failures.len() >= enough
    }

    /// Whether anything failed within the window.
    pub fn doubtful(&mut self, now: Instant) -> bool {
        self.forget_before(now);
        !self.failures.is_empty()
    }

    fn forget_before(&mut self, now: Instant) {
        let window = Duration::from_secs(self.settings.seconds.into());
        while self.failures.front().is_some_and(|at| now.duration_since(*at) > window) {
            self.failures.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_failures_within_the_window_count() {
        let mut breaker = Breaker::new(Settings { failures: 3, seconds: 60 });
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!breaker.failed(at(0)));
        assert!(!breaker.failed(at(50)));
        assert!(!breaker.failed(at(61)), "the first is too long ago");
        assert!(breaker.failed(at(62)));
        assert!(breaker.doubtful(at(120)) && !breaker.doubtful(at(200)));
    }

    #[tokio::test(start_paused = true)]
    async fn zero_turns_it_off() {
        let mut breaker = Breaker::new(Settings { failures: 0, seconds: 60 });
        assert!((0..1_000).all(|_| !breaker.failed(Instant::now())));
        assert!(breaker.failures.len() <= 1);
    }
}

//! Names and times the steps of a pass: each is a span for traces, and each
//! that was taken is one observation of the pass for the metrics, however often
//! the pass comes back to it and however it ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use crate::metrics::{Metrics, Step};

/// The time that a pass has spent in each step. Cheap to clone; clones count
/// together, and the last one to go tells the metrics.
#[derive(Clone)]
pub(super) struct Laps(Arc<Inner>);

struct Inner {
    metrics: Metrics,
    spent: Mutex<[Option<Duration>; Step::ALL.len()]>,
}

impl Laps {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Inner { metrics, spent: Mutex::default() }))
    }

    /// Does something that belongs to a step.
    pub(super) async fn time<T>(&self, step: Step, work: impl Future<Output = T>) -> T {
        let _lap = self.begin(step);
        work.instrument(span(step)).await
    }

    /// The same with something that waits for nobody.
    pub(super) fn time_now<T>(&self, step: Step, work: impl FnOnce() -> T) -> T {
        let _lap = self.begin(step);
        span(step).in_scope(work)
    }

    fn begin(&self, step: Step) -> Lap<'_> {
        Lap { inner: &self.0, step, since: Instant::now() }
    }
}

/// A part of a step. Counts however it ends: by `?`, or because the pass is cut off.
struct Lap<'a> {
    inner: &'a Inner,
    step: Step,
    since: Instant,
}

impl Drop for Lap<'_> {
    fn drop(&mut self) {
        let mut spent = self.inner.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spent) = spent.get_mut(self.step as usize) {
            *spent = Some(spent.unwrap_or_default() + self.since.elapsed());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let spent = self.spent.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (step, spent) in Step::ALL.into_iter().zip(*spent) {
            if let Some(spent) = spent {
                self.metrics.step(step, spent);
            }
        }
    }
}

/// A span's name is fixed where it is made.
fn span(step: Step) -> Span {
    match step {
        Step::Look => tracing::debug_span!("look"),
        Step::Ask => tracing::debug_span!("ask"),
        Step::Plan => tracing::debug_span!("plan"),
        Step::Apply => tracing::debug_span!("apply"),
        Step::Tell => tracing::debug_span!("tell"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[tokio::test(start_paused = true)]
    async fn a_step_in_two_parts_is_one_observation() {
        let metrics = Metrics::new(Clock::starting_at(Duration::ZERO));
        let laps = Laps::new(metrics.clone());
        for seconds in [2, 3] {
            laps.time(Step::Tell, tokio::time::sleep(Duration::from_secs(seconds))).await;
        }
        let cut_off = laps.time(Step::Apply, tokio::time::sleep(Duration::from_secs(60)));
        tokio::time::timeout(Duration::from_secs(1), cut_off).await.unwrap_err();
        drop(laps);
        let text = metrics.encode();
        for line in [
            r#"vmgroup_pass_step_seconds_count{step="tell"} 1"#,
            r#"vmgroup_pass_step_seconds_sum{step="tell"} 5.0"#,
            r#"vmgroup_pass_step_seconds_sum{step="apply"} 1.0"#,
            r#"vmgroup_pass_step_seconds_count{step="look"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
    }
}

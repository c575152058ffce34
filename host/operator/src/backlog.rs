//! Which groups wait for a pass, and since when: for the metrics alone.
//!
//! kube's scheduler keeps that to itself, so it is told here whenever a group is
//! to be looked at, and when its pass begins. Must not decide anything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::wake::GroupRef;

/// The groups that wait. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Backlog {
    metrics: Metrics,
    waiting: Arc<Mutex<HashMap<GroupRef, Waiting>>>,
}

struct Waiting {
    since: Instant,
    /// As added. Who is to come later is counted when its time has come.
    counted: bool,
}

impl Backlog {
    /// Nobody waits.
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, waiting: Arc::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<GroupRef, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A group is to be looked at now. If it waits already, nothing changes.
    pub fn add(&self, group: GroupRef) {
        let now = Instant::now();
        let mut all = self.waiting();
        let waiting = all.entry(group).or_insert(Waiting { since: now, counted: false });
        waiting.since = waiting.since.min(now);
        if !std::mem::replace(&mut waiting.counted, true) {
            self.metrics.queued();
        }
    }

    /// A group is to be looked at after a while, if nothing comes before that.
    pub fn add_after(&self, group: GroupRef, pause: Duration) {
        self.waiting().entry(group).or_insert_with(|| Waiting { since: Instant::now() + pause, counted: false });
    }

    /// The group's pass begins.
    pub fn begin(&self, group: &GroupRef) {
        let waited = self.waiting().remove(group);
        if !waited.as_ref().is_some_and(|waiting| waiting.counted) {
            self.metrics.queued();
        }
        if let Some(Waiting { since, .. }) = waited {
            self.metrics.dequeued(Instant::now().saturating_duration_since(since));
        }
    }

    /// The group is no more: there will be no pass.
    pub fn forget(&self, group: &GroupRef) {
        self.waiting().remove(group);
    }

    /// How many wait now.
    pub fn depth(&self) -> usize {
        let now = Instant::now();
        self.waiting().values().filter(|waiting| waiting.since <= now).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[tokio::test(start_paused = true)]
    async fn who_waits_counts_from_when_it_is_due() {
        let metrics = Metrics::new(Clock::starting_at(Duration::ZERO));
        let backlog = Backlog::new(metrics.clone());
        let (a, b) = (GroupRef::parse("n/a").unwrap(), GroupRef::parse("n/b").unwrap());
        backlog.add(a.clone());
        backlog.add_after(b.clone(), Duration::from_secs(60));
        assert_eq!(backlog.depth(), 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        // Woken again, it goes on waiting since the first time.
        backlog.add(a.clone());
        backlog.begin(&a);
        let text = metrics.encode();
        assert!(
            text.contains(r#"workqueue_queue_duration_seconds_sum{name="vmgroup",controller="vmgroup"} 2.0"#),
            "{text}"
        );
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(backlog.depth(), 1, "the other's time has come");
        backlog.forget(&b);
        assert_eq!(backlog.depth(), 0);
    }
}

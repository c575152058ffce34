//! Leader election over a `coordination.k8s.io/v1` Lease, by compare and swap,
//! and the [`Fence`] that every write to vCenter has to pass.
//!
//! A lease alone is no fence: a leader that was paused does not know that time
//! went by. So the fence counts from the moment *before* the last successful
//! renewal was sent, on our own monotonic clock, and is down well before
//! anybody else may take the lease. Expiry of somebody else's lease is judged by
//! when we saw it change last, never by the times written in it: clocks differ.
//! Must not know what the leader does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, k8s_micro_time};

/// How the election is held.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespace of the Lease: the operator's own.
    pub namespace: String,
    /// The name of the Lease.
    pub name: String,
    /// Who we are. Unique per process, not per pod: a restarted container must
    /// not take its predecessor's lease for its own.
    pub identity: String,
    /// For how long the others leave a lease alone that they do not see change.
    pub lease_duration: Duration,
    /// For how long after the start of a successful renewal we believe in it.
    pub renew_deadline: Duration,
    /// The time from one attempt to the next.
    pub retry_period: Duration,
    /// How long one call may take.
    pub call_timeout: Duration,
}

impl Options {
    /// The customary 15 s, 10 s and 2 s.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            // Half of the deadline: one lost call does not cost the lease.
            call_timeout: Duration::from_secs(5),
        }
    }
}

/// Whether we may write. Cheap to clone; all clones are the same fence.
#[derive(Clone)]
pub struct Fence(Arc<FenceInner>);

struct FenceInner {
    always: bool,
    valid_until: Mutex<Option<Instant>>,
    leading: watch::Sender<bool>,
    gained: AtomicU64,
    lost: AtomicU64,
}

impl Fence {
    /// A fence that is down until [`run`] holds the lease.
    pub fn new() -> Self {
        Self::with(false)
    }

    /// A fence that always holds: for an operator that runs without election.
    pub fn always() -> Self {
        Self::with(true)
    }

    fn with(always: bool) -> Self {
        Self(Arc::new(FenceInner {
            always,
            valid_until: Mutex::new(None),
            leading: watch::Sender::new(always),
            gained: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }))
    }

    /// Whether a write may be made right now. To be asked immediately before
    /// each: the answer is computed from the time, not from the last event.
    pub fn holds(&self) -> bool {
        self.0.always || self.valid_until().is_some_and(|until| Instant::now() < until)
    }

    /// Whether we lead, as a value that can be waited for. It follows a lost
    /// lease within moments; before a write only [`Self::holds`] counts.
    pub fn changed(&self) -> watch::Receiver<bool> {
        self.0.leading.subscribe()
    }

    fn extend(&self, until: Instant) {
        if self.0.always {
            return;
        }
        *self.valid_until() = Some(until);
        if self.0.leading.send_if_modified(|leading| !std::mem::replace(leading, true)) {
            self.0.gained.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes the fence down.
    fn drop_down(&self) {
        if self.0.always {
            return;
        }
        *self.valid_until() = None;
        if self.0.leading.send_if_modified(|leading| std::mem::replace(leading, false)) {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often we came to lead, and how often we ceased to.
    pub fn terms(&self) -> (u64, u64) {
        (self.0.gained.load(Ordering::Relaxed), self.0.lost.load(Ordering::Relaxed))
    }

    fn valid_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.valid_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Fence {
    fn default() -> Self {
        Self::new()
    }
}

/// The lease as we saw it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseState {
    /// `spec.holderIdentity`; none when it was released.
    pub holder: Option<String>,
    /// `spec.leaseDurationSeconds`, as its holder promised.
    pub duration: Duration,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// When we first saw this version, by our own monotonic clock.
    pub seen_at: Instant,
}

/// What is to be done about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody holds it, or its holder has not been heard of for its duration.
    Acquire,
    /// It is ours: renew it.
    Renew,
    /// Somebody else's; not before `until`.
    Wait {
        /// When it expires if it is not renewed.
        until: Instant,
    },
    /// We led, and do so no longer.
    Lost,
}

/// Judges the lease. `observed` is none where there is no Lease yet;
/// `led_until` is the end of the fence if we believe to lead.
pub fn evaluate(observed: Option<&LeaseState>, me: &str, led_until: Option<Instant>, now: Instant) -> Verdict {
    let ours = observed.is_some_and(|lease| lease.holder.as_deref() == Some(me));
    match (observed, led_until) {
        (_, Some(until)) if until <= now => Verdict::Lost,
        // Without our knowing, if we do not lead: the reply to our acquisition
        // was lost.
        (Some(_), _) if ours => Verdict::Renew,
        (_, Some(_)) => Verdict::Lost,
        (Some(lease), None) if lease.holder.is_some() => {
            let until = lease.seen_at + lease.duration;
            if until <= now { Verdict::Acquire } else { Verdict::Wait { until } }
        }
        (_, None) => Verdict::Acquire,
    }
}

/// Takes part in the election until `shutdown`, then releases the lease. Never
/// gives up: who loses the lease becomes a standby again.
///
/// Cancel `shutdown` only when the last write to vCenter has been made: from
/// then on another operator may lead.
pub async fn run(client: kube::Client, options: Options, clock: Clock, fence: Fence, shutdown: CancellationToken) {
    let api = Api::namespaced(client, &options.namespace);
    let mut candidate = Candidate { api, options, clock, fence, lease: None, seen: None, led_until: None };
    while !shutdown.is_cancelled() {
        let pause = candidate.turn().await;
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    candidate.release().await;
}

/// Why a call about the lease gave nothing.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("somebody else has changed the lease")]
    Conflict,
    #[error("the API server did not answer in time")]
    Timeout,
    #[error("the API server refused or could not be reached")]
    Api(#[source] kube::Error),
}

struct Candidate {
    api: Api<Lease>,
    options: Options,
    clock: Clock,
    fence: Fence,
    /// The Lease object that the next write is based on.
    lease: Option<Lease>,
    /// The same, as [`evaluate`] wants it.
    seen: Option<LeaseState>,
    /// The end of our fence; none while we are a standby.
    led_until: Option<Instant>,
}

impl Candidate {
    /// One attempt; says how long to wait for the next.
    async fn turn(&mut self) -> Duration {
        match self.attempt().await {
            // Look again at once: there is something new to see.
            Err(LeaseError::Conflict) => {
                if let Err(error) = self.attempt().await {
                    self.complain(&error);
                }
            }
            Err(error) => self.complain(&error),
            Ok(()) => {}
        }
        self.give_up_if_late();
        let until_late = self.led_until.map_or(self.options.retry_period, |until| until.duration_since(Instant::now()));
        self.options.retry_period.min(until_late)
    }

    async fn attempt(&mut self) -> Result<(), LeaseError> {
        // A leader bases its renewal on what it wrote last; if that is not the
        // newest, the swap fails, and it looks again.
        if self.led_until.is_none() || self.lease.is_none() {
            self.look().await?;
        }
        match evaluate(self.seen.as_ref(), &self.options.identity, self.led_until, Instant::now()) {
            Verdict::Acquire | Verdict::Renew => self.write().await,
            Verdict::Wait { .. } => Ok(()),
            Verdict::Lost => {
                self.step_down("the lease is no longer ours");
                Ok(())
            }
        }
    }

    async fn look(&mut self) -> Result<(), LeaseError> {
        let found = self.bounded(self.api.get_opt(&self.options.name)).await?;
        self.remember(found);
        Ok(())
    }

    /// Acquires or renews, on the basis of what was seen.
    async fn write(&mut self) -> Result<(), LeaseError> {
        let asked_at = Instant::now();
        let wanted = self.wanted();
        let parameters = PostParams { field_manager: Some("vmgroup-lease".to_owned()), ..PostParams::default() };
        let written = if self.lease.is_some() {
            self.bounded(self.api.replace(&self.options.name, &parameters, &wanted)).await
        } else {
            self.bounded(self.api.create(&parameters, &wanted)).await
        };
        if written.is_err() {
            // Whether it took effect is unknown: the next attempt looks first.
            self.lease = None;
        }
        self.remember(Some(written?));
        if self.led_until.is_none() {
            tracing::info!(lease = self.options.name, identity = self.options.identity, "leading");
        }
        let until = asked_at + self.options.renew_deadline;
        self.led_until = Some(until);
        self.fence.extend(until);
        Ok(())
    }

    /// The Lease as we want it to be: ours, renewed now.
    fn wanted(&self) -> Lease {
        let now = Some(k8s_micro_time(self.clock.now()));
        let old = self.lease.as_ref();
        let spec = old.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let renewal = spec.holder_identity.as_deref() == Some(&self.options.identity);
        Lease {
            metadata: old.map_or_else(
                || ObjectMeta {
                    name: Some(self.options.name.clone()),
                    namespace: Some(self.options.namespace.clone()),
                    ..ObjectMeta::default()
                },
                |lease| lease.metadata.clone(),
            ),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.options.identity.clone()),
                lease_duration_seconds: i32::try_from(self.options.lease_duration.as_secs()).ok(),
                acquire_time: if renewal { spec.acquire_time } else { now.clone() },
                renew_time: now,
                lease_transitions: Some(
                    spec.lease_transitions.unwrap_or(0).saturating_add(i32::from(old.is_some() && !renewal)),
                ),
                ..spec
            }),
        }
    }

    /// Hands the lease over, if it is ours.
    async fn release(&mut self) {
        self.fence.drop_down();
        let (Some(_), Some(mut lease)) = (self.led_until.take(), self.lease.take()) else { return };
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        // As client-go does it: whoever judges by duration alone need not wait.
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(k8s_micro_time(self.clock.now()));
        if let Err(error) = self.bounded(self.api.replace(&self.options.name, &PostParams::default(), &lease)).await {
            self.complain(&error);
        } else {
            tracing::info!(lease = self.options.name, identity = self.options.identity, "lease released");
        }
    }

    fn remember(&mut self, found: Option<Lease>) {
        self.seen = found
            .as_ref()
            .map(|lease| LeaseState::of(lease, self.seen.as_ref(), self.options.lease_duration, Instant::now()));
        self.lease = found;
    }

    fn give_up_if_late(&mut self) {
        if self.led_until.is_some_and(|until| until <= Instant::now()) {
            self.step_down("it could not be renewed in time");
        }
    }

    fn step_down(&mut self, why: &str) {
        self.fence.drop_down();
        if self.led_until.take().is_some() {
            tracing::warn!(lease = self.options.name, identity = self.options.identity, why, "no longer leading");
        }
    }

    fn complain(&self, error: &LeaseError) {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(lease = self.options.name, %error, cause, "lease: will try again");
    }

    /// One call, bounded by its timeout and by the end of our fence: past that
    /// there is something more urgent to do than to wait.
    async fn bounded<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T, LeaseError> {
        let now = Instant::now();
        let mut deadline = now + self.options.call_timeout;
        if let Some(until) = self.led_until.filter(|until| *until > now) {
            deadline = deadline.min(until);
        }
        match tokio::time::timeout_at(deadline, call).await {
            Err(_) => Err(LeaseError::Timeout),
            Ok(Ok(answer)) => Ok(answer),
            // Changed, made or deleted under our hands: 409 and 404.
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => {
                Err(LeaseError::Conflict)
            }
            Ok(Err(error)) => Err(LeaseError::Api(error)),
        }
    }
}

impl LeaseState {
    fn of(lease: &Lease, before: Option<&Self>, default_duration: Duration, now: Instant) -> Self {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let spec = lease.spec.clone().unwrap_or_default();
        let seen_at = before.filter(|before| before.version == version).map_or(now, |before| before.seen_at);
        Self {
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            duration: spec
                .lease_duration_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(default_duration, Duration::from_secs),
            version,
            seen_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "me";

    fn held_by(holder: Option<&str>, seen_at: Instant) -> LeaseState {
        LeaseState {
            holder: holder.map(str::to_owned),
            duration: Duration::from_secs(15),
            version: "7".to_owned(),
            seen_at,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn verdicts() {
        let now = Instant::now();
        let ago = |seconds| now - Duration::from_secs(seconds);
        let valid = Some(now + Duration::from_secs(3));
        let cases: [(&str, Option<LeaseState>, Option<Instant>, Verdict); 11] = [
            ("no lease yet", None, None, Verdict::Acquire),
            ("released", Some(held_by(None, ago(0))), None, Verdict::Acquire),
            (
                "another's, fresh",
                Some(held_by(Some("other"), ago(0))),
                None,
                Verdict::Wait { until: now + Duration::from_secs(15) },
            ),
            (
                "another's, ageing",
                Some(held_by(Some("other"), ago(14))),
                None,
                Verdict::Wait { until: now + Duration::from_secs(1) },
            ),
            ("another's, expired", Some(held_by(Some("other"), ago(15))), None, Verdict::Acquire),
            ("ours, valid", Some(held_by(Some(ME), ago(2))), valid, Verdict::Renew),
            ("ours, reply to acquisition lost", Some(held_by(Some(ME), ago(0))), None, Verdict::Renew),
            ("ours, too late", Some(held_by(Some(ME), ago(10))), Some(now), Verdict::Lost),
            ("taken from us", Some(held_by(Some("other"), ago(0))), valid, Verdict::Lost),
            ("deleted under us", None, valid, Verdict::Lost),
            ("emptied under us", Some(held_by(None, ago(0))), valid, Verdict::Lost),
        ];
        for (what, observed, led_until, wanted) in cases {
            assert_eq!(evaluate(observed.as_ref(), ME, led_until, now), wanted, "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn age_counts_from_when_we_saw_it_change() {
        let lease = |version: &str| Lease {
            metadata: ObjectMeta { resource_version: Some(version.to_owned()), ..ObjectMeta::default() },
            // The holder's clock is years off; nobody cares.
            spec: Some(LeaseSpec {
                holder_identity: Some("other".to_owned()),
                lease_duration_seconds: Some(20),
                renew_time: Some(k8s_micro_time(jiff::Timestamp::UNIX_EPOCH)),
                ..LeaseSpec::default()
            }),
        };
        let start = Instant::now();
        let default = Duration::from_secs(15);
        let first = LeaseState::of(&lease("1"), None, default, start);
        let again = LeaseState::of(&lease("1"), Some(&first), default, start + Duration::from_secs(9));
        assert_eq!(again.seen_at, start);
        assert_eq!(again.duration, Duration::from_secs(20));
        let renewed = LeaseState::of(&lease("2"), Some(&again), default, start + Duration::from_secs(9));
        assert_eq!(renewed.seen_at, start + Duration::from_secs(9));
    }

    #[tokio::test(start_paused = true)]
    async fn s7_the_fence_falls_by_itself() {
        let fence = Fence::new();
        assert!(!fence.holds());
        fence.extend(Instant::now() + Duration::from_secs(10));
        assert!(fence.holds() && *fence.changed().borrow());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!fence.holds(), "nobody had to take it down");
    }

    #[tokio::test(start_paused = true)]
    async fn without_election_the_fence_always_holds() {
        let fence = Fence::always();
        fence.drop_down();
        tokio::time::advance(Duration::from_hours(1)).await;
        assert!(fence.holds() && *fence.changed().borrow());
    }
}

//! Kubernetes events (events.k8s.io/v1) about any object.
//!
//! Written directly rather than through kube's `Recorder`, which aggregates by
//! reason and then sends the first note again and again. An event is a
//! courtesy: a failure to write one is logged and never reaches the caller.
//! Must not know what the events are about.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use tokio::time::Instant;

use crate::clock::{Clock, k8s_micro_time};
use crate::lease::Fence;

/// `reportingController` of every event that the operator writes.
pub const CONTROLLER: &str = "vm.codeconnect.vmworld.com/vmgroup";

/// The longest note, in bytes. The API server refuses more than 1 kB.
pub const NOTE_LIMIT: usize = 1_000;

/// The same event is not sent again within this time.
const QUIET: Duration = Duration::from_mins(10);

/// How many sent events are remembered. 1,000 groups with four distinct events
/// each in ten minutes; beyond that the oldest are forgotten and may repeat.
const REMEMBERED: usize = 4_096;

/// An event is not worth waiting for longer.
const DEADLINE: Duration = Duration::from_secs(5);

/// `type` of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Things go as they should.
    Normal,
    /// Somebody should look.
    Warning,
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        })
    }
}

/// Writes events. Cheap to clone; clones share their memory of what was sent.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

struct Inner {
    client: kube::Client,
    clock: Clock,
    fence: Fence,
    instance: String,
    base: u64,
    sent: AtomicU64,
    recent: Mutex<Recent>,
}

impl Events {
    /// A writer that signs as `instance` (`reportingInstance`: the pod). `seed`
    /// keeps the names of two writers apart that start in the same nanosecond.
    /// Only who may write by `fence` does: a standby sees the same and says nothing.
    pub fn new(client: kube::Client, clock: Clock, instance: impl Into<String>, seed: u64, fence: Fence) -> Self {
        let nanos = clock.since_epoch().as_nanos() & u128::from(u64::MAX);
        Self(Arc::new(Inner {
            client,
            clock,
            fence,
            instance: cut(&instance.into(), 128).to_owned(),
            base: u64::try_from(nanos).unwrap_or(0).wrapping_add(seed),
            sent: AtomicU64::new(0),
            recent: Mutex::default(),
        }))
    }

    /// Writes one event about an object, unless the very same (object, type,
    /// reason, note) was written within ten minutes. `reason` and `action` are
    /// CamelCase words, `note` is for people and cut at [`NOTE_LIMIT`]. Takes at
    /// most five seconds; errors are logged.
    pub async fn publish(&self, about: &ObjectReference, type_: EventType, reason: &str, action: &str, note: &str) {
        if !self.0.fence.holds() {
            return;
        }
        let note = cut(note, NOTE_LIMIT);
        let key = fingerprint(about, type_, reason, note);
        if !self.recent().note(key, Instant::now()) {
            return;
        }
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let event = self.event(about, &namespace, type_, reason, action, note);
        let api: Api<Event> = Api::namespaced(self.0.client.clone(), &namespace);
        let failure = match tokio::time::timeout(DEADLINE, api.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", DEADLINE.as_secs()),
        };
        // It may be tried again at once.
        self.recent().forget(key);
        tracing::warn!(
            namespace,
            object = about.name.as_deref().unwrap_or_default(),
            reason,
            note,
            error = failure,
            "event was not written"
        );
    }

    fn event(
        &self,
        about: &ObjectReference,
        namespace: &str,
        type_: EventType,
        reason: &str,
        action: &str,
        note: &str,
    ) -> Event {
        let number = self.0.sent.fetch_add(1, Ordering::Relaxed);
        let object = about.name.as_deref().unwrap_or("vmgroup");
        Event {
            metadata: ObjectMeta {
                // 253 is the limit of an object's name; 17 are the suffix's.
                name: Some(format!(
                    "{}.{:016x}",
                    cut(object, 236).trim_end_matches(['.', '-']),
                    self.0.base.wrapping_add(number)
                )),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            regarding: Some(about.clone()),
            type_: Some(type_.to_string()),
            reason: Some(cut(reason, 128).to_owned()),
            action: Some(cut(action, 128).to_owned()),
            note: Some(note.to_owned()),
            event_time: Some(k8s_micro_time(self.0.clock.now())),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.0.instance.clone()),
            ..Event::default()
        }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was sent of late: by fingerprint, and in order of time.
#[derive(Default)]
struct Recent {
    sent: HashMap<u64, Instant>,
    order: VecDeque<(Instant, u64)>,
}

impl Recent {
    /// Whether this one is to be sent; if so, it is remembered.
    fn note(&mut self, key: u64, now: Instant) -> bool {
        while let Some(&(at, old)) = self.order.front() {
            if now.duration_since(at) < QUIET && self.order.len() < REMEMBERED {
                break;
            }
            self.order.pop_front();
            if self.sent.get(&old) == Some(&at) {
                self.sent.remove(&old);
            }
        }
        if self.sent.contains_key(&key) {
            return false;
        }
        self.sent.insert(key, now);
        self.order.push_back((now, key));
        true
    }

    fn forget(&mut self, key: u64) {
        self.sent.remove(&key);
    }
}

fn fingerprint(about: &ObjectReference, type_: EventType, reason: &str, note: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&about.kind, &about.namespace, &about.name, &about.uid, type_, reason, note).hash(&mut hasher);
    hasher.finish()
}

/// At most `limit` bytes of a text, ending at a character's boundary.
fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(name: &str) -> ObjectReference {
        ObjectReference {
            kind: Some("ConfigMap".to_owned()),
            name: Some(name.to_owned()),
            ..ObjectReference::default()
        }
    }

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(cut("häuser", 2), "h");
        assert_eq!(cut("häuser", 3), "hä");
        assert_eq!(cut("short", 1_000), "short");
    }

    #[test]
    fn what_differs_in_any_part_is_another_event() {
        let base = fingerprint(&about("a"), EventType::Normal, "R", "n");
        assert_eq!(base, fingerprint(&about("a"), EventType::Normal, "R", "n"));
        for other in [
            fingerprint(&about("b"), EventType::Normal, "R", "n"),
            fingerprint(&about("a"), EventType::Warning, "R", "n"),
            fingerprint(&about("a"), EventType::Normal, "S", "n"),
            fingerprint(&about("a"), EventType::Normal, "R", "m"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_again_is_not_sent_for_ten_minutes() {
        let mut recent = Recent::default();
        let start = Instant::now();
        assert!(recent.note(1, start));
        assert!(!recent.note(1, start + QUIET / 2));
        assert!(recent.note(1, start + QUIET));
        recent.forget(1);
        assert!(recent.note(1, start + QUIET + Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let mut recent = Recent::default();
        let now = Instant::now();
        for key in 0..(3 * REMEMBERED as u64) {
            assert!(recent.note(key, now));
        }
        assert!(recent.sent.len() <= REMEMBERED && recent.order.len() <= REMEMBERED);
        assert!(!recent.note(3 * REMEMBERED as u64 - 1, now), "the newest is remembered");
        assert!(recent.note(0, now), "the oldest is forgotten");
    }
}

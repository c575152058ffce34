//! The objects, their history and the resource version: what etcd and the
//! watch cache are to the real server.
//!
//! Knows no HTTP and no rules of writing; those are in `write`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use kube_cel::Validator;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::builtin;
use super::exec::Runner;
use super::json::{meta_mut, object_mut};
use super::resources::{self, Resource};
use super::watch::WatchFault;
use crate::clock::Clock;

/// How many changes are remembered for watches to resume from. Each holds an
/// object, and a `ConfigMap` with a policy in it may be a megabyte.
const HISTORY: usize = 4096;

/// Namespace (empty for cluster-wide kinds) and name.
pub(super) type Key = (String, String);

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Modified,
    Deleted,
}

/// A line of the history.
#[derive(Clone)]
pub(super) struct Event {
    pub version: u64,
    pub storage: String,
    pub key: Key,
    pub change: Change,
    pub object: Arc<Value>,
    pub before: Option<Arc<Value>>,
}

/// What open watches are told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Signal {
    /// The newest resource version.
    pub version: u64,
    /// Rises when all watches are to break.
    pub epoch: u64,
    /// Rises when watches that were disturbed are to end.
    pub calm: u64,
}

/// Says what happens to an event of a kind (by its plural) on its way to a watch.
pub(super) type Mischief = Box<dyn FnMut(&str) -> Option<WatchFault> + Send>;

pub(super) struct State {
    pub clock: Clock,
    rng: ChaCha8Rng,
    pub version: u64,
    /// No watch may resume from, no list show, a version before this one.
    pub compacted: u64,
    /// The version of the last change that fell out of the history.
    dropped: u64,
    pub resources: Vec<Arc<Resource>>,
    objects: BTreeMap<String, BTreeMap<Key, Arc<Value>>>,
    history: VecDeque<Event>,
    signal: watch::Sender<Signal>,
    pub cel: Validator,
    pub mischief: Option<Mischief>,
    pub exec: Option<Runner>,
    pub token: Option<String>,
    pub writes: u64,
}

impl State {
    pub(super) fn new(clock: Clock, seed: u64) -> Self {
        Self {
            clock,
            rng: ChaCha8Rng::seed_from_u64(seed),
            version: 1,
            compacted: 1,
            dropped: 0,
            resources: resources::built_in(),
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            signal: watch::Sender::default(),
            cel: Validator::new(),
            mischief: None,
            exec: None,
            token: None,
            writes: 0,
        }
    }

    pub(super) fn signal(&self) -> watch::Receiver<Signal> {
        self.signal.subscribe()
    }

    pub(super) fn break_watches(&self) {
        self.signal.send_modify(|s| s.epoch += 1);
    }

    pub(super) fn calm_watches(&mut self) {
        self.mischief = None;
        self.signal.send_modify(|s| s.calm += 1);
    }

    /// The present as metadata shows it.
    pub(super) fn now(&self) -> String {
        rfc3339(self.clock.now())
    }

    pub(super) fn uid(&mut self) -> String {
        let mut bytes = [0; 16];
        self.rng.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// The five letters behind a `generateName`.
    pub(super) fn suffix(&mut self) -> String {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..5).map(|_| char::from(LETTERS[self.rng.next_u32() as usize % LETTERS.len()])).collect()
    }

    /// A resource by its plural or `plural.group`; of several versions the
    /// first, of events the stored form.
    pub(super) fn by_name(&self, name: &str) -> Option<Arc<Resource>> {
        let mut found = self.resources.iter().filter(|r| r.plural == name || r.storage_key() == name || r.kind == name);
        let first = found.next()?;
        Some(if first.is_core_event() { found.next().unwrap_or(first) } else { first }.clone())
    }

    pub(super) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.resources.iter().find(|r| r.group == group && r.version == version && r.plural == plural).cloned()
    }

    pub(super) fn get(&self, storage: &str, key: &Key) -> Option<Arc<Value>> {
        self.objects.get(storage)?.get(key).cloned()
    }

    /// All objects of a kind in the order of namespace and name.
    pub(super) fn all(&self, storage: &str) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.get(storage).into_iter().flatten()
    }

    /// What a kind's objects were at an earlier version, by undoing history.
    pub(super) fn at_version(&self, storage: &str, version: u64) -> BTreeMap<Key, Arc<Value>> {
        let mut objects = self.objects.get(storage).cloned().unwrap_or_default();
        for event in self.history.iter().rev().take_while(|e| e.version > version) {
            if event.storage == storage {
                match &event.before {
                    Some(before) => objects.insert(event.key.clone(), before.clone()),
                    None => objects.remove(&event.key),
                };
            }
        }
        objects
    }

    /// Storage keys and keys of everything in a namespace.
    pub(super) fn in_namespace(&self, namespace: &str) -> Vec<(String, Key)> {
        self.objects
            .iter()
            .flat_map(|(storage, objects)| {
                objects.keys().filter(|key| key.0 == namespace).map(|key| (storage.clone(), key.clone()))
            })
            .collect()
    }

    /// The changes after `version`, at most `max`; `None` if they are no
    /// longer all known.
    pub(super) fn since(&self, version: u64, max: usize) -> Option<Vec<Event>> {
        if version < self.dropped {
            return None;
        }
        let start = self.history.partition_point(|e| e.version <= version);
        Some(self.history.range(start..).take(max).cloned().collect())
    }

    /// Stores (`Some`) or removes (`None`) an object under a new version, and
    /// tells the watches. Returns what was stored, or what was removed with the
    /// version of its removal.
    pub(super) fn commit(&mut self, storage: &str, key: Key, object: Option<Value>) -> Arc<Value> {
        self.version += 1;
        let version = self.version.to_string();
        let objects = self.objects.entry(storage.to_owned()).or_default();
        let before = objects.get(&key).cloned();
        let stamped = |mut value: Value| {
            meta_mut(&mut value).insert("resourceVersion".to_owned(), json!(version));
            Arc::new(value)
        };
        let (change, object) = if let Some(object) = object {
            let object = stamped(object);
            objects.insert(key.clone(), object.clone());
            (if before.is_some() { Change::Modified } else { Change::Added }, object)
        } else {
            objects.remove(&key);
            let last = before.as_deref().cloned().unwrap_or_else(|| json!({}));
            (Change::Deleted, stamped(last))
        };
        if self.history.len() == HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.dropped = oldest.version;
            self.compacted = self.compacted.max(oldest.version);
        }
        self.history.push_back(Event {
            version: self.version,
            storage: storage.to_owned(),
            key,
            change,
            object: object.clone(),
            before,
        });
        self.signal.send_modify(|s| s.version = self.version);
        object
    }

    /// Forgets the past: no watch may resume from, and no list continue at, a
    /// version given out before.
    pub(super) fn compact(&mut self) {
        // Another kind's change makes every version that a client holds old.
        self.version += 1;
        self.compacted = self.version;
        self.signal.send_modify(|s| s.version = self.version);
    }

    /// Takes up what the CRDs say after one has changed.
    pub(super) fn reload_definitions(&mut self) {
        let storage = resources::storage_key("apiextensions.k8s.io", "customresourcedefinitions");
        let mut all = resources::built_in();
        for (_, definition) in self.all(&storage) {
            all.extend(resources::of_definition(definition));
        }
        self.resources = all;
    }

    /// The object as a resource shows it: in its version, events in its form.
    pub(super) fn present(resource: &Resource, stored: &Value) -> Value {
        if resource.is_core_event() {
            return builtin::event_to_core(stored);
        }
        let mut object = stored.clone();
        if resource.custom {
            object_mut(&mut object).insert("apiVersion".to_owned(), json!(resource.api_version()));
        }
        object
    }
}

/// Whole seconds, as metadata has them.
pub(super) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

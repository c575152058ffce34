//! Where what a source shows arrives: what it names by reference is fetched, it goes
//! to the book, and what became of it is told in the log and, where there is a
//! ConfigMap to tell it on, in events. Must not know how a source is read.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ObjectReference;

use vmgroup_registry::Again;

use super::{Considered, PolicyBook, PolicyFiles, Refusal, Serving};
use crate::events::{EventType, Events};
use crate::memory::{Patience, backoff};

/// How soon what could not be pulled is tried again, where that may help by itself.
const PATIENCE: Patience = Patience::seconds(1, 60);

/// The same where somebody has to do something about it, elsewhere.
const LONG_PATIENCE: Patience = Patience::seconds(30, 600);

/// The events on a ConfigMap.
pub(super) struct ConfigMapEvents {
    events: Events,
    about: ObjectReference,
}

impl ConfigMapEvents {
    pub(super) fn new(events: Events, namespace: &str, name: &str) -> Self {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("ConfigMap".to_owned()),
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            ..ObjectReference::default()
        };
        Self { events, about }
    }

    /// The ConfigMap as it was last seen, so that an event about its deletion is
    /// still about it.
    pub(super) fn is_about(&mut self, uid: Option<&String>) {
        self.about.uid = uid.cloned();
    }

    pub(super) async fn tell(&self, type_: EventType, reason: &str, note: &str) {
        self.events.publish(&self.about, type_, reason, "SwapPolicies", note).await;
    }
}

/// Where the edits of one source arrive.
pub(super) struct Desk {
    book: PolicyBook,
    events: Option<ConfigMapEvents>,
    /// The refusal that was told last.
    told: Option<Arc<Refusal>>,
    /// What the source shows, while plugins of it are on their way.
    pulling: Option<BoxFuture<'static, Arrived>>,
}

/// What a source shows, and as many of its plugins as could be had.
pub(super) struct Arrived {
    files: PolicyFiles,
    /// How often it was tried.
    attempts: u32,
}

impl Desk {
    pub(super) fn new(book: PolicyBook, events: Option<ConfigMapEvents>) -> Self {
        Self { book, events, told: None, pulling: None }
    }

    /// See [`ConfigMapEvents::is_about`].
    pub(super) fn is_about(&mut self, uid: Option<&String>) {
        if let Some(events) = &mut self.events {
            events.is_about(uid);
        }
    }

    /// Takes what the source shows. What names no plugin in a registry is offered at
    /// once; the rest when [`arrived`](Self::arrived) has it, unless the source shows
    /// something else before.
    pub(super) async fn take(&mut self, files: Option<PolicyFiles>) {
        self.pulling = None;
        match files {
            Some(files) if !files.wanted().is_empty() => self.pull(files, 0),
            files => self.offer(files).await,
        }
    }

    fn pull(&mut self, mut files: PolicyFiles, attempts: u32) {
        let book = self.book.clone();
        let pause = files
            .again()
            .filter(|_| attempts > 0)
            .map(|again| backoff(if again == Again::Soon { PATIENCE } else { LONG_PATIENCE }, attempts, 0));
        let pulling = async move {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            book.complete(&mut files).await;
            Arrived { files, attempts: attempts + 1 }
        };
        self.pulling = Some(pulling.boxed());
    }

    /// Waits until what was on its way is there, or cannot be had for now. May be
    /// dropped and called again; what it gives is to be [`accepted`](Self::accept).
    pub(super) async fn arrived(&mut self) -> Arrived {
        let Some(pulling) = &mut self.pulling else { return std::future::pending().await };
        let arrived = pulling.await;
        self.pulling = None;
        arrived
    }

    /// Offers what has arrived. What is still lacking is asked for again, later.
    pub(super) async fn accept(&mut self, Arrived { files, attempts }: Arrived) {
        self.offer(Some(files.clone())).await;
        if files.again().is_some() {
            self.pull(files, attempts);
        }
    }

    /// Offers it to the book, and tells what became of it.
    pub(super) async fn offer(&mut self, files: Option<PolicyFiles>) {
        let version = files.as_ref().map(|files| files.resource_version.clone());
        match self.book.consider(files).await {
            Considered::Unchanged(_) => {}
            Considered::Swapped { serving, differences, healed } => {
                self.told = None;
                let note = swapped_note(&serving, &differences, healed, version.as_deref());
                tracing::info!(generation = serving.generation, note, "policies swapped");
                self.tell(EventType::Normal, "PolicySwapped", &note).await;
            }
            Considered::Refused(refusal) => {
                // Not a field named `message`: that is the line's own key in JSON.
                let Refusal { stage, plugin, message: problem, remedy, resource_version } = &*refusal;
                tracing::warn!(
                    stage,
                    plugin,
                    problem,
                    remedy,
                    resource_version,
                    in_force = self.book.in_force().told(),
                    "policies refused; what was in force before serves"
                );
                self.tell_of(refusal).await;
            }
        }
    }

    /// Nobody has offered anything: what was in force has failed at work.
    pub(super) async fn tell_of_rollback(&mut self) {
        let refusal = self.book.refusal().filter(|refusal| refusal.rolled_back());
        if let Some(refusal) = refusal.filter(|refusal| self.told.as_ref() != Some(refusal)) {
            self.tell_of(refusal).await;
        }
    }

    async fn tell_of(&mut self, refusal: Arc<Refusal>) {
        let reason = if refusal.rolled_back() { "PolicyRolledBack" } else { "PolicyRefused" };
        let note = refusal.told(&self.book.in_force(), crate::events::NOTE_LIMIT);
        self.tell(EventType::Warning, reason, &note).await;
        self.told = Some(refusal);
    }

    async fn tell(&mut self, type_: EventType, reason: &str, note: &str) {
        if let Some(events) = &self.events {
            events.tell(type_, reason, note).await;
        }
    }
}

/// Each note names the edit that it is about: the same edit made twice (there,
/// back, and there again) is two events and no repetition.
fn swapped_note(serving: &Serving, differences: &[String], healed: bool, version: Option<&str>) -> String {
    let generation = serving.generation;
    let head = match version {
        Some("") => format!("Swap {generation}: "),
        Some(version) => format!("Swap {generation} (resourceVersion {version}): "),
        None if serving.partial => format!("Swap {generation}: the ConfigMap is gone. "),
        None => format!("Swap {generation}: the ConfigMap is gone, the built-in policies serve. "),
    };
    let again =
        if differences.is_empty() && healed { "accepted again, nothing differs from what was in force. " } else { "" };
    let differences = differences.iter().flat_map(|difference| [difference, ". "]).collect::<String>();
    format!("{head}{again}{differences}In force: {}", serving.told())
}

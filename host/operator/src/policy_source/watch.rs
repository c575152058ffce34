//! Feeds the policy book from the ConfigMap, through the API's watch, and tells
//! in events on the ConfigMap what became of each edit.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use kube::api::Api;
use kube::runtime::watcher;
use tokio_util::sync::CancellationToken;

use super::{ConfigMapData, Considered, PolicyBook, Refusal, Serving};
use crate::events::{EventType, Events};

/// The first wait after a failed watch; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// An edit after an outage is seen within this time.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Watches one ConfigMap and offers each content to the book, until `shutdown`.
/// A ConfigMap that is absent or deleted means the built-in defaults. Needs
/// `list` and `watch` on that ConfigMap alone.
pub async fn watch_config_map(
    client: kube::Client,
    namespace: String,
    name: String,
    book: PolicyBook,
    events: Events,
    shutdown: CancellationToken,
) {
    let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let mut stream = pin!(watcher::watcher(api, watcher::Config::default().fields(&format!("metadata.name={name}"))));
    let mut changes = book.changes();
    let mut desk = Desk { namespace, name, uid: None, book, events, told: None };
    let mut wait = FIRST_WAIT;
    let mut listed = None;
    loop {
        let next = tokio::select! {
            () = shutdown.cancelled() => return,
            Ok(()) = changes.changed() => {
                desk.tell_of_rollback().await;
                continue;
            }
            next = stream.next() => next,
        };
        match next {
            None => return,
            Some(Err(error)) => {
                tracing::warn!(namespace = desk.namespace, name = desk.name, error = %error, wait = ?wait, "policy ConfigMap cannot be watched; what is in force stays in force");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
                wait = LONGEST_WAIT.min(wait * 2);
                continue;
            }
            Some(Ok(event)) => match event {
                watcher::Event::Init => listed = None,
                watcher::Event::InitApply(map) => listed = desk.is_ours(&map).then_some(map).or(listed),
                watcher::Event::InitDone => desk.offer(listed.take()).await,
                watcher::Event::Apply(map) if desk.is_ours(&map) => desk.offer(Some(map)).await,
                watcher::Event::Delete(map) if desk.is_ours(&map) => desk.offer(None).await,
                watcher::Event::Apply(_) | watcher::Event::Delete(_) => {}
            },
        }
        wait = FIRST_WAIT;
    }
}

/// Where the edits of one ConfigMap arrive.
struct Desk {
    namespace: String,
    name: String,
    /// Of the ConfigMap as it was last seen, so that an event about its
    /// deletion is still about it.
    uid: Option<String>,
    book: PolicyBook,
    events: Events,
    /// The refusal that an event was written about last.
    told: Option<Arc<Refusal>>,
}

impl Desk {
    fn is_ours(&self, map: &ConfigMap) -> bool {
        map.metadata.name.as_ref() == Some(&self.name)
    }

    async fn offer(&mut self, map: Option<ConfigMap>) {
        let version = map.as_ref().map(|map| map.metadata.resource_version.clone().unwrap_or_default());
        if let Some(map) = &map {
            self.uid.clone_from(&map.metadata.uid);
        }
        match self.book.consider(map.map(ConfigMapData::of)).await {
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
    async fn tell_of_rollback(&mut self) {
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

    async fn tell(&self, type_: EventType, reason: &str, note: &str) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("ConfigMap".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: self.uid.clone(),
            ..ObjectReference::default()
        };
        self.events.publish(&about, type_, reason, "SwapPolicies", note).await;
    }
}

/// Each note names the edit that it is about: the same edit made twice (there,
/// back, and there again) is two events and no repetition.
fn swapped_note(serving: &Serving, differences: &[String], healed: bool, version: Option<&str>) -> String {
    let generation = serving.generation;
    let head = match version {
        Some(version) => format!("Swap {generation} (resourceVersion {version}): "),
        None => format!("Swap {generation}: the ConfigMap is gone, the built-in policies serve. "),
    };
    let again =
        if differences.is_empty() && healed { "accepted again, nothing differs from what was in force. " } else { "" };
    let differences = differences.iter().flat_map(|difference| [difference, ". "]).collect::<String>();
    format!("{head}{again}{differences}In force: {}", serving.told())
}

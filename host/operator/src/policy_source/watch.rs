//! Feeds the policy book from the ConfigMap, through the API's watch, and tells
//! in events on the ConfigMap what became of each edit.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use kube::api::Api;
use kube::runtime::watcher;
use tokio_util::sync::CancellationToken;

use super::{ConfigMapData, Considered, PolicyBook, Refusal, Serving, label};
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
    let mut desk = Desk { namespace, name, uid: None, book, events };
    let mut wait = FIRST_WAIT;
    let mut listed = None;
    loop {
        let next = tokio::select! {
            () = shutdown.cancelled() => return,
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
}

impl Desk {
    fn is_ours(&self, map: &ConfigMap) -> bool {
        map.metadata.name.as_ref() == Some(&self.name)
    }

    async fn offer(&mut self, map: Option<ConfigMap>) {
        let gone = map.is_none();
        if let Some(map) = &map {
            self.uid.clone_from(&map.metadata.uid);
        }
        match self.book.consider(map.map(ConfigMapData::of)).await {
            Considered::Unchanged(_) => {}
            Considered::Swapped { serving, differences, healed } => {
                let note = swapped_note(&serving, &differences, healed, gone);
                tracing::info!(generation = serving.generation, note, "policies swapped");
                self.tell(EventType::Normal, "PolicySwapped", &note).await;
            }
            Considered::Refused(refusal) => {
                let Refusal { stage, plugin, message, remedy, resource_version } = &*refusal;
                tracing::warn!(stage, plugin, message, remedy, resource_version, "policies refused; what was in force stays in force");
                self.tell(EventType::Warning, "PolicyRefused", &refused_note(&refusal)).await;
            }
        }
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

fn swapped_note(serving: &Serving, differences: &[String], healed: bool, gone: bool) -> String {
    let set = &serving.set;
    let mut note = if gone { "The ConfigMap is gone, the built-in policies serve. ".to_owned() } else { String::new() };
    if differences.is_empty() && healed {
        note.push_str("Accepted again, nothing differs from what was in force. ");
    }
    for difference in differences {
        note.push_str(difference);
        note.push_str(". ");
    }
    note.push_str(&format!("In force: naming {}, placement {}, scaling {}", label(&set.naming), label(&set.placement), label(&set.scaling)));
    note
}

/// The remedy must survive the cut at the end of a note: the message gives way.
fn refused_note(refusal: &Refusal) -> String {
    let Refusal { remedy, .. } = refusal;
    let tail = format!(". Remedy: {remedy}. What was in force stays in force.");
    let head = refusal.to_string();
    let room = crate::events::NOTE_LIMIT.saturating_sub(tail.len() + '…'.len_utf8());
    if head.len() <= room {
        return head + &tail;
    }
    format!("{}…{tail}", &head[..head.floor_char_boundary(room)])
}

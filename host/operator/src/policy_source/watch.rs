//! Feeds the policy book from the ConfigMap, through the API's watch; what became
//! of each edit is told in events on the ConfigMap.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use kube::runtime::watcher;
use tokio_util::sync::CancellationToken;

use super::desk::{ConfigMapEvents, Desk};
use super::{PolicyBook, PolicyFiles};
use crate::events::Events;

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
    let mut desk = Desk::new(book, Some(ConfigMapEvents::new(events, &namespace, &name)));
    let is_ours = |map: &ConfigMap| map.metadata.name.as_ref() == Some(&name);
    let mut wait = FIRST_WAIT;
    let mut listed = None;
    loop {
        let next = tokio::select! {
            () = shutdown.cancelled() => return,
            Ok(()) = changes.changed() => {
                desk.tell_of_rollback().await;
                continue;
            }
            arrived = desk.arrived() => {
                desk.accept(arrived).await;
                continue;
            }
            next = stream.next() => next,
        };
        match next {
            None => return,
            Some(Err(error)) => {
                tracing::warn!(namespace, name, error = %error, wait = ?wait, "policy ConfigMap cannot be watched; what is in force stays in force");
                let mut again = pin!(tokio::time::sleep(wait));
                loop {
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        arrived = desk.arrived() => desk.accept(arrived).await,
                        () = &mut again => break,
                    }
                }
                wait = LONGEST_WAIT.min(wait * 2);
                continue;
            }
            Some(Ok(event)) => match event {
                watcher::Event::Init => listed = None,
                watcher::Event::InitApply(map) => listed = is_ours(&map).then_some(map).or(listed),
                watcher::Event::InitDone => take(&mut desk, listed.take()).await,
                watcher::Event::Apply(map) if is_ours(&map) => take(&mut desk, Some(map)).await,
                watcher::Event::Delete(map) if is_ours(&map) => take(&mut desk, None).await,
                watcher::Event::Apply(_) | watcher::Event::Delete(_) => {}
            },
        }
        wait = FIRST_WAIT;
    }
}

async fn take(desk: &mut Desk, map: Option<ConfigMap>) {
    if let Some(map) = &map {
        desk.is_about(map.metadata.uid.as_ref());
    }
    desk.take(map.map(PolicyFiles::of)).await;
}

//! The labels of namespaces: watched only while the connections file chooses by them.
//! Must not know what they are good for.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use tokio_util::sync::CancellationToken;

use super::{Connections, Labels};
use crate::link::chain;

/// Keeps the labels up to date, whenever they are needed, until told to stop. Needs
/// `list` and `watch` on Namespaces.
pub(super) async fn follow(client: Client, connections: Connections, stop: CancellationToken) {
    let mut changes = connections.changes();
    loop {
        let needed = connections.0.set.load().needs_labels;
        if !needed {
            connections.0.labels.store(Arc::new(Labels::Unread));
        }
        let reading =
            async { if needed { read(client.clone(), &connections).await } else { std::future::pending().await } };
        tokio::select! {
            () = stop.cancelled() => return,
            () = reading => {}
            () = ceases(&connections, &mut changes, needed) => {}
        }
    }
}

/// Waits until labels are needed, or are no more.
async fn ceases(connections: &Connections, changes: &mut tokio::sync::watch::Receiver<u64>, needed: bool) {
    while connections.0.set.load().needs_labels == needed {
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn read(client: Client, connections: &Connections) {
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let mut stream = pin!(watcher(namespaces, watcher::Config::default()).default_backoff());
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut complete = false;
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => {
                all.clear();
                complete = false;
            }
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                all.insert(object.name_any(), object.labels().clone());
            }
            Ok(watcher::Event::Delete(object)) => drop(all.remove(&object.name_any())),
            Ok(watcher::Event::InitDone) => complete = true,
            Err(error) => tracing::warn!(error = %chain(&error), "the labels of namespaces cannot be watched"),
        }
        if complete {
            let now = Labels::Read(all.clone());
            if **connections.0.labels.load() != now {
                connections.0.labels.store(Arc::new(now));
                connections.tell();
            }
        }
    }
}

//! The connections file that counts, kept in a `ConfigMap` beside its own: an operator that
//! starts and finds a broken one goes on with what counted before. Only who leads
//! writes. Must not judge what is in it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vmgroup_api::connections_file::FILE_NAME;

use crate::lease::Fence;
use crate::link::chain;
use crate::memory::{Patience, backoff};
use crate::status::{StatusError, bounded};

/// Who owns the field, for server-side apply.
const MANAGER: &str = "vmgroup-operator";

/// How soon it is tried again when the API server does not answer.
const PATIENCE: Patience = Patience::seconds(1, 60);

/// How soon it is tried again when it is not allowed.
const REFUSED_PATIENCE: Patience = Patience::seconds(600, 3_600);

/// The `ConfigMap` with `-last-good` after the name of the connections file's.
#[derive(Clone)]
pub(super) struct Kept {
    api: Api<ConfigMap>,
    name: String,
    fence: Fence,
}

impl Kept {
    /// Needs `get` and `patch` on it, and to make it, if it is not there, `create`.
    pub(super) fn new(client: Client, namespace: &str, config_map: &str, fence: Fence) -> Self {
        Self { api: Api::namespaced(client, namespace), name: format!("{config_map}-last-good"), fence }
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The text that counted last, if there is one that can be had. Waits for the API
    /// server, until `stop`.
    pub(super) async fn recall(&self, stop: &CancellationToken) -> Option<String> {
        let mut attempts = 0;
        loop {
            match self.load().await {
                Ok(text) => return text,
                Err(error) if error.is_lasting() => {
                    tracing::warn!(name = self.name, error = %chain(&error), "the connections that counted before cannot be recalled");
                    return None;
                }
                Err(error) => {
                    attempts += 1;
                    tracing::warn!(name = self.name, error = %chain(&error), "the connections that counted before cannot be read yet");
                    tokio::select! {
                        () = stop.cancelled() => return None,
                        () = tokio::time::sleep(backoff(PATIENCE, attempts, 0)) => {}
                    }
                }
            }
        }
    }

    async fn load(&self) -> Result<Option<String>, StatusError> {
        let map = bounded(self.api.get_opt(&self.name)).await?;
        Ok(map.and_then(|map| map.data).and_then(|mut data| data.remove(FILE_NAME)))
    }

    /// Keeps what counts as it changes, while we lead, until `stop`.
    pub(super) async fn run(self, mut counts: watch::Receiver<Option<Arc<str>>>, stop: CancellationToken) {
        let mut leading = self.fence.changed();
        let mut attempts = 0;
        loop {
            leading.mark_unchanged();
            let now = counts.borrow_and_update().clone();
            let pause = match self.keep(now.as_deref()).await {
                Ok(()) => {
                    attempts = 0;
                    None
                }
                Err(error) => {
                    attempts += 1;
                    tracing::warn!(name = self.name, error = %chain(&error), "the connections that count cannot be kept over a restart");
                    Some(backoff(if error.is_lasting() { REFUSED_PATIENCE } else { PATIENCE }, attempts, 0))
                }
            };
            let again = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                told = counts.changed() => if told.is_err() { return },
                told = leading.changed() => if told.is_err() { return },
                () = again => {}
            }
        }
    }

    async fn keep(&self, text: Option<&str>) -> Result<(), StatusError> {
        let Some(text) = text.filter(|_| self.fence.holds()) else { return Ok(()) };
        // Somebody else may have led, and kept something, since we looked.
        if self.load().await?.as_deref() == Some(text) || !self.fence.holds() {
            return Ok(());
        }
        let patch = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": self.name },
            "data": { FILE_NAME: text },
        });
        let params = PatchParams::apply(MANAGER).force();
        bounded(self.api.patch(&self.name, &params, &Patch::Apply(patch))).await.map(drop)
    }
}

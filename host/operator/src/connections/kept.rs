//! The connections file that counts, kept in a `ConfigMap` beside its own: an operator that
//! starts and finds a broken one goes on with what counted before. Only who leads
//! writes. Must not judge what is in it.

use std::sync::Arc;

use kube::Client;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vmgroup_api::connections_file::FILE_NAME;

use crate::last_good::{LastGood, Tries, after};
use crate::lease::Fence;
use crate::link::chain;
use crate::status::StatusError;

/// What is kept beside the connections file's `ConfigMap`.
#[derive(Clone)]
pub(super) struct Kept {
    last_good: LastGood,
    fence: Fence,
}

impl Kept {
    pub(super) fn new(client: Client, namespace: &str, config_map: &str, fence: Fence) -> Self {
        Self { last_good: LastGood::beside(client, namespace, config_map), fence }
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        self.last_good.name()
    }

    /// The text that counted last, if there is one that can be had. Waits for the API
    /// server, until `stop`.
    pub(super) async fn recall(&self, stop: &CancellationToken) -> Option<String> {
        let mut tries = Tries::default();
        loop {
            match self.load().await {
                Ok(text) => return text,
                Err(error) if error.is_lasting() => {
                    tracing::warn!(name = self.name(), error = %chain(&error), "the connections that counted before cannot be recalled");
                    return None;
                }
                Err(error) => {
                    tracing::warn!(name = self.name(), error = %chain(&error), "the connections that counted before cannot be read yet");
                    tokio::select! {
                        () = stop.cancelled() => return None,
                        () = tokio::time::sleep(tries.failed(false)) => {}
                    }
                }
            }
        }
    }

    async fn load(&self) -> Result<Option<String>, StatusError> {
        let map = self.last_good.read().await?;
        Ok(map.and_then(|map| map.data).and_then(|mut data| data.remove(FILE_NAME)))
    }

    /// Keeps what counts as it changes, while we lead, until `stop`.
    pub(super) async fn run(self, mut counts: watch::Receiver<Option<Arc<str>>>, stop: CancellationToken) {
        let mut leading = self.fence.changed();
        let mut tries = Tries::default();
        loop {
            leading.mark_unchanged();
            let now = counts.borrow_and_update().clone();
            let pause = match self.keep(now.as_deref()).await {
                Ok(()) => {
                    tries.worked();
                    None
                }
                Err(error) => {
                    tracing::warn!(name = self.name(), error = %chain(&error), "the connections that count cannot be kept over a restart");
                    Some(tries.failed(error.is_lasting()))
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                told = counts.changed() => if told.is_err() { return },
                told = leading.changed() => if told.is_err() { return },
                () = after(pause) => {}
            }
        }
    }

    async fn keep(&self, text: Option<&str>) -> Result<(), StatusError> {
        let Some(text) = text.filter(|_| self.fence.holds()) else { return Ok(()) };
        // Somebody else may have led, and kept something, since we looked.
        if self.load().await?.as_deref() == Some(text) || !self.fence.holds() {
            return Ok(());
        }
        self.last_good.write(json!({ "data": { FILE_NAME: text } })).await
    }
}

//! The `ConfigMap` `<name>-last-good` beside another one: what counted, kept for an
//! operator that starts and finds a broken edit. Reads it, writes it, and says how soon
//! that is tried again.
//!
//! Must not know what is kept in it.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::memory::{Patience, backoff};
use crate::status::{StatusError, bounded};

/// Who owns the fields, for server-side apply.
const MANAGER: &str = "vmgroup-operator";

/// How soon it is tried again when the API server does not answer.
const PATIENCE: Patience = Patience::seconds(1, 60);

/// How soon it is tried again when it is not allowed, or cannot be done.
const REFUSED_PATIENCE: Patience = Patience::seconds(600, 3_600);

/// The `ConfigMap`. Needs `get` and `patch` on it, and to make it, if it is not there,
/// `create`.
#[derive(Clone)]
pub struct LastGood {
    api: Api<ConfigMap>,
    name: String,
}

impl LastGood {
    /// The one beside this `ConfigMap`.
    pub fn beside(client: Client, namespace: &str, config_map: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: format!("{config_map}-last-good") }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As it is there.
    pub async fn read(&self) -> Result<Option<ConfigMap>, StatusError> {
        bounded(self.api.get_opt(&self.name)).await
    }

    /// Makes these its contents; `object` has all but its kind and name.
    pub async fn write(&self, mut object: Value) -> Result<(), StatusError> {
        (object["apiVersion"], object["kind"]) = (json!("v1"), json!("ConfigMap"));
        object["metadata"]["name"] = json!(self.name);
        let params = PatchParams::apply(MANAGER).force();
        bounded(self.api.patch(&self.name, &params, &Patch::Apply(object))).await.map(drop)
    }
}

/// How often in a row it has failed.
#[derive(Default)]
pub struct Tries(u32);

impl Tries {
    /// It has worked.
    pub fn worked(&mut self) {
        self.0 = 0;
    }

    /// It has failed, and `lasting` in a way that will be the same in a second. How soon
    /// to try again.
    pub fn failed(&mut self, lasting: bool) -> Duration {
        self.0 += 1;
        backoff(if lasting { REFUSED_PATIENCE } else { PATIENCE }, self.0, 0)
    }
}

/// Ends after this time; without one, never.
pub async fn after(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

//! The simulated Kubernetes API: small, honest, and good enough that a kube-rs
//! Controller and kubectl cannot tell. Served over HTTP by [`crate::serve`] or
//! called in-process:
//!
//! ```
//! use axum::body::Body;
//! use tower::ServiceExt as _;
//! use vmgroup_sim::{clock::Clock, kube::KubeSim};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sim = KubeSim::new(Clock::system(), 1);
//! let service = sim
//!     .service()
//!     .map_request(|r: http::Request<kube::client::Body>| r.map(Body::new));
//! let client = kube::Client::new(service, "default");
//! assert_eq!(client.apiserver_version().await?.major, "1");
//! # Ok(())
//! # }
//! ```
//!
//! Simplified against the real one: no authorization; no garbage collector, so
//! owner references and propagation policies have no effect; no kubelet, so pods do
//! nothing but what [`KubeSim::on_exec`] runs; the namespace and CRD controllers act at
//! once; built-in kinds have no schemas beyond a few
//! checks; events do not expire.
//!
//! Must not know VmGroups: what it serves comes from the CRDs given to it.

mod builtin;
mod checks;
mod delete;
mod discovery;
mod exec;
mod http;
mod json;
mod managed;
mod openapi;
mod patch;
mod proto;
mod request;
mod resources;
mod schema;
mod select;
mod status;
mod store;
mod table;
mod watch;
mod write;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

pub use self::exec::Exec;
pub use self::http::KubeService;
pub use self::status::ApiError;
pub use self::watch::WatchFault;

use self::json::{meta, meta_mut, text};
use self::resources::Resource;
use self::store::State;
use self::write::{FieldValidation, PatchBody, Preconditions, Sub, Write};
use crate::clock::Clock;
use crate::faults::Faults;

/// A simulated API server. Cheap to clone; all clones are the same server.
///
/// The methods on objects are conveniences for tests: they act at once, pass
/// by the fault script, and do not count as [`KubeSim::writes`]. A kind is
/// named by its plural (`vmgroups`), `plural.group` or kind; a namespace of
/// `None` means a cluster-wide kind, or all namespaces in a list.
#[derive(Clone)]
pub struct KubeSim {
    service: KubeService,
}

impl KubeSim {
    /// A server with the namespaces of a fresh cluster. Uids and generated
    /// names derive from `seed`, times from `clock`.
    pub fn new(clock: Clock, seed: u64) -> Self {
        let service = KubeService { state: Arc::new(Mutex::new(State::new(clock, seed))), faults: Faults::default() };
        let sim = Self { service };
        for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            // Nothing is there yet that could refuse it.
            let _ = sim.create_namespace(name);
        }
        sim
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.service.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault script. Operations are named by verb and resource, as in
    /// `PATCH vmgroups/status`, `WATCH configmaps`, `LIST vmgroups`,
    /// `GET leases`, `CREATE events`, `UPDATE leases`, `DELETE vmgroups`; what
    /// is no resource by method and path, as in `GET /version`.
    ///
    /// `Error` takes an HTTP status; `Reset` and `LoseReply` are
    /// [`crate::faults::Cut`] in-process and a closed connection over HTTP.
    pub fn faults(&self) -> &Faults {
        &self.service.faults
    }

    /// The server as a tower service.
    pub fn service(&self) -> KubeService {
        self.service.clone()
    }

    /// From now on every request needs this bearer token (`None`: no longer).
    pub fn require_token(&self, token: Option<&str>) {
        self.state().token = token.map(str::to_owned);
    }

    /// From now on this runs what clients exec in pods (any pod that there is, with or
    /// without that container), and gives the exit code. Over HTTP only.
    pub fn on_exec<F, R>(&self, run: F)
    where
        F: Fn(Exec) -> R + Send + Sync + 'static,
        R: Future<Output = i32> + Send + 'static,
    {
        self.state().exec = Some(exec::runner(run));
    }

    /// Creates the object, or replaces the one of its name whatever its
    /// version. As over the wire, a status is not written where the kind has
    /// it as a subresource: see [`KubeSim::set_status`].
    pub fn apply(&self, object: Value) -> Result<Value, ApiError> {
        let mut state = self.state();
        let (group, version) = match text(&object, "apiVersion").rsplit_once('/') {
            Some((group, version)) => (group, version),
            None => ("", text(&object, "apiVersion")),
        };
        let kind = text(&object, "kind");
        let resource = state
            .resources
            .iter()
            .find(|r| r.group == group && r.version == version && r.kind == kind)
            .cloned()
            .ok_or_else(|| no_such_kind(kind))?;
        let mut namespace = meta(&object, "namespace").to_owned();
        if resource.namespaced && namespace.is_empty() {
            "default".clone_into(&mut namespace);
        }
        let mut w = on(&resource, &namespace, meta(&object, "name"));
        let key = (w.namespace.clone(), w.name.clone());
        let mut object = object;
        let written = if let Some(stored) = state.get(&resource.storage_key(), &key) {
            let version = meta(&stored, "resourceVersion").to_owned();
            meta_mut(&mut object).insert("resourceVersion".to_owned(), json!(version));
            state.replace(&w, object)?
        } else {
            w.name.clear();
            state.create(&w, object)?
        };
        Ok(written.object)
    }

    /// Creates a namespace; fine if it exists.
    pub fn create_namespace(&self, name: &str) -> Result<Value, ApiError> {
        match self.get("namespaces", None, name) {
            Some(there) => Ok(there),
            None => self.apply(json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
            })),
        }
    }

    /// One object.
    pub fn get(&self, kind: &str, namespace: Option<&str>, name: &str) -> Option<Value> {
        let state = self.state();
        let resource = state.by_name(kind)?;
        let key = (namespace.unwrap_or_default().to_owned(), name.to_owned());
        let stored = state.get(&resource.storage_key(), &key)?;
        Some(State::present(&resource, &stored))
    }

    /// All objects of a kind, by namespace and name.
    pub fn list(&self, kind: &str, namespace: Option<&str>) -> Vec<Value> {
        let state = self.state();
        let Some(resource) = state.by_name(kind) else { return Vec::new() };
        state
            .all(&resource.storage_key())
            .filter(|(key, _)| namespace.is_none_or(|n| n == key.0))
            .map(|(_, stored)| State::present(&resource, stored))
            .collect()
    }

    /// A merge patch on an object.
    pub fn patch(&self, kind: &str, namespace: Option<&str>, name: &str, patch: Value) -> Result<Value, ApiError> {
        self.patch_face(kind, namespace, name, Sub::Main, patch)
    }

    /// A merge patch on an object's `spec`.
    #[allow(clippy::needless_pass_by_value, reason = "called with json!, which reads better unborrowed")]
    pub fn patch_spec(&self, kind: &str, namespace: Option<&str>, name: &str, spec: Value) -> Result<Value, ApiError> {
        self.patch_face(kind, namespace, name, Sub::Main, json!({"spec": spec}))
    }

    /// A merge patch on an object's `status`.
    #[allow(clippy::needless_pass_by_value, reason = "called with json!, which reads better unborrowed")]
    pub fn set_status(
        &self,
        kind: &str,
        namespace: Option<&str>,
        name: &str,
        status: Value,
    ) -> Result<Value, ApiError> {
        self.patch_face(kind, namespace, name, Sub::Status, json!({"status": status}))
    }

    fn patch_face(
        &self,
        kind: &str,
        namespace: Option<&str>,
        name: &str,
        sub: Sub,
        patch: Value,
    ) -> Result<Value, ApiError> {
        let mut state = self.state();
        let resource = state.by_name(kind).ok_or_else(|| no_such_kind(kind))?;
        let mut w = on(&resource, namespace.unwrap_or_default(), name);
        w.sub = sub;
        Ok(state.patch(&w, PatchBody::Merge(patch))?.object)
    }

    /// Deletes an object, or marks it if it has finalizers.
    pub fn delete(&self, kind: &str, namespace: Option<&str>, name: &str) -> Result<(), ApiError> {
        let mut state = self.state();
        let resource = state.by_name(kind).ok_or_else(|| no_such_kind(kind))?;
        let w = on(&resource, namespace.unwrap_or_default(), name);
        state.delete(&w, &Preconditions::default())?;
        Ok(())
    }

    /// Breaks every open watch, as a dying connection does.
    pub fn drop_watches(&self) {
        self.state().break_watches();
    }

    /// Has every event pass an oracle on its way to each watch; the oracle is
    /// told the plural of its kind.
    pub fn disturb_watches(&self, oracle: impl FnMut(&str) -> Option<WatchFault> + Send + 'static) {
        self.state().mischief = Some(Box::new(oracle));
    }

    /// No more of that. Watches that have left something out, or told it in the
    /// wrong order, end with 410 Gone, so that their clients list anew.
    pub fn calm_watches(&self) {
        self.state().calm_watches();
    }

    /// Forgets history: the next watch that resumes from any version given out
    /// so far, and the next list that continues, gets 410 Gone. Open watches go
    /// on.
    pub fn expire_history(&self) {
        self.state().compact();
    }

    /// Successful mutating requests through the service so far, those that
    /// changed nothing included, dry runs not: at rest this stands still.
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// The newest resource version: rises with every change of any object.
    pub fn version(&self) -> u64 {
        self.state().version
    }

    /// Waits until `look` finds something, looking again after each change;
    /// `None` after `limit`.
    pub async fn wait_for<T>(&self, limit: Duration, mut look: impl FnMut(&Self) -> Option<T>) -> Option<T> {
        let mut signal = self.state().signal();
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            signal.borrow_and_update();
            if let Some(found) = look(self) {
                return Some(found);
            }
            tokio::time::timeout_at(deadline, signal.changed()).await.ok()?.ok()?;
        }
    }
}

fn on(resource: &Arc<Resource>, namespace: &str, name: &str) -> Write {
    Write {
        resource: resource.clone(),
        namespace: if resource.namespaced { namespace.to_owned() } else { String::new() },
        name: name.to_owned(),
        sub: Sub::Main,
        manager: "sim".to_owned(),
        dry_run: false,
        validation: FieldValidation::Strict,
    }
}

fn no_such_kind(kind: &str) -> ApiError {
    ApiError::new(404, "NotFound", format!("the server could not find the requested resource ({kind})"))
}

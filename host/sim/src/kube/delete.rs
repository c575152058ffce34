//! Deletion: finalizers, preconditions, and what goes with a namespace or a
//! CRD.
//!
//! Knows the store and the rules; no HTTP.

use std::sync::Arc;

use serde_json::{Value, json};

use super::checks::check_preconditions;
use super::json::{array, field, meta, meta_mut, set_path};
use super::resources::storage_key;
use super::select::Selector;
use super::status::ApiError;
use super::store::{Key, State};
use super::write::{FieldValidation, Preconditions, Sub, Write, Written};

impl State {
    /// Removes an object and whatever only waited for that.
    pub(super) fn remove(&mut self, storage: &str, key: Key, last: Option<Value>) -> Arc<Value> {
        let namespace = key.0.clone();
        let mut removed = self.commit(storage, key, None);
        if let Some(mut last) = last {
            let version = meta(&removed, "resourceVersion").to_owned();
            meta_mut(&mut last).insert("resourceVersion".to_owned(), json!(version));
            removed = Arc::new(last);
        }
        self.reload_after_removal(storage);
        self.end_namespace(&namespace);
        removed
    }

    /// A CRD on its way out goes with the last of its objects.
    fn reload_after_removal(&mut self, storage: &str) {
        let definitions = storage_key("apiextensions.k8s.io", "customresourcedefinitions");
        if storage == definitions {
            self.reload_definitions();
            return;
        }
        let key = (String::new(), storage.to_owned());
        let waiting = self.get(&definitions, &key).is_some_and(|d| !meta(&d, "deletionTimestamp").is_empty());
        if waiting && self.all(storage).next().is_none() {
            self.commit(&definitions, key, None);
            self.reload_definitions();
        }
    }

    /// A namespace on its way out goes with the last of its objects.
    fn end_namespace(&mut self, name: &str) {
        let storage = storage_key("", "namespaces");
        let key = (String::new(), name.to_owned());
        let waiting = self.get(&storage, &key).is_some_and(|n| !meta(&n, "deletionTimestamp").is_empty());
        if waiting && self.in_namespace(name).is_empty() {
            self.commit(&storage, key, None);
        }
    }

    /// DELETE of one object.
    pub(super) fn delete(&mut self, w: &Write, preconditions: &Preconditions) -> Result<Written, ApiError> {
        let resource = w.resource.clone();
        let old = self.old(w)?;
        check_preconditions(w, preconditions, &old)?;
        let storage = resource.storage_key();
        let done = |object| Ok(Written { object, code: 200, warnings: Vec::new() });
        let content_remains = resource.is("customresourcedefinitions") && self.all(&w.name).next().is_some();
        let finalizers = array(field(&old, "metadata"), "finalizers");
        if finalizers.is_empty() && !resource.is("namespaces") && !content_remains {
            if !w.dry_run {
                self.remove(&storage, w.key(), None);
            }
            return done(json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": deleted_details(w, &old),
            }));
        }
        if !meta(&old, "deletionTimestamp").is_empty() {
            return done(old);
        }
        let mut marked = old;
        let now = self.now();
        let metadata = meta_mut(&mut marked);
        metadata.insert("deletionTimestamp".to_owned(), json!(now));
        metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(0));
        if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
            metadata.insert("generation".to_owned(), json!(generation + 1));
        }
        if content_remains {
            metadata.insert("finalizers".to_owned(), json!(["customresourcecleanup.apiextensions.k8s.io"]));
        }
        if resource.is("namespaces") {
            set_path(&mut marked, ".status.phase", json!("Terminating"));
        }
        if w.dry_run {
            return done(marked);
        }
        let stored = self.commit(&storage, w.key(), Some(marked));
        let object = Self::present(&resource, &stored);
        if resource.is("namespaces") {
            for (storage, key) in self.in_namespace(&w.name) {
                self.delete_stored(&storage, key);
            }
            self.end_namespace(&w.name);
        } else if content_remains {
            let keys: Vec<Key> = self.all(&w.name).map(|(k, _)| k.clone()).collect();
            for key in keys {
                self.delete_stored(&w.name.clone(), key);
            }
        }
        done(object)
    }

    /// Deletes what went with its namespace or its CRD.
    fn delete_stored(&mut self, storage: &str, (namespace, name): Key) {
        let found = self.resources.iter().find(|r| r.storage_key() == storage && !r.is_core_event()).cloned();
        if let Some(resource) = found {
            let w = Write {
                resource,
                namespace,
                name,
                sub: Sub::Main,
                manager: "sim".to_owned(),
                dry_run: false,
                validation: FieldValidation::Ignore,
            };
            // It was there a moment ago, under the same lock.
            let _ = self.delete(&w, &Preconditions::default());
        }
    }

    /// DELETE of a collection: a list of what was deleted.
    pub(super) fn delete_all(&mut self, w: &Write, selector: &Selector) -> Result<Value, ApiError> {
        let found: Vec<(Key, Value)> = self
            .all(&w.resource.storage_key())
            .filter(|(key, _)| w.namespace.is_empty() || key.0 == w.namespace)
            .map(|(key, stored)| (key.clone(), Self::present(&w.resource, stored)))
            .filter(|(_, object)| selector.matches(object))
            .collect();
        let mut items = Vec::new();
        for ((namespace, name), object) in found {
            let one = Write {
                resource: w.resource.clone(),
                namespace,
                name,
                sub: Sub::Main,
                manager: w.manager.clone(),
                dry_run: w.dry_run,
                validation: w.validation,
            };
            self.delete(&one, &Preconditions::default())?;
            items.push(object);
        }
        Ok(json!({
            "kind": w.resource.list_kind, "apiVersion": w.resource.api_version(),
            "metadata": {"resourceVersion": self.version.to_string()}, "items": items,
        }))
    }
}

fn deleted_details(w: &Write, old: &Value) -> Value {
    let mut details = json!({"name": w.name});
    if !w.resource.group.is_empty() {
        details["group"] = json!(w.resource.group);
    }
    details["kind"] = json!(w.resource.plural);
    details["uid"] = json!(meta(old, "uid"));
    details
}

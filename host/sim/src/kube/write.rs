//! The rules of writing: create, replace, patch, delete, in the order in which
//! the real server applies them.
//!
//! Knows the store and the rules; no HTTP.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::builtin;
use super::json::{array, at_path, carry, field, meta, meta_mut, object_mut, set_path, text};
use super::managed::{self, Manager};
use super::patch;
use super::resources::{Resource, storage_key};
use super::schema;
use super::select::Selector;
use super::status::{ApiError, FieldError};
use super::store::{Key, State};

/// What etcd takes at most for one object.
const MAX_OBJECT: usize = 1536 * 1024;

/// Which face of the object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sub {
    Main,
    Status,
    Scale,
}

impl Sub {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Status => "status",
            Self::Scale => "scale",
        }
    }
}

/// What is done about fields that the schema does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// One write: on what, by whom, how.
pub(super) struct Write {
    pub resource: Arc<Resource>,
    pub namespace: String,
    /// Empty in a POST.
    pub name: String,
    pub sub: Sub,
    pub manager: String,
    pub dry_run: bool,
    pub validation: FieldValidation,
}

/// How a new version of an object came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Created,
    Replaced,
    Patched,
    Applied,
}

/// What a write returns.
#[derive(Debug)]
pub(super) struct Written {
    pub object: Value,
    pub code: u16,
    pub warnings: Vec<String>,
}

/// A patch as it came in.
pub(super) enum PatchBody {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    Apply { config: Value, force: bool },
}

/// What a DELETE demands.
#[derive(Default)]
pub(super) struct Preconditions {
    pub uid: Option<String>,
    pub version: Option<String>,
}

impl Write {
    fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.resource.group, &self.resource.plural, &self.name)
    }

    fn invalid(&self, name: &str, errors: &[FieldError]) -> ApiError {
        ApiError::invalid(&self.resource.group, &self.resource.kind, name, errors)
    }
}

impl State {
    fn old(&self, w: &Write) -> Result<Value, ApiError> {
        self.get(&w.resource.storage_key(), &w.key())
            .map(|stored| Self::present(&w.resource, &stored))
            .ok_or_else(|| w.not_found())
    }

    /// POST.
    pub(super) fn create(&mut self, w: &Write, object: Value) -> Result<Written, ApiError> {
        self.create_by(w, object, Origin::Created)
    }

    fn create_by(
        &mut self,
        w: &Write,
        mut object: Value,
        origin: Origin,
    ) -> Result<Written, ApiError> {
        let resource = w.resource.clone();
        check_identity(w, &mut object)?;
        if !meta(&object, "resourceVersion").is_empty() {
            return Err(ApiError::internal(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        self.check_namespace(w)?;
        let name = self.name_of(w, &mut object)?;
        if resource.status && !w.resource.is("customresourcedefinitions") {
            object_mut(&mut object).shift_remove("status");
        }
        let uid = self.uid();
        let now = self.now();
        let metadata = meta_mut(&mut object);
        for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
            metadata.shift_remove(key);
        }
        metadata.insert("uid".to_owned(), json!(uid));
        metadata.insert("creationTimestamp".to_owned(), json!(now));
        if resource.generation {
            metadata.insert("generation".to_owned(), json!(1));
        }
        let warnings = admit(w, &mut object, origin)?;
        if origin != Origin::Applied {
            meta_mut(&mut object).shift_remove("managedFields");
            managed::record(None, &mut object, &manager(w, &now), resource.raw_schema());
        }
        self.check_valid(w, &name, &object, None)?;

        let storage = resource.storage_key();
        let key = (w.namespace.clone(), name.clone());
        if self.get(&storage, &key).is_some() {
            return Err(ApiError::already_exists(&resource.group, &resource.plural, &name));
        }
        if resource.is("customresourcedefinitions") {
            builtin::definition_status(&mut object, &now);
        }
        let object = self.finish(w, key, object);
        Ok(Written { object, code: 201, warnings })
    }

    /// PUT.
    pub(super) fn replace(&mut self, w: &Write, object: Value) -> Result<Written, ApiError> {
        if w.sub == Sub::Scale {
            return self.write_scale(w, |_| Ok(object));
        }
        let old = self.old(w)?;
        self.update(w, &old, object, Origin::Replaced)
    }

    /// PATCH.
    pub(super) fn patch(&mut self, w: &Write, body: PatchBody) -> Result<Written, ApiError> {
        if w.resource.custom && matches!(body, PatchBody::Strategic(_)) {
            return Err(ApiError::unsupported_media(
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ));
        }
        if w.sub == Sub::Scale {
            return self.write_scale(w, |mut scale| {
                apply_patch(&mut scale, &body)?;
                Ok(scale)
            });
        }
        let old = match self.old(w) {
            Ok(old) => Some(old),
            Err(missing) if !matches!(body, PatchBody::Apply { .. }) || w.sub != Sub::Main => {
                return Err(missing);
            }
            Err(_) => None,
        };
        if let PatchBody::Apply { config, force } = body {
            return self.apply(w, old.as_ref(), config, force);
        }
        let Some(old) = old else { return Err(w.not_found()) };
        let mut new = old.clone();
        apply_patch(&mut new, &body)?;
        self.update(w, &old, new, Origin::Patched)
    }

    /// Server-side apply.
    fn apply(
        &mut self,
        w: &Write,
        old: Option<&Value>,
        mut config: Value,
        force: bool,
    ) -> Result<Written, ApiError> {
        check_identity(w, &mut config)?;
        if !array(field(&config, "metadata"), "managedFields").is_empty() {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let resource = w.resource.clone();
        let wanted_uid = meta(&config, "uid").to_owned();
        let have_uid = old.map_or("", |o| meta(o, "uid"));
        if !wanted_uid.is_empty() && wanted_uid != have_uid {
            let why = if old.is_none() {
                format!(
                    "uid mismatch: the provided object specified uid {wanted_uid}, and no existing object was found"
                )
            } else {
                format!(
                    "Precondition failed: UID in precondition: {wanted_uid}, UID in object meta: {have_uid}"
                )
            };
            return Err(ApiError::conflict(&resource.group, &resource.plural, &w.name, &why));
        }
        let warnings = self.decode_applied(w, &mut config)?;
        // Fields of the other face have no effect and find no owner.
        if let Value::Object(map) = &mut config {
            match w.sub {
                Sub::Status => map.retain(|key, _| {
                    matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status")
                }),
                _ if resource.status => {
                    map.shift_remove("status");
                }
                _ => {}
            }
        }
        if w.sub == Sub::Status
            && let Some(Value::Object(metadata)) = config.get_mut("metadata")
        {
            metadata.retain(|key, _| matches!(key.as_str(), "name" | "namespace" | "resourceVersion"));
        }
        let now = self.now();
        let who = manager(w, &now);
        let merged = managed::apply(old, &config, &who, resource.raw_schema(), force)
            .map_err(|conflicts| conflict_status(&conflicts))?;
        let mut written = match old {
            None => self.create_by(w, merged, Origin::Applied)?,
            Some(old) => self.update(w, old, merged, Origin::Applied)?,
        };
        written.warnings.extend(warnings);
        Ok(written)
    }

    /// The checks of an applied configuration before it is merged: with a
    /// schema, unknown fields are refused whatever the field validation.
    fn decode_applied(&self, w: &Write, config: &mut Value) -> Result<Vec<String>, ApiError> {
        if let Some(raw) = w.resource.raw_schema() {
            let mut unknown = Vec::new();
            schema::prune(&mut config.clone(), raw, &mut unknown);
            if let Some(first) = unknown.first() {
                return Err(ApiError::internal(format!(
                    "failed to create typed patch object ({}/{}; {}, Kind={}): .{first}: field not declared in schema",
                    w.namespace,
                    w.name,
                    w.resource.api_version(),
                    w.resource.kind,
                )));
            }
            return Ok(Vec::new());
        }
        admit(w, config, Origin::Applied)
    }

    /// The second half of every write on an existing object.
    fn update(
        &mut self,
        w: &Write,
        old: &Value,
        mut new: Value,
        origin: Origin,
    ) -> Result<Written, ApiError> {
        let resource = w.resource.clone();
        check_identity(w, &mut new)?;
        let (group, plural) = (&resource.group, &resource.plural);
        let version = meta(&new, "resourceVersion").to_owned();
        if version.is_empty() {
            if !resource.unconditional_update {
                let error = FieldError {
                    path: "metadata.resourceVersion".to_owned(),
                    reason: "FieldValueInvalid",
                    body: "Invalid value: 0: must be specified for an update".to_owned(),
                };
                return Err(ApiError::invalid(group, plural, &w.name, &[error]));
            }
        } else if version != meta(old, "resourceVersion") {
            return Err(ApiError::modified(group, plural, &w.name));
        }
        let uid = meta(&new, "uid");
        if !uid.is_empty() && uid != meta(old, "uid") {
            return Err(ApiError::conflict(
                group,
                plural,
                &w.name,
                &format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    meta(old, "uid")
                ),
            ));
        }
        isolate(w, old, &mut new);
        let warnings = admit(w, &mut new, origin)?;
        if resource.generation && spec_differs(&resource, old, &new) {
            let generation = field(field(old, "metadata"), "generation").as_i64().unwrap_or(0) + 1;
            meta_mut(&mut new).insert("generation".to_owned(), json!(generation));
        }
        if origin != Origin::Applied {
            let now = self.now();
            managed::record(Some(old), &mut new, &manager(w, &now), resource.raw_schema());
        }
        self.check_valid(w, &w.name, &new, Some(old))?;
        if new == *old {
            return Ok(Written { object: new, code: 200, warnings });
        }
        let object = self.finish(w, w.key(), new);
        Ok(Written { object, code: 200, warnings })
    }

    fn write_scale(
        &mut self,
        w: &Write,
        change: impl FnOnce(Value) -> Result<Value, ApiError>,
    ) -> Result<Written, ApiError> {
        let old = self.old(w)?;
        let Some(paths) = w.resource.scale.clone() else { return Err(w.not_found()) };
        let scale = change(scale_of(&w.resource, &old))?;
        let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
        if replicas < 0 {
            return Err(w.invalid(
                &w.name,
                &[FieldError::invalid(
                    "spec.replicas",
                    &json!(replicas),
                    "should be a non-negative integer",
                )],
            ));
        }
        let version = meta(&scale, "resourceVersion");
        let mut new = old.clone();
        if !version.is_empty() {
            meta_mut(&mut new).insert("resourceVersion".to_owned(), json!(version));
        }
        set_path(&mut new, &paths.spec, json!(replicas));
        let mut written = self.update(w, &old, new, Origin::Replaced)?;
        written.object = scale_of(&w.resource, &written.object);
        Ok(written)
    }

    /// Namespaces exist, and are not on their way out.
    fn check_namespace(&self, w: &Write) -> Result<(), ApiError> {
        if !w.resource.namespaced {
            return Ok(());
        }
        let key = (String::new(), w.namespace.clone());
        let Some(namespace) = self.get(&storage_key("", "namespaces"), &key) else {
            return Err(ApiError::not_found("", "namespaces", &w.namespace));
        };
        if !meta(&namespace, "deletionTimestamp").is_empty() {
            let mut error = ApiError::forbidden(
                &w.resource.group,
                &w.resource.plural,
                &w.name,
                &format!(
                    "unable to create new content in namespace {} because it is being terminated",
                    w.namespace
                ),
            );
            if let Some(details) = &mut error.details {
                details["causes"] = json!([{
                    "reason": "NamespaceTerminating",
                    "message": format!("namespace {} is being terminated", w.namespace),
                    "field": "metadata.namespace",
                }]);
            }
            return Err(error);
        }
        Ok(())
    }

    fn name_of(&mut self, w: &Write, object: &mut Value) -> Result<String, ApiError> {
        if meta(object, "name").is_empty() {
            let prefix = meta(object, "generateName").to_owned();
            if prefix.is_empty() {
                let error =
                    FieldError::required("metadata.name", "name or generateName is required");
                return Err(w.invalid("", &[error]));
            }
            let storage = w.resource.storage_key();
            let mut name = format!("{prefix}{}", self.suffix());
            while self.get(&storage, &(w.namespace.clone(), name.clone())).is_some() {
                name = format!("{prefix}{}", self.suffix());
            }
            meta_mut(object).insert("name".to_owned(), json!(name));
        }
        Ok(meta(object, "name").to_owned())
    }

    fn check_valid(
        &self,
        w: &Write,
        name: &str,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let resource = &w.resource;
        let mut errors = metadata_errors(resource, object, old);
        match &resource.schema {
            Some(schema) => {
                let mut found = schema::validate(object, old, schema, &self.cel);
                if w.sub == Sub::Status {
                    // The status is validated by itself, and speaks so.
                    for error in found.iter_mut().filter(|e| e.path.starts_with("status.")) {
                        error.body = error.body.replace(": status.", ": ");
                    }
                }
                errors.extend(found);
            }
            None if resource.is_core_event() => {
                let event = builtin::event_from_core(object);
                errors.extend(builtin::validate(resource, &event, None));
            }
            None => errors.extend(builtin::validate(resource, object, old)),
        }
        if !errors.is_empty() {
            return Err(w.invalid(name, &errors));
        }
        if object.to_string().len() > MAX_OBJECT {
            return Err(ApiError::internal("etcdserver: request is too large"));
        }
        Ok(())
    }

    /// Stores, or removes if that was the last finalizer; then lets others
    /// notice. Returns the object as its resource shows it.
    fn finish(&mut self, w: &Write, key: Key, object: Value) -> Value {
        let resource = &w.resource;
        let gone = !meta(&object, "deletionTimestamp").is_empty()
            && array(field(&object, "metadata"), "finalizers").is_empty()
            && !resource.is("namespaces");
        if w.dry_run {
            return object;
        }
        let stored =
            if resource.is_core_event() { builtin::event_from_core(&object) } else { object };
        let storage = resource.storage_key();
        let result = if gone {
            // The answer shows the last state, the watches what was stored before.
            self.remove(&storage, key, Some(stored))
        } else {
            self.commit(&storage, key, Some(stored))
        };
        if resource.is("customresourcedefinitions") {
            self.reload_definitions();
        }
        Self::present(resource, &result)
    }

    /// Removes an object and whatever only waited for that.
    fn remove(&mut self, storage: &str, key: Key, last: Option<Value>) -> Arc<Value> {
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
        let waiting = self
            .get(&definitions, &key)
            .is_some_and(|d| !meta(&d, "deletionTimestamp").is_empty());
        if waiting && self.all(storage).next().is_none() {
            self.commit(&definitions, key, None);
            self.reload_definitions();
        }
    }

    /// A namespace on its way out goes with the last of its objects.
    fn end_namespace(&mut self, name: &str) {
        let storage = storage_key("", "namespaces");
        let key = (String::new(), name.to_owned());
        let waiting =
            self.get(&storage, &key).is_some_and(|n| !meta(&n, "deletionTimestamp").is_empty());
        if waiting && self.in_namespace(name).is_empty() {
            self.commit(&storage, key, None);
        }
    }

    /// DELETE of one object.
    pub(super) fn delete(
        &mut self,
        w: &Write,
        preconditions: &Preconditions,
    ) -> Result<Written, ApiError> {
        let resource = w.resource.clone();
        let old = self.old(w)?;
        check_preconditions(w, preconditions, &old)?;
        let storage = resource.storage_key();
        let done = |object| Ok(Written { object, code: 200, warnings: Vec::new() });
        let content_remains = resource.is("customresourcedefinitions")
            && self.all(&w.name).next().is_some();
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
            metadata.insert(
                "finalizers".to_owned(),
                json!(["customresourcecleanup.apiextensions.k8s.io"]),
            );
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
        let found = self
            .resources
            .iter()
            .find(|r| r.storage_key() == storage && !r.is_core_event())
            .cloned();
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

/// Decoding: pruning, unknown fields, defaults. Returns warnings.
fn admit(w: &Write, object: &mut Value, origin: Origin) -> Result<Vec<String>, ApiError> {
    let resource = &w.resource;
    let as_sent = (origin == Origin::Patched).then(|| object.to_string());
    let refused = |why: String| match &as_sent {
        Some(text) => {
            let error = FieldError::invalid("patch", &json!(text), &why);
            ApiError::invalid("", "", "", &[error])
        }
        None => ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {why}",
            resource.kind, resource.version, resource.kind
        )),
    };
    if let Some(why) = wrong_types(resource, object) {
        return Err(refused(why));
    }
    let mut unknown = Vec::new();
    match resource.raw_schema() {
        Some(raw) => {
            schema::prune(object, raw, &mut unknown);
            schema::default(object, raw);
        }
        None if resource.is_core_event() => {}
        None => builtin::normalise(resource, object, &mut unknown),
    }
    unknown.sort_unstable();
    let words: Vec<String> = unknown.iter().map(|u| format!("unknown field {u:?}")).collect();
    match w.validation {
        FieldValidation::Strict if !words.is_empty() => {
            Err(refused(format!("strict decoding error: {}", words.join(", "))))
        }
        FieldValidation::Warn => Ok(words),
        FieldValidation::Strict | FieldValidation::Ignore => Ok(Vec::new()),
    }
}

fn manager<'a>(w: &'a Write, now: &'a str) -> Manager<'a> {
    Manager {
        name: &w.manager,
        api_version: w.resource.api_version(),
        subresource: w.sub.name(),
        now,
    }
}

fn apply_patch(object: &mut Value, body: &PatchBody) -> Result<(), ApiError> {
    match body {
        PatchBody::Json(body) => patch::json_patch(object, body)?,
        PatchBody::Merge(body) => patch::merge_patch(object, body),
        PatchBody::Strategic(body) => patch::strategic(object, body),
        PatchBody::Apply { config, .. } => patch::merge_patch(object, config),
    }
    Ok(())
}

/// Name, namespace and kind fit the URL; what is missing is filled in.
fn check_identity(w: &Write, object: &mut Value) -> Result<(), ApiError> {
    let resource = &w.resource;
    if !object.is_object() {
        return Err(ApiError::bad_request("the body is not an object"));
    }
    let api_version = resource.api_version();
    for (key, expected) in [("apiVersion", &api_version), ("kind", &resource.kind)] {
        let given = text(object, key);
        if given.is_empty() {
            if resource.custom {
                return Err(ApiError::bad_request(format!(
                    "Object '{}' is missing in '{object}'",
                    if key == "kind" { "Kind" } else { "apiVersion" }
                )));
            }
        } else if given != expected {
            let what = if key == "kind" { "kind" } else { "API version" };
            return Err(ApiError::bad_request(format!(
                "the {what} in the data ({given}) does not match the expected {what} ({expected})"
            )));
        }
        object_mut(object).insert(key.to_owned(), json!(expected));
    }
    let name = meta(object, "name").to_owned();
    if !w.name.is_empty() {
        if name.is_empty() {
            meta_mut(object).insert("name".to_owned(), json!(w.name));
        } else if name != w.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                w.name
            )));
        }
    }
    if resource.namespaced {
        let namespace = meta(object, "namespace").to_owned();
        if namespace.is_empty() {
            meta_mut(object).insert("namespace".to_owned(), json!(w.namespace));
        } else if namespace != w.namespace {
            return Err(ApiError::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request ({namespace} != {})",
                w.namespace
            )));
        }
    }
    Ok(())
}

/// What the server keeps to itself, and what the other face of the object may
/// not touch, is as it was.
fn isolate(w: &Write, old: &Value, new: &mut Value) {
    let resource = &w.resource;
    let old_metadata = field(old, "metadata");
    match w.sub {
        Sub::Status => {
            let status = new.get("status").cloned();
            let managed = array(field(new, "metadata"), "managedFields").to_vec();
            let mut kept = old.clone();
            match status {
                Some(status) => object_mut(&mut kept).insert("status".to_owned(), status),
                None => object_mut(&mut kept).shift_remove("status"),
            };
            if !managed.is_empty() {
                meta_mut(&mut kept).insert("managedFields".to_owned(), Value::Array(managed));
            }
            *new = kept;
        }
        Sub::Main | Sub::Scale => {
            if resource.status {
                carry(old, object_mut(new), "status");
            }
        }
    }
    let metadata = meta_mut(new);
    for key in [
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "resourceVersion",
        "selfLink",
    ] {
        carry(old_metadata, metadata, key);
    }
}

/// Whether the generation rises: anything but metadata and status.
fn spec_differs(resource: &Resource, old: &Value, new: &Value) -> bool {
    let rest = |object: &Value| -> Map<String, Value> {
        object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| {
                !matches!(key.as_str(), "apiVersion" | "kind" | "metadata")
                    && !(resource.status && *key == "status")
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    rest(old) != rest(new)
}

fn check_preconditions(
    w: &Write,
    preconditions: &Preconditions,
    old: &Value,
) -> Result<(), ApiError> {
    for (what, wanted, have, end) in [
        ("UID", &preconditions.uid, meta(old, "uid"), "deleted and then recreated"),
        ("ResourceVersion", &preconditions.version, meta(old, "resourceVersion"), "modified"),
    ] {
        if let Some(wanted) = wanted
            && wanted != have
        {
            return Err(ApiError::conflict(
                &w.resource.group,
                &w.resource.plural,
                &w.name,
                &format!(
                    "the {what} in the precondition ({wanted}) does not match the {what} in record ({have}). The object might have been {end}"
                ),
            ));
        }
    }
    Ok(())
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

/// The object's `autoscaling/v1` Scale.
pub(super) fn scale_of(resource: &Resource, object: &Value) -> Value {
    let Some(paths) = &resource.scale else { return Value::Null };
    let number = |path: &str| {
        at_path(object, path).first().and_then(|v| v.as_i64()).unwrap_or(0)
    };
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        let value = meta(object, key);
        if !value.is_empty() {
            metadata[key] = json!(value);
        }
    }
    let mut status = json!({"replicas": number(&paths.status)});
    let selector = match &paths.selector {
        Some(path) => at_path(object, path).first().and_then(|v| v.as_str()).map(str::to_owned),
        None => object.pointer("/spec/selector/matchLabels").and_then(Value::as_object).map(|m| {
            let pairs: Vec<String> =
                m.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
            pairs.join(",")
        }),
    };
    if let Some(selector) = selector.filter(|s| !s.is_empty()) {
        status["selector"] = json!(selector);
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": number(&paths.spec)}, "status": status,
    })
}

fn conflict_status(conflicts: &[managed::Conflict]) -> ApiError {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|c| {
            json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {}", c.manager),
                "field": c.path,
            })
        })
        .collect();
    let message = if let [one] = conflicts {
        format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.path)
    } else {
        let mut managers: Vec<&str> = conflicts.iter().map(|c| c.manager.as_str()).collect();
        managers.sort_unstable();
        managers.dedup();
        let blocks: Vec<String> = managers
            .into_iter()
            .map(|m| {
                let paths: Vec<String> = conflicts
                    .iter()
                    .filter(|c| c.manager == m)
                    .map(|c| format!("- {}", c.path))
                    .collect();
                format!("conflicts with {m}:\n{}", paths.join("\n"))
            })
            .collect();
        format!("Apply failed with {} conflicts: {}", conflicts.len(), blocks.join("\n"))
    };
    let mut error = ApiError::new(409, "Conflict", message);
    error.details = Some(json!({"causes": causes}));
    error
}

/// What typed decoding would stumble over.
fn wrong_types(resource: &Resource, object: &Value) -> Option<String> {
    let metadata = field(object, "metadata");
    let unfit = |value: &Value, at: String| {
        let kind = match value {
            Value::String(_) | Value::Null => return None,
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        Some(format!("json: cannot unmarshal {kind} into Go struct field {at} of type string"))
    };
    for key in ["labels", "annotations"] {
        match metadata.get(key) {
            Some(Value::Object(map)) => {
                let bad = map.values().find_map(|v| unfit(v, format!("ObjectMeta.metadata.{key}")));
                if bad.is_some() {
                    return bad;
                }
            }
            None | Some(Value::Null) => {}
            Some(_) => return Some(format!("json: cannot unmarshal into metadata.{key}")),
        }
    }
    if !(resource.is("configmaps") || resource.is("secrets")) {
        return None;
    }
    for key in ["data", "binaryData", "stringData"] {
        let coded = key == "binaryData" || (key == "data" && resource.is("secrets"));
        for value in field(object, key).as_object().into_iter().flat_map(Map::values) {
            if let Some(why) = unfit(value, format!("{}.{key}", resource.kind)) {
                return Some(why);
            }
            if coded && !value.as_str().is_none_or(builtin::is_base64) {
                return Some("illegal base64 data at input byte 0".to_owned());
            }
        }
    }
    None
}

fn is_label(part: &str) -> bool {
    !part.is_empty()
        && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !part.starts_with('-')
        && !part.ends_with('-')
}

fn metadata_errors(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let metadata = field(object, "metadata");
    let name = text(metadata, "name");
    let rbac = resource.group == "rbac.authorization.k8s.io";
    if old.is_none() && !rbac {
        if resource.is("namespaces") {
            if name.len() > 63 || !is_label(name) {
                errors.push(FieldError::invalid(
                    "metadata.name",
                    &json!(name),
                    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ));
            }
        } else if name.len() > 253 || !name.split('.').all(is_label) {
            errors.push(FieldError::invalid(
                "metadata.name",
                &json!(name),
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ));
        }
    }
    for (_, value) in field(metadata, "labels").as_object().into_iter().flatten() {
        let value_text = value.as_str().unwrap_or_default();
        let inner = value_text.trim_matches(['-', '_', '.']);
        let legal = value_text.len() <= 63
            && inner.len() == value_text.len()
            && value_text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !legal {
            errors.push(FieldError::invalid(
                "metadata.labels",
                value,
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ));
        }
    }
    let finalizers = array(metadata, "finalizers");
    for (i, finalizer) in finalizers.iter().enumerate() {
        if !resource.custom && !finalizer.as_str().is_some_and(|f| f.contains('/') || f == "kubernetes" || f.contains('.')) {
            errors.push(FieldError::invalid(
                format!("metadata.finalizers[{i}]"),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    if let Some(old) = old.filter(|o| !meta(o, "deletionTimestamp").is_empty()) {
        let before = array(field(old, "metadata"), "finalizers");
        let added: Vec<String> = finalizers
            .iter()
            .filter(|f| !before.contains(f))
            .map(ToString::to_string)
            .collect();
        if !added.is_empty() {
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            ));
        }
    }
    errors
}

//! The rules of writing: create, replace, patch, delete, in the order in which
//! the real server applies them.
//!
//! Knows the store and the rules; no HTTP.

use std::sync::Arc;

use serde_json::{Value, json};

use super::builtin;
use super::checks::{admit, check_identity, decode_applied, isolate, metadata_errors, scale_errors, spec_differs};
use super::json::{array, at_path, field, meta, meta_mut, object_mut, set_path};
use super::managed::{self, Manager};
use super::patch;
use super::resources::{Resource, storage_key};
use super::schema;
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
pub(super) enum Origin {
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
    pub(super) fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.resource.group, &self.resource.plural, &self.name)
    }

    pub(super) fn invalid(&self, name: &str, errors: &[FieldError]) -> ApiError {
        ApiError::invalid(&self.resource.group, &self.resource.kind, name, errors)
    }
}

impl State {
    pub(super) fn old(&self, w: &Write) -> Result<Value, ApiError> {
        self.get(&w.resource.storage_key(), &w.key())
            .map(|stored| Self::present(&w.resource, &stored))
            .ok_or_else(|| w.not_found())
    }

    /// POST.
    pub(super) fn create(&mut self, w: &Write, object: Value) -> Result<Written, ApiError> {
        self.create_by(w, object, Origin::Created)
    }

    fn create_by(&mut self, w: &Write, mut object: Value, origin: Origin) -> Result<Written, ApiError> {
        let resource = w.resource.clone();
        check_identity(w, &mut object)?;
        if !meta(&object, "resourceVersion").is_empty() {
            return Err(ApiError::internal("resourceVersion should not be set on objects to be created"));
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
        if let Some(there) = self.get(&storage, &key) {
            let mut error = ApiError::already_exists(&resource.group, &resource.plural, &name);
            if !meta(&there, "deletionTimestamp").is_empty() {
                error.message.insert_str(0, "object is being deleted: ");
            }
            return Err(error);
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
        let mut object = object;
        check_identity(w, &mut object)?;
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
    fn apply(&mut self, w: &Write, old: Option<&Value>, mut config: Value, force: bool) -> Result<Written, ApiError> {
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
                format!("Precondition failed: UID in precondition: {wanted_uid}, UID in object meta: {have_uid}")
            };
            return Err(ApiError::conflict(&resource.group, &resource.plural, &w.name, &why));
        }
        let warnings = decode_applied(w, &mut config)?;
        // Fields of the other face have no effect and find no owner.
        if let Value::Object(map) = &mut config {
            match w.sub {
                Sub::Status => {
                    map.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
                }
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

    /// The second half of every write on an existing object.
    fn update(&mut self, w: &Write, old: &Value, mut new: Value, origin: Origin) -> Result<Written, ApiError> {
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
            if origin == Origin::Patched {
                let error = FieldError::invalid("metadata.uid", &json!(uid), "field is immutable");
                return Err(w.invalid(&w.name, &[error]));
            }
            return Err(ApiError::conflict(
                group,
                plural,
                &w.name,
                &format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", meta(old, "uid")),
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
                &[FieldError::invalid("spec.replicas", &json!(replicas), "should be a non-negative integer")],
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
                &format!("unable to create new content in namespace {} because it is being terminated", w.namespace),
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
                let error = FieldError::required("metadata.name", "name or generateName is required");
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

    fn check_valid(&self, w: &Write, name: &str, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let resource = &w.resource;
        let mut errors = metadata_errors(resource, object, old);
        match &resource.schema {
            Some(schema) => {
                errors.extend(scale_errors(w, object));
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
        let stored = if resource.is_core_event() { builtin::event_from_core(&object) } else { object };
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
}

fn manager<'a>(w: &'a Write, now: &'a str) -> Manager<'a> {
    Manager { name: &w.manager, api_version: w.resource.api_version(), subresource: w.sub.name(), now }
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

/// The object's `autoscaling/v1` Scale.
pub(super) fn scale_of(resource: &Resource, object: &Value) -> Value {
    let Some(paths) = &resource.scale else { return Value::Null };
    let number = |path: &str| at_path(object, path).first().and_then(|v| v.as_i64()).unwrap_or(0);
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
            let pairs: Vec<String> = m.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
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
                let paths: Vec<String> =
                    conflicts.iter().filter(|c| c.manager == m).map(|c| format!("- {}", c.path)).collect();
                format!("conflicts with {m}:\n{}", paths.join("\n"))
            })
            .collect();
        format!("Apply failed with {} conflicts: {}", conflicts.len(), blocks.join("\n"))
    };
    let mut error = ApiError::new(409, "Conflict", message);
    error.details = Some(json!({"causes": causes}));
    error
}

//! What is checked of an object before it is stored: identity, decoding,
//! isolation of status from spec, metadata.
//!
//! Knows one object and its predecessor; nothing of the store.

use serde_json::{Map, Value, json};

use super::json::{array, at_path, carry, field, meta, meta_mut, object_mut, text};
use super::resources::Resource;
use super::status::{ApiError, FieldError};
use super::write::{FieldValidation, Origin, Preconditions, Sub, Write};
use super::{builtin, schema};

/// Decoding: pruning, unknown fields, defaults. Returns warnings.
pub(super) fn admit(w: &Write, object: &mut Value, origin: Origin) -> Result<Vec<String>, ApiError> {
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

/// Name, namespace and kind fit the URL; what is missing is filled in.
pub(super) fn check_identity(w: &Write, object: &mut Value) -> Result<(), ApiError> {
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
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

/// What the server keeps to itself, and what the other face of the object may
/// not touch, is as it was.
pub(super) fn isolate(w: &Write, old: &Value, new: &mut Value) {
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
pub(super) fn spec_differs(resource: &Resource, old: &Value, new: &Value) -> bool {
    let rest = |object: &Value| -> Map<String, Value> {
        object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| {
                !(matches!(key.as_str(), "apiVersion" | "kind" | "metadata") || resource.status && *key == "status")
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    rest(old) != rest(new)
}

pub(super) fn check_preconditions(w: &Write, preconditions: &Preconditions, old: &Value) -> Result<(), ApiError> {
    for (what, wanted, have, end) in [
        ("UID", &preconditions.uid, meta(old, "uid"), "deleted and then recreated"),
        ("ResourceVersion", &preconditions.version, meta(old, "resourceVersion"), "modified"),
    ] {
        if let Some(wanted) = wanted
            && wanted != have
        {
            return Err(ApiError::conflict(
                &w.resource.group,
                // The real one puts the kind where the resource belongs.
                &w.resource.kind,
                &w.name,
                &format!(
                    "the {what} in the precondition ({wanted}) does not match the {what} in record ({have}). The object might have been {end}"
                ),
            ));
        }
    }
    Ok(())
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

pub(super) fn metadata_errors(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
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
        if !resource.custom
            && !finalizer.as_str().is_some_and(|f| f.contains('/') || f == "kubernetes" || f.contains('.'))
        {
            errors.push(FieldError::invalid(
                format!("metadata.finalizers[{i}]"),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    if let Some(old) = old.filter(|o| !meta(o, "deletionTimestamp").is_empty()) {
        let before = array(field(old, "metadata"), "finalizers");
        let added: Vec<String> = finalizers.iter().filter(|f| !before.contains(f)).map(ToString::to_string).collect();
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

/// The checks of an applied configuration before it is merged: with a
/// schema, unknown fields are refused whatever the field validation.
pub(super) fn decode_applied(w: &Write, config: &mut Value) -> Result<Vec<String>, ApiError> {
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

/// Where the scale's numbers are negative.
pub(super) fn scale_errors(w: &Write, object: &Value) -> Vec<FieldError> {
    let Some(scale) = &w.resource.scale else { return Vec::new() };
    let spec = Some(&scale.spec).filter(|_| w.sub != Sub::Status);
    spec.into_iter()
        .chain([&scale.status])
        .filter_map(|path| {
            let n = at_path(object, path).first()?.as_i64()?;
            (n < 0).then(|| FieldError::invalid(path, &json!(n), "should be a non-negative integer"))
        })
        .collect()
}

//! What the API does to built-in kinds beyond storing them: defaults, checks,
//! and the `core/v1` view of events.
//!
//! Knows one object and its predecessor; nothing of the store.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::json::{array, child_mut, field, meta, meta_mut, object_mut, text};
use super::resources::Resource;
use super::schema;
use super::status::FieldError;

/// What a ConfigMap or Secret may hold.
const MAX_DATA: usize = 1024 * 1024;

pub(super) fn is_base64(text: &str) -> bool {
    STANDARD.decode(text).is_ok()
}

fn keys_known(resource: &Resource) -> Option<&'static [&'static str]> {
    match resource.plural.as_str() {
        "configmaps" => Some(&["data", "binaryData", "immutable"]),
        "secrets" => Some(&["data", "stringData", "type", "immutable"]),
        "leases" => Some(&["spec"]),
        "serviceaccounts" => Some(&["secrets", "imagePullSecrets", "automountServiceAccountToken"]),
        _ => None,
    }
}

/// Drops nulls, which typed decoding does not keep.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Decoding, defaulting and the strategies' own changes. Unknown fields are
/// removed and named in `unknown`.
pub(super) fn normalise(resource: &Resource, object: &mut Value, unknown: &mut Vec<String>) {
    if resource.plural != "customresourcedefinitions" {
        drop_nulls(object);
    }
    if let (Some(known), Value::Object(map)) = (keys_known(resource), &mut *object) {
        map.retain(|key, _| {
            let keep = matches!(key.as_str(), "apiVersion" | "kind" | "metadata") || known.contains(&key.as_str());
            if !keep {
                unknown.push(key.clone());
            }
            keep
        });
    }
    match resource.plural.as_str() {
        "secrets" => secret(object),
        "namespaces" => namespace(object),
        "customresourcedefinitions" => definition(object),
        "deployments" => {
            let spec = child_mut(object, "spec");
            spec.entry("replicas").or_insert(json!(1));
        }
        _ => {}
    }
}

fn secret(object: &mut Value) {
    let plain = object_mut(object).shift_remove("stringData");
    if let Some(Value::Object(plain)) = plain {
        let data = child_mut(object, "data");
        for (key, value) in plain {
            let text = value.as_str().unwrap_or_default();
            data.insert(key, json!(STANDARD.encode(text)));
        }
    }
    object_mut(object).entry("type").or_insert(json!("Opaque"));
}

fn namespace(object: &mut Value) {
    let name = meta(object, "name").to_owned();
    let metadata = meta_mut(object);
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    object_mut(labels).insert("kubernetes.io/metadata.name".to_owned(), json!(name));
    child_mut(object, "spec").entry("finalizers").or_insert(json!(["kubernetes"]));
    child_mut(object, "status").entry("phase").or_insert(json!("Active"));
}

/// Defaults of a CRD. Its status is [`definition_status`]'s.
fn definition(object: &mut Value) {
    let spec = child_mut(object, "spec");
    spec.entry("conversion").or_insert(json!({"strategy": "None"}));
    if let Some(names) = spec.get_mut("names") {
        let kind = text(names, "kind").to_owned();
        let names = object_mut(names);
        if !kind.is_empty() {
            names.entry("singular").or_insert(json!(kind.to_lowercase()));
            names.entry("listKind").or_insert(json!(format!("{kind}List")));
        }
    }
}

/// The status that the naming and establishing controllers give a CRD.
pub(super) fn definition_status(object: &mut Value, now: &str) {
    let spec = field(object, "spec").clone();
    let status = child_mut(object, "status");
    let stored: Vec<Value> = array(&spec, "versions")
        .iter()
        .filter(|v| v.get("storage") == Some(&json!(true)))
        .map(|v| field(v, "name").clone())
        .collect();
    let versions = status.entry("storedVersions").or_insert_with(|| json!([]));
    if let Value::Array(list) = versions {
        for version in stored {
            if !list.contains(&version) {
                list.push(version);
            }
        }
    }
    status.insert("acceptedNames".to_owned(), field(&spec, "names").clone());
    status.entry("conditions").or_insert_with(|| {
        let condition = |kind: &str, reason: &str, message: &str| {
            json!({
                "type": kind, "status": "True", "reason": reason, "message": message,
                "lastTransitionTime": now,
            })
        };
        json!([
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ])
    });
}

/// The kinds' own validation.
pub(super) fn validate(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match resource.plural.as_str() {
        "configmaps" => config_data(object, old, &mut errors),
        "secrets" => secret_data(object, old, &mut errors),
        "leases" => lease(object, &mut errors),
        "events" => event(object, resource.is_core_event(), &mut errors),
        "customresourcedefinitions" => definition_errors(object, &mut errors),
        _ => {}
    }
    errors
}

fn immutable(object: &Value, old: Option<&Value>, keys: &[&str], errors: &mut Vec<FieldError>) {
    let Some(old) = old.filter(|o| o.get("immutable") == Some(&json!(true))) else { return };
    for key in keys.iter().chain(&["immutable"]) {
        if object.get(*key) != old.get(*key) {
            errors.push(FieldError::forbidden(*key, "field is immutable when `immutable` is set"));
        }
    }
}

fn data_keys(object: &Value, key: &str, errors: &mut Vec<FieldError>) -> usize {
    let Some(map) = field(object, key).as_object() else { return 0 };
    let mut size = 0;
    for (name, value) in map {
        let at = format!("{key}[{name}]");
        let legal = !name.is_empty()
            && name.len() <= 253
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if !legal {
            errors.push(FieldError::invalid(
                &at,
                &json!(name),
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            ));
        }
        let text = value.as_str().unwrap_or_default();
        size += if key == "binaryData" { text.trim_end_matches('=').len() * 3 / 4 } else { text.len() };
    }
    size
}

fn config_data(object: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let size = data_keys(object, "data", errors) + data_keys(object, "binaryData", errors);
    if let (Some(data), Some(binary)) = (field(object, "data").as_object(), field(object, "binaryData").as_object()) {
        for key in binary.keys().filter(|k| data.contains_key(*k)) {
            errors.push(FieldError::invalid(
                format!("data[{key}]"),
                &json!(key),
                "duplicate of key present in binaryData",
            ));
        }
    }
    if size > MAX_DATA {
        errors.push(FieldError::too_long("[]", MAX_DATA as u64));
    }
    immutable(object, old, &["data", "binaryData"], errors);
}

fn secret_data(object: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    data_keys(object, "data", errors);
    let size: usize = field(object, "data")
        .as_object()
        .into_iter()
        .flat_map(Map::values)
        .map(|v| v.as_str().unwrap_or_default().trim_end_matches('=').len() * 3 / 4)
        .sum();
    if size > MAX_DATA {
        errors.push(FieldError::too_long("data", MAX_DATA as u64));
    }
    if let Some(old) = old
        && old.get("type") != object.get("type")
    {
        errors.push(FieldError::invalid("type", field(object, "type"), "field is immutable"));
    }
    immutable(object, old, &["data"], errors);
}

fn lease(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = field(object, "spec");
    for (key, least) in [("leaseDurationSeconds", 1), ("leaseTransitions", 0)] {
        if let Some(n) = spec.get(key).and_then(Value::as_i64)
            && n < least
        {
            errors.push(FieldError::invalid(
                format!("spec.{key}"),
                &json!(n),
                if least == 1 { "must be greater than 0" } else { "must be greater than or equal to 0" },
            ));
        }
    }
}

/// Checks of an event in its `events.k8s.io` form. Only through `core/v1` must
/// it lie in the namespace of what it is about, if that has one.
fn event(object: &Value, core: bool, errors: &mut Vec<FieldError>) {
    let namespace = meta(object, "namespace");
    let about = text(field(object, "regarding"), "namespace");
    let misplaced =
        if about.is_empty() { !matches!(namespace, "default" | "kube-system") } else { core && namespace != about };
    if misplaced {
        errors.push(FieldError::invalid("involvedObject.namespace", &json!(about), "does not match event.namespace"));
    }
    // Events made through core/v1 need none of the following.
    if core {
        return;
    }
    for (key, max) in [("reportingController", 0), ("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        let value = text(object, key);
        if value.is_empty() {
            errors.push(FieldError::required(key, ""));
        } else if max > 0 && value.len() > max {
            errors.push(FieldError::invalid(key, &json!(""), &format!("can have at most {max} characters")));
        }
    }
    if text(object, "note").len() > 1024 {
        errors.push(FieldError::invalid("message", &json!(""), "can have at most 1024 characters"));
    }
    if !matches!(text(object, "type"), "Normal" | "Warning") {
        let detail = format!("has invalid value: {}", text(object, "type"));
        errors.push(FieldError::invalid("type", &json!(""), &detail));
    }
}

fn definition_errors(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = field(object, "spec");
    let names = field(spec, "names");
    let expected = format!("{}.{}", text(names, "plural"), text(spec, "group"));
    if meta(object, "name") != expected {
        errors.push(FieldError::invalid(
            "metadata.name",
            &json!(meta(object, "name")),
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    for (at, value) in [
        ("spec.group", text(spec, "group")),
        ("spec.scope", text(spec, "scope")),
        ("spec.names.plural", text(names, "plural")),
        ("spec.names.kind", text(names, "kind")),
    ] {
        if value.is_empty() {
            errors.push(FieldError::required(at, ""));
        }
    }
    let versions = array(spec, "versions");
    if versions.is_empty() {
        errors.push(FieldError::invalid(
            "spec.versions",
            &json!(""),
            "must have exactly one version marked as storage version",
        ));
    }
    for (i, version) in versions.iter().enumerate() {
        // A single version's schema is what the real one keeps for all of them.
        let at = match versions {
            [_] => "spec.validation.openAPIV3Schema".to_owned(),
            _ => format!("spec.versions[{i}].schema.openAPIV3Schema"),
        };
        match version.pointer("/schema/openAPIV3Schema") {
            None => errors.push(FieldError::required(at, "schemas are required")),
            Some(raw) => {
                schema::structural(raw, &at, errors);
                if errors.is_empty() {
                    rule_errors(raw, &at, errors);
                }
            }
        }
    }
}

/// CEL rules that do not compile.
fn rule_errors(raw: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (i, rule) in array(raw, "x-kubernetes-validations").iter().enumerate() {
        if let Err(e) = kube_cel::cel::Program::compile(text(rule, "rule")) {
            errors.push(FieldError::invalid(
                format!("{at}.x-kubernetes-validations[{i}].rule"),
                rule,
                &format!("compilation failed: {e}"),
            ));
        }
    }
    if let Some(properties) = raw.get("properties").and_then(Value::as_object) {
        for (key, below) in properties {
            rule_errors(below, &format!("{at}.properties[{key}]"), errors);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(below) = raw.get(key) {
            rule_errors(below, &format!("{at}.{key}"), errors);
        }
    }
}

/// Fields of an event under their two names: `events.k8s.io/v1`, `core/v1`.
const EVENT_NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// An event as `core/v1` shows it.
pub(super) fn event_to_core(event: &Value) -> Value {
    let mut core = renamed(event, |key| EVENT_NAMES.iter().find(|n| n.0 == key).map(|n| n.1));
    let map = object_mut(&mut core);
    map.insert("apiVersion".to_owned(), json!("v1"));
    // Go writes these even when they are empty.
    map.entry("source").or_insert_with(|| json!({}));
    for key in ["firstTimestamp", "lastTimestamp", "eventTime"] {
        map.entry(key).or_insert(Value::Null);
    }
    for key in ["reportingComponent", "reportingInstance"] {
        map.entry(key).or_insert(json!(""));
    }
    core
}

/// A `core/v1` event as it is stored.
pub(super) fn event_from_core(core: &Value) -> Value {
    let mut event = renamed(core, |key| EVENT_NAMES.iter().find(|n| n.1 == key).map(|n| n.0));
    object_mut(&mut event).insert("apiVersion".to_owned(), json!("events.k8s.io/v1"));
    drop_nulls(&mut event);
    event
}

fn renamed(object: &Value, name: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Some(map) = object.as_object() else { return object.clone() };
    map.iter()
        .map(|(key, value)| (name(key).map_or_else(|| key.clone(), str::to_owned), value.clone()))
        .collect::<Map<_, _>>()
        .into()
}

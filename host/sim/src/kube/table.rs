//! `kubectl get`'s tables: columns and cells, ages already in words.
//!
//! Knows one object at a time and the clock's reading; nothing of the store.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::json::{at_path, field, meta, text};
use super::resources::{Column, Resource};

/// How much of each object a table's row carries (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Include {
    None,
    Metadata,
    Object,
}

/// The object's metadata alone.
pub(super) fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": field(object, "metadata"),
    })
}

/// A table of `objects`. `definitions` is false for a watch's later events,
/// which repeat no columns.
pub(super) fn table(
    resource: &Resource,
    objects: &[Value],
    list_metadata: &Value,
    now: Timestamp,
    include: Include,
    definitions: bool,
) -> Value {
    let columns = columns(resource);
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut row = json!({"cells": cells(resource, object, now)});
            match include {
                Include::None => {}
                Include::Metadata => row["object"] = partial(object),
                Include::Object => row["object"] = object.clone(),
            }
            row
        })
        .collect();
    let definitions: Vec<Value> = if definitions {
        columns
            .iter()
            .map(|c| {
                json!({
                    "name": c.name, "type": c.kind, "format": c.format,
                    "description": c.description, "priority": c.priority,
                })
            })
            .collect()
    } else {
        Vec::new()
    };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

fn built_in_columns(resource: &Resource) -> &'static [(&'static str, &'static str)] {
    match resource.plural.as_str() {
        "configmaps" => &[("Name", "string"), ("Data", "string"), ("Age", "string")],
        "secrets" => &[("Name", "string"), ("Type", "string"), ("Data", "string"), ("Age", "string")],
        "namespaces" => &[("Name", "string"), ("Status", "string"), ("Age", "string")],
        "leases" => &[("Name", "string"), ("Holder", "string"), ("Age", "string")],
        "events" => &[
            ("Last Seen", "string"),
            ("Type", "string"),
            ("Reason", "string"),
            ("Object", "string"),
            ("Message", "string"),
        ],
        "deployments" => &[
            ("Name", "string"),
            ("Ready", "string"),
            ("Up-to-date", "string"),
            ("Available", "string"),
            ("Age", "string"),
        ],
        "customresourcedefinitions" | "roles" | "clusterroles" => &[("Name", "string"), ("Created At", "string")],
        "rolebindings" | "clusterrolebindings" => &[("Name", "string"), ("Role", "string"), ("Age", "string")],
        _ => &[("Name", "string"), ("Age", "string")],
    }
}

fn columns(resource: &Resource) -> Vec<Column> {
    let column = |name: &str, kind: &str| Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format: if name == "Name" { "name".to_owned() } else { String::new() },
        description: if name == "Name" {
            "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names".to_owned()
        } else {
            String::new()
        },
        priority: 0,
        path: String::new(),
    };
    if resource.custom {
        let mut all = vec![column("Name", "string")];
        all.extend(resource.columns.iter().cloned());
        all
    } else {
        built_in_columns(resource).iter().map(|(name, kind)| column(name, kind)).collect()
    }
}

fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    let name = json!(meta(object, "name"));
    let created = meta(object, "creationTimestamp");
    let age = json!(age(created, now));
    if resource.custom {
        let mut cells = vec![name];
        cells.extend(resource.columns.iter().map(|c| cell(c, object, now)));
        return cells;
    }
    let count = |key: &str| field(object, key).as_object().map_or(0, serde_json::Map::len);
    match resource.plural.as_str() {
        "configmaps" => vec![name, json!((count("data") + count("binaryData")).to_string()), age],
        "secrets" => {
            vec![name, json!(text(object, "type")), json!(count("data").to_string()), age]
        }
        "namespaces" => vec![name, json!(text(field(object, "status"), "phase")), age],
        "leases" => vec![name, json!(text(field(object, "spec"), "holderIdentity")), age],
        "events" => event_cells(resource, object, now),
        "deployments" => {
            let status = field(object, "status");
            let n = |key: &str| status.get(key).and_then(Value::as_i64).unwrap_or(0);
            let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
            vec![
                name,
                json!(format!("{}/{wanted}", n("readyReplicas"))),
                json!(n("updatedReplicas").to_string()),
                json!(n("availableReplicas").to_string()),
                age,
            ]
        }
        "customresourcedefinitions" | "roles" | "clusterroles" => vec![name, json!(created)],
        "rolebindings" | "clusterrolebindings" => {
            let role = field(object, "roleRef");
            vec![name, json!(format!("{}/{}", text(role, "kind"), text(role, "name"))), age]
        }
        _ => vec![name, age],
    }
}

fn event_cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    let core = if resource.group.is_empty() { object.clone() } else { super::builtin::event_to_core(object) };
    let about = field(&core, "involvedObject");
    let seen = [
        text(field(&core, "series"), "lastObservedTime"),
        text(&core, "lastTimestamp"),
        text(&core, "eventTime"),
        meta(&core, "creationTimestamp"),
    ]
    .into_iter()
    .find(|t| !t.is_empty())
    .unwrap_or_default();
    vec![
        json!(age(seen, now)),
        json!(text(&core, "type")),
        json!(text(&core, "reason")),
        json!(format!("{}/{}", text(about, "kind").to_lowercase(), text(about, "name"))),
        json!(text(&core, "message").trim()),
    ]
}

fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    let found = at_path(object, &column.path);
    let Some(first) = found.first() else { return Value::Null };
    match (column.kind.as_str(), first) {
        (_, Value::Null) => Value::Null,
        ("date", Value::String(time)) => json!(age(time, now)),
        ("integer", Value::Number(n)) => {
            // A cut-off fraction is what the real server shows.
            #[allow(clippy::cast_possible_truncation)]
            n.as_f64().map_or(Value::Null, |f| json!(f as i64))
        }
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
        ("string", _) if found.len() > 1 => {
            let all: Vec<String> = found.iter().map(|v| plain(v)).collect();
            json!(all.join(" "))
        }
        ("string", value) => json!(plain(value)),
        _ => Value::Null,
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// How long ago, in the words of apimachinery's `HumanDuration`.
fn age(time: &str, now: Timestamp) -> String {
    if time.is_empty() {
        return "<unknown>".to_owned();
    }
    let Ok(then) = time.parse::<Timestamp>() else { return "<invalid>".to_owned() };
    let seconds = now.as_second() - then.as_second();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let two = |big: i64, unit: &str, small: i64, below: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{below}") }
    };
    match seconds {
        i64::MIN..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if years < 2 => format!("{days}d"),
        _ if years < 8 => two(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

/// The metadata shared by lists and tables.
pub(super) fn list_metadata(version: u64, next: Option<&str>, remaining: usize) -> Value {
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let Some(next) = next {
        metadata["continue"] = json!(next);
        metadata["remainingItemCount"] = json!(remaining);
    }
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_in_kubectls_words() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600, "9h"),
            (50 * 3600, "2d2h"),
            (30 * 86400, "30d"),
        ] {
            let then = Timestamp::from_second(now.as_second() - seconds).unwrap();
            assert_eq!(age(&then.to_string(), now), expected);
        }
    }
}

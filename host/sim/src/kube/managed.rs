//! Who owns which field: `metadata.managedFields` and server-side apply, after
//! sigs.k8s.io/structured-merge-diff.
//!
//! Knows one object, its schema and the managers; nothing of the store.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::json::{array, field, meta_mut, text};

/// How two versions of a list are brought together.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ListKind {
    /// Replaced as a whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// Objects with an identity in these fields.
    Map(Vec<String>),
}

/// The built-in kinds' lists with an identity, by field name: their `OpenAPI`
/// schemas are not carried here.
pub(super) fn built_in_list(name: &str) -> ListKind {
    let key = match name {
        "containers" | "initContainers" | "ephemeralContainers" | "volumes" | "env" | "imagePullSecrets" => "name",
        "ports" => "containerPort",
        "volumeMounts" => "mountPath",
        "conditions" => "type",
        "ownerReferences" => "uid",
        "finalizers" => return ListKind::Set,
        _ => return ListKind::Atomic,
    };
    ListKind::Map(vec![key.to_owned()])
}

fn is_map(name: &str) -> bool {
    matches!(
        name,
        "labels" | "annotations" | "data" | "binaryData" | "matchLabels" | "nodeSelector" | "limits" | "requests"
    )
}

/// What a node of an object is: by its schema, or for built-in kinds by its
/// field name.
#[derive(Clone)]
struct Node<'a> {
    schema: Option<&'a Value>,
    name: String,
    root: bool,
}

impl<'a> Node<'a> {
    fn root(schema: Option<&'a Value>) -> Self {
        Self { schema, name: String::new(), root: true }
    }

    /// The node below, and whether it is a declared field (not a map's entry).
    fn field(&self, key: &str) -> (Self, bool) {
        let below = |schema| Self { schema, name: key.to_owned(), root: false };
        match self.schema {
            _ if self.root && key == "metadata" => (below(None), true),
            None => (below(None), !is_map(&self.name)),
            Some(schema) => {
                if let Some(property) = schema.get("properties").and_then(|p| p.get(key)) {
                    (below(Some(property)), true)
                } else if let Some(value) = schema.get("additionalProperties").filter(|a| a.is_object()) {
                    (below(Some(value)), false)
                } else {
                    (below(Some(&Value::Null)), false)
                }
            }
        }
    }

    fn item(&self) -> Self {
        Self { schema: self.schema.map(|s| field(s, "items")), name: String::new(), root: false }
    }

    fn list(&self) -> ListKind {
        match self.schema {
            None => built_in_list(&self.name),
            Some(schema) => match text(schema, "x-kubernetes-list-type") {
                "set" => ListKind::Set,
                "map" => ListKind::Map(
                    array(schema, "x-kubernetes-list-map-keys")
                        .iter()
                        .filter_map(|k| k.as_str().map(str::to_owned))
                        .collect(),
                ),
                _ => ListKind::Atomic,
            },
        }
    }

    /// Whether an update that brings this object into being owns it as such,
    /// not only its fields.
    fn marked(&self) -> bool {
        match self.schema {
            None => is_map(&self.name),
            Some(_) => !self.root,
        }
    }

    fn atomic_map(&self) -> bool {
        match self.schema {
            None => self.name == "selector",
            Some(schema) => text(schema, "x-kubernetes-map-type") == "atomic",
        }
    }
}

/// An item's path element: `k:{…}` or `v:…`.
fn element(item: &Value, kind: &ListKind) -> String {
    match kind {
        ListKind::Map(keys) => {
            let id: BTreeMap<&str, &Value> = keys.iter().map(|k| (k.as_str(), field(item, k))).collect();
            format!("k:{}", json!(id))
        }
        _ => format!("v:{item}"),
    }
}

/// A set of field paths, as `FieldsV1` writes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FieldSet {
    member: bool,
    below: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    fn from_json(value: &Value) -> Self {
        let mut set = Self::default();
        if let Value::Object(map) = value {
            set.member = map.is_empty() || map.contains_key(".");
            for (key, child) in map.iter().filter(|(k, _)| *k != ".") {
                set.below.insert(key.clone(), Self::from_json(child));
            }
        }
        set
    }

    fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.below.is_empty() {
            map.insert(".".to_owned(), json!({}));
        }
        for (key, child) in &self.below {
            map.insert(key.clone(), child.to_json());
        }
        Value::Object(map)
    }

    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    fn tidy(&mut self) {
        self.below.retain(|_, child| {
            child.tidy();
            !child.is_empty()
        });
    }

    fn union(&mut self, other: &Self) {
        self.member |= other.member;
        for (key, child) in &other.below {
            self.below.entry(key.clone()).or_default().union(child);
        }
    }

    fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        for (key, child) in &other.below {
            if let Some(mine) = self.below.get_mut(key) {
                mine.subtract(child);
                if mine.is_empty() {
                    self.below.remove(key);
                }
            }
        }
    }

    fn intersect(&self, other: &Self) -> Self {
        let mut both = Self { member: self.member && other.member, below: BTreeMap::new() };
        for (key, child) in &self.below {
            if let Some(theirs) = other.below.get(key) {
                let shared = child.intersect(theirs);
                if !shared.is_empty() {
                    both.below.insert(key.clone(), shared);
                }
            }
        }
        both
    }

    /// The members' paths as `.spec.list[name="x"].field`.
    fn paths(&self, prefix: &str, found: &mut Vec<String>) {
        if self.member {
            found.push(prefix.to_owned());
        }
        for (key, child) in &self.below {
            let step = if let Some(name) = key.strip_prefix("f:") {
                format!(".{name}")
            } else if let Some(id) = key.strip_prefix("k:") {
                let id: BTreeMap<String, Value> = serde_json::from_str(id).unwrap_or_default();
                let id: Vec<String> = id.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("[{}]", id.join(","))
            } else {
                format!("[={}]", key.trim_start_matches("v:"))
            };
            child.paths(&format!("{prefix}{step}"), found);
        }
    }

    /// Adds what `value` sets. `containers` marks maps and lists themselves
    /// too, as an update that brings them into being does.
    fn collect(&mut self, value: &Value, node: &Node<'_>, containers: bool) {
        match value {
            Value::Object(map) if !node.atomic_map() => {
                if map.is_empty() || (containers && node.marked()) {
                    self.member = true;
                }
                for (key, child) in map {
                    let (below, declared) = node.field(key);
                    let entry = self.below.entry(format!("f:{key}")).or_default();
                    entry.collect(child, &below, containers);
                    entry.member |= !declared;
                }
            }
            Value::Array(list) => {
                let kind = node.list();
                if kind == ListKind::Atomic {
                    self.member = true;
                    return;
                }
                self.member |= containers;
                for item in list {
                    let entry = self.below.entry(element(item, &kind)).or_default();
                    entry.member = true;
                    if matches!(kind, ListKind::Map(_)) {
                        entry.collect(item, &node.item(), containers);
                    }
                }
            }
            _ => self.member = true,
        }
    }
}

/// What differs between two versions of an object.
#[derive(Default)]
struct Diff {
    changed: FieldSet,
    removed: FieldSet,
}

fn compare(old: Option<&Value>, new: Option<&Value>, node: &Node<'_>, changed: &mut FieldSet, removed: &mut FieldSet) {
    match (old, new) {
        (None, None) => {}
        (None, Some(new)) => changed.collect(new, node, true),
        (Some(old), None) => {
            removed.collect(old, node, true);
            removed.member = true;
        }
        (Some(old), Some(new)) if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) if !node.atomic_map() => {
            for key in old.keys().chain(new.keys().filter(|k| !old.contains_key(*k))) {
                let step = format!("f:{key}");
                compare(
                    old.get(key),
                    new.get(key),
                    &node.field(key).0,
                    changed.below.entry(step.clone()).or_default(),
                    removed.below.entry(step).or_default(),
                );
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if node.list() != ListKind::Atomic => {
            let kind = node.list();
            let by_id = |list: &'_ [Value]| -> BTreeMap<String, usize> {
                list.iter().enumerate().map(|(i, item)| (element(item, &kind), i)).collect()
            };
            let (before, after) = (by_id(old), by_id(new));
            for id in before.keys().chain(after.keys().filter(|k| !before.contains_key(*k))) {
                let (was, is) = (before.get(id).map(|i| &old[*i]), after.get(id).map(|i| &new[*i]));
                let into = changed.below.entry(id.clone()).or_default();
                compare(was, is, &node.item(), into, removed.below.entry(id.clone()).or_default());
                if was.is_none() {
                    changed.below.entry(id.clone()).or_default().member = true;
                }
            }
        }
        (Some(old), Some(new)) => {
            if old.is_object() || old.is_array() {
                removed.collect(old, node, true);
            }
            changed.collect(new, node, true);
        }
    }
}

fn diff(old: Option<&Value>, new: &Value, schema: Option<&Value>) -> Diff {
    let mut diff = Diff::default();
    let old = old.map(without_identity);
    let new = without_identity(new);
    let empty = json!({});
    compare(
        Some(old.as_ref().unwrap_or(&empty)),
        Some(&new),
        &Node::root(schema),
        &mut diff.changed,
        &mut diff.removed,
    );
    diff.changed.tidy();
    diff.removed.tidy();
    diff
}

/// The object without the fields that nobody owns.
fn without_identity(object: &Value) -> Value {
    let mut object = object.clone();
    if let Value::Object(map) = &mut object {
        map.shift_remove("apiVersion");
        map.shift_remove("kind");
        if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
            for key in [
                "name",
                "namespace",
                "uid",
                "resourceVersion",
                "generation",
                "creationTimestamp",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
                "managedFields",
                "selfLink",
            ] {
                metadata.shift_remove(key);
            }
            if metadata.is_empty() {
                map.shift_remove("metadata");
            }
        }
    }
    object
}

/// One line of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    operation: &'static str,
    api_version: String,
    subresource: String,
    time: String,
    set: FieldSet,
}

impl Entry {
    fn parse(value: &Value) -> Self {
        Self {
            manager: text(value, "manager").to_owned(),
            operation: if text(value, "operation") == "Apply" { "Apply" } else { "Update" },
            api_version: text(value, "apiVersion").to_owned(),
            subresource: text(value, "subresource").to_owned(),
            time: text(value, "time").to_owned(),
            set: FieldSet::from_json(field(value, "fieldsV1")),
        }
    }

    fn is(&self, who: &Manager<'_>, operation: &str) -> bool {
        self.operation == operation
            && self.manager == who.name
            && self.subresource == who.subresource
            && (operation == "Apply" || self.api_version == who.api_version)
    }

    /// The manager as a conflict names it.
    fn described(&self) -> String {
        let mut name = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            name = format!("{name} with subresource {:?}", self.subresource);
        }
        if self.operation == "Update" {
            name = format!("{name} using {}", self.api_version);
        }
        name
    }
}

fn entries(object: Option<&Value>) -> Vec<Entry> {
    object.map(|o| array(field(o, "metadata"), "managedFields").iter().map(Entry::parse).collect()).unwrap_or_default()
}

fn store(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.set.is_empty());
    entries.sort_by(|a, b| {
        (a.operation, &a.time, &a.manager, &a.subresource).cmp(&(b.operation, &b.time, &b.manager, &b.subresource))
    });
    let list: Vec<Value> = entries
        .iter()
        .map(|e| {
            let mut entry = json!({
                "manager": e.manager,
                "operation": e.operation,
                "apiVersion": e.api_version,
                "time": e.time,
                "fieldsType": "FieldsV1",
                "fieldsV1": e.set.to_json(),
            });
            if !e.subresource.is_empty() {
                entry["subresource"] = json!(e.subresource);
            }
            entry
        })
        .collect();
    let metadata = meta_mut(object);
    if list.is_empty() {
        metadata.shift_remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), Value::Array(list));
    }
}

/// Who writes.
pub(super) struct Manager<'a> {
    pub name: &'a str,
    pub api_version: String,
    pub subresource: &'a str,
    /// The time of the write, RFC 3339.
    pub now: &'a str,
}

/// Records a create, replace or patch: what `new` changes against `old` now
/// belongs to `who`, alone.
pub(super) fn record(old: Option<&Value>, new: &mut Value, who: &Manager<'_>, schema: Option<&Value>) {
    // A client may rewrite the record itself, as kubectl does when it moves a
    // field from client-side to server-side apply.
    let mut entries = match entries(Some(new)) {
        own if own.is_empty() => self::entries(old),
        own => own,
    };
    let diff = diff(old, new, schema);
    let mut mine = match entries.iter().position(|e| e.is(who, "Update")) {
        Some(i) => entries.remove(i),
        None => Entry {
            manager: who.name.to_owned(),
            operation: "Update",
            api_version: who.api_version.clone(),
            subresource: who.subresource.to_owned(),
            time: who.now.to_owned(),
            set: FieldSet::default(),
        },
    };
    for entry in &mut entries {
        entry.set.subtract(&diff.changed);
        entry.set.subtract(&diff.removed);
    }
    mine.set.subtract(&diff.removed);
    mine.set.union(&diff.changed);
    if !diff.changed.is_empty() || !diff.removed.is_empty() {
        who.now.clone_into(&mut mine.time);
    }
    entries.push(mine);
    store(new, entries);
}

/// A field that somebody else owns with another value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Conflict {
    /// As in `"kubectl" using v1`.
    pub manager: String,
    /// As in `.spec.replicas`.
    pub path: String,
}

/// Server-side apply: what `live` becomes when `who` applies `config`.
pub(super) fn apply(
    live: Option<&Value>,
    config: &Value,
    who: &Manager<'_>,
    schema: Option<&Value>,
    force: bool,
) -> Result<Value, Vec<Conflict>> {
    let node = Node::root(schema);
    let empty = json!({});
    let base = live.unwrap_or(&empty);
    let mut entries = entries(live);
    let last = entries.iter().position(|e| e.is(who, "Apply")).map(|i| entries.remove(i));

    let mut wanted = FieldSet::default();
    wanted.collect(&without_identity(config), &node, false);
    let mut merged = merge(base, config, &node);

    if let Some(last) = &last {
        let mut keep = wanted.clone();
        for entry in &entries {
            keep.union(&entry.set);
        }
        drop_abandoned(&mut merged, &last.set, &keep, &node);
    }

    let diff = diff(live, &merged, schema);
    let mut conflicts = Vec::new();
    for entry in &mut entries {
        let contested = entry.set.intersect(&diff.changed);
        if !contested.is_empty() {
            let mut paths = Vec::new();
            contested.paths("", &mut paths);
            let manager = entry.described();
            conflicts.extend(paths.into_iter().map(|path| Conflict { manager: manager.clone(), path }));
            entry.set.subtract(&contested);
        }
        entry.set.subtract(&diff.removed);
    }
    if !force && !conflicts.is_empty() {
        return Err(conflicts);
    }

    let unchanged = diff.changed.is_empty() && diff.removed.is_empty();
    let time = match &last {
        Some(last) if unchanged && last.set == wanted => last.time.clone(),
        _ => who.now.to_owned(),
    };
    entries.push(Entry {
        manager: who.name.to_owned(),
        operation: "Apply",
        api_version: who.api_version.clone(),
        subresource: who.subresource.to_owned(),
        time,
        set: wanted,
    });
    store(&mut merged, entries);
    Ok(merged)
}

fn merge(live: &Value, config: &Value, node: &Node<'_>) -> Value {
    match (live, config) {
        (Value::Object(live), Value::Object(config)) if !node.atomic_map() => {
            let mut merged = live.clone();
            for (key, value) in config {
                let below = node.field(key).0;
                let next = match live.get(key) {
                    Some(was) => merge(was, value, &below),
                    None => value.clone(),
                };
                merged.insert(key.clone(), next);
            }
            Value::Object(merged)
        }
        (Value::Array(live), Value::Array(config)) if node.list() != ListKind::Atomic => {
            let kind = node.list();
            let mut merged = live.clone();
            for item in config {
                let id = element(item, &kind);
                match merged.iter_mut().find(|m| element(m, &kind) == id) {
                    Some(was) => *was = merge(was, item, &node.item()),
                    None => merged.push(item.clone()),
                }
            }
            Value::Array(merged)
        }
        _ => config.clone(),
    }
}

/// Removes what the manager applied last time and nobody keeps.
fn drop_abandoned(value: &mut Value, last: &FieldSet, keep: &FieldSet, node: &Node<'_>) {
    match value {
        Value::Object(map) => {
            for (step, below) in &last.below {
                let Some(key) = step.strip_prefix("f:") else { continue };
                match keep.below.get(step) {
                    None => {
                        map.shift_remove(key);
                    }
                    Some(kept) => {
                        if let Some(child) = map.get_mut(key) {
                            drop_abandoned(child, below, kept, &node.field(key).0);
                        }
                    }
                }
            }
        }
        Value::Array(items) => {
            let kind = node.list();
            items.retain_mut(|item| {
                let id = element(item, &kind);
                match last.below.get(&id) {
                    None => true,
                    Some(below) => match keep.below.get(&id) {
                        None => false,
                        Some(kept) => {
                            drop_abandoned(item, below, kept, &node.item());
                            true
                        }
                    },
                }
            });
        }
        _ => {}
    }
}

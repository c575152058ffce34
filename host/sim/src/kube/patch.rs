//! The three client-side patch formats: JSON patch, merge patch, strategic
//! merge patch.
//!
//! Knows one object; nothing of ownership or the store.

use json_patch::{Patch, PatchOperation};
use serde_json::{Map, Value};

use super::managed::{ListKind, built_in_list};
use super::status::ApiError;

/// RFC 6902, with the real server's leniency: `test` for null passes where
/// there is nothing.
pub(super) fn json_patch(object: &mut Value, body: &Value) -> Result<(), ApiError> {
    let refused = || ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request");
    let patch: Patch = serde_json::from_value(body.clone()).map_err(|_| refused())?;
    for operation in &patch.0 {
        if let PatchOperation::Test(test) = operation
            && test.value.is_null()
            && object.pointer(test.path.as_str()).is_none()
        {
            continue;
        }
        json_patch::patch(object, std::slice::from_ref(operation)).map_err(|_| refused())?;
    }
    Ok(())
}

/// RFC 7386.
pub(super) fn merge_patch(object: &mut Value, body: &Value) {
    json_patch::merge(object, body);
}

/// Strategic merge for the built-in kinds: lists with a known key are merged,
/// `$patch`, `$deleteFromPrimitiveList` and `$retainKeys` are obeyed.
pub(super) fn strategic(object: &mut Value, body: &Value) {
    let (Value::Object(object), Value::Object(body)) = (&mut *object, body) else {
        *object = body.clone();
        return;
    };
    if body.get("$patch").and_then(Value::as_str) == Some("replace") {
        object.clone_from(body);
        object.shift_remove("$patch");
        return;
    }
    if let Some(Value::Array(keys)) = body.get("$retainKeys") {
        object.retain(|key, _| keys.iter().any(|k| k.as_str() == Some(key)));
    }
    for (key, value) in body {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(had)), Value::Array(gone)) = (object.get_mut(list), value) {
                had.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if key.starts_with('$') {
            continue;
        }
        field(object, key, value);
    }
}

fn field(object: &mut Map<String, Value>, key: &str, value: &Value) {
    match value {
        Value::Null => {
            object.shift_remove(key);
        }
        Value::Object(map) if map.get("$patch").and_then(Value::as_str) == Some("delete") => {
            object.shift_remove(key);
        }
        Value::Object(_) => {
            let child = object.entry(key.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            if !child.is_object() {
                *child = Value::Object(Map::new());
            }
            strategic(child, value);
        }
        Value::Array(items) => {
            let child = object.entry(key.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
            match (child, built_in_list(key)) {
                (Value::Array(had), ListKind::Map(keys)) => keyed(had, items, &keys),
                (Value::Array(had), ListKind::Set) => {
                    for item in items {
                        if !had.contains(item) {
                            had.push(item.clone());
                        }
                    }
                }
                (child, _) => *child = value.clone(),
            }
        }
        scalar => {
            object.insert(key.to_owned(), scalar.clone());
        }
    }
}

fn keyed(had: &mut Vec<Value>, items: &[Value], keys: &[String]) {
    let directive = |item: &Value| item.get("$patch").and_then(Value::as_str).map(str::to_owned);
    if items.iter().any(|i| directive(i).as_deref() == Some("replace")) {
        *had = items.iter().filter(|i| directive(i).is_none()).cloned().collect();
        return;
    }
    for item in items {
        let same = |other: &Value| keys.iter().all(|k| other.get(k) == item.get(k));
        if directive(item).as_deref() == Some("delete") {
            had.retain(|other| !same(other));
        } else if let Some(other) = had.iter_mut().find(|o| same(o)) {
            strategic(other, item);
        } else {
            had.push(item.clone());
        }
    }
}

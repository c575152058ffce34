//! Small readings of untyped objects: fields, metadata, simple JSON paths.
//!
//! Knows JSON and the shape of object metadata; nothing of the store.

use serde_json::{Map, Value, json};

static NULL: Value = Value::Null;

/// A field, or null.
pub(super) fn field<'a>(value: &'a Value, key: &str) -> &'a Value {
    value.get(key).unwrap_or(&NULL)
}

/// A field as text, or the empty text.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("")
}

/// A field as an array, or the empty one.
pub(super) fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A field of the metadata as text.
pub(super) fn meta<'a>(object: &'a Value, key: &str) -> &'a str {
    text(field(object, "metadata"), key)
}

/// The metadata, made if it is missing or not an object.
pub(super) fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object, "metadata")
}

/// An object-valued field, made if it is missing or not an object.
pub(super) fn child_mut<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    object_mut(object_mut(value).entry(key.to_owned()).or_insert_with(|| json!({})))
}

/// The value as an object; replaced by an empty one if it is something else.
pub(super) fn object_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        // Made an object two lines above.
        _ => unreachable!("not an object"),
    }
}

/// Copies `key` from one map to the other, or removes it there.
pub(super) fn carry(from: &Value, to: &mut Map<String, Value>, key: &str) {
    match from.get(key) {
        Some(value) => {
            to.insert(key.to_owned(), value.clone());
        }
        None => {
            to.shift_remove(key);
        }
    }
}

/// Sets the value at a path of plain fields such as `.spec.replicas`.
pub(super) fn set_path(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for part in path.trim_start_matches('.').split('.') {
        at = object_mut(at).entry(part.to_owned()).or_insert(Value::Null);
    }
    *at = value;
}

/// A step of a JSON path.
enum Step {
    Field(String),
    Index(i64),
    All,
    /// `[?(@.field=="text")]`
    Where(String, bool, Value),
}

fn steps(path: &str) -> Option<Vec<Step>> {
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}');
    rest = rest.strip_prefix('$').unwrap_or(rest);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let mut name = String::new();
            let mut chars = after.char_indices();
            let mut end = after.len();
            while let Some((i, c)) = chars.next() {
                match c {
                    '\\' => name.extend(chars.next().map(|(_, c)| c)),
                    '.' | '[' => {
                        end = i;
                        break;
                    }
                    c => name.push(c),
                }
            }
            rest = &after[end..];
            match name.as_str() {
                "" => {}
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
        } else if let Some(after) = rest.strip_prefix("[?(") {
            let (condition, after) = after.split_once(")]")?;
            rest = after;
            let (left, equal, right) = match condition.split_once("==") {
                Some((l, r)) => (l, true, r),
                None => condition.split_once("!=").map(|(l, r)| (l, false, r))?,
            };
            let name = left.trim().strip_prefix("@.")?.to_owned();
            let right = right.trim().replace('\'', "\"");
            steps.push(Step::Where(name, equal, serde_json::from_str(&right).ok()?));
        } else if let Some(after) = rest.strip_prefix('[') {
            let (inner, after) = after.split_once(']')?;
            rest = after;
            let inner = inner.trim();
            steps.push(if inner == "*" {
                Step::All
            } else if let Ok(index) = inner.parse() {
                Step::Index(index)
            } else {
                Step::Field(inner.trim_matches(['\'', '"']).to_owned())
            });
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            steps.push(Step::Field(rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
    Some(steps)
}

/// All values at a JSON path: fields, indices, `[*]` and
/// `[?(@.type=="Ready")]`, which is what printer columns use.
pub(super) fn at_path<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let Some(steps) = steps(path) else { return Vec::new() };
    let mut found = vec![object];
    for step in steps {
        found = found
            .into_iter()
            .flat_map(|value| -> Vec<&'a Value> {
                match &step {
                    Step::Field(name) => value.get(name).into_iter().collect(),
                    Step::Index(i) => value
                        .as_array()
                        .and_then(|list| {
                            let i = if *i < 0 {
                                list.len().checked_sub(usize::try_from(-i).ok()?)?
                            } else {
                                usize::try_from(*i).ok()?
                            };
                            list.get(i)
                        })
                        .into_iter()
                        .collect(),
                    Step::All => match value {
                        Value::Array(list) => list.iter().collect(),
                        Value::Object(map) => map.values().collect(),
                        _ => Vec::new(),
                    },
                    Step::Where(name, equal, wanted) => value
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter(|item| (item.get(name) == Some(wanted)) == *equal)
                        .collect(),
                }
            })
            .collect();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_printer_columns() {
        let object = json!({
            "metadata": {"labels": {"a.b/c": "x"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other"}]},
        });
        let one = |path| at_path(&object, path);
        assert_eq!(one(".status.conditions[?(@.type==\"Ready\")].status"), [&json!("True")]);
        assert_eq!(one(".status.conditions[?(@.type=='Ready')].status"), [&json!("True")]);
        assert_eq!(one(".metadata.labels.a\\.b/c"), [&json!("x")]);
        assert_eq!(one(".metadata.labels['a.b/c']"), [&json!("x")]);
        assert_eq!(one(".status.conditions[-1].type"), [&json!("Other")]);
        assert_eq!(one(".status.conditions[*].type"), [&json!("Ready"), &json!("Other")]);
        assert!(one(".spec.nothing").is_empty());
    }
}

//! Label and field selectors.
//!
//! Knows one object at a time; nothing of the store.

use serde_json::Value;

use super::json::{at_path, field, text};
use super::resources::Resource;
use super::status::ApiError;

#[derive(Clone, Debug, PartialEq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
}

/// Both selectors of one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    labels: Vec<(String, Test)>,
    fields: Vec<(String, bool, String)>,
}

/// Splits at commas that are not inside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|p| !p.is_empty());
    parts
}

fn label_test(part: &str) -> Option<(String, Test)> {
    let set = |values: &str| -> Option<Vec<String>> {
        let inner = values.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|v| v.trim().to_owned()).collect())
    };
    if let Some((key, values)) = part.split_once(" notin ").or(part.split_once(" notin(")) {
        let values = if values.starts_with('(') { values.to_owned() } else { format!("({values}") };
        return Some((key.trim().to_owned(), Test::NotIn(set(&values)?)));
    }
    if let Some((key, values)) = part.split_once(" in ").or(part.split_once(" in(")) {
        let values = if values.starts_with('(') { values.to_owned() } else { format!("({values}") };
        return Some((key.trim().to_owned(), Test::In(set(&values)?)));
    }
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some((key, value)) = part.split_once("!=") {
        return Some((key.trim().to_owned(), Test::NotIn(one(value))));
    }
    if let Some((key, value)) = part.split_once("==").or(part.split_once('=')) {
        return Some((key.trim().to_owned(), Test::In(one(value))));
    }
    match part.strip_prefix('!') {
        Some(key) => Some((key.trim().to_owned(), Test::Missing)),
        None if part.contains(char::is_whitespace) => None,
        None => Some((part.to_owned(), Test::Exists)),
    }
}

impl Selector {
    /// Parses the request's `labelSelector` and `fieldSelector`.
    pub(super) fn parse(labels: &str, fields: &str, resource: &Resource) -> Result<Self, ApiError> {
        let labels = split(labels)
            .into_iter()
            .map(|part| {
                label_test(part).ok_or_else(|| ApiError::bad_request(format!("unable to parse requirement: {part}")))
            })
            .collect::<Result<_, _>>()?;
        let fields = split(fields)
            .into_iter()
            .map(|part| {
                let (key, equal, value) = if let Some((k, v)) = part.split_once("!=") {
                    (k, false, v)
                } else if let Some((k, v)) = part.split_once("==").or(part.split_once('=')) {
                    (k, true, v)
                } else {
                    return Err(ApiError::bad_request(format!(
                        "invalid selector: '{part}'; can't understand '{part}'"
                    )));
                };
                if !supported(key, resource) {
                    return Err(ApiError::bad_request(if resource.custom {
                        format!("field label not supported: {key}")
                    } else {
                        format!("{key:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
                    }));
                }
                Ok((key.to_owned(), equal, value.to_owned()))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    /// Whether the object, as the resource presents it, is selected.
    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = field(field(object, "metadata"), "labels");
        self.labels.iter().all(|(key, test)| {
            let value = labels.get(key).and_then(Value::as_str);
            match test {
                Test::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
                Test::NotIn(values) => value.is_none_or(|v| values.iter().all(|w| w != v)),
                Test::Exists => value.is_some(),
                Test::Missing => value.is_none(),
            }
        }) && self.fields.iter().all(|(key, equal, wanted)| {
            let value = value_of(object, key);
            (value == *wanted) == *equal
        })
    }
}

fn value_of(object: &Value, key: &str) -> String {
    // The core view's "source" is the reporting component where there is none.
    if key == "source" {
        let source = text(field(object, "source"), "component");
        return if source.is_empty() { text(object, "reportingComponent") } else { source }.to_owned();
    }
    match at_path(object, key).first() {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

fn supported(key: &str, resource: &Resource) -> bool {
    if matches!(key, "metadata.name" | "metadata.namespace") {
        return true;
    }
    if resource.custom {
        return resource.selectable.iter().any(|s| s == key);
    }
    match resource.plural.as_str() {
        "events" => {
            let subject = if resource.group.is_empty() { "involvedObject." } else { "regarding." };
            key.starts_with(subject)
                || matches!(key, "reason" | "type" | "source" | "reportingComponent" | "reportingController")
        }
        "secrets" => key == "type",
        "namespaces" => key == "status.phase",
        "pods" => matches!(key, "spec.nodeName" | "status.phase"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kube::resources::built_in;

    #[test]
    fn selectors_of_every_form() {
        let resources = built_in();
        let resource = resources.iter().find(|r| r.plural == "configmaps").unwrap();
        let object = json!({"metadata": {"name": "x", "labels": {"a": "1", "b": ""}}});
        for (labels, fields, expected) in [
            ("", "", true),
            ("a=1", "", true),
            ("a==1,b", "", true),
            ("a!=1", "", false),
            ("c!=1", "", true),
            ("a in (1, 2),!c", "", true),
            ("a notin (1,2)", "", false),
            ("c notin (1,2)", "", true),
            ("", "metadata.name=x", true),
            ("", "metadata.name!=x", false),
            ("c", "metadata.name=x", false),
        ] {
            let selector = Selector::parse(labels, fields, resource).unwrap();
            assert_eq!(selector.matches(&object), expected, "{labels} {fields}");
        }
        assert_eq!(Selector::parse("", "spec.x=1", resource).unwrap_err().code, 400);
    }
}

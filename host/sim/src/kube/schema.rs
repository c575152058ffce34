//! What a CRD's schema does to an object: pruning, defaulting, validation with
//! ratcheting, and the CEL rules; in the real server's words.
//!
//! Knows one object and its predecessor; nothing of the store.

use std::borrow::Cow;
use std::collections::BTreeSet;

use kube_cel::Validator;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::json::{array, at_path, field, text};
use super::resources::Schema;
use super::status::FieldError;

const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key) == Some(&json!(true))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Removes the fields that the schema does not know; their paths are added to
/// `unknown`. The root keeps `apiVersion`, `kind` and `metadata`.
pub(super) fn prune(object: &mut Value, schema: &Value, unknown: &mut Vec<String>) {
    prune_at(object, schema, "", true, unknown);
}

fn prune_at(value: &mut Value, schema: &Value, path: &str, root: bool, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let embedded = root || flag(schema, EMBEDDED);
            let preserve = flag(schema, PRESERVE);
            let properties = field(schema, "properties");
            let additional = schema.get("additionalProperties");
            let keys: Vec<String> = map.keys().cloned().collect();
            for key in keys {
                if embedded && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                let at = join(path, &key);
                let below = properties.get(&key).or(additional.filter(|a| a.is_object()));
                if let Some(below) = below {
                    if let Some(child) = map.get_mut(&key) {
                        prune_at(child, below, &at, false, unknown);
                    }
                } else if !preserve && additional != Some(&json!(true)) {
                    map.shift_remove(&key);
                    unknown.push(at);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.get("items") {
                for (i, item) in list.iter_mut().enumerate() {
                    prune_at(item, items, &format!("{path}[{i}]"), false, unknown);
                }
            }
        }
        _ => {}
    }
}

/// Fills in the schema's defaults, those inside defaults included. A null in a
/// field that has a default and is not nullable counts as absent.
pub(super) fn default(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(properties) = field(schema, "properties").as_object() {
                for (key, below) in properties {
                    if let Some(default) = below.get("default") {
                        let absent = match map.get(key) {
                            None => true,
                            Some(Value::Null) => !flag(below, "nullable"),
                            Some(_) => false,
                        };
                        if absent {
                            map.insert(key.clone(), default.clone());
                        }
                    }
                }
            }
            let properties = field(schema, "properties");
            let additional = schema.get("additionalProperties").filter(|a| a.is_object());
            for (key, child) in map.iter_mut() {
                if let Some(below) = properties.get(key).or(additional) {
                    self::default(child, below);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.get("items") {
                for item in list {
                    self::default(item, items);
                }
            }
        }
        _ => {}
    }
}

/// Everything that is wrong with the object, beyond what was as wrong before.
pub(super) fn validate(object: &Value, old: Option<&Value>, schema: &Schema, cel: &Validator) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(object, old, &schema.raw, "", &mut errors);
    let blocking = errors.iter().any(|e| {
        matches!(
            e.reason,
            "FieldValueRequired"
                | "FieldValueTooLong"
                | "FieldValueTooMany"
                | "FieldValueTypeInvalid"
                | "FieldValueNotSupported"
        )
    });
    if blocking {
        if schema.ruled.as_ref().is_none_or(|fields| !fields.is_empty()) {
            errors.push(FieldError {
                path: "<nil>".to_owned(),
                reason: "FieldValueInvalid",
                body: "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation".to_owned(),
            });
        }
        return errors;
    }
    // Whatever the validator is shown it makes a copy of: nothing but what has rules.
    let (seen, seen_before) = match &schema.ruled {
        Some(fields) => (Cow::Owned(only(object, fields)), old.map(|old| Cow::Owned(only(old, fields)))),
        None => (Cow::Borrowed(object), old.map(Cow::Borrowed)),
    };
    if let Err(failures) = cel.validate_compiled(&schema.rules, &seen, seen_before.as_deref()) {
        for failure in failures {
            // A rule's `fieldPath` begins with a dot.
            let path = failure.field_path.trim_start_matches('.').to_owned();
            let now = lookup(object, &path);
            if let Some(old) = old
                && !failure.rule.contains("oldSelf")
                && now.is_some()
                && now == lookup(old, &path)
            {
                continue;
            }
            let shown = now.filter(|v| !v.is_object() && !v.is_array());
            let message =
                if failure.message.is_empty() { format!("failed rule: {}", failure.rule) } else { failure.message };
            let path = if path.is_empty() { "<nil>".to_owned() } else { path };
            errors.push(match failure.reason.as_deref() {
                Some("FieldValueForbidden") => FieldError::forbidden(path, &message),
                Some("FieldValueRequired") => FieldError::required(path, &message),
                Some("FieldValueDuplicate") => FieldError::duplicate(path, shown.unwrap_or(&Value::Null)),
                _ => match shown {
                    Some(value) => FieldError::invalid(path, value, &message),
                    None => FieldError { path, reason: "FieldValueInvalid", body: format!("Invalid value: {message}") },
                },
            });
        }
    }
    errors
}

fn only(object: &Value, fields: &[String]) -> Value {
    let known = fields.iter().filter_map(|name| object.get(name).map(|value| (name.clone(), value.clone())));
    Value::Object(known.collect())
}

/// The fields of `self` and `oldSelf` that a rule looks into; nothing if it takes one of
/// them as a whole.
pub(super) fn is_about(rule: &str) -> Option<Vec<String>> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut fields = Vec::new();
    for (at, found) in rule.match_indices("elf") {
        let (before, after) = (&rule[..at], &rule[at + found.len()..]);
        let Some(before) = before.strip_suffix("oldS").or_else(|| before.strip_suffix('s')) else { continue };
        if before.ends_with(|c| word(c) || c == '.') || after.starts_with(word) {
            continue;
        }
        let rest = after.strip_prefix('.')?;
        fields.push(rest.split(|c| !word(c)).next().unwrap_or_default().to_owned());
    }
    Some(fields)
}

/// Whether there are rules anywhere in a schema.
pub(super) fn has_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => map.contains_key("x-kubernetes-validations") || map.values().any(has_rules),
        Value::Array(list) => list.iter().any(has_rules),
        _ => false,
    }
}

fn lookup<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    if path.is_empty() { Some(object) } else { at_path(object, path).first().copied() }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn fits(value: &Value, wanted: &str) -> bool {
    match (wanted, value) {
        ("number", Value::Number(_)) => true,
        ("integer", Value::Number(n)) => !n.is_f64() || n.as_f64().is_some_and(|f| f.fract() == 0.0),
        _ => kind_of(value) == wanted,
    }
}

fn check(value: &Value, old: Option<&Value>, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    // Ratcheting: what was stored like this may stay like this.
    if old == Some(value) {
        return;
    }
    let invalid = |detail: String| FieldError::invalid(path, value, &detail);
    let wrong_type = |wanted: &str| {
        let kind = kind_of(value);
        FieldError::wrong_type(path, &json!(kind), &format!("{path} in body must be of type {wanted}: {kind:?}"))
    };
    if value.is_null() {
        if !flag(schema, "nullable") && !flag(schema, PRESERVE) {
            let wanted = text(schema, "type");
            errors.push(wrong_type(if wanted.is_empty() { "object" } else { wanted }));
        }
        return;
    }
    if flag(schema, INT_OR_STRING) {
        if !(fits(value, "integer") || value.is_string()) {
            errors.push(wrong_type("integer,string"));
            return;
        }
    } else if let Some(wanted) = schema.get("type").and_then(Value::as_str)
        && !fits(value, wanted)
    {
        errors.push(wrong_type(wanted));
        return;
    }
    let allowed = array(schema, "enum");
    if !allowed.is_empty() && !allowed.contains(value) {
        errors.push(FieldError::unsupported(path, value, allowed));
    }
    match value {
        Value::Number(n) => number(n.as_f64().unwrap_or(0.0), schema, path, &invalid, errors),
        Value::String(s) => string(s, schema, path, &invalid, errors),
        Value::Array(list) => items(value, list, old, schema, path, errors),
        Value::Object(map) => properties(map, old, schema, path, &invalid, errors),
        _ => {}
    }
    branches(value, schema, path, &invalid, errors);
}

type Invalid<'a> = dyn Fn(String) -> FieldError + 'a;

fn number(n: f64, schema: &Value, path: &str, invalid: &Invalid<'_>, errors: &mut Vec<FieldError>) {
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    if let Some(max) = bound("maximum") {
        if flag(schema, "exclusiveMaximum") && n >= max {
            errors.push(invalid(format!("{path} in body should be less than {max}")));
        } else if n > max {
            errors.push(invalid(format!("{path} in body should be less than or equal to {max}")));
        }
    }
    if let Some(min) = bound("minimum") {
        if flag(schema, "exclusiveMinimum") && n <= min {
            errors.push(invalid(format!("{path} in body should be greater than {min}")));
        } else if n < min {
            errors.push(invalid(format!("{path} in body should be greater than or equal to {min}")));
        }
    }
    if let Some(of) = bound("multipleOf")
        && of != 0.0
        && (n / of).fract() != 0.0
    {
        errors.push(invalid(format!("{path} in body should be a multiple of {of}")));
    }
    let range = match text(schema, "format") {
        "int32" => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
        _ => None,
    };
    if range.is_some_and(|(low, high)| n < low || n > high) {
        errors.push(invalid(format!("{path} in body must be of type int32: \"{n}\"")));
    }
}

fn string(s: &str, schema: &Value, path: &str, invalid: &Invalid<'_>, errors: &mut Vec<FieldError>) {
    let length = s.chars().count() as u64;
    let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
    if let Some(max) = bound("maxLength").filter(|max| length > *max) {
        errors.push(FieldError::too_long(path, max));
    }
    if let Some(min) = bound("minLength").filter(|min| length < *min) {
        errors.push(invalid(format!("{path} in body should be at least {min} chars long")));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && Regex::new(pattern).is_ok_and(|r| !r.is_match(s))
    {
        errors.push(invalid(format!("{path} in body should match '{pattern}'")));
    }
    let well_formed = match text(schema, "format") {
        "date-time" => s.parse::<jiff::Timestamp>().is_ok(),
        "date" => s.parse::<jiff::civil::Date>().is_ok(),
        "uuid" => uuid::Uuid::parse_str(s).is_ok(),
        "byte" => super::builtin::is_base64(s),
        "ipv4" => s.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => s.parse::<std::net::Ipv6Addr>().is_ok(),
        // The real server ignores formats that it does not know.
        _ => true,
    };
    if !well_formed {
        errors.push(FieldError::wrong_type(
            path,
            &json!(s),
            &format!("{path} in body must be of type {}: {s:?}", text(schema, "format")),
        ));
    }
}

fn items(whole: &Value, list: &[Value], old: Option<&Value>, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
    if let Some(max) = bound("maxItems").filter(|max| list.len() as u64 > *max) {
        errors.push(FieldError::too_many(path, list.len(), max));
    }
    if let Some(min) = bound("minItems").filter(|min| (list.len() as u64) < *min) {
        errors.push(FieldError::invalid(path, whole, &format!("{path} in body should have at least {min} items")));
    }
    let keys: Vec<&str> = array(schema, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str).collect();
    let unique = matches!(text(schema, "x-kubernetes-list-type"), "map" | "set");
    let identity = |item: &Value| -> Value {
        if keys.is_empty() {
            item.clone()
        } else {
            keys.iter().map(|k| ((*k).to_owned(), field(item, k).clone())).collect::<Map<_, _>>().into()
        }
    };
    let mut seen = BTreeSet::new();
    for (i, item) in list.iter().enumerate() {
        let at = format!("{path}[{i}]");
        let id = identity(item);
        if unique && !seen.insert(id.to_string()) {
            errors.push(FieldError::duplicate(&at, &id));
        }
        // Only items with an identity can be compared with what they were.
        let before = if unique {
            old.and_then(Value::as_array).and_then(|o| o.iter().find(|candidate| identity(candidate) == id))
        } else {
            None
        };
        if let Some(below) = schema.get("items") {
            check(item, before, below, &at, errors);
        }
    }
}

fn properties(
    map: &Map<String, Value>,
    old: Option<&Value>,
    schema: &Value,
    path: &str,
    invalid: &Invalid<'_>,
    errors: &mut Vec<FieldError>,
) {
    for name in array(schema, "required").iter().filter_map(Value::as_str) {
        if !map.contains_key(name) {
            errors.push(FieldError::required(join(path, name), ""));
        }
    }
    let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
    if let Some(max) = bound("maxProperties").filter(|max| map.len() as u64 > *max) {
        errors.push(FieldError::too_many(path, map.len(), max));
    }
    if let Some(min) = bound("minProperties").filter(|min| (map.len() as u64) < *min) {
        errors.push(invalid(format!("{path} in body should have at least {min} properties")));
    }
    let known = field(schema, "properties");
    let additional = schema.get("additionalProperties").filter(|a| a.is_object());
    for (key, child) in map {
        if path.is_empty() && key == "metadata" {
            continue;
        }
        if let Some(below) = known.get(key).or(additional) {
            check(child, old.and_then(|o| o.get(key)), below, &join(path, key), errors);
        }
    }
}

fn branches(value: &Value, schema: &Value, path: &str, invalid: &Invalid<'_>, errors: &mut Vec<FieldError>) {
    let problems = |branch: &Value| {
        let mut found = Vec::new();
        check(value, None, branch, path, &mut found);
        found
    };
    for branch in array(schema, "allOf") {
        errors.extend(problems(branch));
    }
    let any = array(schema, "anyOf");
    if !any.is_empty() && !flag(schema, INT_OR_STRING) && !any.iter().any(|b| problems(b).is_empty()) {
        errors.push(invalid(format!("{path} in body must validate at least one schema (anyOf)")));
        errors.extend(problems(&any[0]));
    }
    let one = array(schema, "oneOf");
    if !one.is_empty() {
        let valid = one.iter().filter(|b| problems(b).is_empty()).count();
        if valid == 0 {
            errors.push(invalid(format!(
                "{path} in body must validate one and only one schema (oneOf). Found none valid"
            )));
            errors.extend(problems(&one[0]));
        } else if valid > 1 {
            errors.push(invalid(format!(
                "{path} in body must validate one and only one schema (oneOf). Found {valid} valid alternatives"
            )));
        }
    }
    if let Some(not) = schema.get("not")
        && problems(not).is_empty()
    {
        errors.push(invalid(format!("{path} in body must not validate the schema (not)")));
    }
}

/// Where a CRD's schema is not structural: nodes without a type.
pub(super) fn structural(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if schema.get("type").is_none() && !flag(schema, INT_OR_STRING) && !flag(schema, PRESERVE) {
        errors.push(FieldError::required(format!("{path}.type"), "must not be empty for specified object fields"));
    }
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (key, below) in properties {
            structural(below, &format!("{path}.properties[{key}]"), errors);
        }
    }
    if let Some(below) = schema.get("additionalProperties").filter(|a| a.is_object()) {
        structural(below, &format!("{path}.additionalProperties"), errors);
    }
    if let Some(below) = schema.get("items") {
        structural(below, &format!("{path}.items"), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rule_looks_into_is_told_from_the_whole() {
        let about = |rule| is_about(rule).map(|fields| fields.join(" "));
        assert_eq!(about("has(self.spec.a) == has(oldSelf.status.b)").as_deref(), Some("spec status"));
        assert_eq!(about("yourself.x || x.self == 1 || selfish").as_deref(), Some(""));
        for whole in ["self == oldSelf.spec", "self.all(x, true) && oldSelf['spec'] == 1"] {
            assert_eq!(about(whole), None);
        }
    }
}

//! Holds a configuration against the schema that a policy carries, and names
//! every mistake with its place and what would be right.
//!
//! A part of JSON Schema, the one that the SDK writes: `type`, `enum`, `const`,
//! `properties`, `required`, `additionalProperties`, `items`, `minItems`,
//! `maxItems`, `minimum`, `maximum`, `minLength`, `maxLength`, `allOf`, `anyOf`
//! and local `$ref`s; `oneOf` counts as `anyOf`, and whatever else is there is
//! passed over. So nothing is refused here but what is surely wrong: the last
//! word has the policy's own `validate-config`.

use std::cmp::Reverse;

use serde_json::{Map, Value};

use crate::check::ConfigProblem;
use crate::text::{MESSAGE_CHARS, tidy};
use crate::{Kind, text};

/// In a schema of several kinds, whose it is; written by the SDK beside each
/// alternative of the outermost `anyOf`.
const KIND: &str = "x-kind";

/// How deep schemas are followed. Configurations are flat; a schema that refers
/// to itself is not.
const DEPTH: usize = 32;

/// How many parts of a schema are looked at in all, so that no schema takes long.
const STEPS: usize = 50_000;

/// The mistakes in `config`, which is for a policy of this kind; none if nothing
/// is surely wrong.
pub(crate) fn mistakes(schema: &Value, kind: Kind, config: &Value) -> Vec<ConfigProblem> {
    let mut check = Check { root: schema, steps: STEPS };
    check.value(of_kind(schema, kind), config, "", DEPTH)
}

/// The alternative that is for this kind, where there are several.
fn of_kind(schema: &Value, kind: Kind) -> &Value {
    let alternatives = schema.get("anyOf").and_then(Value::as_array);
    let of_kind = alternatives
        .and_then(|all| all.iter().find(|one| one.get(KIND).and_then(Value::as_str) == Some(kind.as_str())));
    of_kind.unwrap_or(schema)
}

struct Check<'a> {
    root: &'a Value,
    steps: usize,
}

impl<'a> Check<'a> {
    fn value(&mut self, schema: &'a Value, value: &Value, path: &str, depth: usize) -> Vec<ConfigProblem> {
        self.steps = self.steps.saturating_sub(1);
        let (Some(depth), Some(rules)) = (depth.checked_sub(1), schema.as_object()) else {
            // `false` admits nothing; `true` everything.
            return if schema == &Value::Bool(false) {
                vec![problem(path, "nothing may stand here")]
            } else {
                Vec::new()
            };
        };
        if self.steps == 0 {
            return Vec::new();
        }
        let mut problems = Vec::new();
        if let Some(found) = kind_of_value(rules, value) {
            // Of the wrong type: what else is wrong of it says nothing.
            return vec![problem(path, &found)];
        }
        for limit in [one_of(rules, value), bounds(rules, value), lengths(rules, value)].into_iter().flatten() {
            problems.push(problem(path, &limit));
        }
        if let Some(target) =
            rules.get("$ref").and_then(Value::as_str).and_then(|to| self.root.pointer(to.strip_prefix('#')?))
        {
            problems.extend(self.value(target, value, path, depth));
        }
        for part in list(rules, "allOf") {
            problems.extend(self.value(part, value, path, depth));
        }
        for word in ["anyOf", "oneOf"] {
            problems.extend(self.any(list(rules, word), value, path, depth));
        }
        match value {
            Value::Object(fields) => problems.extend(self.object(rules, fields, path, depth)),
            Value::Array(items) => {
                if let Some(of_each) = rules.get("items") {
                    for (index, item) in items.iter().enumerate() {
                        problems.extend(self.value(of_each, item, &format!("{path}/{index}"), depth));
                    }
                }
            }
            _ => {}
        }
        problems
    }

    fn object(
        &mut self,
        rules: &'a Map<String, Value>,
        fields: &Map<String, Value>,
        path: &str,
        depth: usize,
    ) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let known = rules.get("properties").and_then(Value::as_object);
        for (name, value) in fields {
            let path = format!("{path}/{}", escaped(name));
            match (known.and_then(|known| known.get(name)), rules.get("additionalProperties")) {
                (Some(schema), _) => problems.extend(self.value(schema, value, &path, depth)),
                (None, Some(Value::Bool(false))) if !rules.contains_key("patternProperties") => {
                    let names: Vec<&str> = known.into_iter().flat_map(Map::keys).map(String::as_str).collect();
                    problems.push(problem(&path, &unknown_field(name, &names)));
                }
                (None, Some(schema @ Value::Object(_))) if !rules.contains_key("patternProperties") => {
                    problems.extend(self.value(schema, value, &path, depth));
                }
                (None, _) => {}
            }
        }
        for name in list(rules, "required").iter().filter_map(Value::as_str).filter(|name| !fields.contains_key(*name))
        {
            let about = known.and_then(|known| known.get(name)?.get("description")?.as_str());
            let about = about.map(|about| format!(" ({about})")).unwrap_or_default();
            problems.push(problem(path, &format!("the field `{name}` is missing{about}")));
        }
        problems
    }

    /// Nothing, if one of the alternatives admits the value; else the mistakes of
    /// the alternative that comes nearest, or what all of them would take.
    fn any(&mut self, alternatives: &'a [Value], value: &Value, path: &str, depth: usize) -> Vec<ConfigProblem> {
        let mut closest: Option<Vec<ConfigProblem>> = None;
        let mut near = 0;
        for alternative in alternatives {
            let problems = self.value(alternative, value, path, depth);
            if problems.is_empty() {
                return Vec::new();
            }
            // What is wrong further inside is nearer than what is wrong as a whole.
            let inside = |problems: &[ConfigProblem]| problems.iter().all(|problem| problem.path != path);
            let of_type = alternative.as_object().is_none_or(|rules| kind_of_value(rules, value).is_none());
            if of_type && (inside(&problems) || !is_choice(alternative)) {
                near += 1;
                let rank = |problems: &[ConfigProblem]| (inside(problems), Reverse(problems.len()));
                if closest.as_ref().is_none_or(|closest| rank(&problems) > rank(closest)) {
                    closest = Some(problems);
                }
            }
        }
        match closest {
            Some(problems) if near == 1 || problems.iter().all(|problem| problem.path != path) => problems,
            _ if alternatives.is_empty() => Vec::new(),
            _ => {
                let all: Vec<String> = alternatives.iter().filter_map(in_words).collect();
                let mut message = format!("expected {}, not {}", all.join(" or "), shown(value));
                let words: Vec<&str> = alternatives.iter().flat_map(|one| choices(one)).collect();
                if let Some(meant) = value.as_str().and_then(|text| meant(text, &words)) {
                    message.extend(["; did you mean `", meant, "`?"]);
                }
                vec![problem(path, &message)]
            }
        }
    }
}

fn problem(path: &str, message: &str) -> ConfigProblem {
    ConfigProblem { path: tidy(path, MESSAGE_CHARS), message: tidy(message, MESSAGE_CHARS) }
}

/// RFC 6901.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn list<'a>(rules: &'a Map<String, Value>, word: &str) -> &'a [Value] {
    rules.get(word).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Why the value is not of the type that is wanted, if it is not.
fn kind_of_value(rules: &Map<String, Value>, value: &Value) -> Option<String> {
    let wanted: Vec<&str> = match rules.get("type")? {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    let fits = wanted.iter().any(|wanted| match *wanted {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    });
    if fits || wanted.is_empty() {
        return None;
    }
    let wanted: Vec<&str> = wanted.iter().map(|wanted| type_in_words(wanted)).collect();
    Some(format!("expected {}, not {}", wanted.join(" or "), shown(value)))
}

fn type_in_words(name: &str) -> &str {
    match name {
        "null" => "nothing",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "a text",
        "array" => "a list",
        "object" => "an object",
        other => other,
    }
}

/// The words of an `enum` or `const`.
fn choices(schema: &Value) -> Vec<&str> {
    let of_enum = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    of_enum.chain(schema.get("const")).filter_map(Value::as_str).collect()
}

fn is_choice(schema: &Value) -> bool {
    schema.get("enum").is_some() || schema.get("const").is_some()
}

fn one_of(rules: &Map<String, Value>, value: &Value) -> Option<String> {
    let of_enum = rules.get("enum").and_then(Value::as_array);
    let allowed: Vec<&Value> = of_enum.into_iter().flatten().chain(rules.get("const")).collect();
    if allowed.is_empty() || allowed.iter().any(|allowed| same(allowed, value)) {
        return None;
    }
    let words: Vec<&str> = allowed.iter().filter_map(|allowed| allowed.as_str()).collect();
    let expected: Vec<String> = allowed.iter().take(20).map(|allowed| shown(allowed)).collect();
    let meant = value.as_str().and_then(|text| meant(text, &words));
    let meant = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
    Some(format!("expected {}, not {}{meant}", expected.join(" or "), shown(value)))
}

/// 1 and 1.0 are one number.
fn same(one: &Value, other: &Value) -> bool {
    one == other || matches!((one.as_f64(), other.as_f64()), (Some(one), Some(other)) if one.total_cmp(&other).is_eq())
}

fn bounds(rules: &Map<String, Value>, value: &Value) -> Option<String> {
    let number = value.as_f64()?;
    let bound = |word: &str| rules.get(word).filter(|bound| bound.is_number());
    let (least, most) = (bound("minimum"), bound("maximum"));
    let below = least.and_then(Value::as_f64).is_some_and(|least| number < least);
    let above = most.and_then(Value::as_f64).is_some_and(|most| number > most);
    if !below && !above {
        return None;
    }
    let range = match (least, most) {
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (Some(least), None) => format!("{least} or more"),
        (None, Some(most)) => format!("{most} or less"),
        (None, None) => return None,
    };
    Some(format!("expected {range}, not {value}"))
}

fn lengths(rules: &Map<String, Value>, value: &Value) -> Option<String> {
    let (length, least, most, what) = match value {
        Value::String(text) => (text.chars().count(), "minLength", "maxLength", "characters"),
        Value::Array(items) => (items.len(), "minItems", "maxItems", "entries"),
        _ => return None,
    };
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    let bound = |word: &str| rules.get(word).and_then(Value::as_u64);
    if let Some(least) = bound(least).filter(|least| length < *least) {
        return Some(format!("it has {length} {what}, at least {least} are expected"));
    }
    let most = bound(most).filter(|most| length > *most)?;
    Some(format!("it has {length} {what}, at most {most} are allowed"))
}

fn unknown_field(name: &str, known: &[&str]) -> String {
    let known_fields = known.iter().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", ");
    let name = tidy(name, 80);
    match (meant(&name, known), known) {
        (_, []) => format!("unknown field `{name}`: there is nothing to configure"),
        (Some(meant), _) => format!("unknown field `{name}`, did you mean `{meant}`? There are {known_fields}"),
        (None, _) => format!("unknown field `{name}`, there are {known_fields}"),
    }
}

/// What was probably meant: the nearest word, if it is near.
fn meant<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|known| (strsim::jaro_winkler(&word.to_lowercase(), &known.to_lowercase()), *known));
    near.filter(|(likeness, _)| *likeness > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// What an alternative takes, in words; nothing of `null`, which nobody writes.
fn in_words(schema: &Value) -> Option<String> {
    let words = choices(schema);
    if !words.is_empty() {
        return Some(words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or "));
    }
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    match schema.get("type").and_then(Value::as_str) {
        Some("null") => None,
        Some("object") if !required.is_empty() => Some(format!("{{ {}: … }}", required.join(": …, "))),
        Some(of_type) => Some(type_in_words(of_type).to_owned()),
        None => Some("something else".to_owned()),
    }
}

/// A value, short enough for a message.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text::quoted(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "order": {"enum": ["newest", "oldest"]},
                "by": {"anyOf": [
                    {"enum": ["host", "cluster"]},
                    {
                        "type": "object",
                        "properties": {"attribute": {"type": "string"}},
                        "required": ["attribute"],
                        "additionalProperties": false,
                    },
                ]},
                "busyAbove": {"description": "In MHz.", "allOf": [{"anyOf": [
                    {"type": "integer", "minimum": 0, "maximum": 100},
                    {"type": "null"},
                ]}]},
                "protect": {"type": "array", "items": {"type": "string", "minLength": 1}},
                "site": {"description": "Its code.", "allOf": [{"type": "string"}]},
            },
            "required": ["site"],
            "additionalProperties": false,
        })
    }

    #[allow(clippy::needless_pass_by_value, reason = "`json!` gives a value")]
    fn found(config: Value) -> Vec<(String, String)> {
        let problems = mistakes(&schema(), Kind::Scaling, &config);
        problems.into_iter().map(|problem| (problem.path, problem.message)).collect()
    }

    #[track_caller]
    fn assert_found(config: Value, path: &str, message: &str) {
        assert_eq!(found(config), [(path.to_owned(), message.to_owned())]);
    }

    #[test]
    fn what_is_right_passes() {
        for right in [
            json!({"site": "ber"}),
            json!({"site": "ber", "order": "oldest", "by": "host", "busyAbove": 100, "protect": ["a"]}),
            json!({"site": "ber", "by": {"attribute": "rack"}, "busyAbove": null, "protect": []}),
            json!({"site": "ber", "busyAbove": 1.0}),
        ] {
            assert_eq!(found(right), []);
        }
    }

    #[test]
    fn each_mistake_is_named_with_what_would_be_right() {
        assert_found(json!({}), "", "the field `site` is missing (Its code.)");
        assert_found(json!({"site": 1}), "/site", "expected a text, not 1");
        assert_found(
            json!({"site": "a", "protct": []}),
            "/protct",
            "unknown field `protct`, did you mean `protect`? There are `order`, `by`, `busyAbove`, `protect`, `site`",
        );
        assert_found(
            json!({"site": "a", "order": "newst"}),
            "/order",
            "expected \"newest\" or \"oldest\", not \"newst\"; did you mean `newest`?",
        );
        assert_found(json!({"site": "a", "busyAbove": 101}), "/busyAbove", "expected 0 to 100, not 101");
        assert_found(json!({"site": "a", "busyAbove": "x"}), "/busyAbove", "expected a whole number, not \"x\"");
        assert_found(
            json!({"site": "a", "protect": ["a", ""]}),
            "/protect/1",
            "it has 0 characters, at least 1 are expected",
        );
        assert_found(
            json!({"site": "a", "by": "hosts"}),
            "/by",
            "expected `host` or `cluster` or { attribute: … }, not \"hosts\"; did you mean `host`?",
        );
        assert_found(json!({"site": "a", "by": {"attribute": 7}}), "/by/attribute", "expected a text, not 7");
    }

    #[test]
    fn all_mistakes_at_once() {
        assert_eq!(found(json!({"order": 1, "x": 1})).len(), 3);
    }

    #[test]
    fn each_kind_has_its_own_schema() {
        let both = json!({"anyOf": [
            {"x-kind": "naming", "type": "object", "required": ["a"]},
            {"x-kind": "scaling", "type": "object", "required": ["b"]},
        ]});
        assert_eq!(mistakes(&both, Kind::Naming, &json!({"a": 1})), []);
        assert_eq!(mistakes(&both, Kind::Scaling, &json!({"a": 1})).len(), 1);
    }

    #[test]
    fn what_is_not_understood_refuses_nothing() {
        for schema in [
            json!({"not": {}, "if": {"type": "object"}, "then": {"maxProperties": 0}, "pattern": "^$"}),
            json!({"type": 5, "properties": [], "required": "a", "enum": {}, "minimum": "x", "items": null}),
            json!({"$ref": "https://example.com/schema"}),
            json!({"patternProperties": {"^x": {}}, "additionalProperties": false}),
            json!(true),
        ] {
            assert_eq!(mistakes(&schema, Kind::Naming, &json!({"x": [1], "y": "z"})), [], "{schema}");
        }
    }

    #[test]
    fn a_schema_without_end_ends() {
        let itself = json!({"$ref": "#", "allOf": [{"$ref": "#"}, {"$ref": "#"}, {"$ref": "#"}]});
        assert_eq!(mistakes(&itself, Kind::Naming, &json!({"a": 1})), []);
        let found = mistakes(
            &json!({"properties": {"a": {"$ref": "#/d/a"}}, "d": {"a": {"type": "null"}}}),
            Kind::Naming,
            &json!({"a": 1}),
        );
        assert_eq!(found.len(), 1);
    }
}

//! A configuration's JSON schema, from its Rust types: made while the policy
//! compiles, carried in its description, and what the operator holds a
//! configuration against before it asks the policy.

use std::collections::BTreeMap;
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64, NonZeroUsize};

/// What a type looks like in a configuration. Derive it beside `Deserialize`:
///
/// ```
/// use vmgroup_policy_sdk::schema;
/// use vmgroup_policy_sdk::prelude::*;
///
/// #[derive(serde::Deserialize, ConfigSchema)]
/// #[serde(deny_unknown_fields, rename_all = "camelCase")]
/// struct Config {
///     /// Per host.
///     #[schema(minimum = 1)]
///     max_members: u32,
///     tags: Option<Vec<String>>,
/// }
/// let schema = schema::text::<Config>();
/// assert!(schema.contains(r#""maxMembers":{"description":"Per host.","minimum":1,"#));
/// assert!(schema.contains(r#""required":["maxMembers"]"#));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no schema for a configuration",
    note = "derive it beside serde's: `#[derive(Deserialize, ConfigSchema)]`"
)]
pub trait ConfigSchema {
    /// The schema, in parts that make JSON text one after the other.
    const SCHEMA: &'static [Part];
}

/// A part of a schema's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// JSON text.
    Text(&'static str),
    /// Another type's schema, whole.
    Nested(&'static [Part]),
}

/// The schema of `T` as JSON text.
pub fn text<T: ConfigSchema + ?Sized>() -> String {
    fn write(parts: &[Part], text: &mut String) {
        for part in parts {
            match part {
                Part::Text(more) => text.push_str(more),
                Part::Nested(parts) => write(parts, text),
            }
        }
    }
    let mut whole = String::new();
    write(T::SCHEMA, &mut whole);
    whole
}

macro_rules! plain {
    ($($($of:ty)|+ => $schema:literal),+ $(,)?) => { $($(
        impl ConfigSchema for $of {
            const SCHEMA: &'static [Part] = &[Part::Text($schema)];
        }
    )+)+ };
}

plain! {
    bool => r#"{"type":"boolean"}"#,
    String => r#"{"type":"string"}"#,
    char => r#"{"type":"string","minLength":1,"maxLength":1}"#,
    u8 => r#"{"type":"integer","minimum":0,"maximum":255}"#,
    u16 => r#"{"type":"integer","minimum":0,"maximum":65535}"#,
    u32 => r#"{"type":"integer","minimum":0,"maximum":4294967295}"#,
    u64 | usize => r#"{"type":"integer","minimum":0}"#,
    NonZeroU8 => r#"{"type":"integer","minimum":1,"maximum":255}"#,
    NonZeroU16 => r#"{"type":"integer","minimum":1,"maximum":65535}"#,
    NonZeroU32 => r#"{"type":"integer","minimum":1,"maximum":4294967295}"#,
    NonZeroU64 | NonZeroUsize => r#"{"type":"integer","minimum":1}"#,
    i8 | i16 | i32 | i64 | isize => r#"{"type":"integer"}"#,
    f32 | f64 => r#"{"type":"number"}"#,
}

impl<T: ConfigSchema> ConfigSchema for Option<T> {
    const SCHEMA: &'static [Part] =
        &[Part::Text(r#"{"anyOf":["#), Part::Nested(T::SCHEMA), Part::Text(r#",{"type":"null"}]}"#)];
}

impl<T: ConfigSchema> ConfigSchema for Box<T> {
    const SCHEMA: &'static [Part] = T::SCHEMA;
}

impl<T: ConfigSchema> ConfigSchema for Vec<T> {
    const SCHEMA: &'static [Part] =
        &[Part::Text(r#"{"type":"array","items":"#), Part::Nested(T::SCHEMA), Part::Text("}")];
}

impl<T: ConfigSchema> ConfigSchema for BTreeMap<String, T> {
    const SCHEMA: &'static [Part] =
        &[Part::Text(r#"{"type":"object","additionalProperties":"#), Part::Nested(T::SCHEMA), Part::Text("}")];
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::text;
    use crate::prelude::*;
    use crate::{Storage, Unique};

    fn schema<T: ConfigSchema>() -> Value {
        serde_json::from_str(&text::<T>()).unwrap()
    }

    /// Whom it is "for": a test.
    #[derive(Deserialize, ConfigSchema)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    #[allow(dead_code, reason = "only its shape counts")]
    struct Whole {
        /// In percent,
        /// of everything.
        #[schema(minimum = 0, maximum = 99)]
        head_room: u32,
        #[serde(default)]
        by: By,
        #[serde(rename = "in", alias = "within")]
        place: Option<String>,
        #[serde(skip)]
        cached: u32,
        protect: Protect,
        steps: Vec<Step>,
    }

    #[derive(Deserialize, ConfigSchema)]
    #[serde(rename_all = "kebab-case")]
    #[allow(dead_code, reason = "only its shape counts")]
    enum Step {
        AllAtOnce,
        Share { percent: f32 },
    }

    #[test]
    fn a_struct_says_what_serde_takes() {
        let rule = schema::<crate::Rule>();
        assert_eq!(
            schema::<Whole>(),
            json!({
                "type": "object",
                "description": "Whom it is \"for\": a test.",
                "properties": {
                    "headRoom": {
                        "description": "In percent, of everything.",
                        "minimum": 0,
                        "maximum": 99,
                        "allOf": [{"type": "integer", "minimum": 0, "maximum": 4_294_967_295_u32}],
                    },
                    "by": schema::<By>(),
                    "in": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "within": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "protect": {"type": "array", "items": rule},
                    "steps": {"type": "array", "items": {"anyOf": [
                        {"enum": ["all-at-once"]},
                        {
                            "type": "object",
                            "properties": {"share": {
                                "type": "object",
                                "properties": {"percent": {"type": "number"}},
                                "required": ["percent"],
                            }},
                            "required": ["share"],
                            "additionalProperties": false,
                        },
                    ]}},
                },
                "required": ["headRoom", "protect", "steps"],
                "additionalProperties": false,
            })
        );
    }

    #[test]
    fn the_words_of_the_sdk() {
        assert_eq!(schema::<Unique>()["enum"], json!(["group", "everywhere"]));
        assert_eq!(schema::<Storage>()["enum"], json!(["leave", "mostFree"]));
        let by = schema::<By>();
        assert_eq!(by["anyOf"][0], json!({"enum": ["host", "cluster", "datastore"]}));
        assert_eq!(by["anyOf"][1]["required"], json!(["attribute"]));
    }
}

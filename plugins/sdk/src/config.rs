//! Configuration from JSON text into an author's type, with errors that name the
//! place and what would be right. Knows nothing of any policy.

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use crate::Problem;
use crate::types::Refusal;

/// Reads a configuration as the operator would give it to the policy. At most one
/// problem: reading ends at the first.
pub fn parse<T: DeserializeOwned>(json: &str) -> Result<T, Vec<Problem>> {
    // serde would take a list for a struct, field by field.
    if !json.trim_start().starts_with('{') {
        return Err(vec![Problem { path: String::new(), message: "expected an object, such as {}".to_owned() }]);
    }
    let mut reader = serde_json::Deserializer::from_str(json);
    let value = serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| vec![Problem { path: place(error.path()), message: without_position(error.inner()) }])?;
    reader.end().map_err(|error| vec![Problem { path: String::new(), message: error.to_string() }])?;
    Ok(value)
}

/// What `validate-config` answers.
pub fn validate<T: DeserializeOwned>(json: &str, further: fn(&T) -> Vec<Problem>) -> Result<(), Vec<Problem>> {
    let problems = further(&parse(json)?);
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// The configuration of a question. It was checked before the policy was put in
/// force, so a problem here means a host that does not check.
pub fn parse_or_refuse<T: DeserializeOwned>(json: &str) -> Result<T, Refusal> {
    parse(json).map_err(|problems| {
        let lines: Vec<String> =
            problems.iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect();
        Refusal::Config(lines.join("; "))
    })
}

fn place(path: &serde_path_to_error::Path) -> String {
    pointer(path.iter().map_while(|segment| match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } | Segment::Enum { variant: key } => Some(key.clone()),
        Segment::Unknown => None,
    }))
}

/// A place in a configuration as a JSON pointer (RFC 6901): `["roles", "a/b"]` is
/// `/roles/a~1b`.
pub fn pointer<S: AsRef<str>>(segments: impl IntoIterator<Item = S>) -> String {
    let mut pointer = String::new();
    for segment in segments {
        pointer.push('/');
        pointer.push_str(&segment.as_ref().replace('~', "~0").replace('/', "~1"));
    }
    pointer
}

/// Collects what is wrong with a configuration that could be read; for `validate`.
#[derive(Debug, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Notes a problem unless this is `right`: where (see [`pointer`]), and what would
    /// be right.
    pub fn unless(&mut self, right: bool, path: impl Into<String>, message: impl Into<String>) {
        if !right {
            self.0.push(Problem { path: path.into(), message: message.into() });
        }
    }
}

impl From<Problems> for Vec<Problem> {
    fn from(problems: Problems) -> Self {
        problems.0
    }
}

/// The line and column of a text that the user never wrote (the host made it from
/// YAML) would only mislead.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::Protect;

    #[derive(Deserialize, Debug, Default)]
    #[serde(deny_unknown_fields, default, rename_all = "camelCase")]
    struct Config {
        max_per_place: Option<u32>,
        protect: Protect,
    }

    fn problem(json: &str) -> (String, String) {
        let problems = parse::<Config>(json).unwrap_err();
        assert_eq!(problems.len(), 1);
        (problems[0].path.clone(), problems[0].message.clone())
    }

    #[test]
    fn nothing_given_is_all_defaults() {
        let config: Config = parse("{}").unwrap();
        assert_eq!(config.max_per_place, None);
    }

    #[test]
    fn a_misspelt_field_is_named_with_what_would_be_right() {
        let (path, message) = problem(r#"{"protct": ["pet=true"]}"#);
        assert_eq!(path, "/protct");
        assert_eq!(message, "unknown field `protct`, expected `maxPerPlace` or `protect`");
    }

    #[test]
    fn a_wrong_type_is_named_with_its_place() {
        assert_eq!(
            problem(r#"{"maxPerPlace": "two"}"#),
            ("/maxPerPlace".to_owned(), r#"invalid type: string "two", expected u32"#.to_owned())
        );
    }

    #[test]
    fn a_bad_rule_is_named_by_its_index() {
        let (path, message) = problem(r#"{"protect": ["pet=true", "=x"]}"#);
        assert_eq!(path, "/protect/1");
        assert!(message.contains("`key=value`"), "{message}");
    }

    #[test]
    fn what_is_no_object_or_too_much_is_refused() {
        assert!(parse::<Config>("").is_err());
        assert!(parse::<Config>("[1]").is_err());
        assert!(parse::<Config>("{} {}").is_err());
    }

    #[test]
    fn a_pointer_escapes() {
        assert_eq!(problem(r#"{"a/b~c": 1}"#).0, "/a~1b~0c");
    }

    #[test]
    fn what_is_not_right_is_noted_with_its_place() {
        let mut problems = Problems::default();
        problems.unless(true, "/width", "expected less");
        problems.unless(false, pointer(["roles", "a/b"]), "expected letters");
        let problem = |path: &str, message: &str| Problem { path: path.to_owned(), message: message.to_owned() };
        assert_eq!(Vec::from(problems), [problem("/roles/a~1b", "expected letters")]);
    }
}

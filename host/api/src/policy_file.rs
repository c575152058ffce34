//! `policy.yaml`: which plugin answers which question, and how it is configured.
//!
//! Parsing only. Whether a plugin exists, and likes its configuration, is found
//! out by whoever loads it.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_saphyr::Spanned;

/// The key of the policy file in its ConfigMap, and its name in a folder.
pub const FILE_NAME: &str = "policy.yaml";

/// The whole file. What is left out is answered by the built-in default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyFile {
    /// Gives names to new members. Default: `random-suffix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub naming: Option<PolicyEntry>,
    /// Chooses where new members go. Default: `pool-default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PolicyEntry>,
    /// Chooses who leaves. Default: `ordered`, newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<PolicyEntry>,
    /// Other policies for some groups. For each of naming, placement and scaling
    /// the first entry counts that selects a group and names one; who is selected
    /// by none is served by what stands above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupRule>,
    /// When these policies are taken back by themselves.
    #[serde(default, skip_serializing_if = "is_default")]
    pub breaker: Breaker,
    /// How much time policies may take for the groups of one namespace.
    #[serde(default, skip_serializing_if = "is_default")]
    pub budget: Budget,
    /// Which namespaces may bring policies of their own. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Tenants>,
}

/// What policies may take for the groups of one namespace, so that nobody's keep the
/// others waiting: whose time is used up is asked again when there is some. Only in
/// the administrator's policy file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Budget {
    /// So many seconds of one core; 0: without a limit. Default 30.
    #[schemars(range(max = 86400))]
    pub seconds: u32,
    /// Within so many. Default 60.
    #[schemars(range(min = 1, max = 86400))]
    pub window: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { seconds: 30, window: 60 }
    }
}

/// The namespaces in which a ConfigMap may serve that namespace's groups. Only in the
/// administrator's policy file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Tenants {
    /// Namespaces by name, any of these; a `*` at the end stands for the rest.
    pub namespaces: Vec<String>,
    /// The name of the ConfigMap in each of them. Default `vmgroup-policy`.
    #[serde(default = "default_config_map")]
    #[schemars(length(min = 1, max = 253))]
    pub config_map: String,
    /// How many namespaces may have one at the same time: what their plugins take of
    /// the operator's memory is bounded by it. Default 32.
    #[serde(default = "default_tenants")]
    #[schemars(range(min = 1, max = 256))]
    pub limit: u16,
}

impl Tenants {
    /// Whether this namespace may.
    pub fn allow(&self, namespace: &str) -> bool {
        names(&self.namespaces, namespace)
    }
}

fn default_config_map() -> String {
    "vmgroup-policy".to_owned()
}

const fn default_tenants() -> u16 {
    32
}

/// Whether one of these is the name: itself, or its beginning before a `*`.
pub(crate) fn names(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    })
}

/// Policies for some groups: of a namespace, of a label, a percentage of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GroupRule {
    /// Stands in the status of the groups that it serves. It also decides, with a
    /// group's uid, whom a percentage takes: another name, other groups.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Which groups. Default: all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub select: Select,
    /// How many of these, in percent. Default 100.
    #[serde(default = "everybody")]
    #[schemars(range(max = 100))]
    pub percent: u8,
    /// Gives names to new members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub naming: Option<PolicyEntry>,
    /// Chooses where new members go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PolicyEntry>,
    /// Chooses who leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<PolicyEntry>,
}

/// Which groups: what is given has to fit, all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Select {
    /// Namespaces by name, any of these; a `*` at the end stands for the rest.
    pub namespaces: Vec<String>,
    /// `metadata.labels` of the group, all of these.
    pub match_labels: BTreeMap<String, String>,
}

impl Select {
    /// Whether it is for a group of this namespace with these labels.
    pub fn fits(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let Self { namespaces, match_labels } = self;
        (namespaces.is_empty() || names(namespaces, namespace))
            && match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

const fn everybody() -> u8 {
    100
}

/// The most entries under `groups`.
const MAX_RULES: usize = 32;

/// The circuit breaker: policies that fail so often within so many seconds are
/// taken back, and what was in force before serves again. A failure is a crash,
/// an overrun limit or an answer that breaks a rule; a refusal in the policy's
/// own words is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Breaker {
    /// So many failures; 0 turns it off. Default 3.
    #[schemars(range(max = 1000))]
    pub failures: u32,
    /// The window in seconds. Default 600.
    #[schemars(range(min = 1, max = 86400))]
    pub seconds: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 3, seconds: 600 }
    }
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyEntry {
    /// A key of the ConfigMap's `binaryData` ending in `.wasm` or `.wasm.gz`, the
    /// bare name of a shipped policy (`ordinal`), or an artifact in an OCI registry,
    /// with its digest (`oci://registry.example.com/policies/mine@sha256:…`).
    pub plugin: String,
    /// The policy's own configuration; what is legal here is up to it.
    #[serde(default)]
    pub config: serde_json::Map<String, serde_json::Value>,
    /// What happens when it gives no legal answer.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// A policy on trial: asked the same questions, its answers compared and
    /// never carried out (`vmgroup shadow report`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowEntry>,
}

/// A policy on trial beside another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ShadowEntry {
    /// As in [`PolicyEntry::plugin`].
    pub plugin: String,
    /// As in [`PolicyEntry::config`].
    #[serde(default)]
    pub config: serde_json::Map<String, serde_json::Value>,
}

/// What happens when a policy gives no legal answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnFailure {
    /// Nothing is changed until it does. The default.
    #[default]
    Hold,
    /// The built-in default of its kind is asked instead.
    Builtin,
    /// The policy of its kind that was in force before, and good, is asked
    /// instead. If there is none, nothing is changed.
    Previous,
}

/// Why a policy file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// Not YAML, or not of this shape; the message has line, column and what was expected.
    #[error("policy.yaml cannot be read: {0}")]
    Parse(String),
    /// An entry under `groups` cannot be meant.
    #[error("policy.yaml: groups[{index}] ({name}) {problem}")]
    Rule {
        /// Which, from 0.
        index: usize,
        /// Its name.
        name: String,
        /// What is wrong and what would be right.
        problem: &'static str,
    },
    /// A figure is out of its bounds.
    #[error("policy.yaml: {field} is {value}, but must be {bounds}")]
    Bounds {
        /// The field, with dots.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        bounds: &'static str,
    },
}

impl PolicyFile {
    /// Parses the text of a policy file. Empty text is the empty file.
    pub fn parse(text: &str) -> Result<Self, PolicyFileError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let file: Self = serde_saphyr::from_str(text).map_err(|error| PolicyFileError::Parse(error.to_string()))?;
        file.within_bounds()?;
        Ok(file)
    }

    /// Every plugin that it names, those on trial included.
    pub fn plugins(&self) -> impl Iterator<Item = &str> {
        let of_rules = self.groups.iter().flat_map(|rule| [&rule.naming, &rule.placement, &rule.scaling]);
        let entries = [&self.naming, &self.placement, &self.scaling].into_iter().chain(of_rules).flatten();
        entries
            .flat_map(|entry| [Some(&entry.plugin), entry.shadow.as_ref().map(|it| &it.plugin)])
            .flatten()
            .map(String::as_str)
    }

    fn within_bounds(&self) -> Result<(), PolicyFileError> {
        self.rules_are_sound()?;
        if let Some(Tenants { namespaces, config_map, limit }) = &self.tenants {
            let out = |field, value: String, bounds| Err(PolicyFileError::Bounds { field, value, bounds });
            if namespaces.is_empty() {
                return out(
                    "tenants.namespaces",
                    "empty".to_owned(),
                    "a list of namespaces, or left out with `tenants`",
                );
            }
            if config_map.is_empty() || config_map.len() > 253 {
                return out("tenants.configMap", format!("`{config_map}`"), "the name of a ConfigMap");
            }
            if !(1..=256).contains(limit) {
                return out("tenants.limit", limit.to_string(), "1 to 256");
            }
        }
        let Breaker { failures, seconds } = self.breaker;
        let out = |field, value: u32, bounds| Err(PolicyFileError::Bounds { field, value: value.to_string(), bounds });
        match (failures, seconds) {
            (1001.., _) => out("breaker.failures", failures, "0 (off) to 1000"),
            (_, 0 | 86_401..) => out("breaker.seconds", seconds, "1 to 86400"),
            _ => Ok(()),
        }?;
        let Budget { seconds, window } = self.budget;
        match (seconds, window) {
            (86_401.., _) => out("budget.seconds", seconds, "0 (off) to 86400"),
            (_, 0 | 86_401..) => out("budget.window", window, "1 to 86400"),
            _ => Ok(()),
        }
    }
}

impl PolicyFile {
    fn rules_are_sound(&self) -> Result<(), PolicyFileError> {
        if self.groups.len() > MAX_RULES {
            let value = format!("a list of {}", self.groups.len());
            return Err(PolicyFileError::Bounds { field: "groups", value, bounds: "32 entries at most" });
        }
        for (index, rule) in self.groups.iter().enumerate() {
            let entries = [&rule.naming, &rule.placement, &rule.scaling];
            let named_before = self.groups.iter().take(index).any(|other| other.name == rule.name);
            let problem = if rule.name.is_empty() || rule.name.len() > 63 {
                "needs a name of 1 to 63 characters"
            } else if named_before {
                "has the name of an entry before it: give each its own"
            } else if rule.percent > 100 {
                "has a percent above 100"
            } else if entries.iter().all(|entry| entry.is_none()) {
                "names no policy: add naming, placement or scaling"
            } else if entries.into_iter().flatten().any(|entry| entry.shadow.is_some()) {
                "has a shadow: a policy on trial stands at the top level"
            } else {
                continue;
            };
            return Err(PolicyFileError::Rule { index, name: rule.name.clone(), problem });
        }
        Ok(())
    }
}

/// The line, counted from 1, where `pointer` (a JSON pointer, as in
/// `/scaling/config/order`) stands in the text of a policy file. Of what is not
/// there (a field that is missing), the line of the innermost that is; none if
/// not even the first step is there, or the text is no YAML.
pub fn line_of(text: &str, pointer: &str) -> Option<u64> {
    let mut tree: Tree = serde_saphyr::from_str(text).ok()?;
    let mut line = None;
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        let child = match tree {
            Tree::Map(entries) => {
                entries.into_iter().find(|(key, _)| key.value == step).map(|(key, value)| (key.referenced, value))
            }
            Tree::List(items) => {
                let item = step.parse().ok().and_then(|index: usize| items.into_iter().nth(index));
                item.map(|item| (item.referenced, item.value))
            }
            Tree::Leaf => None,
        };
        let Some((place, below)) = child else { break };
        line = Some(place.line());
        tree = below;
    }
    line
}

/// YAML with the places of its keys and items; what stands there is of no concern.
enum Tree {
    Map(Vec<(Spanned<String>, Tree)>),
    List(Vec<Spanned<Tree>>),
    Leaf,
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Tree;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Tree::Map(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Tree::List(items))
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
                Tree::deserialize(deserializer)
            }

            fn visit_none<E>(self) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_design_parses() {
        let file = PolicyFile::parse(
            r#"
naming:    { plugin: ordinal-naming.wasm, config: { pattern: "{group}-{ordinal}", maxLength: 15 } }
placement: { plugin: spread.wasm, config: { by: host } }
scaling:   { plugin: idle-first.wasm, config: { protect: [ "pet=true" ] }, onFailure: hold }
"#,
        )
        .unwrap();
        assert_eq!(file.naming.unwrap().config["maxLength"], 15);
        assert_eq!(file.scaling.unwrap().on_failure, OnFailure::Hold);
    }

    #[test]
    fn every_plugin_is_found_wherever_it_is_named() {
        let file = PolicyFile::parse(
            "naming: { plugin: a }\nscaling: { plugin: b, shadow: { plugin: c } }\ngroups: [{ name: x, placement: { plugin: d } }]",
        )
        .unwrap();
        assert_eq!(file.plugins().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_misspelt_field_is_named_with_its_line() {
        let error =
            PolicyFile::parse("naming:\n  plugin: ordinal\nplacment:\n  plugin: spread\n").unwrap_err().to_string();
        assert!(error.contains("placment"), "{error}");
        assert!(error.contains('3'), "{error}");
    }

    #[test]
    fn a_place_has_its_line() {
        let text = r#"# Who leaves.
scaling:
  plugin: idle-first.wasm
  config:
    protect:
      - "pet=true"
      - keep
    "a/b": { deep: [1, 2] }
naming: { plugin: ordinal, config: { width: 3 } }
"#;
        for (pointer, line) in [
            ("/scaling", 2),
            ("/scaling/config", 4),
            ("/scaling/config/protect", 5),
            ("/scaling/config/protect/1", 7),
            ("/scaling/config/a~1b/deep/1", 8),
            ("/scaling/config/missing", 4),
            ("/naming/config/width", 9),
        ] {
            assert_eq!(line_of(text, pointer), Some(line), "{pointer}");
        }
        assert_eq!(line_of(text, "/placement"), None);
        assert_eq!(line_of("a: [", "/a"), None);
    }

    #[test]
    fn a_policy_on_trial_stands_beside_the_one_in_force() {
        let file = PolicyFile::parse("scaling: { plugin: ordered, shadow: { plugin: new.wasm, config: { a: 1 } } }");
        let shadow = file.unwrap().scaling.unwrap().shadow.unwrap();
        assert_eq!((shadow.plugin.as_str(), &shadow.config["a"]), ("new.wasm", &serde_json::json!(1)));
        let error =
            PolicyFile::parse("scaling: { plugin: ordered, shadow: { plugin: x, onFailure: hold } }").unwrap_err();
        assert!(error.to_string().contains("onFailure"), "{error}");
    }

    #[test]
    fn the_breaker_has_bounds_and_a_default() {
        assert_eq!(
            PolicyFile::parse("breaker: { failures: 5 }").unwrap().breaker,
            Breaker { failures: 5, seconds: 600 }
        );
        let error = PolicyFile::parse("breaker: { seconds: 0 }").unwrap_err().to_string();
        assert!(error.contains("breaker.seconds") && error.contains("86400"), "{error}");
        let previous = PolicyFile::parse("scaling: { plugin: ordered, onFailure: previous }").unwrap();
        assert_eq!(previous.scaling.unwrap().on_failure, OnFailure::Previous);
    }

    #[test]
    fn rules_for_some_groups_are_read_and_nonsense_is_named() {
        let text = "groups: [{ name: canary, select: { namespaces: [shop], matchLabels: { tier: web } }, percent: 10, scaling: { plugin: new.wasm } }]";
        let rule = PolicyFile::parse(text).unwrap().groups.remove(0);
        assert_eq!((rule.percent, rule.select.match_labels["tier"].as_str()), (10, "web"));
        for (bad, word) in [
            ("groups: [{ name: a }]", "names no policy"),
            ("groups: [{ name: a, percent: 101, scaling: { plugin: x } }]", "above 100"),
            ("groups: [{ name: a, scaling: { plugin: x } }, { name: a, scaling: { plugin: x } }]", "groups[1]"),
            ("groups: [{ name: a, scaling: { plugin: x, shadow: { plugin: y } } }]", "shadow"),
            ("groups: [{ name: a, select: { labels: {} }, scaling: { plugin: x } }]", "labels"),
        ] {
            let error = PolicyFile::parse(bad).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn nothing_is_the_default() {
        assert_eq!(PolicyFile::parse(" \n").unwrap(), PolicyFile::default());
    }
}

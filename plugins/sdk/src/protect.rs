//! Rules for who must not leave, shared by all scaling policies, so that a site
//! writes them in one way.

use serde::Deserialize;

use crate::ConfigSchema;
use crate::schema::Part;
use crate::types::{Attribute, Member};

/// Members that a policy must leave alone: `["pet=true", "keep"]`. A member is
/// protected when any rule matches its attributes, or when the operator says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ConfigSchema)]
#[serde(transparent)]
pub struct Protect {
    rules: Vec<Rule>,
}

/// `key=value` matches what has the attribute `key` with this `value`; `key` alone
/// what has the attribute at all.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rule {
    key: String,
    value: Option<String>,
}

impl ConfigSchema for Rule {
    const SCHEMA: &'static [Part] =
        &[Part::Text(r#"{"type":"string","minLength":1,"description":"`key=value` or `key`, such as `pet=true`."}"#)];
}

impl TryFrom<String> for Rule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key.trim(), Some(value.trim().to_owned())),
            None => (text.trim(), None),
        };
        if key.is_empty() {
            return Err(format!("`{text}` is no rule, expected `key=value` or `key`, such as `pet=true`"));
        }
        Ok(Self { key: key.to_owned(), value })
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

impl Rule {
    /// Whether it fits the attributes of a member, or the labels of a group.
    pub fn matches(&self, attributes: &[Attribute]) -> bool {
        let found = attributes.iter().find(|attribute| attribute.key == self.key);
        found.is_some_and(|found| self.value.as_ref().is_none_or(|wanted| found.value == *wanted))
    }
}

impl Protect {
    /// From texts, for tests and for a policy's own defaults.
    pub fn new<T: Into<String>>(rules: impl IntoIterator<Item = T>) -> Result<Self, String> {
        let rules = rules.into_iter().map(|text| Rule::try_from(text.into()));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// Whether `member` must stay, by a rule or by the operator's word.
    pub fn protects(&self, member: &Member) -> bool {
        member.protected || self.rule_for(member).is_some()
    }

    /// The first rule that protects `member`.
    pub fn rule_for(&self, member: &Member) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(&member.attributes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn key_and_value_or_key_alone() {
        let request = testing::group("web")
            .members(4)
            .member("web-1", |m| m.set_attribute("pet", "true"))
            .member("web-2", |m| m.set_attribute("pet", "false"))
            .member("web-3", |m| m.protected = true)
            .remove(1);
        let protected =
            |protect: &Protect| -> Vec<bool> { request.members.iter().map(|m| protect.protects(m)).collect() };
        let none = Protect::default();
        assert_eq!(protected(&none), [false, false, true, false]);
        let by_value = Protect::new(["pet = true"]).unwrap();
        assert_eq!(protected(&by_value), [true, false, true, false]);
        let by_key = Protect::new(["other", "pet"]).unwrap();
        assert_eq!(protected(&by_key), [true, true, true, false]);
        assert_eq!(by_key.rule_for(&request.members[0]).map(ToString::to_string), Some("pet".to_owned()));
    }

    #[test]
    fn a_rule_without_a_key_is_refused() {
        assert!(Protect::new(["=true"]).is_err());
        assert!(Protect::new([" "]).is_err());
    }
}

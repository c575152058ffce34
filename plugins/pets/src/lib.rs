//! Scaling policy `pets`: who has a label, or has lived long enough, never leaves; of
//! the others the newest leave first.
//!
//! ```yaml
//! scaling:
//!   plugin: pets
//!   config:
//!     protect: ["pet=true", "owner"]  # members with such an attribute are pets
//!     groups: ["tier=gold"]           # all members of groups with such a label are pets
//!     olderThan: 90d                  # so are members of this age (s, m, h, d, w); default: no limit
//!     unknownAge: stays               # stays (default) | leaves: members whose age is not known
//! ```
//!
//! A refusal names what holds whom, so that `kubectl describe` shows why a group does
//! not shrink. With `olderThan`, members of unknown age may be old: they stay unless
//! `unknownAge` says otherwise.

use std::fmt;

use serde::Deserialize;
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::scaling::{Request, Victim};
use vmgroup_policy_sdk::types::Member;
use vmgroup_policy_sdk::{Rule, schema};

/// The configuration; see the crate.
#[derive(Clone, Debug, Default, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Pets {
    /// Members that are pets by an attribute.
    pub protect: Protect,
    /// Groups whose members are all pets, by a label.
    pub groups: Vec<Rule>,
    /// The age from which on a member is a pet.
    pub older_than: Option<Age>,
    /// What becomes of members whose age is not known.
    pub unknown_age: UnknownAge,
}

/// What becomes of members whose age is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ConfigSchema)]
#[serde(rename_all = "camelCase")]
pub enum UnknownAge {
    /// They may be old enough.
    #[default]
    Stays,
    /// They count as young.
    Leaves,
}

/// A span of time in seconds, written `90d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Age(u64);

const UNITS: [(char, u64); 5] = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400), ('w', 604_800)];

impl ConfigSchema for Age {
    const SCHEMA: &'static [schema::Part] =
        &[schema::Part::Text(r#"{"type":"string","minLength":2,"description":"A number and a unit, such as `90d`."}"#)];
}

impl TryFrom<String> for Age {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let read = || {
            let (unit, seconds) = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit))?;
            let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
            number.checked_mul(seconds).map(Self)
        };
        read().ok_or_else(|| format!("`{text}` is no age, expected a number and a unit (s, m, h, d, w), such as `90d`"))
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = UNITS.into_iter().rev().find(|(_, seconds)| self.0 % *seconds == 0 && self.0 >= *seconds);
        let (unit, seconds) = fitting.unwrap_or(UNITS[0]);
        write!(f, "{}{unit}", self.0 / seconds)
    }
}

/// By what a member is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Held {
    Attribute,
    Age,
    UnknownAge,
}

impl Scaling for Pets {
    const NAME: &'static str = "pets";
    const SUMMARY: &'static str = "Members with a label or of some age never leave; of the others, the newest do.";
    const ORDER_FREE: bool = true;

    fn choose(&self, request: &Request) -> Result<Vec<Victim>, Refusal> {
        let labels = &request.context.group.labels;
        if let Some(rule) = self.groups.iter().find(|rule| rule.matches(labels)) {
            return Err(Refusal::Unsatisfiable(format!(
                "{} have to leave, but the group has the label {rule}, so all of its members are pets",
                request.count
            )));
        }
        let now = request.context.now;
        let all = request.candidates_of(|member| self.holds(now, member).is_none());
        let mut candidates = all.map_err(|_| self.refusal(request))?;
        candidates.sort_by(|a, b| a.newest_first(b));
        Ok(request.take(candidates, |candidate| format!("newest that is no pet: made {}", candidate.made())))
    }
}

impl Pets {
    fn holds(&self, now: u64, member: &Member) -> Option<Held> {
        if self.protect.protects(member) {
            return Some(Held::Attribute);
        }
        let limit = self.older_than?;
        match member.created_at {
            Some(made) => (now.saturating_sub(made) >= limit.0).then_some(Held::Age),
            None => (self.unknown_age == UnknownAge::Stays).then_some(Held::UnknownAge),
        }
    }

    fn refusal(&self, request: &Request) -> Refusal {
        let held: Vec<Held> =
            request.members.iter().filter_map(|member| self.holds(request.context.now, member)).collect();
        let count = |by: Held| held.iter().filter(|held| **held == by).count();
        let mut why = vec![format!("{} by an attribute", count(Held::Attribute))];
        if let Some(age) = self.older_than {
            why.push(format!("{} as older than {age}", count(Held::Age)));
            why.push(format!("{} as nobody knows their age", count(Held::UnknownAge)));
        }
        Refusal::Unsatisfiable(format!(
            "{} of {} members have to leave, but {} are pets: {}",
            request.count,
            request.members.len(),
            held.len(),
            why.join(", ")
        ))
    }
}

vmgroup_policy_sdk::export!(Pets: scaling);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::parse_config;
    use vmgroup_policy_sdk::testing::{NOW, Question, assert_legal_victims, group, names_of};

    const DAY: u64 = 86_400;

    /// web-1 is a hundred days old, web-2 fifty, web-3 and web-4 are a day old.
    fn four() -> Question {
        let aged = |question: Question, name: &str, days: u64| {
            question.member(name, |m| m.created_at = Some(NOW - days * DAY))
        };
        let question = aged(aged(group("web").members(4), "web-1", 100), "web-2", 50);
        aged(aged(question, "web-3", 1), "web-4", 1)
    }

    fn leave(config: &str, request: &Request) -> Vec<String> {
        let policy: Pets = parse_config(config).unwrap();
        let victims = policy.choose(request).unwrap();
        assert_legal_victims(request, &victims);
        names_of(request, &victims).into_iter().map(str::to_owned).collect()
    }

    fn refusal(config: &str, request: &Request) -> String {
        let policy: Pets = parse_config(config).unwrap();
        match policy.choose(request) {
            Err(Refusal::Unsatisfiable(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_rules_the_newest_leave() {
        assert_eq!(leave("{}", &four().remove(3)), ["web-4", "web-3", "web-2"]);
    }

    #[test]
    fn the_old_stay() {
        let config = r#"{"olderThan": "90d"}"#;
        assert_eq!(leave(config, &four().remove(3)), ["web-4", "web-3", "web-2"]);
        assert_eq!(
            refusal(config, &four().remove(4)),
            "4 of 4 members have to leave, but 1 are pets: 0 by an attribute, 1 as older than 90d, \
             0 as nobody knows their age"
        );
        assert_eq!(leave(r#"{"olderThan": "7w"}"#, &four().remove(2)), ["web-4", "web-3"]);
    }

    #[test]
    fn labelled_members_stay_whatever_their_age() {
        let question = four().member("web-4", |m| m.set_attribute("pet", "true"));
        assert_eq!(leave(r#"{"protect": ["pet=true"]}"#, &question.remove(1)), ["web-3"]);
    }

    #[test]
    fn groups_can_be_pets_as_a_whole() {
        let config = r#"{"groups": ["tier=gold"]}"#;
        assert_eq!(leave(config, &four().label("tier", "tin").remove(1)), ["web-4"]);
        let why = refusal(config, &four().label("tier", "gold").remove(1));
        assert!(why.contains("the label tier=gold"), "{why}");
    }

    #[test]
    fn who_may_be_old_stays_unless_the_site_says_otherwise() {
        let question = four().member("web-4", |m| m.created_at = None);
        assert_eq!(leave(r#"{"olderThan": "90d"}"#, &question.clone().remove(1)), ["web-3"]);
        let leaves = r#"{"olderThan": "90d", "unknownAge": "leaves"}"#;
        assert_eq!(leave(leaves, &question.clone().remove(3)), ["web-3", "web-2", "web-4"]);
        assert_eq!(leave("{}", &question.remove(4)).len(), 4, "without a limit nobody asks for the age");
    }

    #[test]
    fn ages_are_read_and_written() {
        for (text, seconds) in [("90d", 90 * DAY), ("2w", 14 * DAY), ("12 h", 43_200), ("5s", 5)] {
            assert_eq!(Age::try_from(text.to_owned()).unwrap().0, seconds, "{text}");
        }
        for text in ["", "d", "90", "-1d", "90 days", "99999999999999999999d"] {
            assert!(Age::try_from(text.to_owned()).is_err(), "{text}");
        }
        assert_eq!(Age(90 * DAY).to_string(), "90d");
        assert_eq!(Age(0).to_string(), "0s");
    }
}

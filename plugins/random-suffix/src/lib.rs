//! Naming policy `random-suffix`, the default: names as the operator has always
//! made them, `<group>-replica-<8 lower-case letters>`.
//!
//! ```yaml
//! naming:
//!   plugin: random-suffix
//!   config:
//!     prefix: web            # instead of `<group>-replica`
//!     length: 8              # letters in the suffix, 4 to 32; default 8
//!     unique: group          # group (default) | everywhere
//! ```
//!
//! What stands before the suffix is shortened where the name would be longer than
//! the operator accepts, and the reason says so; the suffix never is. The letters
//! come from the question's seed: the same question, replayed, gets the same names.

use std::collections::BTreeSet;

use serde::Deserialize;
use vmgroup_policy_sdk::naming::{Answer, Proposal, Request, Scope};
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::{Unique, name_length};

const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

/// Draws for one name before giving up. With 4 letters and half of all names taken,
/// so many misses in a row happen once in 10¹⁹ questions.
const DRAWS: u32 = 64;

/// The configuration; see the crate.
#[derive(Clone, Debug, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct RandomSuffix {
    /// Instead of `<group>-replica`.
    pub prefix: Option<String>,
    /// Letters in the suffix.
    pub length: u32,
    /// Where names have to be unique.
    pub unique: Unique,
}

impl Default for RandomSuffix {
    fn default() -> Self {
        Self { prefix: None, length: 8, unique: Unique::Group }
    }
}

impl Naming for RandomSuffix {
    const NAME: &'static str = "random-suffix";
    const SUMMARY: &'static str = "Names of the group's name and random letters.";
    const ORDER_FREE: bool = true;

    fn validate(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        let in_range = (4..=32).contains(&self.length);
        problems.unless(in_range, "/length", format!("{} is out of range, expected 4 to 32", self.length));
        let legal = !self.prefix.as_deref().is_some_and(|prefix| prefix.contains(char::is_control));
        problems.unless(legal, "/prefix", "has control characters, which no name may have");
        problems.into()
    }

    fn name(&self, request: &Request) -> Result<Answer, Refusal> {
        let scope = Scope::from(self.unique);
        let prefix = match &self.prefix {
            Some(prefix) => prefix.clone(),
            None => format!("{}-replica", request.context.group.name),
        };
        let length = self.length as usize;
        let Some(room) = (request.max_length as usize).checked_sub(length + 1) else {
            return Err(Refusal::Unsatisfiable(format!(
                "a suffix of {length} letters does not fit into names of {}: set `length` lower",
                request.max_length
            )));
        };
        let kept = shorten(prefix.trim_start(), room);
        let reason = if kept.len() == prefix.len() {
            "random suffix".to_owned()
        } else {
            format!(
                "random suffix; `{prefix}` shortened to `{kept}`, as names have at most {} \
                 characters",
                request.max_length
            )
        };
        let mut taken = request.taken(scope);
        // Everything that anybody has is avoided, whatever the scope demands: it costs
        // nothing, and two VMs of one name confuse people.
        taken.extend(request.taken_elsewhere.iter().map(String::as_str));
        let mut rng = Rng::of(&request.context);
        let mut drawn = BTreeSet::new();
        let mut names = Vec::new();
        for _ in 0..request.count {
            let free = (0..DRAWS)
                .map(|_| {
                    let suffix = rng.text(LETTERS, length);
                    if kept.is_empty() { suffix } else { format!("{kept}-{suffix}") }
                })
                .find(|name| !taken.contains(name.as_str()) && !drawn.contains(name));
            let Some(name) = free else {
                return Err(Refusal::Unsatisfiable(format!(
                    "{DRAWS} random names in a row were taken: set `length` higher than {length}"
                )));
            };
            drawn.insert(name.clone());
            names.push(name);
        }
        let proposals = names.into_iter().map(|name| Proposal { name, reason: reason.clone() }).collect();
        Ok(Answer { proposals, scope })
    }
}

/// The beginning of `text`, at most `room` characters long as vCenter counts, and
/// without a hyphen or blank at its end if something had to go.
fn shorten(text: &str, room: usize) -> &str {
    if name_length(text) <= room {
        return text;
    }
    let fits = |end: &usize| name_length(&text[..*end]) <= room;
    let ends = text.char_indices().map(|(end, _)| end);
    let end = ends.take_while(fits).last().unwrap_or(0);
    text[..end].trim_end_matches(['-', '_', '.', ' '])
}

vmgroup_policy_sdk::export!(RandomSuffix: naming);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::parse_config;
    use vmgroup_policy_sdk::testing::{assert_legal_names, group};

    fn names(config: &str, request: &Request) -> Vec<String> {
        let policy: RandomSuffix = parse_config(config).unwrap();
        assert_eq!(policy.validate(), []);
        let answer = policy.name(request).unwrap();
        assert_legal_names(request, &answer);
        answer.proposals.into_iter().map(|p| p.name).collect()
    }

    #[test]
    fn names_look_as_they_always_did() {
        for name in names("{}", &group("web").names(20)) {
            let suffix = name.strip_prefix("web-replica-").unwrap();
            assert_eq!(suffix.len(), 8);
            assert!(suffix.bytes().all(|byte| byte.is_ascii_lowercase()));
        }
    }

    #[test]
    fn the_seed_decides() {
        let one = names("{}", &group("web").seed(1).names(3));
        assert_eq!(one, names("{}", &group("web").seed(1).names(3)));
        assert_ne!(one, names("{}", &group("web").seed(2).names(3)));
    }

    #[test]
    fn what_is_taken_is_drawn_again() {
        let first = names("{}", &group("web").names(2));
        let request = group("web").taken(&first[0]).taken_elsewhere(&first[1]).names(5);
        let other = names("{}", &request);
        assert!(first.iter().all(|name| !other.contains(name)));
    }

    #[test]
    fn prefix_and_length_are_the_sites() {
        let config = r#"{"prefix": "ber-lx", "length": 4, "unique": "everywhere"}"#;
        let policy: RandomSuffix = parse_config(config).unwrap();
        let answer = policy.name(&group("web").names(1)).unwrap();
        assert_eq!(answer.scope, Scope::Everywhere);
        assert_eq!(answer.proposals[0].name.len(), "ber-lx-".len() + 4);
    }

    #[test]
    fn a_long_group_is_shortened_and_the_reason_says_so() {
        let request = group("a-very-long-group").max_length(16).names(3);
        let answer = RandomSuffix::default().name(&request).unwrap();
        assert_legal_names(&request, &answer);
        assert!(answer.proposals[0].name.starts_with("a-very-"));
        assert_eq!(answer.proposals[0].name.len(), 15);
        assert_eq!(
            answer.proposals[0].reason,
            "random suffix; `a-very-long-group-replica` shortened to `a-very`, as names have at \
             most 16 characters"
        );
    }

    #[test]
    fn any_length_is_kept_to() {
        for limit in 9..=80 {
            names(r#"{"prefix": "a/b%c--dé f-"}"#, &group("web").max_length(limit).names(2));
            names("{}", &group(&"x-".repeat(60)).max_length(limit).names(2));
        }
        let refusal = RandomSuffix::default().name(&group("web").max_length(8).names(1));
        assert!(matches!(refusal, Err(Refusal::Unsatisfiable(_))));
    }

    #[test]
    fn an_exhausted_suffix_is_refused() {
        let mut question = group("web");
        let all: BTreeSet<String> = names(r#"{"length": 4}"#, &group("web").names(DRAWS)).into_iter().collect();
        for name in &all {
            question = question.taken(name);
        }
        let policy = RandomSuffix { length: 4, ..RandomSuffix::default() };
        let refusal = policy.name(&question.names(1)).unwrap_err();
        assert!(matches!(refusal, Refusal::Unsatisfiable(why) if why.contains("`length`")));
    }

    #[test]
    fn mistakes_in_the_configuration() {
        let policy: RandomSuffix = parse_config(r#"{"length": 2, "prefix": "a\nb"}"#).unwrap();
        let paths: Vec<String> = policy.validate().into_iter().map(|p| p.path).collect();
        assert_eq!(paths, ["/length", "/prefix"]);
    }
}

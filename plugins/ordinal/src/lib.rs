//! Naming policy `ordinal`: names by a pattern and a number.
//!
//! ```yaml
//! naming:
//!   plugin: ordinal
//!   config:
//!     pattern: "{group}-{ordinal}"  # the default
//!     width: 3                      # digits at least, filled with zeros; default 1
//!     start: 1                      # the first number; default 0
//!     maxLength: 15                 # characters at most (15 for Windows); default: vCenter's 80
//!     reuse: true                   # true (default): the lowest free number; false: see below
//!     unique: everywhere            # group (default) | everywhere
//! ```
//!
//! The pattern may have `{namespace}`, `{group}`, `{template}` (its name, without a path),
//! `{label:KEY}` (a label of the `VmGroup`), and has `{ordinal}` exactly once. A name that would be too long
//! has its `{group}` shortened, and the reason says so; nothing else ever is, the
//! number least of all: what cannot fit is refused.
//!
//! With `reuse: false` the number is one above the highest that is present. A policy
//! remembers nothing: when the member with the highest number has left, its number
//! is free again. Where a number must never come back, keep the others in the
//! inventory, or let the highest stay (`order: oldest` in the policy `ordered`).

mod pattern;

use serde::Deserialize;
use vmgroup_policy_sdk::Unique;
use vmgroup_policy_sdk::naming::{Answer, Proposal, Request, Scope};
use vmgroup_policy_sdk::prelude::*;

pub use pattern::Pattern;

/// The configuration; see the crate.
#[derive(Clone, Debug, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Ordinal {
    /// What a name is made of.
    pub pattern: Pattern,
    /// Digits at least.
    pub width: usize,
    /// The first number.
    pub start: u64,
    /// Characters at most.
    pub max_length: Option<u32>,
    /// Whether gaps are filled.
    pub reuse: bool,
    /// Where names have to be unique.
    pub unique: Unique,
}

impl Default for Ordinal {
    fn default() -> Self {
        Self { pattern: Pattern::default(), width: 1, start: 0, max_length: None, reuse: true, unique: Unique::Group }
    }
}

impl Naming for Ordinal {
    const NAME: &'static str = "ordinal";
    const SUMMARY: &'static str = "Names by a pattern and a number, such as {group}-{ordinal}.";
    const ORDER_FREE: bool = true;

    fn validate(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        problems.unless(self.width <= 20, "/width", "expected at most 20 digits");
        problems.unless(
            self.max_length.is_none_or(|length| (1..=80).contains(&length)),
            "/maxLength",
            "expected 1 to 80, the most that vCenter takes",
        );
        problems.into()
    }

    fn name(&self, request: &Request) -> Result<Answer, Refusal> {
        let limit = self.max_length.unwrap_or(u32::MAX).min(request.max_length);
        let scheme = self.pattern.fill(&request.context.group, self.width, limit as usize)?;
        let scope = Scope::from(self.unique);
        let taken = request.taken(scope);
        let highest = taken.iter().filter_map(|name| scheme.ordinal_of(name)).max();
        let (mut next, why) = match (self.reuse, highest) {
            (true, _) => (self.start, "the lowest that is free".to_owned()),
            (false, None) => (self.start, "the first".to_owned()),
            (false, Some(highest)) => {
                (self.start.max(highest.saturating_add(1)), format!("above the highest present, {highest}"))
            }
        };
        let mut proposals = Vec::new();
        while proposals.len() < request.count as usize {
            let name = scheme.name(next)?;
            if !taken.contains(name.text.as_str()) {
                let shortened = match name.shortened {
                    Some(to) => {
                        format!("; `{}` shortened to `{to}` to fit {limit} characters", request.context.group.name)
                    }
                    None => String::new(),
                };
                proposals.push(Proposal { name: name.text, reason: format!("number {next}: {why}{shortened}") });
            }
            next = next
                .checked_add(1)
                .ok_or_else(|| Refusal::Unsatisfiable("there is no number left above the highest".to_owned()))?;
        }
        Ok(Answer { proposals, scope })
    }
}

vmgroup_policy_sdk::export!(Ordinal: naming);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::parse_config;
    use vmgroup_policy_sdk::testing::{assert_legal_names, group};

    fn policy(config: &str) -> Ordinal {
        let policy: Ordinal = parse_config(config).unwrap();
        assert_eq!(policy.validate(), []);
        policy
    }

    fn names(config: &str, request: &Request) -> Vec<String> {
        let answer = policy(config).name(request).unwrap();
        assert_legal_names(request, &answer);
        answer.proposals.into_iter().map(|p| p.name).collect()
    }

    #[test]
    fn counts_from_the_start_past_what_is_taken() {
        let request = group("web").members(2).names(3);
        assert_eq!(names("{}", &request), ["web-0", "web-3", "web-4"]);
        let config = r#"{"width": 3, "start": 1}"#;
        assert_eq!(names(config, &request), ["web-001", "web-002", "web-003"]);
    }

    #[test]
    fn gaps_are_filled_or_not() {
        let request = group("web").taken("web-0").taken("web-7").names(2);
        assert_eq!(names("{}", &request), ["web-1", "web-2"]);
        assert_eq!(names(r#"{"reuse": false}"#, &request), ["web-8", "web-9"]);
        let answer = policy(r#"{"reuse": false}"#).name(&request).unwrap();
        assert_eq!(answer.proposals[0].reason, "number 8: above the highest present, 7");
    }

    #[test]
    fn only_names_of_the_pattern_count_as_highest() {
        let mut question = group("web");
        for name in ["web-x9", "web-007", "web2-50", "db-60", "web-70-old", "web-"] {
            question = question.taken(name);
        }
        let request = question.taken("web-5").names(1);
        assert_eq!(names(r#"{"reuse": false}"#, &request), ["web-6"]);
    }

    #[test]
    fn everywhere_is_wider_than_the_group() {
        let request = group("web").taken_elsewhere("web-0").names(1);
        assert_eq!(names("{}", &request), ["web-0"]);
        assert_eq!(names(r#"{"unique": "everywhere"}"#, &request), ["web-1"]);
    }

    #[test]
    fn a_cmdb_pattern() {
        let config = r#"{"pattern": "{label:site}{label:role}{ordinal}-{namespace}", "width": 2}"#;
        let request = group("web").label("site", "ber").label("role", "lx").names(2);
        assert_eq!(names(config, &request), ["berlx00-shop", "berlx01-shop"]);
        let refusal = policy(config).name(&group("web").label("site", "x").names(1));
        assert_eq!(
            refusal.unwrap_err(),
            Refusal::Config("the group has no label `role`, which the pattern asks for".to_owned())
        );
    }

    #[test]
    fn a_template_given_by_its_path_counts_by_its_name() {
        let request = group("web").context(|c| c.group.template = "/DC0/vm/templates/small".to_owned()).names(1);
        assert_eq!(names(r#"{"pattern": "{template}{ordinal}"}"#, &request), ["small0"]);
    }

    #[test]
    fn the_group_is_shortened_the_number_never() {
        let config = r#"{"maxLength": 10, "start": 9}"#;
        let request = group("shop-front-end").names(2);
        assert_eq!(names(config, &request), ["shop-fro-9", "shop-fr-10"]);
        let answer = policy(config).name(&request).unwrap();
        assert_eq!(
            answer.proposals[1].reason,
            "number 10: the lowest that is free; `shop-front-end` shortened to `shop-fr` to fit \
             10 characters"
        );
        // A hyphen does not stay at the cut.
        assert_eq!(names(r#"{"maxLength": 7}"#, &request), ["shop-0", "shop-1"]);
    }

    #[test]
    fn the_highest_is_found_among_shortened_names_too() {
        let config = r#"{"maxLength": 10, "reuse": false}"#;
        let question = group("shop-front-end").taken("shop-fro-9");
        assert_eq!(names(config, &question.clone().names(1)), ["shop-fr-10"]);
        let request = question.taken("shop-fr-10").names(1);
        assert_eq!(names(config, &request), ["shop-fr-11"]);
    }

    #[test]
    fn what_cannot_fit_is_refused_with_the_numbers() {
        let config = r#"{"pattern": "{namespace}-{template}-{ordinal}", "maxLength": 15}"#;
        let refusal = policy(config).name(&group("web").names(1)).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::Unsatisfiable(
                "`shop-ubuntu-24.04-0` has 19 characters, 15 are allowed and the pattern has no \
                 `{group}` to shorten: shorten the pattern or raise `maxLength`"
                    .to_owned()
            )
        );
    }

    #[test]
    fn numbers_may_end() {
        let request = group("w").taken("w-18446744073709551615").names(1);
        let refusal = policy(r#"{"reuse": false}"#).name(&request).unwrap_err();
        assert!(matches!(refusal, Refusal::Unsatisfiable(_)));
    }

    #[test]
    fn mistakes_in_the_configuration() {
        let problem = |config: &str| {
            let problem = parse_config::<Ordinal>(config).unwrap_err().remove(0);
            (problem.path, problem.message)
        };
        assert_eq!(
            problem(r#"{"pattern": "{grp}-{ordinal}"}"#),
            (
                "/pattern".to_owned(),
                "unknown placeholder `{grp}`, expected one of {namespace}, {group}, {template}, \
                 {ordinal}, {label:KEY}"
                    .to_owned()
            )
        );
        assert!(problem(r#"{"pattern": "vm"}"#).1.contains("{ordinal} exactly once"));
        assert!(problem(r#"{"pattern": "{ordinal"}"#).1.contains("no }"));
        assert!(problem(r#"{"pattern": "{ordinal} "}"#).1.contains("blank at an end"));
        let far: Ordinal = parse_config(r#"{"maxLength": 0, "width": 21}"#).unwrap();
        let paths: Vec<String> = far.validate().into_iter().map(|p| p.path).collect();
        assert_eq!(paths, ["/width", "/maxLength"]);
    }
}

//! Naming policy `site-names`: site code, role and a number with zeros before it, such
//! as `berweb007`, past what is reserved.
//!
//! ```yaml
//! naming:
//!   plugin: site-names.wasm
//!   config:
//!     site: ber                      # the site's code; required
//!     roleLabel: role                # the VmGroup's label that names its role; the default
//!     roles: { database: db }        # codes of roles; a role that is not here is its own
//!     separator: "-"                 # between the three; default none
//!     width: 3                       # digits, 1 to 6; default 3
//!     start: 1                       # the first number; the default
//!     maxLength: 15                  # characters at most; default 15, as Windows
//!     reserved: [berweb001, "ber*9"] # names that are not given; * stands for anything
//! ```
//!
//! Names are in lower case, and unique everywhere, without regard to case: groups of
//! one role share its numbers. What does not fit is refused: nothing is shortened, as a
//! name that breaks the site's rules is worse than none. The site's own list of reserved
//! names belongs into the configuration: a policy can look nothing up.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use vmgroup_policy_sdk::naming::{Answer, Proposal, Request, Scope};
use vmgroup_policy_sdk::pointer;
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::types::Group;

/// The configuration; see the crate.
#[derive(Clone, Debug, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SiteNames {
    /// The site's code.
    #[schema(min_length = 1)]
    pub site: String,
    /// The group's label that names its role.
    #[serde(default = "role")]
    pub role_label: String,
    /// Codes of roles.
    #[serde(default)]
    pub roles: BTreeMap<String, String>,
    /// Between site, role and number.
    #[serde(default)]
    pub separator: String,
    /// Digits.
    #[serde(default = "width")]
    #[schema(minimum = 1, maximum = 6)]
    pub width: u32,
    /// The first number.
    #[serde(default = "start")]
    pub start: u32,
    /// Characters at most.
    #[serde(default = "max_length")]
    #[schema(minimum = 1, maximum = 80)]
    pub max_length: u32,
    /// Names that are not given.
    #[serde(default)]
    pub reserved: Vec<String>,
}

fn role() -> String {
    "role".to_owned()
}

const fn width() -> u32 {
    3
}

const fn start() -> u32 {
    1
}

const fn max_length() -> u32 {
    15
}

/// What a host's name may have: letters, digits, hyphens (RFC 1123).
fn fits_a_host_name(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

impl Naming for SiteNames {
    const NAME: &'static str = "site-names";
    const SUMMARY: &'static str = "Names of site code, role and number, past what is reserved.";
    const ORDER_FREE: bool = true;

    fn validate(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        let code = |code: &str| {
            let right = !code.is_empty() && fits_a_host_name(code);
            (right, format!("`{code}` cannot be part of a name: expected letters, digits, hyphens"))
        };
        let (right, message) = code(&self.site);
        problems.unless(right, "/site", message);
        for (role, of_role) in &self.roles {
            let (right, message) = code(of_role);
            problems.unless(right, pointer(["roles", role]), message);
        }
        problems.unless(
            fits_a_host_name(&self.separator),
            "/separator",
            format!("`{}` cannot be part of a name: expected hyphens, letters or digits", self.separator),
        );
        problems.unless((1..=6).contains(&self.width), "/width", "expected 1 to 6 digits");
        problems.unless(
            (1..=80).contains(&self.max_length),
            "/maxLength",
            "expected 1 to 80, the most that vCenter takes",
        );
        problems.unless(
            self.start < self.end(),
            "/start",
            format!("{} has more than {} digits (`width`)", self.start, self.width),
        );
        problems.into()
    }

    fn name(&self, request: &Request) -> Result<Answer, Refusal> {
        let prefix = self.prefix(&request.context.group)?;
        let limit = self.max_length.min(request.max_length) as usize;
        let length = prefix.len() + self.width as usize;
        if length > limit {
            return Err(Refusal::Config(format!(
                "`{prefix}` and {} digits are {length} characters, {limit} are allowed: shorten the site's or the \
                 role's code",
                self.width
            )));
        }
        let taken = request.taken(Scope::Everywhere);
        let taken: BTreeSet<String> = taken.into_iter().map(str::to_lowercase).collect();
        let reserved: Vec<String> = self.reserved.iter().map(|pattern| pattern.to_lowercase()).collect();
        let mut passed_over = 0_u32;
        let mut proposals = Vec::new();
        for number in self.start..self.end() {
            if proposals.len() == request.count as usize {
                break;
            }
            let name = format!("{prefix}{number:0width$}", width = self.width as usize);
            if taken.contains(&name) {
                continue;
            }
            if reserved.iter().any(|pattern| matches(pattern, &name)) {
                passed_over += 1;
                continue;
            }
            let reserved = match passed_over {
                0 => String::new(),
                passed_over => format!(", past {passed_over} reserved"),
            };
            proposals.push(Proposal { name, reason: format!("number {number}: the lowest that is free{reserved}") });
        }
        if proposals.len() < request.count as usize {
            return Err(Refusal::Unsatisfiable(format!(
                "{} names are wanted, and of `{prefix}` with {} digits from {} on only {} are neither taken nor \
                 reserved",
                request.count,
                self.width,
                self.start,
                proposals.len()
            )));
        }
        Ok(Answer { proposals, scope: Scope::Everywhere })
    }
}

impl SiteNames {
    /// The number after the last.
    const fn end(&self) -> u32 {
        10_u32.saturating_pow(self.width)
    }

    /// What stands before the number.
    fn prefix(&self, group: &Group) -> Result<String, Refusal> {
        let Some(role) = group.label(&self.role_label) else {
            return Err(Refusal::Config(format!("the group has no label `{}`, which names its role", self.role_label)));
        };
        let code = self.roles.get(role).map_or(role, String::as_str);
        if code.is_empty() || !fits_a_host_name(code) {
            return Err(Refusal::Config(format!(
                "the role `{role}` has no code that can be part of a name: give it one under `roles`"
            )));
        }
        let Self { site, separator, .. } = self;
        Ok(format!("{site}{separator}{code}{separator}").to_lowercase())
    }
}

/// Whether a pattern with `*` for anything fits the whole name.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(found) = rest.find(part) else { return false };
        rest = &rest[found + part.len()..];
    }
    true
}

vmgroup_policy_sdk::export!(SiteNames: naming);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::parse_config;
    use vmgroup_policy_sdk::testing::{Question, assert_legal_names, group};

    fn web() -> Question {
        group("web").label("role", "web")
    }

    fn answer(config: &str, request: &Request) -> Result<Answer, Refusal> {
        let policy: SiteNames = parse_config(config).unwrap();
        assert_eq!(policy.validate(), []);
        let answer = policy.name(request)?;
        assert_legal_names(request, &answer);
        Ok(answer)
    }

    fn names(config: &str, request: &Request) -> Vec<String> {
        answer(config, request).unwrap().proposals.into_iter().map(|proposal| proposal.name).collect()
    }

    #[test]
    fn site_role_and_number() {
        assert_eq!(names(r#"{"site": "BER"}"#, &web().names(2)), ["berweb001", "berweb002"]);
        let config = r#"{"site": "ber", "separator": "-", "width": 2, "start": 10, "roles": {"web": "lx"}}"#;
        assert_eq!(names(config, &web().names(1)), ["ber-lx-10"]);
    }

    #[test]
    fn numbers_are_shared_over_groups_and_letter_case() {
        let request = web().taken("berweb001").taken_elsewhere("BERWEB002").taken_elsewhere("berdb003").names(2);
        let given = answer(r#"{"site": "ber"}"#, &request).unwrap();
        assert_eq!(given.scope, Scope::Everywhere);
        let names: Vec<&str> = given.proposals.iter().map(|proposal| proposal.name.as_str()).collect();
        assert_eq!(names, ["berweb003", "berweb004"]);
    }

    #[test]
    fn what_is_reserved_is_passed_over_and_the_reason_says_so() {
        let config = r#"{"site": "ber", "reserved": ["BERWEB001", "ber*2", "*web00?"]}"#;
        let given = answer(config, &web().names(2)).unwrap();
        assert_eq!(given.proposals[0].name, "berweb003");
        assert_eq!(given.proposals[0].reason, "number 3: the lowest that is free, past 2 reserved");
        assert_eq!(given.proposals[1].name, "berweb004");
    }

    #[test]
    fn the_end_of_the_numbers_is_said() {
        let config = r#"{"site": "ber", "width": 1, "start": 8, "reserved": ["berweb8"]}"#;
        assert_eq!(names(config, &web().names(1)), ["berweb9"]);
        assert_eq!(
            answer(config, &web().names(2)).unwrap_err(),
            Refusal::Unsatisfiable(
                "2 names are wanted, and of `berweb` with 1 digits from 8 on only 1 are neither taken nor reserved"
                    .to_owned()
            )
        );
    }

    #[test]
    fn a_group_without_a_usable_role_is_told_so() {
        let refusal = answer(r#"{"site": "ber"}"#, &group("web").names(1)).unwrap_err();
        assert_eq!(refusal, Refusal::Config("the group has no label `role`, which names its role".to_owned()));
        let refusal = answer(r#"{"site": "ber"}"#, &group("web").label("role", "front_end").names(1)).unwrap_err();
        assert!(matches!(&refusal, Refusal::Config(why) if why.contains("under `roles`")), "{refusal:?}");
        let config = r#"{"site": "ber", "roles": {"front_end": "fe"}}"#;
        assert_eq!(names(config, &group("web").label("role", "front_end").names(1)), ["berfe001"]);
    }

    #[test]
    fn nothing_is_shortened() {
        let request = group("web").label("role", "middleware-app").names(1);
        let refusal = answer(r#"{"site": "ber"}"#, &request).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::Config(
                "`bermiddleware-app` and 3 digits are 20 characters, 15 are allowed: shorten the site's or the role's \
                 code"
                    .to_owned()
            )
        );
    }

    #[test]
    fn patterns_with_stars() {
        for (pattern, name, fits) in [
            ("ber*", "berweb001", true),
            ("*", "", true),
            ("ber*web*1", "berxweb001", true),
            ("ber*1", "ber", false),
            ("web*", "berweb", false),
            ("berweb", "berweb1", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn mistakes_in_the_configuration() {
        assert_eq!(parse_config::<SiteNames>("{}").unwrap_err()[0].message, "missing field `site`");
        let config =
            r#"{"site": "b r", "roles": {"a/b": ""}, "separator": "_", "width": 2, "start": 100, "maxLength": 0}"#;
        let policy: SiteNames = parse_config(config).unwrap();
        let paths: Vec<String> = policy.validate().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["/site", "/roles/a~1b", "/separator", "/maxLength", "/start"]);
    }
}

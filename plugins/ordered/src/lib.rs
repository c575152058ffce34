//! Scaling policy `ordered`, the default: members leave by age, by number, or
//! those that are powered off first.
//!
//! ```yaml
//! scaling:
//!   plugin: ordered
//!   config:
//!     order: newest          # newest (default) | oldest | highestOrdinal | poweredOffFirst
//!     protect: ["pet=true"]  # members with such an attribute never leave
//! ```
//!
//! | order | who leaves first |
//! |---|---|
//! | `newest` | the one made last; of those made at the same time the highest name |
//! | `oldest` | the one made first; of those made at the same time the lowest name |
//! | `highestOrdinal` | the highest number at the end of the name; those without one last |
//! | `poweredOffFirst` | powered off, then suspended, then of unknown state, then running; among them the newest |
//!
//! A member whose age is unknown leaves last of all, by age in either direction.

use std::cmp::Reverse;

use serde::Deserialize;
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::scaling::{Request, Victim};
use vmgroup_policy_sdk::types::{Member, PowerState};

/// The configuration; see the module.
#[derive(Clone, Debug, Default, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Ordered {
    /// Who leaves first.
    pub order: Order,
    /// Who never leaves.
    pub protect: Protect,
}

/// By what members are put in a row.
#[derive(Clone, Copy, Debug, Default, Deserialize, ConfigSchema)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// Made last.
    #[default]
    Newest,
    /// Made first.
    Oldest,
    /// The highest number at the end of the name.
    HighestOrdinal,
    /// Not running, then the newest.
    PoweredOffFirst,
}

impl Scaling for Ordered {
    const NAME: &'static str = "ordered";
    const SUMMARY: &'static str =
        "Members leave in order: the newest, the oldest, the highest number or the powered-off first.";
    const ORDER_FREE: bool = true;

    fn choose(&self, request: &Request) -> Result<Vec<Victim>, Refusal> {
        let mut candidates = request.candidates(&self.protect)?;
        match self.order {
            Order::Newest => candidates.sort_by(|a, b| a.newest_first(b)),
            Order::Oldest => candidates.sort_by_key(|c| (c.created_at.is_none(), c.created_at)),
            Order::HighestOrdinal => candidates.sort_by_key(|c| Reverse(c.ordinal())),
            Order::PoweredOffFirst => candidates.sort_by(|a, b| {
                let rank = idleness(a).cmp(&idleness(b));
                rank.then_with(|| a.newest_first(b))
            }),
        }
        Ok(request.take(candidates, |candidate| self.reason(candidate)))
    }
}

impl Ordered {
    fn reason(&self, member: &Member) -> String {
        match (self.order, member.ordinal()) {
            (Order::Newest, _) => format!("newest: made {}", member.made()),
            (Order::Oldest, _) => format!("oldest: made {}", member.made()),
            (Order::HighestOrdinal, Some(ordinal)) => format!("highest number: {ordinal}"),
            (Order::HighestOrdinal, None) => "no member with a number is left".to_owned(),
            (Order::PoweredOffFirst, _) => {
                let state = match member.power {
                    PowerState::PoweredOff => "powered off",
                    PowerState::Suspended => "suspended",
                    PowerState::Unknown => "power state unknown",
                    PowerState::PoweredOn => "all that may leave run; newest",
                };
                format!("{state}: made {}", member.made())
            }
        }
    }
}

fn idleness(member: &Member) -> u8 {
    match member.power {
        PowerState::PoweredOff => 0,
        PowerState::Suspended => 1,
        PowerState::Unknown => 2,
        PowerState::PoweredOn => 3,
    }
}

vmgroup_policy_sdk::export!(Ordered: scaling);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::parse_config;
    use vmgroup_policy_sdk::testing::{assert_legal_victims, group, names_of};

    fn ordered(order: Order) -> Ordered {
        Ordered { order, protect: Protect::default() }
    }

    fn leave(policy: &Ordered, request: &Request) -> Vec<String> {
        let victims = policy.choose(request).unwrap();
        assert_legal_victims(request, &victims);
        let names = names_of(request, &victims);
        names.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn newest_is_the_default() {
        let policy: Ordered = parse_config("{}").unwrap();
        let request = group("web").members(12).remove(3);
        assert_eq!(leave(&policy, &request), ["web-12", "web-11", "web-10"]);
        let victims = policy.choose(&request).unwrap();
        assert_eq!(victims[0].reason, "newest: made 2026-11-11T07:13:20Z");
    }

    #[test]
    fn members_made_in_one_go_leave_from_the_highest_number() {
        let mut question = group("web").members(11);
        for number in 1..=11 {
            question = question.member(&format!("web-{number}"), |m| m.created_at = Some(5));
        }
        let request = question.remove(3);
        let newest = ordered(Order::Newest);
        assert_eq!(leave(&newest, &request), ["web-11", "web-10", "web-9"]);
        let oldest = ordered(Order::Oldest);
        assert_eq!(leave(&oldest, &request), ["web-1", "web-2", "web-3"]);
    }

    #[test]
    fn oldest_leaves_unknown_ages_to_the_end() {
        let request = group("web").members(3).member("web-1", |m| m.created_at = None).remove(3);
        let oldest = leave(&ordered(Order::Oldest), &request);
        assert_eq!(oldest, ["web-2", "web-3", "web-1"]);
        let newest = leave(&ordered(Order::Newest), &request);
        assert_eq!(newest, ["web-3", "web-2", "web-1"]);
    }

    #[test]
    fn highest_ordinal_counts_and_does_not_spell() {
        let request = group("web").members(10).member("web-2", |m| m.name = "web-blue".to_owned()).remove(10);
        let names = leave(&ordered(Order::HighestOrdinal), &request);
        assert_eq!(names[..2], ["web-10", "web-9"]);
        assert_eq!(names[9], "web-blue");
    }

    #[test]
    fn powered_off_first_then_the_newest() {
        let request = group("web")
            .members(4)
            .member("web-1", |m| m.power = PowerState::Suspended)
            .member("web-2", |m| m.power = PowerState::PoweredOff)
            .remove(3);
        let policy = ordered(Order::PoweredOffFirst);
        assert_eq!(leave(&policy, &request), ["web-2", "web-1", "web-4"]);
        let reason = &policy.choose(&request).unwrap()[0].reason;
        assert!(reason.starts_with("powered off: made "), "{reason}");
    }

    #[test]
    fn the_protected_stay_and_too_few_is_refused() {
        let policy: Ordered = parse_config(r#"{"protect": ["pet=true"]}"#).unwrap();
        let question = group("web")
            .members(3)
            .member("web-3", |m| m.set_attribute("pet", "true"))
            .member("web-2", |m| m.protected = true);
        let request = question.clone().remove(1);
        assert_eq!(leave(&policy, &request), ["web-1"]);
        let refusal = policy.choose(&question.remove(2)).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::Unsatisfiable(
                "2 of 3 members have to leave, but 2 are protected (1 of them by this policy's \
                 `protect`) and only 1 may go"
                    .to_owned()
            )
        );
    }

    #[test]
    fn a_wrong_order_is_told_what_is_right() {
        let problems = parse_config::<Ordered>(r#"{"order": "youngest"}"#).unwrap_err();
        assert_eq!(problems[0].path, "/order");
        assert_eq!(
            problems[0].message,
            "unknown variant `youngest`, expected one of `newest`, `oldest`, `highestOrdinal`, \
             `poweredOffFirst`"
        );
    }
}

//! Scaling policy `drain-first`: who is on a host that is about to go leaves first,
//! then the idle, then the newest.
//!
//! ```yaml
//! scaling:
//!   plugin: drain-first
//!   config:
//!     idleBelow: 50          # MHz: who uses less CPU counts as idle; default 50, 0: nobody
//!     protect: ["pet=true"]  # members with such an attribute never leave
//! ```
//!
//! A host that enters maintenance waits for its machines to be moved or switched off:
//! each that leaves anyway is one less to move. Powered off and suspended members are
//! idle, whatever `idleBelow` says; members without statistics are not. Within each of
//! the three, the newest leaves first.

use serde::Deserialize;
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::scaling::{Request, Victim};
use vmgroup_policy_sdk::types::{Inventory, Member, PowerState};

/// The configuration; see the crate.
#[derive(Clone, Debug, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct DrainFirst {
    /// In MHz: a member that uses less counts as idle.
    pub idle_below: u32,
    /// Who never leaves.
    pub protect: Protect,
}

impl Default for DrainFirst {
    fn default() -> Self {
        Self { idle_below: 50, protect: Protect::default() }
    }
}

/// Why a member leaves before another; the first leaves first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why<'a> {
    /// On this host.
    Drained(&'a str),
    /// In words.
    Idle(Idle),
    Newest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Idle {
    Off,
    Suspended,
    Uses(u32),
}

impl Why<'_> {
    /// What decides before age; hosts and figures do not.
    const fn rank(self) -> u8 {
        match self {
            Self::Drained(_) => 0,
            Self::Idle(_) => 1,
            Self::Newest => 2,
        }
    }
}

impl Scaling for DrainFirst {
    const NAME: &'static str = "drain-first";
    const SUMMARY: &'static str = "Members on hosts in maintenance leave first, then the idle, then the newest.";
    const ORDER_FREE: bool = true;

    fn choose(&self, request: &Request) -> Result<Vec<Victim>, Refusal> {
        let mut candidates = request.candidates(&self.protect)?;
        let why = |member: &Member| self.why(&request.inventory, member);
        candidates.sort_by(|a, b| why(a).rank().cmp(&why(b).rank()).then_with(|| a.newest_first(b)));
        Ok(request.take(candidates, |candidate| reason(why(candidate.member), candidate)))
    }
}

impl DrainFirst {
    fn why<'a>(&self, inventory: &'a Inventory, member: &Member) -> Why<'a> {
        if let Some(host) = member.host.and_then(|index| inventory.host(index)).filter(|host| host.maintenance) {
            return Why::Drained(&host.name);
        }
        match (member.power, member.cpu_used_mhz) {
            (PowerState::PoweredOff, _) => Why::Idle(Idle::Off),
            (PowerState::Suspended, _) => Why::Idle(Idle::Suspended),
            (_, Some(mhz)) if mhz < self.idle_below => Why::Idle(Idle::Uses(mhz)),
            _ => Why::Newest,
        }
    }
}

fn reason(why: Why<'_>, member: &Member) -> String {
    match why {
        Why::Drained(host) => format!("its host {host} is in maintenance or about to be"),
        Why::Idle(Idle::Off) => "idle: powered off".to_owned(),
        Why::Idle(Idle::Suspended) => "idle: suspended".to_owned(),
        Why::Idle(Idle::Uses(mhz)) => format!("idle: {mhz} MHz of CPU"),
        Why::Newest => format!("newest: made {}", member.made()),
    }
}

vmgroup_policy_sdk::export!(DrainFirst: scaling);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::parse_config;
    use vmgroup_policy_sdk::testing::{Question, assert_legal_victims, group, names_of};

    /// Of six members, web-2 and web-5 are on esx-2, which goes.
    fn six() -> Question {
        group("web")
            .hosts(3)
            .members(6)
            .host("esx-2", |h| (h.usable, h.maintenance) = (false, true))
            .member("web-1", |m| m.cpu_used_mhz = Some(12))
            .member("web-3", |m| m.power = PowerState::PoweredOff)
    }

    fn leave(config: &str, request: &Request) -> Vec<(String, String)> {
        let policy: DrainFirst = parse_config(config).unwrap();
        let victims = policy.choose(request).unwrap();
        assert_legal_victims(request, &victims);
        let names = names_of(request, &victims).into_iter().map(str::to_owned);
        names.zip(victims.iter().map(|victim| victim.reason.clone())).collect()
    }

    fn names(config: &str, request: &Request) -> Vec<String> {
        leave(config, request).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn drained_then_idle_then_newest() {
        assert_eq!(names("{}", &six().remove(6)), ["web-5", "web-2", "web-3", "web-1", "web-6", "web-4"]);
    }

    #[test]
    fn each_says_why() {
        let reasons: Vec<String> = leave("{}", &six().remove(5)).into_iter().map(|(_, reason)| reason).collect();
        assert_eq!(reasons[0], "its host esx-2 is in maintenance or about to be");
        assert_eq!(reasons[2], "idle: powered off");
        assert_eq!(reasons[3], "idle: 12 MHz of CPU");
        assert!(reasons[4].starts_with("newest: made 2026-"), "{}", reasons[4]);
    }

    #[test]
    fn idle_is_what_the_site_says() {
        assert_eq!(names(r#"{"idleBelow": 0}"#, &six().remove(4))[3], "web-6");
        assert_eq!(names(r#"{"idleBelow": 101}"#, &six().remove(4))[2..], ["web-6", "web-4"]);
    }

    #[test]
    fn unknown_use_is_not_idleness_and_an_unknown_host_not_maintenance() {
        let request = six().member("web-6", |m| (m.cpu_used_mhz, m.host) = (None, None)).remove(5);
        assert_eq!(names("{}", &request)[4], "web-6");
    }

    #[test]
    fn the_protected_stay_on_a_host_that_goes() {
        let request = six().member("web-5", |m| m.set_attribute("pet", "true")).remove(2);
        assert_eq!(names(r#"{"protect": ["pet=true"]}"#, &request), ["web-2", "web-3"]);
    }
}

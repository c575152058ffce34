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
//! each that leaves anyway is one less to move. One that is there already, or that
//! vCenter has put into quarantine, comes after it. Powered off and suspended members are
//! idle, whatever `idleBelow` says; members without statistics are not. Among equals,
//! the newest leaves first.

use serde::Deserialize;
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::scaling::{Request, Victim};
use vmgroup_policy_sdk::types::{HostState, Inventory, Member, PowerState};

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

/// Why a member leaves before another. The first case leaves first; names and figures
/// decide nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why<'a> {
    /// On this host.
    Entering(&'a str),
    InMaintenance(&'a str),
    Quarantined(&'a str),
    Off,
    Suspended,
    /// MHz.
    Uses(u32),
    Newest,
}

impl Why<'_> {
    /// What decides before age.
    const fn rank(self) -> u8 {
        match self {
            Self::Entering(_) => 0,
            Self::InMaintenance(_) => 1,
            Self::Quarantined(_) => 2,
            Self::Off | Self::Suspended | Self::Uses(_) => 3,
            Self::Newest => 4,
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
        if let Some(host) = member.host.and_then(|index| inventory.host(index)) {
            match host.state {
                HostState::EnteringMaintenance => return Why::Entering(&host.name),
                HostState::InMaintenance => return Why::InMaintenance(&host.name),
                HostState::Quarantined => return Why::Quarantined(&host.name),
                HostState::InService | HostState::Unreachable => {}
            }
        }
        match (member.power, member.cpu_used_mhz) {
            (PowerState::PoweredOff, _) => Why::Off,
            (PowerState::Suspended, _) => Why::Suspended,
            (_, Some(mhz)) if mhz < self.idle_below => Why::Uses(mhz),
            _ => Why::Newest,
        }
    }
}

fn reason(why: Why<'_>, member: &Member) -> String {
    match why {
        Why::Entering(host) => format!("its host {host} is entering maintenance"),
        Why::InMaintenance(host) => format!("its host {host} is in maintenance"),
        Why::Quarantined(host) => format!("its host {host} is in quarantine"),
        Why::Off => "idle: powered off".to_owned(),
        Why::Suspended => "idle: suspended".to_owned(),
        Why::Uses(mhz) => format!("idle: {mhz} MHz of CPU"),
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
            .host_state("esx-2", HostState::EnteringMaintenance)
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
    fn who_waits_to_be_emptied_comes_before_who_is_and_before_quarantine() {
        let request =
            six().host_state("esx-1", HostState::Quarantined).host_state("esx-3", HostState::InMaintenance).remove(6);
        assert_eq!(names("{}", &request), ["web-5", "web-2", "web-6", "web-3", "web-4", "web-1"]);
    }

    #[test]
    fn each_says_why() {
        let reasons: Vec<String> = leave("{}", &six().remove(5)).into_iter().map(|(_, reason)| reason).collect();
        assert_eq!(reasons[0], "its host esx-2 is entering maintenance");
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

//! Scaling policy `idle-first`: the members that use least CPU leave first.
//!
//! ```yaml
//! scaling:
//!   plugin: idle-first
//!   config:
//!     unknown: last          # members without statistics: last (default) | first
//!     busyAbove: 500         # MHz: who uses more is not chosen, the group waits; default: no limit
//!     protect: ["pet=true"]  # members with such an attribute never leave
//! ```
//!
//! Members that are powered off or suspended use nothing. Of the same use, the
//! newest leaves first. vSphere has no statistics of a VM that has just been
//! powered on: such members leave last, unless `unknown` says `first`; no limit
//! applies to them.

use serde::Deserialize;
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::scaling::{Request, Victim};
use vmgroup_policy_sdk::types::{Member, PowerState};

/// The configuration; see the crate.
#[derive(Clone, Debug, Default, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct IdleFirst {
    /// When members without statistics leave.
    pub unknown: Unknown,
    /// In MHz: a member that uses more is not chosen.
    pub busy_above: Option<u32>,
    /// Who never leaves.
    pub protect: Protect,
}

/// When members without statistics leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ConfigSchema)]
#[serde(rename_all = "camelCase")]
pub enum Unknown {
    /// After all others.
    #[default]
    Last,
    /// Before all others.
    First,
}

impl Scaling for IdleFirst {
    const NAME: &'static str = "idle-first";
    const SUMMARY: &'static str = "The members that use least CPU leave first.";
    const ORDER_FREE: bool = true;

    fn choose(&self, request: &Request) -> Result<Vec<Victim>, Refusal> {
        let mut candidates = request.candidates(&self.protect)?;
        let rank = |member: &Member| {
            let known = usage(member).is_some();
            (known == (self.unknown == Unknown::First), usage(member))
        };
        candidates.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.newest_first(b)));
        let chosen = &candidates[..request.count as usize];
        if let Some((limit, use_mhz, name)) = chosen.iter().find_map(|candidate| {
            let (limit, use_mhz) = (self.busy_above?, usage(candidate)?);
            (use_mhz > limit).then_some((limit, use_mhz, &candidate.name))
        }) {
            return Err(Refusal::NotNow(format!(
                "{} have to leave, but not so many are idle: {name} uses {use_mhz} MHz of CPU, \
                 `busyAbove` is {limit}",
                request.count
            )));
        }
        let mean = mean(&request.members);
        Ok(request.take(candidates, |candidate| reason(candidate, mean)))
    }
}

/// In MHz; what does not run uses nothing, whatever the statistics still say.
fn usage(member: &Member) -> Option<u32> {
    match member.power {
        PowerState::PoweredOff | PowerState::Suspended => Some(0),
        PowerState::PoweredOn | PowerState::Unknown => member.cpu_used_mhz,
    }
}

fn mean(members: &[Member]) -> Option<u64> {
    let known: Vec<u64> = members.iter().filter_map(usage).map(u64::from).collect();
    let count = u64::try_from(known.len()).ok()?;
    known.iter().sum::<u64>().checked_div(count)
}

fn reason(member: &Member, mean: Option<u64>) -> String {
    let what = match (member.power, usage(member)) {
        (PowerState::PoweredOff, _) => "idle: powered off".to_owned(),
        (PowerState::Suspended, _) => "idle: suspended".to_owned(),
        (_, Some(use_mhz)) => format!("idle: {use_mhz} MHz of CPU"),
        (_, None) => "CPU use unknown".to_owned(),
    };
    match mean {
        Some(mean) => format!("{what}, group mean {mean} MHz"),
        None => what,
    }
}

vmgroup_policy_sdk::export!(IdleFirst: scaling);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::parse_config;
    use vmgroup_policy_sdk::testing::{Question, assert_legal_victims, group, names_of};

    fn five() -> Question {
        group("web")
            .members(5)
            .member("web-1", |m| m.cpu_used_mhz = Some(12))
            .member("web-2", |m| m.cpu_used_mhz = Some(900))
            .member("web-3", |m| m.cpu_used_mhz = None)
            .member("web-4", |m| m.cpu_used_mhz = Some(90))
            .member("web-5", |m| m.cpu_used_mhz = Some(90))
    }

    fn leave(config: &str, request: &Request) -> Vec<String> {
        let policy: IdleFirst = parse_config(config).unwrap();
        let victims = policy.choose(request).unwrap();
        assert_legal_victims(request, &victims);
        let names = names_of(request, &victims);
        names.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn least_use_first_equals_by_age_unknown_last() {
        let order = leave("{}", &five().remove(5));
        assert_eq!(order, ["web-1", "web-5", "web-4", "web-2", "web-3"]);
    }

    #[test]
    fn unknown_first_if_wished() {
        let order = leave(r#"{"unknown": "first"}"#, &five().remove(3));
        assert_eq!(order, ["web-3", "web-1", "web-5"]);
    }

    #[test]
    fn what_does_not_run_is_idle() {
        let request = five().member("web-2", |m| m.power = PowerState::PoweredOff).remove(1);
        assert_eq!(leave("{}", &request), ["web-2"]);
    }

    #[test]
    fn the_reason_has_the_numbers() {
        let victims = IdleFirst::default().choose(&five().remove(1)).unwrap();
        assert_eq!(victims[0].reason, "idle: 12 MHz of CPU, group mean 273 MHz");
    }

    #[test]
    fn the_busy_are_waited_for() {
        let policy: IdleFirst = parse_config(r#"{"busyAbove": 100}"#).unwrap();
        assert_eq!(policy.choose(&five().remove(3)).unwrap().len(), 3);
        let many = five().member("web-3", |m| m.cpu_used_mhz = Some(101)).remove(4);
        let Err(Refusal::NotNow(why)) = policy.choose(&many) else {
            panic!("chose a busy member");
        };
        assert!(why.contains("web-3 uses 101 MHz"), "{why}");
    }

    #[test]
    fn the_protected_stay() {
        let request = five()
            .member("web-1", |m| m.set_attribute("pet", "true"))
            .member("web-5", |m| m.protected = true)
            .remove(1);
        assert_eq!(leave(r#"{"protect": ["pet"]}"#, &request), ["web-4"]);
    }
}

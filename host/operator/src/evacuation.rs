//! Members on hosts that are going into maintenance, in words: which they are, and what
//! becomes of them.
//!
//! Pure. Who is replaced, and when, says `plan/rollout`.

use std::collections::BTreeMap;

use crate::observe::Observed;
use crate::plan::rollout;
use crate::report::some;
use crate::validate::Desired;

/// What is to be told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// CamelCase: what the hosts are at.
    pub reason: &'static str,
    /// Which hosts, which members, and what becomes of them.
    pub message: String,
    /// The hosts' names.
    pub hosts: Vec<String>,
}

/// A host, by whether it is in maintenance, and its members.
#[derive(Default)]
struct Host<'a> {
    arrived: bool,
    members: Vec<&'a str>,
}

/// What is to be told; nothing if nobody is on such a host who stays and is not moved.
pub fn told(desired: &Desired, seen: &Observed) -> Option<Told> {
    let mut hosts: BTreeMap<&str, Host<'_>> = BTreeMap::new();
    let (mut replaced, mut protected) = (0, Vec::new());
    let staying = seen.members.iter().filter(|member| !desired.deleting && !member.leaving());
    for member in staying {
        let Some(stranded) = member.vm.as_ref().and_then(|vm| vm.stranded.as_ref()) else { continue };
        let host = hosts.entry(stranded.host.as_str()).or_default();
        host.arrived |= stranded.arrived;
        host.members.push(&member.name);
        if rollout::evacuates(desired, member) {
            replaced += 1;
        } else if desired.evacuate {
            protected.push(&member.name);
        }
    }
    let entering = hosts.values().any(|host| !host.arrived);
    let parts: Vec<String> = hosts
        .iter()
        .map(|(name, Host { arrived, members })| {
            let state = if *arrived { "is in maintenance mode" } else { "is entering maintenance mode" };
            format!("the host {name} {state}, and nobody moves {} away", some(members))
        })
        .collect();
    let then = match (desired.evacuate, replaced, protected.is_empty()) {
        (_, _, _) if hosts.is_empty() => return None,
        (false, _, _) => "move them, or set spec.evacuation to Replace".to_owned(),
        (true, 0, _) => "protected, and left: move them".to_owned(),
        (true, _, true) => "they are replaced, by spec.updateStrategy".to_owned(),
        (true, _, false) => {
            format!("they are replaced, by spec.updateStrategy, but for the protected ones: {}", some(&protected))
        }
    };
    Some(Told {
        reason: if entering { "EnteringMaintenance" } else { "InMaintenance" },
        message: format!("{}; {then}", parts.join(", ")),
        hosts: hosts.into_keys().map(str::to_owned).collect(),
    })
}

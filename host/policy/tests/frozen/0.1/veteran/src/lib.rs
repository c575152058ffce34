//! A policy of the first contract, kept as bytes: it answers all three questions, and
//! each answer hangs on as much of the question as can be.

use serde::Deserialize;
use vmgroup_policy_sdk::naming::{Answer, Proposal, Request as NamingRequest, Scope};
use vmgroup_policy_sdk::placement::{Place, Request as PlacementRequest};
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::scaling::{Request as ScalingRequest, Victim};
use vmgroup_policy_sdk::{Room, info};

/// `config: { suffix: x }`
#[derive(Default, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Names {
    /// What stands behind the number.
    suffix: String,
}

impl Naming for Names {
    const NAME: &'static str = "veteran";
    const SUMMARY: &'static str = "Names of group and number.";

    fn name(&self, request: &NamingRequest) -> Result<Answer, Refusal> {
        let taken = request.taken(Scope::Everywhere);
        let group = &request.context.group.name;
        let free = (0..)
            .map(|number| format!("{group}-{number}{}", self.suffix))
            .filter(|name| !taken.contains(name.as_str()));
        let proposals = free
            .take(request.count as usize)
            .map(|name| Proposal { reason: format!("free at attempt {}", request.context.attempt), name })
            .collect();
        Ok(Answer { proposals, scope: Scope::Everywhere })
    }
}

/// `config: {}`
#[derive(Default, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields)]
pub struct Places {}

impl Placement for Places {
    const NAME: &'static str = "veteran";
    const SUMMARY: &'static str = "Places on the host with most memory free.";

    fn place(&self, request: &PlacementRequest) -> Result<Vec<Place>, Refusal> {
        let mut room = Room::of(request);
        let mut places = Vec::new();
        for newcomer in &request.newcomers {
            let hosts = room.hosts_for(newcomer, 0).into_iter();
            let Some(host) = hosts.max_by_key(|host| (room.memory_left(*host, 0), *host)) else {
                return Err(room.nowhere_for(newcomer, 0));
            };
            let datastore = room.roomiest(host, newcomer);
            let left = room.memory_left(host, 0);
            let cluster = request.inventory.host(host).map(|record| record.cluster);
            places.push(Place { cluster, host: Some(host), datastore, reason: format!("{left} MiB free") });
            room.put(host, datastore, newcomer);
        }
        Ok(places)
    }
}

/// `config: { protect: [pet] }`
#[derive(Default, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Leavers {
    /// Who stays.
    protect: Protect,
}

impl Scaling for Leavers {
    const NAME: &'static str = "veteran";
    const SUMMARY: &'static str = "Leave: hosts in maintenance, then hosts that are not usable, then the newest.";

    fn choose(&self, request: &ScalingRequest) -> Result<Vec<Victim>, Refusal> {
        let mut candidates = request.candidates(&self.protect)?;
        let of = |index: Option<u32>| match index.and_then(|index| request.inventory.host(index)) {
            Some(host) if host.maintenance => (0, "its host is in maintenance"),
            Some(host) if !host.usable => (1, "its host is not usable"),
            _ => (2, "newest"),
        };
        candidates.sort_by(|a, b| of(a.host).cmp(&of(b.host)).then_with(|| a.newest_first(b)));
        info!("{} of {}", request.count, request.members.len());
        Ok(request.take(candidates, |candidate| of(candidate.host).1.to_owned()))
    }
}

vmgroup_policy_sdk::export!(Names: naming, Places: placement, Leavers: scaling);

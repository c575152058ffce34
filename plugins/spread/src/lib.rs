//! Placement policy `spread`: each new member goes where fewest of its group are.
//!
//! ```yaml
//! placement:
//!   plugin: spread
//!   config:
//!     by: host               # host (default) | cluster | datastore | {attribute: rack}
//!     maxPerPlace: 2         # never more members than this in one place; default: no limit
//!     datastore: leave       # leave (default: vCenter's choice) | mostFree, of those the host has
//! ```
//!
//! Of places with equally few members the one with least load is taken (memory in
//! use, or space in use with `by: datastore`), then the first by name. Only hosts
//! count that are usable and have the memory free, and a datastore with the space.
//! An attribute is looked for on the host, then on its cluster; hosts without it
//! get nobody.
//!
//! With `by: cluster` and `by: datastore` the host is left to DRS, in clusters that
//! have it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::Deserialize;
use vmgroup_policy_sdk::placement::{Newcomer, Place, Request};
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::types::{Index, Inventory};
use vmgroup_policy_sdk::{Room, Spot, Storage};

/// The configuration; see the crate.
#[derive(Clone, Debug, Default, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Spread {
    /// What counts as a place.
    pub by: By,
    /// The most members that a place may have.
    pub max_per_place: Option<NonZeroU32>,
    /// What becomes of the disks.
    pub datastore: Storage,
}

/// One way to place a newcomer.
#[derive(Clone, Copy)]
struct Way<'a> {
    spot: Spot<'a>,
    host: Index,
    datastore: Option<Index>,
}

/// Members of the group by place.
type Counts<'a> = BTreeMap<Spot<'a>, u32>;

impl Placement for Spread {
    const NAME: &'static str = "spread";
    const SUMMARY: &'static str = "New members go where fewest of their group are.";
    const ORDER_FREE: bool = true;

    fn place(&self, request: &Request) -> Result<Vec<Place>, Refusal> {
        let inventory = &request.inventory;
        let mut room = Room::of(request);
        let mut counts = Counts::new();
        for member in &request.members {
            if let Some(spot) = self.by.spot_of(inventory, member) {
                *counts.entry(spot).or_default() += 1;
            }
        }
        let mut places = Vec::new();
        for newcomer in &request.newcomers {
            let ways = self.ways(inventory, &room, newcomer)?;
            let way = self.best(inventory, &room, &counts, newcomer, &ways)?;
            places.push(self.answer(inventory, &counts, &ways, way));
            room.put(way.host, way.datastore, newcomer);
            *counts.entry(way.spot).or_default() += 1;
        }
        Ok(places)
    }
}

impl Spread {
    /// Every way that fits; at least one.
    fn ways<'a>(
        &self,
        inventory: &'a Inventory,
        room: &Room<'_>,
        newcomer: &Newcomer,
    ) -> Result<Vec<Way<'a>>, Refusal> {
        let hosts = room.fitting_hosts(newcomer, 0)?;
        let mut ways = Vec::new();
        for host in hosts {
            let datastores: Vec<Option<Index>> = match self.by {
                By::Datastore => room.datastores_for(host, newcomer).map(Some).collect(),
                _ => vec![room.roomiest(host, newcomer)],
            };
            ways.extend(datastores.into_iter().filter_map(|datastore| {
                let spot = self.by.spot(inventory, host, datastore)?;
                Some(Way { spot, host, datastore })
            }));
        }
        if ways.is_empty() {
            return Err(match &self.by {
                By::Attribute(key) => Refusal::Config(format!(
                    "no host that fits {} has the attribute `{key}`, nor has its cluster",
                    newcomer.name
                )),
                by => Refusal::Unsatisfiable(format!("the group has no {by} to choose from")),
            });
        }
        Ok(ways)
    }

    fn best<'a>(
        &self,
        inventory: &'a Inventory,
        room: &Room<'_>,
        counts: &Counts<'a>,
        newcomer: &Newcomer,
        ways: &[Way<'a>],
    ) -> Result<Way<'a>, Refusal> {
        let count = |way: &Way<'a>| counts.get(&way.spot).copied().unwrap_or(0);
        let open = ways.iter().filter(|way| self.max_per_place.is_none_or(|max| count(way) < max.get()));
        let best = open.min_by_key(|way| {
            let load = |load: Option<u64>| (load.is_none(), load);
            let on_host = load(room.memory_load(way.host));
            let first = match (&self.by, way.datastore) {
                (By::Datastore, Some(index)) => load(disk_load(inventory, room, index)),
                _ => (false, None),
            };
            let name = inventory.host(way.host).map(|host| &host.name);
            let members = room.members_on(way.host);
            (count(way), first, members, on_host, way.spot, name)
        });
        best.copied().ok_or_else(|| {
            Refusal::Unsatisfiable(format!(
                "every {} that fits {} has its `maxPerPlace` of {} members",
                self.by,
                newcomer.name,
                self.max_per_place.map_or(0, NonZeroU32::get)
            ))
        })
    }

    fn answer(&self, inventory: &Inventory, counts: &Counts<'_>, ways: &[Way<'_>], way: Way<'_>) -> Place {
        let cluster = inventory.host(way.host).map(|host| host.cluster);
        let drs = cluster.and_then(|index| inventory.cluster(index)).is_some_and(|c| c.drs);
        let host_is_left = drs && matches!(self.by, By::Cluster | By::Datastore);
        let datastore_is_named = self.by == By::Datastore || self.datastore == Storage::MostFree;
        let here = counts.get(&way.spot).copied().unwrap_or(0);
        let others = ways.iter().filter(|other| other.spot != way.spot);
        let others = others.map(|other| counts.get(&other.spot).copied().unwrap_or(0));
        let (least, most) = others.fold((u32::MAX, 0), |(least, most), count| (least.min(count), most.max(count)));
        let others = match most {
            _ if least == u32::MAX => "the only one that fits".to_owned(),
            _ if least == most => format!("the others {most}"),
            _ => format!("the others {least} to {most}"),
        };
        let noun = if here == 1 { "member" } else { "members" };
        Place {
            cluster,
            host: (!host_is_left).then_some(way.host),
            datastore: way.datastore.filter(|_| datastore_is_named),
            reason: format!("{} {} has {here} {noun}, {others}", self.by, way.spot.name),
        }
    }
}

/// Space in use in thousandths of the capacity, with what was placed in this batch.
fn disk_load(inventory: &Inventory, room: &Room<'_>, datastore: Index) -> Option<u64> {
    let capacity = inventory.datastore(datastore)?.capacity_mib;
    let used = capacity.saturating_sub(room.disk_left(datastore));
    used.saturating_mul(1000).checked_div(capacity)
}

vmgroup_policy_sdk::export!(Spread: placement);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::parse_config;
    use vmgroup_policy_sdk::testing::{assert_legal_places, group, hosts_of};
    use vmgroup_policy_sdk::types::HostState;

    fn place(config: &str, request: &Request) -> Vec<Place> {
        let policy: Spread = parse_config(config).unwrap();
        let places = policy.place(request).unwrap();
        assert_legal_places(request, &places);
        places
    }

    #[test]
    fn fewest_members_first_within_the_batch_too() {
        // esx-1 has two members, the others one each.
        let request = group("web").hosts(3).members(4).place(5);
        let places = place("{}", &request);
        let hosts = hosts_of(&request, &places);
        assert_eq!(hosts, ["esx-2", "esx-3", "esx-1", "esx-2", "esx-3"]);
        assert_eq!(places[0].reason, "host esx-2 has 1 member, the others 1 to 2");
        assert_eq!(places[2].reason, "host esx-1 has 2 members, the others 2");
        assert_eq!(places[0].datastore, None);
    }

    #[test]
    fn load_decides_between_equals_unknown_load_last() {
        let request = group("web")
            .hosts(3)
            .host("esx-1", |h| h.memory_used_mib = None)
            .host("esx-2", |h| h.memory_used_mib = Some(40_000))
            .host("esx-3", |h| h.memory_used_mib = Some(30_000))
            .place(3);
        let places = place("{}", &request);
        assert_eq!(hosts_of(&request, &places), ["esx-3", "esx-2", "esx-1"]);
    }

    #[test]
    fn only_usable_and_fitting_hosts() {
        let request = group("web")
            .hosts(4)
            .datastores(1)
            .host("esx-1", |h| h.usable = false)
            .host("esx-2", |h| h.memory_used_mib = Some(65_000))
            .datastore("ds-1", |d| d.hosts.retain(|host| *host != 2))
            .place(2);
        let places = place(r#"{"datastore": "mostFree"}"#, &request);
        assert_eq!(hosts_of(&request, &places), ["esx-4", "esx-4"]);
        assert_eq!(places[0].datastore, Some(0));
        assert_eq!(places[0].reason, "host esx-4 has 0 members, the only one that fits");
    }

    #[test]
    fn clusters_with_drs_choose_the_host_themselves() {
        let request = group("web").clusters(2).hosts(4).cluster("cluster-2", |c| c.drs = false).place(2);
        let places = place(r#"{"by": "cluster"}"#, &request);
        assert_eq!(hosts_of(&request, &places), ["-", "esx-2"]);
        assert_eq!(places.iter().map(|p| p.cluster).collect::<Vec<_>>(), [Some(0), Some(1)]);
    }

    #[test]
    fn datastores_by_members_then_by_room() {
        let request =
            group("web").hosts(1).datastores(3).members(1).datastore("ds-2", |d| d.free_mib = 500_000).place(3);
        let places = place(r#"{"by": "datastore"}"#, &request);
        let chosen: Vec<_> = places.iter().map(|place| place.datastore).collect();
        assert_eq!(chosen, [Some(2), Some(1), Some(0)]);
        assert_eq!(places[0].reason, "datastore ds-3 has 0 members, the others 0 to 1");
    }

    #[test]
    fn racks_are_filled_evenly_and_never_above_the_limit() {
        let question = group("web")
            .hosts(4)
            .host("esx-1", |h| h.set_attribute("rack", "a"))
            .host("esx-2", |h| h.set_attribute("rack", "a"))
            .host("esx-3", |h| h.set_attribute("rack", "b"));
        let config = r#"{"by": {"attribute": "rack"}, "maxPerPlace": 2}"#;
        let request = question.clone().place(4);
        let places = place(config, &request);
        assert_eq!(hosts_of(&request, &places), ["esx-1", "esx-3", "esx-2", "esx-3"]);
        let policy: Spread = parse_config(config).unwrap();
        assert_eq!(
            policy.place(&question.place(5)).unwrap_err(),
            Refusal::Unsatisfiable("every rack that fits new-5 has its `maxPerPlace` of 2 members".to_owned())
        );
    }

    #[test]
    fn an_attribute_that_nobody_has_is_a_mistake_of_the_configuration() {
        let policy: Spread = parse_config(r#"{"by": {"attribute": "rak"}}"#).unwrap();
        let refusal = policy.place(&group("web").hosts(2).place(1)).unwrap_err();
        assert!(matches!(refusal, Refusal::Config(why) if why.contains("`rak`")));
    }

    #[test]
    fn nowhere_to_go() {
        let policy = Spread::default();
        let none = policy.place(&group("web").place(1)).unwrap_err();
        assert!(matches!(none, Refusal::Unsatisfiable(_)));
        let request = group("web").hosts(1).host_state("esx-1", HostState::InMaintenance).place(1);
        assert_eq!(
            policy.place(&request).unwrap_err(),
            Refusal::NotNow("none of 1 hosts is usable (1 in maintenance)".to_owned())
        );
    }

    #[test]
    fn the_order_of_the_tables_does_not_matter() {
        let request = group("web").hosts(3).members(4).place(3);
        let mut turned = request.clone();
        turned.inventory.hosts.reverse();
        for member in &mut turned.members {
            member.host = member.host.map(|host| 2 - host);
        }
        let (one, other) = (place("{}", &request), place("{}", &turned));
        assert_eq!(hosts_of(&request, &one), hosts_of(&turned, &other));
    }
}

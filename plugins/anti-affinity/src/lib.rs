//! Placement policy `anti-affinity`: keeps the members of a group apart, by rack, by
//! host, by whatever the site has put on its hosts; what cannot be had is given up
//! from the widest on, and the reason says so.
//!
//! ```yaml
//! placement:
//!   plugin: anti-affinity
//!   config:
//!     apart: [{attribute: rack}, host]  # the widest first; default [host]; also cluster
//!     maxPerPlace: 1                    # members that share a place, at most; default 1
//!     fallback: fewest                  # fewest (default) | refuse: when no place has room
//!     datastore: leave                  # leave (default: vCenter's choice) | mostFree
//! ```
//!
//! A newcomer goes to a host whose rack and which itself have fewer members than
//! `maxPerPlace`. When the racks are used up, the hosts at least are kept apart. When
//! they are used up as well, `fewest` takes the host with fewest members in its rack
//! and on itself, and `refuse` leaves the group smaller than wished. Hosts without the
//! attribute (nor on their cluster) only count where it is given up. Of equals, the
//! host with least memory in use is taken, then the first by name. Only hosts count
//! that are usable, have the memory free, and a datastore with the space.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::Deserialize;
use vmgroup_policy_sdk::placement::{Newcomer, Place, Request};
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::types::{Index, Inventory};
use vmgroup_policy_sdk::{Room, Spot, Storage};

/// The configuration; see the crate.
#[derive(Clone, Debug, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct AntiAffinity {
    /// What members are kept apart by, the widest first.
    pub apart: Vec<By>,
    /// Members that share a place, at most.
    pub max_per_place: NonZeroU32,
    /// What is done when no place has room.
    pub fallback: Fallback,
    /// What becomes of the disks.
    pub datastore: Storage,
}

/// What is done when no place has room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ConfigSchema)]
#[serde(rename_all = "camelCase")]
pub enum Fallback {
    /// The place with fewest members takes one more.
    #[default]
    Fewest,
    /// Nobody is placed.
    Refuse,
}

impl Default for AntiAffinity {
    fn default() -> Self {
        Self {
            apart: vec![By::Host],
            max_per_place: NonZeroU32::MIN,
            fallback: Fallback::default(),
            datastore: Storage::default(),
        }
    }
}

/// A host that fits, with the places that it is in, one for each of `apart`, as far
/// as it has one.
struct Way<'a> {
    host: Index,
    name: &'a str,
    spots: Vec<Option<Spot<'a>>>,
}

/// Members of the group by place, for each of `apart`.
type Counts<'a> = Vec<BTreeMap<Spot<'a>, u32>>;

impl Placement for AntiAffinity {
    const NAME: &'static str = "anti-affinity";
    const SUMMARY: &'static str = "Members of a group are kept on different racks and hosts, as far as there are any.";
    const ORDER_FREE: bool = true;

    fn validate(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        let example = "expected at least one, such as `host` or `{attribute: rack}`";
        problems.unless(!self.apart.is_empty(), "/apart", example);
        for (index, by) in self.apart.iter().enumerate() {
            let message = format!("{by} is no place of a host: the policy `spread` has `by: datastore`");
            problems.unless(*by != By::Datastore, format!("/apart/{index}"), message);
        }
        problems.into()
    }

    fn place(&self, request: &Request) -> Result<Vec<Place>, Refusal> {
        let inventory = &request.inventory;
        let mut room = Room::of(request);
        let mut counts: Counts<'_> = vec![BTreeMap::new(); self.apart.len()];
        for member in &request.members {
            for (by, counts) in self.apart.iter().zip(&mut counts) {
                if let Some(spot) = by.spot_of(inventory, member) {
                    *counts.entry(spot).or_default() += 1;
                }
            }
        }
        let mut places = Vec::new();
        for newcomer in &request.newcomers {
            let ways = self.ways(inventory, &room, newcomer)?;
            let (way, reason) = self.best(&room, &counts, newcomer, &ways)?;
            let datastore = room.roomiest(way.host, newcomer);
            places.push(Place {
                cluster: inventory.host(way.host).map(|host| host.cluster),
                host: Some(way.host),
                datastore: datastore.filter(|_| self.datastore == Storage::MostFree),
                reason,
            });
            room.put(way.host, datastore, newcomer);
            for (spot, counts) in way.spots.iter().zip(&mut counts) {
                if let Some(spot) = spot {
                    *counts.entry(*spot).or_default() += 1;
                }
            }
        }
        Ok(places)
    }
}

impl AntiAffinity {
    /// Every host that fits; at least one.
    fn ways<'a>(
        &self,
        inventory: &'a Inventory,
        room: &Room<'_>,
        newcomer: &Newcomer,
    ) -> Result<Vec<Way<'a>>, Refusal> {
        let hosts = room.fitting_hosts(newcomer, 0)?;
        let way = |host| {
            let spots = self.apart.iter().map(|by| by.spot(inventory, host, None)).collect();
            Some(Way { host, name: &inventory.host(host)?.name, spots })
        };
        Ok(hosts.into_iter().filter_map(way).collect())
    }

    /// Where it goes and why.
    fn best<'w, 'a>(
        &self,
        room: &Room<'_>,
        counts: &Counts<'a>,
        newcomer: &Newcomer,
        ways: &'w [Way<'a>],
    ) -> Result<(&'w Way<'a>, String), Refusal> {
        let max = self.max_per_place.get();
        let count = |way: &Way<'a>, level: usize| {
            let spot = way.spots.get(level).copied().flatten()?;
            Some(counts.get(level)?.get(&spot).copied().unwrap_or(0))
        };
        let levels = self.apart.len();
        let rank = |way: &&'w Way<'a>| {
            let load = room.memory_load(way.host);
            // Without a place, nobody knows who else is there: last.
            let members: Vec<(bool, Option<u32>)> =
                (0..levels).map(|level| count(way, level)).map(|count| (count.is_none(), count)).collect();
            (members, load.is_none(), load, way.name, way.host)
        };
        for given_up in 0..levels {
            let kept = |way: &&Way<'a>| (given_up..levels).all(|level| count(way, level).is_some_and(|n| n < max));
            if let Some(way) = ways.iter().filter(kept).min_by_key(rank) {
                return Ok((way, self.reason(way, given_up, |level| count(way, level))));
            }
        }
        let best = ways.iter().min_by_key(rank).filter(|_| self.fallback == Fallback::Fewest);
        let best = best.map(|way| (way, self.reason(way, levels, |level| count(way, level))));
        best.ok_or_else(|| {
            let apart: Vec<String> = self.apart.iter().map(ToString::to_string).collect();
            Refusal::Unsatisfiable(format!(
                "every host that fits {} shares its {} with {max} members already, and `fallback` is `refuse`",
                newcomer.name,
                apart.join(" and its ")
            ))
        })
    }

    fn reason(&self, way: &Way<'_>, given_up: usize, count: impl Fn(usize) -> Option<u32>) -> String {
        let levels = self.apart.iter().zip(&way.spots).enumerate();
        let parts = levels.map(|(level, (by, spot))| match (spot, count(level)) {
            (Some(spot), Some(0)) => format!("{by} {} has no member", spot.name),
            (Some(spot), Some(1)) => format!("{by} {} has 1 member", spot.name),
            (Some(spot), count) => format!("{by} {} has {} members", spot.name, count.unwrap_or(0)),
            (None, _) => format!("host {} has no {by}", way.name),
        });
        let parts: Vec<String> = parts.collect();
        let which: Vec<String> = self.apart.iter().take(given_up).map(ToString::to_string).collect();
        match which.as_slice() {
            [] => parts.join(", "),
            which => format!("{}; no {} with room is left", parts.join(", "), which.join(" and no ")),
        }
    }
}

vmgroup_policy_sdk::export!(AntiAffinity: placement);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::parse_config;
    use vmgroup_policy_sdk::testing::{Question, assert_legal_places, group, hosts_of};

    const RACKS: &str = r#"{"apart": [{"attribute": "rack"}, "host"]}"#;

    /// Rack r1 with esx-1 and esx-2, rack r2 with esx-3 and esx-4.
    fn site() -> Question {
        let question = group("web").hosts(4).datastores(1);
        ["esx-1", "esx-2", "esx-3", "esx-4"].iter().enumerate().fold(question, |question, (index, name)| {
            question.host(name, |h| h.set_attribute("rack", if index < 2 { "r1" } else { "r2" }))
        })
    }

    fn place(config: &str, request: &Request) -> Vec<Place> {
        let policy: AntiAffinity = parse_config(config).unwrap();
        assert_eq!(policy.validate(), []);
        let places = policy.place(request).unwrap();
        assert_legal_places(request, &places);
        places
    }

    #[test]
    fn racks_first_then_hosts_then_the_fewest() {
        let request = site().place(6);
        let places = place(RACKS, &request);
        assert_eq!(hosts_of(&request, &places), ["esx-1", "esx-3", "esx-2", "esx-4", "esx-1", "esx-3"]);
        let reasons: Vec<&str> = places.iter().map(|place| place.reason.as_str()).collect();
        assert_eq!(reasons[0], "rack r1 has no member, host esx-1 has no member");
        assert_eq!(reasons[2], "rack r1 has 1 member, host esx-2 has no member; no rack with room is left");
        assert_eq!(reasons[4], "rack r1 has 2 members, host esx-1 has 1 member; no rack and no host with room is left");
    }

    #[test]
    fn members_that_are_there_count() {
        // web-1 and web-2 are on esx-1 and esx-2, both of rack r1.
        let request = site().members(2).place(1);
        assert_eq!(hosts_of(&request, &place(RACKS, &request)), ["esx-3"]);
    }

    #[test]
    fn more_than_one_may_share_if_the_site_says_so() {
        let request = site().place(3);
        let config = r#"{"apart": [{"attribute": "rack"}], "maxPerPlace": 2}"#;
        let places = place(config, &request);
        assert_eq!(hosts_of(&request, &places), ["esx-1", "esx-3", "esx-2"]);
        assert_eq!(places[2].reason, "rack r1 has 1 member");
    }

    #[test]
    fn a_group_may_rather_stay_small() {
        let policy: AntiAffinity = parse_config(r#"{"fallback": "refuse"}"#).unwrap();
        assert_eq!(policy.place(&site().place(4)).unwrap().len(), 4);
        assert_eq!(
            policy.place(&site().place(5)).unwrap_err(),
            Refusal::Unsatisfiable(
                "every host that fits new-5 shares its host with 1 members already, and `fallback` is `refuse`"
                    .to_owned()
            )
        );
    }

    #[test]
    fn hosts_without_a_rack_come_last() {
        let request = site().host("esx-1", |h| h.attributes.clear()).host("esx-2", |h| h.attributes.clear()).place(3);
        let places = place(RACKS, &request);
        assert_eq!(hosts_of(&request, &places), ["esx-3", "esx-4", "esx-1"]);
        assert_eq!(places[2].reason, "host esx-1 has no rack, host esx-1 has no member; no rack with room is left");
    }

    #[test]
    fn load_decides_between_equals_and_what_does_not_fit_is_left_out() {
        let request = site()
            .host("esx-1", |h| h.memory_used_mib = Some(9_000))
            .host("esx-3", |h| h.usable = false)
            .datastore("ds-1", |d| d.hosts = vec![0, 1, 2, 3])
            .place(2);
        let request_places = place(RACKS, &request);
        assert_eq!(hosts_of(&request, &request_places), ["esx-2", "esx-4"]);
        assert_eq!(request_places[0].datastore, None);
        let named = place(r#"{"datastore": "mostFree"}"#, &request);
        assert_eq!(named[0].datastore, Some(0));
    }

    #[test]
    fn mistakes_in_the_configuration() {
        let problems = |config: &str| -> Vec<String> {
            let policy: AntiAffinity = parse_config(config).unwrap();
            policy.validate().into_iter().map(|problem| problem.path).collect()
        };
        assert_eq!(problems(r#"{"apart": []}"#), ["/apart"]);
        assert_eq!(problems(r#"{"apart": ["host", "datastore"]}"#), ["/apart/1"]);
        assert!(parse_config::<AntiAffinity>(r#"{"maxPerPlace": 0}"#).is_err());
    }
}

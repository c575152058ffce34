//! Placement policy `pack`: each new member goes to the fullest host that can take
//! it, so that other hosts stay empty (to be switched off, or for the big ones).
//!
//! ```yaml
//! placement:
//!   plugin: pack
//!   config:
//!     headroomPercent: 10    # memory that stays free on each host, 0 to 99; default 0
//!     datastore: leave       # leave (default: vCenter's choice) | mostFree, of those the host has
//! ```
//!
//! Fullest is the host with the largest share of its memory in use; hosts whose use
//! is unknown come last, equals go by name. Only hosts count that are usable and
//! have the memory free, and a datastore with the space.

use std::cmp::Reverse;

use serde::Deserialize;
use vmgroup_policy_sdk::placement::{Place, Request};
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::{Room, Storage};

/// The configuration; see the crate.
#[derive(Clone, Debug, Default, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Pack {
    /// Memory that stays free on each host.
    pub headroom_percent: u32,
    /// What becomes of the disks.
    pub datastore: Storage,
}

impl Placement for Pack {
    const NAME: &'static str = "pack";
    const SUMMARY: &'static str = "New members go to the fullest host that can take them.";
    const ORDER_FREE: bool = true;

    fn validate(&self) -> Vec<Problem> {
        if self.headroom_percent < 100 {
            return Vec::new();
        }
        vec![Problem {
            path: "/headroomPercent".to_owned(),
            message: format!("{} leaves no room for anybody, expected 0 to 99", self.headroom_percent),
        }]
    }

    fn place(&self, request: &Request) -> Result<Vec<Place>, Refusal> {
        let inventory = &request.inventory;
        let mut room = Room::of(request);
        let mut places = Vec::new();
        for newcomer in &request.newcomers {
            let hosts = room.hosts_for(newcomer, self.headroom_percent);
            let fullest = hosts.into_iter().filter_map(|host| {
                let record = inventory.host(host)?;
                Some((Reverse(room.memory_load(host)), &record.name, host, record))
            });
            let Some((Reverse(load), name, host, record)) =
                fullest.min_by_key(|(load, name, host, _)| (*load, *name, *host))
            else {
                return Err(room.nowhere_for(newcomer, self.headroom_percent));
            };
            let datastore = room.roomiest(host, newcomer);
            let used = load
                .map_or("use of its memory unknown".to_owned(), |load| format!("{} % of its memory in use", load / 10));
            let headroom = match self.headroom_percent {
                0 => String::new(),
                percent => format!(", {percent} % are kept free"),
            };
            places.push(Place {
                cluster: Some(record.cluster),
                host: Some(host),
                datastore: datastore.filter(|_| self.datastore == Storage::MostFree),
                reason: format!("fullest that fits: {name}, {used}{headroom}"),
            });
            room.put(host, datastore, newcomer);
        }
        Ok(places)
    }
}

vmgroup_policy_sdk::export!(Pack: placement);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::parse_config;
    use vmgroup_policy_sdk::testing::{Question, assert_legal_places, group, hosts_of};

    /// esx-2 is fullest and has room for one more, esx-3 is next, esx-1 empty.
    fn three() -> Question {
        group("web")
            .hosts(3)
            .host("esx-2", |h| h.memory_used_mib = Some(58_000))
            .host("esx-3", |h| h.memory_used_mib = Some(50_000))
    }

    fn place(config: &str, request: &Request) -> Vec<Place> {
        let policy: Pack = parse_config(config).unwrap();
        assert_eq!(policy.validate(), []);
        let places = policy.place(request).unwrap();
        assert_legal_places(request, &places);
        places
    }

    #[test]
    fn the_fullest_that_fits_then_the_next() {
        let request = three().place(3);
        let places = place("{}", &request);
        assert_eq!(hosts_of(&request, &places), ["esx-2", "esx-3", "esx-3"]);
        assert_eq!(places[0].reason, "fullest that fits: esx-2, 88 % of its memory in use");
    }

    #[test]
    fn headroom_stays_free() {
        let request = three().place(3);
        let places = place(r#"{"headroomPercent": 15}"#, &request);
        assert_eq!(hosts_of(&request, &places), ["esx-3", "esx-1", "esx-1"]);
        assert!(places[0].reason.ends_with("76 % of its memory in use, 15 % are kept free"));
    }

    #[test]
    fn unknown_use_comes_last() {
        let request = three().host("esx-1", |h| h.memory_used_mib = None).place(6);
        let places = place("{}", &request);
        let hosts = hosts_of(&request, &places);
        assert_eq!(hosts, ["esx-2", "esx-3", "esx-3", "esx-3", "esx-1", "esx-1"]);
        assert!(places[4].reason.ends_with("use of its memory unknown"));
    }

    #[test]
    fn full_is_full() {
        let request = three().context(|c| c.group.memory_mib = 66_000).place(1);
        let refusal = Pack::default().place(&request).unwrap_err();
        let Refusal::NotNow(why) = refusal else { panic!("{refusal:?}") };
        assert!(why.contains("66000 MiB") && why.contains("esx-1: 65536 MiB"), "{why}");
    }

    #[test]
    fn all_of_it_kept_free_is_a_mistake() {
        let policy: Pack = parse_config(r#"{"headroomPercent": 100}"#).unwrap();
        assert_eq!(policy.validate()[0].path, "/headroomPercent");
    }
}

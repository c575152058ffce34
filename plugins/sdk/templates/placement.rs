//! Policy `my-policy`: says where new members go.

use serde::Deserialize;
use vmgroup_policy_sdk::placement::{Place, Request};
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::{Room, Storage};

/// The configuration, as it stands under `config:` in policy.yaml.
#[derive(Debug, Default, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct MyPolicy {
    /// How much of a host's memory stays free, in percent.
    #[schema(minimum = 0, maximum = 99)]
    headroom_percent: u32,
    /// Which datastore the disks go to: `leave` it to vCenter, or the one with `mostFree`.
    datastore: Storage,
}

impl Placement for MyPolicy {
    const NAME: &'static str = "my-policy";
    const SUMMARY: &'static str = "Each new member goes where fewest of its group are.";
    const ORDER_FREE: bool = true;

    fn place(&self, request: &Request) -> Result<Vec<Place>, Refusal> {
        let mut room = Room::of(request);
        let mut places = Vec::new();
        for newcomer in &request.newcomers {
            let hosts = room.hosts_for(newcomer, self.headroom_percent);
            let name = |host: &u32| request.inventory.host(*host).map(|host| host.name.as_str());
            let Some(host) = hosts.into_iter().min_by_key(|host| (room.members_on(*host), name(host))) else {
                return Err(room.nowhere_for(newcomer, self.headroom_percent));
            };
            let reason = format!("{} of the group are there", room.members_on(host));
            // Counted even where vCenter is to choose it, so that there is room for all.
            let roomiest = room.roomiest(host, newcomer);
            room.put(host, roomiest, newcomer);
            let datastore = roomiest.filter(|_| self.datastore == Storage::MostFree);
            places.push(Place { cluster: None, host: Some(host), datastore, reason });
        }
        Ok(places)
    }
}

vmgroup_policy_sdk::export!(MyPolicy: placement);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::testing::{assert_legal_places, group, hosts_of};

    #[test]
    fn the_emptier_host_comes_first() {
        // web-1 and web-3 are on esx-1, web-2 is on esx-2.
        let request = group("web").hosts(2).members(3).place(2);
        let places = MyPolicy::default().place(&request).unwrap();
        assert_legal_places(&request, &places);
        assert_eq!(hosts_of(&request, &places), ["esx-2", "esx-1"]);
    }
}

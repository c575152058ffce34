//! Placement policy `cheapest-datastore`: the disks go to the cheapest datastore that
//! has room and keeps some, the machine to the least loaded host that has it mounted.
//!
//! ```yaml
//! placement:
//!   plugin: cheapest-datastore
//!   config:
//!     price: price           # the datastores' custom attribute with a number; the default
//!     headroomPercent: 10    # of a datastore's capacity stays free, 0 to 99; default 10
//!     unpriced: last         # last (default) | never: datastores without a price
//!     countPromised: false   # whether what thin disks may still take counts as taken; default false
//! ```
//!
//! With `countPromised`, a datastore is not overcommitted further: its room is what is
//! free less what has been promised to thin disks, where vSphere knows that.
//!
//! A price is any number that is lower for what is cheaper (`0.08`, `3`); what cannot
//! be read as one is no price. Of the same price, the datastore with most room left is
//! taken, then the first by name. Hosts only count that are usable and have the memory
//! free; in a cluster with DRS the host is left to it.

use std::cmp::Ordering;

use serde::Deserialize;
use vmgroup_policy_sdk::Room;
use vmgroup_policy_sdk::placement::{Newcomer, Place, Request};
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::types::{Datastore, Index, Inventory};

/// The configuration; see the crate.
#[derive(Clone, Debug, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct CheapestDatastore {
    /// The attribute that has the price.
    pub price: String,
    /// Of a datastore's capacity stays free.
    #[schema(minimum = 0, maximum = 99)]
    pub headroom_percent: u32,
    /// What becomes of datastores without a price.
    pub unpriced: Unpriced,
    /// Whether space promised to thin disks counts as taken.
    pub count_promised: bool,
}

/// What becomes of datastores without a price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ConfigSchema)]
#[serde(rename_all = "camelCase")]
pub enum Unpriced {
    /// They are dearer than all others.
    #[default]
    Last,
    /// They are not used.
    Never,
}

impl Default for CheapestDatastore {
    fn default() -> Self {
        Self { price: "price".to_owned(), headroom_percent: 10, unpriced: Unpriced::default(), count_promised: false }
    }
}

/// A datastore with the host that would use it.
struct Way<'a> {
    index: Index,
    datastore: &'a Datastore,
    price: Option<f64>,
    /// MiB, once the newcomer is there.
    left: u64,
    host: Index,
}

impl Way<'_> {
    /// The better first.
    fn compare(&self, other: &Self) -> Ordering {
        let dearness = |way: &Self| way.price.unwrap_or(f64::INFINITY);
        let by_price = self.price.is_none().cmp(&other.price.is_none());
        by_price
            .then_with(|| dearness(self).total_cmp(&dearness(other)))
            .then_with(|| other.left.cmp(&self.left))
            .then_with(|| self.datastore.name.cmp(&other.datastore.name))
            .then_with(|| self.index.cmp(&other.index))
    }
}

impl Placement for CheapestDatastore {
    const NAME: &'static str = "cheapest-datastore";
    const SUMMARY: &'static str = "Disks go to the cheapest datastore that has room and keeps some.";
    const ORDER_FREE: bool = true;

    fn validate(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        problems.unless(!self.price.is_empty(), "/price", "expected the name of a custom attribute");
        let room = "100 leaves no room for anybody, expected 0 to 99";
        problems.unless(self.headroom_percent < 100, "/headroomPercent", room);
        problems.into()
    }

    fn place(&self, request: &Request) -> Result<Vec<Place>, Refusal> {
        let inventory = &request.inventory;
        if inventory.datastores.is_empty() {
            return Err(Refusal::Unsatisfiable("the group has no datastores to choose from".to_owned()));
        }
        let mut room = Room::of(request);
        let mut places = Vec::new();
        for newcomer in &request.newcomers {
            let hosts = room.fitting_hosts(newcomer, 0)?;
            let ways = self.ways(inventory, &room, newcomer, &hosts);
            let Some(way) = ways.iter().min_by(|a, b| a.compare(b)) else {
                return Err(self.refusal(inventory, newcomer));
            };
            let cluster = inventory.host(way.host).map(|host| host.cluster);
            let drs = cluster.and_then(|index| inventory.cluster(index)).is_some_and(|cluster| cluster.drs);
            places.push(Place {
                cluster,
                host: (!drs).then_some(way.host),
                datastore: Some(way.index),
                reason: self.reason(way, &ways),
            });
            room.put(way.host, Some(way.index), newcomer);
        }
        Ok(places)
    }
}

impl CheapestDatastore {
    /// MiB that stay free.
    fn kept(&self, datastore: &Datastore) -> u64 {
        datastore.capacity_mib.saturating_mul(u64::from(self.headroom_percent)) / 100
    }

    fn price(&self, datastore: &Datastore) -> Option<f64> {
        let price: f64 = datastore.attribute(&self.price)?.trim().parse().ok()?;
        price.is_finite().then_some(price)
    }

    fn ways<'a>(
        &self,
        inventory: &'a Inventory,
        room: &Room<'_>,
        newcomer: &Newcomer,
        hosts: &[Index],
    ) -> Vec<Way<'a>> {
        let rank = |host: Index| {
            let load = room.memory_load(host);
            (room.members_on(host), load.is_none(), load, inventory.host(host).map(|record| &record.name), host)
        };
        let mut ranked: Vec<_> = hosts.iter().map(|host| rank(*host)).collect();
        ranked.sort_unstable();
        let fits = |(index, datastore): (Index, &'a Datastore)| {
            let promised = datastore.uncommitted_mib.filter(|_| self.count_promised).unwrap_or(0);
            let left = room.disk_left(index).checked_sub(promised)?.checked_sub(newcomer.disk_mib.unwrap_or(0))?;
            let price = self.price(datastore);
            let wanted = price.is_some() || self.unpriced == Unpriced::Last;
            let host = ranked.iter().map(|ranked| ranked.4).find(|host| datastore.hosts.contains(host))?;
            (datastore.usable && wanted && left >= self.kept(datastore)).then_some(Way {
                index,
                datastore,
                price,
                left,
                host,
            })
        };
        (0..).zip(&inventory.datastores).filter_map(fits).collect()
    }

    fn reason(&self, way: &Way<'_>, ways: &[Way<'_>]) -> String {
        let name = &way.datastore.name;
        let of = match ways.len() {
            1 => "the only datastore that fits".to_owned(),
            fitting => format!("the cheapest of {fitting} datastores that fit"),
        };
        let price = match way.price {
            Some(price) => format!("{} {price}", self.price),
            None => format!("no {}", self.price),
        };
        let stay = if self.count_promised { "stay free and unpromised" } else { "stay free" };
        format!("{name} ({price}) is {of}, {} GiB {stay}", way.left / 1024)
    }

    fn refusal(&self, inventory: &Inventory, newcomer: &Newcomer) -> Refusal {
        let all = inventory.datastores.len();
        let priced = inventory.datastores.iter().filter(|datastore| self.price(datastore).is_some()).count();
        if priced == 0 && self.unpriced == Unpriced::Never {
            return Refusal::Config(format!("none of {all} datastores has a number as its attribute `{}`", self.price));
        }
        Refusal::NotNow(format!(
            "none of {all} datastores ({priced} with a price) is mounted on a host that fits {}, has {} MiB free and \
             keeps {} % of its capacity",
            newcomer.name,
            newcomer.disk_mib.unwrap_or(0),
            self.headroom_percent
        ))
    }
}

vmgroup_policy_sdk::export!(CheapestDatastore: placement);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::parse_config;
    use vmgroup_policy_sdk::testing::{Question, assert_legal_places, group};

    /// ds-1 at 10, ds-2 at 9.5, ds-3 without a price; 1 TiB each, hosts without DRS.
    fn site() -> Question {
        group("web")
            .hosts(2)
            .cluster("cluster-1", |c| c.drs = false)
            .datastores(3)
            .datastore("ds-1", |d| d.set_attribute("price", "10"))
            .datastore("ds-2", |d| d.set_attribute("price", " 9.5"))
    }

    fn place(config: &str, request: &Request) -> Vec<Place> {
        let policy: CheapestDatastore = parse_config(config).unwrap();
        assert_eq!(policy.validate(), []);
        let places = policy.place(request).unwrap();
        assert_legal_places(request, &places);
        places
    }

    fn datastores(config: &str, request: &Request) -> Vec<String> {
        let name = |place: &Place| {
            let datastore = place.datastore.and_then(|index| request.inventory.datastore(index));
            datastore.map(|datastore| datastore.name.clone()).unwrap_or_default()
        };
        place(config, request).iter().map(name).collect()
    }

    #[test]
    fn the_cheapest_by_number_and_the_least_loaded_host() {
        let request = site().host("esx-1", |h| h.memory_used_mib = Some(5_000)).place(1);
        let places = place("{}", &request);
        assert_eq!((places[0].datastore, places[0].host), (Some(1), Some(1)));
        assert_eq!(places[0].reason, "ds-2 (price 9.5) is the cheapest of 3 datastores that fit, 984 GiB stay free");
    }

    #[test]
    fn headroom_is_kept_within_the_batch_too() {
        // 10 % of 1 TiB are 102 GiB: of 182 GiB two disks of 40 GiB fit, the third does not.
        let request = site().datastore("ds-2", |d| d.free_mib = 182 << 10).place(3);
        assert_eq!(datastores("{}", &request), ["ds-2", "ds-1", "ds-1"]);
        assert_eq!(datastores(r#"{"headroomPercent": 9}"#, &request), ["ds-2", "ds-2", "ds-1"]);
        assert_eq!(datastores(r#"{"headroomPercent": 0}"#, &request), ["ds-2", "ds-2", "ds-2"]);
    }

    #[test]
    fn what_thin_disks_were_promised_counts_if_wished() {
        let request = site().datastore("ds-2", |d| d.uncommitted_mib = Some(900 << 10)).place(1);
        assert_eq!(datastores("{}", &request), ["ds-2"]);
        let counted = r#"{"countPromised": true}"#;
        assert_eq!(datastores(counted, &request), ["ds-1"]);
        assert!(place(counted, &request)[0].reason.ends_with("984 GiB stay free and unpromised"));
        // What nobody knows does not count.
        let request = site().datastore("ds-2", |d| d.uncommitted_mib = None).place(1);
        assert_eq!(datastores(counted, &request), ["ds-2"]);
    }

    #[test]
    fn without_a_price_last_or_never() {
        let full = |name: &str, question: Question| question.datastore(name, |d| d.free_mib = 0);
        let request = full("ds-1", full("ds-2", site())).place(1);
        let places = place("{}", &request);
        assert_eq!(places[0].reason, "ds-3 (no price) is the only datastore that fits, 984 GiB stay free");
        let policy: CheapestDatastore = parse_config(r#"{"unpriced": "never"}"#).unwrap();
        assert!(matches!(policy.place(&request), Err(Refusal::NotNow(_))));
        let nobody = policy.place(&group("web").hosts(1).datastores(1).place(1));
        assert_eq!(
            nobody,
            Err(Refusal::Config("none of 1 datastores has a number as its attribute `price`".to_owned()))
        );
    }

    #[test]
    fn only_what_a_fitting_host_has_mounted() {
        let request = site()
            .host("esx-2", |h| h.usable = false)
            .datastore("ds-2", |d| d.hosts = vec![1])
            .datastore("ds-1", |d| d.usable = false)
            .place(1);
        assert_eq!(datastores("{}", &request), ["ds-3"]);
    }

    #[test]
    fn drs_chooses_the_host() {
        let request = site().cluster("cluster-1", |c| c.drs = true).place(1);
        let places = place("{}", &request);
        assert_eq!((places[0].cluster, places[0].host, places[0].datastore), (Some(0), None, Some(1)));
    }

    #[test]
    fn another_attribute_may_have_the_price() {
        let request = site().datastore("ds-3", |d| d.set_attribute("tier", "2")).place(1);
        assert_eq!(datastores(r#"{"price": "tier"}"#, &request), ["ds-3"]);
    }

    #[test]
    fn mistakes_in_the_configuration() {
        let policy: CheapestDatastore = parse_config(r#"{"price": "", "headroomPercent": 100}"#).unwrap();
        let paths: Vec<String> = policy.validate().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["/price", "/headroomPercent"]);
    }
}

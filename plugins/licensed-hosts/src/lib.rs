//! Placement policy `licensed-hosts`: groups that need a licence stay on the hosts that
//! have it, on as few of them as can be; other groups stay off these hosts.
//!
//! ```yaml
//! placement:
//!   plugin: licensed-hosts.wasm
//!   config:
//!     label: license             # the VmGroup's label that names what it needs; the default
//!     attribute: licenses        # a host's custom attribute with what it is licensed for,
//!                                # separated by commas; the default
//!     maxHosts: 2                # hosts that one group uses, at most; default: no limit
//!     others: avoid              # avoid (default) | last | allow: licensed hosts for other groups
//! ```
//!
//! Many licences are paid for each host that may run the software: so a group first
//! fills the hosts where it has members. An attribute is looked for on the host, then
//! on its cluster. Only hosts count that are usable and have the memory free, and a
//! datastore with the space.

use std::cmp::Reverse;
use std::num::NonZeroU32;

use serde::Deserialize;
use vmgroup_policy_sdk::Room;
use vmgroup_policy_sdk::placement::{Newcomer, Place, Request};
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::types::{Index, Inventory};

/// The configuration; see the crate.
#[derive(Clone, Debug, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct LicensedHosts {
    /// The group's label that names what it needs.
    pub label: String,
    /// The hosts' attribute that says what they are licensed for.
    pub attribute: String,
    /// Hosts that one group uses, at most.
    pub max_hosts: Option<NonZeroU32>,
    /// Licensed hosts, for groups that need no licence.
    pub others: Others,
}

/// Licensed hosts, for groups that need no licence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ConfigSchema)]
#[serde(rename_all = "camelCase")]
pub enum Others {
    /// They are not used.
    #[default]
    Avoid,
    /// They are used when no other fits.
    Last,
    /// They are hosts like any other.
    Allow,
}

impl Default for LicensedHosts {
    fn default() -> Self {
        Self {
            label: "license".to_owned(),
            attribute: "licenses".to_owned(),
            max_hosts: None,
            others: Others::default(),
        }
    }
}

impl Placement for LicensedHosts {
    const NAME: &'static str = "licensed-hosts";
    const SUMMARY: &'static str = "Groups that need a licence stay on the hosts that have it, others stay off.";
    const ORDER_FREE: bool = true;

    fn validate(&self) -> Vec<Problem> {
        let named = [(&self.label, "/label", "a label"), (&self.attribute, "/attribute", "a custom attribute")];
        let empty = named.into_iter().filter(|(name, ..)| name.is_empty());
        empty
            .map(|(_, path, what)| Problem { path: path.to_owned(), message: format!("expected the name of {what}") })
            .collect()
    }

    fn place(&self, request: &Request) -> Result<Vec<Place>, Refusal> {
        let inventory = &request.inventory;
        let license = request.context.group.label(&self.label);
        let mut room = Room::of(request);
        let mut places = Vec::new();
        for newcomer in &request.newcomers {
            let hosts = room.hosts_for(newcomer, 0);
            let (host, reason) = match license {
                Some(license) => self.licensed(inventory, &room, newcomer, license, hosts)?,
                None => self.unlicensed(inventory, &room, newcomer, hosts)?,
            };
            let cluster = inventory.host(host).map(|host| host.cluster);
            places.push(Place { cluster, host: Some(host), datastore: None, reason });
            let datastore = room.roomiest(host, newcomer);
            room.put(host, datastore, newcomer);
        }
        Ok(places)
    }
}

/// What a host is licensed for.
fn licenses(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|license| !license.is_empty())
}

/// Least loaded first; of the same load by name.
fn load<'a>(inventory: &'a Inventory, room: &Room<'_>, host: Index) -> (bool, Option<u64>, Option<&'a String>, Index) {
    let load = room.memory_load(host);
    (load.is_none(), load, inventory.host(host).map(|host| &host.name), host)
}

impl LicensedHosts {
    fn list<'a>(&self, inventory: &'a Inventory, host: Index) -> &'a str {
        let Some(record) = inventory.host(host) else { return "" };
        let of_cluster = || inventory.cluster(record.cluster)?.attribute(&self.attribute);
        record.attribute(&self.attribute).or_else(of_cluster).unwrap_or("")
    }

    fn has(&self, inventory: &Inventory, host: Index, license: &str) -> bool {
        licenses(self.list(inventory, host)).any(|one| one == license)
    }

    fn licensed(
        &self,
        inventory: &Inventory,
        room: &Room<'_>,
        newcomer: &Newcomer,
        license: &str,
        hosts: Vec<Index>,
    ) -> Result<(Index, String), Refusal> {
        let all = || (0..).zip(&inventory.hosts).map(|(host, _)| host);
        let licensed = all().filter(|host| self.has(inventory, *host, license)).count();
        if licensed == 0 {
            return Err(Refusal::Config(format!(
                "the group needs the license `{license}`, and of {} hosts none names it in its attribute `{}`",
                inventory.hosts.len(),
                self.attribute
            )));
        }
        let used = all().filter(|host| room.members_on(*host) > 0).count();
        let full = self.max_hosts.is_some_and(|max| used >= max.get() as usize);
        let fits = hosts.into_iter().filter(|host| self.has(inventory, *host, license));
        let open = fits.filter(|host| !full || room.members_on(*host) > 0);
        let best = open.min_by_key(|host| (Reverse(room.members_on(*host)), load(inventory, room, *host)));
        let Some(best) = best else {
            let limit =
                if full { format!(", and the group uses its {used} hosts (`maxHosts`)") } else { String::new() };
            return Err(Refusal::NotNow(format!(
                "none of the {licensed} hosts with the license `{license}` has room for {}{limit}",
                newcomer.name
            )));
        };
        let members = match room.members_on(best) {
            0 => "no member of the group yet".to_owned(),
            1 => "1 member of the group".to_owned(),
            members => format!("{members} members of the group"),
        };
        Ok((best, format!("license {license}: one of {licensed} hosts that have it, with {members}")))
    }

    fn unlicensed(
        &self,
        inventory: &Inventory,
        room: &Room<'_>,
        newcomer: &Newcomer,
        hosts: Vec<Index>,
    ) -> Result<(Index, String), Refusal> {
        if hosts.is_empty() {
            return Err(room.nowhere_for(newcomer, 0));
        }
        let is_licensed = |host: Index| licenses(self.list(inventory, host)).next().is_some();
        let open = hosts.into_iter().filter(|host| self.others != Others::Avoid || !is_licensed(*host));
        let best = open.min_by_key(|host| {
            let licensed = self.others == Others::Last && is_licensed(*host);
            (licensed, room.members_on(*host), load(inventory, room, *host))
        });
        let Some(best) = best else {
            return Err(Refusal::NotNow(format!(
                "every host with room for {} is kept for licensed software (`others: avoid`)",
                newcomer.name
            )));
        };
        let reason = match (is_licensed(best), self.others) {
            (false, _) => "needs no license, and neither has its host",
            (true, Others::Last) => "needs no license, but no host without one has room",
            (true, _) => "needs no license, any host will do",
        };
        Ok((best, reason.to_owned()))
    }
}

vmgroup_policy_sdk::export!(LicensedHosts: placement);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::parse_config;
    use vmgroup_policy_sdk::testing::{Question, assert_legal_places, group, hosts_of};

    /// esx-1 and esx-2 may run Oracle, esx-2 SQL Server too; a host has room for 16.
    fn site() -> Question {
        group("db")
            .hosts(4)
            .datastores(1)
            .host("esx-1", |h| h.set_attribute("licenses", "oracle"))
            .host("esx-2", |h| h.set_attribute("licenses", "mssql, oracle"))
    }

    fn place(config: &str, request: &Request) -> Result<Vec<Place>, Refusal> {
        let policy: LicensedHosts = parse_config(config).unwrap();
        assert_eq!(policy.validate(), []);
        let places = policy.place(request)?;
        assert_legal_places(request, &places);
        Ok(places)
    }

    fn hosts(config: &str, request: &Request) -> Vec<String> {
        let places = place(config, request).unwrap();
        hosts_of(request, &places).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn one_licensed_host_is_filled_before_the_next() {
        let request = site().label("license", "oracle").place(17);
        let hosts = hosts("{}", &request);
        assert_eq!(hosts[..16], vec!["esx-1"; 16]);
        assert_eq!(hosts[16], "esx-2");
        let reason = &place("{}", &request).unwrap()[1].reason;
        assert_eq!(reason, "license oracle: one of 2 hosts that have it, with 1 member of the group");
    }

    #[test]
    fn only_so_many_hosts() {
        let request = site().label("license", "oracle").place(17);
        let refusal = place(r#"{"maxHosts": 1}"#, &request).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::NotNow(
                "none of the 2 hosts with the license `oracle` has room for new-17, and the group uses its 1 hosts \
                 (`maxHosts`)"
                    .to_owned()
            )
        );
    }

    #[test]
    fn a_list_is_read_by_its_words() {
        assert_eq!(hosts("{}", &site().label("license", "mssql").place(1)), ["esx-2"]);
        let refusal = place("{}", &site().label("license", "sql").place(1)).unwrap_err();
        assert!(matches!(refusal, Refusal::Config(_)), "{refusal:?}");
    }

    #[test]
    fn a_clusters_license_is_its_hosts() {
        let request = group("db")
            .clusters(2)
            .hosts(4)
            .cluster("cluster-2", |c| c.set_attribute("runs", "oracle"))
            .label("needs", "oracle")
            .place(1);
        assert_eq!(hosts(r#"{"label": "needs", "attribute": "runs"}"#, &request), ["esx-2"]);
    }

    #[test]
    fn others_stay_off_or_come_last_or_anywhere() {
        assert_eq!(hosts("{}", &site().place(3)), ["esx-3", "esx-4", "esx-3"]);
        let full = site().host("esx-3", |h| h.usable = false).host("esx-4", |h| h.usable = false);
        assert!(matches!(place("{}", &full.clone().place(1)), Err(Refusal::NotNow(_))));
        assert_eq!(hosts(r#"{"others": "last"}"#, &full.place(1)), ["esx-1"]);
        assert_eq!(hosts(r#"{"others": "last"}"#, &site().place(1)), ["esx-3"]);
        assert_eq!(hosts(r#"{"others": "allow"}"#, &site().place(1)), ["esx-1"]);
    }

    #[test]
    fn mistakes_in_the_configuration() {
        let policy: LicensedHosts = parse_config(r#"{"label": "", "attribute": ""}"#).unwrap();
        let paths: Vec<String> = policy.validate().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["/label", "/attribute"]);
        assert!(parse_config::<LicensedHosts>(r#"{"maxHosts": 0}"#).is_err());
    }
}

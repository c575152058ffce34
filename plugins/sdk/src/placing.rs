//! Places: what members and hosts are grouped by, and the room that is left
//! while a batch of newcomers is placed. Decides nothing.

use std::fmt;

use serde::{Deserialize, Deserializer};

use crate::schema::Part;
use crate::types::{Host, HostState, Index, Inventory, Member, Refusal};
use crate::{ConfigSchema, placement};

/// What counts as a place: in a configuration `host`, `cluster`, `datastore`, or
/// `{attribute: rack}` for whatever the site has put on its hosts or clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// Each host.
    #[default]
    Host,
    /// Each cluster.
    Cluster,
    /// Each datastore.
    Datastore,
    /// All hosts with the same value of this attribute. A host that lacks it has
    /// its cluster's.
    Attribute(String),
}

/// The words of a configuration; apart from [`By`] so that its errors can say
/// what would be right for both of its forms.
#[derive(Deserialize, ConfigSchema)]
#[serde(rename_all = "camelCase")]
enum Words {
    Host,
    Cluster,
    Datastore,
    Attribute(String),
}

impl ConfigSchema for By {
    const SCHEMA: &'static [Part] = Words::SCHEMA;
}

impl<'de> Deserialize<'de> for By {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Words::deserialize(deserializer)? {
            Words::Host => Self::Host,
            Words::Cluster => Self::Cluster,
            Words::Datastore => Self::Datastore,
            Words::Attribute(key) => Self::Attribute(key),
        })
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Cluster => "cluster",
            Self::Datastore => "datastore",
            Self::Attribute(key) => key,
        })
    }
}

/// One place. Ordered by name, then by position (clusters of two datacenters may
/// share a name).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot<'a> {
    /// The host's, cluster's or datastore's name, or the attribute's value.
    pub name: &'a str,
    /// Its position in its table; none for an attribute's value.
    pub index: Option<Index>,
}

impl By {
    /// The place of a host and one of its datastores. None where the host has no
    /// such attribute.
    pub fn spot<'a>(&self, inventory: &'a Inventory, host: Index, datastore: Option<Index>) -> Option<Spot<'a>> {
        let record = inventory.host(host)?;
        let cluster = inventory.cluster(record.cluster);
        match self {
            Self::Host => Some(Spot { name: &record.name, index: Some(host) }),
            Self::Cluster => Some(Spot { name: &cluster?.name, index: Some(record.cluster) }),
            Self::Datastore => Some(Spot { name: &inventory.datastore(datastore?)?.name, index: datastore }),
            Self::Attribute(key) => Some(Spot {
                name: record.attribute(key).or_else(|| cluster.and_then(|cluster| cluster.attribute(key)))?,
                index: None,
            }),
        }
    }

    /// The place of a member, as far as it is known.
    pub fn spot_of<'a>(&self, inventory: &'a Inventory, member: &Member) -> Option<Spot<'a>> {
        if let (Self::Datastore, Some(index)) = (self, member.datastore) {
            let name = &inventory.datastore(index)?.name;
            return Some(Spot { name, index: Some(index) });
        }
        self.spot(inventory, member.host?, member.datastore)
    }
}

/// Which datastore a new member's disks go to, as far as the policy's own rule does
/// not say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ConfigSchema)]
#[serde(rename_all = "camelCase")]
pub enum Storage {
    /// vCenter's or the operator's default.
    #[default]
    Leave,
    /// The one that has most room, of those that the host has mounted.
    MostFree,
}

/// The room that is left on hosts and datastores while a batch is placed.
///
/// Memory is counted as vCenter reports its use, plus what was placed in this
/// batch; of a host whose use is unknown, only what was placed. CPU is not
/// counted: it is shared by time.
#[derive(Clone, Debug)]
pub struct Room<'a> {
    inventory: &'a Inventory,
    /// Usable datastores by host.
    mounted: Vec<Vec<Index>>,
    /// MiB, by host.
    memory_placed: Vec<u64>,
    /// MiB, by datastore.
    disk_placed: Vec<u64>,
    /// Of the group, by host.
    members: Vec<u32>,
}

impl<'a> Room<'a> {
    /// As the question says it is.
    pub fn of(request: &'a placement::Request) -> Self {
        let inventory = &request.inventory;
        let mut members = vec![0; inventory.hosts.len()];
        for host in request.members.iter().filter_map(|member| member.host) {
            if let Some(count) = members.get_mut(host as usize) {
                *count += 1;
            }
        }
        let mut mounted = vec![Vec::new(); inventory.hosts.len()];
        for (index, datastore) in (0..).zip(&inventory.datastores) {
            for host in datastore.hosts.iter().filter(|_| datastore.usable) {
                if let Some(list) = mounted.get_mut(*host as usize) {
                    list.push(index);
                }
            }
        }
        Self {
            inventory,
            mounted,
            memory_placed: vec![0; inventory.hosts.len()],
            disk_placed: vec![0; inventory.datastores.len()],
            members,
        }
    }

    /// Members of the group on a host, those placed in this batch included.
    pub fn members_on(&self, host: Index) -> u32 {
        self.members.get(host as usize).copied().unwrap_or(0)
    }

    /// Memory use of a host in thousandths of its capacity, with what was placed in
    /// this batch. None where vCenter does not know its use.
    pub fn memory_load(&self, host: Index) -> Option<u64> {
        let record = self.inventory.host(host)?;
        let used = record.memory_used_mib?.saturating_add(self.placed_on(host));
        Some(used.saturating_mul(1000) / record.memory_capacity_mib.max(1))
    }

    /// Memory left on a host in MiB when `headroom_percent` of it stay free.
    pub fn memory_left(&self, host: Index, headroom_percent: u32) -> u64 {
        let Some(record) = self.inventory.host(host) else {
            return 0;
        };
        let kept = u64::from(100_u32.saturating_sub(headroom_percent));
        let usable = record.memory_capacity_mib.saturating_mul(kept) / 100;
        let used = record.memory_used_mib.unwrap_or(0);
        usable.saturating_sub(used.saturating_add(self.placed_on(host)))
    }

    /// Free space of a datastore in MiB, less what was placed in this batch.
    pub fn disk_left(&self, datastore: Index) -> u64 {
        let placed = self.disk_placed.get(datastore as usize).copied();
        let free = self.inventory.datastore(datastore).map_or(0, |d| d.free_mib);
        free.saturating_sub(placed.unwrap_or(0))
    }

    /// The datastores of a host that can take the newcomer's disk.
    pub fn datastores_for(&self, host: Index, newcomer: &placement::Newcomer) -> impl Iterator<Item = Index> {
        let need = newcomer.disk_mib.unwrap_or(0);
        let mounted = self.mounted.get(host as usize).into_iter().flatten();
        mounted.copied().filter(move |index| self.disk_left(*index) >= need)
    }

    /// The datastore of a host with most room for the newcomer, by name of those
    /// with the same.
    pub fn roomiest(&self, host: Index, newcomer: &placement::Newcomer) -> Option<Index> {
        self.datastores_for(host, newcomer).max_by(|a, b| {
            let name = |index| self.inventory.datastore(index).map(|d| &d.name);
            let room = self.disk_left(*a).cmp(&self.disk_left(*b));
            room.then_with(|| name(*b).cmp(&name(*a)))
        })
    }

    /// The hosts that can take the newcomer: usable, with the memory free, and
    /// with a datastore that has room (where the request names datastores at all).
    /// Hosts in quarantine only if there are no others.
    pub fn hosts_for(&self, newcomer: &placement::Newcomer, headroom_percent: u32) -> Vec<Index> {
        let no_datastores = self.inventory.datastores.is_empty();
        let fitting = |state: HostState| -> Vec<Index> {
            self.usable()
                .filter(|(_, record)| record.state == state)
                .map(|(host, _)| host)
                .filter(|host| self.memory_left(*host, headroom_percent) >= newcomer.memory_mib)
                .filter(|host| no_datastores || self.datastores_for(*host, newcomer).next().is_some())
                .collect()
        };
        let healthy = fitting(HostState::InService);
        if healthy.is_empty() { fitting(HostState::Quarantined) } else { healthy }
    }

    /// [`hosts_for`](Self::hosts_for) that are some, or why there are none.
    pub fn fitting_hosts(&self, newcomer: &placement::Newcomer, headroom_percent: u32) -> Result<Vec<Index>, Refusal> {
        let hosts = self.hosts_for(newcomer, headroom_percent);
        if hosts.is_empty() { Err(self.nowhere_for(newcomer, headroom_percent)) } else { Ok(hosts) }
    }

    fn usable(&self) -> impl Iterator<Item = (Index, &'a Host)> {
        (0..).zip(&self.inventory.hosts).filter(|(_, record)| record.usable)
    }

    /// Why [`hosts_for`](Self::hosts_for) is empty.
    pub fn nowhere_for(&self, newcomer: &placement::Newcomer, headroom_percent: u32) -> Refusal {
        let hosts = &self.inventory.hosts;
        if hosts.is_empty() {
            return Refusal::Unsatisfiable("the group has no hosts to choose from".to_owned());
        }
        let usable = self.usable().map(|(host, record)| (self.memory_left(host, headroom_percent), record));
        let Some((most, host)) = usable.max_by_key(|(left, _)| *left) else {
            let maintenance = hosts.iter().filter(|host| host.is_leaving()).count();
            return Refusal::NotNow(format!("none of {} hosts is usable ({maintenance} in maintenance)", hosts.len()));
        };
        Refusal::NotNow(format!(
            "no usable host has {} MiB of memory free for {} and a datastore with {} MiB free \
             mounted; most memory is free on {}: {most} MiB",
            newcomer.memory_mib,
            newcomer.name,
            newcomer.disk_mib.unwrap_or(0),
            host.name
        ))
    }

    /// Remembers that the newcomer goes there.
    pub fn put(&mut self, host: Index, datastore: Option<Index>, newcomer: &placement::Newcomer) {
        if let Some(memory) = self.memory_placed.get_mut(host as usize) {
            *memory = memory.saturating_add(newcomer.memory_mib);
        }
        if let Some(count) = self.members.get_mut(host as usize) {
            *count += 1;
        }
        if let Some(disk) = datastore.and_then(|index| self.disk_placed.get_mut(index as usize)) {
            *disk = disk.saturating_add(newcomer.disk_mib.unwrap_or(0));
        }
    }

    fn placed_on(&self, host: Index) -> u64 {
        self.memory_placed.get(host as usize).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn room_shrinks_as_newcomers_are_put() {
        let request = testing::group("web")
            .hosts(2)
            .datastores(1)
            .members(1)
            .host("esx-1", |h| h.memory_used_mib = Some(57_344))
            .datastore("ds-1", |d| d.free_mib = 90_000)
            .place(3);
        let newcomer = &request.newcomers[0];
        let mut room = Room::of(&request);
        assert_eq!(room.hosts_for(newcomer, 0), [0, 1]);
        assert_eq!(room.members_on(0), 1);
        room.put(0, Some(0), newcomer);
        room.put(0, Some(0), newcomer);
        assert_eq!((room.members_on(0), room.memory_left(0, 0)), (3, 0));
        assert_eq!(room.memory_load(0), Some(1000));
        // The disks of the first two leave too little for a third, on either host.
        assert!(room.hosts_for(newcomer, 0).is_empty());
        assert_eq!(
            room.nowhere_for(newcomer, 0),
            Refusal::NotNow(
                "no usable host has 4096 MiB of memory free for new-1 and a datastore with 40960 \
                 MiB free mounted; most memory is free on esx-2: 65536 MiB"
                    .to_owned()
            )
        );
    }

    #[test]
    fn headroom_and_unusable_hosts_are_left_out() {
        let request = testing::group("web")
            .hosts(3)
            .host("esx-1", |h| h.memory_used_mib = Some(60_000))
            .host_state("esx-2", HostState::EnteringMaintenance)
            .host("esx-3", |h| h.memory_used_mib = None)
            .place(1);
        let room = Room::of(&request);
        assert_eq!(room.hosts_for(&request.newcomers[0], 0), [0, 2]);
        assert_eq!(room.hosts_for(&request.newcomers[0], 10), [2]);
        assert_eq!(room.memory_load(2), None);
    }

    #[test]
    fn quarantine_is_for_want_of_better() {
        let question = testing::group("web").hosts(3).host_state("esx-1", HostState::Quarantined);
        let request = question.clone().host_state("esx-3", HostState::Unreachable).place(1);
        assert_eq!(Room::of(&request).hosts_for(&request.newcomers[0], 0), [1]);
        let request = question.host("esx-2", |h| h.usable = false).host("esx-3", |h| h.usable = false).place(1);
        assert_eq!(Room::of(&request).hosts_for(&request.newcomers[0], 0), [0]);
    }
}

//! Requests for native tests, and the operator's checks of an answer. Nothing of
//! this ends up in a component that does not use it.
//!
//! ```
//! use vmgroup_policy_sdk::testing;
//! let request = testing::group("web")
//!     .hosts(2)
//!     .members(10)
//!     .member("web-3", |m| m.cpu_used_mhz = None)
//!     .remove(3);
//! assert_eq!((request.count, request.members.len()), (3, 10));
//! ```

use std::collections::BTreeSet;

use crate::types::{
    Attribute, Cluster, Context, Datastore, Group, Host, HostState, Index, Inventory, Member, PowerState, Purpose,
};
use crate::vocabulary::name_length;
use crate::{naming, placement, scaling};

/// The time of every question here: 2026-11-22T10:00:00Z.
pub const NOW: u64 = 1_795_341_600;

/// A request in the making. [`remove`](Self::remove), [`place`](Self::place) and
/// [`names`](Self::names) end it, each in the question of its kind.
#[derive(Clone, Debug)]
pub struct Question {
    context: Context,
    inventory: Inventory,
    members: Vec<Member>,
    taken_in_group: Vec<String>,
    taken_elsewhere: Vec<String>,
    max_length: u32,
}

/// A group without members or places, of 2 CPUs and 4 GiB, in namespace `shop`.
pub fn group(name: &str) -> Question {
    Question {
        context: Context {
            now: NOW,
            utc_offset_minutes: None,
            seed: 42,
            attempt: 0,
            purpose: Purpose::ScaleIn,
            config: "{}".to_owned(),
            group: Group {
                namespace: "shop".to_owned(),
                name: name.to_owned(),
                uid: "5f0c6b6e-3d9f-4d3e-9d55-2f7b8f0e8a01".to_owned(),
                labels: Vec::new(),
                template: "ubuntu-24.04".to_owned(),
                cpus: 2,
                memory_mib: 4096,
                replicas: 0,
                attributes: Vec::new(),
            },
        },
        inventory: Inventory { clusters: Vec::new(), hosts: Vec::new(), datastores: Vec::new() },
        members: Vec::new(),
        taken_in_group: Vec::new(),
        taken_elsewhere: Vec::new(),
        max_length: 80,
    }
}

impl Question {
    /// Another seed than 42.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.context.seed = seed;
        self
    }

    /// Changes whatever the context says.
    #[must_use]
    pub fn context(mut self, change: impl FnOnce(&mut Context)) -> Self {
        change(&mut self.context);
        self
    }

    /// A label of the `VmGroup`.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.context.group.labels.push(Attribute { key: key.to_owned(), value: value.to_owned() });
        self
    }

    /// `count` more clusters, with DRS: `cluster-1`, `cluster-2` and so on.
    #[must_use]
    pub fn clusters(mut self, count: usize) -> Self {
        for _ in 0..count {
            self.inventory.clusters.push(Cluster {
                name: format!("cluster-{}", self.inventory.clusters.len() + 1),
                drs: true,
                attributes: Vec::new(),
            });
        }
        self
    }

    /// `count` more hosts with 64 GiB, nothing of it in use: `esx-1` and so on, by
    /// turns in the clusters that there are (one is made if there is none).
    #[must_use]
    pub fn hosts(mut self, count: usize) -> Self {
        if self.inventory.clusters.is_empty() {
            self = self.clusters(1);
        }
        for _ in 0..count {
            let position = self.inventory.hosts.len();
            self.inventory.hosts.push(Host {
                name: format!("esx-{}", position + 1),
                cluster: index(position % self.inventory.clusters.len()),
                usable: true,
                state: HostState::InService,
                cpu_capacity_mhz: 64_000,
                cpu_used_mhz: Some(0),
                memory_capacity_mib: 65_536,
                memory_used_mib: Some(0),
                vms: Some(0),
                attributes: Vec::new(),
            });
        }
        self
    }

    /// `count` more empty datastores of 1 TiB, mounted on all hosts so far: `ds-1`
    /// and so on.
    #[must_use]
    pub fn datastores(mut self, count: usize) -> Self {
        for _ in 0..count {
            self.inventory.datastores.push(Datastore {
                name: format!("ds-{}", self.inventory.datastores.len() + 1),
                usable: true,
                capacity_mib: 1 << 20,
                free_mib: 1 << 20,
                uncommitted_mib: None,
                kind: None,
                hosts: (0..index(self.inventory.hosts.len())).collect(),
                attributes: Vec::new(),
            });
        }
        self
    }

    /// `count` more members, named `<group>-1` and so on, an hour apart in age, the
    /// last the youngest; powered on, ready, at 100 MHz, by turns on the hosts and
    /// datastores that there are.
    #[must_use]
    pub fn members(mut self, count: usize) -> Self {
        for _ in 0..count {
            let position = self.members.len();
            let turn = |places: usize| (places > 0).then(|| index(position % places));
            self.members.push(Member {
                name: format!("{}-{}", self.context.group.name, position + 1),
                uuid: format!("00000000-0000-4000-8000-{:012x}", position + 1),
                created_at: Some(NOW - 1_000_000 + 3_600 * position as u64),
                power: PowerState::PoweredOn,
                host: turn(self.inventory.hosts.len()),
                datastore: turn(self.inventory.datastores.len()),
                cpu_used_mhz: Some(100),
                memory_used_mib: Some(1_024),
                ready: true,
                protected: false,
                attributes: Vec::new(),
            });
        }
        self
    }

    /// Changes the member called `name`.
    ///
    /// # Panics
    /// If there is none: a test that changes nothing tests nothing.
    #[must_use]
    pub fn member(mut self, name: &str, change: impl FnOnce(&mut Member)) -> Self {
        change(named(&mut self.members, name, |member| &member.name));
        self
    }

    /// Changes the host called `name`.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn host(mut self, name: &str, change: impl FnOnce(&mut Host)) -> Self {
        change(named(&mut self.inventory.hosts, name, |host| &host.name));
        self
    }

    /// Gives the host called `name` another state, and makes it usable or not, as the
    /// operator would.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn host_state(self, name: &str, state: HostState) -> Self {
        self.host(name, |host| {
            host.usable = matches!(state, HostState::InService | HostState::Quarantined);
            host.state = state;
        })
    }

    /// Changes the cluster called `name`.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn cluster(mut self, name: &str, change: impl FnOnce(&mut Cluster)) -> Self {
        let clusters = &mut self.inventory.clusters;
        change(named(clusters, name, |cluster| &cluster.name));
        self
    }

    /// Changes the datastore called `name`.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn datastore(mut self, name: &str, change: impl FnOnce(&mut Datastore)) -> Self {
        let datastores = &mut self.inventory.datastores;
        change(named(datastores, name, |datastore| &datastore.name));
        self
    }

    /// A name in the group's folder that is not free.
    #[must_use]
    pub fn taken(mut self, name: &str) -> Self {
        self.taken_in_group.push(name.to_owned());
        self
    }

    /// A name somewhere else on the vCenter.
    #[must_use]
    pub fn taken_elsewhere(mut self, name: &str) -> Self {
        self.taken_elsewhere.push(name.to_owned());
        self
    }

    /// The longest name that the host accepts; 80 otherwise.
    #[must_use]
    pub fn max_length(mut self, characters: u32) -> Self {
        self.max_length = characters;
        self
    }

    /// The question who of the members leaves.
    pub fn remove(mut self, count: u32) -> scaling::Request {
        let left = index(self.members.len()).saturating_sub(count);
        self.context.group.replicas = left;
        scaling::Request { context: self.context, count, members: self.members, inventory: self.inventory }
    }

    /// The question where `count` newcomers go, shaped as the group says, with disks
    /// of 40 GiB.
    pub fn place(mut self, count: u32) -> placement::Request {
        self.grow(count);
        let group = &self.context.group;
        let newcomers = (1..=count)
            .map(|number| placement::Newcomer {
                name: format!("new-{number}"),
                cpus: group.cpus,
                memory_mib: group.memory_mib,
                disk_mib: Some(40_960),
                attributes: Vec::new(),
            })
            .collect();
        placement::Request { context: self.context, inventory: self.inventory, members: self.members, newcomers }
    }

    /// The question what `count` new members are called. The names of the members
    /// there are count as taken.
    pub fn names(mut self, count: u32) -> naming::Request {
        self.grow(count);
        let members = self.members.iter().map(|member| member.name.clone());
        self.taken_in_group.extend(members);
        naming::Request {
            context: self.context,
            count,
            members: self.members,
            taken_in_group: self.taken_in_group,
            taken_elsewhere: self.taken_elsewhere,
            max_length: self.max_length,
        }
    }

    fn grow(&mut self, count: u32) {
        self.context.purpose = Purpose::ScaleOut;
        self.context.group.replicas = index(self.members.len()).saturating_add(count);
    }
}

/// The names that victims stand for, in their order.
pub fn names_of<'a>(request: &'a scaling::Request, victims: &[scaling::Victim]) -> Vec<&'a str> {
    victims.iter().map(|victim| request.members[victim.member as usize].name.as_str()).collect()
}

/// The hosts that places stand for, in their order; `-` where it is left to vCenter.
pub fn hosts_of<'a>(request: &'a placement::Request, places: &[placement::Place]) -> Vec<&'a str> {
    places
        .iter()
        .map(|place| place.host.map_or("-", |host| request.inventory.hosts[host as usize].name.as_str()))
        .collect()
}

/// Asserts what the operator checks of a scaling answer.
///
/// # Panics
/// If the operator would refuse it.
pub fn assert_legal_victims(request: &scaling::Request, victims: &[scaling::Victim]) {
    assert_eq!(victims.len(), request.count as usize, "exactly `count`");
    let different: BTreeSet<Index> = victims.iter().map(|victim| victim.member).collect();
    assert_eq!(different.len(), victims.len(), "all different");
    for victim in victims {
        let member = &request.members[victim.member as usize];
        assert!(!member.protected, "{} is protected", member.name);
        assert!(!victim.reason.is_empty(), "{} has no reason", member.name);
    }
}

/// Asserts what the operator checks of a placement answer.
///
/// # Panics
/// If the operator would refuse it.
pub fn assert_legal_places(request: &placement::Request, places: &[placement::Place]) {
    assert_eq!(places.len(), request.newcomers.len(), "one for each");
    let inventory = &request.inventory;
    for (place, newcomer) in places.iter().zip(&request.newcomers) {
        assert!(!place.reason.is_empty(), "{} has no reason", newcomer.name);
        if let Some(index) = place.cluster {
            assert!(inventory.cluster(index).is_some(), "no such cluster");
        }
        if let Some(index) = place.host {
            let host = &inventory.hosts[index as usize];
            assert!(host.usable, "{} is not usable", host.name);
            assert!(place.cluster.is_none_or(|c| c == host.cluster));
            assert!(newcomer.memory_mib <= host.memory_capacity_mib);
        }
        if let Some(index) = place.datastore {
            let datastore = &inventory.datastores[index as usize];
            assert!(datastore.usable, "{} is not usable", datastore.name);
            assert!(place.host.is_none_or(|h| datastore.hosts.contains(&h)));
            assert!(newcomer.disk_mib.is_none_or(|need| need <= datastore.free_mib));
        }
    }
}

/// Asserts what the operator checks of a naming answer.
///
/// # Panics
/// If the operator would refuse it.
pub fn assert_legal_names(request: &naming::Request, answer: &naming::Answer) {
    let names: Vec<&str> = answer.proposals.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names.len(), request.count as usize, "exactly `count`");
    let different: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(different.len(), names.len(), "all different");
    for name in names {
        let length = name_length(name);
        assert!((1..=request.max_length as usize).contains(&length), "`{name}` has {length} characters");
        assert_eq!(name.trim(), name, "a blank at an end");
        assert!(!name.contains(char::is_control), "control characters");
        assert!(!request.taken_in_group.iter().any(|taken| taken == name));
        if answer.scope == naming::Scope::Everywhere {
            assert!(!request.taken_elsewhere.iter().any(|taken| taken == name));
        }
    }
}

fn index(position: usize) -> Index {
    Index::try_from(position).unwrap_or(Index::MAX)
}

fn named<'a, T>(records: &'a mut [T], name: &str, name_of: fn(&T) -> &String) -> &'a mut T {
    let found = records.iter_mut().find(|record| name_of(record) == name);
    found.unwrap_or_else(|| panic!("the test has nothing called `{name}`"))
}

//! What a pass sees of its group: the record in the status and the virtual
//! machines in vCenter, laid over each other, member by member.
//!
//! Building this is pure; the engine hands in what it read. Must not decide
//! anything.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use serde::Serialize;
use vmgroup_api::{MemberState, MemberStatus};
use vmgroup_vsphere::{DatastoreRef, FolderRef, Guest, Host, HostRef, Maintenance, PowerState, TagRef, Vm, VmRef};

use crate::guest::DataMark;
use crate::ownership::{Owner, mark};
use crate::readiness::{Terms, Waits};
use crate::revision::Made;
use crate::tasks::TaskKind;
use crate::validate::Desired;

/// A member's virtual machine, as far as a pass cares.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VmSeen {
    /// Its managed object reference.
    pub id: VmRef,
    /// Its power state.
    pub power: PowerState,
    /// The host that it is on.
    pub host: Option<HostRef>,
    /// The first of its datastores.
    pub datastore: Option<DatastoreRef>,
    /// When it was made, in seconds since 1970.
    pub created_at: Option<u64>,
    /// What it was made as, or changed to since.
    pub made: Made,
    /// What tells the user data that it was made with; none if its marks do not tell.
    #[serde(skip)]
    pub data: Option<DataMark>,
    /// The restart that was asked for last when it was started last.
    pub restarted: Option<String>,
    /// Virtual CPUs that it has.
    pub cpus: u32,
    /// Memory that it has, in MiB.
    pub memory_mib: u64,
    /// CPUs can be added while it runs.
    pub cpu_hot_add: bool,
    /// Memory can be added while it runs.
    pub memory_hot_add: bool,
    /// What its guest says, where that is asked for.
    pub guest: Option<Guest>,
    /// That its host is going into maintenance, and nobody moves it away.
    pub stranded: Option<Stranded>,
    /// Facts for the policies.
    pub attributes: BTreeMap<String, String>,
    /// Its custom attributes in vCenter, by key, where they are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<BTreeMap<i32, String>>,
    /// Those tags of it in vCenter that a pass cares about, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeSet<TagRef>>,
    /// Its marks are of the first version, and are mended with the next write.
    pub outdated: bool,
}

impl VmSeen {
    /// From what vCenter says. `baseline` is what those were made as whose marks do
    /// not tell.
    pub fn of(vm: &Vm, owner: &Owner, baseline: &Made) -> Self {
        let made = vm.extra.get(mark::MADE).and_then(|text| text.parse().ok());
        Self {
            id: vm.id.clone(),
            power: vm.power,
            host: vm.host.clone(),
            datastore: vm.datastores.first().cloned(),
            created_at: vm.extra.get(mark::CREATED).and_then(|text| text.parse().ok()),
            made: made.unwrap_or_else(|| baseline.clone()),
            data: vm.extra.get(mark::USER_DATA).map(DataMark::found),
            restarted: vm.extra.get(mark::RESTARTED).map(str::to_owned),
            cpus: vm.cpus,
            memory_mib: vm.memory_mib,
            cpu_hot_add: vm.cpu_hot_add,
            memory_hot_add: vm.memory_hot_add,
            guest: vm.guest.as_deref().cloned(),
            stranded: None,
            attributes: vm
                .extra
                .iter()
                .filter_map(|(key, value)| {
                    Some((key.strip_prefix(mark::ATTRIBUTE_PREFIX)?.to_owned(), value.to_owned()))
                })
                .collect(),
            fields: vm.attributes.as_deref().cloned(),
            tags: None,
            outdated: owner.outdated(vm),
        }
    }

    /// Custom attributes that are to be set, by key; empty: taken away.
    pub fn fields_to_set(&self, desired: &Desired) -> BTreeMap<i32, String> {
        self.fields_that_differ(&desired.fields).map(|(key, value)| (*key, value.clone())).collect()
    }

    /// Whether there are any.
    pub fn has_fields_to_set(&self, desired: &Desired) -> bool {
        self.fields_that_differ(&desired.fields).next().is_some()
    }

    /// Whether it is seen to have these custom attributes.
    pub fn has_fields(&self, fields: &BTreeMap<i32, String>) -> bool {
        self.fields.is_some() && self.fields_that_differ(fields).next().is_none()
    }

    fn fields_that_differ<'a>(
        &'a self,
        fields: &'a BTreeMap<i32, String>,
    ) -> impl Iterator<Item = (&'a i32, &'a String)> {
        self.fields.iter().flat_map(|has| {
            let differs = |(key, value): &(&i32, &String)| has.get(*key).map_or("", String::as_str) != value.as_str();
            fields.iter().filter(differs)
        })
    }

    /// Tags that are to be attached (true) or taken off.
    pub fn tags_to_set(&self, desired: &Desired) -> BTreeMap<TagRef, bool> {
        self.tags_that_differ(desired).collect()
    }

    /// Whether there are any.
    pub fn has_tags_to_set(&self, desired: &Desired) -> bool {
        self.tags_that_differ(desired).next().is_some()
    }

    fn tags_that_differ<'a>(&'a self, desired: &'a Desired) -> impl Iterator<Item = (TagRef, bool)> + 'a {
        self.tags.iter().flat_map(|has| {
            let wished = desired.tagging.iter().flatten();
            wished
                .filter(|(tag, wish)| has.contains(*tag) != wish.attached)
                .map(|(tag, wish)| (tag.clone(), wish.attached))
        })
    }

    /// Powered on.
    pub fn on(&self) -> bool {
        self.power == PowerState::On
    }
}

/// A machine on a host that is going into maintenance, and from which nobody moves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stranded {
    /// The host's name.
    pub host: String,
    /// The host is in maintenance mode, and not only on its way.
    pub arrived: bool,
    /// Nobody can be powered on there, nor is a place found elsewhere for who is.
    pub no_start: bool,
}

impl Stranded {
    /// Nothing if the machine may stay where it is, or is moved.
    pub fn of(vm: &Vm, host: &Host) -> Option<Self> {
        let maintenance = host.maintenance.filter(|_| !host.drs.moves(&vm.id))?;
        let arrived = maintenance == Maintenance::There;
        Some(Self { host: host.name.clone(), arrived, no_start: !host.drs.places() })
    }
}

/// What is known of a member that is not in the inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Birth {
    /// It does not exist and nothing is making it: its clone may begin.
    Absent,
    /// Its clone is running, or has ended and is about to show.
    Awaited,
    /// Whether it exists is not known; nothing is done about it until it is.
    Unresolved,
}

/// Where a clone was sent. What is `None` was left to vCenter.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BoundFor {
    /// The host.
    pub host: Option<HostRef>,
    /// The datastore.
    pub datastore: Option<DatastoreRef>,
}

/// One member, from all sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Seen {
    /// Instance UUID.
    pub uuid: String,
    /// Its name: vCenter's if it exists, else the recorded one.
    pub name: String,
    /// What the record says; nothing for a standing member of a large group.
    pub recorded: Option<MemberState>,
    /// The recorded reason.
    pub reason: Option<String>,
    /// How far it is with being ready, if it is on.
    pub waits: Waits,
    /// The recorded revision; it counts for who does not exist yet.
    pub revision: Option<String>,
    /// Its virtual machine, if it exists.
    pub vm: Option<VmSeen>,
    /// Where its clone was sent, while it is being made.
    pub bound_for: Option<BoundFor>,
    /// The task that is working on it.
    pub flight: Option<TaskKind>,
    /// If it does not exist: what is known of that.
    pub birth: Birth,
    /// Nothing is tried before this time.
    pub held_until: Option<Timestamp>,
    /// Since when its guest is to shut down, by the record.
    pub stopping_since: Option<Timestamp>,
    /// This process has asked its guest to.
    pub asked_to_stop: bool,
}

impl Seen {
    /// Does not exist yet, but something may be making it.
    pub fn being_made(&self) -> bool {
        self.vm.is_none() && (self.flight.is_some() || self.birth != Birth::Absent)
    }

    /// Chosen to leave.
    pub fn leaving(&self) -> bool {
        self.recorded == Some(MemberState::Leaving)
    }

    /// Chosen to be powered off, changed, and powered on again.
    pub fn changing(&self) -> bool {
        self.recorded == Some(MemberState::Changing)
    }
}

/// The group's folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FolderSeen {
    /// Its name.
    pub name: String,
    /// Its reference, if it exists.
    pub id: Option<FolderRef>,
    /// The folder that it lies in, or is to be made in; nothing: it cannot be made.
    pub parent: Option<FolderRef>,
}

/// All that a pass knows of its group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Observed {
    /// Its folder.
    pub folder: FolderSeen,
    /// Its members, those being made and those leaving included, ordered by
    /// name and UUID.
    pub members: Vec<Seen>,
    /// When the change that is being rolled out came further last.
    pub progressed_at: Option<Timestamp>,
    /// Hosts of the site are going into maintenance.
    pub hosts_leave: bool,
}

impl Observed {
    /// Who is to be adopted and is no member yet.
    pub fn to_be_adopted<'o>(&'o self, desired: &'o Desired) -> impl Iterator<Item = &'o String> {
        let is_member = |uuid: &&String| self.members.iter().any(|seen| seen.vm.is_some() && seen.uuid == **uuid);
        desired.adopting.iter().filter(move |uuid| !is_member(uuid))
    }
}

/// What [`lay_over`] needs to know besides record and virtual machines.
#[derive(Default)]
pub struct Knowledge {
    /// Tasks in flight by member.
    pub flights: HashMap<String, TaskKind>,
    /// What is known of members that are not in the inventory.
    pub births: HashMap<String, Birth>,
    /// Where clones were sent.
    pub bound_for: HashMap<String, BoundFor>,
    /// Members that are left alone until then.
    pub held: HashMap<String, Timestamp>,
    /// Members whose guests have been asked to shut down.
    pub asked_to_stop: HashSet<String>,
    /// Machines on hosts that are going into maintenance, and from which nobody moves
    /// them.
    pub stranded: HashMap<VmRef, Stranded>,
    /// Those tags of machines that matter, as far as is known.
    pub tags: HashMap<VmRef, BTreeSet<TagRef>>,
    /// Hosts of the site are going into maintenance.
    pub hosts_leave: bool,
    /// What members were made as whose marks do not tell.
    pub baseline: Made,
    /// Members that have turned out to take nothing while they run.
    pub no_hot_add: HashSet<String>,
    /// When the change that is being rolled out came further last.
    pub progressed_at: Option<Timestamp>,
    /// When members count as ready.
    pub readiness: Terms,
    /// What time it is.
    pub now: Timestamp,
}

/// Lays record and virtual machines over each other. `vms` are the group's own
/// ([`Owner::owns`]). A recorded member that once existed and of which nothing is
/// left (no machine, no task, and known to be absent) is not in the result.
pub fn lay_over(owner: &Owner, folder: FolderSeen, record: &[MemberStatus], vms: &[Vm], know: &Knowledge) -> Observed {
    let by_uuid: HashMap<String, &Vm> = vms.iter().map(|vm| (vm.instance_uuid.to_lowercase(), vm)).collect();
    let see = |vm: &Vm| {
        let seen = VmSeen::of(vm, owner, &know.baseline);
        let refuses = know.no_hot_add.contains(&vm.instance_uuid.to_lowercase());
        VmSeen {
            cpu_hot_add: seen.cpu_hot_add && !refuses,
            memory_hot_add: seen.memory_hot_add && !refuses,
            stranded: know.stranded.get(&vm.id).cloned(),
            tags: know.tags.get(&vm.id).cloned(),
            ..seen
        }
    };
    let waits = |vm: Option<&&Vm>, recorded: Waits| match vm {
        Some(vm) if vm.power == PowerState::On => Waits::of(&know.readiness, recorded, vm.guest.as_deref(), know.now),
        _ => Waits::default(),
    };
    let mut done = HashSet::new();
    let mut members = Vec::new();
    for entry in record {
        let uuid = entry.uuid.to_lowercase();
        let vm = by_uuid.get(&uuid);
        let flight = know.flights.get(&uuid).copied();
        let birth = know.births.get(&uuid).copied().unwrap_or(Birth::Unresolved);
        let was_there = !matches!(entry.state, MemberState::Planned | MemberState::Cloning);
        if vm.is_none() && flight.is_none() && was_there && birth == Birth::Absent {
            continue;
        }
        if !done.insert(uuid.clone()) {
            continue;
        }
        members.push(Seen {
            name: vm.map_or_else(|| entry.name.clone(), |vm| vm.name.clone()),
            recorded: Some(entry.state),
            reason: entry.reason.clone(),
            waits: waits(vm, Waits::recorded(entry)),
            revision: entry.revision.clone(),
            vm: vm.map(|vm| see(vm)),
            bound_for: know.bound_for.get(&uuid).cloned(),
            flight,
            birth: if flight == Some(TaskKind::Clone) { Birth::Awaited } else { birth },
            held_until: know.held.get(&uuid).copied(),
            stopping_since: entry.stopping_since.as_ref().map(|since| since.0),
            asked_to_stop: know.asked_to_stop.contains(&uuid),
            uuid,
        });
    }
    for (uuid, vm) in by_uuid {
        if done.contains(&uuid) {
            continue;
        }
        members.push(Seen {
            name: vm.name.clone(),
            recorded: None,
            reason: None,
            // Those that need not be named in a large group's record stand in it as ready.
            waits: waits(Some(&vm), Waits { ready: true, ..Waits::default() }),
            revision: None,
            vm: Some(see(vm)),
            bound_for: None,
            flight: know.flights.get(&uuid).copied(),
            birth: Birth::Awaited,
            held_until: know.held.get(&uuid).copied(),
            stopping_since: None,
            asked_to_stop: false,
            uuid,
        });
    }
    members.sort_by(|a, b| (&a.name, &a.uuid).cmp(&(&b.name, &b.uuid)));
    Observed { folder, members, progressed_at: know.progressed_at, hosts_leave: know.hosts_leave }
}

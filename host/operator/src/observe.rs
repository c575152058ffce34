//! What a pass sees of its group: the record in the status and the virtual
//! machines in vCenter, laid over each other, member by member.
//!
//! Building this is pure; the engine hands in what it read. Must not decide
//! anything.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use serde::Serialize;
use vmgroup_api::{MemberState, MemberStatus};
use vmgroup_vsphere::{DatastoreRef, FolderRef, HostRef, PowerState, Vm, VmRef};

use crate::tasks::TaskKind;

/// `extraConfig` keys that the operator writes into each member and reads back.
/// They travel inside the clone call, so no member is ever without them.
pub mod mark {
    /// All keys of ours start so.
    pub const PREFIX: &str = "vmgroup.";
    /// `metadata.uid` of the group: the owner.
    pub const GROUP_UID: &str = "vmgroup.group-uid";
    /// `<namespace>/<name>` of the group.
    pub const GROUP: &str = "vmgroup.group";
    /// The instance UUID that the member was made with. A copy that somebody
    /// made of a member by hand carries its marks, but another UUID.
    pub const MEMBER: &str = "vmgroup.member";
    /// Seconds since 1970 when the member was made.
    pub const CREATED: &str = "vmgroup.created";
    /// Facts for the policies, written by whoever runs the site.
    pub const ATTRIBUTE_PREFIX: &str = "vmgroup.attr.";
}

/// Whether a virtual machine is a member of the group with this uid: it carries
/// the group's mark and is the very machine that the mark was made for.
pub fn is_member(vm: &Vm, uid: &str) -> bool {
    vm.extra.get(mark::GROUP_UID).is_some_and(|owner| owner == uid)
        && vm.extra.get(mark::MEMBER).is_some_and(|member| member.eq_ignore_ascii_case(&vm.instance_uuid))
        && !vm.template
}

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
    /// Facts for the policies.
    pub attributes: BTreeMap<String, String>,
}

impl VmSeen {
    /// From what vCenter says.
    pub fn of(vm: &Vm) -> Self {
        Self {
            id: vm.id.clone(),
            power: vm.power,
            host: vm.host.clone(),
            datastore: vm.datastores.first().cloned(),
            created_at: vm.extra.get(mark::CREATED).and_then(|text| text.parse().ok()),
            attributes: vm
                .extra
                .iter()
                .filter_map(|(key, value)| {
                    Some((key.strip_prefix(mark::ATTRIBUTE_PREFIX)?.to_owned(), value.to_owned()))
                })
                .collect(),
        }
    }

    /// Powered on.
    pub fn on(&self) -> bool {
        self.power == PowerState::On
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
}

/// The group's folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FolderSeen {
    /// Its name.
    pub name: String,
    /// Its reference, if it exists.
    pub id: Option<FolderRef>,
}

/// All that a pass knows of its group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Observed {
    /// Its folder.
    pub folder: FolderSeen,
    /// Its members, those being made and those leaving included, ordered by
    /// name and UUID.
    pub members: Vec<Seen>,
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
}

/// Lays record and virtual machines over each other. `vms` are the group's own
/// ([`is_member`]). A recorded member that once existed and of which nothing is
/// left (no machine, no task, and known to be absent) is not in the result.
pub fn lay_over(folder: FolderSeen, record: &[MemberStatus], vms: &[Vm], know: &Knowledge) -> Observed {
    let by_uuid: HashMap<String, &Vm> = vms.iter().map(|vm| (vm.instance_uuid.to_lowercase(), vm)).collect();
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
            vm: vm.map(|vm| VmSeen::of(vm)),
            bound_for: know.bound_for.get(&uuid).cloned(),
            flight,
            birth: if flight == Some(TaskKind::Clone) { Birth::Awaited } else { birth },
            held_until: know.held.get(&uuid).copied(),
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
            vm: Some(VmSeen::of(vm)),
            bound_for: None,
            flight: know.flights.get(&uuid).copied(),
            birth: Birth::Awaited,
            held_until: know.held.get(&uuid).copied(),
            uuid,
        });
    }
    members.sort_by(|a, b| (&a.name, &a.uuid).cmp(&(&b.name, &b.uuid)));
    Observed { folder, members }
}

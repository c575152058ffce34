//! The planner: from a group as wished and as seen to what is to be done now.
//!
//! Pure and synchronous: no I/O, no clock, no randomness, no await. It comes in
//! two halves, because the policies are asked in between: [`demand`] says which
//! questions arise and how many task slots would be of use; [`plan`] turns
//! answers and slots into a record of intents and a list of steps that leave
//! nothing to choose.

pub mod rollout;

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use serde::Serialize;
use vmgroup_api::{MemberState, MemberStatus};
use vmgroup_vsphere::{ClusterRef, DatastoreRef, HostRef, PowerState, TagRef, VmRef};

use self::rollout::{Need, Turn};
use crate::clock::k8s_time;
use crate::guest::DataMark;
use crate::observe::{Birth, Observed, Seen, VmSeen};
use crate::readiness::Waits;
use crate::revision::Made;
use crate::stop::{Stop, stop};
use crate::tasks::TaskKind;
use crate::validate::Desired;

/// The most members of one group that are leaving at a time. Keeps the status
/// small: each of them stands in it in full.
pub const LEAVING_LIMIT: usize = 50;

/// The most members of one group that tags are taken off in one pass.
const TAKEN_OFF_AT_ONCE: usize = 50;

/// What a pass would do, before anybody was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Demand {
    /// Leaving members with a virtual machine to be powered off the hard way, or
    /// destroyed.
    pub remove: Vec<String>,
    /// Members, leaving or to be changed, whose guest is to be asked to shut down.
    pub shut_down: Vec<String>,
    /// When the first of the guests that were asked has had its time.
    pub grace_ends: Option<Timestamp>,
    /// Members that are being changed, to be powered off the hard way for it.
    pub stop: Vec<String>,
    /// Staying members to be powered on, after they were changed if need be.
    pub start: Vec<String>,
    /// Members that get more CPUs or memory, or marks that they lack, while they run.
    pub resize: Vec<String>,
    /// Members whose custom attributes are to be set.
    pub annotate: Vec<String>,
    /// Members whose tags are to be attached or taken off.
    pub tag: Vec<String>,
    /// Recorded members that do not exist and whose clone may begin.
    pub resume: Vec<String>,
    /// Recorded members that do not exist and are no longer wanted.
    pub forget: Vec<String>,
    /// New members to be named and made.
    pub missing: usize,
    /// Members that the scaling policy has to choose.
    pub excess: usize,
    /// Members too many that stay, because the group holds scale-in, or because they
    /// are protected.
    pub held_back: usize,
    /// Members that leave without a question: the group is going.
    pub dismiss: Vec<String>,
    /// Members that are to be released: the group is going, and they stay.
    pub release: Vec<String>,
    /// Members of whom the scaling policy has to choose some to be changed or
    /// replaced.
    pub turn: Option<Turn>,
    /// New members are made in others' places.
    pub replacing: bool,
    /// They are made in the places of members that leave a host which is going into
    /// maintenance.
    pub evacuating: bool,
}

impl Demand {
    /// Task slots that would be of use now.
    pub fn slots(&self) -> usize {
        self.before_births() + self.resume.len() + self.missing
    }

    /// Those who exist are served before others are made, and those who leave first.
    fn before_births(&self) -> usize {
        let leaving = self.remove.len() + self.shut_down.len() + self.release.len();
        leaving
            + self.stop.len()
            + self.start.len()
            + self.resize.len()
            + self.annotate.len()
            + usize::from(!self.tag.is_empty())
    }

    /// How many new members to name if there are this many slots: what removing,
    /// changing, starting and resuming leave over.
    pub fn births(&self, slots: usize) -> usize {
        self.missing.min(slots.saturating_sub(self.before_births() + self.resume.len()))
    }

    /// The recorded members whose clone begins with this many slots.
    pub fn resumed(&self, slots: usize) -> &[String] {
        let left = slots.saturating_sub(self.before_births());
        &self.resume[..self.resume.len().min(left)]
    }
}

/// Which questions arise.
pub fn demand(desired: &Desired, seen: &Observed, now: Timestamp) -> Demand {
    let free = |member: &&Seen| member.flight.is_none() && member.held_until.is_none_or(|until| until <= now);
    let uuids = |members: Vec<&Seen>| members.into_iter().map(|member| member.uuid.clone()).collect::<Vec<_>>();
    let (leaving, staying): (Vec<&Seen>, Vec<&Seen>) = seen.members.iter().partition(|member| member.leaving());
    let (born, unborn): (Vec<&Seen>, Vec<&Seen>) = staying.iter().partition(|member| member.vm.is_some());
    let (absent, awaited): (Vec<&Seen>, Vec<&Seen>) =
        unborn.into_iter().partition(|member| member.birth == Birth::Absent && member.flight.is_none());

    let mut out = Demand::default();
    if desired.releases() {
        out.forget = uuids(absent);
        out.release =
            uuids(leaving.into_iter().chain(born).filter(|member| member.vm.is_some()).filter(free).collect());
        return out;
    }
    for member in leaving.iter().copied().filter(free) {
        let Some(vm) = &member.vm else { continue };
        match stop(member, vm, desired.grace, now) {
            Stop::Ask => out.shut_down.push(member.uuid.clone()),
            Stop::Wait(until) => out.grace_ends = Some(out.grace_ends.map_or(until, |other| other.min(until))),
            Stop::Force | Stop::Off => out.remove.push(member.uuid.clone()),
        }
    }
    if desired.deleting {
        let room = LEAVING_LIMIT.saturating_sub(leaving.len());
        out.forget = uuids(absent);
        out.dismiss = uuids(born.into_iter().take(room).collect());
        return out;
    }

    let awaited_adoptions = seen.to_be_adopted(desired).count();
    let wished = desired.replicas + rollout::surge(desired, &staying);
    let surplus = staying.len().saturating_sub(wished);
    // Who does not exist yet goes first, and nobody has to be asked about it.
    let forgotten = surplus.min(absent.len());
    let (resume, forget) = absent.split_at(absent.len() - forgotten);
    out.forget = uuids(forget.to_vec());
    if surplus > forgotten && awaited.is_empty() && awaited_adoptions == 0 {
        // Asked only when all members are there to be chosen from.
        let free_to_go = born.iter().filter(|member| !desired.hold_scale_in && !desired.protects(member)).count();
        out.held_back = (surplus - forgotten).saturating_sub(free_to_go);
        out.excess = (surplus - forgotten).min(LEAVING_LIMIT.saturating_sub(leaving.len())).min(free_to_go);
    }
    // Those who leave still exist: their successors wait, so that there are
    // never more virtual machines than wished (S3).
    let mut room = wished.saturating_sub(born.len() + awaited.len() + leaving.len() + awaited_adoptions);
    let resume: Vec<&Seen> = resume.iter().copied().take(room).collect();
    room -= resume.len();
    let unfinished = absent.len() - forgotten - resume.len();
    out.resume = uuids(resume.into_iter().filter(free).collect());
    out.missing = room.saturating_sub(unfinished);
    let lacks = |member: &&Seen| member.vm.as_ref().is_some_and(|vm| vm.has_fields_to_set(desired));
    out.annotate = uuids(born.iter().copied().filter(free).filter(lacks).collect());
    let lacks = |member: &&Seen| member.vm.as_ref().is_some_and(|vm| vm.has_tags_to_set(desired));
    out.tag = uuids(born.iter().copied().filter(free).filter(lacks).collect());
    let on = |member: &&Seen| member.vm.as_ref().is_some_and(VmSeen::on);
    let in_change = |member: &&Seen| rollout::in_change(desired, member);
    let (running, idle): (Vec<&Seen>, Vec<&Seen>) = born.into_iter().filter(free).partition(on);
    // Nobody can be powered on where the host is to be emptied.
    let idle = idle.into_iter().filter(|member| !member.vm.as_ref().is_some_and(rollout::no_start)).collect();
    out.start = uuids(idle);
    for member in running.iter().copied().filter(in_change) {
        let Some(vm) = &member.vm else { continue };
        match stop(member, vm, desired.grace, now) {
            Stop::Ask => out.shut_down.push(member.uuid.clone()),
            Stop::Wait(until) => out.grace_ends = Some(out.grace_ends.map_or(until, |other| other.min(until))),
            Stop::Force => out.stop.push(member.uuid.clone()),
            Stop::Off => {}
        }
    }
    let resized = running.into_iter().filter(|member| rollout::is_touched(desired, member));
    out.resize = uuids(resized.collect());
    out.replacing = staying.iter().any(|member| matches!(rollout::due(desired, member), Need::Successor(_)));
    out.evacuating = rollout::evacuating(desired, seen);
    if surplus == 0 {
        out.turn = rollout::turn(desired, seen, &staying, now).and_then(|turn| {
            let count = turn.count.min(LEAVING_LIMIT.saturating_sub(leaving.len()));
            (count > 0).then_some(Turn { count, ..turn })
        });
    }
    out
}

/// A new member, as named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Newcomer {
    /// Its instance UUID.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// The policy's words.
    pub reason: String,
}

/// A place, as chosen; what is `None` is left to vCenter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The cluster.
    pub cluster: Option<ClusterRef>,
    /// The host.
    pub host: Option<HostRef>,
    /// The datastore.
    pub datastore: Option<DatastoreRef>,
    /// The policy's words.
    pub reason: String,
}

/// Who leaves, as chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Victim {
    /// Its instance UUID.
    pub uuid: String,
    /// The policy's words.
    pub reason: String,
}

/// The answers of the policies. A question that did not arise, or got no legal
/// answer, is empty here, and then nothing of its kind happens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decisions {
    /// New members.
    pub newcomers: Vec<Newcomer>,
    /// Places by member. Who has none is not cloned now.
    pub places: BTreeMap<String, Place>,
    /// Who leaves.
    pub victims: Vec<Victim>,
    /// Whose turn it is to be changed or replaced.
    pub turns: Vec<Victim>,
}

/// What of a member is changed; what is `None` stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Virtual CPUs.
    pub cpus: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// What it is marked as having been made as.
    pub made: Made,
    /// The restart that it has seen.
    pub restarted: Option<String>,
    /// The user data that it counts as made with.
    #[serde(skip)]
    pub data: Option<DataMark>,
}

impl Change {
    /// What brings a machine to the wished size.
    fn of(desired: &Desired, vm: &VmSeen) -> Self {
        let resized = !vm.made.same_size(&desired.made());
        let made =
            if resized { Made { revision: vm.made.revision.clone(), ..desired.made() } } else { vm.made.clone() };
        // Size and mark are written together, whether or not the size is new: a change
        // that vCenter was told of before, and carries out late, moves both.
        let (cpus, memory_mib) = if resized { (desired.cpus, desired.memory_mib) } else { (vm.cpus, vm.memory_mib) };
        // While it runs, only what it takes is touched.
        let stays = |same: bool| same && vm.on();
        Self {
            cpus: Some(cpus).filter(|cpus| !stays(*cpus == vm.cpus)),
            memory_mib: Some(memory_mib).filter(|memory| !stays(*memory == vm.memory_mib)),
            made,
            // While it runs it has seen no restart.
            restarted: desired.restarted_at.clone().filter(|_| !vm.on()),
            data: rollout::data_to_mark(desired, vm),
        }
    }
}

/// Tags that a member gets or loses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TagsOf {
    /// Its instance UUID.
    pub uuid: String,
    /// Its virtual machine.
    pub vm: VmRef,
    /// True: attached; false: taken off.
    pub tags: BTreeMap<TagRef, bool>,
}

/// One thing to do. Steps of different members are independent of each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Step {
    /// Make the group's folder; comes first and clones go into it.
    CreateFolder {
        /// Its name under the root folder.
        name: String,
    },
    /// Clone a member.
    Clone {
        /// Its instance UUID.
        uuid: String,
        /// Its name.
        name: String,
        /// Where to.
        place: Place,
    },
    /// Change a member's size, or bring its marks up to date, or both.
    Reconfigure {
        /// Its instance UUID.
        uuid: String,
        /// Its virtual machine.
        vm: VmRef,
        /// What of it.
        change: Change,
    },
    /// Set custom attributes of a member.
    Annotate {
        /// Its instance UUID.
        uuid: String,
        /// Its virtual machine.
        vm: VmRef,
        /// Values by key; empty: taken away.
        fields: BTreeMap<i32, String>,
    },
    /// Attach tags to members, and take tags off them.
    Tag {
        /// Who gets or loses which.
        members: Vec<TagsOf>,
    },
    /// Power a member on.
    PowerOn {
        /// Its instance UUID.
        uuid: String,
        /// Its virtual machine.
        vm: VmRef,
    },
    /// Power a member off that is to be changed and powered on again.
    Stop {
        /// Its instance UUID.
        uuid: String,
        /// Its virtual machine.
        vm: VmRef,
    },
    /// Ask a member's guest to shut down, or power it off the hard way if no VMware
    /// Tools run in it.
    Shutdown {
        /// Its instance UUID.
        uuid: String,
        /// Its virtual machine.
        vm: VmRef,
        /// It is powered on again when it has been changed, and does not leave.
        stays: bool,
    },
    /// Power a leaving member off.
    PowerOff {
        /// Its instance UUID.
        uuid: String,
        /// Its virtual machine.
        vm: VmRef,
    },
    /// Destroy a leaving member.
    Destroy {
        /// Its instance UUID.
        uuid: String,
        /// Its virtual machine.
        vm: VmRef,
    },
    /// Write into a member's marks that it is nobody's.
    Release {
        /// Its instance UUID.
        uuid: String,
        /// Its virtual machine.
        vm: VmRef,
    },
    /// Nothing is left of a group that is being deleted: remove its folder, if
    /// it is empty, and let the object go.
    Finish,
}

impl Step {
    /// Whether it takes a task slot, for as long as its calls are out if it starts no
    /// task.
    pub const fn starts_a_task(&self) -> bool {
        !matches!(self, Self::CreateFolder { .. } | Self::Finish)
    }
}

impl Step {
    /// The member it is about and the task that it starts, or may start.
    pub fn task(&self) -> Option<(&str, TaskKind)> {
        match self {
            Self::Clone { uuid, .. } => Some((uuid, TaskKind::Clone)),
            Self::Reconfigure { uuid, .. } | Self::Release { uuid, .. } => Some((uuid, TaskKind::Reconfigure)),
            Self::PowerOn { uuid, .. } => Some((uuid, TaskKind::PowerOn)),
            Self::Shutdown { uuid, .. } | Self::Stop { uuid, .. } | Self::PowerOff { uuid, .. } => {
                Some((uuid, TaskKind::PowerOff))
            }
            Self::Destroy { uuid, .. } => Some((uuid, TaskKind::Destroy)),
            Self::Annotate { .. } | Self::Tag { .. } | Self::CreateFolder { .. } | Self::Finish => None,
        }
    }
}

/// What to write down, and then what to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The members as they are to stand in the status before the first step.
    pub record: Vec<MemberStatus>,
    /// What to do.
    pub steps: Vec<Step>,
}

/// Turns answers and slots into intents and steps.
pub fn plan(
    desired: &Desired,
    seen: &Observed,
    demand: &Demand,
    decisions: &Decisions,
    slots: usize,
    now: Timestamp,
) -> Plan {
    let forget: HashSet<&str> = demand.forget.iter().map(String::as_str).collect();
    let dismissed: HashSet<&str> = demand.dismiss.iter().map(String::as_str).collect();
    let by_uuid = |chosen: &'_ [Victim]| {
        chosen.iter().map(|victim| (victim.uuid.clone(), victim.reason.clone())).collect::<BTreeMap<_, _>>()
    };
    let (chosen, turns) = (by_uuid(&decisions.victims), by_uuid(&decisions.turns));

    let mut record = Vec::new();
    for member in &seen.members {
        let uuid = member.uuid.as_str();
        if forget.contains(uuid) {
            continue;
        }
        let mut entry = record_of(desired, member);
        if let Some(reason) = chosen.get(uuid) {
            entry.state = MemberState::Leaving;
            entry.reason = Some(reason.clone());
        } else if let Some(reason) = turns.get(uuid)
            && let Some((state, why)) = rollout::taken_down(desired, member)
        {
            entry.state = state;
            entry.reason = Some(format!("{}; {reason}", why.as_str()));
        } else if dismissed.contains(uuid) {
            entry.state = MemberState::Leaving;
            entry.reason = Some("the group is being deleted".to_owned());
        }
        record.push(entry);
    }
    for newcomer in &decisions.newcomers {
        record.push(MemberStatus {
            reason: Some(newcomer.reason.clone()),
            ..MemberStatus::new(&newcomer.name, &newcomer.uuid, MemberState::Planned)
        });
    }

    let steps = steps(desired, seen, demand, decisions, slots, &record);
    for step in &steps {
        let (Step::Shutdown { uuid, .. } | Step::Clone { uuid, .. }) = step else { continue };
        let Some(entry) = record.iter_mut().find(|entry| entry.uuid == *uuid) else { continue };
        match step {
            // What a clone is made from stands in the record before it begins.
            Step::Clone { .. } => entry.revision = Some(desired.revision.clone()),
            // The time of a guest runs from when it is asked, not from when that is due.
            _ => drop(entry.stopping_since.get_or_insert_with(|| k8s_time(now))),
        }
    }
    Plan { record, steps }
}

/// How a member stands in the record when nothing is decided about it.
fn record_of(desired: &Desired, member: &Seen) -> MemberStatus {
    let state = match (&member.vm, member.leaving()) {
        (_, true) => MemberState::Leaving,
        _ if rollout::in_change(desired, member) => MemberState::Changing,
        (Some(vm), false) if vm.on() && member.waits.ready => MemberState::Ready,
        (Some(_), false) => MemberState::Starting,
        (None, false) if member.birth == Birth::Absent => MemberState::Planned,
        (None, false) => MemberState::Cloning,
    };
    let may_run = member.vm.as_ref().is_none_or(VmSeen::on);
    let stops = may_run && matches!(state, MemberState::Leaving | MemberState::Changing);
    let keep_reason = !matches!(state, MemberState::Starting | MemberState::Ready);
    let waits = if state == MemberState::Starting { member.waits } else { Waits::default() };
    MemberStatus {
        waiting_since: waits.waiting_since.map(k8s_time),
        ready_since: waits.ready_since.map(k8s_time),
        reason: member.reason.clone().filter(|_| keep_reason),
        revision: member.vm.as_ref().map_or_else(|| member.revision.clone(), |vm| Some(vm.made.revision.clone())),
        stopping_since: member.stopping_since.filter(|_| stops).map(k8s_time),
        ..MemberStatus::new(&member.name, &member.uuid, state)
    }
}

/// Tags of all who want some, as one step: a tag is attached to many by one call. Off it
/// comes by a call for each, so of those whom that is about some wait for the next pass.
fn tag<'s>(
    desired: &Desired,
    uuids: impl Iterator<Item = &'s String>,
    vm_of: impl Fn(&str) -> Option<&'s VmSeen>,
) -> Option<Step> {
    let mut losing = 0;
    let mut members = Vec::new();
    for uuid in uuids {
        let Some(vm) = vm_of(uuid) else { continue };
        let tags = vm.tags_to_set(desired);
        losing += usize::from(tags.values().any(|attached| !attached));
        if losing <= TAKEN_OFF_AT_ONCE || tags.values().all(|attached| *attached) {
            members.push(TagsOf { uuid: uuid.clone(), vm: vm.id.clone(), tags });
        }
    }
    (!members.is_empty()).then_some(Step::Tag { members })
}

fn steps(
    desired: &Desired,
    seen: &Observed,
    demand: &Demand,
    decisions: &Decisions,
    slots: usize,
    record: &[MemberStatus],
) -> Vec<Step> {
    let by_uuid: BTreeMap<&str, &Seen> = seen.members.iter().map(|member| (member.uuid.as_str(), member)).collect();
    let vm_of = |uuid: &str| by_uuid.get(uuid).and_then(|member| member.vm.as_ref());
    let mut tasks: Vec<Step> = Vec::new();
    for uuid in &demand.remove {
        if let Some(vm) = vm_of(uuid) {
            let (uuid, id) = (uuid.clone(), vm.id.clone());
            let off = vm.power == PowerState::Off;
            tasks.push(if off { Step::Destroy { uuid, vm: id } } else { Step::PowerOff { uuid, vm: id } });
        }
    }
    for uuid in &demand.release {
        if let Some(vm) = vm_of(uuid) {
            tasks.push(Step::Release { uuid: uuid.clone(), vm: vm.id.clone() });
        }
    }
    for uuid in &demand.shut_down {
        if let Some(member) = by_uuid.get(uuid.as_str())
            && let Some(vm) = &member.vm
        {
            tasks.push(Step::Shutdown { uuid: uuid.clone(), vm: vm.id.clone(), stays: !member.leaving() });
        }
    }
    let is_chosen = |uuid: &str| decisions.victims.iter().chain(&decisions.turns).any(|victim| victim.uuid == uuid);
    let reconfigure = |uuid: &str, vm: &VmSeen| Step::Reconfigure {
        uuid: uuid.to_owned(),
        vm: vm.id.clone(),
        change: Change::of(desired, vm),
    };
    for uuid in demand.stop.iter().filter(|uuid| !is_chosen(uuid)) {
        if let Some(vm) = vm_of(uuid) {
            tasks.push(Step::Stop { uuid: uuid.clone(), vm: vm.id.clone() });
        }
    }
    for uuid in demand.start.iter().filter(|uuid| !is_chosen(uuid)) {
        if let Some(vm) = vm_of(uuid) {
            // What is suspended has to wake up before it can be changed.
            let change = vm.power == PowerState::Off && rollout::wants_change_when_off(desired, vm);
            let power_on = || Step::PowerOn { uuid: uuid.clone(), vm: vm.id.clone() };
            tasks.push(if change { reconfigure(uuid, vm) } else { power_on() });
        }
    }
    for uuid in demand.resize.iter().filter(|uuid| !is_chosen(uuid)) {
        if let Some(vm) = vm_of(uuid) {
            tasks.push(reconfigure(uuid, vm));
        }
    }
    for uuid in demand.annotate.iter().filter(|uuid| !is_chosen(uuid)) {
        if let Some(vm) = vm_of(uuid) {
            let fields = vm.fields_to_set(desired);
            tasks.push(Step::Annotate { uuid: uuid.clone(), vm: vm.id.clone(), fields });
        }
    }
    tasks.extend(tag(desired, demand.tag.iter().filter(|uuid| !is_chosen(uuid)), vm_of));
    let to_clone = demand
        .resume
        .iter()
        .filter_map(|uuid| by_uuid.get(uuid.as_str()).map(|member| (&member.uuid, &member.name)))
        .chain(decisions.newcomers.iter().map(|newcomer| (&newcomer.uuid, &newcomer.name)));
    for (uuid, name) in to_clone {
        if let Some(place) = decisions.places.get(uuid) {
            tasks.push(Step::Clone { uuid: uuid.clone(), name: name.clone(), place: place.clone() });
        }
    }
    tasks.truncate(slots);

    let mut steps = Vec::new();
    let clones = tasks.iter().any(|step| matches!(step, Step::Clone { .. }));
    // An empty group has a folder too, as users of the original expect.
    let may = seen.folder.parent.is_some() && !desired.deleting;
    if seen.folder.id.is_none() && may && (clones || desired.replicas == 0) {
        steps.push(Step::CreateFolder { name: seen.folder.name.clone() });
    }
    steps.append(&mut tasks);
    if desired.deleting && record.is_empty() {
        steps.push(Step::Finish);
    }
    steps
}

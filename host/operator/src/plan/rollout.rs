//! How a change of the spec reaches the members that stand: what each of them
//! needs, and how many may be taken down for it now.
//!
//! Pure. Nobody is chosen here: who goes first is the scaling policy's to say.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use vmgroup_api::{MemberState, RolloutStatus};

use crate::guest::DataMark;
use crate::observe::{Observed, Seen, VmSeen};
use crate::validate::Desired;

/// What a member that exists needs to be as the spec says, or to be where it can stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// More CPUs or memory, which it takes while it runs.
    Resize,
    /// To be powered off for a moment, and changed.
    Cycle(Why),
    /// A successor.
    Successor(Why),
}

/// Why a member is taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Why {
    /// Its host is going into maintenance, and nobody moves it away.
    Evacuation,
    /// The template has changed.
    Template,
    /// What is in the Secret or `ConfigMap` of its user data has changed.
    UserData,
    /// CPU or memory has changed.
    Size,
    /// A restart was asked for.
    Restart,
}

impl Why {
    /// For people, after "member X is restarted" or "replaced".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Evacuation => "its host is going into maintenance",
            Self::Template => "it was made from another template",
            Self::UserData => "it was made with other user data",
            Self::Size => "cpu or memory has changed",
            Self::Restart => "a restart was asked for",
        }
    }
}

/// What a member with this machine needs, whether or not it gets it now.
pub fn need(desired: &Desired, vm: &VmSeen) -> Need {
    if vm.made.revision != desired.revision {
        return Need::Successor(Why::Template);
    }
    if desired.data.is_some() && vm.data.is_some() && vm.data != desired.data {
        return Need::Successor(Why::UserData);
    }
    if desired.restarted_at.is_some() && vm.restarted != desired.restarted_at {
        return Need::Cycle(Why::Restart);
    }
    if fits(desired, vm) {
        return Need::Nothing;
    }
    let grows = |has: u32, wished: u32, hot_add: bool| has == wished || (has < wished && hot_add);
    let memory = vm.memory_mib == desired.memory_mib || (vm.memory_mib < desired.memory_mib && vm.memory_hot_add);
    if vm.on() && grows(vm.cpus, desired.cpus, vm.cpu_hot_add) && memory {
        Need::Resize
    } else {
        Need::Cycle(Why::Size)
    }
}

/// Whether a machine has the size that the spec says, or was given it: what somebody
/// changed by hand since stays until the spec is changed again.
fn fits(desired: &Desired, vm: &VmSeen) -> bool {
    vm.made.same_size(&desired.made()) || (vm.cpus, vm.memory_mib) == (desired.cpus, desired.memory_mib)
}

/// Whether a member's marks do not tell what user data it was made with: it was made
/// before that was marked, or adopted. It counts as made with what there is, and is
/// marked so, that later changes reach it.
fn unmarked(desired: &Desired, vm: &VmSeen) -> bool {
    vm.made.revision == desired.revision && vm.data.is_none() && desired.data.is_some()
}

/// What a member's marks are to tell of its user data, if that is news.
pub fn data_to_mark(desired: &Desired, vm: &VmSeen) -> Option<DataMark> {
    desired.data.clone().filter(|_| unmarked(desired, vm))
}

/// Whether something of a member is to be written while it runs.
pub fn is_touched(desired: &Desired, member: &Seen) -> bool {
    match due(desired, member) {
        Need::Resize => true,
        Need::Nothing => member.vm.as_ref().is_some_and(|vm| !member.leaving() && unmarked(desired, vm)),
        Need::Cycle(_) | Need::Successor(_) => false,
    }
}

/// What is wanted of a machine that is off before it is powered on. A new template is
/// no matter of this.
pub fn wants_change_when_off(desired: &Desired, vm: &VmSeen) -> bool {
    let restart = desired.restarted_at.is_some() && vm.restarted != desired.restarted_at;
    vm.outdated || restart || unmarked(desired, vm) || !fits(desired, vm)
}

/// Whether a need is served without anybody's doing: with `OnDelete` only what was
/// asked for by itself is.
fn served(desired: &Desired, need: Need) -> bool {
    match need {
        Need::Nothing => false,
        Need::Cycle(Why::Restart) => true,
        Need::Resize | Need::Cycle(_) | Need::Successor(_) => desired.strategy.rolling,
    }
}

/// Whether a member is on a host that is going into maintenance, and is to be replaced
/// for it.
pub fn evacuates(desired: &Desired, member: &Seen) -> bool {
    let stranded = member.vm.as_ref().is_some_and(|vm| vm.stranded.is_some());
    desired.evacuate && stranded && !member.leaving() && !desired.protects(member)
}

/// Whether a member is where it could not be powered on again.
pub fn no_start(vm: &VmSeen) -> bool {
    vm.stranded.as_ref().is_some_and(|stranded| stranded.no_start)
}

/// What a member needs and gets, in its turn; nothing while nothing is to be done.
pub fn due(desired: &Desired, member: &Seen) -> Need {
    let Some(vm) = member.vm.as_ref().filter(|_| !member.leaving()) else { return Need::Nothing };
    if evacuates(desired, member) {
        return Need::Successor(Why::Evacuation);
    }
    let need = need(desired, vm);
    // Who is off could not be powered on again.
    if matches!(need, Need::Cycle(_)) && no_start(vm) {
        return Need::Nothing;
    }
    let down = matches!(need, Need::Cycle(_) | Need::Successor(_));
    if served(desired, need) && !(down && desired.protects(member)) { need } else { Need::Nothing }
}

/// What becomes of a member whose turn it is, and why.
pub fn taken_down(desired: &Desired, member: &Seen) -> Option<(MemberState, Why)> {
    match due(desired, member) {
        Need::Successor(why) => Some((MemberState::Leaving, why)),
        Need::Cycle(why) => Some((MemberState::Changing, why)),
        Need::Nothing | Need::Resize => None,
    }
}

/// Whether a member is in the midst of a change that it was chosen for.
pub fn in_change(desired: &Desired, member: &Seen) -> bool {
    let Some(vm) = member.vm.as_ref().filter(|_| member.changing()) else { return false };
    match need(desired, vm) {
        Need::Successor(_) => false,
        // Where it could not come up again it is not taken down any more; who is on his way
        // down is changed.
        Need::Cycle(_) => {
            let untouched = vm.on() && member.stopping_since.is_none() && member.flight.is_none();
            !(untouched && no_start(vm))
        }
        Need::Nothing | Need::Resize => !vm.on(),
    }
}

/// Whether a member serves: it is on, ready, and about to stay so.
pub fn available(desired: &Desired, member: &Seen) -> bool {
    member.waits.ready && runs(desired, member)
}

/// Whether a member is on, and about to stay so.
pub fn runs(desired: &Desired, member: &Seen) -> bool {
    member.vm.as_ref().is_some_and(VmSeen::on) && !member.leaving() && !in_change(desired, member)
}

/// Whether a member is as the spec says.
pub fn updated(desired: &Desired, vm: &VmSeen) -> bool {
    need(desired, vm) == Need::Nothing
}

/// Whether who is made now is made in the place of a member that leaves a host which is
/// going into maintenance.
pub fn evacuating(desired: &Desired, seen: &Observed) -> bool {
    let others = |member: &Seen| !matches!(due(desired, member), Need::Nothing | Need::Successor(Why::Evacuation));
    let stranded = |member: &Seen| member.vm.as_ref().is_some_and(|vm| vm.stranded.is_some());
    // The last of them may be gone already.
    let under_way = seen.progressed_at.is_some() || seen.members.iter().any(stranded);
    desired.evacuate && seen.hosts_leave && under_way && !seen.members.iter().any(others)
}

/// Members of whom the policy may choose some to be taken down for a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// How many.
    pub count: usize,
    /// Who can be chosen.
    pub from: Vec<String>,
    /// Some of them are to have a successor.
    pub successors: bool,
    /// They are to leave a host that is going into maintenance.
    pub evacuation: bool,
}

/// How many machines there may be besides those that are wished, because some of
/// those that stand are waiting for their turn.
pub fn surge(desired: &Desired, staying: &[&Seen]) -> usize {
    let (max_unavailable, max_surge) = desired.strategy.bounds(desired.replicas);
    let waits = |member: &&&Seen| match due(desired, member) {
        Need::Successor(_) => true,
        // Where nobody may be missed, somebody has to stand in.
        Need::Cycle(_) => max_unavailable == 0,
        Need::Nothing | Need::Resize => false,
    };
    staying.iter().filter(waits).count().min(max_surge)
}

/// Whose turn it is.
///
/// The rules are those of a Deployment: at least `replicas - maxUnavailable` members
/// serve, new ones that do not (yet) are counted as missing, and who does not serve
/// anyway goes before who does.
pub fn turn(desired: &Desired, seen: &Observed, staying: &[&Seen], now: Timestamp) -> Option<Turn> {
    let candidates: Vec<&Seen> = staying
        .iter()
        .copied()
        // Who is off is changed before he is powered on, and has no turn to wait for.
        .filter(|member| match due(desired, member) {
            Need::Successor(_) => true,
            Need::Cycle(_) => member.vm.as_ref().is_some_and(VmSeen::on) && !in_change(desired, member),
            Need::Nothing | Need::Resize => false,
        })
        .collect();
    if candidates.is_empty() {
        return None;
    }
    let (max_unavailable, _) = desired.strategy.bounds(desired.replicas);
    let least = desired.replicas.saturating_sub(max_unavailable);
    let serves = |member: &Seen| available(desired, member);
    let waiting = |member: &Seen| candidates.iter().any(|candidate| candidate.uuid == member.uuid);
    let late = staying.iter().filter(|member| !serves(member) && !waiting(member)).count();
    let room = staying.len().saturating_sub(least + late);
    if late > 0 && stuck(desired, seen, now) {
        return None;
    }
    let free = |member: &&&Seen| member.flight.is_none();
    let (serving, idle): (Vec<&Seen>, Vec<&Seen>) = candidates.iter().copied().partition(|member| serves(member));
    let serving_now = staying.iter().filter(|member| serves(member)).count();
    let (from, count) =
        if idle.is_empty() { (serving, room.min(serving_now.saturating_sub(least))) } else { (idle, room) };
    let from: Vec<&Seen> = from.iter().filter(free).copied().collect();
    // A host that is to be emptied does not wait for a change that can.
    let leaving: Vec<&Seen> = from.iter().copied().filter(|member| evacuates(desired, member)).collect();
    let evacuation = !leaving.is_empty();
    let from = if evacuation { leaving } else { from };
    let count = count.min(from.len());
    let successors = from.iter().any(|member| matches!(due(desired, member), Need::Successor(_)));
    let from = from.into_iter().map(|member| member.uuid.clone()).collect();
    (count > 0).then_some(Turn { count, from, successors, evacuation })
}

/// Whether a rollout has come no further for longer than it may.
pub fn stuck(desired: &Desired, seen: &Observed, now: Timestamp) -> bool {
    let deadline = seen.progressed_at.and_then(|at| at.checked_add(desired.progress_deadline).ok());
    deadline.is_some_and(|deadline| deadline <= now)
}

/// How far the change that the spec asks for has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Members that exist, stay, and are as the spec says.
    pub updated: usize,
    /// Those of them that serve.
    pub ready: usize,
    /// Members that wait for their turn, or have it.
    pub pending: usize,
    /// Names of members that are or were changed for it, and do not serve.
    pub late: Vec<String>,
    /// Names of members that are not as the spec says and are left so.
    pub left: Vec<String>,
    /// Somebody was taken down for it just now.
    pub moved: bool,
    /// It has come no further for longer than it may.
    pub stuck: bool,
    /// It is all about members leaving hosts that are going into maintenance.
    pub evacuation: bool,
}

impl Progress {
    /// By what was seen.
    pub fn of(desired: &Desired, seen: &Observed, now: Timestamp) -> Self {
        let mut out = Self { evacuation: desired.evacuate && seen.hosts_leave, ..Self::default() };
        for member in seen.members.iter().filter(|member| !member.leaving()) {
            let serves = available(desired, member);
            let is = member.vm.as_ref().map_or(Need::Nothing, |vm| need(desired, vm));
            let due = due(desired, member);
            let waits = in_change(desired, member) || due != Need::Nothing;
            out.pending += usize::from(waits);
            out.evacuation &= !waits || due == Need::Successor(Why::Evacuation);
            if is != Need::Nothing && !waits {
                out.left.push(member.name.clone());
            }
            if is == Need::Nothing && member.vm.is_some() {
                out.updated += 1;
                out.ready += usize::from(serves);
            }
            let done = is == Need::Nothing && due == Need::Nothing;
            if !serves && (done || in_change(desired, member)) {
                out.late.push(member.name.clone());
            }
        }
        out.stuck = !out.late.is_empty() && stuck(desired, seen, now);
        out
    }

    /// What is to stand in the record of the rollout. `complete`: all is as wished.
    pub fn record(
        &self,
        old: Option<&RolloutStatus>,
        target: &str,
        complete: bool,
        now: &Time,
    ) -> Option<RolloutStatus> {
        if complete || (self.pending == 0 && old.is_none()) {
            return None;
        }
        let ready = i32::try_from(self.ready).unwrap_or(i32::MAX);
        let same = old.filter(|old| old.target == target);
        let further = same.is_none_or(|old| ready > old.updated) || self.moved;
        Some(RolloutStatus {
            target: target.to_owned(),
            updated: same.map_or(ready, |old| old.updated.max(ready)),
            progressed_at: same.filter(|_| !further).map_or_else(|| now.clone(), |old| old.progressed_at.clone()),
        })
    }
}

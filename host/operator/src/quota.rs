//! What a namespace may have, over all its groups and all vCenters: a ledger of what
//! each group has or is about to have, asked before anybody new is named.
//!
//! Asking is granting: what one pass has been granted counts when the next one asks.
//! Must not know what a machine is, nor where it goes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmgroup_api::connections_file::QuotaEntry;
use vmgroup_api::{MemberState, VmGroup};

use crate::wake::{GroupRef, Wake};

/// How many groups that are gone are remembered.
const REMEMBERED: usize = 4096;

/// So much of everything that is bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Virtual machines.
    pub vms: u64,
    /// Virtual CPUs.
    pub cpus: u64,
    /// Memory in GB.
    pub memory_gb: u64,
}

impl Amount {
    /// So many machines of this size.
    pub fn of(machines: usize, cpus: u32, memory_gb: u64) -> Self {
        let vms = machines as u64;
        Self { vms, cpus: vms * u64::from(cpus), memory_gb: vms * memory_gb }
    }

    fn plus(self, other: Self) -> Self {
        Self { vms: self.vms + other.vms, cpus: self.cpus + other.cpus, memory_gb: self.memory_gb + other.memory_gb }
    }

    fn times(self, count: u64) -> Self {
        Self { vms: self.vms * count, cpus: self.cpus * count, memory_gb: self.memory_gb * count }
    }

    /// What a group has by its object: machines that exist, and those that are about to.
    pub fn had_by(group: &VmGroup) -> Self {
        let status = group.status.as_ref();
        let unborn = |state| matches!(state, MemberState::Planned | MemberState::Cloning);
        let coming = status.map_or(0, |status| status.members.iter().filter(|member| unborn(member.state)).count());
        let existing = status.and_then(|status| status.current_replicas).unwrap_or_default();
        let machines = coming + usize::try_from(existing).unwrap_or_default();
        Self::of(machines, group.spec.cpu.unsigned_abs(), u64::from(group.spec.memory.unsigned_abs()))
    }
}

/// What may be asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// What the group has already, or has written down.
    pub has: Amount,
    /// What one more takes.
    pub each: Amount,
    /// How many more.
    pub more: usize,
}

/// Not all that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// How many may be made all the same.
    pub granted: usize,
    /// What the other groups of the namespace have.
    pub others: Amount,
}

/// The ledger. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Ledger {
    state: Arc<Mutex<State>>,
    wake: Wake,
}

#[derive(Default)]
struct State {
    namespaces: HashMap<String, Namespace>,
    /// The last groups that were forgotten, so that a list that was read a moment before
    /// does not bring one of them back.
    gone: VecDeque<String>,
}

#[derive(Default)]
struct Namespace {
    /// All its groups have been looked at.
    read: bool,
    groups: HashMap<String, Holding>,
    /// Groups that were not granted all that they asked for, and of whom grants were out
    /// at that time.
    waiting: BTreeMap<GroupRef, BTreeSet<String>>,
}

/// What a group has, and what it was granted and has not made yet.
#[derive(Clone, Copy, Default)]
struct Holding {
    has: Amount,
    granted: Amount,
}

impl Holding {
    fn all(self) -> Amount {
        self.has.plus(self.granted)
    }
}

fn is_less(now: Amount, before: Amount) -> bool {
    before.vms > now.vms || before.cpus > now.cpus || before.memory_gb > now.memory_gb
}

impl Ledger {
    /// An empty one. Who waits is woken when there is room.
    pub fn new(wake: Wake) -> Self {
        Self { state: Arc::default(), wake }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all groups of a namespace are in it. Before that nothing may be granted.
    pub fn has_read(&self, namespace: &str) -> bool {
        self.state().namespaces.get(namespace).is_some_and(|namespace| namespace.read)
    }

    /// All groups of a namespace, freshly read. What is known already of a group is newer.
    pub fn read(&self, namespace: &str, groups: impl IntoIterator<Item = (String, Amount)>) {
        let State { namespaces, gone } = &mut *self.state();
        let entry = namespaces.entry(namespace.to_owned()).or_default();
        for (uid, amount) in groups.into_iter().filter(|(uid, _)| !gone.contains(uid)) {
            entry.groups.entry(uid).or_insert(Holding { has: amount, granted: Amount::default() });
        }
        entry.read = true;
    }

    /// Asks for more machines for a group; what is granted counts from now on.
    pub fn ask(&self, group: &GroupRef, uid: &str, quota: &QuotaEntry, wish: Wish) -> Result<(), Short> {
        let Wish { has, each, more } = wish;
        let mut state = self.state();
        let entry = state.namespaces.entry(group.namespace.clone()).or_default();
        let others = entry.groups.iter().filter(|(other, _)| *other != uid);
        let others = others.fold(Amount::default(), |sum, (_, holding)| sum.plus(holding.all()));
        let used = others.plus(has);
        let room = |ceiling: Option<u64>, used: u64, each: u64| {
            ceiling.map_or(u64::MAX, |ceiling| ceiling.saturating_sub(used).checked_div(each).unwrap_or(u64::MAX))
        };
        let granted = room(quota.vms, used.vms, each.vms)
            .min(room(quota.cpus, used.cpus, each.cpus))
            .min(room(quota.memory_gb, used.memory_gb, each.memory_gb))
            .min(more as u64);
        let before = entry.groups.insert(uid.to_owned(), Holding { has, granted: each.times(granted) });
        if is_less(has, before.unwrap_or_default().has) {
            self.wake(entry, |waits, _| waits != group);
        }
        let granted = usize::try_from(granted).unwrap_or(more);
        if granted == more {
            entry.waiting.remove(group);
            return Ok(());
        }
        let out = |(other, holding): (&String, &Holding)| {
            (other != uid && is_less(Amount::default(), holding.granted)).then(|| other.clone())
        };
        entry.waiting.insert(group.clone(), entry.groups.iter().filter_map(out).collect());
        Err(Short { granted, others })
    }

    /// Notes what a group has. Who waits in its namespace is woken if that is less than
    /// before; for what it was granted and did not make, only who was refused meanwhile:
    /// groups that cannot use what they get would wake each other without end.
    pub fn note(&self, group: &GroupRef, uid: &str, has: Amount) {
        let mut state = self.state();
        let entry = state.namespaces.entry(group.namespace.clone()).or_default();
        let before = entry.groups.insert(uid.to_owned(), Holding { has, granted: Amount::default() });
        let before = before.unwrap_or_default();
        if is_less(has, before.has) {
            self.wake(entry, |waits, _| waits != group);
        } else if is_less(has, before.all()) {
            self.wake(entry, |waits, refused_for| waits != group && refused_for.contains(uid));
        }
    }

    /// The uids of all groups in it.
    pub fn groups(&self) -> Vec<String> {
        self.state().namespaces.values().flat_map(|namespace| namespace.groups.keys().cloned()).collect()
    }

    /// Forgets a group that is gone.
    pub fn forget(&self, uid: &str) {
        let State { namespaces, gone } = &mut *self.state();
        if !gone.iter().any(|other| other == uid) {
            gone.truncate(REMEMBERED - 1);
            gone.push_front(uid.to_owned());
        }
        for entry in namespaces.values_mut() {
            if entry.groups.remove(uid).is_some() {
                self.wake(entry, |_, _| true);
            }
        }
    }

    /// Forgets everything: what has been done since by somebody else is not known.
    pub fn clear(&self) {
        *self.state() = State::default();
    }

    fn wake(&self, entry: &mut Namespace, whom: impl Fn(&GroupRef, &BTreeSet<String>) -> bool) {
        entry.waiting.retain(|group, refused_for| {
            let wakes = whom(group, refused_for);
            if wakes {
                self.wake.wake(group);
            }
            !wakes
        });
    }
}

/// A quota in words, with what is used of it.
pub fn told(namespace: &str, quota: &QuotaEntry, wish: &Wish, short: &Short) -> String {
    let used = short.others.plus(wish.has);
    let one = |what: &str, ceiling: Option<u64>, used: u64, each: u64| {
        ceiling.map(|ceiling| format!("{used} of {ceiling} {what} (one more takes {each})"))
    };
    let parts: Vec<String> = [
        one("VMs", quota.vms, used.vms, wish.each.vms),
        one("CPUs", quota.cpus, used.cpus, wish.each.cpus),
        one("GB of memory", quota.memory_gb, used.memory_gb, wish.each.memory_gb),
    ]
    .into_iter()
    .flatten()
    .collect();
    format!(
        "the groups of the namespace {namespace} have {}: {} of {} more can be made now; the rest follows when there is room, or the quota in connections.yaml is raised",
        parts.join(", "),
        short.granted,
        wish.more
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn group(name: &str) -> GroupRef {
        GroupRef { namespace: "shop".into(), name: name.into() }
    }

    fn quota(vms: Option<u64>, cpus: Option<u64>, memory_gb: Option<u64>) -> QuotaEntry {
        QuotaEntry { namespaces: vec!["shop".into()], match_labels: BTreeMap::new(), vms, cpus, memory_gb }
    }

    fn wish(has: usize, more: usize) -> Wish {
        Wish { has: Amount::of(has, 2, 4), each: Amount::of(1, 2, 4), more }
    }

    #[tokio::test]
    async fn what_one_was_granted_another_does_not_get() {
        let ledger = Ledger::new(Wake::default());
        let five = quota(Some(5), None, None);
        assert_eq!(ledger.ask(&group("a"), "a", &five, wish(0, 3)), Ok(()));
        let short = ledger.ask(&group("b"), "b", &five, wish(0, 3)).unwrap_err();
        assert_eq!((short.granted, short.others.vms), (2, 3));
        // Asked again, it is the same: nothing is counted twice.
        assert_eq!(ledger.ask(&group("a"), "a", &five, wish(3, 0)), Ok(()));
        assert_eq!(ledger.ask(&group("b"), "b", &five, wish(2, 1)).unwrap_err().granted, 0);
    }

    #[tokio::test]
    async fn the_tightest_ceiling_counts_and_a_lowered_one_takes_nothing() {
        let ledger = Ledger::new(Wake::default());
        let granted = |quota, has, more| match ledger.ask(&group("a"), "a", &quota, wish(has, more)) {
            Ok(()) => more,
            Err(short) => short.granted,
        };
        assert_eq!(granted(quota(Some(10), Some(7), Some(100)), 0, 9), 3);
        assert_eq!(granted(quota(Some(10), Some(100), Some(9)), 0, 9), 2);
        assert_eq!(granted(quota(Some(1), None, None), 4, 2), 0);
    }

    #[tokio::test]
    async fn who_waits_is_woken_when_there_is_room() {
        use futures::StreamExt as _;
        let wake = Wake::default();
        let (ledger, two) = (Ledger::new(wake.clone()), quota(Some(2), None, None));
        let mut woken = std::pin::pin!(wake.stream());
        ledger.ask(&group("a"), "a", &two, wish(0, 2)).unwrap();
        ledger.ask(&group("b"), "b", &two, wish(0, 1)).unwrap_err();
        ledger.note(&group("a"), "a", Amount::of(1, 2, 4));
        assert_eq!(woken.next().await, Some(group("b")));
        ledger.ask(&group("b"), "b", &two, wish(0, 1)).unwrap();
        ledger.ask(&group("c"), "c", &two, wish(0, 1)).unwrap_err();
        ledger.forget("a");
        assert_eq!(woken.next().await, Some(group("c")));
    }

    #[tokio::test]
    async fn a_list_from_a_moment_ago_brings_nobody_back() {
        let (ledger, three) = (Ledger::new(Wake::default()), quota(Some(3), None, None));
        let read = || [("a".to_owned(), Amount::of(2, 2, 4)), ("c".to_owned(), Amount::of(1, 2, 4))];
        ledger.forget("a");
        ledger.read("shop", read());
        assert_eq!(ledger.ask(&group("b"), "b", &three, wish(0, 2)), Ok(()), "c has 1");
        // Another leader's list is another matter.
        ledger.clear();
        ledger.read("shop", read());
        assert_eq!(ledger.ask(&group("b"), "b", &three, wish(0, 2)).unwrap_err().granted, 0);
        let mut all = ledger.groups();
        all.sort();
        assert_eq!(all, ["a", "b", "c"]);
    }

    /// Seed 5421: each was granted some and could make nobody of it, gave it back, and
    /// woke the other, without end.
    #[tokio::test]
    async fn groups_that_cannot_use_what_they_get_do_not_wake_each_other() {
        use futures::{FutureExt as _, StreamExt as _};
        let wake = Wake::default();
        let (ledger, three) = (Ledger::new(wake.clone()), quota(Some(3), None, None));
        let mut woken = std::pin::pin!(wake.stream());
        for name in ["a", "b", "a", "b"] {
            ledger.ask(&group(name), name, &three, wish(0, 5)).unwrap_err();
            ledger.note(&group(name), name, Amount::default());
        }
        assert_eq!(woken.next().now_or_never(), None);
    }
}

//! Room in the target, as far as it is sure beforehand that somebody does not fit: looked
//! at before members are named, so that of many only those are begun who can be.
//!
//! Memory and CPU may be overcommitted, and so may disks that grow: whether a machine is
//! admitted is vCenter's to say when it is powered on. What counts here is that a full
//! clone takes its template's space at once, on one datastore, and that there is a host.
//!
//! Must not know where a policy puts anybody, nor when it is asked again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use vmgroup_vsphere::{Capacity, DatastoreCapacity, DatastoreRef, Occupied};

use crate::tasks::{TaskBook, TaskKind};
use crate::wake::{GroupRef, Wake};

/// As many datastores are named at most.
const NAMED: usize = 5;

/// What one more member takes.
#[derive(Clone, Copy, Debug)]
pub struct Each {
    /// Disk space at once, in MiB, where it is known.
    pub disk_mib: Option<u64>,
    /// Memory in MiB.
    pub memory_mib: u64,
}

/// Space that a clone under way takes, in MiB, and where, if that is known.
pub type Promise = (Option<DatastoreRef>, u64);

/// How many fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// So many at most.
    pub count: usize,
    /// There is a host for them.
    pub hosts: bool,
    /// What there is, in figures.
    pub figures: String,
    /// What one takes of a datastore, in MiB; 0: nothing that would be known.
    each_mib: u64,
    /// What is left over on each datastore that can be used, if as many are put there as
    /// fit, in MiB.
    over: BTreeMap<DatastoreRef, u64>,
}

/// What room a member makes by leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Makes {
    /// None that would be sure to be enough for a successor.
    Nothing,
    /// Enough with what is left over there.
    Part,
    /// Enough for a successor, whatever others do.
    All,
}

impl Fit {
    fn unbounded() -> Self {
        Self { count: usize::MAX, hosts: true, figures: String::new(), each_mib: 0, over: BTreeMap::new() }
    }

    /// What room a member makes that gives this back.
    pub fn made_by(&self, gives: &[Occupied]) -> Makes {
        let made = |Occupied { datastore, mib }: &Occupied| match self.over.get(datastore) {
            Some(_) if *mib >= self.each_mib => Makes::All,
            Some(over) if over + mib >= self.each_mib => Makes::Part,
            // Nothing is known where nobody can be, or nobody of this group.
            Some(_) | None => Makes::Nothing,
        };
        gives.iter().map(made).max().unwrap_or(Makes::Nothing)
    }
}

/// How many members may be chosen to leave, and what room each of them is to make at
/// least, so that all successors fit, whoever is chosen. `all` are those who can be,
/// `wanted` how many are to be. There is room for `spare` without them, and `owed` are
/// successors of others who leave and do not make all of their room.
pub fn may_leave(wanted: usize, all: &[Makes], spare: usize, owed: usize) -> (usize, Makes) {
    let spare = spare.saturating_sub(owed);
    let with = |least: Makes| all.iter().filter(|makes| **makes >= least).count().min(wanted);
    let choices = [
        (with(Makes::All), Makes::All),
        // What is left over is there once, and the first successor may take it.
        (with(Makes::Part).min(if owed == 0 { spare.saturating_add(1) } else { 0 }), Makes::Part),
        (with(Makes::Nothing).min(spare), Makes::Nothing),
    ];
    // Among equals the last, which leaves the most choice.
    choices.into_iter().max_by_key(|(count, _)| *count).unwrap_or((0, Makes::All))
}

/// How many members are not sure not to fit.
pub fn fit(capacity: &Capacity, promised: &[Promise], each: Each) -> Fit {
    let usable = || capacity.hosts.iter().filter(|host| host.usable());
    let none = |figures| Fit { count: 0, hosts: false, figures, ..Fit::unbounded() };
    if !capacity.hosts.is_empty() && usable().next().is_none() {
        return none(format!("none of {} hosts is in service", capacity.hosts.len()));
    }
    let largest = usable().map(|host| host.memory_mib).max().unwrap_or(u64::MAX);
    if largest < each.memory_mib {
        return none(format!(
            "a member has {} MiB of memory, and the largest host in service {largest}",
            each.memory_mib
        ));
    }
    let disk = match each.disk_mib {
        Some(disk) if disk > 0 && !capacity.datastores.is_empty() => disk,
        _ => return Fit::unbounded(),
    };
    let promised_to = |store: Option<&DatastoreRef>| -> u64 {
        promised.iter().filter(|(to, _)| to.as_ref() == store).map(|(_, mib)| *mib).sum()
    };
    let usable = || capacity.datastores.iter().filter(|store| store.usable);
    let free = |store: &DatastoreCapacity| store.free_mib.saturating_sub(promised_to(Some(&store.id)));
    let rooms: u64 = usable().map(|store| free(store) / disk).sum();
    // They are somewhere, and take as much as they would take of any.
    let anywhere = promised_to(None) / disk;
    let shown: Vec<String> =
        usable().take(NAMED).map(|store| format!("{} {} of {}", store.name, free(store), store.capacity_mib)).collect();
    let more = match usable().count().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown = if shown.is_empty() { "no datastore that can be used".to_owned() } else { shown.join(", ") };
    let over = usable().map(|store| (store.id.clone(), free(store) % disk)).filter(|_| rooms >= anywhere);
    Fit {
        count: usize::try_from(rooms.saturating_sub(anywhere)).unwrap_or(usize::MAX),
        hosts: true,
        each_mib: disk,
        over: over.collect(),
        figures: format!(
            "a member takes {disk} MiB of disk space at once, and free, without what clones under way take, are (MiB): {shown}{more}"
        ),
    }
}

/// What is promised of a vCenter's room, and who waits for some. Cheap to clone; all
/// clones are the same.
#[derive(Clone, Default)]
pub struct Room(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Rises when something has gone that took room.
    epoch: u64,
    /// When it has risen last.
    freed: Option<Instant>,
    waiting: BTreeSet<GroupRef>,
    /// By member.
    clones: BTreeMap<String, Clone>,
}

struct Clone {
    group: String,
    promise: Promise,
    /// The call that begins it is out, or about to go.
    called: bool,
    /// When it was found to have ended.
    ended: Option<Instant>,
}

/// Calls that begin clones and are out, or about to go.
#[must_use = "when it is dropped the calls have been answered, or given up"]
pub struct Calls {
    room: Room,
    members: Vec<String>,
}

impl Drop for Calls {
    fn drop(&mut self) {
        let mut state = self.room.state();
        for member in &self.members {
            if let Some(clone) = state.clones.get_mut(member) {
                clone.called = false;
            }
        }
    }
}

impl Room {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Members of a group (by uid) are about to be cloned, or are being cloned. Each counts
    /// as long as its call is out, and then until its task has ended.
    pub fn promise(&self, group: &str, clones: Vec<(String, Promise)>) -> Calls {
        let members = clones.iter().map(|(member, _)| member.clone()).collect();
        self.state().clones.extend(
            clones.into_iter().map(|(member, promise)| {
                (member, Clone { group: group.to_owned(), promise, called: true, ended: None })
            }),
        );
        Calls { room: self.clone(), members }
    }

    /// What clones take that do not show in what was read of capacity since `read`.
    pub fn promised(&self, tasks: &TaskBook, read: Instant) -> Vec<Promise> {
        let mut state = self.state();
        let mut flights: HashMap<String, HashMap<String, TaskKind>> = HashMap::new();
        for (member, clone) in &mut state.clones {
            let flights = flights.entry(clone.group.clone()).or_insert_with(|| tasks.kinds_in_flight(&clone.group));
            if clone.called || flights.get(member) == Some(&TaskKind::Clone) {
                clone.ended = None;
            } else {
                clone.ended.get_or_insert_with(Instant::now);
            }
        }
        state.clones.retain(|_, clone| clone.ended.is_none_or(|ended| ended >= read));
        state.clones.values().map(|clone| clone.promise.clone()).collect()
    }

    /// A group waits for room: it is woken when there may be some. Gives the epoch in
    /// which there is none.
    pub fn wait(&self, group: &GroupRef) -> u64 {
        let mut state = self.state();
        state.waiting.insert(group.clone());
        state.epoch
    }

    /// It waits no more.
    pub fn leave(&self, group: &GroupRef) {
        self.state().waiting.remove(group);
    }

    /// The present epoch.
    pub fn epoch(&self) -> u64 {
        self.state().epoch
    }

    /// Whether something has gone since then.
    pub fn freed_since(&self, read: Instant) -> bool {
        self.state().freed.is_some_and(|freed| freed >= read)
    }

    /// Something has gone that took room, or has come that has some. True if somebody
    /// waited for it.
    pub fn freed(&self, wake: &Wake) -> bool {
        let waiting = {
            let mut state = self.state();
            state.epoch += 1;
            state.freed = Some(Instant::now());
            std::mem::take(&mut state.waiting)
        };
        for group in &waiting {
            wake.wake(group);
        }
        !waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use vmgroup_vsphere::{HostCapacity, HostRef, HostState};

    use super::*;

    fn host(state: HostState) -> HostCapacity {
        HostCapacity {
            id: HostRef::new("host-1"),
            name: "esx-1".into(),
            cluster: 0,
            state,
            cpu_mhz: 1,
            cpu_used_mhz: None,
            memory_mib: 8192,
            memory_used_mib: Some(8000),
            vms: 1,
            attributes: BTreeMap::new(),
        }
    }

    fn store(name: &str, free_mib: u64, usable: bool) -> DatastoreCapacity {
        DatastoreCapacity {
            id: DatastoreRef::new(name),
            name: name.into(),
            usable,
            capacity_mib: 10_000,
            free_mib,
            uncommitted_mib: Some(1_000_000),
            kind: None,
            hosts: vec![0],
            attributes: BTreeMap::new(),
        }
    }

    fn capacity(datastores: Vec<DatastoreCapacity>) -> Capacity {
        Capacity { clusters: Vec::new(), hosts: vec![host(HostState::InService)], datastores }
    }

    const EACH: Each = Each { disk_mib: Some(1000), memory_mib: 4096 };

    #[test]
    fn a_disk_is_in_one_place_and_what_is_promised_is_taken() {
        let two = capacity(vec![store("a", 1900, true), store("b", 2100, true), store("c", 9000, false)]);
        assert_eq!(fit(&two, &[], EACH).count, 3, "1 and 2, and not 4 or 13");
        assert_eq!(fit(&two, &[(Some("b".into()), 1000)], EACH).count, 2);
        assert_eq!(fit(&two, &[(Some("b".into()), 1000), (None, 1000)], EACH).count, 1);
        assert_eq!(fit(&two, &[(None, 90_000)], EACH).count, 0);
        let figures = fit(&two, &[], EACH).figures;
        assert!(
            figures.contains("1000 MiB") && figures.contains("a 1900 of 10000") && !figures.contains("c "),
            "{figures}"
        );
    }

    #[test]
    fn what_is_not_known_or_takes_nothing_fits() {
        let full = capacity(vec![store("a", 0, true)]);
        for disk_mib in [None, Some(0)] {
            assert_eq!(fit(&full, &[], Each { disk_mib, ..EACH }).count, usize::MAX);
        }
        assert_eq!(fit(&capacity(Vec::new()), &[], EACH).count, usize::MAX, "nobody said what there is");
        assert_eq!(fit(&full, &[], EACH).count, 0);
    }

    #[test]
    fn without_a_host_nobody_fits_and_memory_may_be_overcommitted() {
        let mut room = capacity(vec![store("a", 9000, true)]);
        assert_eq!(fit(&room, &[], EACH).count, 9, "the memory is in use, and that does not count");
        assert!(!fit(&room, &[], Each { memory_mib: 8193, ..EACH }).hosts);
        room.hosts = vec![host(HostState::EnteringMaintenance), host(HostState::Unreachable)];
        let fit = fit(&room, &[], EACH);
        assert!(fit.count == 0 && !fit.hosts && fit.figures.contains("none of 2 hosts"), "{fit:?}");
    }

    /// Who goes makes room where he was, and only there: for a successor who takes no more
    /// than he gives back, or with what is left over, which is there once.
    #[test]
    fn nobody_leaves_whose_successor_does_not_fit() {
        let full = capacity(vec![store("a", 300, true), store("b", 999, false)]);
        let fit = fit(&full, &[], EACH);
        let gives = |name: &str, mib| fit.made_by(&[Occupied { datastore: name.into(), mib }]);
        assert_eq!(fit.count, 0);
        assert_eq!([1000, 700, 699].map(|mib| gives("a", mib)), [Makes::All, Makes::Part, Makes::Nothing]);
        assert_eq!((gives("b", 5000), gives("elsewhere", 5000)), (Makes::Nothing, Makes::Nothing));
        assert_eq!(fit.made_by(&[]), Makes::Nothing, "it is not known");
        // Of three who are wished.
        let (all, part, none) = ([Makes::All; 3], [Makes::Part; 3], [Makes::Nothing; 3]);
        assert_eq!(may_leave(3, &all, 0, 0), (3, Makes::All));
        assert_eq!(may_leave(3, &part, 0, 0), (1, Makes::Part));
        assert_eq!(may_leave(3, &none, 0, 0).0, 0);
        assert_eq!(may_leave(3, &none, 2, 0), (2, Makes::Nothing));
        assert_eq!(may_leave(3, &part, 1, 0), (2, Makes::Part));
        let mixed = [Makes::All, Makes::Part, Makes::Nothing];
        assert_eq!(may_leave(1, &mixed, 0, 0), (1, Makes::Part), "as many can be chosen from as may be");
        assert_eq!(may_leave(1, &mixed, 1, 0), (1, Makes::Nothing));
        // Those who are leaving come first.
        assert_eq!(may_leave(3, &part, 0, 1).0, 0);
        assert_eq!(may_leave(3, &none, 2, 1), (1, Makes::Nothing));
        assert_eq!(may_leave(3, &all, 0, 1), (3, Makes::All));
        // Clones under way that are anywhere may be where there is something left over.
        assert_eq!(
            super::fit(&full, &[(None, 1000)], EACH).made_by(&[Occupied { datastore: "a".into(), mib: 900 }]),
            Makes::Nothing
        );
    }

    /// Another group looks while the call is out and its task is not in the book yet: it
    /// counts all the same, and until its task has ended.
    #[tokio::test(start_paused = true)]
    async fn a_clone_counts_while_its_call_is_out_and_as_long_as_it_takes() {
        let second = std::time::Duration::from_secs(1);
        let (room, tasks) = (Room::default(), TaskBook::new(8, Wake::default()));
        let group = GroupRef { namespace: "shop".into(), name: "web".into() };
        let look = async || {
            tokio::time::advance(second).await;
            let count = room.promised(&tasks, Instant::now()).len();
            tokio::time::advance(second).await;
            count
        };
        let calls = room.promise("uid", vec![("m-1".to_owned(), (None, 7))]);
        assert_eq!((look().await, look().await), (1, 1), "it is called for");
        tasks.started("uid", &group, "m-1", TaskKind::Clone, "task-1".into());
        drop(calls);
        assert_eq!((look().await, look().await), (1, 1), "it is made");
        // One that another process has begun is found as it runs.
        drop(room.promise("uid", vec![("m-2".to_owned(), (None, 9))]));
        let before = Instant::now();
        tokio::time::advance(second).await;
        assert_eq!(room.promised(&tasks, before).len(), 2);
        tasks.started("uid", &group, "m-2", TaskKind::Clone, "task-2".into());
        assert_eq!((look().await, look().await), (2, 2), "it has not ended after all");
        tasks.gone(&"task-1".into());
        tasks.gone(&"task-2".into());
        assert_eq!((look().await, look().await), (2, 0), "it shows only in what is read from now on");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clone_counts_until_it_shows_and_who_waits_is_woken() {
        use futures::StreamExt as _;
        let (room, wake) = (Room::default(), Wake::default());
        let tasks = TaskBook::new(8, Wake::default());
        let group = GroupRef { namespace: "shop".into(), name: "web".into() };
        let slot = tasks.request("uid", &group, 1);
        assert_eq!(slot, 1);
        tasks.started("uid", &group, "m-1", TaskKind::Clone, "task-1".into());
        let read = Instant::now();
        drop(room.promise("uid", vec![("m-1".to_owned(), (None, 7)), ("m-2".to_owned(), (None, 9))]));
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert_eq!(room.promised(&tasks, read).len(), 2, "the second one never began, and may have");
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert_eq!(room.promised(&tasks, Instant::now()), [(None, 7)]);
        assert!(!room.freed(&wake), "nobody waits");
        let (epoch, read) = (room.wait(&group), Instant::now() + std::time::Duration::from_secs(1));
        assert!(!room.freed_since(read));
        let mut woken = std::pin::pin!(wake.stream());
        assert!(room.freed(&wake));
        assert_eq!(woken.next().await, Some(group));
        assert!(room.epoch() > epoch && room.freed_since(Instant::now()) && !room.freed_since(read));
    }
}

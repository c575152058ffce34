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
use vmgroup_vsphere::{Capacity, DatastoreCapacity, DatastoreRef};

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
}

/// How many members are not sure not to fit.
pub fn fit(capacity: &Capacity, promised: &[Promise], each: Each) -> Fit {
    let usable = || capacity.hosts.iter().filter(|host| host.usable());
    let none = |figures| Fit { count: 0, hosts: false, figures };
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
        _ => return Fit { count: usize::MAX, hosts: true, figures: String::new() },
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
    Fit {
        count: usize::try_from(rooms.saturating_sub(anywhere)).unwrap_or(usize::MAX),
        hosts: true,
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
    /// When it was found to have ended.
    ended: Option<Instant>,
}

impl Room {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member of a group (by uid) is about to be cloned.
    pub fn promise(&self, group: &str, member: &str, promise: Promise) {
        let clone = Clone { group: group.to_owned(), promise, ended: None };
        self.state().clones.insert(member.to_owned(), clone);
    }

    /// What clones take that do not show in what was read of capacity since `read`.
    pub fn promised(&self, tasks: &TaskBook, read: Instant) -> Vec<Promise> {
        let mut state = self.state();
        let mut flights: HashMap<String, HashMap<String, TaskKind>> = HashMap::new();
        for (member, clone) in &mut state.clones {
            let flights = flights.entry(clone.group.clone()).or_insert_with(|| tasks.kinds_in_flight(&clone.group));
            if flights.get(member) != Some(&TaskKind::Clone) {
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
        room.promise("uid", "m-1", (None, 7));
        room.promise("uid", "m-2", (None, 9));
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

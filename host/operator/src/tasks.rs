//! The book of vCenter tasks in flight: who started them, how many may run, and
//! whose turn it is.
//!
//! One limit for the whole vCenter, shared fairly: a free slot goes to the
//! waiting group with the fewest tasks of its own, the longest waiting first
//! among equals. Nobody waits inside a pass: a group that gets fewer slots than
//! it wants does what it can, and is woken when it is its turn. A task that has
//! a sequel leaves its slot to that one, so that a member is finished before others
//! are begun, and what began together goes on together.
//!
//! Must not call vCenter and must not know what a task is good for.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use vmgroup_vsphere::{Fault, ManagedObjectRef, TaskInfo, TaskRef, TaskState};

use crate::wake::{GroupRef, Wake};

/// A slot that was reserved for a woken group and not used for this long goes
/// to the next one.
const RESERVATION: Duration = Duration::from_secs(15);

/// How many ended tasks are remembered.
const REMEMBERED: usize = 4096;

/// What a task does to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub enum TaskKind {
    /// Makes it.
    Clone,
    /// Changes its size, or brings its marks up to date.
    Reconfigure,
    /// Powers it on.
    PowerOn,
    /// Powers it off.
    PowerOff,
    /// Destroys it.
    Destroy,
}

impl TaskKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Clone, Self::Reconfigure, Self::PowerOn, Self::PowerOff, Self::Destroy];

    /// As in metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clone => "clone",
            Self::Reconfigure => "reconfigure",
            Self::PowerOn => "power-on",
            Self::PowerOff => "power-off",
            Self::Destroy => "destroy",
        }
    }

    /// Whether another task follows on the same member: the one that powers on or
    /// destroys it. Not after what was changed while it runs.
    fn has_sequel(self) -> bool {
        matches!(self, Self::Clone | Self::Reconfigure | Self::PowerOff)
    }
}

/// How a task ended.
#[derive(Clone, Debug)]
pub enum Ending {
    /// It did what it should.
    Success,
    /// It failed.
    Failed(Fault),
    /// vCenter does not know it any more; what it did is to be seen in the inventory.
    Gone,
}

/// A task that ended and that its group has not heard of yet.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The member it was about, by instance UUID.
    pub member: String,
    /// What it did.
    pub kind: TaskKind,
    /// How it ended.
    pub ending: Ending,
    /// What it worked on, if vCenter has said so.
    pub entity: Option<ManagedObjectRef>,
    /// How long it was in flight.
    pub took: Duration,
}

struct Flight {
    uid: String,
    member: String,
    kind: TaskKind,
    since: Instant,
}

struct Group {
    name: GroupRef,
    running: usize,
    /// Slots of calls that are out.
    starting: usize,
    reserved: usize,
    reserved_at: Option<Instant>,
    ended: Vec<Ended>,
    /// Nobody asks any more how its tasks have ended.
    gone: bool,
}

impl Group {
    fn load(&self) -> usize {
        self.running + self.starting + self.reserved
    }
}

struct Inner {
    limit: usize,
    /// The last tasks that ended, so that a record that is a moment old does not
    /// bring one of them back.
    over: VecDeque<TaskRef>,
    flights: HashMap<TaskRef, Flight>,
    groups: BTreeMap<String, Group>,
    waiting: VecDeque<String>,
}

/// The book. Cheap to clone; all clones are the same book.
#[derive(Clone)]
pub struct TaskBook {
    inner: Arc<Mutex<Inner>>,
    wake: Wake,
}

impl TaskBook {
    /// A book that lets `limit` tasks run at once (at least one).
    pub fn new(limit: usize, wake: Wake) -> Self {
        let inner = Inner {
            limit: limit.max(1),
            over: VecDeque::new(),
            flights: HashMap::new(),
            groups: BTreeMap::new(),
            waiting: VecDeque::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)), wake }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for `wanted` slots for a group; returns how many it has now. If it
    /// gets fewer it stands in line and is woken. Unused ones are given back
    /// with [`Self::settle`].
    pub fn request(&self, uid: &str, name: &GroupRef, wanted: usize) -> usize {
        let mut inner = self.inner();
        let now = Instant::now();
        inner.expire(now);
        inner.group(uid, name);
        let free = inner.free();
        let others_wait = inner.waiting.iter().any(|other| other != uid);
        let Some(group) = inner.groups.get_mut(uid) else { return 0 };
        // What is free while others stand in line is theirs.
        let grant = if others_wait { 0 } else { wanted.saturating_sub(group.reserved).min(free) };
        group.reserved += grant;
        group.reserved_at = Some(now);
        let have = group.reserved.min(wanted);
        inner.waiting.retain(|other| other != uid);
        if have < wanted {
            inner.waiting.push_back(uid.to_owned());
        }
        inner.hand_out(&self.wake, now, Some(uid));
        inner.groups.get(uid).map_or(0, |group| group.reserved.min(wanted))
    }

    /// Takes one of the group's slots for a call that starts a task, for as long as the
    /// call is out. None: the pass has taken so long to get there that its slots have
    /// gone to others.
    pub fn begin(&self, uid: &str) -> Option<Slot> {
        let mut inner = self.inner();
        inner.expire(Instant::now());
        let group = inner.groups.get_mut(uid)?;
        group.reserved = group.reserved.checked_sub(1)?;
        group.starting += 1;
        Some(Slot { book: self.clone(), uid: uid.to_owned(), worked: false })
    }

    /// Writes down a task that was started on a slot of the group, or that another
    /// process has started. False if its end has been seen already.
    pub fn started(&self, uid: &str, name: &GroupRef, member: &str, kind: TaskKind, task: TaskRef) -> bool {
        let mut inner = self.inner();
        if inner.over.contains(&task) {
            return false;
        }
        inner.group(uid, name);
        if inner.flights.contains_key(&task) {
            return true;
        }
        if let Some(group) = inner.groups.get_mut(uid) {
            group.running += 1;
        }
        inner
            .flights
            .insert(task, Flight { uid: uid.to_owned(), member: member.to_owned(), kind, since: Instant::now() });
        true
    }

    /// Gives back the slots that a pass did not use.
    pub fn settle(&self, uid: &str) {
        let mut inner = self.inner();
        if let Some(group) = inner.groups.get_mut(uid) {
            let unused = std::mem::take(&mut group.reserved) > 0;
            group.reserved_at = None;
            if unused {
                // It waits for something else, which will wake it. In line it would
                // only pass the slot to and fro with others like it, for ever.
                inner.waiting.retain(|other| other != uid);
            }
        }
        // A slot may have become free meanwhile, and it may be this group's turn: its pass
        // is over, so it has to be woken like any other.
        inner.hand_out(&self.wake, Instant::now(), None);
        inner.prune(uid);
    }

    /// Hears of a task's state from vCenter.
    pub fn update(&self, info: &TaskInfo) {
        tracing::trace!(task = %info.id, state = ?info.state, "task");
        let ending = match &info.state {
            TaskState::Queued | TaskState::Running => return,
            TaskState::Success { .. } => Ending::Success,
            TaskState::Error(fault) => Ending::Failed(fault.clone()),
        };
        self.end(&info.id, ending, info.entity.clone());
    }

    /// Hears that vCenter does not know a task any more.
    pub fn gone(&self, task: &TaskRef) {
        self.end(task, Ending::Gone, None);
    }

    fn end(&self, task: &TaskRef, ending: Ending, entity: Option<ManagedObjectRef>) {
        let mut inner = self.inner();
        let Some(flight) = inner.flights.remove(task) else { return };
        if inner.over.len() == REMEMBERED {
            inner.over.pop_front();
        }
        inner.over.push_back(task.clone());
        if let Some(group) = inner.groups.get_mut(&flight.uid) {
            group.running = group.running.saturating_sub(1);
        }
        // The limit may have been lowered meanwhile.
        let room = inner.free() > 0;
        if let Some(group) = inner.groups.get_mut(&flight.uid).filter(|group| !group.gone) {
            if room && flight.kind.has_sequel() && matches!(ending, Ending::Success) {
                group.reserved += 1;
                group.reserved_at = Some(Instant::now());
            }
            let took = flight.since.elapsed();
            group.ended.push(Ended { member: flight.member, kind: flight.kind, ending, entity, took });
            self.wake.wake(&group.name);
        }
        inner.hand_out(&self.wake, Instant::now(), None);
        inner.prune(&flight.uid);
    }

    /// The tasks of a group that ended since it last asked.
    pub fn take_ended(&self, uid: &str) -> Vec<Ended> {
        let mut inner = self.inner();
        inner.groups.get_mut(uid).map(|group| std::mem::take(&mut group.ended)).unwrap_or_default()
    }

    /// The tasks of a group in flight, by member.
    pub fn in_flight(&self, uid: &str) -> HashMap<String, (TaskKind, TaskRef)> {
        self.inner()
            .flights
            .iter()
            .filter(|(_, flight)| flight.uid == uid)
            .map(|(task, flight)| (flight.member.clone(), (flight.kind, task.clone())))
            .collect()
    }

    /// What is being done to the members of a group.
    pub fn kinds_in_flight(&self, uid: &str) -> HashMap<String, TaskKind> {
        self.in_flight(uid).into_iter().map(|(member, (kind, _))| (member, kind)).collect()
    }

    /// Whether any group has this task in its book.
    pub fn knows(&self, task: &TaskRef) -> bool {
        self.inner().flights.contains_key(task)
    }

    /// All tasks in flight, to be watched anew after a reconnect.
    pub fn all(&self) -> Vec<TaskRef> {
        self.inner().flights.keys().cloned().collect()
    }

    /// How many tasks of each kind are in flight.
    pub fn running(&self) -> [(TaskKind, usize); 5] {
        let inner = self.inner();
        TaskKind::ALL.map(|kind| (kind, inner.flights.values().filter(|flight| flight.kind == kind).count()))
    }

    /// How many groups wait for a slot.
    pub fn waiting(&self) -> usize {
        self.inner().waiting.len()
    }

    /// Lets so many tasks run at once from now on (at least one).
    pub fn set_limit(&self, limit: usize) {
        let mut inner = self.inner();
        inner.limit = limit.max(1);
        inner.hand_out(&self.wake, Instant::now(), None);
    }

    /// How many tasks may be in flight.
    pub fn limit(&self) -> usize {
        self.inner().limit
    }

    /// Forgets a group that is gone. What of it is still at work counts until it has ended.
    pub fn forget(&self, uid: &str) {
        let mut inner = self.inner();
        if let Some(group) = inner.groups.get_mut(uid) {
            group.gone = true;
            group.reserved = 0;
            group.ended.clear();
        }
        inner.waiting.retain(|other| other != uid);
        inner.hand_out(&self.wake, Instant::now(), None);
        inner.prune(uid);
    }
}

/// The slot of a call that is out. The task that the call has started, once it is in
/// the book, counts for itself.
#[must_use = "the slot is free again when it is dropped"]
pub struct Slot {
    book: TaskBook,
    uid: String,
    worked: bool,
}

impl Slot {
    /// The call has done its work, and there is no task to wait for: the group itself
    /// can go on with what it stands in line for.
    pub fn worked(mut self) {
        self.worked = true;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut inner = self.book.inner();
        if let Some(group) = inner.groups.get_mut(&self.uid) {
            group.starting = group.starting.saturating_sub(1);
        }
        // If no task was started it is somebody else's turn. Who stands in line himself,
        // and whose call has failed, gives it back when his pass ends: woken for that
        // slot he would only fail again, at once and for ever.
        let awake = (!self.worked).then_some(self.uid.as_str());
        inner.hand_out(&self.book.wake, Instant::now(), awake);
        inner.prune(&self.uid);
    }
}

impl Inner {
    fn group(&mut self, uid: &str, name: &GroupRef) -> &mut Group {
        let group = self.groups.entry(uid.to_owned()).or_insert_with(|| Group {
            name: name.clone(),
            running: 0,
            starting: 0,
            reserved: 0,
            reserved_at: None,
            ended: Vec::new(),
            gone: false,
        });
        group.gone = false;
        group
    }

    fn free(&self) -> usize {
        self.limit.saturating_sub(self.groups.values().map(Group::load).sum())
    }

    fn expire(&mut self, now: Instant) {
        for group in self.groups.values_mut() {
            if group.reserved_at.is_some_and(|at| now.duration_since(at) > RESERVATION) {
                group.reserved = 0;
                group.reserved_at = None;
            }
        }
    }

    /// Reserves free slots for those in line, fewest tasks first, and wakes them.
    fn hand_out(&mut self, wake: &Wake, now: Instant, awake: Option<&str>) {
        while self.free() > 0 {
            let next = self
                .waiting
                .iter()
                .enumerate()
                .min_by_key(|(place, uid)| (self.groups.get(*uid).map_or(0, Group::load), *place))
                .map(|(place, _)| place);
            let Some(place) = next else { return };
            let Some(uid) = self.waiting.remove(place) else { return };
            let Some(group) = self.groups.get_mut(&uid) else { continue };
            group.reserved += 1;
            group.reserved_at = Some(now);
            if awake != Some(uid.as_str()) {
                wake.wake(&group.name);
            }
        }
    }

    fn prune(&mut self, uid: &str) {
        if self.waiting.iter().any(|other| other == uid) {
            return;
        }
        if self.groups.get(uid).is_some_and(|group| group.load() == 0 && group.ended.is_empty()) {
            self.groups.remove(uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn name(text: &str) -> GroupRef {
        GroupRef { namespace: "n".into(), name: text.into() }
    }

    fn start(book: &TaskBook, uid: &str, task: u32) {
        let _slot = book.begin(uid);
        book.started(uid, &name(uid), &format!("m{task}"), TaskKind::Clone, TaskRef::new(format!("task-{task}")));
    }

    fn finish(book: &TaskBook, task: u32) {
        book.gone(&TaskRef::new(format!("task-{task}")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_does_not_go_from_clone_to_power_on_past_a_lower_limit() {
        let book = TaskBook::new(2, Wake::default());
        assert_eq!(book.request("a", &name("a"), 2), 2);
        start(&book, "a", 1);
        start(&book, "a", 2);
        book.set_limit(1);
        book.end(&TaskRef::new("task-1"), Ending::Success, None);
        assert_eq!(book.request("a", &name("a"), 1), 0);
        book.end(&TaskRef::new("task-2"), Ending::Success, None);
        assert_eq!(book.request("a", &name("a"), 1), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_group_does_not_make_a_small_one_wait_for_its_end() {
        let book = TaskBook::new(3, Wake::default());
        assert_eq!(book.request("big", &name("big"), 200), 3);
        for task in 0..3 {
            start(&book, "big", task);
        }
        book.settle("big");
        assert_eq!(book.request("small", &name("small"), 1), 0);
        finish(&book, 0);
        // The freed slot is reserved for the small group, not for the big one.
        assert_eq!(book.request("big", &name("big"), 197), 0);
        assert_eq!(book.request("small", &name("small"), 1), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_holds_over_all_groups() {
        let book = TaskBook::new(4, Wake::default());
        assert_eq!(book.request("a", &name("a"), 3), 3);
        assert_eq!(book.request("b", &name("b"), 3), 1);
        assert_eq!(book.request("c", &name("c"), 3), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_at_work_for_a_group_that_is_gone_counts_until_it_has_ended() {
        let book = TaskBook::new(2, Wake::default());
        assert_eq!(book.request("a", &name("a"), 2), 2);
        start(&book, "a", 1);
        let out = book.begin("a");
        book.forget("a");
        assert_eq!(book.request("b", &name("b"), 2), 0, "a task and a call");
        drop(out);
        assert_eq!(book.request("b", &name("b"), 2), 1);
        finish(&book, 1);
        assert_eq!(book.request("b", &name("b"), 2), 2);
        assert!(book.take_ended("a").is_empty() && !book.inner().groups.contains_key("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_that_is_not_used_goes_to_the_next() {
        let book = TaskBook::new(1, Wake::default());
        assert_eq!(book.request("a", &name("a"), 1), 1);
        assert_eq!(book.request("b", &name("b"), 1), 0);
        book.settle("a");
        assert_eq!(book.request("b", &name("b"), 1), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_use_a_slot_does_not_stand_in_line() {
        let wake = Wake::default();
        let book = TaskBook::new(1, wake.clone());
        assert_eq!(book.request("a", &name("a"), 2), 1);
        assert_eq!(book.request("b", &name("b"), 2), 0);
        book.settle("a");
        let mut woken = std::pin::pin!(wake.stream());
        assert_eq!(tokio::time::timeout(RESERVATION, woken.next()).await, Ok(Some(name("b"))));
        assert_eq!(book.request("b", &name("b"), 2), 1);
        book.settle("b");
        // Neither has anything to do; the slot is free, and nobody is woken for it.
        assert!(tokio::time::timeout(RESERVATION, woken.next()).await.is_err());
        assert_eq!(book.request("c", &name("c"), 1), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_woken_group_that_never_comes_does_not_keep_its_slot() {
        let book = TaskBook::new(1, Wake::default());
        assert_eq!(book.request("a", &name("a"), 1), 1);
        assert_eq!(book.request("gone", &name("gone"), 1), 0);
        book.settle("a");
        tokio::time::advance(RESERVATION * 2).await;
        assert_eq!(book.request("a", &name("a"), 1), 1);
    }

    /// Seed 14795: a pass went on with slots that had gone to others meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_slow_pass_does_not_use_what_others_have_now() {
        let book = TaskBook::new(2, Wake::default());
        assert_eq!(book.request("slow", &name("slow"), 2), 2);
        let out = book.begin("slow").unwrap();
        tokio::time::advance(RESERVATION * 2).await;
        assert_eq!(book.request("b", &name("b"), 2), 1, "a call that is out keeps its slot");
        assert!(book.begin("slow").is_none());
        drop(out);
        assert_eq!(book.request("b", &name("b"), 2), 2);
    }

    /// Seed 956: another group's call that started no task (a guest was asked to shut
    /// down) gave its slot back just before a pass ended that stood in line for it.
    #[tokio::test(start_paused = true)]
    async fn who_gets_a_slot_at_the_end_of_its_pass_is_woken() {
        let wake = Wake::default();
        let book = TaskBook::new(1, wake.clone());
        assert_eq!(book.request("a", &name("a"), 1), 1);
        let asking = book.begin("a").unwrap();
        assert_eq!(book.request("b", &name("b"), 1), 0);
        drop(asking);
        book.settle("b");
        let mut woken = std::pin::pin!(wake.stream());
        assert_eq!(tokio::time::timeout(RESERVATION, woken.next()).await, Ok(Some(name("b"))));
        assert_eq!(book.request("b", &name("b"), 1), 1);
    }

    /// Seed 1990: who wanted more than he got, and whose call failed, was woken for the
    /// slot of that very call, and failed again, 20,000 times in an instant.
    #[tokio::test(start_paused = true)]
    async fn nobody_is_woken_for_the_slot_of_his_own_failed_call() {
        let wake = Wake::default();
        let book = TaskBook::new(1, wake.clone());
        assert_eq!(book.request("a", &name("a"), 2), 1);
        drop(book.begin("a").unwrap());
        book.settle("a");
        let mut woken = std::pin::pin!(wake.stream());
        assert!(tokio::time::timeout(RESERVATION * 2, woken.next()).await.is_err());
        assert_eq!(book.request("b", &name("b"), 1), 1, "it is free for others");
    }

    #[tokio::test(start_paused = true)]
    async fn whose_call_has_worked_without_a_task_goes_on_with_the_next() {
        let wake = Wake::default();
        let book = TaskBook::new(1, wake.clone());
        assert_eq!(book.request("a", &name("a"), 2), 1);
        book.begin("a").unwrap().worked();
        book.settle("a");
        let mut woken = std::pin::pin!(wake.stream());
        assert_eq!(tokio::time::timeout(RESERVATION, woken.next()).await, Ok(Some(name("a"))));
        assert_eq!(book.request("a", &name("a"), 1), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ended_task_does_not_come_back() {
        let book = TaskBook::new(3, Wake::default());
        start(&book, "a", 1);
        finish(&book, 1);
        start(&book, "a", 1);
        assert!(book.in_flight("a").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clone_leaves_its_slot_to_the_power_on() {
        let success = |task: u32| TaskInfo {
            id: TaskRef::new(format!("task-{task}")),
            state: TaskState::Success { result: None },
            entity: None,
            description_id: String::new(),
            progress: None,
            cancelled: false,
            queued_at: None,
            user: None,
        };
        let book = TaskBook::new(1, Wake::default());
        assert_eq!(book.request("a", &name("a"), 2), 1);
        start(&book, "a", 1);
        book.settle("a");
        assert_eq!(book.request("b", &name("b"), 1), 0);
        book.update(&success(1));
        assert_eq!(book.request("b", &name("b"), 1), 0);
        assert_eq!(book.request("a", &name("a"), 2), 1);
        let power_on = TaskRef::new("task-2");
        let slot = book.begin("a");
        book.started("a", &name("a"), "m1", TaskKind::PowerOn, power_on);
        drop(slot);
        book.settle("a");
        book.update(&success(2));
        assert_eq!(book.request("b", &name("b"), 1), 1, "a member is finished, and others have their turn");
    }

    #[tokio::test(start_paused = true)]
    async fn slots_are_used_in_full() {
        let book = TaskBook::new(3, Wake::default());
        assert_eq!(book.request("a", &name("a"), 10), 3);
        start(&book, "a", 1);
        start(&book, "a", 2);
        start(&book, "a", 3);
        book.settle("a");
        finish(&book, 1);
        finish(&book, 2);
        assert_eq!(book.take_ended("a").len(), 2);
        assert_eq!(book.request("a", &name("a"), 7), 2);
    }
}

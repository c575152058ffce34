//! What the process remembers of each group between passes.
//!
//! Nothing here is needed for safety: all of it can be lost at any moment, and
//! the next pass reads the status afresh and resolves what it does not know.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use vmgroup_api::condition::READY;
use vmgroup_api::{MemberState, Phase, VmGroupStatus};
use vmgroup_vsphere::{FolderRef, TagRef, VmRef};

use crate::connection::Identity;
use crate::guest::DataMark;
use crate::observe::{Birth, BoundFor};
use crate::tasks::TaskKind;

/// What something that went wrong was about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Asking the naming policy.
    Naming,
    /// Asking the placement policy.
    Placement,
    /// Asking the scaling policy who leaves.
    Scaling,
    /// Asking the scaling policy whose turn it is to be changed.
    Rollout,
    /// What the namespace may have.
    Quota,
    /// Room in the target.
    Room,
    /// Where members go.
    Target,
    /// Finding the template.
    Template,
    /// Finding what else clones are made from: user data, networks, a snapshot.
    Guest,
    /// Custom attributes of members.
    Attributes,
    /// Tags of members.
    Tags,
    /// Making or removing the folder.
    Folder,
    /// Reading from vCenter.
    Reading,
    /// A member, by instance UUID.
    Member(String),
}

/// Something that went wrong and is tried again later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How often in a row.
    pub attempts: u32,
    /// Not tried again before this.
    pub until: Timestamp,
    /// CamelCase, for the condition and the event.
    pub reason: String,
    /// What went wrong and what to do about it.
    pub message: String,
    /// It will not go away by itself.
    pub stalled: bool,
}

/// How long to wait before something that failed is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// After the first failure.
    pub first: Duration,
    /// After however many.
    pub most: Duration,
}

impl Patience {
    /// From so many seconds to so many.
    pub const fn seconds(first: u64, most: u64) -> Self {
        Self { first: Duration::from_secs(first), most: Duration::from_secs(most) }
    }
}

/// How long to wait after the n-th failure in a row (1 is the first): doubling
/// from the first pause to the longest, then spread by up to a fifth so that many
/// groups do not come back at once. `random` is any number.
pub fn backoff(patience: Patience, attempts: u32, random: u64) -> Duration {
    let doubled = patience.first.saturating_mul(1 << attempts.saturating_sub(1).min(12));
    let capped = doubled.min(patience.most);
    let spread = u64::try_from(capped.as_millis() / 5).unwrap_or(u64::MAX).max(1);
    capped + Duration::from_millis(random % spread)
}

/// The generation of a spec, the edition of the policies, and the user data.
pub type Generation = (Option<i64>, (u64, (u64, u64)), Option<DataMark>);

/// One group, as remembered.
#[derive(Clone, Debug, Default)]
pub struct GroupMemory {
    /// The status as it was last read or written, and the object's version then.
    /// Nothing until the first pass has read it afresh.
    pub written: Option<(VmGroupStatus, String)>,
    /// The connection that all this is about.
    pub connection: Option<Identity>,
    /// The tasks in the record have been taken over.
    pub adopted: bool,
    /// The members that the record only counts were looked for.
    pub recounted: bool,
    /// What is known of members that are not in the inventory.
    pub births: HashMap<String, Birth>,
    /// Members whose virtual machine the last pass saw, with their names: those of a
    /// large group stand nowhere else.
    pub known: HashMap<String, String>,
    /// What went wrong and is held back.
    pub failures: BTreeMap<Topic, Failure>,
    /// Names that turned out to be taken by somebody whom the inventory does not show.
    pub taken: BTreeSet<String>,
    /// Where clones that are being made were sent.
    pub bound_for: HashMap<String, BoundFor>,
    /// Which tags members have.
    pub tagged: Tagged,
    /// Members that were powered on or changed a moment ago, and that the inventory
    /// may still show as they were: not tried again before this.
    pub settling: HashMap<String, (TaskKind, Timestamp)>,
    /// Custom attributes that members were given, by their keys, and that the inventory
    /// need not show yet; after this time it is not waited for any more.
    pub fields_awaited: HashMap<String, (BTreeMap<i32, String>, Timestamp)>,
    /// Members whose guests were asked to shut down.
    pub asked_to_stop: HashSet<String>,
    /// Members that have turned out to take neither CPUs nor memory while they run.
    pub no_hot_add: HashSet<String>,
    /// Hosts with members that are going into maintenance, as was told.
    pub hosts_leaving: BTreeSet<String>,
    /// The epoch of [`Room`](crate::room::Room) in which there was none.
    pub no_room: u64,
    /// The folder's name, if the preferred one turned out to be somebody else's.
    pub folder_name: Option<String>,
    /// Machines that a fresh read did not find, and that the inventory may still show.
    pub vanished: HashSet<VmRef>,
    /// The folder that was just made and that the inventory may not show yet.
    pub folder: Option<FolderRef>,
    /// How often in a row a name turned out to be taken.
    pub naming_attempts: u32,
    /// How often in a row a placement did not fit.
    pub placement_attempts: u32,
    /// The `metadata.generation`, the edition of the policies
    /// ([`Serving::edition`](crate::policy_source::Serving::edition)) and the user data
    /// that the failures belong to.
    pub generation: Generation,
    /// When it was taken out, as [`Memories`] counts.
    era: u64,
}

impl GroupMemory {
    /// Notes a failure; the next try is not before its backoff is over.
    /// What fails for another reason than before is tried as soon as the first time.
    pub fn fail(&mut self, topic: Topic, now: Timestamp, random: u64, why: Why) {
        let before = self.failures.get(&topic).filter(|failure| failure.reason == why.reason);
        let attempts = before.map_or(0, |failure| failure.attempts) + 1;
        let until = now + backoff(why.patience, attempts, random);
        self.failures
            .insert(topic, Failure { attempts, until, reason: why.reason, message: why.message, stalled: why.stalled });
    }

    /// Whether something is held back now.
    pub fn held(&self, topic: &Topic, now: Timestamp) -> bool {
        self.failures.get(topic).is_some_and(|failure| failure.until > now)
    }

    /// Keeps nothing of another connection than this one, which does not know our tasks.
    pub fn is_about(&mut self, connection: &Identity) {
        if self.connection.as_ref() != Some(connection) {
            *self = Self {
                written: self.written.take(),
                connection: Some(connection.clone()),
                era: self.era,
                ..Self::default()
            };
        }
    }

    /// Forgets a failure.
    pub fn clear(&mut self, topic: &Topic) {
        self.failures.remove(topic);
    }

    /// A changed spec, a swapped policy or changed user data deserves a try at once.
    pub fn refresh(&mut self, generation: Generation) {
        if self.generation != generation {
            self.generation = generation;
            self.naming_attempts = 0;
            self.placement_attempts = 0;
            // A good moment to see what others have done to them.
            self.tagged.clear();
            for failure in self.failures.values_mut() {
                failure.until = Timestamp::UNIX_EPOCH;
            }
        }
    }
}

/// Which of the tags that matter each machine has, as far as this process has seen or
/// done it: nobody tells of a change.
#[derive(Clone, Debug, Default)]
pub struct Tagged {
    /// The tags that matter.
    about: BTreeSet<TagRef>,
    /// Those that each machine has.
    pub members: HashMap<VmRef, BTreeSet<TagRef>>,
}

impl Tagged {
    /// Keeps what is known of these tags and these machines.
    pub fn keep(&mut self, about: BTreeSet<TagRef>, members: &HashSet<VmRef>) {
        if self.about != about {
            self.clear();
            self.about = about;
        }
        self.members.retain(|vm, _| members.contains(vm));
    }

    /// Notes what a machine has.
    pub fn note(&mut self, vm: VmRef, tags: BTreeSet<TagRef>) {
        self.members.insert(vm, tags.into_iter().filter(|tag| self.about.contains(tag)).collect());
    }

    /// Forgets all of it.
    pub fn clear(&mut self) {
        self.about.clear();
        self.members.clear();
    }
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// CamelCase.
    pub reason: String,
    /// What went wrong and what to do about it.
    pub message: String,
    /// It will not go away by itself.
    pub stalled: bool,
    /// How soon it is tried again.
    pub patience: Patience,
}

/// How the groups are, for the metrics: members by state, and what their status
/// says. Cheap to clone.
///
/// Sums are kept as they change: whoever reads the metrics holds no pass up,
/// however many groups there are.
#[derive(Clone, Default)]
pub struct Population(Arc<Mutex<Census>>);

#[derive(Default)]
struct Census {
    groups: HashMap<String, Standing>,
    members: BTreeMap<MemberState, usize>,
    phases: BTreeMap<Phase, usize>,
    not_ready: BTreeMap<String, usize>,
    not_ready_since: BTreeMap<Timestamp, usize>,
}

#[derive(Clone, Default)]
struct Standing {
    members: BTreeMap<MemberState, usize>,
    phase: Option<Phase>,
    /// The reason of `Ready`, and since when it is not true.
    not_ready: Option<(String, Timestamp)>,
}

impl Census {
    /// Puts something else in the place of a group's standing, and into the sums.
    fn replace(&mut self, uid: &str, change: impl FnOnce(&mut Standing)) {
        let mut standing = self.groups.remove(uid).unwrap_or_default();
        self.count(&standing, take);
        change(&mut standing);
        self.count(&standing, add);
        self.groups.insert(uid.to_owned(), standing);
    }

    fn remove(&mut self, uid: &str) {
        if let Some(standing) = self.groups.remove(uid) {
            self.count(&standing, take);
        }
    }

    fn count(&mut self, standing: &Standing, change: fn(&mut usize, usize)) {
        for (state, count) in &standing.members {
            tally(&mut self.members, state, *count, change);
        }
        if let Some(phase) = &standing.phase {
            tally(&mut self.phases, phase, 1, change);
        }
        if let Some((reason, since)) = &standing.not_ready {
            tally(&mut self.not_ready, reason, 1, change);
            tally(&mut self.not_ready_since, since, 1, change);
        }
    }
}

fn add(sum: &mut usize, count: usize) {
    *sum += count;
}

fn take(sum: &mut usize, count: usize) {
    *sum = sum.saturating_sub(count);
}

fn tally<K: Ord + Clone>(sums: &mut BTreeMap<K, usize>, key: &K, count: usize, change: fn(&mut usize, usize)) {
    let sum = sums.entry(key.clone()).or_default();
    change(sum, count);
    if *sum == 0 {
        sums.remove(key);
    }
}

impl Population {
    fn census(&self) -> MutexGuard<'_, Census> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a group's members anew.
    pub fn count(&self, uid: &str, states: impl Iterator<Item = MemberState>) {
        let mut counts = BTreeMap::new();
        for state in states {
            *counts.entry(state).or_default() += 1;
        }
        self.census().replace(uid, |standing| standing.members = counts);
    }

    /// Notes what a group's status says of it.
    pub fn note(&self, uid: &str, status: &VmGroupStatus) {
        let ready = status.conditions.iter().find(|condition| condition.type_ == READY);
        let not_ready = ready
            .filter(|condition| condition.status != "True")
            .map(|condition| (condition.reason.clone(), condition.last_transition_time.0));
        self.census().replace(uid, |standing| {
            standing.phase = status.phase;
            standing.not_ready = not_ready;
        });
    }

    /// Forgets a group that is gone.
    pub fn forget(&self, uid: &str) {
        self.census().remove(uid);
    }

    /// Forgets all groups: they are somebody else's now.
    pub fn clear(&self) {
        *self.census() = Census::default();
    }

    /// Over all groups, every state with its count.
    pub fn members(&self) -> [(MemberState, usize); 6] {
        let census = self.census();
        MemberState::ALL.map(|state| (state, census.members.get(&state).copied().unwrap_or_default()))
    }

    /// Every phase with the number of its groups.
    pub fn phases(&self) -> [(Phase, usize); 3] {
        let census = self.census();
        Phase::ALL.map(|phase| (phase, census.phases.get(&phase).copied().unwrap_or_default()))
    }

    /// How many groups are not ready, by reason, and since when the first of them.
    pub fn not_ready(&self) -> (BTreeMap<String, usize>, Option<Timestamp>) {
        let census = self.census();
        (census.not_ready.clone(), census.not_ready_since.keys().next().copied())
    }
}

/// The memories of all groups, by uid. Cheap to clone.
#[derive(Clone, Default)]
pub struct Memories(Arc<Mutex<Remembered>>);

#[derive(Default)]
struct Remembered {
    /// Counts how often everything was forgotten.
    era: u64,
    groups: HashMap<String, Box<GroupMemory>>,
}

impl Memories {
    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a group's memory out for a pass. A pass that never brings it back
    /// (it panicked, it was cancelled) leaves the next one to start afresh.
    pub fn take(&self, uid: &str) -> GroupMemory {
        let mut remembered = self.remembered();
        let memory = remembered.groups.remove(uid).map(|memory| *memory).unwrap_or_default();
        GroupMemory { era: remembered.era, ..memory }
    }

    /// A copy of a group's memory, to look into; none if there is none, or a pass
    /// has it.
    pub fn peek(&self, uid: &str) -> Option<GroupMemory> {
        self.remembered().groups.get(uid).map(|memory| GroupMemory::clone(memory))
    }

    /// Brings it back, unless everything was forgotten meanwhile: a pass that
    /// outlives our lease must not bring along what it knew before.
    pub fn put(&self, uid: &str, memory: GroupMemory) {
        let mut memory = Box::new(memory);
        // It lies here until something happens to the group, next to thousands of others.
        if let Some((status, _)) = &mut memory.written {
            status.members.shrink_to_fit();
            status.conditions.shrink_to_fit();
        }
        memory.known.shrink_to_fit();
        let mut remembered = self.remembered();
        if remembered.era == memory.era {
            remembered.groups.insert(uid.to_owned(), memory);
        }
    }

    /// Forgets all groups.
    pub fn clear(&self) {
        let mut remembered = self.remembered();
        remembered.era += 1;
        remembered.groups.clear();
    }

    /// Forgets a group.
    pub fn forget(&self, uid: &str) {
        self.remembered().groups.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;
    use crate::connection::Connection;
    use crate::link::{Link, Problem};
    use crate::tasks::TaskBook;
    use crate::wake::Wake;

    #[test]
    fn what_a_pass_knew_before_a_new_term_is_not_brought_along() {
        let memories = Memories::default();
        let known = GroupMemory { adopted: true, ..memories.take("a") };
        memories.put("a", known);
        let known = memories.take("a");
        assert!(known.adopted);
        memories.clear();
        memories.put("a", known);
        assert!(!memories.take("a").adopted);
    }

    /// A connection that was taken out of the file and put back has a task book in which
    /// nothing stands: what is in the record has to be taken over again.
    #[tokio::test]
    async fn what_was_known_by_a_connection_of_the_same_name_is_not_kept() {
        let muc = || {
            let waiting = Problem { reason: "Connecting", message: String::new(), stalled: false };
            let link = Link::nowhere("muc".into(), waiting, Wake::default());
            Connection::new(link, TaskBook::new(1, Wake::default()))
        };
        let (before, after) = (muc(), muc());
        let mut memory = GroupMemory::default();
        for (connection, kept) in [(&before, false), (&before.clone(), true), (&after, false), (&after, true)] {
            memory.is_about(&connection.identity());
            assert_eq!(std::mem::replace(&mut memory.adopted, true), kept);
        }
    }

    /// The sums are kept, so they have to be the same as if they were made anew.
    #[test]
    fn the_population_is_the_sum_of_its_groups() {
        use MemberState::{Leaving, Ready};
        let ready = |status: &str, reason: &str, since: i64| VmGroupStatus {
            phase: Some(if status == "True" { Phase::Running } else { Phase::Pending }),
            conditions: vec![Condition {
                type_: READY.to_owned(),
                status: status.to_owned(),
                reason: reason.to_owned(),
                message: String::new(),
                observed_generation: None,
                last_transition_time: Time(Timestamp::from_second(since).unwrap()),
            }],
            ..VmGroupStatus::default()
        };
        let told = |population: &Population| {
            let (reasons, first) = population.not_ready();
            let members: Vec<usize> = population.members().into_iter().map(|(_, count)| count).collect();
            let phases: Vec<usize> = population.phases().into_iter().map(|(_, count)| count).collect();
            (members.iter().sum::<usize>(), phases.iter().sum::<usize>(), reasons, first.map(Timestamp::as_second))
        };
        let reasons = |all: &[(&str, usize)]| all.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let population = Population::default();
        population.count("a", [Ready, Ready, Leaving].into_iter());
        population.note("a", &ready("False", "Scaling", 20));
        population.count("b", [Ready].into_iter());
        population.note("b", &ready("False", "Scaling", 10));
        assert_eq!(told(&population), (4, 2, reasons(&[("Scaling", 2)]), Some(10)));
        population.count("a", [Ready].into_iter());
        population.note("b", &ready("True", "Ready", 30));
        assert_eq!(told(&population), (2, 2, reasons(&[("Scaling", 1)]), Some(20)));
        assert_eq!(population.members().into_iter().find(|(state, _)| *state == Leaving), Some((Leaving, 0)));
        population.forget("a");
        assert_eq!(told(&population), (1, 1, reasons(&[]), None));
        population.clear();
        assert_eq!(told(&population), (0, 0, reasons(&[]), None));
    }

    #[test]
    fn each_object_has_its_own_pause_and_another_reason_begins_anew() {
        let (mut memory, now) = (GroupMemory::default(), Timestamp::UNIX_EPOCH);
        let why = |reason: &str| Why {
            reason: reason.to_owned(),
            message: String::new(),
            stalled: false,
            patience: Patience::seconds(10, 60),
        };
        let held =
            |memory: &GroupMemory, topic: &Topic, seconds| memory.held(topic, now + Duration::from_secs(seconds));
        let (one, other) = (Topic::Member("one".into()), Topic::Member("other".into()));
        for _ in 0..3 {
            memory.fail(one.clone(), now, 0, why("NoCapacity"));
        }
        memory.fail(other.clone(), now, 0, why("NoCapacity"));
        assert!(held(&memory, &one, 39) && !held(&memory, &one, 40));
        assert!(held(&memory, &other, 9) && !held(&memory, &other, 10));
        memory.fail(one.clone(), now, 0, why("Conflict"));
        assert!(!held(&memory, &one, 10));
    }

    #[test]
    fn backoff_doubles_to_a_cap_and_is_spread() {
        let base = Patience::seconds(2, 300);
        assert_eq!(backoff(base, 1, 0), Duration::from_secs(2));
        assert_eq!(backoff(base, 3, 0), Duration::from_secs(8));
        assert_eq!(backoff(base, 40, 0), Duration::from_secs(300));
        assert!(backoff(base, 40, u64::MAX) <= Duration::from_secs(360));
        assert!(backoff(base, 1, 0) < backoff(base, 1, 399));
    }
}

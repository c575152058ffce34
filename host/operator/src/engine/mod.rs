//! One pass over one group: observe → validate → decide → plan → apply → report.
//!
//! Here the steps are put together; each is a module of its own. Nothing in
//! here waits for a task: what is in flight ends in a wake-up and another pass.

mod ask;
mod attributes;
mod laps;
mod look;
mod preview;
mod reach;
mod record;
mod tags;
mod tell;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::Api;
use kube::{Client, Resource};
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;
use vmgroup_api::{ConnectionStatus, FINALIZER, LEGACY_FINALIZER, TargetSpec, VmGroup};
use vmgroup_vsphere::{Category, Error as VcError};

use crate::apply::Applier;
use crate::clock::{self, Clock, k8s_time};
use crate::connection::Connection;
use crate::connections::{Asked, Chosen, Connections};
use crate::decide::Decider;
use crate::events::{EventType, Events};
use crate::folder::ReservedNames;
use crate::guest::{DataBook, Known};
use crate::lease::Fence;
use crate::link::chain;
use crate::memory::{GroupMemory, Memories, Patience, Population, Topic, Why};
use crate::metrics::{Metrics, Step};
use crate::ownership::{Cluster, Owner};
use crate::plan::{self};
use crate::policy_source::{PolicyBook, Serving};
use crate::quota::Ledger;
use crate::report::{self, Facts, GUEST_DATA_MISSING, Members, Obstacle};
use crate::status::{self, StatusError};
use crate::target::{self, Ground};
use crate::validate::{Desired, validate};

use self::laps::Laps;

/// How soon an unresolved question is looked at again.
const SOON: Duration = Duration::from_secs(2);

/// How long the inventory may lag behind the end of a task.
const SETTLING: Duration = Duration::from_secs(5);

/// How soon a policy that gave no legal answer is asked again.
const POLICY_PATIENCE: Patience = Patience::seconds(5, 300);

/// How soon a member that is not ours any more is looked at again.
const NOT_OURS_PATIENCE: Patience = Patience::seconds(3, 300);

/// How often in a row a name may turn out to be taken before a hand is needed.
const NAMING_ATTEMPTS: u32 = 10;

/// The most victims that get an event of their own in one pass.
const EVENTS_LIMIT: usize = 10;

/// All that a pass works with. One for the process; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    /// The Kubernetes API.
    pub kube: Client,
    /// Which cluster this is.
    pub cluster: Cluster,
    /// The vCenters.
    pub connections: Connections,
    /// The policies.
    pub policies: PolicyBook,
    /// What the groups of each namespace have.
    pub ledger: Ledger,
    /// What is known of groups' user data.
    pub guest_data: DataBook,
    /// Names on their way.
    pub reserved_names: ReservedNames,
    /// What is remembered of groups.
    pub memories: Memories,
    /// How many members there are.
    pub population: Population,
    /// The lease.
    pub fence: Fence,
    /// Asks policies.
    pub decider: Decider,
    /// Events.
    pub events: Events,
    /// Metrics.
    pub metrics: Metrics,
    /// The clock.
    pub clock: Clock,
    /// The site's time zone, for policies; none: nobody said.
    pub time_zone: Option<TimeZone>,
    /// Randomness: instance UUIDs, seeds, jitter.
    pub random: Arc<Mutex<ChaCha8Rng>>,
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to do until something changes.
    AtRest,
    /// Look again after this long, whether something changes or not.
    Again(Duration),
}

/// Why a pass could not be finished. It is repeated after a backoff.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The record could not be read or written.
    #[error("the group's record could not be kept")]
    Status(#[from] StatusError),
}

/// A pass under way.
struct Pass<'a> {
    engine: &'a Engine,
    /// Where its machines are.
    connection: &'a Connection,
    /// What the record is to have of that.
    connection_record: Option<ConnectionStatus>,
    /// How it differs from what a new group would get.
    differs: Option<String>,
    /// Why the connections file that was offered last does not count.
    connections_refused: Option<Arc<str>>,
    /// What counts of its target.
    destination: Option<TargetSpec>,
    /// What its spec says of that, and is refused.
    redirected: Option<String>,
    /// Why its user data cannot be had: a reason, and in words.
    lacking: Option<(String, String)>,
    api: Api<VmGroup>,
    desired: Desired,
    /// The group as the marks of its members name it.
    owner: Owner,
    /// A folder of the recorded name may be of our own making: it was asked for
    /// before this pass, and what came of that was never written down.
    folder_asked_for: bool,
    reference: ObjectReference,
    serving: Arc<Serving>,
    memory: GroupMemory,
    now: Timestamp,
    again: Option<Duration>,
    notes: Vec<Note>,
    laps: Laps,
}

struct Note {
    kind: EventType,
    reason: String,
    action: &'static str,
    text: String,
}

impl Engine {
    /// Makes one pass over a group.
    pub async fn pass(&self, object: &VmGroup) -> Result<Outcome, PassError> {
        let mut desired = match validate(object) {
            Ok(desired) => desired,
            Err(invalid) => return self.refuse(object, &invalid.to_string()).await,
        };
        let api = Api::namespaced(self.kube.clone(), &desired.group.namespace);
        let finalizers = object.metadata.finalizers.clone().unwrap_or_default();
        let ours = finalizers.iter().any(|finalizer| finalizer == FINALIZER || finalizer == LEGACY_FINALIZER);
        if desired.deleting && !ours {
            self.forget(&desired.uid);
            return Ok(Outcome::AtRest);
        }
        let uid = desired.uid.clone();
        let laps = Laps::new(self.metrics.clone());
        let mut memory = self.memories.take(&uid);
        let known = laps.time(Step::Look, record::remember(&api, &desired, &mut memory)).await;
        let status = memory.written.as_ref().map(|(status, _)| status);
        let destination = target::in_force(desired.destination.as_ref(), status).cloned();
        let redirected = target::refused(desired.destination.as_ref(), status);
        let asked = Asked {
            namespace: &desired.group.namespace,
            uid: &uid,
            status,
            named: target::named(destination.as_ref(), desired.deleting),
        };
        let Chosen { connection, record, differs, refused } = self.connections.choose(asked);
        let mut lacking = None;
        match self.guest_data.follow(&uid, &desired.group, desired.make.user_data.as_ref()) {
            Known::Unused => {}
            // What was told last stays told.
            Known::Unread => lacking = status.and_then(|status| report::told(status, GUEST_DATA_MISSING)),
            Known::Is(mark) => desired.data = Some(mark),
            Known::Lacking(why) => lacking = Some((why.reason().to_owned(), chain(&why))),
        }
        memory.is_about(&connection.identity());
        let mut pass = Pass {
            engine: self,
            connection: &connection,
            connection_record: record,
            differs,
            connections_refused: refused,
            destination,
            redirected,
            lacking,
            api,
            reference: object.object_ref(&()),
            serving: self.policies.serving(desired.who()),
            memory,
            now: self.clock.now(),
            again: None,
            notes: Vec::new(),
            laps: laps.clone(),
            owner: Owner::of(&desired, self.cluster.id()),
            folder_asked_for: false,
            desired,
        };
        let has_finalizer = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
        let result = match known {
            // Large, with copies of the status in it.
            Ok(()) => Box::pin(pass.run(object, finalizers, has_finalizer)).await,
            Err(error) => Err(error),
        };
        connection.tasks.settle(&uid);
        let Pass { mut memory, notes, reference, again, .. } = pass;
        match &result {
            Ok(true) | Err(StatusError::Gone) => self.forget(&uid),
            // Who leads now has a record of his own.
            Err(StatusError::Fenced) => self.memories.forget(&uid),
            Ok(false) => self.memories.put(&uid, memory),
            // What was written is not known: the next pass reads it afresh.
            Err(_) => {
                memory.written = None;
                self.memories.put(&uid, memory);
            }
        }
        let telling = async {
            for note in notes {
                self.events.publish(&reference, note.kind, &note.reason, note.action, &note.text).await;
            }
        };
        laps.time(Step::Tell, telling).await;
        match result {
            Ok(_) => Ok(again.map_or(Outcome::AtRest, Outcome::Again)),
            Err(StatusError::Gone | StatusError::Fenced) => Ok(Outcome::AtRest),
            // The new spec is on its way here.
            Err(StatusError::Outdated) => Ok(Outcome::Again(SOON)),
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets a group that is gone.
    pub fn forget(&self, uid: &str) {
        self.connections.forget(uid);
        self.ledger.forget(uid);
        self.guest_data.forget(uid);
        self.population.forget(uid);
        self.reserved_names.keep(uid, std::collections::BTreeSet::new());
        self.memories.forget(uid);
    }

    /// Forgets what another leader may have changed since. Called before the first pass
    /// of each term as leader.
    pub fn begin_term(&self) {
        self.memories.clear();
        self.ledger.clear();
        self.reserved_names.clear();
        for connection in self.connections.all() {
            connection.claims.clear();
        }
    }

    /// Claims the folder names that groups already have, so that a group that
    /// comes first after a restart cannot take another one's. Called before the
    /// first pass of each term as leader.
    pub fn claim_known<'g>(&self, groups: impl Iterator<Item = &'g VmGroup>) {
        for group in groups {
            let folder = group.status.as_ref().and_then(|status| status.folder.as_ref());
            if let (Some(folder), Ok(desired)) = (folder, validate(group)) {
                let connection = self.connections.of(group);
                connection.claims.claim(&folder.name, &desired.uid, &desired.group);
            }
        }
    }

    /// How far the site's clocks are ahead of UTC then, for the policies.
    pub fn utc_offset_minutes(&self, at: Timestamp) -> Option<i32> {
        self.time_zone.as_ref().map(|zone| zone.to_offset(at).seconds() / 60)
    }

    /// A random number: seeds, jitter.
    pub fn random(&self) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    fn new_uuid(&self) -> String {
        let mut bytes = [0; 16];
        self.random.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// Tells that a spec cannot be worked on (S10).
    async fn refuse(&self, object: &VmGroup, why: &str) -> Result<Outcome, PassError> {
        let (Some(namespace), Some(name), Some(uid)) =
            (&object.metadata.namespace, &object.metadata.name, &object.metadata.uid)
        else {
            return Ok(Outcome::AtRest);
        };
        let group = crate::wake::GroupRef { namespace: namespace.clone(), name: name.clone() };
        let api = Api::namespaced(self.kube.clone(), namespace);
        let now = match status::read(&api, name, uid).await {
            Ok(now) => now,
            Err(StatusError::Gone) => return Ok(Outcome::AtRest),
            Err(error) => return Err(error.into()),
        };
        let old = now.status.unwrap_or_default();
        let facts = Facts {
            group: &group,
            generation: object.metadata.generation,
            desired: None,
            deleting: false,
            releasing: false,
            members: None,
            failures: &std::collections::BTreeMap::new(),
            obstacle: Some(Obstacle { reason: "InvalidSpec".into(), message: why.to_owned(), stalled: true }),
            connection: None,
            differs: None,
            connections_refused: None,
            destination: None,
            redirected: None,
            lacking: None,
            refusal: None,
            policies: None,
            baseline: None,
            target: String::new(),
            restarted_at: None,
            now: k8s_time(self.clock.now()),
        };
        let new = report::status(&old, &facts);
        self.population.note(uid, &new);
        if new != old && self.fence.holds() {
            let version = now.metadata.resource_version.unwrap_or_default();
            status::write(&api, (name, uid), &old, &new, &version, None).await?;
            self.memories.forget(uid);
        }
        Ok(Outcome::AtRest)
    }
}

impl Pass<'_> {
    /// True if the group is gone.
    async fn run(
        &mut self,
        object: &VmGroup,
        finalizers: Vec<String>,
        has_finalizer: bool,
    ) -> Result<bool, StatusError> {
        let laps = self.laps.clone();
        self.memory.refresh((self.desired.generation, self.serving.edition(), self.desired.data.clone()));
        if !has_finalizer && !self.desired.deleting {
            laps.time(Step::Tell, self.add_finalizer(object, finalizers)).await?;
        }
        let connected = match self.reach() {
            Ok(connected) => connected,
            Err(obstacle) => return laps.time(Step::Tell, self.without_vcenter(object, obstacle)).await,
        };
        if let Some(obstacle) = self.contested(&connected) {
            self.report(None, Some(obstacle)).await?;
            return Ok(false);
        }
        if let Err(error) = laps.time(Step::Look, self.recount(&connected)).await {
            let Why { reason, message, stalled, patience: _ } = why(error.category(), chain(&error));
            self.look_again(SOON);
            laps.time(Step::Tell, self.report(None, Some(Obstacle { reason, message, stalled }))).await?;
            return Ok(false);
        }
        if !laps.time(Step::Look, self.find_fields(&connected)).await {
            self.look_again(SOON);
            return Ok(false);
        }
        laps.time(Step::Look, self.adopt_tasks(&connected)).await;
        self.hear_of_ended_tasks(&connected);
        let ground = Ground::of(self.destination.as_ref(), &connected, self.connection.name());
        let seen = laps.time(Step::Look, self.observe(&connected, &ground)).await?;
        let demand = laps.time_now(Step::Plan, || plan::demand(&self.desired, &seen, self.now));
        tracing::trace!(?seen, ?demand, "observed");
        self.retire(&seen, &demand);
        if let Some(until) = demand.grace_ends {
            self.look_again_at(until);
        }
        let site = self.site(&ground, &seen, &demand);
        let slots = self.slots(&demand);
        let asking = self.decide((&connected, site.as_ref()), &seen, &demand, slots);
        let (decisions, blueprint) = laps.time(Step::Ask, asking).await;
        let plan = laps.time_now(Step::Plan, || plan::plan(&self.desired, &seen, &demand, &decisions, slots, self.now));
        laps.time(Step::Tell, self.persist(&seen, &plan)).await?;
        self.announce(&seen, &decisions);
        self.announce_released(&seen, &plan);
        let calls = self.remember_places(site.as_deref(), &plan, blueprint.as_ref());
        let applier = Applier {
            vcenter: self.connection.link.vcenter(),
            connected: &connected,
            site: site.as_deref(),
            tasks: &self.connection.tasks,
            desired: &self.desired,
            owner: &self.owner,
            blueprint: blueprint.as_ref(),
            folder: seen.folder.id.clone(),
            parent: seen.folder.parent.clone(),
            folder_asked_for: self.folder_asked_for,
            now: self.seconds(),
        };
        let effects = laps.time(Step::Apply, applier.apply(&plan)).await;
        drop(calls);
        let finished = self.digest(&connected, &seen, effects);
        if finished {
            // Before the answer, which may be lost. Where machines were kept, nothing that
            // still comes with this group's mark is taken away.
            if !self.desired.releases() {
                self.connection.departed.remember(self.owner.clone());
            }
            if self.folder_asked_for && seen.folder.id.is_none() {
                self.connection.departed.await_folder(seen.folder.name.clone(), self.desired.group.clone());
            }
            laps.time(Step::Tell, self.release(object)).await?;
            return Ok(true);
        }
        let chosen = !decisions.victims.is_empty() || !decisions.turns.is_empty();
        if chosen || !demand.dismiss.is_empty() || !demand.forget.is_empty() {
            self.look_again(Duration::ZERO);
        }
        let held_back = report::held_back(demand.held_back, self.desired.replicas, self.desired.hold_scale_in);
        let members = self.members(&connected, &seen, &plan, !decisions.turns.is_empty());
        let members = Members { held_back, ..members };
        let machines = members.record.len().max(members.existing);
        self.engine.ledger.note(&self.desired.group, &self.desired.uid, self.amount(machines));
        self.engine.population.count(&self.desired.uid, members.record.iter().map(|member| member.state));
        laps.time(Step::Tell, self.report(Some(&members), None)).await?;
        Ok(false)
    }

    /// Now, in seconds since 1970.
    fn seconds(&self) -> u64 {
        clock::seconds(self.now)
    }

    fn look_again(&mut self, after: Duration) {
        self.again = Some(self.again.map_or(after, |other| other.min(after)));
    }

    fn look_again_at(&mut self, at: Timestamp) {
        self.look_again(Duration::try_from(at.duration_since(self.now)).unwrap_or_default());
    }

    fn fail(&mut self, topic: Topic, why: Why) {
        self.notes.push(Note {
            kind: EventType::Warning,
            reason: why.reason.clone(),
            action: "Reconcile",
            text: why.message.clone(),
        });
        let random = self.engine.random();
        self.memory.fail(topic, self.now, random, why);
    }

    fn fail_vc(&mut self, topic: Topic, error: &VcError) {
        let why = why(error.category(), chain(error));
        self.fail(topic, why);
    }
}

/// The reason of a condition and event, and how soon it is tried again, by the
/// kind of error: what somebody has to mend or what has run out is not asked for
/// as often as what passes by itself.
fn why(category: Category, message: String) -> Why {
    let (reason, stalled, patience) = match category {
        Category::Transient => ("VCenterTransient", false, Patience::seconds(2, 120)),
        Category::Capacity => ("NoCapacity", false, Patience::seconds(10, 300)),
        Category::Configuration => ("Configuration", true, Patience::seconds(8, 300)),
        Category::Permission => ("NoPermission", true, Patience::seconds(15, 300)),
        Category::Gone => ("Gone", false, Patience::seconds(1, 60)),
        // The login itself has its own pauses, see the client's sessions.
        Category::Credentials => ("VCenterLoginRefused", true, Patience::seconds(5, 60)),
        Category::Conflict => ("Conflict", false, Patience::seconds(3, 120)),
    };
    Why { reason: reason.to_owned(), message, stalled, patience }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l8_each_kind_of_failure_has_its_own_reason_and_pause() {
        let kinds = [
            Category::Transient,
            Category::Capacity,
            Category::Configuration,
            Category::Permission,
            Category::Gone,
            Category::Credentials,
            Category::Conflict,
        ];
        let told: Vec<Why> = kinds.into_iter().map(|kind| why(kind, String::new())).collect();
        for (index, one) in told.iter().enumerate() {
            assert!(one.patience.first < one.patience.most && one.patience.most <= Duration::from_mins(5), "{one:?}");
            for other in &told[..index] {
                assert_ne!(one.reason, other.reason);
                assert_ne!(one.patience, other.patience, "{one:?} {other:?}");
            }
        }
    }
}

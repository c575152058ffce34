//! One pass over one group: observe → validate → decide → plan → apply → report.
//!
//! Here the steps are put together; each is a module of its own. Nothing in
//! here waits for a task: what is in flight ends in a wake-up and another pass.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;
use serde_json::json;
use vmgroup_api::{
    FINALIZER, FolderStatus, LEGACY_FINALIZER, MemberState, MemberStatus, PolicyInForce, PolicyStatus, VmGroup,
    VmGroupStatus,
};
use vmgroup_policy::Policy;
use vmgroup_vsphere::{Category, Error as VcError, FaultKind, FolderRef, PowerState, Template, Vm, VmRef};

use crate::apply::{Applier, Effect, FOLDER};
use crate::clock::{Clock, k8s_time};
use crate::decide::{Decider, NoAnswer, Question, Taken};
use crate::events::{EventType, Events};
use crate::folder::{self, Claims, ReservedNames};
use crate::lease::Fence;
use crate::link::{Connected, Link, chain};
use crate::memory::{GroupMemory, Memories, Topic, Why};
use crate::metrics::Metrics;
use crate::observe::{self, Birth, FolderSeen, Knowledge, Observed, is_member};
use crate::plan::{self, Decisions, Demand, Plan};
use crate::policy_source::{PolicyBook, Serving};
use crate::report::{self, Facts, Members, Obstacle};
use crate::status::{self, StatusError, bounded};
use crate::tasks::{Ending, TaskBook, TaskKind};
use crate::validate::{Desired, validate};

/// How soon an unresolved question is looked at again.
const SOON: Duration = Duration::from_secs(2);

/// First pause after a failure at a member or in vCenter.
const MEMBER_BACKOFF: Duration = Duration::from_secs(3);

/// First pause after a policy gave no legal answer.
const POLICY_BACKOFF: Duration = Duration::from_secs(5);

/// How often in a row a name may turn out to be taken before a hand is needed.
const NAMING_ATTEMPTS: u32 = 10;

/// The most victims that get an event of their own in one pass.
const EVENTS_LIMIT: usize = 10;

/// All that a pass works with. One for the process; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    /// The Kubernetes API.
    pub kube: Client,
    /// The link to vCenter.
    pub link: Link,
    /// The policies.
    pub policies: PolicyBook,
    /// Tasks in flight.
    pub tasks: TaskBook,
    /// Folder names.
    pub claims: Claims,
    /// Names on their way.
    pub reserved_names: ReservedNames,
    /// What is remembered of groups.
    pub memories: Memories,
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
    api: Api<VmGroup>,
    desired: Desired,
    reference: ObjectReference,
    serving: Arc<Serving>,
    memory: GroupMemory,
    now: Timestamp,
    again: Option<Duration>,
    notes: Vec<Note>,
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
        let desired = match validate(object) {
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
        let memory = self.memories.take(&uid);
        let mut pass = Pass {
            engine: self,
            api,
            reference: object.object_ref(&()),
            serving: self.policies.in_force(),
            memory,
            now: self.clock.now(),
            again: None,
            notes: Vec::new(),
            desired,
        };
        let has_finalizer = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
        let result = pass.run(object, finalizers, has_finalizer).await;
        self.tasks.settle(&uid);
        let Pass { memory, notes, reference, again, .. } = pass;
        match &result {
            Ok(true) => self.forget(&uid),
            Ok(false) => self.memories.put(&uid, memory),
            // What was written is not known: the next pass reads it afresh.
            Err(StatusError::Gone) => self.forget(&uid),
            Err(_) => self.memories.put(&uid, GroupMemory { written: None, ..memory }),
        }
        for note in notes {
            self.events.publish(&reference, note.kind, &note.reason, note.action, &note.text).await;
        }
        match result {
            Ok(_) => Ok(again.map_or(Outcome::AtRest, Outcome::Again)),
            Err(StatusError::Gone) => Ok(Outcome::AtRest),
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets a group that is gone.
    fn forget(&self, uid: &str) {
        self.tasks.forget(uid);
        self.claims.release(uid);
        self.reserved_names.keep(uid, std::collections::BTreeSet::new());
        self.memories.forget(uid);
    }

    /// Claims the folder names that groups already have, so that a group that
    /// comes first after a restart cannot take another one's. Called once, before
    /// the first pass.
    pub fn claim_known(&self, groups: &[VmGroup]) {
        for group in groups {
            let folder = group.status.as_ref().and_then(|status| status.folder.as_ref());
            if let (Some(folder), Ok(desired)) = (folder, validate(group)) {
                self.claims.claim(&folder.name, &desired.uid, &desired.group);
            }
        }
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
        let old = object.status.clone().unwrap_or_default();
        let facts = Facts {
            group: &group,
            generation: object.metadata.generation,
            desired: None,
            deleting: false,
            members: None,
            failures: &std::collections::BTreeMap::new(),
            obstacle: Some(Obstacle { reason: "InvalidSpec".into(), message: why.to_owned(), stalled: true }),
            refusal: None,
            policies: None,
            now: k8s_time(self.clock.now()),
        };
        let new = report::status(&old, &facts);
        if new != old {
            let api = Api::namespaced(self.kube.clone(), namespace);
            let version = object.metadata.resource_version.clone().unwrap_or_default();
            status::write(&api, (name, uid), &old, &new, &version).await?;
            self.memories.forget(uid);
        }
        Ok(Outcome::AtRest)
    }
}

impl Pass<'_> {
    /// True if the group is gone.
    async fn run(&mut self, object: &VmGroup, finalizers: Vec<String>, has_finalizer: bool) -> Result<bool, StatusError> {
        if self.memory.written.is_none() {
            self.remember().await?;
        }
        self.memory.refresh((self.desired.generation, self.serving.generation));
        if !has_finalizer && !self.desired.deleting {
            self.add_finalizer(object, finalizers).await?;
        }
        let connected = match self.engine.link.up() {
            Ok(connected) => connected,
            Err(problem) => {
                let obstacle =
                    Obstacle { reason: problem.reason.to_owned(), message: problem.message.clone(), stalled: problem.stalled };
                self.report(None, Some(obstacle)).await?;
                return Ok(false);
            }
        };
        self.adopt_tasks(&connected);
        self.hear_of_ended_tasks();
        let step = self.engine.metrics.step("observe");
        let seen = self.observe(&connected).await?;
        drop(step);
        let mut demand = plan::demand(&self.desired, &seen, self.now);
        tracing::trace!(?seen, ?demand, "observed");
        self.retire(&seen, &demand);
        let slots = self.slots(&demand);
        let step = self.engine.metrics.step("decide");
        let (decisions, template) = self.decide(&connected, &seen, &mut demand, slots).await;
        drop(step);
        let plan = plan::plan(&self.desired, &seen, &demand, &decisions, slots);
        self.persist(&seen, &plan).await?;
        self.announce(&seen, &decisions);
        let step = self.engine.metrics.step("apply");
        let applier = Applier {
            vcenter: self.engine.link.vcenter(),
            connected: &connected,
            tasks: &self.engine.tasks,
            fence: &self.engine.fence,
            desired: &self.desired,
            template: template.as_ref(),
            folder: seen.folder.id.clone(),
            now: u64::try_from(self.now.as_second()).unwrap_or_default(),
        };
        let effects = applier.apply(&plan).await;
        drop(step);
        let finished = self.digest(&connected, effects);
        if finished {
            self.release(object).await?;
            return Ok(true);
        }
        if !decisions.victims.is_empty() || !demand.dismiss.is_empty() || !demand.forget.is_empty() {
            self.look_again(Duration::ZERO);
        }
        let members = self.members(&connected, &seen, &plan);
        self.report(Some(&members), None).await?;
        Ok(false)
    }

    fn look_again(&mut self, after: Duration) {
        self.again = Some(self.again.map_or(after, |other| other.min(after)));
    }

    /// Reads the record afresh: the process has just started, or lost track.
    async fn remember(&mut self) -> Result<(), StatusError> {
        let object = status::read(&self.api, &self.desired.group.name, &self.desired.uid).await?;
        let version = object.metadata.resource_version.unwrap_or_default();
        self.memory.written = Some((object.status.unwrap_or_default(), version));
        self.memory.births.clear();
        self.memory.adopted = false;
        Ok(())
    }

    fn written(&self) -> (&VmGroupStatus, &str) {
        static NONE: std::sync::LazyLock<VmGroupStatus> = std::sync::LazyLock::new(VmGroupStatus::default);
        self.memory.written.as_ref().map_or((&NONE, ""), |(status, version)| (status, version))
    }

    async fn write(&mut self, new: VmGroupStatus) -> Result<(), StatusError> {
        let (old, version) = self.written();
        if *old == new {
            return Ok(());
        }
        let version =
            status::write(&self.api, (&self.desired.group.name, &self.desired.uid), old, &new, version).await?;
        self.memory.written = Some((new, version));
        Ok(())
    }

    /// S6: the finalizer is there before anything is made.
    async fn add_finalizer(&mut self, object: &VmGroup, mut finalizers: Vec<String>) -> Result<(), StatusError> {
        finalizers.push(FINALIZER.to_owned());
        let patch = json!({"metadata": {
            "uid": self.desired.uid,
            "resourceVersion": object.metadata.resource_version,
            "finalizers": finalizers,
        }});
        let name = &self.desired.group.name;
        let object = bounded(self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await?;
        if let Some((_, version)) = &mut self.memory.written {
            *version = object.metadata.resource_version.unwrap_or_default();
        }
        Ok(())
    }

    /// Lets the object go.
    async fn release(&mut self, object: &VmGroup) -> Result<(), StatusError> {
        let name = &self.desired.group.name;
        let now = status::read(&self.api, name, &self.desired.uid).await?;
        let left: Vec<_> = now
            .metadata
            .finalizers
            .unwrap_or_default()
            .into_iter()
            .filter(|finalizer| finalizer != FINALIZER && finalizer != LEGACY_FINALIZER)
            .collect();
        let patch = json!({"metadata": {
            "uid": self.desired.uid,
            "resourceVersion": now.metadata.resource_version,
            "finalizers": left,
        }});
        bounded(self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await?;
        tracing::info!(group = %self.desired.group, uid = ?object.metadata.uid, "the group is gone");
        Ok(())
    }

    /// Takes over tasks that another process wrote down.
    fn adopt_tasks(&mut self, connected: &Connected) {
        if std::mem::replace(&mut self.memory.adopted, true) {
            return;
        }
        let mut adopted = Vec::new();
        for member in &self.written().0.members {
            let Some(task) = &member.task else { continue };
            let kind = match member.state {
                MemberState::Planned | MemberState::Cloning => TaskKind::Clone,
                MemberState::Starting | MemberState::Ready => TaskKind::PowerOn,
                MemberState::Leaving => TaskKind::PowerOff,
            };
            adopted.push((member.uuid.clone(), kind, vmgroup_vsphere::TaskRef::new(task)));
        }
        for (uuid, kind, task) in adopted {
            self.memory.births.insert(uuid.clone(), Birth::Unresolved);
            if self.engine.tasks.started(&self.desired.uid, &self.desired.group, &uuid, kind, task.clone()) {
                connected.track(task);
            }
        }
    }

    fn hear_of_ended_tasks(&mut self) {
        for ended in self.engine.tasks.take_ended(&self.desired.uid) {
            let topic = Topic::Member(ended.member.clone());
            let outcome = match &ended.ending {
                Ending::Success => "success",
                Ending::Failed(fault) => fault.kind.category().as_str(),
                Ending::Gone => "gone",
            };
            self.engine.metrics.task(ended.kind.as_str(), outcome, ended.took);
            if ended.member == FOLDER {
                continue;
            }
            if ended.kind == TaskKind::Clone {
                // Whatever the task says, the inventory has the last word.
                self.memory.births.insert(ended.member.clone(), Birth::Unresolved);
            }
            match ended.ending {
                Ending::Success if ended.kind == TaskKind::Destroy => {
                    self.memory.births.insert(ended.member, Birth::Absent);
                    self.memory.clear(&topic);
                }
                Ending::Success => {
                    self.memory.clear(&topic);
                    if ended.kind == TaskKind::Clone {
                        self.memory.naming_attempts = 0;
                        self.memory.placement_attempts = 0;
                    }
                }
                Ending::Gone => {}
                Ending::Failed(fault) => match fault.kind {
                    FaultKind::InvalidPowerState { .. } | FaultKind::ManagedObjectNotFound { .. }
                        if ended.kind != TaskKind::Clone => {}
                    // Who has the name is found out when it is resolved.
                    FaultKind::DuplicateName { .. } => {}
                    _ => {
                        if ended.kind == TaskKind::Clone {
                            self.memory.placement_attempts += 1;
                        }
                        let why = why(fault.kind.category(), format!("{} failed: {fault}", ended.kind.as_str()));
                        self.fail(topic, MEMBER_BACKOFF, why);
                    }
                },
            }
        }
    }

    fn fail(&mut self, topic: Topic, base: Duration, why: Why) {
        self.notes.push(Note {
            kind: EventType::Warning,
            reason: why.reason.clone(),
            action: "Reconcile",
            text: why.message.clone(),
        });
        let random = self.engine.random();
        self.memory.fail(topic, self.now, base, random, why);
    }

    fn fail_vc(&mut self, topic: Topic, error: &VcError) {
        let why = why(error.category(), chain(error));
        self.fail(topic, MEMBER_BACKOFF, why);
    }

    /// The folder's name, kept once the group has one.
    fn folder(&mut self, connected: &Connected) -> FolderSeen {
        let (uid, group) = (self.desired.uid.as_str(), &self.desired.group);
        let recorded = self.written().0.folder.clone();
        let name = match recorded.as_ref().map(|folder| folder.name.clone()) {
            Some(name) if self.engine.claims.claim(&name, uid, group) => name,
            _ => {
                let name = folder::preferred(group);
                if self.engine.claims.claim(&name, uid, group) {
                    name
                } else {
                    let name = folder::fallback(group, uid);
                    self.engine.claims.claim(&name, uid, group);
                    name
                }
            }
        };
        let inventory = connected.inventory();
        let by_id = recorded
            .filter(|folder| folder.name == name)
            .and_then(|folder| folder.id)
            .map(FolderRef::new)
            .filter(|id| inventory.folder(id).is_some());
        if by_id.is_some() {
            self.memory.folder = None;
        }
        // A folder of our name that we have not recorded yet may be ours, made
        // by a call whose answer was lost; or it may hold other people's members.
        let id = by_id.or_else(|| self.memory.folder.clone()).or_else(|| {
            let found = inventory.folder_by_name(&connected.site.root_folder, &name)?;
            let others = inventory.in_folder(&found.id).iter().any(|vm| {
                vm.extra.get(observe::mark::GROUP_UID).is_some_and(|owner| *owner != self.desired.uid)
            });
            (!others).then(|| found.id.clone())
        });
        FolderSeen { name, id }
    }

    /// What there is, from the caches; whatever is in doubt is read afresh.
    async fn observe(&mut self, connected: &Connected) -> Result<Observed, StatusError> {
        let folder = self.folder(connected);
        let uid = self.desired.uid.clone();
        let mut vms: Vec<Vm> = connected
            .inventory()
            .indexed(&uid)
            .iter()
            .filter(|vm| is_member(vm, &uid))
            .map(|vm| Vm::clone(vm))
            .collect();
        let flights: HashMap<String, TaskKind> =
            self.engine.tasks.in_flight(&uid).into_iter().map(|(member, (kind, _))| (member, kind)).collect();
        let record = self.written().0.members.clone();
        let present: std::collections::HashSet<String> = vms.iter().map(|vm| vm.instance_uuid.to_lowercase()).collect();

        let mut doubtful: Vec<(String, Option<String>)> = record
            .iter()
            .map(|member| (member.uuid.to_lowercase(), Some(member.name.clone())))
            .chain(self.memory.known.iter().map(|uuid| (uuid.clone(), None)))
            .filter(|(uuid, _)| !present.contains(uuid) && !flights.contains_key(uuid))
            .filter(|(uuid, _)| self.memory.births.get(uuid) != Some(&Birth::Absent))
            .collect();
        doubtful.sort();
        doubtful.dedup_by(|a, b| a.0 == b.0);
        let mut dropped = Vec::new();
        self.memory.clear(&Topic::Reading);
        for (uuid, name) in doubtful {
            let name = record.iter().find(|member| member.uuid.eq_ignore_ascii_case(&uuid)).map(|member| member.name.clone()).or(name);
            match self.resolve(connected, &folder, &uuid, name.as_deref()).await {
                Ok(Resolved::Found(vm)) => vms.push(*vm),
                Ok(Resolved::Absent) => {
                    self.memory.births.insert(uuid, Birth::Absent);
                }
                Ok(Resolved::Unknown) => {
                    self.memory.births.insert(uuid, Birth::Unresolved);
                    self.look_again(SOON);
                }
                Ok(Resolved::NameTaken(name)) => {
                    self.memory.births.insert(uuid.clone(), Birth::Absent);
                    self.name_taken(&name);
                    dropped.push(uuid);
                }
                Err(error) => {
                    self.memory.births.insert(uuid, Birth::Unresolved);
                    self.fail_vc(Topic::Reading, &error);
                    self.look_again(SOON);
                }
            }
        }
        let record: Vec<MemberStatus> =
            record.into_iter().filter(|member| !dropped.contains(&member.uuid.to_lowercase())).collect();
        let held = self
            .memory
            .failures
            .iter()
            .filter_map(|(topic, failure)| match topic {
                Topic::Member(uuid) => Some((uuid.clone(), failure.until)),
                _ => None,
            })
            .collect();
        let know = Knowledge { flights, births: self.memory.births.clone(), held };
        let seen = observe::lay_over(folder, &record, &vms, &know);
        self.tidy(&seen);
        Ok(seen)
    }

    /// Forgets what is remembered of members that are no more.
    fn tidy(&mut self, seen: &Observed) {
        let present = |uuid: &String| seen.members.iter().any(|member| member.uuid == *uuid);
        self.memory.known =
            seen.members.iter().filter(|member| member.vm.is_some()).map(|member| member.uuid.clone()).collect();
        self.memory.births.retain(|uuid, _| present(uuid));
        self.memory.failures.retain(|topic, _| match topic {
            Topic::Member(uuid) => present(uuid),
            _ => true,
        });
        for member in &seen.members {
            if member.vm.is_some() {
                self.memory.births.remove(&member.uuid);
            }
        }
    }

    fn name_taken(&mut self, name: &str) {
        self.memory.taken.insert(name.to_owned());
        self.memory.naming_attempts += 1;
        self.notes.push(Note {
            kind: EventType::Warning,
            reason: "NameTaken".into(),
            action: "Clone",
            text: format!("the name {name} belongs to a virtual machine that is not of this group; asking for another name"),
        });
        if self.memory.naming_attempts >= NAMING_ATTEMPTS {
            let message = format!(
                "the naming policy gave {NAMING_ATTEMPTS} names in a row that belong to others, the last one {name}: change its pattern in the policy file, or rename or remove those virtual machines"
            );
            self.fail(Topic::Naming, POLICY_BACKOFF, Why { reason: "NamesTaken".into(), message, stalled: true });
        }
    }

    /// Finds out, by fresh reads, what became of a member that the inventory
    /// does not show. `name` is the recorded one, if it was ever to be cloned.
    async fn resolve(
        &self,
        connected: &Connected,
        folder: &FolderSeen,
        uuid: &str,
        name: Option<&str>,
    ) -> Result<Resolved, VcError> {
        let vcenter = self.engine.link.vcenter();
        let uid = &self.desired.uid;
        let ours = |vm: &Vm| is_member(vm, uid) && vm.instance_uuid.eq_ignore_ascii_case(uuid);
        if let Some(vm) = vcenter.find_by_uuid(uuid).await?.into_iter().find(|vm| ours(vm)) {
            return Ok(Resolved::Found(Box::new(vm)));
        }
        let Some(name) = name else { return Ok(Resolved::Absent) };
        let unborn = self
            .written()
            .0
            .members
            .iter()
            .find(|member| member.uuid.eq_ignore_ascii_case(uuid))
            .is_some_and(|member| matches!(member.state, MemberState::Planned | MemberState::Cloning));
        if !unborn {
            return Ok(Resolved::Absent);
        }
        if let Some(folder) = &folder.id {
            match vcenter.find_child(folder, name).await? {
                Some(vmgroup_vsphere::Child::Vm(vm)) if ours(&vm) => return Ok(Resolved::Found(Box::new(vm))),
                Some(_) => return Ok(Resolved::NameTaken(name.to_owned())),
                None => {}
            }
        }
        // A clone whose answer was lost may still be running.
        let template = connected.template(vcenter, &self.desired.template).await.ok();
        let strangers = vcenter.recent_tasks().await?.into_iter().any(|task| {
            !task.state.is_ended()
                && task.description_id == "VirtualMachine.clone"
                && template.as_ref().is_none_or(|template| task.entity.as_ref() == Some(&template.id.managed_object()))
                && !self.engine.tasks.knows(&task.id)
        });
        Ok(if strangers { Resolved::Unknown } else { Resolved::Absent })
    }

    /// Drops failures of questions that no longer arise.
    fn retire(&mut self, seen: &Observed, demand: &Demand) {
        let unborn = seen.members.iter().any(|member| member.vm.is_none() && !member.leaving());
        let settled = |uuid: &String| {
            seen.members.iter().any(|member| {
                member.uuid == *uuid
                    && !member.leaving()
                    && member.flight.is_none()
                    && member.vm.as_ref().is_some_and(observe::VmSeen::on)
            })
        };
        let deleting = self.desired.deleting;
        self.memory.failures.retain(|topic, _| match topic {
            Topic::Scaling => demand.excess > 0,
            Topic::Naming => demand.missing > 0,
            Topic::Placement | Topic::Template => !deleting && (unborn || demand.missing > 0),
            Topic::Folder => deleting || seen.folder.id.is_none(),
            Topic::Reading => true,
            Topic::Member(uuid) => !settled(uuid),
        });
    }

    fn slots(&mut self, demand: &Demand) -> usize {
        let wanted = demand.slots();
        if wanted == 0 { 0 } else { self.engine.tasks.request(&self.desired.uid, &self.desired.group, wanted) }
    }

    /// Asks the policies that have something to answer.
    async fn decide(
        &mut self,
        connected: &Connected,
        seen: &Observed,
        demand: &mut Demand,
        slots: usize,
    ) -> (Decisions, Option<Template>) {
        let mut decisions = Decisions::default();
        let births = if self.memory.held(&Topic::Naming, self.now) { 0 } else { demand.births(slots) };
        let resumed: Vec<String> = demand.resumed(slots).to_vec();
        let clones = births + resumed.len() > 0;
        let leave = demand.excess > 0 && !self.memory.held(&Topic::Scaling, self.now);
        if !clones && !leave {
            return (decisions, None);
        }
        let capacity = match connected.capacity(self.engine.link.vcenter()).await {
            Ok(capacity) => capacity,
            Err(error) => {
                self.fail_vc(Topic::Reading, &error);
                return (decisions, None);
            }
        };
        self.memory.clear(&Topic::Reading);
        if leave {
            self.ask_who_leaves(seen, &capacity, demand.excess, &mut decisions).await;
        }
        let template = if clones { self.find_template(connected).await } else { None };
        if template.is_some() {
            self.ask_for_names(connected, seen, &capacity, births, &mut decisions).await;
            self.ask_for_places(seen, &capacity, &resumed, &mut decisions).await;
        }
        (decisions, template)
    }

    async fn find_template(&mut self, connected: &Connected) -> Option<Template> {
        if self.memory.held(&Topic::Template, self.now) {
            return None;
        }
        match connected.template(self.engine.link.vcenter(), &self.desired.template).await {
            Ok(template) => {
                self.memory.clear(&Topic::Template);
                Some(template)
            }
            Err(error) => {
                let mut why = why(error.category(), chain(&error));
                match &error {
                    VcError::NotFound { .. } => why.reason = "TemplateNotFound".into(),
                    VcError::Ambiguous { .. } => {
                        why.reason = "TemplateAmbiguous".into();
                        why.message.push_str("; give the inventory path of the one you mean as spec.template of a new VmGroup");
                    }
                    _ => {}
                }
                self.fail(Topic::Template, MEMBER_BACKOFF, why);
                None
            }
        }
    }

    fn question<'q>(
        &'q self,
        seen: &'q Observed,
        capacity: &'q vmgroup_vsphere::Capacity,
        usage: &'q HashMap<VmRef, vmgroup_vsphere::Usage>,
        attempt: u32,
    ) -> Question<'q> {
        Question {
            desired: &self.desired,
            seen,
            capacity,
            usage,
            now: u64::try_from(self.now.as_second()).unwrap_or_default(),
            seed: self.engine.random(),
            attempt,
        }
    }

    async fn ask_who_leaves(
        &mut self,
        seen: &Observed,
        capacity: &vmgroup_vsphere::Capacity,
        count: usize,
        decisions: &mut Decisions,
    ) {
        let running: Vec<VmRef> = seen
            .members
            .iter()
            .filter(|member| !member.leaving())
            .filter_map(|member| member.vm.as_ref())
            .filter(|vm| vm.power == PowerState::On)
            .map(|vm| vm.id.clone())
            .collect();
        let usage = match self.engine.link.vcenter().usage(&running).await {
            Ok(usage) => usage,
            Err(error) => return self.fail_vc(Topic::Reading, &error),
        };
        let question = self.question(seen, capacity, &usage, 0);
        match self.engine.decider.choose(&self.serving, &question, count).await {
            Ok(victims) => {
                decisions.victims = victims;
                self.memory.clear(&Topic::Scaling);
            }
            Err(failed) => self.no_answer(Topic::Scaling, "nobody leaves", &failed),
        }
    }

    async fn ask_for_names(
        &mut self,
        connected: &Connected,
        seen: &Observed,
        capacity: &vmgroup_vsphere::Capacity,
        births: usize,
        decisions: &mut Decisions,
    ) {
        if births == 0 {
            return;
        }
        let uuids: Vec<String> = (0..births).map(|_| self.engine.new_uuid()).collect();
        let taken = self.taken(connected, seen);
        let usage = HashMap::new();
        let question = self.question(seen, capacity, &usage, self.memory.naming_attempts);
        match self.engine.decider.name(&self.serving, &question, uuids, taken).await {
            Ok((newcomers, everywhere)) => {
                let names: Vec<String> = newcomers.iter().map(|newcomer| newcomer.name.clone()).collect();
                match self.engine.reserved_names.reserve(&self.desired.uid, &names, everywhere) {
                    Ok(()) => decisions.newcomers = newcomers,
                    // Asked again at once: now the name is among those taken.
                    Err(_) => self.look_again(Duration::ZERO),
                }
                if self.memory.naming_attempts < NAMING_ATTEMPTS {
                    self.memory.clear(&Topic::Naming);
                }
            }
            Err(failed) => self.no_answer(Topic::Naming, "nothing is cloned", &failed),
        }
    }

    /// Names that are not free, here and elsewhere.
    fn taken(&self, connected: &Connected, seen: &Observed) -> Taken {
        let mut taken = Taken {
            in_group: seen.members.iter().map(|member| member.name.clone()).chain(self.memory.taken.iter().cloned()).collect(),
            elsewhere: Vec::new(),
        };
        for (folder, name) in connected.inventory().names() {
            if Some(&folder) == seen.folder.id.as_ref() { &mut taken.in_group } else { &mut taken.elsewhere }.push(name);
        }
        taken.elsewhere.extend(self.engine.reserved_names.of_others(&self.desired.uid));
        for names in [&mut taken.in_group, &mut taken.elsewhere] {
            names.sort();
            names.dedup();
        }
        taken
    }

    async fn ask_for_places(
        &mut self,
        seen: &Observed,
        capacity: &vmgroup_vsphere::Capacity,
        resumed: &[String],
        decisions: &mut Decisions,
    ) {
        if self.memory.held(&Topic::Placement, self.now) {
            decisions.newcomers.clear();
            return;
        }
        let newcomers: Vec<(String, String)> = seen
            .members
            .iter()
            .filter(|member| resumed.contains(&member.uuid))
            .map(|member| (member.uuid.clone(), member.name.clone()))
            .chain(decisions.newcomers.iter().map(|newcomer| (newcomer.uuid.clone(), newcomer.name.clone())))
            .collect();
        if newcomers.is_empty() {
            return;
        }
        let usage = HashMap::new();
        let question = self.question(seen, capacity, &usage, self.memory.placement_attempts);
        match self.engine.decider.place(&self.serving, &question, &newcomers).await {
            Ok(places) => {
                decisions.places = places;
                self.memory.clear(&Topic::Placement);
            }
            Err(failed) => {
                // Names without a place would be intents that lead nowhere.
                decisions.newcomers.clear();
                self.no_answer(Topic::Placement, "nothing is cloned", &failed);
            }
        }
    }

    fn no_answer(&mut self, topic: Topic, consequence: &str, failed: &NoAnswer) {
        let message = format!("policy {}: {}; {consequence}", failed.plugin, failed.error);
        let why = Why { reason: failed.error.reason().to_owned(), message, stalled: true };
        self.fail(topic, POLICY_BACKOFF, why);
    }

    /// Writes new intents down before anything is done about them.
    async fn persist(&mut self, seen: &Observed, plan: &Plan) -> Result<(), StatusError> {
        let old = self.written().0;
        let folder_known = old.folder.as_ref().is_some_and(|folder| folder.name == seen.folder.name);
        let needs_folder = plan.steps.iter().any(|step| matches!(step, plan::Step::CreateFolder { .. } | plan::Step::Clone { .. }));
        if status::same_intents(&old.members, &plan.record) && (folder_known || !needs_folder) {
            return Ok(());
        }
        let mut new = old.clone();
        new.members = status::listed(self.with_tasks(plan.record.clone()));
        new.folder = Some(FolderStatus { name: seen.folder.name.clone(), id: seen.folder.id.as_ref().map(ToString::to_string) });
        self.write(new).await?;
        for member in &plan.record {
            if member.state == MemberState::Planned {
                self.memory.births.entry(member.uuid.clone()).or_insert(Birth::Absent);
            }
        }
        let unborn = |member: &&MemberStatus| matches!(member.state, MemberState::Planned | MemberState::Cloning);
        let names = plan.record.iter().filter(unborn).map(|member| member.name.clone()).collect();
        self.engine.reserved_names.keep(&self.desired.uid, names);
        Ok(())
    }

    fn announce(&mut self, seen: &Observed, decisions: &Decisions) {
        if !decisions.newcomers.is_empty() {
            let names: Vec<&str> = decisions.newcomers.iter().map(|newcomer| newcomer.name.as_str()).collect();
            let mut text = format!("making {}", names.join(", "));
            if let Some(first) = decisions.newcomers.first() {
                let place = decisions.places.get(&first.uuid).map(|place| format!("; {}", place.reason)).unwrap_or_default();
                text.push_str(&format!(" ({}{place})", first.reason));
            }
            self.notes.push(Note { kind: EventType::Normal, reason: "ScalingOut".into(), action: "Clone", text });
        }
        let name_of = |uuid: &str| seen.members.iter().find(|member| member.uuid == uuid).map_or("?", |member| member.name.as_str());
        for victim in decisions.victims.iter().take(EVENTS_LIMIT) {
            let text = format!("{} leaves: {}", name_of(&victim.uuid), victim.reason);
            tracing::info!(group = %self.desired.group, member = name_of(&victim.uuid), reason = %victim.reason, "chosen to leave");
            self.notes.push(Note { kind: EventType::Normal, reason: "ScalingIn".into(), action: "Remove", text });
        }
        if decisions.victims.len() > EVENTS_LIMIT {
            let text = format!("{} more leave; the status names them all", decisions.victims.len() - EVENTS_LIMIT);
            self.notes.push(Note { kind: EventType::Normal, reason: "ScalingIn".into(), action: "Remove", text });
        }
    }

    /// Remembers what came of the steps. True if nothing is left of the group.
    fn digest(&mut self, connected: &Connected, effects: Vec<Effect>) -> bool {
        let mut finished = false;
        for effect in effects {
            match effect {
                Effect::Folder(folder) => {
                    self.memory.clear(&Topic::Folder);
                    self.memory.folder = Some(folder);
                }
                Effect::FolderTaken => self.change_folder(),
                Effect::Task { uuid, kind, .. } => {
                    if kind == TaskKind::Clone {
                        self.memory.births.insert(uuid, Birth::Awaited);
                    }
                }
                Effect::Already { .. } => {}
                Effect::Gone { uuid } => {
                    self.memory.births.insert(uuid, Birth::Unresolved);
                    self.look_again(SOON);
                }
                Effect::Unknown { uuid, kind, error } => {
                    if kind == TaskKind::Clone {
                        self.memory.births.insert(uuid.clone(), Birth::Unresolved);
                    }
                    self.fail_vc(Topic::Member(uuid), &error);
                }
                Effect::Failed { uuid, kind, error } => self.note_failed(connected, uuid, kind, &error),
                Effect::NotOurs { uuid } => {
                    let message = format!("virtual machine {uuid} has lost its owner mark and is left alone: remove it by hand, or put the mark back");
                    self.fail(Topic::Member(uuid), MEMBER_BACKOFF, Why { reason: "NotOurs".into(), message, stalled: true });
                }
                Effect::Fenced => self.look_again(SOON),
                Effect::Finished(left) => {
                    finished = true;
                    if let Some(text) = left {
                        self.notes.push(Note { kind: EventType::Warning, reason: "FolderLeft".into(), action: "Delete", text });
                    }
                }
                Effect::NotFinished => self.look_again(SOON),
            }
        }
        finished
    }

    fn note_failed(&mut self, connected: &Connected, uuid: Option<String>, kind: Option<TaskKind>, error: &VcError) {
        if kind == Some(TaskKind::Clone) {
            match error.fault() {
                Some(FaultKind::ManagedObjectNotFound { .. }) => {
                    connected.forget_template(&self.desired.template);
                    self.memory.folder = None;
                }
                Some(FaultKind::DuplicateName { .. }) => {
                    if let Some(uuid) = uuid {
                        self.memory.births.insert(uuid, Birth::Unresolved);
                        self.look_again(Duration::ZERO);
                    }
                    return;
                }
                _ => self.memory.placement_attempts += 1,
            }
        }
        let topic = uuid.map_or(Topic::Folder, Topic::Member);
        self.fail_vc(topic, error);
    }

    /// The folder's name turned out to be another group's, of another cluster.
    fn change_folder(&mut self) {
        let name = folder::fallback(&self.desired.group, &self.desired.uid);
        self.engine.claims.release(&self.desired.uid);
        self.engine.claims.claim(&name, &self.desired.uid, &self.desired.group);
        if let Some((status, _)) = &mut self.memory.written
            && let Some(folder) = &mut status.folder
        {
            // Takes effect with the next write; until then nothing is in there.
            folder.name = name;
            folder.id = None;
        }
        self.look_again(Duration::ZERO);
    }

    fn with_tasks(&self, mut record: Vec<MemberStatus>) -> Vec<MemberStatus> {
        let flights = self.engine.tasks.in_flight(&self.desired.uid);
        for member in &mut record {
            member.task = flights.get(&member.uuid).map(|(_, task)| task.to_string());
        }
        record
    }

    /// The members after the pass, from what was applied and observed.
    fn members(&self, connected: &Connected, seen: &Observed, plan: &Plan) -> Members {
        let flights = self.engine.tasks.in_flight(&self.desired.uid);
        let old = &self.written().0.members;
        let mut record = self.with_tasks(plan.record.clone());
        for member in &mut record {
            if member.state == MemberState::Planned && flights.contains_key(&member.uuid) {
                member.state = MemberState::Cloning;
            }
            let vm = seen.members.iter().find(|other| other.uuid == member.uuid).and_then(|other| other.vm.as_ref());
            let before = old.iter().find(|other| other.uuid == member.uuid);
            let host = vm.and_then(|vm| vm.host.as_ref());
            let store = vm.and_then(|vm| vm.datastore.as_ref());
            member.host = host.and_then(|host| connected.host_name(host)).or_else(|| before.and_then(|old| old.host.clone()));
            member.datastore =
                store.and_then(|store| connected.datastore_name(store)).or_else(|| before.and_then(|old| old.datastore.clone()));
        }
        Members {
            existing: seen.members.iter().filter(|member| member.vm.is_some()).count(),
            record,
            folder: Some(FolderStatus {
                name: seen.folder.name.clone(),
                id: seen.folder.id.as_ref().or(self.memory.folder.as_ref()).map(ToString::to_string),
            }),
        }
    }

    async fn report(
        &mut self,
        members: Option<&Members>,
        obstacle: Option<Obstacle>,
    ) -> Result<(), StatusError> {
        for failure in self.memory.failures.values() {
            // What is due already waits for something else: a slot, a swap.
            if failure.until > self.now {
                let pause = Duration::try_from(failure.until.duration_since(self.now)).unwrap_or_default();
                self.again = Some(self.again.map_or(pause, |other| other.min(pause)));
            }
        }
        let refusal = self.engine.policies.refusal().map(|refusal| {
            format!("{refusal}; what was in force before still is. {}", refusal.remedy)
        });
        let facts = Facts {
            group: &self.desired.group,
            generation: self.desired.generation,
            desired: Some(self.desired.replicas),
            deleting: self.desired.deleting,
            members,
            failures: &self.memory.failures,
            obstacle,
            refusal,
            policies: Some(policies(&self.serving)),
            now: k8s_time(self.now),
        };
        let new = report::status(self.written().0, &facts);
        self.write(new).await
    }
}

enum Resolved {
    Found(Box<Vm>),
    Absent,
    Unknown,
    NameTaken(String),
}

fn policies(serving: &Serving) -> PolicyStatus {
    let of = |policy: &Policy| PolicyInForce {
        plugin: policy.plugin().to_owned(),
        version: policy.description().version.clone(),
        digest: policy.digest().to_string(),
    };
    PolicyStatus { naming: of(&serving.set.naming), placement: of(&serving.set.placement), scaling: of(&serving.set.scaling) }
}

/// The reason of a condition and event, by the kind of error.
fn why(category: Category, message: String) -> Why {
    let (reason, stalled) = match category {
        Category::Transient => ("VCenterTransient", false),
        Category::Capacity => ("NoCapacity", false),
        Category::Configuration => ("Configuration", true),
        Category::Permission => ("NoPermission", true),
        Category::Gone => ("Gone", false),
        Category::Credentials => ("VCenterLoginRefused", true),
        Category::Conflict => ("Conflict", false),
    };
    Why { reason: reason.to_owned(), message, stalled }
}

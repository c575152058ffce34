//! A pass that is only rehearsed: the same questions, put to the same policies
//! or to one that is tried, with what they answer carried out in thought. Takes
//! the caches as they are, and what is under way as done. Who is changed or replaced, and
//! in which order, is in `change`.
//!
//! Must not write anything to anybody, nor remember anything.

mod change;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kube::api::Api;
use tokio::time::Instant;
use vmgroup_api::{MemberState, VmGroup};
use vmgroup_policy::wit::types::Purpose;
use vmgroup_policy::{Answer, Policy, Question as Asked};
use vmgroup_records::Asked as Who;
use vmgroup_vsphere::{Capacity, FolderRef, PowerState, Template, VmRef};

use super::ask::{purpose_of_births, running};
use super::{Engine, why};
use crate::clock;
use crate::connection::Connection;
use crate::decide::{self, NoAnswer, Question, newcomers, places, victims};
use crate::guest::{DataMark, Known};
use crate::link::{Connected, chain};
use crate::memory::{GroupMemory, Why};
use crate::observe::{self, Birth, BoundFor, FolderSeen, Knowledge, Observed, Seen, VmSeen};
use crate::ownership::Owner;
use crate::plan::{self, Demand};
use crate::policy_source::Serving;
use crate::preview::{Candidates, Coming, Counsel, Edit, Preview, PreviewError, Said, Trouble, Wish};
use crate::readiness::Waits;
use crate::revision::Made;
use crate::status::bounded;
use crate::target::{self, Ground};
use crate::validate::{Desired, MAX_REPLICAS, validate};
use crate::wake::GroupRef;
use crate::{folder, report};

/// A rehearsal under way.
struct Rehearsal<'a> {
    engine: &'a Engine,
    connection: Connection,
    connected: Arc<Connected>,
    serving: Serving,
    candidates: &'a [Arc<Policy>],
    desired: Desired,
    memory: GroupMemory,
    seen: Observed,
    ground: Ground,
    capacity: Arc<Capacity>,
    /// Found when somebody is to be made.
    template: Option<Template>,
    /// Why recorded members that do not exist yet are called as they are.
    named: HashMap<String, String>,
    /// How often the policy has said whose turn it is.
    turns: usize,
    preview: Preview,
}

impl Engine {
    /// What a group would look like after an edit, and how it would come to that.
    /// `candidates` are asked instead of the policies in force for their kinds.
    pub async fn preview(
        &self,
        group: &GroupRef,
        edit: Edit,
        candidates: &[Arc<Policy>],
    ) -> Result<Preview, PreviewError> {
        let api: Api<VmGroup> = Api::namespaced(self.kube.clone(), &group.namespace);
        let mut object =
            bounded(api.get_opt(&group.name)).await?.ok_or_else(|| PreviewError::NoGroup(group.clone()))?;
        let before = self.with_data(validate(&object)?);
        if before.deleting {
            return Err(PreviewError::Deleting(group.clone()));
        }
        let Edit { wish, template, cpu, memory } = edit;
        let spec = &mut object.spec;
        spec.template = template.unwrap_or_else(|| spec.template.clone());
        (spec.cpu, spec.memory) = (cpu.unwrap_or(spec.cpu), memory.unwrap_or(spec.memory));
        let mut desired = self.with_data(validate(&object)?);
        let wished_now = before.replicas;
        match wish {
            Wish::Members(replicas) => desired.replicas = replicas,
            Wish::Spec => {}
            // Who goes is asked, not who is changed or replaced.
            Wish::OneFewer => (desired.strategy.rolling, desired.restarted_at) = (false, None),
        }
        if desired.replicas > MAX_REPLICAS {
            return Err(PreviewError::TooMany { wanted: desired.replicas, limit: MAX_REPLICAS });
        }
        let connection = self.connections.of(&object);
        let connected = connection.link.up().map_err(PreviewError::NoLink)?;
        let memory = self.memories.peek(&desired.uid).unwrap_or_default();
        let destination = target::in_force(desired.destination.as_ref(), object.status.as_ref());
        let ground = Ground::of(destination, &connected, connection.name());
        let seen = self.look_only((&connection, &connected, &ground), &object, &before, &memory);
        let (seen, under_way) = settled(seen, &before, clock::seconds(self.clock.now()));
        let there: Vec<String> =
            seen.members.iter().filter(|member| member.vm.is_some()).map(|member| member.name.clone()).collect();
        if wish == Wish::OneFewer {
            desired.replicas = there.len().min(wished_now).saturating_sub(1);
        }
        let named = seen.members.iter().filter_map(|it| Some((it.uuid.clone(), it.reason.clone()?))).collect();
        let serving = candidates.iter().fold(Serving::clone(&self.policies.serving(desired.who())), Serving::trying);
        let preview = Preview {
            group: group.to_string(),
            wished_now,
            replicas: desired.replicas,
            members: there.len(),
            there,
            under_way,
            troubles: memory
                .failures
                .values()
                .map(|failure| Trouble { reason: failure.reason.clone(), message: failure.message.clone() })
                .collect(),
            ..Preview::default()
        };
        let mut rehearsal = Rehearsal {
            engine: self,
            capacity: connected.capacity(connection.link.vcenter()).await?,
            connection,
            connected,
            serving,
            candidates,
            desired,
            memory,
            seen,
            ground,
            template: None,
            named,
            turns: 0,
            preview,
        };
        rehearsal.preview.stopped = rehearsal.run().await.err();
        rehearsal.tell_who_is_left();
        Ok(rehearsal.preview)
    }

    /// With what is known of the group's user data.
    fn with_data(&self, mut desired: Desired) -> Desired {
        if let Known::Is(mark) = self.guest_data.known(&desired.uid) {
            desired.data = Some(mark);
        }
        desired
    }

    /// The group as the caches and its record have it, without a fresh read.
    fn look_only(
        &self,
        (connection, connected, ground): (&Connection, &Connected, &Ground),
        object: &VmGroup,
        desired: &Desired,
        memory: &GroupMemory,
    ) -> Observed {
        let status = object.status.clone().unwrap_or_default();
        let owner = Owner::of(desired, self.cluster.id());
        let inventory = connected.inventory();
        let recorded = status.folder.as_ref();
        let folder = FolderSeen {
            parent: ground.parent_for_folder(),
            name: recorded.map_or_else(|| folder::preferred(&desired.group), |folder| folder.name.clone()),
            id: recorded
                .and_then(|folder| folder.id.as_deref())
                .map(FolderRef::new)
                .filter(|id| inventory.folder(id).is_some())
                .or_else(|| memory.folder.clone()),
        };
        let vms = owner.members(&inventory.indexed(&desired.uid), &memory.vanished);
        let flights = connection.tasks.kinds_in_flight(&desired.uid);
        let (births, bound_for) = (memory.births.clone(), memory.bound_for.clone());
        let baseline = desired.baseline(status.baseline.as_deref());
        let know = Knowledge {
            flights,
            births,
            bound_for,
            baseline,
            readiness: desired.readiness,
            now: self.clock.now(),
            ..Knowledge::default()
        };
        observe::lay_over(&owner, folder, &status.members, &vms, &know)
    }
}

/// The group when all that is under way has ended well, and what that is: those
/// who leave are gone, those who are being made are there, and those who are being
/// changed or are not ready yet are ready.
fn settled(seen: Observed, before: &Desired, now: u64) -> (Observed, Vec<Said>) {
    let mut under_way = Vec::new();
    let mut members = Vec::new();
    for mut member in seen.members {
        let mut say = |reason: String| under_way.push(Said { name: member.name.clone(), reason });
        if member.leaving() {
            let why = member.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            say(format!("leaves{why}"));
            continue;
        }
        if member.being_made() {
            say("is being made".to_owned());
            let revision = member.revision.clone().unwrap_or_else(|| before.revision.clone());
            member.vm = Some(imagined(&member, Made { revision, ..before.made() }, before.data.clone(), now));
        } else if let Some(vm) = member.vm.as_mut().filter(|_| member.recorded == Some(MemberState::Changing)) {
            say("is being changed".to_owned());
            change::take_on(vm, before);
        } else if member.vm.as_ref().is_some_and(VmSeen::on) && !member.waits.ready {
            say("is not ready yet".to_owned());
        }
        member.waits.ready = member.vm.as_ref().is_some_and(VmSeen::on);
        member.recorded = member.vm.as_ref().map(|_| MemberState::Ready).or(member.recorded);
        member.flight = None;
        member.held_until = None;
        members.push(member);
    }
    (Observed { members, ..seen }, under_way)
}

/// The machine of a member that is made in thought.
fn imagined(member: &Seen, made: Made, data: Option<DataMark>, now: u64) -> VmSeen {
    let bound_for = member.bound_for.clone().unwrap_or_default();
    VmSeen {
        id: VmRef::new(format!("preview-{}", member.uuid)),
        power: PowerState::On,
        host: bound_for.host,
        datastore: bound_for.datastore,
        created_at: Some(now),
        cpus: made.cpus,
        memory_mib: made.memory_mib,
        made,
        data,
        restarted: None,
        cpu_hot_add: false,
        memory_hot_add: false,
        guest: None,
        stranded: None,
        attributes: BTreeMap::default(),
        fields: None,
        tags: None,
        outdated: false,
    }
}

impl Rehearsal<'_> {
    /// Round by round, as pass would follow pass, until nothing is left to do or
    /// something is in the way.
    async fn run(&mut self) -> Result<(), Trouble> {
        loop {
            let demand = plan::demand(&self.desired, &self.seen, self.engine.clock.now());
            if demand.excess > 0 {
                self.who_goes(demand.excess).await?;
            } else if !demand.forget.is_empty() {
                self.forget(&demand);
            } else if demand.missing + demand.resume.len() > 0 {
                self.who_comes(&demand).await?;
            } else if self.come_up() || self.change_at_once() {
                // What was waited for is so.
            } else if let Some(turn) = &demand.turn {
                if self.turns == change::TURNS {
                    break;
                }
                self.take_turn(turn).await?;
            } else {
                break;
            }
        }
        let left = self.seen.members.len();
        if left <= self.desired.replicas {
            return Ok(());
        }
        let demand = plan::demand(&self.desired, &self.seen, self.engine.clock.now());
        let held = report::held_back(demand.held_back, self.desired.replicas, self.desired.hold_scale_in);
        if let Some(message) = held {
            return Err(Trouble { reason: "ScaleInHeld".to_owned(), message });
        }
        Err(Trouble {
            reason: "Adopting".to_owned(),
            message: format!(
                "{} would have to leave, once the machines to be adopted are there",
                left - self.desired.replicas
            ),
        })
    }

    async fn who_goes(&mut self, count: usize) -> Result<(), Trouble> {
        let vcenter = self.connection.link.vcenter();
        let usage = vcenter.usage(&running(&self.seen)).await.map_err(|error| trouble(&error))?;
        let (asked, uuids) = self.question(&usage, None, Purpose::ScaleIn).for_victims(count);
        let answer = self.ask(&Arc::new(asked)).await?;
        let Answer::Scaling(chosen) = answer else { return Err(beside_the_point()) };
        let mut progress = false;
        for victim in victims(&uuids, chosen) {
            let Some(at) = self.seen.members.iter().position(|member| member.uuid == victim.uuid) else { continue };
            let member = self.part_with(at);
            self.preview.going.push(Said { name: member.name, reason: victim.reason });
            progress = true;
        }
        if progress { Ok(()) } else { Err(beside_the_point()) }
    }

    /// Takes a member out, whose name is free from then on.
    fn part_with(&mut self, at: usize) -> Seen {
        let member = self.seen.members.remove(at);
        self.memory.vanished.extend(member.vm.as_ref().map(|vm| vm.id.clone()));
        member
    }

    fn forget(&mut self, demand: &Demand) {
        let (gone, kept): (Vec<Seen>, Vec<Seen>) =
            self.seen.members.drain(..).partition(|member| demand.forget.contains(&member.uuid));
        self.seen.members = kept;
        let reason = "it was not made yet: nobody is asked".to_owned();
        self.preview.going.extend(gone.into_iter().map(|member| Said { name: member.name, reason: reason.clone() }));
    }

    /// A batch of newcomers, as large as there are tasks at a time.
    async fn who_comes(&mut self, demand: &Demand) -> Result<(), Trouble> {
        let slots = self.connection.tasks.limit().max(1);
        if let Some(Why { reason, message, .. }) = self.ground.lacks(self.seen.folder.id.is_some()).cloned() {
            return Err(Trouble { reason, message });
        }
        let site = self.ground.site.as_ref().map_or_else(|_| self.connected.site.clone(), Arc::clone);
        let room = self.connected.part(&site, &self.capacity);
        self.preview.candidates = Some(Candidates::of(&room));
        let purpose = purpose_of_births(demand);
        let disk_mib = self.template().await?;
        let usage = HashMap::new();
        // What is done to those who stand takes none of the slots: it is over in thought.
        let resumed = &demand.resume[..demand.resume.len().min(slots)];
        let births = demand.missing.min(slots - resumed.len());
        let mut batch: Vec<(String, String)> = self
            .seen
            .members
            .iter()
            .filter(|member| resumed.contains(&member.uuid))
            .map(|member| (member.uuid.clone(), member.name.clone()))
            .collect();
        if births > 0 {
            let taken = self.engine.taken(&self.connected, &self.seen, &self.desired.uid, &self.memory);
            let asked = self.question(&usage, None, purpose).for_names(births, taken);
            let answer = self.ask(&Arc::new(asked)).await?;
            let Answer::Naming(answer) = answer else { return Err(beside_the_point()) };
            let uuids = (0..births).map(|_| self.engine.new_uuid()).collect();
            for newcomer in newcomers(uuids, answer) {
                self.named.insert(newcomer.uuid.clone(), newcomer.reason);
                batch.push((newcomer.uuid, newcomer.name));
            }
        }
        let question = Question { capacity: &room, ..self.question(&usage, disk_mib, purpose) };
        let asked = Arc::new(question.for_places(&batch));
        let answer = self.ask(&asked).await?;
        let lines = answer.lines(&asked);
        let Answer::Placement(chosen) = answer else { return Err(beside_the_point()) };
        let mut bound_for = places(&room, &batch, chosen);
        decide::onto_named_datastores(site.any_datastore, &room, disk_mib, &mut bound_for);
        for ((uuid, name), line) in batch.into_iter().zip(lines) {
            let place = bound_for.remove(&uuid).unwrap_or_default();
            self.preview.coming.push(Coming {
                name: name.clone(),
                place: line.place.unwrap_or_default(),
                named: self.named.remove(&uuid).unwrap_or_default(),
                placed: line.reason,
            });
            self.seen.members.retain(|member| member.uuid != uuid);
            self.seen.members.push(Seen {
                uuid,
                name,
                recorded: Some(MemberState::Cloning),
                reason: None,
                waits: Waits::default(),
                revision: Some(self.desired.revision.clone()),
                vm: None,
                bound_for: Some(BoundFor { host: place.host, datastore: place.datastore }),
                flight: None,
                birth: Birth::Awaited,
                held_until: None,
                stopping_since: None,
                asked_to_stop: false,
            });
        }
        self.seen.members.sort_by(|a, b| (&a.name, &a.uuid).cmp(&(&b.name, &b.uuid)));
        Ok(())
    }

    /// The disk space that a member will take; nothing can be made without a
    /// template.
    async fn template(&mut self) -> Result<Option<u64>, Trouble> {
        if self.template.is_none() {
            let found = self.connected.template(self.connection.link.vcenter(), &self.desired.template).await;
            self.template = Some(found.map_err(|error| trouble(&error))?);
        }
        Ok(self.desired.disk_mib(self.template.as_ref().and_then(|template| template.disk_mib)))
    }

    fn question<'q>(
        &'q self,
        usage: &'q HashMap<VmRef, vmgroup_vsphere::Usage>,
        disk_mib: Option<u64>,
        purpose: Purpose,
    ) -> Question<'q> {
        let now = self.engine.clock.now();
        Question {
            desired: &self.desired,
            seen: &self.seen,
            capacity: &self.capacity,
            usage,
            now: clock::seconds(now),
            utc_offset_minutes: self.engine.utc_offset_minutes(now),
            seed: self.engine.random(),
            disk_mib,
            attempt: 0,
            purpose,
        }
    }

    async fn ask(&mut self, asked: &Arc<Asked>) -> Result<Answer, Trouble> {
        let kind = asked.kind();
        let policy = self.serving.set.get(kind).clone();
        let (budget, allowance) = (&self.engine.decider.budget, self.serving.budget);
        let namespace = &self.desired.group.namespace;
        let withheld = match self.serving.withheld.get(&kind) {
            Some(why) => Some(decide::withheld(why)),
            // Who is tried is asked on nobody's account.
            None if self.is_tried(&policy) => None,
            None => budget.is_spent(namespace, allowance, Instant::now()).then(|| decide::over_budget(allowance)),
        };
        let held = withheld.is_some();
        let mut told = match withheld {
            Some(held) => Err(held),
            None => self.ask_one(&policy, asked).await,
        };
        if told.is_err()
            && !held
            && let Some(instead) = self.serving.instead(kind).cloned()
        {
            told = self.ask_one(&instead, asked).await;
        }
        told.map_err(|NoAnswer { plugin, error }| Trouble {
            reason: error.reason().to_owned(),
            message: format!("policy {plugin}, asked for {kind}: {error}"),
        })
    }

    fn is_tried(&self, policy: &Arc<Policy>) -> bool {
        self.candidates.iter().any(|candidate| Arc::ptr_eq(candidate, policy))
    }

    async fn ask_one(&mut self, policy: &Arc<Policy>, asked: &Arc<Asked>) -> Result<Answer, NoAnswer> {
        let tried = self.is_tried(policy);
        let counsel = Counsel { kind: policy.kind(), policy: Who::of(policy), tried };
        if !self.preview.asked.contains(&counsel) {
            self.preview.asked.push(counsel);
        }
        self.engine.decider.try_out(policy, asked).await
    }
}

fn trouble(error: &vmgroup_vsphere::Error) -> Trouble {
    let why = why(error.category(), chain(error));
    Trouble { reason: why.reason, message: why.message }
}

/// The policy host answers each question in kind and in full; this is for the
/// compiler.
fn beside_the_point() -> Trouble {
    Trouble { reason: "PolicyError".to_owned(), message: "the policy answered another question".to_owned() }
}

//! The step that decides: which questions are put to which policies now, and
//! what becomes of their answers. Must not write anything to anybody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, ListParams};
use kube::core::DeserializeGuard;
use tokio::time::Instant;
use vmgroup_api::VmGroup;
use vmgroup_policy::wit::types::Purpose;
use vmgroup_vsphere::Error as VcError;
use vmgroup_vsphere::{Capacity, Category, PowerState, Site, Source, Template, VmRef};

use super::{Engine, NAMING_ATTEMPTS, POLICY_PATIENCE, Pass, why};
use super::{attributes, tags};
use crate::blueprint::Blueprint;
use crate::budget::Denied;
use crate::decide::{self, NoAnswer, Question, Taken, over_budget};
use crate::link::{Connected, Problem, chain};
use crate::memory::{GroupMemory, Patience, Topic, Why};
use crate::observe::{Observed, Seen};
use crate::plan::rollout::{self, Need, Turn};
use crate::plan::{Decisions, Demand, Victim};
use crate::quota::{self, Amount, Wish};
use crate::room::{self, Each, Fit, Makes};
use crate::status::bounded;
use crate::target::Ground;
use crate::validate::Desired;

/// The reason of a group whose namespace has used up its time.
const OVER_BUDGET: &str = "PolicyOverBudget";

/// How soon a namespace's quota is looked at again. Who waits for room is woken; this is
/// for when whoever had to wake it is no more.
const QUOTA_PATIENCE: Patience = Patience::seconds(60, 300);

/// How soon a pass is made again that found the time of its namespace promised to others.
const BUSY: Duration = Duration::from_secs(5);

impl Engine {
    /// Names that are not free, in the group and elsewhere.
    pub(super) fn taken(&self, connected: &Connected, seen: &Observed, uid: &str, memory: &GroupMemory) -> Taken {
        let mut taken = Taken {
            in_group: seen
                .members
                .iter()
                .map(|member| member.name.clone())
                .chain(memory.taken.iter().cloned())
                .collect(),
            elsewhere: Vec::new(),
        };
        for (vm, folder, name) in connected.inventory().names() {
            // Its name is free, whatever the watch still shows.
            if memory.vanished.contains(&vm) {
                continue;
            }
            if Some(&folder) == seen.folder.id.as_ref() { &mut taken.in_group } else { &mut taken.elsewhere }
                .push(name);
        }
        taken.elsewhere.extend(self.reserved_names.of_others(uid));
        for names in [&mut taken.in_group, &mut taken.elsewhere] {
            names.sort();
            names.dedup();
        }
        taken
    }
}

impl Pass<'_> {
    /// Drops failures of questions that no longer arise.
    pub(super) fn retire(&mut self, seen: &Observed, demand: &Demand) {
        let unborn = seen.members.iter().any(|member| member.vm.is_none() && !member.leaving());
        let desired = &self.desired;
        let settled = |uuid: &String| {
            seen.members.iter().any(|member| {
                member.uuid == *uuid
                    && member.flight.is_none()
                    && rollout::runs(desired, member)
                    && !rollout::is_touched(desired, member)
                    && member.vm.as_ref().is_some_and(|vm| !vm.has_fields_to_set(desired))
            })
        };
        let deleting = desired.deleting;
        let successors = demand.turn.as_ref().is_some_and(|turn| turn.successors);
        let (now, annotate) = (self.now, attributes::left(desired, seen) > 0);
        let tag = tags::left(desired, seen) > 0;
        self.memory.failures.retain(|topic, failure| match topic {
            Topic::Scaling => demand.excess > 0,
            Topic::Rollout => demand.turn.is_some(),
            Topic::Naming | Topic::Quota => demand.missing > 0,
            Topic::Placement => !deleting && (unborn || demand.missing > 0),
            Topic::Room | Topic::Template | Topic::Guest => !deleting && (unborn || demand.missing > 0 || successors),
            Topic::Folder => deleting || seen.folder.id.is_none(),
            Topic::Target => wants_site(desired, seen, demand),
            Topic::Reading => true,
            // It may have worked all the same.
            Topic::Attributes => failure.until > now || annotate,
            Topic::Tags => failure.until > now || tag,
            Topic::Member(uuid) => !settled(uuid),
        });
    }

    /// What new members may be put on. Nothing if that is not to be had, which is told
    /// if there is anything to be made.
    pub(super) fn site(&mut self, ground: &Ground, seen: &Observed, demand: &Demand) -> Option<Arc<Site>> {
        let Some(why) = ground.lacks(seen.folder.id.is_some()) else {
            self.memory.clear(&Topic::Target);
            return ground.site.as_ref().ok().cloned();
        };
        if wants_site(&self.desired, seen, demand) && !self.memory.held(&Topic::Target, self.now) {
            self.fail(Topic::Target, why.clone());
        }
        None
    }

    pub(super) fn slots(&mut self, demand: &Demand) -> usize {
        let wanted = demand.slots();
        if wanted == 0 { 0 } else { self.connection.tasks.request(&self.desired.uid, &self.desired.group, wanted) }
    }

    /// Asks the policies that have something to answer.
    pub(super) async fn decide(
        &mut self,
        (connected, site): (&Connected, Option<&Arc<Site>>),
        seen: &Observed,
        demand: &Demand,
        slots: usize,
    ) -> (Decisions, Option<Blueprint>) {
        let mut decisions = Decisions::default();
        let held = self.memory.held(&Topic::Naming, self.now) || self.memory.held(&Topic::Placement, self.now);
        // As long as nothing has gone there is no room where there was none.
        let full = self.memory.held(&Topic::Room, self.now) && self.memory.no_room == self.connection.room.epoch();
        let nowhere = full || site.is_none();
        let births = self.within_quota(seen, if held || nowhere { 0 } else { demand.births(slots) }).await;
        let resumed = if nowhere { Vec::new() } else { demand.resumed(slots).to_vec() };
        let clones = births + resumed.len() > 0;
        let leave = demand.excess > 0 && !self.memory.held(&Topic::Scaling, self.now);
        let turn = demand.turn.as_ref().filter(|_| !self.memory.held(&Topic::Rollout, self.now));
        // Nobody goes whose successor has no place to go to.
        let turn = turn.filter(|turn| !(turn.successors && nowhere));
        if !clones && !leave && turn.is_none() {
            return (decisions, None);
        }
        let (budget, allowance) = (&self.engine.decider.budget, self.serving.budget);
        let _turn = match budget.enter(&self.desired.group, allowance, Instant::now()) {
            Ok(turn) => turn,
            Err(Denied::Busy) => {
                // It is woken; this is for when whoever had to wake it is no more.
                self.look_again(BUSY);
                return (decisions, None);
            }
            Err(Denied::Spent(wait)) => {
                let asked = [
                    (leave, Topic::Scaling),
                    (turn.is_some(), Topic::Rollout),
                    (births > 0, Topic::Naming),
                    (!resumed.is_empty(), Topic::Placement),
                ];
                for (_, topic) in asked.into_iter().filter(|(asked, _)| *asked) {
                    self.over_budget(topic, wait);
                }
                return (decisions, None);
            }
        };
        let Some((mut capacity, read)) = self.read_capacity(connected).await else { return (decisions, None) };
        self.memory.clear(&Topic::Reading);
        if leave {
            let about = (Topic::Scaling, Purpose::ScaleIn, demand.excess);
            decisions.victims = self.ask_who((seen, &capacity), about, "nobody leaves").await;
        }
        // Nobody goes whose successor cannot be made.
        let successors = turn.is_some_and(|turn| turn.successors);
        let blueprint = if clones || successors { self.find_blueprint(connected).await } else { None };
        let as_told = blueprint.as_ref().is_none_or(|blueprint| self.is_as_told(blueprint));
        let part_of = |all: &Arc<Capacity>| site.map_or_else(|| all.clone(), |site| connected.part(site, all));
        let mut part = part_of(&capacity);
        let mut fit = blueprint.as_ref().map(|blueprint| self.fit(&part, read, blueprint));
        let short = fit.as_ref().is_some_and(|fit| fit.count < births + resumed.len());
        if let Some(blueprint) = blueprint.as_ref().filter(|_| short && self.connection.room.freed_since(read)) {
            // There may be more by now.
            connected.forget_capacity();
            let Some((now, read)) = self.read_capacity(connected).await else { return (decisions, None) };
            part = part_of(&now);
            fit = Some(self.fit(&part, read, blueprint));
            capacity = now;
        }
        let turn = turn.filter(|_| !successors || (blueprint.is_some() && as_told));
        let (turn, births, resumed) = self.within_room(seen, fit.as_ref(), turn, (births, resumed)).await;
        let clones = births + resumed.len() > 0;
        if let Some(turn) = turn {
            let (candidates, purpose) = question_of_turn(&turn, seen);
            let about = (Topic::Rollout, purpose, turn.count);
            decisions.turns = self.ask_who((&candidates, &capacity), about, "nobody is changed or replaced").await;
        }
        if let (Some(blueprint), Some(site)) = (blueprint.as_ref().filter(|_| clones), site) {
            let purpose = purpose_of_births(demand);
            self.ask_for_names(connected, seen, &part, (purpose, births), &mut decisions).await;
            self.ask_for_places(seen, (site, &part), (purpose, blueprint, &resumed), &mut decisions).await;
        }
        (decisions, blueprint)
    }

    /// How many of so many newcomers the quota of the namespace lets be made now.
    async fn within_quota(&mut self, seen: &Observed, births: usize) -> usize {
        if births == 0 {
            return 0;
        }
        let (group, ledger) = (&self.desired.group, &self.engine.ledger);
        let quota = match self.engine.connections.quota(&group.namespace) {
            Ok(Some(quota)) => quota,
            Ok(None) => {
                self.memory.clear(&Topic::Quota);
                return births;
            }
            Err(Problem { reason, message, stalled }) => {
                self.fail(Topic::Quota, Why { reason: reason.to_owned(), message, stalled, patience: QUOTA_PATIENCE });
                return 0;
            }
        };
        if !ledger.has_read(&group.namespace) {
            // Whoever led before may have begun what no pass of ours has seen yet.
            let all: Api<DeserializeGuard<VmGroup>> = Api::namespaced(self.engine.kube.clone(), &group.namespace);
            match bounded(all.list(&ListParams::default())).await {
                Ok(groups) => {
                    let groups = groups.items.into_iter().filter_map(|group| group.0.ok());
                    let had = groups.filter_map(|group| Some((group.metadata.uid.clone()?, Amount::had_by(&group))));
                    ledger.read(&self.desired.group.namespace, had);
                }
                Err(error) => {
                    let why = Why {
                        reason: "Waiting".to_owned(),
                        message: format!("what the namespace's groups have cannot be read: {}", chain(&error)),
                        stalled: false,
                        patience: QUOTA_PATIENCE,
                    };
                    self.fail(Topic::Quota, why);
                    return 0;
                }
            }
        }
        let wish = Wish { has: self.amount(seen.members.len()), each: self.amount(1), more: births };
        let (group, ledger) = (&self.desired.group, &self.engine.ledger);
        match ledger.ask(group, &self.desired.uid, &quota, wish) {
            Ok(()) => {
                self.memory.clear(&Topic::Quota);
                births
            }
            Err(short) => {
                let message = quota::told(&group.namespace, &quota, &wish, &short);
                let reason = "QuotaExceeded".to_owned();
                self.fail(Topic::Quota, Why { reason, message, stalled: false, patience: QUOTA_PATIENCE });
                short.granted
            }
        }
    }

    async fn read_capacity(&mut self, connected: &Connected) -> Option<(Arc<Capacity>, Instant)> {
        match connected.capacity_as_read(self.connection.link.vcenter()).await {
            Ok(read) => Some(read),
            Err(error) => {
                self.fail_vc(Topic::Reading, &error);
                None
            }
        }
    }

    /// How many members fit.
    fn fit(&self, capacity: &Capacity, read: Instant, blueprint: &Blueprint) -> Fit {
        let disk_mib = self.desired.make.disk_mib(blueprint.source.disk_mib());
        let promised = self.connection.room.promised(&self.connection.tasks, read);
        room::fit(capacity, &promised, Each { disk_mib, memory_mib: self.desired.memory_mib })
    }

    /// Of those whose turn it is, of the newcomers and of the resumed: who finds room now.
    /// Who does not waits for it.
    async fn within_room(
        &mut self,
        seen: &Observed,
        fit: Option<&Fit>,
        turn: Option<&Turn>,
        (births, mut resumed): (usize, Vec<String>),
    ) -> (Option<Turn>, usize, Vec<String>) {
        let Some(fit) = fit else { return (turn.cloned(), births, resumed) };
        let wanted = births + resumed.len();
        resumed.truncate(fit.count);
        let births = births.min(fit.count - resumed.len());
        let granted = births + resumed.len();
        let turns = match turn {
            Some(turn) if turn.successors => self.who_may_leave(seen, fit, turn, granted).await,
            turn => turn.cloned(),
        };
        let group = &self.desired.group;
        if granted == wanted && turns.as_ref().is_none_or(|turn| turn.count > 0) {
            self.connection.room.leave(group);
            self.memory.clear(&Topic::Room);
        } else {
            let epoch = self.connection.room.wait(group);
            if std::mem::replace(&mut self.memory.no_room, epoch) != epoch {
                // It was another want of room.
                self.memory.clear(&Topic::Room);
            }
            let wanted = wanted.max(usize::from(turns.as_ref().is_some_and(|turn| turn.count == 0)));
            let message = format!(
                "{}: {granted} of {wanted} more can be made now; the rest follows when there is room",
                fit.figures
            );
            self.fail(Topic::Room, why(Category::Capacity, message));
        }
        (turns.filter(|turn| turn.count > 0), births, resumed)
    }

    /// Of those whose turn it is: how many may go, and from whom they are chosen, so that
    /// there is room for all successors. With a count of 0 there is none; nothing: others
    /// who leave come first, or nobody knows.
    async fn who_may_leave(&mut self, seen: &Observed, fit: &Fit, turn: &Turn, granted: usize) -> Option<Turn> {
        let (leaving, staying): (Vec<&Seen>, Vec<&Seen>) = seen.members.iter().partition(|member| member.leaving());
        if !fit.hosts {
            return Some(Turn { count: 0, ..turn.clone() });
        }
        let replicas = self.desired.replicas;
        // Who is there besides those that are wished needs no successor.
        let spare = fit.count.saturating_sub(granted).saturating_add(staying.len().saturating_sub(replicas));
        let to_follow = leaving.len().min(replicas.saturating_sub(staying.len()));
        if spare.saturating_sub(to_follow) >= turn.count {
            return Some(turn.clone());
        }
        let candidates: Vec<&Seen> = staying.into_iter().filter(|member| turn.from.contains(&member.uuid)).collect();
        let vms: Vec<VmRef> =
            leaving.iter().chain(&candidates).filter_map(|member| Some(member.vm.as_ref()?.id.clone())).collect();
        let occupied = match self.connection.link.vcenter().occupied(&vms).await {
            Ok(occupied) => occupied,
            Err(error) => {
                self.fail_vc(Topic::Reading, &error);
                return None;
            }
        };
        let made_by = |member: &Seen| {
            let gives = member.vm.as_ref().and_then(|vm| occupied.get(&vm.id));
            gives.map_or(Makes::Nothing, |gives| fit.made_by(gives))
        };
        let makes = |member: &Seen| match rollout::due(&self.desired, member) {
            Need::Successor(_) => made_by(member),
            Need::Nothing | Need::Resize | Need::Cycle(_) => Makes::All,
        };
        let paid = leaving.iter().filter(|member| made_by(member) == Makes::All).count();
        let owed = to_follow.saturating_sub(paid);
        let all: Vec<Makes> = candidates.iter().map(|member| makes(member)).collect();
        let (count, least) = room::may_leave(turn.count, &all, spare, owed);
        if count == 0 && owed > 0 {
            return None;
        }
        let from = candidates.into_iter().zip(all).filter(|(_, makes)| *makes >= least);
        let from = from.map(|(member, _)| member.uuid.clone()).collect();
        Some(Turn { count, from, ..turn.clone() })
    }

    /// So many members of this group.
    pub(super) fn amount(&self, members: usize) -> Amount {
        Amount::of(members, self.desired.cpus, self.desired.memory_mib / 1024)
    }

    async fn find_source(&mut self, connected: &Connected) -> Option<Source> {
        if self.memory.held(&Topic::Template, self.now) {
            return None;
        }
        let vcenter = self.connection.link.vcenter();
        let found = async {
            let template = connected.template(vcenter, &self.desired.template).await?;
            let snapshot = if self.desired.linked { vcenter.current_snapshot(&template.id).await? } else { None };
            Ok::<_, VcError>(Source { template, snapshot })
        };
        match found.await {
            Ok(source) if self.desired.linked && source.snapshot.is_none() => {
                self.fail(Topic::Template, without_snapshot(&source.template));
                None
            }
            Ok(source) => {
                self.memory.clear(&Topic::Template);
                Some(source)
            }
            Err(error) => {
                let mut why = why(error.category(), chain(&error));
                match &error {
                    VcError::NotFound { .. } => why.reason = "TemplateNotFound".into(),
                    VcError::Ambiguous { .. } => {
                        why.reason = "TemplateAmbiguous".into();
                        why.message.push_str("; give the inventory path of the one you mean as spec.template");
                    }
                    _ => {}
                }
                self.fail(Topic::Template, why);
                None
            }
        }
    }

    /// What clones are made from.
    async fn find_blueprint(&mut self, connected: &Connected) -> Option<Blueprint> {
        if self.memory.held(&Topic::Guest, self.now) {
            return None;
        }
        let source = self.find_source(connected).await?;
        let (vcenter, kube) = (self.connection.link.vcenter(), &self.engine.kube);
        match Blueprint::find(source, &self.desired, connected, vcenter, kube).await {
            Ok(blueprint) => {
                self.memory.clear(&Topic::Guest);
                Some(blueprint)
            }
            Err(lacking) => {
                let mut why = why(lacking.category(), chain(&lacking));
                if let Some(reason) = lacking.reason() {
                    reason.clone_into(&mut why.reason);
                }
                self.fail(Topic::Guest, why);
                None
            }
        }
    }

    /// Whether user data is what the watch has told of it last. If not, the fresh read
    /// counts, and nobody goes for what was true once.
    fn is_as_told(&mut self, blueprint: &Blueprint) -> bool {
        let (Some(told), Some(data)) = (&self.desired.data, &blueprint.user_data) else { return true };
        let same = *told == data.mark(&self.desired.uid);
        if !same {
            self.engine.guest_data.note(&self.desired.uid, data);
            self.look_again(Duration::ZERO);
        }
        same
    }

    fn question<'q>(
        &'q self,
        seen: &'q Observed,
        capacity: &'q Capacity,
        usage: &'q HashMap<VmRef, vmgroup_vsphere::Usage>,
        (purpose, attempt): (Purpose, u32),
    ) -> Question<'q> {
        Question {
            desired: &self.desired,
            seen,
            capacity,
            usage,
            now: self.seconds(),
            utc_offset_minutes: self.engine.utc_offset_minutes(self.now),
            seed: self.engine.random(),
            disk_mib: None,
            attempt,
            purpose,
        }
    }

    /// Asks who of these members leaves, or is changed. Nobody, if there is no legal
    /// answer.
    async fn ask_who(
        &mut self,
        (seen, capacity): (&Observed, &Capacity),
        (topic, purpose, count): (Topic, Purpose, usize),
        without: &str,
    ) -> Vec<Victim> {
        let usage = match self.connection.link.vcenter().usage(&running(seen)).await {
            Ok(usage) => usage,
            Err(error) => {
                self.fail_vc(Topic::Reading, &error);
                return Vec::new();
            }
        };
        let question = self.question(seen, capacity, &usage, (purpose, 0));
        match self.engine.decider.choose(&self.serving, &question, count).await {
            Ok(chosen) => {
                self.memory.clear(&topic);
                chosen
            }
            Err(failed) => {
                self.no_answer(topic, without, &failed);
                Vec::new()
            }
        }
    }

    async fn ask_for_names(
        &mut self,
        connected: &Connected,
        seen: &Observed,
        capacity: &Capacity,
        (purpose, births): (Purpose, usize),
        decisions: &mut Decisions,
    ) {
        if births == 0 {
            return;
        }
        let uuids: Vec<String> = (0..births).map(|_| self.engine.new_uuid()).collect();
        let taken = self.engine.taken(connected, seen, &self.desired.uid, &self.memory);
        let usage = HashMap::new();
        let question = self.question(seen, capacity, &usage, (purpose, self.memory.naming_attempts));
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

    async fn ask_for_places(
        &mut self,
        seen: &Observed,
        (site, capacity): (&Site, &Capacity),
        (purpose, blueprint, resumed): (Purpose, &Blueprint, &[String]),
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
        let disk_mib = self.desired.make.disk_mib(blueprint.source.disk_mib());
        let question =
            Question { disk_mib, ..self.question(seen, capacity, &usage, (purpose, self.memory.placement_attempts)) };
        match self.engine.decider.place(&self.serving, &question, &newcomers).await {
            Ok(mut places) => {
                decide::onto_named_datastores(site.any_datastore, capacity, disk_mib, &mut places);
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

    fn over_budget(&mut self, topic: Topic, wait: Duration) {
        let NoAnswer { plugin: _, error } = over_budget(self.serving.budget);
        let (reason, message) = (OVER_BUDGET.to_owned(), error.to_string());
        let patience = Patience { first: wait, most: wait };
        self.fail(topic, Why { reason, message, stalled: true, patience });
    }

    fn no_answer(&mut self, topic: Topic, consequence: &str, failed: &NoAnswer) {
        let message = format!("policy {}: {}; {consequence}", failed.plugin, failed.error);
        let reason = failed.error.reason().to_owned();
        self.fail(topic, Why { reason, message, stalled: true, patience: POLICY_PATIENCE });
    }
}

/// Whether there is anything to be made.
fn wants_site(desired: &Desired, seen: &Observed, demand: &Demand) -> bool {
    let clones = demand.missing > 0 || !demand.resume.is_empty();
    let successors = demand.turn.as_ref().is_some_and(|turn| turn.successors);
    !desired.deleting && (seen.folder.id.is_none() || clones || successors)
}

/// What newcomers are made for.
pub(super) fn purpose_of_births(demand: &Demand) -> Purpose {
    match (demand.evacuating, demand.replacing) {
        (true, _) => Purpose::Evacuation,
        (false, true) => Purpose::Replacement,
        (false, false) => Purpose::ScaleOut,
    }
}

/// Of whom it is asked whose turn it is, and what for.
pub(super) fn question_of_turn(turn: &Turn, seen: &Observed) -> (Observed, Purpose) {
    let members = seen.members.iter().filter(|member| turn.from.contains(&member.uuid)).cloned().collect();
    let purpose = if turn.evacuation { Purpose::Evacuation } else { Purpose::Replacement };
    (Observed { members, ..seen.clone() }, purpose)
}

/// Whose use is of interest when somebody has to leave.
pub(super) fn running(seen: &Observed) -> Vec<VmRef> {
    seen.members
        .iter()
        .filter(|member| !member.leaving())
        .filter_map(|member| member.vm.as_ref())
        .filter(|vm| vm.power == PowerState::On)
        .map(|vm| vm.id.clone())
        .collect()
}

/// A linked clone has to begin with something.
fn without_snapshot(template: &Template) -> Why {
    Why {
        reason: "TemplateWithoutSnapshot".to_owned(),
        message: format!(
            "cloneMode is linked, and the template {} has no snapshot: make one (as a machine, then mark it as a template again), or set spec.cloneMode to full",
            template.path
        ),
        stalled: true,
        patience: Patience::seconds(10, 300),
    }
}

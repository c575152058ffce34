//! The steps around applying: intents written down before, effects remembered
//! and the status written after.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use vmgroup_api::condition::MESSAGE_LIMIT;
use vmgroup_api::{FolderStatus, MemberState, MemberStatus, PolicyInForce, PolicyStatus, VmGroupStatus};
use vmgroup_policy::Kind;
use vmgroup_vsphere::{Error as VcError, FaultKind, Site};

use super::{EVENTS_LIMIT, NOT_OURS_PATIENCE, Note, Pass, SETTLING, SOON};
use super::{attributes, tags};
use crate::apply::Effect;
use crate::blueprint::Blueprint;
use crate::clock::k8s_time;
use crate::evacuation::{self, Told};
use crate::events::EventType;
use crate::link::Connected;
use crate::memory::{Topic, Why};
use crate::observe::{Birth, BoundFor, Observed, VmSeen};
use crate::plan::rollout::{self, Progress};
use crate::plan::{Decisions, Plan};
use crate::policy_source::{Chosen, Serving};
use crate::report::{Facts, HOST_LEAVING, Members, Obstacle, ROLLOUT_STALLED};
use crate::room::Calls;
use crate::status::StatusError;
use crate::tasks::TaskKind;
use crate::{folder, plan, report, status, stop};

impl Pass<'_> {
    /// Writes new intents down before anything is done about them.
    pub(super) async fn persist(&mut self, seen: &Observed, plan: &Plan) -> Result<(), StatusError> {
        // What was named and then not placed is free again.
        let unborn = |member: &&MemberStatus| matches!(member.state, MemberState::Planned | MemberState::Cloning);
        let names = plan.record.iter().filter(unborn).map(|member| member.name.clone()).collect();
        self.engine.reserved_names.keep(&self.desired.uid, names);
        let old = self.written().0;
        let id = seen.folder.id.as_ref().map(ToString::to_string);
        // A reference in the record that is not there any more would hide that the
        // folder was asked for anew.
        let same = |folder: &FolderStatus| folder.name == seen.folder.name && (folder.id.is_none() || folder.id == id);
        let folder_known = old.folder.as_ref().is_some_and(same);
        let needs_folder =
            plan.steps.iter().any(|step| matches!(step, plan::Step::CreateFolder { .. } | plan::Step::Clone { .. }));
        // Whoever comes after us has to know what to take away.
        let attributes = attributes::with(old.custom_attributes.as_deref(), &self.desired);
        let tags = tags::with(old.tags.as_deref(), &self.desired);
        let known = attributes == old.custom_attributes && tags == old.tags;
        if status::same_intents(&old.members, &plan.record) && (folder_known || !needs_folder) && known {
            return Ok(());
        }
        let mut new = old.clone();
        new.members = status::listed(self.with_tasks(plan.record.clone()));
        new.folder = Some(FolderStatus { name: seen.folder.name.clone(), id });
        new.custom_attributes = attributes;
        new.tags = tags;
        new.baseline.get_or_insert_with(|| self.desired.made().to_string());
        new.connection = self.connection_record.clone().or(new.connection);
        new.target = self.destination.clone();
        self.write_intents(new).await?;
        for member in &plan.record {
            if member.state == MemberState::Planned {
                self.memory.births.entry(member.uuid.clone()).or_insert(Birth::Absent);
            }
        }
        Ok(())
    }

    /// The policies count a member where it is going, before vCenter shows it.
    /// And what a clone takes of a datastore, before that shows.
    pub(super) fn remember_places(&mut self, site: Option<&Site>, plan: &Plan, blueprint: Option<&Blueprint>) -> Calls {
        let disk_mib = blueprint.and_then(|blueprint| self.desired.make.disk_mib(blueprint.source.disk_mib()));
        let mut clones = Vec::new();
        for step in &plan.steps {
            if let plan::Step::Clone { uuid, place, .. } = step {
                if let Some(disk_mib) = disk_mib.filter(|disk| *disk > 0) {
                    let datastore = place.datastore.clone().or_else(|| site?.datastore.clone());
                    clones.push((uuid.clone(), (datastore, disk_mib)));
                }
                let bound_for = BoundFor { host: place.host.clone(), datastore: place.datastore.clone() };
                self.memory.bound_for.insert(uuid.clone(), bound_for);
            }
        }
        self.connection.room.promise(&self.desired.uid, clones)
    }

    pub(super) fn announce(&mut self, seen: &Observed, decisions: &Decisions) {
        if !decisions.newcomers.is_empty() {
            let names: Vec<&str> = decisions.newcomers.iter().map(|newcomer| newcomer.name.as_str()).collect();
            let mut text = format!("making {}", names.join(", "));
            if let Some(first) = decisions.newcomers.first() {
                let place =
                    decisions.places.get(&first.uuid).map(|place| format!("; {}", place.reason)).unwrap_or_default();
                text = format!("{text} ({}{place})", first.reason);
            }
            self.notes.push(Note { kind: EventType::Normal, reason: "ScalingOut".into(), action: "Clone", text });
        }
        let name_of = |uuid: &str| {
            seen.members.iter().find(|member| member.uuid == uuid).map_or("?", |member| member.name.as_str())
        };
        for turn in decisions.turns.iter().take(EVENTS_LIMIT) {
            let member = seen.members.iter().find(|member| member.uuid == turn.uuid);
            let Some((member, (state, why))) =
                member.and_then(|member| Some((member, rollout::taken_down(&self.desired, member)?)))
            else {
                continue;
            };
            let (reason, action, what) = match state {
                MemberState::Leaving => ("Replacing", "Replace", "is replaced"),
                _ => ("Changing", "Change", "is powered off to be changed"),
            };
            let text = format!("{} {what}: {}; {}", member.name, why.as_str(), turn.reason);
            tracing::info!(group = %self.desired.group, member = %member.name, reason = %turn.reason, "{what}");
            self.notes.push(Note { kind: EventType::Normal, reason: reason.into(), action, text });
        }
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

    /// Names those who are released now.
    pub(super) fn announce_released(&mut self, seen: &Observed, plan: &Plan) {
        let released = |uuid: &str| {
            plan.steps.iter().any(|step| matches!(step, plan::Step::Release { uuid: own, .. } if own == uuid))
        };
        let names: Vec<&str> =
            seen.members.iter().filter(|member| released(&member.uuid)).map(|member| member.name.as_str()).collect();
        if names.is_empty() {
            return;
        }
        tracing::warn!(group = %self.desired.group, uid = self.desired.uid, members = names.join(", "), "released");
        let text = format!(
            "the group is being deleted and its members are kept: {} released, in the folder {} (`vmgroup orphans` lists them)",
            listing(&names),
            seen.folder.name
        );
        self.notes.push(Note { kind: EventType::Warning, reason: "Released".into(), action: "Delete", text });
    }

    /// Remembers what came of the steps. True if nothing is left of the group.
    pub(super) fn digest(&mut self, connected: &Connected, seen: &Observed, effects: Vec<Effect>) -> bool {
        let mut finished = false;
        for effect in effects {
            match effect {
                Effect::Folder(folder) => {
                    self.memory.clear(&Topic::Folder);
                    self.memory.folder = Some(folder);
                }
                Effect::FolderTaken => self.change_folder(),
                Effect::Task { uuid, kind, .. } => {
                    if kind == TaskKind::PowerOff {
                        self.note_impatience(seen, &uuid);
                    }
                    if kind == TaskKind::Clone {
                        self.memory.births.insert(uuid, Birth::Awaited);
                    }
                }
                Effect::Asked { uuid } => {
                    // If it was asked before by another process, its time began then.
                    let member = seen.members.iter().find(|member| member.uuid == uuid);
                    let deadline = member.and_then(|member| stop::deadline(member, self.desired.grace));
                    match deadline {
                        Some(deadline) => self.look_again_at(deadline),
                        None => self.look_again(self.desired.grace),
                    }
                    self.memory.asked_to_stop.insert(uuid);
                }
                Effect::Annotated { uuid } => {
                    self.memory.clear(&Topic::Attributes);
                    // The watch may tell of it later.
                    self.await_fields(seen, &uuid);
                    self.memory.settling.insert(uuid, (TaskKind::Reconfigure, self.now + SETTLING));
                    self.look_again(SETTLING);
                }
                Effect::NotAnnotated { uuid, error } => {
                    // Perhaps they were.
                    self.await_fields(seen, &uuid);
                    // They may have been defined anew.
                    connected.forget_custom_fields();
                    self.fail_vc(Topic::Attributes, &error);
                }
                Effect::Tagged { vms } => {
                    let wished = self.desired.tagging.iter().flatten().filter(|(_, wish)| wish.attached);
                    let wished: BTreeSet<_> = wished.map(|(tag, _)| tag.clone()).collect();
                    for vm in vms {
                        self.memory.tagged.note(vm, wished.clone());
                    }
                    // No watch tells of it.
                    self.look_again(Duration::ZERO);
                }
                Effect::NotTagged { tag, error } => self.not_tagged(connected, tag.as_deref(), &error),
                Effect::Already { .. } => {}
                Effect::Gone { uuid } => {
                    // The fresh read has the last word, whatever the watch still shows.
                    let vm =
                        seen.members.iter().find(|member| member.uuid == uuid).and_then(|member| member.vm.as_ref());
                    self.memory.vanished.extend(vm.map(|vm| vm.id.clone()));
                    self.memory.births.insert(uuid, Birth::Unresolved);
                    self.look_again(Duration::ZERO);
                }
                Effect::Unknown { uuid, kind, error } => {
                    if kind == TaskKind::Clone {
                        self.memory.births.insert(uuid.clone(), Birth::Unresolved);
                    }
                    self.fail_vc(Topic::Member(uuid), &error);
                }
                Effect::Failed { uuid, kind, error } => self.note_failed(connected, uuid, kind, &error),
                Effect::NotOurs { uuid } => {
                    let message = format!(
                        "virtual machine {uuid} has lost its owner mark and is left alone: remove it by hand, or put the mark back"
                    );
                    let why = Why { reason: "NotOurs".into(), message, stalled: true, patience: NOT_OURS_PATIENCE };
                    self.fail(Topic::Member(uuid), why);
                }
                Effect::Finished(left) => {
                    finished = true;
                    if let Some(text) = left {
                        self.notes.push(Note {
                            kind: EventType::Warning,
                            reason: "FolderLeft".into(),
                            action: "Delete",
                            text,
                        });
                    }
                }
                Effect::Fenced => self.look_again(SOON),
                // It stands in line for another one.
                Effect::Displaced => self.look_again(Duration::ZERO),
                Effect::NotFinished(left) => {
                    self.memory.known.extend(left);
                    self.look_again(SOON);
                }
            }
        }
        finished
    }

    /// Tells if a member is powered off because its guest has had its time.
    fn note_impatience(&mut self, seen: &Observed, uuid: &str) {
        let Some(member) = seen.members.iter().find(|member| member.uuid == uuid) else { return };
        if stop::deadline(member, self.desired.grace).is_some_and(|deadline| deadline <= self.now) {
            let text = format!(
                "{} did not shut down within {} s and is powered off (spec.gracePeriodSeconds)",
                member.name,
                self.desired.grace.as_secs()
            );
            self.notes.push(Note {
                kind: EventType::Warning,
                reason: "ShutdownTimedOut".into(),
                action: "Remove",
                text,
            });
        }
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
        self.connection.claims.release(&self.desired.uid);
        self.connection.claims.claim(&name, &self.desired.uid, &self.desired.group);
        self.notes.push(Note {
            kind: EventType::Warning,
            reason: "FolderTaken".into(),
            action: "CreateFolder",
            text: format!(
                "a folder of this group's name is in vCenter already and was not made by this group (another cluster may be at work under the same root folder); it is left alone, and {name} is used"
            ),
        });
        // Nothing of ours is in there: a folder that is ours is found by its record.
        self.memory.folder_name = Some(name);
        self.memory.folder = None;
        self.look_again(Duration::ZERO);
    }

    fn with_tasks(&self, mut record: Vec<MemberStatus>) -> Vec<MemberStatus> {
        let flights = self.connection.tasks.in_flight(&self.desired.uid);
        for member in &mut record {
            member.task = flights.get(&member.uuid).map(|(_, task)| task.to_string());
        }
        record
    }

    /// The members after the pass, from what was applied and observed.
    /// `moved`: somebody was taken down for a change.
    pub(super) fn members(&mut self, connected: &Connected, seen: &Observed, plan: &Plan, moved: bool) -> Members {
        let vms: HashMap<&str, &VmSeen> =
            seen.members.iter().filter_map(|member| Some((member.uuid.as_str(), member.vm.as_ref()?))).collect();
        let old: HashMap<&str, &MemberStatus> =
            self.written().0.members.iter().map(|member| (member.uuid.as_str(), member)).collect();
        let mut record = self.with_tasks(plan.record.clone());
        for member in &mut record {
            if member.state == MemberState::Planned && member.task.is_some() {
                member.state = MemberState::Cloning;
            }
            let vm = vms.get(member.uuid.as_str());
            let before = old.get(member.uuid.as_str());
            let host = vm.and_then(|vm| vm.host.as_ref());
            let store = vm.and_then(|vm| vm.datastore.as_ref());
            member.address = vm.and_then(|vm| vm.guest.as_ref()).and_then(|guest| guest.address.clone());
            member.host =
                host.and_then(|host| connected.host_name(host)).or_else(|| before.and_then(|old| old.host.clone()));
            member.datastore = store
                .and_then(|store| connected.datastore_name(store))
                .or_else(|| before.and_then(|old| old.datastore.clone()));
        }
        Members {
            existing: vms.len(),
            record,
            folder: self.folder_to_record(seen),
            unannotated: attributes::left(&self.desired, seen),
            attributes: self.attributes_to_keep(seen),
            untagged: tags::left(&self.desired, seen),
            tags: tags::kept(self.written().0.tags.as_deref(), &self.desired, seen),
            to_be_adopted: seen.to_be_adopted(&self.desired).cloned().collect(),
            held_back: None,
            stranded: self.stranded(seen),
            progress: Progress { moved, ..Progress::of(&self.desired, seen, self.now) },
            late: self.late(seen),
        }
    }

    /// Who is on a host that is going into maintenance, and is not moved. Each host is told
    /// of once.
    fn stranded(&mut self, seen: &Observed) -> Option<Told> {
        let told = evacuation::told(&self.desired, seen);
        let hosts: BTreeSet<String> = told.iter().flat_map(|told| told.hosts.iter().cloned()).collect();
        let before = std::mem::replace(&mut self.memory.hosts_leaving, hosts.clone());
        // After a restart, what is in the condition was told.
        let known = self.written().0.conditions.iter().any(|known| known.type_ == HOST_LEAVING);
        let news = !known || (!before.is_empty() && !hosts.is_subset(&before));
        if let Some(told) = told.as_ref().filter(|_| news) {
            let (reason, text) = (HOST_LEAVING.to_owned(), told.message.clone());
            self.notes.push(Note { kind: EventType::Warning, reason, action: "Evacuate", text });
        }
        told
    }

    /// The folder as it is to stand in the status. A name without a reference
    /// says that this group has asked for the folder, or that nobody else can have:
    /// that is what a folder is recognised by whose making was never confirmed.
    fn folder_to_record(&self, seen: &Observed) -> Option<FolderStatus> {
        if let Some(name) = self.memory.folder_name.as_ref().filter(|name| **name != seen.folder.name) {
            return Some(FolderStatus { name: name.clone(), id: None });
        }
        let id = seen.folder.id.as_ref().or(self.memory.folder.as_ref());
        let asked_for = self.written().0.folder.as_ref().is_some_and(|folder| folder.name == seen.folder.name);
        let known = id.is_some() || asked_for;
        known.then(|| FolderStatus { name: seen.folder.name.clone(), id: id.map(ToString::to_string) })
    }

    /// Who is not ready in time. Whoever's time is not up yet is looked at when it is.
    fn late(&mut self, seen: &Observed) -> Vec<String> {
        let (terms, now) = (self.desired.readiness, self.now);
        let running = seen.members.iter().filter(|member| rollout::runs(&self.desired, member));
        let (mut late, mut next) = (Vec::new(), None::<Timestamp>);
        for member in running {
            match member.waits.until(&terms) {
                Some(until) if until > now => next = Some(next.map_or(until, |other| other.min(until))),
                Some(_) => late.push(format!("{} ({})", member.name, terms.missing())),
                None => {}
            }
        }
        if let Some(next) = next {
            // Records have whole seconds.
            self.look_again_at(next);
        }
        late
    }

    /// Sees to it that a rollout that comes no further is heard of.
    fn watch_rollout(&mut self, members: Option<&Members>, new: &VmGroupStatus) {
        let (Some(members), Some(rollout)) = (members, &new.rollout) else { return };
        if members.progress.late.is_empty() {
            return;
        }
        if members.progress.stuck {
            let is_told = |condition: &Condition| condition.reason == ROLLOUT_STALLED;
            if !self.written().0.conditions.iter().any(is_told) {
                let text = new.last_message.clone().unwrap_or_default();
                let reason = ROLLOUT_STALLED.to_owned();
                self.notes.push(Note { kind: EventType::Warning, reason, action: "Update", text });
            }
            return;
        }
        let waited = Duration::try_from(self.now.duration_since(rollout.progressed_at.0)).unwrap_or_default();
        self.look_again(self.desired.progress_deadline.saturating_sub(waited).max(Duration::from_secs(1)));
    }

    pub(super) async fn report(
        &mut self,
        members: Option<&Members>,
        obstacle: Option<Obstacle>,
    ) -> Result<(), StatusError> {
        // What is due already waits for something else: a slot, a swap.
        let due = self.memory.failures.values().map(|failure| failure.until).filter(|until| *until > self.now).min();
        if let Some(until) = due {
            self.look_again_at(until);
        }
        let refusal = self.engine.policies.refusal_for(&self.serving).map(|(refusal, in_force)| {
            let reason = if refusal.rolled_back() { "PolicyRolledBack" } else { "PolicyRefused" };
            (reason, refusal.told(&in_force, MESSAGE_LIMIT))
        });
        let facts = Facts {
            group: &self.desired.group,
            generation: self.desired.generation,
            desired: Some(self.desired.replicas),
            deleting: self.desired.deleting,
            releasing: self.desired.releases(),
            members,
            failures: &self.memory.failures,
            obstacle,
            connection: self.connection_record.clone(),
            differs: self.differs.clone(),
            connections_refused: self.connections_refused.clone(),
            destination: self.destination.clone(),
            redirected: self.redirected.clone(),
            lacking: self.lacking.clone(),
            refusal,
            policies: Some(policies(&self.serving)),
            baseline: Some(self.desired.made().to_string()),
            target: self.desired.target(),
            restarted_at: self.desired.restarted_at.clone(),
            now: k8s_time(self.now),
        };
        let new = report::status(self.written().0, &facts);
        self.watch_rollout(members, &new);
        self.engine.population.note(&self.desired.uid, &new);
        // Large, with copies of the status in it.
        Box::pin(self.write(new)).await
    }
}

/// Names as one may read them in an event, which holds no more than 1 kB.
pub(super) fn listing(names: &[&str]) -> String {
    const ROOM: usize = 500;
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        if text.len() + name.len() > ROOM {
            let _ = write!(text, " and {} more", names.len() - index);
            break;
        }
        let _ = write!(text, "{}{name}", if index == 0 { "" } else { ", " });
    }
    text
}

fn policies(serving: &Serving) -> PolicyStatus {
    let of = |kind| {
        let policy = serving.set.get(kind);
        let Chosen { rule, config_map } = serving.chosen_by.get(&kind).cloned().unwrap_or_default();
        PolicyInForce {
            plugin: policy.plugin().to_owned(),
            version: policy.description().version.clone(),
            digest: policy.digest().to_string(),
            rule,
            config_map,
        }
    };
    PolicyStatus { naming: of(Kind::Naming), placement: of(Kind::Placement), scaling: of(Kind::Scaling) }
}

//! The step that observes: tasks that ended, the folder, the members, and fresh
//! reads of whatever is in doubt. Must not write anything to anybody.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use vmgroup_api::{MemberState, MemberStatus, RolloutStatus};
use vmgroup_vsphere::{Error as VcError, FaultKind, FolderRef, PowerState, Vm};

use super::{NAMING_ATTEMPTS, Note, POLICY_PATIENCE, Pass, SETTLING, SOON, why};
use crate::apply::{FOLDER, counted};
use crate::events::EventType;
use crate::folder;
use crate::link::Connected;
use crate::memory::{Topic, Why};
use crate::observe::{self, Birth, FolderSeen, Knowledge, Observed, Seen, Stranded, VmSeen};
use crate::plan::rollout::{self, Need};
use crate::report::Obstacle;
use crate::revision::Made;
use crate::status::StatusError;
use crate::target::Ground;
use crate::tasks::{Ending, TaskKind};

impl Pass<'_> {
    /// Takes over tasks that another process wrote down.
    pub(super) async fn adopt_tasks(&mut self, connected: &Connected) {
        if std::mem::replace(&mut self.memory.adopted, true) {
            return;
        }
        let mut adopted = Vec::new();
        for member in &self.written().0.members {
            let Some(task) = &member.task else { continue };
            let kind = match member.state {
                MemberState::Planned | MemberState::Cloning => TaskKind::Clone,
                MemberState::Starting | MemberState::Ready => TaskKind::PowerOn,
                MemberState::Changing | MemberState::Leaving => TaskKind::PowerOff,
            };
            adopted.push((member.uuid.clone(), kind, vmgroup_vsphere::TaskRef::new(task)));
        }
        let mut clones = Vec::new();
        for (uuid, kind, task) in adopted {
            self.memory.births.insert(uuid.clone(), Birth::Unresolved);
            if self.connection.tasks.started(&self.desired.uid, &self.desired.group, &uuid, kind, task.clone()) {
                connected.track(task, None);
                if kind == TaskKind::Clone {
                    clones.push(uuid);
                }
            }
        }
        if clones.is_empty() {
            return;
        }
        // Where they were sent is not known any more, and what they take as far as the
        // template is still that one.
        let template = connected.template(self.connection.link.vcenter(), &self.desired.template).await.ok();
        let disk_mib = self.desired.disk_mib(template.and_then(|template| template.disk_mib));
        if let Some(disk_mib) = disk_mib.filter(|disk| *disk > 0) {
            let promises = clones.into_iter().map(|uuid| (uuid, (None, disk_mib))).collect();
            drop(self.connection.room.promise(&self.desired.uid, promises));
        }
    }

    /// A large group's record only counts those who stand. If the inventory shows
    /// fewer of them, some were destroyed, or moved out of the root folder, which
    /// nobody who has just come can know: so they are looked for in the whole
    /// datacenter, before anybody is replaced.
    pub(super) async fn recount(&mut self, connected: &Connected) -> Result<(), VcError> {
        if self.memory.recounted {
            return Ok(());
        }
        let status = &self.written().0;
        let recorded: HashSet<String> = status.members.iter().map(|member| member.uuid.to_lowercase()).collect();
        let born = |member: &&MemberStatus| !matches!(member.state, MemberState::Planned | MemberState::Cloning);
        let counted = usize::try_from(status.current_replicas.unwrap_or(0)).unwrap_or(0);
        let unlisted = counted.saturating_sub(status.members.iter().filter(born).count());
        let vms = connected.inventory().indexed(&self.owner.uid);
        let standing = vms.iter().filter(|vm| self.owner.owns(vm) && !recorded.contains(&vm.instance_uuid)).count();
        if standing < unlisted {
            let found = connected.members_anywhere(self.connection.link.vcenter(), &self.owner).await?;
            self.memory.known.extend(found);
        }
        self.memory.recounted = true;
        Ok(())
    }

    pub(super) fn hear_of_ended_tasks(&mut self, connected: &Connected) {
        for ended in self.connection.tasks.take_ended(&self.desired.uid) {
            let topic = Topic::Member(ended.member.clone());
            let outcome = match &ended.ending {
                Ending::Success => "success",
                Ending::Failed(fault) => fault.kind.category().as_str(),
                Ending::Gone => "gone",
            };
            self.engine.metrics.task(self.connection.name(), ended.kind.as_str(), outcome, ended.took);
            if ended.member == FOLDER {
                continue;
            }
            if ended.kind == TaskKind::Clone {
                // Whatever the task says, the inventory has the last word.
                self.memory.births.insert(ended.member.clone(), Birth::Unresolved);
            }
            match ended.ending {
                Ending::Success if ended.kind == TaskKind::Destroy => {
                    // The watch may tell of the task before it tells of the machine. Only of
                    // this one: a clone that was reported as failed may have made another
                    // of the same UUID.
                    let destroyed = |vm: &&Arc<Vm>| ended.entity == Some(vm.id.managed_object());
                    let vms = connected.inventory().vms_by_uuid(&ended.member);
                    self.memory.vanished.extend(vms.iter().filter(destroyed).map(|vm| vm.id.clone()));
                    self.memory.births.insert(ended.member, Birth::Absent);
                    self.memory.clear(&topic);
                }
                Ending::Success => {
                    self.memory.clear(&topic);
                    if matches!(ended.kind, TaskKind::PowerOn | TaskKind::Reconfigure) {
                        self.memory.settling.insert(ended.member.clone(), (ended.kind, self.now + SETTLING));
                    }
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
                    // It has to be powered off for that, then.
                    FaultKind::HotPlugNotSupported(_) => {
                        self.memory.no_hot_add.insert(ended.member.clone());
                    }
                    _ => {
                        if ended.kind == TaskKind::Clone {
                            self.memory.placement_attempts += 1;
                        }
                        let why = why(fault.kind.category(), format!("{} failed: {fault}", ended.kind.as_str()));
                        self.fail(topic, why);
                    }
                },
            }
        }
    }

    /// Machines that carry this group's uid and the mark of another cluster: both
    /// clusters would make and destroy for it, so this one does nothing.
    pub(super) fn contested(&self, connected: &Connected) -> Option<Obstacle> {
        let vms = connected.inventory().indexed(&self.desired.uid);
        let contested: Vec<&str> = vms.iter().filter(|vm| self.owner.contests(vm)).map(|vm| vm.name.as_str()).collect();
        let first = contested.first()?;
        Some(Obstacle {
            reason: "ContestedMembers".into(),
            message: format!(
                "{} of this group, {first} among them, {} marked as another cluster's, and nothing is done until that is settled: make sure that no other operator works on this group, then `vmgroup adopt {} NAME…` takes them over, or `vmgroup orphans --release NAME…` lets them go",
                counted(contested.len(), "machine"),
                if contested.len() == 1 { "is" } else { "are" },
                self.desired.group,
            ),
            stalled: true,
        })
    }

    /// The folder's name, kept once the group has one, and the folder if it is
    /// known to be this group's: by the record, by a member that lies in it, or
    /// because the group has asked for it. Another one of the name is somebody
    /// else's, however empty: another cluster may be about to fill it.
    fn folder(&mut self, connected: &Connected, ground: &Ground) -> FolderSeen {
        let (uid, group) = (self.desired.uid.as_str(), &self.desired.group);
        let inventory = connected.inventory();
        let recorded = self.written().0.folder.clone();
        let known = self.memory.folder_name.clone().or_else(|| recorded.as_ref().map(|folder| folder.name.clone()));
        let by_id = recorded
            .as_ref()
            .filter(|folder| known.as_ref() == Some(&folder.name))
            .and_then(|folder| folder.id.as_deref())
            .map(FolderRef::new)
            .filter(|id| inventory.folder(id).is_some());
        let name = match known {
            Some(name) if self.connection.claims.claim(&name, uid, group) || by_id.is_some() => name,
            _ => {
                let name = folder::preferred(group);
                if self.connection.claims.claim(&name, uid, group) {
                    name
                } else {
                    let name = folder::fallback(group, uid);
                    self.connection.claims.claim(&name, uid, group);
                    name
                }
            }
        };
        self.folder_asked_for = recorded.is_some_and(|folder| folder.name == name && folder.id.is_none());
        if by_id.is_some() {
            self.memory.folder = None;
        }
        let parent = ground.parent_for_folder();
        let id = by_id.or_else(|| self.memory.folder.clone()).or_else(|| {
            let found = inventory.folder_by_name(parent.as_ref()?, &name)?;
            let ours = self.folder_asked_for || connected.holds_member(&found.id, &self.owner);
            (ours && connected.free_of_others(&found.id, &self.owner)).then(|| found.id.clone())
        });
        FolderSeen { name, id, parent }
    }

    /// What there is, from the caches; whatever is in doubt is read afresh.
    pub(super) async fn observe(&mut self, connected: &Connected, ground: &Ground) -> Result<Observed, StatusError> {
        if self.desired.readiness.asks_guests() {
            self.connection.link.vcenter().watch_guests();
        }
        let folder = self.folder(connected, ground);
        self.memory.vanished.retain(|vm| connected.inventory().vm(vm).is_some());
        let owner = self.desired.uid.clone();
        let mut vms = self.owner.members(&connected.inventory().indexed(&owner), &self.memory.vanished);
        let flights = self.connection.tasks.kinds_in_flight(&owner);
        let mut record = self.written().0.members.clone();
        let present: HashSet<String> = vms.iter().map(|vm| vm.instance_uuid.to_lowercase()).collect();

        let doubtful: BTreeSet<String> = record
            .iter()
            .map(|member| member.uuid.to_lowercase())
            .chain(self.memory.known.keys().cloned())
            .filter(|uuid| !present.contains(uuid) && !flights.contains_key(uuid))
            .filter(|uuid| self.memory.births.get(uuid) != Some(&Birth::Absent))
            .collect();
        let mut dropped = Vec::new();
        self.memory.clear(&Topic::Reading);
        for uuid in doubtful {
            let recorded = record.iter().find(|member| member.uuid.eq_ignore_ascii_case(&uuid));
            match self.resolve(connected, &folder, &uuid, recorded).await {
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
                    // He who stands need not be named in a large group's record; but he may
                    // not be forgotten only because nobody could look.
                    if recorded.is_none()
                        && let Some(name) = self.memory.known.get(&uuid)
                    {
                        record.push(MemberStatus::new(name, &uuid, MemberState::Ready));
                    }
                    self.memory.births.insert(uuid, Birth::Unresolved);
                    self.fail_vc(Topic::Reading, &error);
                    self.look_again(SOON);
                }
            }
        }
        self.find_tags(connected, vms.iter().map(|vm| vm.id.clone()).collect()).await;
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
        let baseline = self.desired.baseline(self.written().0.baseline.as_deref());
        let held = self.unsettled(&vms, &baseline, held);
        let inventory = connected.inventory();
        let hosts_leave = inventory.some_host_leaves();
        let stranded = |vm: &Vm| {
            let host = inventory.host(vm.host.as_ref()?)?;
            Some((vm.id.clone(), Stranded::of(vm, &host)?))
        };
        let stranded = if hosts_leave { vms.iter().filter_map(stranded).collect() } else { HashMap::new() };
        let know = Knowledge {
            stranded,
            hosts_leave,
            flights,
            tags: self.memory.tagged.members.clone(),
            births: self.memory.births.clone(),
            bound_for: self.memory.bound_for.clone(),
            held,
            asked_to_stop: self.memory.asked_to_stop.clone(),
            baseline,
            no_hot_add: self.memory.no_hot_add.clone(),
            progressed_at: self.rollout_under_way().map(|rollout| rollout.progressed_at.0),
            readiness: self.desired.readiness,
            now: self.now,
        };
        let seen = observe::lay_over(&self.owner, folder, &record, &vms, &know);
        self.tidy(&seen);
        Ok(seen)
    }

    /// The record of the change that the spec asks for, if it is on its way.
    pub(super) fn rollout_under_way(&self) -> Option<&RolloutStatus> {
        let target = self.desired.target();
        self.written().0.rollout.as_ref().filter(|rollout| rollout.target == target)
    }

    /// Adds the members that were just powered on or changed, and are not seen to be,
    /// to those that are left alone: the task's end can be told before its effect.
    fn unsettled(
        &mut self,
        vms: &[Vm],
        baseline: &Made,
        mut held: HashMap<String, Timestamp>,
    ) -> HashMap<String, Timestamp> {
        let (now, mut again) = (self.now, None);
        let (owner, desired) = (&self.owner, &self.desired);
        self.memory.settling.retain(|uuid, (kind, until)| {
            let as_before = |vm: &&Vm| match kind {
                TaskKind::Reconfigure => {
                    let seen = VmSeen::of(vm, owner, baseline);
                    rollout::need(desired, &seen) == Need::Resize
                        || rollout::data_to_mark(desired, &seen).is_some()
                        || seen.has_fields_to_set(desired)
                        || !seen.on() && rollout::wants_change_when_off(desired, &seen)
                }
                _ => vm.power != PowerState::On,
            };
            let unsettled = *until > now
                && vms.iter().filter(|vm| vm.instance_uuid.eq_ignore_ascii_case(uuid)).any(|vm| as_before(&vm));
            if unsettled {
                // What went wrong with it before may have been held back until a moment ago.
                let held_until = held.entry(uuid.clone()).or_insert(*until);
                *held_until = (*held_until).max(*until);
                again = Some(SETTLING);
            }
            unsettled
        });
        if let Some(after) = again {
            self.look_again(after);
        }
        held
    }

    /// Forgets what is remembered of members that are no more.
    fn tidy(&mut self, seen: &Observed) {
        let (born, unborn): (Vec<&Seen>, Vec<&Seen>) = seen.members.iter().partition(|member| member.vm.is_some());
        self.memory.known = born.into_iter().map(|member| (member.uuid.clone(), member.name.clone())).collect();
        let unborn: HashSet<&str> = unborn.into_iter().map(|member| member.uuid.as_str()).collect();
        self.memory.births.retain(|uuid, _| unborn.contains(uuid.as_str()));
        let there = &self.memory.known;
        self.memory.no_hot_add.retain(|uuid| there.contains_key(uuid));
        self.memory.bound_for.retain(|uuid, _| unborn.contains(uuid.as_str()));
        let stopping =
            |uuid: &String| seen.members.iter().any(|member| member.uuid == *uuid && member.stopping_since.is_some());
        self.memory.asked_to_stop.retain(stopping);
        let known = &self.memory.known;
        self.memory.failures.retain(|topic, _| match topic {
            Topic::Member(uuid) => known.contains_key(uuid) || unborn.contains(uuid.as_str()),
            _ => true,
        });
    }

    fn name_taken(&mut self, name: &str) {
        self.memory.taken.insert(name.to_owned());
        self.memory.naming_attempts += 1;
        self.notes.push(Note {
            kind: EventType::Warning,
            reason: "NameTaken".into(),
            action: "Clone",
            text: format!(
                "the name {name} belongs to a virtual machine that is not of this group; asking for another name"
            ),
        });
        if self.memory.naming_attempts >= NAMING_ATTEMPTS {
            let message = format!(
                "the naming policy gave {NAMING_ATTEMPTS} names in a row that belong to others, the last one {name}: change its pattern in the policy file, or rename or remove those virtual machines"
            );
            let why = Why { reason: "NamesTaken".into(), message, stalled: true, patience: POLICY_PATIENCE };
            self.fail(Topic::Naming, why);
        }
    }

    /// Finds out, by fresh reads, what became of a member that the inventory
    /// does not show.
    async fn resolve(
        &self,
        connected: &Connected,
        folder: &FolderSeen,
        uuid: &str,
        recorded: Option<&MemberStatus>,
    ) -> Result<Resolved, VcError> {
        let vcenter = self.connection.link.vcenter();
        let ours = |vm: &Vm| self.owner.owns(vm) && vm.instance_uuid.eq_ignore_ascii_case(uuid);
        let find = async || Ok::<_, VcError>(vcenter.find_by_uuid(uuid).await?.into_iter().find(|vm| ours(vm)));
        if let Some(vm) = find().await? {
            return Ok(Resolved::Found(Box::new(vm)));
        }
        // Who existed and is not found is gone; only a birth can still be under way.
        let unborn = recorded.filter(|member| matches!(member.state, MemberState::Planned | MemberState::Cloning));
        let Some(name) = unborn.map(|member| member.name.as_str()) else { return Ok(Resolved::Absent) };
        if let Some(folder) = &folder.id {
            match vcenter.find_child(folder, name).await? {
                Some(vmgroup_vsphere::Child::Vm(vm)) if ours(&vm) => return Ok(Resolved::Found(Box::new(vm))),
                Some(_) => return Ok(Resolved::NameTaken(name.to_owned())),
                None => {}
            }
        }
        // A clone whose answer was lost may still be running, maybe of the template
        // that the spec named when it began.
        let same = recorded.is_none_or(|member| member.revision.as_ref() == Some(&self.desired.revision));
        let template = if same { connected.template(vcenter, &self.desired.template).await.ok() } else { None };
        let strangers = vcenter.recent_tasks().await?.into_iter().any(|task| {
            !task.state.is_ended()
                && task.description_id == "VirtualMachine.clone"
                && template.as_ref().is_none_or(|template| task.entity.as_ref() == Some(&template.id.managed_object()))
                && !self.connection.tasks.knows(&task.id)
        });
        if strangers {
            return Ok(Resolved::Unknown);
        }
        // It may have ended while all this was read.
        Ok(find().await?.map_or(Resolved::Absent, |vm| Resolved::Found(Box::new(vm))))
    }
}

enum Resolved {
    Found(Box<Vm>),
    Absent,
    Unknown,
    NameTaken(String),
}

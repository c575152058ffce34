//! Carries out a plan's steps: turns each into vCenter calls and says what came
//! of it. Tasks are submitted and written into the book, never waited for.
//!
//! The only module of the running operator that writes to vCenter. Before each
//! destructive write the virtual machine is read afresh and must still be a
//! member (S2, S5). That the lease is held is asked at the wire, by the client's
//! write gate (S7): between here and there a login may take its time.

use std::collections::{BTreeMap, HashMap};

use futures::future::join_all;
use vmgroup_vsphere::{
    Child, CloneSpec, Error, FaultKind, FolderRef, Goal, Password, PoolRef, PowerState, Reconfiguration, Site, TagName,
    TagRef, TaskRef, Vcenter, Vm, VmRef,
};

use crate::blueprint::Blueprint;
use crate::guest::{self, Identity};
use crate::link::Connected;
use crate::ownership::{Owner, mark};
use crate::plan::{Change, Place, Plan, Step, TagsOf};
use crate::tasks::{TaskBook, TaskKind};
use crate::validate::{Desired, TagWish};
use crate::wake::GroupRef;

/// The name under which the folder's own removal stands in the task book.
pub const FOLDER: &str = "folder";

/// What came of a step.
#[derive(Debug)]
pub enum Effect {
    /// The folder is there.
    Folder(FolderRef),
    /// The folder's name belongs to another group, maybe of another cluster.
    FolderTaken,
    /// A task is at work.
    Task {
        /// The member.
        uuid: String,
        /// What the task does.
        kind: TaskKind,
        /// The task.
        task: TaskRef,
    },
    /// The member's guest was asked to shut down.
    Asked {
        /// The member.
        uuid: String,
    },
    /// The member has the custom attributes that it is to have.
    Annotated {
        /// The member.
        uuid: String,
    },
    /// A member's custom attributes may not be as they are to be.
    NotAnnotated {
        /// Its instance UUID.
        uuid: String,
        /// What went wrong.
        error: Error,
    },
    /// These machines have the tags that they are to have.
    Tagged {
        /// Which.
        vms: Vec<VmRef>,
    },
    /// A tag may not be attached, or still be.
    NotTagged {
        /// The tag; nothing if members could not even be looked at.
        tag: Option<Box<TagName>>,
        /// What went wrong.
        error: Error,
    },
    /// It was so already.
    Already {
        /// The member.
        uuid: String,
    },
    /// The member is gone.
    Gone {
        /// The member.
        uuid: String,
    },
    /// The call may or may not have taken effect.
    Unknown {
        /// The member.
        uuid: String,
        /// What the task was to do.
        kind: TaskKind,
        /// What went wrong.
        error: Error,
    },
    /// The call surely had no effect.
    Failed {
        /// The member; nothing for the folder.
        uuid: Option<String>,
        /// What the task was to do.
        kind: Option<TaskKind>,
        /// What went wrong.
        error: Error,
    },
    /// The virtual machine is not ours any more: somebody took the mark away.
    NotOurs {
        /// The member.
        uuid: String,
    },
    /// The lease is not held: nothing was done.
    Fenced,
    /// It took so long to get here that the slot has gone to others: nothing was done.
    Displaced,
    /// Nothing is left of the group in vCenter. The text names what was left alone.
    Finished(Option<String>),
    /// Something is still left; look again soon. These members are (UUIDs and names),
    /// wherever in the datacenter they have got to.
    NotFinished(Vec<(String, String)>),
}

/// What steps are carried out with.
pub struct Applier<'a> {
    /// The client.
    pub vcenter: &'a Vcenter,
    /// The link.
    pub connected: &'a Connected,
    /// What of it this group's members go to; nothing: nobody is cloned.
    pub site: Option<&'a Site>,
    /// The book of tasks.
    pub tasks: &'a TaskBook,
    /// The group.
    pub desired: &'a Desired,
    /// The group as marks name it.
    pub owner: &'a Owner,
    /// What is cloned, if the plan clones.
    pub blueprint: Option<&'a Blueprint>,
    /// The folder, if it exists.
    pub folder: Option<FolderRef>,
    /// The folder in which it is made.
    pub parent: Option<FolderRef>,
    /// A folder of the group's name may be of our own making.
    pub folder_asked_for: bool,
    /// Seconds since 1970.
    pub now: u64,
}

impl Applier<'_> {
    /// Carries out a plan: the folder first, then all tasks at once.
    pub async fn apply(mut self, plan: &Plan) -> Vec<Effect> {
        let mut effects = Vec::new();
        for step in &plan.steps {
            if let (Step::CreateFolder { name }, Some(parent)) = (step, &self.parent) {
                let effect = self.create_folder(parent, name).await;
                if let Effect::Folder(folder) = &effect {
                    self.folder = Some(folder.clone());
                }
                effects.push(effect);
            }
        }
        let tasks = plan.steps.iter().map(|step| self.step(step));
        effects.extend(join_all(tasks).await.into_iter().flatten());
        effects
    }

    async fn step(&self, step: &Step) -> Option<Effect> {
        let slot = step.starts_a_task().then(|| self.tasks.begin(&self.desired.uid));
        if let Some(None) = slot {
            return Some(Effect::Displaced);
        }
        let effect = match step {
            Step::CreateFolder { .. } => return None,
            Step::Clone { uuid, name, place } => self.clone_member(uuid, name, place).await?,
            Step::PowerOn { uuid, vm } => self.power_on(uuid, vm).await,
            Step::Reconfigure { uuid, vm, change } => self.reconfigure(uuid, vm, change).await,
            Step::Annotate { uuid, vm, fields } => self.annotate(uuid, vm, fields).await,
            Step::Tag { members } => self.tag(members).await,
            Step::Release { uuid, vm } => self.let_go(uuid, vm).await,
            Step::Shutdown { uuid, vm, stays } => self.shut_down(uuid, vm, *stays).await,
            Step::Stop { uuid, vm } => self.stop(uuid, vm).await,
            Step::PowerOff { uuid, vm } | Step::Destroy { uuid, vm } => self.remove(uuid, vm).await,
            Step::Finish => self.finish().await,
        };
        if let (Effect::Asked { .. } | Effect::Annotated { .. } | Effect::Tagged { .. }, Some(Some(slot))) =
            (&effect, slot)
        {
            slot.worked();
        }
        Some(effect)
    }

    /// What came of a call that starts a task. `goal` is what the inventory will
    /// show when it has worked, and does not show yet.
    fn submitted(&self, uuid: &str, kind: TaskKind, goal: Option<Goal>, result: Result<TaskRef, Error>) -> Effect {
        match result {
            Ok(task) => {
                let uuid = uuid.to_owned();
                self.tasks.started(&self.desired.uid, &self.desired.group, &uuid, kind, task.clone());
                self.connected.track(task.clone(), goal);
                Effect::Task { uuid, kind, task }
            }
            Err(error) => refused(uuid, kind, error),
        }
    }

    async fn create_folder(&self, parent: &FolderRef, name: &str) -> Effect {
        match self.vcenter.create_folder(parent, name).await {
            Ok(folder) => Effect::Folder(folder),
            Err(Error::Withheld { .. }) => Effect::Fenced,
            Err(error) if matches!(error.fault(), Some(FaultKind::DuplicateName { .. })) => {
                if !self.folder_asked_for {
                    return Effect::FolderTaken;
                }
                match self.vcenter.find_child(parent, name).await {
                    Ok(Some(Child::Folder(folder, _))) if self.connected.free_of_others(&folder, self.owner) => {
                        Effect::Folder(folder)
                    }
                    Ok(_) => Effect::FolderTaken,
                    Err(error) => Effect::Failed { uuid: None, kind: None, error },
                }
            }
            // If it took effect after all, the next pass finds it by its name.
            Err(error) => Effect::Failed { uuid: None, kind: None, error },
        }
    }

    async fn clone_member(&self, uuid: &str, name: &str, place: &Place) -> Option<Effect> {
        // Without one of these its own failure has been noted.
        let (folder, blueprint, site) = (self.folder.as_ref()?, self.blueprint?, self.site?);
        let restarted = self.desired.restarted_at.as_deref();
        // Of what it is really made with, whatever was known of that before.
        let data = blueprint.user_data.as_ref().map(|data| data.mark(&self.desired.uid));
        let marks = self.owner.marks(uuid, self.now, &self.desired.made(), restarted, data.as_ref());
        let spec = CloneSpec {
            template: blueprint.source.template.id.clone(),
            folder: folder.clone(),
            name: name.to_owned(),
            pool: pool_of(site, place).unwrap_or_else(|| site.pool.clone()),
            datastore: place.datastore.clone().or_else(|| site.datastore.clone()),
            linked_to: blueprint.source.snapshot.clone(),
            host: place.host.clone(),
            cpus: self.desired.cpus,
            memory_mib: self.desired.memory_mib,
            instance_uuid: uuid.to_owned(),
            extra: marks,
            guest: self.guestinfo(uuid, name, blueprint),
            hardware: blueprint.hardware.clone(),
            customization: blueprint.customization.clone(),
            // A task of its own, so that no task of vCenter's own making is at
            // work that nobody watches.
            power_on: false,
        };
        Some(self.submitted(uuid, TaskKind::Clone, None, self.vcenter.clone_vm(&spec).await))
    }

    /// What a member's guest is told by cloud-init.
    fn guestinfo(&self, uuid: &str, name: &str, blueprint: &Blueprint) -> Vec<(String, Password)> {
        if !self.desired.make.cloud_init {
            return Vec::new();
        }
        let GroupRef { namespace, name: group } = &self.desired.group;
        guest::guestinfo(Identity { name, uuid, group, namespace }, blueprint.user_data.as_ref())
    }

    async fn power_on(&self, uuid: &str, vm: &VmRef) -> Effect {
        let goal = Goal::On(vm.clone());
        self.submitted(uuid, TaskKind::PowerOn, Some(goal), self.vcenter.power_on(vm).await)
    }

    /// Changes the size of a member, and brings its marks up to date.
    async fn reconfigure(&self, uuid: &str, vm: &VmRef, change: &Change) -> Effect {
        let fresh = match self.fresh(uuid, vm).await {
            Ok(fresh) => fresh,
            Err(effect) => return effect,
        };
        let created = fresh.extra.get(mark::CREATED).and_then(|text| text.parse().ok()).unwrap_or(self.now);
        let (restarted, data) = (change.restarted.as_deref(), change.data.as_ref());
        let extra = self.owner.marks(uuid, created, &change.made, restarted, data);
        let wanted = Reconfiguration { cpus: change.cpus, memory_mib: change.memory_mib, extra };
        self.submitted(uuid, TaskKind::Reconfigure, None, self.vcenter.reconfigure(vm, &wanted).await)
    }

    /// Sets custom attributes of a member, one after the other.
    async fn annotate(&self, uuid: &str, vm: &VmRef, fields: &BTreeMap<i32, String>) -> Effect {
        let fresh = match self.fresh(uuid, vm).await {
            Ok(fresh) => fresh,
            Err(effect) => return effect,
        };
        for (key, value) in fields {
            match self.vcenter.set_custom_field(&fresh.id, *key, value).await {
                Ok(()) => {}
                Err(Error::Withheld { .. }) => return Effect::Fenced,
                // Whether it has worked or not: what is to be seen decides.
                Err(error) => return Effect::NotAnnotated { uuid: uuid.to_owned(), error },
            }
        }
        Effect::Annotated { uuid: uuid.to_owned() }
    }

    /// Takes tags off members, and then attaches others: a category may allow one only.
    async fn tag(&self, members: &[TagsOf]) -> Effect {
        let vms: Vec<VmRef> = members.iter().map(|member| member.vm.clone()).collect();
        let mut fresh: HashMap<VmRef, Vm> = match self.vcenter.read_all(&vms).await {
            Ok(read) => read.into_iter().map(|vm| (vm.id.clone(), vm)).collect(),
            Err(error) => return Effect::NotTagged { tag: None, error },
        };
        for member in members {
            // The others have their turn in the next pass.
            if let Err(effect) = self.checked(&member.uuid, Ok(fresh.remove(&member.vm))) {
                return effect;
            }
        }
        for (tag, TagWish { tag: name, attached }) in self.by_detachment() {
            let of: Vec<&VmRef> = members
                .iter()
                .filter(|member| member.tags.get(tag) == Some(attached))
                .map(|member| &member.vm)
                .collect();
            let result = self.set_tag(tag, *attached, &of).await;
            match result {
                Ok(()) => {}
                Err(Error::Withheld { .. }) => return Effect::Fenced,
                // Whether it has worked or not: what is attached decides.
                Err(error) => return Effect::NotTagged { tag: Some(Box::new(name.clone())), error },
            }
        }
        Effect::Tagged { vms }
    }

    /// What is wished of tags, those first that come off.
    fn by_detachment(&self) -> Vec<(&TagRef, &TagWish)> {
        let mut tags: Vec<_> = self.desired.tagging.iter().flatten().collect();
        tags.sort_by_key(|(_, wish)| wish.attached);
        tags
    }

    async fn set_tag(&self, tag: &TagRef, attached: bool, vms: &[&VmRef]) -> Result<(), Error> {
        if vms.is_empty() {
            return Ok(());
        }
        if attached {
            let vms: Vec<VmRef> = vms.iter().copied().cloned().collect();
            return self.vcenter.attach_tag(tag, &vms).await;
        }
        for vm in vms {
            self.vcenter.detach_tag(tag, vm).await?;
        }
        Ok(())
    }

    /// Releases a member: from now on it is nobody's.
    async fn let_go(&self, uuid: &str, vm: &VmRef) -> Effect {
        match self.fresh(uuid, vm).await {
            Ok(fresh) => {
                let result = self.vcenter.set_extra(&fresh.id, &self.owner.release()).await;
                self.submitted(uuid, TaskKind::Reconfigure, None, result)
            }
            // It is so already, and the watch has not told yet.
            Err(Effect::NotOurs { uuid }) => Effect::Gone { uuid },
            Err(effect) => effect,
        }
    }

    /// The member as vCenter knows it now; an effect if it is not to be touched.
    async fn fresh(&self, uuid: &str, vm: &VmRef) -> Result<Vm, Effect> {
        self.checked(uuid, self.vcenter.read_vm(vm).await)
    }

    /// What a fresh read of a member says; an effect if it is not to be touched.
    fn checked(&self, uuid: &str, read: Result<Option<Vm>, Error>) -> Result<Vm, Effect> {
        let uuid = uuid.to_owned();
        match read {
            Ok(None) => Err(Effect::Gone { uuid }),
            Ok(Some(fresh)) if self.owner.owns(&fresh) && fresh.instance_uuid.eq_ignore_ascii_case(&uuid) => Ok(fresh),
            Ok(Some(_)) => Err(Effect::NotOurs { uuid }),
            Err(error) => Err(Effect::Failed { uuid: Some(uuid), kind: None, error }),
        }
    }

    /// Asks a member's guest to shut down. Where nobody is there to hear it, the plug
    /// is pulled at once.
    async fn shut_down(&self, uuid: &str, vm: &VmRef, stays: bool) -> Effect {
        let read = self.vcenter.read_vm_and_tools(vm).await;
        let tools = matches!(read, Ok(Some((_, true))));
        let fresh = match self.checked(uuid, read.map(|read| read.map(|(fresh, _)| fresh))) {
            Ok(fresh) => fresh,
            Err(effect) => return effect,
        };
        if fresh.power == PowerState::On && tools {
            match self.vcenter.shut_down_guest(&fresh.id).await {
                Ok(()) => return Effect::Asked { uuid: uuid.to_owned() },
                // They ended in this very moment.
                Err(error) if matches!(error.fault(), Some(FaultKind::ToolsUnavailable)) => {}
                Err(error) => return refused(uuid, TaskKind::PowerOff, error),
            }
        }
        self.take_down(uuid, &fresh, stays).await
    }

    /// Powers a member off that stays.
    async fn stop(&self, uuid: &str, vm: &VmRef) -> Effect {
        match self.fresh(uuid, vm).await {
            Ok(fresh) => self.take_down(uuid, &fresh, true).await,
            Err(effect) => effect,
        }
    }

    /// Powers a leaving member off, or destroys it if it is off.
    async fn remove(&self, uuid: &str, vm: &VmRef) -> Effect {
        match self.fresh(uuid, vm).await {
            Ok(fresh) => self.take_down(uuid, &fresh, false).await,
            Err(effect) => effect,
        }
    }

    /// Powers a member off; if it is off, and does not stay, destroys it.
    async fn take_down(&self, uuid: &str, fresh: &Vm, stays: bool) -> Effect {
        if stays && fresh.power == PowerState::Off {
            return Effect::Already { uuid: uuid.to_owned() };
        }
        // No goal: what leaves the inventory need not be destroyed, and a machine that
        // is off need not be free. Both are so when the task has ended.
        let (kind, result) = take_down_seen(self.vcenter, fresh).await;
        self.submitted(uuid, kind, None, result)
    }

    /// Makes sure that nothing is left, and removes the folder if it is empty.
    async fn finish(&self) -> Effect {
        let failed = |error| Effect::Failed { uuid: None, kind: None, error };
        let left = match self.connected.members_anywhere(self.vcenter, self.owner).await {
            Ok(left) => left,
            Err(error) => return failed(error),
        };
        if !left.is_empty() {
            return Effect::NotFinished(left);
        }
        let Some(folder) = self.folder.as_ref() else { return Effect::Finished(None) };
        if self.tasks.in_flight(&self.desired.uid).contains_key(FOLDER) {
            return Effect::NotFinished(Vec::new());
        }
        match self.vcenter.list_folder(folder).await {
            Err(error) => failed(error),
            Ok(None) => Effect::Finished(None),
            Ok(Some(children)) if children.is_empty() => {
                match self.submitted(FOLDER, TaskKind::Destroy, None, self.vcenter.destroy_folder(folder).await) {
                    Effect::Gone { .. } => Effect::Finished(None),
                    Effect::Fenced => Effect::Fenced,
                    Effect::Failed { error, .. } => failed(error),
                    _ => Effect::NotFinished(Vec::new()),
                }
            }
            Ok(Some(children)) if self.desired.releases() => Effect::Finished(Some(format!(
                "its folder in vCenter was left with {} in it; `vmgroup orphans` lists what was released",
                counted(children.len(), "object"),
            ))),
            Ok(Some(children)) => Effect::Finished(Some(format!(
                "its folder in vCenter was left, because it holds {} that {} not made by this group",
                counted(children.len(), "object"),
                if children.len() == 1 { "was" } else { "were" },
            ))),
        }
    }
}

fn pool_of(site: &Site, place: &Place) -> Option<PoolRef> {
    let cluster = place.cluster.as_ref()?;
    site.clusters.iter().find(|known| known.id == *cluster).map(|known| known.pool.clone())
}

/// What came of a call about a member that was answered with an error.
fn refused(uuid: &str, kind: TaskKind, error: Error) -> Effect {
    let uuid = uuid.to_owned();
    match error.fault() {
        _ if matches!(error, Error::Withheld { .. }) => Effect::Fenced,
        Some(FaultKind::ManagedObjectNotFound { .. }) if kind != TaskKind::Clone => Effect::Gone { uuid },
        Some(FaultKind::InvalidPowerState { .. }) if kind != TaskKind::Clone => Effect::Already { uuid },
        _ if error.outcome_unknown() => Effect::Unknown { uuid, kind, error },
        _ => Effect::Failed { uuid: Some(uuid), kind: Some(kind), error },
    }
}

/// Powers a machine off, or destroys it if it is off, if a fresh read shows it
/// to be this owner's. Nothing if it is not, or is gone.
pub async fn take_down(vcenter: &Vcenter, owner: &Owner, vm: &VmRef) -> Result<Option<(TaskKind, TaskRef)>, Error> {
    let Some(fresh) = vcenter.read_vm(vm).await?.filter(|fresh| owner.owns(fresh)) else { return Ok(None) };
    let (kind, result) = take_down_seen(vcenter, &fresh).await;
    Ok(Some((kind, result?)))
}

async fn take_down_seen(vcenter: &Vcenter, fresh: &Vm) -> (TaskKind, Result<TaskRef, Error>) {
    if fresh.power == PowerState::Off {
        (TaskKind::Destroy, vcenter.destroy_vm(&fresh.id).await)
    } else {
        (TaskKind::PowerOff, vcenter.power_off(&fresh.id).await)
    }
}

/// A count with its noun.
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

//! Carries out a plan's steps: turns each into vCenter calls and says what came
//! of it. Tasks are submitted and written into the book, never waited for.
//!
//! The only module that writes to vCenter. Before each write the lease is
//! checked (S7), and before each destructive one the virtual machine is read
//! afresh and must still be a member (S2, S5).

use futures::future::join_all;
use vmgroup_vsphere::{
    Child, CloneSpec, Error, FaultKind, FolderRef, Goal, PoolRef, PowerState, Template, Vcenter, Vm, VmRef,
};

use crate::lease::Fence;
use crate::link::Connected;
use crate::observe::{is_member, mark};
use crate::plan::{Place, Plan, Step};
use crate::tasks::{TaskBook, TaskKind};
use crate::validate::Desired;

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
        task: vmgroup_vsphere::TaskRef,
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
    /// Nothing is left of the group in vCenter. The text names what was left alone.
    Finished(Option<String>),
    /// Something is still left; look again soon.
    NotFinished,
}

/// What steps are carried out with.
pub struct Applier<'a> {
    /// The client.
    pub vcenter: &'a Vcenter,
    /// The link.
    pub connected: &'a Connected,
    /// The book of tasks.
    pub tasks: &'a TaskBook,
    /// The lease.
    pub fence: &'a Fence,
    /// The group.
    pub desired: &'a Desired,
    /// The template, if the plan clones.
    pub template: Option<&'a Template>,
    /// The folder, if it exists.
    pub folder: Option<FolderRef>,
    /// Seconds since 1970.
    pub now: u64,
}

impl Applier<'_> {
    /// Carries out a plan: the folder first, then all tasks at once.
    pub async fn apply(mut self, plan: &Plan) -> Vec<Effect> {
        let mut effects = Vec::new();
        for step in &plan.steps {
            if let Step::CreateFolder { name } = step {
                let effect = self.create_folder(name).await;
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
        Some(match step {
            Step::CreateFolder { .. } => return None,
            Step::Clone { uuid, name, place } => self.clone_member(uuid, name, place).await?,
            Step::PowerOn { uuid, vm } => self.power_on(uuid, vm).await,
            Step::PowerOff { uuid, vm } | Step::Destroy { uuid, vm } => self.remove(uuid, vm).await,
            Step::Finish => self.finish().await,
        })
    }

    /// What came of a call that starts a task. `goal` is what the inventory will
    /// show when it has worked, and does not show yet.
    fn submitted(
        &self,
        uuid: &str,
        kind: TaskKind,
        goal: Option<Goal>,
        result: Result<vmgroup_vsphere::TaskRef, Error>,
    ) -> Effect {
        let uuid = uuid.to_owned();
        match result {
            Ok(task) => {
                self.tasks.started(&self.desired.uid, &self.desired.group, &uuid, kind, task.clone());
                self.connected.track(task.clone(), goal);
                Effect::Task { uuid, kind, task }
            }
            Err(error) => match error.fault() {
                Some(FaultKind::ManagedObjectNotFound { .. }) if kind != TaskKind::Clone => Effect::Gone { uuid },
                Some(FaultKind::InvalidPowerState { .. }) if kind != TaskKind::Clone => Effect::Already { uuid },
                _ if error.outcome_unknown() => Effect::Unknown { uuid, kind, error },
                _ => Effect::Failed { uuid: Some(uuid), kind: Some(kind), error },
            },
        }
    }

    async fn create_folder(&self, name: &str) -> Effect {
        if !self.fence.holds() {
            return Effect::Fenced;
        }
        let root = &self.connected.site.root_folder;
        match self.vcenter.create_folder(root, name).await {
            Ok(folder) => Effect::Folder(folder),
            Err(error) if matches!(error.fault(), Some(FaultKind::DuplicateName { .. })) => {
                match self.vcenter.find_child(root, name).await {
                    Ok(Some(Child::Folder(folder, _))) if self.connected.free_of_others(&folder, &self.desired.uid) => {
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
        // Without folder or template their own failures have been noted.
        let (folder, template) = (self.folder.as_ref()?, self.template?);
        if !self.fence.holds() {
            return Some(Effect::Fenced);
        }
        let site = &self.connected.site;
        let spec = CloneSpec {
            template: template.id.clone(),
            folder: folder.clone(),
            name: name.to_owned(),
            pool: self.pool_of(place).unwrap_or_else(|| site.pool.clone()),
            datastore: place.datastore.clone().or_else(|| site.datastore.clone()),
            host: place.host.clone(),
            cpus: self.desired.cpus,
            memory_mib: self.desired.memory_mib,
            instance_uuid: uuid.to_owned(),
            extra: vec![
                (mark::GROUP_UID.to_owned(), self.desired.uid.clone()),
                (mark::GROUP.to_owned(), self.desired.group.to_string()),
                (mark::MEMBER.to_owned(), uuid.to_owned()),
                (mark::CREATED.to_owned(), self.now.to_string()),
            ],
            // A task of its own, so that no task of vCenter's own making is at
            // work that nobody watches.
            power_on: false,
        };
        Some(self.submitted(uuid, TaskKind::Clone, None, self.vcenter.clone_vm(&spec).await))
    }

    fn pool_of(&self, place: &Place) -> Option<PoolRef> {
        let cluster = place.cluster.as_ref()?;
        self.connected.site.clusters.iter().find(|known| known.id == *cluster).map(|known| known.pool.clone())
    }

    async fn power_on(&self, uuid: &str, vm: &VmRef) -> Effect {
        if !self.fence.holds() {
            return Effect::Fenced;
        }
        let goal = Goal::On(vm.clone());
        self.submitted(uuid, TaskKind::PowerOn, Some(goal), self.vcenter.power_on(vm).await)
    }

    /// Powers a leaving member off, or destroys it if it is off.
    async fn remove(&self, uuid: &str, vm: &VmRef) -> Effect {
        let fresh: Vm = match self.vcenter.read_vm(vm).await {
            Ok(Some(fresh)) => fresh,
            Ok(None) => return Effect::Gone { uuid: uuid.to_owned() },
            Err(error) => return Effect::Failed { uuid: Some(uuid.to_owned()), kind: None, error },
        };
        if !is_member(&fresh, &self.desired.uid) || !fresh.instance_uuid.eq_ignore_ascii_case(uuid) {
            return Effect::NotOurs { uuid: uuid.to_owned() };
        }
        if !self.fence.holds() {
            return Effect::Fenced;
        }
        if fresh.power == PowerState::Off {
            // No goal: who is moved out of the root folder meanwhile is not to be
            // taken for destroyed.
            self.submitted(uuid, TaskKind::Destroy, None, self.vcenter.destroy_vm(vm).await)
        } else {
            // No goal: what comes next must find the machine free, and it is so when
            // the task has ended.
            self.submitted(uuid, TaskKind::PowerOff, None, self.vcenter.power_off(vm).await)
        }
    }

    /// Makes sure that nothing is left, and removes the folder if it is empty.
    async fn finish(&self) -> Effect {
        let failed = |error| Effect::Failed { uuid: None, kind: None, error };
        let left = match self.vcenter.list_marked(&self.connected.site, &self.desired.uid).await {
            Ok(left) => left,
            Err(error) => return failed(error),
        };
        if left.iter().any(|vm| is_member(vm, &self.desired.uid)) {
            return Effect::NotFinished;
        }
        let Some(folder) = self.folder.as_ref() else { return Effect::Finished(None) };
        if self.tasks.in_flight(&self.desired.uid).contains_key(FOLDER) {
            return Effect::NotFinished;
        }
        match self.vcenter.list_folder(folder).await {
            Err(error) => failed(error),
            Ok(None) => Effect::Finished(None),
            Ok(Some(children)) if children.is_empty() => {
                if !self.fence.holds() {
                    return Effect::Fenced;
                }
                match self.submitted(FOLDER, TaskKind::Destroy, None, self.vcenter.destroy_folder(folder).await) {
                    Effect::Gone { .. } => Effect::Finished(None),
                    Effect::Failed { error, .. } => failed(error),
                    _ => Effect::NotFinished,
                }
            }
            Ok(Some(children)) => Effect::Finished(Some(format!(
                "its folder in vCenter was left, because it holds {} that {} not made by this group",
                counted(children.len(), "object"),
                if children.len() == 1 { "was" } else { "were" },
            ))),
        }
    }
}

/// A count with its noun.
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

//! Tasks: work that takes time, its progress, its end, and how long it is
//! remembered.

use std::time::Duration;

use super::entity::{Kind, Moref};
use super::inventory::NewVm;
use super::session::SessionId;
use super::soap::VimFault;
use super::value::{Val, int, poly, text};
use super::vm::invalid_power_state;
use super::vm_methods::Reconfiguration;
use super::world::{State, not_supported};
use super::{CloneView, TaskView};

/// How long a completed task is listed and known (`TaskManager.recentTask`).
const REMEMBERED: Duration = Duration::from_mins(10);
/// How many completed tasks `recentTask` lists at most.
const LISTED: usize = 200;
/// How long a task takes to find out that it cannot begin.
const REFUSAL: Duration = Duration::from_millis(20);

/// Where a task stands (`TaskInfo.state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Working.
    Running,
    /// Over, and it worked.
    Success,
    /// Over, and it failed or was cancelled.
    Error,
}

/// What a task does when its time is over.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Clone {
        source: Moref,
        folder: Moref,
        name: String,
        new: Box<NewVm>,
        power_on: bool,
    },
    Reconfigure {
        vm: Moref,
        change: Box<Reconfiguration>,
    },
    Power {
        vm: Moref,
        on: bool,
    },
    Reset {
        vm: Moref,
    },
    Destroy {
        entity: Moref,
    },
    Rename {
        entity: Moref,
        to: String,
    },
    Move {
        list: Vec<Moref>,
        folder: Moref,
    },
    /// Ends when the host is empty, or with the timeout.
    EnterMaintenance {
        host: Moref,
        timeout: Option<Duration>,
        evacuate_off: bool,
    },
    ExitMaintenance {
        host: Moref,
    },
    /// Nothing by itself: its result tells of other tasks.
    Report {
        result: Box<Val>,
    },
}

/// Something that happens by itself at its time.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Progress(Moref, i32),
    Complete(Moref),
    /// A task that vCenter has forgotten, but its hosts finish.
    Finish(Box<Work>),
    Forget(Moref),
    /// DRS moves a machine away from this host.
    Migrate(Moref),
    GuestUp(Moref),
    GuestDown(Moref),
}

/// What the fault script has in store for the task of a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Doom {
    pub(super) fail: Option<String>,
    pub(super) lose: bool,
    /// The fault type, and how much later the effect comes.
    pub(super) deny: Option<(String, Duration)>,
}

/// A task.
#[derive(Clone, Debug)]
pub(super) struct Task {
    method: &'static str,
    description: &'static str,
    entity: Moref,
    entity_name: String,
    pub(super) state: TaskState,
    cancelled: bool,
    progress: Option<i32>,
    error: Option<VimFault>,
    result: Val,
    queued: Duration,
    completed: Option<Duration>,
    user: String,
    work: Work,
    doom: Doom,
}

impl Task {
    fn cancelable(&self) -> bool {
        self.state == TaskState::Running
            && matches!(self.work, Work::Clone { .. } | Work::Move { .. } | Work::EnterMaintenance { .. })
    }
}

impl State {
    /// Starts a task.
    pub(super) fn start_task(
        &mut self,
        method: &'static str,
        description: &'static str,
        entity: Moref,
        work: Work,
        user: String,
        doom: Doom,
    ) -> Moref {
        let moref = self.new_ref(Kind::Task);
        let refusal = self.can_begin(&work).err();
        let mut took = self.config.durations.of(method);
        if let Work::Destroy { entity } = &work
            && entity.kind == Kind::Folder
        {
            let count = u32::try_from(self.vms_below(*entity).len()).unwrap_or(u32::MAX);
            took *= count.max(1);
        }
        let now = self.now;
        let mut doom = doom;
        let lasting = match &work {
            Work::EnterMaintenance { host, timeout, .. } if refusal.is_none() => Some((*host, *timeout)),
            _ => None,
        };
        if let Some(fault) = refusal {
            took = took.min(REFUSAL);
            doom = Doom { lose: doom.lose, ..Doom::default() };
            self.tasks.insert(moref, self.new_task(method, description, entity, work, user, doom));
            self.set_error(moref, fault);
        } else {
            if matches!(work, Work::Clone { .. }) {
                for (percent, part) in [(25, took / 4), (50, took / 2), (75, took / 4 * 3)] {
                    self.plan(now + part, Event::Progress(moref, percent));
                }
            }
            self.tasks.insert(moref, self.new_task(method, description, entity, work, user, doom));
        }
        match lasting {
            Some((host, timeout)) => self.begin_entering(host, moref, timeout),
            None => drop(self.plan(now + took, Event::Complete(moref))),
        }
        self.list_task(moref, entity);
        moref
    }

    fn new_task(
        &self,
        method: &'static str,
        description: &'static str,
        entity: Moref,
        work: Work,
        user: String,
        doom: Doom,
    ) -> Task {
        Task {
            method,
            description,
            entity,
            entity_name: self.name_of(entity).to_owned(),
            state: TaskState::Running,
            cancelled: false,
            progress: None,
            error: None,
            result: Val::Unset,
            queued: self.now,
            completed: None,
            user,
            work,
            doom,
        }
    }

    /// Why it will fail is found out now, and told when the task ends.
    fn set_error(&mut self, moref: Moref, fault: VimFault) {
        if let Some(task) = self.tasks.get_mut(&moref) {
            task.error = Some(fault);
        }
    }

    fn list_task(&mut self, moref: Moref, entity: Moref) {
        self.recent_tasks.insert(moref);
        let manager = Moref::singleton(Kind::TaskManager);
        self.relink(manager, "recentTask", moref, true);
        self.touch(manager);
        if let Some(entity) = self.entities.get_mut(&entity) {
            entity.recent_tasks.insert(moref);
        }
        self.relink(entity, "recentTask", moref, true);
        self.touch(entity);
    }

    fn unlist_task(&mut self, moref: Moref) {
        if !self.recent_tasks.remove(&moref) {
            return;
        }
        let manager = Moref::singleton(Kind::TaskManager);
        self.relink(manager, "recentTask", moref, false);
        self.touch(manager);
        let Some(entity) = self.tasks.get(&moref).map(|task| task.entity) else { return };
        if let Some(found) = self.entities.get_mut(&entity) {
            found.recent_tasks.remove(&moref);
        }
        self.relink(entity, "recentTask", moref, false);
        self.touch(entity);
    }

    fn forget_task(&mut self, moref: Moref) {
        self.unlist_task(moref);
        self.completed_tasks.retain(|task| *task != moref);
        if self.tasks.remove(&moref).is_some() {
            self.leave_views(moref);
            self.forget(moref);
        }
    }

    /// What has come due.
    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Progress(moref, percent) => {
                if let Some(task) = self.tasks.get_mut(&moref)
                    && task.state == TaskState::Running
                {
                    task.progress = Some(percent);
                    self.touch(moref);
                }
            }
            Event::Complete(moref) => self.complete(moref),
            Event::Finish(work) => {
                // Nobody is there to hear of a failure.
                let _ = self.perform(&work, "");
            }
            Event::Forget(moref) => self.forget_task(moref),
            Event::Migrate(host) => self.migrate_one(host),
            Event::GuestUp(vm) => {
                self.change_vm(vm, |vm| vm.tools_running = vm.power_on && vm.tools_installed);
            }
            Event::GuestDown(vm) => {
                // Somebody may have pulled the plug first.
                let _ = self.apply_power(vm, false);
            }
        }
    }

    pub(super) fn complete(&mut self, moref: Moref) {
        let Some(task) = self.tasks.get(&moref).filter(|task| task.state == TaskState::Running) else {
            return;
        };
        let (doom, work, user) = (task.doom.clone(), task.work.clone(), task.user.clone());
        let (error, entity) = (task.error.clone(), task.entity);
        let scripted = |kind: &str| VimFault::scripted(kind, Some(entity));
        let outcome = match (error, &doom.fail, &doom.deny) {
            (Some(fault), _, _) => Err(fault),
            (None, Some(kind), _) => Err(scripted(kind)),
            (None, None, None) => self.perform(&work, &user),
            (None, None, Some((kind, later))) => {
                let fault = scripted(kind);
                // As after a restart: nobody is there to hear how it went.
                self.plan(self.now + *later, Event::Finish(Box::new(work)));
                Err(fault)
            }
        };
        self.end_task(moref, outcome);
        if doom.lose {
            self.forget_task(moref);
        }
    }

    fn end_task(&mut self, moref: Moref, outcome: Result<Val, VimFault>) {
        let now = self.now;
        let Some(task) = self.tasks.get_mut(&moref) else { return };
        task.completed = Some(now);
        match outcome {
            Ok(result) => {
                task.state = TaskState::Success;
                task.progress = None;
                task.result = result;
            }
            Err(fault) => {
                task.state = TaskState::Error;
                task.error = Some(fault);
            }
        }
        if let Work::EnterMaintenance { host, .. } = task.work {
            self.end_entering(host);
        }
        self.touch(moref);
        self.plan(now + REMEMBERED, Event::Forget(moref));
        self.completed_tasks.push_back(moref);
        if self.completed_tasks.len() > LISTED
            && let Some(oldest) = self.completed_tasks.pop_front()
        {
            self.unlist_task(oldest);
        }
    }

    /// `CancelTask`: the work is not done, and its task ends at once.
    pub(super) fn cancel_task(&mut self, moref: Moref) -> Result<(), VimFault> {
        let task = self.tasks.get_mut(&moref).ok_or_else(|| VimFault::not_found(moref))?;
        if task.state != TaskState::Running {
            return Err(VimFault::new("InvalidState", "The operation is not allowed in the current state."));
        }
        if !task.cancelable() {
            return Err(not_supported());
        }
        task.cancelled = true;
        let fault = VimFault::new("RequestCanceled", "The task was canceled by a user.");
        // What is planned for it finds it ended.
        self.end_task(moref, Err(fault));
        Ok(())
    }

    /// Somebody cancels all that can be cancelled.
    pub(super) fn cancel_tasks(&mut self) -> usize {
        let running: Vec<Moref> =
            self.tasks.iter().filter(|(_, task)| task.cancelable()).map(|(moref, _)| *moref).collect();
        running.into_iter().filter(|moref| self.cancel_task(*moref).is_ok()).count()
    }

    /// vCenter restarts: no task is remembered.
    pub(super) fn drop_tasks(&mut self, finish_running: bool) {
        let mut planned = Vec::new();
        self.unplan_tasks(|at, moref| planned.push((at, moref)));
        for (at, moref) in planned {
            let Some(task) = self.tasks.get(&moref) else { continue };
            if finish_running && task.error.is_none() && task.doom.fail.is_none() {
                let work = Box::new(task.work.clone());
                self.plan(at, Event::Finish(work));
            }
        }
        for host in self.entering.clone() {
            self.end_entering(host);
        }
        self.tasks.clear();
        self.recent_tasks.clear();
        self.completed_tasks.clear();
        for entity in self.entities.values_mut() {
            entity.recent_tasks.clear();
        }
    }

    /// Whether work can be begun: most of what can be wrong is found out early.
    fn can_begin(&self, work: &Work) -> Result<(), VimFault> {
        let busy = |vm: Moref| match self.task_on(vm) {
            Some(task) => {
                Err(VimFault::new("TaskInProgress", "The operation is not allowed while another task is in progress.")
                    .with("task", Val::Ref(task)))
            }
            None => Ok(()),
        };
        match work {
            Work::Clone { folder, name, new, .. } => {
                self.check_name(*folder, name)?;
                self.place(*folder, new).map(drop)
            }
            Work::Power { vm, on } => {
                busy(*vm)?;
                match self.try_vm(*vm) {
                    Some(found) if found.template || found.power_on == *on => {
                        Err(invalid_power_state(Some(*on), found.power_on))
                    }
                    _ => Ok(()),
                }
            }
            Work::Destroy { entity } => {
                busy(*entity)?;
                match self.try_vm(*entity) {
                    Some(vm) if vm.power_on => Err(invalid_power_state(None, true)),
                    _ => Ok(()),
                }
            }
            Work::Reconfigure { vm, .. } | Work::Reset { vm } => busy(*vm),
            Work::Rename { entity, .. } => busy(*entity),
            Work::Move { list, .. } => list.iter().try_for_each(|entity| busy(*entity)),
            Work::EnterMaintenance { host, .. } => self.can_enter(*host),
            Work::ExitMaintenance { host } => self.can_exit(*host),
            Work::Report { .. } => Ok(()),
        }
    }

    /// The task that is putting a host into maintenance.
    pub(super) fn entering_task(&self, host: Moref) -> Option<(Moref, bool)> {
        let moref = self.host(host)?.entering?;
        match self.tasks.get(&moref)?.work {
            Work::EnterMaintenance { evacuate_off, .. } => Some((moref, evacuate_off)),
            _ => None,
        }
    }

    /// Whether something is being cloned to a host.
    pub(super) fn is_provisioning(&self, host: Moref) -> bool {
        let to = |task: &Task| matches!(&task.work, Work::Clone { new, .. } if new.host == Some(host));
        self.tasks.values().any(|task| task.state == TaskState::Running && task.error.is_none() && to(task))
    }

    /// The task that has an entity to itself just now.
    fn task_on(&self, entity: Moref) -> Option<Moref> {
        let recent = &self.entity(entity)?.recent_tasks;
        recent.iter().copied().find(|task| {
            self.tasks.get(task).is_some_and(|task| {
                task.state == TaskState::Running && task.error.is_none() && !matches!(task.work, Work::Clone { .. })
            })
        })
    }

    fn perform(&mut self, work: &Work, user: &str) -> Result<Val, VimFault> {
        match work {
            Work::Clone { source, folder, name, new, power_on } => {
                if self.try_vm(*source).is_none() {
                    return Err(VimFault::not_found(*source));
                }
                let vm = self.add_vm(*folder, name, (**new).clone())?;
                if *power_on && !new.template {
                    // A task of its own, which nobody gets to know.
                    let work = Work::Power { vm, on: true };
                    self.start_task(
                        "PowerOnVM_Task",
                        "VirtualMachine.powerOn",
                        vm,
                        work,
                        user.to_owned(),
                        Doom::default(),
                    );
                }
                Ok(Val::Ref(vm))
            }
            Work::Reconfigure { vm, change } => self.reconfigure(*vm, change),
            Work::Power { vm, on } => self.apply_power(*vm, *on).map(|()| Val::Unset),
            Work::Reset { vm } => {
                let found = self.try_vm(*vm).ok_or_else(|| VimFault::not_found(*vm))?;
                if !found.power_on {
                    return Err(invalid_power_state(Some(true), false));
                }
                let now = self.now;
                self.change_vm(*vm, |vm| vm.booted = Some(now));
                Ok(Val::Unset)
            }
            Work::Destroy { entity } => self.destroy(*entity).map(|()| Val::Unset),
            Work::Rename { entity, to } => self.apply_rename(*entity, to).map(|()| Val::Unset),
            Work::Move { list, folder } => self.apply_move(list, *folder).map(|()| Val::Unset),
            Work::EnterMaintenance { host, evacuate_off, .. } => self.enter(*host, *evacuate_off).map(|()| Val::Unset),
            Work::ExitMaintenance { host } => {
                self.change_host(*host, |host| host.maintenance = false);
                Ok(Val::Unset)
            }
            Work::Report { result } => Ok((**result).clone()),
        }
    }

    /// Deletes a virtual machine, or a folder with all in it; stops at the
    /// first fault and keeps what is left, as vCenter does.
    fn destroy(&mut self, entity: Moref) -> Result<(), VimFault> {
        match entity.kind {
            Kind::VirtualMachine => {
                let vm = self.try_vm(entity).ok_or_else(|| VimFault::not_found(entity))?;
                if vm.power_on {
                    return Err(invalid_power_state(None, true));
                }
                self.remove_vm(entity);
                Ok(())
            }
            Kind::Folder => {
                let children: Vec<Moref> =
                    self.children(entity).ok_or_else(|| VimFault::not_found(entity))?.values().copied().collect();
                for child in children {
                    self.destroy(child)?;
                }
                self.delete(entity);
                Ok(())
            }
            _ => Err(not_supported()),
        }
    }

    fn vms_below(&self, folder: Moref) -> Vec<Moref> {
        self.vm_refs().into_iter().filter(|vm| self.within(*vm, folder)).collect()
    }

    pub(super) fn task_views(&self) -> Vec<TaskView> {
        self.tasks
            .iter()
            .map(|(moref, task)| TaskView {
                moref: moref.value(),
                method: task.method.to_owned(),
                entity: task.entity_name.clone(),
                state: task.state,
                error: (task.state == TaskState::Error)
                    .then(|| task.error.as_ref().map(|fault| fault.kind.to_string()))
                    .flatten(),
                makes: match &task.work {
                    Work::Clone { new, .. } => Some(CloneView {
                        instance_uuid: new.instance_uuid.clone().unwrap_or_default(),
                        extra: new.extra.clone(),
                    }),
                    _ => None,
                },
            })
            .collect()
    }

    /// A task as a `TaskInfo`.
    pub(super) fn task_info(&self, moref: Moref) -> Val {
        let Some(task) = self.tasks.get(&moref) else { return Val::Unset };
        let state = match task.state {
            TaskState::Running => "running",
            TaskState::Success => "success",
            TaskState::Error => "error",
        };
        let error = match (&task.error, task.state) {
            (Some(fault), TaskState::Error) => Val::Fault(Box::new(fault.clone())),
            _ => Val::Unset,
        };
        let reason = Val::Struct("TaskReasonUser", vec![("userName", text(task.user.clone()))]);
        Val::Struct(
            "TaskInfo",
            vec![
                ("key", text(moref.value())),
                ("task", Val::Ref(moref)),
                ("description", Val::Unset),
                ("name", text(task.method)),
                ("descriptionId", text(task.description)),
                ("entity", Val::Ref(task.entity)),
                ("entityName", text(task.entity_name.clone())),
                ("locked", Val::Unset),
                ("state", Val::Enum("TaskInfoState", state)),
                ("cancelled", Val::Bool(task.cancelled)),
                ("cancelable", Val::Bool(task.cancelable())),
                ("error", error),
                ("result", if task.result == Val::Unset { Val::Unset } else { poly(task.result.clone()) }),
                ("progress", task.progress.map_or(Val::Unset, int)),
                ("progressDetails", Val::Unset),
                ("reason", poly(reason)),
                ("queueTime", Val::Time(task.queued)),
                ("startTime", Val::Time(task.queued)),
                ("completeTime", task.completed.map_or(Val::Unset, Val::Time)),
                ("eventChainId", int(moref.number)),
                ("changeTag", Val::Unset),
                ("parentTaskKey", Val::Unset),
                ("rootTaskKey", Val::Unset),
                ("activationId", Val::Unset),
            ],
        )
    }

    /// A task started by a session's call.
    pub(super) fn task_of(
        &mut self,
        session: SessionId,
        method: &'static str,
        description: &'static str,
        entity: Moref,
        work: Work,
        doom: Doom,
    ) -> Moref {
        let user = self.user_of(session);
        self.start_task(method, description, entity, work, user, doom)
    }
}

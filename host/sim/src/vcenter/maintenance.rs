//! Hosts that go into maintenance, as the vendor documents `EnterMaintenanceMode_Task`:
//! the task runs until no powered-on machine is left on the host and nothing is being
//! cloned there; meanwhile nobody can be powered on there. It moves nobody itself. DRS
//! does, where it is fully automated; its migrations are no tasks that anybody sees here.
//!
//! Must not know who asked for it.

use std::time::Duration;

use super::entity::Moref;
use super::soap::VimFault;
use super::tasks::{Doom, Event, Work};
use super::world::State;

/// `TaskInfo.descriptionId` of `EnterMaintenanceMode_Task`.
pub(super) const ENTERING: &str = "HostSystem.enterMaintenanceMode";

impl State {
    /// Somebody puts a host into maintenance who waits for as long as it takes.
    pub(super) fn somebody_enters(&mut self, host: Moref) {
        if self.can_enter(host).is_ok() {
            let work = Work::EnterMaintenance { host, timeout: None, evacuate_off: false };
            let user = "simulator".to_owned();
            self.start_task("EnterMaintenanceMode_Task", ENTERING, host, work, user, Doom::default());
        }
    }

    pub(super) fn can_enter(&self, host: Moref) -> Result<(), VimFault> {
        match self.host(host) {
            Some(found) if !found.maintenance && found.entering.is_none() => Ok(()),
            Some(_) => Err(invalid_state()),
            None => Err(VimFault::not_found(host)),
        }
    }

    pub(super) fn can_exit(&self, host: Moref) -> Result<(), VimFault> {
        match self.host(host) {
            Some(found) if found.maintenance => Ok(()),
            Some(_) => Err(invalid_state()),
            None => Err(VimFault::not_found(host)),
        }
    }

    /// The task has begun.
    pub(super) fn begin_entering(&mut self, host: Moref, task: Moref, timeout: Option<Duration>) {
        self.entering.insert(host);
        self.change_host(host, |host| host.entering = Some(task));
        if let Some(timeout) = timeout {
            self.plan(self.now + timeout, Event::Complete(task));
        }
        self.plan_migration(host);
    }

    /// It is over, one way or the other.
    pub(super) fn end_entering(&mut self, host: Moref) {
        if self.entering.remove(&host) {
            self.change_host(host, |host| host.entering = None);
        }
    }

    /// Its time has come: the host is empty, or it has taken too long.
    pub(super) fn enter(&mut self, host: Moref, evacuate_off: bool) -> Result<(), VimFault> {
        let empty = self.is_empty(host, evacuate_off);
        self.end_entering(host);
        if empty {
            self.change_host(host, |host| host.maintenance = true);
            return Ok(());
        }
        Err(VimFault::new("Timedout", "Operation timed out."))
    }

    fn is_empty(&self, host: Moref, evacuate_off: bool) -> bool {
        let Some(found) = self.host(host) else { return true };
        let stays = |vm: &Moref| self.try_vm(*vm).is_some_and(|vm| !vm.template && (vm.power_on || evacuate_off));
        !found.vms.iter().any(stays) && !self.is_provisioning(host)
    }

    /// Ends the tasks of hosts that have become empty.
    pub(super) fn settle_maintenance(&mut self) {
        for host in self.entering.clone() {
            if let Some((task, evacuate_off)) = self.entering_task(host)
                && self.is_empty(host, evacuate_off)
            {
                self.complete(task);
            }
        }
    }

    fn plan_migration(&mut self, host: Moref) {
        if self.config.drs && self.config.drs_automatic {
            self.plan(self.now + self.config.durations.migrate, Event::Migrate(host));
        }
    }

    /// DRS moves one machine away from a host that is to be emptied, if it may.
    pub(super) fn migrate_one(&mut self, host: Moref) {
        let Some((_, evacuate_off)) = self.entering_task(host) else { return };
        let Some(found) = self.host(host).filter(|_| self.config.drs && self.config.drs_automatic) else { return };
        let moves = |vm: &&Moref| self.try_vm(**vm).is_some_and(|vm| !vm.template && (vm.power_on || evacuate_off));
        let (vm, cluster) = (found.vms.iter().find(moves).copied(), found.cluster);
        let others = self.cluster(cluster).map(|cluster| cluster.hosts.clone()).unwrap_or_default();
        let usable = others.into_iter().filter(|other| self.host_usable(*other));
        let to = usable.min_by_key(|other| self.host(*other).map_or(0, |host| host.vms.len()));
        if let (Some(vm), Some(to)) = (vm, to) {
            self.migrate(vm, to);
            self.plan_migration(host);
        }
    }
}

fn invalid_state() -> VimFault {
    VimFault::new("InvalidState", "The operation is not allowed in the current state of the host.")
}

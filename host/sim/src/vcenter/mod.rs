//! The simulated vCenter: vim25 SOAP, and REST for tags, as a tower service over a small world of
//! datacenters, clusters, hosts, datastores and virtual machines.
//!
//! It stands for the other side of the wire: it follows the vendor's
//! documentation where govmomi's simulator does not, keeps time by tokio's
//! clock alone, and does the same for the same seed and calls.
//!
//! Nothing runs in the background. Whoever looks (a call, an assertion) first
//! lets the world catch up with the clock ([`world::State::advance`]), and a
//! long poll sleeps until the next thing that is due. So the world never gets
//! ahead of a paused clock, and needs no task of its own.
//!
//! Must not know any client: requests are read by local names, as any vim25
//! client writes them.

mod collector;
mod config;
mod entity;
mod inventory;
mod lookup;
mod maintenance;
mod methods;
mod privileges;
mod properties;
mod rest;
mod selection;
mod service;
mod session;
mod soap;
mod tagging;
mod tasks;
mod value;
mod views;
mod vm;
mod vm_methods;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

pub use config::{TaskDurations, VcenterConfig};
pub use rest::operation as rest_operation;
pub use service::VcenterService;
pub use tasks::TaskState;

use crate::clock::Clock;
use crate::faults::Faults;
use entity::{Kind, Moref};
use inventory::NewVm;
use world::{Detail, Holds, State};

/// A virtual machine as the world has it, for assertions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmView {
    /// The managed object reference's value, such as `vm-42`.
    pub moref: String,
    /// The entity's name as stored: `%`, `/` and `\` escaped.
    pub name: String,
    /// The inventory path, such as `/DC0/vm/vm-operator/web/web-0`.
    pub path: String,
    /// The inventory path of the folder that it is in.
    pub folder: String,
    /// vCenter's own identifier of the instance (`config.instanceUuid`).
    pub instance_uuid: String,
    /// Whether it is powered on.
    pub power_on: bool,
    /// What it takes of its datastore, in bytes.
    pub disk_bytes: u64,
    /// The name of the host that it is registered on.
    pub host: String,
    /// The name of the datastore that holds it.
    pub datastore: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// `config.extraConfig`.
    pub extra: BTreeMap<String, String>,
    /// Whether it is a template.
    pub template: bool,
    /// The names of its cards' networks.
    pub networks: Vec<String>,
    /// Sizes of its disks, in bytes.
    pub disks: Vec<u64>,
    /// The domain of the customization that it was made with.
    pub customized: Option<String>,
    /// Its custom attributes, by name.
    pub attributes: BTreeMap<String, String>,
    /// Its tags: category and name of each.
    pub tags: BTreeSet<(String, String)>,
}

/// A task as the world has it, for assertions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// The managed object reference's value, such as `task-7`.
    pub moref: String,
    /// The method that started it, such as `CloneVM_Task`.
    pub method: String,
    /// The name of the entity it works on, as it was at the start.
    pub entity: String,
    /// Where it stands.
    pub state: TaskState,
    /// The fault type of a failed task.
    pub error: Option<String>,
    /// The machine that a clone makes.
    pub makes: Option<CloneView>,
}

/// What a clone's call asked for, for assertions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneView {
    /// `spec.config.instanceUuid`; empty if vCenter gives one of its own.
    pub instance_uuid: String,
    /// `spec.config.extraConfig`.
    pub extra: BTreeMap<String, String>,
}

/// No such thing in the simulated inventory, or not possible there.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WorldError {
    /// There is nothing at this inventory path, or it is of another type.
    #[error("nothing of that type at {0}")]
    NotFound(String),
    /// vCenter would have refused, with a fault of this type.
    #[error("refused with {0}")]
    Refused(String),
}

/// A simulated vCenter. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub struct VcenterSim(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Counts wake-ups: bumped whenever something may have changed that a
    /// blocked call waits for.
    changed: watch::Sender<u64>,
    faults: Faults,
    clock: Clock,
}

impl Shared {
    /// The world, caught up with the clock. Never held over an await.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.advance(self.clock.since_epoch());
        state
    }

    /// Wakes the blocked calls if `work` left something for them.
    fn change<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let (result, woken) = {
            let mut state = self.state();
            let result = work(&mut state);
            state.settle_maintenance();
            (result, state.take_woken())
        };
        if woken {
            self.changed.send_modify(|n| *n = n.wrapping_add(1));
        }
        result
    }
}

impl VcenterSim {
    /// A vCenter with the inventory that `config` describes.
    pub fn new(config: VcenterConfig, clock: Clock) -> Self {
        let state = inventory::build(config, clock.since_epoch());
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
            faults: Faults::default(),
            clock,
        }))
    }

    /// The fault script. Operations are SOAP method names, or those of the REST API
    /// ([`rest_operation`]). `Error` takes an
    /// HTTP status (`503`), a fault type (`NotAuthenticated`), or for property
    /// reads `missingSet:` and a fault type, which answers each property with
    /// that fault. Rules meet calls as they come in: [`Self::set_down`] and
    /// [`Self::cut_connections`] reach those that are blocked.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// The endpoint: POST `/sdk`, GET `/sdk/vimServiceVersions.xml`, and below `/rest`
    /// what is about tags.
    pub fn service(&self) -> VcenterService {
        VcenterService::new(self.0.clone())
    }

    /// Rises whenever the inventory changes: what was seen at this number holds.
    pub fn changes(&self) -> u64 {
        self.0.change(|state| state.changes)
    }

    /// All virtual machines and templates, by moref.
    pub fn vms(&self) -> Vec<VmView> {
        self.0.change(|state| state.vm_refs().into_iter().map(|vm| view(state, vm)).collect())
    }

    /// The virtual machine at an inventory path.
    pub fn vm(&self, path: &str) -> Option<VmView> {
        self.0.change(|state| {
            let vm = state.find_path(path).filter(|found| found.kind == Kind::VirtualMachine)?;
            Some(view(state, vm))
        })
    }

    /// The inventory paths of all virtual machine folders, sorted.
    pub fn folders(&self) -> Vec<String> {
        self.0.change(|state| {
            let mut paths: Vec<String> = state
                .refs_of(Kind::Folder)
                .into_iter()
                .filter(|folder| state.holds_vms(*folder))
                .map(|folder| state.path_of(folder))
                .collect();
            paths.sort();
            paths
        })
    }

    /// The inventory path of what has this type and reference, such as `Datastore` and
    /// `datastore-9`; nothing if there is no such thing.
    pub fn path(&self, type_name: &str, moref: &str) -> Option<String> {
        self.0.change(|state| {
            let found = Moref::parse(type_name, moref).filter(|found| state.entities.contains_key(found))?;
            Some(state.path_of(found))
        })
    }

    /// Whether nothing lies in the folder with this reference; nothing if there is
    /// no such folder.
    pub fn folder_is_empty(&self, moref: &str) -> Option<bool> {
        self.0.change(|state| {
            let folder = Moref::parse("Folder", moref)?;
            Some(state.children(folder)?.is_empty())
        })
    }

    /// The tasks that vCenter still remembers, oldest first.
    pub fn tasks(&self) -> Vec<TaskView> {
        self.0.change(|state| state.task_views())
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> usize {
        self.0.change(|state| state.sessions.len())
    }

    /// As what the client of each open session introduced itself (`User-Agent`).
    pub fn session_agents(&self) -> Vec<String> {
        self.0.change(|state| state.agents())
    }

    /// The most sessions that any one client, by its `User-Agent`, ever had open at
    /// the same time.
    pub fn most_sessions(&self) -> usize {
        self.0.change(|state| state.most_sessions.values().copied().max().unwrap_or(0))
    }

    /// How many sessions of the REST API are open.
    pub fn api_sessions(&self) -> usize {
        self.0.change(|state| state.api_sessions.len())
    }

    /// How many logins have succeeded since the start.
    pub fn logins(&self) -> u64 {
        self.0.change(|state| state.logins)
    }

    fn on<T>(
        &self,
        path: &str,
        kind: Kind,
        work: impl FnOnce(&mut State, Moref) -> Result<T, soap::VimFault>,
    ) -> Result<T, WorldError> {
        self.0.change(|state| {
            let found = state
                .find_path(path)
                .filter(|found| found.kind == kind)
                .ok_or_else(|| WorldError::NotFound(path.to_owned()))?;
            work(state, found).map_err(|fault| WorldError::Refused(fault.kind.into_owned()))
        })
    }

    /// Somebody pulls the plug of a virtual machine, at once and without a task.
    pub fn power_off(&self, path: &str) -> Result<(), WorldError> {
        self.on(path, Kind::VirtualMachine, |state, vm| state.apply_power(vm, false))
    }

    /// Somebody powers a virtual machine on, at once and without a task.
    pub fn power_on(&self, path: &str) -> Result<(), WorldError> {
        self.on(path, Kind::VirtualMachine, |state, vm| state.apply_power(vm, true))
    }

    /// Somebody deletes a virtual machine, whatever its power state.
    pub fn destroy(&self, path: &str) -> Result<(), WorldError> {
        self.on(path, Kind::VirtualMachine, |state, vm| {
            state.remove_vm(vm);
            Ok(())
        })
    }

    /// Somebody deletes a folder with all that is in it.
    pub fn destroy_folder(&self, path: &str) -> Result<(), WorldError> {
        self.on(path, Kind::Folder, |state, folder| {
            state.remove_folder(folder);
            Ok(())
        })
    }

    /// Somebody renames a virtual machine.
    pub fn rename(&self, path: &str, to: &str) -> Result<(), WorldError> {
        self.on(path, Kind::VirtualMachine, |state, vm| state.apply_rename(vm, to))
    }

    /// Somebody moves a virtual machine to another folder.
    pub fn move_to(&self, path: &str, folder: &str) -> Result<(), WorldError> {
        self.on(path, Kind::VirtualMachine, |state, vm| {
            let target =
                state.find_path(folder).ok_or_else(|| soap::VimFault::new("NotFound", format!("no {folder}")))?;
            state.apply_move(&[vm], target)
        })
    }

    /// Somebody creates a folder in another one.
    pub fn add_folder(&self, parent: &str, name: &str) -> Result<(), WorldError> {
        self.on(parent, Kind::Folder, |state, parent| state.create_folder(parent, name).map(drop))
    }

    /// Somebody else's virtual machine, powered on, with this `extraConfig`.
    pub fn add_vm(&self, folder: &str, name: &str, extra: &[(&str, &str)]) -> Result<(), WorldError> {
        let extra = extra.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.on(folder, Kind::Folder, |state, folder| {
            let vm = state.add_vm(folder, name, NewVm { extra, ..NewVm::default() })?;
            state.apply_power(vm, true)
        })
    }

    /// Another template.
    pub fn add_template(&self, folder: &str, name: &str) -> Result<(), WorldError> {
        self.on(folder, Kind::Folder, |state, folder| {
            let new = NewVm { template: true, ..NewVm::default() };
            state.add_vm(folder, name, new).map(drop)
        })
    }

    /// Takes a privilege, such as `VirtualMachine.Interact.PowerOn`, from the account
    /// that may do everything.
    pub fn withhold(&self, privilege: &str) {
        self.0.state().config.missing_privileges.insert(privilege.to_owned());
    }

    /// Gives it back.
    pub fn grant(&self, privilege: &str) {
        self.0.state().config.missing_privileges.remove(privilege);
    }

    /// Makes a snapshot of a virtual machine or template, its current one from now on.
    pub fn take_snapshot(&self, path: &str) -> Result<(), WorldError> {
        self.on(path, Kind::VirtualMachine, |state, vm| {
            let snapshot = state.new_ref(Kind::VirtualMachineSnapshot);
            state.change_vm(vm, |vm| vm.snapshot = Some(snapshot));
            Ok(())
        })
    }

    /// Another network, by name, in the first datacenter, for all of its clusters.
    pub fn add_network(&self, name: &str) -> Result<(), WorldError> {
        self.on("/DC0/network", Kind::Folder, |state, folder| {
            let name = state.check_name(folder, name)?;
            let network = state.new_ref(Kind::Network);
            state.insert(network, &name, Some(folder), Detail::Network);
            Ok(())
        })
    }

    /// A datastore cluster (`StoragePod`) in the first datacenter, with these datastores in
    /// it.
    pub fn add_storage_pod(&self, name: &str, datastores: &[&str]) -> Result<(), WorldError> {
        self.on("/DC0/datastore", Kind::Folder, |state, folder| {
            let name = state.check_name(folder, name)?;
            let pod = state.new_ref(Kind::StoragePod);
            let detail = Detail::Folder { holds: Holds::Datastores, children: BTreeMap::new() };
            state.insert(pod, &name, Some(folder), detail);
            let stores: Option<Vec<_>> =
                datastores.iter().map(|name| state.find_path(&format!("/DC0/datastore/{name}"))).collect();
            let stores = stores.ok_or_else(|| soap::VimFault::new("NotFound", "no such datastore"))?;
            state.apply_move(&stores, pod)
        })
    }

    /// Puts a datastore, by inventory path, into maintenance mode, or takes it out.
    pub fn set_datastore_maintenance(&self, path: &str, on: bool) -> Result<(), WorldError> {
        self.on(path, Kind::Datastore, |state, store| {
            if let Some(Detail::Datastore(detail)) = state.entities.get_mut(&store).map(|entity| &mut entity.detail) {
                detail.maintenance = on;
            }
            state.touch(store);
            Ok(())
        })
    }

    /// A customization specification of this name, for the domain
    /// `<name>.example.com`.
    pub fn add_customization(&self, name: &str) {
        self.0.change(|state| state.customizations.insert(name.to_owned()));
    }

    /// What a powered-on virtual machine uses of its host's CPU, in MHz.
    pub fn set_cpu_usage(&self, path: &str, mhz: u32) -> Result<(), WorldError> {
        self.on(path, Kind::VirtualMachine, |state, vm| {
            state.change_vm(vm, |vm| vm.cpu_mhz = Some(mhz));
            Ok(())
        })
    }

    /// Defines a custom attribute that machines can have.
    pub fn define_attribute(&self, name: &str) {
        self.0.change(|state| state.define_attribute(name, Some(Kind::VirtualMachine)));
    }

    /// Sets a custom attribute of a machine, and defines it if it is new; an empty value
    /// takes it away.
    pub fn set_attribute(&self, path: &str, name: &str, value: &str) -> Result<(), WorldError> {
        self.on(path, Kind::VirtualMachine, |state, vm| {
            state.set_attribute(vm, name, value);
            Ok(())
        })
    }

    /// Makes a category of tags, of which a machine may have one at a time (`single`), or
    /// any number.
    pub fn define_category(&self, name: &str, single: bool) {
        self.0.change(|state| state.define_category(name, single));
    }

    /// Makes a tag, and its category if that is new.
    pub fn define_tag(&self, category: &str, name: &str) {
        self.0.change(|state| state.define_tag(category, name));
    }

    /// Somebody deletes a tag.
    pub fn delete_tag(&self, category: &str, name: &str) -> Result<(), WorldError> {
        self.0.change(|state| {
            let id = state.tagging.find(category, name);
            id.map(|id| state.delete_tag(&id)).ok_or_else(|| WorldError::NotFound(name.to_owned()))
        })
    }

    /// Somebody attaches a tag to a machine, or takes it off. It is made if it is new.
    pub fn set_tag(&self, path: &str, category: &str, name: &str, on: bool) -> Result<(), WorldError> {
        self.on(path, Kind::VirtualMachine, |state, vm| {
            let id = state.define_tag(category, name);
            if on {
                return state.attach(&id, vm).map_err(|_| soap::VimFault::new("InvalidArgument", "cardinality"));
            }
            state.detach(&id, vm);
            Ok(())
        })
    }

    /// Writes one `extraConfig` value; an empty one removes the key.
    pub fn set_extra(&self, path: &str, key: &str, value: &str) -> Result<(), WorldError> {
        self.on(path, Kind::VirtualMachine, |state, vm| {
            state.change_vm(vm, |vm| vm.set_extra(key, value));
            Ok(())
        })
    }

    /// Whether CPUs, and memory, can be added to a virtual machine while it runs;
    /// clones of a template are as it is.
    pub fn set_hot_add(&self, path: &str, cpu: bool, memory: bool) -> Result<(), WorldError> {
        self.on(path, Kind::VirtualMachine, |state, vm| {
            state.change_vm(vm, |vm| vm.hot_add = (cpu, memory));
            Ok(())
        })
    }

    /// Whether VMware Tools run in the guest (without them `ShutdownGuest` is
    /// refused), and whether the guest obeys when asked to shut down.
    pub fn set_guest(&self, path: &str, tools: bool, obeys: bool) -> Result<(), WorldError> {
        self.on(path, Kind::VirtualMachine, |state, vm| {
            state.change_vm(vm, |vm| {
                vm.tools_installed = tools;
                vm.tools_running = tools && vm.power_on;
                vm.obeys_shutdown = obeys;
            });
            Ok(())
        })
    }

    fn on_host<T>(&self, name: &str, work: impl FnOnce(&mut State, Moref) -> T) -> Result<T, WorldError> {
        self.on_named(Kind::HostSystem, name, work)
    }

    fn on_named<T>(&self, kind: Kind, name: &str, work: impl FnOnce(&mut State, Moref) -> T) -> Result<T, WorldError> {
        self.0.change(|state| {
            let found = state
                .refs_of(kind)
                .into_iter()
                .find(|object| state.name_of(*object) == name)
                .ok_or_else(|| WorldError::NotFound(name.to_owned()))?;
            Ok(work(state, found))
        })
    }

    /// Puts a host (by name) into maintenance mode at once, whatever is on it, or takes it
    /// out. A task that was about to is cancelled.
    pub fn set_maintenance(&self, host: &str, on: bool) -> Result<(), WorldError> {
        self.on_host(host, |state, host| {
            if let Some((task, _)) = state.entering_task(host) {
                // It runs, and can be.
                let _ = state.cancel_task(task);
            }
            state.change_host(host, |host| host.maintenance = on);
        })
    }

    /// Somebody begins to put a host (by name) into maintenance mode
    /// (`EnterMaintenanceMode_Task`, without a timeout). The host is in it when no
    /// powered-on machine is left there; fully automated DRS moves them away.
    pub fn enter_maintenance(&self, host: &str) -> Result<(), WorldError> {
        self.on_host(host, State::somebody_enters)
    }

    /// Whether a host (by name) is in maintenance mode.
    pub fn in_maintenance(&self, host: &str) -> Result<bool, WorldError> {
        self.on_host(host, |state, host| state.host(host).is_some_and(|host| host.maintenance))
    }

    /// Whether clusters have DRS, and whether it is fully automated.
    pub fn set_drs(&self, on: bool, automatic: bool) {
        self.0.change(|state| {
            (state.config.drs, state.config.drs_automatic) = (on, automatic);
            for cluster in state.refs_of(Kind::ClusterComputeResource) {
                state.touch(cluster);
            }
        });
    }

    /// Somebody moves a virtual machine to another host (by name).
    pub fn migrate(&self, path: &str, host: &str) -> Result<(), WorldError> {
        let to = self.on_host(host, |_, host| host)?;
        self.on(path, Kind::VirtualMachine, |state, vm| {
            state.migrate(vm, to);
            Ok(())
        })
    }

    /// Mounts a datastore (by name) on these hosts (by name), and on no other.
    pub fn set_mounts(&self, datastore: &str, hosts: &[&str]) -> Result<(), WorldError> {
        let hosts: Vec<Moref> =
            hosts.iter().map(|host| self.on_host(host, |_, host| host)).collect::<Result<_, _>>()?;
        self.on_named(Kind::Datastore, datastore, |state, store| state.mount(store, hosts))
    }

    /// How large a datastore (by name) is, in bytes.
    pub fn set_datastore_size(&self, datastore: &str, bytes: u64) -> Result<(), WorldError> {
        self.on_named(Kind::Datastore, datastore, |state, store| {
            state.change_datastore(store, |it| it.capacity = bytes);
        })
    }

    /// Puts a host (by name) into quarantine mode, as Proactive HA would, or takes it out.
    pub fn set_quarantine(&self, host: &str, on: bool) -> Result<(), WorldError> {
        self.on_host(host, |state, host| state.change_host(host, |host| host.quarantined = on))
    }

    /// Connects or disconnects a host (by name).
    pub fn set_connected(&self, host: &str, on: bool) -> Result<(), WorldError> {
        self.on_host(host, |state, host| state.change_host(host, |host| host.connected = on))
    }

    /// Sets a custom attribute of a host (by name): `customValue`, and its
    /// definition in the `CustomFieldsManager`.
    pub fn set_host_attribute(&self, host: &str, key: &str, value: &str) -> Result<(), WorldError> {
        self.on_host(host, |state, host| state.set_attribute(host, key, value))
    }

    /// As [`set_host_attribute`](Self::set_host_attribute), of a cluster.
    pub fn set_cluster_attribute(&self, cluster: &str, key: &str, value: &str) -> Result<(), WorldError> {
        self.on_named(Kind::ClusterComputeResource, cluster, |state, cluster| state.set_attribute(cluster, key, value))
    }

    /// Ends every session, as an administrator would.
    pub fn terminate_sessions(&self) {
        self.0.change(State::end_all_sessions);
    }

    /// The password that the next login needs. Open sessions stay.
    pub fn set_password(&self, password: &str) {
        self.0.change(|state| password.clone_into(&mut state.config.password));
    }

    /// Somebody cancels every running task that can be cancelled. Returns how many
    /// there were.
    pub fn cancel_tasks(&self) -> usize {
        self.0.change(State::cancel_tasks)
    }

    /// Restarts vCenter: sessions, collectors, views and tasks are forgotten,
    /// open connections break. The work of running tasks is done to its end by
    /// the hosts if `finish_running`, and lost otherwise.
    pub fn restart(&self, finish_running: bool) {
        self.0.change(|state| state.restart(finish_running));
    }

    /// Nobody gets through, and open connections break; or all is well again.
    /// Tasks and sessions live on meanwhile.
    pub fn set_down(&self, down: bool) {
        self.0.faults.set_down(down);
        if down {
            self.cut_connections();
        }
    }

    /// Breaks every connection on which a call is blocked just now.
    pub fn cut_connections(&self) {
        self.0.change(|state| {
            state.epoch += 1;
            state.wake();
        });
    }
}

fn view(state: &State, moref: Moref) -> VmView {
    let vm = state.vm(moref);
    let name_of = |entity: Option<Moref>| entity.map(|entity| state.name_of(entity).to_owned()).unwrap_or_default();
    VmView {
        moref: moref.value(),
        name: state.name_of(moref).to_owned(),
        path: state.path_of(moref),
        folder: state.parent_of(moref).map(|folder| state.path_of(folder)).unwrap_or_default(),
        instance_uuid: vm.instance_uuid.clone(),
        power_on: vm.power_on,
        disk_bytes: vm.disk_bytes,
        host: name_of(vm.host),
        datastore: name_of(Some(vm.datastore)),
        cpus: vm.cpus,
        memory_mib: vm.memory_mib,
        extra: vm.extra.clone(),
        template: vm.template,
        networks: vm.networks.iter().map(|network| state.name_of(*network).to_owned()).collect(),
        disks: vm.disks().collect(),
        customized: vm.customized.clone(),
        attributes: state
            .entity(moref)
            .into_iter()
            .flat_map(|entity| &entity.attributes)
            .filter_map(|(key, value)| Some((state.attribute(*key)?.0.clone(), value.clone())))
            .collect(),
        tags: state.tagging.names_of(moref),
    }
}

//! What can happen to a virtual machine, and what its host, pool and datastore
//! feel of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::entity::{Kind, Moref};
use super::inventory::NewVm;
use super::soap::VimFault;
use super::tasks::Event;
use super::value::{Val, text};
use super::world::{Detail, Due, Entity, State, not_supported};

/// Memory that the hypervisor takes besides the guest's, in MiB.
pub(super) const OVERHEAD_MIB: u64 = 48;

/// A virtual machine or template.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
pub(super) struct Vm {
    pub(super) template: bool,
    pub(super) bios_uuid: String,
    pub(super) instance_uuid: String,
    pub(super) cpus: u32,
    pub(super) memory_mib: u64,
    /// CPUs, and memory, can be added while it runs.
    pub(super) hot_add: (bool, bool),
    pub(super) extra: BTreeMap<String, String>,
    pub(super) annotation: String,
    /// Extension key and type.
    pub(super) managed_by: Option<(String, String)>,
    pub(super) power_on: bool,
    pub(super) host: Option<Moref>,
    /// Unset for a template.
    pub(super) pool: Option<Moref>,
    pub(super) datastore: Moref,
    pub(super) networks: Vec<Moref>,
    /// Of all its disks together.
    pub(super) disk_bytes: u64,
    /// Of those besides the first.
    pub(super) further_disks: Vec<u64>,
    /// The snapshot that the disks stand on.
    pub(super) snapshot: Option<Moref>,
    /// The domain of the customization that it was made with.
    pub(super) customized: Option<String>,
    pub(super) created: Duration,
    pub(super) booted: Option<Duration>,
    /// Use of CPU while on, if somebody has set it.
    pub(super) cpu_mhz: Option<u32>,
    pub(super) mac: String,
    pub(super) tools_installed: bool,
    pub(super) tools_running: bool,
    pub(super) obeys_shutdown: bool,
    /// Rises with each change of the configuration (`config.changeVersion`).
    pub(super) revision: u64,
    /// What its guest is about to do.
    pub(super) planned: Vec<Due>,
}

impl Vm {
    /// Writes one `extraConfig` value; an empty one removes the key.
    pub(super) fn set_extra(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            self.extra.remove(key);
        } else {
            self.extra.insert(key.to_owned(), value.to_owned());
        }
        self.revision += 1;
    }

    /// Sizes of its disks, in bytes.
    pub(super) fn disks(&self) -> impl Iterator<Item = u64> {
        let first = self.disk_bytes.saturating_sub(self.further_disks.iter().sum());
        std::iter::once(first).chain(self.further_disks.iter().copied())
    }

    /// Use of the host's CPU, in MHz.
    pub(super) fn cpu_usage(&self) -> u32 {
        if self.power_on { self.cpu_mhz.unwrap_or(60 * self.cpus) } else { 0 }
    }

    /// Use of the host's memory, in MiB.
    pub(super) fn memory_usage(&self) -> u64 {
        if self.power_on { self.memory_mib + OVERHEAD_MIB } else { 0 }
    }

    pub(super) fn state(&self) -> Val {
        power_state(self.power_on)
    }
}

pub(super) fn power_state(on: bool) -> Val {
    Val::Enum("VirtualMachinePowerState", if on { "poweredOn" } else { "poweredOff" })
}

pub(super) fn invalid_power_state(requested: Option<bool>, existing: bool) -> VimFault {
    let shown = if existing { "Powered on" } else { "Powered off" };
    VimFault::new(
        "InvalidPowerState",
        format!("The attempted operation cannot be performed in the current state ({shown})."),
    )
    .with("requestedState", requested.map_or(Val::Unset, power_state))
    .with("existingState", power_state(existing))
}

impl State {
    pub(super) fn vm_refs(&self) -> Vec<Moref> {
        self.refs_of(Kind::VirtualMachine)
    }

    pub(super) fn try_vm(&self, moref: Moref) -> Option<&Vm> {
        match &self.entity(moref)?.detail {
            Detail::Vm(vm) => Some(vm),
            _ => None,
        }
    }

    /// A virtual machine that is known to exist.
    #[expect(clippy::panic, reason = "the caller holds a reference from the same lock")]
    pub(super) fn vm(&self, moref: Moref) -> &Vm {
        self.try_vm(moref).unwrap_or_else(|| panic!("no virtual machine {moref}"))
    }

    fn vm_mut(&mut self, moref: Moref) -> Option<&mut Vm> {
        match self.entities.get_mut(&moref) {
            Some(Entity { detail: Detail::Vm(vm), .. }) => Some(vm),
            _ => None,
        }
    }

    /// Changes a virtual machine, and tells whoever its numbers matter to.
    pub(super) fn change_vm<T>(&mut self, moref: Moref, change: impl FnOnce(&mut Vm) -> T) -> Option<T> {
        let result = change(self.vm_mut(moref)?);
        self.touch(moref);
        self.touch_around(moref);
        Some(result)
    }

    /// Whatever carries a virtual machine shows other numbers now.
    fn touch_around(&mut self, moref: Moref) {
        let Some(vm) = self.try_vm(moref) else { return };
        let (host, pool, datastore) = (vm.host, vm.pool, vm.datastore);
        let cluster = host.and_then(|host| self.host(host)).map(|host| host.cluster);
        for object in [host, pool, cluster, Some(datastore)].into_iter().flatten() {
            self.touch(object);
        }
    }

    /// Ties a virtual machine to host, pool and datastore, or unties it.
    fn tie(&mut self, moref: Moref, tied: bool) {
        let Some(vm) = self.try_vm(moref) else { return };
        let disk = vm.disk_bytes;
        for carrier in [vm.host, vm.pool, Some(vm.datastore)].into_iter().flatten() {
            let Some(entity) = self.entities.get_mut(&carrier) else { continue };
            let vms = match &mut entity.detail {
                Detail::Host(host) => &mut host.vms,
                Detail::Pool { vms, .. } => vms,
                Detail::Datastore(store) => {
                    store.used = if tied { store.used.saturating_add(disk) } else { store.used.saturating_sub(disk) };
                    &mut store.vms
                }
                _ => continue,
            };
            if tied {
                vms.insert(moref);
            } else {
                vms.remove(&moref);
            }
            self.relink(carrier, "vm", moref, tied);
        }
        self.touch_around(moref);
    }

    /// Adds a virtual machine to a folder.
    pub(super) fn add_vm(&mut self, folder: Moref, name: &str, new: NewVm) -> Result<Moref, VimFault> {
        if !self.holds_vms(folder) {
            return Err(not_supported());
        }
        let name = self.check_name(folder, name)?;
        let place = self.place(folder, &new)?;
        let instance_uuid = self.free_instance_uuid(new.instance_uuid.as_deref(), None);
        let vm = Vm {
            template: new.template,
            bios_uuid: self.new_uuid(),
            instance_uuid,
            cpus: new.cpus,
            memory_mib: new.memory_mib,
            hot_add: new.hot_add,
            extra: new.extra,
            annotation: new.annotation,
            managed_by: new.managed_by,
            power_on: false,
            host: Some(place.host),
            pool: (!new.template).then_some(place.pool),
            datastore: place.datastore,
            networks: new.networks.unwrap_or_else(|| place.network.into_iter().collect()),
            disk_bytes: new.disk_bytes.unwrap_or(self.config.template_disk_bytes)
                + new.further_disks.iter().sum::<u64>(),
            further_disks: new.further_disks,
            snapshot: None,
            customized: new.customized,
            created: self.now,
            booted: None,
            cpu_mhz: None,
            mac: self.new_mac(),
            tools_installed: new.tools,
            tools_running: false,
            obeys_shutdown: true,
            revision: 1,
            planned: Vec::new(),
        };
        let free = self.datastore(vm.datastore).map_or(0, |store| store.capacity.saturating_sub(store.used));
        if free < vm.disk_bytes {
            let store = self.name_of(vm.datastore).to_owned();
            return Err(VimFault::new("NoDiskSpace", format!("Insufficient disk space on datastore '{store}'."))
                .with("file", text(format!("[{store}] {name}/{name}.vmdk")))
                .with("datastore", text(store)));
        }
        let moref = self.new_ref(Kind::VirtualMachine);
        self.instances.insert(vm.instance_uuid.to_lowercase(), moref);
        self.insert(moref, &name, Some(folder), Detail::Vm(Box::new(vm)));
        self.tie(moref, true);
        Ok(moref)
    }

    /// Powers a virtual machine on or off.
    pub(super) fn apply_power(&mut self, moref: Moref, on: bool) -> Result<(), VimFault> {
        let vm = self.try_vm(moref).ok_or_else(|| VimFault::not_found(moref))?;
        if vm.template || vm.power_on == on {
            return Err(invalid_power_state(Some(on), vm.power_on));
        }
        if on {
            self.admit(moref)?;
        }
        let now = self.now;
        self.unplan_guest(moref);
        self.change_vm(moref, |vm| {
            vm.power_on = on;
            vm.booted = on.then_some(now);
            vm.tools_running = false;
        });
        if on {
            let boot = self.config.durations.boot;
            self.plan_guest(moref, now + boot, Event::GuestUp(moref));
        }
        Ok(())
    }

    /// Plans something that the guest does, as long as it runs.
    pub(super) fn plan_guest(&mut self, moref: Moref, at: Duration, event: Event) {
        let due = self.plan(at, event);
        if let Some(vm) = self.vm_mut(moref) {
            vm.planned.push(due);
        }
    }

    fn unplan_guest(&mut self, moref: Moref) {
        let planned = self.vm_mut(moref).map(|vm| std::mem::take(&mut vm.planned));
        for due in planned.into_iter().flatten() {
            self.unplan(due);
        }
    }

    /// Finds room for a power-on; moves the virtual machine where its own host
    /// is out of use and DRS may.
    fn admit(&mut self, moref: Moref) -> Result<(), VimFault> {
        let vm = self.vm(moref);
        let need = vm.memory_mib + OVERHEAD_MIB;
        let cluster = vm.host.and_then(|host| self.host(host)).map(|host| host.cluster);
        let usable = |host: Moref| self.host_usable(host);
        let own = vm.host.filter(|host| usable(*host));
        let fits = |host: &Moref| !self.config.memory_admission || self.free_memory(*host) >= need;
        let chosen = own.filter(fits).or_else(|| {
            let hosts = self.cluster(cluster?)?.hosts.iter().copied();
            let mut hosts: Vec<Moref> = hosts.filter(|host| self.config.drs && usable(*host) && fits(host)).collect();
            hosts.sort_by_key(|host| self.host(*host).map_or(0, |host| host.vms.len()));
            hosts.first().copied()
        });
        let Some(chosen) = chosen else {
            if own.is_none() {
                return Err(VimFault::new(
                    "InsufficientHostCapacityFault",
                    "No host is compatible with the virtual machine.",
                ));
            }
            let unreserved = own.map_or(0, |host| self.free_memory(host));
            return Err(VimFault::new(
                "InsufficientMemoryResourcesFault",
                "The host does not have sufficient memory resources to satisfy the reservation.",
            )
            .with("unreserved", super::value::long(unreserved << 20))
            .with("requested", super::value::long(need << 20)));
        };
        self.migrate(moref, chosen);
        Ok(())
    }

    /// Moves a virtual machine to another host.
    pub(super) fn migrate(&mut self, moref: Moref, host: Moref) {
        if self.try_vm(moref).is_some_and(|vm| vm.host != Some(host)) {
            self.tie(moref, false);
            self.change_vm(moref, |vm| vm.host = Some(host));
            self.tie(moref, true);
        }
    }

    pub(super) fn host_usable(&self, host: Moref) -> bool {
        self.host(host).is_some_and(|host| host.connected && !host.maintenance && host.entering.is_none())
    }

    /// Memory of a host that no powered-on virtual machine has, in MiB.
    pub(super) fn free_memory(&self, host: Moref) -> u64 {
        self.host(host).map_or(0, |found| found.memory_mib.saturating_sub(self.host_usage(host).1))
    }

    /// What the virtual machines of a host use of it: MHz, and MiB.
    pub(super) fn host_usage(&self, host: Moref) -> (u32, u64) {
        let Some(host) = self.host(host) else { return (0, 0) };
        let vms = host.vms.iter().filter_map(|vm| self.try_vm(*vm));
        let (cpu, memory) = vms
            .fold((0_u32, 0_u64), |(cpu, memory), vm| (cpu.saturating_add(vm.cpu_usage()), memory + vm.memory_usage()));
        (cpu.min(u32::from(host.cores) * host.mhz), memory.min(host.memory_mib))
    }

    /// Deletes a virtual machine from inventory and disk.
    pub(super) fn remove_vm(&mut self, moref: Moref) {
        if self.try_vm(moref).is_none() {
            return;
        }
        self.tie(moref, false);
        self.unplan_guest(moref);
        let instance = self.vm(moref).instance_uuid.to_lowercase();
        self.instances.remove(&instance);
        self.forget_tags(moref);
        self.delete(moref);
    }

    pub(super) fn mark_template(&mut self, moref: Moref) -> Result<(), VimFault> {
        let vm = self.try_vm(moref).ok_or_else(|| VimFault::not_found(moref))?;
        if vm.power_on {
            return Err(invalid_power_state(None, true));
        }
        if vm.template {
            return Err(not_supported());
        }
        self.tie(moref, false);
        self.change_vm(moref, |vm| {
            vm.template = true;
            vm.pool = None;
            vm.revision += 1;
        });
        self.tie(moref, true);
        Ok(())
    }

    pub(super) fn mark_vm(&mut self, moref: Moref, pool: Moref, host: Option<Moref>) -> Result<(), VimFault> {
        let vm = self.try_vm(moref).ok_or_else(|| VimFault::not_found(moref))?;
        if !vm.template {
            return Err(not_supported());
        }
        self.tie(moref, false);
        self.change_vm(moref, |vm| {
            vm.template = false;
            vm.pool = Some(pool);
            vm.host = host.or(vm.host);
            vm.revision += 1;
        });
        self.tie(moref, true);
        Ok(())
    }

    /// The wished instance UUID, or a fresh one if another virtual machine has
    /// it: vCenter assigns another "when it detects an identifier conflict".
    fn free_instance_uuid(&mut self, wished: Option<&str>, own: Option<Moref>) -> String {
        wished
            .filter(|wished| !wished.is_empty())
            .filter(|wished| {
                let holder = self.instances.get(&wished.to_lowercase());
                holder.is_none() || holder.copied() == own
            })
            .map_or_else(|| self.new_uuid(), str::to_owned)
    }

    pub(super) fn set_instance_uuid(&mut self, moref: Moref, wished: &str) {
        let uuid = self.free_instance_uuid(Some(wished), Some(moref));
        let before = self.vm(moref).instance_uuid.to_lowercase();
        self.instances.remove(&before);
        self.instances.insert(uuid.to_lowercase(), moref);
        self.change_vm(moref, |vm| vm.instance_uuid = uuid);
    }

    /// All virtual machines with a UUID: the instance's, or the BIOS's.
    pub(super) fn vms_with(&self, uuid: &str, instance: bool) -> Vec<Moref> {
        if instance {
            return self.instances.get(&uuid.to_lowercase()).copied().into_iter().collect();
        }
        self.range(Kind::VirtualMachine)
            .filter(|(_, entity)| matches!(&entity.detail, Detail::Vm(vm) if vm.bios_uuid.eq_ignore_ascii_case(uuid)))
            .map(|(moref, _)| *moref)
            .collect()
    }
}

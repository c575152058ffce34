//! The vim25 methods that act on virtual machines.

use super::entity::{Kind, Moref};
use super::inventory::NewVm;
use super::methods::{Answer, Call, nothing, started, unknown_method};
use super::soap::{Node, VimFault};
use super::tasks::{Event, Work};
use super::value::Val;
use super::vm::{Vm, invalid_power_state};
use super::world::{State, not_supported};

/// What of a `VirtualMachineConfigSpec` matters here.
#[derive(Clone, Debug, Default)]
pub(super) struct Reconfiguration {
    name: Option<String>,
    cpus: Option<u32>,
    memory_mib: Option<u64>,
    instance_uuid: Option<String>,
    bios_uuid: Option<String>,
    annotation: Option<String>,
    managed_by: Option<(String, String)>,
    extra: Vec<(String, String)>,
    change_version: Option<String>,
}

impl Reconfiguration {
    fn parse(node: &Node) -> Result<Self, VimFault> {
        let text = |name: &str| node.str(name).map(str::to_owned);
        let extra = node.all("extraConfig").map(|option| {
            let part = |name| option.str(name).unwrap_or_default().to_owned();
            (part("key"), part("value"))
        });
        let managed_by = node.child("managedBy").map(|by| {
            let part = |name| by.str(name).unwrap_or_default().to_owned();
            (part("extensionKey"), part("type"))
        });
        let spec = Self {
            name: text("name"),
            // Zero is what generated clients send for "not set".
            cpus: node.number("numCPUs")?.filter(|cpus| *cpus != 0),
            memory_mib: node.number("memoryMB")?.filter(|memory| *memory != 0),
            instance_uuid: text("instanceUuid"),
            bios_uuid: text("uuid"),
            annotation: text("annotation"),
            managed_by,
            extra: extra.collect(),
            change_version: text("changeVersion").filter(|version| !version.is_empty()),
        };
        if spec.memory_mib.is_some_and(|memory| memory % 4 != 0) {
            return Err(VimFault::invalid_argument("configSpec.memoryMB"));
        }
        Ok(spec)
    }
}

/// Carries out a call.
pub(super) fn dispatch(state: &mut State, call: &Call<'_>) -> Answer {
    let method = call.node.name.as_str();
    if method == "PowerOnMultiVM_Task" {
        return power_on_many(state, call);
    }
    let known = [
        "CloneVM_Task",
        "ReconfigVM_Task",
        "PowerOnVM_Task",
        "PowerOffVM_Task",
        "ResetVM_Task",
        "ShutdownGuest",
        "MarkAsTemplate",
        "MarkAsVirtualMachine",
    ];
    if !known.contains(&method) {
        return Err(unknown_method(method));
    }
    call.is_on(Kind::VirtualMachine)?;
    let vm = call.this;
    match method {
        "CloneVM_Task" => clone(state, call),
        "ReconfigVM_Task" => {
            let spec = call.node.child("spec").ok_or_else(|| VimFault::invalid_argument("spec"))?;
            let change = Box::new(Reconfiguration::parse(spec)?);
            let work = Work::Reconfigure { vm, change };
            Ok(started(state, call, "ReconfigVM_Task", "VirtualMachine.reconfigure", work))
        }
        "PowerOnVM_Task" => {
            let work = Work::Power { vm, on: true };
            Ok(started(state, call, "PowerOnVM_Task", "VirtualMachine.powerOn", work))
        }
        "PowerOffVM_Task" => {
            let work = Work::Power { vm, on: false };
            Ok(started(state, call, "PowerOffVM_Task", "VirtualMachine.powerOff", work))
        }
        "ResetVM_Task" => {
            let work = Work::Reset { vm };
            Ok(started(state, call, "ResetVM_Task", "VirtualMachine.reset", work))
        }
        "ShutdownGuest" => shutdown_guest(state, vm),
        "MarkAsTemplate" => state.mark_template(vm).map(|()| nothing()),
        _ => {
            let pool = call.required(state, "pool")?;
            let host = call.node.moref("host")?;
            state.mark_vm(vm, pool, host).map(|()| nothing())
        }
    }
}

fn clone(state: &mut State, call: &Call<'_>) -> Answer {
    let folder = call.required(state, "folder")?;
    if !state.holds_vms(folder) {
        return Err(VimFault::invalid_argument("folder"));
    }
    let name = call.text("name")?.to_owned();
    let spec = call.node.child("spec").ok_or_else(|| VimFault::invalid_argument("spec"))?;
    let location = spec.child("location").ok_or_else(|| VimFault::invalid_argument("spec.location"))?;
    let config = match spec.child("config") {
        Some(config) => Reconfiguration::parse(config)?,
        None => Reconfiguration::default(),
    };
    let mut place = [None; 3];
    for (moref, name) in place.iter_mut().zip(["pool", "host", "datastore"]) {
        *moref = location.moref(name)?;
        if let Some(moref) = *moref {
            call.existing(state, moref)?;
        }
    }
    let [pool, host, datastore] = place;
    let template = spec.flag("template");
    let source = state.vm(call.this);
    if source.template && !template && pool.is_none() {
        return Err(VimFault::invalid_argument("spec.location.pool"));
    }
    let linked = location.str("diskMoveType") == Some("createNewChildDiskBacking");
    let snapshot = spec.moref("snapshot")?;
    if snapshot != source.snapshot && snapshot.is_some() || linked && snapshot.is_none() {
        return Err(VimFault::invalid_argument("spec.snapshot"));
    }
    let mut extra = source.extra.clone();
    for (key, value) in config.extra {
        if value.is_empty() {
            extra.remove(&key);
        } else {
            extra.insert(key, value);
        }
    }
    let pool = pool.or(source.pool);
    // The source's datastore, if the new place can reach it.
    let reachable = pool
        .and_then(|pool| state.owner_of(pool))
        .and_then(|owner| state.cluster(owner))
        .is_some_and(|cluster| cluster.datastores.contains(&source.datastore));
    let (networks, further_disks) = devices(state, call, source, spec.child("config"))?;
    let customized = match spec.child("customization") {
        Some(customization) => Some(customized(customization)?),
        None => None,
    };
    let new = NewVm {
        template,
        instance_uuid: config.instance_uuid,
        cpus: config.cpus.unwrap_or(source.cpus),
        memory_mib: config.memory_mib.unwrap_or(source.memory_mib),
        hot_add: source.hot_add,
        tools: source.tools_installed,
        // What differs from the snapshot, and that is nothing yet.
        disk_bytes: Some(if linked { 0 } else { source.disk_bytes - source.further_disks.iter().sum::<u64>() }),
        networks,
        further_disks,
        customized,
        extra,
        annotation: config.annotation.unwrap_or_else(|| source.annotation.clone()),
        managed_by: config.managed_by,
        pool,
        host,
        datastore: datastore.or(reachable.then_some(source.datastore)),
    };
    let work = Work::Clone { source: call.this, folder, name, new: Box::new(new), power_on: spec.flag("powerOn") };
    Ok(started(state, call, "CloneVM_Task", "VirtualMachine.clone", work))
}

/// The networks and further disks of a clone, by its `deviceChange`.
fn devices(
    state: &State,
    call: &Call<'_>,
    source: &Vm,
    config: Option<&Node>,
) -> Result<(Option<Vec<Moref>>, Vec<u64>), VimFault> {
    let invalid = || VimFault::new("InvalidDeviceSpec", "Invalid configuration for device.");
    let mut cards: Vec<Option<Moref>> = source.networks.iter().copied().map(Some).collect();
    let mut disks = source.further_disks.clone();
    let mut changed = false;
    for change in config.into_iter().flat_map(|config| config.all("deviceChange")) {
        let device = change.child("device").ok_or_else(invalid)?;
        let key: i32 = device.number("key")?.ok_or_else(invalid)?;
        match (change.str("operation"), device.xsi_type.as_deref()) {
            (Some("remove"), Some("VirtualVmxnet3")) => {
                let card = usize::try_from(key - 4_000).ok().and_then(|at| cards.get_mut(at)).ok_or_else(invalid)?;
                *card = None;
                changed = true;
            }
            (Some("add"), Some("VirtualVmxnet3")) => {
                let network = device.child("backing").ok_or_else(invalid)?.moref("network")?.ok_or_else(invalid)?;
                cards.push(Some(call.existing(state, network)?));
                changed = true;
            }
            (Some("add"), Some("VirtualDisk")) => {
                let unit: usize = device.number("unitNumber")?.ok_or_else(invalid)?;
                let wanted = if disks.len() < 6 { disks.len() + 1 } else { disks.len() + 2 };
                let on_controller = device.number::<i32>("controllerKey")? == Some(1_000);
                if change.str("fileOperation") != Some("create") || !on_controller || unit != wanted {
                    return Err(invalid());
                }
                let kib: u64 = device.number("capacityInKB")?.ok_or_else(invalid)?;
                disks.push(kib << 10);
            }
            _ => return Err(invalid()),
        }
    }
    Ok((changed.then(|| cards.into_iter().flatten().collect()), disks))
}

/// The domain of a customization, which has to be whole.
fn customized(customization: &Node) -> Result<String, VimFault> {
    let identity = customization.child("identity");
    let identity = identity.filter(|identity| identity.xsi_type.as_deref() == Some("CustomizationLinuxPrep"));
    let domain = identity.and_then(|identity| identity.str("domain"));
    domain.map(str::to_owned).ok_or_else(|| VimFault::invalid_argument("spec.customization"))
}

fn shutdown_guest(state: &mut State, vm: Moref) -> Answer {
    let found = state.vm(vm);
    if !found.power_on {
        return Err(invalid_power_state(Some(false), false));
    }
    if !found.tools_running {
        return Err(VimFault::new(
            "ToolsUnavailable",
            "Cannot complete operation because VMware Tools is not running in this virtual machine.",
        ));
    }
    if found.obeys_shutdown {
        let at = state.now + state.config.durations.shutdown;
        state.plan_guest(vm, at, Event::GuestDown(vm));
    }
    Ok(nothing())
}

/// `Datacenter.PowerOnMultiVM_Task`: a task for each machine, and one whose
/// result names them.
fn power_on_many(state: &mut State, call: &Call<'_>) -> Answer {
    call.is_on(Kind::Datacenter)?;
    let mut attempted = Vec::new();
    for node in call.node.all("vm") {
        let vm = call.existing(state, node.as_moref()?)?;
        if vm.kind != Kind::VirtualMachine {
            return Err(not_supported());
        }
        let work = Work::Power { vm, on: true };
        let task = state.task_of(call.session, "PowerOnVM_Task", "VirtualMachine.powerOn", vm, work, call.doom.clone());
        attempted.push(Val::Struct("ClusterAttemptedVmInfo", vec![("vm", Val::Ref(vm)), ("task", Val::Ref(task))]));
    }
    let result =
        Val::Struct("ClusterPowerOnVmResult", vec![("attempted", Val::List("ClusterAttemptedVmInfo", attempted))]);
    let work = Work::Report { result: Box::new(result) };
    Ok(started(state, call, "PowerOnMultiVM_Task", "Datacenter.powerOnVm", work))
}

impl State {
    /// `ReconfigVM_Task`, when its time has come.
    pub(super) fn reconfigure(&mut self, moref: Moref, change: &Reconfiguration) -> Result<Val, VimFault> {
        let vm = self.try_vm(moref).ok_or_else(|| VimFault::not_found(moref))?;
        if change.change_version.as_ref().is_some_and(|known| *known != vm.revision.to_string()) {
            return Err(VimFault::new("ConcurrentAccess", "The virtual machine was changed by another client."));
        }
        // What runs takes more where it is set up for that, and never less.
        let takes = |less: bool, more: bool, hot_add: bool| !less && (!more || hot_add);
        let cpus = change.cpus.unwrap_or(vm.cpus);
        if vm.power_on && !takes(cpus < vm.cpus, cpus > vm.cpus, vm.hot_add.0) {
            return Err(VimFault::new(
                "CpuHotPlugNotSupported",
                "CPU hot plug is not supported for this virtual machine.",
            ));
        }
        let memory = change.memory_mib.unwrap_or(vm.memory_mib);
        if vm.power_on && !takes(memory < vm.memory_mib, memory > vm.memory_mib, vm.hot_add.1) {
            return Err(VimFault::new(
                "MemoryHotPlugNotSupported",
                "Memory hot plug is not supported for this virtual machine.",
            ));
        }
        if let Some(name) = &change.name {
            self.apply_rename(moref, name)?;
        }
        if let Some(wished) = &change.instance_uuid {
            self.set_instance_uuid(moref, wished);
        }
        self.change_vm(moref, |vm| {
            vm.cpus = change.cpus.unwrap_or(vm.cpus);
            vm.memory_mib = change.memory_mib.unwrap_or(vm.memory_mib);
            if let Some(uuid) = &change.bios_uuid {
                vm.bios_uuid.clone_from(uuid);
            }
            if let Some(annotation) = &change.annotation {
                vm.annotation.clone_from(annotation);
            }
            if change.managed_by.is_some() {
                vm.managed_by.clone_from(&change.managed_by);
            }
            for (key, value) in &change.extra {
                vm.set_extra(key, value);
            }
            vm.revision += 1;
        });
        Ok(Val::Unset)
    }
}

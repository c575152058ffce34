//! Properties of virtual machines.

use super::super::entity::Moref;
use super::super::value::{Val, int, long, option_value, poly, refs, text};
use super::super::vm::{OVERHEAD_MIB, Vm};
use super::super::world::State;
use super::{custom_values, green};

const GUEST_ID: &str = "otherLinux64Guest";
const GUEST_NAME: &str = "Other Linux (64-bit)";
const HARDWARE: &str = "vmx-19";

pub(super) fn property(state: &State, object: Moref, vm: &Vm, name: &str) -> Option<Val> {
    Some(match name {
        "config" => config(state, object, vm),
        "runtime" => runtime(state, vm),
        "summary" => summary(state, object, vm),
        "guest" => guest(state, object, vm),
        "storage" => storage(state, vm),
        "guestHeartbeatStatus" => heartbeat(vm),
        "resourcePool" => vm.pool.map_or(Val::Unset, Val::Ref),
        "datastore" => refs([vm.datastore]),
        "network" => refs(vm.networks.iter().copied()),
        "rootSnapshot" => refs(vm.snapshot),
        "snapshot" => vm.snapshot.map_or(Val::Unset, |snapshot| {
            let fields = vec![
                ("currentSnapshot", Val::Ref(snapshot)),
                ("rootSnapshotList", Val::List("VirtualMachineSnapshotTree", Vec::new())),
            ];
            Val::Struct("VirtualMachineSnapshotInfo", fields)
        }),
        _ => return None,
    })
}

fn path_name(state: &State, object: Moref, vm: &Vm) -> String {
    let name = state.name_of(object);
    format!("[{}] {name}/{name}.vmx", state.name_of(vm.datastore))
}

fn managed_by(vm: &Vm) -> Val {
    vm.managed_by.as_ref().map_or(Val::Unset, |(key, kind)| {
        Val::Struct("ManagedByInfo", vec![("extensionKey", text(key.clone())), ("type", text(kind.clone()))])
    })
}

fn annotation(vm: &Vm) -> Val {
    if vm.annotation.is_empty() { Val::Unset } else { text(vm.annotation.clone()) }
}

fn config(state: &State, object: Moref, vm: &Vm) -> Val {
    let name = state.name_of(object).to_owned();
    let directory = format!("[{}] {name}/", state.name_of(vm.datastore));
    let files = Val::Struct(
        "VirtualMachineFileInfo",
        vec![
            ("vmPathName", text(path_name(state, object, vm))),
            ("snapshotDirectory", text(directory.clone())),
            ("suspendDirectory", text(directory.clone())),
            ("logDirectory", text(directory)),
        ],
    );
    let flags = Val::Struct(
        "VirtualMachineFlagInfo",
        vec![("disableAcceleration", Val::Bool(false)), ("enableLogging", Val::Bool(true))],
    );
    let power_ops = Val::Struct(
        "VirtualMachineDefaultPowerOpInfo",
        vec![("powerOffType", text("soft")), ("suspendType", text("hard"))],
    );
    let extra = vm.extra.iter().map(|(key, value)| option_value(key, value)).collect();
    Val::Struct(
        "VirtualMachineConfigInfo",
        vec![
            ("changeVersion", text(vm.revision.to_string())),
            ("modified", Val::Time(vm.created)),
            ("name", text(name)),
            ("guestFullName", text(GUEST_NAME)),
            ("version", text(HARDWARE)),
            ("uuid", text(vm.bios_uuid.clone())),
            ("createDate", Val::Time(vm.created)),
            ("instanceUuid", text(vm.instance_uuid.clone())),
            ("locationId", Val::Unset),
            ("template", Val::Bool(vm.template)),
            ("guestId", text(GUEST_ID)),
            ("alternateGuestName", text("")),
            ("annotation", annotation(vm)),
            ("files", files),
            ("tools", Val::Unset),
            ("flags", flags),
            ("defaultPowerOps", power_ops),
            ("hardware", hardware(state, object, vm)),
            ("memoryHotAddEnabled", Val::Bool(vm.hot_add.1)),
            ("cpuHotAddEnabled", Val::Bool(vm.hot_add.0)),
            ("cpuHotRemoveEnabled", Val::Bool(false)),
            ("extraConfig", poly(Val::List("OptionValue", extra))),
            ("bootOptions", Val::Unset),
            ("firmware", text("bios")),
            ("managedBy", managed_by(vm)),
        ],
    )
}

fn described(label: String, summary: String) -> Val {
    poly(Val::Struct("Description", vec![("label", text(label)), ("summary", text(summary))]))
}

fn hardware(state: &State, object: Moref, vm: &Vm) -> Val {
    let controller = Val::Struct(
        "ParaVirtualSCSIController",
        vec![
            ("key", Val::Int(1_000)),
            ("deviceInfo", described("SCSI controller 0".to_owned(), "VMware paravirtual SCSI".to_owned())),
            ("busNumber", Val::Int(0)),
            ("device", Val::List("int", vec![Val::Int(2_000)])),
            ("sharedBus", Val::Enum("VirtualSCSISharing", "noSharing")),
        ],
    );
    let mut devices = vec![controller];
    devices.extend((0..).zip(vm.disks()).map(|(number, bytes)| disk(state, object, vm, number, bytes)));
    devices.extend((0..).zip(&vm.networks).map(|(number, network)| card(state, vm, number, *network)));
    Val::Struct(
        "VirtualHardware",
        vec![
            ("numCPU", int(vm.cpus)),
            ("numCoresPerSocket", Val::Int(1)),
            ("memoryMB", int(vm.memory_mib)),
            ("device", poly(Val::List("VirtualDevice", devices))),
        ],
    )
}

/// The disk of this number; its units leave the controller's own out.
fn disk(state: &State, object: Moref, vm: &Vm, number: i32, bytes: u64) -> Val {
    let name = state.name_of(object);
    let file = if number == 0 { name.to_owned() } else { format!("{name}_{number}") };
    let backing = Val::Struct(
        "VirtualDiskFlatVer2BackingInfo",
        vec![
            ("fileName", text(format!("[{}] {name}/{file}.vmdk", state.name_of(vm.datastore)))),
            ("datastore", Val::Ref(vm.datastore)),
            ("diskMode", text("persistent")),
            ("thinProvisioned", Val::Bool(number > 0)),
        ],
    );
    let kib = bytes >> 10;
    Val::Struct(
        "VirtualDisk",
        vec![
            ("key", Val::Int(2_000 + number)),
            ("deviceInfo", described(format!("Hard disk {}", number + 1), format!("{kib} KB"))),
            ("backing", poly(backing)),
            ("controllerKey", Val::Int(1_000)),
            ("unitNumber", Val::Int(if number < 7 { number } else { number + 1 })),
            ("capacityInKB", long(kib)),
            ("capacityInBytes", long(bytes)),
        ],
    )
}

fn card(state: &State, vm: &Vm, number: i32, network: Moref) -> Val {
    let name = state.name_of(network).to_owned();
    let backing = Val::Struct(
        "VirtualEthernetCardNetworkBackingInfo",
        vec![("deviceName", text(name.clone())), ("network", Val::Ref(network))],
    );
    let connectable = Val::Struct(
        "VirtualDeviceConnectInfo",
        vec![
            ("startConnected", Val::Bool(true)),
            ("allowGuestControl", Val::Bool(true)),
            ("connected", Val::Bool(vm.power_on)),
        ],
    );
    Val::Struct(
        "VirtualVmxnet3",
        vec![
            ("key", Val::Int(4_000 + number)),
            ("deviceInfo", described(format!("Network adapter {}", number + 1), name)),
            ("backing", poly(backing)),
            ("connectable", connectable),
            ("controllerKey", Val::Int(100)),
            ("unitNumber", Val::Int(7 + number)),
            ("addressType", text("assigned")),
            ("macAddress", text(if number == 0 { vm.mac.clone() } else { format!("{}{number:x}", &vm.mac[..16]) })),
        ],
    )
}

fn runtime(state: &State, vm: &Vm) -> Val {
    let host = vm.host.and_then(|host| state.host(host));
    let connected = host.is_some_and(|host| host.connected);
    let connection = if connected { "connected" } else { "disconnected" };
    let most_cpu = host.map_or(0, |host| host.mhz * vm.cpus);
    Val::Struct(
        "VirtualMachineRuntimeInfo",
        vec![
            ("host", vm.host.map_or(Val::Unset, Val::Ref)),
            ("connectionState", Val::Enum("VirtualMachineConnectionState", connection)),
            ("powerState", vm.state()),
            ("faultToleranceState", Val::Enum("VirtualMachineFaultToleranceState", "notConfigured")),
            ("toolsInstallerMounted", Val::Bool(false)),
            ("bootTime", vm.booted.map_or(Val::Unset, Val::Time)),
            ("question", Val::Unset),
            ("memoryOverhead", long(OVERHEAD_MIB << 20)),
            ("maxCpuUsage", int(most_cpu)),
            ("maxMemoryUsage", int(vm.memory_mib)),
            ("numMksConnections", Val::Int(0)),
            ("recordReplayState", Val::Enum("VirtualMachineRecordReplayState", "inactive")),
            ("cleanPowerOff", Val::Unset),
            ("onlineStandby", Val::Bool(false)),
            ("consolidationNeeded", Val::Bool(false)),
        ],
    )
}

fn heartbeat(vm: &Vm) -> Val {
    Val::Enum("ManagedEntityStatus", if vm.tools_running { "green" } else { "gray" })
}

fn tools_status(vm: &Vm) -> [(&'static str, Val); 3] {
    let (status, version) = if !vm.tools_installed {
        ("toolsNotInstalled", "guestToolsNotInstalled")
    } else if vm.tools_running {
        ("toolsOk", "guestToolsCurrent")
    } else {
        ("toolsNotRunning", "guestToolsCurrent")
    };
    [
        ("toolsStatus", Val::Enum("VirtualMachineToolsStatus", status)),
        ("toolsVersionStatus", text(version)),
        ("toolsVersionStatus2", text(version)),
    ]
}

fn tools_running(vm: &Vm) -> Val {
    text(if vm.tools_running { "guestToolsRunning" } else { "guestToolsNotRunning" })
}

/// An address of its own for each machine, while its tools run.
fn address(object: Moref, vm: &Vm) -> Val {
    if !vm.tools_running {
        return Val::Unset;
    }
    let [_, a, b, c] = object.number.to_be_bytes();
    text(format!("10.{a}.{b}.{c}"))
}

fn guest(state: &State, object: Moref, vm: &Vm) -> Val {
    let mut fields: Vec<_> = tools_status(vm).into();
    let host_name = if vm.tools_running { text(state.name_of(object).to_owned()) } else { Val::Unset };
    fields.extend([
        ("toolsRunningStatus", tools_running(vm)),
        ("toolsVersion", text(if vm.tools_installed { "12352" } else { "0" })),
        ("guestId", if vm.tools_running { text(GUEST_ID) } else { Val::Unset }),
        ("guestFamily", if vm.tools_running { text("linuxGuest") } else { Val::Unset }),
        ("guestFullName", if vm.tools_running { text(GUEST_NAME) } else { Val::Unset }),
        ("hostName", host_name),
        ("ipAddress", address(object, vm)),
        ("net", Val::Unset),
        ("guestState", text(if vm.tools_running { "running" } else { "notRunning" })),
        ("guestOperationsReady", Val::Bool(vm.tools_running)),
        ("guestStateChangeSupported", Val::Bool(vm.tools_running)),
    ]);
    Val::Struct("GuestInfo", fields)
}

fn storage(state: &State, vm: &Vm) -> Val {
    let usage = Val::Struct(
        "VirtualMachineUsageOnDatastore",
        vec![
            ("datastore", Val::Ref(vm.datastore)),
            ("committed", long(vm.disk_bytes)),
            ("uncommitted", Val::Long(0)),
            ("unshared", long(vm.disk_bytes)),
        ],
    );
    Val::Struct(
        "VirtualMachineStorageInfo",
        vec![
            ("perDatastoreUsage", Val::List("VirtualMachineUsageOnDatastore", vec![usage])),
            ("timestamp", Val::Time(vm.created.max(state.started))),
        ],
    )
}

fn summary(state: &State, object: Moref, vm: &Vm) -> Val {
    let mut guest = vec![
        ("guestId", if vm.tools_running { text(GUEST_ID) } else { Val::Unset }),
        ("guestFullName", if vm.tools_running { text(GUEST_NAME) } else { Val::Unset }),
    ];
    guest.extend(tools_status(vm));
    guest.extend([
        ("toolsRunningStatus", tools_running(vm)),
        ("hostName", if vm.tools_running { text(state.name_of(object).to_owned()) } else { Val::Unset }),
        ("ipAddress", address(object, vm)),
    ]);
    let config = Val::Struct(
        "VirtualMachineConfigSummary",
        vec![
            ("name", text(state.name_of(object).to_owned())),
            ("template", Val::Bool(vm.template)),
            ("vmPathName", text(path_name(state, object, vm))),
            ("memorySizeMB", int(vm.memory_mib)),
            ("cpuReservation", Val::Int(0)),
            ("memoryReservation", Val::Int(0)),
            ("numCpu", int(vm.cpus)),
            ("numEthernetCards", int(vm.networks.len())),
            ("numVirtualDisks", int(vm.disks().count())),
            ("uuid", text(vm.bios_uuid.clone())),
            ("instanceUuid", text(vm.instance_uuid.clone())),
            ("guestId", text(GUEST_ID)),
            ("guestFullName", text(GUEST_NAME)),
            ("annotation", annotation(vm)),
            ("managedBy", managed_by(vm)),
            ("hwVersion", text(HARDWARE)),
        ],
    );
    let storage = Val::Struct(
        "VirtualMachineStorageSummary",
        vec![
            ("committed", long(vm.disk_bytes)),
            ("uncommitted", Val::Long(0)),
            ("unshared", long(vm.disk_bytes)),
            ("timestamp", Val::Time(vm.created.max(state.started))),
        ],
    );
    Val::Struct(
        "VirtualMachineSummary",
        vec![
            ("vm", Val::Ref(object)),
            ("runtime", runtime(state, vm)),
            ("guest", Val::Struct("VirtualMachineGuestSummary", guest)),
            ("config", config),
            ("storage", storage),
            ("quickStats", quick_stats(state, vm)),
            ("overallStatus", green()),
            ("customValue", poly(custom_values(state, object))),
        ],
    )
}

fn quick_stats(state: &State, vm: &Vm) -> Val {
    // What a host that does not respond carries has no statistics.
    if !vm.host.and_then(|host| state.host(host)).is_some_and(|host| host.connected) {
        return Val::Struct(
            "VirtualMachineQuickStats",
            vec![
                ("overallCpuUsage", Val::Unset),
                ("overallCpuDemand", Val::Unset),
                ("guestMemoryUsage", Val::Unset),
                ("hostMemoryUsage", Val::Unset),
                ("guestHeartbeatStatus", heartbeat(vm)),
                ("uptimeSeconds", Val::Unset),
            ],
        );
    }
    let uptime = vm.booted.map_or(0, |at| state.now.saturating_sub(at).as_secs());
    Val::Struct(
        "VirtualMachineQuickStats",
        vec![
            ("overallCpuUsage", int(vm.cpu_usage())),
            ("overallCpuDemand", int(vm.cpu_usage())),
            ("guestMemoryUsage", int(if vm.power_on { vm.memory_mib / 10 } else { 0 })),
            ("hostMemoryUsage", int(vm.memory_usage())),
            ("guestHeartbeatStatus", heartbeat(vm)),
            ("uptimeSeconds", int(uptime)),
        ],
    )
}

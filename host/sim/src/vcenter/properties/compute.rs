//! Properties of datacenters, clusters, hosts, pools, datastores and networks.
//! Their numbers follow the virtual machines that they carry.

use std::collections::{BTreeMap, BTreeSet};

use super::super::entity::{Kind, Moref};
use super::super::value::{Val, int, long, poly, refs, short, text};
use super::super::world::{Cluster, Datastore, Holds, Host, State};
use super::{custom_values, green};

pub(super) fn child_types(holds: Holds) -> &'static [&'static str] {
    match holds {
        Holds::Datacenters => &["Folder", "Datacenter"],
        Holds::Vms => &["Folder", "VirtualMachine", "VirtualApp"],
        Holds::Hosts => &["Folder", "ComputeResource"],
        Holds::Datastores => &["Folder", "StoragePod", "Datastore"],
        Holds::Networks => &["Folder", "Network", "DistributedVirtualSwitch"],
    }
}

pub(super) fn datacenter(state: &State, folders: &[Moref; 4], name: &str) -> Option<Val> {
    let [vms, hosts, datastores, networks] = *folders;
    let children =
        |folder: Moref| refs(state.children(folder).into_iter().flat_map(|children| children.values().copied()));
    Some(match name {
        "vmFolder" => Val::Ref(vms),
        "hostFolder" => Val::Ref(hosts),
        "datastoreFolder" => Val::Ref(datastores),
        "networkFolder" => Val::Ref(networks),
        // Those in datastore clusters too.
        "datastore" => {
            refs(state.refs_of(Kind::Datastore).into_iter().filter(|store| state.within(*store, datastores)))
        }
        "network" => children(networks),
        "configuration" => Val::Struct(
            "DatacenterConfigInfo",
            vec![("defaultHardwareVersionKey", Val::Unset), ("maximumHardwareVersionKey", Val::Unset)],
        ),
        _ => return None,
    })
}

/// What a cluster's hosts have, and what their virtual machines use of it.
struct Totals {
    cpu: u32,
    memory_mib: u64,
    cores: u32,
    effective_cpu: u32,
    effective_memory_mib: u64,
    effective_hosts: usize,
    used_cpu: u32,
    used_memory_mib: u64,
    vms: usize,
    vms_off: usize,
}

fn totals(state: &State, cluster: &Cluster) -> Totals {
    let mut totals = Totals {
        cpu: 0,
        memory_mib: 0,
        cores: 0,
        effective_cpu: 0,
        effective_memory_mib: 0,
        effective_hosts: 0,
        used_cpu: 0,
        used_memory_mib: 0,
        vms: 0,
        vms_off: 0,
    };
    for moref in &cluster.hosts {
        let Some(host) = state.host(*moref) else { continue };
        let cpu = u32::from(host.cores) * host.mhz;
        totals.cpu += cpu;
        totals.memory_mib += host.memory_mib;
        totals.cores += u32::from(host.cores);
        if state.host_usable(*moref) {
            totals.effective_cpu += cpu;
            totals.effective_memory_mib += host.memory_mib;
            totals.effective_hosts += 1;
        }
        let (used_cpu, used_memory) = state.host_usage(*moref);
        totals.used_cpu += used_cpu;
        totals.used_memory_mib += used_memory;
        totals.vms += host.vms.len();
        totals.vms_off += host.vms.iter().filter(|vm| state.try_vm(**vm).is_some_and(|vm| !vm.power_on)).count();
    }
    totals
}

pub(super) fn cluster(state: &State, object: Moref, cluster: &Cluster, name: &str) -> Option<Val> {
    Some(match name {
        "host" => refs(cluster.hosts.iter().copied()),
        "resourcePool" => Val::Ref(cluster.pool),
        "datastore" => refs(cluster.datastores.iter().copied()),
        "network" => refs(cluster.networks.iter().copied()),
        "summary" => cluster_summary(state, object, &totals(state, cluster)),
        "configurationEx" => cluster_config(state),
        _ => return None,
    })
}

fn cluster_summary(state: &State, object: Moref, totals: &Totals) -> Val {
    let usage = Val::Struct(
        "ClusterUsageSummary",
        vec![
            ("totalCpuCapacityMhz", int(totals.effective_cpu)),
            ("totalMemCapacityMB", int(totals.effective_memory_mib)),
            ("cpuReservationMhz", Val::Int(0)),
            ("memReservationMB", Val::Int(0)),
            ("poweredOffCpuReservationMhz", Val::Int(0)),
            ("poweredOffMemReservationMB", Val::Int(0)),
            ("cpuDemandMhz", int(totals.used_cpu)),
            ("memDemandMB", int(totals.used_memory_mib)),
            // The time of the last statistics; they are always fresh here, so it
            // counts the clock only, and is no change by itself.
            ("statsGenNumber", Val::Long(0)),
            ("cpuEntitledMhz", int(totals.used_cpu)),
            ("memEntitledMB", int(totals.used_memory_mib)),
            ("poweredOffVmCount", int(totals.vms_off)),
            ("totalVmCount", int(totals.vms)),
        ],
    );
    Val::Struct(
        "ClusterComputeResourceSummary",
        vec![
            ("totalCpu", int(totals.cpu)),
            ("totalMemory", long(totals.memory_mib << 20)),
            ("numCpuCores", short(totals.cores)),
            ("numCpuThreads", short(totals.cores * 2)),
            ("effectiveCpu", int(totals.effective_cpu)),
            // In MiB, where totalMemory is in bytes: so the schema has it.
            ("effectiveMemory", long(totals.effective_memory_mib)),
            ("numHosts", int(state.cluster(object).map_or(0, |cluster| cluster.hosts.len()))),
            ("numEffectiveHosts", int(totals.effective_hosts)),
            ("overallStatus", green()),
            ("currentFailoverLevel", Val::Int(0)),
            ("numVmotions", Val::Int(0)),
            ("targetBalance", Val::Int(200)),
            ("currentBalance", Val::Int(0)),
            ("usageSummary", usage),
        ],
    )
}

fn cluster_config(state: &State) -> Val {
    let behavior = if state.config.drs_automatic { "fullyAutomated" } else { "partiallyAutomated" };
    let das = Val::Struct("ClusterDasConfigInfo", vec![("enabled", Val::Bool(false))]);
    let drs = Val::Struct(
        "ClusterDrsConfigInfo",
        vec![
            ("enabled", Val::Bool(state.config.drs)),
            ("enableVmBehaviorOverrides", Val::Bool(true)),
            ("defaultVmBehavior", Val::Enum("DrsBehavior", behavior)),
            ("vmotionRate", Val::Int(3)),
        ],
    );
    Val::Struct(
        "ClusterConfigInfoEx",
        vec![
            ("vmSwapPlacement", text("vmDirectory")),
            ("dasConfig", das),
            ("dasVmConfig", Val::Unset),
            ("drsConfig", drs),
            ("drsVmConfig", Val::Unset),
            ("rule", Val::Unset),
            ("group", Val::Unset),
        ],
    )
}

pub(super) fn host(state: &State, object: Moref, host: &Host, name: &str) -> Option<Val> {
    let cluster = state.cluster(host.cluster);
    Some(match name {
        "vm" => refs(host.vms.iter().copied()),
        "datastore" => {
            let mounted = |store: &Moref| state.datastore(*store).is_some_and(|store| store.hosts.contains(&object));
            refs(cluster.into_iter().flat_map(|c| c.datastores.iter().copied()).filter(mounted))
        }
        "network" => refs(cluster.into_iter().flat_map(|c| c.networks.iter().copied())),
        "runtime" => host_runtime(state, host),
        "hardware" => host_hardware(host),
        "summary" => host_summary(state, object, host),
        _ => return None,
    })
}

fn host_runtime(state: &State, host: &Host) -> Val {
    let connection = if host.connected { "connected" } else { "notResponding" };
    let power = if host.connected { "poweredOn" } else { "unknown" };
    Val::Struct(
        "HostRuntimeInfo",
        vec![
            ("connectionState", Val::Enum("HostSystemConnectionState", connection)),
            ("powerState", Val::Enum("HostSystemPowerState", power)),
            ("standbyMode", text("none")),
            ("inMaintenanceMode", Val::Bool(host.maintenance)),
            ("inQuarantineMode", Val::Bool(host.quarantined)),
            ("bootTime", Val::Time(state.started)),
        ],
    )
}

fn host_hardware(host: &Host) -> Val {
    let hz = i64::from(host.mhz) * 1_000_000;
    let system = Val::Struct(
        "HostSystemInfo",
        vec![
            ("vendor", text("codeconnect")),
            ("model", text("Simulated Host")),
            ("family", Val::Unset),
            ("uuid", text(host.uuid.clone())),
        ],
    );
    let cpu = Val::Struct(
        "HostCpuInfo",
        vec![
            ("numCpuPackages", Val::Short(1)),
            ("numCpuCores", short(host.cores)),
            ("numCpuThreads", short(u32::from(host.cores) * 2)),
            ("hz", Val::Long(hz)),
        ],
    );
    let package = Val::Struct(
        "HostCpuPackage",
        vec![
            ("index", Val::Short(0)),
            ("vendor", text("intel")),
            ("hz", Val::Long(hz)),
            ("busHz", Val::Long(100_000_000)),
            ("description", text("Simulated CPU")),
            ("threadId", Val::List("short", vec![Val::Short(0)])),
        ],
    );
    Val::Struct(
        "HostHardwareInfo",
        vec![
            ("systemInfo", system),
            ("cpuPowerManagementInfo", Val::Unset),
            ("cpuInfo", cpu),
            ("cpuPkg", Val::List("HostCpuPackage", vec![package])),
            ("memorySize", long(host.memory_mib << 20)),
            ("numaInfo", Val::Unset),
            ("smcPresent", Val::Bool(false)),
        ],
    )
}

fn host_summary(state: &State, object: Moref, host: &Host) -> Val {
    let (cpu, memory) = state.host_usage(object);
    let hardware = Val::Struct(
        "HostHardwareSummary",
        vec![
            ("vendor", text("codeconnect")),
            ("model", text("Simulated Host")),
            ("family", Val::Unset),
            ("uuid", text(host.uuid.clone())),
            ("memorySize", long(host.memory_mib << 20)),
            ("cpuModel", text("Simulated CPU")),
            ("cpuMhz", int(host.mhz)),
            ("numCpuPkgs", Val::Short(1)),
            ("numCpuCores", short(host.cores)),
            ("numCpuThreads", short(u32::from(host.cores) * 2)),
            ("numNics", Val::Int(1)),
            ("numHBAs", Val::Int(1)),
        ],
    );
    let config = Val::Struct(
        "HostConfigSummary",
        vec![
            ("name", text(state.name_of(object).to_owned())),
            ("port", Val::Int(443)),
            ("sslThumbprint", Val::Unset),
            ("sslCertificate", Val::Unset),
            ("product", Val::Unset),
            ("vmotionEnabled", Val::Bool(true)),
            ("faultToleranceEnabled", Val::Bool(false)),
        ],
    );
    // A host that does not respond has no statistics.
    let quick = if host.connected {
        vec![("overallCpuUsage", int(cpu)), ("overallMemoryUsage", int(memory))]
    } else {
        vec![("overallCpuUsage", Val::Unset), ("overallMemoryUsage", Val::Unset)]
    };
    Val::Struct(
        "HostListSummary",
        vec![
            ("host", Val::Ref(object)),
            ("hardware", hardware),
            ("runtime", host_runtime(state, host)),
            ("config", config),
            ("quickStats", Val::Struct("HostListSummaryQuickStats", quick)),
            ("overallStatus", green()),
            ("rebootRequired", Val::Bool(false)),
            ("customValue", poly(custom_values(state, object))),
        ],
    )
}

pub(super) fn pool(state: &State, object: Moref, owner: Moref, vms: &BTreeSet<Moref>, name: &str) -> Option<Val> {
    Some(match name {
        "owner" => Val::Ref(owner),
        "vm" => refs(vms.iter().copied()),
        "resourcePool" => refs([]),
        "config" => pool_config(object),
        "runtime" => pool_runtime(state, owner, vms),
        "summary" => Val::Struct(
            "ResourcePoolSummary",
            vec![
                ("name", text(state.name_of(object).to_owned())),
                ("config", pool_config(object)),
                ("runtime", pool_runtime(state, owner, vms)),
                ("quickStats", Val::Unset),
                (
                    "configuredMemoryMB",
                    int(vms.iter().filter_map(|vm| state.try_vm(*vm)).map(|vm| vm.memory_mib).sum::<u64>()),
                ),
            ],
        ),
        _ => return None,
    })
}

fn pool_config(object: Moref) -> Val {
    let allocation = |shares: i32| {
        Val::Struct(
            "ResourceAllocationInfo",
            vec![
                ("reservation", Val::Long(0)),
                ("expandableReservation", Val::Bool(true)),
                ("limit", Val::Long(-1)),
                (
                    "shares",
                    Val::Struct(
                        "SharesInfo",
                        vec![("shares", Val::Int(shares)), ("level", Val::Enum("SharesLevel", "normal"))],
                    ),
                ),
            ],
        )
    };
    Val::Struct(
        "ResourceConfigSpec",
        vec![
            ("entity", Val::Ref(object)),
            ("cpuAllocation", allocation(4_000)),
            ("memoryAllocation", allocation(163_840)),
        ],
    )
}

fn pool_runtime(state: &State, owner: Moref, vms: &BTreeSet<Moref>) -> Val {
    let (cpu, memory) = vms
        .iter()
        .filter_map(|vm| state.try_vm(*vm))
        .fold((0_u64, 0_u64), |(cpu, memory), vm| (cpu + u64::from(vm.cpu_usage()), memory + vm.memory_usage()));
    let (max_cpu, max_memory) = state.cluster(owner).map_or((0, 0), |cluster| {
        let totals = totals(state, cluster);
        (u64::from(totals.effective_cpu), totals.effective_memory_mib)
    });
    let usage = |used: u64, most: u64| {
        Val::Struct(
            "ResourcePoolResourceUsage",
            vec![
                ("reservationUsed", Val::Long(0)),
                ("reservationUsedForVm", Val::Long(0)),
                ("unreservedForPool", long(most)),
                ("unreservedForVm", long(most)),
                ("overallUsage", long(used)),
                ("maxUsage", long(most)),
            ],
        )
    };
    Val::Struct(
        "ResourcePoolRuntimeInfo",
        vec![
            // Memory in bytes, CPU in MHz.
            ("memory", usage(memory << 20, max_memory << 20)),
            ("cpu", usage(cpu, max_cpu)),
            ("overallStatus", green()),
        ],
    )
}

/// The `StoragePodSummary`: what the datastores in it have together.
pub(super) fn pod_summary(state: &State, object: Moref, children: &BTreeMap<String, Moref>) -> Val {
    let stores = || children.values().filter_map(|store| state.datastore(*store));
    let capacity: u64 = stores().map(|store| store.capacity).sum();
    let free: u64 = stores().map(|store| store.capacity.saturating_sub(store.used)).sum();
    Val::Struct(
        "StoragePodSummary",
        vec![("name", text(state.name_of(object).to_owned())), ("capacity", long(capacity)), ("freeSpace", long(free))],
    )
}

pub(super) fn datastore(state: &State, object: Moref, store: &Datastore, name: &str) -> Option<Val> {
    let label = state.name_of(object).to_owned();
    let free = store.capacity.saturating_sub(store.used);
    Some(match name {
        "vm" => refs(store.vms.iter().copied()),
        "host" => Val::List("DatastoreHostMount", store.hosts.iter().map(|host| mount(*host, &store.url)).collect()),
        "summary" => Val::Struct(
            "DatastoreSummary",
            vec![
                ("datastore", Val::Ref(object)),
                ("name", text(label)),
                ("url", text(store.url.clone())),
                ("capacity", long(store.capacity)),
                ("freeSpace", long(free)),
                ("uncommitted", Val::Long(0)),
                ("accessible", Val::Bool(true)),
                ("multipleHostAccess", Val::Bool(store.hosts.len() > 1)),
                ("type", text("VMFS")),
                ("maintenanceMode", text(if store.maintenance { "inMaintenance" } else { "normal" })),
            ],
        ),
        "info" => Val::Struct(
            "VmfsDatastoreInfo",
            vec![
                ("name", text(label)),
                ("url", text(store.url.clone())),
                ("freeSpace", long(free)),
                ("maxFileSize", Val::Long(64 << 40)),
                ("maxVirtualDiskCapacity", Val::Long(62 << 40)),
                ("maxMemoryFileSize", Val::Long(64 << 40)),
                ("timestamp", Val::Unset),
                ("maxPhysicalRDMFileSize", Val::Long(64 << 40)),
                ("maxVirtualRDMFileSize", Val::Long(62 << 40)),
            ],
        ),
        "capability" => Val::Struct(
            "DatastoreCapability",
            vec![
                ("directoryHierarchySupported", Val::Bool(true)),
                ("rawDiskMappingsSupported", Val::Bool(true)),
                ("perFileThinProvisioningSupported", Val::Bool(true)),
                ("storageIORMSupported", Val::Bool(true)),
                ("nativeSnapshotSupported", Val::Bool(false)),
            ],
        ),
        _ => return None,
    })
}

fn mount(host: Moref, url: &str) -> Val {
    let path = url.trim_start_matches("ds://").to_owned();
    let info = Val::Struct(
        "HostMountInfo",
        vec![
            ("path", text(path)),
            ("accessMode", text("readWrite")),
            ("mounted", Val::Bool(true)),
            ("accessible", Val::Bool(true)),
        ],
    );
    Val::Struct("DatastoreHostMount", vec![("key", Val::Ref(host)), ("mountInfo", info)])
}

pub(super) fn network(state: &State, object: Moref, name: &str) -> Option<Val> {
    Some(match name {
        "host" => refs(state.refs_of(Kind::ClusterComputeResource).into_iter().flat_map(|cluster| {
            state
                .cluster(cluster)
                .filter(|cluster| cluster.networks.contains(&object))
                .map(|cluster| cluster.hosts.clone())
                .unwrap_or_default()
        })),
        "vm" => refs(
            state.vm_refs().into_iter().filter(|vm| state.try_vm(*vm).is_some_and(|vm| vm.networks.contains(&object))),
        ),
        "summary" => Val::Struct(
            "NetworkSummary",
            vec![
                ("network", Val::Ref(object)),
                ("name", text(state.name_of(object).to_owned())),
                ("accessible", Val::Bool(true)),
                ("ipPoolName", text("")),
            ],
        ),
        _ => return None,
    })
}

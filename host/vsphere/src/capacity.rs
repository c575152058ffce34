//! What room there is: clusters, hosts and datastores as tables that point at
//! each other by index, and what single machines use.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::client::{Purpose, Vcenter};
use crate::error::Error;
use crate::property::{Object, Paths, Query, Start, Step};
use crate::refs::{ClusterRef, DatastoreRef, HostRef, PoolRef, VmRef};
use crate::site::Site;
use crate::soap::reference_of;
use crate::xml::Element;

const MIB: u64 = 1 << 20;
const COMPUTE: &str = "ComputeResource";
const CLUSTER: &str = "ClusterComputeResource";
const HOST: &str = "HostSystem";
const DATASTORE: &str = "Datastore";
const FIELDS: &str = "CustomFieldsManager";
const TASK: &str = "Task";
/// What space a machine takes on each of its datastores.
const USED: &str = "storage.perDatastoreUsage";
/// What the task is called (`TaskInfo.descriptionId`) that puts a host into maintenance.
/// The host itself only says when it is there.
pub(crate) const ENTERING: &str = "HostSystem.enterMaintenanceMode";

/// The room of a site. Tables are ordered by name, then reference.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capacity {
    /// The site's compute resources.
    pub clusters: Vec<ClusterCapacity>,
    /// Their hosts.
    pub hosts: Vec<HostCapacity>,
    /// Their datastores, those only that the site may use.
    pub datastores: Vec<DatastoreCapacity>,
}

/// A cluster, or a host that stands alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterCapacity {
    /// The reference.
    pub id: ClusterRef,
    /// Name, unescaped.
    pub name: String,
    /// Whether DRS is on, so that vCenter chooses a host by itself.
    pub drs: bool,
    /// The pool that the site uses there, for
    /// [`CloneSpec::pool`](crate::CloneSpec::pool).
    pub pool: PoolRef,
    /// Its custom attributes, by name.
    pub attributes: BTreeMap<String, String>,
}

/// Where a host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostState {
    /// It serves.
    InService,
    /// A task puts it into maintenance mode, and waits for it to be emptied.
    EnteringMaintenance,
    /// In maintenance mode.
    InMaintenance,
    /// Kept clear by Proactive HA (`runtime.inQuarantineMode`).
    Quarantined,
    /// Not connected, or not powered on.
    Unreachable,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCapacity {
    /// The reference.
    pub id: HostRef,
    /// Name, unescaped.
    pub name: String,
    /// Index into [`Capacity::clusters`].
    pub cluster: usize,
    /// Where it stands.
    pub state: HostState,
    /// CPU there is, in MHz over all cores.
    pub cpu_mhz: u64,
    /// CPU in use, in MHz; none while vCenter has no statistics.
    pub cpu_used_mhz: Option<u64>,
    /// Memory there is, in MiB.
    pub memory_mib: u64,
    /// Memory in use, in MiB; none while vCenter has no statistics.
    pub memory_used_mib: Option<u64>,
    /// Number of machines registered on it.
    pub vms: u32,
    /// Its custom attributes, by name.
    pub attributes: BTreeMap<String, String>,
}

impl HostCapacity {
    /// Whether a machine can be put here: in service, or in quarantine for want of better.
    pub fn usable(&self) -> bool {
        matches!(self.state, HostState::InService | HostState::Quarantined)
    }
}

/// A datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatastoreCapacity {
    /// The reference.
    pub id: DatastoreRef,
    /// Name, unescaped.
    pub name: String,
    /// Accessible, not in maintenance, and mounted on a host that can be used, as far as
    /// its hosts are known.
    pub usable: bool,
    /// Size in MiB.
    pub capacity_mib: u64,
    /// Free space in MiB.
    pub free_mib: u64,
    /// What thin disks on it may still take, in MiB (`summary.uncommitted`); none where
    /// vCenter does not say.
    pub uncommitted_mib: Option<u64>,
    /// Its type in vSphere's words, such as `VMFS` (`summary.type`).
    pub kind: Option<String>,
    /// Hosts that can write to it: indices into [`Capacity::hosts`].
    pub hosts: Vec<usize>,
    /// Its custom attributes, by name.
    pub attributes: BTreeMap<String, String>,
}

/// What a machine uses (`summary.quickStats`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU in MHz; none while vCenter has no statistics.
    pub cpu_mhz: Option<u64>,
    /// Memory that the guest is actively using, in MiB; none while vCenter has
    /// no statistics.
    pub memory_mib: Option<u64>,
}

/// What of a machine lies on one datastore and is its alone (`storage.perDatastoreUsage`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupied {
    /// The datastore.
    pub datastore: DatastoreRef,
    /// Space that is free when the machine is destroyed, in MiB (`unshared`).
    pub mib: u64,
}

impl Occupied {
    fn read(object: &Object) -> Vec<Self> {
        let on_datastore = |usage: &Element| {
            let datastore = usage.child("datastore").and_then(reference_of)?;
            let bytes: u64 = usage.text_of("unshared").parse().ok()?;
            Some(Self { datastore: DatastoreRef::new(&datastore.id), mib: bytes.div_ceil(MIB) })
        };
        object.get(USED).map_or_else(Vec::new, |all| all.children.iter().filter_map(on_datastore).collect())
    }
}

impl Vcenter {
    /// The room of a site, in one bulk read (and one more per page).
    pub async fn capacity(&self, site: &Site) -> Result<Capacity, Error> {
        let session = self.session(Purpose::Read, "RetrievePropertiesEx").await?;
        let query = capacity_query(site, session.content.custom_fields.clone());
        let objects = self.retrieve(&query).await?;
        Ok(Capacity::read(site, &objects))
    }

    /// What these machines use. Those that are gone are left out.
    pub async fn usage(&self, vms: &[VmRef]) -> Result<HashMap<VmRef, Usage>, Error> {
        const CPU: &str = "summary.quickStats.overallCpuUsage";
        const MEMORY: &str = "summary.quickStats.guestMemoryUsage";
        let used = |object: &Object| Usage { cpu_mhz: object.number(CPU), memory_mib: object.number(MEMORY) };
        self.of_each(vms, &[CPU, MEMORY], used).await
    }

    /// What space these machines take, as vCenter has counted it last. Those that are gone
    /// are left out.
    pub async fn occupied(&self, vms: &[VmRef]) -> Result<HashMap<VmRef, Vec<Occupied>>, Error> {
        self.of_each(vms, &[USED], Occupied::read).await
    }

    async fn of_each<T>(
        &self,
        vms: &[VmRef],
        properties: &[&'static str],
        read: impl Fn(&Object) -> T,
    ) -> Result<HashMap<VmRef, T>, Error> {
        let paths = Paths::new("VirtualMachine", properties);
        let mut found = HashMap::with_capacity(vms.len());
        let chunk = usize::try_from(self.inner.options.page_size.max(1)).unwrap_or(usize::MAX);
        for vms in vms.chunks(chunk) {
            let refs = vms.iter().map(VmRef::managed_object).collect();
            let objects = self.retrieve_each(refs, &paths).await?;
            found.extend(objects.iter().map(|object| (VmRef::new(&object.id.id), read(object))));
        }
        Ok(found)
    }
}

fn capacity_query(site: &Site, fields: Option<crate::ManagedObjectRef>) -> Query {
    let tasks = Step::along("tasks", HOST, "recentTask", &[]);
    let steps = [Step::along("hosts", COMPUTE, "host", &[tasks]), Step::along("datastores", COMPUTE, "datastore", &[])];
    let mut starts: Vec<Start> = site
        .clusters
        .iter()
        .map(|cluster| Start { skip: false, ..Start::from(cluster.id.managed_object(), steps.to_vec()) })
        .collect();
    starts.extend(fields.map(Start::at));
    Query {
        paths: vec![
            Paths::new(CLUSTER, &["name", "configurationEx", "customValue"]),
            Paths::new(
                HOST,
                &[
                    "name",
                    "parent",
                    "summary.hardware.cpuMhz",
                    "summary.hardware.numCpuCores",
                    "summary.hardware.memorySize",
                    "summary.quickStats.overallCpuUsage",
                    "summary.quickStats.overallMemoryUsage",
                    "runtime.connectionState",
                    "runtime.powerState",
                    "runtime.inMaintenanceMode",
                    "runtime.inQuarantineMode",
                    "recentTask",
                    "vm",
                    "customValue",
                ],
            ),
            Paths::new(
                DATASTORE,
                &[
                    "name",
                    "summary.accessible",
                    "summary.capacity",
                    "summary.freeSpace",
                    "summary.uncommitted",
                    "summary.type",
                    "summary.maintenanceMode",
                    "host",
                    "customValue",
                ],
            ),
            Paths::new(TASK, &["info.descriptionId", "info.state"]),
            Paths::new(FIELDS, &["field"]),
        ],
        starts,
    }
}

impl Capacity {
    /// As much of it as that part of its site has.
    #[must_use]
    pub fn part(&self, site: &Site) -> Self {
        let clusters: Vec<ClusterCapacity> = site
            .clusters
            .iter()
            .filter_map(|part| self.clusters.iter().find(|known| known.id == part.id && known.pool == part.pool))
            .cloned()
            .collect();
        let (mut hosts, mut moved) = (Vec::new(), HashMap::new());
        for (index, host) in self.hosts.iter().enumerate() {
            let owner = self.clusters.get(host.cluster).map(|cluster| &cluster.id);
            if let Some(cluster) = clusters.iter().position(|cluster| Some(&cluster.id) == owner) {
                moved.insert(index, hosts.len());
                hosts.push(HostCapacity { cluster, ..host.clone() });
            }
        }
        let part = |store: &&DatastoreCapacity| site.datastores.iter().any(|known| known.id == store.id);
        let datastores = self.datastores.iter().filter(part).map(|store| DatastoreCapacity {
            hosts: store.hosts.iter().filter_map(|host| moved.get(host).copied()).collect(),
            ..store.clone()
        });
        Self { datastores: datastores.collect(), clusters, hosts }
    }

    fn read(site: &Site, objects: &[Object]) -> Self {
        let of_kind = |kind: &'static str| objects.iter().filter(move |object| object.id.kind == kind);
        let fields = of_kind(FIELDS).next().map(field_names).unwrap_or_default();
        let clusters: Vec<ClusterCapacity> = site
            .clusters
            .iter()
            .map(|cluster| {
                let object = objects.iter().find(|object| object.id == cluster.id.managed_object());
                ClusterCapacity {
                    id: cluster.id.clone(),
                    name: cluster.name.clone(),
                    drs: object
                        .and_then(|object| object.get("configurationEx"))
                        .and_then(|config| config.at(&["drsConfig", "enabled"]))
                        .is_some_and(Element::is_true),
                    pool: cluster.pool.clone(),
                    attributes: object.map(|object| attributes(object, &fields)).unwrap_or_default(),
                }
            })
            .collect();
        let entering: HashSet<&str> = of_kind(TASK)
            .filter(|task| task.text("info.descriptionId") == ENTERING)
            .filter(|task| matches!(task.text("info.state"), "running" | "queued"))
            .map(|task| task.id.id.as_str())
            .collect();
        let mut hosts: Vec<HostCapacity> =
            of_kind(HOST).filter_map(|object| host(object, &clusters, &fields, &entering)).collect();
        hosts.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        let index: HashMap<&str, usize> =
            hosts.iter().enumerate().map(|(index, host)| (host.id.as_str(), index)).collect();
        let mut datastores: Vec<DatastoreCapacity> = of_kind(DATASTORE)
            .filter(|object| site.datastores.iter().any(|datastore| datastore.id.as_str() == object.id.id))
            .map(|object| datastore(object, &index, &fields))
            .collect();
        for datastore in &mut datastores {
            // What only hosts out of service have goes with them.
            let reached = datastore.hosts.iter().any(|at| hosts[*at].usable());
            datastore.usable &= datastore.hosts.is_empty() || reached;
        }
        datastores.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Self { clusters, hosts, datastores }
    }
}

fn host(
    object: &Object,
    clusters: &[ClusterCapacity],
    fields: &HashMap<String, String>,
    entering: &HashSet<&str>,
) -> Option<HostCapacity> {
    let parent = object.reference("parent")?;
    let cluster = clusters.iter().position(|cluster| cluster.id.managed_object() == parent)?;
    let number = |path: &str| object.number(path);
    let cores = number("summary.hardware.numCpuCores").unwrap_or(0);
    Some(HostCapacity {
        id: HostRef::new(&object.id.id),
        name: object.name(),
        cluster,
        state: host_state(object, entering),
        cpu_mhz: number("summary.hardware.cpuMhz").unwrap_or(0) * cores,
        cpu_used_mhz: number("summary.quickStats.overallCpuUsage"),
        memory_mib: number("summary.hardware.memorySize").unwrap_or(0) / MIB,
        memory_used_mib: number("summary.quickStats.overallMemoryUsage"),
        vms: u32::try_from(object.references("vm").len()).unwrap_or(u32::MAX),
        attributes: attributes(object, fields),
    })
}

fn host_state(object: &Object, entering: &HashSet<&str>) -> HostState {
    let powered = matches!(object.text("runtime.powerState"), "poweredOn" | "unknown" | "");
    let connected = object.text("runtime.connectionState") == "connected";
    if object.is_true("runtime.inMaintenanceMode") {
        HostState::InMaintenance
    } else if object.references("recentTask").iter().any(|task| entering.contains(task.id.as_str())) {
        HostState::EnteringMaintenance
    } else if !connected || !powered {
        HostState::Unreachable
    } else if object.is_true("runtime.inQuarantineMode") {
        HostState::Quarantined
    } else {
        HostState::InService
    }
}

fn datastore(object: &Object, hosts: &HashMap<&str, usize>, fields: &HashMap<String, String>) -> DatastoreCapacity {
    let maintenance = object.text("summary.maintenanceMode");
    let mut mounts: Vec<usize> = object
        .get("host")
        .map_or(&[][..], |mounts| &mounts.children)
        .iter()
        .filter(|mount| is_writable(mount))
        .filter_map(|mount| mount.child("key").and_then(reference_of))
        .filter_map(|host| hosts.get(host.id.as_str()).copied())
        .collect();
    mounts.sort_unstable();
    DatastoreCapacity {
        id: DatastoreRef::new(&object.id.id),
        name: object.name(),
        usable: object.is_true("summary.accessible") && matches!(maintenance, "normal" | ""),
        capacity_mib: object.number("summary.capacity").unwrap_or(0) / MIB,
        free_mib: object.number("summary.freeSpace").unwrap_or(0) / MIB,
        uncommitted_mib: object.number("summary.uncommitted").map(|bytes| bytes / MIB),
        kind: Some(object.text("summary.type")).filter(|kind| !kind.is_empty()).map(str::to_owned),
        hosts: mounts,
        attributes: attributes(object, fields),
    }
}

/// A `DatastoreHostMount`: mounted and accessible unless it says otherwise.
fn is_writable(mount: &Element) -> bool {
    let info = mount.child("mountInfo");
    let says_no = |name: &str| info.and_then(|info| info.child(name)).is_some_and(|value| value.text.trim() == "false");
    let read_only = info.is_some_and(|info| info.text_of("accessMode") == "readOnly");
    !says_no("accessible") && !says_no("mounted") && !read_only
}

/// Custom attributes are named once, in the fields manager, and carried by key.
fn field_names(manager: &Object) -> HashMap<String, String> {
    manager
        .get("field")
        .map_or(&[][..], |fields| &fields.children)
        .iter()
        .map(|field| (field.text_of("key").to_owned(), field.text_of("name").to_owned()))
        .collect()
}

fn attributes(object: &Object, fields: &HashMap<String, String>) -> BTreeMap<String, String> {
    object
        .get("customValue")
        .map_or(&[][..], |values| &values.children)
        .iter()
        .filter_map(|value| {
            let name = fields.get(value.text_of("key"))?;
            Some((name.clone(), value.text_of("value").to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refs::{DatacenterRef, FolderRef};
    use crate::site::{Named, SiteCluster};

    fn cluster(number: usize) -> SiteCluster {
        SiteCluster {
            id: ClusterRef::new(CLUSTER, &format!("c{number}")),
            name: format!("C{number}"),
            path: format!("/DC0/host/C{number}"),
            pool: PoolRef::new(format!("p{number}")),
            pool_path: format!("/DC0/host/C{number}/Resources"),
            datastores: Vec::new(),
        }
    }

    fn site(clusters: &[usize], datastores: &[&str]) -> Site {
        let clusters: Vec<SiteCluster> = clusters.iter().map(|number| cluster(*number)).collect();
        let store = |name: &&str| Named { id: DatastoreRef::new(name), name: (*name).to_owned() };
        Site {
            datacenter: Named { id: DatacenterRef::new("dc"), name: "DC0".to_owned() },
            datacenter_path: "/DC0".to_owned(),
            vm_folder: FolderRef::new("vm"),
            root_folder: FolderRef::new("root"),
            root_path: "/DC0/vm/root".to_owned(),
            pool: clusters[0].pool.clone(),
            clusters,
            datastore: None,
            datastores: datastores.iter().map(store).collect(),
            pods: Vec::new(),
            any_datastore: false,
        }
    }

    fn all() -> Capacity {
        let host = |name: &str, cluster: usize| HostCapacity {
            id: HostRef::new(name),
            name: name.to_owned(),
            cluster,
            state: HostState::InService,
            cpu_mhz: 1,
            cpu_used_mhz: None,
            memory_mib: 1,
            memory_used_mib: None,
            vms: 0,
            attributes: BTreeMap::new(),
        };
        let store = |name: &str, hosts: &[usize]| DatastoreCapacity {
            id: DatastoreRef::new(name),
            name: name.to_owned(),
            usable: true,
            capacity_mib: 1,
            free_mib: 1,
            uncommitted_mib: None,
            kind: None,
            hosts: hosts.to_vec(),
            attributes: BTreeMap::new(),
        };
        Capacity {
            clusters: [0, 1, 2]
                .map(|number| {
                    let SiteCluster { id, name, pool, .. } = cluster(number);
                    ClusterCapacity { id, name, drs: true, pool, attributes: BTreeMap::new() }
                })
                .into(),
            hosts: vec![host("a", 1), host("b", 0), host("c", 2), host("d", 1)],
            datastores: vec![store("shared", &[0, 1, 2, 3]), store("local", &[1]), store("other", &[3])],
        }
    }

    /// Tables point at each other by index: in a part the indices are other ones.
    #[test]
    fn the_tables_of_a_part_point_at_each_other() {
        let part = all().part(&site(&[2, 1], &["other", "shared"]));
        let clusters: Vec<&str> = part.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        let hosts: Vec<(&str, usize)> = part.hosts.iter().map(|host| (host.name.as_str(), host.cluster)).collect();
        let stores: Vec<(&str, &[usize])> =
            part.datastores.iter().map(|store| (store.name.as_str(), store.hosts.as_slice())).collect();
        assert_eq!(clusters, ["C2", "C1"]);
        assert_eq!(hosts, [("a", 1), ("c", 0), ("d", 1)]);
        assert_eq!(stores, [("shared", &[0, 1, 2][..]), ("other", &[2])]);
        assert_eq!(all().part(&site(&[0, 1, 2], &["shared", "local", "other"])), all());
    }
}

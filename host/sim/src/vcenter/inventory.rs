//! The inventory at the start, and where a new virtual machine lands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::config::VcenterConfig;
use super::entity::{Kind, Moref};
use super::soap::VimFault;
use super::world::{Cluster, Datastore, Detail, Holds, Host, State};

/// What a virtual machine to be is like. The default is the template's.
#[derive(Clone, Debug)]
pub(super) struct NewVm {
    pub(super) template: bool,
    pub(super) instance_uuid: Option<String>,
    pub(super) cpus: u32,
    pub(super) memory_mib: u64,
    pub(super) hot_add: (bool, bool),
    /// VMware Tools are in the guest.
    pub(super) tools: bool,
    pub(super) disk_bytes: Option<u64>,
    pub(super) extra: BTreeMap<String, String>,
    pub(super) annotation: String,
    pub(super) managed_by: Option<(String, String)>,
    pub(super) pool: Option<Moref>,
    pub(super) host: Option<Moref>,
    pub(super) datastore: Option<Moref>,
    /// Networks instead of the place's own.
    pub(super) networks: Option<Vec<Moref>>,
    /// Disks besides the first, in bytes.
    pub(super) further_disks: Vec<u64>,
    /// The customization that it is made with, by the domain in it.
    pub(super) customized: Option<String>,
}

impl Default for NewVm {
    fn default() -> Self {
        Self {
            template: false,
            instance_uuid: None,
            cpus: 1,
            memory_mib: 1_024,
            hot_add: (false, false),
            tools: true,
            disk_bytes: None,
            extra: BTreeMap::new(),
            annotation: String::new(),
            managed_by: None,
            pool: None,
            host: None,
            datastore: None,
            networks: None,
            further_disks: Vec::new(),
            customized: None,
        }
    }
}

/// Where a virtual machine goes.
pub(super) struct Place {
    pub(super) pool: Moref,
    pub(super) host: Moref,
    pub(super) datastore: Moref,
    pub(super) network: Option<Moref>,
}

/// The world at the start.
pub(super) fn build(config: VcenterConfig, now: Duration) -> State {
    let mut state = State::new(config, now);
    for index in 0..state.config.datacenters {
        build_datacenter(&mut state, index);
    }
    state.take_woken();
    state
}

fn folder(state: &mut State, name: &str, parent: Moref, holds: Holds) -> Moref {
    let moref = state.new_ref(Kind::Folder);
    state.insert(moref, name, Some(parent), Detail::Folder { holds, children: BTreeMap::new() });
    moref
}

fn build_datacenter(state: &mut State, index: usize) {
    let name = format!("DC{index}");
    let datacenter = state.new_ref(Kind::Datacenter);
    // The folders need their parent, and the parent its folders.
    let [vms, hosts, datastores, networks] =
        [("vm", Holds::Vms), ("host", Holds::Hosts), ("datastore", Holds::Datastores), ("network", Holds::Networks)]
            .map(|(name, holds)| folder(state, name, datacenter, holds));
    let folders = [vms, hosts, datastores, networks];
    state.insert(datacenter, &name, Some(state.root), Detail::Datacenter { folders });

    let network = state.new_ref(Kind::Network);
    state.insert(network, "VM Network", Some(networks), Detail::Network);

    let mut stores = Vec::new();
    for number in 0..state.config.datastores {
        let prefix = if index == 0 { String::new() } else { format!("{name}_") };
        let moref = state.new_ref(Kind::Datastore);
        let url = format!("ds:///vmfs/volumes/{}/", state.new_uuid());
        let store = Datastore {
            maintenance: false,
            capacity: state.config.datastore_bytes,
            used: 0,
            url,
            hosts: Vec::new(),
            vms: BTreeSet::new(),
        };
        state.insert(moref, &format!("{prefix}LocalDS_{number}"), Some(datastores), Detail::Datastore(store));
        stores.push(moref);
    }

    let mut all_hosts = Vec::new();
    for number in 0..state.config.clusters {
        let cluster_name = format!("{name}_C{number}");
        all_hosts.extend(build_cluster(state, &cluster_name, hosts, &stores, network));
    }
    for store in &stores {
        if let Some(entity) = state.entities.get_mut(store)
            && let Detail::Datastore(store) = &mut entity.detail
        {
            store.hosts.clone_from(&all_hosts);
        }
    }

    if let Some(root_folder) = state.config.root_folder.clone() {
        folder(state, &root_folder, vms, Holds::Vms);
    }
    for template in state.config.templates.clone() {
        let new = NewVm { template: true, ..NewVm::default() };
        // Without hosts or datastores there is no place for one.
        let _ = state.add_vm(vms, &template, new);
    }
}

fn build_cluster(state: &mut State, name: &str, parent: Moref, stores: &[Moref], network: Moref) -> Vec<Moref> {
    let cluster = state.new_ref(Kind::ClusterComputeResource);
    let pool = state.new_ref(Kind::ResourcePool);
    let hosts: Vec<Moref> = (0..state.config.hosts_per_cluster).map(|_| state.new_ref(Kind::HostSystem)).collect();
    let detail = Cluster { hosts: hosts.clone(), pool, datastores: stores.to_vec(), networks: vec![network] };
    state.insert(cluster, name, Some(parent), Detail::Cluster(detail));
    state.insert(pool, "Resources", Some(cluster), Detail::Pool { owner: cluster, vms: BTreeSet::new() });
    for (number, host) in hosts.iter().enumerate() {
        let detail = Host {
            cluster,
            maintenance: false,
            entering: None,
            quarantined: false,
            connected: true,
            cores: state.config.host_cores,
            mhz: state.config.host_mhz,
            memory_mib: state.config.host_memory_mib,
            uuid: state.new_uuid(),
            vms: BTreeSet::new(),
        };
        state.insert(*host, &format!("{name}_H{number}"), Some(cluster), Detail::Host(detail));
    }
    hosts
}

impl State {
    /// Where a virtual machine goes that is wished `new`, in `folder`. What is
    /// not said is chosen: the datacenter's first pool, the host with the
    /// fewest virtual machines (the first one by name of several; without DRS,
    /// the first at all), the datastore with most room.
    pub(super) fn place(&self, folder: Moref, new: &NewVm) -> Result<Place, VimFault> {
        let datacenter = self.datacenter_of(folder);
        let here = |moref: &Moref| self.datacenter_of(*moref) == datacenter;
        let cluster_of_host = new.host.and_then(|host| self.host(host)).map(|host| host.cluster);
        let pool = match new.pool {
            Some(pool) => pool,
            None => cluster_of_host
                .or_else(|| self.refs_of(Kind::ClusterComputeResource).into_iter().find(here))
                .and_then(|cluster| self.cluster(cluster))
                .map(|cluster| cluster.pool)
                .ok_or_else(|| VimFault::invalid_argument("spec.location.pool"))?,
        };
        if !here(&pool) {
            return Err(VimFault::invalid_argument("spec.location.pool"));
        }
        let cluster = self
            .owner_of(pool)
            .and_then(|owner| self.cluster(owner))
            .ok_or_else(|| VimFault::invalid_argument("spec.location.pool"))?;
        let host = match new.host {
            Some(host) if !cluster.hosts.contains(&host) => {
                return Err(VimFault::invalid_argument("spec.location.host"));
            }
            Some(host) if !self.host_usable(host) => {
                return Err(VimFault::new(
                    "InvalidHostState",
                    "The operation is not allowed in the current state of the host.",
                )
                .with("host", super::value::Val::Ref(host)));
            }
            Some(host) => host,
            None => self.choose_host(cluster)?,
        };
        let mounted = |store: &Moref| self.datastore(*store).is_some_and(|store| store.hosts.contains(&host));
        let datastore = match new.datastore {
            Some(store) if cluster.datastores.contains(&store) && !mounted(&store) => {
                return Err(VimFault::new("InvalidDatastore", "Operation not valid on the datastore of that host.")
                    .with("datastore", super::value::Val::Ref(store)));
            }
            Some(store) if cluster.datastores.contains(&store) => store,
            Some(_) => return Err(VimFault::invalid_argument("spec.location.datastore")),
            None => cluster
                .datastores
                .iter()
                .copied()
                .rev()
                .filter(mounted)
                .max_by_key(|store| {
                    self.datastore(*store).map_or(0, |store| store.capacity - store.used.min(store.capacity))
                })
                .ok_or_else(|| VimFault::invalid_argument("spec.location.datastore"))?,
        };
        Ok(Place { pool, host, datastore, network: cluster.networks.first().copied() })
    }

    fn choose_host(&self, cluster: &Cluster) -> Result<Moref, VimFault> {
        let usable = cluster.hosts.iter().copied().filter(|host| self.host_usable(*host));
        let chosen = if self.config.drs {
            usable.min_by_key(|host| {
                let vms = self.host(*host).map_or(0, |host| host.vms.len());
                (vms, self.name_of(*host))
            })
        } else {
            let mut usable = usable;
            usable.next()
        };
        chosen.ok_or_else(|| {
            VimFault::new("InsufficientHostCapacityFault", "No host is compatible with the virtual machine.")
        })
    }
}

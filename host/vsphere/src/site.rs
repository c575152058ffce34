//! Where machines go: datacenter, pools, datastores, root folder and template,
//! found by the names that people gave, each the only one there is if they gave
//! none.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::client::{Purpose, Vcenter};
use crate::error::Error;
use crate::model::{Template, escape_name, unescape_name};
use crate::property::{Object, Paths, Query, Start, Step};
use crate::read::{FOLDER, VM, folder_paths};
use crate::refs::{ClusterRef, DatacenterRef, DatastoreRef, FolderRef, ManagedObjectRef, PoolRef, VmRef};

/// The root folder if none is named, directly in the datacenter's vm folder.
const DEFAULT_ROOT: &str = "vm-operator";
/// How many candidates an error lists.
pub(crate) const MAX_CANDIDATES: usize = 20;
const DATACENTER: &str = "Datacenter";
const COMPUTE: &str = "ComputeResource";
const POOL: &str = "ResourcePool";
const DATASTORE: &str = "Datastore";
const STORAGE_POD: &str = "StoragePod";
const COMMITTED: &str = "summary.storage.committed";

/// What people named. Each may be a name or an inventory path; what is not
/// named is the only one there is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SiteSelection {
    /// A datacenter.
    pub datacenter: Option<String>,
    /// A cluster, a host that stands alone, or a resource pool. Several with
    /// commas between them, or `*` for every cluster.
    pub pool_or_cluster: Option<String>,
    /// A datastore, or a datastore cluster, which stands for those in it. Several with
    /// commas between them, or `*` for all that the clusters have.
    pub datastore: Option<String>,
    /// The folder that everything goes under; `vm-operator` in the datacenter's
    /// vm folder if none is named.
    pub root_folder: Option<String>,
}

/// A reference and the name that people know it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named<R> {
    /// The reference.
    pub id: R,
    /// Name, unescaped.
    pub name: String,
}

/// Where machines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The datacenter.
    pub datacenter: Named<DatacenterRef>,
    /// The datacenter's inventory path, `/DC0`.
    pub datacenter_path: String,
    /// The datacenter's vm folder.
    pub vm_folder: FolderRef,
    /// The folder that everything goes under.
    pub root_folder: FolderRef,
    /// Its inventory path, `/DC0/vm/vm-operator`.
    pub root_path: String,
    /// The first cluster's pool: the only one, as a rule.
    pub pool: PoolRef,
    /// The compute resources that may be used, by path; never empty.
    pub clusters: Vec<SiteCluster>,
    /// The datastore, if there is just one that may be used.
    pub datastore: Option<DatastoreRef>,
    /// All datastores that may be used, by name.
    pub datastores: Vec<Named<DatastoreRef>>,
    /// The datastore clusters that these are in, by name.
    pub pods: Vec<SitePod>,
    /// They are all that the clusters have, so vCenter may choose one by itself.
    pub any_datastore: bool,
}

/// What somebody names of a site: by names or inventory paths. What is not named is
/// all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SitePart {
    /// A cluster, or a host that stands alone.
    pub cluster: Option<String>,
    /// A resource pool.
    pub pool: Option<String>,
    /// A datastore or a datastore cluster.
    pub datastore: Option<String>,
}

/// A datastore cluster, as far as it may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SitePod {
    /// Its name, unescaped.
    pub name: String,
    /// Its inventory path, `/DC0/datastore/fast`.
    pub path: String,
    /// The datastores in it that may be used.
    pub datastores: Vec<DatastoreRef>,
}

/// A cluster, or a host that stands alone, and the pool in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteCluster {
    /// The compute resource.
    pub id: ClusterRef,
    /// Its name, unescaped.
    pub name: String,
    /// Its inventory path, `/DC0/host/DC0_C0`.
    pub path: String,
    /// The pool that machines go into: the root pool, unless one was named.
    pub pool: PoolRef,
    /// The pool's inventory path, `/DC0/host/DC0_C0/Resources`.
    pub pool_path: String,
    /// The datastores that its hosts have.
    pub datastores: Vec<DatastoreRef>,
}

impl SiteCluster {
    fn is_called(&self, asked: &str) -> bool {
        self.name == asked || self.path == asked
    }

    fn has_pool_called(&self, asked: &str) -> bool {
        self.pool_path == asked || last_name(&self.pool_path) == asked
    }

    fn has(&self, datastore: &DatastoreRef) -> bool {
        self.datastores.contains(datastore)
    }
}

struct Datacenter {
    id: DatacenterRef,
    name: String,
    path: String,
    vm_folder: FolderRef,
    host_folder: ManagedObjectRef,
    datastore_folder: ManagedObjectRef,
}

struct Pool {
    cluster: SiteCluster,
    /// Only a root pool answers to its cluster's name.
    is_root: bool,
    name: String,
}

/// What there is of a datacenter to put machines on.
struct Ground {
    pools: Vec<Pool>,
    stores: Vec<Named<DatastoreRef>>,
    pods: Vec<SitePod>,
}

impl Vcenter {
    /// Finds the site. What is ambiguous or missing is an error that lists what
    /// there is.
    pub async fn resolve_site(&self, selection: &SiteSelection) -> Result<Site, Error> {
        let datacenters = self.datacenters().await?;
        let datacenter = one(
            "datacenter",
            selection.datacenter.as_deref(),
            &datacenters,
            |datacenter, asked| datacenter.name == asked || datacenter.path == asked,
            |datacenter| datacenter.path.clone(),
        )?;
        let Ground { pools, mut stores, pods } = self.ground(datacenter).await?;
        let chosen = choose_pools(selection.pool_or_cluster.as_deref(), &pools)?;
        let clusters: Vec<SiteCluster> = chosen.iter().map(|pool| pool.cluster.clone()).collect();
        stores.retain(|store| clusters.iter().any(|cluster| cluster.has(&store.id)));
        let pods = pods_of(&pods, &stores);
        let asked = selection.datastore.as_deref();
        let datastores = choose_datastores(asked, &stores, &pods)?;
        let (root_folder, root_path) = self.root_folder(datacenter, selection.root_folder.as_deref()).await?;
        let Some(first) = clusters.first() else {
            return Err(not_found("resource pool or cluster", None, Vec::new()));
        };
        Ok(Site {
            datacenter: Named { id: datacenter.id.clone(), name: datacenter.name.clone() },
            datacenter_path: datacenter.path.clone(),
            vm_folder: datacenter.vm_folder.clone(),
            root_folder,
            root_path,
            pool: first.pool.clone(),
            datastore: only(&datastores),
            pods: pods_of(&pods, &datastores),
            any_datastore: asked.is_some_and(|asked| asked.trim() == "*"),
            clusters,
            datastores,
        })
    }

    async fn datacenters(&self) -> Result<Vec<Datacenter>, Error> {
        let session = self.session(Purpose::Read, "RetrievePropertiesEx").await?;
        let query = Query {
            paths: vec![
                Paths::new(DATACENTER, &["name", "parent", "vmFolder", "hostFolder", "datastoreFolder"]),
                folder_paths(),
            ],
            starts: vec![Start::from(session.content.root_folder.clone(), vec![folders(&[])])],
        };
        let objects = self.retrieve(&query).await?;
        let tree = Tree::of(&objects);
        let mut datacenters: Vec<Datacenter> = objects
            .iter()
            .filter(|object| object.id.kind == DATACENTER)
            .filter_map(|object| {
                Some(Datacenter {
                    id: DatacenterRef::new(&object.id.id),
                    name: object.name(),
                    path: tree.path(&object.id),
                    vm_folder: FolderRef::new(object.reference("vmFolder")?.id),
                    host_folder: object.reference("hostFolder")?,
                    datastore_folder: object.reference("datastoreFolder")?,
                })
            })
            .collect();
        datacenters.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(datacenters)
    }

    /// Every resource pool of a datacenter, by path, and every datastore and datastore
    /// cluster, by name.
    async fn ground(&self, datacenter: &Datacenter) -> Result<Ground, Error> {
        let hosts = vec![
            folders(&[Step::Again("pools"), Step::Again("stores")]),
            Step::along("pools", COMPUTE, "resourcePool", &[Step::Again("subpools")]),
            Step::along("subpools", POOL, "resourcePool", &[Step::Again("subpools")]),
            Step::along("stores", COMPUTE, "datastore", &[]),
        ];
        let stores = vec![Step::along("storeFolders", FOLDER, "childEntity", &[Step::Again("storeFolders")])];
        let start = |object: &ManagedObjectRef, steps| Start { skip: false, ..Start::from(object.clone(), steps) };
        let query = Query {
            paths: vec![
                Paths::new(COMPUTE, &["name", "parent", "resourcePool", "datastore"]),
                Paths::new(POOL, &["name", "parent", "owner"]),
                Paths::new(DATASTORE, &["name", "parent"]),
                // A kind of folder: whichever of the two counts there, it says the same.
                Paths::new(STORAGE_POD, &["name", "parent"]),
                folder_paths(),
            ],
            starts: vec![start(&datacenter.host_folder, hosts), start(&datacenter.datastore_folder, stores)],
        };
        let objects = self.retrieve(&query).await?;
        let mut tree = Tree::of(&objects);
        tree.root(datacenter.id.managed_object(), datacenter.path.clone());
        let mut stores: Vec<Named<DatastoreRef>> = objects
            .iter()
            .filter(|object| object.id.kind == DATASTORE)
            .map(|object| Named { id: DatastoreRef::new(&object.id.id), name: object.name() })
            .collect();
        stores.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        stores.dedup_by(|a, b| a.id == b.id);
        Ok(Ground { pools: pools(&objects, &tree), stores, pods: pods(&objects, &tree) })
    }

    async fn root_folder(&self, datacenter: &Datacenter, asked: Option<&str>) -> Result<(FolderRef, String), Error> {
        let vm_path = format!("{}/vm", datacenter.path);
        let asked = asked.map(str::trim).filter(|asked| !asked.is_empty()).unwrap_or(DEFAULT_ROOT);
        let segments = below(&vm_path, asked);
        let wanted = format!("{vm_path}{}", segments.iter().fold(String::new(), |path, segment| path + "/" + segment));
        let mut folder = datacenter.vm_folder.clone();
        for segment in &segments {
            let found = self.find_child_ref(&folder, &unescape_name(segment)).await?;
            match found {
                Some(found) if found.kind == FOLDER => folder = FolderRef::new(found.id),
                _ => {
                    return Err(Error::NotFound {
                        what: "root folder",
                        name: Some(asked.to_owned()),
                        candidates: self.folder_names(&folder).await?,
                        remedy: Some(format!("create it with: govc folder.create '{wanted}'")),
                    });
                }
            }
        }
        Ok((folder, wanted))
    }

    /// The names of the folders in a folder, bounded.
    async fn folder_names(&self, folder: &FolderRef) -> Result<Vec<String>, Error> {
        let query = Query {
            paths: vec![folder_paths()],
            starts: vec![Start::from(
                folder.managed_object(),
                vec![Step::along("children", FOLDER, "childEntity", &[])],
            )],
        };
        let objects = self.retrieve(&query).await?;
        Ok(bounded(objects.iter().map(Object::name).collect()))
    }

    /// Finds what to clone, by name anywhere in the datacenter's vm folder, or
    /// by inventory path if the name has a `/`. Of several of that name a
    /// template is preferred to an ordinary machine.
    ///
    /// Reads the name of every machine of the datacenter.
    pub async fn find_template(&self, site: &Site, name: &str) -> Result<Template, Error> {
        let query = Query {
            paths: vec![Paths::new(VM, &["name", "parent", "config.template", COMMITTED]), folder_paths()],
            starts: vec![Start { skip: false, ..Start::from(site.vm_folder.managed_object(), vec![folders(&[])]) }],
        };
        let objects = self.retrieve(&query).await?;
        let mut tree = Tree::of(&objects);
        tree.root(site.datacenter.id.managed_object(), site.datacenter_path.clone());
        let mut machines: Vec<Template> = objects
            .iter()
            .filter(|object| object.id.kind == VM)
            .map(|object| Template {
                id: VmRef::new(&object.id.id),
                name: object.name(),
                path: tree.path(&object.id),
                is_template: object.is_true("config.template"),
                disk_mib: object.number(COMMITTED).filter(|bytes| *bytes > 0).map(|bytes| bytes.div_ceil(1 << 20)),
            })
            .collect();
        machines.sort_by(|a, b| a.path.cmp(&b.path));
        choose_template(name, &format!("{}/vm", site.datacenter_path), &machines)
    }
}

/// The resource pools among objects, by path.
fn pools(objects: &[Object], tree: &Tree) -> Vec<Pool> {
    let by_id: HashMap<&ManagedObjectRef, &Object> = objects.iter().map(|object| (&object.id, object)).collect();
    let mut pools: Vec<Pool> = objects
        .iter()
        .filter(|object| object.id.kind == POOL)
        .filter_map(|object| {
            let owner = by_id.get(&object.reference("owner")?)?;
            let datastores = owner.references("datastore");
            Some(Pool {
                cluster: SiteCluster {
                    id: ClusterRef(owner.id.clone()),
                    name: owner.name(),
                    path: tree.path(&owner.id),
                    pool: PoolRef::new(&object.id.id),
                    pool_path: tree.path(&object.id),
                    datastores: datastores.iter().map(|store| DatastoreRef::new(&store.id)).collect(),
                },
                is_root: owner.reference("resourcePool").as_ref() == Some(&object.id),
                name: object.name(),
            })
        })
        .collect();
    pools.sort_by(|a, b| a.cluster.pool_path.cmp(&b.cluster.pool_path));
    pools
}

/// The datastore clusters among objects, by name, with the datastores that lie in them.
fn pods(objects: &[Object], tree: &Tree) -> Vec<SitePod> {
    let inside = |pod: &Object| {
        let stores = objects.iter().filter(|object| object.id.kind == DATASTORE);
        let mut inside: Vec<DatastoreRef> = stores
            .filter(|store| store.reference("parent").as_ref() == Some(&pod.id))
            .map(|store| DatastoreRef::new(&store.id.id))
            .collect();
        inside.sort();
        inside.dedup();
        inside
    };
    let pods = objects.iter().filter(|object| object.id.kind == STORAGE_POD);
    let mut pods: Vec<SitePod> =
        pods.map(|pod| SitePod { name: pod.name(), path: tree.path(&pod.id), datastores: inside(pod) }).collect();
    pods.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    pods.dedup();
    pods
}

/// As much of datastore clusters as these datastores are; those without any are left out.
fn pods_of(pods: &[SitePod], stores: &[Named<DatastoreRef>]) -> Vec<SitePod> {
    let usable = |id: &DatastoreRef| stores.iter().any(|store| store.id == *id);
    let pods = pods.iter().map(|pod| SitePod {
        datastores: pod.datastores.iter().filter(|id| usable(id)).cloned().collect(),
        ..pod.clone()
    });
    pods.filter(|pod| !pod.datastores.is_empty()).collect()
}

/// The datastore, if there is just one.
fn only(datastores: &[Named<DatastoreRef>]) -> Option<DatastoreRef> {
    match datastores {
        [only] => Some(only.id.clone()),
        _ => None,
    }
}

impl Site {
    /// The part of it that is named, and nothing else. What is not in it is an error
    /// that lists what there is.
    pub fn part(&self, part: &SitePart) -> Result<Self, Error> {
        let SitePart { cluster, pool, datastore } = part;
        let clusters: Vec<SiteCluster> = match (cluster, pool) {
            (_, Some(pool)) => {
                let path = |cluster: &SiteCluster| cluster.pool_path.clone();
                vec![one("pool", Some(pool), &self.clusters, SiteCluster::has_pool_called, path)?.clone()]
            }
            (Some(cluster), None) => {
                // Several pools of one cluster may be allowed: they all are what is named.
                let first = |(at, cluster): &(usize, &SiteCluster)| {
                    self.clusters[..*at].iter().all(|before| before.id != cluster.id)
                };
                let distinct = self.clusters.iter().enumerate().filter(first);
                let distinct: Vec<SiteCluster> = distinct.map(|(_, cluster)| cluster.clone()).collect();
                let named = |cluster: &SiteCluster| cluster.name.clone();
                let id = one("cluster", Some(cluster), &distinct, SiteCluster::is_called, named)?.id.clone();
                self.clusters.iter().filter(|cluster| cluster.id == id).cloned().collect()
            }
            (None, None) => self.clusters.clone(),
        };
        let reached = |store: &&Named<DatastoreRef>| clusters.iter().any(|cluster| cluster.has(&store.id));
        let reached: Vec<Named<DatastoreRef>> = self.datastores.iter().filter(reached).cloned().collect();
        let pods = pods_of(&self.pods, &reached);
        let datastores = match datastore {
            Some(asked) => {
                let choices = Choice::all(&reached, &pods);
                one("datastore", Some(asked), &choices, Choice::is_called, Choice::shown)?.stores.clone()
            }
            None => reached,
        };
        let Some(first) = clusters.first() else {
            return Err(not_found("cluster", cluster.as_deref(), Vec::new()));
        };
        Ok(Self {
            pool: first.pool.clone(),
            datastore: only(&datastores),
            pods: pods_of(&pods, &datastores),
            any_datastore: self.any_datastore && datastore.is_none(),
            clusters,
            datastores,
            ..self.clone()
        })
    }
}

/// What may be named as a datastore.
struct Choice {
    name: String,
    /// Of a datastore cluster.
    path: Option<String>,
    stores: Vec<Named<DatastoreRef>>,
}

impl Choice {
    fn all(stores: &[Named<DatastoreRef>], pods: &[SitePod]) -> Vec<Self> {
        let single =
            |store: &Named<DatastoreRef>| Self { name: store.name.clone(), path: None, stores: vec![store.clone()] };
        let several = |pod: &SitePod| Self {
            name: pod.name.clone(),
            path: Some(pod.path.clone()),
            stores: stores.iter().filter(|store| pod.datastores.contains(&store.id)).cloned().collect(),
        };
        stores.iter().map(single).chain(pods.iter().map(several)).collect()
    }

    fn is_called(&self, asked: &str) -> bool {
        let by_path = match &self.path {
            Some(path) => path == asked,
            None => asked.contains('/') && last_name(asked) == self.name,
        };
        self.name == asked || by_path
    }

    fn shown(&self) -> String {
        if self.path.is_some() { format!("{} (datastore cluster)", self.name) } else { self.name.clone() }
    }
}

/// The last name of an inventory path, unescaped.
fn last_name(path: &str) -> String {
    unescape_name(path.rsplit('/').next().unwrap_or(path))
}

fn choose_datastores(
    asked: Option<&str>,
    stores: &[Named<DatastoreRef>],
    pods: &[SitePod],
) -> Result<Vec<Named<DatastoreRef>>, Error> {
    // Nobody means a cluster who names none.
    let named = asked.map(str::trim).is_some_and(|asked| !matches!(asked, "" | "*"));
    let choices = Choice::all(stores, if named { pods } else { &[] });
    let chosen = some("datastore", asked, &choices, Choice::is_called, Choice::shown)?;
    let mut datastores: Vec<Named<DatastoreRef>> = Vec::new();
    for store in chosen.into_iter().flat_map(|choice| &choice.stores) {
        if !datastores.contains(store) {
            datastores.push(store.clone());
        }
    }
    Ok(datastores)
}

fn choose_template(name: &str, vm_path: &str, machines: &[Template]) -> Result<Template, Error> {
    let found: Vec<&Template> = if name.contains('/') {
        let path = below(vm_path, name)
            .iter()
            .fold(vm_path.to_owned(), |path, segment| path + "/" + &escape_name(&unescape_name(segment)));
        machines.iter().filter(|machine| machine.path == path).collect()
    } else {
        let named: Vec<&Template> = machines.iter().filter(|machine| machine.name == name).collect();
        if named.iter().any(|machine| machine.is_template) {
            named.into_iter().filter(|machine| machine.is_template).collect()
        } else {
            named
        }
    };
    match found.as_slice() {
        [only] => Ok((*only).clone()),
        [] => Err(not_found(
            "template",
            Some(name),
            machines.iter().filter(|machine| machine.is_template).map(|machine| machine.name.clone()).collect(),
        )),
        several => Err(Error::Ambiguous {
            what: "template",
            name: Some(name.to_owned()),
            candidates: bounded(several.iter().map(|machine| machine.path.clone()).collect()),
        }),
    }
}

fn choose_pools<'a>(asked: Option<&str>, pools: &'a [Pool]) -> Result<Vec<&'a Pool>, Error> {
    const WHAT: &str = "resource pool or cluster";
    let roots = || pools.iter().filter(|pool| pool.is_root);
    let path = |pool: &&Pool| pool.cluster.pool_path.clone();
    match asked.map(str::trim) {
        None | Some("" | "*") => some(WHAT, asked, &roots().collect::<Vec<_>>(), |_, _| false, path)
            .map(|found| found.into_iter().copied().collect()),
        Some(asked) => some(
            WHAT,
            Some(asked),
            &pools.iter().collect::<Vec<_>>(),
            |pool, asked| {
                let cluster = pool.is_root && pool.cluster.is_called(asked);
                cluster || pool.name == asked || pool.cluster.pool_path == asked
            },
            path,
        )
        .map(|found| found.into_iter().copied().collect()),
    }
}

/// Exactly one: the one asked for, or the only one.
fn one<'a, T>(
    what: &'static str,
    asked: Option<&str>,
    all: &'a [T],
    matches: impl Fn(&T, &str) -> bool,
    show: impl Fn(&T) -> String,
) -> Result<&'a T, Error> {
    let asked = asked.map(str::trim).filter(|asked| !asked.is_empty());
    let found: Vec<&T> = all.iter().filter(|candidate| asked.is_none_or(|asked| matches(candidate, asked))).collect();
    match found.as_slice() {
        [only] => Ok(only),
        [] => Err(not_found(what, asked, all.iter().map(show).collect())),
        several => Err(Error::Ambiguous {
            what,
            name: asked.map(str::to_owned),
            candidates: bounded(several.iter().map(|found| show(found)).collect()),
        }),
    }
}

/// One or more: those asked for, all of them for `*`, or the only one.
fn some<'a, T>(
    what: &'static str,
    asked: Option<&str>,
    all: &'a [T],
    matches: impl Fn(&T, &str) -> bool,
    show: impl Fn(&T) -> String,
) -> Result<Vec<&'a T>, Error> {
    let Some(text) = asked.map(str::trim).filter(|asked| !asked.is_empty()) else {
        return one(what, None, all, matches, show).map(|only| vec![only]);
    };
    if text == "*" {
        if all.is_empty() {
            return Err(not_found(what, None, Vec::new()));
        }
        return Ok(all.iter().collect());
    }
    let whole = all.iter().any(|candidate| matches(candidate, text));
    let parts: Vec<&str> =
        if whole { vec![text] } else { text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect() };
    let mut found: Vec<&T> = Vec::new();
    for part in parts {
        let next = one(what, Some(part), all, &matches, &show)?;
        if !found.iter().any(|known| std::ptr::eq(*known, next)) {
            found.push(next);
        }
    }
    if found.is_empty() {
        return Err(not_found(what, Some(text), all.iter().map(show).collect()));
    }
    Ok(found)
}

fn not_found(what: &'static str, name: Option<&str>, candidates: Vec<String>) -> Error {
    Error::NotFound { what, name: name.map(str::to_owned), candidates: bounded(candidates), remedy: None }
}

fn bounded(mut candidates: Vec<String>) -> Vec<String> {
    candidates.sort();
    candidates.dedup();
    let more = candidates.len().saturating_sub(MAX_CANDIDATES);
    candidates.truncate(MAX_CANDIDATES);
    if more > 0 {
        candidates.push(format!("and {more} more"));
    }
    candidates
}

/// The segments of a path below the vm folder, however much of the way to it
/// people wrote out.
fn below<'a>(vm_path: &str, asked: &'a str) -> Vec<&'a str> {
    let asked = asked.trim_end_matches('/');
    let full = asked
        .strip_prefix(vm_path)
        .or_else(|| asked.strip_prefix(vm_path.trim_start_matches('/')))
        .filter(|rest| rest.is_empty() || rest.starts_with('/'));
    full.unwrap_or(asked).split('/').filter(|segment| !segment.is_empty()).collect()
}

/// Down through folders, and from each thing in them as the other steps say.
fn folders(then: &[Step]) -> Step {
    let mut all = vec![Step::Again("folders")];
    all.extend_from_slice(then);
    Step::along("folders", FOLDER, "childEntity", &all)
}

/// Names and parents, to tell inventory paths from.
struct Tree {
    nodes: HashMap<ManagedObjectRef, (String, Option<ManagedObjectRef>)>,
    roots: HashMap<ManagedObjectRef, String>,
}

impl Tree {
    fn of(objects: &[Object]) -> Self {
        Self {
            nodes: objects
                .iter()
                .map(|object| (object.id.clone(), (object.name(), object.reference("parent"))))
                .collect(),
            roots: HashMap::new(),
        }
    }

    /// Says the path of something above the objects.
    fn root(&mut self, id: ManagedObjectRef, path: String) {
        self.roots.insert(id, path);
    }

    fn path(&self, id: &ManagedObjectRef) -> String {
        let mut names = Vec::new();
        let mut next = Some(id);
        // No path is longer than there are nodes, whatever the server says.
        for _ in 0..=self.nodes.len() {
            let Some(id) = next else { break };
            if let Some(path) = self.roots.get(id) {
                names.push(path.clone());
                break;
            }
            let Some((name, parent)) = self.nodes.get(id) else {
                break;
            };
            names.push(format!("/{}", escape_name(name)));
            next = parent.as_ref();
        }
        names.reverse();
        names.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(path: &str, is_template: bool) -> Template {
        Template {
            id: VmRef::new(path),
            name: unescape_name(path.rsplit('/').next().unwrap()),
            path: path.to_owned(),
            is_template,
            disk_mib: None,
        }
    }

    #[test]
    fn a_template_name_that_exists_twice_lists_both_paths() {
        let machines = [
            template("/DC0/vm/a/golden", true),
            template("/DC0/vm/b/golden", true),
            template("/DC0/vm/c/golden", false),
        ];
        let error = choose_template("golden", "/DC0/vm", &machines).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there are several templates named \"golden\": /DC0/vm/a/golden, /DC0/vm/b/golden"
        );
        for path in ["/DC0/vm/b/golden", "DC0/vm/b/golden", "b/golden"] {
            let found = choose_template(path, "/DC0/vm", &machines).unwrap();
            assert_eq!(found.path, "/DC0/vm/b/golden");
        }
    }

    #[test]
    fn an_unknown_template_lists_those_there_are() {
        let machines = [template("/DC0/vm/golden", true), template("/DC0/vm/web", false)];
        let error = choose_template("goldn", "/DC0/vm", &machines).unwrap_err();
        assert_eq!(error.to_string(), "there is no template named \"goldn\"; there are: golden");
        assert!(!choose_template("web", "/DC0/vm", &machines).unwrap().is_template);
    }

    fn pool(cluster: &str, path: &str, root: bool) -> Pool {
        Pool {
            cluster: SiteCluster {
                id: ClusterRef(ManagedObjectRef::new("ClusterComputeResource", cluster)),
                name: cluster.to_owned(),
                path: format!("/DC0/host/{cluster}"),
                pool: PoolRef::new(path),
                pool_path: path.to_owned(),
                datastores: vec![DatastoreRef::new("fast-1"), DatastoreRef::new(format!("local-{cluster}"))],
            },
            is_root: root,
            name: path.rsplit('/').next().unwrap().to_owned(),
        }
    }

    #[test]
    fn a_pool_is_found_by_cluster_pool_or_path_and_never_guessed() {
        let pools = [
            pool("C0", "/DC0/host/C0/Resources", true),
            pool("C0", "/DC0/host/C0/Resources/dev", false),
            pool("H0", "/DC0/host/H0/Resources", true),
        ];
        let paths = |asked| {
            choose_pools(asked, &pools)
                .map(|found| found.iter().map(|pool| pool.cluster.pool_path.clone()).collect::<Vec<_>>())
        };
        for asked in ["C0", "/DC0/host/C0", "/DC0/host/C0/Resources"] {
            assert_eq!(paths(Some(asked)).unwrap(), ["/DC0/host/C0/Resources"]);
        }
        assert_eq!(paths(Some("dev")).unwrap(), ["/DC0/host/C0/Resources/dev"]);
        assert_eq!(paths(Some("*")).unwrap().len(), 2);
        assert_eq!(paths(Some("H0, C0")).unwrap().len(), 2);
        for asked in [None, Some("Resources")] {
            let Err(Error::Ambiguous { candidates, .. }) = paths(asked) else {
                panic!("{asked:?} is ambiguous");
            };
            assert_eq!(candidates, ["/DC0/host/C0/Resources", "/DC0/host/H0/Resources"]);
        }
        assert!(matches!(paths(Some("C9")), Err(Error::NotFound { .. })));
    }
    fn store(name: &str) -> Named<DatastoreRef> {
        Named { id: DatastoreRef::new(name), name: name.to_owned() }
    }

    /// Two clusters, C0 with two pools, that share a datastore cluster and have one
    /// datastore each to themselves.
    fn site() -> Site {
        let pools = [
            pool("C0", "/DC0/host/C0/Resources/dev", false),
            pool("C0", "/DC0/host/C0/Resources/prod", false),
            pool("C1", "/DC0/host/C1/Resources", true),
        ];
        let stores = ["fast-1", "local-C0", "local-C1"].map(store).to_vec();
        Site {
            datacenter: Named { id: DatacenterRef::new("dc"), name: "DC0".to_owned() },
            datacenter_path: "/DC0".to_owned(),
            vm_folder: FolderRef::new("vm"),
            root_folder: FolderRef::new("root"),
            root_path: "/DC0/vm/root".to_owned(),
            pool: pools[0].cluster.pool.clone(),
            clusters: pools.into_iter().map(|pool| pool.cluster).collect(),
            datastore: None,
            pods: vec![SitePod {
                name: "fast".to_owned(),
                path: "/DC0/datastore/fast".to_owned(),
                datastores: vec![DatastoreRef::new("fast-1")],
            }],
            any_datastore: true,
            datastores: stores,
        }
    }

    fn part(cluster: Option<&str>, pool: Option<&str>, datastore: Option<&str>) -> Result<Site, String> {
        let [cluster, pool, datastore] = [cluster, pool, datastore].map(|name| name.map(str::to_owned));
        site().part(&SitePart { cluster, pool, datastore }).map_err(|error| error.to_string())
    }

    #[test]
    fn a_part_of_a_site_is_what_was_named_and_nothing_else() {
        let told = |site: &Site| {
            let pools: Vec<String> = site.clusters.iter().map(|cluster| last_name(&cluster.pool_path)).collect();
            let stores: Vec<&str> = site.datastores.iter().map(|store| store.name.as_str()).collect();
            format!("{} / {}", pools.join(" "), stores.join(" "))
        };
        for (named, expected) in [
            ((None, None, None), "dev prod Resources / fast-1 local-C0 local-C1"),
            ((Some("C0"), None, None), "dev prod / fast-1 local-C0"),
            ((Some("/DC0/host/C1"), None, None), "Resources / fast-1 local-C1"),
            ((None, Some("prod"), None), "prod / fast-1 local-C0"),
            ((None, Some("/DC0/host/C1/Resources"), Some("local-C1")), "Resources / local-C1"),
            ((None, None, Some("fast")), "dev prod Resources / fast-1"),
            ((Some("C1"), None, Some("/DC0/datastore/fast")), "Resources / fast-1"),
        ] {
            let (cluster, pool, datastore) = named;
            let found = part(cluster, pool, datastore).unwrap();
            assert_eq!(told(&found), expected, "{named:?}");
            assert_eq!(found.pool, found.clusters[0].pool);
            assert_eq!(found.datastore.is_some(), found.datastores.len() == 1);
            assert_eq!(found.any_datastore, datastore.is_none());
        }
    }

    #[test]
    fn what_is_no_part_of_a_site_lists_what_there_is() {
        for (named, says) in [
            ((Some("C2"), None, None), "there is no cluster named \"C2\"; there are: C0, C1"),
            ((None, Some("test"), None), "there is no pool named \"test\"; there are: /DC0/host/C0/Resources/dev"),
            ((Some("C1"), None, Some("local-C0")), "there are: fast (datastore cluster), fast-1, local-C1"),
            ((None, None, Some("*")), "there is no datastore named \"*\""),
        ] {
            let (cluster, pool, datastore) = named;
            let error = part(cluster, pool, datastore).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_datastore_cluster_stands_for_what_is_in_it() {
        let (stores, pods) = (
            ["a", "b", "c"].map(store),
            [SitePod {
                name: "fast".to_owned(),
                path: "/DC0/datastore/fast".to_owned(),
                datastores: vec![DatastoreRef::new("a"), DatastoreRef::new("b")],
            }],
        );
        let names = |asked| {
            choose_datastores(asked, &stores, &pods)
                .map(|found| found.into_iter().map(|store| store.name).collect::<Vec<_>>().concat())
                .map_err(|error| error.to_string())
        };
        assert_eq!(names(Some("fast")).as_deref(), Ok("ab"));
        assert_eq!(names(Some("/DC0/datastore/fast, c, a")).as_deref(), Ok("abc"));
        assert_eq!(names(Some("*")).as_deref(), Ok("abc"));
        assert!(names(Some("slow")).unwrap_err().contains("fast (datastore cluster)"));
        assert!(!names(None).unwrap_err().contains("cluster"));
    }
}

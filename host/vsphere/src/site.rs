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
    /// A datastore. Several with commas between them, or `*` for all that the
    /// clusters have.
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
}

/// A cluster, or a host that stands alone, and the pool in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteCluster {
    /// The compute resource.
    pub id: ClusterRef,
    /// Its name, unescaped.
    pub name: String,
    /// The pool that machines go into: the root pool, unless one was named.
    pub pool: PoolRef,
    /// The pool's inventory path, `/DC0/host/DC0_C0/Resources`.
    pub pool_path: String,
}

struct Datacenter {
    id: DatacenterRef,
    name: String,
    path: String,
    vm_folder: FolderRef,
    host_folder: ManagedObjectRef,
}

struct Pool {
    cluster: SiteCluster,
    /// `/DC0/host/DC0_C0`; only a root pool answers to its cluster's name.
    cluster_path: Option<String>,
    name: String,
    datastores: Vec<ManagedObjectRef>,
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
        let (pools, stores) = self.pools(datacenter).await?;
        let chosen = choose_pools(selection.pool_or_cluster.as_deref(), &pools)?;
        let stores: Vec<Named<DatastoreRef>> = stores
            .into_iter()
            .filter(|store| chosen.iter().any(|pool| pool.datastores.iter().any(|id| id.id == store.id.as_str())))
            .collect();
        let datastores: Vec<Named<DatastoreRef>> = some(
            "datastore",
            selection.datastore.as_deref(),
            &stores,
            |store, asked| {
                store.name == asked || asked.rsplit_once('/').is_some_and(|(_, last)| unescape_name(last) == store.name)
            },
            |store| store.name.clone(),
        )?
        .into_iter()
        .cloned()
        .collect();
        let (root_folder, root_path) = self.root_folder(datacenter, selection.root_folder.as_deref()).await?;
        let clusters: Vec<SiteCluster> = chosen.iter().map(|pool| pool.cluster.clone()).collect();
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
            datastore: match datastores.as_slice() {
                [only] => Some(only.id.clone()),
                _ => None,
            },
            clusters,
            datastores,
        })
    }

    async fn datacenters(&self) -> Result<Vec<Datacenter>, Error> {
        let session = self.session(Purpose::Read, "RetrievePropertiesEx").await?;
        let query = Query {
            paths: vec![Paths::new(DATACENTER, &["name", "parent", "vmFolder", "hostFolder"]), folder_paths()],
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
                })
            })
            .collect();
        datacenters.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(datacenters)
    }

    /// Every resource pool of a datacenter, by path, and every datastore.
    async fn pools(&self, datacenter: &Datacenter) -> Result<(Vec<Pool>, Vec<Named<DatastoreRef>>), Error> {
        let steps = vec![
            folders(&[Step::Again("pools"), Step::Again("stores")]),
            Step::along("pools", COMPUTE, "resourcePool", &[Step::Again("subpools")]),
            Step::along("subpools", POOL, "resourcePool", &[Step::Again("subpools")]),
            Step::along("stores", COMPUTE, "datastore", &[]),
        ];
        let query = Query {
            paths: vec![
                Paths::new(COMPUTE, &["name", "parent", "resourcePool", "datastore"]),
                Paths::new(POOL, &["name", "parent", "owner"]),
                Paths::new(DATASTORE, &["name"]),
                folder_paths(),
            ],
            starts: vec![Start { skip: false, ..Start::from(datacenter.host_folder.clone(), steps) }],
        };
        let objects = self.retrieve(&query).await?;
        let mut tree = Tree::of(&objects);
        tree.root(datacenter.id.managed_object(), datacenter.path.clone());
        let by_id: HashMap<&ManagedObjectRef, &Object> = objects.iter().map(|object| (&object.id, object)).collect();
        let mut pools: Vec<Pool> = objects
            .iter()
            .filter(|object| object.id.kind == POOL)
            .filter_map(|object| {
                let owner = by_id.get(&object.reference("owner")?)?;
                let is_root = owner.reference("resourcePool").as_ref() == Some(&object.id);
                Some(Pool {
                    cluster: SiteCluster {
                        id: ClusterRef(owner.id.clone()),
                        name: owner.name(),
                        pool: PoolRef::new(&object.id.id),
                        pool_path: tree.path(&object.id),
                    },
                    cluster_path: is_root.then(|| tree.path(&owner.id)),
                    name: object.name(),
                    datastores: owner.references("datastore"),
                })
            })
            .collect();
        pools.sort_by(|a, b| a.cluster.pool_path.cmp(&b.cluster.pool_path));
        let mut stores: Vec<Named<DatastoreRef>> = objects
            .iter()
            .filter(|object| object.id.kind == DATASTORE)
            .map(|object| Named { id: DatastoreRef::new(&object.id.id), name: object.name() })
            .collect();
        stores.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        stores.dedup_by(|a, b| a.id == b.id);
        Ok((pools, stores))
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
    let roots = || pools.iter().filter(|pool| pool.cluster_path.is_some());
    let path = |pool: &&Pool| pool.cluster.pool_path.clone();
    match asked.map(str::trim) {
        None | Some("" | "*") => some(WHAT, asked, &roots().collect::<Vec<_>>(), |_, _| false, path)
            .map(|found| found.into_iter().copied().collect()),
        Some(asked) => some(
            WHAT,
            Some(asked),
            &pools.iter().collect::<Vec<_>>(),
            |pool, asked| {
                let cluster = pool
                    .cluster_path
                    .as_ref()
                    .is_some_and(|cluster_path| pool.cluster.name == asked || cluster_path == asked);
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
                pool: PoolRef::new(path),
                pool_path: path.to_owned(),
            },
            cluster_path: root.then(|| path.rsplit_once('/').unwrap().0.to_owned()),
            name: path.rsplit('/').next().unwrap().to_owned(),
            datastores: Vec::new(),
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
}

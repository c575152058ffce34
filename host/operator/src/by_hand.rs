//! What a person does by hand about machines and folders whose group is gone or
//! in doubt: looks at them, releases them, deletes them, gives them to a group.
//!
//! Nothing in here runs in the operator, and nothing needs its lease: whatever is
//! touched is read afresh immediately before, and is by then nobody's, or about
//! to be somebody's who has been told. Must not know the command line.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use kube::Client;
use kube::api::{Api, ListParams};
use vmgroup_api::VmGroup;
use vmgroup_vsphere::{
    Error as VcError, Folder, FolderRef, Site, SiteSelection, TaskRef, TaskState, Vcenter, Vm, VmRef, unescape_name,
};

use crate::ownership::{Standing, mark, marked_group};
use crate::status::{StatusError, bounded};
use crate::wake::GroupRef;
use crate::{cluster, folder, target};

/// How often a task is looked at that a person waits for.
const LOOK: Duration = Duration::from_millis(500);

/// The longest that a person is made to wait for one task.
const TASK_DEADLINE: Duration = Duration::from_secs(600);

/// Why something could not be done by hand.
#[derive(Debug, thiserror::Error)]
pub enum HandError {
    /// The Kubernetes API.
    #[error("the Kubernetes API cannot be asked")]
    Kube(#[from] StatusError),
    /// vCenter.
    #[error("vCenter refused or could not be reached")]
    Vcenter(#[source] Box<VcError>),
    /// Without it nobody can be told from another cluster's.
    #[error("this cluster's identity (the Namespace kube-system) cannot be read: your user needs `get` on it")]
    Identity(#[source] StatusError),
    /// A name that nothing has.
    #[error(
        "there is no {0:?}: give a name, an inventory path or a reference (vm-123) as `vmgroup orphans` lists them"
    )]
    Unknown(String),
    /// A name that several have.
    #[error("{name:?} is the name of several: give one of {}", paths.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// Whose it is.
        paths: Vec<String>,
    },
    /// A task failed.
    #[error("vCenter could not {what}: {fault}")]
    Task {
        /// What it was to do.
        what: String,
        /// Why not.
        fault: Box<vmgroup_vsphere::Fault>,
    },
    /// A task that nobody heard the end of.
    #[error("vCenter did not tell within {} s whether it could {what}: look at it there, then run this again", TASK_DEADLINE.as_secs())]
    Lost {
        /// What it was to do.
        what: String,
    },
    /// It is no longer as it was when it was looked at.
    #[error("{0} has changed meanwhile and was left alone: run this again")]
    Changed(String),
}

impl From<VcError> for HandError {
    fn from(error: VcError) -> Self {
        Self::Vcenter(Box::new(error))
    }
}

/// A machine and how it stands.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The machine.
    pub vm: Vm,
    /// Its inventory path.
    pub path: String,
    /// How it stands to this cluster's groups.
    pub standing: Standing,
    /// The group that it is marked with.
    pub group: Option<GroupRef>,
    /// It lies in a group's folder, or where one would be.
    pub in_group_folder: bool,
}

/// A folder under the root that no group of this cluster has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LooseFolder {
    /// The folder.
    pub id: FolderRef,
    /// Its name.
    pub name: String,
    /// Its inventory path.
    pub path: String,
    /// How many machines and folders lie directly in it.
    pub holds: usize,
}

/// What there is, freshly read.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Every machine of the datacenter that is no template.
    pub machines: Vec<Machine>,
    /// Folders without a group.
    pub folders: Vec<LooseFolder>,
}

/// Both hands: the cluster and the vCenter.
pub struct Hand {
    /// Kubernetes.
    pub kube: Client,
    /// vCenter.
    pub vcenter: Vcenter,
    /// What of it.
    pub site: Site,
    /// Which cluster this is.
    pub cluster: String,
}

impl Hand {
    /// Finds the site, and out which cluster this is.
    pub async fn new(kube: Client, vcenter: Vcenter, selection: &SiteSelection) -> Result<Self, HandError> {
        let cluster = match cluster::read(&kube).await {
            Ok(Some(cluster)) => cluster,
            Ok(None) => return Err(HandError::Identity(StatusError::Gone)),
            Err(error) => return Err(HandError::Identity(error)),
        };
        let site = vcenter.resolve_site(selection).await?;
        Ok(Self { kube, vcenter, site, cluster })
    }

    /// All groups of the cluster, now.
    pub async fn groups(&self) -> Result<Vec<VmGroup>, HandError> {
        let api: Api<VmGroup> = Api::all(self.kube.clone());
        Ok(bounded(api.list(&ListParams::default())).await?.items)
    }

    /// Reads everything: the groups last, so that who has just been made is not
    /// taken for an orphan.
    pub async fn survey(&self) -> Result<Survey, HandError> {
        let (vms, folders) = self.vcenter.list_below(&self.site.vm_folder).await?;
        let groups = self.groups().await?;
        let uids = uids(&groups);
        let paths = Paths::of(&folders, &self.site);
        let grounds = grounds(&folders, &groups, &self.site);
        let under_root: HashSet<&FolderRef> = folders
            .iter()
            .filter(|folder| folder.parent.as_ref().is_some_and(|parent| grounds.contains(parent)))
            .map(|folder| &folder.id)
            .filter(|folder| !grounds.contains(*folder))
            .collect();
        let loose = loose_folders(&vms, &folders, &groups, &paths, &grounds);
        let mut machines: Vec<Machine> = vms
            .into_iter()
            .filter(|vm| !vm.template)
            .map(|vm| Machine {
                path: format!("{}/{}", paths.path(vm.parent.as_ref()), vm.name),
                standing: Standing::of(&vm, Some(&self.cluster), &uids),
                group: marked_group(&vm),
                in_group_folder: vm.parent.as_ref().is_some_and(|parent| under_root.contains(parent)),
                vm,
            })
            .collect();
        machines.sort_by(|a, b| (a.standing, &a.path).cmp(&(b.standing, &b.path)));
        Ok(Survey { machines, folders: loose })
    }

    /// The machine as it is now, if it still stands as it did.
    pub async fn unchanged(&self, machine: &Machine) -> Result<Vm, HandError> {
        let fresh = self.vcenter.read_vm(&machine.vm.id).await?;
        let groups = uids(&self.groups().await?);
        fresh
            .filter(|vm| Standing::of(vm, Some(&self.cluster), &groups) == machine.standing)
            .filter(|vm| vm.extra.get(mark::GROUP_UID) == machine.vm.extra.get(mark::GROUP_UID))
            .filter(|vm| vm.instance_uuid == machine.vm.instance_uuid)
            .ok_or_else(|| HandError::Changed(machine.path.clone()))
    }

    /// Takes all marks from a machine: nobody's from now on.
    pub async fn release(&self, machine: &Machine) -> Result<(), HandError> {
        let vm = self.unchanged(machine).await?;
        let none: Vec<(String, String)> = mark::ALL.map(|key| (key.to_owned(), String::new())).to_vec();
        let task = self.vcenter.set_extra(&vm.id, &none).await?;
        self.done(&task, &format!("take the marks from {}", machine.path)).await
    }

    /// Powers a machine off and destroys it.
    pub async fn delete(&self, machine: &Machine) -> Result<(), HandError> {
        let vm = self.unchanged(machine).await?;
        if vm.power != vmgroup_vsphere::PowerState::Off {
            let task = self.vcenter.power_off(&vm.id).await?;
            self.done(&task, &format!("power {} off", machine.path)).await?;
        }
        let vm = self.unchanged(machine).await?;
        let task = self.vcenter.destroy_vm(&vm.id).await?;
        self.done(&task, &format!("destroy {}", machine.path)).await
    }

    /// Removes a folder, if it is empty now and still nobody's.
    pub async fn delete_folder(&self, folder: &LooseFolder) -> Result<(), HandError> {
        let held = self.groups().await?.iter().any(|group| {
            group.status.iter().filter_map(|status| status.folder.as_ref()).any(|held| held.name == folder.name)
        });
        match self.vcenter.list_folder(&folder.id).await? {
            Some(children) if children.is_empty() && !held => {}
            None => return Ok(()),
            Some(_) => return Err(HandError::Changed(folder.path.clone())),
        }
        let task = self.vcenter.destroy_folder(&folder.id).await?;
        self.done(&task, &format!("remove the folder {}", folder.path)).await
    }

    /// Moves a machine into a folder, if it is not there yet.
    pub async fn move_into(&self, vm: &Vm, folder: &FolderRef, path: &str) -> Result<(), HandError> {
        if vm.parent.as_ref() == Some(folder) {
            return Ok(());
        }
        let task = self.vcenter.move_into_folder(folder, std::slice::from_ref(&vm.id)).await?;
        self.done(&task, &format!("move {path}")).await
    }

    /// Writes marks.
    pub async fn mark(&self, vm: &VmRef, marks: &[(String, String)], path: &str) -> Result<(), HandError> {
        let task = self.vcenter.set_extra(vm, marks).await?;
        self.done(&task, &format!("mark {path}")).await
    }

    /// Waits for a task's end: there is a person who wants to know.
    async fn done(&self, task: &TaskRef, what: &str) -> Result<(), HandError> {
        let ended = async {
            loop {
                match self.vcenter.read_task(task).await? {
                    Some(info) => match info.state {
                        TaskState::Success { .. } => return Ok(()),
                        TaskState::Error(fault) => {
                            return Err(HandError::Task { what: what.to_owned(), fault: Box::new(fault) });
                        }
                        TaskState::Queued | TaskState::Running => {}
                    },
                    None => return Err(HandError::Lost { what: what.to_owned() }),
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(TASK_DEADLINE, ended)
            .await
            .unwrap_or_else(|_| Err(HandError::Lost { what: what.to_owned() }))
    }
}

impl Survey {
    /// The machine that is meant by a name, an inventory path, or a reference.
    pub fn find(&self, asked: &str) -> Result<&Machine, HandError> {
        let found: Vec<&Machine> = self
            .machines
            .iter()
            .filter(|machine| machine.vm.name == asked || machine.path == asked || machine.vm.id.as_str() == asked)
            .collect();
        match found.as_slice() {
            [] => Err(HandError::Unknown(asked.to_owned())),
            [one] => Ok(one),
            several => Err(HandError::Ambiguous {
                name: asked.to_owned(),
                paths: several.iter().map(|machine| format!("{} ({})", machine.path, machine.vm.id)).collect(),
            }),
        }
    }

    /// The loose folder that is meant by a name or an inventory path.
    pub fn find_folder(&self, asked: &str) -> Option<&LooseFolder> {
        self.folders.iter().find(|folder| folder.name == asked || folder.path == asked || folder.id.as_str() == asked)
    }
}

fn uids(groups: &[VmGroup]) -> HashSet<String> {
    groups.iter().filter_map(|group| group.metadata.uid.clone()).collect()
}

/// Inventory paths of folders.
struct Paths<'a> {
    folders: HashMap<&'a FolderRef, &'a Folder>,
    top: &'a FolderRef,
    top_path: String,
}

impl<'a> Paths<'a> {
    fn of(folders: &'a [Folder], site: &'a Site) -> Self {
        let folders = folders.iter().map(|folder| (&folder.id, folder)).collect();
        Self { folders, top: &site.vm_folder, top_path: format!("{}/vm", site.datacenter_path) }
    }

    fn path(&self, folder: Option<&FolderRef>) -> String {
        match folder {
            Some(folder) if folder == self.top => self.top_path.clone(),
            Some(folder) => match self.folders.get(folder) {
                Some(found) => format!("{}/{}", self.path(found.parent.as_ref()), found.name),
                None => "…".to_owned(),
            },
            // Inside a vApp.
            None => "…".to_owned(),
        }
    }
}

/// Folders that groups' folders lie in: the root, those that targets name, and those on
/// the way there.
fn grounds(folders: &[Folder], groups: &[VmGroup], site: &Site) -> HashSet<FolderRef> {
    let mut grounds = HashSet::from([site.root_folder.clone()]);
    for group in groups {
        let target = target::in_force(group.spec.target.as_ref(), group.status.as_ref());
        let Some(path) = target.and_then(|target| target.folder.as_ref()) else { continue };
        let mut at = &site.root_folder;
        for name in path.split('/') {
            let inside = |folder: &&Folder| folder.parent.as_ref() == Some(at) && folder.name == unescape_name(name);
            let Some(next) = folders.iter().find(inside) else { break };
            grounds.insert(next.id.clone());
            at = &next.id;
        }
    }
    grounds
}

/// The folders in those that no group has.
fn loose_folders(
    vms: &[Vm],
    folders: &[Folder],
    groups: &[VmGroup],
    paths: &Paths<'_>,
    grounds: &HashSet<FolderRef>,
) -> Vec<LooseFolder> {
    let mut held: HashSet<String> = HashSet::new();
    for group in groups {
        let recorded = group.status.as_ref().and_then(|status| status.folder.as_ref());
        held.extend(recorded.into_iter().flat_map(|folder| [Some(folder.name.clone()), folder.id.clone()]).flatten());
        if let (Some(namespace), Some(name), Some(uid)) =
            (&group.metadata.namespace, &group.metadata.name, &group.metadata.uid)
        {
            let group = GroupRef { namespace: namespace.clone(), name: name.clone() };
            held.insert(folder::fallback(&group, uid));
            if recorded.is_none() {
                held.insert(folder::preferred(&group));
            }
        }
    }
    folders
        .iter()
        .filter(|folder| folder.parent.as_ref().is_some_and(|parent| grounds.contains(parent)))
        .filter(|folder| !grounds.contains(&folder.id))
        .filter(|folder| !held.contains(&folder.name) && !held.contains(folder.id.as_str()))
        .map(|folder| LooseFolder {
            id: folder.id.clone(),
            name: folder.name.clone(),
            path: paths.path(Some(&folder.id)),
            holds: vms.iter().filter(|vm| vm.parent.as_ref() == Some(&folder.id)).count()
                + folders.iter().filter(|inner| inner.parent.as_ref() == Some(&folder.id)).count(),
        })
        .collect()
}

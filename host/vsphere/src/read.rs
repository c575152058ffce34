//! Fresh reads of virtual machines and folders: what has to be known for sure
//! before something is done. The [`Inventory`](crate::Inventory) is for the rest.

use std::collections::BTreeMap;

use crate::client::{Purpose, This, Vcenter};
use crate::error::Error;
use crate::inventory::Folder;
use crate::model::{Child, ConnectionState, Extra, Guest, PowerState, Vm, escape_name, unescape_name};
use crate::property::{Object, Paths, Query, Start, Step, references_in};
use crate::refs::{DatastoreRef, FolderRef, HostRef, ManagedObjectRef, PoolRef, SnapshotRef, VmRef};
use crate::soap::reference_of;
use crate::xml::Element;

pub(crate) const VM: &str = "VirtualMachine";
pub(crate) const FOLDER: &str = "Folder";
const VAPP: &str = "VirtualApp";

/// What [`Vm`] is made of, and nothing that changes by itself.
const VM_PATHS: [&str; 14] = [
    "name",
    "parent",
    "config.instanceUuid",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.cpuHotAddEnabled",
    "config.memoryHotAddEnabled",
    "config.template",
    "config.extraConfig",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.host",
    "datastore",
    "resourcePool",
];
const CREATED: &str = "config.createDate";
const TOOLS: &str = "guest.toolsRunningStatus";

/// What a guest says, which changes by itself.
const GUEST_PATHS: [&str; 3] = ["guest.toolsRunningStatus", "guest.ipAddress", "guestHeartbeatStatus"];

/// Its custom attributes.
const ATTRIBUTES: &str = "customValue";

/// What of machines is read and watched only where somebody has asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Further {
    /// What guests say.
    pub(crate) guests: bool,
    /// Custom attributes.
    pub(crate) attributes: bool,
}

impl Further {
    /// Of a machine that has just been read: what is unset is none, not unknown.
    pub(crate) fn complete(self, vm: &mut Vm) {
        if self.attributes {
            vm.attributes.get_or_insert_default();
        }
    }
}

/// The properties of a machine to ask this server for.
pub(crate) fn vm_paths(has_create_date: bool, further: Further) -> Paths {
    let mut paths = Paths::new(VM, &VM_PATHS);
    if further.guests {
        paths.paths.extend(GUEST_PATHS);
    }
    if further.attributes {
        paths.paths.push(ATTRIBUTES);
    }
    if has_create_date {
        paths.paths.push(CREATED);
    }
    paths
}

pub(crate) fn folder_paths() -> Paths {
    Paths::new(FOLDER, &["name", "parent"])
}

impl Vm {
    /// A machine of which nothing is known but that it is there.
    pub fn blank(id: VmRef) -> Self {
        Self {
            id,
            name: String::new(),
            parent: None,
            instance_uuid: String::new(),
            power: PowerState::Unknown,
            host: None,
            datastores: Vec::new(),
            pool: None,
            cpus: 0,
            memory_mib: 0,
            cpu_hot_add: false,
            memory_hot_add: false,
            template: false,
            connection: ConnectionState::Unknown,
            extra: Extra::default(),
            guest: None,
            attributes: None,
            created: None,
        }
    }

    fn guest(&mut self) -> &mut Guest {
        self.guest.get_or_insert_default()
    }

    pub(crate) fn read(object: &Object, extra_prefix: &str) -> Self {
        let mut vm = Self::blank(VmRef::new(&object.id.id));
        for (path, value) in object.properties() {
            vm.set(path, Some(value), extra_prefix);
        }
        vm
    }

    /// Takes one property over; `None` means that it is unset now. False if it
    /// is none of ours.
    pub(crate) fn set(&mut self, path: &str, value: Option<&Element>, extra_prefix: &str) -> bool {
        let text = value.map_or("", |value| value.text.trim());
        let reference = || value.and_then(reference_of);
        match path {
            "name" => {
                self.name = unescape_name(value.map_or("", |value| value.text.as_str()));
            }
            "parent" => {
                self.parent =
                    reference().filter(|parent| parent.kind == FOLDER).map(|parent| FolderRef::new(parent.id));
            }
            "config.instanceUuid" => self.instance_uuid = text.to_ascii_lowercase(),
            "config.hardware.numCPU" => self.cpus = text.parse().unwrap_or(0),
            "config.hardware.memoryMB" => self.memory_mib = text.parse().unwrap_or(0),
            "config.cpuHotAddEnabled" => self.cpu_hot_add = value.is_some_and(Element::is_true),
            "config.memoryHotAddEnabled" => self.memory_hot_add = value.is_some_and(Element::is_true),
            "config.template" => self.template = value.is_some_and(Element::is_true),
            "config.extraConfig" => {
                self.extra = value.map_or_else(Extra::default, |all| extra_of(all, extra_prefix));
            }
            "guest.toolsRunningStatus" => self.guest().tools_running = text == "guestToolsRunning",
            "guest.ipAddress" => self.guest().address = Some(text.to_owned()).filter(|text| !text.is_empty()),
            "guestHeartbeatStatus" => self.guest().heartbeat_green = text == "green",
            ATTRIBUTES => self.attributes = Some(Box::new(value.map_or_else(BTreeMap::new, attributes_of))),
            CREATED => self.created = text.parse().ok(),
            "runtime.powerState" => self.power = PowerState::parse(text),
            "runtime.connectionState" => self.connection = ConnectionState::parse(text),
            "runtime.host" => self.host = reference().map(|host| HostRef::new(host.id)),
            "datastore" => {
                self.datastores = value
                    .map_or_else(Vec::new, references_in)
                    .into_iter()
                    .map(|datastore| DatastoreRef::new(datastore.id))
                    .collect();
                // It was collected into the larger entries' room.
                self.datastores.shrink_to_fit();
            }
            "resourcePool" => self.pool = reference().map(|pool| PoolRef::new(pool.id)),
            _ => return false,
        }
        true
    }
}

fn extra_of(all: &Element, prefix: &str) -> Extra {
    all.children
        .iter()
        .filter(|option| option.text_of("key").starts_with(prefix))
        .map(|option| (option.text_of("key"), option.text_of("value")))
        .collect()
}

/// An `ArrayOfCustomFieldValue`.
fn attributes_of(all: &Element) -> BTreeMap<i32, String> {
    let entries = all.children.iter();
    entries
        .filter_map(|value| Some((value.text_of("key").trim().parse().ok()?, value.text_of("value").to_owned())))
        .collect()
}

impl Vcenter {
    async fn vm_paths(&self) -> Result<Paths, Error> {
        let session = self.session(Purpose::Read, "RetrievePropertiesEx").await?;
        Ok(vm_paths(session.has_create_date(), self.further()))
    }

    pub(crate) async fn read_vms(&self, refs: Vec<ManagedObjectRef>) -> Result<Vec<Vm>, Error> {
        let objects = self.retrieve_each(refs, &self.vm_paths().await?).await?;
        Ok(objects.iter().map(|object| self.vm_of(object)).collect())
    }

    fn vm_of(&self, object: &Object) -> Vm {
        let mut vm = Vm::read(object, &self.inner.options.extra_prefix);
        self.further().complete(&mut vm);
        vm
    }

    /// The machine as vCenter knows it now; `None` if it is gone.
    pub async fn read_vm(&self, vm: &VmRef) -> Result<Option<Vm>, Error> {
        let mut read = self.read_vms(vec![vm.managed_object()]).await?;
        Ok(read.pop())
    }

    /// Those of these machines that are there, as vCenter knows them now, in one call.
    pub async fn read_all(&self, vms: &[VmRef]) -> Result<Vec<Vm>, Error> {
        self.read_vms(vms.iter().map(VmRef::managed_object).collect()).await
    }

    /// The machine as vCenter knows it now, and whether VMware Tools run in its guest,
    /// so that it can be asked for something; `None` if it is gone.
    pub async fn read_vm_and_tools(&self, vm: &VmRef) -> Result<Option<(Vm, bool)>, Error> {
        let mut paths = self.vm_paths().await?;
        paths.paths.push(TOOLS);
        let objects = self.retrieve_each(vec![vm.managed_object()], &paths).await?;
        Ok(objects.first().map(|object| (self.vm_of(object), object.text(TOOLS) == "guestToolsRunning")))
    }

    /// All machines that have this instance UUID now, templates included
    /// (`SearchIndex.FindAllByUuid`). More than one is possible.
    pub async fn find_by_uuid(&self, instance_uuid: &str) -> Result<Vec<Vm>, Error> {
        let found = self
            .call(Purpose::Read, "FindAllByUuid", This::SearchIndex, |w| {
                w.text("uuid", instance_uuid);
                w.value("vmSearch", true);
                w.value("instanceUuid", true);
            })
            .await?;
        let refs =
            found.children_named("returnval").filter_map(reference_of).filter(|found| found.kind == VM).collect();
        let mut vms = self.read_vms(refs).await?;
        // Read a moment later than found.
        vms.retain(|vm| vm.instance_uuid.eq_ignore_ascii_case(instance_uuid));
        Ok(vms)
    }

    /// What has this name in the folder now (`SearchIndex.FindChild`); `None`
    /// if nothing has, or the folder is gone.
    pub async fn find_child(&self, folder: &FolderRef, name: &str) -> Result<Option<Child>, Error> {
        let Some(found) = self.find_child_ref(folder, name).await? else {
            return Ok(None);
        };
        Ok(match found.kind.as_str() {
            VM => self.read_vm(&VmRef::new(&found.id)).await?.map(Child::Vm),
            FOLDER => Some(Child::Folder(FolderRef::new(found.id), name.to_owned())),
            _ => Some(Child::Other(found, name.to_owned())),
        })
    }

    /// The snapshot that a machine's disks stand on now (`snapshot.currentSnapshot`).
    pub async fn current_snapshot(&self, vm: &VmRef) -> Result<Option<SnapshotRef>, Error> {
        let query = Query { paths: vec![Paths::new(VM, &["snapshot"])], starts: vec![Start::at(vm.managed_object())] };
        let objects = self.retrieve(&query).await?;
        let current =
            objects.first().and_then(|vm| vm.get("snapshot")?.child("currentSnapshot").and_then(reference_of));
        Ok(current.map(|snapshot| SnapshotRef::new(snapshot.id)))
    }

    pub(crate) async fn find_child_ref(
        &self,
        folder: &FolderRef,
        name: &str,
    ) -> Result<Option<ManagedObjectRef>, Error> {
        let escaped = escape_name(name);
        let found = self
            .call(Purpose::Read, "FindChild", This::SearchIndex, |w| {
                w.reference("entity", FOLDER, folder.as_str());
                w.text("name", &escaped);
            })
            .await;
        match found {
            Ok(answer) => Ok(answer.child("returnval").and_then(reference_of)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Everything that lies directly in the folder now; `None` if the folder is
    /// gone. What the account may not see is not listed by vCenter either.
    pub async fn list_folder(&self, folder: &FolderRef) -> Result<Option<Vec<Child>>, Error> {
        let query = Query {
            paths: vec![
                self.vm_paths().await?,
                Paths::new(FOLDER, &["name", "childEntity"]),
                Paths::new(VAPP, &["name"]),
            ],
            starts: vec![Start {
                skip: false,
                ..Start::from(folder.managed_object(), vec![Step::along("children", FOLDER, "childEntity", &[])])
            }],
        };
        let objects = match self.retrieve(&query).await {
            Ok(objects) => objects,
            Err(error) if is_gone(&error, &folder.managed_object()) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut listed = Vec::new();
        let mut children = Vec::new();
        for object in &objects {
            if object.id.id == folder.as_str() {
                listed = object.references("childEntity");
                continue;
            }
            children.push(match object.id.kind.as_str() {
                VM => Child::Vm(self.vm_of(object)),
                FOLDER => Child::Folder(FolderRef::new(&object.id.id), object.name()),
                _ => Child::Other(object.id.clone(), object.name()),
            });
        }
        // A child of a type that we did not ask about still fills the folder.
        for child in listed {
            if !objects.iter().any(|object| object.id == child) {
                children.push(Child::Other(child, String::new()));
            }
        }
        Ok(Some(children))
    }

    /// All machines under a folder, however deep and inside vApps too, whose
    /// `extraConfig` has this value under
    /// [`Options::index_key`](crate::Options::index_key) now.
    ///
    /// Reads every machine there: for the rare question that must not be
    /// answered from the cache.
    pub async fn list_marked(&self, under: &FolderRef, value: &str) -> Result<Vec<Vm>, Error> {
        let key = &self.inner.options.index_key;
        let (vms, _) = self.list_below(under).await?;
        Ok(vms.into_iter().filter(|vm| vm.extra.get(key).is_some_and(|mark| mark == value)).collect())
    }

    /// All machines and folders under a folder now, however deep, machines inside
    /// vApps included.
    pub async fn list_below(&self, under: &FolderRef) -> Result<(Vec<Vm>, Vec<Folder>), Error> {
        let again = [Step::Again("folders"), Step::Again("vapps")];
        let steps = vec![Step::along("folders", FOLDER, "childEntity", &again), Step::along("vapps", VAPP, "vm", &[])];
        let query = Query {
            paths: vec![self.vm_paths().await?, folder_paths()],
            starts: vec![Start::from(under.managed_object(), steps)],
        };
        let objects = self.retrieve(&query).await?;
        let vms = objects.iter().filter(|object| object.id.kind == VM).map(|object| self.vm_of(object)).collect();
        let folders = objects
            .iter()
            .filter(|object| object.id.kind == FOLDER)
            .map(|object| Folder {
                id: FolderRef::new(&object.id.id),
                name: object.name(),
                parent: object.reference("parent").map(|parent| FolderRef::new(parent.id)),
            })
            .collect();
        Ok((vms, folders))
    }
}

/// True if the fault says that just this object is not there. One that names no
/// object is taken so as well, as the question was about one.
pub(crate) fn is_gone(error: &Error, object: &ManagedObjectRef) -> bool {
    error.is_missing() && error.missing_object().is_none_or(|gone| gone.id == object.id)
}

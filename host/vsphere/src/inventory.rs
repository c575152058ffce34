//! The inventory cache: what the watch has seen, under the indexes that its
//! readers need. It calls nobody; the watch alone writes it.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Vm, unescape_name};
use crate::refs::{FolderRef, HostRef, VmRef};
use crate::texts::Texts;

/// A folder under the watched root, or the root itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// The reference.
    pub id: FolderRef,
    /// Name, unescaped.
    pub name: String,
    /// The folder it lies in.
    pub parent: Option<FolderRef>,
}

/// How far a host is on its way out of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maintenance {
    /// A task puts it into maintenance mode, and waits for it to be emptied. No machine
    /// can be powered on there.
    Entering,
    /// It is in maintenance mode.
    There,
}

/// Whom DRS moves away from a host that is to be emptied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drs {
    /// All but the exceptions: it is on, and fully automated.
    pub(crate) automatic: bool,
    /// It finds a host for who is powered on.
    pub(crate) places: bool,
    /// Machines with a setting of their own, and whether they are moved.
    pub(crate) exceptions: BTreeMap<VmRef, bool>,
}

impl Drs {
    /// Whether it finds a host by itself for who is powered on where that cannot be.
    pub fn places(&self) -> bool {
        self.places
    }

    /// Whether it moves this machine without anybody's doing.
    pub fn moves(&self, vm: &VmRef) -> bool {
        self.exceptions.get(vm).copied().unwrap_or(self.automatic)
    }
}

/// A host of the site, as far as is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The reference.
    pub id: HostRef,
    /// Name, unescaped.
    pub name: String,
    /// Whether it is on its way into maintenance, or there.
    pub maintenance: Option<Maintenance>,
    /// Who moves its machines away then.
    pub drs: Arc<Drs>,
}

/// A shared view of what lies under the watched root folder. It may be old by
/// as much as [`Inventory::age`]: read fresh before anything destructive.
#[derive(Clone)]
pub struct Inventory {
    tables: Arc<RwLock<Tables>>,
    index_key: Arc<str>,
}

impl std::fmt::Debug for Inventory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inventory").field("len", &self.len()).field("synced", &self.synced()).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Tables {
    // Ordered, so that a run with the same seed is the same run.
    vms: BTreeMap<VmRef, Arc<Vm>>,
    // The references of an entry are in order too. Most entries have one: a set's
    // first node alone would take more room than the rest of the machine's index.
    by_uuid: HashMap<String, Vec<VmRef>>,
    by_value: HashMap<String, Vec<VmRef>>,
    by_folder: HashMap<FolderRef, Vec<VmRef>>,
    folders: BTreeMap<FolderRef, Arc<Folder>>,
    by_name: HashMap<(FolderRef, String), FolderRef>,
    hosts: BTreeMap<HostRef, Arc<Host>>,
    texts: Texts,
    synced: bool,
    good: Option<Instant>,
}

impl Inventory {
    pub(crate) fn new(index_key: &str) -> Self {
        Self { tables: Arc::default(), index_key: Arc::from(index_key) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// True once everything has been seen. It stays true while the connection
    /// is lost: then [`age`](Self::age) grows.
    pub fn synced(&self) -> bool {
        self.read().synced
    }

    /// Time since the watch's last good exchange with vCenter; `None` before
    /// the first. At rest it grows to the length of a long poll.
    pub fn age(&self) -> Option<Duration> {
        self.read().good.map(|good| good.elapsed())
    }

    /// The machine, if it lies under the root.
    pub fn vm(&self, vm: &VmRef) -> Option<Arc<Vm>> {
        self.read().vms.get(vm).cloned()
    }

    /// A machine with this instance UUID. If several have it, the one of the
    /// lowest reference; see [`vms_by_uuid`](Self::vms_by_uuid).
    pub fn vm_by_uuid(&self, instance_uuid: &str) -> Option<Arc<Vm>> {
        self.vms_by_uuid(instance_uuid).into_iter().next()
    }

    /// All machines with this instance UUID, by reference.
    pub fn vms_by_uuid(&self, instance_uuid: &str) -> Vec<Arc<Vm>> {
        let tables = self.read();
        tables.all(tables.by_uuid.get(&instance_uuid.to_ascii_lowercase()))
    }

    /// The machines whose `extraConfig` has this value under
    /// [`Options::index_key`](crate::Options::index_key), by reference.
    pub fn indexed(&self, value: &str) -> Vec<Arc<Vm>> {
        let tables = self.read();
        tables.all(tables.by_value.get(value))
    }

    /// The machines directly in this folder, by reference.
    pub fn in_folder(&self, folder: &FolderRef) -> Vec<Arc<Vm>> {
        let tables = self.read();
        tables.all(tables.by_folder.get(folder))
    }

    /// Every machine, by reference.
    pub fn vms(&self) -> Vec<Arc<Vm>> {
        self.read().vms.values().cloned().collect()
    }

    /// The names taken by machines, each with the machine and its folder, by the
    /// machines' references. Those inside a vApp have no folder and are left out.
    pub fn names(&self) -> Vec<(VmRef, FolderRef, String)> {
        self.read().vms.values().filter_map(|vm| Some((vm.id.clone(), vm.parent.clone()?, vm.name.clone()))).collect()
    }

    /// The folder, if it lies under the root or is the root.
    pub fn folder(&self, folder: &FolderRef) -> Option<Arc<Folder>> {
        self.read().folders.get(folder).cloned()
    }

    /// The folder of this name in that one.
    pub fn folder_by_name(&self, parent: &FolderRef, name: &str) -> Option<Arc<Folder>> {
        let tables = self.read();
        let id = tables.by_name.get(&(parent.clone(), name.to_owned()))?;
        tables.folders.get(id).cloned()
    }

    /// The host, if it is one of the site's.
    pub fn host(&self, host: &HostRef) -> Option<Arc<Host>> {
        self.read().hosts.get(host).cloned()
    }

    /// Whether any of the site's hosts is on its way into maintenance, or there.
    pub fn some_host_leaves(&self) -> bool {
        self.read().hosts.values().any(|host| host.maintenance.is_some())
    }

    /// The machines on this host, by reference. Looks at all of them.
    pub fn on_host(&self, host: &HostRef) -> Vec<Arc<Vm>> {
        self.read().vms.values().filter(|vm| vm.host.as_ref() == Some(host)).cloned().collect()
    }

    /// The folder at this path below that one, its names with `/` between them and
    /// escaped as in inventory paths.
    pub fn folder_at(&self, top: &FolderRef, path: &str) -> Option<FolderRef> {
        path.split('/').try_fold(top.clone(), |folder, name| {
            self.folder_by_name(&folder, &unescape_name(name)).map(|found| found.id.clone())
        })
    }

    /// Number of machines.
    pub fn len(&self) -> usize {
        self.read().vms.len()
    }

    /// True if no machine is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn touch(&self) {
        self.write().good = Some(Instant::now());
    }

    pub(crate) fn set_synced(&self) {
        self.write().synced = true;
    }

    /// Puts a machine in; gives back it and what was there.
    pub(crate) fn put_vm(&self, mut vm: Vm) -> (Arc<Vm>, Option<Arc<Vm>>) {
        let mut tables = self.write();
        vm.share(&mut tables.texts);
        let vm = Arc::new(vm);
        let was = tables.take_vm(&vm.id, &self.index_key);
        tables.index_vm(vm.clone(), &self.index_key);
        (vm, was)
    }

    pub(crate) fn remove_vm(&self, vm: &VmRef) -> Option<Arc<Vm>> {
        self.write().take_vm(vm, &self.index_key)
    }

    pub(crate) fn put_folder(&self, folder: Arc<Folder>) -> Option<Arc<Folder>> {
        let mut tables = self.write();
        let was = tables.take_folder(&folder.id);
        if let Some(parent) = &folder.parent {
            tables.by_name.insert((parent.clone(), folder.name.clone()), folder.id.clone());
        }
        tables.folders.insert(folder.id.clone(), folder);
        was
    }

    pub(crate) fn remove_folder(&self, folder: &FolderRef) -> Option<Arc<Folder>> {
        self.write().take_folder(folder)
    }

    /// Puts the hosts in as they are now; gives those of them back that are leaving, or
    /// were, and differ.
    pub(crate) fn put_hosts(&self, hosts: BTreeMap<HostRef, Arc<Host>>) -> Vec<Arc<Host>> {
        let was = std::mem::replace(&mut self.write().hosts, hosts.clone());
        let leaves = |host: Option<&Arc<Host>>| host.is_some_and(|host| host.maintenance.is_some());
        let news = |host: &Arc<Host>| {
            let before = was.get(&host.id);
            before != Some(host) && (leaves(before) || leaves(Some(host)))
        };
        hosts.into_values().filter(news).collect()
    }

    pub(crate) fn vm_refs(&self) -> Vec<VmRef> {
        self.read().vms.keys().cloned().collect()
    }

    pub(crate) fn folder_refs(&self) -> Vec<FolderRef> {
        self.read().folders.keys().cloned().collect()
    }
}

impl Tables {
    fn all(&self, refs: Option<&Vec<VmRef>>) -> Vec<Arc<Vm>> {
        refs.into_iter().flatten().filter_map(|vm| self.vms.get(vm).cloned()).collect()
    }

    fn index_vm(&mut self, vm: Arc<Vm>, index_key: &str) {
        if !vm.instance_uuid.is_empty() {
            add(&mut self.by_uuid, vm.instance_uuid.clone(), &vm.id);
        }
        if let Some(value) = vm.extra.get(index_key) {
            add(&mut self.by_value, value.to_owned(), &vm.id);
        }
        if let Some(parent) = &vm.parent {
            add(&mut self.by_folder, parent.clone(), &vm.id);
        }
        self.vms.insert(vm.id.clone(), vm);
    }

    fn take_vm(&mut self, id: &VmRef, index_key: &str) -> Option<Arc<Vm>> {
        let vm = self.vms.remove(id)?;
        drop_from(&mut self.by_uuid, &vm.instance_uuid, id);
        if let Some(value) = vm.extra.get(index_key) {
            drop_from(&mut self.by_value, value, id);
        }
        if let Some(parent) = &vm.parent {
            drop_from(&mut self.by_folder, parent, id);
        }
        Some(vm)
    }

    fn take_folder(&mut self, id: &FolderRef) -> Option<Arc<Folder>> {
        let folder = self.folders.remove(id)?;
        if let Some(parent) = &folder.parent {
            let key = (parent.clone(), folder.name.clone());
            // Another folder may have taken the name since.
            if self.by_name.get(&key) == Some(id) {
                self.by_name.remove(&key);
            }
        }
        Some(folder)
    }
}

fn add<K: Hash + Eq>(index: &mut HashMap<K, Vec<VmRef>>, key: K, vm: &VmRef) {
    let refs = index.entry(key).or_insert_with(|| Vec::with_capacity(1));
    if let Err(at) = refs.binary_search(vm) {
        refs.insert(at, vm.clone());
    }
}

fn drop_from<K, Q>(index: &mut HashMap<K, Vec<VmRef>>, key: &Q, vm: &VmRef)
where
    K: Hash + Eq + std::borrow::Borrow<Q>,
    Q: Hash + Eq + ?Sized,
{
    if let Some(refs) = index.get_mut(key) {
        if let Ok(at) = refs.binary_search(vm) {
            refs.remove(at);
        }
        if refs.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(id: &str, folder: &str, uuid: &str, mark: &str) -> Vm {
        let mut vm = Vm::blank(VmRef::new(id));
        vm.name = format!("name-{id}");
        vm.parent = Some(FolderRef::new(folder));
        vm.instance_uuid = uuid.to_owned();
        vm.extra = [("mark", mark)].into_iter().collect();
        vm
    }

    #[test]
    fn a_change_moves_a_machine_through_every_index() {
        let inventory = Inventory::new("mark");
        inventory.put_vm(vm("vm-1", "f-1", "u-1", "a"));
        inventory.put_vm(vm("vm-2", "f-1", "u-1", "a"));
        assert_eq!(inventory.vms_by_uuid("U-1").len(), 2);
        let was = inventory.put_vm(vm("vm-1", "f-2", "u-2", "b")).1.unwrap();
        assert_eq!(was.instance_uuid, "u-1");
        assert_eq!(inventory.vm_by_uuid("u-1").unwrap().id.as_str(), "vm-2");
        assert_eq!(inventory.indexed("a").len(), 1);
        assert_eq!(inventory.indexed("b")[0].id.as_str(), "vm-1");
        assert_eq!(inventory.in_folder(&FolderRef::new("f-1")).len(), 1);
        inventory.remove_vm(&VmRef::new("vm-1"));
        inventory.remove_vm(&VmRef::new("vm-2"));
        assert!(inventory.is_empty() && inventory.names().is_empty());
        let tables = inventory.read();
        assert!(
            tables.by_uuid.is_empty() && tables.by_value.is_empty() && tables.by_folder.is_empty(),
            "an index must not outlive what it points to"
        );
    }

    #[test]
    fn a_folder_that_goes_late_does_not_take_its_successors_name_along() {
        let inventory = Inventory::new("mark");
        let folder = |id: &str| {
            Arc::new(Folder { id: FolderRef::new(id), name: "g".to_owned(), parent: Some(FolderRef::new("root")) })
        };
        inventory.put_folder(folder("f-1"));
        inventory.put_folder(folder("f-2"));
        inventory.remove_folder(&FolderRef::new("f-1"));
        let found = inventory.folder_by_name(&FolderRef::new("root"), "g");
        assert_eq!(found.unwrap().id.as_str(), "f-2");
    }
}

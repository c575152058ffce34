//! The world: the inventory, what hangs together in it, and its clock.
//!
//! Every change goes through here, so that filters hear of it
//! ([`State::touch`], [`State::relink`]). Must not know how a change was asked
//! for, nor what an answer looks like.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore as _;

use super::collector::Collector;
use super::config::VcenterConfig;
use super::entity::{Kind, Moref};
use super::rest::ApiSession;
use super::session::{Session, SessionId};
use super::soap::VimFault;
use super::tagging::Tagging;
use super::tasks::{Event, Task};
use super::value::{Val, text};
use super::views::View;
use super::vm::Vm;

/// What every managed entity has.
#[derive(Debug)]
pub(super) struct Entity {
    pub(super) name: String,
    pub(super) parent: Option<Moref>,
    /// Values of custom attributes, by the attribute's key.
    pub(super) attributes: BTreeMap<i32, String>,
    /// Tasks on this entity that `TaskManager.recentTask` lists.
    pub(super) recent_tasks: BTreeSet<Moref>,
    pub(super) detail: Detail,
}

/// What an entity is.
#[derive(Debug)]
pub(super) enum Detail {
    Folder { holds: Holds, children: BTreeMap<String, Moref> },
    Datacenter { folders: [Moref; 4] },
    Cluster(Cluster),
    Host(Host),
    Pool { owner: Moref, vms: BTreeSet<Moref> },
    Datastore(Datastore),
    Network,
    Vm(Box<Vm>),
}

/// What a folder may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Datacenters,
    Vms,
    Hosts,
    Datastores,
    Networks,
}

#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) hosts: Vec<Moref>,
    pub(super) pool: Moref,
    pub(super) datastores: Vec<Moref>,
    pub(super) networks: Vec<Moref>,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) cluster: Moref,
    pub(super) maintenance: bool,
    /// The task that is putting it into maintenance.
    pub(super) entering: Option<Moref>,
    pub(super) quarantined: bool,
    pub(super) connected: bool,
    pub(super) cores: u16,
    pub(super) mhz: u32,
    pub(super) memory_mib: u64,
    pub(super) uuid: String,
    pub(super) vms: BTreeSet<Moref>,
}

#[derive(Debug)]
pub(super) struct Datastore {
    pub(super) maintenance: bool,
    pub(super) capacity: u64,
    pub(super) used: u64,
    pub(super) url: String,
    pub(super) hosts: Vec<Moref>,
    pub(super) vms: BTreeSet<Moref>,
}

/// When something planned happens; its number tells it from others then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due(Duration, u64);

/// Everything that a vCenter knows.
pub(super) struct State {
    pub(super) config: VcenterConfig,
    /// Time since 1970, as of the last look.
    pub(super) now: Duration,
    pub(super) started: Duration,
    rng: ChaCha8Rng,
    last_number: u32,
    pub(super) root: Moref,
    pub(super) entities: BTreeMap<Moref, Entity>,
    /// Virtual machines by instance UUID, in lower case.
    pub(super) instances: BTreeMap<String, Moref>,
    pub(super) attribute_names: Vec<(String, Option<Kind>)>,
    /// Customization specifications, by name.
    pub(super) customizations: BTreeSet<String>,
    pub(super) tagging: Tagging,
    pub(super) tasks: BTreeMap<Moref, Task>,
    /// Tasks that `TaskManager.recentTask` lists.
    pub(super) recent_tasks: BTreeSet<Moref>,
    /// Those of them that are over, oldest first.
    pub(super) completed_tasks: std::collections::VecDeque<Moref>,
    /// What is due when; of what is due together, in the order of its making.
    agenda: BTreeMap<Due, Event>,
    last_event: u64,
    /// Hosts that are on their way into maintenance.
    pub(super) entering: BTreeSet<Moref>,
    pub(super) sessions: BTreeMap<SessionId, Session>,
    /// Those of the REST API, by what they are known by.
    pub(super) api_sessions: BTreeMap<String, ApiSession>,
    pub(super) logins: u64,
    /// The most sessions that were ever open at the same time, by user agent.
    pub(super) most_sessions: BTreeMap<String, usize>,
    pub(super) views: BTreeMap<Moref, View>,
    pub(super) collectors: BTreeMap<(SessionId, Moref), Collector>,
    /// Rises when connections break: a call that sees it change is cut off.
    pub(super) epoch: u64,
    /// Rises with every change of the inventory.
    pub(super) changes: u64,
    woken: bool,
    pub(super) uuid: String,
}

impl State {
    /// A world with nothing but its root folder.
    pub(super) fn new(config: VcenterConfig, now: Duration) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&config.seed.to_le_bytes());
        let root = Moref::new(Kind::Folder, 1);
        let mut state = Self {
            config,
            now,
            started: now,
            rng: <ChaCha8Rng as rand_core::SeedableRng>::from_seed(seed),
            last_number: 1,
            root,
            entities: BTreeMap::new(),
            instances: BTreeMap::new(),
            attribute_names: Vec::new(),
            customizations: BTreeSet::new(),
            tagging: Tagging::default(),
            tasks: BTreeMap::new(),
            recent_tasks: BTreeSet::new(),
            completed_tasks: std::collections::VecDeque::new(),
            agenda: BTreeMap::new(),
            last_event: 0,
            entering: BTreeSet::new(),
            sessions: BTreeMap::new(),
            api_sessions: BTreeMap::new(),
            logins: 0,
            most_sessions: BTreeMap::new(),
            views: BTreeMap::new(),
            collectors: BTreeMap::new(),
            epoch: 0,
            changes: 0,
            woken: false,
            uuid: String::new(),
        };
        state.uuid = state.new_uuid();
        state.entities.insert(
            root,
            Entity {
                name: "Datacenters".to_owned(),
                parent: None,
                attributes: BTreeMap::new(),
                recent_tasks: BTreeSet::new(),
                detail: Detail::Folder { holds: Holds::Datacenters, children: BTreeMap::new() },
            },
        );
        state
    }

    // ---- identity -------------------------------------------------------

    pub(super) fn new_ref(&mut self, kind: Kind) -> Moref {
        self.last_number += 1;
        Moref::new(kind, self.last_number)
    }

    pub(super) fn new_uuid(&mut self) -> String {
        let mut bytes = [0; 16];
        self.rng.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    pub(super) fn new_mac(&mut self) -> String {
        let bits = self.rng.next_u32().to_le_bytes();
        format!("00:50:56:{:02x}:{:02x}:{:02x}", bits[0] | 0x80, bits[1], bits[2])
    }

    // ---- looking --------------------------------------------------------

    pub(super) fn entity(&self, moref: Moref) -> Option<&Entity> {
        self.entities.get(&moref)
    }

    pub(super) fn name_of(&self, moref: Moref) -> &str {
        self.entity(moref).map_or("", |entity| &entity.name)
    }

    pub(super) fn parent_of(&self, moref: Moref) -> Option<Moref> {
        self.entity(moref)?.parent
    }

    pub(super) fn refs_of(&self, kind: Kind) -> Vec<Moref> {
        self.range(kind).map(|(moref, _)| *moref).collect()
    }

    pub(super) fn range(&self, kind: Kind) -> impl Iterator<Item = (&Moref, &Entity)> {
        self.entities.range(Moref::new(kind, 0)..=Moref::new(kind, u32::MAX))
    }

    pub(super) fn host(&self, moref: Moref) -> Option<&Host> {
        match &self.entity(moref)?.detail {
            Detail::Host(host) => Some(host),
            _ => None,
        }
    }

    pub(super) fn cluster(&self, moref: Moref) -> Option<&Cluster> {
        match &self.entity(moref)?.detail {
            Detail::Cluster(cluster) => Some(cluster),
            _ => None,
        }
    }

    pub(super) fn datastore(&self, moref: Moref) -> Option<&Datastore> {
        match &self.entity(moref)?.detail {
            Detail::Datastore(datastore) => Some(datastore),
            _ => None,
        }
    }

    /// The cluster that a resource pool divides.
    pub(super) fn owner_of(&self, pool: Moref) -> Option<Moref> {
        match &self.entity(pool)?.detail {
            Detail::Pool { owner, .. } => Some(*owner),
            _ => None,
        }
    }

    pub(super) fn holds(&self, folder: Moref) -> Option<Holds> {
        match &self.entity(folder)?.detail {
            Detail::Folder { holds, .. } => Some(*holds),
            _ => None,
        }
    }

    pub(super) fn holds_vms(&self, folder: Moref) -> bool {
        self.holds(folder) == Some(Holds::Vms)
    }

    pub(super) fn children(&self, folder: Moref) -> Option<&BTreeMap<String, Moref>> {
        match &self.entity(folder)?.detail {
            Detail::Folder { children, .. } => Some(children),
            _ => None,
        }
    }

    fn children_mut(&mut self, folder: Moref) -> Option<&mut BTreeMap<String, Moref>> {
        match &mut self.entities.get_mut(&folder)?.detail {
            Detail::Folder { children, .. } => Some(children),
            _ => None,
        }
    }

    // ---- telling --------------------------------------------------------

    /// Lets blocked calls look again.
    pub(super) fn wake(&mut self) {
        self.woken = true;
    }

    pub(super) fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    /// Some property of `object` may have another value now.
    pub(super) fn touch(&mut self, object: Moref) {
        self.changes += 1;
        for collector in self.collectors.values_mut() {
            if collector.touched(object) {
                self.woken = true;
            }
        }
    }

    /// `from`'s property `path` now refers to `to`, or no longer does.
    pub(super) fn relink(&mut self, from: Moref, path: &'static str, to: Moref, linked: bool) {
        self.changes += 1;
        for collector in self.collectors.values_mut() {
            if collector.relinked(from, path, to, linked) {
                self.woken = true;
            }
        }
    }

    /// `object` is no more.
    pub(super) fn forget(&mut self, object: Moref) {
        self.changes += 1;
        for collector in self.collectors.values_mut() {
            if collector.forgot(object) {
                self.woken = true;
            }
        }
    }

    // ---- time -----------------------------------------------------------

    /// Plans `event`.
    pub(super) fn plan(&mut self, at: Duration, event: Event) -> Due {
        self.last_event += 1;
        let due = Due(at, self.last_event);
        self.agenda.insert(due, event);
        // Whoever sleeps until the next event must set his alarm anew.
        self.woken = true;
        due
    }

    /// Drops what was planned.
    pub(super) fn unplan(&mut self, due: Due) {
        self.agenda.remove(&due);
    }

    /// Drops the planned ends of tasks, and names them.
    pub(super) fn unplan_tasks(&mut self, mut dropped: impl FnMut(Duration, Moref)) {
        self.agenda.retain(|due, event| match event {
            Event::Complete(task) => {
                dropped(due.0, *task);
                false
            }
            Event::Progress(..) | Event::Forget(_) => false,
            Event::Finish(_) | Event::Migrate(_) | Event::GuestUp(_) | Event::GuestDown(_) => true,
        });
    }

    /// When something happens next by itself.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let event = self.agenda.keys().next().map(|due| due.0);
        let expiry = self.next_session_expiry();
        match (event, expiry) {
            (Some(event), Some(expiry)) => Some(event.min(expiry)),
            (one, other) => one.or(other),
        }
    }

    /// Catches up with the clock: all that was due by `to` happens, each at its
    /// own time.
    pub(super) fn advance(&mut self, to: Duration) {
        while let Some(due) = self.next_due().filter(|due| *due <= to) {
            self.now = self.now.max(due);
            while let Some(entry) = self.agenda.first_entry() {
                if entry.key().0 > due {
                    break;
                }
                let event = entry.remove();
                self.happen(event);
            }
            self.expire_sessions();
            self.settle_maintenance();
        }
        self.now = self.now.max(to);
    }

    // ---- entities -------------------------------------------------------

    /// Adds an entity; a folder's child must have been checked to be unique.
    pub(super) fn insert(&mut self, moref: Moref, name: &str, parent: Option<Moref>, detail: Detail) {
        self.changes += 1;
        let entity = Entity {
            name: name.to_owned(),
            parent,
            attributes: BTreeMap::new(),
            recent_tasks: BTreeSet::new(),
            detail,
        };
        self.entities.insert(moref, entity);
        if let Some(parent) = parent
            && let Some(children) = self.children_mut(parent)
        {
            children.insert(name.to_owned(), moref);
            self.relink(parent, "childEntity", moref, true);
            self.touch(parent);
        }
        self.enter_views(moref);
    }

    /// Takes an entity out of the inventory. What refers to it by other ways
    /// than its folder must have let it go.
    pub(super) fn delete(&mut self, moref: Moref) {
        let Some(entity) = self.entities.remove(&moref) else { return };
        if let Some(parent) = entity.parent
            && let Some(children) = self.children_mut(parent)
        {
            children.remove(&entity.name);
            self.relink(parent, "childEntity", moref, false);
            self.touch(parent);
        }
        self.leave_views(moref);
        self.forget(moref);
    }

    /// Checks a name as vCenter does, and returns it as vCenter stores it.
    pub(super) fn check_name(&self, folder: Moref, name: &str) -> Result<String, VimFault> {
        let stored = escape_name(name);
        let length = unescaped_length(&stored);
        if length == 0 || length > 80 {
            return Err(VimFault::new("InvalidName", format!("The name '{name}' is not valid."))
                .with("name", text(name.to_owned()))
                .with("entity", Val::Ref(folder)));
        }
        match self.children(folder).and_then(|children| children.get(&stored)) {
            None => Ok(stored),
            Some(taken) => Err(duplicate_name(&stored, *taken)),
        }
    }

    pub(super) fn create_folder(&mut self, parent: Moref, name: &str) -> Result<Moref, VimFault> {
        let holds = self.holds(parent).ok_or_else(not_supported)?;
        let name = self.check_name(parent, name)?;
        let folder = self.new_ref(Kind::Folder);
        self.insert(folder, &name, Some(parent), Detail::Folder { holds, children: BTreeMap::new() });
        Ok(folder)
    }

    pub(super) fn apply_rename(&mut self, moref: Moref, to: &str) -> Result<(), VimFault> {
        let entity = self.entity(moref).ok_or_else(|| VimFault::not_found(moref))?;
        let (from, parent) = (entity.name.clone(), entity.parent);
        let stored = match parent {
            Some(parent) if escape_name(to) != from => self.check_name(parent, to)?,
            _ => escape_name(to),
        };
        if let Some(children) = parent.and_then(|parent| self.children_mut(parent)) {
            children.remove(&from);
            children.insert(stored.clone(), moref);
        }
        if let Some(entity) = self.entities.get_mut(&moref) {
            entity.name = stored;
            if let Detail::Vm(vm) = &mut entity.detail {
                vm.revision += 1;
            }
        }
        self.touch(moref);
        Ok(())
    }

    /// Moves entities into a folder; all of them, or none.
    pub(super) fn apply_move(&mut self, list: &[Moref], folder: Moref) -> Result<(), VimFault> {
        let holds = self.holds(folder).ok_or_else(not_supported)?;
        let mut names = BTreeSet::new();
        for moref in list {
            let entity = self.entity(*moref).ok_or_else(|| VimFault::not_found(*moref))?;
            let fits = match &entity.detail {
                Detail::Folder { holds: own, .. } => *own == holds && !self.within(folder, *moref),
                Detail::Vm(_) => holds == Holds::Vms,
                Detail::Datastore(_) => holds == Holds::Datastores,
                _ => false,
            };
            if !fits {
                return Err(VimFault::invalid_argument("list"));
            }
            if entity.parent == Some(folder) {
                continue;
            }
            let taken = self.children(folder).and_then(|children| children.get(&entity.name));
            if taken.is_some() || !names.insert(entity.name.clone()) {
                return Err(duplicate_name(&entity.name, taken.copied().unwrap_or(*moref)));
            }
        }
        for moref in list {
            let Some(entity) = self.entities.get_mut(moref) else { continue };
            let (name, from) = (entity.name.clone(), entity.parent.replace(folder));
            if from == Some(folder) {
                continue;
            }
            if let Some(from) = from
                && let Some(children) = self.children_mut(from)
            {
                children.remove(&name);
                self.relink(from, "childEntity", *moref, false);
                self.touch(from);
            }
            if let Some(children) = self.children_mut(folder) {
                children.insert(name, *moref);
            }
            self.relink(folder, "childEntity", *moref, true);
            self.touch(folder);
            self.touch(*moref);
        }
        self.refresh_views();
        Ok(())
    }

    /// Whether `moref` is `above` or lies below it.
    pub(super) fn within(&self, moref: Moref, above: Moref) -> bool {
        let mut at = Some(moref);
        while let Some(entity) = at {
            if entity == above {
                return true;
            }
            at = self.parent_of(entity);
        }
        false
    }

    pub(super) fn change_host(&mut self, moref: Moref, change: impl FnOnce(&mut Host)) {
        let Some(Entity { detail: Detail::Host(host), .. }) = self.entities.get_mut(&moref) else {
            return;
        };
        change(host);
        let (cluster, vms) = (host.cluster, host.vms.clone());
        for object in [moref, cluster].into_iter().chain(vms) {
            self.touch(object);
        }
    }

    pub(super) fn change_datastore(&mut self, moref: Moref, change: impl FnOnce(&mut Datastore)) {
        if let Some(Entity { detail: Detail::Datastore(store), .. }) = self.entities.get_mut(&moref) {
            change(store);
            self.touch(moref);
        }
    }

    /// Mounts a datastore on these hosts alone.
    pub(super) fn mount(&mut self, moref: Moref, hosts: Vec<Moref>) {
        self.change_datastore(moref, |store| store.hosts = hosts);
        for host in self.refs_of(Kind::HostSystem) {
            self.touch(host);
        }
    }

    /// Sets a custom attribute, and defines it if it is new.
    pub(super) fn set_attribute(&mut self, moref: Moref, name: &str, value: &str) {
        let key = self.define_attribute(name, Some(moref.kind));
        self.set_field(moref, key, value);
    }

    /// The key of a custom attribute for objects of this type, or of all; it is defined
    /// if it is new.
    pub(super) fn define_attribute(&mut self, name: &str, kind: Option<Kind>) -> i32 {
        let index = self.attribute_names.iter().position(|known| known.0 == name && known.1 == kind);
        let index = index.unwrap_or_else(|| {
            self.attribute_names.push((name.to_owned(), kind));
            self.touch(Moref::singleton(Kind::CustomFieldsManager));
            self.attribute_names.len() - 1
        });
        attribute_key(index)
    }

    /// Sets a custom attribute by its key; an empty value takes it away.
    pub(super) fn set_field(&mut self, moref: Moref, key: i32, value: &str) {
        if let Some(entity) = self.entities.get_mut(&moref) {
            if value.is_empty() {
                entity.attributes.remove(&key);
            } else {
                entity.attributes.insert(key, value.to_owned());
            }
        }
        self.touch(moref);
    }

    /// The type of object that the attribute with this key is for, or all; `None` if
    /// there is no such attribute.
    pub(super) fn attribute(&self, key: i32) -> Option<&(String, Option<Kind>)> {
        (0..).zip(&self.attribute_names).find(|(index, _)| attribute_key(*index) == key).map(|(_, defined)| defined)
    }

    /// Deletes a folder with all that is in it.
    pub(super) fn remove_folder(&mut self, folder: Moref) {
        let children: Vec<Moref> = self.children(folder).map(|c| c.values().copied().collect()).unwrap_or_default();
        for child in children {
            if child.kind == Kind::VirtualMachine {
                self.remove_vm(child);
            } else {
                self.remove_folder(child);
            }
        }
        self.delete(folder);
    }

    /// Forgets what does not outlive vCenter's process.
    pub(super) fn restart(&mut self, finish_running: bool) {
        self.epoch += 1;
        self.sessions.clear();
        self.api_sessions.clear();
        self.collectors.clear();
        self.views.clear();
        self.drop_tasks(finish_running);
        self.started = self.now;
        self.wake();
    }
}

/// The key of the custom attribute with this index. vCenter counts from 100 or so.
pub(super) fn attribute_key(index: usize) -> i32 {
    101 + i32::try_from(index).unwrap_or(0)
}

pub(super) fn duplicate_name(name: &str, object: Moref) -> VimFault {
    VimFault::new("DuplicateName", format!("The name '{name}' already exists."))
        .with("name", text(name.to_owned()))
        .with("object", Val::Ref(object))
}

pub(super) fn not_supported() -> VimFault {
    VimFault::new("NotSupported", "The operation is not supported on the object.")
}

/// A name as vCenter stores it: `/` and `\` escaped, and `%` unless it begins
/// an escape (`Folder.CreateFolder`).
pub(super) fn escape_name(name: &str) -> String {
    let mut stored = String::with_capacity(name.len());
    for (at, char) in name.char_indices() {
        match char {
            '/' => stored.push_str("%2f"),
            '\\' => stored.push_str("%5c"),
            '%' => {
                let next = name.get(at + 1..at + 3).unwrap_or_default();
                if ["25", "2f", "2F", "5c", "5C"].contains(&next) {
                    stored.push('%');
                } else {
                    stored.push_str("%25");
                }
            }
            char => stored.push(char),
        }
    }
    stored
}

fn unescaped_length(stored: &str) -> usize {
    stored.chars().count() - 2 * stored.matches('%').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stored_escaped_once() {
        assert_eq!(escape_name("a/b\\c%d"), "a%2fb%5cc%25d");
        assert_eq!(escape_name("a%2fb%5cc%25d"), "a%2fb%5cc%25d");
        assert_eq!(unescaped_length("a%2fb"), 3);
    }
}

//! Inventory paths, and what lies under an entity by name.

use super::entity::{Kind, Moref};
use super::world::{Detail, State};

impl State {
    /// The inventory path of an entity, with a leading slash; the root folder
    /// is not part of it.
    pub(super) fn path_of(&self, moref: Moref) -> String {
        let mut names = Vec::new();
        let mut at = moref;
        while let Some(parent) = self.parent_of(at) {
            names.push(self.name_of(at));
            at = parent;
        }
        names.reverse();
        format!("/{}", names.join("/"))
    }

    /// The entity at an inventory path, with or without a leading slash.
    pub(super) fn find_path(&self, path: &str) -> Option<Moref> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(self.root, |at, name| self.find_child(at, name))
    }

    /// What has this name directly under `parent`.
    pub(super) fn find_child(&self, parent: Moref, name: &str) -> Option<Moref> {
        match &self.entity(parent)?.detail {
            Detail::Folder { children, .. } => children.get(name).copied(),
            Detail::Datacenter { folders } => folders.iter().copied().find(|folder| self.name_of(*folder) == name),
            Detail::Cluster(cluster) => {
                cluster.hosts.iter().chain([&cluster.pool]).copied().find(|child| self.name_of(*child) == name)
            }
            Detail::Pool { vms, .. } => vms.iter().copied().find(|child| self.name_of(*child) == name),
            _ => None,
        }
    }

    pub(super) fn datacenter_of(&self, moref: Moref) -> Option<Moref> {
        let mut at = Some(moref);
        while let Some(entity) = at {
            if entity.kind == Kind::Datacenter {
                return Some(entity);
            }
            at = self.parent_of(entity);
        }
        None
    }

    /// Whether there is such an object, for this session if it belongs to one.
    pub(super) fn exists(&self, moref: Moref, session: Option<super::session::SessionId>) -> bool {
        match moref.kind {
            Kind::Task => self.tasks.contains_key(&moref),
            Kind::ContainerView | Kind::ListView => {
                self.views.get(&moref).is_some_and(|view| Some(view.session) == session)
            }
            Kind::PropertyCollector => {
                moref.number == 0 || session.is_some_and(|session| self.collectors.contains_key(&(session, moref)))
            }
            Kind::PropertyFilter => session.is_some_and(|session| {
                self.collectors
                    .range((session, Moref::singleton(Kind::PropertyCollector))..)
                    .take_while(|((owner, _), _)| *owner == session)
                    .any(|(_, collector)| collector.has_filter(moref))
            }),
            Kind::ServiceInstance
            | Kind::SessionManager
            | Kind::ViewManager
            | Kind::TaskManager
            | Kind::SearchIndex
            | Kind::CustomFieldsManager
            | Kind::CustomizationSpecManager
            | Kind::OptionManager
            | Kind::AuthorizationManager => moref.number == 0,
            Kind::VirtualMachineSnapshot => self.vm_refs().into_iter().any(|vm| self.vm(vm).snapshot == Some(moref)),
            _ => self.entities.contains_key(&moref),
        }
    }
}

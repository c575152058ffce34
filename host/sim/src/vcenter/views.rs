//! Views: sets of references that a session keeps, and that follow the world.

use std::collections::BTreeSet;

use super::entity::{Kind, Moref};
use super::session::SessionId;
use super::world::{Detail, State};

/// A view of a session.
#[derive(Debug)]
pub(super) struct View {
    pub(super) session: SessionId,
    pub(super) scope: Scope,
    pub(super) members: BTreeSet<Moref>,
}

/// What a view holds.
#[derive(Clone, Debug)]
pub(super) enum Scope {
    /// What lies in a container and has one of the types; none means all.
    Container { container: Moref, types: Vec<String>, recursive: bool },
    /// What the client put there.
    List,
}

impl State {
    pub(super) fn create_view(&mut self, session: SessionId, scope: Scope, list: &[Moref]) -> Moref {
        let (kind, members) = match &scope {
            Scope::List => (Kind::ListView, list.iter().copied().filter(|m| self.exists(*m, Some(session))).collect()),
            Scope::Container { .. } => {
                (Kind::ContainerView, self.entities.keys().copied().filter(|m| self.in_scope(&scope, *m)).collect())
            }
        };
        let moref = self.new_ref(kind);
        self.views.insert(moref, View { session, scope, members });
        moref
    }

    pub(super) fn destroy_view(&mut self, moref: Moref) {
        self.views.remove(&moref);
        self.forget(moref);
    }

    /// Adds references to a list view; returns those that do not exist.
    pub(super) fn list_view_add(&mut self, view: Moref, add: &[Moref]) -> Vec<Moref> {
        let mut unresolved = Vec::new();
        for moref in add {
            let Some(session) = self.views.get(&view).map(|view| view.session) else { break };
            if !self.exists(*moref, Some(session)) {
                unresolved.push(*moref);
                continue;
            }
            if self.views.get_mut(&view).is_some_and(|view| view.members.insert(*moref)) {
                self.relink(view, "view", *moref, true);
            }
        }
        self.touch(view);
        unresolved
    }

    /// Takes references out of a list view; returns those that were not in it.
    pub(super) fn list_view_remove(&mut self, view: Moref, remove: &[Moref]) -> Vec<Moref> {
        let mut unresolved = Vec::new();
        for moref in remove {
            if self.views.get_mut(&view).is_some_and(|view| view.members.remove(moref)) {
                self.relink(view, "view", *moref, false);
            } else {
                unresolved.push(*moref);
            }
        }
        self.touch(view);
        unresolved
    }

    fn in_scope(&self, scope: &Scope, moref: Moref) -> bool {
        let Scope::Container { container, types, recursive } = scope else { return false };
        let typed = types.is_empty() || types.iter().any(|name| moref.kind.is_a(name));
        if !typed || moref == *container {
            return false;
        }
        // A virtual machine is in its folder by parentage, and besides in its
        // pool, cluster and host.
        let vm = self.try_vm(moref);
        let carried = vm.is_some_and(|vm| match container.kind {
            Kind::HostSystem => vm.host == Some(*container),
            Kind::ResourcePool => vm.pool == Some(*container),
            Kind::ClusterComputeResource => {
                vm.pool.is_some_and(|pool| self.owner_of(pool) == Some(*container) && *recursive)
            }
            _ => false,
        });
        carried || if *recursive { self.within(moref, *container) } else { self.parent_of(moref) == Some(*container) }
    }

    /// A new entity shows in the views that cover it.
    pub(super) fn enter_views(&mut self, moref: Moref) {
        self.update_views(|state, view| {
            (state.in_scope(&view.scope, moref) && !view.members.contains(&moref))
                .then_some((moref, true))
                .into_iter()
                .collect()
        });
    }

    /// A deleted entity leaves all views, lists too.
    pub(super) fn leave_views(&mut self, moref: Moref) {
        self.update_views(|_, view| view.members.contains(&moref).then_some((moref, false)).into_iter().collect());
    }

    /// Computes all container views anew, after something has moved.
    pub(super) fn refresh_views(&mut self) {
        self.update_views(|state, view| {
            if matches!(view.scope, Scope::List) {
                return Vec::new();
            }
            let covered: BTreeSet<Moref> =
                state.entities.keys().copied().filter(|m| state.in_scope(&view.scope, *m)).collect();
            let gone = view.members.difference(&covered).map(|m| (*m, false));
            let come = covered.difference(&view.members).map(|m| (*m, true));
            gone.chain(come).collect()
        });
    }

    fn update_views(&mut self, changes: impl Fn(&Self, &View) -> Vec<(Moref, bool)>) {
        if self.views.is_empty() {
            return;
        }
        let all: Vec<(Moref, Vec<(Moref, bool)>)> = self
            .views
            .iter()
            .map(|(moref, view)| (*moref, changes(self, view)))
            .filter(|(_, changes)| !changes.is_empty())
            .collect();
        for (view_ref, changes) in all {
            for (moref, member) in changes {
                if let Some(view) = self.views.get_mut(&view_ref) {
                    if member {
                        view.members.insert(moref);
                    } else {
                        view.members.remove(&moref);
                    }
                }
                self.relink(view_ref, "view", moref, member);
            }
            self.touch(view_ref);
        }
    }

    /// Whether something may be a view's container.
    pub(super) fn can_contain(&self, moref: Moref) -> bool {
        self.entity(moref).is_some_and(|entity| {
            matches!(
                entity.detail,
                Detail::Folder { .. }
                    | Detail::Datacenter { .. }
                    | Detail::Cluster(_)
                    | Detail::Host(_)
                    | Detail::Pool { .. }
            )
        })
    }
}

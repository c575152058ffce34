//! Machines and folders that come when their group has gone: a call was given up
//! long ago, and vCenter carries it out for all that. While the group is there a
//! pass finds such a one; afterwards nobody would.
//!
//! Only what belongs to groups that this process has itself seen off, to the end,
//! is taken away here. Whose group went otherwise (its finalizer was removed by
//! hand, or another process saw it off) is left for `vmgroup orphans`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vmgroup_vsphere::{Error, Folder, FolderRef, Vm, VmRef};

use crate::apply;
use crate::folder::Claims;
use crate::lease::Fence;
use crate::link::{Link, chain};
use crate::ownership::{Owner, mark};
use crate::wake::GroupRef;

/// How many groups are remembered after their end.
const REMEMBERED: usize = 4096;

/// How soon a late machine is looked at again, until it is gone.
const LOOK: Duration = Duration::from_secs(10);

/// So long after its group's end a folder may still come. A folder carries no
/// mark: later, one of that name is somebody else's.
const FOLDER_COMES: Duration = Duration::from_mins(10);

/// The groups that this process has seen off. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Departed(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    owners: HashMap<String, Owner>,
    order: VecDeque<String>,
    late: BTreeMap<VmRef, Owner>,
    /// Folders that were asked for and not there when their group went, by name.
    awaited: HashMap<String, (GroupRef, Instant)>,
    late_folders: BTreeMap<FolderRef, (String, GroupRef)>,
}

impl Departed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A group is gone, and nothing of it was left.
    pub fn remember(&self, owner: Owner) {
        let mut state = self.state();
        let uid = owner.uid.clone();
        if state.owners.insert(uid.clone(), owner).is_none() {
            state.order.push_back(uid);
        }
        if state.order.len() > REMEMBERED
            && let Some(oldest) = state.order.pop_front()
        {
            state.owners.remove(&oldest);
        }
    }

    /// A group is gone; a folder of this name was asked for, and what came of that is
    /// not known.
    pub fn await_folder(&self, name: String, group: GroupRef) {
        let mut state = self.state();
        let now = Instant::now();
        state.awaited.retain(|_, (_, until)| *until > now);
        if state.awaited.len() < REMEMBERED {
            state.awaited.insert(name, (group, now + FOLDER_COMES));
        }
    }

    /// Hears of a folder that is new or different.
    pub fn notice_folder(&self, folder: &Folder) {
        let mut state = self.state();
        let Some((group, until)) = state.awaited.get(&folder.name).cloned() else { return };
        if until > Instant::now() {
            state.late_folders.insert(folder.id.clone(), (folder.name.clone(), group));
            self.0.news.notify_one();
        }
    }

    /// Hears of a machine that is new or different.
    pub fn notice(&self, vm: &Vm) {
        let mut state = self.state();
        let Some(owner) = vm.extra.get(mark::GROUP_UID).and_then(|uid| state.owners.get(uid)).cloned() else { return };
        if owner.owns(vm) && state.late.insert(vm.id.clone(), owner).is_none() {
            self.0.news.notify_one();
        }
    }

    fn late(&self) -> Vec<(VmRef, Owner)> {
        self.state().late.iter().map(|(vm, owner)| (vm.clone(), owner.clone())).collect()
    }

    fn is_gone(&self, vm: &VmRef) {
        self.state().late.remove(vm);
    }

    fn late_folders(&self) -> Vec<(FolderRef, String, GroupRef)> {
        let folders = &self.state().late_folders;
        folders.iter().map(|(id, (name, group))| (id.clone(), name.clone(), group.clone())).collect()
    }

    /// Takes late machines and folders away until told to stop. At rest it does
    /// nothing.
    pub async fn see_off(&self, link: &Link, fence: &Fence, claims: &Claims, stop: &CancellationToken) {
        loop {
            let (late, folders) = (self.late(), self.late_folders());
            if fence.holds() && link.up().is_ok() {
                for (folder, name, group) in &folders {
                    match see_folder_off(link, claims, folder, name).await {
                        Ok(Away::Gone) => {
                            self.state().late_folders.remove(folder);
                        }
                        Ok(Away::Asked) => {
                            tracing::warn!(%folder, name, %group, "a folder came when its group was gone already");
                        }
                        Err(error) => tracing::warn!(%folder, %group, error = %chain(&error), "tried again later"),
                    }
                }
                for (vm, owner) in &late {
                    match apply::take_down(link.vcenter(), owner, vm).await {
                        Ok(None) => self.is_gone(vm),
                        Ok(Some((kind, task))) => {
                            tracing::warn!(
                                %vm, group = %owner.group, %task, action = kind.as_str(),
                                "a machine came when its group was gone already"
                            );
                        }
                        Err(error) => {
                            tracing::warn!(%vm, group = %owner.group, error = %chain(&error), "tried again later");
                        }
                    }
                }
            }
            tokio::select! {
                () = self.0.news.notified() => {}
                () = tokio::time::sleep(LOOK), if !late.is_empty() || !folders.is_empty() => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// What became of a late folder.
enum Away {
    /// It is gone, or none of ours to remove.
    Gone,
    /// vCenter was asked to remove it.
    Asked,
}

/// Has a folder removed that nobody has taken for his own and that a fresh read
/// shows to be empty.
async fn see_folder_off(link: &Link, claims: &Claims, folder: &FolderRef, name: &str) -> Result<Away, Error> {
    if claims.owner(name).is_some() {
        return Ok(Away::Gone);
    }
    match link.vcenter().list_folder(folder).await? {
        Some(children) if children.is_empty() => link.vcenter().destroy_folder(folder).await.map(|_| Away::Asked),
        _ => Ok(Away::Gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::GroupRef;

    fn owner(uid: &str) -> Owner {
        Owner { uid: uid.into(), group: GroupRef { namespace: "shop".into(), name: "web".into() }, cluster: None }
    }

    fn vm(owned_by: &str, made_as: &str) -> Vm {
        let mut vm = Vm::blank(VmRef::new("vm-1"));
        vm.instance_uuid = "u".into();
        vm.extra =
            owner(owned_by).marks(made_as, 0, &crate::revision::Made::default(), None, None).into_iter().collect();
        vm
    }

    #[test]
    fn only_the_own_of_those_who_were_seen_off_are_late() {
        let departed = Departed::default();
        departed.remember(owner("gone"));
        departed.notice(&vm("other", "u"));
        departed.notice(&vm("gone", "of-another-machine"));
        assert!(departed.late().is_empty());
        departed.notice(&vm("gone", "u"));
        assert_eq!(departed.late().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_is_late_only_if_it_was_awaited_and_for_some_minutes() {
        let departed = Departed::default();
        let folder = |name: &str| Folder { id: FolderRef::new(name), name: name.into(), parent: None };
        departed.await_folder("shop-web".into(), owner("gone").group);
        departed.notice_folder(&folder("shop-db"));
        assert!(departed.late_folders().is_empty());
        departed.notice_folder(&folder("shop-web"));
        assert_eq!(departed.late_folders().len(), 1);
        departed.await_folder("shop-dns".into(), owner("gone").group);
        tokio::time::advance(FOLDER_COMES).await;
        departed.notice_folder(&folder("shop-dns"));
        assert_eq!(departed.late_folders().len(), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let departed = Departed::default();
        for number in 0..2 * REMEMBERED {
            departed.remember(owner(&number.to_string()));
        }
        let state = departed.state();
        assert_eq!((state.owners.len(), state.order.len()), (REMEMBERED, REMEMBERED));
    }
}

//! Machines that come when their group has gone: a clone whose call was given up
//! long ago, and which vCenter carries out for all that. While the group is there
//! a pass finds such a one; afterwards nobody would.
//!
//! Only machines of groups that this process has itself seen off, to the end, are
//! taken away here. Whose group went otherwise (its finalizer was removed by hand,
//! or another process saw it off) is left for `vmgroup orphans`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use vmgroup_vsphere::{Vm, VmRef};

use crate::apply;
use crate::lease::Fence;
use crate::link::{Link, chain};
use crate::ownership::{Owner, mark};

/// How many groups are remembered after their end.
const REMEMBERED: usize = 4096;

/// How soon a late machine is looked at again, until it is gone.
const LOOK: Duration = Duration::from_secs(10);

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

    /// Takes late machines away until told to stop. At rest it does nothing.
    pub async fn see_off(&self, link: &Link, fence: &Fence, stop: &CancellationToken) {
        loop {
            let late = self.late();
            if fence.holds() && link.up().is_ok() {
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
                () = tokio::time::sleep(LOOK), if !late.is_empty() => {}
                () = stop.cancelled() => return,
            }
        }
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
        vm.extra = owner(owned_by).marks(made_as, 0).into_iter().collect();
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

//! Where a group's members go: what `spec.target` names, among what the group's
//! connection lets groups use, and nothing else.
//!
//! Once a group has its folder it stays with what its record says. Reads caches
//! alone. Must not choose a place: out of what is left here the policies do.

use std::sync::Arc;

use vmgroup_api::{TargetSpec, VmGroupStatus};
use vmgroup_vsphere::{Category, Error as VcError, FolderRef, Site, SitePart};

use crate::link::{Connected, chain};
use crate::memory::{Patience, Why};
use crate::ownership::mark;

/// The reason of a target that the group may not use, or that there is none.
pub const NOT_ALLOWED: &str = "TargetNotAllowed";

/// The reason of a folder in a target that is not there.
const NO_FOLDER: &str = "TargetFolderNotFound";

/// How soon it is looked again: somebody may be making the folder now.
const PATIENCE: Patience = Patience::seconds(5, 60);

/// What counts of a group's target.
pub fn in_force<'a>(spec: Option<&'a TargetSpec>, status: Option<&'a VmGroupStatus>) -> Option<&'a TargetSpec> {
    match status.filter(|status| status.folder.is_some()) {
        Some(standing) => standing.target.as_ref(),
        None => spec,
    }
}

/// The connection that a target names. A group that is being deleted needs none: if it
/// never had a folder nothing was made, and what it named does not keep it.
pub fn named(target: Option<&TargetSpec>, deleting: bool) -> Option<&str> {
    target.filter(|_| !deleting).and_then(|target| target.connection.as_deref())
}

/// What is to be told of a spec that wants a standing group to be elsewhere. The API
/// server refuses such an edit, unless its CRD is an old one.
pub fn refused(spec: Option<&TargetSpec>, status: Option<&VmGroupStatus>) -> Option<String> {
    let counts = in_force(spec, status);
    (counts != spec).then(|| {
        format!(
            "spec.target was changed from {} to {}, and that is refused: the group has its folder and its machines stay where they are. Change it back, or make another group with the new target and delete this one",
            described(counts),
            described(spec),
        )
    })
}

/// A target in words.
pub fn described(target: Option<&TargetSpec>) -> String {
    let Some(TargetSpec { connection, cluster, pool, datastore, folder }) = target else { return "none".to_owned() };
    let named = [
        ("connection", connection),
        ("cluster", cluster),
        ("pool", pool),
        ("datastore", datastore),
        ("folder", folder),
    ];
    let named: Vec<String> =
        named.into_iter().filter_map(|(what, name)| Some(format!("{what} {}", name.as_ref()?))).collect();
    if named.is_empty() { "an empty one".to_owned() } else { named.join(", ") }
}

/// Where a group's members go.
pub struct Ground {
    /// What of its site they may be put on.
    pub site: Result<Arc<Site>, Why>,
    /// The folder in which the group's own lies, or is to be made.
    pub parent: Result<FolderRef, Why>,
}

impl Ground {
    /// What this target leaves of a connection of this name.
    pub fn of(target: Option<&TargetSpec>, connected: &Connected, connection: &str) -> Self {
        let site = &connected.site;
        let Some(TargetSpec { connection: _, cluster, pool, datastore, folder }) = target else {
            return Self { site: Ok(site.clone()), parent: Ok(site.root_folder.clone()) };
        };
        let part = SitePart { cluster: cluster.clone(), pool: pool.clone(), datastore: datastore.clone() };
        let all = part == SitePart::default();
        Self {
            site: if all { Ok(site.clone()) } else { site.part(&part).map(Arc::new) }
                .map_err(|error| not_allowed(connection, &error)),
            parent: match folder {
                Some(path) => folder_at(connected, path),
                None => Ok(site.root_folder.clone()),
            },
        }
    }

    /// What is in the way of making members, of a group that has a folder or not.
    pub fn lacks(&self, has_folder: bool) -> Option<&Why> {
        self.site.as_ref().err().or_else(|| self.parent.as_ref().err().filter(|_| !has_folder))
    }

    /// The folder that a group without one may have made.
    pub fn parent_for_folder(&self) -> Option<FolderRef> {
        self.parent.as_ref().ok().filter(|_| self.site.is_ok()).cloned()
    }
}

fn not_allowed(connection: &str, error: &VcError) -> Why {
    debug_assert_eq!(error.category(), Category::Configuration);
    let message = format!(
        "spec.target names what the connection {connection} does not let groups use: {}. Correct spec.target (that can be done until the group has its folder), or have the connection's cluster, pool or datastore include it",
        chain(error)
    );
    Why { reason: NOT_ALLOWED.to_owned(), message, stalled: true, patience: PATIENCE }
}

fn folder_at(connected: &Connected, path: &str) -> Result<FolderRef, Why> {
    let root = &connected.site.root_path;
    let lacking = |message| Why { reason: NO_FOLDER.to_owned(), message, stalled: true, patience: PATIENCE };
    let inventory = connected.inventory();
    let Some(found) = inventory.folder_at(&connected.site.root_folder, path) else {
        return Err(lacking(format!(
            "spec.target.folder is {path}, and there is no folder {root}/{path} in vCenter: create it (`govc folder.create '{root}/{path}'`), or correct spec.target.folder"
        )));
    };
    // It would be taken down, or left behind, with that group.
    if inventory.in_folder(&found).iter().any(|vm| vm.extra.get(mark::GROUP_UID).is_some()) {
        return Err(lacking(format!(
            "spec.target.folder is {path}, and {root}/{path} is a group's own folder, with its machines in it: name another one"
        )));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use vmgroup_api::FolderStatus;

    use super::*;

    fn at(cluster: &str) -> TargetSpec {
        TargetSpec { cluster: Some(cluster.to_owned()), ..TargetSpec::default() }
    }

    fn status(folder: bool, target: Option<TargetSpec>) -> VmGroupStatus {
        let folder = folder.then(|| FolderStatus { name: "shop-web".to_owned(), id: None });
        VmGroupStatus { folder, target, ..VmGroupStatus::default() }
    }

    #[test]
    fn a_group_with_a_folder_stays_with_its_record() {
        let (here, there) = (at("C0"), at("C1"));
        let fresh = status(false, None);
        assert_eq!(in_force(Some(&there), Some(&fresh)), Some(&there));
        assert_eq!(refused(Some(&there), Some(&fresh)), None);
        for standing in [status(true, Some(here.clone())), status(true, None)] {
            assert_eq!(in_force(Some(&there), Some(&standing)), standing.target.as_ref());
            let told = refused(Some(&there), Some(&standing)).unwrap();
            assert!(told.contains("to cluster C1"), "{told}");
            assert_eq!(refused(standing.target.as_ref(), Some(&standing)), None);
        }
        let told = refused(None, Some(&status(true, Some(here)))).unwrap();
        assert!(told.contains("from cluster C0 to none"), "{told}");
    }
}

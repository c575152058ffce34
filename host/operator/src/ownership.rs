//! Whose a virtual machine is: the marks in its `extraConfig`, and what they
//! prove. Name and folder prove nothing.
//!
//! Pure. Must not act on what it finds: what is in doubt is left alone by its
//! callers, and reported.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use vmgroup_vsphere::{Vm, VmRef};

use crate::guest::DataMark;
use crate::revision::Made;
use crate::validate::Desired;
use crate::wake::GroupRef;

/// `extraConfig` keys that the operator writes into each member and reads back.
/// They travel inside the clone call, so no member is ever without them.
pub mod mark {
    /// All keys of ours start so.
    pub const PREFIX: &str = "vmgroup.";
    /// `metadata.uid` of the group: the owner.
    pub const GROUP_UID: &str = "vmgroup.group-uid";
    /// `<namespace>/<name>` of the group.
    pub const GROUP: &str = "vmgroup.group";
    /// The group's Kubernetes cluster, as [`Cluster`](super::Cluster) has it.
    /// Machines made by the first version have none.
    pub const CLUSTER: &str = "vmgroup.cluster";
    /// The instance UUID that the member was made with. A copy that somebody
    /// made of a member by hand carries its marks, but another UUID.
    pub const MEMBER: &str = "vmgroup.member";
    /// Seconds since 1970 when the member was made.
    pub const CREATED: &str = "vmgroup.created";
    /// The uid of the group that a machine was released from: it is nobody's now, and
    /// has no [`GROUP_UID`] any more.
    pub const RELEASED: &str = "vmgroup.released";
    /// What the member was made as, or changed to since, as
    /// [`Made`](crate::revision::Made) writes it. Machines made before there were
    /// revisions have none.
    pub const MADE: &str = "vmgroup.made";
    /// The restart that was asked for last when the member was started last.
    pub const RESTARTED: &str = "vmgroup.restarted";
    /// The user data that the member was made with, as
    /// [`DataMark`](crate::guest::DataMark) tells it. Machines made before that was
    /// marked have none.
    pub const USER_DATA: &str = "vmgroup.user-data";
    /// All that the operator writes.
    pub const ALL: [&str; 9] = [GROUP_UID, GROUP, CLUSTER, MEMBER, CREATED, RELEASED, MADE, RESTARTED, USER_DATA];
    /// Facts for the policies, written by whoever runs the site.
    pub const ATTRIBUTE_PREFIX: &str = "vmgroup.attr.";
}

/// Which Kubernetes cluster this is: the uid of its Namespace `kube-system`,
/// which lives as long as the cluster. Unknown until it has been read, and for
/// good where we may not read it. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Cluster(Arc<OnceLock<String>>);

impl Cluster {
    /// The uid, once it is known.
    pub fn id(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    /// Notes the uid. The first one counts.
    pub fn set(&self, uid: String) {
        // A second one can only be the same.
        let _ = self.0.set(uid);
    }
}

/// A group as the marks of its members name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `metadata.uid` of the group.
    pub uid: String,
    /// Its name in Kubernetes.
    pub group: GroupRef,
    /// Its cluster, as far as it is known.
    pub cluster: Option<String>,
}

impl Owner {
    /// A group, in this cluster.
    pub fn of(desired: &Desired, cluster: Option<&str>) -> Self {
        Self { uid: desired.uid.clone(), group: desired.group.clone(), cluster: cluster.map(str::to_owned) }
    }

    /// The members among these machines, but for those that have vanished.
    pub fn members(&self, vms: &[Arc<Vm>], vanished: &HashSet<VmRef>) -> Vec<Vm> {
        vms.iter().filter(|vm| self.owns(vm) && !vanished.contains(&vm.id)).map(|vm| Vm::clone(vm)).collect()
    }

    /// Whether a machine is a member: it carries the group's mark, is the very
    /// machine that the mark was made for, and no mark names another cluster.
    pub fn owns(&self, vm: &Vm) -> bool {
        self.names(vm) && !elsewhere(vm, self.cluster.as_deref())
    }

    /// Whether a machine would be a member, but for the mark of another cluster:
    /// two clusters that both believe to be the one that the group lives in.
    pub fn contests(&self, vm: &Vm) -> bool {
        self.names(vm) && elsewhere(vm, self.cluster.as_deref())
    }

    fn names(&self, vm: &Vm) -> bool {
        vm.extra.get(mark::GROUP_UID).is_some_and(|uid| *uid == self.uid) && is_original(vm)
    }

    /// Whether a member's marks are those of the first version, without cluster.
    pub fn outdated(&self, vm: &Vm) -> bool {
        self.cluster.is_some() && vm.extra.get(mark::CLUSTER).is_none()
    }

    /// What the marks of a member become when it is released. Whose it was can still be
    /// read; an empty value removes the mark.
    pub fn release(&self) -> Vec<(String, String)> {
        let (uid, none) = (self.uid.clone(), String::new());
        [(mark::RELEASED, uid), (mark::GROUP_UID, none.clone()), (mark::MEMBER, none)]
            .map(|(key, value)| (key.to_owned(), value))
            .to_vec()
    }

    /// The marks of a member with this instance UUID: what it is made as, and which
    /// restart it has seen and what user data it is made with, if that is news.
    pub fn marks(
        &self,
        uuid: &str,
        created: u64,
        made: &Made,
        restarted: Option<&str>,
        data: Option<&DataMark>,
    ) -> Vec<(String, String)> {
        let mut marks = vec![
            (mark::GROUP_UID.to_owned(), self.uid.clone()),
            (mark::GROUP.to_owned(), self.group.to_string()),
            (mark::MEMBER.to_owned(), uuid.to_owned()),
            (mark::CREATED.to_owned(), created.to_string()),
            (mark::MADE.to_owned(), made.to_string()),
        ];
        marks.extend(restarted.map(|at| (mark::RESTARTED.to_owned(), at.to_owned())));
        marks.extend(data.map(|data| (mark::USER_DATA.to_owned(), data.expose().to_owned())));
        marks.extend(self.cluster.clone().map(|cluster| (mark::CLUSTER.to_owned(), cluster)));
        marks
    }
}

/// The machine is the one that its mark was made for, and no copy of it.
fn is_original(vm: &Vm) -> bool {
    vm.extra.get(mark::MEMBER).is_some_and(|member| member.eq_ignore_ascii_case(&vm.instance_uuid)) && !vm.template
}

/// The mark names another cluster than ours.
fn elsewhere(vm: &Vm, cluster: Option<&str>) -> bool {
    match (vm.extra.get(mark::CLUSTER), cluster) {
        (Some(theirs), Some(ours)) => theirs != ours,
        _ => false,
    }
}

/// The `<namespace>/<name>` that a machine is marked with.
pub fn marked_group(vm: &Vm) -> Option<GroupRef> {
    vm.extra.get(mark::GROUP).and_then(GroupRef::parse)
}

/// How a machine stands to the groups of this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// A member of a group of ours.
    Member,
    /// Of this cluster, but there is no such group (any more).
    Orphan,
    /// Nobody here knows the group, and no mark says in which cluster it is.
    Doubtful,
    /// A member of a group of ours by its uid, of another cluster by its mark.
    Contested,
    /// Carries the marks of another machine: a copy made by hand.
    Copy,
    /// Another cluster's.
    OtherCluster,
    /// Was a member, and was released when its group was deleted.
    Released,
    /// Without marks.
    Unmarked,
}

impl Standing {
    /// All that carry marks.
    pub const MARKED: [Self; 7] =
        [Self::Member, Self::Orphan, Self::Doubtful, Self::Contested, Self::Copy, Self::OtherCluster, Self::Released];

    /// Judges a machine by its marks, `groups` being the uids of all groups of
    /// this cluster.
    pub fn of(vm: &Vm, cluster: Option<&str>, groups: &HashSet<String>) -> Self {
        let Some(uid) = vm.extra.get(mark::GROUP_UID) else {
            let released = vm.extra.get(mark::RELEASED).is_some();
            return if released { Self::Released } else { Self::Unmarked };
        };
        let (known, elsewhere) = (groups.contains(uid), elsewhere(vm, cluster));
        match (known, elsewhere, is_original(vm)) {
            (false, true, _) => Self::OtherCluster,
            (_, _, false) => Self::Copy,
            (true, true, true) => Self::Contested,
            (true, false, true) => Self::Member,
            (false, false, true) if cluster.is_some() && vm.extra.get(mark::CLUSTER).is_some() => Self::Orphan,
            (false, false, true) => Self::Doubtful,
        }
    }

    /// How many of these machines stand how, of those that carry marks.
    pub fn census(vms: &[Arc<Vm>], cluster: Option<&str>, groups: &HashSet<String>) -> [(Self, usize); 7] {
        let mut counts = Self::MARKED.map(|standing| (standing, 0));
        for vm in vms {
            let standing = Self::of(vm, cluster, groups);
            counts.iter_mut().filter(|(one, _)| *one == standing).for_each(|(_, count)| *count += 1);
        }
        counts
    }

    /// As in metrics and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Orphan => "orphan",
            Self::Doubtful => "doubtful",
            Self::Contested => "contested",
            Self::Copy => "copy",
            Self::OtherCluster => "other-cluster",
            Self::Released => "released",
            Self::Unmarked => "unmarked",
        }
    }
}

#[cfg(test)]
mod tests {
    use vmgroup_vsphere::VmRef;

    use super::*;

    fn owner() -> Owner {
        Owner {
            uid: "uid-1".into(),
            group: GroupRef { namespace: "shop".into(), name: "web".into() },
            cluster: Some("here".into()),
        }
    }

    fn vm(marks: &[(&str, &str)]) -> Vm {
        let mut vm = Vm::blank(VmRef::new("vm-1"));
        vm.instance_uuid = "u".into();
        vm.extra = marks.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        vm
    }

    #[test]
    fn s2_what_the_marks_prove() {
        let groups = HashSet::from(["uid-1".to_owned()]);
        let judge = |marks: &[(&str, &str)]| Standing::of(&vm(marks), Some("here"), &groups);
        let (ours, gone) = ((mark::GROUP_UID, "uid-1"), (mark::GROUP_UID, "uid-0"));
        let (here, there, own) = ((mark::CLUSTER, "here"), (mark::CLUSTER, "there"), (mark::MEMBER, "U"));
        let cases = [
            (vec![], Standing::Unmarked, false),
            (vec![ours, own, here], Standing::Member, true),
            (vec![ours, own], Standing::Member, true),
            (vec![ours, own, there], Standing::Contested, false),
            (vec![ours, here], Standing::Copy, false),
            (vec![ours, here, (mark::MEMBER, "other")], Standing::Copy, false),
            (vec![gone, own, here], Standing::Orphan, false),
            (vec![gone, own], Standing::Doubtful, false),
            (vec![gone, own, there], Standing::OtherCluster, false),
            (vec![gone, there], Standing::OtherCluster, false),
        ];
        for (marks, standing, owned) in cases {
            assert_eq!(judge(&marks), standing, "{marks:?}");
            assert_eq!(owner().owns(&vm(&marks)), owned, "{marks:?}");
        }
    }

    #[test]
    fn a_cluster_that_is_not_known_proves_nothing() {
        let nobody = HashSet::new();
        let marked = vm(&[(mark::GROUP_UID, "uid-0"), (mark::MEMBER, "u"), (mark::CLUSTER, "there")]);
        assert_eq!(Standing::of(&marked, None, &nobody), Standing::Doubtful);
        let unknown = Owner { cluster: None, ..owner() };
        assert!(unknown.owns(&vm(&[(mark::GROUP_UID, "uid-1"), (mark::MEMBER, "u"), (mark::CLUSTER, "there")])));
        assert!(unknown.marks("u", 7, &Made::default(), None, None).iter().all(|(key, _)| key != mark::CLUSTER));
    }

    #[test]
    fn who_is_released_is_nobodys_and_says_so() {
        let mut marks: std::collections::BTreeMap<String, String> =
            owner().marks("u", 7, &Made::default(), None, None).into_iter().collect();
        for (key, value) in owner().release() {
            // As vCenter does it.
            if value.is_empty() {
                marks.remove(&key)
            } else {
                marks.insert(key, value)
            };
        }
        let marks: Vec<(&str, &str)> = marks.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let vm = vm(&marks);
        assert_eq!(Standing::of(&vm, Some("here"), &HashSet::from(["uid-1".to_owned()])), Standing::Released);
        assert!(!owner().owns(&vm) && marked_group(&vm) == Some(owner().group));
    }

    #[test]
    fn what_is_made_is_owned() {
        let marks = owner().marks("u", 7, &Made::default(), None, None);
        let marks: Vec<(&str, &str)> = marks.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert!(owner().owns(&vm(&marks)) && !owner().outdated(&vm(&marks)));
    }
}

//! The folder of a group: what it is called, and that no two groups share one.
//!
//! `<namespace>-<name>` is what users know from the original, but it is not
//! injective: `a-b`/`c` and `a`/`b-c` meet in `a-b-c`. So a name is claimed: the
//! first group gets it, another one gets it with a hash of its own behind it,
//! and each keeps what it has for its life.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::hash;
use crate::wake::GroupRef;

/// The longest entity name that vCenter takes, in characters.
pub const NAME_LIMIT: usize = 80;

/// The name that a group would like for its folder: `<namespace>-<name>`, cut
/// and made unique by a hash where that is too long.
pub fn preferred(group: &GroupRef) -> String {
    let plain = format!("{}-{}", group.namespace, group.name);
    if plain.len() <= NAME_LIMIT { plain } else { hashed(&plain, &group.to_string()) }
}

/// The name that a group gets when its preferred one belongs to somebody else.
pub fn fallback(group: &GroupRef, uid: &str) -> String {
    hashed(&format!("{}-{}", group.namespace, group.name), uid)
}

fn hashed(text: &str, salt: &str) -> String {
    let hash = hash::short(salt.as_bytes());
    // Kubernetes names are ASCII, so a byte is a character.
    let head: String = text.chars().take(NAME_LIMIT - hash.len() - 1).collect();
    format!("{head}-{hash}")
}

/// Who has which folder name, with the uid of the group. Cheap to clone.
#[derive(Clone, Default)]
pub struct Claims(Arc<Mutex<HashMap<String, (String, GroupRef)>>>);

impl Claims {
    fn claims(&self) -> MutexGuard<'_, HashMap<String, (String, GroupRef)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims a name; false if another group has it.
    pub fn claim(&self, name: &str, uid: &str, group: &GroupRef) -> bool {
        let mut claims = self.claims();
        claims.entry(name.to_owned()).or_insert_with(|| (uid.to_owned(), group.clone())).0 == uid
    }

    /// The group that has a name.
    pub fn owner(&self, name: &str) -> Option<GroupRef> {
        self.claims().get(name).map(|(_, group)| group.clone())
    }

    /// Lets go of whatever a group has.
    pub fn release(&self, uid: &str) {
        self.claims().retain(|_, (owner, _)| owner != uid);
    }

    /// Lets go of everything.
    pub fn clear(&self) {
        self.claims().clear();
    }
}

/// Names that were given to members that do not exist yet, by group uid. Cheap
/// to clone. Two groups that are named at the same moment by a policy that wants
/// names to be unique everywhere must not get the same one (S4).
#[derive(Clone, Default)]
pub struct ReservedNames(Arc<Mutex<HashMap<String, BTreeSet<String>>>>);

impl ReservedNames {
    fn names(&self) -> MutexGuard<'_, HashMap<String, BTreeSet<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves names for a group. With `everywhere`, refuses (and gives the
    /// name) if another group has reserved one of them.
    pub fn reserve(&self, uid: &str, names: &[String], everywhere: bool) -> Result<(), String> {
        let mut reserved = self.names();
        if everywhere {
            let of_others =
                |name: &&String| reserved.iter().any(|(owner, theirs)| owner != uid && theirs.contains(*name));
            if let Some(name) = names.iter().find(of_others) {
                return Err(name.clone());
            }
        }
        reserved.entry(uid.to_owned()).or_default().extend(names.iter().cloned());
        Ok(())
    }

    /// The names that other groups have reserved.
    pub fn of_others(&self, uid: &str) -> Vec<String> {
        self.names().iter().filter(|(owner, _)| *owner != uid).flat_map(|(_, names)| names.iter().cloned()).collect()
    }

    /// Keeps only those of a group's names that are still on their way.
    pub fn keep(&self, uid: &str, names: BTreeSet<String>) {
        if names.is_empty() {
            self.names().remove(uid);
        } else {
            self.names().insert(uid.to_owned(), names);
        }
    }

    /// Keeps nobody's.
    pub fn clear(&self) {
        self.names().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(namespace: &str, name: &str) -> GroupRef {
        GroupRef { namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn names_are_as_in_the_original() {
        assert_eq!(preferred(&group("myoperator-vms", "vmgroup-sample")), "myoperator-vms-vmgroup-sample");
    }

    #[test]
    fn two_groups_that_meet_in_one_name_get_a_folder_each() {
        let claims = Claims::default();
        let (one, two) = (group("a-b", "c"), group("a", "b-c"));
        assert_eq!(preferred(&one), preferred(&two));
        assert!(claims.claim(&preferred(&one), "uid-1", &one));
        assert!(!claims.claim(&preferred(&two), "uid-2", &two));
        assert!(claims.claim(&fallback(&two, "uid-2"), "uid-2", &two));
        assert_ne!(preferred(&one), fallback(&two, "uid-2"));
        claims.clear();
        assert!(claims.claim(&preferred(&two), "uid-2", &two));
    }

    #[test]
    fn s4_a_name_that_must_be_unique_everywhere_is_reserved_once() {
        let reserved = ReservedNames::default();
        let names = ["web-1".to_owned()];
        assert_eq!(reserved.reserve("a", &names, true), Ok(()));
        assert_eq!(reserved.reserve("b", &names, true), Err("web-1".to_owned()));
        assert_eq!(reserved.reserve("b", &names, false), Ok(()));
        reserved.keep("a", BTreeSet::new());
        reserved.keep("b", BTreeSet::new());
        assert_eq!(reserved.reserve("c", &names, true), Ok(()));
        reserved.clear();
        assert_eq!(reserved.of_others("a"), [""; 0]);
    }

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let long = "n".repeat(100);
        let (one, two) = (preferred(&group("ns", &format!("{long}a"))), preferred(&group("ns", &format!("{long}b"))));
        assert!(one.len() <= NAME_LIMIT && two.len() <= NAME_LIMIT);
        assert_ne!(one, two);
    }
}

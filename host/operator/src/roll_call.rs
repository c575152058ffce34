//! Which groups are gone, by what the watch tells: one that it names, and one that a new
//! list does not have any more. No pass hears of a group whose finalizer somebody took
//! away, or that never had one.
//!
//! Must not know what is to be forgotten of them.

use std::collections::HashSet;

use kube::Resource;
use kube::runtime::watcher::Event;

/// Who has not been called yet, while a list is read.
#[derive(Default)]
pub struct RollCall {
    /// By uid.
    missing: HashSet<String>,
}

impl RollCall {
    /// The uids of those who are gone, by this event. `known` gives all that anything is
    /// known of; it is asked when a list begins, as who comes later need not be in it.
    pub fn hear<K: Resource>(&mut self, event: &Event<K>, known: impl FnOnce() -> HashSet<String>) -> HashSet<String> {
        match event {
            Event::Init => self.missing = known(),
            Event::InitApply(object) => {
                if let Some(uid) = &object.meta().uid {
                    self.missing.remove(uid);
                }
            }
            Event::InitDone => return std::mem::take(&mut self.missing),
            Event::Delete(object) => return object.meta().uid.iter().cloned().collect(),
            Event::Apply(_) => {}
        }
        HashSet::new()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(uid: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.uid = Some(uid.to_owned());
        object
    }

    fn uids(all: &[&str]) -> HashSet<String> {
        all.iter().map(|uid| (*uid).to_owned()).collect()
    }

    #[test]
    fn who_is_named_is_gone_and_who_is_missing_in_a_whole_list() {
        let mut roll = RollCall::default();
        let mut hear = |event, known: &[&str]| roll.hear(&event, || uids(known));
        assert_eq!(hear(Event::Apply(object("a")), &["a"]), uids(&[]));
        assert_eq!(hear(Event::Delete(object("a")), &["a", "b"]), uids(&["a"]));
        assert_eq!(hear(Event::Init, &["b", "c"]), uids(&[]));
        assert_eq!(hear(Event::InitApply(object("b")), &[]), uids(&[]));
        // It broke off, and is read again.
        assert_eq!(hear(Event::Init, &["b", "c", "d"]), uids(&[]));
        assert_eq!(hear(Event::InitApply(object("c")), &[]), uids(&[]));
        assert_eq!(hear(Event::InitApply(object("e")), &[]), uids(&[]));
        assert_eq!(hear(Event::InitDone, &["b", "c", "d", "e", "f"]), uids(&["b", "d"]));
        assert_eq!(hear(Event::InitDone, &["c"]), uids(&[]));
    }
}

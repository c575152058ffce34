//! Wakes groups: a set of those that have something to look at, drained as a
//! stream by the controller. The same of namespaces, whose groups are all looked at.
//!
//! A set and not a queue: a group that is woken a hundred times before its pass
//! begins is looked at once, and memory is bounded by the number of groups.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures::Stream;
use tokio::sync::Notify;

/// A group by its Kubernetes name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupRef {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl GroupRef {
    /// From `namespace/name`, as the owner mark of a virtual machine has it.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        Some(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl std::fmt::Display for GroupRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The set of groups (or of what else has a name) to look at. Cheap to clone; all
/// clones are the same set.
pub struct Wake<T = GroupRef>(Arc<Shared<T>>);

impl<T> Clone for Wake<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Wake<T> {
    fn default() -> Self {
        Self(Arc::new(Shared { pending: Mutex::default(), notify: Notify::new() }))
    }
}

struct Shared<T> {
    pending: Mutex<BTreeSet<T>>,
    notify: Notify,
}

impl<T: Clone + Ord + Send + 'static> Wake<T> {
    /// Has it looked at soon.
    pub fn wake(&self, group: &T) {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(group.clone());
        self.0.notify.notify_one();
    }

    /// Takes one out of the set.
    fn pop(&self) -> Option<T> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner).pop_first()
    }

    /// They, as they are woken. For one consumer.
    pub fn stream(&self) -> impl Stream<Item = T> + Send + use<T> {
        futures::stream::unfold(self.clone(), |wake| async move {
            loop {
                let notified = wake.0.notify.notified();
                if let Some(group) = wake.pop() {
                    return Some((group, wake.clone()));
                }
                notified.await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_wakes_of_one_group_are_one() {
        let wake = Wake::default();
        let (a, b) = (GroupRef::parse("n/a").unwrap(), GroupRef::parse("n/b").unwrap());
        for _ in 0..100 {
            wake.wake(&a);
        }
        wake.wake(&b);
        let mut stream = std::pin::pin!(wake.stream());
        assert_eq!(stream.next().await, Some(a));
        assert_eq!(stream.next().await, Some(b));
        let none = tokio::time::timeout(std::time::Duration::from_secs(1), stream.next()).await;
        assert!(none.is_err());
    }
}

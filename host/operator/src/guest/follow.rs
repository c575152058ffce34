//! Notices that user data has changed: watches the Secrets and `ConfigMap`s that groups
//! name, each by itself, so that it needs no right to see others; and has the groups
//! looked at that name it.
//!
//! Must not keep user data: of a value only its fingerprint stays, in memory. What a
//! change means for the members that stand is for the planner to say.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::mark::{DataMark, Fingerprint};
use super::{DataRef, GuestError, Holder, USER_DATA_LIMIT, UserData};
use crate::link::chain;
use crate::wake::{GroupRef, Wake};

/// The most objects that are watched: each takes a connection to the API server.
pub(super) const LIMIT: usize = 1000;

/// What is known of the user data of a group.
#[derive(Debug)]
pub enum Known {
    /// It has none.
    Unused,
    /// The API server has not told yet.
    Unread,
    /// What members that are made with it are marked with.
    Is(DataMark),
    /// It cannot be had.
    Lacking(GuestError),
}

/// The user data of all groups, as far as it is to be known. Cheap to clone; all clones
/// are the same.
#[derive(Clone)]
pub struct DataBook(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// What is to be watched has changed.
    wanted: Notify,
    wake: Wake,
}

#[derive(Default)]
struct State {
    /// By the group's uid.
    readers: HashMap<String, Reader>,
    objects: BTreeMap<Object, Watched>,
    /// Numbers the watches.
    begun: u64,
}

/// An object that is watched.
struct Watched {
    /// Which watch it is: one that was ended has nothing to say any more.
    watch: u64,
    content: Content,
}

/// A group, and where its user data is.
struct Reader {
    group: GroupRef,
    from: DataRef,
}

impl Reader {
    fn object(&self) -> Object {
        Object::of(&self.group.namespace, &self.from)
    }
}

/// A Secret or a `ConfigMap`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Object {
    namespace: String,
    secret: bool,
    name: String,
}

impl Object {
    fn of(namespace: &str, from: &DataRef) -> Self {
        Self { namespace: namespace.to_owned(), secret: from.secret, name: from.name.clone() }
    }
}

/// What is known of an object.
#[derive(Clone, PartialEq, Eq)]
enum Content {
    /// The watch has not told yet.
    Unread,
    /// It may not be watched.
    Forbidden,
    /// What it holds; nothing if it is not there.
    Keys(BTreeMap<String, Value>),
}

/// What is under a key.
#[derive(Clone, PartialEq, Eq)]
enum Value {
    Fits(Fingerprint),
    /// So many bytes.
    TooLarge(usize),
}

impl Value {
    fn of(data: &[u8]) -> Self {
        if data.len() > USER_DATA_LIMIT { Self::TooLarge(data.len()) } else { Self::Fits(Fingerprint::of(data)) }
    }
}

impl DataBook {
    /// Nobody's yet. `wake` has groups looked at.
    pub fn new(wake: Wake) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), wanted: Notify::new(), wake }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a group's user data is; it is watched from now on. What is known of it.
    pub fn follow(&self, uid: &str, group: &GroupRef, from: Option<&DataRef>) -> Known {
        let Some(from) = from else {
            self.forget(uid);
            return Known::Unused;
        };
        let mut state = self.state();
        let object = Object::of(&group.namespace, from);
        if !state.readers.get(uid).is_some_and(|reader| reader.from == *from) {
            state.leave(uid);
            self.0.wanted.notify_one();
            if !state.objects.contains_key(&object) {
                if state.objects.len() >= LIMIT {
                    return Known::Lacking(GuestError::Unwatched { from: from.clone() });
                }
                state.begun += 1;
                let watched = Watched { watch: state.begun, content: Content::Unread };
                state.objects.insert(object.clone(), watched);
            }
            state.readers.insert(uid.to_owned(), Reader { group: group.clone(), from: from.clone() });
        }
        state.known(uid, &object, from)
    }

    /// What is known of a group's user data, if it is watched.
    pub fn known(&self, uid: &str) -> Known {
        let state = self.state();
        let Some(reader) = state.readers.get(uid) else { return Known::Unused };
        state.known(uid, &reader.object(), &reader.from)
    }

    /// A fresh read of a group's user data, which may be ahead of the watch: then that has
    /// no news any more when it comes, so the others whom it concerns are looked at now.
    pub fn note(&self, uid: &str, data: &UserData) {
        let mut state = self.state();
        let Some(reader) = state.readers.get(uid) else { return };
        let (object, key) = (reader.object(), reader.from.key.clone());
        let Some(Watched { content: Content::Keys(keys), .. }) = state.objects.get_mut(&object) else { return };
        let now = Value::of(&data.0);
        if keys.insert(key, now.clone()).as_ref() == Some(&now) {
            return;
        }
        let others = state.readers.iter().filter(|(other, reader)| *other != uid && reader.object() == object);
        others.for_each(|(_, reader)| self.0.wake.wake(&reader.group));
    }

    /// Forgets a group, and what only it read.
    pub fn forget(&self, uid: &str) {
        if self.state().leave(uid) {
            self.0.wanted.notify_one();
        }
    }

    /// Forgets all groups: they are somebody else's now.
    pub fn clear(&self) {
        let mut state = self.state();
        state.readers.clear();
        state.objects.clear();
        drop(state);
        self.0.wanted.notify_one();
    }

    /// Takes what an object holds now, and has those looked at whom it concerns.
    fn take(&self, object: &Object, watch: u64, now: Content) {
        let mut state = self.state();
        let Some(watched) = state.objects.get_mut(object).filter(|watched| watched.watch == watch) else { return };
        if watched.content == now {
            return;
        }
        watched.content = now;
        for reader in state.readers.values().filter(|reader| reader.object() == *object) {
            self.0.wake.wake(&reader.group);
        }
    }

    /// Watches what is to be watched, until told to stop.
    pub async fn run(self, kube: Client, stop: CancellationToken) {
        let mut watches: BTreeMap<u64, CancellationToken> = BTreeMap::new();
        let mut at_work = JoinSet::new();
        while !stop.is_cancelled() {
            let wanted = self.wanted();
            watches.retain(|watch, until| {
                let keep = wanted.contains_key(watch);
                if !keep {
                    until.cancel();
                }
                keep
            });
            for (watch, object) in wanted {
                watches.entry(watch).or_insert_with(|| {
                    let (book, kube, until) = (self.clone(), kube.clone(), stop.child_token());
                    let ending = until.clone();
                    at_work.spawn(async move {
                        if object.secret {
                            book.watch::<Secret>(kube, object, watch, ending).await;
                        } else {
                            book.watch::<ConfigMap>(kube, object, watch, ending).await;
                        }
                    });
                    until
                });
            }
            tokio::select! {
                () = self.0.wanted.notified() => {}
                () = stop.cancelled() => {}
                // One that was ended.
                Some(_) = at_work.join_next() => {}
            }
        }
        while at_work.join_next().await.is_some() {}
    }

    fn wanted(&self) -> BTreeMap<u64, Object> {
        self.state().objects.iter().map(|(object, watched)| (watched.watch, object.clone())).collect()
    }

    /// Watches one object, until told to stop.
    async fn watch<K>(self, kube: Client, object: Object, watch: u64, stop: CancellationToken)
    where
        K: Holder + Send + 'static,
    {
        let api: Api<K> = Api::namespaced(kube, &object.namespace);
        let mut seen = pin!(watcher::watch_object(api, &object.name).default_backoff());
        while let Some(Some(event)) = stop.run_until_cancelled(seen.next()).await {
            let content = match event {
                Ok(found) => {
                    let held = found.map(Holder::held).unwrap_or_default();
                    Content::Keys(held.into_iter().map(|(key, data)| (key, Value::of(&data))).collect())
                }
                Err(error) if is_forbidden(&error) => Content::Forbidden,
                Err(error) => {
                    let Object { namespace, name, .. } = &object;
                    tracing::warn!(namespace, name, error = %chain(&error), "user data cannot be watched; what is known of it goes on counting");
                    continue;
                }
            };
            self.take(&object, watch, content);
        }
    }
}

impl State {
    /// True if something is not to be watched any more.
    fn leave(&mut self, uid: &str) -> bool {
        let Some(object) = self.readers.remove(uid).map(|reader| reader.object()) else { return false };
        let alone = !self.readers.values().any(|reader| reader.object() == object);
        alone && self.objects.remove(&object).is_some()
    }

    fn known(&self, uid: &str, object: &Object, from: &DataRef) -> Known {
        let (namespace, from) = (object.namespace.clone(), from.clone());
        match self.objects.get(object).map(|watched| &watched.content) {
            None | Some(Content::Unread) => Known::Unread,
            Some(Content::Forbidden) => Known::Lacking(GuestError::Forbidden { from, namespace }),
            Some(Content::Keys(keys)) => match keys.get(&from.key) {
                None => Known::Lacking(GuestError::NotFound { from, namespace }),
                Some(Value::TooLarge(size)) => Known::Lacking(GuestError::TooLarge { from, size: *size }),
                Some(Value::Fits(fingerprint)) => Known::Is(fingerprint.mark(uid)),
            },
        }
    }
}

/// Whether the API server does not let us.
fn is_forbidden(error: &watcher::Error) -> bool {
    let code = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => status.code,
            _ => return false,
        },
        watcher::Error::WatchError(status) => status.code,
        watcher::Error::NoResourceVersion => return false,
    };
    code == 403
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn from(name: &str) -> DataRef {
        DataRef { secret: true, name: name.to_owned(), key: "user-data".to_owned() }
    }

    fn group(name: &str) -> GroupRef {
        GroupRef { namespace: "shop".to_owned(), name: name.to_owned() }
    }

    fn holds(data: &str) -> Content {
        Content::Keys(BTreeMap::from([("user-data".to_owned(), Value::of(data.as_bytes()))]))
    }

    fn woken(wake: &Wake) -> Vec<GroupRef> {
        let mut stream = pin!(wake.stream());
        let mut all = Vec::new();
        while let Some(Some(group)) = stream.next().now_or_never() {
            all.push(group);
        }
        all
    }

    #[test]
    fn those_who_read_a_changed_object_are_woken_and_nobody_else() {
        let wake = Wake::default();
        let book = DataBook::new(wake.clone());
        let (a, b, c) = (group("a"), group("b"), group("c"));
        for (uid, group, name) in [("u-a", &a, "one"), ("u-b", &b, "one"), ("u-c", &c, "other")] {
            assert!(matches!(book.follow(uid, group, Some(&from(name))), Known::Unread));
        }
        let one = Object::of("shop", &from("one"));
        book.take(&one, 1, holds("x"));
        assert_eq!(woken(&wake), [a.clone(), b.clone()]);
        book.take(&one, 1, holds("x"));
        assert_eq!(woken(&wake), [], "it is no news");
        book.take(&one, 7, holds("z"));
        assert_eq!(woken(&wake), [], "it is another watch's");
        let Known::Is(mark) = book.follow("u-a", &a, Some(&from("one"))) else { panic!("it is known") };
        assert_eq!(mark, UserData::new(b"x".to_vec()).mark("u-a"));
        // A fresh read that is ahead of the watch, which has no news then.
        for heard in [vec![b.clone()], Vec::new()] {
            book.note("u-a", &UserData::new(b"y".to_vec()));
            assert_eq!(woken(&wake), heard);
        }
        book.take(&one, 1, holds("y"));
        assert_eq!(woken(&wake), []);
        assert!(matches!(book.known("u-b"), Known::Is(mark) if mark == UserData::new(b"y".to_vec()).mark("u-b")));
        book.take(&one, 1, Content::Keys(BTreeMap::new()));
        assert!(matches!(book.known("u-b"), Known::Lacking(GuestError::NotFound { .. })));
    }

    #[test]
    fn what_nobody_reads_any_more_is_not_watched_and_there_is_a_limit() {
        let book = DataBook::new(Wake::default());
        let (a, b) = (group("a"), group("b"));
        for (uid, group) in [("u-a", &a), ("u-b", &b)] {
            book.follow(uid, group, Some(&from("one")));
        }
        book.forget("u-a");
        let watches = |book: &DataBook| book.wanted().into_keys().collect::<Vec<_>>();
        assert_eq!(watches(&book), [1]);
        let other_key = DataRef { key: "other".to_owned(), ..from("one") };
        book.follow("u-b", &b, Some(&other_key));
        assert_eq!(watches(&book), [2], "it is told anew what the object holds");
        book.follow("u-b", &b, Some(&from("other")));
        let names = |book: &DataBook| book.state().objects.keys().map(|it| it.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&book), ["other"]);
        for index in 1..LIMIT {
            book.follow(&format!("u-{index}"), &a, Some(&from(&format!("s-{index}"))));
        }
        let refused = book.follow("u-z", &a, Some(&from("too-many")));
        assert!(matches!(refused, Known::Lacking(GuestError::Unwatched { .. })));
        assert!(matches!(book.follow("u-b", &b, None), Known::Unused));
        assert!(matches!(book.follow("u-z", &a, Some(&from("too-many"))), Known::Unread));
    }
}

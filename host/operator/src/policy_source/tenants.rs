//! The namespaces that bring policies of their own: who may is the administrator's to
//! say (`tenants` in his policy file), and each has a book of its own, so that what is
//! wrong with one harms nobody else.
//!
//! One watch over all namespaces, for `ConfigMap`s of one name, and only while somebody
//! may; checks are made one at a time, turn by turn, and of each namespace only the
//! latest content waits. Before a namespace's first check it is recalled what was in
//! force there. Must not know what the policies say.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{AbortHandle, AbortRegistration, Abortable, BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vmgroup_api::policy_file::Tenants as Settings;

use super::desk::{ConfigMapEvents, Desk};
use super::{Keeper, Own, PolicyBook, PolicyFiles, Whose};
use crate::events::{EventType, Events};
use crate::lease::Fence;
use crate::link::chain;
use crate::wake::Wake;

/// `ConfigMap`s in one answer of the API server: each may have a mebibyte, and most may
/// be of namespaces that are none of these.
const PAGE: u32 = 4;

/// How long what was in force in a namespace may take to be recalled: the checks of
/// all others wait for it.
const RECALL_WITHIN: Duration = Duration::from_secs(10);

/// What serves a group because of the namespace that it is in.
pub(super) enum Standing {
    /// Nothing of its own.
    Nobody,
    /// That is not known, for this reason: whoever is asked instead could do harm.
    Unknown(String),
    /// What it has brought.
    Own(Own),
}

/// The books of the namespaces. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub(super) struct Tenants(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changes: Changes,
    /// Whether it is known who has what, or that it cannot be found out.
    read: watch::Sender<bool>,
}

/// Who is to hear of a change in a namespace.
#[derive(Clone, Default)]
pub(super) struct Changes {
    /// Who looks at its groups.
    groups: Wake<String>,
    /// Who tells of it on the ConfigMap.
    desks: Wake<String>,
}

impl Changes {
    pub(super) fn tell(&self, namespace: &String) {
        self.groups.wake(namespace);
        self.desks.wake(namespace);
    }
}

#[derive(Default)]
struct State {
    settings: Option<Arc<Settings>>,
    /// The operator's own namespace: the ConfigMap there is the administrator's.
    operators: String,
    /// Changes with the settings, and when all `ConfigMap`s have been read.
    era: u64,
    /// Why it is not known who has what; none: it is.
    unread: Option<String>,
    books: BTreeMap<String, PolicyBook>,
    /// Who came when there were as many as may be.
    turned_away: BTreeSet<String>,
}

impl State {
    fn standing(&self, settings: &Settings, namespace: &str) -> Standing {
        if self.settings.as_deref() != Some(settings) {
            return Standing::Unknown(not_read_yet(settings));
        }
        if let Some(why) = &self.unread {
            return Standing::Unknown(why.clone());
        }
        if let Some(book) = self.books.get(namespace) {
            let config_map = format!("{namespace}/{}", settings.config_map);
            return Standing::Own(Own { book: book.clone(), serving: book.in_force(), config_map });
        }
        if self.turned_away.contains(namespace) {
            return Standing::Unknown(too_many(settings));
        }
        Standing::Nobody
    }
}

fn not_read_yet(settings: &Settings) -> String {
    format!(
        "the namespace may have a policy ConfigMap {} of its own, and that has not been read yet",
        settings.config_map
    )
}

fn too_many(settings: &Settings) -> String {
    format!(
        "{} namespaces have a ConfigMap {} already, and no more may: the administrator can raise `tenants.limit`, or somebody delete his",
        settings.limit, settings.config_map
    )
}

impl Tenants {
    /// What serves in a namespace, by these settings; and what changes whenever that
    /// does.
    pub(super) fn standing(&self, settings: Option<&Settings>, namespace: &str) -> (Standing, (u64, u64)) {
        let Some(settings) = settings.filter(|settings| settings.allow(namespace)) else {
            return (Standing::Nobody, (0, 0));
        };
        let state = self.state();
        if state.operators == namespace {
            return (Standing::Nobody, (0, 0));
        }
        let standing = state.standing(settings, namespace);
        let generation = match &standing {
            Standing::Own(own) => own.serving.generation + 1,
            Standing::Nobody | Standing::Unknown(_) => 0,
        };
        (standing, (state.era, generation))
    }

    /// Namespaces whose groups are to be looked at.
    pub(super) fn changed(&self) -> Wake<String> {
        self.0.changes.groups.clone()
    }

    /// Whether all has been read that can be.
    pub(super) fn read(&self) -> watch::Receiver<bool> {
        self.0.read.subscribe()
    }

    /// Other settings count. Who still may keeps his book.
    fn begin(&self, settings: Option<Arc<Settings>>, operators: &str) {
        let mut state = self.state();
        let same_name =
            state.settings.as_ref().map(|old| &old.config_map) == settings.as_ref().map(|new| &new.config_map);
        let allowed = |namespace: &String| settings.as_ref().is_some_and(|settings| settings.allow(namespace));
        state.books.retain(|namespace, _| same_name && allowed(namespace));
        state.turned_away.clear();
        state.era += 1;
        state.unread = settings.as_deref().map(not_read_yet);
        operators.clone_into(&mut state.operators);
        self.0.read.send_replace(settings.is_none());
        state.settings = settings;
    }

    /// All has been read.
    fn is_read(&self, book: &PolicyBook) {
        let mut state = self.state();
        let first = state.unread.take().is_some();
        state.era += u64::from(first);
        drop(state);
        self.0.read.send_replace(true);
        if first {
            book.tell_of_change();
        }
    }

    /// It cannot be read, for now.
    fn is_unreadable(&self, why: &str) {
        let mut state = self.state();
        if state.unread.is_some() {
            state.unread = Some(format!(
                "policy ConfigMaps of namespaces cannot be read: {why}; see `tenants` in docs/operations.md"
            ));
        }
        drop(state);
        self.0.read.send_replace(true);
    }

    /// The book of a namespace, made if it is not there and there is room.
    fn admit(&self, book: &PolicyBook, settings: &Settings, namespace: &str) -> Option<PolicyBook> {
        let mut state = self.state();
        if let Some(book) = state.books.get(namespace) {
            return Some(book.clone());
        }
        if state.books.len() >= usize::from(settings.limit) {
            state.turned_away.insert(namespace.to_owned());
            return None;
        }
        state.turned_away.remove(namespace);
        let own = book.of_namespace(namespace.to_owned(), self.0.changes.clone());
        state.books.insert(namespace.to_owned(), own.clone());
        Some(own)
    }

    /// A namespace has none any more. True if somebody else waits for the room.
    fn dismiss(&self, namespace: &str) -> bool {
        let mut state = self.state();
        state.turned_away.remove(namespace);
        state.books.remove(namespace);
        !state.turned_away.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the `ConfigMap`s of namespaces serve there, as far as the policies in force let
/// them, and keeps there what is in force, until `stop`. `namespace` is the operator's
/// own. Needs `list` and `watch` on `ConfigMap`s of that name in all namespaces, as soon
/// as anybody may, and what a [`Keeper`] needs there.
pub async fn follow_tenants(
    client: kube::Client,
    namespace: String,
    book: PolicyBook,
    events: Events,
    fence: Fence,
    stop: CancellationToken,
) {
    let Whose::Administrator(tenants) = &book.0.whose else { return };
    let (mut settled, mut changes) = (book.settled(), book.changes());
    tokio::select! {
        () = stop.cancelled() => return,
        _ = settled.wait_for(|settled| *settled) => {}
    }
    loop {
        let settings = book.in_force().tenants.clone();
        tenants.begin(settings.clone(), &namespace);
        let others_count = async {
            while book.in_force().tenants == settings {
                if changes.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        let watching = async {
            let Some(settings) = &settings else { return std::future::pending().await };
            let make = MakeKeeper { client: client.clone(), fence: fence.clone(), stop: stop.clone() };
            Watch::new(settings, &namespace, &book, tenants, &events, make).run().await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = others_count => {}
            () = watching => {}
        }
    }
}

/// A check under way.
type Check = BoxFuture<'static, Checked>;

/// A check that is over.
struct Checked {
    namespace: String,
    desk: Desk,
    /// Its ConfigMap is gone.
    gone: bool,
    /// Who is to keep what is in force from now on, if that is somebody new.
    keeper: Option<(Keeper, AbortRegistration)>,
}

/// What keeping takes.
struct MakeKeeper {
    client: kube::Client,
    fence: Fence,
    stop: CancellationToken,
}

impl MakeKeeper {
    fn keeper(&self, namespace: &str, config_map: &str, uid: String, book: PolicyBook) -> Keeper {
        let keeper = Keeper::new(self.client.clone(), namespace, config_map, book, self.fence.clone());
        keeper.that_goes_with(config_map, uid)
    }
}

/// Who keeps what is in force in a namespace, and for the ConfigMap of which uid.
struct Kept {
    uid: String,
    keeping: AbortHandle,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

/// The watch over the `ConfigMap`s, as long as the same settings count.
struct Watch<'a> {
    settings: &'a Settings,
    operators: &'a str,
    book: &'a PolicyBook,
    tenants: &'a Tenants,
    events: &'a Events,
    make: MakeKeeper,
    /// Those that are not busy with a check.
    desks: BTreeMap<String, Desk>,
    kept: BTreeMap<String, Kept>,
    /// What is to be checked; none: it is gone.
    pending: BTreeMap<String, Option<ConfigMap>>,
    /// Whose turn it was last.
    last: String,
    /// Who is in the list that is being read.
    listed: BTreeSet<String>,
    /// A whole list has been read.
    whole: bool,
}

impl<'a> Watch<'a> {
    fn new(
        settings: &'a Settings,
        operators: &'a str,
        book: &'a PolicyBook,
        tenants: &'a Tenants,
        events: &'a Events,
        make: MakeKeeper,
    ) -> Self {
        Self {
            settings,
            operators,
            book,
            tenants,
            events,
            make,
            desks: BTreeMap::new(),
            kept: BTreeMap::new(),
            pending: BTreeMap::new(),
            last: String::new(),
            listed: BTreeSet::new(),
            whole: false,
        }
    }

    /// Until it is to be begun afresh.
    async fn run(mut self) {
        let api: Api<ConfigMap> = Api::all(self.make.client.clone());
        let selector = format!("metadata.name={}", self.settings.config_map);
        let config = watcher::Config::default().fields(&selector).page_size(PAGE);
        let mut stream = pin!(watcher::watcher(api, config).default_backoff());
        let mut rollbacks = pin!(self.tenants.0.changes.desks.stream());
        let mut checks: FuturesUnordered<Check> = FuturesUnordered::new();
        let mut keeping = FuturesUnordered::new();
        loop {
            if checks.is_empty() {
                match self.next_check() {
                    Some(check) => checks.push(check),
                    None if self.whole => self.tenants.is_read(self.book),
                    None => {}
                }
            }
            tokio::select! {
                Some(Checked { namespace, desk, gone, keeper }) = checks.next() => {
                    if let Some((keeper, until)) = keeper {
                        keeping.push(Abortable::new(keeper.run(self.make.stop.clone()), until));
                    }
                    let waiting = gone && !self.pending.contains_key(&namespace) && self.tenants.dismiss(&namespace);
                    if !gone {
                        self.desks.insert(namespace, desk);
                    }
                    if waiting {
                        return;
                    }
                }
                Some(_) = keeping.next() => {}
                Some(namespace) = rollbacks.next() => {
                    if let Some(desk) = self.desks.get_mut(&namespace) {
                        desk.tell_of_rollback().await;
                    }
                }
                next = stream.next() => match next {
                    None => return,
                    Some(Ok(event)) => self.hear(event).await,
                    Some(Err(error)) => {
                        tracing::warn!(name = self.settings.config_map, error = %chain(&error), "policy ConfigMaps of namespaces cannot be watched; what is in force stays in force");
                        self.tenants.is_unreadable(&error.to_string());
                    }
                },
            }
        }
    }

    async fn hear(&mut self, event: watcher::Event<ConfigMap>) {
        match event {
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(map) => {
                self.listed.extend(map.metadata.namespace.clone());
                self.arrives(map).await;
            }
            watcher::Event::InitDone => {
                let known: Vec<String> = self.tenants.state().books.keys().cloned().collect();
                for namespace in known {
                    if !self.listed.contains(&namespace) {
                        self.pending.insert(namespace, None);
                    }
                }
                self.listed.clear();
                self.whole = true;
            }
            watcher::Event::Apply(map) => self.arrives(map).await,
            watcher::Event::Delete(map) => {
                let Some(namespace) = map.metadata.namespace else { return };
                if self.tenants.state().books.contains_key(&namespace) {
                    self.pending.insert(namespace, None);
                } else {
                    self.tenants.dismiss(&namespace);
                }
            }
        }
    }

    async fn arrives(&mut self, map: ConfigMap) {
        let Some(namespace) = map.metadata.namespace.clone() else { return };
        let ours = map.metadata.name.as_ref() == Some(&self.settings.config_map);
        if !ours || namespace == self.operators || !self.settings.allow(&namespace) {
            return;
        }
        if self.tenants.admit(self.book, self.settings, &namespace).is_some() {
            self.pending.insert(namespace, Some(map));
            return;
        }
        let why = too_many(self.settings);
        tracing::warn!(namespace, why, "the policies of a namespace are refused");
        let mut events = ConfigMapEvents::new(self.events.clone(), &namespace, &self.settings.config_map);
        events.is_about(map.metadata.uid.as_ref());
        events.tell(EventType::Warning, "PolicyRefused", &why).await;
    }

    /// The next whose content has changed, after the one whose turn it was last.
    fn next_check(&mut self) -> Option<Check> {
        let after = (Bound::Excluded(&self.last), Bound::Unbounded);
        let namespace = self.pending.range::<String, _>(after).next().or_else(|| self.pending.iter().next())?.0.clone();
        let map = self.pending.remove(&namespace)?;
        self.last.clone_from(&namespace);
        let own = self.tenants.admit(self.book, self.settings, &namespace)?;
        let mut keeper = self.keeper(&namespace, map.as_ref(), &own);
        let mut desk = self.desks.remove(&namespace).unwrap_or_else(|| {
            let events = ConfigMapEvents::new(self.events.clone(), &namespace, &self.settings.config_map);
            Desk::new(own, Some(events))
        });
        let stop = self.make.stop.clone();
        Some(
            async move {
                let gone = map.is_none();
                if let Some(map) = &map {
                    desk.is_about(map.metadata.uid.as_ref());
                }
                if let Some((keeper, _)) = &mut keeper
                    && tokio::time::timeout(RECALL_WITHIN, keeper.recall(&stop)).await.is_err()
                {
                    tracing::warn!(namespace, "what was in force there before is not known; it goes on without");
                }
                desk.offer(map.map(PolicyFiles::of)).await;
                Checked { namespace, desk, gone, keeper }
            }
            .boxed(),
        )
    }

    /// Who is to keep what is in force there; none: somebody does so already, or it is
    /// not to be kept any more.
    fn keeper(
        &mut self,
        namespace: &str,
        map: Option<&ConfigMap>,
        own: &PolicyBook,
    ) -> Option<(Keeper, AbortRegistration)> {
        let Some(uid) = map.and_then(|map| map.metadata.uid.clone()) else {
            self.kept.remove(namespace);
            return None;
        };
        if self.kept.get(namespace).is_some_and(|kept| kept.uid == uid) {
            return None;
        }
        let (keeping, until) = AbortHandle::new_pair();
        self.kept.insert(namespace.to_owned(), Kept { uid: uid.clone(), keeping });
        Some((self.make.keeper(namespace, &self.settings.config_map, uid, own.clone()), until))
    }
}

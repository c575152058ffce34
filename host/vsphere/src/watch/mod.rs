//! The watch: vCenter's property collector tells what changes under the root
//! folder and how the tracked tasks fare; the inventory follows, and whoever is
//! concerned hears of it. Nothing is polled for.
//!
//! Whatever is lost (connection, session, collector, view, version), the answer
//! is one and the same: build everything anew, load, and tell the difference to
//! what was known. On the way there a step that the line has lost is done again,
//! as long as that can do no harm: on a bad line hardly a whole one comes through.

mod hosts;
mod tracked;
mod update;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::client::{Purpose, This, Vcenter};
use crate::error::{Error, FaultKind};
use crate::inventory::{Folder, Host, Inventory};
use crate::model::Vm;
use crate::property::{Paths, Query, Start, Step};
use crate::read::{FOLDER, Further, VM, folder_paths, vm_paths};
use crate::refs::{FolderRef, ManagedObjectRef, TaskRef, VmRef};
use crate::session::{Polling, Session};
use crate::site::Site;
use crate::soap::reference_of;
use crate::task::{TASK, TaskInfo, WATCHED};
use crate::watch::hosts::Hosts;
pub use crate::watch::tracked::Goal;
use crate::watch::tracked::Tracked;
use crate::watch::update::{Change, METHOD, Snapshot, Update, Updates};
use crate::xml::{Element, Writer};

/// The first pause after a failure; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// So often in a row is rebuilt at once what vCenter has forgotten.
const MAX_MENDED: u32 = 3;
/// So often a step of a rebuild is tried before the rebuild is given up, and the
/// pause after the first of them; it doubles.
const STEP_ATTEMPTS: u32 = 5;
const STEP_PAUSE: Duration = Duration::from_millis(100);
/// How long to tidy up behind a watch that is given up.
const TIDY: Duration = Duration::from_secs(5);

/// What the watch has seen.
#[derive(Debug, Clone)]
pub enum Event {
    /// Everything under the root has been seen once. Comes after the
    /// `…Changed` of the first load.
    Synced,
    /// A machine is new or different. The inventory has it already.
    VmChanged {
        /// As it is now.
        vm: Arc<Vm>,
        /// As it was; none if it is new.
        was: Option<Arc<Vm>>,
    },
    /// A machine is gone, or has left the root folder.
    VmGone(Arc<Vm>),
    /// A folder is new or different.
    FolderChanged(Arc<Folder>),
    /// A folder is gone, or has left the root folder.
    FolderGone(Arc<Folder>),
    /// A host of the site has begun to go into maintenance, is there, or does so no
    /// longer; or whom DRS moves away from it has changed meanwhile. The inventory has it
    /// already.
    HostChanged(Arc<Host>),
    /// A tracked task is seen for the first time, has moved on, or has ended, or
    /// its [`Goal`] is reached, which ends it too; an ended one is tracked no longer.
    /// Comes after the `…Changed` and `…Gone` of the same moment.
    Task(TaskInfo),
    /// vCenter does not know a tracked task (any more), and its end was not
    /// seen: look at the inventory. It is tracked no longer.
    TaskGone(TaskRef),
    /// vCenter cannot be watched. Told once, until `Restored`. What can be
    /// mended at once, such as a lost session, is not told at all.
    Lost {
        /// Why.
        error: Error,
    },
    /// vCenter is watched again, and what changed meanwhile has been told.
    /// Follows every `Lost`, after `Synced` if nothing had been seen before.
    Restored,
}

/// Is told of events by the watch's own task, one after the other. It must not
/// block: the watch waits for it.
pub trait Observer: Send + Sync {
    /// One event.
    fn on_event(&self, event: &Event);
}

/// A watch under way. Dropping it ends it, and tidies up at vCenter in the
/// background.
pub struct Watch {
    inventory: Inventory,
    shared: Arc<Shared>,
    /// The watching task ends when this is dropped.
    _stop: watch::Sender<()>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("inventory", &self.inventory).finish_non_exhaustive()
    }
}

/// What the handle and the watching task share. The set of tasks is as large as
/// its user lets it grow.
#[derive(Default)]
struct Shared {
    tracked: Mutex<Tracked>,
    wake: Notify,
}

impl Shared {
    fn tracked(&self) -> MutexGuard<'_, Tracked> {
        self.tracked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// What the watch has seen so far. A clone of it stays readable, and
    /// grows old, when the watch ends.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Follows a task: [`Event::Task`] tells of each change until its end or until
    /// its goal is reached, or [`Event::TaskGone`] that it is unknown. Following
    /// one twice is following it once.
    pub fn track(&self, task: TaskRef, goal: Option<Goal>) {
        if self.shared.tracked().track(task, goal, Instant::now()) {
            self.shared.wake.notify_one();
        }
    }

    /// Stops following a task.
    pub fn untrack(&self, task: &TaskRef) {
        if self.shared.tracked().untrack(task) {
            self.shared.wake.notify_one();
        }
    }
}

impl Vcenter {
    /// Watches everything under the site's root folder, from within a tokio
    /// runtime. It keeps trying for as long as the handle lives.
    pub fn start_watch(&self, site: &Site, observer: Arc<dyn Observer>) -> Watch {
        let inventory = Inventory::new(&self.inner.options.index_key);
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = watch::channel(());
        let watcher = Watcher {
            vcenter: self.clone(),
            site: site.clone(),
            observer,
            inventory: inventory.clone(),
            shared: Arc::clone(&shared),
            hosts: Mutex::default(),
            lost: false,
            alive: AtomicBool::new(false),
            loaded_at: None,
            further: Further::default(),
        };
        tokio::spawn(watcher.run(stopped));
        Watch { inventory, shared, _stop: stop }
    }
}

struct Watcher {
    vcenter: Vcenter,
    site: Site,
    observer: Arc<dyn Observer>,
    inventory: Inventory,
    shared: Arc<Shared>,
    hosts: Mutex<Hosts>,
    /// Whether `Lost` was told and `Restored` was not.
    lost: bool,
    /// Whether vCenter has answered anything in the present round.
    alive: AtomicBool,
    /// When the present round had loaded everything.
    loaded_at: Option<Instant>,
    /// What the present round watches beside what always is.
    further: Further,
}

/// What a round has made at vCenter, to be destroyed after it.
struct Round {
    session: Arc<Session>,
    /// The last one is in use; those before it could not be furnished.
    collectors: Mutex<Vec<ManagedObjectRef>>,
    views: Vec<ManagedObjectRef>,
    list: ManagedObjectRef,
    /// What is watched beside what always is.
    further: Further,
}

impl Round {
    fn collectors(&self) -> MutexGuard<'_, Vec<ManagedObjectRef>> {
        self.collectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collector(&self) -> Result<ManagedObjectRef, Error> {
        self.collectors().last().cloned().ok_or_else(|| protocol("there is no collector"))
    }
}

impl Watcher {
    async fn run(mut self, mut stopped: watch::Receiver<()>) {
        let mut attempt = 0;
        let mut mended = 0;
        let mut round = None;
        loop {
            self.loaded_at = None;
            self.alive.store(false, Ordering::Relaxed);
            let error = tokio::select! {
                // The end first: a logout ends the round and the watch in one
                // moment, and another round would log in again.
                biased;
                _ = stopped.changed() => break,
                error = self.round(&mut round) => error,
            };
            // What had worked for a while, or is merely forgotten at vCenter, is
            // mended at once, and told only if that does not help.
            let worked = self.loaded_at.is_some_and(|at| at.elapsed() >= FIRST_PAUSE);
            if worked {
                attempt = 0;
                mended = 0;
            }
            if worked || (self.is_forgotten(&error) && mended < MAX_MENDED) {
                mended += 1;
                tracing::debug!(%error, "watch broken, building it anew");
                continue;
            }
            if !self.lost {
                self.lost = true;
                tracing::warn!(error = %crate::error::chain(&error), "vCenter cannot be watched");
                self.tell(&Event::Lost { error });
            }
            tokio::select! {
                () = sleep(pause(attempt, &self.site.root_folder, FIRST_PAUSE, LAST_PAUSE)) => {}
                () = self.vcenter.inner.account(Purpose::Read).credentials_changed() => {}
                _ = stopped.changed() => break,
            }
            attempt += 1;
        }
        if let Some(round) = round {
            self.tidy(&round).await;
        }
    }

    /// True if vCenter no longer knows our session, collector, view or version.
    fn is_forgotten(&self, error: &Error) -> bool {
        error.is_session_lost()
            || matches!(error.fault(), Some(FaultKind::InvalidCollectorVersion))
            || error.missing_object().is_some_and(|object| object.id != self.site.root_folder.as_str())
    }

    /// Builds, loads, and follows until something breaks.
    async fn round(&mut self, made: &mut Option<Round>) -> Error {
        match self.try_round(made).await {
            Ok(never) => match never {},
            Err(error) => {
                if error.is_session_lost()
                    && let Some(round) = made
                {
                    self.vcenter.inner.invalidate(&round.session);
                }
                error
            }
        }
    }

    async fn try_round(&mut self, made: &mut Option<Round>) -> Result<std::convert::Infallible, Error> {
        let session = self.vcenter.session(Purpose::Read, METHOD).await?;
        if let Some(old) = made.take()
            && old.session.generation == session.generation
        {
            self.tidy(&old).await;
        }
        self.further = self.vcenter.further();
        let container = self.build(&session, made).await?;
        let Some(round) = made else {
            return Err(protocol("it was not built"));
        };
        let mut version = self.load(round, &container).await?;
        let settle = self.vcenter.inner.options.settle;
        loop {
            let asked = Instant::now();
            let updates = self.next(round, &version).await?;
            self.inventory.touch();
            let Some(updates) = updates else { continue };
            version.clone_from(&updates.version);
            let (begins, more) = (asked.elapsed() >= settle, updates.truncated);
            // vCenter answers with the first of a burst. Who acts on it at once acts
            // on each of the rest apart, and what it does in turn ends apart, for
            // ever: a call for each. So the rest is let come before anything is done
            // about the first, and then asked for and done at once.
            if begins && !more {
                sleep(settle).await;
            }
            self.follow(updates).await?;
            if !begins && !more {
                sleep(settle * 2).await;
            }
        }
    }

    /// One step of a rebuild, again if the line has lost it. Only for what may be
    /// done twice: reads, and what is made for this session alone and goes with it.
    async fn patiently<T, F>(&self, step: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut attempt = 0;
        loop {
            let result = step().await;
            if result.is_ok() {
                self.alive.store(true, Ordering::Relaxed);
            }
            attempt += 1;
            // Who is away, as has been told, is not asked more often than need be.
            let hopeless = self.lost && !self.alive.load(Ordering::Relaxed);
            match result {
                Err(error) if error.is_of_the_line() && attempt < STEP_ATTEMPTS && !hopeless => {
                    tracing::debug!(%error, attempt, "a step of the watch's rebuild got lost, trying it again");
                    sleep(pause(attempt - 1, &self.site.root_folder, STEP_PAUSE, FIRST_PAUSE)).await;
                }
                other => return other,
            }
        }
    }

    async fn create(
        &self,
        session: &Session,
        method: &'static str,
        this: This,
        arguments: impl FnOnce(&mut Writer),
    ) -> Result<ManagedObjectRef, Error> {
        created(&self.vcenter.call_in(session, method, &this, arguments).await?)
    }

    /// The views; gives the one of the root. What has been made is noted at once, so
    /// that a failure half way leaves nothing behind but what the line has lost.
    async fn build(&self, session: &Arc<Session>, made: &mut Option<Round>) -> Result<ManagedObjectRef, Error> {
        let list = self.patiently(|| self.create(session, "CreateListView", This::ViewManager, |_| {})).await?;
        let round = made.insert(Round {
            session: Arc::clone(session),
            collectors: Mutex::default(),
            views: vec![list.clone()],
            list,
            further: self.further,
        });
        let root = self.site.root_folder.managed_object();
        let container = self
            .patiently(|| {
                self.create(session, "CreateContainerView", This::ViewManager, |w| {
                    w.reference("container", &root.kind, &root.id);
                    w.text("type", VM);
                    w.text("type", FOLDER);
                    w.value("recursive", true);
                })
            })
            .await?;
        round.views.push(container.clone());
        Ok(container)
    }

    /// A collector with its filters, and all that it has to tell at first, or its
    /// first page. All in one: a filter whose making is in doubt would tell
    /// everything twice, and a beginning that was lost is not begun anew everywhere.
    async fn open(&self, round: &Round, container: &ManagedObjectRef) -> Result<Updates, Error> {
        let session = &round.session;
        let collector = self.create(session, "CreatePropertyCollector", This::PropertyCollector, |_| {}).await?;
        round.collectors().push(collector.clone());
        let mut inventory = Query {
            paths: vec![vm_paths(session.has_create_date(), round.further), folder_paths()],
            starts: vec![
                Start::from(container.clone(), vec![step_into("ContainerView")]),
                // The view is of what lies in the root, not of the root.
                Start::at(self.site.root_folder.managed_object()),
            ],
        };
        inventory.paths.extend(hosts::paths());
        inventory.starts.extend(hosts::starts(&self.site));
        let tasks = Query {
            paths: vec![Paths::new(TASK, &WATCHED)],
            starts: vec![Start::from(round.list.clone(), vec![step_into("ListView")])],
        };
        for query in [inventory, tasks] {
            let this = This::Object(collector.clone());
            self.vcenter
                .call_in(session, "CreateFilter", &this, |w| {
                    // A cluster of the site that is gone is no reason to see nothing.
                    query.write_lenient(w, "spec");
                    // Whole properties: a part cannot be told from a whole.
                    w.value("partialUpdates", false);
                })
                .await?;
        }
        self.poll(session, &collector, "").await?.ok_or_else(|| protocol("the first answer is empty"))
    }

    /// Collectors that could not be furnished would go on watching. Best effort:
    /// whoever cannot be destroyed now goes with the round.
    async fn destroy_spoilt(&self, round: &Round) {
        let spoilt: Vec<ManagedObjectRef> = round.collectors().iter().rev().skip(1).cloned().collect();
        for collector in spoilt {
            let this = This::Object(collector.clone());
            if self.vcenter.call_in(&round.session, "DestroyPropertyCollector", &this, |_| {}).await.is_ok() {
                round.collectors().retain(|kept| *kept != collector);
            }
        }
    }

    /// The page that follows. vCenter gives it again to who asks with the same
    /// version: its versions count. vcsim's do not, and it forgets what it has sent.
    async fn next_page(&self, round: &Round, version: &str) -> Result<Updates, Error> {
        let collector = round.collector()?;
        let page = || self.poll(&round.session, &collector, version);
        let page = if version.parse::<u64>().is_ok() { self.patiently(page).await } else { page().await };
        page?.ok_or_else(|| protocol("a page is empty"))
    }

    /// Reads everything, tells the difference to what was known, and gives the
    /// version to go on from.
    async fn load(&mut self, round: &Round, container: &ManagedObjectRef) -> Result<String, Error> {
        self.shared.tracked().view_is_new(Instant::now());
        self.tell_view(round).await?;
        let mut updates = self.patiently(|| self.open(round, container)).await?;
        self.destroy_spoilt(round).await;
        let prefix = &self.vcenter.inner.options.extra_prefix;
        let mut snapshot = Snapshot::default();
        let version = loop {
            for update in updates.objects {
                snapshot.take(update, prefix);
            }
            if !updates.truncated {
                break updates.version;
            }
            updates = self.next_page(round, &updates.version).await?;
        };
        let unclear = std::mem::take(&mut snapshot.unclear);
        let tasks = std::mem::take(&mut snapshot.tasks);
        self.take_over(snapshot);
        self.read_anew(unclear).await?;
        self.inventory.touch();
        self.loaded_at = Some(Instant::now());
        let first = !self.inventory.synced();
        if first {
            self.inventory.set_synced();
            self.tell(&Event::Synced);
        }
        self.hear_of_tasks(tasks);
        if std::mem::take(&mut self.lost) {
            self.tell(&Event::Restored);
        }
        Ok(version)
    }

    fn take_over(&self, snapshot: Snapshot) {
        let mut events = Vec::new();
        let gone: Vec<VmRef> =
            self.inventory.vm_refs().into_iter().filter(|vm| !snapshot.vms.contains_key(vm)).collect();
        let folders_gone: Vec<FolderRef> =
            self.inventory.folder_refs().into_iter().filter(|folder| !snapshot.folders.contains_key(folder)).collect();
        events.extend(snapshot.folders.into_values().filter_map(|folder| self.put_folder(folder)));
        events.extend(snapshot.vms.into_values().filter_map(|vm| self.put_vm(vm)));
        events.extend(gone.iter().filter_map(|vm| self.inventory.remove_vm(vm)).map(Event::VmGone));
        events.extend(
            folders_gone.iter().filter_map(|folder| self.inventory.remove_folder(folder)).map(Event::FolderGone),
        );
        // Told only now, so that who is told finds all of it.
        for event in &events {
            self.tell(event);
        }
        *self.hosts() = snapshot.hosts;
        self.hear_of_hosts();
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over how the hosts stand by what has been learnt, and tells.
    fn hear_of_hosts(&self) {
        let standing = self.hosts().standing();
        for host in self.inventory.put_hosts(standing) {
            self.tell(&Event::HostChanged(host));
        }
    }

    fn put_vm(&self, mut vm: Vm) -> Option<Event> {
        self.further.complete(&mut vm);
        let (vm, was) = self.inventory.put_vm(vm);
        (was.as_ref() != Some(&vm)).then_some(Event::VmChanged { vm, was })
    }

    fn put_folder(&self, folder: Folder) -> Option<Event> {
        let folder = Arc::new(folder);
        let was = self.inventory.put_folder(Arc::clone(&folder));
        (was.as_ref() != Some(&folder)).then_some(Event::FolderChanged(folder))
    }

    /// The next answer; meanwhile new tasks are put into the view. Ends at once
    /// if the session is no longer the one in use.
    async fn next(&self, round: &Round, version: &str) -> Result<Option<Updates>, Error> {
        let collector = round.collector()?;
        let mut poll = pin!(self.poll(&round.session, &collector, version));
        let mut further = self.vcenter.inner.further.subscribe();
        let mut more_is_asked_for =
            pin!(async { further.wait_for(|further| *further != round.further).await.map(drop) });
        let mut replaced = pin!(self.vcenter.inner.account(Purpose::Read).replaced(&round.session));
        loop {
            let due = self.shared.tracked().due(Instant::now());
            tokio::select! {
                biased;
                answer = &mut poll => return answer,
                () = &mut replaced => return Err(session_lost()),
                // As if vCenter had forgotten it: all is built anew at once.
                Ok(()) = &mut more_is_asked_for => {
                    return Err(Error::from_fault(METHOD, FaultKind::InvalidCollectorVersion));
                }
                () = self.shared.wake.notified() => self.hear_of_tasks(Vec::new()),
                () = at(due) => self.tell_view(round).await?,
            }
        }
    }

    async fn poll(
        &self,
        session: &Session,
        collector: &ManagedObjectRef,
        version: &str,
    ) -> Result<Option<Updates>, Error> {
        let options = &self.vcenter.inner.options;
        let _polling = Polling::on(&self.vcenter.inner, session);
        let answer = self
            .vcenter
            .call_within(
                session,
                METHOD,
                &This::Object(collector.clone()),
                options.long_poll + options.call_timeout,
                |w| {
                    w.text("version", version);
                    w.node("options", |w| {
                        w.value("maxWaitSeconds", options.long_poll.as_secs());
                        w.value("maxObjectUpdates", options.page_size);
                    });
                },
            )
            .await?;
        update::read(&answer)
    }

    async fn follow(&self, updates: Updates) -> Result<(), Error> {
        let prefix = &self.vcenter.inner.options.extra_prefix;
        let mut unclear = Vec::new();
        let mut tasks = Vec::new();
        for update in updates.objects {
            match update {
                Update::Vm(id, change) => {
                    let known = self.inventory.vm(&id);
                    let event = match update::vm_after(&id, known.as_deref(), &change, prefix) {
                        Some((_, true)) => {
                            unclear.push(id);
                            None
                        }
                        Some((vm, false)) => self.put_vm(vm),
                        None => self.inventory.remove_vm(&id).map(Event::VmGone),
                    };
                    self.tell_maybe(event);
                }
                Update::Folder(id, change) => {
                    let known = self.inventory.folder(&id);
                    let event = match update::folder_after(&id, known.as_deref(), &change) {
                        Some(folder) => self.put_folder(folder),
                        None => self.inventory.remove_folder(&id).map(Event::FolderGone),
                    };
                    self.tell_maybe(event);
                }
                Update::Task(id, change) => {
                    self.hosts().learn_task(&id, &change);
                    tasks.push((id, change));
                }
                Update::Host(id, change) => self.hosts().learn_host(id, change),
                Update::Cluster(id, change) => self.hosts().learn_cluster(&id, change),
            }
        }
        self.hear_of_hosts();
        let read = self.read_anew(unclear).await;
        self.hear_of_tasks(tasks);
        read
    }

    /// Machines whose change we could not follow.
    async fn read_anew(&self, vms: Vec<VmRef>) -> Result<(), Error> {
        if vms.is_empty() {
            return Ok(());
        }
        let refs: Vec<ManagedObjectRef> = vms.iter().map(VmRef::managed_object).collect();
        let read = self.patiently(|| self.vcenter.read_vms(refs.clone())).await?;
        for id in vms {
            let event = match read.iter().find(|vm| vm.id == id) {
                Some(vm) => self.put_vm(vm.clone()),
                None => self.inventory.remove_vm(&id).map(Event::VmGone),
            };
            self.tell_maybe(event);
        }
        Ok(())
    }

    /// Tells what became of tasks, by what vCenter says of them and by what the
    /// inventory shows. All parts of an answer are taken in first: one may say that
    /// a task has failed, and the next one why.
    fn hear_of_tasks(&self, changes: Vec<(TaskRef, Change)>) {
        let mut touched = Vec::new();
        for (task, change) in changes {
            if matches!(change, Change::Leave) {
                self.task_gone(&task);
            } else {
                self.shared.tracked().learn(&task, change);
                touched.push(task);
            }
        }
        for task in touched {
            let news = self.shared.tracked().news(&task);
            self.tell_maybe(news.map(Event::Task));
        }
        let reached: Vec<TaskInfo> = self.shared.tracked().reached(|vm| self.inventory.vm(vm));
        for info in reached {
            self.tell(&Event::Task(info));
        }
    }

    fn task_gone(&self, task: &TaskRef) {
        let news = self.shared.tracked().gone(task);
        if news {
            self.tell(&Event::TaskGone(task.clone()));
        }
    }

    /// Tells the list view which tasks to follow, all news in one call.
    async fn tell_view(&self, round: &Round) -> Result<(), Error> {
        loop {
            let batch = self.shared.tracked().next_batch(Instant::now());
            let Some(batch) = batch else { return Ok(()) };
            self.tell_view_of(round, &batch).await?;
        }
    }

    async fn tell_view_of(&self, round: &Round, batch: &tracked::Batch) -> Result<(), Error> {
        let this = This::Object(round.list.clone());
        // Who is in it already may be put in again.
        let modify = || {
            self.vcenter.call_in(&round.session, "ModifyListView", &this, |w| {
                for task in &batch.add {
                    w.reference("add", TASK, task.as_str());
                }
                for task in &batch.remove {
                    w.reference("remove", TASK, task.as_str());
                }
            })
        };
        let answer = self.patiently(modify).await?;
        for unresolved in answer.children_named("returnval").filter_map(reference_of) {
            self.task_gone(&TaskRef::new(unresolved.id));
        }
        Ok(())
    }

    /// Destroys what a round has made, if its session still stands. Best
    /// effort: vCenter destroys it with the session.
    async fn tidy(&self, round: &Round) {
        let destroy = async {
            let mut objects = Vec::new();
            objects.extend(round.collectors().drain(..).map(|collector| ("DestroyPropertyCollector", collector)));
            objects.extend(round.views.iter().map(|view| ("DestroyView", view.clone())));
            for (method, object) in objects {
                let this = This::Object(object);
                let result = self.vcenter.call_in(&round.session, method, &this, |_| {}).await;
                match result {
                    Err(error) if !error.is_missing() => return,
                    _ => {}
                }
            }
        };
        if timeout(TIDY, destroy).await.is_err() {
            tracing::debug!("gave up tidying the watch up");
        }
    }

    fn tell_maybe(&self, event: Option<Event>) {
        if let Some(event) = event {
            self.tell(&event);
        }
    }

    fn tell(&self, event: &Event) {
        self.observer.on_event(event);
    }
}

/// Never, without a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn step_into(view: &'static str) -> Step {
    Step::along("view", view, "view", &[])
}

fn created(answer: &Element) -> Result<ManagedObjectRef, Error> {
    answer.child("returnval").and_then(reference_of).ok_or_else(|| protocol("nothing was created"))
}

fn protocol(detail: &str) -> Error {
    Error::Protocol { method: METHOD, detail: detail.to_owned() }
}

fn session_lost() -> Error {
    Error::from_fault(METHOD, FaultKind::NotAuthenticated)
}

/// The pause before the next attempt: doubling, capped, and spread by a hash of
/// the attempt and what is watched, so that a run can be repeated.
fn pause(attempt: u32, root: &FolderRef, first: Duration, last: Duration) -> Duration {
    let whole = first.saturating_mul(1 << attempt.min(16)).min(last);
    let mut hasher = DefaultHasher::new();
    (attempt, root).hash(&mut hasher);
    let spread = u32::try_from(hasher.finish() % 1000).unwrap_or(0);
    whole / 2 + whole / 2 * spread / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_cap_and_repeat() {
        let root = FolderRef::new("group-v3");
        for attempt in 0..40 {
            let pause = |attempt| super::pause(attempt, &root, FIRST_PAUSE, LAST_PAUSE);
            let (pause, again) = (pause(attempt), pause(attempt));
            assert!(pause >= FIRST_PAUSE / 2 && pause <= LAST_PAUSE, "{pause:?}");
            assert_eq!(pause, again);
        }
        assert!(super::pause(20, &root, FIRST_PAUSE, LAST_PAUSE) >= LAST_PAUSE / 2);
    }
}

//! The link to vCenter: kept up in the background, looked at by every pass.
//!
//! While it is down a pass finds out why, says so in the group's conditions, and
//! does nothing. Must not know what is done over the link.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vmgroup_vsphere::{
    Capacity, Category, Credentials, DatastoreRef, Error, Event, FolderRef, Goal, Host, HostRef, Inventory, Observer,
    Options, Password, Site, SiteSelection, TagName, TagRef, TaskRef, Template, Transport, TransportError,
    TransportKind, Vcenter, Watch,
};

use crate::folder::Claims;
use crate::late::Departed;
use crate::ownership::{Owner, mark, marked_group};
use crate::room::Room;
use crate::tasks::TaskBook;
use crate::wake::Wake;

/// How long capacity that was read may be used for further decisions.
const CAPACITY_AGE: Duration = Duration::from_secs(10);

/// How long a template that was found is not looked for again.
const TEMPLATE_AGE: Duration = Duration::from_secs(300);

/// A loss shorter than this is not told to the groups.
const GRACE: Duration = Duration::from_secs(10);

/// How long groups wait for the first attempt to come up before they say that they do.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no link.
#[derive(Clone, Debug)]
pub struct Problem {
    /// CamelCase, for the condition.
    pub reason: &'static str,
    /// What is the matter and what to do.
    pub message: String,
    /// It will not go away by itself.
    pub stalled: bool,
}

/// Where the settings of a link come from: there they are mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Flags and environment, the login too.
    Environment,
    /// The same, and the login lies in a folder that is read anew.
    Folder,
    /// The connections file.
    File {
        /// The Secret with the login.
        secret: Arc<str>,
    },
}

impl Origin {
    /// How a login that vCenter refuses is mended, as a clause to append.
    fn login(&self) -> String {
        match self {
            Self::Environment => {
                "; correct VC_USER and VC_PASS (the Secret vc-creds) and restart the operator".to_owned()
            }
            Self::Folder => {
                "; correct VC_USER and VC_PASS in the Secret vc-creds: that is noticed without a restart".to_owned()
            }
            Self::File { secret } => {
                format!("; correct VC_USER and VC_PASS in the Secret {secret}: that is noticed without a restart")
            }
        }
    }

    /// Which of our settings mends an error, as a clause to append.
    fn setting(&self, error: &Error) -> &'static str {
        let (by_flag, by_file) = match error {
            Error::Session { source, .. } => return self.setting(source),
            Error::Transport { source, .. } if source.kind == TransportKind::Tls => (
                "; the file is given with --vc-ca-file (VC_CA_FILE)",
                "; `trust` in connections.yaml says whom to trust",
            ),
            Error::Ambiguous { what, .. } | Error::NotFound { what, .. } => match *what {
                "datacenter" => {
                    ("; choose with --datacenter (VC_DATACENTER)", "; choose with `datacenter` in connections.yaml")
                }
                "datastore" => {
                    ("; choose with --datastore (VC_DATASTORE)", "; choose with `datastore` in connections.yaml")
                }
                what if what.contains("pool") => {
                    ("; choose with --pool (VC_POOL)", "; choose with `cluster` or `pool` in connections.yaml")
                }
                what if what.contains("folder") => {
                    ("; choose with --root-folder (VC_FOLDER)", "; choose with `rootFolder` in connections.yaml")
                }
                _ => ("", ""),
            },
            _ => ("", ""),
        };
        match self {
            Self::Environment | Self::Folder => by_flag,
            Self::File { .. } => by_file,
        }
    }
}

impl Problem {
    fn of(error: &Error, origin: &Origin) -> Self {
        let (reason, stalled) = match error.category() {
            Category::Credentials => ("VCenterLoginRefused", true),
            Category::Configuration => ("VCenterConfiguration", true),
            Category::Permission => ("VCenterPermission", true),
            Category::Transient | Category::Capacity | Category::Gone | Category::Conflict => {
                ("VCenterUnavailable", false)
            }
        };
        let (what, remedy) = match error.category() {
            Category::Credentials => ("vCenter refused the login", origin.login()),
            Category::Configuration => ("vCenter cannot be used as configured", origin.setting(error).to_owned()),
            Category::Permission => {
                ("vCenter does not allow what is needed", "; give the operator's user this privilege".to_owned())
            }
            Category::Transient | Category::Capacity | Category::Gone | Category::Conflict => {
                ("vCenter is not available and is tried again", String::new())
            }
        };
        Self { reason, message: format!("{what}: {}{remedy}", chain(error)), stalled }
    }
}

/// An error with its sources, for people.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The link while it is up.
pub struct Connected {
    /// Where things go.
    pub site: Arc<Site>,
    /// vCenter's own identity; empty where it has none.
    pub instance_uuid: String,
    watch: Watch,
    capacity: ArcSwapOption<Read>,
    templates: Mutex<HashMap<String, (Instant, Template)>>,
    custom_fields: ArcSwapOption<BTreeMap<String, i32>>,
    tags: Mutex<BTreeMap<TagName, TagRef>>,
    /// One at a time looks for tags.
    looking_for_tags: Semaphore,
    names: ArcSwap<Names>,
}

/// Capacity, and when it was read.
struct Read {
    began: Instant,
    at: Instant,
    capacity: Arc<Capacity>,
}

/// Names of places, for people.
#[derive(Default)]
struct Names {
    hosts: HashMap<HostRef, String>,
    datastores: HashMap<DatastoreRef, String>,
}

impl Connected {
    /// What there is, from the watch.
    pub fn inventory(&self) -> &Inventory {
        self.watch.inventory()
    }

    /// Whether no member of another group lies in a folder.
    pub fn free_of_others(&self, folder: &FolderRef, owner: &Owner) -> bool {
        let vms = self.inventory().in_folder(folder);
        vms.iter().all(|vm| vm.extra.get(mark::GROUP_UID).is_none_or(|uid| *uid == owner.uid))
    }

    /// Whether a member of this group lies in a folder.
    pub fn holds_member(&self, folder: &FolderRef, owner: &Owner) -> bool {
        self.inventory().in_folder(folder).iter().any(|vm| owner.owns(vm))
    }

    /// The UUIDs and names of this group's members by a fresh look at the whole datacenter, out
    /// of the root folder too.
    pub async fn members_anywhere(&self, vcenter: &Vcenter, owner: &Owner) -> Result<Vec<(String, String)>, Error> {
        let marked = vcenter.list_marked(&self.site.vm_folder, &owner.uid).await?;
        let members = marked.into_iter().filter(|vm| owner.owns(vm));
        Ok(members.map(|vm| (vm.instance_uuid.to_lowercase(), vm.name)).collect())
    }

    /// Has a task's end reported, or that its goal is reached.
    pub fn track(&self, task: TaskRef, goal: Option<Goal>) {
        self.watch.track(task, goal);
    }

    /// Capacity, at most [`CAPACITY_AGE`] old.
    pub async fn capacity(&self, vcenter: &Vcenter) -> Result<Arc<Capacity>, Error> {
        Ok(self.capacity_as_read(vcenter).await?.0)
    }

    /// The same, and when its reading began: what has come since then is not in it.
    pub async fn capacity_as_read(&self, vcenter: &Vcenter) -> Result<(Arc<Capacity>, Instant), Error> {
        if let Some(cached) = self.capacity.load().as_ref()
            && cached.at.elapsed() < CAPACITY_AGE
        {
            return Ok((cached.capacity.clone(), cached.began));
        }
        let began = Instant::now();
        let fresh = Arc::new(vcenter.capacity(&self.site).await?);
        self.names.store(Arc::new(Names {
            hosts: fresh.hosts.iter().map(|host| (host.id.clone(), host.name.clone())).collect(),
            datastores: fresh.datastores.iter().map(|store| (store.id.clone(), store.name.clone())).collect(),
        }));
        self.capacity.store(Some(Arc::new(Read { began, at: Instant::now(), capacity: fresh.clone() })));
        Ok((fresh, began))
    }

    /// Capacity is not what was read.
    pub fn forget_capacity(&self) {
        self.capacity.store(None);
    }

    /// As much of this capacity as a part of the site has.
    pub fn part(&self, site: &Arc<Site>, capacity: &Arc<Capacity>) -> Arc<Capacity> {
        if Arc::ptr_eq(site, &self.site) { capacity.clone() } else { Arc::new(capacity.part(site)) }
    }

    /// The template of this name.
    pub async fn template(&self, vcenter: &Vcenter, name: &str) -> Result<Template, Error> {
        let cached = self.templates.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some((at, template)) = cached
            && at.elapsed() < TEMPLATE_AGE
        {
            return Ok(template);
        }
        let found = vcenter.find_template(&self.site, name).await?;
        self.templates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), (Instant::now(), found.clone()));
        Ok(found)
    }

    /// Forgets a template that turned out to be gone.
    pub fn forget_template(&self, name: &str) {
        self.templates.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The keys of custom attributes that machines can have, by name. Read once: who
    /// misses one, or is refused one, has it read again.
    pub async fn custom_fields(&self, vcenter: &Vcenter) -> Result<Arc<BTreeMap<String, i32>>, Error> {
        if let Some(known) = self.custom_fields.load_full() {
            return Ok(known);
        }
        let found = Arc::new(vcenter.custom_fields().await?);
        self.custom_fields.store(Some(found.clone()));
        Ok(found)
    }

    /// Has them read again.
    pub fn forget_custom_fields(&self) {
        self.custom_fields.store(None);
    }

    /// The references of those of these tags that exist. Those that are known are not
    /// looked for again, and those that many ask for at the same time are looked for once.
    pub async fn tags(
        &self,
        vcenter: &Vcenter,
        wanted: &BTreeSet<TagName>,
    ) -> Result<BTreeMap<TagName, TagRef>, Error> {
        let known = self.known_tags(wanted);
        if known.len() == wanted.len() {
            return Ok(known);
        }
        // Never closed.
        let _turn = self.looking_for_tags.acquire().await;
        let known = self.known_tags(wanted);
        let missing: BTreeSet<TagName> = wanted.iter().filter(|tag| !known.contains_key(*tag)).cloned().collect();
        let found = vcenter.find_tags(&missing).await?;
        self.tags.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
        Ok(self.known_tags(wanted))
    }

    fn known_tags(&self, wanted: &BTreeSet<TagName>) -> BTreeMap<TagName, TagRef> {
        let tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().filter_map(|tag| Some((tag.clone(), tags.get(tag)?.clone()))).collect()
    }

    /// Has them looked for again.
    pub fn forget_tags(&self) {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The name of a host, as far as it is known.
    pub fn host_name(&self, host: &HostRef) -> Option<String> {
        self.names.load().hosts.get(host).cloned()
    }

    /// The name of a datastore, as far as it is known.
    pub fn datastore_name(&self, datastore: &DatastoreRef) -> Option<String> {
        self.names.load().datastores.get(datastore).cloned()
    }
}

/// Notes when a loss began; true if it begins now.
fn begin_loss(lost_at: &mut Option<Instant>) -> bool {
    let first = lost_at.is_none();
    lost_at.get_or_insert_with(Instant::now);
    first
}

struct Shared {
    vcenter: Vcenter,
    selection: SiteSelection,
    origin: Origin,
    current: ArcSwapOption<Connected>,
    problem: ArcSwap<Problem>,
    lost_at: Mutex<Option<Instant>>,
    name: Arc<str>,
    stirred: Wake<Arc<str>>,
    settled: AtomicBool,
    patience_ends: Instant,
    site_gone: Notify,
    retry: Notify,
}

/// The way to a vCenter that there is none to.
struct Nowhere;

impl Transport for Nowhere {
    fn call(&self, _: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Bytes>, TransportError>> {
        let error = TransportError::new(TransportKind::Connect, "there is no connection");
        std::future::ready(Err(error)).boxed()
    }
}

/// Who hears of what the watch sees.
#[derive(Clone)]
pub struct Hearers {
    /// Of tasks.
    pub tasks: TaskBook,
    /// Of whatever concerns a group.
    pub wake: Wake,
    /// Knows whose folder it was that is gone.
    pub claims: Claims,
    /// Of machines whose group is gone.
    pub departed: Departed,
    /// That there may be room again.
    pub room: Room,
}

/// The link. Cheap to clone; all clones are the same link.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

impl Link {
    /// A link that is not up yet. Its name is put into `stirred` whenever it comes up
    /// or has been down for a while: every group over there has to be looked at.
    pub fn new(
        name: Arc<str>,
        vcenter: Vcenter,
        selection: SiteSelection,
        origin: Origin,
        stirred: Wake<Arc<str>>,
    ) -> Self {
        let connecting = Problem { reason: "Connecting", message: "connecting to vCenter".into(), stalled: false };
        Self(Arc::new(Shared {
            vcenter,
            selection,
            origin,
            current: ArcSwapOption::empty(),
            problem: ArcSwap::from_pointee(connecting),
            lost_at: Mutex::new(None),
            name,
            stirred,
            settled: AtomicBool::new(false),
            patience_ends: Instant::now() + PATIENCE,
            site_gone: Notify::new(),
            retry: Notify::new(),
        }))
    }

    /// One that leads nowhere, for this reason.
    pub fn nowhere(name: Arc<str>, problem: Problem, stirred: Wake<Arc<str>>) -> Self {
        let credentials = Credentials { user: String::new(), password: Password::from(String::new()) };
        let options = Options::new(http::Uri::from_static("http://nowhere.invalid/sdk"), credentials);
        let vcenter = Vcenter::new(options, Arc::new(Nowhere));
        let link = Self::new(name, vcenter, SiteSelection::default(), Origin::Environment, stirred);
        link.0.problem.store(Arc::new(problem));
        link
    }

    /// Nothing comes of it for now, for this reason.
    pub fn cannot(&self, problem: Problem) {
        self.0.problem.store(Arc::new(problem));
        self.settle();
        self.stir();
    }

    /// vCenter's own identity, while it is up.
    pub fn instance_uuid(&self) -> Option<String> {
        let connected = self.0.current.load();
        connected.as_ref().map(|connected| connected.instance_uuid.clone()).filter(|uuid| !uuid.is_empty())
    }

    /// What the connection is called that it is of.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// The client that the link is for.
    pub fn vcenter(&self) -> &Vcenter {
        &self.0.vcenter
    }

    /// The link, if it is up and the inventory is complete.
    pub fn up(&self) -> Result<Arc<Connected>, Arc<Problem>> {
        match self.0.current.load_full() {
            Some(connected) if connected.inventory().synced() && !self.lost_for_long() => Ok(connected),
            _ => Err(self.0.problem.load_full()),
        }
    }

    /// Time since vCenter was heard of last; nothing before the first time.
    pub fn age(&self) -> Option<Duration> {
        self.0.current.load().as_ref().and_then(|connected| connected.inventory().age())
    }

    /// How much longer the first attempt to come up is waited for; nothing once it has
    /// ended, well or not. Before that there is nothing to tell of vCenter that would
    /// not be untrue in a moment.
    pub fn first_attempt(&self) -> Option<Duration> {
        let left = self.0.patience_ends.saturating_duration_since(Instant::now());
        (!self.0.settled.load(Ordering::SeqCst) && !left.is_zero()).then_some(left)
    }

    /// What stood in the way may be mended: connects at once if it is not up.
    pub fn retry(&self) {
        self.0.retry.notify_one();
    }

    fn lost_for_long(&self) -> bool {
        self.0.lost_at.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() >= GRACE)
    }

    /// There is something to tell of vCenter.
    pub fn settle(&self) {
        // Those have waited for it.
        if !self.0.settled.swap(true, Ordering::SeqCst) {
            self.stir();
        }
    }

    fn stir(&self) {
        self.0.stirred.wake(&self.0.name);
    }

    fn lost(&self, error: &Error) {
        let first = begin_loss(&mut self.0.lost_at.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.problem.store(Arc::new(Problem::of(error, &self.0.origin)));
        self.settle();
        if error.category() == Category::Gone {
            self.0.site_gone.notify_one();
        }
        if first {
            tracing::warn!(error = %chain(error), "vCenter is lost; its state is kept until it is back");
            let link = Arc::downgrade(&self.0);
            tokio::spawn(async move {
                tokio::time::sleep(GRACE).await;
                if let Some(link) = link.upgrade().map(Link)
                    && link.lost_for_long()
                {
                    link.stir();
                }
            });
        }
    }

    fn restored(&self) {
        let was = self.0.lost_at.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(at) = was {
            tracing::info!(after = ?at.elapsed(), "vCenter is back");
        }
        self.settle();
        self.stir();
    }

    /// Brings the link up and keeps it, until told to stop; then logs out.
    pub async fn run(&self, hearers: Hearers, stop: CancellationToken) {
        let mut attempt = 0u32;
        while !stop.is_cancelled() {
            match self.connect(&hearers).await {
                Ok(()) => {
                    attempt = 0;
                    tokio::select! {
                        () = stop.cancelled() => break,
                        // The root folder is gone: somebody may make it anew.
                        () = self.0.site_gone.notified() => {
                            tracing::error!("the root folder is gone from vCenter; looking for it again");
                            self.0.current.store(None);
                        }
                    }
                }
                Err(error) => {
                    let problem = Problem::of(&error, &self.0.origin);
                    tracing::error!(reason = problem.reason, error = %problem.message, "no link to vCenter");
                    self.0.problem.store(Arc::new(problem));
                    self.settle();
                    if attempt == 0 {
                        self.stir();
                    }
                    // Not stretched to minutes: whoever mends vCenter is waiting.
                    let pause = Duration::from_secs(2).saturating_mul(1 << attempt.min(4));
                    attempt += 1;
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.0.retry.notified() => attempt = 0,
                        () = stop.cancelled() => break,
                    }
                }
            }
        }
        self.0.current.store(None);
        self.0.vcenter.logout().await;
    }

    async fn connect(&self, hearers: &Hearers) -> Result<(), Error> {
        let about = self.0.vcenter.connect().await?;
        let site = self.0.vcenter.resolve_site(&self.0.selection).await?;
        tracing::info!(vcenter = %about.full_name, datacenter = %site.datacenter.name, "connected to vCenter");
        let bridge = Bridge { link: Arc::downgrade(&self.0), hearers: hearers.clone() };
        let watch = self.0.vcenter.start_watch(&site, Arc::new(bridge));
        let connected = Arc::new(Connected {
            site: Arc::new(site),
            instance_uuid: about.instance_uuid,
            watch,
            capacity: ArcSwapOption::empty(),
            templates: Mutex::default(),
            custom_fields: ArcSwapOption::empty(),
            tags: Mutex::default(),
            looking_for_tags: Semaphore::new(1),
            names: ArcSwap::default(),
        });
        // Best effort: only the names of places come from it at this time.
        if let Err(error) = connected.capacity(&self.0.vcenter).await {
            tracing::debug!(%error, "capacity is not known yet");
        }
        for task in hearers.tasks.all() {
            connected.track(task, None);
        }
        self.0.current.store(Some(connected));
        self.stir();
        Ok(())
    }
}

/// Turns what the watch sees into wake-ups. Called from the watch loop, so it
/// must not block.
struct Bridge {
    /// Weak: the watch belongs to the link, and ends with it.
    link: Weak<Shared>,
    hearers: Hearers,
}

impl Bridge {
    fn wake_owner(&self, vm: &vmgroup_vsphere::Vm) {
        if let Some(group) = marked_group(vm) {
            self.hearers.wake.wake(&group);
        }
    }

    /// Whoever has members there has to look, and what was read of hosts is not true any
    /// more.
    fn host_changed(&self, host: &Host) {
        let Some(link) = self.link.upgrade() else { return };
        // While it comes up, everybody is woken when it is.
        let Some(connected) = link.current.load_full() else { return };
        connected.forget_capacity();
        for vm in connected.inventory().on_host(&host.id) {
            self.wake_owner(&vm);
        }
        self.hearers.room.freed(&self.hearers.wake);
    }

    /// Who waits for room looks again, and not at what was read before.
    fn there_may_be_room(&self) {
        if self.hearers.room.freed(&self.hearers.wake)
            && let Some(link) = self.link.upgrade()
            && let Some(connected) = link.current.load_full()
        {
            connected.forget_capacity();
        }
    }
}

impl Observer for Bridge {
    fn on_event(&self, event: &Event) {
        match event {
            Event::Synced | Event::Restored => {
                if let Some(link) = self.link.upgrade() {
                    Link(link).restored();
                }
            }
            Event::Lost { error } => {
                if let Some(link) = self.link.upgrade() {
                    Link(link).lost(error);
                }
            }
            Event::VmChanged { vm, was } => {
                self.hearers.departed.notice(vm);
                self.wake_owner(vm);
                if let Some(was) = was
                    && was.extra.get(mark::GROUP) != vm.extra.get(mark::GROUP)
                {
                    self.wake_owner(was);
                }
            }
            Event::VmGone(vm) => {
                self.wake_owner(vm);
                self.there_may_be_room();
            }
            Event::HostChanged(host) => self.host_changed(host),
            Event::Task(info) => self.hearers.tasks.update(info),
            Event::TaskGone(task) => self.hearers.tasks.gone(task),
            Event::FolderGone(folder) => {
                if let Some(group) = self.hearers.claims.owner(&folder.name) {
                    self.hearers.wake.wake(&group);
                }
            }
            Event::FolderChanged(folder) => self.hearers.departed.notice_folder(folder),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On the system's clock, where time goes by between two looks at it.
    #[tokio::test]
    async fn a_loss_begins_once() {
        let mut lost_at = None;
        assert!(begin_loss(&mut lost_at));
        assert!(!begin_loss(&mut lost_at));
    }
}

//! Has the connections be those of the connections file: reads its ConfigMap, checks
//! each content whole before it counts, makes and ends links, and gives each the login
//! that its Secret holds. Must not know whose machines are where.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Secret};
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Resource as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vmgroup_api::connections_file::{
    ConnectionEntry, ConnectionLimits, ConnectionsFile, ConnectionsFileError, FILE_NAME, Namespaces,
};
use vmgroup_vsphere::{Error as VcError, HttpTransport, SiteSelection, Tls, Transport, Vcenter};
use vmgroup_wire::SetupError;

use super::kept::Kept;
use super::secret::{Login, tls};
use super::{Connections, Served, Set, labels};
use crate::config::VcenterConfig;
use crate::connection::Connection;
use crate::events::{EventType, Events, NOTE_LIMIT};
use crate::lease::Fence;
use crate::link::{Link, Origin, Problem, chain};
use crate::tasks::TaskBook;
use crate::wake::Wake;

/// Makes the way to a vCenter.
pub type Dial = Arc<dyn Fn(&http::Uri, &Tls) -> Result<Arc<dyn Transport>, SetupError> + Send + Sync>;

/// Makes the client for a connection of this name.
pub type MakeClient = Arc<dyn Fn(&Arc<str>, &VcenterConfig, Arc<dyn Transport>) -> Vcenter + Send + Sync>;

/// What links are made with.
#[derive(Clone)]
pub struct Supplies {
    /// Kubernetes, for the ConfigMap, the Secrets and the labels of namespaces.
    pub kube: Client,
    /// The operator's own namespace.
    pub namespace: String,
    /// The way to a vCenter.
    pub dial: Dial,
    /// The client on it.
    pub client: MakeClient,
    /// Has groups looked at.
    pub wake: Wake,
    /// Where it is told what became of an edit.
    pub events: Events,
    /// Whether we lead.
    pub fence: Fence,
}

/// A connection at work.
struct Running {
    entry: ConnectionEntry,
    stop: CancellationToken,
}

/// Keeps the connections as the file has them.
pub struct Keeper {
    supplies: Supplies,
    /// The name of the ConfigMap.
    config_map: String,
    connections: Connections,
    /// What counted before a restart.
    kept: Kept,
    /// What counts, to be kept.
    counts: watch::Sender<Option<Arc<str>>>,
    /// When everything ends: after the last pass.
    after: CancellationToken,
    running: BTreeMap<String, Running>,
    links: JoinSet<()>,
    /// What was told last.
    told: Option<String>,
}

/// Reads a connections file and judges all that can be judged without a vCenter.
pub fn check(text: &str) -> Result<ConnectionsFile, ConnectionsFileError> {
    ConnectionsFile::parse(text, &|file| {
        let mut found = Vec::new();
        for (index, entry) in file.connections.iter().enumerate() {
            let at = |field: &str| format!("/connections/{index}/{field}");
            if let Err(error) = vmgroup_vsphere::endpoint(&entry.address) {
                let problem = format!(
                    "connection {:?} has the address {:?}, which is not understood: {}",
                    entry.name,
                    entry.address,
                    chain(&error)
                );
                found.push((at("address"), problem));
            }
            // What the Secret is to bring is not there yet.
            if let Err(error) = HttpTransport::new(&tls(&entry.trust)) {
                found.push((at("trust"), format!("connection {:?}: {}", entry.name, chain(&error))));
            }
        }
        found
    })
}

impl Keeper {
    /// Nothing is kept yet.
    pub fn new(supplies: Supplies, config_map: &str, connections: Connections, after: CancellationToken) -> Self {
        let Supplies { kube, namespace, fence, .. } = &supplies;
        Self {
            kept: Kept::new(kube.clone(), namespace, config_map, fence.clone()),
            counts: watch::Sender::new(None),
            supplies,
            config_map: config_map.to_owned(),
            connections,
            after,
            running: BTreeMap::new(),
            links: JoinSet::new(),
            told: None,
        }
    }

    /// Follows the ConfigMap until told to stop, then keeps the links as they are until
    /// the last pass is over, and ends them.
    pub async fn run(mut self, stop: CancellationToken) {
        let Supplies { kube, namespace, .. } = self.supplies.clone();
        let config_map = self.config_map.clone();
        let api: Api<ConfigMap> = Api::namespaced(kube.clone(), &namespace);
        let mut edits = pin!(watcher::watch_object(api, &config_map).default_backoff());
        let mut labels = pin!(labels::follow(kube, self.connections.clone(), stop.clone()));
        let mut keeping = pin!(self.kept.clone().run(self.counts.subscribe(), stop.clone()));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = &mut labels => break,
                () = &mut keeping => break,
                edit = edits.next() => match edit {
                    Some(Ok(edit)) => self.take(edit, &stop).await,
                    Some(Err(error)) => {
                        tracing::warn!(namespace, name = config_map, error = %chain(&error), "the connections ConfigMap cannot be watched; what counts goes on counting");
                    }
                    None => break,
                },
                // Those that were ended.
                Some(_) = self.links.join_next() => {}
            }
        }
        self.after.cancelled().await;
        while self.links.join_next().await.is_some() {}
    }

    /// Takes what the ConfigMap holds now.
    async fn take(&mut self, map: Option<ConfigMap>, stop: &CancellationToken) {
        let (namespace, config_map) = (&self.supplies.namespace, &self.config_map);
        let about = map.as_ref().map_or_else(
            || ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("ConfigMap".to_owned()),
                namespace: Some(namespace.clone()),
                name: Some(config_map.clone()),
                ..ObjectReference::default()
            },
            |map| map.object_ref(&()),
        );
        let (kind, reason, note) = match file_of(map.as_ref(), namespace, config_map) {
            Ok(file) => {
                let differences = self.apply(file, None);
                let text = map.and_then(|map| map.data?.remove(FILE_NAME));
                self.counts.send_replace(text.map(Into::into));
                let all = self.connections.all();
                let names = all.iter().map(|connection| connection.name().to_string()).collect::<Vec<_>>().join(", ");
                (EventType::Normal, "ConnectionsLoaded", format!("{differences}Connections: {names}"))
            }
            Err(why) => {
                let kept = self.refuse(&why, stop).await;
                (EventType::Warning, "ConnectionsRefused", format!("{why}. {kept}"))
            }
        };
        if self.told.as_ref() == Some(&note) {
            return;
        }
        match kind {
            EventType::Normal => tracing::info!(note, "connections"),
            EventType::Warning => tracing::error!(note, "connections refused"),
        }
        let short = &note[..note.floor_char_boundary(NOTE_LIMIT)];
        self.supplies.events.publish(&about, kind, reason, "LoadConnections", short).await;
        self.told = Some(note);
    }

    /// What was offered does not count, for this reason. What does instead, in a sentence.
    async fn refuse(&mut self, why: &str, stop: &CancellationToken) -> String {
        let refused: Arc<str> = why.into();
        if !self.running.is_empty() {
            self.connections.change(|set| set.refused = Some(refused.clone()));
            return "What counted before does".to_owned();
        }
        let kept = self.kept.recall(stop).await;
        let checked = kept.as_deref().map(check);
        let name = self.kept.name();
        let said = match &checked {
            Some(Ok(_)) => format!("What counted before the restart does, as {name} has it"),
            Some(Err(error)) => format!("There is no connection, as {name} cannot be used either: {}", chain(error)),
            None => "There is no connection".to_owned(),
        };
        match checked {
            Some(Ok(file)) => drop(self.apply(file, Some(&refused))),
            _ => self.connections.change(|set| set.refused = Some(refused.clone())),
        }
        said
    }

    /// Has these connections be there, and no others. What has changed, a sentence each.
    /// `refused` is why they are not those that were offered last.
    fn apply(&mut self, file: ConnectionsFile, refused: Option<&Arc<str>>) -> String {
        let needs_labels = file.needs_labels();
        let ConnectionsFile { connections, quotas } = file;
        let (mut said, mut all, mut begun) = (Vec::new(), Vec::new(), Vec::new());
        let mut before = std::mem::take(&mut self.running);
        for entry in connections {
            let old = before.remove(&entry.name);
            let standing = self.connections.named(&entry.name).filter(|_| old.is_some());
            let (running, connection, kept) = match (old, standing) {
                (Some(old), Some(standing)) if same_link(&old.entry, &entry) => {
                    (Running { entry: entry.clone(), ..old }, standing, true)
                }
                (old, standing) => {
                    if let Some(old) = old {
                        said.push(format!("{} has changed and is connected anew. ", entry.name));
                        old.stop.cancel();
                    } else {
                        said.push(format!("{} is new. ", entry.name));
                    }
                    let upkeep = self.begin(&entry, standing);
                    let (stop, connection) = (upkeep.stop.clone(), upkeep.connection.clone());
                    begun.push(upkeep);
                    (Running { entry: entry.clone(), stop }, connection, false)
                }
            };
            connection.tasks.set_limit(entry.limits.tasks as usize);
            let (serves, default) = (entry.serves.clone(), entry.default);
            all.push((Served { connection, named: true, serves, default }, kept));
            self.running.insert(entry.name, running);
        }
        for (name, gone) in before {
            said.push(format!("{name} is gone: its groups stay as they are. "));
            gone.stop.cancel();
        }
        self.connections.change(|set| {
            let (mut now, quotas, refused) = (Vec::new(), quotas.clone(), refused.cloned());
            for (served, kept) in &all {
                let mut served = served.clone();
                // Its link may have been made anew just now. That of one that is begun again
                // is the one that has ended.
                if *kept {
                    served.connection = set.newest(&served.connection);
                }
                now.push(served);
            }
            *set = Set { all: now, quotas, refused, needs_labels };
        });
        // Not before: what they make of a link has to find its connection.
        for upkeep in begun {
            self.links.spawn(upkeep.run());
        }
        said.concat()
    }

    /// A connection that waits for its login, with the tasks and claims of the one that it
    /// follows, and what is to keep its link up.
    fn begin(&self, entry: &ConnectionEntry, old: Option<Connection>) -> Upkeep {
        let stop = self.after.child_token();
        let name: Arc<str> = entry.name.as_str().into();
        let waiting = Problem {
            reason: "Connecting",
            message: format!("waiting for the login of the connection {name}, the Secret {}", entry.credentials.secret),
            stalled: false,
        };
        let link = Link::nowhere(name, waiting, self.connections.stirred());
        let connection = match old {
            Some(old) => Connection { link, ..old },
            None => Connection::new(link, TaskBook::new(entry.limits.tasks as usize, self.supplies.wake.clone())),
        };
        Upkeep {
            supplies: self.supplies.clone(),
            connections: self.connections.clone(),
            entry: entry.clone(),
            connection,
            stop,
        }
    }
}

/// Whether a link for the one is good for the other, too.
fn same_link(one: &ConnectionEntry, other: &ConnectionEntry) -> bool {
    let bare = |entry: &ConnectionEntry| ConnectionEntry {
        limits: ConnectionLimits { tasks: 0, ..entry.limits },
        serves: Namespaces::default(),
        default: false,
        ..entry.clone()
    };
    bare(one) == bare(other)
}

/// What keeps one connection's link up, for as long as the file has it so.
struct Upkeep {
    supplies: Supplies,
    connections: Connections,
    entry: ConnectionEntry,
    connection: Connection,
    stop: CancellationToken,
}

/// The link at present, and what it was made with.
struct Current {
    login: Login,
    link: Link,
    stop: CancellationToken,
}

impl Upkeep {
    /// Until told to stop.
    async fn run(self) {
        let api: Api<Secret> = Api::namespaced(self.supplies.kube.clone(), &self.supplies.namespace);
        let name = &self.entry.credentials.secret;
        let mut secrets = pin!(watcher::watch_object(api, name).default_backoff());
        let mut current: Option<Current> = None;
        let mut at_work = JoinSet::new();
        loop {
            let secret = tokio::select! {
                // A Secret and the file may be edited at the same time: whoever follows us
                // takes it.
                biased;
                () = self.stop.cancelled() => break,
                // Of a link that was ended.
                Some(_) = at_work.join_next() => continue,
                secret = secrets.next() => secret,
            };
            let login = match secret {
                Some(Ok(secret)) => login_of(secret.as_ref(), &self.supplies.namespace, &self.entry),
                Some(Err(error)) => Err(format!(
                    "the Secret {name} cannot be read: {}; the operator's Role has to name it (deploy/components/connections)",
                    chain(&error)
                )),
                None => break,
            };
            let taken = login.and_then(|login| self.take(login, &mut current, &mut at_work));
            if let Err(why) = taken {
                self.lacks(why, current.as_ref());
            }
        }
        while at_work.join_next().await.is_some() {}
    }

    /// Uses this login from now on.
    fn take(&self, login: Login, current: &mut Option<Current>, at_work: &mut JoinSet<()>) -> Result<(), String> {
        if let Some(Current { login: known, link, .. }) = current
            && known.tls == login.tls
            && known.reader.is_some() == login.reader.is_some()
        {
            let writer = link.vcenter().set_credentials(login.writer.clone());
            let reader = login.reader.clone().is_some_and(|reader| link.vcenter().set_reader(reader));
            if writer || reader {
                tracing::info!(connection = %link.name(), "vCenter's login has changed and is tried");
                link.retry();
            }
            *known = login;
            return Ok(());
        }
        let link = self.link(&login)?;
        if let Some(old) = current.take() {
            old.stop.cancel();
        }
        let stop = self.stop.child_token();
        let connection = Connection { link: link.clone(), ..self.connection.clone() };
        self.connections.relink(&connection);
        let Supplies { wake, fence, .. } = self.supplies.clone();
        let until = stop.clone();
        at_work.spawn(async move { connection.keep(wake, fence, until).await });
        *current = Some(Current { login, link, stop });
        Ok(())
    }

    fn link(&self, login: &Login) -> Result<Link, String> {
        let entry = &self.entry;
        let config = config(entry, login).map_err(|error| chain(&error))?;
        let transport = (self.supplies.dial)(&config.endpoint, &login.tls).map_err(|error| chain(&error))?;
        let name = self.connection.name().clone();
        let vcenter = (self.supplies.client)(&name, &config, transport);
        vcenter.set_pace(entry.limits.calls_per_second);
        let origin = Origin::File { secret: entry.credentials.secret.as_str().into() };
        Ok(Link::new(name, vcenter, selection(entry), origin, self.connections.stirred()))
    }

    /// There is no login, or none that is new.
    fn lacks(&self, why: String, current: Option<&Current>) {
        let name = self.connection.name();
        let Some(current) = current else {
            tracing::error!(connection = %name, error = why, "no link to vCenter");
            self.connection.link.cannot(Problem { reason: "VCenterLoginMissing", message: why, stalled: true });
            return;
        };
        tracing::error!(connection = %current.link.name(), error = why, "vCenter's login stays as it was");
    }
}

/// The connections file in its `ConfigMap`.
pub(super) fn file_of(map: Option<&ConfigMap>, namespace: &str, name: &str) -> Result<ConnectionsFile, String> {
    let Some(map) = map else { return Err(format!("there is no ConfigMap {name} in the namespace {namespace}")) };
    match map.data.as_ref().and_then(|data| data.get(FILE_NAME)) {
        None => Err(format!("the ConfigMap {name} has no key {FILE_NAME}")),
        Some(text) => check(text).map_err(|error| chain(&error)),
    }
}

/// The login of a connection.
pub(super) fn login_of(secret: Option<&Secret>, namespace: &str, entry: &ConnectionEntry) -> Result<Login, String> {
    let name = &entry.credentials.secret;
    match secret {
        Some(secret) => {
            Login::of(secret, &entry.trust).map_err(|error| format!("the Secret {name} gives no login: {error}"))
        }
        None => Err(format!("there is no Secret {name} in the namespace {namespace}")),
    }
}

/// Where a vCenter is and how to log in.
pub(super) fn config(entry: &ConnectionEntry, login: &Login) -> Result<VcenterConfig, VcError> {
    Ok(VcenterConfig {
        endpoint: vmgroup_vsphere::endpoint(&entry.address)?,
        credentials: login.writer.clone(),
        reader: login.reader.clone(),
        login_dir: None,
        tls: login.tls.clone(),
    })
}

/// What of a vCenter the file lets groups use.
pub(super) fn selection(entry: &ConnectionEntry) -> SiteSelection {
    SiteSelection {
        datacenter: entry.datacenter.clone(),
        pool_or_cluster: entry.cluster.clone().or_else(|| entry.pool.clone()),
        datastore: entry.datastore.clone(),
        root_folder: entry.root_folder.clone(),
    }
}

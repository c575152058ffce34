//! Which connection is a group's: the one that its record names, and nothing else, once
//! it has one; before that what its namespace may use. Must not connect to anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmgroup_api::connections_file::QuotaEntry;
use vmgroup_api::{ConnectionStatus, DatacenterStatus, VmGroup, VmGroupStatus};
use vmgroup_vsphere::{FolderRef, Named};

use super::{Connections, Labels, Served, Set};
use crate::connection::Connection;
use crate::link::{Connected, Problem};
use crate::target;

/// What decides which connection is a group's.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// `metadata.uid`.
    pub uid: &'a str,
    /// Its record.
    pub status: Option<&'a VmGroupStatus>,
    /// The connection that its target names.
    pub named: Option<&'a str>,
}

/// A group's connection.
pub struct Chosen {
    /// It. Where none is to be had its link says why.
    pub connection: Connection,
    /// What the group is to have in its record of it; none: nothing.
    pub record: Option<ConnectionStatus>,
    /// How it differs from what a new group would get.
    pub differs: Option<String>,
    /// Why the connections file that was offered last does not count; none: it does.
    pub refused: Option<Arc<str>>,
}

impl Connections {
    /// The connection of a group as it was last seen.
    pub fn of(&self, group: &VmGroup) -> Connection {
        let asked = Asked {
            namespace: group.metadata.namespace.as_deref().unwrap_or_default(),
            uid: group.metadata.uid.as_deref().unwrap_or_default(),
            status: group.status.as_ref(),
            named: target::named(
                target::in_force(group.spec.target.as_ref(), group.status.as_ref()),
                group.metadata.deletion_timestamp.is_some(),
            ),
        };
        self.choose(asked).connection
    }

    /// Whether a group has to hear of news of the connection of this name: it is the
    /// group's, or it was one of those that were waited for to find out which is.
    pub fn is_news_for(&self, group: &VmGroup, name: &str) -> bool {
        let standing = group.status.as_ref().filter(|status| status.folder.is_some());
        let of_old = standing.is_some_and(|status| status.connection.as_ref().is_none_or(|known| known.name.is_none()));
        of_old || **self.of(group).name() == *name
    }

    /// The connection of a group.
    pub fn choose(&self, asked: Asked<'_>) -> Chosen {
        let set = self.0.set.load();
        let standing = asked.status.filter(|status| status.folder.is_some());
        let recorded = standing.and_then(|status| status.connection.as_ref());
        let name = recorded.and_then(|recorded| recorded.name.as_deref());
        let found = match (name, standing) {
            (Some(name), _) => set.named(name).ok_or_else(|| not_there(name)),
            (None, Some(status)) => set.of_old(asked.uid, status).unwrap_or_else(|| self.for_namespace(&set, asked)),
            (None, None) => self.for_namespace(&set, asked),
        };
        match found {
            Ok(served) => Chosen {
                connection: served.connection.clone(),
                record: Some(served.record(asked.uid, standing)),
                differs: name.and_then(|_| self.differs(&set, served, asked)),
                refused: set.refused.clone(),
            },
            Err(problem) => Chosen {
                connection: Connection::nowhere(problem),
                record: recorded.cloned(),
                differs: None,
                refused: set.refused.clone(),
            },
        }
    }

    /// What a namespace may have; nothing: there is no ceiling.
    pub fn quota(&self, namespace: &str) -> Result<Option<QuotaEntry>, Problem> {
        let set = self.0.set.load();
        if set.quotas.is_empty() {
            return Ok(None);
        }
        let labels = self.labels_of(&set, namespace)?;
        Ok(set.quotas.iter().find(|quota| quota.whose().have(namespace, &labels)).cloned())
    }

    /// The labels of a namespace, as far as anybody is chosen by them.
    fn labels_of(&self, set: &Set, namespace: &str) -> Result<BTreeMap<String, String>, Problem> {
        if !set.needs_labels {
            return Ok(BTreeMap::new());
        }
        // It is there, with a group in it: if it is not among them, nobody has told yet.
        match &**self.0.labels.load() {
            Labels::Read(labels) => labels.get(namespace).cloned().ok_or_else(|| labels_unread(namespace)),
            Labels::Unread => Err(labels_unread(namespace)),
        }
    }

    /// What a new group of this namespace gets: what its target names, or else the first.
    fn for_namespace<'s>(&self, set: &'s Set, asked: Asked<'_>) -> Result<&'s Served, Problem> {
        let usable = self.usable(set, asked.namespace)?;
        let first = usable.first().copied().ok_or_else(|| nobody(set, asked.namespace))?;
        let Some(name) = asked.named else { return Ok(first) };
        let named = usable.iter().find(|served| served.named && **served.connection.name() == *name);
        named.copied().ok_or_else(|| not_for(asked.namespace, name, &usable))
    }

    /// What a namespace may use: what serves it, or else the default.
    fn usable<'s>(&self, set: &'s Set, namespace: &str) -> Result<Vec<&'s Served>, Problem> {
        let labels = self.labels_of(set, namespace)?;
        let serving: Vec<&Served> = set.all.iter().filter(|served| served.serves.have(namespace, &labels)).collect();
        if serving.is_empty() {
            return Ok(set.all.iter().filter(|served| served.default).collect());
        }
        Ok(serving)
    }

    fn differs(&self, set: &Set, served: &Served, asked: Asked<'_>) -> Option<String> {
        let usable = self.usable(set, asked.namespace).ok()?;
        let name = served.connection.name();
        if usable.iter().any(|other| other.connection.name() == name) {
            return None;
        }
        let instead = match usable.first() {
            Some(other) => format!("a new group of this namespace would be made in {}", other.connection.name()),
            None => "no connection serves this namespace any more".to_owned(),
        };
        Some(format!("the group's machines are in {name}, and stay there: {instead}"))
    }
}

impl Set {
    pub(super) fn named(&self, name: &str) -> Option<&Served> {
        self.all.iter().find(|served| served.named && **served.connection.name() == *name)
    }

    /// The connection of a group whose record names none: it was made when there was
    /// only one. Nothing: it is nowhere to be found. To take another one for it would
    /// be to make all its machines again, so it is looked for in all of them.
    fn of_old(&self, uid: &str, status: &VmGroupStatus) -> Option<Result<&Served, Problem>> {
        if let [only] = self.all.as_slice() {
            return Some(Ok(only));
        }
        let mut holding = None;
        for served in &self.all {
            let connected = match served.connection.link.up() {
                Ok(connected) => connected,
                Err(problem) => return Some(Err(not_known_yet(served, &problem))),
            };
            if holds(&connected, uid, status) {
                holding = holding.or(Some(served));
            }
        }
        holding.map(Ok)
    }
}

impl Served {
    /// What a group's record has of it. `standing` is the record as it is, once the group
    /// has a folder.
    fn record(&self, uid: &str, standing: Option<&VmGroupStatus>) -> ConnectionStatus {
        let before = standing.and_then(|status| status.connection.as_ref());
        let instance_uuid = self.connection.link.instance_uuid();
        let datacenter = before.and_then(|before| before.datacenter.clone());
        ConnectionStatus {
            name: self.named.then(|| self.connection.name().to_string()),
            // Once these are written down they are what the group is held against.
            instance_uuid: before.and_then(|before| before.instance_uuid.clone()).or(instance_uuid),
            datacenter: datacenter.or_else(|| self.datacenter_of(uid, standing)),
        }
    }

    /// The datacenter of a group whose record has none. One that has a folder already is
    /// from before it was written down: it is in this one if something of it is seen here.
    fn datacenter_of(&self, uid: &str, standing: Option<&VmGroupStatus>) -> Option<DatacenterStatus> {
        let connected = self.connection.link.up().ok()?;
        let here = standing.is_none_or(|status| holds(&connected, uid, status));
        let Named { id, name } = &connected.site.datacenter;
        here.then(|| DatacenterStatus { name: name.clone(), id: id.to_string() })
    }
}

/// Whether a group's folder is seen there, or one of its machines.
fn holds(connected: &Connected, uid: &str, status: &VmGroupStatus) -> bool {
    let inventory = connected.inventory();
    let folder = status.folder.as_ref().and_then(|folder| Some((folder.id.as_deref()?, &folder.name)));
    let has_folder =
        folder.and_then(|(id, name)| Some(inventory.folder(&FolderRef::new(id))?.name == *name)).unwrap_or_default();
    has_folder || !inventory.indexed(uid).is_empty()
}

fn not_there(name: &str) -> Problem {
    Problem {
        reason: "ConnectionGone",
        message: format!(
            "the group's machines are in the connection {name}, which is not among those that the operator has: nothing is done to them until it is back in connections.yaml"
        ),
        stalled: true,
    }
}

fn not_known_yet(served: &Served, problem: &Problem) -> Problem {
    Problem {
        reason: "Connecting",
        message: format!(
            "which connection has the group's machines is found out when all are there, and {} is not: {}",
            served.connection.name(),
            problem.message
        ),
        stalled: false,
    }
}

fn nobody(set: &Set, namespace: &str) -> Problem {
    let message = match &set.refused {
        Some(why) if set.all.is_empty() => format!("there is no connection to any vCenter: {why}"),
        _ => format!(
            "no connection serves the namespace {namespace}: name it under `serves` of one in connections.yaml, or make one the default"
        ),
    };
    Problem { reason: "NoConnection", message, stalled: true }
}

/// A target names what is not for its namespace, whether or not others have it.
fn not_for(namespace: &str, name: &str, usable: &[&Served]) -> Problem {
    let names: Vec<&str> =
        usable.iter().filter(|served| served.named).map(|served| &**served.connection.name()).collect();
    let remedy = match names.as_slice() {
        [] => "the operator has a single vCenter, which has no name: leave spec.target.connection out".to_owned(),
        names => format!("the namespace {namespace} may use: {}", names.join(", ")),
    };
    Problem {
        reason: target::NOT_ALLOWED,
        message: format!("spec.target.connection is {name}, which is not for this group: {remedy}"),
        stalled: true,
    }
}

fn labels_unread(namespace: &str) -> Problem {
    Problem {
        reason: "Connecting",
        message: format!(
            "connections.yaml chooses by the labels of namespaces, and those of {namespace} are not known yet; the operator needs list and watch on namespaces (deploy/components/connections)"
        ),
        stalled: false,
    }
}

//! The vCenters that the operator works with, and which of them a group's machines
//! are in.
//!
//! One that the flags name, or those of the connections file: [`Keeper`] watches its
//! ConfigMap, checks each content whole before it counts, and keeps the links up.
//! Must not know how a pass is made.

mod choice;
mod keeper;
mod kept;
mod labels;
pub mod once;
mod secret;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use vmgroup_api::connections_file::{Namespaces, QuotaEntry};

use crate::connection::Connection;
use crate::wake::Wake;

pub use choice::{Asked, Chosen};
pub use keeper::{Dial, Keeper, MakeClient, Supplies, check};

/// Their name under `/readyz`.
pub const PART: &str = "connections";

/// The connections. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Connections(Arc<Shared>);

struct Shared {
    set: ArcSwap<Set>,
    labels: ArcSwap<Labels>,
    stirred: Wake<Arc<str>>,
    changes: watch::Sender<u64>,
    settled: watch::Sender<bool>,
}

/// What counts at one moment.
#[derive(Clone, Default)]
struct Set {
    /// In the order of the file.
    all: Vec<Served>,
    quotas: Vec<QuotaEntry>,
    /// Why what was offered last does not count; none: it does.
    refused: Option<Arc<str>>,
    /// Somebody is chosen by the labels of his namespace.
    needs_labels: bool,
}

/// A connection, and whom it serves.
#[derive(Clone)]
struct Served {
    connection: Connection,
    /// It has a name that a group's record can have. The only one that the flags give
    /// has none.
    named: bool,
    serves: Namespaces,
    default: bool,
}

/// The labels of all namespaces, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Labels {
    /// Not read yet, or nobody needs them.
    Unread,
    /// By namespace.
    Read(BTreeMap<String, BTreeMap<String, String>>),
}

impl Set {
    /// The same connection as it is here, if it is here.
    fn newest(&self, connection: &Connection) -> Connection {
        let here = self.all.iter().map(|served| &served.connection).find(|here| here.is(connection));
        here.unwrap_or(connection).clone()
    }
}

impl Connections {
    /// One connection, without a name, that serves everybody. `stirred` is what its link
    /// tells of coming up and going down.
    pub fn only(connection: Connection, stirred: Wake<Arc<str>>) -> Self {
        let only = Served { connection, named: false, serves: Namespaces::default(), default: true };
        let connections = Self::none_yet(stirred);
        connections.0.set.store(Arc::new(Set { all: vec![only], ..Set::default() }));
        connections.0.settled.send_replace(true);
        connections
    }

    /// Those of a connections file that nobody has read yet.
    pub fn none_yet(stirred: Wake<Arc<str>>) -> Self {
        Self(Arc::new(Shared {
            set: ArcSwap::from_pointee(Set::default()),
            labels: ArcSwap::from_pointee(Labels::Unread),
            stirred,
            changes: watch::Sender::new(0),
            settled: watch::Sender::new(false),
        }))
    }

    /// All of them.
    pub fn all(&self) -> Vec<Connection> {
        self.0.set.load().all.iter().map(|served| served.connection.clone()).collect()
    }

    /// Names of connections whose groups are all to be looked at: their vCenter is
    /// there, or has been away for a while. For one consumer.
    pub fn stirred(&self) -> Wake<Arc<str>> {
        self.0.stirred.clone()
    }

    /// Moves whenever another connection may be a group's.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Whether it is known which connections there are, or that they cannot be used.
    /// Before that nobody knows whose vCenter is which.
    pub fn settled(&self) -> watch::Receiver<bool> {
        self.0.settled.subscribe()
    }

    /// Whether what was offered last does not count.
    pub fn refused(&self) -> bool {
        self.0.set.load().refused.is_some()
    }

    /// Forgets a group that is gone.
    pub fn forget(&self, uid: &str) {
        for connection in self.all() {
            connection.forget(uid);
        }
    }

    /// The connection of this name in the file.
    fn named(&self, name: &str) -> Option<Connection> {
        self.0.set.load().named(name).map(|served| served.connection.clone())
    }

    /// A connection has another link than before.
    fn relink(&self, connection: &Connection) {
        self.0.set.rcu(|set| {
            let mut set = Set::clone(set);
            let there = set.all.iter_mut().filter(|served| served.connection.is(connection));
            there.for_each(|served| served.connection = connection.clone());
            set
        });
        self.0.stirred.wake(connection.name());
    }

    fn change(&self, how: impl Fn(&mut Set)) {
        self.0.set.rcu(|set| {
            let mut set = Set::clone(set);
            how(&mut set);
            set
        });
        self.0.settled.send_replace(true);
        self.tell();
    }

    fn tell(&self) {
        self.0.changes.send_modify(|count| *count += 1);
    }
}

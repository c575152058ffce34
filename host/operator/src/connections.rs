//! The vCenters that the operator works with, and which of them a group's machines
//! are in. Must not know how a pass is made.

use std::sync::Arc;

use crate::connection::Connection;
use crate::wake::Wake;

/// The connections. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Connections {
    only: Connection,
    stirred: Wake<Arc<str>>,
}

impl Connections {
    /// One connection, that serves everybody. `stirred` is what its link tells of
    /// coming up and going down.
    pub fn only(connection: Connection, stirred: Wake<Arc<str>>) -> Self {
        Self { only: connection, stirred }
    }

    /// All of them.
    pub fn all(&self) -> Vec<Connection> {
        vec![self.only.clone()]
    }

    /// The connection of a group.
    pub fn of(&self, _group: &vmgroup_api::VmGroup) -> Connection {
        self.only.clone()
    }

    /// Names of connections whose groups are all to be looked at: their vCenter is
    /// there, or has been away for a while. For one consumer.
    pub fn stirred(&self) -> Wake<Arc<str>> {
        self.stirred.clone()
    }

    /// Forgets a group that is gone.
    pub fn forget(&self, uid: &str) {
        for connection in self.all() {
            connection.forget(uid);
        }
    }
}

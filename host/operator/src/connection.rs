//! A vCenter as the operator works with it: the link to it, our tasks there and the
//! limit on them, whose folder names and late machines are there, and how many passes
//! may be at it at the same time. What is of one vCenter is of no other.
//!
//! Must not know which groups use it, nor how it was configured.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::folder::Claims;
use crate::late::Departed;
use crate::lease::Fence;
use crate::link::{Hearers, Link, Problem};
use crate::room::Room;
use crate::tasks::TaskBook;
use crate::wake::Wake;

/// Passes over the groups of one vCenter at the same time. A pass is mostly a wait for
/// an answer; those of a slow vCenter wait for one another, and for nobody else.
pub const PASSES: u16 = 32;

/// What a vCenter is called that was given without a name.
pub const UNNAMED: &str = "default";

/// A vCenter, with what belongs to it alone. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Connection {
    /// The link to it.
    pub link: Link,
    /// Tasks in flight there.
    pub tasks: TaskBook,
    /// Folder names that groups have there.
    pub claims: Claims,
    /// Groups that have been seen off there.
    pub departed: Departed,
    /// Who is promised room there, and who waits for some.
    pub room: Room,
    /// Who may make a pass.
    pub turns: Arc<Semaphore>,
}

/// Tells a connection from every other one, whatever they are called: one that was taken
/// away and comes back under its name knows nothing of before.
#[derive(Clone, Debug)]
pub struct Identity(Arc<Semaphore>);

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Connection {
    /// One to which nobody belongs yet, with room for so many tasks.
    pub fn new(link: Link, tasks: TaskBook) -> Self {
        Self {
            link,
            tasks,
            claims: Claims::default(),
            departed: Departed::default(),
            room: Room::default(),
            turns: Arc::new(Semaphore::new(usize::from(PASSES))),
        }
    }

    /// One that leads nowhere, for this reason.
    pub fn nowhere(problem: Problem) -> Self {
        let link = Link::nowhere("nowhere".into(), problem, Wake::default());
        link.settle();
        Self::new(link, TaskBook::new(1, Wake::default()))
    }

    /// Whether both are the same, whatever link they have at present.
    pub fn is(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }

    /// Which it is.
    pub fn identity(&self) -> Identity {
        Identity(self.turns.clone())
    }

    /// What it is called in metrics and messages.
    pub fn name(&self) -> &Arc<str> {
        self.link.name()
    }

    /// Who hears of what the link's watch sees.
    fn hearers(&self, wake: Wake) -> Hearers {
        Hearers {
            tasks: self.tasks.clone(),
            wake,
            claims: self.claims.clone(),
            departed: self.departed.clone(),
            room: self.room.clone(),
        }
    }

    /// Keeps the link up and takes late machines away, until told to stop.
    pub async fn keep(&self, wake: Wake, fence: Fence, stop: CancellationToken) {
        let Self { link, claims, departed, .. } = self;
        tokio::join!(link.run(self.hearers(wake), stop.clone()), departed.see_off(link, &fence, claims, &stop));
    }

    /// Forgets a group that is gone.
    pub fn forget(&self, uid: &str) {
        self.tasks.forget(uid);
        self.claims.release(uid);
    }
}

//! Ends sessions of ours that nobody uses: those whose login's answer was lost,
//! and those of an earlier process of our name that had no time to log out.
//!
//! They are found in `SessionManager.sessionList`, by their user agent, which
//! takes the privilege `Sessions.TerminateSession`. Without it they end when
//! they have been idle for as long as vCenter allows.

use std::time::Duration;

use jiff::Timestamp;

use super::Session;
use crate::client::{This, Vcenter};
use crate::error::{Error, FaultKind};
use crate::property::{Paths, Query, Start};
use crate::xml::Element;

/// A session of another process is left alone unless it was idle for so long: a
/// living one is touched every five minutes at least, and two processes may
/// have one name.
const IDLE: Duration = Duration::from_mins(15);

/// So many are ended at a time.
const AT_ONCE: usize = 50;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Swept {
    /// There are no leftovers any more.
    Clean,
    /// This user may not look, or vCenter does not tell whose sessions are whose.
    NotAllowed,
}

struct Listed {
    key: String,
    agent: String,
    last_active: Option<Timestamp>,
}

impl Listed {
    fn read(session: &Element) -> Self {
        Self {
            key: session.text_of("key").trim().to_owned(),
            agent: session.text_of("userAgent").trim().to_owned(),
            last_active: session.text_of("lastActiveTime").trim().parse().ok(),
        }
    }
}

/// Ends the leftovers of the account that this session is of. No login of the
/// account may be under way: its session would be taken for one of them.
pub(super) async fn sweep(vcenter: &Vcenter, session: &Session) -> Result<Swept, Error> {
    let query = Query {
        paths: vec![Paths::new("SessionManager", &["sessionList"])],
        starts: vec![Start::at(session.content.session_manager.clone())],
    };
    let objects = vcenter.retrieve_in(session, &query).await?;
    let Some(list) = objects.first().and_then(|manager| manager.get("sessionList")) else {
        return Ok(Swept::NotAllowed);
    };
    let listed: Vec<Listed> = list.children.iter().map(Listed::read).collect();
    let own = listed.iter().find(|other| session.key.as_ref() == Some(&other.key) && other.agent == session.agent);
    let Some(own) = own else { return Ok(Swept::NotAllowed) };
    let leftovers = listed.iter().filter(|other| {
        let unanswered = other.agent == session.agent;
        let abandoned = vcenter.inner.options.agent.is_predecessor(&other.agent) && idle(other, own);
        other.key != own.key && (unanswered || abandoned)
    });
    for leftover in leftovers.take(AT_ONCE) {
        let manager = This::Object(session.content.session_manager.clone());
        // One by one: one that is gone meanwhile fails the whole call.
        let ended = vcenter
            .call_in(session, "TerminateSession", &manager, |w| {
                w.text("sessionId", &leftover.key);
            })
            .await;
        match ended {
            Ok(_) => tracing::info!(agent = %leftover.agent, "ended a session of ours that nobody uses"),
            Err(error) => match error.fault() {
                Some(FaultKind::NoPermission { .. }) => return Ok(Swept::NotAllowed),
                Some(FaultKind::Other(name)) if name == "NotFound" => {}
                _ => return Err(error),
            },
        }
    }
    Ok(Swept::Clean)
}

/// By vCenter's own clock: our session has just been used.
fn idle(other: &Listed, own: &Listed) -> bool {
    let (Some(then), Some(now)) = (other.last_active, own.last_active) else { return false };
    now.duration_since(then).unsigned_abs() >= IDLE && then < now
}

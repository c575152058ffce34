//! The step before all others: the vCenter that the group's machines are in, and what
//! becomes of the group while that cannot be looked at. Must not look at machines.

use std::fmt::Write as _;
use std::sync::Arc;

use kube::ResourceExt as _;
use vmgroup_api::{ADOPTING_ANNOTATION, LEGACY_FINALIZER, ORPHAN_ANNOTATION, VmGroup, VmGroupStatus};

use super::tell::listing;
use super::{Note, Pass};
use crate::apply::counted;
use crate::events::EventType;
use crate::link::{Connected, Problem};
use crate::report::Obstacle;
use crate::status::{self, StatusError};
use crate::validate::Farewell;

impl Pass<'_> {
    /// The vCenter, if it is there and is the one that the group's machines are in.
    pub(super) fn reach(&self) -> Result<Arc<Connected>, Obstacle> {
        let connected = self.connection.link.up().map_err(|problem| {
            let Problem { reason, message, stalled } = Problem::clone(&problem);
            Obstacle { reason: reason.to_owned(), message, stalled }
        })?;
        self.elsewhere(&connected).map_or(Ok(connected), Err)
    }

    /// The connection leads to another vCenter or datacenter than the one that the group's
    /// machines are in: none of them would be found there, and all be made again.
    fn elsewhere(&self, connected: &Connected) -> Option<Obstacle> {
        let recorded = self.written().0.connection.as_ref()?;
        let stands_still = |reason: &str, message| Obstacle { reason: reason.to_owned(), message, stalled: true };
        let (name, uuid) = (self.connection.name(), &connected.instance_uuid);
        if let Some(theirs) = recorded.instance_uuid.as_ref().filter(|theirs| !uuid.is_empty() && *theirs != uuid) {
            let message = format!(
                "the group's machines are in the vCenter {theirs}, and the connection {name} leads to {uuid}: nothing is done until its address is that of the former again"
            );
            return Some(stands_still("OtherVCenter", message));
        }
        let (theirs, here) = (recorded.datacenter.as_ref()?, &connected.site.datacenter);
        if theirs.id == here.id.as_str() {
            return None;
        }
        let setting =
            if recorded.name.is_some() { "`datacenter` in connections.yaml" } else { "--datacenter (VC_DATACENTER)" };
        let message = format!(
            "the group's machines are in the datacenter {} ({}), and the connection {name} leads to {} ({}): nothing is done until the former is chosen again with {setting}",
            theirs.name, theirs.id, here.name, here.id,
        );
        Some(stands_still("OtherDatacenter", message))
    }

    /// Says what is waited for; or lets the group go, if it is being deleted and nothing
    /// of it is there, or it is given up. True if it is gone.
    pub(super) async fn without_vcenter(
        &mut self,
        object: &VmGroup,
        mut obstacle: Obstacle,
    ) -> Result<bool, StatusError> {
        if self.desired.deleting {
            let given_up = self.desired.farewell == Farewell::Abandon;
            let nothing = self.has_nothing().await?;
            if given_up && !nothing {
                self.abandon(&obstacle.reason);
            }
            if given_up || nothing {
                self.release(object).await?;
                return Ok(true);
            }
            let _ = write!(
                obstacle.message,
                "; if it will never be back, the annotation {ORPHAN_ANNOTATION}=unreachable lets the group go and leaves its virtual machines as they are"
            );
        }
        self.report(None, Some(obstacle)).await?;
        Ok(false)
    }

    /// Whether nothing was ever made for the group, nor asked for: a folder and members are
    /// in the record before that. Not so machines that are being adopted, nor those of the
    /// original operator, which kept no record.
    async fn has_nothing(&self) -> Result<bool, StatusError> {
        let blank = |status: &VmGroupStatus| {
            status.folder.is_none() && status.members.is_empty() && status.current_replicas.unwrap_or(0) == 0
        };
        if !blank(self.written().0) {
            return Ok(false);
        }
        let now = status::read(&self.api, &self.desired.group.name, &self.desired.uid).await?;
        let of_old = now.finalizers().iter().any(|finalizer| finalizer == LEGACY_FINALIZER);
        let adopting = now.annotations().contains_key(ADOPTING_ANNOTATION);
        Ok(!of_old && !adopting && now.status.as_ref().is_none_or(blank))
    }

    /// Says what is left behind where, of a group that goes without vCenter.
    fn abandon(&mut self, why: &str) {
        let status = self.written().0;
        let names: Vec<&str> = status.members.iter().map(|member| member.name.as_str()).collect();
        let folder = status.folder.as_ref().map_or("none", |folder| folder.name.as_str());
        tracing::warn!(
            group = %self.desired.group, uid = self.desired.uid, folder, members = names.join(", "),
            "let go without vCenter; its machines are left as they are"
        );
        let text = format!(
            "let go without vCenter ({why}): {} left as they are in the folder {folder}, marked as this group's (vmgroup.group-uid {}); `vmgroup orphans` lists them when vCenter is back: {}",
            counted(usize::try_from(status.current_replicas.unwrap_or(0)).unwrap_or(0), "virtual machine"),
            self.desired.uid,
            listing(&names),
        );
        self.notes.push(Note { kind: EventType::Warning, reason: "Abandoned".into(), action: "Delete", text });
    }
}

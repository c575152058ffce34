//! The group's record and finalizer: read afresh, written only when they differ.
//! Must not know what is in vCenter.

use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use vmgroup_api::{FINALIZER, LEGACY_FINALIZER, VmGroup, VmGroupStatus};

use super::Pass;
use crate::memory::GroupMemory;
use crate::status;
use crate::status::{StatusError, bounded};
use crate::validate::Desired;

/// Reads the record afresh, if it is not known what it says: the process has just
/// started, or lost track.
pub(super) async fn remember(
    api: &Api<VmGroup>,
    desired: &Desired,
    memory: &mut GroupMemory,
) -> Result<(), StatusError> {
    if memory.written.is_some() {
        return Ok(());
    }
    let object = status::read(api, &desired.group.name, &desired.uid).await?;
    if object.metadata.generation != desired.generation {
        return Err(StatusError::Outdated);
    }
    let version = object.metadata.resource_version.unwrap_or_default();
    memory.written = Some((to_keep(object.status.unwrap_or_default()), version));
    memory.births.clear();
    memory.adopted = false;
    memory.recounted = false;
    Ok(())
}

/// A status to be remembered as long as the group is at rest: without room for more.
fn to_keep(mut status: VmGroupStatus) -> VmGroupStatus {
    status.members.shrink_to_fit();
    status.conditions.shrink_to_fit();
    status
}

impl Pass<'_> {
    pub(super) fn written(&self) -> (&VmGroupStatus, &str) {
        static NONE: std::sync::LazyLock<VmGroupStatus> = std::sync::LazyLock::new(VmGroupStatus::default);
        self.memory.written.as_ref().map_or((&NONE, ""), |(status, version)| (status, version))
    }

    /// S7: asked before each write to Kubernetes, as calls to vCenter may have
    /// taken long since the last.
    fn still_leading(&self) -> Result<(), StatusError> {
        if self.engine.fence.holds() { Ok(()) } else { Err(StatusError::Fenced) }
    }

    /// Writes what is: true whatever the spec says by now.
    pub(super) async fn write(&mut self, new: VmGroupStatus) -> Result<(), StatusError> {
        self.write_if(new, None).await
    }

    /// Writes what is to be, unless the spec has changed since.
    pub(super) async fn write_intents(&mut self, new: VmGroupStatus) -> Result<(), StatusError> {
        self.write_if(new, self.desired.generation).await
    }

    async fn write_if(&mut self, new: VmGroupStatus, decided_by: Option<i64>) -> Result<(), StatusError> {
        let (old, version) = self.written();
        if *old == new {
            return Ok(());
        }
        self.still_leading()?;
        let group = (self.desired.group.name.as_str(), self.desired.uid.as_str());
        let version = Box::pin(status::write(&self.api, group, old, &new, version, decided_by)).await?;
        self.memory.written = Some((to_keep(new), version));
        Ok(())
    }

    /// S6: the finalizer is there before anything is made.
    pub(super) async fn add_finalizer(
        &mut self,
        object: &VmGroup,
        mut finalizers: Vec<String>,
    ) -> Result<(), StatusError> {
        self.still_leading()?;
        finalizers.push(FINALIZER.to_owned());
        let patch = json!({"metadata": {
            "uid": self.desired.uid,
            "resourceVersion": object.metadata.resource_version,
            "finalizers": finalizers,
        }});
        let name = &self.desired.group.name;
        let object = bounded(self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await?;
        if let Some((_, version)) = &mut self.memory.written {
            *version = object.metadata.resource_version.unwrap_or_default();
        }
        Ok(())
    }

    /// Lets the object go.
    pub(super) async fn release(&mut self, object: &VmGroup) -> Result<(), StatusError> {
        let name = &self.desired.group.name;
        let now = status::read(&self.api, name, &self.desired.uid).await?;
        let left: Vec<_> = now
            .metadata
            .finalizers
            .unwrap_or_default()
            .into_iter()
            .filter(|finalizer| finalizer != FINALIZER && finalizer != LEGACY_FINALIZER)
            .collect();
        self.still_leading()?;
        let patch = json!({"metadata": {
            "uid": self.desired.uid,
            "resourceVersion": now.metadata.resource_version,
            "finalizers": left,
        }});
        bounded(self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await?;
        tracing::info!(group = %self.desired.group, uid = ?object.metadata.uid, "the group is gone");
        Ok(())
    }
}

//! vCenter's tasks. Nothing here waits for one: the [`Watch`](crate::Watch)
//! tells when it ends.

use crate::client::{Purpose, Vcenter};
use crate::error::{Error, Fault};
use crate::property::{Paths, Query, Start, Step};
use crate::refs::{ManagedObjectRef, TaskRef};
use crate::soap::{localized_fault, reference_of};
use crate::xml::Element;

pub(crate) const TASK: &str = "Task";

/// A task as vCenter tells of it (`Task.info`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskInfo {
    /// The task.
    pub id: TaskRef,
    /// How far it is.
    pub state: TaskState,
    /// What it works on: the source for a clone, the object otherwise.
    pub entity: Option<ManagedObjectRef>,
    /// What it does, such as `VirtualMachine.clone`; not localised.
    pub description_id: String,
    /// Percent done, if vCenter tells. The watch does not ask for it.
    pub progress: Option<u8>,
    /// True once somebody has cancelled it. It may go on for all that.
    pub cancelled: bool,
    /// When it was queued, by vCenter's clock.
    pub queued_at: Option<jiff::Timestamp>,
    /// Who started it, if a user did.
    pub user: Option<String>,
}

/// `TaskInfo.state` with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskState {
    /// It waits.
    Queued,
    /// It runs.
    Running,
    /// It has ended well.
    Success {
        /// What it made, if it made an object: the new machine of a clone.
        result: Option<ManagedObjectRef>,
    },
    /// It has failed.
    Error(Fault),
}

impl TaskState {
    /// True if nothing more will happen.
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Success { .. } | Self::Error(_))
    }
}

/// What the watch asks of a task: what [`TaskInfo`] is made of, but for its
/// progress. vCenter would tell of each percent, and nobody waits for one.
pub(crate) const WATCHED: [&str; 8] = [
    "info.state",
    "info.result",
    "info.error",
    "info.cancelled",
    "info.entity",
    "info.descriptionId",
    "info.queueTime",
    "info.reason",
];

impl TaskInfo {
    pub(crate) fn read(id: TaskRef, info: &Element) -> Self {
        Self::from_parts(id, |name| info.child(name))
    }

    /// From the parts of an `info`, by their names.
    pub(crate) fn from_parts<'a>(id: TaskRef, part: impl Fn(&str) -> Option<&'a Element>) -> Self {
        let text = |name: &str| part(name).map_or("", |part| part.text.trim());
        let state = match text("state") {
            "success" => TaskState::Success { result: part("result").and_then(reference_of) },
            "error" => TaskState::Error(part("error").map_or_else(
                || Fault { kind: crate::FaultKind::Other("MethodFault".to_owned()), message: String::new() },
                localized_fault,
            )),
            "running" => TaskState::Running,
            _ => TaskState::Queued,
        };
        Self {
            id,
            state,
            entity: part("entity").and_then(reference_of),
            description_id: text("descriptionId").to_owned(),
            progress: text("progress").parse().ok(),
            cancelled: part("cancelled").is_some_and(Element::is_true),
            queued_at: text("queueTime").parse().ok(),
            user: part("reason").and_then(|reason| reason.child("userName")).map(|user| user.text.clone()),
        }
    }
}

impl Vcenter {
    /// The task as vCenter knows it now; `None` if it knows it no longer.
    pub async fn read_task(&self, task: &TaskRef) -> Result<Option<TaskInfo>, Error> {
        let paths = Paths::new(TASK, &["info"]);
        let read = self.retrieve_each(vec![task.managed_object()], &paths).await?;
        Ok(read.first().and_then(|object| {
            let info = object.get("info")?;
            Some(TaskInfo::read(task.clone(), info))
        }))
    }

    /// The tasks that vCenter remembers: those under way and those that ended
    /// within some ten minutes, everybody's (`TaskManager.recentTask`).
    pub async fn recent_tasks(&self) -> Result<Vec<TaskInfo>, Error> {
        let session = self.session(Purpose::Read, "RetrievePropertiesEx").await?;
        let manager = session.content.task_manager.clone();
        let query = Query {
            paths: vec![Paths::new(TASK, &["info"])],
            starts: vec![Start::from(manager, vec![Step::along("recent", "TaskManager", "recentTask", &[])])],
        };
        let objects = match self.retrieve(&query).await {
            // One of them was forgotten while they were being read.
            Err(error) if error.is_missing() => self.retrieve(&query).await?,
            other => other?,
        };
        Ok(objects
            .iter()
            .filter(|object| object.id.kind == TASK)
            .filter_map(|object| {
                let info = object.get("info")?;
                Some(TaskInfo::read(TaskRef::new(&object.id.id), info))
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::FaultKind;
    use crate::xml;

    const XSI: &str = "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"";

    #[test]
    fn a_failed_task_keeps_its_faults_type() {
        let info = xml::parse(
            format!(
                "<val {XSI} xsi:type=\"TaskInfo\"><key>task-1</key><task type=\"Task\">task-1</task>\
                 <descriptionId>VirtualMachine.clone</descriptionId>\
                 <entity type=\"VirtualMachine\">vm-9</entity><state>error</state><cancelled>false</cancelled>\
                 <error><fault xsi:type=\"DuplicateName\"><name>a%2fb</name>\
                 <object type=\"VirtualMachine\">vm-8</object></fault><localizedMessage>*types.DuplicateName</localizedMessage></error>\
                 <reason xsi:type=\"TaskReasonUser\"><userName>vcsim</userName></reason>\
                 <queueTime>2026-01-02T03:04:05.678Z</queueTime></val>"
            )
            .as_bytes(),
        )
        .unwrap();
        let task = TaskInfo::read(TaskRef::new("task-1"), &info);
        let TaskState::Error(fault) = &task.state else {
            panic!("{task:?}");
        };
        assert_eq!(
            fault.kind,
            FaultKind::DuplicateName {
                name: "a/b".to_owned(),
                object: Some(ManagedObjectRef::new("VirtualMachine", "vm-8")),
            }
        );
        assert_eq!(task.user.as_deref(), Some("vcsim"));
        assert_eq!(task.queued_at.unwrap().to_string(), "2026-01-02T03:04:05.678Z");
        assert_eq!(task.entity.unwrap().id, "vm-9");
    }

    #[test]
    fn vcsims_untyped_nil_result_is_no_result() {
        let info =
            xml::parse(b"<val><state>success</state><result/><error/><cancelled>true</cancelled></val>").unwrap();
        let task = TaskInfo::read(TaskRef::new("task-1"), &info);
        assert_eq!(task.state, TaskState::Success { result: None });
        assert!(task.cancelled && task.state.is_ended());
    }
}

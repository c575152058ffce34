//! Reads and writes the status subresource: the group's record.
//!
//! The operator is the status's only writer, so a write carries the version of
//! the object that it is based on, and a conflict is looked at: if somebody
//! changed the metadata, the write is repeated on the new version, and a report is
//! if it was the spec, but not what was decided by the old one; if the record itself
//! is another one than ours, ours is stale. Then the pass ends, to begin afresh.

use std::collections::HashMap;
use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use vmgroup_api::{MemberState, MemberStatus, VmGroup, VmGroupStatus};

/// The longest a call to the API server may take.
pub const CALL_DEADLINE: Duration = Duration::from_secs(15);

/// Up to this many members, all of them stand in the status; beyond it only
/// those in motion. Keeps the status far below 64 KB at 1,000 members.
pub const LISTED_LIMIT: usize = 50;

/// Why the status could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The API server refused, or was not reached.
    #[error("the Kubernetes API did not take or give the status")]
    Api(#[source] Box<kube::Error>),
    /// No answer within [`CALL_DEADLINE`].
    #[error("the Kubernetes API did not answer within {} s", CALL_DEADLINE.as_secs())]
    Timeout,
    /// The object is gone, or is another one under the same name.
    #[error("the VmGroup is gone")]
    Gone,
    /// The lease is not held any more: whatever this was, it is another's now.
    #[error("this process does not lead any more")]
    Fenced,
    /// Somebody else wrote the record.
    #[error("the status was changed by somebody else; starting afresh from what it says now")]
    Foreign,
    /// The spec that this was decided by is not in force any more.
    #[error("the spec was changed meanwhile; deciding afresh")]
    Outdated,
}

impl StatusError {
    /// The API server refuses it, and will in a second, too.
    pub fn is_lasting(&self) -> bool {
        let Self::Api(error) = self else { return false };
        let kube::Error::Api(status) = &**error else { return false };
        matches!(status.code, 400..=499) && !matches!(status.code, 409 | 429)
    }
}

impl From<kube::Error> for StatusError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

/// Bounds a call to the API server.
pub async fn bounded<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, StatusError> {
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(StatusError::Timeout),
    }
}

/// Reads the object afresh; an error if it is not the one with this uid.
pub async fn read(api: &Api<VmGroup>, name: &str, uid: &str) -> Result<VmGroup, StatusError> {
    let object = bounded(api.get_opt(name)).await?.ok_or(StatusError::Gone)?;
    if object.metadata.uid.as_deref() == Some(uid) { Ok(object) } else { Err(StatusError::Gone) }
}

/// Writes the whole status on top of `version`; returns the object's new one.
/// `before` is what the caller believes to be written there. With `decided_by`, a
/// generation of the spec, it is not written once there is another.
pub async fn write(
    api: &Api<VmGroup>,
    (name, uid): (&str, &str),
    before: &VmGroupStatus,
    status: &VmGroupStatus,
    version: &str,
    decided_by: Option<i64>,
) -> Result<String, StatusError> {
    let mut version = version.to_owned();
    for _ in 0..4 {
        let patch = json!({"metadata": {"uid": uid, "resourceVersion": version}, "status": status});
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        match bounded(api.patch_status(name, &params, &patch)).await {
            Ok(object) => return Ok(object.metadata.resource_version.unwrap_or_default()),
            Err(StatusError::Api(error)) if code(&error) == Some(404) => return Err(StatusError::Gone),
            Err(StatusError::Api(error)) if code(&error) == Some(409) => {
                let now = read(api, name, uid).await?;
                let found = now.status.unwrap_or_default();
                version = now.metadata.resource_version.unwrap_or_default();
                if found == *status {
                    // Our own write whose answer was lost.
                    return Ok(version);
                }
                if found != *before {
                    return Err(StatusError::Foreign);
                }
                if decided_by.is_some() && decided_by != now.metadata.generation {
                    return Err(StatusError::Outdated);
                }
            }
            Err(other) => return Err(other),
        }
    }
    Err(StatusError::Timeout)
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The record as it is written: everyone in a small group, those in motion in a
/// large one.
pub fn listed(record: Vec<MemberStatus>) -> Vec<MemberStatus> {
    if record.len() <= LISTED_LIMIT {
        return record;
    }
    record.into_iter().filter(|member| member.state != MemberState::Ready || member.stopping_since.is_some()).collect()
}

/// Whether two records hold the same intents: who is to be, and from what he is made,
/// who is to leave, who is to be changed, and since when whose guest is to shut down.
/// Only a change of these has to be written down before anything is done.
pub fn same_intents(a: &[MemberStatus], b: &[MemberStatus]) -> bool {
    let intent = |member: &MemberStatus| match member.state {
        MemberState::Planned | MemberState::Cloning => Some((None, member.revision.clone())),
        MemberState::Changing | MemberState::Leaving => Some((Some(member.state), None)),
        MemberState::Starting | MemberState::Ready => member.stopping_since.as_ref().map(|_| (None, None)),
    };
    // A name is part of the intent, but it never changes under its UUID.
    let before: HashMap<&str, &MemberStatus> = a.iter().map(|member| (member.uuid.as_str(), member)).collect();
    b.iter().filter(|member| intent(member).is_some()).all(|member| {
        before.get(member.uuid.as_str()).is_some_and(|before| {
            intent(before) == intent(member)
                && (member.stopping_since.is_none() || before.stopping_since == member.stopping_since)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::k8s_time;

    fn member(index: usize, state: MemberState) -> MemberStatus {
        MemberStatus {
            name: format!("a-group-with-a-long-name-replica-{index:08}"),
            uuid: format!("5029f2f4-5f44-43a5-a5bd-{index:012}"),
            state,
            host: Some("esx-0001.datacenter.example.com".into()),
            datastore: Some("a-datastore-with-a-name".into()),
            task: Some(format!("task-{index:06}")),
            reason: Some("a reason as long as reasons are that people read in an event".into()),
            stopping_since: Some(k8s_time(jiff::Timestamp::UNIX_EPOCH)),
            revision: Some("0123456789".into()),
            address: Some("2001:db8:1234:5678:9abc:def0:1234:5678".into()),
            waiting_since: Some(k8s_time(jiff::Timestamp::UNIX_EPOCH)),
            ready_since: Some(k8s_time(jiff::Timestamp::UNIX_EPOCH)),
        }
    }

    #[test]
    fn the_status_of_a_thousand_members_stays_small() {
        let ready = |index| MemberStatus { stopping_since: None, ..member(index, MemberState::Ready) };
        let mut record: Vec<_> = (0..950).map(ready).collect();
        record.extend((950..1000).map(|index| member(index, MemberState::Leaving)));
        let status = VmGroupStatus { members: listed(record), ..VmGroupStatus::default() };
        assert_eq!(status.members.len(), 50);
        let size = serde_json::to_string(&status).unwrap().len();
        assert!(size < 64 * 1024, "{size}");
    }

    #[test]
    fn a_new_member_and_a_new_victim_are_new_intents() {
        let member = |index, state| MemberStatus { stopping_since: None, ..member(index, state) };
        let before = vec![member(1, MemberState::Ready)];
        assert!(same_intents(&before, &[member(1, MemberState::Starting)]));
        assert!(!same_intents(&before, &[member(1, MemberState::Leaving)]));
        assert!(!same_intents(&before, &[member(1, MemberState::Ready), member(2, MemberState::Planned)]));
        assert!(same_intents(&[member(2, MemberState::Planned)], &[member(2, MemberState::Cloning)]));
        let stopping = MemberStatus {
            stopping_since: Some(k8s_time(jiff::Timestamp::UNIX_EPOCH)),
            ..member(3, MemberState::Leaving)
        };
        let leaving = [member(3, MemberState::Leaving)];
        assert!(!same_intents(&leaving, std::slice::from_ref(&stopping)), "since when is written before it is asked");
        assert!(same_intents(std::slice::from_ref(&stopping), std::slice::from_ref(&stopping)));
        assert!(!same_intents(&before, &[member(1, MemberState::Changing)]));
        assert!(!same_intents(&[member(1, MemberState::Changing)], &[member(1, MemberState::Leaving)]));
        let of = |revision: &str| MemberStatus { revision: Some(revision.into()), ..member(2, MemberState::Planned) };
        assert!(!same_intents(&[of("a")], &[of("b")]), "it is made from something else now");
    }
}

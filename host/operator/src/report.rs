//! The last step of a pass: the status, from what was applied and observed, not
//! from what was intended.
//!
//! Pure. Must not read or write anything.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use vmgroup_api::condition::{READY, RECONCILING, STALLED, Wanted, merge};
use vmgroup_api::{
    ConnectionStatus, FolderStatus, MemberState, MemberStatus, Phase, PolicyStatus, TagSpec, TargetSpec, VmGroupStatus,
};
use vmgroup_api::{HOLD_SCALE_IN_ANNOTATION, PROTECTED_MEMBERS_ANNOTATION};

use crate::apply::counted;
use crate::evacuation::Told;
use crate::memory::{Failure, Topic};
use crate::plan::rollout::Progress;
use crate::status::listed;
use crate::wake::GroupRef;

/// The abnormal-true condition: the policy file that was offered last is not in
/// force, because it was refused.
pub const POLICY_REFUSED: &str = "PolicyRefused";

/// The abnormal-true condition: machines are being adopted and are not members
/// yet. `vmgroup adopt` waits for it, and for its end.
pub const ADOPTING: &str = "Adopting";

/// The reason of a rollout that is held, because its members do not get ready.
pub const ROLLOUT_STALLED: &str = "RolloutStalled";

/// The abnormal-true condition: a new group of the namespace would be made in another
/// vCenter than the one that this group's machines are in.
pub const CONNECTION_DIFFERS: &str = "ConnectionDiffers";

/// The abnormal-true condition: members are on a host that is going into maintenance, and
/// nobody moves them away.
pub const HOST_LEAVING: &str = "HostLeaving";

/// The abnormal-true condition: the connections file that was offered last does not count,
/// because of a mistake in it.
pub const CONNECTIONS_REFUSED: &str = "ConnectionsRefused";

/// The abnormal-true condition: the spec names another target than the one that the
/// group has, and cannot get any more.
pub const TARGET_DIFFERS: &str = "TargetDiffers";

/// The abnormal-true condition: the user data of the group cannot be had. Its members
/// stand as they are, and nobody can be made.
pub const GUEST_DATA_MISSING: &str = "GuestDataMissing";

/// The reason of a group whose members' guests do not get ready in time.
pub const NOT_READY: &str = "NotReady";

/// What `lastMessage` says when all is well, as in the original.
pub const SUCCESS: &str = "successfully reconciled VmGroup";

/// Something that stands in the way of the whole group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// CamelCase.
    pub reason: String,
    /// What is the matter and what to do.
    pub message: String,
    /// It will not go away by itself.
    pub stalled: bool,
}

/// All that a status is made from.
pub struct Facts<'a> {
    /// The group's name.
    pub group: &'a GroupRef,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// The wished number of members; nothing if the spec is invalid.
    pub desired: Option<usize>,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// Members are released then, not destroyed.
    pub releasing: bool,
    /// The members after the pass; nothing if vCenter could not be looked at, and
    /// then what the status says of them stays.
    pub members: Option<&'a Members>,
    /// What went wrong and is tried again later.
    pub failures: &'a BTreeMap<Topic, Failure>,
    /// What stands in the way of everything.
    pub obstacle: Option<Obstacle>,
    /// The vCenter that its machines are in, to be recorded with the folder.
    pub connection: Option<ConnectionStatus>,
    /// How that differs from what a new group would get.
    pub differs: Option<String>,
    /// Why the connections file that was offered last does not count.
    pub connections_refused: Option<Arc<str>>,
    /// What counts of its target, to be recorded with the folder.
    pub destination: Option<TargetSpec>,
    /// What its spec says of that, and is refused.
    pub redirected: Option<String>,
    /// Why its user data cannot be had: a reason, and in words.
    pub lacking: Option<(String, String)>,
    /// Stage, problem and remedy of a refused policy file.
    pub refusal: Option<(&'static str, String)>,
    /// The policies in force.
    pub policies: Option<PolicyStatus>,
    /// What members were made as whose marks do not tell; nothing if the spec is invalid.
    pub baseline: Option<String>,
    /// What a change of the spec leads to.
    pub target: String,
    /// The restart that was asked for.
    pub restarted_at: Option<String>,
    /// Now.
    pub now: Time,
}

/// The members after a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The record.
    pub record: Vec<MemberStatus>,
    /// How many virtual machines there are.
    pub existing: usize,
    /// The folder.
    pub folder: Option<FolderStatus>,
    /// Instance UUIDs of those who are to be adopted and are no members yet.
    pub to_be_adopted: Vec<String>,
    /// How many have not got the custom attributes that they are to have.
    pub unannotated: usize,
    /// Names of custom attributes that members may have from us.
    pub attributes: Option<Vec<String>>,
    /// How many have not got the tags that they are to have.
    pub untagged: usize,
    /// Tags that members may have from us.
    pub tags: Option<Vec<TagSpec>>,
    /// Members too many that stay, and why.
    pub held_back: Option<String>,
    /// Who is on a host that is going into maintenance, and is not moved.
    pub stranded: Option<Told>,
    /// How far the change that the spec asks for has come.
    pub progress: Progress,
    /// Who is not ready in time, each with what is missing of it.
    pub late: Vec<String>,
}

impl Members {
    /// All are there, ready, and as far as may be as the spec says.
    fn as_wished(&self, desired: usize) -> bool {
        self.count(MemberState::Ready) == desired
            && self.record.len() == desired
            && self.progress.pending + self.unannotated + self.untagged == 0
    }

    fn count(&self, state: MemberState) -> usize {
        self.record.iter().filter(|member| member.state == state).count()
    }

    /// What those who stand are to be given yet: the reason, and in words.
    fn to_be_given(&self) -> Option<(&'static str, String)> {
        match (self.unannotated, self.untagged) {
            (0, 0) => None,
            (0, left) => Some(("Tagging", format!("{} to be given the tags of the spec", counted(left, "member")))),
            (left, _) => {
                let message = format!("{} to be given the custom attributes of the spec", counted(left, "member"));
                Some(("Annotating", message))
            }
        }
    }

    /// That guests are waited for, as the end of a sentence.
    fn shutting_down(&self) -> String {
        match self.record.iter().filter(|member| member.stopping_since.is_some()).count() {
            0 => String::new(),
            count => format!("; waiting for {} to shut down", counted(count, "guest")),
        }
    }
}

/// The status after a pass.
pub fn status(old: &VmGroupStatus, facts: &Facts<'_>) -> VmGroupStatus {
    let as_wished = |members: &Members| facts.desired.is_some_and(|desired| members.as_wished(desired));
    let done = facts.members.is_some_and(as_wished);
    let rollout = facts.members.map_or_else(
        || old.rollout.clone(),
        |members| {
            let complete = facts.deleting || done;
            members.progress.record(old.rollout.as_ref(), &facts.target, complete, &facts.now)
        },
    );
    let verdict = verdict(old, facts, rollout.is_some());
    let number = |count: usize| Some(i32::try_from(count).unwrap_or(i32::MAX));
    let (current, ready, members, folder) = match facts.members {
        Some(members) => (
            number(members.existing),
            number(members.count(MemberState::Ready)),
            listed(members.record.clone()),
            members.folder.clone(),
        ),
        None => {
            (old.current_replicas.or(Some(0)), old.ready_replicas.or(Some(0)), old.members.clone(), old.folder.clone())
        }
    };
    let mut wanted = vec![Wanted {
        type_: READY,
        status: if verdict.phase == Phase::Running { "True" } else { "False" },
        reason: verdict.reason.clone(),
        message: verdict.message.clone(),
    }];
    let mut abnormal = |type_, reason: &str, message: &str| {
        wanted.push(Wanted { type_, status: "True", reason: reason.to_owned(), message: message.to_owned() });
    };
    match verdict.phase {
        Phase::Running => {}
        Phase::Pending => abnormal(RECONCILING, &verdict.reason, &verdict.message),
        Phase::Error => abnormal(STALLED, &verdict.reason, &verdict.message),
    }
    let adopting = match facts.members {
        Some(members) if members.to_be_adopted.is_empty() => None,
        Some(members) => Some(format!(
            "waits for {} to become members, and makes and removes nobody for them: {}",
            counted(members.to_be_adopted.len(), "adopted machine"),
            members.to_be_adopted.join(", ")
        )),
        // Not looked at: it stays as it was told last.
        None => told(old, ADOPTING).map(|(_, message)| message),
    };
    if let Some(message) = &adopting {
        abnormal(ADOPTING, "Adopting", message);
    }
    let stranded = if let Some(members) = facts.members {
        members.stranded.as_ref().map(|told| (told.reason.to_owned(), told.message.clone()))
    } else {
        // Not looked at, as above.
        told(old, HOST_LEAVING)
    };
    if let Some((reason, message)) = &stranded {
        abnormal(HOST_LEAVING, reason, message);
    }
    if let Some((reason, message)) = &facts.refusal {
        abnormal(POLICY_REFUSED, reason, message);
    }
    if let Some((reason, message)) = &facts.lacking {
        abnormal(GUEST_DATA_MISSING, reason, message);
    }
    if let Some(message) = &facts.differs {
        abnormal(CONNECTION_DIFFERS, "MappingChanged", message);
    }
    if let Some(why) = &facts.connections_refused {
        let message =
            format!("the connections file that was offered last does not count, and what counted before does: {why}");
        abnormal(CONNECTIONS_REFUSED, CONNECTIONS_REFUSED, &message);
    }
    if let Some(message) = &facts.redirected {
        abnormal(TARGET_DIFFERS, "TargetChanged", message);
    }
    let target = if old.folder.is_some() { &old.target } else { &facts.destination };
    let target = target.clone().filter(|_| folder.is_some());
    let connection = facts.connection.clone().filter(|_| folder.is_some()).or_else(|| old.connection.clone());
    VmGroupStatus {
        phase: Some(verdict.phase),
        current_replicas: current,
        desired_replicas: facts.desired.map_or(old.desired_replicas, number),
        ready_replicas: ready,
        updated_replicas: facts.members.map_or(old.updated_replicas, |members| number(members.progress.updated)),
        last_message: Some(verdict.message),
        observed_generation: facts.generation,
        selector: Some(format!("vmgroup={}", facts.group.name)),
        conditions: merge(&old.conditions, &wanted, facts.generation, &facts.now),
        folder,
        connection,
        target,
        members,
        policies: facts.policies.clone().or_else(|| old.policies.clone()),
        baseline: old.baseline.clone().or_else(|| facts.baseline.clone()),
        custom_attributes: facts
            .members
            .map_or_else(|| old.custom_attributes.clone(), |members| members.attributes.clone()),
        tags: facts.members.map_or_else(|| old.tags.clone(), |members| members.tags.clone()),
        restarted_at: if done { facts.restarted_at.clone() } else { old.restarted_at.clone() },
        rollout,
    }
}

struct Verdict {
    phase: Phase,
    reason: String,
    message: String,
}

fn verdict(old: &VmGroupStatus, facts: &Facts<'_>, updating: bool) -> Verdict {
    let say = |phase, reason: &str, message: String| Verdict { phase, reason: reason.to_owned(), message };
    if let Some(obstacle) = &facts.obstacle {
        let phase = if obstacle.stalled { Phase::Error } else { Phase::Pending };
        let message =
            if facts.deleting { format!("deletion waits: {}", obstacle.message) } else { obstacle.message.clone() };
        return say(phase, &obstacle.reason, message);
    }
    let Some(members) = facts.members else {
        return say(Phase::Pending, "Waiting", old.last_message.clone().unwrap_or_default());
    };
    let desired = facts.desired.unwrap_or_default();
    let (ready, leaving) = (members.count(MemberState::Ready), members.count(MemberState::Leaving));
    let making = members.count(MemberState::Planned) + members.count(MemberState::Cloning);
    let progress = &members.progress;
    if updating && progress.stuck && !facts.deleting {
        let why = worst(facts.failures).map(|failure| format!(": {}", failure.message)).unwrap_or_default();
        let (what, way_back) =
            if progress.evacuation { ("evacuation", "") } else { ("rollout", "; changing the spec back rolls back") };
        let message = format!(
            "the {what} has come no further for too long and is held: {ready} of {desired} members are ready, {} as the spec says; not ready: {}{why}. It goes on when they are{way_back}",
            progress.updated,
            some(&progress.late),
        );
        return say(Phase::Error, ROLLOUT_STALLED, message);
    }
    if let Some(failure) = worst(facts.failures) {
        let phase = if failure.stalled { Phase::Error } else { Phase::Pending };
        return say(phase, &failure.reason, failures(members, desired, facts, failure));
    }
    if facts.deleting {
        let left = counted(members.existing, "virtual machine");
        let verb = if facts.releasing { "releasing" } else { "deleting" };
        let message = format!("{verb}: {left} left in vCenter{}", members.shutting_down());
        return say(Phase::Pending, "Deleting", message);
    }
    if !members.late.is_empty() {
        let message = format!(
            "{ready} of {desired} members are ready; not within spec.readiness.timeoutSeconds: {}. They are waited for",
            some(&members.late),
        );
        return say(Phase::Error, NOT_READY, message);
    }
    if members.as_wished(desired) {
        let mut message = SUCCESS.to_owned();
        if !progress.left.is_empty() {
            let _ = write!(
                message,
                "; {} not as the spec says and left so (updateStrategy OnDelete, protected, or on a host that is going into maintenance): {}",
                counted_are(progress.left.len()),
                some(&progress.left),
            );
        }
        if let Some(told) = &members.stranded {
            let _ = write!(message, "; {}", told.message);
        }
        return say(Phase::Running, "AsWished", message);
    }
    if let Some(message) = members.held_back.as_ref().filter(|_| leaving == 0) {
        return say(Phase::Pending, "ScaleInHeld", message.clone());
    }
    if updating && progress.evacuation {
        let message = format!(
            "evacuating hosts that are going into maintenance: {} left to be replaced, {ready} of {desired} members are ready, {leaving} leaving, {making} being made{}",
            progress.pending,
            members.shutting_down(),
        );
        return say(Phase::Pending, "Evacuating", message);
    }
    if updating {
        let message = format!(
            "updating: {} of {desired} members are as the spec says, {ready} are ready, {leaving} leaving, {} being changed, {making} being made{}",
            progress.updated,
            members.count(MemberState::Changing),
            members.shutting_down(),
        );
        return say(Phase::Pending, "Updating", message);
    }
    let starting = members.count(MemberState::Starting);
    if leaving > 0 || members.record.len() > desired {
        let message = format!(
            "scaling in to {desired}: {} to go, {leaving} leaving now{}",
            members.existing.saturating_sub(desired),
            members.shutting_down()
        );
        return say(Phase::Pending, "ScalingIn", message);
    }
    if members.record.len() == desired && making == 0 && starting > 0 {
        let stranded = members.stranded.as_ref().map(|told| format!("; {}", told.message)).unwrap_or_default();
        let message = format!("starting {}: {ready} of {desired} are ready{stranded}", counted(starting, "member"));
        return say(Phase::Pending, "Starting", message);
    }
    if let Some((reason, message)) = members.to_be_given().filter(|_| members.record.len() == desired && making == 0) {
        return say(Phase::Pending, reason, message);
    }
    say(Phase::Pending, "ScalingOut", format!("{ready} of {desired} members are ready, {making} being made"))
}

/// What was told last in a condition that is there only while it is true: the reason, and
/// in words.
pub fn told(status: &VmGroupStatus, type_: &str) -> Option<(String, String)> {
    let told = status.conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((told.reason.clone(), told.message.clone()))
}

/// Why so many members stay that are too many; nothing if none does.
pub fn held_back(count: usize, replicas: usize, by_annotation: bool) -> Option<String> {
    let why = match (count, by_annotation) {
        (0, _) => return None,
        (_, true) => format!("scale-in is held by the annotation {HOLD_SCALE_IN_ANNOTATION}; remove it to go on"),
        (_, false) => format!(
            "protected, by the annotation {PROTECTED_MEMBERS_ANNOTATION} or by vmgroup.attr.protected in their extraConfig"
        ),
    };
    Some(format!("{} more than {replicas}, and nobody leaves: {why}", counted(count, "member")))
}

/// The failure to tell first: one that needs a hand before one that passes,
/// then the one that was tried most often.
fn worst(failures: &BTreeMap<Topic, Failure>) -> Option<&Failure> {
    failures.values().max_by_key(|failure| (failure.stalled, failure.attempts))
}

fn failures(members: &Members, desired: usize, facts: &Facts<'_>, worst: &Failure) -> String {
    let failed: Vec<&str> = facts
        .failures
        .keys()
        .filter_map(|topic| match topic {
            Topic::Member(uuid) => {
                members.record.iter().find(|member| member.uuid == *uuid).map(|member| member.name.as_str())
            }
            _ => None,
        })
        .collect();
    if failed.is_empty() {
        return worst.message.clone();
    }
    let ready = members.count(MemberState::Ready);
    format!(
        "{ready} of {desired} members are ready; {} tried again later ({}): {}",
        counted(failed.len(), "member"),
        some(&failed),
        worst.message
    )
}

/// The first of them, and how many more there are.
pub(crate) fn some(names: &[impl AsRef<str>]) -> String {
    let shown = names.iter().take(5).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{shown} and {} more", names.len() - 5) } else { shown }
}

fn counted_are(count: usize) -> String {
    format!("{} {}", counted(count, "member"), if count == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(index: usize, state: MemberState) -> MemberStatus {
        MemberStatus::new(format!("m{index}"), format!("u{index}"), state)
    }

    fn facts<'a>(
        group: &'a GroupRef,
        members: &'a Members,
        failures: &'a BTreeMap<Topic, Failure>,
        desired: usize,
    ) -> Facts<'a> {
        Facts {
            group,
            generation: Some(3),
            desired: Some(desired),
            deleting: false,
            releasing: false,
            members: Some(members),
            failures,
            obstacle: None,
            connection: None,
            differs: None,
            connections_refused: None,
            destination: None,
            redirected: None,
            lacking: None,
            refusal: None,
            policies: None,
            baseline: Some("r.1.1024".into()),
            target: "r.1.1024".into(),
            restarted_at: None,
            now: serde_json::from_value(serde_json::json!("2026-01-01T00:00:00Z")).unwrap(),
        }
    }

    fn types(status: &VmGroupStatus) -> Vec<(&str, &str)> {
        status.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect()
    }

    #[test]
    fn running_only_when_everything_is_as_wished() {
        let group = GroupRef { namespace: "n".into(), name: "g".into() };
        let none = BTreeMap::new();
        let two = Members {
            record: vec![member(1, MemberState::Ready), member(2, MemberState::Ready)],
            existing: 2,
            ..Members::default()
        };
        let new = status(&VmGroupStatus::default(), &facts(&group, &two, &none, 2));
        assert_eq!(
            (new.phase, new.current_replicas, new.last_message.as_deref()),
            (Some(Phase::Running), Some(2), Some(SUCCESS))
        );
        assert_eq!(types(&new), [(READY, "True")]);
        assert_eq!(new.selector.as_deref(), Some("vmgroup=g"));
        for desired in [1, 3] {
            let other = status(&new, &facts(&group, &two, &none, desired));
            assert_eq!(types(&other), [(READY, "False"), (RECONCILING, "True")]);
        }
    }

    #[test]
    fn l8_the_failed_are_named_and_the_others_counted() {
        let group = GroupRef { namespace: "n".into(), name: "g".into() };
        let members = Members {
            record: vec![member(1, MemberState::Ready), member(2, MemberState::Planned)],
            existing: 1,
            ..Members::default()
        };
        let failure = Failure {
            attempts: 2,
            until: jiff::Timestamp::UNIX_EPOCH,
            reason: "NoCapacity".into(),
            message: "NoDiskSpace: datastore LocalDS_0".into(),
            stalled: false,
        };
        let failures = BTreeMap::from([(Topic::Member("u2".into()), failure)]);
        let new = status(&VmGroupStatus::default(), &facts(&group, &members, &failures, 2));
        let message = new.last_message.clone().unwrap();
        assert!(
            message.contains("1 of 2 members are ready") && message.contains("m2") && message.contains("LocalDS_0"),
            "{message}"
        );
        assert_eq!(new.phase, Some(Phase::Pending));
    }

    #[test]
    fn a_stalled_group_is_in_error_and_a_refused_policy_is_told() {
        let group = GroupRef { namespace: "n".into(), name: "g".into() };
        let (members, none) = (Members::default(), BTreeMap::new());
        let mut facts = facts(&group, &members, &none, 2);
        facts.obstacle =
            Some(Obstacle { reason: "VCenterLoginRefused".into(), message: "check".into(), stalled: true });
        facts.refusal = Some(("PolicyRefused", "stage parse".into()));
        let new = status(&VmGroupStatus::default(), &facts);
        assert_eq!(types(&new), [(READY, "False"), (STALLED, "True"), (POLICY_REFUSED, "True")]);
        assert_eq!(new.phase, Some(Phase::Error));
    }
}

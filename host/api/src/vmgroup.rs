//! The custom resource `VmGroup`, `vm.codeconnect.vmworld.com/v1alpha1`.
//!
//! Must not know how a group is reconciled: only what its users write and read.

#![allow(clippy::duplicated_attributes, reason = "a print column an attribute: kube's derive is spelt so")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::change::UpdateStrategy;
use crate::readiness::Readiness;

/// A group that has its folder stays where that is. Before that its target may be
/// corrected: nothing has been made there.
const TARGET_STAYS: &str = "!has(oldSelf.status) || !has(oldSelf.status.folder) || (has(self.spec.target) == has(oldSelf.spec.target) && (!has(self.spec.target) || self.spec.target == oldSelf.spec.target))";

/// A group of virtual machines of the same kind.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "vm.codeconnect.vmworld.com",
    version = "v1alpha1",
    kind = "VmGroup",
    plural = "vmgroups",
    singular = "vmgroup",
    shortname = "vg",
    namespaced,
    status = "VmGroupStatus",
    derive = "PartialEq",
    doc = "A group of virtual machines in vCenter: cloned from one template into a folder of their own, named, placed and chosen for scale-in by the policies in force.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.currentReplicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Current", type_ = "integer", json_path = ".status.currentReplicas"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desiredReplicas"),
    printcolumn(name = "CPU", type_ = "integer", json_path = ".spec.cpu"),
    printcolumn(name = "Memory", type_ = "integer", json_path = ".spec.memory"),
    printcolumn(name = "Template", type_ = "string", json_path = ".spec.template"),
    printcolumn(name = "Last_Message", type_ = "string", json_path = ".status.lastMessage"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", priority = 1),
    validation = Rule::new(TARGET_STAYS)
        .message("spec.target of a group that has its folder cannot be changed, added or removed: its machines stay where they are. Make another group with the new target and delete this one")
        .reason(Reason::FieldValueForbidden)
        .field_path(".spec.target")
)]
#[serde(rename_all = "camelCase")]
pub struct VmGroupSpec {
    /// Virtual CPUs of each member: 1 to 768. A member that stands gets more while it
    /// runs where it is set up for that (hot-add), and is powered off for a moment
    /// where not, see `updateStrategy`.
    #[x_kube(
        validation = Rule::new("self >= 1 && self <= 768").message("cpu must be 1 to 768 virtual CPUs: change spec.cpu")
    )]
    pub cpu: i32,

    /// Memory of each member in GB: 1 to 24576. It is changed as `cpu` is.
    #[x_kube(
        validation = Rule::new("self >= 1 && self <= 24576").message("memory must be 1 to 24576 GB: change spec.memory (the unit is GB)")
    )]
    pub memory: i32,

    /// How many virtual machines the group has: 0 to 1000.
    #[x_kube(validation = Rule::new("self >= 0 && self <= 1000").message("replicas must be 0 to 1000: split a larger group into several VmGroups"))]
    pub replicas: i32,

    /// The template that members are cloned from: its name, unique in the
    /// datacenter, or its inventory path (`/DC0/vm/templates/small`). Members that
    /// were made from another one are replaced, see `updateStrategy`.
    #[schemars(length(max = 400))]
    #[x_kube(
        validation = Rule::new("size(self) >= 1").message("template must not be empty: give the name or the inventory path of a VM template in vCenter")
    )]
    pub template: String,

    /// How members are cloned: `full` copies the template's disks; `linked` begins with
    /// its current snapshot and stores what differs, which takes seconds and little
    /// space, and needs a template with a snapshot that stays as long as they do.
    /// `full` if it is not given. A change is for members that are yet to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone_mode: Option<CloneMode>,

    /// How long a member that leaves, or is restarted, has to shut down: 0 to 86400
    /// seconds; 60 if it is not given. Its guest is asked to (where VMware Tools
    /// run), and when the time is up it is powered off the hard way. With 0 it is
    /// so at once, as the first version did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 86400").message("gracePeriodSeconds must be 0 to 86400 (a day): change spec.gracePeriodSeconds; 0 powers members off without asking their guests"))]
    pub grace_period_seconds: Option<i32>,

    /// What becomes of the members when the group is deleted: `Delete` (also if it is
    /// not given) destroys them, `Retain` releases them: they stay in vCenter as they
    /// are, and are nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,

    /// What becomes of members on a host that is going into maintenance while nobody moves
    /// them away (DRS is off, or not fully automated): `None` (also if it is not given)
    /// names them in the condition `HostLeaving`; `Replace` replaces them, as many at a
    /// time as `updateStrategy` says, by successors on other hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evacuation: Option<Evacuation>,

    /// How a change of cpu, memory or template reaches the members that stand. If
    /// it is not given, one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,

    /// When a member counts as ready. If it is not given, when it is powered on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,

    /// For how long a member has to be ready without a break before it counts as ready:
    /// 0 to 86400 seconds; 0 if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 86400").message("minReadySeconds must be 0 to 86400 (a day): change spec.minReadySeconds"))]
    pub min_ready_seconds: Option<i32>,

    /// How long a change may take to get one more member ready: 1 to 604800 seconds;
    /// 600 if it is not given. After that `Stalled` says `RolloutStalled`, and nobody
    /// else is taken down until the missing ones are ready, or the spec is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 604800").message("progressDeadlineSeconds must be 1 to 604800 (a week): change spec.progressDeadlineSeconds"))]
    pub progress_deadline_seconds: Option<i32>,

    /// What the guests are told about themselves. A change replaces the
    /// members that stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestSpec>,

    /// The networks of the members, a card for each, instead of the template's cards;
    /// at most 10. A change replaces the members that stand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub networks: Vec<NetworkSpec>,

    /// Custom attributes of the members in vCenter, values by name; at most 20. The
    /// attributes have to be defined there. A change reaches the members that stand while
    /// they run; what somebody else sets under these names is set back, other attributes
    /// are left alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "attributes")]
    #[x_kube(validation = Rule::new("self.all(name, size(name) >= 1 && size(name) <= 80)").message("a name in customAttributes has 1 to 80 characters: correct spec.customAttributes"))]
    pub custom_attributes: BTreeMap<String, String>,

    /// Tags of the members in vCenter; at most 20. The tags have to be there, in
    /// categories for virtual machines. A change reaches the members that stand while they
    /// run; a tag that is no longer named is taken off them, and others are left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub tags: Vec<TagSpec>,

    /// Disks that the members have besides the template's, thin provisioned, beside
    /// the machine's other files; at most 14. A change replaces the members
    /// that stand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 14))]
    pub disks: Vec<DiskSpec>,

    /// Where the members go, among what the group's namespace may use; what is not
    /// given is left to the policies. Once the group has its folder in vCenter it cannot
    /// be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetSpec>,
}

/// Where the members of a group go. Each is one of those that the administrator lets
/// the namespace use, by its name or inventory path in vCenter.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.cluster) && has(self.pool))").message("target has both cluster and pool: a pool is of one cluster, so give the pool alone"))]
pub struct TargetSpec {
    /// A vCenter: a connection that serves the namespace, by its name in the
    /// connections file. The first of them if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub connection: Option<String>,
    /// A cluster, or a host that stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 400))]
    pub cluster: Option<String>,
    /// A resource pool. Not together with `cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 400))]
    pub pool: Option<String>,
    /// A datastore, or a datastore cluster, of which the placement policy chooses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 400))]
    pub datastore: Option<String>,
    /// The folder in which the group gets its own: a path below the operator's root
    /// folder, such as `team-a/web`. It has to be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 400))]
    #[x_kube(
        validation = Rule::new("self.matches('^[^/]+(/[^/]+)*$') && !self.matches('(^|/)[.][.]?(/|$)')").message("target.folder must be a path below the operator's root folder, such as team-a/web: without / at its ends, and without . and .. in it")
    )]
    pub folder: Option<String>,
}

/// Values that vCenter takes, by name.
fn attributes(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 20,
        "additionalProperties": { "type": "string", "minLength": 1, "maxLength": 255 },
    })
}

/// What guests are told about themselves: one of the two.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.cloudInit) && has(self.customizationSpec))").message("guest has both cloudInit and customizationSpec: keep the one that the template is made for"))]
pub struct GuestSpec {
    /// cloud-init, through `guestinfo`: instance-id and local-hostname for each
    /// member, and user data if it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<CloudInitSpec>,
    /// The name of a customization specification in vCenter, which it applies at the
    /// first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub customization_spec: Option<String>,
}

/// What cloud-init is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloudInitSpec {
    /// User data, at most 64 KiB. When it changes where it lies, the members that stand
    /// are replaced, see `updateStrategy`. `${VMGROUP_NAME}`, `${VMGROUP_HOSTNAME}`,
    /// `${VMGROUP_UUID}`, `${VMGROUP_GROUP}` and `${VMGROUP_NAMESPACE}` in it become
    /// the member's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<DataSource>,
}

/// Where data comes from: one of the two, in the group's namespace.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretKeyRef) != has(self.configMapKeyRef)").message("userData needs exactly one of secretKeyRef and configMapKeyRef"))]
pub struct DataSource {
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    /// A key of a `ConfigMap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// A key of an object in the group's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRef {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A network that members are connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkSpec {
    /// Its name in vCenter, unique in the datacenter: a standard network, a
    /// distributed port group, or an opaque network.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
}

/// A tag in vCenter.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagSpec {
    /// The name of its category: 1 to 256 characters.
    #[schemars(length(min = 1, max = 256))]
    pub category: String,
    /// Its own name: 1 to 256 characters.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
}

/// A disk that members have besides the template's.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Its size in GiB: 1 to 63488.
    #[serde(rename = "sizeGiB")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 63488").message("sizeGiB of a disk must be 1 to 63488"))]
    pub size_gib: i32,
}

/// What becomes of the members when their group is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They are destroyed.
    Delete,
    /// They are released.
    Retain,
}

/// What becomes of members on a host that is going into maintenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Evacuation {
    /// They are named.
    None,
    /// They are replaced.
    Replace,
}

/// Where the group stands. Written by the operator alone.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmGroupStatus {
    /// The short form of the conditions: RUNNING when everything is as wished,
    /// PENDING on the way there, ERROR when it cannot go on by itself.
    #[serde(default)]
    pub phase: Option<Phase>,

    /// Members that exist in vCenter now, those about to leave included.
    #[serde(default)]
    pub current_replicas: Option<i32>,

    /// The number of members that was last worked towards.
    #[serde(default)]
    pub desired_replicas: Option<i32>,

    /// Members that are powered on, ready, and stay.
    #[serde(default)]
    pub ready_replicas: Option<i32>,

    /// Members that exist, stay, and are as the spec says.
    #[serde(default)]
    pub updated_replicas: Option<i32>,

    /// One sentence for people.
    #[serde(default)]
    pub last_message: Option<String>,

    /// The `metadata.generation` that this status is about.
    #[serde(default)]
    pub observed_generation: Option<i64>,

    /// The selector of the scale subresource: `vmgroup=<name>`.
    #[serde(default)]
    pub selector: Option<String>,

    /// `Ready`, and while they hold `Reconciling` and `Stalled`, by kstatus's rules.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// The folder of the group in vCenter.
    #[serde(default)]
    pub folder: Option<FolderStatus>,

    /// The vCenter that the group's machines are in. It stays that one for the life of
    /// the group, whatever the connections file says of its namespace later.
    #[serde(default)]
    pub connection: Option<ConnectionStatus>,

    /// What `spec.target` said when the group got its folder. The group stays there,
    /// whatever the spec says later.
    #[serde(default)]
    pub target: Option<TargetSpec>,

    /// Members: in a small group all of them, in a large one those in motion
    /// (being made, changed or removed), while the rest is counted.
    #[serde(default)]
    pub members: Vec<MemberStatus>,

    /// The policies that the last pass asked or would have asked.
    #[serde(default)]
    pub policies: Option<PolicyStatus>,

    /// What members were made as that do not say so themselves (`REVISION.CPUS.MIB`):
    /// those of an operator that knew no revisions. What the spec said when it was
    /// seen first.
    #[serde(default)]
    pub baseline: Option<String>,

    /// The restart that all members have seen: what the annotation
    /// `vm.codeconnect.vmworld.com/restartedAt` said when the last of them was ready.
    #[serde(default)]
    pub restarted_at: Option<String>,

    /// Names of custom attributes that members may have from `spec.customAttributes`,
    /// of now or before: those that it names no more are taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_attributes: Option<Vec<String>>,

    /// Tags that members may have from `spec.tags`, of now or before: those that it names
    /// no more are taken off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<TagSpec>>,

    /// The change that is being rolled out.
    #[serde(default)]
    pub rollout: Option<RolloutStatus>,
}

/// A change on its way through the members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// What it leads to (`REVISION.CPUS.MIB`, and the restart).
    pub target: String,
    /// Members that are as the spec says and ready.
    pub updated: i32,
    /// When one of them got ready last, or one that was not was taken down for it.
    pub progressed_at: Time,
}

/// How a member's disks come from the template's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CloneMode {
    /// As copies.
    #[default]
    Full,
    /// As what differs from the template's current snapshot.
    Linked,
}

/// The short form of a group's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Phase {
    /// Everything is as wished.
    Running,
    /// On the way there.
    Pending,
    /// Needs a hand; the conditions say what to do.
    Error,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Running, Self::Pending, Self::Error];

    /// As in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Pending => "PENDING",
            Self::Error => "ERROR",
        }
    }
}

/// The folder of a group in vCenter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FolderStatus {
    /// Its name under the operator's root folder. Kept for the life of the group.
    pub name: String,
    /// Its managed object reference, once it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// The vCenter of a group. What it has not is written as `null`: the status is merged
/// into what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionStatus {
    /// Its name in the connections file; none: it is the only one, and was given to the
    /// operator without a name.
    #[serde(default)]
    pub name: Option<String>,
    /// vCenter's own identity (`about.instanceUuid`), as far as it is known: nothing is
    /// done in another one.
    #[serde(default)]
    pub instance_uuid: Option<String>,
    /// The datacenter that its folder and machines are in, as far as it is known:
    /// nothing is done in another one.
    #[serde(default)]
    pub datacenter: Option<DatacenterStatus>,
}

/// The datacenter of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatacenterStatus {
    /// What it was called when the group came there.
    pub name: String,
    /// Its managed object reference.
    pub id: String,
}

/// One member of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its name in vCenter.
    pub name: String,
    /// Its instance UUID: its identity from before it exists until after it is gone.
    pub uuid: String,
    /// What it is doing.
    pub state: MemberState,
    /// The host that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The datastore that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<String>,
    /// The vCenter task that is working on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Why: the policy's words, or what went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when its guest is to shut down. When `spec.gracePeriodSeconds` are
    /// over and it has not, it is powered off the hard way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping_since: Option<Time>,
    /// Stands for what only a replacement can change, the template first of all.
    /// Those of one revision were made from the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The address that its guest has told of first, where `spec.readiness` asks guests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Since when it is powered on and waited for to be ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Time>,
    /// Since when it is ready, while that is not `spec.minReadySeconds` yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_since: Option<Time>,
}

impl MemberStatus {
    /// A member of which no more is known than this.
    pub fn new(name: impl Into<String>, uuid: impl Into<String>, state: MemberState) -> Self {
        Self {
            name: name.into(),
            uuid: uuid.into(),
            state,
            host: None,
            datastore: None,
            task: None,
            reason: None,
            stopping_since: None,
            revision: None,
            address: None,
            waiting_since: None,
            ready_since: None,
        }
    }
}

/// What a member is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum MemberState {
    /// Named and written down; its clone has not been seen to begin.
    Planned,
    /// Being cloned.
    Cloning,
    /// Exists, and is being powered on, or is not ready yet.
    Starting,
    /// Exists, is powered on, and ready by `spec.readiness`.
    Ready,
    /// Chosen to be changed: its guest is shut down, it is powered off, changed, and
    /// powered on again.
    Changing,
    /// Chosen to leave: its guest is shut down, it is powered off and destroyed.
    Leaving,
}

impl MemberState {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 6] =
        [Self::Planned, Self::Cloning, Self::Starting, Self::Ready, Self::Changing, Self::Leaving];

    /// As in the status and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "Planned",
            Self::Cloning => "Cloning",
            Self::Starting => "Starting",
            Self::Ready => "Ready",
            Self::Changing => "Changing",
            Self::Leaving => "Leaving",
        }
    }
}

/// The policies that serve a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyStatus {
    /// Gives names.
    pub naming: PolicyInForce,
    /// Chooses places.
    pub placement: PolicyInForce,
    /// Chooses who leaves.
    pub scaling: PolicyInForce,
}

/// One policy, exactly. What it has not is written as `null`: the status is merged
/// into what is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyInForce {
    /// The plugin as the policy file names it.
    pub plugin: String,
    /// Its own version.
    pub version: String,
    /// `sha256:` and the hash of its bytes.
    pub digest: String,
    /// The entry under `groups` of the policy file that has it serve this group;
    /// none: it serves whom no entry selects.
    #[serde(default)]
    pub rule: Option<String>,
    /// The ConfigMap of the group's own namespace that it is from, as
    /// `namespace/name`; none: it is the administrator's.
    #[serde(default)]
    pub config_map: Option<String>,
}

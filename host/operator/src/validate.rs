//! Parses a `VmGroup` into what the rest of a pass works with: types in which a
//! wrong state cannot be written down.
//!
//! The API server checks the same bounds by the CEL rules of the CRD; here they
//! are checked again, because a CRD can be older than the operator.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use vmgroup_api::{
    ADOPTING_ANNOTATION, CloneMode, DataSource, DeletionPolicy, DiskSpec, Evacuation, HOLD_SCALE_IN_ANNOTATION, KeyRef,
    ORPHAN_ANNOTATION, Orphan, POLICY_ANNOTATION_PREFIX, PROTECTED_MEMBERS_ANNOTATION, RESTARTED_AT_ANNOTATION,
    TagSpec, TargetSpec, VmGroup, VmGroupSpec,
};

use serde::Serialize;
use vmgroup_vsphere::{TagName, TagRef};

use crate::guest::{DataMark, DataRef};
use crate::observe::Seen;
use crate::policy_source::Who;
use crate::readiness::{self, Terms};
use crate::revision::{Made, MadeFrom};
use crate::strategy::Strategy;
use crate::wake::GroupRef;

/// The most members a group may have.
pub const MAX_REPLICAS: usize = 1000;

/// The most virtual CPUs of a member.
const MOST_CPUS: i32 = 768;

/// The most memory of a member, in GB.
const MOST_MEMORY: i32 = 24_576;

/// The longest that a guest may be given to shut down, in seconds.
const LONGEST_GRACE: i32 = 86_400;

/// How long a guest has to shut down if the group does not say, in seconds.
const GRACE: i32 = 60;

/// As much as is kept of the annotation that asks for a restart, in characters.
const RESTART_LIMIT: usize = 64;

/// How long a change may take to come further if the group does not say, in seconds.
const PROGRESS_DEADLINE: i32 = 600;

/// A group as its user wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a wish of its own")]
pub struct Desired {
    /// Its name in Kubernetes.
    pub group: GroupRef,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Annotations meant for policies, prefix removed.
    pub attributes: BTreeMap<String, String>,
    /// Instance UUIDs, in lower case, of machines that are about to be adopted.
    pub adopting: BTreeSet<String>,
    /// Virtual CPUs of each member.
    pub cpus: u32,
    /// Memory of each member in MiB.
    pub memory_mib: u64,
    /// How many members; none while the group is being deleted.
    pub replicas: usize,
    /// Template name or inventory path.
    pub template: String,
    /// Members share disks with the template's current snapshot.
    pub linked: bool,
    /// How long guests have to shut down; zero: they are not asked to.
    pub grace: Duration,
    /// Custom attributes that members are to have in vCenter, by name.
    pub custom_attributes: BTreeMap<String, String>,
    /// The same by the keys of their definitions, as far as they are known and there;
    /// empty for those that are to be taken away.
    pub fields: BTreeMap<i32, String>,
    /// Tags that members are to have in vCenter.
    pub tags: BTreeSet<TagName>,
    /// The same by their references, as far as they are there, and those that are to be
    /// taken off; nothing: it is not known at present.
    pub tagging: Option<BTreeMap<TagRef, TagWish>>,
    /// How members are made, besides template, cpus and memory.
    pub make: Make,
    /// Nobody leaves for a smaller count at present.
    pub hold_scale_in: bool,
    /// Names and instance UUIDs, in lower case, of members that no scale-in may remove.
    pub protected: BTreeSet<String>,
    /// Stands for what only a replacement can change of a member.
    pub revision: String,
    /// What members are marked with that are made with the user data as it is now, as
    /// far as that is known. No part of the revision, which others may read.
    pub data: Option<DataMark>,
    /// Members that have not been started since this was written are restarted.
    pub restarted_at: Option<String>,
    /// How changes reach the members that stand.
    pub strategy: Strategy,
    /// Members on a host that is going into maintenance are replaced, where nobody else
    /// moves them.
    pub evacuate: bool,
    /// When a member counts as ready.
    pub readiness: Terms,
    /// How long a change may take to come further, before it is said to be stuck.
    pub progress_deadline: Duration,
    /// `spec.target`; what counts of it says [`crate::target`].
    pub destination: Option<TargetSpec>,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// What becomes of the members then.
    pub farewell: Farewell,
}

/// What is wished of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagWish {
    /// The tag, as people call it.
    pub tag: TagName,
    /// It is to be attached; else taken off, as an earlier spec has named it.
    pub attached: bool,
}

/// How members are made. In its serialised form is only what is used, as revisions
/// ([`MadeFrom`]) are made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Make {
    /// cloud-init is told who it is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cloud_init: bool,
    /// And this user data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_data: Option<DataRef>,
    /// The customization specification, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customization: Option<String>,
    /// Networks, by name; none: the template's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// Further disks, in GiB.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks_gib: Vec<u64>,
}

impl Make {
    /// Disk space that a member will take, in MiB, by what it takes without further
    /// disks, where that is known.
    pub fn disk_mib(&self, own: Option<u64>) -> Option<u64> {
        own.map(|own| own + self.disks_gib.iter().map(|gib| gib << 10).sum::<u64>())
    }

    fn of(spec: &VmGroupSpec) -> Result<Self, Invalid> {
        let source = |data: &DataSource| match (&data.secret_key_ref, &data.config_map_key_ref) {
            (Some(KeyRef { name, key }), None) => Ok(DataRef { secret: true, name: name.clone(), key: key.clone() }),
            (None, Some(KeyRef { name, key })) => Ok(DataRef { secret: false, name: name.clone(), key: key.clone() }),
            _ => Err(Invalid::Bounds {
                field: "guest.cloudInit.userData",
                value: "ambiguous or empty".into(),
                bounds: "exactly one of secretKeyRef and configMapKeyRef",
            }),
        };
        let size = |disk: &DiskSpec| match u64::try_from(disk.size_gib) {
            Ok(gib) if (1..=63_488).contains(&gib) => Ok(gib),
            _ => Err(Invalid::Bounds {
                field: "disks",
                value: disk.size_gib.to_string(),
                bounds: "1 to 63488 (GiB) each",
            }),
        };
        let guest = spec.guest.clone().unwrap_or_default();
        let user_data = guest.cloud_init.as_ref().and_then(|told| told.user_data.as_ref());
        Ok(Self {
            user_data: user_data.map(source).transpose()?,
            cloud_init: guest.cloud_init.is_some(),
            customization: guest.customization_spec,
            networks: spec.networks.iter().map(|network| network.name.clone()).collect(),
            disks_gib: spec.disks.iter().map(size).collect::<Result<_, _>>()?,
        })
    }
}

/// What becomes of the members of a group that is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// They are destroyed.
    Destroy,
    /// They are released: their marks say that they are nobody's.
    Release,
    /// They are released, and left as they are while vCenter cannot be reached.
    Abandon,
}

impl Desired {
    /// Whether no scale-in may remove a member.
    pub fn protects(&self, member: &Seen) -> bool {
        let marked = member.vm.as_ref().and_then(|vm| vm.attributes.get("protected")).is_some_and(|it| it == "true");
        marked || self.protected.contains(&member.uuid) || self.protected.contains(&member.name.to_lowercase())
    }

    /// The members of a group that is being deleted stay, and are released.
    pub fn releases(&self) -> bool {
        self.deleting && self.farewell != Farewell::Destroy
    }

    /// What decides which policies serve it.
    pub fn who(&self) -> Who<'_> {
        Who { namespace: &self.group.namespace, uid: &self.uid, labels: &self.labels }
    }

    /// What members were made as whose marks do not tell, by what the record says of
    /// that: what the spec said when it was seen first.
    pub fn baseline(&self, recorded: Option<&str>) -> Made {
        recorded.and_then(|text| text.parse().ok()).unwrap_or_else(|| self.made())
    }

    /// What a change leads to, by which one is told from another.
    pub fn target(&self) -> String {
        let restart = self.restarted_at.as_ref().map(|at| format!("@{at}")).unwrap_or_default();
        format!("{}{restart}", self.made())
    }

    /// Disk space that a member takes at once, in MiB, by what its template takes.
    pub fn disk_mib(&self, template: Option<u64>) -> Option<u64> {
        self.make.disk_mib(if self.linked { Some(0) } else { template })
    }

    /// What a member that is made now is made as.
    pub fn made(&self) -> Made {
        Made { revision: self.revision.clone(), cpus: self.cpus, memory_mib: self.memory_mib }
    }
}

/// Why a group cannot be worked on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Invalid {
    /// The API server leaves none of these out; something else made the object.
    #[error("the object has no {0}: apply it through the Kubernetes API")]
    Incomplete(&'static str),
    /// Out of bounds.
    #[error(
        "spec.{field} is {value}, but must be {bounds}: change it (and update the CRD with `vmgroup crd | kubectl apply --server-side -f -`, which would have said so)"
    )]
    Bounds {
        /// The field.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        bounds: &'static str,
    },
}

/// A target names a cluster or a pool, and a folder below the root folder.
fn check_target(target: &TargetSpec) -> Result<(), Invalid> {
    let TargetSpec { connection: _, cluster, pool, datastore: _, folder } = target;
    if cluster.is_some() && pool.is_some() {
        let value = "there with target.cluster".to_owned();
        return Err(Invalid::Bounds { field: "target.pool", value, bounds: "given alone: a pool is of one cluster" });
    }
    match folder {
        Some(path) if path.split('/').any(|name| matches!(name, "" | "." | "..")) => Err(Invalid::Bounds {
            field: "target.folder",
            value: path.clone(),
            bounds: "a path below the operator's root folder, such as team-a/web",
        }),
        _ => Ok(()),
    }
}

/// What is called by a name has one, and one that can be meant.
fn check_names(spec: &VmGroupSpec) -> Result<(), Invalid> {
    if spec.template.trim().is_empty() {
        return Err(Invalid::Bounds {
            field: "template",
            value: "empty".into(),
            bounds: "a template's name or inventory path",
        });
    }
    check_attributes(&spec.custom_attributes)?;
    check_tags(&spec.tags)?;
    spec.target.as_ref().map_or(Ok(()), check_target)
}

fn check_attributes(attributes: &BTreeMap<String, String>) -> Result<(), Invalid> {
    let within = |text: &str, most: usize| (1..=most).contains(&text.chars().count());
    match attributes.iter().find(|(name, value)| !(within(name, 80) && within(value, 255))) {
        None => Ok(()),
        Some((name, value)) => Err(Invalid::Bounds {
            field: "customAttributes",
            value: format!("{name}: {value}").chars().take(400).collect(),
            bounds: "a name of 1 to 80 characters and a value of 1 to 255",
        }),
    }
}

fn tag_name(TagSpec { category, name }: TagSpec) -> TagName {
    TagName { category, name }
}

fn check_tags(tags: &[TagSpec]) -> Result<(), Invalid> {
    let within = |text: &str| (1..=256).contains(&text.chars().count());
    match tags.iter().find(|tag| !(within(&tag.category) && within(&tag.name))) {
        None => Ok(()),
        Some(TagSpec { category, name }) => Err(Invalid::Bounds {
            field: "tags",
            value: format!("{category}: {name}").chars().take(400).collect(),
            bounds: "a category and a name of 1 to 256 characters each",
        }),
    }
}

/// Parses a group.
pub fn validate(object: &VmGroup) -> Result<Desired, Invalid> {
    let meta = &object.metadata;
    let spec = &object.spec;
    let within = |field, value: i32, low: i32, high: i32, bounds| {
        if (low..=high).contains(&value) {
            Ok(value.unsigned_abs())
        } else {
            Err(Invalid::Bounds { field, value: value.to_string(), bounds })
        }
    };
    let deleting = meta.deletion_timestamp.is_some();
    let grace = spec.grace_period_seconds.unwrap_or(GRACE);
    // Deletion must go through whatever the rest of the spec says.
    let (cpus, memory, replicas, grace) = if deleting {
        let size = |value: i32, most| value.clamp(1, most).unsigned_abs();
        // Its machines count with their size until they are gone.
        (size(spec.cpu, MOST_CPUS), size(spec.memory, MOST_MEMORY), 0, grace.clamp(0, LONGEST_GRACE).unsigned_abs())
    } else {
        check_names(spec)?;
        (
            within("cpu", spec.cpu, 1, MOST_CPUS, "1 to 768")?,
            within("memory", spec.memory, 1, MOST_MEMORY, "1 to 24576 (GB)")?,
            within("replicas", spec.replicas, 0, 1000, "0 to 1000")?,
            within("gracePeriodSeconds", grace, 0, LONGEST_GRACE, "0 to 86400")?,
        )
    };
    let progress_deadline = spec.progress_deadline_seconds.unwrap_or(PROGRESS_DEADLINE);
    let progress_deadline = if deleting {
        0
    } else {
        within("progressDeadlineSeconds", progress_deadline, 1, 604_800, "1 to 604800 (a week)")?
    };
    let seconds = |field, value: Option<i32>, default: i32, low, bounds| match value {
        _ if deleting => Ok(Duration::ZERO),
        value => {
            within(field, value.unwrap_or(default), low, 86_400, bounds).map(|value| Duration::from_secs(value.into()))
        }
    };
    let asked = spec.readiness.clone().unwrap_or_default();
    let readiness = Terms {
        type_: asked.type_,
        timeout: seconds("readiness.timeoutSeconds", asked.timeout_seconds, readiness::TIMEOUT, 1, "1 to 86400")?,
        min_ready: seconds("minReadySeconds", spec.min_ready_seconds, 0, 0, "0 to 86400")?,
    };
    let strategy = match Strategy::of(spec.update_strategy.as_ref()) {
        Err(_) if deleting => Strategy::default(),
        Err((field, value, bounds)) => return Err(Invalid::Bounds { field, value, bounds }),
        Ok(strategy) => strategy,
    };
    let make = if deleting { Make::default() } else { Make::of(spec)? };
    let annotation = |key: &str| meta.annotations.as_ref().and_then(|annotations| annotations.get(key));
    let list = |key: &str| {
        let entries = annotation(key).into_iter().flat_map(|list| list.split(','));
        entries.map(|entry| entry.trim().to_lowercase()).filter(|entry| !entry.is_empty()).collect()
    };
    let retains = spec.deletion_policy == Some(DeletionPolicy::Retain);
    let farewell = match annotation(ORPHAN_ANNOTATION).and_then(|value| Orphan::parse(value)) {
        Some(Orphan::Abandon) => Farewell::Abandon,
        Some(Orphan::Release) => Farewell::Release,
        None if retains => Farewell::Release,
        None => Farewell::Destroy,
    };
    Ok(Desired {
        group: GroupRef {
            namespace: meta.namespace.clone().ok_or(Invalid::Incomplete("namespace"))?,
            name: meta.name.clone().ok_or(Invalid::Incomplete("name"))?,
        },
        uid: meta.uid.clone().ok_or(Invalid::Incomplete("uid"))?,
        generation: meta.generation,
        labels: meta.labels.clone().unwrap_or_default(),
        attributes: meta
            .annotations
            .iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.strip_prefix(POLICY_ANNOTATION_PREFIX)?.to_owned(), value.clone())))
            .collect(),
        adopting: list(ADOPTING_ANNOTATION),
        cpus,
        memory_mib: u64::from(memory) * 1024,
        replicas: (replicas as usize).min(MAX_REPLICAS),
        template: spec.template.clone(),
        linked: spec.clone_mode == Some(CloneMode::Linked),
        grace: Duration::from_secs(grace.into()),
        // In doubt nobody leaves.
        hold_scale_in: annotation(HOLD_SCALE_IN_ANNOTATION).is_some_and(|value| !matches!(value.trim(), "" | "false")),
        protected: list(PROTECTED_MEMBERS_ANNOTATION),
        revision: MadeFrom { template: &spec.template, make: &make }.revision(),
        custom_attributes: if deleting { BTreeMap::new() } else { spec.custom_attributes.clone() },
        fields: BTreeMap::new(),
        tags: if deleting { BTreeSet::new() } else { spec.tags.iter().cloned().map(tag_name).collect() },
        tagging: None,
        make,
        data: None,
        restarted_at: annotation(RESTARTED_AT_ANNOTATION)
            .filter(|text| !text.is_empty())
            .map(|text| text.chars().take(RESTART_LIMIT).collect()),
        strategy,
        evacuate: spec.evacuation == Some(Evacuation::Replace),
        readiness,
        progress_deadline: Duration::from_secs(progress_deadline.into()),
        destination: spec.target.clone(),
        deleting,
        farewell,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(cpu: i32, memory: i32, replicas: i32) -> VmGroup {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "vm.codeconnect.vmworld.com/v1alpha1", "kind": "VmGroup",
            "metadata": {"name": "g", "namespace": "n", "uid": "u",
                "annotations": {"policy.vmgroup.codeconnect.vmworld.com/site": "muc", "other": "x"}},
            "spec": {"cpu": cpu, "memory": memory, "replicas": replicas, "template": "t"},
        }))
        .unwrap()
    }

    #[test]
    fn bounds_name_the_field_and_the_remedy() {
        assert!(validate(&group(1, 1, 0)).is_ok());
        assert!(validate(&group(768, 24576, 1000)).is_ok());
        for (bad, field) in [
            (group(0, 1, 1), "cpu"),
            (group(1, 0, 1), "memory"),
            (group(1, 1, -1), "replicas"),
            (group(1, 1, 1001), "replicas"),
        ] {
            let message = validate(&bad).unwrap_err().to_string();
            assert!(message.contains(field), "{message}");
        }
    }

    #[test]
    fn a_target_is_checked_too() {
        let target = |pool: Option<&str>, folder: &str| {
            let mut group = group(1, 1, 1);
            let (cluster, pool) = (Some("C0".to_owned()), pool.map(str::to_owned));
            let folder = Some(folder.to_owned());
            group.spec.target = Some(TargetSpec { cluster, pool, folder, ..TargetSpec::default() });
            validate(&group)
        };
        assert!(target(None, "team-a/web").is_ok());
        assert!(target(Some("dev"), "team-a").unwrap_err().to_string().contains("spec.target.pool"));
        for bad in ["", "/team-a", "team-a/", "a//b", "../other", "a/./b"] {
            assert!(target(None, bad).unwrap_err().to_string().contains("spec.target.folder"), "{bad}");
        }
    }

    #[test]
    fn a_guest_has_a_minute_unless_the_group_says_otherwise() {
        let mut group = group(1, 1, 1);
        let mut grace = |seconds| {
            group.spec.grace_period_seconds = seconds;
            validate(&group).map(|desired| desired.grace.as_secs())
        };
        assert_eq!((grace(None), grace(Some(0)), grace(Some(300))), (Ok(60), Ok(0), Ok(300)));
        let message = grace(Some(-1)).unwrap_err().to_string();
        assert!(message.contains("gracePeriodSeconds"), "{message}");
    }

    #[test]
    fn what_is_meant_to_stay_stays_in_doubt_too() {
        let desired = |annotations: serde_json::Value| {
            let mut group = group(1, 1, 1);
            group.metadata.annotations = Some(serde_json::from_value(annotations).unwrap());
            validate(&group).unwrap()
        };
        for (value, farewell, held) in [
            ("false", Farewell::Destroy, false),
            ("", Farewell::Destroy, false),
            ("true", Farewell::Release, true),
            ("yes", Farewell::Release, true),
            ("unreachable", Farewell::Abandon, true),
        ] {
            let annotations = serde_json::json!({ORPHAN_ANNOTATION: value, HOLD_SCALE_IN_ANNOTATION: value});
            let desired = desired(annotations);
            assert_eq!((desired.farewell, desired.hold_scale_in), (farewell, held), "{value:?}");
        }
        let named = desired(serde_json::json!({PROTECTED_MEMBERS_ANNOTATION: "Web-1, ,u-2"})).protected;
        assert_eq!(named.iter().map(String::as_str).collect::<Vec<_>>(), ["u-2", "web-1"]);
    }

    #[test]
    fn only_annotations_for_policies_become_attributes() {
        let desired = validate(&group(1, 1, 1)).unwrap();
        assert_eq!(desired.attributes.into_iter().collect::<Vec<_>>(), [("site".to_owned(), "muc".to_owned())]);
    }

    #[test]
    fn a_group_that_is_deleted_keeps_its_size_and_may_be_invalid() {
        for (cpu, memory, replicas, kept) in
            [(0, 0, -1, (1, 1)), (32, 64, 10, (32, 64)), (i32::MAX, i32::MAX, 1001, (768, 24_576))]
        {
            let mut group = group(cpu, memory, replicas);
            group.metadata.deletion_timestamp =
                Some(serde_json::from_value(serde_json::json!("2026-01-01T00:00:00Z")).unwrap());
            let desired = validate(&group).unwrap();
            assert_eq!((desired.cpus, desired.memory_mib / 1024, desired.replicas), (kept.0, kept.1, 0));
        }
    }
}

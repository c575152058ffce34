//! How a change of a `VmGroup` reaches the members that stand: in which order,
//! and how many of them at a time may be out of service for it.
//!
//! Shapes and words are those of a Deployment. Must not know how
//! a change is carried out.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a change of cpu, memory or template reaches the members that stand.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// `RollingUpdate` (the default) changes members by itself, a few at a time.
    /// `OnDelete` takes nobody down: a member takes on a new size when it is powered
    /// on the next time, or restarted; a new template is for new members.
    #[serde(rename = "type", default)]
    pub type_: UpdateType,

    /// How many at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling_update: Option<RollingUpdate>,
}

/// Who decides when a member is changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdateType {
    /// The operator, within the bounds of `rollingUpdate`.
    #[default]
    RollingUpdate,
    /// Whoever deletes a member, or powers it off.
    OnDelete,
}

/// How many members at a time are taken down, or made in advance.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.maxUnavailable) && string(self.maxUnavailable) in ['0', '0%'] && (!has(self.maxSurge) || string(self.maxSurge) in ['0', '0%']))").message("maxUnavailable and maxSurge cannot both be 0, or no member could ever be changed: raise one of them in spec.updateStrategy.rollingUpdate")
)]
pub struct RollingUpdate {
    /// How many members may be out of service at a time because of a change, and
    /// new ones that are not ready count: a number, or a percentage of `replicas`,
    /// rounded down. 1 if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "share")]
    pub max_unavailable: Option<IntOrString>,

    /// How many members there may be besides `replicas` while members are replaced: a
    /// number, or a percentage of `replicas`, rounded up. 0 if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "share")]
    pub max_surge: Option<IntOrString>,
}

/// A number from 0, or a percentage up to 100.
fn share(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "x-kubernetes-int-or-string": true,
        "minimum": 0,
        "maximum": 1000,
        "pattern": "^(100|[1-9]?[0-9])%$",
    })
}

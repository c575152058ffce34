//! When a member counts as ready. Must not know how that is found out.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a member that is powered on counts as ready.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Readiness {
    /// What its guest has to say for that. All but `PoweredOn` need VMware Tools in it.
    #[serde(rename = "type", default)]
    pub type_: ReadinessType,

    /// How long it may take to say so, from when it is powered on: 1 to 86400 seconds;
    /// 300 if it is not given. After that `Stalled` says `NotReady` and who is late,
    /// and the member is waited for all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 86400").message("timeoutSeconds must be 1 to 86400 (a day): change spec.readiness.timeoutSeconds"))]
    pub timeout_seconds: Option<i32>,
}

/// What a guest has to say to be ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReadinessType {
    /// Nothing: a member that is powered on is ready.
    #[default]
    PoweredOn,
    /// VMware Tools run (`guest.toolsRunningStatus`).
    ToolsRunning,
    /// It has an address (`guest.ipAddress`).
    Address,
    /// Its heartbeat is green (`guestHeartbeatStatus`).
    Heartbeat,
}

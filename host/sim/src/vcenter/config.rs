//! What a simulated vCenter is made of, as plain settings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How a simulated vCenter looks and behaves. The default resembles govmomi's
/// simulator: `/DC0`, cluster `DC0_C0` with hosts `DC0_C0_H0` to `H2`, pool
/// `Resources`, datastore `LocalDS_0`, and besides a template
/// `vm-operator-template` and a folder `vm-operator`.
///
/// Not `Debug`: it holds a password.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
pub struct VcenterConfig {
    /// The account that may do everything.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Privileges that it has not, after all: `VirtualMachine.Interact.PowerOn`.
    pub missing_privileges: BTreeSet<String>,
    /// Accounts that may only look, with their passwords.
    pub readers: BTreeMap<String, String>,
    /// Whether users have the privilege `Sessions.TerminateSession`, which
    /// `sessionList` takes too.
    pub session_privilege: bool,
    /// Decides all that is random: UUIDs, MAC addresses.
    pub seed: u64,
    /// Datacenters: `DC0`, `DC1`, …
    pub datacenters: usize,
    /// Clusters in each datacenter: `DC0_C0`, …
    pub clusters: usize,
    /// Hosts in each cluster: `DC0_C0_H0`, …
    pub hosts_per_cluster: usize,
    /// Datastores in each datacenter: `LocalDS_0`, … (`DC1_LocalDS_0`, … in
    /// those after the first), mounted on all of its hosts.
    pub datastores: usize,
    /// Templates in the `vm` folder of each datacenter.
    pub templates: Vec<String>,
    /// A folder in the `vm` folder of each datacenter.
    pub root_folder: Option<String>,
    /// CPU cores of a host.
    pub host_cores: u16,
    /// Speed of a core in MHz.
    pub host_mhz: u32,
    /// Memory of a host in MiB.
    pub host_memory_mib: u64,
    /// Capacity of a datastore in bytes.
    pub datastore_bytes: u64,
    /// What a template's disk takes of a datastore, and so each clone, in bytes.
    pub template_disk_bytes: u64,
    /// Whether a power-on that exceeds its host's memory fails with
    /// `InsufficientMemoryResourcesFault`. vSphere overcommits unless memory is
    /// reserved, so off by default.
    pub memory_admission: bool,
    /// Whether clusters have DRS; without it, a clone or power-on without a
    /// host lands on the first host.
    pub drs: bool,
    /// Whether DRS is fully automated, and moves machines away from a host that is to be
    /// emptied; else it only finds a place for who is powered on.
    pub drs_automatic: bool,
    /// How long tasks take.
    pub durations: TaskDurations,
    /// Sessions that are idle this long are closed. vCenter's default is 30 min.
    pub session_timeout: Duration,
    /// Above this many sessions, `Login` is answered with HTTP 503.
    pub max_sessions: usize,
    /// The most objects in one page of `RetrievePropertiesEx` and in one
    /// `UpdateSet`, whatever the client allows.
    pub page_size: usize,
}

impl Default for VcenterConfig {
    fn default() -> Self {
        Self {
            user: "user".to_owned(),
            password: "pass".to_owned(),
            missing_privileges: BTreeSet::new(),
            readers: BTreeMap::new(),
            session_privilege: true,
            seed: 0,
            datacenters: 1,
            clusters: 1,
            hosts_per_cluster: 3,
            datastores: 1,
            templates: vec!["vm-operator-template".to_owned()],
            root_folder: Some("vm-operator".to_owned()),
            host_cores: 32,
            host_mhz: 2_400,
            host_memory_mib: 256 << 10,
            datastore_bytes: 64 << 40,
            template_disk_bytes: 2 << 30,
            memory_admission: false,
            drs: true,
            drs_automatic: true,
            durations: TaskDurations::default(),
            session_timeout: Duration::from_mins(30),
            max_sessions: 1_000,
            page_size: 250,
        }
    }
}

/// How long tasks take on tokio's clock, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskDurations {
    /// `CloneVM_Task`.
    pub clone: Duration,
    /// `PowerOnVM_Task`, `PowerOffVM_Task`.
    pub power: Duration,
    /// `Destroy_Task`, for each virtual machine.
    pub destroy: Duration,
    /// `ReconfigVM_Task`.
    pub reconfigure: Duration,
    /// `Rename_Task`, `MoveIntoFolder_Task`.
    pub rename: Duration,
    /// DRS moving a machine to another host.
    pub migrate: Duration,
    /// From power-on until VMware Tools run.
    pub boot: Duration,
    /// From `ShutdownGuest` until the guest is off.
    pub shutdown: Duration,
    /// Exceptions, by method name.
    pub by_method: BTreeMap<String, Duration>,
}

impl Default for TaskDurations {
    fn default() -> Self {
        Self {
            clone: Duration::from_secs(1),
            power: Duration::from_millis(200),
            destroy: Duration::from_millis(200),
            reconfigure: Duration::from_millis(100),
            rename: Duration::from_millis(50),
            migrate: Duration::from_secs(1),
            boot: Duration::from_millis(500),
            shutdown: Duration::from_secs(1),
            by_method: BTreeMap::new(),
        }
    }
}

impl TaskDurations {
    /// Everything takes this long.
    pub fn all(duration: Duration) -> Self {
        Self {
            clone: duration,
            power: duration,
            destroy: duration,
            reconfigure: duration,
            rename: duration,
            migrate: duration,
            boot: duration,
            shutdown: duration,
            by_method: BTreeMap::new(),
        }
    }

    pub(super) fn of(&self, method: &str) -> Duration {
        if let Some(duration) = self.by_method.get(method) {
            return *duration;
        }
        match method {
            "CloneVM_Task" => self.clone,
            "PowerOnVM_Task" | "PowerOffVM_Task" | "PowerOnMultiVM_Task" | "ResetVM_Task" => self.power,
            "Destroy_Task" => self.destroy,
            "ReconfigVM_Task" => self.reconfigure,
            _ => self.rename,
        }
    }
}

//! What `vmgroup run` is told to do, parsed and complete.
//!
//! Must not know where it came from (flags, environment, a test).

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use jiff::tz::TimeZone;
use vmgroup_vsphere::{Credentials, SiteSelection, Tls};

/// Everything that `run` needs to know.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The vCenters.
    pub vcenters: Vcenters,
    /// The operator's own namespace: the policy ConfigMap and the lease are here.
    pub namespace: String,
    /// The name of the policy ConfigMap.
    pub policy_config_map: String,
    /// The folder that the policies are in, instead of the ConfigMap. What was in
    /// force last is kept beside the ConfigMap all the same.
    pub policy_dir: Option<PathBuf>,
    /// What the policies may need beyond that.
    pub policy_supply: PolicySupply,
    /// The site's time zone, told to the policies; none: they are told none.
    pub time_zone: Option<TimeZone>,
    /// Where `/livez`, `/readyz` and `/metrics` are served; none: nowhere.
    pub metrics_addr: Option<SocketAddr>,
    /// The base URL of the OTLP collector that traces are sent to; none: nowhere.
    pub otlp_endpoint: Option<String>,
    /// The name of the lease to be held before anything is written; none: no
    /// election.
    pub leader_election: Option<String>,
    /// The pod's or the host's name: signs events. In a lease it needs a suffix
    /// of its own for each process, see [`crate::lease::Options::identity`].
    pub instance: String,
    /// What is kept of decisions; none: nothing.
    pub decisions: Option<vmgroup_records::Settings>,
    /// The local socket on which they are shown; none: nowhere.
    pub socket: Option<PathBuf>,
}

/// Which vCenters there are.
#[derive(Clone, Debug)]
pub enum Vcenters {
    /// Just one, for everybody.
    One(Box<OneVcenter>),
    /// Those of a connections file, see [`crate::connections`].
    File {
        /// The name of its ConfigMap.
        config_map: String,
    },
}

/// A vCenter for everybody.
#[derive(Clone, Debug)]
pub struct OneVcenter {
    /// Where it is and how to log in.
    pub vcenter: VcenterConfig,
    /// Datacenter, pool or cluster, datastore and root folder.
    pub site: SiteSelection,
    /// How many tasks of ours it may be working on at the same time.
    pub max_tasks: NonZeroUsize,
}

/// Registries that policies are pulled from, and keys that they are signed by.
#[derive(Clone, Debug, Default)]
pub struct PolicySupply {
    /// Whose certificates of registries are trusted; none: the system's.
    pub registry_ca: Option<PathBuf>,
    /// docker's `config.json` with the logins to registries.
    pub registry_logins: Option<PathBuf>,
    /// Registries speak plain HTTP.
    pub registry_plain_http: bool,
    /// Where what was pulled is kept, and how many bytes of it; none: nowhere.
    pub cache: Option<(PathBuf, u64)>,
    /// Public keys in PEM: plugins have to be signed by one of them.
    pub keys: Option<PathBuf>,
}

/// Where vCenter is and how to log in.
#[derive(Clone, Debug)]
pub struct VcenterConfig {
    /// The SDK's endpoint, complete.
    pub endpoint: http::Uri,
    /// User and password.
    pub credentials: Credentials,
    /// Those for what only reads; none: the same.
    pub reader: Option<Credentials>,
    /// The folder that they were read from, and that is read again; see
    /// [`crate::logins`].
    pub login_dir: Option<PathBuf>,
    /// Whose certificates are trusted.
    pub tls: Tls,
}

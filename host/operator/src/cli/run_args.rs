//! `vmgroup run`: its flags, the original operator's spelling of them, and what
//! they amount to.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use jiff::tz::TimeZone;
use vmgroup_records::{FileSettings, Settings};
use vmgroup_vsphere::{Credentials, Password, SiteSelection, Tls};

use crate::config::{OneVcenter, PolicySupply, RunConfig, VcenterConfig, Vcenters};
use crate::logging::LogFormat;
use crate::logins::{self, LoginError};

/// Where a pod's service account says which namespace it is in.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
const DEFAULT_NAMESPACE: &str = "vmgroup-system";

/// Which vCenter, and what in it: the flags of every command that talks to it.
#[derive(Args, Debug)]
pub struct VcenterArgs {
    /// vCenter: a host name, with a port if need be, or a URL
    #[arg(long = "vc-host", env = "VC_HOST", value_name = "HOST", help_heading = "vCenter")]
    vc_host: Option<String>,

    /// The user, such as operator@vsphere.local
    #[arg(long = "vc-user", env = "VC_USER", value_name = "USER", help_heading = "vCenter")]
    vc_user: Option<String>,

    /// The password. Give it by the environment: flags are seen in the process list
    #[arg(long = "vc-pass", env = "VC_PASS", value_name = "PASSWORD", hide_env_values = true, value_parser = password, help_heading = "vCenter")]
    vc_pass: Option<Password>,

    /// The user for what only reads, if that shall be another one
    #[arg(long = "vc-read-user", env = "VC_READ_USER", value_name = "USER", help_heading = "vCenter")]
    vc_read_user: Option<String>,

    /// That user's password
    #[arg(long = "vc-read-pass", env = "VC_READ_PASS", value_name = "PASSWORD", hide_env_values = true, value_parser = password, help_heading = "vCenter")]
    vc_read_pass: Option<Password>,

    /// A folder with all these as files named like the variables, such as a mounted Secret, instead of them. A change takes no restart
    #[arg(long = "vc-login-dir", env = "VC_LOGIN_DIR", value_name = "FOLDER", value_parser = path(), help_heading = "vCenter")]
    vc_login_dir: Option<PathBuf>,

    /// A PEM file with the certificate authority that signed vCenter's certificate
    #[arg(
        long = "vc-ca-file",
        env = "VC_CA_FILE",
        value_name = "FILE", value_parser = path(),
        conflicts_with = "insecure",
        help_heading = "vCenter"
    )]
    vc_ca_file: Option<PathBuf>,

    /// Accept any certificate. Whoever sits on the wire can read the password: prefer --vc-ca-file
    #[arg(long, help_heading = "vCenter")]
    insecure: bool,

    /// The datacenter, by name or inventory path [default: the only one]
    #[arg(long, env = "VC_DATACENTER", value_name = "NAME", help_heading = "Site")]
    datacenter: Option<String>,

    /// The resource pool or cluster, by name or inventory path [default: the only one]
    #[arg(long, env = "VC_POOL", value_name = "NAME", help_heading = "Site")]
    pool: Option<String>,

    /// The datastore or datastore cluster, by name or inventory path; several with commas between them, or `*` [default: the only one]
    #[arg(long, env = "VC_DATASTORE", value_name = "NAME", help_heading = "Site")]
    datastore: Option<String>,

    /// The folder under which each group gets its own [default: vm-operator]
    #[arg(long, env = "VC_FOLDER", value_name = "NAME", help_heading = "Site")]
    root_folder: Option<String>,
}

/// How OCI registries are met: the flags of every command that asks one.
#[derive(Args, Debug)]
pub struct RegistryArgs {
    /// A PEM file with the certificate authority that signed the registries' certificates [default: the system's]
    #[arg(long = "registry-ca-file", env = "VMGROUP_REGISTRY_CA_FILE", value_name = "FILE", value_parser = path(), help_heading = "Registry")]
    ca_file: Option<PathBuf>,

    /// Logins to registries: a docker config.json, such as a mounted Secret's `.dockerconfigjson`. A change takes no restart
    #[arg(
        long = "registry-auth-file",
        env = "VMGROUP_REGISTRY_AUTH_FILE",
        value_name = "FILE", value_parser = path(),
        help_heading = "Registry"
    )]
    auth_file: Option<PathBuf>,

    /// Speak plain HTTP to every registry; to one on this machine it is spoken unless --registry-ca-file is given
    #[arg(long = "registry-plain-http", conflicts_with = "ca_file", help_heading = "Registry")]
    plain_http: bool,
}

impl RegistryArgs {
    /// What they amount to, with nothing about keys and cache.
    pub(super) fn to_supply(&self) -> PolicySupply {
        let Self { ca_file, auth_file, plain_http } = self;
        PolicySupply {
            registry_ca: given_path(ca_file.clone()),
            registry_logins: given_path(auth_file.clone()),
            registry_plain_http: *plain_http,
            cache: None,
            keys: None,
        }
    }
}

/// Flags of `vmgroup run`.
#[derive(Args, Debug)]
#[command(after_help = "\
The cluster is found as kubectl finds it ($KUBECONFIG, ~/.kube/config), or from the pod's
service account.

Examples:
  # At the desk, against the current kubectl context
  export VC_HOST=vcenter.example.com VC_USER=operator@vsphere.local VC_PASS=…
  vmgroup run --vc-ca-file vcenter-ca.pem --log-format text

  # A vCenter with several datacenters and clusters: say which
  vmgroup run --datacenter Berlin --pool /Berlin/host/Cluster-A/Resources --datastore san-1

  # Two replicas, one of which leads
  vmgroup run --leader-elect

  # Policies from a folder: policy.yaml, and the plugins that it names
  vmgroup run --policy-dir ./policies

  # Plugins from a registry (plugin: oci://…@sha256:…), signed by somebody we know
  vmgroup run --policy-cache-dir /var/cache/vmgroup --registry-auth-file ~/.docker/config.json \
    --policy-keys trusted.pem")]
pub struct RunArgs {
    #[command(flatten)]
    vcenter: VcenterArgs,

    /// The ConfigMap, in the operator's namespace, whose connections.yaml names several vCenters, instead of all that says which one [default: none]
    #[arg(long, env = "VMGROUP_CONNECTIONS", value_name = "NAME", help_heading = "vCenter")]
    connections: Option<String>,

    /// How many tasks vCenter may be working on for us at the same time, shared fairly by all groups
    #[arg(long, env = "VC_MAX_TASKS", value_name = "N", default_value = "8", help_heading = "Site")]
    max_tasks: NonZeroUsize,

    /// The operator's own namespace [default: the pod's, or vmgroup-system]
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE", help_heading = "Kubernetes")]
    namespace: Option<String>,

    /// The ConfigMap, in the operator's namespace, that names the policies
    #[arg(long, value_name = "NAME", default_value = "vmgroup-policy", help_heading = "Policies")]
    policy_config_map: String,

    /// A folder with policy.yaml and the plugins that it names, such as a mounted ConfigMap, instead of the ConfigMap. A change takes no restart
    #[arg(
        long,
        env = "VMGROUP_POLICY_DIR",
        value_name = "FOLDER", value_parser = path(),
        conflicts_with = "policy_config_map",
        help_heading = "Policies"
    )]
    policy_dir: Option<PathBuf>,

    #[command(flatten)]
    registry: RegistryArgs,

    /// Keep what was pulled from registries in this folder, so that a start needs none of them [default: nowhere]
    #[arg(long, env = "VMGROUP_POLICY_CACHE_DIR", value_name = "FOLDER", value_parser = path(), help_heading = "Policies")]
    policy_cache_dir: Option<PathBuf>,

    /// How much space that may take, in MiB: what was not used longest goes first
    #[arg(long, value_name = "MIB", default_value = "128", requires = "policy_cache_dir", help_heading = "Policies")]
    policy_cache_space: NonZeroU32,

    /// Public keys (PEM; Ed25519 or ECDSA P-256): plugins that are not shipped have to be signed by one of them [default: none have to]
    #[arg(long, env = "VMGROUP_POLICY_KEYS", value_name = "FILE", value_parser = path(), help_heading = "Policies")]
    policy_keys: Option<PathBuf>,

    /// The site's time zone, such as `Europe/Berlin`: policies are told its time of day [default: none]
    #[arg(long, env = "VMGROUP_TIME_ZONE", value_name = "ZONE", value_parser = time_zone, help_heading = "Site")]
    time_zone: Option<TimeZone>,

    /// Write only while holding a lease, so that several replicas can run
    #[arg(long, alias = "enable-leader-election", help_heading = "Kubernetes")]
    leader_elect: bool,

    /// The name of that lease
    #[arg(long, value_name = "NAME", default_value = "vmgroup-operator", help_heading = "Kubernetes")]
    lease_name: String,

    /// The name under which this process signs leases and events [default: the host's name]
    #[arg(long, env = "POD_NAME", value_name = "NAME", help_heading = "Kubernetes")]
    instance: Option<String>,

    /// Where /livez, /readyz and /metrics are served; `0` for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080", value_parser = address, help_heading = "Diagnosis")]
    metrics_addr: Address,

    /// Memory for records of the latest decisions, in MiB (compressed); `0` for none
    #[arg(long, value_name = "MIB", default_value = "8", help_heading = "Decisions")]
    decision_memory: usize,

    /// Write records of decisions to files in this folder, too
    #[arg(long, env = "VMGROUP_DECISION_FOLDER", value_name = "FOLDER", value_parser = path(), help_heading = "Decisions")]
    decision_folder: Option<PathBuf>,

    /// How much space those files may take, in MiB: the oldest go first
    #[arg(long, value_name = "MIB", default_value = "256", requires = "decision_folder", help_heading = "Decisions")]
    decision_space: NonZeroU32,

    /// A local socket for `vmgroup decisions` and `vmgroup explain` [default: none]
    #[arg(long, env = "VMGROUP_SOCKET", value_name = "FILE", value_parser = path(), help_heading = "Decisions")]
    socket: Option<PathBuf>,

    /// The OTLP collector that traces are sent to (HTTP, protobuf), such as `http://collector:4318` [default: none]
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        value_name = "URL",
        hide_env_values = true,
        help_heading = "Diagnosis"
    )]
    otlp_endpoint: Option<String>,

    /// How log lines look
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", help_heading = "Diagnosis")]
    pub(super) log_format: LogFormat,

    /// What is logged: a level or a filter such as `info,vmgroup_vsphere=debug`. `RUST_LOG` goes before it
    #[arg(long, default_value = "info", value_name = "LEVEL", help_heading = "Diagnosis")]
    pub(super) log_level: String,
}

/// Why the flags and the environment do not make a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Something has no default and was not given.
    #[error("{}", missing(.0))]
    Missing(Vec<Wanted>),
    /// The folder with the login cannot be used.
    #[error(
        "the folder of VC_LOGIN_DIR cannot be used: it needs the files VC_USER and VC_PASS, as a mounted Secret has them"
    )]
    Login(#[source] LoginError),
    /// One vCenter, and several.
    #[error(
        "both --connections (VMGROUP_CONNECTIONS) and {variable} are set: the vCenters, with logins, trust and places, are those of connections.yaml, or there is just one"
    )]
    TwoWays {
        /// The variable, or the flag, that is too much.
        variable: &'static str,
    },
    /// Two logins, and no way to tell which one is meant.
    #[error("both VC_LOGIN_DIR and {variable} are set: the login comes from one of them")]
    TwoLogins {
        /// The one that is too much.
        variable: &'static str,
    },
    /// `VC_HOST` is no host and no URL.
    #[error(
        "VC_HOST `{host}` is not understood: give a host name (vcenter.example.com), host:port or https://host/sdk"
    )]
    Endpoint {
        /// As it was given.
        host: String,
        /// What is wrong with it.
        source: vmgroup_vsphere::Error,
    },
}

/// What flags and environment say of the login.
struct GivenLogin {
    host: Option<String>,
    user: Option<String>,
    password: Option<Password>,
    read_user: Option<String>,
    read_password: Option<Password>,
}

type Login = (String, Credentials, Option<Credentials>);

const HOST: Wanted = ("VC_HOST", "the name of your vCenter", "vcenter.example.com");

impl GivenLogin {
    /// Nothing but these.
    fn complete(self) -> Result<Login, ConfigError> {
        let reader = match (self.read_user, self.read_password) {
            (Some(user), Some(password)) => Some(Credentials { user, password }),
            (None, None) => None,
            (user, _) => {
                let user_wanted = ("VC_READ_USER", "who logs in for reads", "viewer@vsphere.local");
                let wanted =
                    if user.is_none() { user_wanted } else { ("VC_READ_PASS", "the reader's password", "'…'") };
                return Err(ConfigError::Missing(vec![wanted]));
            }
        };
        match (self.host, self.user, self.password) {
            (Some(host), Some(user), Some(password)) => Ok((host, Credentials { user, password }, reader)),
            (host, user, password) => {
                let all = [
                    (host.is_none(), HOST),
                    (user.is_none(), ("VC_USER", "who logs in to it", "operator@vsphere.local")),
                    (password.is_none(), ("VC_PASS", "that user's password", "'…'")),
                ];
                Err(ConfigError::Missing(all.into_iter().filter(|(gone, _)| *gone).map(|(_, what)| what).collect()))
            }
        }
    }

    /// Users and passwords from the folder, and the host too unless it is given.
    fn with_those_in(self, folder: &Path) -> Result<Login, ConfigError> {
        let twice = [
            ("VC_USER", self.user.is_some()),
            ("VC_PASS", self.password.is_some()),
            ("VC_READ_USER", self.read_user.is_some()),
            ("VC_READ_PASS", self.read_password.is_some()),
        ];
        if let Some((variable, _)) = twice.into_iter().find(|(_, given)| *given) {
            return Err(ConfigError::TwoLogins { variable });
        }
        let logins = logins::read(folder).map_err(ConfigError::Login)?;
        let host = self.host.or_else(|| given(logins.host)).ok_or_else(|| ConfigError::Missing(vec![HOST]))?;
        Ok((host, logins.writer, logins.reader))
    }
}

/// A variable, what it means, and an example.
type Wanted = (&'static str, &'static str, &'static str);

fn missing(what: &[Wanted]) -> String {
    let line = |(variable, meaning, example): &Wanted| {
        format!("  {variable} is not set: {meaning}, for instance  export {variable}={example}")
    };
    let lines = what.iter().map(line).collect::<Vec<_>>().join("\n");
    format!("vCenter is not known:\n{lines}\n`vmgroup run --help` lists the flags that stand for them.")
}

impl VcenterArgs {
    /// The first of the variables and flags that say something of the one vCenter, if
    /// there is one.
    pub(super) fn given(&self) -> Option<&'static str> {
        let Self {
            vc_host,
            vc_user,
            vc_pass,
            vc_read_user,
            vc_read_pass,
            vc_login_dir,
            vc_ca_file,
            insecure,
            datacenter,
            pool,
            datastore,
            root_folder,
        } = self;
        let set = |value: &Option<String>| value.as_ref().is_some_and(|value| !value.trim().is_empty());
        let named = |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| !path.as_os_str().is_empty());
        let all = [
            ("VC_HOST", set(vc_host)),
            ("VC_USER", set(vc_user)),
            ("VC_PASS", vc_pass.is_some()),
            ("VC_READ_USER", set(vc_read_user)),
            ("VC_READ_PASS", vc_read_pass.is_some()),
            ("VC_LOGIN_DIR", named(vc_login_dir)),
            ("VC_CA_FILE", named(vc_ca_file)),
            ("--insecure", *insecure),
            ("VC_DATACENTER", set(datacenter)),
            ("VC_POOL", set(pool)),
            ("VC_DATASTORE", set(datastore)),
            ("VC_FOLDER", set(root_folder)),
        ];
        all.into_iter().find(|(_, given)| *given).map(|(variable, _)| variable)
    }

    /// Where vCenter is, how to log in, and what to use of it.
    pub(super) fn into_config(self) -> Result<(VcenterConfig, SiteSelection), ConfigError> {
        let Self {
            vc_host,
            vc_user,
            vc_pass,
            vc_read_user,
            vc_read_pass,
            vc_login_dir,
            vc_ca_file,
            insecure,
            datacenter,
            pool,
            datastore,
            root_folder,
        } = self;
        let login_dir = given_path(vc_login_dir);
        let login = GivenLogin {
            host: given(vc_host),
            user: given(vc_user),
            password: vc_pass,
            read_user: given(vc_read_user),
            read_password: vc_read_pass,
        };
        let (host, credentials, reader) = match &login_dir {
            Some(folder) => login.with_those_in(folder)?,
            None => login.complete()?,
        };
        let endpoint = vmgroup_vsphere::endpoint(&host).map_err(|source| ConfigError::Endpoint { host, source })?;
        let tls = match (insecure, given_path(vc_ca_file)) {
            (true, _) => Tls::Insecure,
            (false, Some(file)) => Tls::CaFile(file),
            (false, None) => Tls::System,
        };
        let site = SiteSelection {
            datacenter: given(datacenter),
            pool_or_cluster: given(pool),
            datastore: given(datastore),
            root_folder: given(root_folder),
        };
        Ok((VcenterConfig { endpoint, credentials, reader, login_dir, tls }, site))
    }
}

impl RunArgs {
    /// The configuration that the flags and the environment amount to.
    pub fn into_config(self) -> Result<RunConfig, ConfigError> {
        let Self {
            vcenter,
            connections,
            max_tasks,
            namespace,
            policy_config_map,
            policy_dir,
            registry,
            policy_cache_dir,
            policy_cache_space,
            policy_keys,
            time_zone,
            leader_elect,
            lease_name,
            instance,
            metrics_addr,
            decision_memory,
            decision_folder,
            decision_space,
            socket,
            otlp_endpoint,
            log_format: _,
            log_level: _,
        } = self;
        let vcenters = if let Some(config_map) = given(connections) {
            if let Some(variable) = vcenter.given() {
                return Err(ConfigError::TwoWays { variable });
            }
            Vcenters::File { config_map }
        } else {
            let (vcenter, site) = vcenter.into_config()?;
            Vcenters::One(Box::new(OneVcenter { vcenter, site, max_tasks }))
        };
        Ok(RunConfig {
            vcenters,
            namespace: namespace_or_default(namespace),
            policy_config_map,
            policy_dir: given_path(policy_dir),
            policy_supply: PolicySupply {
                cache: given_path(policy_cache_dir).map(|folder| (folder, u64::from(policy_cache_space.get()) << 20)),
                keys: given_path(policy_keys),
                ..registry.to_supply()
            },
            time_zone,
            metrics_addr: metrics_addr.0,
            otlp_endpoint: given(otlp_endpoint),
            leader_election: leader_elect.then_some(lease_name),
            decisions: decisions(decision_memory, given_path(decision_folder), decision_space),
            socket: given_path(socket),
            instance: given(instance).or_else(host_name).unwrap_or_else(|| "vmgroup".to_owned()),
        })
    }
}

/// Files of a record folder: enough that the oldest to go is little of the whole.
const DECISION_FILES: u32 = 8;

fn decisions(memory_mib: usize, folder: Option<PathBuf>, space_mib: NonZeroU32) -> Option<Settings> {
    let file_bytes = (u64::from(space_mib.get()) << 20) / u64::from(DECISION_FILES);
    let files = folder.map(|folder| FileSettings { folder, file_bytes, files: DECISION_FILES as usize });
    (memory_mib > 0 || files.is_some()).then_some(Settings { memory: memory_mib << 20, files })
}

/// An empty variable is one that is not set: manifests leave them behind.
pub(super) fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.trim().is_empty())
}

/// A path, which may be empty: the variable is there, and means nothing.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn given_path(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}

/// The operator's own namespace.
pub(super) fn namespace_or_default(namespace: Option<String>) -> String {
    let of_pod = || given(std::fs::read_to_string(NAMESPACE_FILE).ok().map(|text| text.trim().to_owned()));
    given(namespace).or_else(of_pod).unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
}

fn host_name() -> Option<String> {
    given(std::env::var("HOSTNAME").ok())
        .or_else(|| given(std::fs::read_to_string("/etc/hostname").ok().map(|text| text.trim().to_owned())))
}

fn password(text: &str) -> Result<Password, String> {
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(Password::from(text.to_owned())) }
}

/// Where to listen; none for nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address(Option<SocketAddr>);

/// By its name in the system's time zone database.
fn time_zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|error| format!("{error}; expected a name such as Europe/Berlin or UTC"))
}

/// `host:port`, Go's `:port` for every address, and `0` for nowhere, as
/// controller-runtime has it.
fn address(text: &str) -> Result<Address, String> {
    if text == "0" {
        return Ok(Address(None));
    }
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    full.parse()
        .map(|it| Address(Some(it)))
        .map_err(|_| "use ADDRESS:PORT such as 0.0.0.0:8080, or 0 for nowhere".to_owned())
}

/// The original operator was written in Go, whose flags have one dash and may
/// give a boolean's value: its manifests keep working.
pub(super) fn normalise(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    const SWITCHES: [&str; 2] = ["insecure", "enable-leader-election"];
    let rewrite = |argument: OsString| -> Option<OsString> {
        let Some(text) = argument.to_str() else { return Some(argument) };
        let Some(bare) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else { return Some(argument) };
        let (name, value) = bare.split_once('=').map_or((bare, None), |(name, value)| (name, Some(value)));
        if SWITCHES.contains(&name) {
            return match value {
                None | Some("true") => Some(format!("--{name}").into()),
                Some("false") => None,
                Some(_) => Some(argument),
            };
        }
        if name == "metrics-addr" { Some(format!("--{bare}").into()) } else { Some(argument) }
    };
    arguments.into_iter().filter_map(rewrite).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(arguments: &[&str]) -> RunArgs {
        let all = ["vmgroup", "run"].iter().chain(arguments).map(OsString::from);
        match Cli::try_parse_from(normalise(all)).unwrap().command {
            Command::Run(arguments) => *arguments,
            other => panic!("{other:?}"),
        }
    }

    const LOGIN: [&str; 6] = ["--vc-host", "vc.example", "--vc-user", "me", "--vc-pass", "hunter2"];

    fn config(arguments: &[&str]) -> RunConfig {
        parse(&[&LOGIN[..], arguments].concat()).into_config().unwrap()
    }

    fn only(config: RunConfig) -> OneVcenter {
        match config.vcenters {
            Vcenters::One(one) => *one,
            Vcenters::File { config_map } => panic!("those of {config_map}"),
        }
    }

    #[test]
    fn flags_become_a_configuration() {
        let config = config(&["--pool", "A", "--leader-elect", "--max-tasks", "3", "--namespace", "ns"]);
        let one = only(config.clone());
        assert_eq!(one.vcenter.endpoint.host(), Some("vc.example"));
        assert_eq!(one.vcenter.tls, Tls::System);
        assert_eq!(one.site.pool_or_cluster.as_deref(), Some("A"));
        assert_eq!(one.max_tasks.get(), 3);
        assert_eq!(config.namespace, "ns");
        assert_eq!(config.leader_election.as_deref(), Some("vmgroup-operator"));
        assert_eq!(config.metrics_addr, Some(SocketAddr::from(([0, 0, 0, 0], 8080))));
    }

    #[test]
    fn a_time_zone_has_its_summers_and_a_name() {
        let zone = config(&["--time-zone", "Europe/Berlin"]).time_zone.unwrap();
        let minutes = |at: &str| zone.to_offset(at.parse().unwrap()).seconds() / 60;
        assert_eq!((minutes("2026-01-15T12:00:00Z"), minutes("2026-07-15T12:00:00Z")), (60, 120));
        assert!(config(&[]).time_zone.is_none());
        let error = Cli::try_parse_from(["vmgroup", "run", "--time-zone", "Europe/Nowhere"]).unwrap_err().to_string();
        assert!(error.contains("Europe/Nowhere") && error.contains("such as Europe/Berlin"), "{error}");
    }

    #[test]
    fn the_originals_flags_work() {
        let one = config(&["-insecure", "-metrics-addr=:9090", "-enable-leader-election"]);
        assert_eq!(only(one.clone()).vcenter.tls, Tls::Insecure);
        assert_eq!(one.metrics_addr.unwrap().port(), 9090);
        assert!(one.leader_election.is_some());
        let other = config(&["-insecure=false", "-metrics-addr", "0", "--enable-leader-election=true"]);
        assert_eq!(only(other.clone()).vcenter.tls, Tls::System);
        assert_eq!(other.metrics_addr, None);
        assert!(other.leader_election.is_some());
    }

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        let mut arguments = parse(&[]);
        let vcenter = &mut arguments.vcenter;
        (vcenter.vc_host, vcenter.vc_user, vcenter.vc_pass) = (Some(" ".to_owned()), None, None);
        let message = arguments.into_config().unwrap_err().to_string();
        for variable in ["VC_HOST", "VC_USER", "VC_PASS"] {
            assert!(message.contains(&format!("export {variable}=")), "{message}");
        }
    }

    #[test]
    fn a_reader_is_whole_or_none() {
        let reader = only(config(&["--vc-read-user", "viewer", "--vc-read-pass", "hunter3"])).vcenter.reader;
        assert_eq!(reader.unwrap().user, "viewer");
        let half = parse(&[&LOGIN[..], &["--vc-read-user", "viewer"]].concat()).into_config().unwrap_err().to_string();
        assert!(half.contains("VC_READ_PASS") && !half.contains("VC_READ_USER is not set"), "{half}");
    }

    #[test]
    fn the_login_comes_from_one_place() {
        let both = parse(&[&LOGIN[..], &["--vc-login-dir", "/nowhere"]].concat()).into_config().unwrap_err();
        assert!(matches!(both, ConfigError::TwoLogins { variable: "VC_USER" }), "{both}");
        let mut nowhere = parse(&["--vc-host", "vc.example", "--vc-login-dir", "/nowhere"]);
        (nowhere.vcenter.vc_user, nowhere.vcenter.vc_pass) = (Some(String::new()), None);
        let error = nowhere.into_config().unwrap_err();
        assert!(matches!(error, ConfigError::Login(_)), "{error}");
    }

    #[test]
    fn s9_the_password_is_in_no_debug_output() {
        assert!(!format!("{:?}", parse(&LOGIN)).contains("hunter2"));
        assert!(!format!("{:?}", config(&[])).contains("hunter2"));
    }

    #[test]
    fn policies_come_from_one_place() {
        assert_eq!(config(&["--policy-dir", "policies"]).policy_dir, Some("policies".into()));
        let both = ["vmgroup", "run", "--policy-dir", "policies", "--policy-config-map", "mine"];
        assert!(Cli::try_parse_from(both).is_err());
    }

    /// Manifests leave empty variables behind.
    #[test]
    fn an_empty_path_is_one_that_is_not_given() {
        let given = config(&["--vc-ca-file", "", "--vc-login-dir", "", "--socket", "", "--decision-folder", ""]);
        let vcenter = only(given.clone()).vcenter;
        assert_eq!((vcenter.tls, vcenter.login_dir, given.socket), (Tls::System, None, None));
        assert!(given.decisions.unwrap().files.is_none());
        assert_eq!(config(&["--policy-dir", ""]).policy_dir, None);
    }

    #[test]
    fn what_policies_need_is_asked_for_and_empty_is_nothing() {
        let empty =
            ["--registry-auth-file", "", "--registry-ca-file", "", "--policy-keys", "", "--policy-cache-dir", ""];
        let supply = config(&empty).policy_supply;
        assert!(supply.registry_logins.is_none() && supply.registry_ca.is_none());
        assert!(supply.keys.is_none() && supply.cache.is_none());
        let supply =
            config(&["--policy-cache-dir", "c", "--policy-cache-space", "2", "--policy-keys", "k"]).policy_supply;
        assert_eq!((supply.cache, supply.keys), (Some(("c".into(), 2 << 20)), Some("k".into())));
        let both = ["vmgroup", "run", "--registry-plain-http", "--registry-ca-file", "ca.pem"];
        assert!(Cli::try_parse_from(both).is_err());
    }

    #[test]
    fn the_vcenters_are_those_of_a_file_or_just_one() {
        let several = parse(&["--connections", "vmgroup-connections"]).into_config().unwrap();
        assert!(matches!(several.vcenters, Vcenters::File { config_map } if config_map == "vmgroup-connections"));
        let both = parse(&[&LOGIN[..], &["--connections", "mine"]].concat()).into_config().unwrap_err();
        assert!(matches!(both, ConfigError::TwoWays { variable: "VC_HOST" }), "{both}");
        for (arguments, named) in [
            (&["--vc-ca-file", "ca.pem"][..], "VC_CA_FILE"),
            (&["--insecure"][..], "--insecure"),
            (&["--vc-read-user", "viewer"][..], "VC_READ_USER"),
            (&["--vc-read-pass", "hunter3"][..], "VC_READ_PASS"),
            (&["--vc-login-dir", "logins"][..], "VC_LOGIN_DIR"),
            (&["--datacenter", "Berlin"][..], "VC_DATACENTER"),
        ] {
            let both = parse(&[arguments, &["--connections", "mine"]].concat()).into_config().unwrap_err();
            assert!(matches!(both, ConfigError::TwoWays { variable } if variable == named), "{both}");
        }
        assert!(matches!(config(&["--connections", ""]).vcenters, Vcenters::One(_)));
    }

    #[test]
    fn trust_is_one_of_three_and_not_two_at_once() {
        assert_eq!(only(config(&["--vc-ca-file", "ca.pem"])).vcenter.tls, Tls::CaFile("ca.pem".into()));
        let both = ["vmgroup", "run", "--insecure", "--vc-ca-file", "ca.pem"];
        assert!(Cli::try_parse_from(both).is_err());
    }
}

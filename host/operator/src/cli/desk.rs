//! Which vCenter a command at a desk is about: the one that flags and variables name, or
//! one of those of a connections file, with the login that the operator uses.
//!
//! Must not know what is done there.

use std::sync::Arc;

use clap::Args;
use kube::Client;
use vmgroup_api::connections_file::{ConnectionEntry, ConnectionsFile};
use vmgroup_vsphere::{HttpTransport, SiteSelection};

use super::run_args::{VcenterArgs, given, namespace_or_default};
use super::{ConfigError, SessionError};
use crate::by_hand::Hand;
use crate::clock::Clock;
use crate::config::VcenterConfig;
use crate::connections::once::{self, OnceError, Source};
use crate::metrics::Metrics;
use crate::run::{RunError, kube_client, vcenter_client};

/// Which vCenter: one by flags, or of a connections file.
#[derive(Args, Debug)]
pub struct DeskArgs {
    #[command(flatten)]
    vcenter: VcenterArgs,

    /// The connections.yaml of several vCenters, instead of all that says which one: a ConfigMap in the operator's namespace, or a file (with a `/`, or ending in `.yaml`). Logins are read from the Secrets that it names [default: none]
    #[arg(long, env = "VMGROUP_CONNECTIONS", value_name = "NAME|FILE", help_heading = "vCenter")]
    connections: Option<String>,

    /// Which of these connections
    #[arg(long, value_name = "NAME", help_heading = "vCenter")]
    connection: Option<String>,

    /// The operator's own namespace: ConfigMap and Secrets are here [default: the pod's, or vmgroup-system]
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE", help_heading = "Kubernetes")]
    namespace: Option<String>,
}

/// Why it is not known which vCenter is meant.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// One of several, without any.
    #[error("--connection {0} is one of those of --connections (VMGROUP_CONNECTIONS), which is not set")]
    NoFile(String),
    /// The file, or a login.
    #[error(transparent)]
    Once(#[from] OnceError),
    /// There is no such connection.
    #[error("there is no connection {name} in connections.yaml; there are: {}", names.join(", "))]
    Unknown {
        /// The one that was asked for.
        name: String,
        /// Those that there are.
        names: Vec<String>,
    },
    /// There are several.
    #[error("connections.yaml has several vCenters: say with --connection which one: {}", .0.join(", "))]
    Several(Vec<String>),
}

/// What a command is about.
pub enum Desk {
    /// The vCenter of the flags.
    One(Box<(VcenterConfig, SiteSelection)>),
    /// Those of a file, or the one of them that is named.
    File(Of),
}

/// Connections of a file.
pub struct Of {
    kube: Client,
    namespace: String,
    /// Those that are meant.
    pub entries: Vec<ConnectionEntry>,
}

impl Of {
    /// How the operator connects there, and what of it groups may use.
    pub async fn vcenter(&self, entry: &ConnectionEntry) -> Result<(VcenterConfig, SiteSelection), OnceError> {
        once::vcenter(&self.kube, &self.namespace, entry).await
    }
}

impl DeskArgs {
    /// Finds out what is meant.
    pub(super) async fn look(self) -> Result<Desk, SessionError> {
        let Self { vcenter, connections, connection, namespace } = self;
        let connection = given(connection);
        let Some(file) = given(connections) else {
            return match connection {
                Some(name) => Err(DeskError::NoFile(name).into()),
                None => Ok(Desk::One(Box::new(vcenter.into_config()?))),
            };
        };
        if let Some(variable) = vcenter.given() {
            return Err(ConfigError::TwoWays { variable }.into());
        }
        let (kube, namespace) = (kube_client(&Metrics::new(Clock::system())).await?, namespace_or_default(namespace));
        let file = once::file(&kube, &namespace, &Source::of(&file)).await.map_err(DeskError::from)?;
        let entries = chosen(file, connection.as_deref())?;
        Ok(Desk::File(Of { kube, namespace, entries }))
    }

    /// Both hands on the one vCenter that is meant.
    pub(super) async fn hand(self) -> Result<Hand, Box<SessionError>> {
        let (kube, (config, site)) = match self.look().await? {
            Desk::One(one) => (kube_client(&Metrics::new(Clock::system())).await.map_err(SessionError::from)?, *one),
            Desk::File(of) => match of.entries.as_slice() {
                [only] => {
                    let one = of.vcenter(only).await.map_err(|error| SessionError::from(DeskError::from(error)))?;
                    (of.kube, one)
                }
                several => return Err(Box::new(DeskError::Several(names(several)).into())),
            },
        };
        let transport =
            HttpTransport::new(&config.tls).map_err(|error| SessionError::from(RunError::Vcenter(error)))?;
        let vcenter = vcenter_client(&config, Arc::new(transport));
        match Hand::new(kube, vcenter.clone(), &site).await {
            Ok(hand) => Ok(hand),
            Err(error) => {
                vcenter.logout().await;
                Err(Box::new(error.into()))
            }
        }
    }
}

fn names(entries: &[ConnectionEntry]) -> Vec<String> {
    entries.iter().map(|entry| entry.name.clone()).collect()
}

/// The connections of a file that are meant: the one of this name, or all.
fn chosen(file: ConnectionsFile, name: Option<&str>) -> Result<Vec<ConnectionEntry>, DeskError> {
    let all = file.connections;
    let Some(name) = name else { return Ok(all) };
    match all.iter().find(|entry| entry.name == name) {
        Some(entry) => Ok(vec![entry.clone()]),
        None => Err(DeskError::Unknown { name: name.to_owned(), names: names(&all) }),
    }
}

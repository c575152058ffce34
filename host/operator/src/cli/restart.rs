//! `vmgroup restart`: asks for a restart of a group's members, at a person's desk and
//! by that person's rights in Kubernetes. It is the operator that carries it out.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;
use vmgroup_api::{RESTARTED_AT_ANNOTATION, VmGroup};

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::run::{RunError, kube_client};
use crate::status::{StatusError, bounded};
use crate::wake::GroupRef;

/// How often it is looked whether all have been restarted.
const LOOK: Duration = Duration::from_secs(2);

/// Arguments of `vmgroup restart`.
#[derive(Args, Debug)]
#[command(after_help = "\
Members are shut down and powered on again in turns, within maxUnavailable and maxSurge of the
group's updateStrategy; the scaling policy says who goes first. Needs patch on the VmGroup, and
nothing in vCenter.

Examples:
  kubectl vmgroup restart shop/web
  kubectl vmgroup restart shop/web --wait 1800")]
pub struct RestartArgs {
    /// The group
    #[arg(value_name = "NAMESPACE/GROUP", value_parser = |text: &str| GroupRef::parse(text).ok_or("not NAMESPACE/GROUP"))]
    group: GroupRef,

    /// Wait so long, in seconds, until all have been restarted
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// The way to Kubernetes.
    #[error(transparent)]
    Client(#[from] RunError),
    /// The group could not be read or changed.
    #[error("the VmGroup {group} could not be read or changed")]
    Group {
        /// Which.
        group: GroupRef,
        /// Why.
        source: StatusError,
    },
    /// They are not done.
    #[error("not all members of {group} have been restarted within {seconds} s; it goes on: {message}")]
    NotYet {
        /// Whose.
        group: GroupRef,
        /// How long it was waited.
        seconds: u64,
        /// What the group says.
        message: String,
    },
    /// The result could not be written.
    #[error("the output could not be written")]
    Output(#[from] std::io::Error),
}

/// Asks for it, and waits if that is wanted.
pub(super) async fn run(arguments: RestartArgs, out: &mut impl Write) -> Result<(), RestartError> {
    let RestartArgs { group, wait } = arguments;
    let clock = Clock::system();
    let api: Api<VmGroup> = Api::namespaced(kube_client(&Metrics::new(clock)).await?, &group.namespace);
    let failed = |source| RestartError::Group { group: group.clone(), source };
    let at = clock.now().to_string();
    let patch = json!({"metadata": {"annotations": {RESTARTED_AT_ANNOTATION: at}}});
    bounded(api.patch(&group.name, &PatchParams::default(), &Patch::Merge(patch))).await.map_err(failed)?;
    writeln!(out, "{group}: its members are restarted in turns")?;
    let Some(seconds) = wait else { return Ok(()) };
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        let status = bounded(api.get(&group.name)).await.map_err(failed)?.status.unwrap_or_default();
        if status.restarted_at.as_ref() == Some(&at) {
            return Ok(writeln!(out, "{group}: all have been restarted")?);
        }
        if Instant::now() >= end {
            let message = status.last_message.unwrap_or_default();
            return Err(RestartError::NotYet { group, seconds, message });
        }
        tokio::time::sleep(LOOK).await;
    }
}

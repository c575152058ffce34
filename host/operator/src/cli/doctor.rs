//! `vmgroup doctor`: how it is asked for, and how it tells what it found.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use kube::api::{Api, ListParams};
use serde_json::json;
use vmgroup_api::VmGroup;
use vmgroup_vsphere::{HttpTransport, Tls};

use super::run_args::VcenterArgs;
use super::text::Paint;
use super::{ConfigError, Output, chain, table};
use crate::clock::Clock;
use crate::doctor::{Condition, Finding, examine, role};
use crate::metrics::Metrics;
use crate::run::{RunError, kube_client, vcenter_client};
use crate::status::bounded;

/// The role's name in what is printed.
const ROLE: &str = "vmgroup-operator";

/// Arguments of `vmgroup doctor`.
#[derive(Args, Debug)]
#[command(after_help = "\
Looks, in this order, whether vCenter answers, whether its certificate is trusted, whether it lets
the user in, whether datacenter, pools, datastores, root folder and templates are there, and which
privileges the user has on each of them. Changes nothing. Ends with 1 if the operator could not work.

Examples:
  VC_HOST=vcenter.example.com VC_USER=operator@vsphere.local VC_PASS=… vmgroup doctor
  vmgroup doctor --template small --template /DC0/vm/templates/large
  vmgroup doctor --role
  kubectl --namespace vmgroup-system exec deploy/vmgroup-operator -- vmgroup doctor")]
pub struct DoctorArgs {
    /// A template that shall be cloned, by name or inventory path; several times for several [default: those of the cluster's VmGroups]
    #[arg(long = "template", value_name = "NAME")]
    templates: Vec<String>,

    /// Print the role to create in vCenter, as commands for govc, and look at nothing
    #[arg(long)]
    role: bool,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,

    #[command(flatten)]
    vcenter: VcenterArgs,
}

/// Why nothing could be looked at.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// Flags and environment.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No client could be made.
    #[error(transparent)]
    Client(#[from] RunError),
    /// The result could not be written.
    #[error("the output could not be written")]
    Output(#[from] std::io::Error),
}

pub(super) async fn run(arguments: DoctorArgs, out: &mut impl Write) -> Result<ExitCode, DoctorError> {
    let DoctorArgs { mut templates, role: only_role, output, vcenter } = arguments;
    if only_role {
        print_role(out, output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (config, site) = vcenter.into_config()?;
    let mut unasked = None;
    if templates.is_empty() {
        match templates_of_groups().await {
            Ok(found) if found.is_empty() => unasked = Some("the cluster has no VmGroups yet".to_owned()),
            Ok(found) => templates = found,
            Err(why) => unasked = Some(format!("the cluster's VmGroups cannot be read: {why}")),
        }
    }
    let transport = HttpTransport::new(&config.tls).map_err(RunError::Vcenter)?;
    let client = vcenter_client(&config, Arc::new(transport));
    let address = config.endpoint.authority().map(ToString::to_string).unwrap_or_default();
    let trust = match &config.tls {
        Tls::System => "trusted, by the system's certificate authorities".to_owned(),
        Tls::CaFile(file) => format!("trusted, by {}", file.display()),
        Tls::CaPem(_) => "trusted, by the authorities of the connection".to_owned(),
        Tls::Thumbprint(_) => "the one whose thumbprint you gave".to_owned(),
        Tls::Insecure => "not looked at, as you said".to_owned(),
    };
    let mut findings = examine(&client, (&address, &trust), &site, &templates).await;
    client.logout().await;
    if let Some(why) = unasked {
        findings.push(Finding::unknown("template", "", why, "name what shall be cloned with --template"));
    }
    let well = findings.iter().all(|finding| finding.condition != Condition::Bad);
    match output {
        Output::Json => writeln!(out, "{:#}", json!({ "well": well, "findings": findings }))?,
        Output::Text => print(out, &findings, well)?,
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the cluster's groups are cloned from.
async fn templates_of_groups() -> Result<Vec<String>, String> {
    let client = kube_client(&Metrics::new(Clock::system())).await.map_err(|error| chain(&error))?;
    let api: Api<VmGroup> = Api::all(client);
    let groups = bounded(api.list(&ListParams::default())).await.map_err(|error| chain(&error))?;
    let templates: BTreeSet<String> = groups.items.into_iter().map(|group| group.spec.template).collect();
    Ok(templates.into_iter().collect())
}

fn print(out: &mut impl Write, findings: &[Finding], well: bool) -> std::io::Result<()> {
    let paint = Paint::new();
    let word = |condition| match condition {
        Condition::Good => "ok",
        Condition::Wish => "wish",
        Condition::Unknown => "?",
        Condition::Bad => "BAD",
    };
    let mut rows = vec![["", "CHECK", "OF", "FOUND"].map(str::to_owned)];
    rows.extend(findings.iter().map(|finding| {
        [word(finding.condition).to_owned(), finding.check.to_owned(), finding.object.clone(), finding.detail.clone()]
    }));
    table(out, &rows)?;
    let remedies: BTreeSet<&str> = findings.iter().filter_map(|finding| finding.remedy.as_deref()).collect();
    if !remedies.is_empty() {
        writeln!(out, "\nWhat to do:")?;
    }
    for remedy in remedies {
        writeln!(out, "  - {remedy}")?;
    }
    let verdict = if well {
        paint.good("The operator can work with this vCenter.")
    } else {
        paint.bad("The operator cannot work with this vCenter as it is.")
    };
    writeln!(out, "\n{verdict}")
}

fn print_role(out: &mut impl Write, output: Output) -> std::io::Result<()> {
    let privileges: Vec<&str> = role().into_iter().collect();
    if output == Output::Json {
        return writeln!(out, "{:#}", json!({ "role": ROLE, "privileges": privileges }));
    }
    writeln!(
        out,
        "# The role, and the user who gets it on the datacenter and all that is below. Narrower: on the root folder,\n# the templates, the pools, the datastores and the networks, each by a command of its own."
    )?;
    writeln!(out, "govc role.create {ROLE} \\\n  {}", privileges.join(" \\\n  "))?;
    writeln!(out, "govc permissions.set -principal operator@vsphere.local -role {ROLE} -propagate=true /DATACENTER")
}

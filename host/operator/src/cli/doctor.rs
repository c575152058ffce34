//! `vmgroup doctor`: how it is asked for, and how it tells what it found.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use vmgroup_api::VmGroup;
use vmgroup_vsphere::{HttpTransport, SiteSelection, Tls};

use super::desk::{Desk, DeskArgs};
use super::text::Paint;
use super::{Output, SessionError, chain, table};
use crate::clock::Clock;
use crate::config::VcenterConfig;
use crate::doctor::{Condition, Finding, examine, role, role_on_vcenter};
use crate::metrics::Metrics;
use crate::run::{kube_client, vcenter_client};
use crate::status::bounded;

/// The roles' names in what is printed.
const ROLE: &str = "vmgroup-operator";
const ROLE_ON_VCENTER: &str = "vmgroup-operator-vcenter";

/// Arguments of `vmgroup doctor`.
#[derive(Args, Debug)]
#[command(after_help = "\
Looks, in this order, whether vCenter answers, whether its certificate is trusted, whether it lets
the user in, whether datacenter, pools, datastores, root folder and templates are there, and which
privileges the user has on each of them. Changes nothing. Ends with 1 if the operator could not work.

Examples:
  VC_HOST=vcenter.example.com VC_USER=operator@vsphere.local VC_PASS=… vmgroup doctor
  vmgroup doctor --template small --template /DC0/vm/templates/large
  vmgroup doctor --connections vmgroup-connections                  # all of them
  vmgroup doctor --connections ./connections.yaml --connection muc  # before it counts
  vmgroup doctor --role
  kubectl --namespace vmgroup-system exec deploy/vmgroup-operator -- /vmgroup doctor")]
pub struct DoctorArgs {
    /// A template that shall be cloned, by name or inventory path; several times for several [default: those of the cluster's VmGroups]
    #[arg(long = "template", value_name = "NAME")]
    templates: Vec<String>,

    /// Print the roles to create in vCenter, as commands for govc, and look at nothing
    #[arg(long)]
    role: bool,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,

    #[command(flatten)]
    desk: DeskArgs,
}

/// Why nothing could be looked at.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// Which vCenter is meant.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The result could not be written.
    #[error("the output could not be written")]
    Output(#[from] std::io::Error),
}

/// A vCenter, and what was found of it.
struct Report {
    /// Its name in the connections file; none: it is the one of the flags.
    name: Option<String>,
    findings: Vec<Finding>,
}

impl Report {
    fn well(&self) -> bool {
        self.findings.iter().all(|finding| finding.condition != Condition::Bad)
    }

    fn json(&self) -> Value {
        let mut told = json!({ "well": self.well(), "findings": self.findings });
        if let Some(name) = &self.name {
            told["connection"] = json!(name);
        }
        told
    }
}

pub(super) async fn run(arguments: DoctorArgs, out: &mut impl Write) -> Result<ExitCode, DoctorError> {
    let DoctorArgs { templates, role: only_role, output, desk } = arguments;
    if only_role {
        print_role(out, output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut reports = Vec::new();
    match desk.look().await? {
        Desk::One(one) => {
            let findings = examine_one(*one, templates_for(&templates, None).await).await;
            reports.push(Report { name: None, findings });
        }
        Desk::File(of) => {
            for entry in &of.entries {
                let findings = match of.vcenter(entry).await {
                    Ok(one) => examine_one(one, templates_for(&templates, Some(&entry.name)).await).await,
                    Err(error) => vec![Finding::bad("login", &entry.address, chain(&error), None)],
                };
                reports.push(Report { name: Some(entry.name.clone()), findings });
            }
        }
    }
    let well = reports.iter().all(Report::well);
    match (output, reports.as_slice()) {
        (Output::Json, [only]) if only.name.is_none() => writeln!(out, "{:#}", only.json())?,
        (Output::Json, several) => {
            let connections: Vec<Value> = several.iter().map(Report::json).collect();
            writeln!(out, "{:#}", json!({ "well": well, "connections": connections }))?;
        }
        (Output::Text, reports) => {
            for report in reports {
                print(out, report)?;
            }
        }
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Looks at one vCenter.
async fn examine_one((config, site): (VcenterConfig, SiteSelection), templates: Templates) -> Vec<Finding> {
    let address = config.endpoint.authority().map(ToString::to_string).unwrap_or_default();
    let transport = match HttpTransport::new(&config.tls) {
        Ok(transport) => transport,
        Err(error) => return vec![Finding::bad("certificate", address, chain(&error), None)],
    };
    let client = vcenter_client(&config, Arc::new(transport));
    let trust = match &config.tls {
        Tls::System => "trusted, by the system's certificate authorities".to_owned(),
        Tls::CaFile(file) => format!("trusted, by {}", file.display()),
        Tls::CaPem(_) => "trusted, by the authorities of the connection".to_owned(),
        Tls::Thumbprint(_) => "the one whose thumbprint you gave".to_owned(),
        Tls::Insecure => "not looked at, as you said".to_owned(),
    };
    let (templates, unasked) = match templates {
        Ok(templates) => (templates, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    let mut findings = examine(&client, (&address, &trust), &site, &templates).await;
    client.logout().await;
    if let Some(why) = unasked {
        findings.push(Finding::unknown("template", "", why, "name what shall be cloned with --template"));
    }
    findings
}

/// What is cloned there, or why nobody knows.
type Templates = Result<Vec<String>, String>;

/// Those that were named, or else those of the cluster's groups, of a connection's if it
/// is named.
async fn templates_for(named: &[String], connection: Option<&str>) -> Templates {
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let client = kube_client(&Metrics::new(Clock::system())).await.map_err(|error| chain(&error))?;
    let api: Api<VmGroup> = Api::all(client);
    let groups = bounded(api.list(&ListParams::default())).await;
    let groups = groups.map_err(|error| format!("the cluster's VmGroups cannot be read: {}", chain(&error)))?;
    let is_there = |group: &VmGroup| {
        let recorded = group.status.as_ref().and_then(|status| status.connection.as_ref()?.name.as_deref());
        connection.is_none() || recorded == connection
    };
    let templates: BTreeSet<String> =
        groups.items.into_iter().filter(is_there).map(|group| group.spec.template).collect();
    match connection {
        _ if !templates.is_empty() => Ok(templates.into_iter().collect()),
        Some(name) => Err(format!("no VmGroup is in the connection {name} yet")),
        None => Err("the cluster has no VmGroups yet".to_owned()),
    }
}

fn print(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let (Report { name, findings }, well) = (report, report.well());
    let paint = Paint::new();
    let which = name.as_ref().map_or_else(|| "this vCenter".to_owned(), |name| format!("the vCenter of {name}"));
    if let Some(name) = name {
        writeln!(out, "{}", paint.bold(&format!("Connection {name}")))?;
    }
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
        paint.good(&format!("The operator can work with {which}."))
    } else {
        paint.bad(&format!("The operator cannot work with {which} as it is."))
    };
    writeln!(out, "\n{verdict}")
}

fn print_role(out: &mut impl Write, output: Output) -> std::io::Result<()> {
    let privileges: Vec<&str> = role().into_iter().collect();
    let on_vcenter: Vec<&str> = role_on_vcenter().into_iter().collect();
    if output == Output::Json {
        let optional = json!({ "role": ROLE_ON_VCENTER, "privileges": on_vcenter });
        return writeln!(out, "{:#}", json!({ "role": ROLE, "privileges": privileges, "onVcenter": optional }));
    }
    let create =
        |role: &str, privileges: &[&str]| format!("govc role.create {role} \\\n  {}", privileges.join(" \\\n  "));
    let give = "govc permissions.set -principal operator@vsphere.local -role";
    writeln!(
        out,
        "# The role, and the user who gets it on the datacenter and all that is below. Narrower: on the root folder,\n# the templates, the pools, the datastores and the networks, each by a command of its own."
    )?;
    writeln!(out, "{}\n{give} {ROLE} -propagate=true /DATACENTER\n", create(ROLE, &privileges))?;
    writeln!(
        out,
        "# Optional, as what is held on vCenter itself: another role, for nothing that is below. Tags lie in no inventory:\n# for AttachTag only a global permission counts (Administration > Global Permissions), or one on the tag."
    )?;
    writeln!(out, "{}\n{give} {ROLE_ON_VCENTER} -propagate=false /", create(ROLE_ON_VCENTER, &on_vcenter))
}

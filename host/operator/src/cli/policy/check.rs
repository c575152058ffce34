//! `vmgroup policy check`: the pipeline that a plugin meets in the cluster, with
//! its stages and costs, for the author's desk.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use vmgroup_policy::{CheckError, Kind, Problem, Stage, StageReport};

use super::input::{self, Plugin, PluginArgs, Verdict};
use super::registry::{self, RegistryError};
use super::text::Paint;
use super::{Output, PolicyError};
use crate::policy_source::{line_of, with_lines};

/// Arguments of `vmgroup policy check`.
#[derive(Args, Debug)]
#[command(after_help = "\
The stages are those of the cluster: size, signature (with --keys), parse, interface, compile, instantiate, describe,
config, self-test. Exit code 0 means that the operator would take the plugin, 1 that it would
refuse it.

Examples:
  vmgroup policy check ordinal.wasm --config '{\"pattern\":\"{group}-{ordinal}\"}'
  vmgroup policy check idle-first.wasm.gz --config @idle-first.json --output json
  vmgroup policy check mine.wasm --policy-file policy.yaml
  vmgroup policy check mine.wasm --keys trusted.pem        # and mine.wasm.sig")]
pub struct CheckArgs {
    #[command(flatten)]
    plugin: PluginArgs,

    /// Public keys (PEM): it has to be signed by one of them, in FILE.sig
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// Checks, prints, and says by the exit code how it went.
pub(super) fn run(arguments: &CheckArgs, out: &mut impl Write) -> Result<ExitCode, PolicyError> {
    let mut plugin = arguments.plugin.check()?;
    if let Some(keys) = &arguments.keys {
        plugin.verdict = signed(&plugin, &registry::signature_of(arguments.plugin.file()), keys)?;
    }
    Ok(show(arguments.output, &plugin, out)?)
}

/// The verdict, if somebody has signed the plugin whose key is in this file.
fn signed(plugin: &Plugin, signature: &Path, keys: &Path) -> Result<Verdict, PolicyError> {
    let keys = crate::run::keys(keys).map_err(RegistryError::from)?;
    let signature = signature.is_file().then(|| input::read(signature)).transpose()?;
    let kind = plugin.kind.unwrap_or(Kind::Naming);
    let signer = match input::host()?.verify(kind, &plugin.source, signature.as_deref(), &keys) {
        Ok(signer) => signer,
        Err(error) => return Ok(Err(error)),
    };
    let mut verdict = plugin.verdict.clone();
    if let Ok(checked) = &mut verdict {
        let detail = format!("by {signer}");
        checked.stages.insert(1, StageReport { stage: Stage::Signature, detail, took: Duration::ZERO, fuel: None });
    }
    Ok(verdict)
}

/// Prints the verdict and gives the exit code that it stands for.
pub(super) fn show(output: Output, plugin: &Plugin, out: &mut impl Write) -> std::io::Result<ExitCode> {
    match output {
        Output::Json => super::json(out, &report(plugin))?,
        Output::Text => print(out, plugin)?,
    }
    Ok(if plugin.verdict.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn stages(result: &Verdict) -> &[StageReport] {
    match result {
        Ok(checked) => &checked.stages,
        Err(error) => &error.stages,
    }
}

/// The verdict for programs.
pub(super) fn report(plugin: &Plugin) -> Value {
    let Plugin { source, kind, verdict: result, policy_file: _ } = plugin;
    let stages: Vec<Value> = stages(result)
        .iter()
        .map(|stage| {
            json!({
                "stage": stage.stage.to_string(),
                "detail": stage.detail,
                "seconds": stage.took.as_secs_f64(),
                "fuel": stage.fuel,
            })
        })
        .collect();
    let mut report = json!({
        "plugin": source.name,
        "kind": kind.map(|kind| kind.to_string()),
        "accepted": result.is_ok(),
        "stages": stages,
    });
    match result {
        Ok(checked) => {
            let policy = &checked.policy;
            report["name"] = json!(policy.description().name);
            report["version"] = json!(policy.description().version);
            report["summary"] = json!(policy.description().summary);
            report["digest"] = json!(policy.digest().to_string());
        }
        Err(error) => {
            report["refusal"] = json!({
                "stage": error.stage.to_string(),
                "problem": problem(error, plugin),
                "remedy": error.remedy,
                "mistakes": mistakes(error, plugin),
            });
        }
    }
    report
}

/// What is wrong, with the lines of the policy file that it is in.
fn problem(error: &CheckError, plugin: &Plugin) -> String {
    match (&plugin.policy_file, plugin.kind) {
        (Some(text), Some(kind)) => with_lines(&error.problem, kind, text),
        _ => error.problem.to_string(),
    }
}

/// What is wrong with the configuration, one by one; nothing if it is not that.
fn mistakes(error: &CheckError, plugin: &Plugin) -> Vec<Value> {
    let Problem::Config(mistakes) = &*error.problem else { return Vec::new() };
    let line = |mistake| line_of(mistake, plugin.kind?, plugin.policy_file.as_ref()?);
    mistakes
        .iter()
        .map(|mistake| json!({ "path": mistake.path, "line": line(mistake), "message": mistake.message }))
        .collect()
}

/// The verdict for people.
fn print(out: &mut impl Write, plugin: &Plugin) -> std::io::Result<()> {
    let Plugin { source, kind, verdict: result, policy_file: _ } = plugin;
    let paint = Paint::new();
    let as_what = kind.map(|kind| format!(" as a policy for {kind}")).unwrap_or_default();
    writeln!(out, "{}{as_what}", paint.bold(&source.name))?;
    for StageReport { stage, detail, took, fuel } in stages(result) {
        let fuel = fuel.map(|fuel| format!("  {fuel} fuel")).unwrap_or_default();
        let cost = format!("{:>9.3} ms{fuel}", took.as_secs_f64() * 1_000.0);
        writeln!(out, "  {} {:<12} {cost:<28} {detail}", paint.good("ok"), stage.to_string())?;
    }
    match result {
        Ok(checked) => {
            let description = checked.policy.description();
            writeln!(
                out,
                "{}: {} {}, {}",
                paint.good("accepted"),
                description.name,
                description.version,
                description.summary
            )?;
            writeln!(out, "  digest   {}", checked.policy.digest())
        }
        Err(error) => {
            writeln!(out, "{} at stage {}", paint.bad("refused"), error.stage)?;
            writeln!(out, "  problem  {}", problem(error, plugin))?;
            writeln!(out, "  remedy   {}", error.remedy)
        }
    }
}

//! `vmgroup policy inspect`: what a plugin is, without asking it anything.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use vmgroup_policy::{CheckError, Inspection};

use super::text::{Paint, size};
use super::{Output, PolicyError, input};

/// Arguments of `vmgroup policy inspect`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code 0: it is a policy that describes itself; 1: it is not.

Examples:
  vmgroup policy inspect mine.wasm
  vmgroup policy inspect mine.wasm --output json | jq .description.configSchema")]
pub struct InspectArgs {
    /// The plugin: .wasm or .wasm.gz
    file: PathBuf,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

pub(super) fn run(arguments: &InspectArgs, out: &mut impl Write) -> Result<ExitCode, PolicyError> {
    let source = input::source(&arguments.file)?;
    let result = input::host()?.inspect(&source);
    match (&result, arguments.output) {
        (Ok(found), Output::Json) => super::json(out, &report(found))?,
        (Ok(found), Output::Text) => print(out, &source.name, found)?,
        (Err(error), Output::Json) => super::json(out, &json!({ "problem": problem(error) }))?,
        (Err(error), Output::Text) => {
            writeln!(out, "{}: {}", Paint::new().bad("no component"), error.problem)?;
            writeln!(out, "  remedy   {}", error.remedy)?;
        }
    }
    let is_policy = result.is_ok_and(|found| found.description.is_ok());
    Ok(if is_policy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn problem(error: &CheckError) -> Value {
    json!({ "stage": error.stage.as_str(), "problem": error.problem.to_string(), "remedy": error.remedy })
}

fn report(found: &Inspection) -> Value {
    let mut report = json!(found);
    match &found.description {
        Ok(description) => {
            let attributes: serde_json::Map<String, Value> =
                description.attributes.iter().map(|it| (it.key.clone(), json!(it.value))).collect();
            report["description"] = json!({
                "name": description.name,
                "version": description.version,
                "summary": description.summary,
                "configSchema": schema(description.config_schema.as_deref()),
                "attributes": attributes,
            });
        }
        Err(error) => report["problem"] = problem(error),
    }
    report
}

/// The schema as JSON; the checks have seen that it is.
fn schema(text: Option<&str>) -> Option<Value> {
    serde_json::from_str(text?).ok()
}

fn print(out: &mut impl Write, name: &str, found: &Inspection) -> std::io::Result<()> {
    let paint = Paint::new();
    writeln!(out, "{}", paint.bold(name))?;
    let kinds: Vec<&str> = found.kinds.iter().map(|kind| kind.as_str()).collect();
    let answers = if kinds.is_empty() { "nothing that this operator asks".to_owned() } else { kinds.join(", ") };
    writeln!(out, "  answers   {answers}")?;
    if let Some(world) = found.world {
        writeln!(out, "  world     {world}")?;
    }
    match &found.description {
        Ok(description) => {
            writeln!(out, "  is        {} {}: {}", description.name, description.version, description.summary)?;
            for attribute in &description.attributes {
                writeln!(out, "            {}: {}", attribute.key, attribute.value)?;
            }
        }
        Err(error) => {
            writeln!(out, "  {}   it fails at stage {}: {}", paint.bad("is no"), error.stage, error.problem)?;
            writeln!(out, "            {}", error.remedy)?;
        }
    }
    let list = |items: &[String]| if items.is_empty() { "nothing".to_owned() } else { items.join("\n            ") };
    writeln!(out, "  imports   {}", list(&found.imports))?;
    writeln!(out, "  exports   {}", list(&found.exports))?;
    let producers: Vec<String> =
        found.producers.iter().map(|it| format!("{} {} ({})", it.name, it.version, it.field)).collect();
    writeln!(out, "  made by   {}", list(&producers))?;
    writeln!(out, "  digest    {}", found.digest)?;
    let stored = if found.stored_bytes == found.bytes {
        String::new()
    } else {
        format!(", stored as {}", size(found.stored_bytes))
    };
    writeln!(out, "  size      {}{stored}, {} functions", size(found.bytes), found.functions)?;
    for section in &found.sections {
        writeln!(out, "  {:>14}  {}", size(section.bytes), section.name)?;
    }
    let schema = found.description.as_ref().ok().and_then(|description| schema(description.config_schema.as_deref()));
    match schema {
        Some(schema) => writeln!(out, "  config    {schema:#}"),
        None => writeln!(out, "  config    it carries no schema"),
    }
}

//! `vmgroup policy check`: the pipeline that a plugin meets in the cluster, with
//! its stages and costs, for the author's desk.

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use vmgroup_policy::{CheckError, Checked, Host, Kind, Limits, Source, Stage, StageReport};

use crate::logging::colours;

/// Arguments of `vmgroup policy check`.
#[derive(Args, Debug)]
#[command(after_help = "\
The stages are those of the cluster: size, parse, interface, compile, instantiate, describe,
config, self-test. Exit code 0 means that the operator would take the plugin, 1 that it would
refuse it.

Examples:
  vmgroup policy check ordinal.wasm --config '{\"pattern\":\"{group}-{ordinal}\"}'
  vmgroup policy check idle-first.wasm.gz --config @idle-first.json --output json")]
pub struct CheckArgs {
    /// The plugin: .wasm or .wasm.gz
    file: PathBuf,

    /// What it is to be checked as [default: what it exports, if that is one]
    #[arg(long, value_enum, value_name = "KIND")]
    kind: Option<KindArg>,

    /// Its configuration: JSON, or @FILE [default: {}]
    #[arg(long, value_name = "JSON", default_value = "{}", hide_default_value = true)]
    config: String,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// How the result is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KindArg {
    Naming,
    Placement,
    Scaling,
}

impl From<KindArg> for Kind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Naming => Self::Naming,
            KindArg::Placement => Self::Placement,
            KindArg::Scaling => Self::Scaling,
        }
    }
}

/// Why a check could not be made. A refusal is not one of these: it is a result.
#[derive(Debug, thiserror::Error)]
pub enum CheckFailure {
    /// The plugin, or the file of its configuration.
    #[error("`{}` cannot be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `--config` is not JSON.
    #[error("--config is not JSON: write an object such as '{{\"order\":\"oldest\"}}', or @FILE")]
    Config(#[source] serde_json::Error),
    /// `--config` is JSON, but no object.
    #[error("--config must be a JSON object such as '{{\"order\":\"oldest\"}}'")]
    NotAnObject,
    /// The plugin answers several kinds of questions.
    #[error("the plugin can be used for {}: say which with --kind", .0.join(" and "))]
    SeveralKinds(Vec<String>),
    /// The sandbox could not be set up.
    #[error("the WebAssembly host could not be started")]
    Host(#[source] vmgroup_policy::HostError),
    /// The result could not be written.
    #[error("the output could not be written")]
    Output(#[from] std::io::Error),
}

/// Checks, prints, and says by the exit code how it went.
pub(super) fn run(arguments: &CheckArgs, out: &mut impl Write) -> Result<ExitCode, CheckFailure> {
    let bytes = read(&arguments.file)?;
    let config = config(&arguments.config)?;
    let name = arguments.file.file_name().unwrap_or(arguments.file.as_os_str()).to_string_lossy().into_owned();
    let source = Source { name, bytes: bytes.into(), config };
    let host = Host::new(Limits::default()).map_err(CheckFailure::Host)?;
    let (kind, result) = match arguments.kind {
        Some(kind) => (Some(kind.into()), host.check(kind.into(), &source)),
        None => infer(&host, &source)?,
    };
    match arguments.output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, &report(kind, &source, &result)).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        Output::Text => print(out, kind, &source, &result, colours(std::io::stdout().is_terminal()))?,
    }
    Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Verdict = Result<Checked, CheckError>;

/// Finds out by trying: the kind whose interface it has. The host compiles the
/// same bytes only once.
fn infer(host: &Host, source: &Source) -> Result<(Option<Kind>, Verdict), CheckFailure> {
    let mut fitting = Vec::new();
    let mut misfit = None;
    for kind in Kind::ALL {
        let verdict = host.check(kind, source);
        if past_interface(&verdict) {
            fitting.push((kind, verdict));
        } else {
            misfit = Some(verdict);
        }
    }
    if fitting.len() > 1 {
        return Err(CheckFailure::SeveralKinds(fitting.iter().map(|(kind, _)| kind.to_string()).collect()));
    }
    Ok(match (fitting.pop(), misfit) {
        (Some((kind, verdict)), _) => (Some(kind), verdict),
        // Where no kind fits, the fault is the file's.
        (None, Some(verdict)) => (None, verdict),
        (None, None) => (Some(Kind::Naming), host.check(Kind::Naming, source)),
    })
}

fn past_interface(result: &Verdict) -> bool {
    match result {
        Ok(_) => true,
        Err(error) => !matches!(error.stage, Stage::Size | Stage::Parse | Stage::Interface),
    }
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, CheckFailure> {
    std::fs::read(path).map_err(|source| CheckFailure::Read { path: path.to_owned(), source })
}

fn config(text: &str) -> Result<Value, CheckFailure> {
    let read_text;
    let json = if let Some(file) = text.strip_prefix('@') {
        read_text = read(file.as_ref())?;
        &read_text[..]
    } else {
        text.as_bytes()
    };
    let value: Value = serde_json::from_slice(json).map_err(CheckFailure::Config)?;
    if value.is_object() { Ok(value) } else { Err(CheckFailure::NotAnObject) }
}

fn stages(result: &Verdict) -> &[StageReport] {
    match result {
        Ok(checked) => &checked.stages,
        Err(error) => &error.stages,
    }
}

fn report(kind: Option<Kind>, source: &Source, result: &Verdict) -> Value {
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
                "problem": error.problem.to_string(),
                "remedy": error.remedy,
            });
        }
    }
    report
}

fn print(
    out: &mut impl Write,
    kind: Option<Kind>,
    source: &Source,
    result: &Verdict,
    coloured: bool,
) -> std::io::Result<()> {
    let paint = |code: &str, text: &str| if coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let as_what = kind.map(|kind| format!(" as a policy for {kind}")).unwrap_or_default();
    writeln!(out, "{}{as_what}", paint("1", &source.name))?;
    for StageReport { stage, detail, took, fuel } in stages(result) {
        let fuel = fuel.map(|fuel| format!("  {fuel} fuel")).unwrap_or_default();
        let cost = format!("{:>9.3} ms{fuel}", took.as_secs_f64() * 1_000.0);
        writeln!(out, "  {} {:<12} {cost:<28} {detail}", paint("32", "ok"), stage.to_string())?;
    }
    match result {
        Ok(checked) => {
            let description = checked.policy.description();
            writeln!(
                out,
                "{}: {} {}, {}",
                paint("1;32", "accepted"),
                description.name,
                description.version,
                description.summary
            )?;
            writeln!(out, "  digest   {}", checked.policy.digest())
        }
        Err(error) => {
            writeln!(out, "{} at stage {}", paint("1;31", "refused"), error.stage)?;
            writeln!(out, "  problem  {}", error.problem)?;
            writeln!(out, "  remedy   {}", error.remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_an_object_from_the_line_or_a_file() {
        assert_eq!(config(r#"{"by":"oldest"}"#).unwrap(), json!({"by": "oldest"}));
        assert!(matches!(config("{"), Err(CheckFailure::Config(_))));
        assert!(matches!(config("[1]"), Err(CheckFailure::NotAnObject)));
        assert!(matches!(config("@/does/not/exist"), Err(CheckFailure::Read { .. })));
    }
}

//! The command line: flags and environment in, one complete configuration out.
//!
//! Parses, prints and dispatches. Must not reconcile: what a command does is in
//! the module that it calls.

pub mod adopt;
mod crd;
mod decisions;
mod desk;
mod doctor;
mod failure;
pub mod orphans;
mod policy;
mod preview;
mod restart;
mod run_args;
mod shadow;
mod socket;
mod text;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::traces::Exporter;

pub use crd::crd_yaml;
pub use decisions::{DecisionsCommand, ExplainArgs};
pub use policy::{CheckArgs, KindArg, Output};
pub use run_args::{ConfigError, RunArgs};

use crate::by_hand::HandError;

/// The version of this binary.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Groups of vSphere virtual machines as a Kubernetes resource, with the
/// decisions (what a VM is called, where it goes, which one leaves first) in
/// WebAssembly policies that are swapped while the operator runs.
#[derive(Debug, Parser)]
#[command(
    name = "vmgroup",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  vmgroup crd | kubectl apply --server-side -f -
  VC_HOST=vcenter.example.com VC_USER=operator@vsphere.local VC_PASS=… vmgroup run
  vmgroup doctor
  vmgroup orphans
  vmgroup policy new my-policy --kind scaling && vmgroup policy build my-policy
  vmgroup policy check my-policy/target/plugins/my-policy.wasm

`vmgroup help COMMAND` explains each."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the operator, in a cluster or on a desk.
    Run(Box<RunArgs>),
    /// Prints the custom resource definition of VmGroup as YAML.
    #[command(after_help = "Example:\n  vmgroup crd | kubectl apply --server-side -f -")]
    Crd,
    /// Writes, builds and tries policies.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Looks into the decisions of the running operator.
    #[command(subcommand)]
    Decisions(DecisionsCommand),
    /// Says why a machine is called so, is there, and is next to leave or not.
    Explain(ExplainArgs),
    /// Shows who would come and go, where and why, if a group were scaled.
    Preview(Box<preview::PreviewArgs>),
    /// Restarts the members of a group, in turns.
    Restart(restart::RestartArgs),
    /// Looks at the policies on trial.
    #[command(subcommand)]
    Shadow(shadow::ShadowCommand),
    /// Connects standard input and output with the operator's socket.
    #[command(hide = true)]
    Tunnel {
        /// The socket
        #[arg(long, env = "VMGROUP_SOCKET", value_name = "FILE", default_value = crate::decisions::SOCKET)]
        socket: std::path::PathBuf,
    },
    /// Lists machines and folders that no group has; releases or deletes them.
    Orphans(Box<orphans::OrphansArgs>),
    /// Gives machines that are nobody's to a group.
    Adopt(Box<adopt::AdoptArgs>),
    /// Looks whether a vCenter is as the operator needs it.
    Doctor(Box<doctor::DoctorArgs>),
    /// Prints the version.
    Version,
    /// Prints a completion script for a shell.
    #[command(after_help = "Example:\n  source <(vmgroup completion bash)")]
    Completion {
        /// Whose.
        shell: clap_complete::Shell,
    },
}

/// Why a command failed. `Display` is one sentence for the terminal.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Logging(#[from] crate::logging::LoggingError),
    #[error(transparent)]
    Orphans(#[from] orphans::OrphansError),
    #[error(transparent)]
    Adopt(#[from] adopt::AdoptError),
    #[error(transparent)]
    Restart(#[from] restart::RestartError),
    #[error(transparent)]
    Doctor(#[from] doctor::DoctorError),
    #[error(transparent)]
    Policy(#[from] policy::PolicyError),
    #[error(transparent)]
    Ask(#[from] socket::AskFailure),
    #[error(transparent)]
    Traces(#[from] crate::traces::TracesError),
    #[error("the CustomResourceDefinition could not be written as YAML")]
    Crd(#[from] crd::CrdError),
    #[error("the runtime could not be started")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Run(#[from] crate::run::RunError),
    #[error("the output could not be written")]
    Output(#[from] std::io::Error),
}

/// The whole program, from its arguments (the program's name first) to its exit
/// code: 0, 1 when something failed, 2 for wrong usage.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = socket::as_plugin(run_args::normalise(arguments), &Cli::command());
    let as_json = failure::wants_json(&arguments);
    let cli = match parse(arguments) {
        Ok(cli) => cli,
        // Help and version come this way too, and go to standard output.
        Err(error) => {
            failure::tell_usage(&error, as_json);
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    match dispatch(cli.command) {
        Ok(code) => code,
        // A closed pipe is how `vmgroup crd | head` ends.
        Err(
            CliError::Output(error)
            | CliError::Policy(policy::PolicyError::Output(error))
            | CliError::Ask(socket::AskFailure::Output(error)),
        ) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            failure::tell(&error, as_json);
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut command = without_empty_variables(Cli::command());
    let mut matches = command.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// An empty variable is one that is not set: manifests leave them behind, and where a
/// flag does not take what is empty, or another one beside it, they would be in the way.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let set = |flag: clap::Arg| {
        let value = flag.get_env().and_then(std::env::var_os);
        if value.is_some_and(|value| value.is_empty()) { flag.env(None::<&str>) } else { flag }
    };
    command.mut_args(set).mut_subcommands(without_empty_variables)
}

fn dispatch(command: Command) -> Result<ExitCode, CliError> {
    let mut out = std::io::stdout().lock();
    match command {
        Command::Run(arguments) => {
            drop(out);
            let (format, level) = (arguments.log_format, arguments.log_level.clone());
            let config = arguments.into_config()?;
            let exporter =
                config.otlp_endpoint.as_deref().map(|url| Exporter::new(url, &config.instance)).transpose()?;
            crate::logging::init(format, &level, exporter.as_ref())?;
            let ended = runtime()?.block_on(crate::run::run(config));
            if let Some(exporter) = exporter {
                exporter.end();
            }
            ended?;
        }
        Command::Crd => out.write_all(crd_yaml()?.as_bytes())?,
        Command::Policy(command) => return Ok(policy::run(&command, &mut out)?),
        Command::Decisions(command) => runtime()?.block_on(decisions::run(command, &mut out))?,
        Command::Explain(arguments) => runtime()?.block_on(decisions::explain(arguments, &mut out))?,
        Command::Restart(arguments) => runtime()?.block_on(restart::run(arguments, &mut out))?,
        Command::Preview(arguments) => runtime()?.block_on(preview::run(*arguments, &mut out))?,
        Command::Shadow(command) => runtime()?.block_on(shadow::run(command, &mut out))?,
        Command::Tunnel { socket } => {
            drop(out);
            let runtime = runtime()?;
            let ended = runtime.block_on(socket::tunnel(&socket));
            // Reading standard input cannot be cancelled, and nobody waits for it.
            runtime.shutdown_background();
            ended?;
        }
        Command::Orphans(arguments) => return Ok(runtime()?.block_on(orphans::run(*arguments, &mut out))?),
        Command::Adopt(arguments) => return Ok(runtime()?.block_on(adopt::run(*arguments, &mut out))?),
        Command::Doctor(arguments) => return Ok(runtime()?.block_on(doctor::run(*arguments, &mut out))?),
        Command::Version => writeln!(out, "vmgroup {VERSION}")?,
        Command::Completion { shell } => {
            // Into memory first: the generator panics on a closed pipe.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "vmgroup", &mut script);
            out.write_all(&script)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::Runtime)
}

/// Why there is no way to the cluster and to vCenter.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Flags and environment.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Which of several.
    #[error(transparent)]
    Desk(#[from] desk::DeskError),
    /// The clients.
    #[error(transparent)]
    Clients(#[from] crate::run::RunError),
    /// The first look.
    #[error(transparent)]
    Hand(#[from] HandError),
}

/// Prints rows with their columns under each other; the first one is the head.
fn table<const N: usize>(out: &mut impl std::io::Write, rows: &[[String; N]]) -> std::io::Result<()> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        // Some libraries repeat their source in their own words.
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    /// What is exec'ed in the pod is the image's one program, which lies in no PATH.
    #[test]
    fn what_is_shown_for_the_pod_is_there() {
        fn all(command: &mut clap::Command, seen: &mut String) {
            seen.push_str(&command.render_long_help().to_string());
            command.get_subcommands_mut().for_each(|below| all(below, seen));
        }
        let mut help = String::new();
        all(&mut Cli::command(), &mut help);
        let programs = help.split("deploy/vmgroup-operator -- ").skip(1);
        let wrong: Vec<&str> = programs.filter(|rest| !rest.starts_with("/vmgroup ")).collect();
        assert!(wrong.is_empty() && help.contains("-- /vmgroup doctor"), "{wrong:?}");
    }
}

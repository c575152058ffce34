//! `vmgroup policy …`: the author's desk. Makes, builds, checks and tries
//! policies on whatever machine they are written on.
//!
//! Must not reach a cluster (but for `serve --apply`) or a vCenter, a registry only
//! for `push` and `pull`, and decides nothing that the operator
//! does not decide in the same way: all of it goes through `vmgroup-policy`.

mod ask;
mod bench;
mod build;
mod check;
mod conformance;
mod input;
mod inspect;
mod new;
mod registry;
mod replay;
mod request;
mod serve;

use std::io::Write;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

use super::text;

pub use check::CheckArgs;
pub use input::{InputError, KindArg};
pub(super) use input::{config, file_or_shipped};
pub use replay::ReplayError;

/// What can be done with a policy.
#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Begins a policy of your own: a crate with configuration, test, fixture and README.
    New(new::NewArgs),
    /// Builds a policy's crate as a WebAssembly component.
    Build(build::BuildArgs),
    /// Sends a plugin through the very checks that it meets in the cluster.
    Check(CheckArgs),
    /// Shows what a plugin is and says of itself.
    Inspect(inspect::InspectArgs),
    /// Asks a plugin one question, and shows the answer and what it cost.
    Run(ask::AskArgs),
    /// Puts recorded decisions to another policy, and shows what would differ.
    Replay(replay::ReplayArgs),
    /// Prints a question to try a plugin on.
    Request(request::RequestArgs),
    /// Measures how long a plugin thinks, beside what it may take.
    Bench(bench::BenchArgs),
    /// Builds, checks and tries a policy at each change of its crate.
    Serve(serve::ServeArgs),
    /// Puts a plugin into an OCI registry, and prints the reference for policy.yaml.
    Push(registry::PushArgs),
    /// Gets a plugin from an OCI registry, or only the digest that a tag means now.
    Pull(registry::PullArgs),
    /// Signs a plugin.
    Sign(registry::SignArgs),
    /// Tries on thousands of questions what any policy of its kind must hold.
    Conformance(conformance::ConformanceArgs),
}

/// How a result is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Why a command could not do its work. What a plugin does wrong is not one of
/// these: it is a result.
#[derive(Debug, thiserror::Error)]
pub(super) enum PolicyError {
    #[error(transparent)]
    Input(#[from] input::InputError),
    #[error(transparent)]
    New(#[from] new::NewError),
    #[error(transparent)]
    Build(#[from] build::BuildError),
    #[error(transparent)]
    Replay(#[from] replay::ReplayError),
    #[error(transparent)]
    Registry(#[from] registry::RegistryError),
    #[error(transparent)]
    Apply(#[from] serve::ApplyError),
    #[error("the output could not be written")]
    Output(#[from] std::io::Error),
}

/// Does what is asked for, and says by the exit code how it went: 0 for yes, 1
/// for no.
pub(super) fn run(command: &PolicyCommand, out: &mut impl Write) -> Result<ExitCode, PolicyError> {
    match command {
        PolicyCommand::New(arguments) => new::run(arguments, out),
        PolicyCommand::Build(arguments) => build::run(arguments, out),
        PolicyCommand::Check(arguments) => check::run(arguments, out),
        PolicyCommand::Inspect(arguments) => inspect::run(arguments, out),
        PolicyCommand::Run(arguments) => ask::run(arguments, out),
        PolicyCommand::Replay(arguments) => replay::run(arguments, out),
        PolicyCommand::Request(arguments) => request::run(arguments, out),
        PolicyCommand::Bench(arguments) => bench::run(arguments, out),
        PolicyCommand::Push(arguments) => registry::push(arguments, out),
        PolicyCommand::Pull(arguments) => registry::pull(arguments, out),
        PolicyCommand::Sign(arguments) => registry::sign(arguments, out),
        PolicyCommand::Serve(arguments) => serve::run(arguments, out),
        PolicyCommand::Conformance(arguments) => conformance::run(arguments, out),
    }
}

/// Writes a result for programs.
pub(super) fn json(out: &mut impl Write, value: &impl serde::Serialize) -> std::io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(std::io::Error::from)?;
    writeln!(out)
}

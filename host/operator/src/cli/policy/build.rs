//! `vmgroup policy build`: a crate into a component, with the very script that
//! builds the shipped policies.

use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Args;
use flate2::Compression;
use flate2::read::GzEncoder;
use serde::Serialize;
use vmgroup_policy::Digest;

use super::text::{Paint, size};
use super::{Output, PolicyError, input};

/// Knows compilers, targets and linkers.
const SCRIPT: &str = include_str!("../../../../../scripts/build-plugins");

/// Arguments of `vmgroup policy build`.
#[derive(Args, Debug)]
#[command(after_help = "\
Builds in release mode, into target/plugins/ of the crate. Needs bash, a Rust toolchain with the
target wasm32-unknown-unknown, and wasm-component-ld, which comes with rustup's toolchains; if
one is missing, it says how to get it.

Examples:
  vmgroup policy build
  vmgroup policy build my-policy --output json | jq -r '.[0].digest'")]
pub struct BuildArgs {
    /// The folder of the crate
    #[arg(value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,

    /// Install the compiler's target if it is missing, by rustup or (as root, on Debian) apt
    #[arg(long)]
    install: bool,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// Why nothing was built. What the compiler says goes to standard error.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Not a crate.
    #[error("`{}` has no Cargo.toml: name the folder of the policy's crate, or begin one with `vmgroup policy new`", .0.display())]
    NoCrate(PathBuf),
    /// No shell.
    #[error("bash cannot be started, which the build needs")]
    Bash(#[source] std::io::Error),
    /// The compiler says why, on standard error.
    #[error("`{}` does not build; the reason is above", .0.display())]
    Failed(PathBuf),
    /// A built file cannot be packed.
    #[error("`{}` cannot be compressed", path.display())]
    Compress {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What was built. Sizes in bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Built {
    pub(super) file: PathBuf,
    bytes: usize,
    gzipped_bytes: usize,
    digest: Digest,
}

pub(super) fn run(arguments: &BuildArgs, out: &mut impl Write) -> Result<ExitCode, PolicyError> {
    let built = build(&arguments.folder, arguments.install)?;
    match arguments.output {
        Output::Json => super::json(out, &built)?,
        Output::Text => {
            let paint = Paint::new();
            for Built { file, bytes, gzipped_bytes, digest } in &built {
                writeln!(
                    out,
                    "{}  {}, {} gzipped",
                    paint.good(&file.display().to_string()),
                    size(*bytes),
                    size(*gzipped_bytes)
                )?;
                writeln!(out, "  {digest}")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the crate in `folder`.
pub(super) fn build(folder: &Path, install: bool) -> Result<Vec<Built>, PolicyError> {
    if !folder.join("Cargo.toml").is_file() {
        return Err(BuildError::NoCrate(folder.to_owned()).into());
    }
    let mut bash = Command::new("bash");
    bash.arg("-c").arg(SCRIPT).arg("vmgroup policy build").arg("--dir").arg(folder);
    if !install {
        bash.arg("--no-install");
    }
    let done = bash.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(BuildError::Bash)?;
    if !done.status.success() {
        return Err(BuildError::Failed(folder.to_owned()).into());
    }
    String::from_utf8_lossy(&done.stdout).lines().map(|line| measure(Path::new(line), folder)).collect()
}

fn measure(file: &Path, folder: &Path) -> Result<Built, PolicyError> {
    let bytes = input::read(file)?;
    let mut gzipped = Vec::new();
    GzEncoder::new(&bytes[..], Compression::best())
        .read_to_end(&mut gzipped)
        .map_err(|source| BuildError::Compress { path: file.to_owned(), source })?;
    // As the user spelt the folder: shorter, and right in any shell.
    let shown = file.file_name().map(|name| folder.join("target/plugins").join(name));
    Ok(Built {
        file: shown.filter(|shown| shown.is_file()).unwrap_or_else(|| file.to_owned()),
        bytes: bytes.len(),
        gzipped_bytes: gzipped.len(),
        digest: Digest::of(&bytes),
    })
}

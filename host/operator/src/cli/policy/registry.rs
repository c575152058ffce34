//! `vmgroup policy push|pull|sign`: policies to and from OCI registries, and
//! signatures.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use serde_json::json;
use vmgroup_policy::{CheckError, Digest, signature};
use vmgroup_registry::{Contents, Reference, Registry};

use super::text::{Paint, size};
use super::{Output, PolicyError, input};
use crate::cli::chain;
use crate::cli::run_args::RegistryArgs;
use crate::clock::Clock;
use crate::config::PolicySupply;
use crate::policy_source::{SIGNATURE_ANNOTATION, SIGNATURE_SUFFIX};
use crate::run::RunError;

/// Why a policy was not pushed, pulled or signed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A file that was named.
    #[error(transparent)]
    Input(#[from] input::InputError),
    /// No client.
    #[error(transparent)]
    Setup(#[from] RunError),
    /// No runtime for it.
    #[error("the runtime could not be started")]
    Runtime(#[source] std::io::Error),
    /// It would be refused wherever it is named.
    #[error("`{}` is no policy, so it is not pushed: it fails at stage {}: {}. {}", .0.plugin, .0.stage, .0.problem, .0.remedy)]
    NoPolicy(Box<CheckError>),
    /// What the registry, or the way to it, is not content with. The remedy comes last,
    /// after all that has led to it.
    #[error("{}. {}", chain(.0), .0.remedy())]
    Registry(vmgroup_registry::Error),
    /// The private key.
    #[error("`{}` cannot sign: it is to be a private key in PEM, Ed25519 or ECDSA P-256, as `openssl genpkey` writes them", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: signature::KeyError,
    },
    /// The file that was to be written.
    #[error("`{}` cannot be written", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl From<vmgroup_registry::Error> for RegistryError {
    fn from(error: vmgroup_registry::Error) -> Self {
        Self::Registry(error)
    }
}

/// Arguments of `vmgroup policy push`.
#[derive(Args, Debug)]
#[command(after_help = "\
Prints the reference with the digest, to be pasted into policy.yaml. The same file pushed again is
the same artifact. A signature beside the file (FILE.sig) goes with it.

Logins are those of `docker login` (~/.docker/config.json, or --registry-auth-file).

Examples:
  vmgroup policy push mine.wasm oci://registry.example.com/policies/mine:1.2
  vmgroup policy push mine.wasm oci://127.0.0.1:5000/mine --output json | jq -r .reference")]
pub struct PushArgs {
    /// The plugin: .wasm or .wasm.gz
    file: PathBuf,

    /// Where to: `oci://registry/repository[:tag]`
    reference: Reference,

    /// Its signature [default: FILE.sig, if it is there]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,

    #[command(flatten)]
    registry: RegistryArgs,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// Arguments of `vmgroup policy pull`.
#[derive(Args, Debug)]
#[command(after_help = "\
Prints the reference with the digest that the tag means now. Its signature, if it has one, is
written beside it (FILE.sig).

Examples:
  vmgroup policy pull oci://registry.example.com/policies/mine:1.2 mine.wasm
  vmgroup policy pull oci://registry.example.com/policies/mine:1.2    # only the digest")]
pub struct PullArgs {
    /// Where from: `oci://registry/repository[:tag][@sha256:…]`
    reference: Reference,

    /// Where to [default: it is pulled and verified, and not written]
    file: Option<PathBuf>,

    #[command(flatten)]
    registry: RegistryArgs,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// Arguments of `vmgroup policy sign`.
#[derive(Args, Debug)]
#[command(after_help = "\
Writes FILE.sig: the signature of the unpacked component, the bytes that its digest is of. For a
.wasm that is the file, and openssl does the same:

  openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out trusted.pem
  openssl pkeyutl -sign -inkey key.pem -rawin -in mine.wasm -out mine.wasm.sig    # Ed25519
  openssl dgst -sha256 -sign key.pem -out mine.wasm.sig mine.wasm                 # ECDSA P-256

Examples:
  vmgroup policy sign mine.wasm --key key.pem
  vmgroup policy check mine.wasm --keys trusted.pem")]
pub struct SignArgs {
    /// The plugin: .wasm or .wasm.gz
    file: PathBuf,

    /// The private key in PEM (PKCS #8): Ed25519 or ECDSA P-256
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

pub(super) fn push(arguments: &PushArgs, out: &mut impl Write) -> Result<ExitCode, PolicyError> {
    let PushArgs { file, reference, signature, registry, output } = arguments;
    let (source, host) = (input::source(file)?, input::host()?);
    let found = host.inspect(&source).and_then(|found| match &found.description {
        Ok(_) => Ok(found),
        Err(error) => Err(error.clone()),
    });
    let found = found.map_err(|error| RegistryError::NoPolicy(Box::new(error)))?;
    let wasm = host.component(&source).map_err(|error| RegistryError::NoPolicy(Box::new(error)))?;
    let signature = match signature {
        Some(path) => Some(input::read(path)?),
        None => Some(signature_of(file)).filter(|path| path.is_file()).map(|path| input::read(&path)).transpose()?,
    };
    let annotation = |bytes| (SIGNATURE_ANNOTATION.to_owned(), BASE64_STANDARD.encode(bytes));
    let annotations: BTreeMap<_, _> = signature.as_ref().map(annotation).into_iter().collect();
    let contents = Contents { exports: found.exports, imports: found.imports };
    let bytes = wasm.len();
    let pushed = run(registry, async |registry| registry.push(reference, wasm, contents, annotations).await)?;
    let (reference, signed) = (pushed.reference.to_string(), signature.is_some());
    match output {
        Output::Json => super::json(
            out,
            &json!({
                "reference": reference, "component": found.digest, "bytes": bytes,
                "signed": signed, "known": pushed.known,
            }),
        )?,
        Output::Text => {
            writeln!(out, "{reference}")?;
            let known = if pushed.known { ", was there already" } else { "" };
            let signed = if signed { "signed" } else { "not signed" };
            writeln!(out, "  {} {}, {signed}{known}", found.digest, size(bytes))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn pull(arguments: &PullArgs, out: &mut impl Write) -> Result<ExitCode, PolicyError> {
    let PullArgs { reference, file, registry, output } = arguments;
    let pulled = run(registry, async |registry| {
        let pinned = registry.resolve(reference).await?;
        registry.pull(&pinned, std::time::UNIX_EPOCH + Clock::system().since_epoch()).await
    })?;
    let encoded = pulled.annotations.get(SIGNATURE_ANNOTATION);
    let signature = encoded.and_then(|text| BASE64_STANDARD.decode(text.trim()).ok());
    if let Some(file) = file {
        write(file, &pulled.wasm)?;
        if let Some(signature) = &signature {
            write(&signature_of(file), signature)?;
        }
    }
    let (reference, digest, bytes) = (pulled.reference.to_string(), Digest::of(&pulled.wasm), pulled.wasm.len());
    match output {
        Output::Json => super::json(
            out,
            &json!({ "reference": reference, "component": digest, "bytes": bytes, "signed": signature.is_some() }),
        )?,
        Output::Text => {
            writeln!(out, "{reference}")?;
            let signed = if signature.is_some() { "signed" } else { "not signed" };
            writeln!(out, "  {digest} {}, {signed}", size(bytes))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn sign(arguments: &SignArgs, out: &mut impl Write) -> Result<ExitCode, PolicyError> {
    let SignArgs { file, key, output } = arguments;
    let component =
        input::host()?.component(&input::source(file)?).map_err(|error| RegistryError::NoPolicy(Box::new(error)))?;
    let signature = signature::sign(&component, &input::read(key)?)
        .map_err(|source| RegistryError::Key { path: key.clone(), source })?;
    let path = signature_of(file);
    write(&path, &signature)?;
    let (digest, path) = (Digest::of(&component), path.display().to_string());
    match output {
        Output::Json => super::json(out, &json!({ "component": digest, "signature": path }))?,
        Output::Text => writeln!(out, "{}: {digest} is signed in {path}", Paint::new().good("signed"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Where a plugin's signature is.
pub(super) fn signature_of(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(SIGNATURE_SUFFIX);
    path.into()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), RegistryError> {
    std::fs::write(path, bytes).map_err(|source| RegistryError::Write { path: path.to_owned(), source })
}

fn run<T>(
    arguments: &RegistryArgs,
    ask: impl AsyncFnOnce(&Registry) -> Result<T, vmgroup_registry::Error>,
) -> Result<T, RegistryError> {
    let supply = arguments.to_supply();
    let supply = PolicySupply { registry_logins: supply.registry_logins.clone().or_else(dockers), ..supply };
    let registry = crate::run::registry(&supply, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RegistryError::Runtime)?;
    Ok(runtime.block_on(ask(&registry))?)
}

/// What `docker login` has written, if it has.
fn dockers() -> Option<PathBuf> {
    let folder = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")));
    folder.map(|folder| folder.join("config.json")).filter(|path| path.is_file())
}

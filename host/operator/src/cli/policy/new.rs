//! `vmgroup policy new`: the beginning of a policy, as a crate that compiles.
//!
//! Everything that it needs is in this binary: the SDK comes along as a copy, so
//! that neither a registry nor this repository has to be reached, and contract
//! and operator fit each other.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use vmgroup_policy::Kind;
use vmgroup_policy::generate::{self, Size};

use super::input::KindArg;
use super::text::Paint;
use super::{Output, PolicyError};

/// Files of this repository, by their path in it.
macro_rules! files {
    ($($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../../../../", $path)))),+]
    };
}

/// The SDK and what it is built from.
const SDK: &[(&str, &str)] = files![
    "plugins/sdk/Cargo.toml",
    "plugins/sdk/derive/Cargo.toml",
    "plugins/sdk/derive/src/lib.rs",
    "plugins/sdk/examples/site.rs",
    "plugins/sdk/src/config.rs",
    "plugins/sdk/src/export.rs",
    "plugins/sdk/src/lib.rs",
    "plugins/sdk/src/log.rs",
    "plugins/sdk/src/placing.rs",
    "plugins/sdk/src/policy.rs",
    "plugins/sdk/src/protect.rs",
    "plugins/sdk/src/rng.rs",
    "plugins/sdk/src/schema.rs",
    "plugins/sdk/src/testing.rs",
    "plugins/sdk/src/time.rs",
    "plugins/sdk/src/vocabulary.rs",
    "plugins/sdk/src/wire.rs",
    "plugins/sdk/templates/naming.rs",
    "plugins/sdk/templates/placement.rs",
    "plugins/sdk/templates/scaling.rs",
    "wit/0.2/lifecycle.wit",
    "wit/0.2/log.wit",
    "wit/0.2/naming.wit",
    "wit/0.2/placement.wit",
    "wit/0.2/scaling.wit",
    "wit/0.2/types.wit",
    "wit/0.2/worlds.wit",
];

const WORKSPACE: &str = include_str!("../../../../../Cargo.toml");
/// The versions that the SDK was tested with; cargo drops what the crate does not need.
const LOCK: &str = include_str!("../../../../../Cargo.lock");
const README: &str = include_str!("../../../../../plugins/sdk/templates/README.md");

/// What the templates are called, to be replaced by the policy's name.
const TEMPLATE: &str = "my-policy";
const TEMPLATE_TYPE: &str = "MyPolicy";

/// Arguments of `vmgroup policy new`.
#[derive(Args, Debug)]
#[command(after_help = "\
Makes a folder of that name with all that a policy needs. The SDK comes along in sdk/, as it was
when this operator was built; --sdk takes it from elsewhere.

Examples:
  vmgroup policy new cheapest-first --kind scaling
  vmgroup policy new racks --kind placement --sdk ../vmgroup-operator/plugins/sdk
  vmgroup policy new site-names --kind naming --sdk https://git.example.com/vmgroup-operator")]
pub struct NewArgs {
    /// Its name: lower-case letters, digits and hyphens, a letter first, at most 40
    #[arg(value_parser = name)]
    name: Name,

    /// What it decides
    #[arg(long, value_enum, value_name = "KIND")]
    kind: KindArg,

    /// Where the SDK comes from: a folder, a git URL, or a version of a registry [default: a copy]
    #[arg(long, value_name = "SOURCE", value_parser = sdk)]
    sdk: Option<Sdk>,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// The name of a policy and of its crate.
#[derive(Clone, Debug)]
struct Name(String);

/// Where the SDK comes from, if not from this binary.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sdk {
    Folder(PathBuf),
    Git(String),
    Version(String),
}

/// Why no crate was made.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// Nothing is overwritten.
    #[error("`{}` is there already; choose another name, or another folder to be in", .0.display())]
    Exists(PathBuf),
    /// `--sdk` names a folder without the SDK.
    #[error("`{}` is not the SDK: it has no Cargo.toml", .0.display())]
    NoSdk(PathBuf),
    /// A file or folder cannot be written.
    #[error("`{}` cannot be written", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The fixture.
    #[error("the fixture cannot be written as JSON")]
    Fixture(#[from] serde_json::Error),
}

fn name(text: &str) -> Result<Name, String> {
    let legal = text.len() <= 40
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'))
        && !text.ends_with('-')
        && !text.contains("--");
    let reserved = ["test", "sdk", "core", "std", "alloc", "self", "crate"];
    if legal && !reserved.contains(&text) {
        Ok(Name(text.to_owned()))
    } else if reserved.contains(&text) {
        Err("Rust or this command has another use for this name".to_owned())
    } else {
        Err("expected lower-case letters, digits and single hyphens, a letter first, at most 40: cheapest-first"
            .to_owned())
    }
}

fn sdk(text: &str) -> Result<Sdk, String> {
    if text.is_empty() {
        return Err("expected a folder, a git URL or a version".to_owned());
    }
    Ok(if text.contains("://") || text.starts_with("git@") {
        Sdk::Git(text.to_owned())
    } else if text.starts_with(|c: char| c.is_ascii_digit()) && !Path::new(text).exists() {
        Sdk::Version(text.to_owned())
    } else {
        Sdk::Folder(PathBuf::from(text))
    })
}

pub(super) fn run(arguments: &NewArgs, out: &mut impl Write) -> Result<ExitCode, PolicyError> {
    let Name(name) = &arguments.name;
    let folder = PathBuf::from(name);
    let kind = Kind::from(arguments.kind);
    make(&folder, name, kind, arguments.sdk.as_ref())?;
    if arguments.output == Output::Json {
        let plugin = format!("target/plugins/{name}.wasm");
        super::json(out, &json!({ "name": name, "kind": kind, "folder": folder, "plugin": folder.join(plugin) }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let paint = Paint::new();
    writeln!(out, "{} is a policy for {kind}. Next:", paint.bold(&format!("{name}/")))?;
    writeln!(out, "  cd {name}")?;
    writeln!(out, "  cargo test              # natively, on any machine")?;
    writeln!(out, "  vmgroup policy build    # target/plugins/{name}.wasm")?;
    writeln!(out, "src/lib.rs is all of it; README.md has the commands.")?;
    Ok(ExitCode::SUCCESS)
}

fn make(folder: &Path, name: &str, kind: Kind, from: Option<&Sdk>) -> Result<(), NewError> {
    if folder.exists() {
        return Err(NewError::Exists(folder.to_owned()));
    }
    let dependency = dependency(from)?;
    let source =
        SDK.iter().find(|(path, _)| *path == format!("plugins/sdk/templates/{kind}.rs")).map_or("", |(_, text)| *text);
    let named = |text: &str| text.replace(TEMPLATE_TYPE, &type_name(name)).replace(TEMPLATE, name);
    let question = generate::sample(kind, Size::of(10));
    let mut files = vec![
        ("Cargo.toml".to_owned(), manifest(name, &dependency, from.is_none())),
        ("src/lib.rs".to_owned(), named(source)),
        ("README.md".to_owned(), named(&README.replace("KIND", kind.as_str()))),
        ("policy.yaml".to_owned(), format!("{kind}:\n  plugin: {name}.wasm\n  config: {{}}\n")),
        ("fixtures/request.json".to_owned(), serde_json::to_string_pretty(&question)? + "\n"),
        (".gitignore".to_owned(), "/target\n".to_owned()),
    ];
    if from.is_none() {
        files.push(("Cargo.lock".to_owned(), LOCK.to_owned()));
        files.push(("sdk/Cargo.toml".to_owned(), sdk_workspace()));
        files.extend(SDK.iter().map(|(path, text)| (format!("sdk/{path}"), (*text).to_owned())));
    }
    for (path, text) in files {
        write(&folder.join(path), &text)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), NewError> {
    let failed = |source| NewError::Write { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::write(path, text).map_err(failed)
}

fn dependency(from: Option<&Sdk>) -> Result<String, NewError> {
    Ok(match from {
        None => "{ path = \"sdk/plugins/sdk\" }".to_owned(),
        Some(Sdk::Git(url)) => format!("{{ git = {url:?} }}"),
        Some(Sdk::Version(version)) => format!("{version:?}"),
        Some(Sdk::Folder(folder)) => {
            let no_sdk = || NewError::NoSdk(folder.clone());
            let whole = folder.canonicalize().map_err(|_| no_sdk())?;
            if !whole.join("Cargo.toml").is_file() {
                return Err(no_sdk());
            }
            format!("{{ path = {:?} }}", whole.display().to_string())
        }
    })
}

fn manifest(name: &str, dependency: &str, copied: bool) -> String {
    let exclude = if copied { "exclude = [\"sdk\"]\n" } else { "" };
    format!(
        r#"[package]
name = "{name}"
description = "A policy for the VmGroup operator"
version = "0.1.0"
edition = "2024"
publish = false

[workspace]
{exclude}
[lib]
crate-type = ["cdylib"]

[dependencies]
serde = {{ version = "1", features = ["derive"] }}
vmgroup-policy-sdk = {dependency}

# Small: it travels in a ConfigMap.
[profile.release]
opt-level = "s"
lto = "fat"
codegen-units = 1
panic = "abort"
strip = "symbols"
"#
    )
}

/// The workspace that the SDK inherits from, with nobody but the SDK in it.
fn sdk_workspace() -> String {
    let (before, rest) = WORKSPACE.split_once("members = [").unwrap_or((WORKSPACE, ""));
    let after = rest.split_once("[workspace.package]").map_or("", |(_, after)| after);
    format!("{before}members = [\"plugins/sdk\", \"plugins/sdk/derive\"]\n\n[workspace.package]{after}")
}

/// `CheapestFirst` of `cheapest-first`.
fn type_name(name: &str) -> String {
    name.split('-')
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_of_the_sdk_is_whole() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for folder in
            ["plugins/sdk/src", "plugins/sdk/derive/src", "plugins/sdk/templates", "plugins/sdk/examples", "wit/0.2"]
        {
            for entry in std::fs::read_dir(root.join(folder)).unwrap() {
                let name = entry.unwrap().file_name();
                let path = format!("{folder}/{}", name.to_string_lossy());
                let known = SDK.iter().any(|(known, _)| *known == path) || path.ends_with("README.md");
                assert!(known, "{path} is missing in the list of files above");
            }
        }
    }

    #[test]
    fn names_that_are_legal_for_crate_and_policy() {
        for good in ["a", "cheapest-first", "x1-2"] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", "a-", "a--b", "A", "ä", "a_b", "test", "sdk", &"a".repeat(41)] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert_eq!(type_name("cheapest-first-2"), "CheapestFirst2");
    }

    #[test]
    fn an_sdk_from_elsewhere() {
        assert_eq!(sdk("https://git.example.com/x").unwrap(), Sdk::Git("https://git.example.com/x".to_owned()));
        assert_eq!(sdk("0.1").unwrap(), Sdk::Version("0.1".to_owned()));
        assert_eq!(sdk("../sdk").unwrap(), Sdk::Folder("../sdk".into()));
        assert!(dependency(Some(&Sdk::Folder("/does/not/exist".into()))).is_err());
    }
}

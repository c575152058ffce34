//! What most commands begin with: a plugin's file, its kind and its
//! configuration, read and made ready to be checked.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use vmgroup_api::PolicyEntry;
use vmgroup_api::policy_file::{PolicyFile, PolicyFileError};
use vmgroup_policy::{CheckError, Checked, Host, HostError, Kind, Limits, Question, Source, shipped};

/// A plugin and how it is to be used.
#[derive(Args, Debug)]
pub struct PluginArgs {
    /// The plugin: .wasm or .wasm.gz
    file: PathBuf,

    /// What it is to be used for [default: what it exports, if that is one]
    #[arg(long, value_enum, value_name = "KIND")]
    kind: Option<KindArg>,

    /// Its configuration: JSON, or @FILE [default: {}]
    #[arg(long, value_name = "JSON")]
    config: Option<String>,

    /// Take the configuration from a policy.yaml, where the plugin's kind has it
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    policy_file: Option<PathBuf>,
}

/// A kind as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KindArg {
    /// What new members are called.
    Naming,
    /// Where they go.
    Placement,
    /// Who leaves.
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

/// Why there is nothing to try.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The plugin, or another file that was named.
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
    /// `--policy-file` is no policy file.
    #[error("`{}` cannot be used", path.display())]
    PolicyFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: PolicyFileError,
    },
    /// `--policy-file` says nothing about this kind.
    #[error("`{}` has no `{kind}:`; add it, or leave --policy-file out", path.display())]
    NoEntry {
        /// Which file.
        path: PathBuf,
        /// What the plugin is for.
        kind: Kind,
    },
    /// `--request` is no question.
    #[error("`{}` is no question: `vmgroup policy request --kind KIND` prints one to begin with", path.display())]
    Question {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The plugin answers several kinds of questions.
    #[error("the plugin can be used for {}: say which with --kind", .0.join(" and "))]
    SeveralKinds(Vec<String>),
    /// The sandbox could not be set up.
    #[error("the WebAssembly host could not be started")]
    Host(#[source] HostError),
}

/// What the checks say of a plugin.
pub type Verdict = Result<Checked, CheckError>;

/// A plugin that has been read and checked.
pub struct Plugin {
    /// Its bytes and configuration.
    pub source: Source,
    /// What it was checked as; none where it answers no kind at all.
    pub kind: Option<Kind>,
    /// The text of the policy file that its configuration is from.
    pub policy_file: Option<String>,
    /// Whether the operator would take it.
    pub verdict: Verdict,
}

impl PluginArgs {
    /// Of a file, whatever it exports.
    pub fn of(file: PathBuf, policy_file: Option<PathBuf>) -> Self {
        Self { file, kind: None, config: None, policy_file }
    }

    /// The plugin's file, as it was given.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Reads everything and sends it through the checks.
    pub fn check(&self) -> Result<Plugin, InputError> {
        self.check_as(self.kind.map(Kind::from), None)
    }

    /// The same for the question that it is going to be asked: of its kind, and
    /// with its configuration unless another one is given.
    pub fn check_for(&self, question: &Question) -> Result<Plugin, InputError> {
        let config = serde_json::from_str(&question.context().config).ok().filter(Value::is_object);
        self.check_as(Some(self.kind.map_or(question.kind(), Kind::from)), config)
    }

    fn check_as(&self, kind: Option<Kind>, fallback: Option<Value>) -> Result<Plugin, InputError> {
        let host = host()?;
        let mut source = source(&self.file)?;
        if let Some(text) = &self.config {
            source.config = config(text)?;
        } else if let Some(config) = fallback {
            source.config = config;
        }
        let kind = match kind {
            Some(kind) => kind,
            None => match host.answers(&source)[..] {
                [kind] => kind,
                // Where no kind fits, the fault is the file's, whatever it is checked as.
                [] => {
                    return Ok(Plugin {
                        verdict: host.check(Kind::Naming, &source),
                        source,
                        kind: None,
                        policy_file: None,
                    });
                }
                ref several => return Err(InputError::SeveralKinds(several.iter().map(Kind::to_string).collect())),
            },
        };
        let policy_file = self.policy_file.as_deref().map(|path| config_of(path, kind)).transpose()?;
        let policy_file = policy_file.map(|(text, config)| {
            source.config = Value::Object(config);
            text
        });
        Ok(Plugin { verdict: host.check(kind, &source), source, kind: Some(kind), policy_file })
    }
}

/// The host with the operator's own limits.
pub fn host() -> Result<Host, InputError> {
    Host::new(Limits::default()).map_err(InputError::Host)
}

/// A plugin's file, with an empty configuration.
pub fn source(path: &Path) -> Result<Source, InputError> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(Source { name, bytes: read(path)?.into(), config: Value::Object(Map::new()) })
}

/// A plugin's file, or where there is none of that name the shipped policy, with
/// an empty configuration.
pub fn file_or_shipped(path: &Path) -> Result<Source, InputError> {
    match shipped::find(&path.to_string_lossy()) {
        Some(shipped) if !path.exists() => Ok(shipped),
        _ => source(path),
    }
}

/// The whole of a file.
pub fn read(path: &Path) -> Result<Vec<u8>, InputError> {
    std::fs::read(path).map_err(|source| InputError::Read { path: path.to_owned(), source })
}

/// A configuration as `--config` gives it: an object as JSON, or `@FILE`.
pub fn config(text: &str) -> Result<Value, InputError> {
    let read_text;
    let json = if let Some(file) = text.strip_prefix('@') {
        read_text = read(file.as_ref())?;
        &read_text[..]
    } else {
        text.as_bytes()
    };
    let value: Value = serde_json::from_slice(json).map_err(InputError::Config)?;
    if value.is_object() { Ok(value) } else { Err(InputError::NotAnObject) }
}

/// The whole text of a policy file, and what it has for this kind.
fn config_of(path: &Path, kind: Kind) -> Result<(String, Map<String, Value>), InputError> {
    let text = String::from_utf8_lossy(&read(path)?).into_owned();
    let PolicyFile { naming, placement, scaling, groups: _, breaker: _, budget: _, tenants: _ } =
        PolicyFile::parse(&text).map_err(|source| InputError::PolicyFile { path: path.to_owned(), source })?;
    let entry = match kind {
        Kind::Naming => naming,
        Kind::Placement => placement,
        Kind::Scaling => scaling,
    };
    let PolicyEntry { plugin: _, config, on_failure: _, shadow: _ } =
        entry.ok_or_else(|| InputError::NoEntry { path: path.to_owned(), kind })?;
    Ok((text, config))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_configuration_is_an_object_from_the_line_or_a_file() {
        assert_eq!(config(r#"{"by":"oldest"}"#).unwrap(), json!({"by": "oldest"}));
        assert!(matches!(config("{"), Err(InputError::Config(_))));
        assert!(matches!(config("[1]"), Err(InputError::NotAnObject)));
        assert!(matches!(config("@/does/not/exist"), Err(InputError::Read { .. })));
    }
}

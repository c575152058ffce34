//! The way of a plugin from bytes to a policy, in stages. The first that fails
//! ends it, and says what it was, why, and what to do.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::decision::DecisionError;
use crate::policy::Loaded;
use crate::shape::{self, InterfaceProblem, Interfaces, ParseProblem, Shape};
use crate::signature::SignatureProblem;
use crate::source::{self, SizeProblem};
use crate::text::{MESSAGE_CHARS, quoted, tidy};
use crate::wit::lifecycle::{Description, Kind as WitKind, Problem as WitProblem};
use crate::{Contract, Digest, Host, Kind, Policy, Source, sandbox, schema, self_test};

/// The stages of a check, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The file is there, within its limits, and unpacks.
    Size,
    /// Somebody has signed it whose plugins are taken, where that is required.
    Signature,
    /// It is a whole and valid component.
    Parse,
    /// It imports nothing forbidden and exports what it was named for, in a
    /// version that the host speaks.
    Interface,
    /// It compiles.
    Compile,
    /// It links and an instance of it can be made: here a record that has
    /// changed shape shows itself.
    Instantiate,
    /// It describes itself.
    Describe,
    /// It accepts its configuration.
    Config,
    /// It answers fixed questions legally, or refuses them, twice the same.
    SelfTest,
}

impl Stage {
    /// As in messages and metrics: `size`, …, `self-test`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Signature => "signature",
            Self::Parse => "parse",
            Self::Interface => "interface",
            Self::Compile => "compile",
            Self::Instantiate => "instantiate",
            Self::Describe => "describe",
            Self::Config => "config",
            Self::SelfTest => "self-test",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A stage that was passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageReport {
    /// Which.
    pub stage: Stage,
    /// What was found, in words: `134 KiB (46 KiB compressed)`.
    pub detail: String,
    /// How long it took.
    pub took: Duration,
    /// Fuel it used, where WebAssembly ran.
    pub fuel: Option<u64>,
}

/// A plugin that passed all stages.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Ready to be asked.
    pub policy: Arc<Policy>,
    /// What each stage found, in order.
    pub stages: Vec<StageReport>,
}

/// A plugin that failed at a stage. `Display` names plugin, stage and problem.
#[derive(Clone, Debug, thiserror::Error)]
#[error("policy {plugin} fails at stage {stage}: {problem}")]
pub struct CheckError {
    /// Where it failed.
    pub stage: Stage,
    /// The plugin's name as in the policy file.
    pub plugin: String,
    /// What is wrong.
    pub problem: Box<Problem>,
    /// One sentence that says what to do about it.
    pub remedy: String,
    /// The stages that were passed before.
    pub stages: Vec<StageReport>,
}

impl CheckError {
    pub(crate) fn at(stage: Stage, problem: Problem, kind: Kind, source: &Source, stages: Vec<StageReport>) -> Self {
        Self {
            stage,
            plugin: tidy(&source.name, 253),
            remedy: problem.remedy(kind),
            problem: Box::new(problem),
            stages,
        }
    }

    /// One sentence that says what to do about it.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }
}

/// What can be wrong with a plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Stage size.
    #[error(transparent)]
    Size(#[from] SizeProblem),
    /// Stage size: the policy file names a plugin that this operator does not ship.
    #[error("this operator ships no policy of this name; it ships {}", if .shipped.is_empty() { "none".to_owned() } else { .shipped.join(", ") })]
    NotShipped {
        /// The names there are.
        shipped: Vec<String>,
    },
    /// Stage signature.
    #[error(transparent)]
    Signature(SignatureProblem),
    /// Stage parse.
    #[error(transparent)]
    Parse(#[from] ParseProblem),
    /// Stage interface.
    #[error(transparent)]
    Interface(#[from] InterfaceProblem),
    /// Stage compile.
    #[error("it cannot be compiled: {0}")]
    Compile(String),
    /// Stage instantiate: an import or a function is not as the contract has it.
    #[error("it does not fit the contract: {0}")]
    Link(String),
    /// Any stage that runs it: it crashed or overran a limit.
    #[error("{0}")]
    Failed(DecisionError),
    /// Stage describe.
    #[error("its description cannot be used: {0}")]
    Description(String),
    /// Stage config: the configuration is not a JSON object.
    #[error("its configuration is {0}, not an object")]
    ConfigShape(&'static str),
    /// Stage config: the policy does not accept it.
    #[error("its configuration has {} {}: {}", .0.len(), if .0.len() == 1 { "mistake" } else { "mistakes" }, config_problems(.0))]
    Config(Vec<ConfigProblem>),
    /// Stage self-test: a legal question got no legal answer.
    #[error("asked {case}: {error}")]
    SelfTest {
        /// The question, in words.
        case: &'static str,
        /// What came of it.
        error: DecisionError,
    },
    /// Stage self-test: two answers to one question.
    #[error("asked {case} twice, it answered in two ways")]
    NotRepeatable {
        /// The question, in words.
        case: &'static str,
    },
}

/// A mistake in a policy's configuration, by its schema or in its own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigProblem {
    /// A JSON pointer into the configuration, empty for the whole.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

fn config_problems(problems: &[ConfigProblem]) -> String {
    const SHOWN: usize = 8;
    let mut shown: Vec<String> = problems
        .iter()
        .take(SHOWN)
        .map(|problem| match problem.path.as_str() {
            "" => problem.message.clone(),
            path => format!("{path}: {}", problem.message),
        })
        .collect();
    if problems.len() > SHOWN {
        shown.push(format!("and {} more", problems.len() - SHOWN));
    }
    shown.join("; ")
}

impl Problem {
    fn remedy(&self, kind: Kind) -> String {
        match self {
            Self::Size(SizeProblem::Empty | SizeProblem::TruncatedGzip | SizeProblem::BadGzip(_))
            | Self::Parse(ParseProblem::Truncated { .. }) => {
                "Upload the file again, whole, and compare its sha256 with the original's.".to_owned()
            }
            Self::Size(_) => {
                "Build it in release mode with opt-level \"s\", strip it, and drop large dependencies (regex, chrono).".to_owned()
            }
            Self::NotShipped { .. } => {
                "Use one of these names, or put the plugin into the ConfigMap's binaryData under the name that policy.yaml uses.".to_owned()
            }
            Self::Signature(SignatureProblem::Missing) => {
                "Have it signed (`vmgroup policy sign`), and put the signature beside it: NAME.sig, or `vmgroup policy push --signature`.".to_owned()
            }
            Self::Signature(SignatureProblem::NotOurs(_)) => {
                "Sign this very build, with a key that the administrator has named (`vmgroup run --policy-keys`).".to_owned()
            }
            Self::Parse(ParseProblem::CoreModule) => {
                "Make a component of it: build it with scripts/build-plugins, or wrap it with `wasm-tools component new`.".to_owned()
            }
            Self::Parse(ParseProblem::Native) => {
                "Offer the .wasm file that it was compiled from.".to_owned()
            }
            Self::Parse(ParseProblem::NotWasm(_)) => {
                "Put the .wasm (or .wasm.gz) file itself into the ConfigMap: `kubectl create configmap --from-file`.".to_owned()
            }
            Self::Parse(ParseProblem::Invalid { .. }) => {
                "Build it again with the SDK's settings: no threads, no relaxed SIMD, no exceptions, 32-bit memory.".to_owned()
            }
            Self::Parse(ParseProblem::FunctionTooLarge { .. } | ParseProblem::TooManyFunctions { .. }) => {
                "Split the largest functions (generated tables, mostly) or drop the dependency that they come from.".to_owned()
            }
            Self::Parse(ParseProblem::NestedInstances | ParseProblem::TooManyInstances { .. }) => {
                "Build one component from one crate instead of composing several.".to_owned()
            }
            Self::Interface(InterfaceProblem::ForbiddenImports { imports }) => {
                if imports.iter().all(|import| import.starts_with("wasi:")) {
                    "Build it for wasm32-unknown-unknown instead of a wasm32-wasi target, as scripts/build-plugins does: a policy has no clock, files or network.".to_owned()
                } else {
                    "Remove these imports: a policy may import vmgroup:policy/log and nothing else.".to_owned()
                }
            }
            Self::Interface(InterfaceProblem::OtherVersion { .. }) => format!(
                "Build it against the contract {}.x (wit/{}), or use an operator that speaks its version.",
                Contract::LATEST, Contract::LATEST
            ),
            Self::Interface(InterfaceProblem::NotExported { exports, .. }) => {
                let others: Vec<String> = Kind::ALL
                    .into_iter()
                    .filter(|other| exports.iter().any(|export| export.contains(&format!("/{other}@"))))
                    .map(|other| format!("`{other}:`"))
                    .collect();
                match others.join(" or ").as_str() {
                    "" => format!("Implement the SDK's {kind} trait and export it with the SDK's macro."),
                    others => format!("Move it to {others} in policy.yaml, or name a plugin that answers {kind} here."),
                }
            }
            Self::Interface(InterfaceProblem::NoLifecycle) => {
                "Export vmgroup:policy/lifecycle too; the SDK's macro does.".to_owned()
            }
            Self::Compile(_) => {
                "Build it again with a current toolchain; if it stays, report it with the file.".to_owned()
            }
            Self::Link(_) => format!(
                "Build it against the contract as it is in wit/{}: its types differ from the operator's.",
                Contract::LATEST
            ),
            Self::Description(_) => {
                format!("Correct what `describe` returns; the rules are in wit/{}/lifecycle.wit.", Contract::LATEST)
            }
            Self::ConfigShape(_) => "Write `config: { … }` with named fields.".to_owned(),
            Self::Config(_) => format!("Correct `config` under `{kind}:` in policy.yaml."),
            Self::Failed(error) | Self::SelfTest { error, .. } => failed_remedy(error),
            Self::NotRepeatable { .. } => {
                "Decide by the question alone: order by its tables or by name, and take randomness from context.seed.".to_owned()
            }
        }
    }
}

fn failed_remedy(error: &DecisionError) -> String {
    match error {
        DecisionError::Trap { .. } => {
            "Find the panic with the SDK's native test helpers: an empty inventory and unknown statistics are legal questions."
        }
        DecisionError::OutOfFuel { .. } | DecisionError::Deadline { .. } => {
            "Look for an endless loop, or for work that grows with the square of the members."
        }
        DecisionError::Memory { .. } => {
            "Look for a list that grows without end, or for a copy of the whole question per member."
        }
        DecisionError::OutputTooLarge { .. } => "Give shorter reasons and answer only what was asked.",
        DecisionError::BadAnswer(_) => {
            "Answer by the rules of the contract, or refuse with `unsatisfiable` where there is no legal answer."
        }
        DecisionError::Refused(_) | DecisionError::Host(_) => {
            "Try it with `vmgroup policy check FILE` and report it with the file if it stays."
        }
    }
    .to_owned()
}

/// Collects what the stages find and how long they take. The one place of this
/// crate that reads the clock.
struct Progress {
    stages: Vec<StageReport>,
    since: Instant,
}

impl Progress {
    fn passed(&mut self, stage: Stage, detail: String, fuel: Option<u64>) {
        let now = Instant::now();
        self.stages.push(StageReport { stage, detail, took: now - self.since, fuel });
        self.since = now;
    }
}

/// A plugin that links and has described itself, not yet configured.
struct Described {
    plugin: Arc<str>,
    digest: Digest,
    loaded: Loaded,
    description: Description,
}

impl Host {
    /// Checks a plugin for the question `kind`, with its configuration.
    ///
    /// Blocks: compiling costs about 1.1 ms for each KiB of the plugin. The
    /// same bytes are read and compiled once, whatever they are configured with.
    pub fn check(&self, kind: Kind, source: &Source) -> Result<Checked, CheckError> {
        let mut progress = Progress { stages: Vec::new(), since: Instant::now() };
        match self.check_stages(kind, source, &mut progress) {
            Ok(policy) => Ok(Checked { policy: Arc::new(policy), stages: progress.stages }),
            Err((stage, problem)) => Err(CheckError::at(stage, problem, kind, source, progress.stages)),
        }
    }

    /// The first stages, up to what the plugin says of itself.
    pub(crate) fn describe(&self, kind: Kind, source: &Source) -> Result<Description, CheckError> {
        let mut progress = Progress { stages: Vec::new(), since: Instant::now() };
        match self.first_stages(kind, source, &mut progress) {
            Ok(described) => Ok(described.description),
            Err((stage, problem)) => Err(CheckError::at(stage, problem, kind, source, progress.stages)),
        }
    }

    fn check_stages(&self, kind: Kind, source: &Source, progress: &mut Progress) -> Result<Policy, (Stage, Problem)> {
        let Described { plugin, digest, loaded, description } = self.first_stages(kind, source, progress)?;
        let config = config_object(&source.config).map_err(|p| (Stage::Config, p))?;
        let config_text = config.to_string();
        against_schema(&description, kind, &config).map_err(|p| (Stage::Config, p))?;
        let fuel = validate_config(&loaded, &plugin, &config_text).map_err(|p| (Stage::Config, p))?;
        progress.passed(Stage::Config, tidy(&config_text, 120), Some(fuel));

        let policy = Policy { plugin, description, digest, config, config_text, loaded };
        let (detail, fuel) = self_test::run(&policy).map_err(|p| (Stage::SelfTest, p))?;
        progress.passed(Stage::SelfTest, detail, Some(fuel));
        Ok(policy)
    }

    fn first_stages(
        &self,
        kind: Kind,
        source: &Source,
        progress: &mut Progress,
    ) -> Result<Described, (Stage, Problem)> {
        let limits = self.limits();
        let bytes = source::unpack(&source.bytes, limits).map_err(|problem| (Stage::Size, problem.into()))?;
        let digest = Digest::of(&bytes);
        let packed = if bytes.len() == source.bytes.len() {
            String::new()
        } else {
            format!(" ({} compressed)", kib(source.bytes.len()))
        };
        progress.passed(Stage::Size, format!("{}{packed}, {digest}", kib(bytes.len())), None);

        let shape = self.shape(&digest, &bytes).map_err(|problem| (Stage::Parse, problem.into()))?;
        progress.passed(Stage::Parse, format!("a component of {} functions", shape.functions), None);

        let names = shape::interfaces(&shape, kind).map_err(|problem| (Stage::Interface, problem.into()))?;
        progress.passed(Stage::Interface, interface_detail(&shape), None);

        let (component, known) = self
            .compile(&digest, &shape, &bytes)
            .map_err(|error| (Stage::Compile, Problem::Compile(tidy(&format!("{error:#}"), MESSAGE_CHARS))))?;
        let detail = if known { "compiled before" } else { "compiled" };
        progress.passed(Stage::Compile, detail.to_owned(), None);

        let plugin: Arc<str> = Arc::from(tidy(&source.name, 253));
        let loaded = self.load(kind, &component, &names).map_err(|p| (Stage::Instantiate, p))?;
        let fuel = instantiate(&loaded, &plugin).map_err(|p| (Stage::Instantiate, p))?;
        progress.passed(Stage::Instantiate, "links, and an instance can be made".into(), Some(fuel));

        let (description, fuel) = describe(&loaded, &plugin).map_err(|problem| (Stage::Describe, problem))?;
        let detail = format!("{} {}: {}", description.name, description.version, description.summary);
        progress.passed(Stage::Describe, detail, Some(fuel));
        Ok(Described { plugin, digest, loaded, description })
    }

    fn load(
        &self,
        kind: Kind,
        component: &wasmtime::component::Component,
        Interfaces { contract, answer, lifecycle }: &Interfaces,
    ) -> Result<Loaded, Problem> {
        let link = |error: wasmtime::Error| Problem::Link(tidy(&format!("{error:#}"), MESSAGE_CHARS));
        let find = |interface: &str, function: &str| {
            component
                .get_export_index(None, interface)
                .and_then(|instance| component.get_export_index(Some(&instance), function))
                .ok_or_else(|| Problem::Link(format!("{interface} has no function {function}")))
        };
        Ok(Loaded {
            kind,
            contract: *contract,
            host: self.clone(),
            pre: self.linker().instantiate_pre(component).map_err(link)?,
            answer: find(answer, kind.function())?,
            describe: find(lifecycle, "describe")?,
            validate_config: find(lifecycle, "validate-config")?,
        })
    }
}

fn kib(bytes: usize) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}

fn interface_detail(shape: &Shape) -> String {
    let names = |items: &[shape::Extern]| items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let imports = if shape.imports.is_empty() { "nothing".into() } else { names(&shape.imports) };
    format!("imports {imports}; exports {}", names(&shape.exports))
}

/// Makes an instance and compares the signatures of its functions with the
/// contract's, without calling any.
fn instantiate(loaded: &Loaded, plugin: &Arc<str>) -> Result<u64, Problem> {
    use crate::wit::{naming, placement, scaling, v0_1};
    use wasmtime::component::TypedFunc;
    type Validates<'a> = TypedFunc<(WitKind, &'a str), (Result<(), Vec<WitProblem>>,)>;
    type Answers<Q, A> = TypedFunc<(Q,), (Result<A, crate::wit::types::Refusal>,)>;
    let kind = loaded.kind;
    let ran = loaded.run(plugin, |store, instance| {
        let answer = &loaded.answer;
        // Types are compared by their shape, and answers have had theirs from the first
        // version on.
        macro_rules! fits {
            ($request:ty => $answer:ty) => {
                instance.get_typed_func(&mut *store, answer).map(|_: Answers<$request, $answer>| ())
            };
        }
        let fits = match (loaded.contract, kind) {
            (Contract::V0_2, Kind::Naming) => fits!(&naming::Request => naming::Answer),
            (Contract::V0_2, Kind::Placement) => fits!(&placement::Request => Vec<placement::Place>),
            (Contract::V0_2, Kind::Scaling) => fits!(&scaling::Request => Vec<scaling::Victim>),
            (Contract::V0_1, Kind::Naming) => fits!(&v0_1::naming::Request => naming::Answer),
            (Contract::V0_1, Kind::Placement) => fits!(&v0_1::placement::Request => Vec<placement::Place>),
            (Contract::V0_1, Kind::Scaling) => fits!(&v0_1::scaling::Request => Vec<scaling::Victim>),
        };
        let fits = fits
            .and_then(|()| {
                instance.get_typed_func(&mut *store, loaded.describe).map(|_: TypedFunc<(), (Description,)>| ())
            })
            .and_then(|()| instance.get_typed_func(&mut *store, loaded.validate_config).map(|_: Validates<'_>| ()));
        Ok(fits.map_err(|error| tidy(&format!("{error:#}"), MESSAGE_CHARS)))
    });
    ran.outcome.map_err(Problem::Failed)?.map_err(Problem::Link)?;
    Ok(ran.fuel)
}

fn describe(loaded: &Loaded, plugin: &Arc<str>) -> Result<(Description, u64), Problem> {
    let ran = loaded.run(plugin, |store, instance| {
        let (description,): (Description,) = sandbox::call(store, instance, &loaded.describe, ())?;
        Ok(description)
    });
    let description = ran.outcome.map_err(Problem::Failed)?;
    let name = &description.name;
    let legal = (1..=40).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if !legal {
        return Err(Problem::Description(format!(
            "the name {} is not 1 to 40 lower-case letters, digits and hyphens",
            quoted(name)
        )));
    }
    if let Some(schema) = &description.config_schema
        && let Err(error) = serde_json::from_str::<serde_json::Value>(schema)
    {
        return Err(Problem::Description(format!("the configuration's schema is no JSON: {error}")));
    }
    let description = Description {
        version: tidy(&description.version, 40),
        summary: tidy(&description.summary, MESSAGE_CHARS),
        ..description
    };
    Ok((description, ran.fuel))
}

fn config_object(config: &serde_json::Value) -> Result<serde_json::Value, Problem> {
    use serde_json::Value;
    match config {
        Value::Object(_) => Ok(config.clone()),
        Value::Null => Ok(Value::Object(serde_json::Map::new())),
        Value::Bool(_) => Err(Problem::ConfigShape("true or false")),
        Value::Number(_) => Err(Problem::ConfigShape("a number")),
        Value::String(_) => Err(Problem::ConfigShape("a text")),
        Value::Array(_) => Err(Problem::ConfigShape("a list")),
    }
}

/// What is surely wrong by the schema that the policy carries, all of it at once;
/// the policy itself, which is asked afterwards, may stop at the first.
fn against_schema(description: &Description, kind: Kind, config: &serde_json::Value) -> Result<(), Problem> {
    let schema = description.config_schema.as_deref().and_then(|schema| serde_json::from_str(schema).ok());
    let mistakes = schema.map(|schema| schema::mistakes(&schema, kind, config)).unwrap_or_default();
    if mistakes.is_empty() { Ok(()) } else { Err(Problem::Config(mistakes)) }
}

fn validate_config(loaded: &Loaded, plugin: &Arc<str>, config: &str) -> Result<u64, Problem> {
    let ran = loaded.run(plugin, |store, instance| {
        let (verdict,): (Result<(), Vec<WitProblem>>,) =
            sandbox::call(store, instance, &loaded.validate_config, (loaded.kind.in_contract(), config))?;
        Ok(verdict)
    });
    ran.outcome.map_err(Problem::Failed)?.map_err(|problems| {
        Problem::Config(
            problems
                .into_iter()
                .take(100)
                .map(|problem| ConfigProblem {
                    path: tidy(&problem.path, MESSAGE_CHARS),
                    message: tidy(&problem.message, MESSAGE_CHARS),
                })
                .collect(),
        )
    })?;
    Ok(ran.fuel)
}

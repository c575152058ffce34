//! `vmgroup policy serve`: the inner loop. At each change in a policy's crate:
//! build it, check it, ask it the fixtures and (where there are some) recorded
//! decisions, show what it decides otherwise than before, try it on random
//! questions, and, where wished, put it into force.
//!
//! Production never links the simulators; so what it is put into force against
//! is whatever cluster kubectl's context names, and `make demo KEEP=1` gives one
//! that is simulated.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime};

use clap::Args;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use serde::Serialize;
use serde_json::{Map, Value, json};
use vmgroup_api::policy_file::FILE_NAME;
use vmgroup_policy::{Policy, conformance};
use vmgroup_records::{Difference, Record, Replay, Replayed, Verdict, read};

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::run::kube_client;

use super::ask::{self, ask};
use super::input::{self, PluginArgs};
use super::text::{Paint, number, time};
use super::{Output, PolicyError, ReplayError, build, check};

/// How often the crate is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// Lines that are shown of an answer.
const SHOWN: usize = 5;
/// How long the API server may take.
const API_SERVER: Duration = Duration::from_secs(15);
/// Who the fields of the ConfigMap belong to.
const MANAGER: &str = "vmgroup-policy-serve";

/// Arguments of `vmgroup policy serve`.
#[derive(Args, Debug)]
#[command(after_help = "\
Looks at src/, Cargo.toml, policy.yaml and fixtures/ of the crate. Ends with Ctrl-C.

With --apply, what passes goes into the policy ConfigMap of kubectl's current context, together
with the crate's policy.yaml; the operator there checks it once more and swaps it in. To have that on simulators, with nothing to lose,
`make serve CRATE=FOLDER` in the repository starts simulators, operator and a group along with it.

Examples:
  vmgroup policy serve
  vmgroup policy serve my-policy --records decisions.jsonl.zst
  vmgroup policy serve my-policy --apply")]
pub struct ServeArgs {
    /// The folder of the crate
    #[arg(value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,

    /// Recorded decisions to be replayed too: a file of `vmgroup decisions export`, or a folder
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,

    /// One round, then end: exit code 0 if all was well
    #[arg(long)]
    once: bool,

    /// How many random questions
    #[arg(long, value_name = "N", default_value = "200", value_parser = clap::value_parser!(u32).range(1..))]
    questions: u32,

    /// Put what passes into force, in the cluster of kubectl's current context
    #[arg(long)]
    apply: bool,

    /// The operator's namespace there
    #[arg(long, value_name = "NAMESPACE", default_value = "vmgroup-system", requires = "apply")]
    namespace: String,

    /// Its policy ConfigMap
    #[arg(long, value_name = "NAME", default_value = "vmgroup-policy", requires = "apply")]
    config_map: String,

    /// For people, or for programs: a line with an object for each round
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// Why a policy that passed was not put into force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// No runtime for the client.
    #[error("the runtime could not be started")]
    Runtime(#[source] std::io::Error),
    /// No cluster.
    #[error(transparent)]
    Cluster(#[from] crate::run::RunError),
    /// It refuses.
    #[error("the ConfigMap could not be applied; is the context that kubectl uses the right one?")]
    Api(#[from] kube::Error),
    /// The API server does not answer.
    #[error("the API server has not answered within {} s", API_SERVER.as_secs())]
    Slow(#[from] tokio::time::error::Elapsed),
}

/// What the fixtures were answered, line by line, by their file.
type Answers = BTreeMap<PathBuf, BTreeSet<String>>;

/// What one round has found; nothing of what it did not come to.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Round {
    /// Whether all was well.
    passed: bool,
    /// Why it could not be built or tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// As of `vmgroup policy check`.
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Value>,
    fixtures: Vec<Fixture>,
    /// How many of the recorded decisions of its kind it would have taken how.
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded: Option<Value>,
    /// What of `vmgroup policy conformance` does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    finding: Option<Value>,
    /// It is in the policy ConfigMap.
    applied: bool,
}

/// What a fixture was answered, beside the round before.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fixture {
    file: PathBuf,
    micros: u64,
    fuel: u64,
    /// As in the round before.
    as_before: bool,
    gone: Vec<String>,
    new: Vec<String>,
}

pub(super) fn run(arguments: &ServeArgs, out: &mut impl Write) -> Result<ExitCode, PolicyError> {
    let records = arguments.records.as_deref().map(read).transpose().map_err(ReplayError::Records)?;
    let records = records.unwrap_or_default();
    let text = arguments.output == Output::Text;
    let mut before = Answers::new();
    loop {
        let seen = state(&arguments.folder);
        let mut found = Round::default();
        match round(arguments, &records, &mut before, &mut found, out) {
            Ok(passed) => found.passed = passed,
            Err(PolicyError::Output(error)) => return Err(PolicyError::Output(error)),
            Err(error) if arguments.once => return Err(error),
            // The next change may mend it.
            Err(error) if text => writeln!(out, "{}: {}", Paint::new().bad("error"), crate::cli::chain(&error))?,
            Err(error) => found.error = Some(crate::cli::chain(&error)),
        }
        if !text {
            // A line for each round, so that whoever reads along knows where it ends.
            serde_json::to_writer(&mut *out, &found).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        if arguments.once {
            return Ok(if found.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        if text {
            writeln!(out, "waiting for a change …\n")?;
        }
        out.flush()?;
        while state(&arguments.folder) == seen {
            thread::sleep(LOOK);
        }
    }
}

/// When what the policy is made from was changed, by file.
fn state(folder: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut files = BTreeMap::new();
    let mut open = ["src", "fixtures"].map(|name| folder.join(name)).to_vec();
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(changed) = entry.metadata().and_then(|it| it.modified()) {
                files.insert(path, changed);
            }
        }
    }
    for name in ["Cargo.toml", FILE_NAME] {
        let path = folder.join(name);
        if let Ok(changed) = path.metadata().and_then(|it| it.modified()) {
            files.insert(path, changed);
        }
    }
    files
}

/// One round: whether all was well. What it finds is told as it is found.
fn round(
    arguments: &ServeArgs,
    records: &[Record],
    before: &mut Answers,
    found: &mut Round,
    out: &mut impl Write,
) -> Result<bool, PolicyError> {
    let (folder, text, paint) = (&arguments.folder, arguments.output == Output::Text, Paint::new());
    let built = build::build(folder, false)?;
    let Some(file) = built.into_iter().next().map(|built| built.file) else { return Ok(false) };
    let policy_file = Some(folder.join(FILE_NAME)).filter(|path| path.is_file());
    let plugin = PluginArgs::of(file.clone(), policy_file.clone()).check()?;
    found.check = Some(check::report(&plugin));
    let Ok(checked) = &plugin.verdict else {
        if text {
            check::show(Output::Text, &plugin, out)?;
        }
        return Ok(false);
    };
    let policy = checked.policy.clone();
    if text {
        let accepted = paint.good("accepted");
        writeln!(out, "{} sha256:{}  {accepted}", paint.bold(&plugin.source.name), policy.digest().short())?;
    }
    found.fixtures = fixtures(&policy, folder, before)?;
    if text {
        found.fixtures.iter().try_for_each(|fixture| show_fixture(fixture, out))?;
    }
    if !records.is_empty() {
        let threads = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        let replayed = Replay::new(&policy, threads).over(records);
        if text {
            recorded(&replayed, out)?;
        }
        let counts = Verdict::ALL.map(|verdict| (verdict.as_str().to_owned(), json!(replayed.count(verdict))));
        found.recorded = Some(json!({ "asked": replayed.asked, "verdicts": Map::from_iter(counts) }));
    }
    let report = conformance::run(&policy, 1, arguments.questions, |_| ());
    if let Some(finding) = report.findings.first() {
        if text {
            writeln!(out, "  {}: {}: {}", paint.bad("does not conform"), finding.property, finding.problem)?;
        }
        let (property, problem) = (finding.property.to_string(), &finding.problem);
        found.finding = Some(json!({ "property": property, "problem": problem }));
        return Ok(false);
    }
    if text {
        let (questions, fuel) = (report.questions, number(report.fuel));
        writeln!(out, "  {} on {questions} random questions, at most {fuel} fuel", paint.good("conforms"))?;
    }
    if arguments.apply {
        let content = match policy_file {
            Some(path) => String::from_utf8_lossy(&input::read(&path)?).into_owned(),
            None => format!("{}:\n  plugin: {}\n", policy.kind(), plugin.source.name),
        };
        apply(arguments, &plugin.source.name, input::read(&file)?, content)?;
        found.applied = true;
        let (namespace, name) = (&arguments.namespace, &arguments.config_map);
        if text {
            let applied = paint.good("applied");
            writeln!(out, "  {applied}; what became of it: kubectl -n {namespace} describe configmap {name}")?;
        }
    }
    Ok(true)
}

/// Asks the fixtures: which lines of an answer are new, and which are gone?
fn fixtures(policy: &Policy, folder: &Path, before: &mut Answers) -> Result<Vec<Fixture>, PolicyError> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder.join("fixtures"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    let ask_one = |file: PathBuf| -> Result<Fixture, PolicyError> {
        let question = ask::read(&file)?;
        let asked = ask(policy, &question);
        let lines: BTreeSet<String> = match &asked.tried.outcome {
            Ok(answer) => answer
                .lines(&question)
                .into_iter()
                .map(|line| match line.place {
                    Some(place) => format!("{} on {place}: {}", line.subject, line.reason),
                    None => format!("{}: {}", line.subject, line.reason),
                })
                .collect(),
            Err(error) => BTreeSet::from([format!("no answer: {error}")]),
        };
        let old = before.insert(file.clone(), lines.clone());
        let as_before = old.as_ref() == Some(&lines);
        let old = old.unwrap_or_default();
        Ok(Fixture {
            file,
            micros: u64::try_from(asked.took.as_micros()).unwrap_or(u64::MAX),
            fuel: asked.tried.fuel,
            as_before,
            gone: old.difference(&lines).cloned().collect(),
            new: lines.difference(&old).cloned().collect(),
        })
    };
    files.into_iter().map(ask_one).collect()
}

fn show_fixture(fixture: &Fixture, out: &mut impl Write) -> std::io::Result<()> {
    let Fixture { file, micros, fuel, as_before, gone, new } = fixture;
    let paint = Paint::new();
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
    let cost = format!("{}, {} fuel", time(Duration::from_micros(*micros)), number(*fuel));
    if *as_before {
        return writeln!(out, "  {name}: as before ({cost})");
    }
    writeln!(out, "  {name} ({cost})")?;
    for line in gone {
        writeln!(out, "    {} {line}", paint.bad("-"))?;
    }
    for line in new {
        writeln!(out, "    {} {line}", paint.good("+"))?;
    }
    Ok(())
}

/// How it would have decided what was recorded.
fn recorded(replayed: &Replayed, out: &mut impl Write) -> std::io::Result<()> {
    let counts: Vec<String> = Verdict::ALL
        .into_iter()
        .filter(|verdict| replayed.count(*verdict) > 0)
        .map(|verdict| format!("{} {}", replayed.count(verdict), verdict.as_str()))
        .collect();
    let counts = if counts.is_empty() { "none of its kind".to_owned() } else { counts.join(", ") };
    writeln!(out, "  {} recorded decisions: {counts}", replayed.asked)?;
    let first = replayed.differences.iter().find(|difference| difference.verdict.matters());
    if let Some(Difference { group, then, now, .. }) = first {
        writeln!(out, "    {group} then  {}", then.in_words(SHOWN))?;
        writeln!(out, "    {group} now   {}", now.in_words(SHOWN))?;
    }
    Ok(())
}

/// Puts policy file and plugin into the ConfigMap; its other keys stay.
fn apply(arguments: &ServeArgs, plugin: &str, bytes: Vec<u8>, policy_file: String) -> Result<(), ApplyError> {
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(arguments.config_map.clone()),
            namespace: Some(arguments.namespace.clone()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(FILE_NAME.to_owned(), policy_file)])),
        binary_data: Some(BTreeMap::from([(plugin.to_owned(), ByteString(bytes))])),
        ..ConfigMap::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ApplyError::Runtime)?;
    runtime.block_on(async {
        let metrics = Metrics::new(Clock::system());
        tokio::time::timeout(API_SERVER, async {
            let maps: Api<ConfigMap> = Api::namespaced(kube_client(&metrics).await?, &arguments.namespace);
            let parameters = PatchParams::apply(MANAGER).force();
            maps.patch(&arguments.config_map, &parameters, &Patch::Apply(&map)).await?;
            Ok(())
        })
        .await?
    })
}

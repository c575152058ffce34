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
use vmgroup_api::policy_file::FILE_NAME;
use vmgroup_policy::{Policy, conformance};
use vmgroup_records::{Difference, Record, Replay, Replayed, Verdict, read};

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::run::kube_client;

use super::ask::{self, ask};
use super::input::{self, PluginArgs};
use super::text::{Paint, number, time};
use super::{PolicyError, ReplayError, build, check};

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

pub(super) fn run(arguments: &ServeArgs, out: &mut impl Write) -> Result<ExitCode, PolicyError> {
    let records = arguments.records.as_deref().map(read).transpose().map_err(ReplayError::Records)?;
    let records = records.unwrap_or_default();
    let mut before = Answers::new();
    loop {
        let seen = state(&arguments.folder);
        let passed = match round(arguments, &records, &mut before, out) {
            Ok(passed) => passed,
            Err(PolicyError::Output(error)) => return Err(PolicyError::Output(error)),
            Err(error) if arguments.once => return Err(error),
            // The next change may mend it.
            Err(error) => {
                writeln!(out, "{}: {}", Paint::new().bad("error"), crate::cli::chain(&error))?;
                false
            }
        };
        if arguments.once {
            return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        writeln!(out, "waiting for a change …\n")?;
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

/// One round: whether all was well.
fn round(
    arguments: &ServeArgs,
    records: &[Record],
    before: &mut Answers,
    out: &mut impl Write,
) -> Result<bool, PolicyError> {
    let folder = &arguments.folder;
    let paint = Paint::new();
    let built = build::build(folder, false)?;
    let Some(file) = built.into_iter().next().map(|built| built.file) else { return Ok(false) };
    let policy_file = Some(folder.join(FILE_NAME)).filter(|path| path.is_file());
    let plugin = PluginArgs::of(file.clone(), policy_file.clone()).check()?;
    let Ok(checked) = &plugin.verdict else {
        check::show(super::Output::Text, &plugin, out)?;
        return Ok(false);
    };
    let policy = checked.policy.clone();
    writeln!(
        out,
        "{} sha256:{}  {}",
        paint.bold(&plugin.source.name),
        policy.digest().short(),
        paint.good("accepted")
    )?;
    fixtures(&policy, folder, before, out)?;
    if !records.is_empty() {
        let threads = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        recorded(&Replay::new(&policy, threads).over(records), out)?;
    }
    let report = conformance::run(&policy, 1, arguments.questions, |_| ());
    match report.findings.first() {
        None => writeln!(
            out,
            "  {} on {} random questions, at most {} fuel",
            paint.good("conforms"),
            report.questions,
            number(report.fuel)
        )?,
        Some(finding) => {
            writeln!(out, "  {}: {}: {}", paint.bad("does not conform"), finding.property, finding.problem)?;
            return Ok(false);
        }
    }
    if arguments.apply {
        let text = match policy_file {
            Some(path) => String::from_utf8_lossy(&input::read(&path)?).into_owned(),
            None => format!("{}:\n  plugin: {}\n", policy.kind(), plugin.source.name),
        };
        apply(arguments, &plugin.source.name, input::read(&file)?, text)?;
        let (namespace, name) = (&arguments.namespace, &arguments.config_map);
        writeln!(
            out,
            "  {}; what became of it: kubectl -n {namespace} describe configmap {name}",
            paint.good("applied")
        )?;
    }
    Ok(true)
}

/// Asks the fixtures, and shows which lines of an answer are new and which are gone.
fn fixtures(policy: &Policy, folder: &Path, before: &mut Answers, out: &mut impl Write) -> Result<(), PolicyError> {
    let paint = Paint::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder.join("fixtures"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    for path in files {
        let question = ask::read(&path)?;
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
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let cost = format!("{}, {} fuel", time(asked.took), number(asked.tried.fuel));
        let old = before.insert(path, lines.clone());
        if old.as_ref() == Some(&lines) {
            writeln!(out, "  {name}: as before ({cost})")?;
            continue;
        }
        writeln!(out, "  {name} ({cost})")?;
        let old = old.unwrap_or_default();
        for line in old.difference(&lines) {
            writeln!(out, "    {} {line}", paint.bad("-"))?;
        }
        for line in lines.difference(&old) {
            writeln!(out, "    {} {line}", paint.good("+"))?;
        }
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

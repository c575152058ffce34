//! `vmgroup policy replay`: recorded decisions, put to another policy.

use std::fs;
use std::io::Write;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};
use vmgroup_policy::{CheckError, Kind, Policy};
use vmgroup_records::{Difference, ReadError, Replay, Replayed, Verdict, html, lines};

use super::{KindArg, Output, PolicyError, input};
use crate::cli::decisions::when;

/// Differences that the table shows. The page and the JSON have more.
const SHOWN: usize = 20;

/// Arguments of `vmgroup policy replay`.
#[derive(Args, Debug)]
#[command(after_help = "\
Time and randomness are in the records, so the same policy gives the same answers on any machine.
Exit code 0, or with --exit-code 1 if a decision would have gone another way.

Examples:
  vmgroup policy replay decisions.jsonl.zst --policy ordered --config '{\"order\":\"oldest\"}'
  vmgroup policy replay /var/lib/vmgroup/decisions --policy new.wasm --html replay.html")]
pub struct ReplayArgs {
    /// A file of `vmgroup decisions export`, or the folder of --decision-folder
    records: PathBuf,

    /// The policy to be tried: a .wasm or .wasm.gz file, or the name of a shipped one
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,

    /// Which question it is to answer [default: that of the first record that it can]
    #[arg(long, value_enum, value_name = "KIND")]
    kind: Option<KindArg>,

    /// Its configuration: JSON, or @FILE [default: {}]
    #[arg(long, value_name = "JSON", default_value = "{}", hide_default_value = true)]
    config: String,

    /// Write a page with each difference, both answers side by side
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// End with exit code 1 if a decision would have gone another way
    #[arg(long)]
    exit_code: bool,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// Why there was no replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The records.
    #[error(transparent)]
    Records(#[from] ReadError),
    /// The policy does not pass its checks.
    #[error("{0}; `vmgroup policy check` says more. {remedy}", remedy = .0.remedy)]
    Refused(Box<CheckError>),
    /// There is nothing to ask.
    #[error("the policy answers no question of these {0} records: it must be of one of their kinds")]
    NothingToAsk(usize),
    /// The page.
    #[error("`{}` cannot be written", path.display())]
    Page {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Replays, prints, writes the page.
pub(super) fn run(arguments: &ReplayArgs, out: &mut impl Write) -> Result<ExitCode, PolicyError> {
    let policy = policy(arguments)?;
    let threads = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let records = lines(&arguments.records).map_err(ReplayError::Records)?;
    let replayed = Replay::new(&policy, threads).over_lines(records).map_err(ReplayError::Records)?;
    if arguments.kind.is_none() && replayed.asked == 0 {
        return Err(ReplayError::NothingToAsk(replayed.left_out).into());
    }
    if let Some(path) = &arguments.html {
        let mut page = String::new();
        // A string takes whatever is written to it.
        let _ = html::report(&mut page, &replayed, &policy, when);
        fs::write(path, page).map_err(|source| ReplayError::Page { path: path.clone(), source })?;
    }
    match arguments.output {
        Output::Json => super::json(out, &report(&replayed))?,
        Output::Text => print(out, &replayed)?,
    }
    let failed = arguments.exit_code && replayed.mattering() > 0;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The policy, checked as the operator does. Of a component that answers several
/// questions, the one that comes first in the records is meant.
fn policy(arguments: &ReplayArgs) -> Result<Arc<Policy>, PolicyError> {
    let host = input::host()?;
    let mut source = input::file_or_shipped(&arguments.policy)?;
    source.config = input::config(&arguments.config)?;
    let answers = host.answers(&source);
    let kind = match (arguments.kind, &answers[..]) {
        (Some(kind), _) => kind.into(),
        // Where no kind fits, the fault is the file's, whatever it is checked as.
        (None, []) => Kind::Naming,
        (None, [kind]) => *kind,
        (None, several) => first_of(several, &arguments.records).map_err(ReplayError::Records)?,
    };
    let checked = host.check(kind, &source).map_err(|error| ReplayError::Refused(Box::new(error)))?;
    Ok(checked.policy)
}

/// The kind of the first record that is of one of these; their first, if none is.
fn first_of(kinds: &[Kind], records: &Path) -> Result<Kind, ReadError> {
    for line in lines(records)? {
        if let Some(record) = line?.record()?
            && kinds.contains(&record.question.kind())
        {
            return Ok(record.question.kind());
        }
    }
    Ok(kinds.first().copied().unwrap_or(Kind::Naming))
}

fn report(replayed: &Replayed) -> Value {
    let counts: serde_json::Map<String, Value> =
        Verdict::ALL.into_iter().map(|verdict| (verdict.as_str().to_owned(), json!(replayed.count(verdict)))).collect();
    let differences: Vec<Value> = replayed
        .differences
        .iter()
        .map(|Difference { number, group, then, fuel_then, now, fuel_now, verdict, .. }| {
            json!({
                "number": number,
                "group": group,
                "verdict": verdict.as_str(),
                "then": then,
                "now": now,
                "fuelThen": fuel_then,
                "fuelNow": fuel_now,
            })
        })
        .collect();
    json!({
        "asked": replayed.asked,
        "leftOut": replayed.left_out,
        "otherWay": replayed.mattering(),
        "counts": counts,
        "differences": differences,
    })
}

fn print(out: &mut impl Write, replayed: &Replayed) -> std::io::Result<()> {
    writeln!(out, "{} decisions replayed, {} of another kind or on trial left out", replayed.asked, replayed.left_out)?;
    for verdict in Verdict::ALL {
        writeln!(out, "  {:>7}  {}", replayed.count(verdict), verdict.as_str())?;
    }
    let mattering = || replayed.differences.iter().filter(|difference| difference.verdict.matters());
    for Difference { number, at_ms, group, then, now, verdict, .. } in mattering().take(SHOWN) {
        writeln!(out, "\n{} decision {number} of {group}: {}", when(*at_ms), verdict.as_str())?;
        writeln!(out, "  then  {}", then.in_words(usize::MAX))?;
        writeln!(out, "  now   {}", now.in_words(usize::MAX))?;
    }
    let hidden = mattering().count().saturating_sub(SHOWN);
    if hidden > 0 {
        writeln!(out, "\nand {hidden} more: --html FILE or --output json has all")?;
    }
    Ok(())
}

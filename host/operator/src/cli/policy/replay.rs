//! `vmgroup policy replay`: recorded decisions, put to another policy.

use std::fs;
use std::io::Write;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};
use vmgroup_policy::{CheckError, Kind, Policy};
use vmgroup_records::{Difference, Outcome, ReadError, Record, Replay, Replayed, Verdict, html, read};

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
    let records = read(&arguments.records).map_err(ReplayError::Records)?;
    let policy = policy(arguments, &records)?;
    let threads = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let replayed = Replay::new(&policy, threads).over(&records);
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
fn policy(arguments: &ReplayArgs, records: &[Record]) -> Result<Arc<Policy>, PolicyError> {
    let host = input::host()?;
    let mut source = input::file_or_shipped(&arguments.policy)?;
    source.config = input::config(&arguments.config)?;
    let answers = host.answers(&source);
    let of_records = || records.iter().map(|record| record.question.kind()).find(|kind| answers.contains(kind));
    let kind = match (arguments.kind, &answers[..]) {
        (Some(kind), _) => kind.into(),
        // Where no kind fits, the fault is the file's, whatever it is checked as.
        (None, []) => Kind::Naming,
        (None, _) => of_records().ok_or(ReplayError::NothingToAsk(records.len()))?,
    };
    let checked = host.check(kind, &source).map_err(|error| ReplayError::Refused(Box::new(error)))?;
    Ok(checked.policy)
}

fn report(replayed: &Replayed) -> Value {
    let counts: serde_json::Map<String, Value> =
        Verdict::ALL.into_iter().map(|verdict| (verdict.as_str().to_owned(), json!(replayed.count(verdict)))).collect();
    let differences: Vec<Value> = replayed
        .differences
        .iter()
        .map(|Difference { record, now, fuel, verdict }| {
            json!({
                "number": record.number,
                "group": record.group(),
                "verdict": verdict.as_str(),
                "then": side(record, &record.outcome),
                "now": side(record, now),
                "fuelThen": record.fuel,
                "fuelNow": fuel,
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

fn side(record: &Record, outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Answered(answer) => json!(answer.lines(&record.question)),
        Outcome::Failed { reason, message } => json!({ "reason": reason, "message": message }),
    }
}

fn print(out: &mut impl Write, replayed: &Replayed) -> std::io::Result<()> {
    writeln!(out, "{} decisions replayed, {} of another kind or on trial left out", replayed.asked, replayed.left_out)?;
    for verdict in Verdict::ALL {
        writeln!(out, "  {:>7}  {}", replayed.count(verdict), verdict.as_str())?;
    }
    let mattering = || replayed.differences.iter().filter(|difference| difference.verdict.matters());
    for Difference { record, now, verdict, .. } in mattering().take(SHOWN) {
        writeln!(
            out,
            "\n{} decision {} of {}: {}",
            when(record.at_ms),
            record.number,
            record.group(),
            verdict.as_str()
        )?;
        writeln!(out, "  then  {}", record.outcome.in_words(&record.question, usize::MAX))?;
        writeln!(out, "  now   {}", now.in_words(&record.question, usize::MAX))?;
    }
    let hidden = mattering().count().saturating_sub(SHOWN);
    if hidden > 0 {
        writeln!(out, "\nand {hidden} more: --html FILE or --output json has all")?;
    }
    Ok(())
}

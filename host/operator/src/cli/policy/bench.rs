//! `vmgroup policy bench`: how long a plugin thinks, by the size of the group,
//! beside what it may take.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use vmgroup_policy::generate::{self, Size};
use vmgroup_policy::{Kind, Limits, Policy};

use super::ask::{Asked, ask};
use super::input::PluginArgs;
use super::text::{Paint, number, share, size, time};
use super::{Output, PolicyError, check};

/// For each size: at most so many questions, and no more after so long.
const QUESTIONS: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(2);

/// Arguments of `vmgroup policy bench`.
#[derive(Args, Debug)]
#[command(after_help = "\
Each size is asked plain questions for up to two seconds; a tenth of the members is asked for, at
most a hundred. Times are of this machine, in the operator's own sandbox; fuel and memory are the
same everywhere. Exit code 0: within all limits; 1: not.

Examples:
  vmgroup policy bench mine.wasm
  vmgroup policy bench mine.wasm --members 100,50000 --output json")]
pub struct BenchArgs {
    #[command(flatten)]
    plugin: PluginArgs,

    /// Sizes of the group
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [10, 100, 1_000, 10_000])]
    members: Vec<u32>,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// What was measured at one size.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    members: u32,
    questions: usize,
    #[serde(serialize_with = "seconds")]
    p50: Duration,
    #[serde(serialize_with = "seconds")]
    p90: Duration,
    #[serde(serialize_with = "seconds")]
    p99: Duration,
    #[serde(serialize_with = "seconds")]
    max: Duration,
    fuel: u64,
    memory: usize,
    /// Why there is no answer, if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// Whether that is the policy's right.
    refused: bool,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

pub(super) fn run(arguments: &BenchArgs, out: &mut impl Write) -> Result<ExitCode, PolicyError> {
    let plugin = arguments.plugin.check()?;
    let policy = match &plugin.verdict {
        Ok(checked) => checked.policy.clone(),
        Err(_) => return Ok(check::show(arguments.output, &plugin, out)?),
    };
    let paint = Paint::new();
    if arguments.output == Output::Text {
        writeln!(out, "{}", paint.bold(&plugin.source.name))?;
        writeln!(
            out,
            "  {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>13} {:>11}",
            "members", "questions", "p50", "p90", "p99", "max", "fuel", "memory"
        )?;
    }
    let mut rows = Vec::new();
    for members in &arguments.members {
        let row = measure(&policy, *members);
        if arguments.output == Output::Text {
            print(out, paint, &row)?;
        }
        rows.push(row);
    }
    if arguments.output == Output::Json {
        super::json(out, &rows)?;
    } else {
        let limits = Limits::default();
        let most = rows.iter().map(|row| row.fuel).max().unwrap_or_default();
        writeln!(
            out,
            "  limits: {} for an answer, {} fuel, {} of memory; the most was {} fuel",
            time(limits.deadline),
            number(limits.fuel),
            size(limits.memory_bytes),
            share(most, limits.fuel)
        )?;
    }
    let failed = rows.iter().any(|row| row.problem.is_some() && !row.refused);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn measure(policy: &Policy, members: u32) -> Row {
    let least = u32::from(policy.kind() == Kind::Scaling);
    let question = generate::sample(policy.kind(), Size::of(members.max(least)));
    let mut times = Vec::new();
    let mut spent = Duration::ZERO;
    let answered = loop {
        let Asked { tried, took } = ask(policy, &question);
        times.push(took);
        spent += took;
        if tried.outcome.is_err() || times.len() >= QUESTIONS || spent >= PATIENCE {
            break tried;
        }
    };
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    let problem = answered.outcome.as_ref().err();
    Row {
        members,
        questions: times.len(),
        p50: at(50),
        p90: at(90),
        p99: at(99),
        max: at(100),
        fuel: answered.fuel,
        memory: answered.memory,
        refused: problem.is_some_and(vmgroup_policy::DecisionError::is_refusal),
        problem: problem.map(ToString::to_string),
    }
}

fn print(out: &mut impl Write, paint: Paint, row: &Row) -> std::io::Result<()> {
    let Row { members, questions, p50, p90, p99, max, fuel, memory, problem, refused: _ } = row;
    writeln!(
        out,
        "  {:>8} {questions:>9} {:>9} {:>9} {:>9} {:>9} {:>13} {:>11}",
        number(u64::from(*members)),
        time(*p50),
        time(*p90),
        time(*p99),
        time(*max),
        number(*fuel),
        size(*memory)
    )?;
    if let Some(problem) = problem {
        writeln!(out, "           {}: {problem}", paint.bad("no answer"))?;
    }
    Ok(())
}

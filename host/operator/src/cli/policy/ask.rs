//! `vmgroup policy run`: one question to one plugin, in the operator's sandbox,
//! with what it cost, whether there is an answer or not.

use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use vmgroup_policy::wit::v0_1;
use vmgroup_policy::{Answer, Limits, Policy, Question, Tried};

use super::input::{self, InputError, PluginArgs};
use super::text::{Paint, number, share, size, time};
use super::{Output, PolicyError, check};

/// The policy did nothing wrong and gave no answer.
const REFUSED: u8 = 3;

/// Arguments of `vmgroup policy run`.
#[derive(Args, Debug)]
#[command(after_help = "\
The answer is checked as the operator checks it. Exit code 0: answered; 3: the policy refuses, in
its own words; 1: it failed, gave an answer that cannot be used, or does not pass its checks.

Examples:
  vmgroup policy request --kind scaling --members 10 > request.json
  vmgroup policy run mine.wasm --request request.json
  vmgroup policy request --kind naming | vmgroup policy run names.wasm --request -")]
pub struct AskArgs {
    #[command(flatten)]
    plugin: PluginArgs,

    /// The question, as `vmgroup policy request` prints it; `-` for standard input
    #[arg(long, value_name = "FILE")]
    request: PathBuf,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// A question and what came of it.
pub(super) struct Asked {
    pub(super) tried: Tried<Answer>,
    pub(super) took: Duration,
}

/// Asks. The one place of these commands that reads the clock.
pub(super) fn ask(policy: &Policy, question: &Question) -> Asked {
    let begin = Instant::now();
    let tried = policy.answer(question);
    Asked { tried, took: begin.elapsed() }
}

pub(super) fn run(arguments: &AskArgs, out: &mut impl Write) -> Result<ExitCode, PolicyError> {
    let question = read(&arguments.request)?;
    let plugin = arguments.plugin.check_for(&question)?;
    let policy = match &plugin.verdict {
        Ok(checked) => checked.policy.clone(),
        Err(_) => return Ok(check::show(arguments.output, &plugin, out)?),
    };
    let asked = ask(&policy, &question);
    match arguments.output {
        Output::Json => super::json(out, &report(&asked, &question))?,
        Output::Text => {
            let paint = Paint::new();
            writeln!(out, "{}, asked for {}", paint.bold(&plugin.source.name), question.kind())?;
            print(out, paint, &asked, &question)?;
        }
    }
    Ok(match &asked.tried.outcome {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) if error.is_refusal() => ExitCode::from(REFUSED),
        Err(_) => ExitCode::FAILURE,
    })
}

/// A question from a file, or from standard input where that is `-`.
pub(super) fn read(path: &Path) -> Result<Question, InputError> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .map_err(|source| InputError::Read { path: path.to_owned(), source })?;
        bytes
    } else {
        input::read(path)?
    };
    // A fixture may be older than the contract: a mistake in it is told in today's terms.
    serde_json::from_slice(&bytes).or_else(|source| {
        let older: Result<v0_1::Question, _> = serde_json::from_slice(&bytes);
        older.map(Question::from).map_err(|_| InputError::Question { path: path.to_owned(), source })
    })
}

fn report(Asked { tried, took }: &Asked, question: &Question) -> Value {
    let mut report = json!({
        "kind": question.kind().as_str(),
        "answered": tried.outcome.is_ok(),
        "seconds": took.as_secs_f64(),
        "fuel": tried.fuel,
        "memory": tried.memory,
        "log": tried.log.iter().map(|line| json!({"level": line.level, "message": line.message})).collect::<Vec<_>>(),
    });
    match &tried.outcome {
        Ok(answer) => {
            report["lines"] = json!(answer.lines(question));
            report["answer"] = json!(answer)["answer"].take();
        }
        Err(error) => {
            report["failure"] = json!({
                "reason": error.reason(),
                "refused": error.is_refusal(),
                "problem": error.to_string(),
            });
        }
    }
    report
}

/// The answer line by line, then what it cost.
pub(super) fn print(
    out: &mut impl Write,
    paint: Paint,
    Asked { tried, took }: &Asked,
    question: &Question,
) -> std::io::Result<()> {
    match &tried.outcome {
        Ok(answer) => {
            for line in answer.lines(question) {
                let place = line.place.map(|place| format!(" on {place}")).unwrap_or_default();
                writeln!(out, "  {}{place}  {}", paint.good(&line.subject), line.reason)?;
            }
        }
        Err(error) => writeln!(out, "{} ({}): {error}", paint.bad("no answer"), error.reason())?,
    }
    for line in &tried.log {
        writeln!(out, "  log {:?}: {}", line.level, line.message)?;
    }
    let limits = Limits::default();
    let bytes = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    writeln!(out, "  time    {:>12}  at most {}", time(*took), time(limits.deadline))?;
    writeln!(out, "  fuel    {:>12}  {}", number(tried.fuel), share(tried.fuel, limits.fuel))?;
    writeln!(
        out,
        "  memory  {:>12}  {}",
        size(tried.memory),
        share(bytes(tried.memory) / 1024, bytes(limits.memory_bytes) / 1024) + " KiB"
    )
}

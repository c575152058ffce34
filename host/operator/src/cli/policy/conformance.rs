//! `vmgroup policy conformance`: what any policy of its kind must hold, tried on
//! thousands of generated questions.

use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use vmgroup_policy::Limits;
use vmgroup_policy::conformance::{self, ORDER_FREE, Property, Report};

use super::input::PluginArgs;
use super::text::{Paint, number, share, size};
use super::{Output, PolicyError, check};

/// Arguments of `vmgroup policy conformance`.
#[derive(Args, Debug)]
#[command(after_help = "\
legal          each question gets a legal answer or a refusal
budget         none takes more than the limits
deterministic  the same question gets the same answer and uses the same fuel
reasons        whatever is decided has a reason in words
order-free     another order of the tables decides the same (where its description says so)
answers        not every question is refused

Exit code 0: all of it holds; 1: not. What does not hold is shown by the smallest question found,
which --save writes to a folder, for `vmgroup policy run --request`.

Examples:
  vmgroup policy conformance mine.wasm
  vmgroup policy conformance mine.wasm --policy-file policy.yaml --questions 20000 --seed 7 --save findings")]
pub struct ConformanceArgs {
    #[command(flatten)]
    plugin: PluginArgs,

    /// How many questions
    #[arg(long, value_name = "N", default_value = "2000", value_parser = clap::value_parser!(u32).range(1..))]
    questions: u32,

    /// Which questions
    #[arg(long, value_name = "SEED", default_value = "1")]
    seed: u64,

    /// Where questions that show a mistake are written, one file for each property
    #[arg(long, value_name = "FOLDER")]
    save: Option<PathBuf>,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

pub(super) fn run(arguments: &ConformanceArgs, out: &mut impl Write) -> Result<ExitCode, PolicyError> {
    let plugin = arguments.plugin.check()?;
    let policy = match &plugin.verdict {
        Ok(checked) => checked.policy.clone(),
        Err(_) => return Ok(check::show(arguments.output, &plugin, out)?),
    };
    let terminal = std::io::stderr().is_terminal();
    let report = conformance::run(&policy, arguments.seed, arguments.questions, |done| {
        if terminal && done.is_multiple_of(50) {
            let _ = write!(std::io::stderr(), "\r{done} of {} questions", arguments.questions);
        }
    });
    if terminal {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    if let Some(folder) = &arguments.save {
        save(folder, &report)?;
    }
    match arguments.output {
        Output::Json => super::json(out, &as_json(&report, arguments))?,
        Output::Text => print(out, &plugin.source.name, &report, arguments)?,
    }
    Ok(if report.conforms() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn save(folder: &Path, report: &Report) -> Result<(), PolicyError> {
    std::fs::create_dir_all(folder)?;
    for finding in &report.findings {
        let file = std::fs::File::create(folder.join(format!("{}.json", finding.property)))?;
        super::json(&mut std::io::BufWriter::new(file), &finding.question)?;
    }
    Ok(())
}

fn as_json(report: &Report, arguments: &ConformanceArgs) -> Value {
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            json!({
                "property": finding.property,
                "cases": finding.cases,
                "number": finding.number,
                "problem": finding.problem,
                "remedy": remedy(finding.property),
                "question": finding.question,
            })
        })
        .collect();
    json!({
        "conforms": report.conforms(),
        "seed": arguments.seed,
        "questions": report.questions,
        "answered": report.answered,
        "refused": report.refused,
        "orderFree": report.order_free,
        "fuel": report.fuel,
        "memory": report.memory,
        "findings": findings,
    })
}

const fn remedy(property: Property) -> &'static str {
    match property {
        Property::Legal => {
            "Answer by the rules of the contract (wit/0.2), or refuse with `unsatisfiable`; unknown values and empty tables are legal."
        }
        Property::Budget => {
            "Look for an endless loop, or for work or memory that grows with the square of the members."
        }
        Property::Deterministic => {
            "Decide by the question alone: no addresses, no hash maps with random keys; randomness from context.seed."
        }
        Property::Reasons => "Say why: the reason ends up in the event and the record.",
        Property::OrderFree => "Break ties by name instead of position, or do not describe it as order-free.",
        Property::Answers => {
            "Look at one of them with `vmgroup policy run`: a policy that always refuses holds everything up."
        }
    }
}

fn print(out: &mut impl Write, name: &str, report: &Report, arguments: &ConformanceArgs) -> std::io::Result<()> {
    let paint = Paint::new();
    writeln!(out, "{}, {} questions of seed {}", paint.bold(name), report.questions, arguments.seed)?;
    for property in Property::ALL {
        let finding = report.findings.iter().find(|finding| finding.property == property);
        match finding {
            Some(finding) => {
                writeln!(
                    out,
                    "  {} {property:<14} in {} cases; no. {}: {}",
                    paint.bad("no"),
                    finding.cases,
                    finding.number,
                    finding.problem
                )?;
                writeln!(out, "     remedy         {}", remedy(property))?;
            }
            None if property == Property::OrderFree && !report.order_free => {
                writeln!(out, "   - {property:<14} not asked for: its description has no `{ORDER_FREE}`")?;
            }
            None => writeln!(out, "  {} {property}", paint.good("ok"))?,
        }
    }
    let limits = Limits::default();
    let memory = u64::try_from(report.memory).unwrap_or(u64::MAX);
    let memory_limit = u64::try_from(limits.memory_bytes).unwrap_or(u64::MAX);
    writeln!(out, "  {} answered, {} refused", report.answered, report.refused)?;
    writeln!(out, "  most fuel   {:>14}  {}", number(report.fuel), share(report.fuel, limits.fuel))?;
    writeln!(out, "  most memory {:>14}  {} KiB", size(report.memory), share(memory / 1024, memory_limit / 1024))?;
    let verdict = if report.conforms() { paint.good("conforms") } else { paint.bad("does not conform") };
    writeln!(out, "{verdict}")?;
    if let Some(finding) = report.findings.first() {
        let kind = finding.question.kind();
        let (number, seed) = (finding.number, arguments.seed);
        writeln!(
            out,
            "  see one:  vmgroup policy request --kind {kind} --random {number} --seed {seed} > request.json"
        )?;
        writeln!(out, "            vmgroup policy run {} --request request.json", arguments.plugin.file().display())?;
    }
    Ok(())
}

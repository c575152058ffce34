//! `vmgroup shadow report`: how the policies on trial do, asked of the running
//! operator. Decides nothing.

use std::io::Write;
use std::time::Duration;

use clap::Subcommand;
use vmgroup_policy::Kind;
use vmgroup_records::Verdict;

use super::decisions::when;
use super::policy::json;
use super::socket::{AskFailure, SocketArg};
use super::text::{Paint, number, time};
use super::{KindArg, Output};
use crate::shadow::{Differing, Tested, Trial};

/// `vmgroup shadow …`.
#[derive(Debug, Subcommand)]
pub enum ShadowCommand {
    /// Shows in how far the policies on trial agree with those in force.
    #[command(after_help = "\
A policy is put on trial beside another one in policy.yaml, and into force by one edit:
  scaling: { plugin: ordered, shadow: { plugin: new.wasm, config: { … } } }

Examples:
  kubectl vmgroup shadow report
  kubectl vmgroup shadow report --kind scaling --output json")]
    Report {
        /// Only of this kind
        #[arg(long, value_enum, value_name = "KIND")]
        kind: Option<KindArg>,
        /// Whom to ask.
        #[command(flatten)]
        from: SocketArg,
    },
}

/// Asks and prints.
pub(super) async fn run(command: ShadowCommand, out: &mut impl Write) -> Result<(), AskFailure> {
    let ShadowCommand::Report { kind, from } = command;
    let mut trials: Vec<Trial> = from.ask("/shadow").await?;
    trials.retain(|trial| kind.is_none_or(|kind| Kind::from(kind) == trial.kind));
    match from.output {
        Output::Json => return Ok(json(out, &trials)?),
        Output::Text if trials.is_empty() => writeln!(out, "nothing is or was on trial")?,
        Output::Text => {
            for trial in &trials {
                print(out, trial)?;
            }
        }
    }
    Ok(())
}

fn print(out: &mut impl Write, trial: &Trial) -> std::io::Result<()> {
    let Trial { kind, plugin, candidate, in_force, over, unfit, set_aside, .. } = trial;
    let paint = Paint::new();
    let over = if *over { " (over)" } else { "" };
    writeln!(out, "{}{over}", paint.bold(&format!("{kind}: {plugin} on trial beside {}", in_force.policy.plugin)))?;
    for (what, tested) in [("on trial", candidate.as_ref()), ("in force", Some(in_force))] {
        if let Some(Tested { policy, config }) = tested {
            writeln!(out, "  {what}  {} {} {} {config}", policy.name, policy.version, policy.digest)?;
        }
    }
    if let Some(unfit) = unfit {
        return writeln!(out, "  {}: {unfit}. {}", paint.bad("cannot be on trial"), unfit.remedy);
    }
    if let Some(why) = set_aside {
        writeln!(out, "  {}: {why}", paint.bad("set aside"))?;
    }
    counts(out, trial)?;
    for Differing { at_ms, group, verdict, in_force, on_trial } in &trial.recent {
        writeln!(out, "  {} {group}: {}", when(*at_ms), in_words(*verdict))?;
        writeln!(out, "    in force  {in_force}")?;
        writeln!(out, "    on trial  {on_trial}")?;
    }
    Ok(())
}

fn counts(out: &mut impl Write, trial: &Trial) -> std::io::Result<()> {
    let Trial { since_ms, asked, agreed, verdicts, dropped, most_fuel, most_micros, .. } = trial;
    match since_ms {
        None => writeln!(out, "  no decision yet")?,
        Some(since) => writeln!(
            out,
            "  agrees in {} % of {} decisions since {}",
            agreed * 100 / asked.max(&1),
            number(*asked),
            when(*since)
        )?,
    }
    for (verdict, count) in verdicts.iter().filter(|(_, count)| *count > 0) {
        writeln!(out, "  {count:>7}  {}", in_words(*verdict))?;
    }
    if *dropped > 0 {
        writeln!(out, "  {dropped:>7}  not asked: too many waited, or it is set aside")?;
    }
    if since_ms.is_some() {
        writeln!(out, "  at most {} and {} fuel", time(Duration::from_micros(*most_micros)), number(*most_fuel))?;
    }
    Ok(())
}

const fn in_words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Same => "the same",
        Verdict::OtherReasons => "the same choice, other reasons",
        Verdict::Differs => "another choice",
        Verdict::NowFails => "no answer from the one on trial",
        Verdict::NowAnswers => "an answer only from the one on trial",
        Verdict::NeitherAnswers => "no answer from either",
    }
}

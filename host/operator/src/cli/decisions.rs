//! `vmgroup decisions` and `vmgroup explain`: ask the running operator over its
//! local socket, and print. Decide nothing.

use std::io::Write;
use std::time::Duration;

use clap::{Args, Subcommand};
use vmgroup_records::{Considered, Explanation, Filter, Outcome, Record, Role, Said, Summary};

use super::policy::json;
use super::socket::{AskFailure, SocketArg, path};
use super::{KindArg, Output};
use crate::decisions::Machine;

/// Which decisions.
#[derive(Args, Debug)]
pub struct Wanted {
    /// Only those about this group
    #[arg(long, value_name = "NAMESPACE/NAME")]
    group: Option<String>,

    /// Only those of this kind
    #[arg(long, value_enum, value_name = "KIND")]
    kind: Option<KindArg>,

    /// At most so many, the latest
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl Wanted {
    fn filter(self) -> Filter {
        let kind = self.kind.map(|kind| vmgroup_policy::Kind::from(kind).to_string());
        Filter { group: self.group, kind, limit: self.limit }
    }
}

/// `vmgroup decisions …`.
#[derive(Debug, Subcommand)]
pub enum DecisionsCommand {
    /// Lists the latest decisions, one a line.
    #[command(after_help = "\
Example:
  kubectl -n vmgroup-system exec deploy/vmgroup-operator -- /vmgroup decisions list --group default/web")]
    List {
        /// Which.
        #[command(flatten)]
        wanted: Wanted,
        /// Whom to ask.
        #[command(flatten)]
        from: SocketArg,
    },
    /// Shows one decision: question, answer, reasons, cost, log.
    Show {
        /// Its number in the list
        number: u64,
        /// Whom to ask.
        #[command(flatten)]
        from: SocketArg,
    },
    /// Writes decisions to standard output as a file for `vmgroup policy replay`.
    #[command(after_help = "\
Example:
  kubectl -n vmgroup-system exec deploy/vmgroup-operator -- /vmgroup decisions export > decisions.jsonl.zst
  vmgroup policy replay decisions.jsonl.zst --policy new.wasm")]
    Export {
        /// Which.
        #[command(flatten)]
        wanted: Wanted,
        /// Whom to ask.
        #[command(flatten)]
        from: SocketArg,
    },
}

/// Arguments of `vmgroup explain`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  kubectl -n vmgroup-system exec deploy/vmgroup-operator -- /vmgroup explain default/web web-replica-abcdefgh")]
pub struct ExplainArgs {
    /// The group
    #[arg(value_name = "NAMESPACE/GROUP")]
    group: String,
    /// The machine's name
    vm: String,
    #[command(flatten)]
    from: SocketArg,
}

/// Lists, shows or exports.
pub(super) async fn run(command: DecisionsCommand, out: &mut impl Write) -> Result<(), AskFailure> {
    match command {
        DecisionsCommand::List { wanted, from } => {
            let decisions: Vec<Summary> = from.ask(&path("/decisions", &wanted.filter())?).await?;
            match from.output {
                Output::Json => Ok(json(out, &decisions)?),
                Output::Text => list(out, &decisions),
            }
        }
        DecisionsCommand::Show { number, from } => {
            let record: Record = from.ask(&format!("/decisions/{number}")).await?;
            match from.output {
                Output::Json => Ok(json(out, &record)?),
                Output::Text => show(out, &record),
            }
        }
        DecisionsCommand::Export { wanted, from } => {
            let bytes = from.fetch(&path("/export", &wanted.filter())?).await?;
            Ok(out.write_all(&bytes)?)
        }
    }
}

/// Explains.
pub(super) async fn explain(arguments: ExplainArgs, out: &mut impl Write) -> Result<(), AskFailure> {
    let ExplainArgs { group, vm, from } = arguments;
    let explanation: Explanation = from.ask(&path("/explain", &Machine { group, vm })?).await?;
    match from.output {
        Output::Json => Ok(json(out, &explanation)?),
        Output::Text => tell(out, &explanation),
    }
}

/// A time of a record, as a person writes it.
pub(super) fn when(at_ms: u64) -> String {
    i64::try_from(at_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{at_ms} ms"), |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

fn list(out: &mut impl Write, decisions: &[Summary]) -> Result<(), AskFailure> {
    if decisions.is_empty() {
        return Ok(writeln!(out, "no decisions are kept that fit")?);
    }
    let widest = |of: fn(&Summary) -> &str| decisions.iter().map(|one| of(one).chars().count()).max().unwrap_or(0);
    let (group, plugin, outcome) = (widest(|one| &one.group), widest(|one| &one.plugin), widest(|one| &one.outcome));
    for Summary { number, at_ms, group: of, kind, role, plugin: asked, outcome: came, text } in decisions {
        let as_what = role_in_words(*role);
        writeln!(
            out,
            "{number:>6}  {}  {of:<group$}  {kind:<9}  {asked:<plugin$}  {came:<outcome$}  {as_what}{text}",
            when(*at_ms)
        )?;
    }
    Ok(())
}

const fn role_in_words(role: Role) -> &'static str {
    match role {
        Role::InForce => "",
        Role::Fallback => "(built-in, instead) ",
        Role::Shadow => "(on trial) ",
    }
}

fn show(out: &mut impl Write, record: &Record) -> Result<(), AskFailure> {
    let Record { number, at_ms, role, policy, question, outcome, fuel, memory, micros, log, .. } = record;
    let context = question.context();
    writeln!(out, "decision {number}, {}: {} for {}", when(*at_ms), question.kind(), record.group())?;
    writeln!(out, "  asked    {}{} {} ({})", role_in_words(*role), policy.name, policy.version, policy.digest)?;
    writeln!(out, "  config   {}", context.config)?;
    writeln!(out, "  about    {} members, attempt {}", question.members(), context.attempt)?;
    writeln!(
        out,
        "  cost     {fuel} fuel, {} KiB, {:.3} ms",
        memory / 1024,
        Duration::from_micros(*micros).as_secs_f64() * 1e3
    )?;
    match outcome {
        Outcome::Answered(answer) => {
            writeln!(out, "  answer")?;
            for line in answer.lines(question) {
                let place = line.place.map(|place| format!(" -> {place}")).unwrap_or_default();
                writeln!(out, "    {}{place}: {}", line.subject, line.reason)?;
            }
        }
        Outcome::Failed { reason, message } => writeln!(out, "  no answer ({reason}): {message}")?,
    }
    for line in log {
        writeln!(out, "  log      {:?}: {}", line.level, line.message)?;
    }
    Ok(())
}

fn tell(out: &mut impl Write, explanation: &Explanation) -> Result<(), AskFailure> {
    let Explanation { vm, named, placed, leaving } = explanation;
    writeln!(out, "{vm}")?;
    said(out, "name", named.as_ref())?;
    said(out, "place", placed.as_ref())?;
    match leaving {
        None => writeln!(out, "  leaving  nobody has had to leave since the records begin")?,
        Some(Considered { decision, count, members, chosen, instead }) => {
            match chosen {
                Some(reason) => writeln!(out, "  leaving  chosen: {reason}")?,
                None => writeln!(out, "  leaving  not chosen when {count} of {members} had to leave; instead:")?,
            }
            if chosen.is_none() {
                for (name, reason) in instead {
                    writeln!(out, "             {name}: {reason}")?;
                }
            }
            by(out, decision)?;
        }
    }
    Ok(())
}

fn said(out: &mut impl Write, what: &str, said: Option<&Said>) -> Result<(), AskFailure> {
    let Some(Said { decision, place, reason }) = said else {
        return Ok(writeln!(out, "  {what:<8} decided before the records begin")?);
    };
    let place = place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
    writeln!(out, "  {what:<8} {place}{reason}")?;
    by(out, decision)
}

fn by(out: &mut impl Write, decision: &vmgroup_records::Decision) -> Result<(), AskFailure> {
    let vmgroup_records::Decision { number, at_ms, role, policy } = decision;
    Ok(writeln!(
        out,
        "           {}by {} {}, {} (decision {number})",
        role_in_words(*role),
        policy.name,
        policy.version,
        when(*at_ms)
    )?)
}

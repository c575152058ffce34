//! `vmgroup decisions` and `vmgroup explain`: ask the running operator over its
//! local socket, or read the files that it has written, and print. Decide nothing:
//! who is next to go says a preview.

use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use serde::Serialize;
use vmgroup_policy::Kind;
use vmgroup_records::{Asked, Considered, Explanation, Filter, Outcome, ReadError, Record, Role, Said, Summary, lines};

use super::policy::json;
use super::socket::{AskFailure, SocketArg, path};
use super::{KindArg, Output};
use crate::decisions::Machine;
use crate::preview::{self, Preview};

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

/// Where else they are.
#[derive(Args, Debug)]
pub struct Kept {
    /// Look into this file of records, or folder (--decision-folder), instead of asking the operator
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
}

/// The records in a file or folder, one after the other, so that files of any size can
/// be looked at.
fn kept(path: &Path) -> Result<impl Iterator<Item = Result<Record, ReadError>>, ReadError> {
    Ok(lines(path)?.map(|line| line?.record()).filter_map(Result::transpose))
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
        /// Where else.
        #[command(flatten)]
        kept: Kept,
        /// Whom to ask.
        #[command(flatten)]
        from: SocketArg,
    },
    /// Shows one decision: question, answer, reasons, cost, log.
    Show {
        /// Its number in the list
        number: u64,
        /// Where else.
        #[command(flatten)]
        kept: Kept,
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
Name and place are explained by the decisions that are kept in memory, since the operator began
to lead; whether it is the next to go, by asking the policy in force now. Nothing is changed.

Examples:
  kubectl vmgroup explain default/web web-replica-abcdefgh
  kubectl -n vmgroup-system exec deploy/vmgroup-operator -- /vmgroup explain default/web web-replica-abcdefgh")]
pub struct ExplainArgs {
    /// The group
    #[arg(value_name = "NAMESPACE/GROUP")]
    group: String,
    /// The machine's name
    vm: String,
    #[command(flatten)]
    kept: Kept,
    #[command(flatten)]
    from: SocketArg,
}

/// Lists, shows or exports.
pub(super) async fn run(command: DecisionsCommand, out: &mut impl Write) -> Result<(), AskFailure> {
    match command {
        DecisionsCommand::List { wanted, kept, from } => {
            let decisions = match &kept.records {
                Some(file) => summaries(file, &wanted.filter())?,
                None => from.ask(&path("/decisions", &wanted.filter())?).await?,
            };
            match from.output {
                Output::Json => Ok(json(out, &decisions)?),
                Output::Text => list(out, &decisions),
            }
        }
        DecisionsCommand::Show { number, kept, from } => {
            let record = match &kept.records {
                Some(file) => numbered(file, number)?,
                None => from.ask(&format!("/decisions/{number}")).await?,
            };
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
    let ExplainArgs { group, vm, kept: Kept { records }, from } = arguments;
    if let Some(file) = records {
        let explained = Explained { past: explain_from(&file, &group, &vm)?, outlook: None };
        return match from.output {
            Output::Json => Ok(json(out, &explained)?),
            Output::Text => tell(out, &explained),
        };
    }
    let wanted = preview::Wanted { group: group.clone(), one_fewer: true, ..preview::Wanted::default() };
    let outlook = outlook(super::preview::make(&from, &wanted, Bytes::new()).await, &vm);
    let machine = Machine { group: group.clone(), vm: vm.clone() };
    let known: Result<Explanation, AskFailure> = from.ask(&path("/explain", &machine)?).await;
    let past = match known {
        Ok(past) => past,
        Err(AskFailure::Denied(nothing)) => match &outlook {
            Outlook::NoMember => {
                return Err(AskFailure::Denied(format!("`{vm}` is no member of {group} now, and {nothing}")));
            }
            Outlook::Unknown { message } => return Err(AskFailure::Denied(format!("{message}; and {nothing}"))),
            // Nothing is recorded of it, and yet it is there: something can be said.
            _ => Explanation { vm, ..Explanation::default() },
        },
        Err(error) => return Err(error),
    };
    let explained = Explained { past, outlook: Some(outlook) };
    match from.output {
        Output::Json => Ok(json(out, &explained)?),
        Output::Text => tell(out, &explained),
    }
}

/// Past and present of a machine.
#[derive(Serialize)]
struct Explained {
    #[serde(flatten)]
    past: Explanation,
    #[serde(rename = "next", skip_serializing_if = "Option::is_none")]
    outlook: Option<Outlook>,
}

/// The latest that are wanted, the oldest of them first.
fn summaries(file: &Path, wanted: &Filter) -> Result<Vec<Summary>, ReadError> {
    let mut latest = VecDeque::new();
    for record in kept(file)? {
        let summary = Summary::of(&record?);
        if wanted.admits(&summary) {
            latest.push_back(summary);
            if wanted.limit.is_some_and(|limit| latest.len() > limit) {
                latest.pop_front();
            }
        }
    }
    Ok(latest.into())
}

/// The one of this number: each start of an operator counts from 1, so the latest.
fn numbered(file: &Path, number: u64) -> Result<Record, AskFailure> {
    let mut found = None;
    for record in kept(file)? {
        let record = record?;
        if record.number == number {
            found = Some(record);
        }
    }
    found.ok_or_else(|| AskFailure::Denied(format!("there is no decision {number} in `{}`", file.display())))
}

fn explain_from(file: &Path, group: &str, vm: &str) -> Result<Explanation, AskFailure> {
    let mut failed = None;
    let records = kept(file)?.map_while(|record| record.map_err(|error| failed = Some(error)).ok());
    let explanation = vmgroup_records::explain(records.filter(|record| record.group() == group), vm);
    if let Some(error) = failed {
        return Err(error.into());
    }
    if explanation.is_empty() {
        return Err(AskFailure::Denied(format!("no decision about `{vm}` of {group} is in `{}`", file.display())));
    }
    Ok(explanation)
}

/// Whether it would be the next to go: if one fewer were wished than there are.
#[derive(Serialize)]
#[serde(tag = "is", rename_all = "camelCase")]
enum Outlook {
    /// It would.
    Next { reason: String, policy: Option<Asked> },
    /// It leaves, or is being made, already.
    UnderWay { reason: String },
    /// Somebody else would.
    Another { name: String, reason: String, policy: Option<Asked> },
    /// Nobody would, for this reason.
    Nobody { reason: String, message: String },
    /// It is no member of the group.
    NoMember,
    /// That cannot be told, for this reason.
    Unknown { message: String },
}

fn outlook(preview: Result<Preview, AskFailure>, vm: &str) -> Outlook {
    let preview = match preview {
        Ok(preview) => preview,
        Err(error) => return Outlook::Unknown { message: super::chain(&error) },
    };
    let Preview { there, under_way, going, asked, stopped, .. } = preview;
    if let Some(under_way) = under_way.into_iter().find(|one| one.name == vm) {
        return Outlook::UnderWay { reason: under_way.reason };
    }
    if !there.iter().any(|name| name == vm) {
        return Outlook::NoMember;
    }
    let policy = asked.into_iter().rfind(|counsel| counsel.kind == Kind::Scaling).map(|counsel| counsel.policy);
    match (going.into_iter().next(), stopped) {
        (Some(first), _) if first.name == vm => Outlook::Next { reason: first.reason, policy },
        (Some(first), _) => Outlook::Another { name: first.name, reason: first.reason, policy },
        (None, Some(trouble)) => Outlook::Nobody { reason: trouble.reason, message: trouble.message },
        (None, None) => Outlook::Unknown { message: "nobody would go or come".to_owned() },
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

fn tell(out: &mut impl Write, explained: &Explained) -> Result<(), AskFailure> {
    let Explained { past: Explanation { vm, named, placed, leaving }, outlook } = explained;
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
    outlook.as_ref().map_or(Ok(()), |outlook| next(out, outlook))
}

fn next(out: &mut impl Write, outlook: &Outlook) -> Result<(), AskFailure> {
    let policy = match outlook {
        Outlook::Next { reason, policy } => {
            writeln!(out, "  next     yes: if one fewer were wished, it would go: {reason}")?;
            policy.as_ref()
        }
        Outlook::Another { name, reason, policy } => {
            writeln!(out, "  next     no: if one fewer were wished, {name} would go: {reason}")?;
            policy.as_ref()
        }
        Outlook::UnderWay { reason } => return Ok(writeln!(out, "  now      {reason}")?),
        Outlook::Nobody { reason, message } => {
            return Ok(writeln!(out, "  next     no: nobody would go ({reason}): {message}")?);
        }
        Outlook::NoMember => return Ok(writeln!(out, "  now      it is no member any more")?),
        Outlook::Unknown { message } => return Ok(writeln!(out, "  next     not known: {message}")?),
    };
    if let Some(Asked { plugin: _, name, version, digest: _ }) = policy {
        writeln!(out, "           by {name} {version}, now")?;
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

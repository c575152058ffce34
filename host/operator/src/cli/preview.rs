//! `vmgroup preview`: asks the running operator what an edit of a group would bring,
//! and prints it. Decides nothing.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;

use super::policy::json;
use super::socket::{AskFailure, SocketArg, path};
use super::text::Paint;
use super::{KindArg, Output, policy};
use crate::apply::counted;
use crate::preview::{Candidates, Changed, Coming, Counsel, DEADLINE, Preview, Said, Trouble, Wanted};

/// Arguments of `vmgroup preview`.
#[derive(Args, Debug)]
#[command(after_help = "\
Nothing is changed, and nothing recorded as a decision. It goes by what the operator knows now:
what is under way is taken as done, each change as going well, the room on hosts and datastores is that of this moment, and
names that a policy draws by lot will be others.

Examples:
  kubectl vmgroup preview shop/web --replicas 5
  kubectl vmgroup preview shop/web --template ubuntu-26.04 --cpu 4
  kubectl vmgroup preview shop/web --replicas 2 --policy new.wasm --output json
  kubectl -n vmgroup-system exec deploy/vmgroup-operator -- /vmgroup preview shop/web --replicas 5")]
pub struct PreviewArgs {
    /// The group
    #[arg(value_name = "NAMESPACE/GROUP")]
    group: String,

    /// How many members it would have [default: as many as its spec says]
    #[arg(long, value_name = "N")]
    replicas: Option<usize>,

    /// What they would be made from [default: what its spec says]
    #[arg(long, value_name = "TEMPLATE")]
    template: Option<String>,

    /// Virtual CPUs that each would have [default: as many as its spec says]
    #[arg(long, value_name = "N")]
    cpu: Option<i32>,

    /// Memory that each would have, in GB [default: as much as its spec says]
    #[arg(long, value_name = "N")]
    memory: Option<i32>,

    /// Ask this policy instead of the one in force: a .wasm or .wasm.gz file, or the name of a shipped one
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,

    /// Which question it is to answer [default: each that it can]
    #[arg(long, value_enum, value_name = "KIND", requires = "policy")]
    kind: Option<KindArg>,

    /// Its configuration: JSON, or @FILE [default: {}]
    #[arg(long, value_name = "JSON", requires = "policy")]
    config: Option<String>,

    #[command(flatten)]
    from: SocketArg,
}

/// Asks and prints.
pub(super) async fn run(arguments: PreviewArgs, out: &mut impl Write) -> Result<(), AskFailure> {
    let PreviewArgs { group, replicas, template, cpu, memory, policy, kind, config, from } = arguments;
    let source = policy.as_deref().map(policy::file_or_shipped).transpose()?;
    let config = config.as_deref().map(policy::config).transpose()?.map(|config| config.to_string());
    let (plugin, body) = source.map_or((None, Bytes::new()), |source| (Some(source.name), source.bytes));
    let kind = kind.map(Into::into);
    let wanted = Wanted { group, replicas, one_fewer: false, template, cpu, memory, plugin, kind, config };
    let preview: Preview = make(&from, &wanted, body).await?;
    match from.output {
        Output::Json => Ok(json(out, &preview)?),
        Output::Text => Ok(print(out, &preview)?),
    }
}

/// Asks for a preview, with a policy to be tried.
pub(super) async fn make(from: &SocketArg, wanted: &Wanted, body: Bytes) -> Result<Preview, AskFailure> {
    from.post(&path("/preview", wanted)?, body, DEADLINE + Duration::from_secs(10)).await
}

fn print(out: &mut impl Write, preview: &Preview) -> std::io::Result<()> {
    let Preview {
        group,
        wished_now,
        replicas,
        members,
        there: _,
        under_way,
        coming,
        going,
        candidates,
        changed,
        further,
        left,
        asked,
        stopped,
        troubles,
    } = preview;
    let paint = Paint::new();
    let instead = if wished_now == replicas { String::new() } else { format!(" instead of {wished_now}") };
    writeln!(out, "{}: {members} there, {replicas} wished{instead}", paint.bold(group))?;
    for Said { name, reason } in under_way {
        writeln!(out, "    {name}  under way: {reason}")?;
    }
    if let Some(Candidates { clusters, hosts, datastores }) = candidates {
        let (hosts, clusters, datastores) = (counted(hosts.len(), "host"), some(clusters), some(datastores));
        writeln!(out, "    to choose from: {hosts} of {clusters}; datastores {datastores}")?;
    }
    for Changed { name, how, why, turn, reason } in changed {
        let turn = turn.map_or_else(|| " ~".to_owned(), |turn| format!("{turn:>2}"));
        let reason = reason.as_ref().map(|reason| format!("; {reason}")).unwrap_or_default();
        writeln!(out, " {} {name}  {}: {why}{reason}", paint.bold(&turn), how.as_str())?;
    }
    if *further > 0 {
        writeln!(out, "    {further} more in turns like these")?;
    }
    for Said { name, reason } in left {
        writeln!(out, "  = {name}  is left as it is: {reason}")?;
    }
    for Coming { name, place, named, placed } in coming {
        writeln!(out, "  {} {name}  {place}", paint.good("+"))?;
        writeln!(out, "      name   {named}")?;
        writeln!(out, "      place  {placed}")?;
    }
    for Said { name, reason } in going {
        writeln!(out, "  {} {name}  {reason}", paint.bad("-"))?;
    }
    if coming.is_empty() && going.is_empty() && changed.is_empty() && stopped.is_none() {
        writeln!(out, "  nobody would come, go or be changed")?;
    }
    if let Some(Trouble { reason, message }) = stopped {
        writeln!(out, "  {} ({reason}): {message}", paint.bad("no further"))?;
    }
    for Trouble { reason, message } in troubles {
        writeln!(out, "  at present ({reason}): {message}")?;
    }
    for Counsel { kind, policy, tried } in asked {
        let tried = if *tried { ", tried here" } else { "" };
        // As in events: `sha256:` and twelve digits.
        let digest = policy.digest.get(..19).unwrap_or(&policy.digest);
        writeln!(out, "{kind} by {} {} ({digest}{tried})", policy.plugin, policy.version)?;
    }
    writeln!(out, "Nothing was changed.")
}

/// The first of these names, and how many more there are.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        _ if names.is_empty() => "none".to_owned(),
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

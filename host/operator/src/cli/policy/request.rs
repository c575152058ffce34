//! `vmgroup policy request`: questions to try a plugin on, plain or random.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use vmgroup_policy::generate::{self, Size};

use super::PolicyError;
use super::input::KindArg;

/// Arguments of `vmgroup policy request`.
#[derive(Args, Debug)]
#[command(after_help = "\
Plain questions have everything known and usable. Random ones are those of `vmgroup policy
conformance`, by the number that it names.

Examples:
  vmgroup policy request --kind scaling --members 10 --count 3 > request.json
  vmgroup policy request --kind placement --random 217 --seed 1")]
pub struct RequestArgs {
    /// What is asked for
    #[arg(long, value_enum, value_name = "KIND")]
    kind: KindArg,

    /// Members of the group
    #[arg(long, value_name = "N", default_value = "10")]
    members: u32,

    /// Hosts of the site [default: one for ten members]
    #[arg(long, value_name = "N")]
    hosts: Option<u32>,

    /// Names or places wanted, or members that have to leave [default: one for ten members]
    #[arg(long, value_name = "N")]
    count: Option<u32>,

    /// The random question of this number instead
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["members", "hosts", "count"])]
    random: Option<u32>,

    /// Which random questions
    #[arg(long, value_name = "SEED", default_value = "1")]
    seed: u64,
}

pub(super) fn run(arguments: &RequestArgs, out: &mut impl Write) -> Result<ExitCode, PolicyError> {
    let kind = arguments.kind.into();
    let question = if let Some(number) = arguments.random {
        generate::question(kind, arguments.seed, number)
    } else {
        // Nobody can leave a group of nobody.
        let members = arguments.members.max(u32::from(arguments.kind == KindArg::Scaling));
        let usual = Size::of(members);
        let hosts = arguments.hosts.unwrap_or(usual.hosts);
        generate::sample(kind, Size { members, hosts, count: arguments.count.unwrap_or(usual.count) })
    };
    super::json(out, &question)?;
    Ok(ExitCode::SUCCESS)
}

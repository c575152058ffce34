//! `make bench`: the operator's figures, each beside what it should be held
//! against. Asserts nothing about time; a figure that cannot be taken says why.
//!
//! Everything runs on loopback: the operator is the binary beside this one,
//! Kubernetes is the simulated API over HTTP, vCenter is govmomi's vcsim or the
//! simulated one. The figures at rest are taken in this process, in simulated time.

mod beside;
mod decision;
mod failover;
mod fill;
mod heal;
mod large;
mod machine;
mod replay;
mod rest;
mod stage;
mod start;
mod swap;
mod table;

use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};

use crate::stage::Side;
use crate::table::Table;

/// Why a figure could not be taken.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A figure, or why it could not be taken.
type Result<T, E = Failure> = std::result::Result<T, E>;

/// A part of the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// 20 groups of 10 from apply to Ready on vcsim: time, calls, memory and CPU
    Vcsim,
    /// The same on our simulator
    Simulator,
    /// The same in simulated time, in this process
    Simulated,
    /// The groups of one vCenter beside another one that is down, slow or misconfigured
    Beside,
    /// What is asked and written at rest
    Rest,
    /// 1,000 groups of 10 at rest: memory, CPU, a pass, a start
    Large,
    /// From a machine deleted behind our back to its successor's clone call
    Heal,
    /// From the end of the leader to the first write of the other
    Failover,
    /// One decision in its sandbox and natively
    Decision,
    /// Recorded decisions put to another policy
    Replay,
    /// From the edit of the `ConfigMap` to the first decision
    Swap,
    /// From the start of the process to leading
    Start,
    /// The size of the binary
    Size,
}

#[derive(Parser)]
#[command(about = "The figures of the VmGroup operator, as a table")]
struct Arguments {
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// The operator's binary; without it the one beside this program, of the same profile
    #[arg(long, value_name = "FILE")]
    operator: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    // kube and reqwest take the process's provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let operator = match arguments.operator {
        Some(file) => file,
        None => beside()?,
    };
    if !operator.exists() {
        return Err(format!("{} is missing: run `make bench`, which builds it first", operator.display()).into());
    }
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let began = machine::describe();
    let mut table = Table::default();
    for (part, side) in [(Part::Vcsim, Side::Vcsim), (Part::Simulator, Side::Simulator)] {
        if wanted(part) {
            for limit in [3, 8] {
                progress(&format!("20 groups of 10 on {side}, {limit} tasks at a time"));
                fill::report(&mut table, side, limit, runtime.block_on(fill::run(&operator, side, limit)));
            }
        }
    }
    if wanted(Part::Simulated) {
        for limit in [3, 8] {
            progress(&format!("20 groups of 10 in simulated time, {limit} tasks at a time"));
            fill::report_simulated(&mut table, limit, fill::run_simulated(limit));
        }
    }
    if wanted(Part::Beside) {
        progress("20 groups of 10 beside a vCenter that is down, slow or misconfigured, in simulated time");
        beside::report(&mut table, beside::run());
    }
    if wanted(Part::Rest) {
        progress("an hour at rest, in simulated time");
        rest::report(&mut table, rest::run());
    }
    if wanted(Part::Large) {
        progress("1,000 groups of 10 at rest, five minutes");
        large::report(&mut table, runtime.block_on(large::run(&operator)));
    }
    if wanted(Part::Heal) {
        progress("machines deleted behind our back");
        heal::report(&mut table, runtime.block_on(heal::run(&operator)));
    }
    if wanted(Part::Failover) {
        progress("failovers");
        for end in [failover::End::Term, failover::End::Kill] {
            failover::report(&mut table, end, runtime.block_on(failover::run(&operator, end)));
        }
    }
    if wanted(Part::Decision) {
        progress("decisions, in the sandbox and natively");
        decision::report(&mut table, &decision::run());
    }
    if wanted(Part::Replay) {
        progress("10,000 recorded decisions, replayed");
        replay::report(&mut table, replay::run(&operator));
    }
    if wanted(Part::Swap) {
        progress("policy swaps");
        for plugin in [swap::Plugin::Known, swap::Plugin::New] {
            swap::report(&mut table, plugin, runtime.block_on(swap::run(&operator, plugin)));
        }
    }
    if wanted(Part::Start) {
        progress("starts");
        start::report(&mut table, runtime.block_on(start::run(&operator)));
    }
    if wanted(Part::Size) {
        size(&mut table, &operator);
    }
    let ended = machine::load();
    println!("{began}; load at the end {ended}\nOperator: {}\n\n{table}", operator.display());
    Ok(())
}

/// The operator's binary beside this one.
fn beside() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    Ok(here.parent().unwrap_or(Path::new(".")).join("vmgroup"))
}

/// Says on standard error what takes its time.
fn progress(text: &str) {
    eprintln!("  … {text}");
}

fn size(table: &mut Table, operator: &Path) {
    let profile = if cfg!(debug_assertions) { "debug build, says nothing" } else { "release, stripped, thin LTO" };
    let size = std::fs::metadata(operator).map(|file| format!("{} MiB", table::tenths(file.len(), 1 << 20)));
    let shipped: usize = vmgroup_policy::shipped::all().iter().map(|policy| policy.bytes.len()).sum();
    let shipped = format!("of which {} KiB shipped policies", shipped / 1024);
    table.add("size of the binary", size.map_err(Failure::from), shipped, format!("`vmgroup`, {profile}"));
}

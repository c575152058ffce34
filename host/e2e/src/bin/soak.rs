//! Run after run under random faults, each from a seed of its own; at the end a
//! table of fault × workload. With `--seed`, one run alone, with its journal.

#![allow(clippy::expect_used, clippy::cast_precision_loss, reason = "a test's program: a panic says what it was")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use clap::Parser;
use vmgroup_e2e::soak::script::Script;
use vmgroup_e2e::soak::table::Table;
use vmgroup_e2e::soak::{self, Report};

/// A quarter of a run is allocating, and glibc is slow at it.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(about = "Runs under random faults, each from a seed")]
struct Args {
    /// How many runs
    #[arg(long, default_value_t = 1000)]
    runs: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Runs at the same time
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Keep the state in this file, and go on from it if it is there
    #[arg(long, value_name = "FILE")]
    r#continue: Option<PathBuf>,
    /// Only runs whose workload or faults have all of these words, such as `many,down`
    #[arg(long, value_delimiter = ',')]
    with: Vec<String>,
    /// Make just this run
    #[arg(long)]
    seed: Option<u64>,
    /// Print what happened in it
    #[arg(long, requires = "seed")]
    journal: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if std::env::var_os("RUST_LOG").is_none() {
        // What operators complain of under faults is of no interest; worlds would print it.
        let _ = tracing::subscriber::set_global_default(tracing::subscriber::NoSubscriber::default());
    }
    match args.seed {
        Some(seed) => one(seed, args.journal),
        None => many(&args),
    }
}

fn one(seed: u64, journal: bool) -> ExitCode {
    let report = soak::run(seed, journal);
    for line in &report.journal {
        println!("{line}");
    }
    match &report.violation {
        None => {
            println!("seed {seed}: no violation, {} calls", report.calls);
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("seed {seed}: {}: {}\n  {}", violation.property, violation.text, report.replay());
            ExitCode::FAILURE
        }
    }
}

/// Set by Ctrl-C: what has begun is ended, and nothing else is begun.
static STOP: AtomicBool = AtomicBool::new(false);

fn stop_on_ctrl_c() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime
            && runtime.block_on(tokio::signal::ctrl_c()).is_ok()
        {
            eprintln!("\nstopping when the runs under way have ended");
            STOP.store(true, Ordering::Relaxed);
        }
    });
}

fn many(args: &Args) -> ExitCode {
    let kept = args.r#continue.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    let mut table: Table = kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let first = args.from.max(table.next);
    // Stopped half way, the same command makes the rest; else as many again.
    let planned = args.from.saturating_add(args.runs);
    let end = if first < planned { planned } else { first.saturating_add(args.runs) };
    let wanted = |seed: u64| {
        let title = Script::of(seed).title();
        args.with.iter().all(|word| title.contains(word))
    };
    let next = AtomicU64::new(first);
    let under_way: Mutex<BTreeMap<u64, Instant>> = Mutex::default();
    let (sender, reports) = mpsc::channel::<Report>();
    stop_on_ctrl_c();
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            let (sender, next, under_way, wanted) = (sender.clone(), &next, &under_way, &wanted);
            scope.spawn(move || {
                while !STOP.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    if !wanted(seed) {
                        continue;
                    }
                    under_way.lock().expect("no panic in there").insert(seed, Instant::now());
                    let report = soak::run(seed, false);
                    under_way.lock().expect("no panic in there").remove(&seed);
                    if sender.send(report).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        collect(&reports, &under_way, &mut table, args, end - first);
    });
    table.next = next.load(Ordering::Relaxed).min(end);
    keep(args, &table);
    eprintln!();
    println!("{table}");
    if table.violations() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Enters the runs into the table as they end, and shows how far it is.
fn collect(
    reports: &mpsc::Receiver<Report>,
    under_way: &Mutex<BTreeMap<u64, Instant>>,
    table: &mut Table,
    args: &Args,
    all: u64,
) {
    let began = Instant::now();
    let mut done = 0u64;
    loop {
        match reports.recv_timeout(Duration::from_secs(60)) {
            Ok(report) => {
                done += 1;
                table.enter(&report);
                if let Some(violation) = &report.violation {
                    eprintln!("\r{}: {}\n  {}", violation.property, violation.text, report.replay());
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                for (seed, since) in under_way.lock().expect("no panic in there").iter() {
                    eprintln!("\rseed {seed} has been running for {} s", since.elapsed().as_secs());
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        let rate = done as f64 / began.elapsed().as_secs_f64();
        let left = all.saturating_sub(done) as f64 / rate / 60.0;
        eprint!(
            "\r{done} of {all} runs, {} violations, {rate:.1} runs a second, {left:.0} min to go ",
            table.violations()
        );
        if done.is_multiple_of(500) {
            let lowest = under_way.lock().expect("no panic in there").keys().next().copied();
            table.next = lowest.unwrap_or(table.next);
            keep(args, table);
        }
    }
}

fn keep(args: &Args, table: &Table) {
    let Some(file) = &args.r#continue else { return };
    let text = serde_json::to_string(table).unwrap_or_default();
    if let Err(error) = std::fs::write(file, text) {
        eprintln!("\nthe state cannot be kept in {}: {error}", file.display());
    }
}

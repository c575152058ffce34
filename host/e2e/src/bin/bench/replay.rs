//! 10,000 recorded decisions of 100 members, put to another policy by
//! `vmgroup policy replay`: from its start to its end, the page written.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmgroup_policy::generate::{self, Size};
use vmgroup_policy::{Host, Kind, Limits, shipped};
use vmgroup_records::{Entry, Filter, Made, Recorder, Role, Settings};

use crate::Result;
use crate::machine;
use crate::table::{Table, short, tenths};

const DECISIONS: u32 = 10_000;
const MEMBERS: u32 = 100;
/// When the first was decided: 2026-01-01T00:00:00Z.
const EPOCH_MS: u64 = 1_767_225_600_000;
/// So many fit into the recorder's queue for sure.
const BATCH: u32 = 32;

/// What came of it.
pub struct Replayed {
    took: Duration,
    /// In KiB.
    peak: u64,
    file_bytes: u64,
    page_bytes: u64,
}

/// Makes the records, and has them replayed.
pub fn run(operator: &Path) -> Result<Replayed> {
    let folder = std::env::temp_dir().join(format!("vmgroup-bench-replay-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let outcome = measure(operator, &folder);
    std::fs::remove_dir_all(&folder)?;
    outcome
}

fn measure(operator: &Path, folder: &Path) -> Result<Replayed> {
    let (file, page) = (folder.join("decisions.jsonl.zst"), folder.join("replay.html"));
    std::fs::write(&file, records()?)?;
    let begin = Instant::now();
    let mut replay = Command::new(operator)
        .args(["policy", "replay"])
        .arg(&file)
        .args(["--policy", "ordered", "--config", r#"{"order":"oldest"}"#, "--html"])
        .arg(&page)
        .stdout(Stdio::null())
        .spawn()?;
    let mut peak = 0;
    let (status, took) = loop {
        if let Some(status) = replay.try_wait()? {
            break (status, begin.elapsed());
        }
        // Between its end and our look at it there is nothing to be read.
        peak = peak.max(machine::usage(replay.id()).map_or(0, |usage| usage.peak));
        std::thread::sleep(Duration::from_millis(5));
    };
    if !status.success() {
        return Err(format!("vmgroup policy replay ended with {status}").into());
    }
    let size = |path: &Path| std::fs::metadata(path).map(|file| file.len());
    Ok(Replayed { took, peak, file_bytes: size(&file)?, page_bytes: size(&page)? })
}

/// As an operator would have kept them, each with another group, time and seed.
fn records() -> Result<Vec<u8>> {
    let source = shipped::find("ordered").ok_or("the shipped policy `ordered` is missing")?;
    let policy = Host::new(Limits::default())?.check(Kind::Scaling, &source)?.policy;
    let recorder = Recorder::start(Settings { memory: 1 << 30, files: None })?;
    for number in 0..DECISIONS {
        let mut question = generate::sample(Kind::Scaling, Size::of(MEMBERS));
        let context = question.context_mut();
        context.seed += u64::from(number);
        context.now += u64::from(number);
        context.group.name = format!("web-{}", number % 100);
        let tried = policy.answer(&question);
        let made = Made { at_ms: EPOCH_MS + u64::from(number) * 1_000, role: Role::InForce, micros: 0 };
        recorder.record(Entry { policy: policy.clone(), question: Arc::new(question), tried, made });
        if number % BATCH == 0 {
            recorder.flush(Duration::from_secs(60));
        }
    }
    recorder.flush(Duration::from_secs(60));
    let kept = recorder.standing().kept;
    if kept != DECISIONS as usize {
        return Err(format!("only {kept} records were kept").into());
    }
    Ok(recorder.export(&Filter::default()))
}

/// Adds the row.
pub fn report(table: &mut Table, outcome: Result<Replayed>) {
    let measured = outcome.map(|Replayed { took, peak, file_bytes, page_bytes }| {
        format!(
            "{}, {} MiB at most; file {} MiB, page {} KiB",
            short(took),
            tenths(peak, 1 << 10),
            tenths(file_bytes, 1 << 20),
            page_bytes / 1024
        )
    });
    let how = format!(
        "`vmgroup policy replay`, from spawn to end, of scaling decisions in a file as `decisions export` writes it, all of which differ; {} processors",
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    );
    table.add(format!("replay of {DECISIONS} decisions of {MEMBERS} members"), measured, "goal: below 10 s", how);
}

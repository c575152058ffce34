//! Proves that the harness can see: plants each known bug, and expects the
//! property that is named for it to catch it. `make mutants`.
//!
//! Works on a copy of the tree below `target/mutants`, which is built into a target
//! folder of its own: the policies' libraries have no hash in their names, and in a
//! shared one those of the copy would be taken for the real ones.

#![allow(clippy::expect_used, reason = "a test's program: a panic says what it was")]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use vmgroup_e2e::mutants::{self, Mutant, PLANTED, SCENARIOS, Trial, Tried};

/// Whoever takes longer than this turns in circles without time going by.
const PATIENCE: Duration = Duration::from_secs(300);

/// Random runs that have to hold with nothing planted.
const SANE: u64 = 10;

#[derive(Parser)]
#[command(about = "Plants known bugs one at a time, and expects each to be caught")]
struct Args {
    /// Only those whose names contain this
    #[arg(long)]
    only: Option<String>,
    /// Trials at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Try what is planted in this very program as this mutant wants to be tried, and print what came of it
    #[arg(long, hide = true)]
    trial: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace");
    let list = match mutants::list(&root) {
        Ok(list) => list,
        Err(error) => {
            eprintln!("{error}: {:?}", std::error::Error::source(&error));
            return ExitCode::FAILURE;
        }
    };
    if let Some(name) = &args.trial {
        let _ = tracing::subscriber::set_global_default(tracing::subscriber::NoSubscriber::default());
        println!("{}", serde_json::to_string(&tried(&list, name).go()).expect("JSON"));
        return ExitCode::SUCCESS;
    }
    match all(&root, &list, &args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

/// How a mutant is tried; a scenario or `soak` may be named instead.
fn tried(list: &[Mutant], name: &str) -> Tried {
    if let Some(mutant) = list.iter().find(|mutant| mutant.name == name) {
        return mutant.tried.clone();
    }
    if SCENARIOS.contains(&name) {
        Tried::Scenario(name.to_owned())
    } else {
        Tried::Soak { with: Vec::new(), runs: SANE }
    }
}

fn all(root: &Path, list: &[Mutant], args: &Args) -> Result<bool, String> {
    let chosen: Vec<&Mutant> =
        list.iter().filter(|mutant| args.only.as_ref().is_none_or(|only| mutant.name.contains(only))).collect();
    let program = build(root, list)?;

    // With nothing planted all is well: what is caught below, the bug has done.
    let mut sane = vec!["soak"];
    for mutant in &chosen {
        if let Tried::Scenario(name) = &mutant.tried
            && !sane.contains(&name.as_str())
        {
            sane.push(name);
        }
    }
    let results = Mutex::new(BTreeMap::new());
    let next = AtomicUsize::new(0);
    let names: Vec<(&str, &str)> = sane
        .iter()
        .map(|name| ("", *name))
        .chain(chosen.iter().map(|mutant| (mutant.name.as_str(), mutant.name.as_str())))
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while let Some((planted, trial)) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let began = Instant::now();
                    let result = attempt(&program, planted, trial);
                    eprintln!("{:>5.0} s  {planted} {trial}: {}", began.elapsed().as_secs_f64(), short(&result));
                    results.lock().expect("no panic in there").insert((*planted, *trial), result);
                }
            });
        }
    });
    let results = results.into_inner().expect("no panic in there");

    let mut well = true;
    for name in &sane {
        if let Some(caught) = results.get(&("", *name)).and_then(|trial| trial.caught.clone()) {
            println!("With nothing planted, {name} shows {caught}: mend that first.");
            well = false;
        }
    }
    println!("| mutant | what is wrong then | caught as | by | runs |\n|---|---|---|---|---:|");
    for mutant in chosen {
        let Some(trial) = results.get(&(mutant.name.as_str(), mutant.name.as_str())) else { continue };
        let (ok, caught) = verdict(mutant, trial);
        well &= ok;
        let by = match (&mutant.tried, trial.seed) {
            (Tried::Scenario(name), _) => name.clone(),
            (Tried::Soak { .. }, Some(seed)) => format!("seed {seed}"),
            (Tried::Soak { .. }, None) => "random runs".to_owned(),
        };
        println!("| {} | {} | {caught} | {by} | {} |", mutant.name, mutant.bug, trial.runs);
    }
    Ok(well)
}

fn verdict(mutant: &Mutant, trial: &Trial) -> (bool, String) {
    match (&trial.caught, &mutant.tried) {
        (None, _) => (false, "**SURVIVED**".to_owned()),
        (Some(_), Tried::Scenario(_)) => (true, mutant.property.join(", ")),
        (Some(caught), _) if mutant.property.contains(caught) => (true, caught.clone()),
        (Some(caught), _) => (false, format!("**{caught}, not {}**: {}", mutant.property.join(" or "), trial.text)),
    }
}

fn short(trial: &Trial) -> String {
    match &trial.caught {
        None => format!("nothing in {} runs", trial.runs),
        Some(caught) => {
            format!("{caught} after {} runs: {}", trial.runs, trial.text.lines().next().unwrap_or_default())
        }
    }
}

/// Makes the copy with all mutants in it, and builds this program in there.
fn build(root: &Path, list: &[Mutant]) -> Result<PathBuf, String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let tree = target.join("mutants/tree");
    let mut wanted = BTreeMap::new();
    for place in ["Cargo.toml", "Cargo.lock", "rustfmt.toml", "clippy.toml", "scripts", "wit", "host", "plugins"] {
        gather(root, Path::new(place), &mut wanted).map_err(|error| format!("{place}: {error}"))?;
    }
    for (file, text) in mutants::planted(root, list).map_err(|error| error.to_string())? {
        wanted.insert(file, text.into_bytes());
    }
    eprintln!("building a copy with {} mutants in {}", list.len(), tree.display());
    lay_out(&tree, &wanted).map_err(|error| format!("{}: {error}", tree.display()))?;
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--message-format", "short", "--workspace", "--bin", "mutants"])
        .current_dir(&tree)
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !built.status.success() {
        // The compiler warns of the odd look of what is planted; that is of no interest.
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        let errors: Vec<&str> = said.lines().filter(|line| !line.contains("warning")).collect();
        return Err(format!("the copy does not build; which mutant is no longer Rust?\n{}", errors.join("\n")));
    }
    Ok(tree.join("target/debug/mutants"))
}

/// The files below a place, by path, with what is in them.
fn gather(root: &Path, place: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
    let path = root.join(place);
    if !path.is_dir() {
        into.insert(place.to_owned(), std::fs::read(path)?);
        return Ok(());
    }
    for entry in std::fs::read_dir(&path)? {
        let name = entry?.file_name();
        if name != "target" && name != "node_modules" {
            gather(root, &place.join(name), into)?;
        }
    }
    Ok(())
}

/// Makes a folder hold just these; what is so already is not touched, so that
/// cargo builds nothing for it.
fn lay_out(tree: &Path, wanted: &BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
    std::fs::create_dir_all(tree)?;
    let mut there = BTreeMap::new();
    gather(tree, Path::new(""), &mut there)?;
    for file in there.keys().filter(|file| !wanted.contains_key(*file)) {
        std::fs::remove_file(tree.join(file))?;
    }
    for (file, text) in wanted {
        if there.get(file) == Some(text) {
            continue;
        }
        let path = tree.join(file);
        std::fs::create_dir_all(path.parent().unwrap_or(tree))?;
        std::fs::write(&path, text)?;
        if file.starts_with("scripts") {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

fn attempt(program: &Path, planted: &str, trial: &str) -> Trial {
    let failed = |text: String| Trial { caught: Some("no result".to_owned()), text, runs: 0, seed: None };
    let child = Command::new(program)
        .args(["--trial", trial])
        .env(PLANTED, planted)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return failed(error.to_string()),
    };
    let began = Instant::now();
    while let Ok(None) = child.try_wait() {
        if began.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return Trial {
                caught: Some("L1".to_owned()),
                text: "it turns in circles".to_owned(),
                runs: 0,
                seed: None,
            };
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    match child.wait_with_output() {
        Ok(output) => serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| failed(format!("{error}: {}", String::from_utf8_lossy(&output.stdout)))),
        Err(error) => failed(error.to_string()),
    }
}

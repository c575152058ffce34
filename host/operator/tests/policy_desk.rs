//! The author's desk, walked through with the real binary: from nothing to a
//! policy that is built, checked and asked.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// A folder of this test alone. What was built in an earlier run is left there,
/// so that only the first one takes long.
fn desk(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn vmgroup(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmgroup")).args(arguments).current_dir(folder).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it prints when all is well.
fn prints(folder: &Path, arguments: &[&str]) -> String {
    let output = vmgroup(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)))
}

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/plugins").join(format!("{name}.wasm"));
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}

/// Begins a crate anew, but keeps what was built of it before.
fn begin(desk: &Path, name: &str, kind: &str) -> PathBuf {
    let (folder, kept) = (desk.join(name), desk.join("target"));
    if folder.join("target").exists() {
        let _ = std::fs::remove_dir_all(&kept);
        std::fs::rename(folder.join("target"), &kept).unwrap();
    }
    let _ = std::fs::remove_dir_all(&folder);
    let made = json(&vmgroup(desk, &["policy", "new", name, "--kind", kind, "--output", "json"]));
    assert_eq!((&made["folder"], &made["kind"]), (&name.into(), &kind.into()));
    if kept.exists() {
        std::fs::rename(&kept, folder.join("target")).unwrap();
    }
    folder
}

#[test]
fn from_nothing_to_an_answer() {
    let folder = begin(&desk("from-nothing"), "cheapest-first", "scaling");

    let built = vmgroup(&folder, &["policy", "build", "--output", "json"]);
    assert!(built.status.success(), "{}", text(&built.stderr));
    let built = json(&built);
    let file = built[0]["file"].as_str().unwrap();
    assert_eq!(file, "./target/plugins/cheapest-first.wasm");
    assert!(built[0]["digest"].as_str().unwrap().starts_with("sha256:"));
    let bytes = std::fs::read(folder.join(file)).unwrap();
    let here = folder.canonicalize().unwrap();
    assert!(!text(&bytes).contains(here.to_str().unwrap()), "the digest hangs on where it was built");

    let checked = prints(&folder, &["policy", "check", file, "--policy-file", "policy.yaml"]);
    assert!(checked.contains("accepted: cheapest-first 0.1.0"), "{checked}");

    let asked = vmgroup(&folder, &["policy", "run", file, "--request", "fixtures/request.json", "--output", "json"]);
    assert!(asked.status.success(), "{}", text(&asked.stdout));
    let asked = json(&asked);
    let schema = json(&vmgroup(&folder, &["policy", "inspect", file, "--output", "json"]));
    let schema = &schema["description"]["configSchema"];
    assert_eq!(
        schema["properties"]["busyAbove"]["description"],
        "Members that use more CPU than this, in MHz, leave after all others."
    );
    assert_eq!(schema["additionalProperties"], false);
    let conforms = vmgroup(&folder, &["policy", "conformance", file, "--questions", "100", "--output", "json"]);
    assert!(conforms.status.success(), "{}", text(&conforms.stdout));
    assert_eq!(json(&conforms)["orderFree"], true);

    assert_eq!(asked["lines"].as_array().unwrap().len(), 1);
    assert!(asked["lines"][0]["reason"].as_str().unwrap().starts_with("newest: made"), "{asked}");
    assert!(asked["fuel"].as_u64().unwrap() > 0);

    let again = vmgroup(folder.parent().unwrap(), &["policy", "new", "cheapest-first", "--kind", "naming"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("is there already"), "{}", text(&again.stderr));

    it_is_served(&folder);
}

/// Each change of the crate is built, checked and tried by itself.
fn it_is_served(folder: &Path) {
    let once = ["policy", "serve", "--once", "--questions", "20"];
    let shown = prints(folder, &once);
    for part in ["accepted", "request.json", "+ web-1: newest: made", "conforms on 20 random questions"] {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}");
    }
    let told = json(&vmgroup(folder, &[&once[..], &["--output", "json"]].concat()));
    assert_eq!(
        (&told["passed"], &told["check"]["accepted"], &told["applied"]),
        (&true.into(), &true.into(), &false.into())
    );
    assert!(told["fixtures"][0]["new"][0].as_str().unwrap().starts_with("web-1: newest: made"), "{told}");
    let (policy, source) = (folder.join("policy.yaml"), folder.join("src/lib.rs"));
    let (right, code) = (std::fs::read_to_string(&policy).unwrap(), std::fs::read_to_string(&source).unwrap());

    let mut serve = Command::new(env!("CARGO_BIN_EXE_vmgroup"))
        .args(["policy", "serve", "--questions", "20"])
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (lines, heard) = std::sync::mpsc::channel();
    let stdout = serve.stdout.take().unwrap();
    std::thread::spawn(move || {
        std::io::BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
    });
    // A file is seen while it is being written, too: that makes a round more.
    let hear = |parts: &[&str]| {
        let mut said = String::new();
        while !parts.iter().all(|part| said.contains(part)) {
            said += &heard.recv_timeout(Duration::from_mins(5)).unwrap_or_else(|_| panic!("{parts:?} not in:\n{said}"));
            said.push('\n');
        }
    };
    hear(&["accepted", "waiting for a change"]);
    std::fs::write(&policy, right.replace("config: {", "config: { busyAbov: 500,")).unwrap();
    hear(&["did you mean `busyAbove`", "waiting for a change"]);
    std::fs::write(&policy, &right).unwrap();
    hear(&["request.json: as before", "waiting for a change"]);
    std::fs::write(&source, code.replace("newest: made", "youngest: made")).unwrap();
    hear(&["- web-1: newest: made", "+ web-1: youngest: made"]);
    serve.kill().unwrap();
    serve.wait().unwrap();
}

#[test]
fn a_wrong_configuration_is_named_by_its_line() {
    let desk = desk("config");
    let file = "scaling:\n  plugin: idle-first\n  config:\n    # who stays\n    protct: [pet]\n    unknown: frist\n";
    std::fs::write(desk.join("policy.yaml"), file).unwrap();
    let check = ["policy", "check", &shipped("idle-first"), "--policy-file", "policy.yaml"];
    let said = vmgroup(&desk, &check);
    assert_eq!(said.status.code(), Some(1));
    let said = text(&said.stdout);
    for word in ["/protct (line 5)", "did you mean `protect`", "/unknown (line 6)", "did you mean `first`"] {
        assert!(said.contains(word), "{word} is missing in:\n{said}");
    }
    let said = json(&vmgroup(&desk, &[&check[..], &["--output", "json"]].concat()));
    let lines: Vec<&Value> = said["refusal"]["mistakes"].as_array().unwrap().iter().map(|it| &it["line"]).collect();
    assert_eq!(lines, [5, 6], "{said}");

    std::fs::write(desk.join("policy.yaml"), "naming: { plugin: x }").unwrap();
    let other = vmgroup(&desk, &check);
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).contains("has no `scaling:`"), "{}", text(&other.stderr));
}

#[test]
fn a_policy_is_measured_and_tried_on_many_questions() {
    let desk = desk("many");
    let rows =
        json(&vmgroup(&desk, &["policy", "bench", &shipped("ordered"), "--members", "1,100", "--output", "json"]));
    let fuel = |row: usize| rows[row]["fuel"].as_u64().unwrap();
    assert!(rows[1]["members"] == 100 && fuel(1) > fuel(0), "{rows}");
    let table = prints(&desk, &["policy", "bench", &shipped("spread"), "--members", "10"]);
    assert!(table.contains("p99") && table.contains("limits: 5.00 s"), "{table}");

    let tried = ["policy", "conformance", &shipped("ordered"), "--questions", "60"];
    let report = prints(&desk, &tried);
    assert!(report.contains("order-free") && report.contains("conforms"), "{report}");
}

#[test]
fn what_does_not_build_says_why() {
    let desk = desk("no-build");
    let none = vmgroup(&desk, &["policy", "build"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("policy new"), "{}", text(&none.stderr));
    let name = vmgroup(&desk, &["policy", "new", "Not_Legal", "--kind", "scaling"]);
    assert_eq!(name.status.code(), Some(2));
    assert!(text(&name.stderr).contains("lower-case letters"), "{}", text(&name.stderr));
}

#[test]
fn a_shipped_policy_is_inspected() {
    let desk = desk("inspect");
    let found = json(&vmgroup(&desk, &["policy", "inspect", &shipped("ordered"), "--output", "json"]));
    assert_eq!(found["world"], "scaling-policy");
    assert_eq!(found["kinds"][0], "scaling");
    assert_eq!(found["description"]["name"], "ordered");
    assert_eq!(found["imports"][0], "vmgroup:policy/types@0.2.0");
    let producers = found["producers"].as_array().unwrap();
    assert!(producers.iter().any(|it| it["name"] == "wit-bindgen-rust"), "{found}");
    let sections = found["sections"].as_array().unwrap();
    let sum: u64 = sections.iter().map(|it| it["bytes"].as_u64().unwrap()).sum();
    let size = found["bytes"].as_u64().unwrap();
    assert!(sum <= size && sum > size * 9 / 10, "sections of {sum} bytes in {size}");
    assert_eq!(sections[0]["name"], "code");

    let shown = prints(&desk, &["policy", "inspect", &shipped("ordered")]);
    for word in ["scaling-policy", "vmgroup:policy/log@0.2.0", "sha256:", "made by", "code"] {
        assert!(shown.contains(word), "{word} is missing in:\n{shown}");
    }

    let text_file = vmgroup(&desk, &["policy", "inspect", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
    assert_eq!(text_file.status.code(), Some(1));
    assert!(text(&text_file.stdout).contains("not WebAssembly"), "{}", text(&text_file.stdout));
}

#[test]
fn a_question_is_printed_and_asked() {
    let desk = desk("questions");
    let file = desk.join("request.json");
    let ask = |plugin: &str, question: &[&str], more: &[&str]| {
        let question = prints(&desk, &[&["policy", "request"], question].concat());
        std::fs::write(&file, question).unwrap();
        let plugin = shipped(plugin);
        vmgroup(&desk, &[&["policy", "run", &plugin, "--request", "request.json"], more].concat())
    };
    let named = ask("ordinal", &["--kind", "naming", "--count", "2"], &["--config", r#"{"pattern":"x{ordinal}"}"#]);
    assert!(named.status.success(), "{}", text(&named.stdout));
    let shown = text(&named.stdout);
    for word in ["x0", "time", "fuel", "memory", "% of"] {
        assert!(shown.contains(word), "{word} is missing in:\n{shown}");
    }

    // The policy's right, and a code of its own.
    let protects = r#"{"protect":["app"]}"#;
    let refused = ask("ordered", &["--kind", "scaling"], &["--config", protects, "--output", "json"]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused.stdout));
    let refused = json(&refused);
    assert_eq!((&refused["answered"], &refused["failure"]["reason"]), (&false.into(), &"PolicyUnsatisfiable".into()));
    assert!(refused["fuel"].as_u64().unwrap() > 0, "a failed decision has its cost too");

    let other = ask("ordered", &["--kind", "naming"], &[]);
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stdout).contains("does not answer naming"), "{}", text(&other.stdout));

    std::fs::write(&file, "{}").unwrap();
    let none = vmgroup(&desk, &["policy", "run", &shipped("ordered"), "--request", "request.json"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("policy request --kind"), "{}", text(&none.stderr));
}

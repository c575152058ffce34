//! Plugins that are refused before they count, stage by stage.

use std::io::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use vmgroup_policy::{
    CheckError, Host, InterfaceProblem, Kind, Limits, ParseProblem, Problem, SizeProblem, Source, Stage,
};

use crate::made::{Made, source};

static HOST: LazyLock<Host> = LazyLock::new(|| {
    Host::new(Limits {
        fuel: 50_000_000,
        deadline: Duration::from_mins(1),
        wasm_bytes: 1 << 20,
        unpacked_bytes: 4 << 20,
        ..Limits::default()
    })
    .unwrap()
});

/// Offers it, expects it to be refused at `stage`, with words for the reader.
#[track_caller]
fn refused(kind: Kind, source: &Source, stage: Stage, problem: &str, remedy: &str) -> CheckError {
    let error = HOST.check(kind, source).expect_err(problem);
    let text = error.to_string();
    assert_eq!(error.stage, stage, "{text}");
    assert!(text.contains(&source.name), "{text} should name the plugin");
    assert!(text.contains(&format!("stage {stage}")), "{text} should name the stage");
    assert!(text.contains(problem), "{text} should say {problem:?}");
    assert!(error.remedy().contains(remedy), "{} should say {remedy:?}", error.remedy());
    let passed = error.stages.last().map(|report| report.stage);
    assert!(passed < Some(stage), "{passed:?} was passed after {stage}");
    error
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_good_plugin_passes_all_stages_raw_and_compressed() {
    let bytes = Made::new(Kind::Naming).bytes();
    let raw = HOST.check(Kind::Naming, &source("a.wasm", bytes.clone())).unwrap();
    let stages: Vec<Stage> = raw.stages.iter().map(|report| report.stage).collect();
    assert_eq!(
        stages,
        [
            Stage::Size,
            Stage::Parse,
            Stage::Interface,
            Stage::Compile,
            Stage::Instantiate,
            Stage::Describe,
            Stage::Config,
            Stage::SelfTest
        ]
    );
    assert_eq!(raw.policy.description().name, "made");
    assert_eq!(raw.policy.plugin(), "a.wasm");
    assert_eq!(raw.policy.config_text(), "{}");
    let packed = HOST.check(Kind::Naming, &source("a.wasm.gz", gzip(&bytes))).unwrap();
    assert_eq!(raw.policy.digest(), packed.policy.digest());
    assert_eq!(packed.stages[3].detail, "compiled before");
}

#[test]
fn a_plugin_without_any_import_passes() {
    assert!(HOST.check(Kind::Scaling, &Made::new(Kind::Scaling).without_log().source()).is_ok());
}

#[test]
fn size_nothing_too_much_and_a_bomb() {
    let empty = source("empty.wasm", Vec::new());
    refused(Kind::Naming, &empty, Stage::Size, "is empty", "Upload the file again");
    let large = source("large.wasm", vec![0; (1 << 20) + 1]);
    let error = refused(Kind::Naming, &large, Stage::Size, "1048577 bytes", "opt-level");
    assert!(matches!(*error.problem, Problem::Size(SizeProblem::TooLarge { .. })));
    let bomb = source("bomb.wasm.gz", gzip(&vec![0; 200 << 20]));
    let error = refused(Kind::Naming, &bomb, Stage::Size, "unpacks to more", "opt-level");
    assert!(matches!(*error.problem, Problem::Size(SizeProblem::UnpacksTooLarge { .. })));
    let packed = gzip(&Made::new(Kind::Naming).bytes());
    let cut = source("cut.wasm.gz", packed[..packed.len() / 2].to_vec());
    refused(Kind::Naming, &cut, Stage::Size, "truncated", "Upload the file again");
}

#[test]
fn parse_what_is_no_webassembly() {
    for (bytes, words) in [
        (&b"apiVersion: v1\nkind: ConfigMap\n"[..], "looks like text"),
        (b"AGFzbQ0AAQAHcw==", "base64"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"PK\x03\x04\x14\0\0\0", "ZIP"),
        (b"(component)", "WebAssembly text"),
        (b"\x01\x02\x03\xff", "binary file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ] {
        refused(Kind::Naming, &source("x.wasm", bytes.to_vec()), Stage::Parse, words, "");
    }
    let module = wat::parse_str("(module)").unwrap();
    let error = refused(
        Kind::Naming,
        &source("core.wasm", module),
        Stage::Parse,
        "core module, not a component",
        "wasm-tools component new",
    );
    assert_eq!(*error.problem, Problem::Parse(ParseProblem::CoreModule));
    let native = source("x.cwasm", b"\x7fELF\x02\x01\x01\0and so on".to_vec());
    refused(Kind::Naming, &native, Stage::Parse, "native code is never loaded", ".wasm file");
}

#[test]
fn parse_says_truncated_wherever_it_is_cut() {
    let bytes = Made::new(Kind::Naming).bytes();
    let mut told = 0;
    for length in (1..bytes.len()).step_by(7) {
        let cut = source("cut.wasm", bytes[..length].to_vec());
        let error = HOST.check(Kind::Naming, &cut).unwrap_err();
        // Cut between two sections it is whole, and lacks its last exports.
        assert!(matches!(error.stage, Stage::Parse | Stage::Interface), "{length}: {error}");
        told += usize::from(error.to_string().contains("truncated"));
    }
    assert!(told * 10 >= bytes.len() / 7 * 9, "{told} of {}", bytes.len() / 7);
}

#[test]
fn parse_survives_any_flipped_byte() {
    let bytes = Made::new(Kind::Scaling).bytes();
    let host = Host::new(Limits { fuel: 1_000_000, ..Limits::default() }).unwrap();
    for at in (0..bytes.len()).step_by(53) {
        let mut bad = bytes.clone();
        bad[at] ^= 0x55;
        // Some bytes do not matter; none of them may do harm.
        let _ = host.check(Kind::Scaling, &source("bad.wasm", bad));
    }
}

#[test]
fn parse_refuses_threads_and_components_that_unfold() {
    let threads = wat::parse_str("(component (core module (memory 1 1 shared)))").unwrap();
    refused(Kind::Naming, &source("t.wasm", threads), Stage::Parse, "threads", "no threads");
    // Each level instantiates the one below twice: 2^20 in the end.
    let mut text = String::from("(component $c0)\n");
    for level in 1..20 {
        let below = level - 1;
        let twice = "(instance (instantiate $c))".repeat(2);
        text += &["(component $c", &level.to_string(), " (alias outer $top $c", &below.to_string(), " (component $c))"]
            .concat();
        text += &[&twice, ")"].concat();
    }
    let bomb = wat::parse_str(format!("(component $top {text} (instance (instantiate $c19)))"));
    let bomb = source("bomb.wasm", bomb.unwrap());
    let error = refused(Kind::Naming, &bomb, Stage::Parse, "inside a nested component", "one crate");
    assert_eq!(*error.problem, Problem::Parse(ParseProblem::NestedInstances));
}

#[test]
fn parse_refuses_a_function_that_is_too_large() {
    let body = "nop ".repeat(600 << 10);
    let huge = wat::parse_str(format!("(component (core module (func {body})))")).unwrap();
    refused(Kind::Naming, &source("huge.wasm", huge), Stage::Parse, "bytes of code", "Split");
}

#[test]
fn interface_forbidden_imports_are_all_named() {
    let wasi = wat::parse_str(
        r#"(component
          (import "wasi:cli/environment@0.2.6" (instance))
          (import "wasi:clocks/wall-clock@0.2.6" (instance)))"#,
    )
    .unwrap();
    let error = refused(
        Kind::Naming,
        &source("wasi.wasm", wasi),
        Stage::Interface,
        "wasi:cli/environment@0.2.6, wasi:clocks/wall-clock@0.2.6",
        "wasm32-unknown-unknown",
    );
    assert!(matches!(*error.problem, Problem::Interface(InterfaceProblem::ForbiddenImports { .. })));
    let other = wat::parse_str(r#"(component (import "launch" (func)))"#).unwrap();
    let other = source("other.wasm", other);
    refused(Kind::Naming, &other, Stage::Interface, "may not have: launch", "vmgroup:policy/log");
    let naming = r#"(component (import "vmgroup:policy/naming@0.1.0" (instance)))"#;
    let naming = source("naming.wasm", wat::parse_str(naming).unwrap());
    refused(Kind::Naming, &naming, Stage::Interface, "vmgroup:policy/naming@0.1.0", "Remove");
}

#[test]
fn interface_another_version_is_named() {
    for version in ["0.3.0", "1.0.0", "0.20.0", "0.0.1"] {
        let made = Made::new(Kind::Naming).bytes_for(version, |contract| contract);
        refused(
            Kind::Naming,
            &source("newer.wasm", made),
            Stage::Interface,
            &format!("made for vmgroup:policy {version}, this operator speaks 0.2 and 0.1"),
            "contract 0.2.x",
        );
    }
}

#[test]
fn interface_a_later_patch_of_the_contract_is_welcome() {
    let made = Made::new(Kind::Naming).names(&["a"], false).bytes_for("0.2.7", |contract| contract);
    assert!(HOST.check(Kind::Naming, &source("patch.wasm", made)).is_ok());
}

#[test]
fn interface_the_wrong_question_is_told_with_the_right_place() {
    let scaling = Made::new(Kind::Scaling).source();
    let error = refused(Kind::Naming, &scaling, Stage::Interface, "does not answer naming", "Move it to `scaling:`");
    assert!(error.to_string().contains("vmgroup:policy/scaling@0.2.0"));
    let nothing = source("nothing.wasm", wat::parse_str("(component)").unwrap());
    refused(Kind::Naming, &nothing, Stage::Interface, "exports nothing", "SDK's naming trait");
}

#[test]
fn instantiate_a_record_of_another_shape_is_noticed() {
    let grown = Made::new(Kind::Scaling)
        .bytes_for("0.2.0", |contract| contract.replace("record victim {", "record victim { weight: u32,"));
    let grown = source("grown.wasm", grown);
    refused(Kind::Scaling, &grown, Stage::Instantiate, "does not fit the contract", "wit/0.2");
}

#[test]
fn instantiate_a_crash_or_greed_at_the_start_is_noticed() {
    let crash = Made::new(Kind::Scaling).when_instantiated("unreachable").source();
    refused(Kind::Scaling, &crash, Stage::Instantiate, "crashed", "native test helpers");
    let spin = Made::new(Kind::Scaling).when_instantiated("(loop $l (br $l))").source();
    refused(Kind::Scaling, &spin, Stage::Instantiate, "budget of 50000000", "endless loop");
    let greedy = Made::new(Kind::Scaling).memory_pages(2000).source();
    refused(Kind::Scaling, &greedy, Stage::Instantiate, "bytes of memory", "grows without end");
}

#[test]
fn describe_a_name_that_is_none_is_noticed() {
    for name in ["", "Upper", "with blank", "über", &"x".repeat(41)] {
        let mut made = Made::new(Kind::Naming);
        made.describe(name, None);
        refused(Kind::Naming, &made.source(), Stage::Describe, "lower-case letters", "describe");
    }
    let mut made = Made::new(Kind::Naming);
    made.describe("fine", Some("{ not json"));
    refused(Kind::Naming, &made.source(), Stage::Describe, "schema is no JSON", "describe");
}

#[test]
fn config_mistakes_are_shown_with_their_place() {
    let made = Made::new(Kind::Naming).config_mistakes(&[
        ("/patern", "there is no such field; did you mean `pattern`?"),
        ("", "maxLength is missing"),
    ]);
    let mut offered = made.source();
    offered.config = serde_json::json!({ "patern": "{group}" });
    let error = refused(
        Kind::Naming,
        &offered,
        Stage::Config,
        "2 mistakes: /patern: there is no such field; did you mean `pattern`?; maxLength is missing",
        "Correct `config` under `naming:` in policy.yaml",
    );
    let text = error.to_string();
    let Problem::Config(problems) = *error.problem else { panic!("{text}") };
    assert_eq!(problems[0].path, "/patern");
}

#[test]
fn config_that_is_no_object_is_refused_and_null_is_an_empty_one() {
    let mut offered = Made::new(Kind::Naming).source();
    offered.config = serde_json::json!(["a"]);
    refused(Kind::Naming, &offered, Stage::Config, "is a list, not an object", "config: {");
    offered.config = serde_json::Value::Null;
    assert_eq!(HOST.check(Kind::Naming, &offered).unwrap().policy.config_text(), "{}");
}

#[test]
fn self_test_bad_answers_and_crashes_are_noticed_before_they_count() {
    let crash = Made::new(Kind::Placement).panics("no host").bad_from_the_start().source();
    let error = refused(Kind::Placement, &crash, Stage::SelfTest, "its last error: no host", "empty inventory");
    assert!(error.to_string().contains("asked for a place where there are none"));
    let wrong = Made::new(Kind::Scaling).victims(&[7]).bad_from_the_start().source();
    refused(Kind::Scaling, &wrong, Stage::SelfTest, "member 7", "rules of the contract");
    let slow = Made::new(Kind::Naming).decides("(loop $l (br $l)) unreachable").bad_from_the_start();
    refused(Kind::Naming, &slow.source(), Stage::SelfTest, "budget of", "endless loop");
}

#[test]
fn a_name_from_outside_is_fit_to_be_shown() {
    let offered = Source { name: "evil\n\u{1b}[2J.wasm".into(), bytes: Bytes::new(), config: serde_json::Value::Null };
    let text = HOST.check(Kind::Naming, &offered).unwrap_err().to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
}

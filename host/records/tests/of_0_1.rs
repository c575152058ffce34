//! Decisions that were recorded in the terms of the contract 0.1 are read, and replayed
//! with a plugin of then and with one of now.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use vmgroup_policy::wit::types::HostState;
use vmgroup_policy::{Contract, Digest, Host, Kind, Limits, Policy, Question, Source, shipped};
use vmgroup_records::{FORMAT, Record, Replay, Side, Verdict, read};

fn frozen() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policy/tests/frozen/0.1")
}

fn recorded() -> Vec<Record> {
    read(&frozen().join("decisions.jsonl")).unwrap()
}

fn veteran(host: &Host, kind: Kind, config: Value) -> Arc<Policy> {
    let bytes = std::fs::read(frozen().join("veteran.wasm.gz")).unwrap();
    let source = Source { name: "veteran.wasm.gz".into(), bytes: bytes.into(), config };
    host.check(kind, &source).unwrap().policy
}

#[test]
fn the_file_is_as_it_was_written() {
    let bytes = std::fs::read(frozen().join("decisions.jsonl")).unwrap();
    assert_eq!(Digest::of(&bytes).as_str(), "sha256:11d1411ccccb61290930e155af6cd791049bbace2110d3629bdbb11c0b10b316");
    let first: Value = serde_json::from_slice(bytes.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    assert_eq!((&first["format"], &first["contract"]), (&json!(1), &json!("0.1")));
}

#[test]
fn they_are_read_into_the_terms_of_today() {
    let records = recorded();
    assert_eq!(records.len(), 21);
    for record in &records {
        assert_eq!((record.format, record.contract), (FORMAT, Contract::LATEST));
        let again = Record::from_line(&record.to_line()).unwrap();
        assert_eq!(*record, again, "what is written anew is whole");
    }
    let states: Vec<HostState> = records
        .iter()
        .filter_map(|record| match &record.question {
            Question::Scaling(request) => Some(&request.inventory.hosts),
            Question::Naming(_) | Question::Placement(_) => None,
        })
        .flatten()
        .map(|host| host.state)
        .collect();
    for state in [HostState::InService, HostState::InMaintenance, HostState::Unreachable] {
        assert!(states.contains(&state), "{state:?} is not among them");
    }
}

#[test]
fn the_plugin_of_then_decides_as_then() {
    let host = Host::new(Limits::default()).unwrap();
    let records = recorded();
    for (kind, config) in [
        (Kind::Naming, json!({ "suffix": "x" })),
        (Kind::Placement, json!({})),
        (Kind::Scaling, json!({ "protect": ["pet=true"] })),
    ] {
        let policy = veteran(&host, kind, config);
        let replayed = Replay::new(&policy, NonZero::<usize>::MIN).over(&records);
        assert_eq!((replayed.asked, replayed.left_out), (7, 14));
        let answered = replayed.count(Verdict::Same);
        assert_eq!(answered + replayed.count(Verdict::NeitherAnswers), 7, "{kind}: {:?}", replayed.counts);
        assert!(answered >= 3, "{kind}: {answered} answers");
        for difference in replayed.differences {
            assert_eq!(difference.now, difference.then, "{kind}: not even its words have changed");
        }
    }
}

#[test]
fn a_policy_of_now_is_tried_on_them() {
    let host = Host::new(Limits::default()).unwrap();
    let drain_first = host.check(Kind::Scaling, &shipped::find("drain-first").unwrap()).unwrap().policy;
    assert_eq!(drain_first.contract(), Contract::LATEST);
    let replayed = Replay::new(&drain_first, NonZero::<usize>::MIN).over(&recorded());
    let reasons: Vec<String> = replayed
        .differences
        .iter()
        .filter_map(|difference| match &difference.now {
            Side::Answered(lines) => Some(lines),
            Side::Failed { .. } => None,
        })
        .flatten()
        .map(|line| line.reason.clone())
        .collect();
    assert!(reasons.iter().any(|reason| reason == "its host esx-1 is in maintenance"), "{reasons:?}");
}

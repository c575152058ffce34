//! A policy that was written in C, from `wit/` alone (`examples/c-policy`): what counts
//! is the contract, not the SDK. Its bytes are checked in; `make c-policy` builds it anew
//! and has the same tried here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};
use vmgroup_policy::generate::{self, Size};
use vmgroup_policy::wit::lifecycle;
use vmgroup_policy::wit::scaling::Request;
use vmgroup_policy::wit::types::{PowerState, Refusal};
use vmgroup_policy::{
    CheckError, Contract, DecisionError, Host, Kind, Limits, Policy, Question, Source, Stage, conformance,
};

static HOST: LazyLock<Host> = LazyLock::new(|| Host::new(Limits::default()).unwrap());

/// One that was just built.
fn built() -> Option<PathBuf> {
    std::env::var_os("VMGROUP_C_POLICY").map(PathBuf::from)
}

fn source(config: Value) -> Source {
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/c-policy/least-memory.wasm");
    let path = built().unwrap_or(checked_in);
    Source { name: "least-memory.wasm".into(), bytes: std::fs::read(path).unwrap().into(), config }
}

fn check(config: Value) -> Result<Arc<Policy>, CheckError> {
    HOST.check(Kind::Scaling, &source(config)).map(|checked| checked.policy)
}

/// Four members of 700, 600, 500 and 400 MiB, made an hour after each other.
fn four(count: u32) -> Request {
    let Question::Scaling(mut request) = generate::sample(Kind::Scaling, Size { members: 4, hosts: 2, count }) else {
        panic!("another kind")
    };
    for ((member, mib), hours) in request.members.iter_mut().zip([700, 600, 500, 400]).zip(1..) {
        member.memory_used_mib = Some(mib);
        member.created_at = Some(request.context.now - hours * 3_600);
    }
    request
}

fn leave(config: Value, request: &Request) -> Vec<(u32, String)> {
    let answer = check(config).unwrap().choose(request).unwrap().answer;
    answer.into_iter().map(|victim| (victim.member, victim.reason)).collect()
}

#[test]
fn it_is_what_its_readme_says() {
    let readme = include_str!("../../../examples/c-policy/README.md");
    let policy = check(json!({})).unwrap();
    let as_said = readme.contains(policy.digest().as_str().trim_start_matches("sha256:"));
    assert!(as_said || built().is_some(), "{}", policy.digest());
    assert_eq!(policy.contract(), Contract::LATEST);
    let lifecycle::Description { name, version, .. } = policy.description();
    assert_eq!((name.as_str(), version.as_str()), ("least-memory", "1.0.0"));
    let inspection = HOST.inspect(&source(json!({}))).unwrap();
    assert!(inspection.imports.iter().all(|import| import.starts_with("vmgroup:policy/")), "{:?}", inspection.imports);
    assert!(inspection.bytes < 32 * 1024, "{} bytes", inspection.bytes);
}

#[test]
fn it_decides_by_memory() {
    let mut request = four(4);
    request.members[1].memory_used_mib = None;
    request.members[0].power = PowerState::PoweredOff;
    let expected = [
        (0, "powered off"),
        (3, "uses 400 MiB of memory"),
        (2, "uses 500 MiB of memory"),
        (1, "use of memory unknown, and nobody else is left to go"),
    ];
    assert_eq!(leave(json!({}), &request), expected.map(|(member, reason)| (member, reason.to_owned())));
    let decided = check(json!({})).unwrap().choose(&request).unwrap();
    assert_eq!(decided.log.len(), 1, "it logs what it found");
}

#[test]
fn it_reads_its_configuration() {
    let oldest = leave(json!({ "minAgeHours": 3 }), &four(2));
    assert_eq!(oldest.iter().map(|(member, _)| *member).collect::<Vec<_>>(), [3, 2]);
    let refused = check(json!({ "minAgeHours": 3 })).unwrap().choose(&four(3)).unwrap_err();
    let why = "3 of 4 members have to leave, and 2 may: the others are protected or younger than 3 hours";
    assert_eq!(refused, DecisionError::Refused(Refusal::Unsatisfiable(why.to_owned())));
    for wrong in [json!({ "minAgeHour": 3 }), json!({ "minAgeHours": "3" }), json!({ "minAgeHours": -1 })] {
        assert_eq!(check(wrong).unwrap_err().stage, Stage::Config);
    }
}

#[test]
fn it_conforms() {
    for config in [json!({}), json!({ "minAgeHours": 24 })] {
        let report = conformance::run(&check(config).unwrap(), 1, 1_000, |_| ());
        assert!(report.conforms(), "{:?}", report.findings);
        assert!(report.order_free && report.answered > 100);
    }
}

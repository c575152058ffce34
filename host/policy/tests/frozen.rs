//! What was released stays as it was: the folders of released versions of the contract,
//! and a plugin that was made for the first of them, kept as bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde_json::{Value, json};
use vmgroup_policy::generate::{self, Size};
use vmgroup_policy::wit::types::HostState;
use vmgroup_policy::wit::v0_1;
use vmgroup_policy::{Contract, Digest, Host, Kind, Limits, Policy, Question, Source, Stage, conformance};

static HOST: LazyLock<Host> = LazyLock::new(|| Host::new(Limits::default()).unwrap());

/// `wit/0.1` as it was released. A released folder never changes again, not by a
/// comment: what has to change goes into the next version.
const WIT_0_1: [(&str, &str); 7] = [
    ("lifecycle.wit", "01d24e54c162ce34e06fd275eea9a2afb8d8bfffa1893d633954ff2c6f1a5d00"),
    ("log.wit", "15d574a3ebc953999418a418232a10abcf355a27f30fc2bd870aae15d749252b"),
    ("naming.wit", "23eccba5d910dd6ef673bd0b14fdf81e1eee82087cfdc9439358ba4d75a6a62c"),
    ("placement.wit", "6f0dbba23c36c7915a8b8aa808ce5124fba9cb3cd474a0e201bbd612da0d975f"),
    ("scaling.wit", "667bb8095c2949ff7edf64cfe368e356ece8654e43cd8511c316d9762fc4e373"),
    ("types.wit", "9ae5ab952a1a20cc25e5630fedf3a8a3336e18089b04f7e32aab4c99899d8fee"),
    ("worlds.wit", "34322353a32eca52773fdeb625b63bae7bd58d096abdf4db7f8387b67fbf0fbb"),
];

/// `wit/0.2` as it was released.
const WIT_0_2: [(&str, &str); 7] = [
    ("lifecycle.wit", "10b08a038fdd2d2827a4b9773effc8413a0521aadce69e5aaa0480e7a82518c0"),
    ("log.wit", "7cf69e3179a3b327c328af1557500dc5658cf025ad905c15bb1cab782f6b544c"),
    ("naming.wit", "8a2a65c1cc634c45ce8df9180e23ad1f560d774d0c1513f8804b7fb6548c0d5b"),
    ("placement.wit", "3c090a4296be3549e0bed7ffccb0be1646d45dad40e4b239788c59af372fd39b"),
    ("scaling.wit", "785719a8581bd311b224e74b7e5bcc4628ece33747be43d1d1c6015c743cdb2e"),
    ("types.wit", "de9a972881b1c8f40bf1bdc79528b7b57c6fd4d7ac10616805a8cb042f1651a6"),
    ("worlds.wit", "92211114b3451687319bd9d31cb0d5d7c9cf88f0a8b490fa6f7287d57cf78c2d"),
];

/// `veteran.wasm`, unpacked: `frozen/0.1/README.md` says how it was made.
const VETERAN: &str = "sha256:f4c303d239d6511bb903b2842d7f024ddfe11b9613aae8de6df0c81b46eb2046";

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn check(kind: Kind, config: Value) -> Arc<Policy> {
    let bytes = fs::read(here().join("tests/frozen/0.1/veteran.wasm.gz")).unwrap();
    let source = Source { name: "veteran.wasm.gz".into(), bytes: Bytes::from(bytes), config };
    HOST.check(kind, &source).unwrap_or_else(|error| panic!("{error}: {}", error.remedy())).policy
}

#[test]
fn a_released_folder_of_the_contract_is_as_it_was() {
    let released = [(Contract::V0_1, WIT_0_1), (Contract::V0_2, WIT_0_2)];
    for (contract, files) in released {
        let folder = here().join("../../wit").join(contract.as_str());
        let found: BTreeMap<String, String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|file| {
                let digest = Digest::of(&fs::read(file.path()).unwrap()).to_string();
                (file.file_name().into_string().unwrap(), digest.trim_start_matches("sha256:").to_owned())
            })
            .collect();
        let expected = files.map(|(name, digest)| (name.to_owned(), digest.to_owned())).into();
        assert_eq!(found, expected, "wit/{contract} is released: what changes goes into the next version");
    }
}

#[test]
fn every_version_that_is_spoken_has_its_folder() {
    let mut folders: Vec<String> = fs::read_dir(here().join("../../wit"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    let mut spoken = Contract::ALL.map(Contract::as_str);
    spoken.sort_unstable();
    assert_eq!(folders, spoken);
}

#[test]
fn a_plugin_of_0_1_is_checked_and_configured_as_ever() {
    for kind in Kind::ALL {
        let policy = check(kind, json!({}));
        assert_eq!(policy.contract(), Contract::V0_1);
        assert_eq!(policy.digest().as_str(), VETERAN);
        assert_eq!((&*policy.description().name, &*policy.description().version), ("veteran", "1.4.2"));
    }
    let bytes = fs::read(here().join("tests/frozen/0.1/veteran.wasm.gz")).unwrap();
    let source = Source { name: "veteran.wasm.gz".into(), bytes: Bytes::from(bytes), config: json!({ "sufix": "x" }) };
    let error = HOST.check(Kind::Naming, &source).unwrap_err();
    assert_eq!(error.stage, Stage::Config);
    assert!(error.to_string().contains("did you mean `suffix`"), "{error}");
}

#[test]
fn it_answers_all_three_questions_of_today() {
    let Question::Naming(mut request) = generate::sample(Kind::Naming, Size { members: 2, hosts: 0, count: 2 }) else {
        panic!("another kind")
    };
    request.context.attempt = 3;
    let answer = check(Kind::Naming, json!({ "suffix": "x" })).name(&request).unwrap().answer;
    let names: Vec<(&str, &str)> = answer.proposals.iter().map(|one| (&*one.name, &*one.reason)).collect();
    assert_eq!(names, [("web-0x", "free at attempt 3"), ("web-1x", "free at attempt 3")]);

    let Question::Placement(mut request) = generate::sample(Kind::Placement, Size { members: 0, hosts: 3, count: 2 })
    else {
        panic!("another kind")
    };
    request.inventory.hosts[1].memory_used_mib = Some(0);
    let placed = check(Kind::Placement, json!({})).place(&request).unwrap().answer;
    assert_eq!(placed.iter().map(|place| place.host).collect::<Vec<_>>(), [Some(1), Some(1)]);
    assert_eq!(placed[0].reason, "1048576 MiB free");
}

/// What 0.1 has no word for is told in the words that it has.
#[test]
fn what_is_new_is_told_in_the_terms_of_0_1() {
    let Question::Scaling(mut request) = generate::sample(Kind::Scaling, Size { members: 5, hosts: 5, count: 5 })
    else {
        panic!("another kind")
    };
    for (host, state) in request.inventory.hosts.iter_mut().zip([
        HostState::Quarantined,
        HostState::Unreachable,
        HostState::InService,
        HostState::EnteringMaintenance,
        HostState::InMaintenance,
    ]) {
        host.usable = matches!(state, HostState::InService | HostState::Quarantined);
        host.state = state;
    }
    let decided = check(Kind::Scaling, json!({})).choose(&request).unwrap();
    let reasons: BTreeMap<u32, &str> = decided.answer.iter().map(|one| (one.member, &*one.reason)).collect();
    let expected = [
        (0, "newest"),
        (1, "its host is not usable"),
        (2, "newest"),
        (3, "its host is in maintenance"),
        (4, "its host is in maintenance"),
    ];
    assert_eq!(reasons, expected.into());
    assert_eq!(decided.log[0].message, "5 of 5", "what it logs arrives");
}

#[test]
fn what_0_1_can_say_comes_back_as_it_was() {
    for kind in Kind::ALL {
        for number in 0..200 {
            let recorded = v0_1::Question::from(generate::question(kind, 11, number));
            let put_again = v0_1::Question::from(Question::from(recorded.clone()));
            assert_eq!(recorded, put_again);
        }
    }
}

#[test]
fn it_conforms_as_ever() {
    for kind in Kind::ALL {
        let report = conformance::run(&check(kind, json!({})), 1, 300, |_| ());
        // It knows nothing of limits to names.
        let known: Vec<_> = report.findings.iter().filter(|one| !one.problem.contains("at most")).collect();
        assert!(known.is_empty(), "{kind}: {known:?}");
        assert!(report.answered > 20, "{kind}: {} of 300 answered", report.answered);
    }
}

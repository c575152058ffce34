//! The conformance suite: every shipped policy passes it, with more than one
//! configuration, and it sees what it is there to see.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::sync::LazyLock;

use serde_json::{Value, json};
use vmgroup_policy::conformance::{self, Report};
use vmgroup_policy::{Host, Limits, shipped};

static HOST: LazyLock<Host> = LazyLock::new(|| Host::new(Limits::default()).unwrap());

fn report(name: &str, config: &Value, questions: u32) -> Report {
    let mut source = shipped::find(name).unwrap();
    source.config = config.clone();
    let kind = shipped::all().iter().find(|one| one.name == name).unwrap().kind;
    let policy = HOST.check(kind, &source).unwrap().policy;
    conformance::run(&policy, 1, questions, |_| ())
}

fn assert_conforms(name: &str, config: &Value, questions: u32) {
    let report = report(name, config, questions);
    for finding in &report.findings {
        eprintln!(
            "{name} {config}: {} in {} cases, no. {}: {}",
            finding.property, finding.cases, finding.number, finding.problem
        );
    }
    assert!(report.conforms(), "{name} with {config}");
    assert!(report.order_free, "{name} does not say so");
    assert_eq!(report.questions, questions);
    assert_eq!(report.answered + report.refused, questions);
}

#[test]
fn every_shipped_policy_conforms_as_it_comes() {
    for one in shipped::all() {
        assert_conforms(one.name, &json!({}), 2_000);
    }
}

#[test]
fn and_with_every_rule_of_its_configuration_in_use() {
    for (name, config) in [
        ("ordinal", json!({"pattern": "{group}{ordinal}", "width": 3, "maxLength": 15, "unique": "everywhere"})),
        ("random-suffix", json!({"prefix": "x-", "length": 4, "unique": "everywhere"})),
        ("spread", json!({"by": {"attribute": "rack"}, "maxPerPlace": 3, "datastore": "mostFree"})),
        ("pack", json!({"headroomPercent": 10, "datastore": "mostFree"})),
        ("ordered", json!({"order": "poweredOffFirst", "protect": ["pet=true"]})),
        ("idle-first", json!({"unknown": "first", "busyAbove": 4000, "protect": ["pet"]})),
        ("balanced", json!({"by": "datastore", "protect": ["pet=true"]})),
    ] {
        assert_conforms(name, &config, 300);
    }
}

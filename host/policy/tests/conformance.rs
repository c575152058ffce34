//! The conformance suite: every shipped policy passes it, with more than one
//! configuration, and it sees what it is there to see.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::sync::LazyLock;

use serde_json::{Value, json};
use vmgroup_policy::conformance::{self, Report};
use vmgroup_policy::{Host, Kind, Limits, Source, shipped};

static HOST: LazyLock<Host> = LazyLock::new(|| Host::new(Limits::default()).unwrap());

fn report(name: &str, config: &Value, questions: u32) -> Report {
    let source = shipped::find(name).unwrap();
    let kind = shipped::all().iter().find(|one| one.name == name).unwrap().kind;
    report_of(kind, &Source { config: config.clone(), ..source }, questions)
}

fn report_of(kind: Kind, source: &Source, questions: u32) -> Report {
    let policy = HOST.check(kind, source).unwrap_or_else(|error| panic!("{error}: {}", error.remedy())).policy;
    conformance::run(&policy, 1, questions, |_| ())
}

fn assert_conforms(name: &str, config: &Value, questions: u32) {
    assert_report(name, config, questions, &report(name, config, questions));
}

fn assert_report(name: &str, config: &Value, questions: u32, report: &Report) {
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

fn all_conform_as_they_come(kind: Kind) {
    for one in shipped::all().iter().filter(|one| one.kind == kind) {
        assert_conforms(one.name, &json!({}), 2_000);
    }
}

#[test]
fn every_shipped_naming_policy_conforms_as_it_comes() {
    all_conform_as_they_come(Kind::Naming);
}

#[test]
fn every_shipped_placement_policy_conforms_as_it_comes() {
    all_conform_as_they_come(Kind::Placement);
}

#[test]
fn every_shipped_scaling_policy_conforms_as_it_comes() {
    all_conform_as_they_come(Kind::Scaling);
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
        (
            "anti-affinity",
            json!({"apart": [{"attribute": "rack"}, "host"], "maxPerPlace": 2, "fallback": "refuse", "datastore": "mostFree"}),
        ),
        ("cheapest-datastore", json!({"price": "tier", "headroomPercent": 20, "unpriced": "last"})),
        ("drain-first", json!({"idleBelow": 2000, "protect": ["pet=true"]})),
        ("pets", json!({"protect": ["pet=true"], "groups": ["app=db"], "olderThan": "300d", "unknownAge": "leaves"})),
    ] {
        assert_conforms(name, &config, 300);
    }
}

/// They need a site's conventions to have an answer at all.
#[test]
fn so_do_those_that_are_built_on_demand() {
    for (kind, name, config) in [
        (
            Kind::Naming,
            "site-names",
            json!({"site": "ber", "separator": "-", "width": 5, "maxLength": 20, "reserved": ["ber-front-*7"]}),
        ),
        (Kind::Placement, "licensed-hosts", json!({"label": "site", "attribute": "rack", "others": "last"})),
        (Kind::Placement, "licensed-hosts", json!({"label": "no-such-label", "attribute": "rack", "maxHosts": 2})),
        (Kind::Scaling, "business-hours", json!({"leave": "inside", "utcOffset": "-05:30", "protect": ["pet"]})),
    ] {
        let source = Source { name: format!("{name}.wasm"), bytes: common::built("--policy", name), config };
        assert_report(name, &source.config, 300, &report_of(kind, &source, 300));
    }
}

//! What the conformance suite sees in plugins that pass the self-test.

use vmgroup_policy::conformance::{self, Property, Report};
use vmgroup_policy::{Host, Kind, Limits};

use crate::made::Made;

/// Refuses where it is asked with the seed of the self-test, does this otherwise.
fn behaves_when_checked(decide: &str) -> String {
    format!(
        "(if (result i32) (i32.eq (i32.load offset=16 (local.get $request)) (i32.const 0x5eed0001))
           (then (i32.const 512))
           (else {decide}))"
    )
}

fn report(made: &Made, questions: u32) -> Report {
    let host = Host::new(Limits { fuel: 1_000_000, ..Limits::default() }).unwrap();
    let source = made.source();
    let kind = host.answers(&source)[0];
    conformance::run(&host.check(kind, &source).unwrap().policy, 1, questions, |_| ())
}

fn found(report: &Report) -> Vec<Property> {
    report.findings.iter().map(|finding| finding.property).collect()
}

#[test]
fn a_crash_is_seen_and_shown_by_the_smallest_question() {
    let made = Made::new(Kind::Placement).bad_from_the_start().decides(&behaves_when_checked("unreachable"));
    let report = report(&made, 60);
    assert_eq!(found(&report), [Property::Legal]);
    let finding = &report.findings[0];
    assert_eq!((finding.cases, finding.question.members()), (60, 1));
    assert!(finding.problem.contains("crashed"), "{}", finding.problem);
}

#[test]
fn an_endless_loop_is_over_budget() {
    let spin = behaves_when_checked("(loop $l (br $l)) unreachable");
    let report = report(&Made::new(Kind::Naming).bad_from_the_start().decides(&spin), 10);
    assert_eq!(found(&report), [Property::Budget]);
    assert_eq!(report.fuel, 1_000_000);
}

#[test]
fn whoever_refuses_everything_holds_everything_up() {
    let report = report(&Made::new(Kind::Scaling), 30);
    assert_eq!((found(&report), report.refused), (vec![Property::Answers], 30));
}

#[test]
fn a_victim_needs_a_reason() {
    let report = report(&victim_of_a_place(b""), 60);
    assert!(found(&report).contains(&Property::Reasons), "{:?}", found(&report));
}

#[test]
fn who_says_order_free_is_held_to_it() {
    let whoever_comes_first = victim_of_a_place(b"the first");
    assert!(!found(&report(&whoever_comes_first, 60)).contains(&Property::OrderFree), "it does not say so");
    let report = report(&whoever_comes_first.order_free(), 60);
    assert!(report.order_free);
    let finding = report.findings.iter().find(|finding| finding.property == Property::OrderFree).unwrap();
    assert!(finding.problem.contains("another order"), "{}", finding.problem);
}

/// Always chooses the first member, and nobody else.
fn victim_of_a_place(reason: &[u8]) -> Made {
    let made = Made::new(Kind::Scaling).bad_from_the_start().reason(reason);
    made.but(behaves_when_checked)
}

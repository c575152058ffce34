//! Plugins that pass their checks and turn bad on the live question.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use vmgroup_policy::wit::types::Refusal;
use vmgroup_policy::{BadAnswer, DecisionError, Host, Kind, Limits, Policy};

use crate::made::{Made, SELF_TEST};
use crate::questions;

static HOST: LazyLock<Host> = LazyLock::new(|| {
    Host::new(Limits { fuel: 50_000_000, deadline: Duration::from_mins(1), ..Limits::default() }).unwrap()
});

fn policy(made: &Made) -> Arc<Policy> {
    policy_on(&HOST, made)
}

fn policy_on(host: &Host, made: &Made) -> Arc<Policy> {
    let kind = Kind::ALL.into_iter().find_map(|kind| host.check(kind, &made.source()).ok());
    kind.expect("a made plugin passes its checks").policy
}

fn names(names: &[&str], everywhere: bool) -> Result<Vec<String>, DecisionError> {
    let policy = policy(&Made::new(Kind::Naming).names(names, everywhere));
    let decided = policy.name(&questions::naming(2))?;
    Ok(decided.answer.proposals.into_iter().map(|proposal| proposal.name).collect())
}

fn victims(victims: &[u32]) -> Result<Vec<u32>, DecisionError> {
    let policy = policy(&Made::new(Kind::Scaling).victims(victims));
    let decided = policy.choose(&questions::scaling(2))?;
    Ok(decided.answer.into_iter().map(|victim| victim.member).collect())
}

fn places(places: &[[Option<u32>; 3]]) -> Result<usize, DecisionError> {
    let policy = policy(&Made::new(Kind::Placement).places(places));
    Ok(policy.place(&questions::placement(2))?.answer.len())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, DecisionError>, words: &str) {
    let error = outcome.expect_err(words);
    assert!(matches!(error, DecisionError::BadAnswer(_)), "{error:?}");
    assert_eq!(error.reason(), "PolicyBadAnswer");
    assert!(error.to_string().contains(words), "{error} should say {words:?}");
}

#[test]
fn a_good_answer_passes_with_its_reason_on_one_line() {
    let policy = policy(&Made::new(Kind::Naming).names(&["web-7", "web-8"], true));
    let decided = policy.name(&questions::naming(2)).unwrap();
    assert_eq!(decided.answer.proposals[0].name, "web-7");
    assert_eq!(decided.answer.proposals[0].reason, "because of [31mthis");
    assert!(decided.fuel > 0);
    assert!(decided.memory >= 65536);
    assert_eq!(victims(&[1, 0]).unwrap(), [1, 0]);
    assert_eq!(places(&[[Some(0), Some(0), Some(0)], [None, None, None]]).unwrap(), 2);
}

#[test]
fn s8_two_names_alike_are_refused() {
    refused(names(&["web-7", "web-7"], false), "\"web-7\" twice");
}

#[test]
fn s8_illegal_names_are_refused() {
    refused(names(&["", "b"], false), "name 1 is empty");
    refused(names(&["a", "  \t"], false), "name 2 is empty");
    refused(names(&["a", " b"], false), "begins or ends with a blank");
    refused(names(&["a", "b\u{0}c"], false), "cannot be part of a name");
    refused(names(&["a", "web\u{200b}-0"], false), "cannot be part of a name");
}

#[test]
fn s8_names_that_are_too_long_are_refused_as_vcenter_counts() {
    refused(names(&["12345678901", "b"], false), "has 11 characters");
    refused(names(&["123456/%", "b"], false), "has 12 characters");
    assert!(names(&["1234567890", "1234567/"], false).is_ok());
}

#[test]
fn s8_names_that_are_taken_are_refused_in_the_scope_demanded() {
    refused(names(&["foreign", "b"], false), "taken in the group's folder");
    refused(names(&["a", "web-1"], false), "taken in the group's folder");
    refused(names(&["db-0", "b"], true), "taken elsewhere on this vCenter");
    assert!(names(&["db-0", "b"], false).is_ok());
}

#[test]
fn s8_too_few_or_too_many_answers_are_refused() {
    refused(names(&["a"], false), "asked for 2 names and gave 1");
    refused(victims(&[0]), "asked for 2 victims and gave 1");
    refused(victims(&[0, 1, 2]), "asked for 2 victims and gave 3");
    refused(victims(&[]), "asked for 2 victims and gave 0");
    refused(places(&[[None; 3]; 3]), "asked for 2 places and gave 3");
}

#[test]
fn s8_victims_that_must_not_be_chosen_are_refused() {
    refused(victims(&[0, 3]), "member 3, and there are 3");
    refused(victims(&[u32::MAX, 0]), "member 4294967295");
    refused(victims(&[0, 2]), "\"web-2\", which is protected");
    refused(victims(&[1, 1]), "\"web-1\" twice");
}

#[test]
fn s8_places_that_do_not_exist_or_fit_are_refused() {
    let second = |place| places(&[[None; 3], place]);
    refused(second([Some(2), None, None]), "cluster 2, and there are 2");
    refused(second([None, Some(9), None]), "host 9, and there are 3");
    refused(second([None, None, Some(2)]), "datastore 2, and there are 2");
    refused(second([None, Some(1), None]), "\"esx-1\", which is not usable");
    refused(second([Some(1), Some(0), None]), "not in the cluster \"silver\"");
    refused(second([None, Some(2), None]), "\"esx-2\", which has 512");
    refused(second([None, None, Some(1)]), "\"broken\", which is not usable");
    refused(second([Some(1), None, Some(0)]), "not mounted on \"silver\"");
    let full = places(&[[None, None, Some(0)], [None, None, Some(0)]]);
    refused(full, "where 120 MiB would be needed for this answer and 100 are free");
}

#[test]
fn a_crash_is_told_with_the_last_words() {
    let policy = policy(&Made::new(Kind::Naming).panics("panicked at src/lib.rs:7: index 3"));
    for _ in 0..2 {
        let error = policy.name(&questions::naming(1)).unwrap_err();
        assert_eq!(error.reason(), "PolicyTrapped");
        assert!(error.to_string().contains("unreachable"), "{error}");
        assert!(error.to_string().contains("panicked at src/lib.rs:7: index 3"), "{error}");
    }
}

#[test]
fn an_endless_loop_runs_out_of_fuel() {
    let policy = policy(&Made::new(Kind::Scaling).decides("(loop $l (br $l)) unreachable"));
    let error = policy.choose(&questions::scaling(1)).unwrap_err();
    assert_eq!(error, DecisionError::OutOfFuel { budget: 50_000_000 });
    assert_eq!(error.reason(), "PolicyOutOfFuel");
}

#[test]
fn an_endless_loop_with_fuel_to_burn_meets_its_deadline() {
    let limit = Duration::from_millis(50);
    let host = Host::new(Limits { fuel: u64::MAX, deadline: limit, ..Limits::default() }).unwrap();
    let policy = policy_on(&host, &Made::new(Kind::Scaling).decides("(loop $l (br $l)) unreachable"));
    let error = policy.choose(&questions::scaling(1)).unwrap_err();
    assert_eq!(error, DecisionError::Deadline { limit });
    assert_eq!(error.reason(), "PolicyTooSlow");
}

#[test]
fn endless_recursion_is_a_crash() {
    let made = Made::new(Kind::Scaling).decides("(call $again (local.get $request))");
    let error = policy(&made).choose(&questions::scaling(1)).unwrap_err();
    assert_eq!(error.reason(), "PolicyTrapped");
    assert!(error.to_string().contains("call stack exhausted"), "{error}");
}

#[test]
fn endless_allocation_meets_the_memory_limit() {
    let made = Made::new(Kind::Scaling).decides("(loop $l (drop (memory.grow (i32.const 64))) (br $l)) unreachable");
    let error = policy(&made).choose(&questions::scaling(1)).unwrap_err();
    assert_eq!(error.reason(), "PolicyOutOfMemory");
    assert!(error.to_string().contains("at most 67108864 are allowed"), "{error}");
}

#[test]
fn an_answer_of_100_megabytes_is_not_taken_in() {
    let made = Made::new(Kind::Scaling).one_reason_many_times(100, 1 << 20);
    let error = policy(&made).choose(&questions::scaling(1)).unwrap_err();
    assert_eq!(error, DecisionError::OutputTooLarge { limit: 4 << 20 });
    assert_eq!(error.reason(), "PolicyAnswerTooLarge");
}

#[test]
fn an_answer_that_is_none_is_refused() {
    let outside = Made::new(Kind::Scaling).answers(&[0, 0xffff_0000, 1000, 0]);
    let error = policy(&outside).choose(&questions::scaling(1)).unwrap_err();
    assert!(matches!(error, DecisionError::BadAnswer(BadAnswer::Unreadable { .. })), "{error:?}");
    let neither = Made::new(Kind::Scaling).answers(&[9, 0, 0, 0]);
    let error = policy(&neither).choose(&questions::scaling(1)).unwrap_err();
    assert_eq!(error.reason(), "PolicyBadAnswer");
    let no_pointer = Made::new(Kind::Scaling).decides("i32.const -4");
    let error = policy(&no_pointer).choose(&questions::scaling(1)).unwrap_err();
    assert_eq!(error.reason(), "PolicyBadAnswer", "{error:?}");
    let no_utf8 = Made::new(Kind::Scaling).reason(&[0xff, 0xfe]);
    let error = policy(&no_utf8).choose(&questions::scaling(1)).unwrap_err();
    assert_eq!(error.reason(), "PolicyBadAnswer");
}

#[test]
fn a_refusal_keeps_its_reason() {
    let policy = policy(&Made::new(Kind::Naming));
    let mut question = questions::naming(1);
    question.context.attempt = 0;
    let error = policy.name(&question).unwrap_err();
    assert_eq!(error, DecisionError::Refused(Refusal::Other(String::new())));
    assert_eq!(error.reason(), "PolicyError");
}

#[test]
fn a_flood_of_log_lines_is_cut() {
    let policy = policy(&Made::new(Kind::Scaling).victims(&[0]).floods_the_log());
    let decided = policy.choose(&questions::scaling(1)).unwrap();
    assert_eq!(decided.log.len(), Limits::default().log_lines);
}

#[test]
fn the_same_question_costs_and_answers_the_same_on_another_host() {
    let made = Made::new(Kind::Naming).names(&["web-7", "web-8"], false);
    let other = Host::new(Limits::default()).unwrap();
    let here = policy(&made).name(&questions::naming(2)).unwrap();
    let there = policy_on(&other, &made).name(&questions::naming(2)).unwrap();
    assert_eq!(here, there);
}

#[test]
fn a_policy_is_asked_with_its_own_configuration() {
    for kind in [Kind::Placement, Kind::Scaling] {
        let mut source = Made::new(kind).gives_its_config_as_reason().source();
        source.config = serde_json::json!({ "edition": 7 });
        let policy = HOST.check(kind, &source).unwrap().policy;
        let reasons: Vec<String> = if kind == Kind::Placement {
            policy.place(&questions::placement(2)).unwrap().answer.into_iter().map(|place| place.reason).collect()
        } else {
            policy.choose(&questions::scaling(2)).unwrap().answer.into_iter().map(|victim| victim.reason).collect()
        };
        assert_eq!(reasons, [r#"{"edition":7}"#; 2]);
    }
}

#[test]
fn a_policy_answers_its_own_question_only() {
    let policy = policy(&Made::new(Kind::Naming));
    assert!(matches!(policy.choose(&questions::scaling(1)), Err(DecisionError::Host(_))));
}

#[test]
fn a_policy_outlives_the_host_it_was_checked_on() {
    let host = Host::new(Limits { fuel: u64::MAX, deadline: Duration::from_millis(50), ..Limits::default() }).unwrap();
    let policy = policy_on(&host, &Made::new(Kind::Scaling).decides("(loop $l (br $l)) unreachable"));
    drop(host);
    assert_eq!(policy.choose(&questions::scaling(1)).unwrap_err().reason(), "PolicyTooSlow");
}

#[test]
fn s8_what_turns_bad_by_the_clock_passes_its_checks_and_fails_at_work() {
    let made = || Made::new(Kind::Scaling).panics("too early, or too late");
    for (made, bad, good) in [(made().bad_before(1), 0, 1), (made().bad_since(SELF_TEST + 1), SELF_TEST + 1, SELF_TEST)]
    {
        let policy = policy(&made);
        let mut request = questions::scaling(2);
        request.context.now = bad;
        let error = policy.choose(&request).unwrap_err();
        assert!(error.is_fault() && matches!(error, DecisionError::Trap { .. }), "{error:?}");
        request.context.now = good;
        assert!(policy.choose(&request).unwrap_err().is_refusal());
    }
}

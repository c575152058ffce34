//! Conditions by kstatus's rules, as pure functions over a status.
//!
//! `Ready` is always there; `Reconciling` and `Stalled` are there only while
//! they are true. `lastTransitionTime` moves only when the status does.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The group is as wished: all members exist, are powered on, and no more.
pub const READY: &str = "Ready";
/// Work is going on towards the wished state.
pub const RECONCILING: &str = "Reconciling";
/// The operator cannot go on by itself; the message says what to do.
pub const STALLED: &str = "Stalled";

/// The longest message that is kept, in characters.
pub const MESSAGE_LIMIT: usize = 1024;

/// A condition as a pass wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its type.
    pub type_: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// CamelCase reason.
    pub reason: String,
    /// Words for people: what is the matter, and what to do.
    pub message: String,
}

/// The conditions after a pass: those wanted, each with the transition time of
/// its predecessor if its status did not change; others are dropped.
pub fn merge(old: &[Condition], wanted: &[Wanted], generation: Option<i64>, now: &Time) -> Vec<Condition> {
    wanted
        .iter()
        .map(|want| {
            let since = old
                .iter()
                .find(|c| c.type_ == want.type_ && c.status == want.status)
                .map_or_else(|| now.clone(), |c| c.last_transition_time.clone());
            Condition {
                type_: want.type_.to_owned(),
                status: want.status.to_owned(),
                reason: want.reason.clone(),
                message: want.message.chars().take(MESSAGE_LIMIT).collect(),
                observed_generation: generation,
                last_transition_time: since,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Time {
        serde_json::from_value(serde_json::json!(text)).unwrap()
    }

    fn ready(status: &'static str) -> Wanted {
        Wanted { type_: READY, status, reason: "R".into(), message: "m".into() }
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let first = merge(&[], &[ready("False")], Some(1), &at("2026-01-01T00:00:00Z"));
        let same = merge(&first, &[ready("False")], Some(2), &at("2026-01-02T00:00:00Z"));
        assert_eq!(same[0].last_transition_time, first[0].last_transition_time);
        assert_eq!(same[0].observed_generation, Some(2));
        let moved = merge(&same, &[ready("True")], Some(2), &at("2026-01-03T00:00:00Z"));
        assert_eq!(moved[0].last_transition_time, at("2026-01-03T00:00:00Z"));
    }

    #[test]
    fn conditions_that_no_longer_hold_are_dropped() {
        let stalled = Wanted { type_: STALLED, status: "True", reason: "R".into(), message: "m".into() };
        let old = merge(&[], &[ready("False"), stalled], Some(1), &at("2026-01-01T00:00:00Z"));
        let new = merge(&old, &[ready("True")], Some(1), &at("2026-01-01T00:00:01Z"));
        assert_eq!(new.len(), 1);
    }
}

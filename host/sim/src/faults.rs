//! The fault script that both simulators obey: what goes wrong, at which call.
//!
//! Knows calls by their operation names only: a vSphere method
//! (`CloneVM_Task`) or an HTTP verb with a resource (`PATCH vmgroups/status`,
//! `WATCH configmaps`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What goes wrong with one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answered with an error before anything happens: an HTTP status ("503"),
    /// or for the vCenter a fault type (`NotAuthenticated`).
    Error(String),
    /// The call takes effect, and the connection breaks before its answer.
    LoseReply,
    /// The connection breaks before anything happens.
    Reset,
    /// The call takes effect this much later.
    Delay(Duration),
    /// vCenter only: the task that the call starts fails with this fault type,
    /// when its time is over and without effect.
    FailTask(String),
    /// vCenter only: the task that the call starts has its effect, and then the
    /// task object is gone.
    LoseTask,
    /// vCenter only: the task that the call starts ends with this fault type when
    /// its time is over, and has its effect all the same.
    DenyTask {
        /// The fault type.
        fault: String,
        /// How much later than the task's end.
        later: Duration,
    },
}

/// A line of the script.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The operation it is about; `*` for every one.
    pub on: String,
    /// How many matching calls pass unharmed first.
    pub skip: u32,
    /// How many matching calls are hit then.
    pub times: u32,
    /// What hits them.
    pub fault: Fault,
}

impl Rule {
    /// Hits the next call of `on`.
    pub fn next(on: &str, fault: Fault) -> Self {
        Self { on: on.to_owned(), skip: 0, times: 1, fault }
    }

    /// Hits every call of `on` until the script is cleared.
    pub fn every(on: &str, fault: Fault) -> Self {
        Self { on: on.to_owned(), skip: 0, times: u32::MAX, fault }
    }
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    calls: BTreeMap<String, u64>,
    down: bool,
}

/// A fault script and a count of the calls that came in. Cheap to clone; all
/// clones are the same script.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule. Of several that match a call, the first counts.
    pub fn add(&self, rule: Rule) {
        self.state().rules.push(rule);
    }

    /// Drops all rules and ends an outage. Counts stay.
    pub fn clear(&self) {
        let mut state = self.state();
        state.rules.clear();
        state.down = false;
    }

    /// While down, every call is a [`Fault::Reset`].
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// Counts a call and says what is to go wrong with it.
    pub fn on_call(&self, operation: &str) -> Option<Fault> {
        let mut state = self.state();
        *state.calls.entry(operation.to_owned()).or_default() += 1;
        if state.down {
            return Some(Fault::Reset);
        }
        let index = state.rules.iter_mut().position(|rule| {
            if rule.on != "*" && rule.on != operation {
                return false;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                return false;
            }
            true
        })?;
        let rule = &mut state.rules[index];
        let fault = rule.fault.clone();
        if rule.times != u32::MAX {
            rule.times = rule.times.saturating_sub(1);
        }
        if rule.times == 0 {
            state.rules.remove(index);
        }
        Some(fault)
    }

    /// Calls seen so far, by operation.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.state().calls.clone()
    }

    /// Forgets the counts.
    pub fn reset_calls(&self) {
        self.state().calls.clear();
    }
}

/// The error of a simulated service: the connection was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("connection reset by peer (a simulated fault)")]
pub struct Cut;

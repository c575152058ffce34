//! The time that policies may take for the groups of one namespace, so that nobody's
//! slow or spinning plugin keeps the others' groups waiting. Whoever has no time left
//! is not asked, and his pass ends at once: nobody waits for time in a worker.
//!
//! Time is what a decision takes on the clock, or its fuel at a nanosecond each if that
//! is more. It flows back evenly. Must not know what a policy is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use vmgroup_api::policy_file::Budget as Allowance;

use crate::wake::{GroupRef, Wake};

/// What a decision is thought to take before any was made for a namespace.
const AT_FIRST: Duration = Duration::from_secs(2);

/// It is never thought to take less.
const AT_LEAST: Duration = Duration::from_millis(10);

/// Why nobody is asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// All the time that is left may be needed for what is being asked just now. The
    /// group is woken when some of that has ended.
    Busy,
    /// All time is used up; there is some again after this.
    Spent(Duration),
}

/// The accounts of the namespaces. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    accounts: Mutex<HashMap<String, Account>>,
    wake: Wake,
}

struct Account {
    spent: Duration,
    at: Instant,
    /// Passes that are asking.
    asking: u32,
    /// What the next decision may take, by those before it.
    expected: Duration,
    /// Groups that found it busy. No more than the namespace has.
    waiting: VecDeque<GroupRef>,
}

impl Account {
    fn new(now: Instant) -> Self {
        Self { spent: Duration::ZERO, at: now, asking: 0, expected: AT_FIRST, waiting: VecDeque::new() }
    }

    /// What flowed back since the last look.
    fn settle(&mut self, allowance: Allowance, now: Instant) {
        let back = now.duration_since(self.at).mul_f64(rate(allowance));
        self.spent = self.spent.saturating_sub(back);
        self.at = now;
    }
}

/// How much flows back in a second, in seconds.
fn rate(allowance: Allowance) -> f64 {
    f64::from(allowance.seconds) / f64::from(allowance.window.max(1))
}

impl Budget {
    /// Nobody has used anything up. `wake` is told who waits no more.
    pub fn new(wake: Wake) -> Self {
        Self(Arc::new(Inner { accounts: Mutex::default(), wake }))
    }

    /// Lets a group's pass ask policies until the turn is dropped; or says why not.
    pub fn enter(&self, group: &GroupRef, allowance: Allowance, now: Instant) -> Result<Turn, Denied> {
        let total = Duration::from_secs(allowance.seconds.into());
        let mut accounts = self.accounts();
        let account = accounts.entry(group.namespace.clone()).or_insert_with(|| Account::new(now));
        account.settle(allowance, now);
        account.waiting.retain(|waiting| waiting != group);
        let off = allowance.seconds == 0;
        if !off && account.spent >= total {
            let wait = (account.spent + account.expected).saturating_sub(total).div_f64(rate(allowance));
            return Err(Denied::Spent(wait.max(Duration::from_secs(1))));
        }
        let needed = account.spent + account.expected.saturating_mul(account.asking + 1);
        if !off && account.asking > 0 && needed > total {
            account.waiting.push_back(group.clone());
            return Err(Denied::Busy);
        }
        account.asking += 1;
        Ok(Turn { budget: self.clone(), namespace: group.namespace.clone() })
    }

    /// Whether a namespace has no time left.
    pub fn is_spent(&self, namespace: &str, allowance: Allowance, now: Instant) -> bool {
        let mut accounts = self.accounts();
        let Some(account) = accounts.get_mut(namespace) else { return false };
        account.settle(allowance, now);
        allowance.seconds > 0 && account.spent >= Duration::from_secs(allowance.seconds.into())
    }

    /// A decision for a group of this namespace was made, or cut off.
    pub fn charge(&self, namespace: &str, took: Duration) {
        if let Some(account) = self.accounts().get_mut(namespace) {
            account.spent += took;
            account.expected = took.max(account.expected / 2).max(AT_LEAST);
        }
    }

    fn leave(&self, namespace: &str) {
        let mut accounts = self.accounts();
        let Some(account) = accounts.get_mut(namespace) else { return };
        account.asking = account.asking.saturating_sub(1);
        let next = account.waiting.pop_front();
        if next.is_none() && account.asking == 0 && account.spent.is_zero() {
            accounts.remove(namespace);
        }
        drop(accounts);
        if let Some(group) = next {
            self.0.wake.wake(&group);
        }
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<String, Account>> {
        self.0.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave to ask, until it is dropped.
#[must_use = "it ends when it is dropped"]
pub struct Turn {
    budget: Budget,
    namespace: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.budget.leave(&self.namespace);
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    const ALLOWANCE: Allowance = Allowance { seconds: 30, window: 60 };

    fn group(text: &str) -> GroupRef {
        GroupRef::parse(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_spins_in_many_groups_holds_few_workers_and_nobody_elses() {
        let budget = Budget::new(Wake::default());
        let now = Instant::now();
        budget.enter(&group("spin/0"), ALLOWANCE, now).map(drop).unwrap();
        let spinning = || (0..100).map(|number| budget.enter(&group(&format!("spin/{number}")), ALLOWANCE, now));
        let turns: Vec<_> = spinning().collect();
        let entered = turns.iter().filter(|turn| turn.is_ok()).count();
        assert_eq!(entered, 15, "of two seconds each, in thirty");
        assert!(budget.enter(&group("other/web"), ALLOWANCE, now).is_ok());
        budget.charge("spin", Duration::from_secs(5));
        drop(turns);
        assert_eq!(spinning().collect::<Vec<_>>().iter().filter(|turn| turn.is_ok()).count(), 5, "of five, in 25");
        for _ in 0..5 {
            budget.charge("spin", Duration::from_secs(5));
        }
        let Err(Denied::Spent(wait)) = budget.enter(&group("spin/0"), ALLOWANCE, now) else { panic!("spent") };
        assert!(budget.is_spent("spin", ALLOWANCE, now) && !budget.is_spent("other", ALLOWANCE, now));
        assert!(budget.enter(&group("spin/0"), ALLOWANCE, now + wait).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_found_it_busy_is_woken_in_turn() {
        let wake = Wake::default();
        let (budget, now) = (Budget::new(wake.clone()), Instant::now());
        let small = Allowance { seconds: 3, window: 60 };
        let turn = budget.enter(&group("n/a"), small, now).unwrap();
        for waiting in ["n/b", "n/c", "n/b"] {
            assert_eq!(budget.enter(&group(waiting), small, now).err(), Some(Denied::Busy));
        }
        drop(turn);
        assert_eq!(wake.stream().boxed().next().await, Some(group("n/c")));
        let turn = budget.enter(&group("n/c"), small, now).unwrap();
        drop(turn);
        assert_eq!(wake.stream().boxed().next().await, Some(group("n/b")));
    }

    #[tokio::test(start_paused = true)]
    async fn quick_decisions_are_made_in_any_number_and_nothing_is_left_behind() {
        let (budget, now) = (Budget::new(Wake::default()), Instant::now());
        let first = budget.enter(&group("n/first"), ALLOWANCE, now).unwrap();
        (0..10).for_each(|_| budget.charge("n", Duration::from_millis(2)));
        let turns: Vec<_> =
            (0..1_000).map(|number| budget.enter(&group(&format!("n/{number}")), ALLOWANCE, now)).collect();
        assert!(turns.iter().all(Result::is_ok));
        drop((first, turns));
        let later = now + Duration::from_mins(2);
        budget.enter(&group("n/last"), ALLOWANCE, later).map(drop).unwrap();
        assert_eq!(budget.accounts().len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn zero_turns_it_off() {
        let (budget, now) = (Budget::new(Wake::default()), Instant::now());
        let off = Allowance { seconds: 0, window: 60 };
        let turns: Vec<_> = (0..100).map(|number| budget.enter(&group(&format!("n/{number}")), off, now)).collect();
        budget.charge("n", Duration::from_hours(1));
        assert!(turns.iter().all(Result::is_ok) && budget.enter(&group("n/a"), off, now).is_ok());
    }
}

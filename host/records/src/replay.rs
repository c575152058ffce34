//! Yesterday's questions put to another policy, or to the same as a check: the
//! answers side by side. Blocks, on as many processors as it is given.

use std::num::NonZero;
use std::thread;

use serde::{Deserialize, Serialize};
use vmgroup_policy::{Answer, Line, Policy, Question};

use crate::{Outcome, Record, Role};

/// How the answer of now compares with the recorded one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// The same answer, word for word.
    Same,
    /// The same choice, explained in other words.
    OtherReasons,
    /// Another choice.
    Differs,
    /// It was answered, and is not now.
    NowFails,
    /// It was not answered, and is now.
    NowAnswers,
    /// Neither answers, for whatever reasons.
    NeitherAnswers,
}

impl Verdict {
    /// All, in the order of a report.
    pub const ALL: [Self; 6] =
        [Self::Same, Self::OtherReasons, Self::Differs, Self::NowFails, Self::NowAnswers, Self::NeitherAnswers];

    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::OtherReasons => "same choice, other reasons",
            Self::Differs => "another choice",
            Self::NowFails => "no answer now",
            Self::NowAnswers => "answered only now",
            Self::NeitherAnswers => "no answer either time",
        }
    }

    /// Whether something else would have happened.
    pub const fn matters(self) -> bool {
        matches!(self, Self::Differs | Self::NowFails | Self::NowAnswers)
    }

    /// As a label of metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::OtherReasons => "other-reasons",
            Self::Differs => "differs",
            Self::NowFails => "now-fails",
            Self::NowAnswers => "now-answers",
            Self::NeitherAnswers => "neither-answers",
        }
    }

    /// How two outcomes of one question compare.
    pub fn of(question: &Question, then: &Outcome, now: &Outcome) -> Self {
        match (then, now) {
            (Outcome::Answered(then), Outcome::Answered(now)) if then == now => Self::Same,
            (Outcome::Answered(then), Outcome::Answered(now)) => {
                if choice(question, then) == choice(question, now) {
                    Self::OtherReasons
                } else {
                    Self::Differs
                }
            }
            (Outcome::Answered(_), Outcome::Failed { .. }) => Self::NowFails,
            (Outcome::Failed { .. }, Outcome::Answered(_)) => Self::NowAnswers,
            (Outcome::Failed { .. }, Outcome::Failed { .. }) => Self::NeitherAnswers,
        }
    }
}

/// An answer without its reasons.
fn choice(question: &Question, answer: &Answer) -> Vec<(String, Option<String>)> {
    answer.lines(question).into_iter().map(|Line { subject, place, .. }| (subject, place)).collect()
}

/// A record with what the other policy says to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Then.
    pub record: Record,
    /// Now.
    pub now: Outcome,
    /// Fuel used now.
    pub fuel: u64,
    /// How they compare.
    pub verdict: Verdict,
}

/// Puts recorded questions to a policy.
#[derive(Debug)]
pub struct Replay<'a> {
    policy: &'a Policy,
    threads: NonZero<usize>,
}

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Decisions put to the policy.
    pub asked: usize,
    /// Records of other kinds of questions, and of policies on trial.
    pub left_out: usize,
    /// How many of each verdict, in the order of [`Verdict::ALL`].
    pub counts: [usize; 6],
    /// All that are not [`Verdict::Same`], in the order of the records.
    pub differences: Vec<Difference>,
}

impl Replayed {
    /// How many have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.counts[verdict as usize]
    }

    /// How many would have gone another way.
    pub fn mattering(&self) -> usize {
        Verdict::ALL.into_iter().filter(|verdict| verdict.matters()).map(|verdict| self.count(verdict)).sum()
    }
}

impl<'a> Replay<'a> {
    /// Asks this policy, each question in a sandbox of its own as in the operator.
    pub const fn new(policy: &'a Policy, threads: NonZero<usize>) -> Self {
        Self { policy, threads }
    }

    /// Asks it all questions of its kind. The configuration in them is replaced
    /// by the policy's own; time and seed stay as they were.
    pub fn over(&self, records: &[Record]) -> Replayed {
        let wanted: Vec<&Record> = records.iter().filter(|record| self.concerns(record)).collect();
        let mut replayed =
            Replayed { asked: wanted.len(), left_out: records.len() - wanted.len(), ..Replayed::default() };
        let share = wanted.len().div_ceil(self.threads.get()).max(1);
        let compared: Vec<Vec<Difference>> = thread::scope(|scope| {
            let workers: Vec<_> = wanted
                .chunks(share)
                .map(|records| scope.spawn(|| records.iter().map(|record| self.compare(record)).collect()))
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        for difference in compared.into_iter().flatten() {
            replayed.counts[difference.verdict as usize] += 1;
            if difference.verdict != Verdict::Same {
                replayed.differences.push(difference);
            }
        }
        replayed
    }

    fn concerns(&self, record: &Record) -> bool {
        record.question.kind() == self.policy.kind() && record.role != Role::Shadow
    }

    fn compare(&self, record: &Record) -> Difference {
        let tried = self.policy.answer(&record.question);
        let now = Outcome::of(tried.outcome);
        let verdict = Verdict::of(&record.question, &record.outcome, &now);
        Difference { record: record.clone(), now, fuel: tried.fuel, verdict }
    }
}

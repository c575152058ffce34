//! Yesterday's questions put to another policy, or to the same as a check: the
//! answers side by side. Blocks, on as many processors as it is given.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};
use vmgroup_policy::{Answer, Kind, Line, Policy, Question};

use crate::read::{Line as FileLine, Lines};
use crate::{Asked, Outcome, ReadError, Record, Role};

/// Records that are handed to a thread at a time.
const BATCH: usize = 16;

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

/// A recorded decision beside what the other policy says to its question. Without
/// the question: ten thousand of them have to fit into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// See [`Record::number`].
    pub number: u64,
    /// See [`Record::at_ms`].
    pub at_ms: u64,
    /// `namespace/name`.
    pub group: String,
    /// What was asked.
    pub kind: Kind,
    /// About how many members.
    pub members: usize,
    /// Who was asked then.
    pub policy: Asked,
    /// What came of it then.
    pub then: Side,
    /// Fuel used then.
    pub fuel_then: u64,
    /// What comes of it now.
    pub now: Side,
    /// Fuel used now.
    pub fuel_now: u64,
    /// How they compare.
    pub verdict: Verdict,
}

/// One of two outcomes, in names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Side {
    /// The answer line by line.
    Answered(Vec<Line>),
    /// None.
    Failed {
        /// The condition reason.
        reason: String,
        /// In words.
        message: String,
    },
}

impl Side {
    /// What came of this question.
    pub fn of(outcome: &Outcome, question: &Question) -> Self {
        match outcome {
            Outcome::Answered(answer) => Self::Answered(answer.lines(question)),
            Outcome::Failed { reason, message } => Self::Failed { reason: reason.clone(), message: message.clone() },
        }
    }

    /// In one line: at most so many lines of the answer, or why there is none.
    pub fn in_words(&self, most: usize) -> String {
        match self {
            Self::Answered(lines) => {
                let more = lines.len().saturating_sub(most);
                let mut words: Vec<String> = lines
                    .iter()
                    .take(most)
                    .map(|Line { subject, place, reason }| {
                        let place = place.as_ref().map(|place| format!(" -> {place}")).unwrap_or_default();
                        format!("{subject}{place} ({reason})")
                    })
                    .collect();
                if more > 0 {
                    words.push(format!("and {more} more"));
                }
                words.join("; ")
            }
            Self::Failed { reason, message } => format!("no answer ({reason}): {message}"),
        }
    }
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
        let share = records.len().div_ceil(self.threads.get()).max(1);
        let parts: Vec<Part> = thread::scope(|scope| {
            let ask = |records: &[Record]| {
                let mut part = Part::default();
                for (at, record) in records.iter().enumerate() {
                    self.compare(at, record, &mut part);
                }
                part
            };
            let workers: Vec<_> = records.chunks(share).map(|records| scope.spawn(move || ask(records))).collect();
            workers.into_iter().map(joined).collect()
        });
        // Each part's places count from its own beginning, and the parts are in order.
        let mut replayed = Replayed::default();
        for part in parts {
            part.add_to(&mut replayed);
        }
        replayed
    }

    /// The same of records as they are read: each is parsed by who asks it, and not
    /// kept. Lines that cannot be used end it.
    pub fn over_lines(&self, lines: Lines) -> Result<Replayed, ReadError> {
        let (sender, batches) = sync_channel::<(usize, Vec<FileLine>)>(self.threads.get());
        let batches = Mutex::new(batches);
        let spoilt = AtomicBool::new(false);
        let parts: Result<Vec<Part>, ReadError> = thread::scope(|scope| {
            let ask = || {
                let mut part = Ok(Part::default());
                loop {
                    let next = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((begin, batch)) = next else { return part };
                    // Taken all the same: who hands out must not wait for ever.
                    let Ok(found) = &mut part else { continue };
                    if let Err(error) = self.compare_all(begin, &batch, found) {
                        spoilt.store(true, Ordering::Relaxed);
                        part = Err(error);
                    }
                }
            };
            let workers: Vec<_> = (0..self.threads.get()).map(|_| scope.spawn(ask)).collect();
            let fed = feed(lines, &sender, &spoilt);
            drop(sender);
            let parts: Vec<Result<Part, ReadError>> = workers.into_iter().map(joined).collect();
            fed?;
            parts.into_iter().collect()
        });
        let mut whole = Part::default();
        for part in parts? {
            whole.merge(part);
        }
        whole.differences.sort_by_key(|(at, _)| *at);
        let mut replayed = Replayed::default();
        whole.add_to(&mut replayed);
        Ok(replayed)
    }

    fn compare_all(&self, begin: usize, batch: &[FileLine], part: &mut Part) -> Result<(), ReadError> {
        for (at, line) in (begin..).zip(batch) {
            if let Some(record) = line.record()? {
                self.compare(at, &record, part);
            }
        }
        Ok(())
    }

    fn concerns(&self, record: &Record) -> bool {
        record.question.kind() == self.policy.kind() && record.role != Role::Shadow
    }

    fn compare(&self, at: usize, record: &Record, part: &mut Part) {
        if !self.concerns(record) {
            part.left_out += 1;
            return;
        }
        let tried = self.policy.answer(&record.question);
        let now = Outcome::of(tried.outcome);
        let verdict = Verdict::of(&record.question, &record.outcome, &now);
        part.counts[verdict as usize] += 1;
        if verdict != Verdict::Same {
            let difference = Difference {
                number: record.number,
                at_ms: record.at_ms,
                group: record.group(),
                kind: record.question.kind(),
                members: record.question.members(),
                policy: record.policy.clone(),
                then: Side::of(&record.outcome, &record.question),
                fuel_then: record.fuel,
                now: Side::of(&now, &record.question),
                fuel_now: tried.fuel,
                verdict,
            };
            part.differences.push((at, difference));
        }
    }
}

/// What one thread has found.
#[derive(Default)]
struct Part {
    left_out: usize,
    counts: [usize; 6],
    /// With their places among the records.
    differences: Vec<(usize, Difference)>,
}

impl Part {
    fn merge(&mut self, other: Self) {
        let Self { left_out, counts, differences } = other;
        self.left_out += left_out;
        for (sum, count) in self.counts.iter_mut().zip(counts) {
            *sum += count;
        }
        self.differences.extend(differences);
    }

    fn add_to(self, replayed: &mut Replayed) {
        let Self { left_out, counts, differences } = self;
        replayed.left_out += left_out;
        replayed.asked += counts.iter().sum::<usize>();
        for (sum, count) in replayed.counts.iter_mut().zip(counts) {
            *sum += count;
        }
        replayed.differences.extend(differences.into_iter().map(|(_, difference)| difference));
    }
}

/// Hands out lines, until there are none or one of them was no record.
fn feed(lines: Lines, sender: &SyncSender<(usize, Vec<FileLine>)>, spoilt: &AtomicBool) -> Result<(), ReadError> {
    let mut batch = Vec::with_capacity(BATCH);
    let mut begin = 0;
    for line in lines {
        batch.push(line?);
        if batch.len() == BATCH {
            if spoilt.load(Ordering::Relaxed) || sender.send((begin, std::mem::take(&mut batch))).is_err() {
                return Ok(());
            }
            begin += BATCH;
        }
    }
    // The workers take until the sender is gone.
    let _ = sender.send((begin, batch));
    Ok(())
}

fn joined<T>(worker: thread::ScopedJoinHandle<'_, T>) -> T {
    worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

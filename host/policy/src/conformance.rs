//! What any policy of its kind must hold, tried on generated questions: answers
//! are legal and have reasons, are the same each time, stay within the budget,
//! and do not hang on the order of tables where the policy says so. Broader than
//! the self-test that every check includes, and too slow for it.

use std::fmt;

use serde::Serialize;

use crate::{Answer, DecisionError, Policy, Question, Tried, generate};

/// The attribute of a description that names the kinds whose decisions do not
/// hang on the order of the question's tables, with blanks between them.
pub const ORDER_FREE: &str = "order-free";

/// A property that a policy must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Property {
    /// Each question gets a legal answer or a refusal: no crash, no answer that
    /// the host would not take.
    Legal,
    /// No question takes more than the limits.
    Budget,
    /// The same question gets the same answer, and uses the same fuel.
    Deterministic,
    /// Whatever is decided has a reason in words.
    Reasons,
    /// Another order of the tables decides the same. Only of a policy that
    /// describes itself as [`ORDER_FREE`].
    OrderFree,
    /// Not every question is refused.
    Answers,
}

impl Property {
    /// All of them, in the order of a report.
    pub const ALL: [Self; 6] =
        [Self::Legal, Self::Budget, Self::Deterministic, Self::Reasons, Self::OrderFree, Self::Answers];

    /// As in reports: `legal`, …, `answers`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Legal => "legal",
            Self::Budget => "budget",
            Self::Deterministic => "deterministic",
            Self::Reasons => "reasons",
            Self::OrderFree => "order-free",
            Self::Answers => "answers",
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A property that does not hold, shown by the smallest question that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which property.
    pub property: Property,
    /// Questions that show it.
    pub cases: u32,
    /// The number of the one below.
    pub number: u32,
    /// What came of it.
    pub problem: String,
    /// The smallest question that shows it.
    pub question: Question,
}

/// What came of all questions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How many questions were asked, each at least twice.
    pub questions: u32,
    /// How many were answered.
    pub answered: u32,
    /// How many were refused, which is the policy's right.
    pub refused: u32,
    /// Whether the policy says that it does not hang on the order of tables.
    pub order_free: bool,
    /// The most that one answer took, in fuel.
    pub fuel: u64,
    /// The most that one answer took, in bytes of memory.
    pub memory: usize,
    /// What does not hold; nothing if all does.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether everything holds.
    pub fn conforms(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Asks `questions` random questions of the policy's kind. The same `seed` asks
/// the same ones; `progress` is told how many are done. Blocks for as long as
/// the policy takes.
pub fn run(policy: &Policy, seed: u64, questions: u32, mut progress: impl FnMut(u32)) -> Report {
    let mut report = Report { order_free: is_order_free(policy), ..Report::default() };
    for number in 0..questions {
        let question = generate::question(policy.kind(), seed, number);
        report.questions += 1;
        ask(policy, seed, number, question, &mut report);
        progress(report.questions);
    }
    if report.answered == 0
        && report.findings.is_empty()
        && let Some(number) = questions.checked_sub(1)
    {
        let question = generate::question(policy.kind(), seed, number);
        let problem = format!("all {} questions were refused", report.questions);
        note(&mut report, Property::Answers, number, problem, question);
    }
    report.findings.sort_by_key(|finding| finding.property);
    report
}

/// Whether the policy says that its decisions do not hang on the order of tables.
fn is_order_free(policy: &Policy) -> bool {
    let kind = policy.kind().as_str();
    let said = policy.description().attributes.iter().find(|attribute| attribute.key == ORDER_FREE);
    said.is_some_and(|said| said.value.split_whitespace().any(|word| word == kind))
}

fn ask(policy: &Policy, seed: u64, number: u32, question: Question, report: &mut Report) {
    let first = policy.answer(&question);
    report.fuel = report.fuel.max(first.fuel);
    report.memory = report.memory.max(first.memory);
    let found = match &first.outcome {
        Ok(answer) => {
            report.answered += 1;
            let lines = answer.lines(&question);
            let bare = lines.iter().find(|line| line.reason.is_empty());
            bare.map(|line| (Property::Reasons, format!("{} has no reason", line.subject)))
        }
        Err(error) if error.is_refusal() => {
            report.refused += 1;
            None
        }
        Err(error) => Some((if is_over(error) { Property::Budget } else { Property::Legal }, error.to_string())),
    };
    let found = found
        .or_else(|| differs(&first, &policy.answer(&question)).map(|what| (Property::Deterministic, what)))
        .or_else(|| {
            let order = report.order_free.then(|| hangs_on_order(policy, seed, &question, &first)).flatten();
            order.map(|what| (Property::OrderFree, what))
        });
    if let Some((property, problem)) = found {
        note(report, property, number, problem, question);
    }
}

const fn is_over(error: &DecisionError) -> bool {
    matches!(
        error,
        DecisionError::OutOfFuel { .. }
            | DecisionError::Deadline { .. }
            | DecisionError::Memory { .. }
            | DecisionError::OutputTooLarge { .. }
    )
}

/// Counts it, and keeps the smallest question that shows the property.
fn note(report: &mut Report, property: Property, number: u32, problem: String, question: Question) {
    let known = report.findings.iter_mut().find(|finding| finding.property == property);
    match known {
        None => report.findings.push(Finding { property, cases: 1, number, problem, question }),
        Some(known) => {
            known.cases += 1;
            if question.members() < known.question.members() {
                (known.number, known.problem, known.question) = (number, problem, question);
            }
        }
    }
}

fn differs(first: &Tried<Answer>, second: &Tried<Answer>) -> Option<String> {
    if first.outcome != second.outcome {
        return Some("asked twice, it answered in two ways".to_owned());
    }
    // A deadline is the clock's: how far it got until then says nothing.
    let timed = matches!(first.outcome, Err(DecisionError::Deadline { .. }));
    (first.fuel != second.fuel && !timed)
        .then(|| format!("asked twice, it used {} and {} fuel", first.fuel, second.fuel))
}

fn hangs_on_order(policy: &Policy, seed: u64, question: &Question, first: &Tried<Answer>) -> Option<String> {
    let reordered = generate::reordered(question, seed);
    let second = policy.answer(&reordered);
    match (&first.outcome, &second.outcome) {
        (Ok(one), Ok(other)) => {
            let decided = |answer: &Answer, question: &Question| -> Vec<(String, Option<String>)> {
                answer.lines(question).into_iter().map(|line| (line.subject, line.place)).collect()
            };
            let (one, other) = (decided(one, question), decided(other, &reordered));
            let (one, other) = one.into_iter().zip(other).find(|(one, other)| one != other)?;
            let shown = |(subject, place): (String, Option<String>)| {
                place.map_or_else(|| subject.clone(), |place| format!("{subject} on {place}"))
            };
            Some(format!("with its tables in another order it decides {} instead of {}", shown(other), shown(one)))
        }
        (Err(one), Err(other)) if one.reason() == other.reason() => None,
        (Err(one), Ok(_)) => Some(format!("with its tables in another order it answers instead of: {one}")),
        (_, Err(other)) => Some(format!("with its tables in another order it does not answer: {other}")),
    }
}

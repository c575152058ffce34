//! The latest records, compressed, within a number of bytes. Does no I/O and
//! knows no thread.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Outcome, Record, Role};

/// What a list of records shows of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// See [`Record::number`].
    pub number: u64,
    /// See [`Record::at_ms`].
    pub at_ms: u64,
    /// `namespace/name`.
    pub group: String,
    /// `naming`, `placement` or `scaling`.
    pub kind: String,
    /// See [`Record::role`].
    pub role: Role,
    /// As the policy file names it.
    pub plugin: String,
    /// `answered`, or the condition reason.
    pub outcome: String,
    /// The first line of the answer with its reason, or why there is none.
    pub text: String,
}

impl Summary {
    /// Of one record.
    pub fn of(record: &Record) -> Self {
        let (outcome, text) = match &record.outcome {
            Outcome::Answered(answer) => {
                let lines = answer.lines(&record.question);
                let more = match lines.len() {
                    0 | 1 => String::new(),
                    several => format!(" (and {} more)", several - 1),
                };
                let text = lines.first().map(|line| format!("{}: {}{more}", line.subject, line.reason));
                ("answered".to_owned(), text.unwrap_or_default())
            }
            Outcome::Failed { reason, message } => (reason.clone(), message.clone()),
        };
        Self {
            number: record.number,
            at_ms: record.at_ms,
            group: record.group(),
            kind: record.question.kind().to_string(),
            role: record.role,
            plugin: record.policy.plugin.clone(),
            outcome,
            text,
        }
    }
}

/// Which records are wanted. All that is given has to fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// `namespace/name`.
    pub group: Option<String>,
    /// `naming`, `placement` or `scaling`.
    pub kind: Option<String>,
    /// At most so many: the latest.
    pub limit: Option<usize>,
}

impl Filter {
    /// Whether one is wanted, however many there are.
    pub fn admits(&self, summary: &Summary) -> bool {
        self.group.as_ref().is_none_or(|group| *group == summary.group)
            && self.kind.as_ref().is_none_or(|kind| *kind == summary.kind)
    }
}

/// A record as it is kept: a frame of zstd, and what a list shows of it.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) summary: Summary,
    pub(crate) frame: Vec<u8>,
}

impl Kept {
    /// Unpacked. What was packed by this process can be read by it.
    pub(crate) fn record(&self) -> Option<Record> {
        let line = zstd::stream::decode_all(&self.frame[..]).ok()?;
        Record::from_line(&line).ok()
    }

    /// Roughly what it takes of memory.
    fn bytes(&self) -> usize {
        self.frame.len() + self.summary.text.len() + self.summary.group.len() + 200
    }
}

/// Bounded by bytes: the oldest go first.
#[derive(Debug)]
pub(crate) struct Ring {
    kept: VecDeque<Arc<Kept>>,
    bytes: usize,
    limit: usize,
}

impl Ring {
    pub(crate) fn new(limit: usize) -> Self {
        Self { kept: VecDeque::new(), bytes: 0, limit }
    }

    pub(crate) fn push(&mut self, kept: Kept) {
        self.bytes += kept.bytes();
        self.kept.push_back(Arc::new(kept));
        while self.bytes > self.limit
            && let Some(oldest) = self.kept.pop_front()
        {
            self.bytes -= oldest.bytes();
        }
    }

    /// The latest that fit, the oldest of them first.
    pub(crate) fn select(&self, filter: &Filter) -> Vec<Arc<Kept>> {
        let fitting = self.kept.iter().rev().filter(|kept| filter.admits(&kept.summary));
        let mut selected: Vec<_> = fitting.take(filter.limit.unwrap_or(usize::MAX)).cloned().collect();
        selected.reverse();
        selected
    }

    pub(crate) fn get(&self, number: u64) -> Option<Arc<Kept>> {
        self.kept.iter().find(|kept| kept.summary.number == number).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(number: u64, group: &str, kind: &str) -> Kept {
        Kept {
            summary: Summary {
                number,
                at_ms: 0,
                group: group.to_owned(),
                kind: kind.to_owned(),
                role: Role::InForce,
                plugin: String::new(),
                outcome: String::new(),
                text: String::new(),
            },
            frame: vec![0; 1000],
        }
    }

    fn numbers(ring: &Ring, filter: &Filter) -> Vec<u64> {
        ring.select(filter).iter().map(|kept| kept.summary.number).collect()
    }

    #[test]
    fn the_oldest_give_way() {
        let mut ring = Ring::new(3_700);
        for number in 1..=5 {
            ring.push(kept(number, "a/b", "naming"));
        }
        assert_eq!(numbers(&ring, &Filter::default()), [3, 4, 5]);
        assert!(ring.get(2).is_none());
        assert_eq!(ring.get(4).unwrap().summary.number, 4);
    }

    #[test]
    fn one_that_is_too_large_does_not_stay() {
        let mut ring = Ring::new(10);
        ring.push(kept(1, "a/b", "naming"));
        assert_eq!(ring.len(), 0);
        assert_eq!(ring.bytes, 0);
    }

    #[test]
    fn the_latest_that_fit_are_selected() {
        let mut ring = Ring::new(1 << 20);
        for number in 1..=6 {
            let group = if number % 2 == 0 { "even/one" } else { "odd/one" };
            ring.push(kept(number, group, if number > 3 { "scaling" } else { "naming" }));
        }
        let even = Filter { group: Some("even/one".to_owned()), ..Filter::default() };
        assert_eq!(numbers(&ring, &even), [2, 4, 6]);
        assert_eq!(numbers(&ring, &Filter { limit: Some(2), ..even.clone() }), [4, 6]);
        assert_eq!(numbers(&ring, &Filter { kind: Some("naming".to_owned()), ..even }), [2]);
    }
}

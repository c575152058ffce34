//! Why a machine is called what it is called, is where it is, and had to go or
//! not: read from the records. Pure.

use serde::{Deserialize, Serialize};
use vmgroup_policy::{Answer, Question};

use crate::{Asked, Outcome, Record, Role};

/// What the records say about one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Its name.
    pub vm: String,
    /// The decision that gave it its name.
    pub named: Option<Said>,
    /// The decision that put it where it was made.
    pub placed: Option<Said>,
    /// The latest decision in which it could have been chosen to leave.
    pub leaving: Option<Considered>,
}

/// Which decision it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// See [`Record::number`].
    pub number: u64,
    /// See [`Record::at_ms`].
    pub at_ms: u64,
    /// As what the policy was asked.
    pub role: Role,
    /// The policy.
    pub policy: Asked,
}

/// What a policy said about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// In which decision.
    pub decision: Decision,
    /// `cluster/host/datastore`, of a placement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// In the policy's words.
    pub reason: String,
}

/// A choice in which it stood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Considered {
    /// Which.
    pub decision: Decision,
    /// How many had to leave.
    pub count: u32,
    /// How many there were.
    pub members: usize,
    /// Why it was chosen; nothing if it was not.
    pub chosen: Option<String>,
    /// Who was chosen instead, with the reasons.
    pub instead: Vec<(String, String)>,
}

impl Explanation {
    /// Whether the records know it at all.
    pub const fn is_empty(&self) -> bool {
        self.named.is_none() && self.placed.is_none() && self.leaving.is_none()
    }
}

/// Looks through the records of its group, the oldest first. Where a name was
/// given more than once, the latest counts; policies on trial do not.
pub fn explain(records: impl IntoIterator<Item = Record>, vm: &str) -> Explanation {
    let mut explanation = Explanation { vm: vm.to_owned(), ..Explanation::default() };
    for record in records.into_iter().filter(|record| record.role != Role::Shadow) {
        let record = &record;
        let Outcome::Answered(answer) = &record.outcome else { continue };
        let lines = answer.lines(&record.question);
        let said = || {
            let line = lines.iter().find(|line| line.subject == vm)?;
            Some(Said { decision: decision(record), place: line.place.clone(), reason: line.reason.clone() })
        };
        match (answer, &record.question) {
            (Answer::Naming(_), _) => {
                if let Some(said) = said() {
                    // A new machine of an old name: what was known is of the old one.
                    explanation = Explanation { named: Some(said), vm: explanation.vm, ..Explanation::default() };
                }
            }
            (Answer::Placement(_), _) => explanation.placed = said().or(explanation.placed),
            (Answer::Scaling(_), Question::Scaling(request)) if request.members.iter().any(|one| one.name == vm) => {
                explanation.leaving = Some(Considered {
                    decision: decision(record),
                    count: request.count,
                    members: request.members.len(),
                    chosen: said().map(|said| said.reason),
                    instead: lines
                        .iter()
                        .filter(|line| line.subject != vm)
                        .map(|line| (line.subject.clone(), line.reason.clone()))
                        .collect(),
                });
            }
            (Answer::Scaling(_), _) => {}
        }
    }
    explanation
}

fn decision(record: &Record) -> Decision {
    Decision { number: record.number, at_ms: record.at_ms, role: record.role, policy: record.policy.clone() }
}

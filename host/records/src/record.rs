//! The format of a record: one JSON object on one line, canonical (fields in
//! their order here, no blanks) and self-contained. Pure.

use serde::{Deserialize, Serialize};
use vmgroup_policy::wit::v0_1;
use vmgroup_policy::{Answer, Contract, DecisionError, LogLine, Policy, Question, Tried};

/// The version of the format that is written. What may be read is older or equal: 1
/// had questions in the terms of the contract 0.1, 2 has them in those of 0.2.
pub const FORMAT: u32 = 2;

/// One decision of one policy. `Q` is the question: an old line has it in the terms of
/// an older version of the contract, everything else in those of the latest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record<Q = Question> {
    /// [`FORMAT`] of when it was written.
    pub format: u32,
    /// The version of the contract (`wit/`) whose terms the question is in.
    pub contract: Contract,
    /// Counts from 1 since the start of the operator that made it. A number that
    /// is missing is a record that was dropped.
    pub number: u64,
    /// When it was asked: milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    /// As what the policy was asked.
    pub role: Role,
    /// Who was asked.
    pub policy: Asked,
    /// The question, with the configuration that the policy saw.
    #[serde(flatten)]
    pub question: Q,
    /// What came of it.
    pub outcome: Outcome,
    /// Fuel used: the same for the same question on any machine.
    pub fuel: u64,
    /// Linear memory of the sandbox at its largest, in bytes.
    pub memory: usize,
    /// How long the answer took, waiting for a processor included, in microseconds.
    pub micros: u64,
    /// What the policy logged.
    pub log: Vec<LogLine>,
}

/// As what a policy was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// It decides.
    InForce,
    /// The built-in one, because the one in force gave no answer.
    Fallback,
    /// Nobody does what it says: it is on trial beside the one in force.
    Shadow,
}

/// Which policy was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// As the policy file names it.
    pub plugin: String,
    /// As it names itself.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// What identifies its code.
    pub digest: String,
}

impl Asked {
    /// This policy.
    pub fn of(policy: &Policy) -> Self {
        let description = policy.description();
        Self {
            plugin: policy.plugin().to_owned(),
            name: description.name.clone(),
            version: description.version.clone(),
            digest: policy.digest().to_string(),
        }
    }
}

/// What came of a question, after the host's checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// A legal answer.
    Answered(Answer),
    /// None: nothing was done.
    Failed {
        /// The condition reason, such as `PolicyTrapped`.
        reason: String,
        /// In words.
        message: String,
    },
}

impl Outcome {
    /// Of what the policy host gave.
    pub fn of(result: Result<Answer, DecisionError>) -> Self {
        match result {
            Ok(answer) => Self::Answered(answer),
            Err(error) => Self::Failed { reason: error.reason().to_owned(), message: error.to_string() },
        }
    }
}

/// When and as what a question was asked, and how long the answer took.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// See [`Record::at_ms`].
    pub at_ms: u64,
    /// See [`Record::role`].
    pub role: Role,
    /// See [`Record::micros`].
    pub micros: u64,
}

/// Why a line is not a record that can be used.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Not JSON, or not of this shape.
    #[error("this is not a decision record")]
    Shape(#[source] serde_json::Error),
    /// Written by a newer operator.
    #[error(
        "this record has format {found}, and this program reads up to {FORMAT}: use the vmgroup that wrote it, or a newer one"
    )]
    Newer {
        /// Its [`Record::format`].
        found: u32,
    },
}

impl Record {
    /// The record of a decision. `question` is as it was put; the configuration
    /// that the policy saw is written into it.
    pub fn new(policy: &Policy, mut question: Question, tried: Tried<Answer>, made: Made, number: u64) -> Self {
        question.context_mut().config.clear();
        question.context_mut().config.push_str(policy.config_text());
        let Tried { outcome, fuel, memory, log } = tried;
        Self {
            format: FORMAT,
            contract: Contract::LATEST,
            number,
            at_ms: made.at_ms,
            role: made.role,
            policy: Asked::of(policy),
            question,
            outcome: Outcome::of(outcome),
            fuel,
            memory,
            micros: made.micros,
            log,
        }
    }

    /// `namespace/name` of the group.
    pub fn group(&self) -> String {
        let group = &self.question.context().group;
        format!("{}/{}", group.namespace, group.name)
    }

    /// As one line, with its end.
    pub fn to_line(&self) -> Vec<u8> {
        // Strings, numbers and lists: there is nothing in it that JSON cannot hold.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// Reads one line, of this format or an older one, into today's.
    pub fn from_line(line: &[u8]) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        #[derive(Deserialize)]
        struct InTermsOf {
            contract: Contract,
        }
        // The version first: the shape of a newer one would only confuse.
        let Versioned { format } = serde_json::from_slice(line).map_err(FormatError::Shape)?;
        if format > FORMAT {
            return Err(FormatError::Newer { found: format });
        }
        let InTermsOf { contract } = serde_json::from_slice(line).map_err(FormatError::Shape)?;
        match contract {
            Contract::V0_1 => {
                let then: Record<v0_1::Question> = serde_json::from_slice(line).map_err(FormatError::Shape)?;
                Ok(Self::from(then))
            }
            Contract::V0_2 => serde_json::from_slice(line).map_err(FormatError::Shape),
        }
    }
}

/// In today's format and terms.
impl From<Record<v0_1::Question>> for Record {
    fn from(then: Record<v0_1::Question>) -> Self {
        let Record {
            format: _,
            contract: _,
            number,
            at_ms,
            role,
            policy,
            question,
            outcome,
            fuel,
            memory,
            micros,
            log,
        } = then;
        let (format, contract, question) = (FORMAT, Contract::LATEST, Question::from(question));
        Self { format, contract, number, at_ms, role, policy, question, outcome, fuel, memory, micros, log }
    }
}

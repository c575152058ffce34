//! What comes of a question: an answer with what it cost, or why there is none.
//! Plain data; knows no engine.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::check_answer::BadAnswer;
use crate::wit::log::Level;
use crate::wit::types::Refusal;

/// An answer that has been checked against its question, and what it cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided<A> {
    /// The answer; reasons are tidied to one line of
    /// [`REASON_CHARS`](crate::REASON_CHARS) characters.
    pub answer: A,
    /// Fuel used: the same for the same question on any machine.
    pub fuel: u64,
    /// Linear memory of the sandbox at its largest, in bytes.
    pub memory: usize,
    /// What the policy logged.
    pub log: Vec<LogLine>,
}

/// A line that a policy wrote through `log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// How loud.
    pub level: Level,
    /// One line of text.
    pub message: String,
}

/// Why there is no answer. In every case nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecisionError {
    /// The policy gives none, in its own words.
    #[error("{}", refusal_text(.0))]
    Refused(Refusal),
    /// It crashed.
    #[error("the policy crashed: {trap}{}", said_text(.said.as_ref()))]
    Trap {
        /// WebAssembly's name of the trap: `unreachable`, out of bounds, …
        trap: String,
        /// The last line it logged at level error, which is where the SDK
        /// writes a panic's message.
        said: Option<String>,
    },
    /// It used up its instructions.
    #[error("the policy used up its budget of {budget} instructions")]
    OutOfFuel {
        /// [`Limits::fuel`](crate::Limits::fuel).
        budget: u64,
    },
    /// It took too long.
    #[error("the policy took longer than {} ms", .limit.as_millis())]
    Deadline {
        /// [`Limits::deadline`](crate::Limits::deadline).
        limit: Duration,
    },
    /// It wanted more memory or table space than it may have.
    #[error("the policy asked for {asked} {what}, at most {limit} are allowed")]
    Memory {
        /// `bytes of memory` or `table elements`.
        what: &'static str,
        /// What it asked for, over all.
        asked: usize,
        /// What it may have.
        limit: usize,
    },
    /// It handed over more than it may.
    #[error("the policy's answer is larger than the {limit} bytes that are allowed")]
    OutputTooLarge {
        /// [`Limits::output_bytes`](crate::Limits::output_bytes).
        limit: usize,
    },
    /// Its answer breaks the rules of the contract.
    #[error("the policy's answer cannot be used: {0}")]
    BadAnswer(BadAnswer),
    /// The sandbox could not be made or the call not be put.
    #[error("the policy could not be asked: {0}")]
    Host(String),
}

impl DecisionError {
    /// The condition reason of the contract (`refusal` in `types.wit`) and of
    /// the limits: one word in camel case, also the label of the metric.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Refused(Refusal::Unsatisfiable(_)) => "PolicyUnsatisfiable",
            Self::Refused(Refusal::NotNow(_)) => "PolicyNotNow",
            Self::Refused(Refusal::Config(_)) => "PolicyConfig",
            Self::Refused(Refusal::Other(_)) | Self::Host(_) => "PolicyError",
            Self::Trap { .. } => "PolicyTrapped",
            Self::OutOfFuel { .. } => "PolicyOutOfFuel",
            Self::Deadline { .. } => "PolicyTooSlow",
            Self::Memory { .. } => "PolicyOutOfMemory",
            Self::OutputTooLarge { .. } => "PolicyAnswerTooLarge",
            Self::BadAnswer(_) => "PolicyBadAnswer",
        }
    }

    /// Whether the policy is at fault: it crashed, overran a limit or broke a rule.
    pub const fn is_fault(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::Host(_))
    }

    /// Whether the policy spoke for itself (a refusal) and did nothing wrong.
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

fn refusal_text(refusal: &Refusal) -> &str {
    let (Refusal::Unsatisfiable(text) | Refusal::NotNow(text) | Refusal::Config(text) | Refusal::Other(text)) = refusal;
    if text.is_empty() { "the policy refuses and gives no reason" } else { text }
}

fn said_text(said: Option<&String>) -> String {
    said.map(|said| format!(" (its last error: {said})")).unwrap_or_default()
}

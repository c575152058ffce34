//! The policy host: loads, checks, runs and swaps policies, which are
//! WebAssembly components behind the contract in `wit/`.
//!
//! [`Host::check`] takes a plugin's bytes through all stages and gives a
//! [`Policy`]; a policy is asked in a fresh sandbox for each question, and what
//! it answers is checked against the question before anybody sees it
//! ([`check_answer`]). A [`PolicySet`] is what decides together.
//!
//! Knows wasmtime. Must not know Kubernetes, vSphere or the operator's API, and
//! does no I/O: bytes come in, decisions go out.

pub mod check_answer;
pub mod conformance;
pub mod generate;
pub mod shipped;
pub mod signature;
pub mod wit;

mod check;
mod contract;
mod decision;
mod host;
mod inspect;
mod kind;
mod limits;
mod policy;
mod policy_set;
mod question;
mod sandbox;
mod schema;
mod self_test;
mod shape;
mod source;
mod text;

pub use check::{CheckError, Checked, ConfigProblem, Problem, Stage, StageReport};
pub use check_answer::BadAnswer;
pub use contract::Contract;
pub use decision::{Decided, DecisionError, LogLine};
pub use host::{Host, HostError};
pub use inspect::{Inspection, Producer, Section};
pub use kind::Kind;
pub use limits::Limits;
pub use policy::Policy;
pub use policy_set::PolicySet;
pub use question::{Answer, Line, Question, Tried};
pub use shape::{InterfaceProblem, ParseProblem};
pub use source::{Digest, SizeProblem, Source, unpacked_size};
pub use text::{MESSAGE_CHARS, REASON_CHARS};

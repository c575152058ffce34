//! Decision records: each question that a policy was asked, with its answer and
//! what the host made of it, so that "why had this machine to go?" has an answer
//! tomorrow, and tomorrow's policy can be tried on yesterday's questions.
//!
//! [`Record`] is the format, [`Recorder`] keeps records in memory and in files
//! without ever holding up who decides, [`read`] reads them again, and
//! [`Replay`] puts them to another policy.
//!
//! Knows the contract (`vmgroup-policy`). Must not know Kubernetes, vSphere or
//! the operator; a record is made of what a policy may see, so no secret can be
//! in it.

pub mod html;

mod explain;
mod files;
mod read;
mod record;
mod recorder;
mod replay;
mod ring;

pub use explain::{Considered, Decision, Explanation, Said, explain};
pub use files::FileSettings;
pub use read::{Lines, ReadError, lines, read};
pub use record::{Asked, FORMAT, FormatError, Made, Outcome, Record, Role};
pub use recorder::{Entry, Recorder, RecorderError, Settings, Standing};
pub use replay::{Difference, Replay, Replayed, Side, Verdict};
pub use ring::{Filter, Summary};

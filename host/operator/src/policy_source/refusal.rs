//! Why policies are not in force, in words that name the place and the remedy. Must
//! not know how that was found out.

use std::fmt;

use vmgroup_api::policy_file;
use vmgroup_policy::{ConfigProblem, Kind, Problem};

use super::serving::Serving;

/// The stage of a [`Refusal`] that came after the swap: it failed at work.
pub const AT_WORK: &str = "at-work";

/// Why the offered policies are not in force. What was in force before is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error("{} {}: {message}", Quoted(plugin), Fate(stage))]
pub struct Refusal {
    /// Where it failed: `config-map` or `folder`, `policy-file`, `source`, a stage of the
    /// check, or [`AT_WORK`]: then it was in force, and was taken back.
    pub stage: String,
    /// The plugin as the policy file names it; empty where none is to blame.
    pub plugin: String,
    /// What is wrong.
    pub message: String,
    /// What to do, in one sentence.
    pub remedy: String,
    /// The `metadata.resourceVersion` of the refused ConfigMap; empty for a folder.
    pub resource_version: String,
}

impl Refusal {
    /// Whether it was in force, and was taken back.
    pub fn rolled_back(&self) -> bool {
        self.stage == AT_WORK
    }

    /// What is wrong, what serves instead and what to do, in at most `limit` bytes:
    /// the remedy must survive, so what is wrong gives way.
    pub fn told(&self, serving: &Serving, limit: usize) -> String {
        let Self { remedy, resource_version, .. } = self;
        let offered = match resource_version.as_str() {
            "" => String::new(),
            version => format!(" (resourceVersion {version} is not)"),
        };
        let tail = format!(" Remedy: {remedy} In force: {}{offered}.", serving.told());
        let head = self.to_string();
        let room = limit.saturating_sub(tail.len() + '…'.len_utf8());
        if head.len() <= room {
            return format!("{head}.{tail}");
        }
        format!("{}…{tail}", &head[..head.floor_char_boundary(room)])
    }
}

struct Fate<'a>(&'a str);

impl fmt::Display for Fate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == AT_WORK { f.write_str("rolled back") } else { write!(f, "refused at stage {}", self.0) }
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("policies") } else { write!(f, "plugin `{}`", self.0) }
    }
}

/// What is wrong with a plugin, and where in the policy file, if it is its
/// configuration.
pub fn with_lines(problem: &Problem, kind: Kind, policy_file: &str) -> String {
    with_lines_below(problem, &format!("/{kind}/config"), policy_file)
}

/// The same where the configuration is at this JSON pointer.
pub(super) fn with_lines_below(problem: &Problem, config: &str, policy_file: &str) -> String {
    let Problem::Config(mistakes) = problem else { return problem.to_string() };
    let located = mistakes.iter().map(|mistake| {
        let ConfigProblem { path, message } = mistake.clone();
        let line = policy_file::line_of(policy_file, &format!("{config}{path}"));
        let path = match (line, path.as_str()) {
            (None, _) => path,
            (Some(line), "") => format!("line {line}"),
            (Some(line), path) => format!("{path} (line {line})"),
        };
        ConfigProblem { path, message }
    });
    Problem::Config(located.collect()).to_string()
}

/// The line of the policy file that a mistake is in.
pub fn line_of(mistake: &ConfigProblem, kind: Kind, policy_file: &str) -> Option<u64> {
    policy_file::line_of(policy_file, &format!("/{kind}/config{}", mistake.path))
}

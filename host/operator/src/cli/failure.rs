//! How a failed command says so: a sentence for people, or, where the result was
//! wanted as JSON, an object on standard error. Decides nothing.

use std::ffi::OsString;
use std::io::Write as _;

use serde_json::{Value, json};
use vmgroup_policy::CheckError;

use super::{CliError, chain, policy};

/// Whether programs read what this command prints.
pub(super) fn wants_json(arguments: &[OsString]) -> bool {
    let words: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    words.contains(&"--output=json") || words.windows(2).any(|pair| pair == ["--output", "json"])
}

/// Tells why a command failed. A closed standard error is nobody's concern.
pub(super) fn tell(error: &CliError, as_json: bool) {
    let text = if as_json { object(error).to_string() } else { format!("error: {}", chain(error)) };
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Tells what is wrong with the arguments.
pub(super) fn tell_usage(error: &clap::Error, as_json: bool) {
    if !as_json || !error.use_stderr() {
        let _ = error.print();
        return;
    }
    let text = error.render().to_string();
    let message = text.trim_start_matches("error: ").trim_end();
    let _ = writeln!(std::io::stderr(), "{}", json!({ "error": { "kind": "usage", "message": message } }));
}

fn object(error: &CliError) -> Value {
    let mut causes = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    let mut failure = json!({ "kind": "failed", "message": error.to_string(), "causes": causes });
    if let CliError::Policy(policy::PolicyError::Replay(policy::ReplayError::Refused(refused))) = error {
        let CheckError { stage, plugin, problem, remedy, stages: _ } = &**refused;
        failure["refusal"] = json!({
            "stage": stage.as_str(),
            "plugin": plugin,
            "problem": problem.to_string(),
            "remedy": remedy,
        });
    }
    json!({ "error": failure })
}

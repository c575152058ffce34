//! Policies on trial (`shadow:` in the policy file): read and checked like those
//! that decide, but what is wrong with one is said and harms nobody else.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmgroup_api::{PolicyEntry, PolicyFile, ShadowEntry};
use vmgroup_policy::{Kind, Policy};

use super::edition::{by_kind, source};
use super::supply::Checker;
use super::{PolicyFiles, label, with_lines_below};

/// A policy on trial.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// As the policy file names it.
    pub plugin: String,
    /// Ready to be asked, or why it cannot be.
    pub checked: Result<Arc<Policy>, Unfit>,
}

/// Why a policy cannot be on trial.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error("refused at stage {stage}: {message}")]
pub struct Unfit {
    /// `source` or `pull`, or a stage of the check.
    pub stage: String,
    /// What is wrong.
    pub message: String,
    /// What to do, in one sentence.
    pub remedy: String,
}

/// The policies on trial, one for each kind at most.
#[derive(Clone, Debug, Default)]
pub struct Candidates(BTreeMap<Kind, Candidate>);

impl Candidates {
    /// Reads those of a policy file. Takes a core for as long as compiling takes.
    pub(super) fn read(checker: &Checker, file: &PolicyFile, text: &str, files: &PolicyFiles) -> Self {
        let read = |(kind, entry): (Kind, &PolicyEntry)| {
            let ShadowEntry { plugin, config } = entry.shadow.as_ref()?;
            let result = check(checker, kind, plugin, config.clone(), text, files);
            Some((kind, Candidate { plugin: plugin.clone(), checked: result }))
        };
        let PolicyFile { naming, placement, scaling, groups: _, breaker: _, budget: _, tenants: _ } = file;
        Self(by_kind([naming, placement, scaling].map(Option::as_ref)).filter_map(read).collect())
    }

    /// The one of this kind.
    pub fn get(&self, kind: Kind) -> Option<&Candidate> {
        self.0.get(&kind)
    }

    /// The same without those of these kinds.
    pub(super) fn without<'a>(&self, kinds: impl Iterator<Item = &'a Kind>) -> Self {
        let mut left = self.clone();
        for kind in kinds {
            left.0.remove(kind);
        }
        left
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &Candidate)> {
        self.0.iter().map(|(kind, candidate)| (*kind, candidate))
    }

    /// What is different from before, a phrase for each kind.
    pub(super) fn differences(&self, old: &Self) -> Vec<String> {
        let differs = |kind: &Kind| !alike(old.get(*kind), self.get(*kind));
        let tell = |kind: Kind| match self.get(kind).map(|candidate| (&candidate.plugin, &candidate.checked)) {
            None => format!("{kind}: nothing on trial any more"),
            Some((_, Ok(policy))) => format!("{kind}: {} on trial", label(policy)),
            Some((plugin, Err(unfit))) => format!("{kind}: {plugin} cannot be on trial, {unfit}. {}", unfit.remedy),
        };
        Kind::ALL.into_iter().filter(differs).map(tell).collect()
    }
}

fn alike(one: Option<&Candidate>, other: Option<&Candidate>) -> bool {
    let what = |candidate: &Candidate| {
        let checked = candidate.checked.as_ref();
        let ready = checked.map(|policy| (policy.digest().clone(), policy.config_text().to_owned()));
        (candidate.plugin.clone(), ready.map_err(Unfit::clone))
    };
    one.map(what) == other.map(what)
}

fn check(
    checker: &Checker,
    kind: Kind,
    plugin: &str,
    config: serde_json::Map<String, serde_json::Value>,
    text: &str,
    files: &PolicyFiles,
) -> Result<Arc<Policy>, Unfit> {
    let source = source(kind, plugin, config, files).map_err(|unfound| Unfit {
        stage: unfound.stage.to_owned(),
        message: unfound.message,
        remedy: unfound.remedy,
    })?;
    checker.check(kind, &source, files).map(|checked| checked.policy).map_err(|error| Unfit {
        stage: error.stage.to_string(),
        message: with_lines_below(&error.problem, &format!("/{kind}/shadow/config"), text),
        remedy: error.remedy.replace(&format!("under `{kind}:`"), &format!("under `{kind}.shadow:`")),
    })
}

//! An edition: the content of the policy ConfigMap, read, resolved and checked as
//! a whole. Knows neither which edition is in force nor who offers them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use vmgroup_api::policy_file::{Breaker, FILE_NAME, GroupRule};
use vmgroup_api::{OnFailure, PolicyEntry, PolicyFile};
use vmgroup_policy::{Host, Kind, Policy, PolicySet, Source, shipped};

use super::rules::{self, Rule};
use super::{Candidates, ConfigMapData, Fingerprint, Refusal, Serving, label, with_lines_below};

/// What was offered, whatever became of it.
#[derive(Clone, Debug)]
pub(super) struct Content {
    /// None: there is no ConfigMap, the built-in policies are meant.
    pub(super) data: Option<ConfigMapData>,
    pub(super) fingerprint: Fingerprint,
}

impl Content {
    pub(super) fn of(data: Option<ConfigMapData>) -> Self {
        let fingerprint = data.as_ref().map_or(Fingerprint(None), ConfigMapData::fingerprint);
        Self { data, fingerprint }
    }

    /// Whether the policy file, as far as it can be read, lets the built-in policy
    /// choose who leaves where its own does not.
    pub(super) fn lets_builtin_choose(&self) -> bool {
        let text = self.data.as_ref().and_then(|data| data.policy_yaml.as_deref());
        let scaling = text.and_then(|text| PolicyFile::parse(text).ok()).and_then(|file| file.scaling);
        scaling.is_some_and(|scaling| scaling.on_failure == OnFailure::Builtin)
    }
}

/// Checked policies that may be swapped in.
#[derive(Clone)]
pub(super) struct Edition {
    pub(super) content: Content,
    pub(super) set: Arc<PolicySet>,
    pub(super) candidates: Arc<Candidates>,
    pub(super) rules: Arc<[Rule]>,
    pub(super) naming: OnFailure,
    pub(super) placement: OnFailure,
    pub(super) scaling: OnFailure,
    pub(super) breaker: Breaker,
}

impl Edition {
    /// The built-in defaults.
    pub(super) fn builtin(set: Arc<PolicySet>) -> Self {
        Self {
            content: Content::of(None),
            set,
            candidates: Arc::default(),
            rules: Arc::default(),
            naming: OnFailure::Hold,
            placement: OnFailure::Hold,
            scaling: OnFailure::Hold,
            breaker: Breaker::default(),
        }
    }

    /// Reads, resolves and checks. Takes a core for as long as compiling takes.
    pub(super) fn read(host: &Host, builtin: &Arc<PolicySet>, content: &Content) -> Result<Self, Refusal> {
        let Some(data) = &content.data else { return Ok(Self::builtin(builtin.clone())) };
        let refuse = |stage: &str, plugin: &str, message: String, remedy: String| Refusal {
            stage: stage.to_owned(),
            plugin: plugin.to_owned(),
            message,
            remedy,
            resource_version: data.resource_version.clone(),
        };
        let Some(text) = &data.policy_yaml else {
            return Err(refuse(
                "config-map",
                "",
                format!("the ConfigMap has no `{FILE_NAME}`"),
                format!(
                    "Add a key `{FILE_NAME}` under `data` that names a plugin for naming, placement or scaling, or delete the ConfigMap to use the built-in policies."
                ),
            ));
        };
        let file = PolicyFile::parse(text).map_err(|error| {
            refuse(
                "policy-file",
                "",
                error.to_string(),
                format!("Correct `{FILE_NAME}`: the top-level keys are naming, placement and scaling, each with plugin, config, onFailure and shadow, and groups and breaker."),
            )
        })?;
        let check_one = |kind: Kind, entry: PolicyEntry, above: &str| {
            let PolicyEntry { plugin, config, on_failure, shadow: _ } = entry;
            let bytes = data.binaries.get(&plugin).cloned().or_else(|| shipped::find(&plugin).map(|shipped| shipped.bytes)).ok_or_else(|| {
                refuse("source", &plugin, format!("no plugin `{plugin}` for {kind}: {}", what_there_is(kind, &data.binaries)), format!("Add `{plugin}` to `binaryData` (kubectl create configmap … --from-file={plugin}), or name one that is there."))
            })?;
            let source = Source { name: plugin, bytes, config: serde_json::Value::Object(config) };
            host.check(kind, &source).map(|checked| (checked.policy, on_failure)).map_err(|error| {
                let message = with_lines_below(&error.problem, &format!("{above}/{kind}/config"), text);
                let remedy =
                    error.remedy.replace(&format!("under `{kind}:`"), &format!("under `{}`", in_words(above, kind)));
                refuse(&error.stage.to_string(), &source.name, message, remedy)
            })
        };
        let check = |kind: Kind, entry: Option<PolicyEntry>, default: &Arc<Policy>| {
            entry.map_or_else(|| Ok((default.clone(), OnFailure::Hold)), |entry| check_one(kind, entry, ""))
        };
        let check_rule = |(index, rule): (usize, GroupRule)| {
            let GroupRule { name, select, percent, naming, placement, scaling } = rule;
            let mut policies = BTreeMap::new();
            for (kind, entry) in [(Kind::Naming, naming), (Kind::Placement, placement), (Kind::Scaling, scaling)] {
                if let Some(entry) = entry {
                    policies.insert(kind, check_one(kind, entry, &format!("/groups/{index}"))?);
                }
            }
            Ok(Rule { name, select, percent, policies })
        };
        let candidates = Candidates::read(host, &file, text, &data.binaries);
        let PolicyFile { naming, placement, scaling, groups, breaker } = file;
        let (naming, on_naming) = check(Kind::Naming, naming, &builtin.naming)?;
        let (placement, on_placement) = check(Kind::Placement, placement, &builtin.placement)?;
        let (scaling, on_scaling) = check(Kind::Scaling, scaling, &builtin.scaling)?;
        let rules = groups.into_iter().enumerate().map(check_rule).collect::<Result<Vec<Rule>, Refusal>>()?;
        Ok(Self {
            content: content.clone(),
            set: Arc::new(PolicySet { naming, placement, scaling }),
            candidates: Arc::new(candidates),
            rules: rules.into(),
            naming: on_naming,
            placement: on_placement,
            scaling: on_scaling,
            breaker,
        })
    }

    /// Whether it would ask this policy, whomever for.
    pub(super) fn asks(&self, kind: Kind, policy: &Policy) -> bool {
        let of_rules = self.rules.iter().filter_map(|rule| rule.policies.get(&kind)).map(|(policy, _)| policy);
        of_rules.chain([self.set.get(kind)]).any(|other| decides_alike(other, policy))
    }

    /// What would be different from now, a phrase for each kind that changes.
    pub(super) fn differences(&self, old: &Serving) -> Vec<String> {
        [
            difference(Kind::Naming, (&old.set.naming, old.naming), (&self.set.naming, self.naming)),
            difference(Kind::Placement, (&old.set.placement, old.placement), (&self.set.placement, self.placement)),
            difference(Kind::Scaling, (&old.set.scaling, old.scaling), (&self.set.scaling, self.scaling)),
        ]
        .into_iter()
        .flatten()
        .chain(rules::differences(&old.rules, &self.rules))
        .chain(self.candidates.differences(&old.candidates))
        .collect()
    }
}

/// A place in the policy file as people say it: `scaling:`, `groups[0].scaling:`.
fn in_words(above: &str, kind: Kind) -> String {
    match above.strip_prefix("/groups/") {
        Some(index) => format!("groups[{index}].{kind}:"),
        None => format!("{kind}:"),
    }
}

/// The same code with the same configuration.
pub(super) fn decides_alike(one: &Policy, other: &Policy) -> bool {
    one.digest() == other.digest() && one.config() == other.config()
}

fn difference(
    kind: Kind,
    (old, old_failure): (&Policy, OnFailure),
    (new, new_failure): (&Policy, OnFailure),
) -> Option<String> {
    let mut said = Vec::new();
    if old.plugin() != new.plugin() || old.digest() != new.digest() {
        said.push(format!("{} instead of {}", label(new), label(old)));
    } else if !decides_alike(old, new) {
        said.push(format!("{} with a new configuration", label(new)));
    }
    if old_failure != new_failure {
        said.push(match new_failure {
            OnFailure::Hold => "holds on failure".to_owned(),
            OnFailure::Builtin => "falls back to the built-in on failure".to_owned(),
            OnFailure::Previous => "falls back to its predecessor on failure".to_owned(),
        });
    }
    (!said.is_empty()).then(|| format!("{kind}: {}", said.join(", ")))
}

/// What could have been meant: the ConfigMap's plugins and the shipped ones of this kind.
pub(super) fn what_there_is(kind: Kind, binaries: &BTreeMap<String, Bytes>) -> String {
    let keys: Vec<&str> = binaries.keys().map(String::as_str).take(20).collect();
    let shipped: Vec<&str> = shipped::all().iter().filter(|it| it.kind == kind).map(|it| it.name).collect();
    let keys = if keys.is_empty() {
        "`binaryData` is empty".to_owned()
    } else {
        format!("`binaryData` has {}", keys.join(", "))
    };
    format!("{keys}; shipped for {kind}: {}", shipped.join(", "))
}

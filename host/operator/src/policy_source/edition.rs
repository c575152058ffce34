//! An edition: a policy file and its plugins, read, resolved and checked as
//! a whole. Knows neither which edition is in force nor who offers them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use vmgroup_api::policy_file::{Breaker, Budget, FILE_NAME, GroupRule, Tenants};
use vmgroup_api::{OnFailure, PolicyEntry, PolicyFile};
use vmgroup_policy::{Kind, Policy, PolicySet, Source, shipped};
use vmgroup_registry::SCHEME;

use super::rules::{self, Rule, Served};
use super::supply::{Absent, Checker};
use super::{Candidates, Fingerprint, Origin, PolicyFiles, Refusal, Serving, label, with_lines_below};

/// What was offered, whatever became of it.
#[derive(Clone, Debug)]
pub(super) struct Content {
    /// None: there is no ConfigMap, the built-in policies are meant.
    pub(super) data: Option<PolicyFiles>,
    pub(super) fingerprint: Fingerprint,
}

impl Content {
    pub(super) fn of(data: Option<PolicyFiles>) -> Self {
        let fingerprint = data.as_ref().map_or(Fingerprint(None), PolicyFiles::fingerprint);
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
    /// Of the kinds that the file names.
    pub(super) on_failure: BTreeMap<Kind, OnFailure>,
    pub(super) breaker: Breaker,
    pub(super) budget: Budget,
    /// Who may bring policies of his own.
    pub(super) tenants: Option<Arc<Tenants>>,
}

/// Whose policies are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// Who may do everything.
    Administrator,
    /// Somebody in a namespace, who may use up less.
    Namespace,
}

/// The most that all plugins of a namespace together may unpack to, in bytes.
const NAMESPACE_BYTES: usize = 4 << 20;

impl Edition {
    /// The built-in defaults.
    pub(super) fn builtin(set: Arc<PolicySet>) -> Self {
        Self {
            content: Content::of(None),
            set,
            candidates: Arc::default(),
            rules: Arc::default(),
            on_failure: BTreeMap::new(),
            breaker: Breaker::default(),
            budget: Budget::default(),
            tenants: None,
        }
    }

    /// Reads, resolves and checks. Takes a core for as long as compiling takes.
    pub(super) fn read(
        checker: &Checker,
        builtin: &Arc<PolicySet>,
        content: &Content,
        reader: Reader,
    ) -> Result<Self, Refusal> {
        let Some(data) = &content.data else { return Ok(Self::builtin(builtin.clone())) };
        let refuse = |stage: &str, plugin: &str, message: String, remedy: String| Refusal {
            stage: stage.to_owned(),
            plugin: plugin.to_owned(),
            message,
            remedy,
            resource_version: data.resource_version.clone(),
        };
        let Some(text) = &data.policy_yaml else {
            return Err(match &data.origin {
                Origin::ConfigMap => refuse(
                    "config-map",
                    "",
                    format!("the ConfigMap has no `{FILE_NAME}`"),
                    format!(
                        "Add a key `{FILE_NAME}` under `data` that names a plugin for naming, placement or scaling, or delete the ConfigMap to use the built-in policies."
                    ),
                ),
                Origin::Folder { problem } => refuse(
                    "folder",
                    "",
                    problem.clone().unwrap_or_else(|| format!("the folder has no `{FILE_NAME}`")),
                    format!(
                        "Put a readable `{FILE_NAME}` there that names a plugin for naming, placement or scaling; an empty one means the built-in policies."
                    ),
                ),
            });
        };
        let file = PolicyFile::parse(text).map_err(|error| {
            refuse(
                "policy-file",
                "",
                error.to_string(),
                format!("Correct `{FILE_NAME}`: the top-level keys are naming, placement and scaling, each with plugin, config, onFailure and shadow, and groups, breaker, budget and tenants."),
            )
        })?;
        if reader == Reader::Namespace {
            let (message, remedy) = not_for_namespaces(&file, &data.binaries);
            if let Some(message) = message {
                return Err(refuse("tenants", "", message, remedy.to_owned()));
            }
        }
        let check_one = |kind: Kind, entry: PolicyEntry, above: &str| {
            let PolicyEntry { plugin, config, on_failure, shadow: _ } = entry;
            let source = source(kind, &plugin, config, data)
                .map_err(|unfound| refuse(unfound.stage, &plugin, unfound.message, unfound.remedy))?;
            checker.check(kind, &source, data).map(|checked| (checked.policy, on_failure)).map_err(|error| {
                let message = with_lines_below(&error.problem, &format!("{above}/{kind}/config"), text);
                let remedy =
                    error.remedy.replace(&format!("under `{kind}:`"), &format!("under `{}`", in_words(above, kind)));
                refuse(&error.stage.to_string(), &source.name, message, remedy)
            })
        };
        let check_all = |entries: [Option<PolicyEntry>; 3], above: &str| -> Result<BTreeMap<Kind, Served>, Refusal> {
            by_kind(entries).map(|(kind, entry)| Ok((kind, check_one(kind, entry, above)?))).collect()
        };
        let check_rule = |(index, rule): (usize, GroupRule)| {
            let GroupRule { name, select, percent, naming, placement, scaling } = rule;
            let policies = check_all([naming, placement, scaling], &format!("/groups/{index}"))?;
            Ok(Rule { name, select, percent, policies })
        };
        let candidates = Candidates::read(checker, &file, text, data);
        let PolicyFile { naming, placement, scaling, groups, breaker, budget, tenants } = file;
        let (mut set, mut on_failure) = (PolicySet::clone(builtin), BTreeMap::new());
        for (kind, (policy, failing)) in check_all([naming, placement, scaling], "")? {
            set.replace(policy);
            on_failure.insert(kind, failing);
        }
        let rules = groups.into_iter().enumerate().map(check_rule).collect::<Result<Vec<Rule>, Refusal>>()?;
        Ok(Self {
            content: content.clone(),
            set: Arc::new(set),
            candidates: Arc::new(candidates),
            rules: rules.into(),
            on_failure,
            breaker,
            budget,
            tenants: tenants.map(Arc::new),
        })
    }

    /// Whether its file names a policy of this kind, for whomever.
    pub(super) fn names(&self, kind: Kind) -> bool {
        self.on_failure.contains_key(&kind) || self.rules.iter().any(|rule| rule.policies.contains_key(&kind))
    }

    /// Whether it would ask this policy, whomever for.
    pub(super) fn asks(&self, kind: Kind, policy: &Policy) -> bool {
        let of_rules = self.rules.iter().filter_map(|rule| rule.policies.get(&kind)).map(|(policy, _)| policy);
        of_rules.chain([self.set.get(kind)]).any(|other| decides_alike(other, policy))
    }

    /// What would be different from now, a phrase for each kind that changes.
    pub(super) fn differences(&self, old: &Serving) -> Vec<String> {
        let failing = |kind: Kind| self.on_failure.get(&kind).copied().unwrap_or_default();
        let of_kind = |kind: Kind| {
            difference(kind, (old.set.get(kind), old.on_failure(kind)), (self.set.get(kind), failing(kind)))
        };
        Kind::ALL
            .into_iter()
            .filter_map(of_kind)
            .chain(rules::differences(&old.rules, &self.rules))
            .chain(self.candidates.differences(&old.candidates))
            .chain((self.budget != old.budget).then(|| {
                let Budget { seconds, window } = self.budget;
                format!("budget: {seconds} s within {window} s for each namespace")
            }))
            .chain((self.tenants != old.tenants).then(|| match &self.tenants {
                Some(tenants) => format!(
                    "tenants: {} may have a ConfigMap {} of their own",
                    tenants.namespaces.join(", "),
                    tenants.config_map
                ),
                None => "tenants: none any more".to_owned(),
            }))
            .collect()
    }
}

/// What a policy file of a namespace has that is the administrator's to say, or too
/// much of; and what to do.
fn not_for_namespaces(file: &PolicyFile, binaries: &BTreeMap<String, Bytes>) -> (Option<String>, &'static str) {
    let PolicyFile { naming, placement, scaling, groups: _, breaker: _, budget, tenants } = file;
    let entries = [naming, placement, scaling];
    if *budget != Budget::default() {
        return (Some("`budget` is the administrator's to say".to_owned()), "Take it out.");
    }
    if tenants.is_some() {
        return (Some("`tenants` is the administrator's to say".to_owned()), "Take it out.");
    }
    if entries.into_iter().flatten().any(|entry| entry.shadow.is_some()) {
        let text = "a policy on trial (`shadow`) is the administrator's to choose";
        return (
            Some(text.to_owned()),
            "Take it out; `percent` of an entry under `groups` tries a policy on some groups.",
        );
    }
    if let Some(plugin) = file.plugins().find(|plugin| plugin.starts_with(SCHEME)) {
        let text = format!("`{plugin}`: a registry is asked under the administrator's logins, for him alone");
        return (Some(text), "Put the plugin into `binaryData`.");
    }
    let mut left = NAMESPACE_BYTES;
    for (name, bytes) in binaries {
        match vmgroup_policy::unpacked_size(bytes, left) {
            Ok(size) => left -= size,
            Err(problem) => {
                let text = format!(
                    "`{name}`: {problem} (the plugins of a namespace may have {NAMESPACE_BYTES} bytes together, unpacked)"
                );
                return (
                    Some(text),
                    "Build smaller plugins (release mode, opt-level \"s\", stripped), or have the administrator serve them.",
                );
            }
        }
    }
    (None, "")
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

/// Those that there are of a policy file's or a rule's naming, placement and scaling.
pub(super) fn by_kind<T>([naming, placement, scaling]: [Option<T>; 3]) -> impl Iterator<Item = (Kind, T)> {
    let all = [(Kind::Naming, naming), (Kind::Placement, placement), (Kind::Scaling, scaling)];
    all.into_iter().filter_map(|(kind, entry)| Some((kind, entry?)))
}

/// Why there is no plugin of a name.
pub(super) struct Unfound {
    /// `source`, or `pull` for one from a registry.
    pub(super) stage: &'static str,
    pub(super) message: String,
    pub(super) remedy: String,
}

/// A plugin beside the policy file or from a registry, or else a shipped one, with
/// its configuration; why not, if there is none of this name.
pub(super) fn source(
    kind: Kind,
    plugin: &str,
    config: serde_json::Map<String, serde_json::Value>,
    files: &PolicyFiles,
) -> Result<Source, Unfound> {
    if let Some(Absent { message, remedy, again: _ }) = files.absent.get(plugin) {
        return Err(Unfound { stage: "pull", message: message.clone(), remedy: remedy.clone() });
    }
    let bytes = files.binaries.get(plugin).cloned().or_else(|| shipped::find(plugin).map(|shipped| shipped.bytes));
    let bytes = bytes.ok_or_else(|| {
        if plugin.starts_with(SCHEME) {
            let message = "no registry is asked for policies of this place".to_owned();
            return Unfound { stage: "pull", message, remedy: "Put the plugin beside the policy file.".to_owned() };
        }
        Unfound {
            stage: "source",
            message: format!("no plugin `{plugin}` for {kind}: {}", what_there_is(kind, files)),
            remedy: format!("{}, or name one that is there.", files.origin.how_to_add(plugin)),
        }
    })?;
    Ok(Source { name: plugin.to_owned(), bytes, config: serde_json::Value::Object(config) })
}

/// What could have been meant: the plugins beside the policy file and the shipped
/// ones of this kind.
fn what_there_is(kind: Kind, files: &PolicyFiles) -> String {
    let keys: Vec<&str> = files.binaries.keys().map(String::as_str).take(20).collect();
    let shipped: Vec<&str> = shipped::all().iter().filter(|it| it.kind == kind).map(|it| it.name).collect();
    let keys = match (&files.origin, keys.as_slice()) {
        (Origin::ConfigMap, []) => "`binaryData` is empty".to_owned(),
        (Origin::ConfigMap, keys) => format!("`binaryData` has {}", keys.join(", ")),
        // Of a folder only what the policy file names is read.
        (Origin::Folder { .. }, _) => "the folder has no file of this name".to_owned(),
    };
    format!("{keys}; shipped for {kind}: {}", shipped.join(", "))
}

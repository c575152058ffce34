//! The policies in force, and how the content of the policy ConfigMap becomes
//! them: read, resolve, check, swap — or refuse, keep what is in force, and say
//! why.
//!
//! [`PolicyBook`] does that for whatever content it is offered and knows no API
//! server; [`watch_config_map`] feeds it from one. Neither asks a policy
//! anything.

mod candidates;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use k8s_openapi::api::core::v1::ConfigMap;
use sha2::{Digest as _, Sha256};
use vmgroup_api::policy_file::{self, FILE_NAME};
use vmgroup_api::{OnFailure, PolicyEntry, PolicyFile};
use vmgroup_policy::{CheckError, ConfigProblem, Host, Kind, Policy, PolicySet, Problem, Source, shipped};

use crate::metrics::Metrics;
use crate::offload::Offload;

pub use candidates::{Candidate, Candidates, Unfit};
pub use watch::watch_config_map;

/// The policies that serve, as one immutable snapshot: a pass takes one at its
/// start and keeps it to its end.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Who is asked.
    pub set: Arc<PolicySet>,
    /// The built-in defaults, for [`OnFailure::Builtin`].
    pub builtin: Arc<PolicySet>,
    /// Who is on trial beside them.
    pub candidates: Arc<Candidates>,
    /// What happens when naming gives no legal answer.
    pub naming: OnFailure,
    /// What happens when placement gives no legal answer.
    pub placement: OnFailure,
    /// What happens when scaling gives no legal answer.
    pub scaling: OnFailure,
    /// Rises with every swap; 0 are the built-in defaults of the start.
    pub generation: u64,
}

impl Serving {
    /// The same with another policy for its kind, whose failures are shown.
    #[must_use]
    pub fn trying(mut self, candidate: &Arc<Policy>) -> Self {
        let mut set = (*self.set).clone();
        let (place, on_failure) = match candidate.kind() {
            Kind::Naming => (&mut set.naming, &mut self.naming),
            Kind::Placement => (&mut set.placement, &mut self.placement),
            Kind::Scaling => (&mut set.scaling, &mut self.scaling),
        };
        *place = candidate.clone();
        *on_failure = OnFailure::Hold;
        self.set = Arc::new(set);
        self
    }

    /// Who is asked when the policy of this kind gives no legal answer, if somebody is.
    pub fn instead(&self, kind: Kind) -> Option<&Arc<Policy>> {
        (self.on_failure(kind) == OnFailure::Builtin).then(|| self.builtin.get(kind))
    }

    /// What happens when the policy of this kind gives no legal answer.
    pub fn on_failure(&self, kind: Kind) -> OnFailure {
        match kind {
            Kind::Naming => self.naming,
            Kind::Placement => self.placement,
            Kind::Scaling => self.scaling,
        }
    }
}

/// Why the offered policies are not in force. What was in force still is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} refused at stage {stage}: {message}", Quoted(plugin))]
pub struct Refusal {
    /// Where it failed: `config-map`, `policy-file`, `source`, or a stage of the check.
    pub stage: String,
    /// The plugin as the policy file names it; empty where none is to blame.
    pub plugin: String,
    /// What is wrong.
    pub message: String,
    /// What to do, in one sentence.
    pub remedy: String,
    /// The `metadata.resourceVersion` of the refused ConfigMap.
    pub resource_version: String,
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("policies") } else { write!(f, "plugin `{}`", self.0) }
    }
}

/// What counts of the policy ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMapData {
    /// `data["policy.yaml"]`.
    pub policy_yaml: Option<String>,
    /// `binaryData`.
    pub binaries: BTreeMap<String, Bytes>,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

impl ConfigMapData {
    /// What counts of this one.
    pub fn of(map: ConfigMap) -> Self {
        Self {
            policy_yaml: map.data.and_then(|mut data| data.remove(FILE_NAME)),
            binaries: map
                .binary_data
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, value.0.into()))
                .collect(),
            resource_version: map.metadata.resource_version.unwrap_or_default(),
        }
    }

    /// A hash of the content: every part with its length, so that nothing can
    /// be mistaken for its neighbour. The resource version is not content.
    fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        match &self.policy_yaml {
            Some(text) => {
                part(b"yaml");
                part(text.as_bytes());
            }
            None => part(b"none"),
        }
        for (key, value) in &self.binaries {
            part(key.as_bytes());
            part(value);
        }
        Fingerprint(Some(hash.finalize().into()))
    }
}

/// The content that was offered; none: no ConfigMap.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fingerprint(Option<[u8; 32]>);

/// The policies in force and the last refusal. Cheap to clone; all clones are
/// the same book.
#[derive(Clone)]
pub struct PolicyBook(Arc<Book>);

struct Book {
    host: Host,
    offload: Offload,
    metrics: Metrics,
    in_force: ArcSwap<Serving>,
    refusal: ArcSwapOption<Refusal>,
    changes: tokio::sync::watch::Sender<u64>,
    settled: tokio::sync::watch::Sender<bool>,
    offers: Mutex<Offers>,
}

/// Which offer is the newest. An offer is checked without a lock, so an older
/// one may come to its end after a newer one: it must not win.
#[derive(Default)]
struct Offers {
    begun: u64,
    concluded: u64,
    content: Option<Fingerprint>,
}

/// What became of an offer.
enum Considered {
    /// Known already, or overtaken by a newer one.
    Unchanged(Result<Arc<Serving>, Arc<Refusal>>),
    /// In force now.
    Swapped { serving: Arc<Serving>, differences: Vec<String>, healed: bool },
    /// Not in force.
    Refused(Arc<Refusal>),
}

impl PolicyBook {
    /// A book with the built-in defaults in force. Compiles them, in place.
    pub fn new(host: Host, offload: Offload, metrics: Metrics) -> Result<Self, CheckError> {
        let builtin = Arc::new(shipped::default_set(&host)?);
        let serving = Serving {
            set: builtin.clone(),
            builtin,
            candidates: Arc::default(),
            naming: OnFailure::Hold,
            placement: OnFailure::Hold,
            scaling: OnFailure::Hold,
            generation: 0,
        };
        Ok(Self(Arc::new(Book {
            host,
            offload,
            metrics,
            in_force: ArcSwap::from_pointee(serving),
            refusal: ArcSwapOption::empty(),
            changes: tokio::sync::watch::Sender::new(0),
            settled: tokio::sync::watch::Sender::new(false),
            offers: Mutex::default(),
        })))
    }

    /// The policies in force.
    pub fn in_force(&self) -> Arc<Serving> {
        self.0.in_force.load_full()
    }

    /// Why the last offer is not in force; none if it is.
    pub fn refusal(&self) -> Option<Arc<Refusal>> {
        self.0.refusal.load_full()
    }

    /// Rises with each swap and each change of the refusal.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Whether any offer has been concluded. Before that the built-in defaults
    /// are in force only because nobody has looked yet: do not decide by them.
    pub fn settled(&self) -> tokio::sync::watch::Receiver<bool> {
        self.0.settled.subscribe()
    }

    /// Sends a plugin that nobody offers through the checks: as a policy of this
    /// kind, or (nothing) of each that it answers.
    pub async fn check(&self, kind: Option<Kind>, source: Source) -> Result<Vec<Arc<Policy>>, CheckError> {
        let host = self.0.host.clone();
        let check = move || {
            let kinds = match kind {
                Some(kind) => vec![kind],
                None => host.answers(&source),
            };
            // Where no kind fits, the fault is the file's, whatever it is checked as.
            let kinds = if kinds.is_empty() { vec![Kind::Naming] } else { kinds };
            kinds.into_iter().map(|kind| host.check(kind, &source).map(|checked| checked.policy)).collect()
        };
        self.0.offload.run(check).await
    }

    /// Offers the content of the ConfigMap; none: there is none, or no more.
    /// Checks everything and then swaps, or refuses and changes nothing. The
    /// same content again changes nothing and gives the same result.
    pub async fn offer(&self, data: Option<ConfigMapData>) -> Result<Arc<Serving>, Arc<Refusal>> {
        match self.consider(data).await {
            Considered::Unchanged(result) => result,
            Considered::Swapped { serving, .. } => Ok(serving),
            Considered::Refused(refusal) => Err(refusal),
        }
    }

    async fn consider(&self, data: Option<ConfigMapData>) -> Considered {
        let content = data.as_ref().map_or(Fingerprint(None), ConfigMapData::fingerprint);
        let ticket = {
            let mut offers = self.offers();
            if offers.content == Some(content) {
                return Considered::Unchanged(self.standing());
            }
            offers.begun += 1;
            offers.begun
        };
        let proposal = match data {
            None => Ok(Proposal::builtin(&self.in_force().builtin)),
            Some(data) => {
                let (host, builtin) = (self.0.host.clone(), self.in_force().builtin.clone());
                self.0.offload.run(move || Proposal::read(&host, &builtin, &data)).await
            }
        };
        self.conclude(ticket, content, proposal)
    }

    /// Swaps, or notes the refusal: the only place where either changes.
    fn conclude(&self, ticket: u64, content: Fingerprint, proposal: Result<Proposal, Refusal>) -> Considered {
        let mut offers = self.offers();
        if ticket < offers.concluded {
            return Considered::Unchanged(self.standing());
        }
        offers.concluded = ticket;
        offers.content = Some(content);
        let considered = match proposal {
            Err(refusal) => {
                self.0.metrics.policy_swap(&refusal.stage);
                let refusal = Arc::new(refusal);
                self.0.refusal.store(Some(refusal.clone()));
                Considered::Refused(refusal)
            }
            Ok(proposal) => {
                let healed = self.0.refusal.swap(None).is_some();
                let old = self.in_force();
                let differences = proposal.differences(&old);
                if differences.is_empty() && !healed {
                    drop(offers);
                    self.0.settled.send_replace(true);
                    return Considered::Unchanged(Ok(old));
                }
                let serving = if differences.is_empty() { old } else { Arc::new(proposal.serving(&old)) };
                self.0.in_force.store(serving.clone());
                self.0.metrics.policy_swap("swapped");
                Considered::Swapped { serving, differences, healed }
            }
        };
        drop(offers);
        self.0.changes.send_modify(|count| *count += 1);
        self.0.settled.send_replace(true);
        considered
    }

    fn standing(&self) -> Result<Arc<Serving>, Arc<Refusal>> {
        self.refusal().map_or_else(|| Ok(self.in_force()), Err)
    }

    fn offers(&self) -> MutexGuard<'_, Offers> {
        self.0.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checked policies that may be swapped in.
struct Proposal {
    set: PolicySet,
    candidates: Arc<Candidates>,
    naming: OnFailure,
    placement: OnFailure,
    scaling: OnFailure,
}

impl Proposal {
    fn builtin(builtin: &PolicySet) -> Self {
        let PolicySet { naming, placement, scaling } = builtin;
        Self {
            set: PolicySet { naming: naming.clone(), placement: placement.clone(), scaling: scaling.clone() },
            candidates: Arc::default(),
            naming: OnFailure::Hold,
            placement: OnFailure::Hold,
            scaling: OnFailure::Hold,
        }
    }

    /// Reads, resolves and checks. Takes a core for as long as compiling takes.
    fn read(host: &Host, builtin: &PolicySet, data: &ConfigMapData) -> Result<Self, Refusal> {
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
                format!("Correct `{FILE_NAME}`: the top-level keys are naming, placement and scaling, each with plugin, config, onFailure and shadow."),
            )
        })?;
        let check = |kind: Kind, entry: Option<PolicyEntry>, default: &Arc<Policy>| {
            let Some(PolicyEntry { plugin, config, on_failure, shadow: _ }) = entry else {
                return Ok((default.clone(), OnFailure::Hold));
            };
            let bytes = data.binaries.get(&plugin).cloned().or_else(|| shipped::find(&plugin).map(|shipped| shipped.bytes)).ok_or_else(|| {
                refuse("source", &plugin, format!("no plugin `{plugin}` for {kind}: {}", what_there_is(kind, &data.binaries)), format!("Add `{plugin}` to `binaryData` (kubectl create configmap … --from-file={plugin}), or name one that is there."))
            })?;
            let source = Source { name: plugin, bytes, config: serde_json::Value::Object(config) };
            host.check(kind, &source).map(|checked| (checked.policy, on_failure)).map_err(|error| {
                refuse(
                    &error.stage.to_string(),
                    &source.name,
                    with_lines(&error.problem, kind, text),
                    error.remedy.clone(),
                )
            })
        };
        let candidates = Candidates::read(host, &file, text, &data.binaries);
        let PolicyFile { naming, placement, scaling } = file;
        let (naming, on_naming) = check(Kind::Naming, naming, &builtin.naming)?;
        let (placement, on_placement) = check(Kind::Placement, placement, &builtin.placement)?;
        let (scaling, on_scaling) = check(Kind::Scaling, scaling, &builtin.scaling)?;
        Ok(Self {
            set: PolicySet { naming, placement, scaling },
            candidates: Arc::new(candidates),
            naming: on_naming,
            placement: on_placement,
            scaling: on_scaling,
        })
    }

    fn serving(self, old: &Serving) -> Serving {
        let Self { set, candidates, naming, placement, scaling } = self;
        Serving {
            set: Arc::new(set),
            builtin: old.builtin.clone(),
            candidates,
            naming,
            placement,
            scaling,
            generation: old.generation + 1,
        }
    }

    /// What would be different from now, a phrase for each kind that changes.
    fn differences(&self, old: &Serving) -> Vec<String> {
        [
            difference(Kind::Naming, (&old.set.naming, old.naming), (&self.set.naming, self.naming)),
            difference(Kind::Placement, (&old.set.placement, old.placement), (&self.set.placement, self.placement)),
            difference(Kind::Scaling, (&old.set.scaling, old.scaling), (&self.set.scaling, self.scaling)),
        ]
        .into_iter()
        .flatten()
        .chain(self.candidates.differences(&old.candidates))
        .collect()
    }
}

/// What is wrong with a plugin, and where in the policy file, if it is its
/// configuration.
pub fn with_lines(problem: &Problem, kind: Kind, policy_file: &str) -> String {
    with_lines_below(problem, &format!("/{kind}/config"), policy_file)
}

/// The same where the configuration is at this JSON pointer.
fn with_lines_below(problem: &Problem, config: &str, policy_file: &str) -> String {
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

fn difference(
    kind: Kind,
    (old, old_failure): (&Policy, OnFailure),
    (new, new_failure): (&Policy, OnFailure),
) -> Option<String> {
    let mut said = Vec::new();
    if old.plugin() != new.plugin() || old.digest() != new.digest() {
        said.push(format!("{} instead of {}", label(new), label(old)));
    } else if old.config() != new.config() {
        said.push(format!("{} with a new configuration", label(new)));
    }
    if old_failure != new_failure {
        said.push(match new_failure {
            OnFailure::Hold => "holds on failure".to_owned(),
            OnFailure::Builtin => "falls back to the built-in on failure".to_owned(),
        });
    }
    (!said.is_empty()).then(|| format!("{kind}: {}", said.join(", ")))
}

/// A policy in a sentence: `ordinal.wasm 1.2.0 (sha256:0123456789ab)`. Twelve
/// digits tell two builds apart; the whole digest is in the groups' status.
fn label(policy: &Policy) -> String {
    format!("{} {} (sha256:{})", policy.plugin(), policy.description().version, policy.digest().short())
}

/// What could have been meant: the ConfigMap's plugins and the shipped ones of this kind.
fn what_there_is(kind: Kind, binaries: &BTreeMap<String, Bytes>) -> String {
    let keys: Vec<&str> = binaries.keys().map(String::as_str).take(20).collect();
    let shipped: Vec<&str> = shipped::all().iter().filter(|it| it.kind == kind).map(|it| it.name).collect();
    let keys = if keys.is_empty() {
        "`binaryData` is empty".to_owned()
    } else {
        format!("`binaryData` has {}", keys.join(", "))
    };
    format!("{keys}; shipped for {kind}: {}", shipped.join(", "))
}

#[cfg(test)]
mod tests;

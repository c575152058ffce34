//! The policies in force, and how the content of the policy ConfigMap, or of a
//! folder, becomes them: read, resolve, check, swap — or refuse, keep what is in
//! force, and say why.
//!
//! [`PolicyBook`] does that for whatever content it is offered and knows no API
//! server; [`watch_config_map`] feeds it from one, [`watch_folder`] from a folder,
//! and [`Keeper`] keeps in a ConfigMap what is in force over a restart. Namespaces
//! that may bring policies of their own have a book each, fed by [`follow_tenants`].
//! None of them asks a policy anything; who does tells the book of failures, and the
//! book takes back what fails too often.

mod breaker;
mod candidates;
mod desk;
mod edition;
mod folder;
mod keeper;
mod kept;
mod rules;
mod supply;
mod tenants;
mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use k8s_openapi::api::core::v1::ConfigMap;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use vmgroup_api::OnFailure;
use vmgroup_api::policy_file::{self, FILE_NAME};
use vmgroup_policy::{
    CheckError, ConfigProblem, DecisionError, Host, Kind, Policy, PolicySet, Problem, Source, shipped,
};
use vmgroup_registry::SCHEME;

use crate::metrics::Metrics;
use crate::offload::Offload;
use crate::wake::Wake;

use self::breaker::Breaker;
use self::edition::{Content, Edition, Reader, decides_alike};
use self::kept::{Kept, RolledBack};
use self::rules::{Rule, Served};
use self::supply::Checker;
use self::tenants::{Changes, Standing, Tenants};

pub use candidates::{Candidate, Candidates, Unfit};
pub use folder::watch_folder;
pub use keeper::Keeper;
pub use rules::Who;
pub use supply::{Absent, Registries, SIGNATURE_ANNOTATION, SIGNATURE_SUFFIX, Supply};
pub use tenants::follow_tenants;
pub use watch::watch_config_map;

/// How many editions before the one in force are remembered, to go back to.
const EARLIER: usize = 4;
/// The same of a namespace's: there are many of those.
const EARLIER_OF_NAMESPACE: usize = 1;

/// The stage of a [`Refusal`] that came after the swap: it failed at work.
pub const AT_WORK: &str = "at-work";

/// The policies that serve, as one immutable snapshot: a pass takes one at its
/// start and keeps it to its end.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Who is asked.
    pub set: Arc<PolicySet>,
    /// The built-in defaults, for [`OnFailure::Builtin`].
    pub builtin: Arc<PolicySet>,
    /// Other policies that were in force before, and good, for [`OnFailure::Previous`].
    pub previous: BTreeMap<Kind, Arc<Policy>>,
    /// Who is on trial beside them.
    pub candidates: Arc<Candidates>,
    /// Other policies for some groups.
    rules: Arc<[Rule]>,
    /// Why these serve a group; none of a kind: it is everybody else's.
    pub chosen_by: BTreeMap<Kind, Chosen>,
    /// What happens when a policy gives no legal answer, where the file says so.
    on_failure: BTreeMap<Kind, OnFailure>,
    /// Rises with every swap; 0 are the built-in defaults of the start.
    pub generation: u64,
    /// Which kinds are not asked, and why: who serves is not known.
    pub withheld: BTreeMap<Kind, String>,
    /// The time that policies may take for the groups of one namespace.
    pub budget: policy_file::Budget,
    /// These are a namespace's: what its file does not name is served as elsewhere.
    partial: bool,
    /// Who may bring policies of his own.
    tenants: Option<Arc<policy_file::Tenants>>,
    /// What the group's namespace has brought, if it may.
    own: Option<Own>,
    /// Changes with what the group's namespace has brought.
    standing: (u64, u64),
}

/// Why a policy serves a group, and not everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// By this entry under `groups`.
    pub rule: Option<String>,
    /// It is the namespace's own, from this ConfigMap (`namespace/name`).
    pub config_map: Option<String>,
}

/// The policies of a namespace, with the book that they are from.
#[derive(Clone)]
struct Own {
    book: PolicyBook,
    serving: Arc<Serving>,
    config_map: String,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").field("serving", &self.serving).finish_non_exhaustive()
    }
}

/// What is said where nobody may be chosen to leave: what is offered cannot be used,
/// and nothing is known that was good before. Who is destroyed in the meantime cannot
/// be brought back.
const NOTHING_GOOD: &str =
    "the policy ConfigMap cannot be used (see PolicyRefused), and no policy is known that was good before: correct it";

/// The same of a namespace whose policy was taken back.
const NOTHING_GOOD_OF_ITS_OWN: &str = "the policy of this namespace was taken back (see PolicyRolledBack), and none is known that was good before: correct it";

impl Serving {
    /// What serves this group: for each kind the first of the administrator's entries
    /// that selects it, then what its namespace has brought, then what serves all.
    fn for_group(self: Arc<Self>, who: Who<'_>, standing: Standing) -> Arc<Self> {
        let mut chosen: BTreeMap<Kind, (Chosen, Served)> = BTreeMap::new();
        for rule in self.rules.iter().filter(|rule| rule.selects(who)) {
            let by = Chosen { rule: Some(rule.name.clone()), config_map: None };
            rule.policies.iter().for_each(|(kind, served)| {
                chosen.entry(*kind).or_insert_with(|| (by.clone(), served.clone()));
            });
        }
        let mut withheld = self.withheld.clone();
        let mut own = None;
        match standing {
            Standing::Nobody => {}
            Standing::Unknown(why) => withheld.extend(Kind::ALL.map(|kind| (kind, why.clone()))),
            Standing::Own(brought) => {
                for (kind, rule, served) in brought.serving.brought(who) {
                    let by = Chosen { rule, config_map: Some(brought.config_map.clone()) };
                    chosen.entry(kind).or_insert((by, served));
                }
                withheld.extend(brought.serving.withheld.clone());
                own = Some(brought);
            }
        }
        // By an entry that is somebody's, it is known who serves.
        withheld.retain(|kind, _| !chosen.contains_key(kind));
        if chosen.is_empty() && own.is_none() && withheld == self.withheld {
            return self;
        }
        let (mut serving, mut set) = (Self::clone(&self), PolicySet::clone(&self.set));
        for (kind, (by, (policy, failing))) in chosen {
            serving.on_failure.insert(kind, failing);
            // Before that there was what serves the others; but the namespace's own
            // predecessor comes first.
            let others = set.replace(policy);
            let before = own.as_ref().filter(|_| by.config_map.is_some() && by.rule.is_none());
            let before = before.and_then(|own| own.serving.previous.get(&kind).cloned());
            serving.previous.insert(kind, before.unwrap_or(others));
            serving.chosen_by.insert(kind, by);
        }
        // Whoever is on trial is so beside what serves the others.
        serving.candidates = Arc::new(self.candidates.without(serving.chosen_by.keys()));
        serving.set = Arc::new(set);
        serving.withheld = withheld;
        serving.own = own;
        Arc::new(serving)
    }

    /// What this file of a namespace has for a group, the first of each kind counts.
    fn brought(&self, who: Who<'_>) -> Vec<(Kind, Option<String>, Served)> {
        let of_rules = self.rules.iter().filter(|rule| rule.selects(who)).flat_map(|rule| {
            rule.policies.iter().map(|(kind, served)| (*kind, Some(rule.name.clone()), served.clone()))
        });
        // Of the kinds that the file names.
        let of_all =
            self.on_failure.iter().map(|(kind, failing)| (*kind, None, (self.set.get(*kind).clone(), *failing)));
        of_rules.chain(of_all).collect()
    }

    /// What a group's failures belong to: something else has its policies asked anew.
    pub fn edition(&self) -> (u64, (u64, u64)) {
        (self.generation, self.standing)
    }

    /// The same with another policy for its kind, whose failures are shown.
    #[must_use]
    pub fn trying(mut self, candidate: &Arc<Policy>) -> Self {
        let mut set = (*self.set).clone();
        set.replace(candidate.clone());
        self.on_failure.insert(candidate.kind(), OnFailure::Hold);
        self.withheld.remove(&candidate.kind());
        self.set = Arc::new(set);
        self
    }

    /// Who is asked when the policy of this kind gives no legal answer, if somebody is.
    pub fn instead(&self, kind: Kind) -> Option<&Arc<Policy>> {
        match self.on_failure(kind) {
            OnFailure::Hold => None,
            OnFailure::Builtin => Some(self.builtin.get(kind)),
            OnFailure::Previous => self.previous.get(&kind),
        }
    }

    /// What happens when the policy of this kind gives no legal answer.
    pub fn on_failure(&self, kind: Kind) -> OnFailure {
        self.on_failure.get(&kind).copied().unwrap_or_default()
    }

    /// What is in force, in a phrase: each kind with its policy.
    pub fn told(&self) -> String {
        let of = |kind: Kind| match self.withheld.get(&kind) {
            Some(_) => format!("{kind} on hold"),
            None if self.partial && !self.on_failure.contains_key(&kind) => format!("{kind} as elsewhere"),
            None => format!("{kind} {}", label(self.set.get(kind))),
        };
        let rules: Vec<&str> = self.rules.iter().map(|rule| rule.name.as_str()).collect();
        let rules = if rules.is_empty() { String::new() } else { format!(", others by {}", rules.join(", ")) };
        format!("{}{rules}", Kind::ALL.map(of).join(", "))
    }
}

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

/// A policy file and the plugins beside it, as a ConfigMap or a folder has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyFiles {
    /// The text of `policy.yaml`, if there is one.
    pub policy_yaml: Option<String>,
    /// Plugins by the name that the policy file gives them; of a ConfigMap its
    /// `binaryData`.
    pub binaries: BTreeMap<String, Bytes>,
    /// `metadata.resourceVersion` of the ConfigMap; empty for a folder.
    pub resource_version: String,
    /// Where they are from.
    pub origin: Origin,
    /// What the policy file names by reference, and could not be had.
    pub absent: BTreeMap<String, Absent>,
}

/// Where policies are from. The messages name what its users know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// A ConfigMap.
    #[default]
    ConfigMap,
    /// A folder; with what is wrong where it could not be read.
    Folder {
        /// In words.
        problem: Option<String>,
    },
}

impl Origin {
    /// How to get a plugin of this name in there.
    fn how_to_add(&self, plugin: &str) -> String {
        match self {
            Self::ConfigMap => {
                format!("Add `{plugin}` to `binaryData` (kubectl create configmap … --from-file={plugin})")
            }
            Self::Folder { .. } => format!("Put `{plugin}` into the folder, beside `{FILE_NAME}`"),
        }
    }
}

impl PolicyFiles {
    /// What counts of this ConfigMap.
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
            ..Self::default()
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
        // What a reference names is in the reference.
        for (key, value) in self.binaries.iter().filter(|(key, _)| !key.starts_with(SCHEME)) {
            part(key.as_bytes());
            part(value);
        }
        if let Origin::Folder { problem: Some(problem) } = &self.origin {
            part(problem.as_bytes());
        }
        Fingerprint(Some(hash.finalize().into()))
    }
}

/// The content that was offered; none: no ConfigMap. As text `none`, or 64
/// hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint(Option<[u8; 32]>);

/// The policies in force and the last refusal. Cheap to clone; all clones are
/// the same book.
#[derive(Clone)]
pub struct PolicyBook(Arc<Book>);

struct Book {
    whose: Whose,
    checker: Checker,
    supply: Supply,
    offload: Offload,
    metrics: Metrics,
    in_force: ArcSwap<Serving>,
    refusal: ArcSwapOption<Refusal>,
    changes: tokio::sync::watch::Sender<u64>,
    settled: tokio::sync::watch::Sender<bool>,
    offers: Mutex<Offers>,
}

/// Who offers.
enum Whose {
    /// With the books of those whom he allows to.
    Administrator(Tenants),
    /// A namespace.
    Namespace { name: String, changes: Changes },
}

/// The editions, and which offer is the newest. An offer is checked without a
/// lock, so an older one may come to its end after a newer one: it must not win.
struct Offers {
    begun: u64,
    concluded: u64,
    /// What was offered last, whatever became of it.
    content: Option<Fingerprint>,
    in_force: Edition,
    /// Failures of the edition in force.
    breaker: Breaker,
    /// Editions that were in force before, and good; the latest first.
    earlier: VecDeque<Edition>,
    /// The edition that was taken back last, until another one is accepted.
    rolled_back: Option<RolledBack>,
    /// What an earlier process left, until the first offer is concluded.
    recalled: Option<Kept>,
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
    /// A book with the built-in defaults in force, that asks no registries and takes
    /// plugins without a signature. Compiles them, in place.
    pub fn new(host: Host, offload: Offload, metrics: Metrics) -> Result<Self, CheckError> {
        Self::with(host, Supply::default(), offload, metrics)
    }

    /// The same with registries and keys.
    pub fn with(host: Host, supply: Supply, offload: Offload, metrics: Metrics) -> Result<Self, CheckError> {
        let builtin = Arc::new(shipped::default_set(&host)?);
        let whose = Whose::Administrator(Tenants::default());
        Ok(Self::make(whose, builtin, host, supply, offload, metrics))
    }

    /// A book for a namespace, with nothing in it. It asks no registries: that would be
    /// under the administrator's logins.
    fn of_namespace(&self, name: String, changes: Changes) -> Self {
        let Book { checker, supply, offload, metrics, .. } = &*self.0;
        let supply = Supply { registries: None, keys: supply.keys.clone() };
        let (builtin, whose) = (self.in_force().builtin.clone(), Whose::Namespace { name, changes });
        Self::make(whose, builtin, checker.host.clone(), supply, *offload, metrics.clone())
    }

    fn make(
        whose: Whose,
        builtin: Arc<PolicySet>,
        host: Host,
        supply: Supply,
        offload: Offload,
        metrics: Metrics,
    ) -> Self {
        let serving = Serving {
            set: builtin.clone(),
            builtin: builtin.clone(),
            previous: BTreeMap::new(),
            candidates: Arc::default(),
            rules: Arc::default(),
            chosen_by: BTreeMap::new(),
            on_failure: BTreeMap::new(),
            generation: 0,
            withheld: BTreeMap::new(),
            budget: policy_file::Budget::default(),
            partial: matches!(whose, Whose::Namespace { .. }),
            tenants: None,
            own: None,
            standing: (0, 0),
        };
        let in_force = Edition::builtin(builtin);
        Self(Arc::new(Book {
            whose,
            checker: Checker { host, keys: supply.keys.clone() },
            supply,
            offload,
            metrics,
            in_force: ArcSwap::from_pointee(serving),
            refusal: ArcSwapOption::empty(),
            changes: tokio::sync::watch::Sender::new(0),
            settled: tokio::sync::watch::Sender::new(false),
            offers: Mutex::new(Offers {
                begun: 0,
                concluded: 0,
                content: None,
                breaker: Breaker::new(in_force.breaker),
                in_force,
                earlier: VecDeque::new(),
                rolled_back: None,
                recalled: None,
            }),
        }))
    }

    /// What serves a group.
    pub fn serving(&self, who: Who<'_>) -> Arc<Serving> {
        let serving = self.in_force();
        match &self.0.whose {
            Whose::Administrator(tenants) => {
                let (standing, stamp) = tenants.standing(serving.tenants.as_deref(), who.namespace);
                if stamp == serving.standing {
                    return serving.for_group(who, standing);
                }
                Arc::new(Serving { standing: stamp, ..Serving::clone(&serving.for_group(who, standing)) })
            }
            Whose::Namespace { .. } => serving.for_group(who, Standing::Nobody),
        }
    }

    /// Namespaces for whose groups something has changed. For one consumer.
    pub fn changed_namespaces(&self) -> Wake<String> {
        match &self.0.whose {
            Whose::Administrator(tenants) => tenants.changed(),
            Whose::Namespace { .. } => Wake::default(),
        }
    }

    /// Whether the policies of namespaces have been read, if any may have some, or
    /// that was tried: before that nobody knows who serves there.
    pub fn namespaces_read(&self) -> tokio::sync::watch::Receiver<bool> {
        match &self.0.whose {
            Whose::Administrator(tenants) => tenants.read(),
            Whose::Namespace { .. } => self.settled(),
        }
    }

    fn tell_of_change(&self) {
        self.0.changes.send_modify(|count| *count += 1);
        if let Whose::Namespace { name, changes } = &self.0.whose {
            changes.tell(name);
        }
    }

    /// The policies in force.
    pub fn in_force(&self) -> Arc<Serving> {
        self.0.in_force.load_full()
    }

    /// Why the last offer is not in force; none if it is.
    pub fn refusal(&self) -> Option<Arc<Refusal>> {
        self.0.refusal.load_full()
    }

    /// The refusal that concerns a group, with what is in force instead: that of its
    /// namespace's own policies, or else the administrator's.
    pub fn refusal_for(&self, serving: &Serving) -> Option<(Arc<Refusal>, Arc<Serving>)> {
        let own = serving.own.as_ref().map(|own| &own.book);
        let told = |book: &Self| Some((book.refusal()?, book.in_force()));
        own.and_then(told).or_else(|| told(self))
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

    /// Offers policies; none: there is no ConfigMap, or none any more.
    /// Checks everything and then swaps, or refuses and changes nothing. The
    /// same content again changes nothing and gives the same result. Waits for what
    /// has to be pulled.
    pub async fn offer(&self, mut data: Option<PolicyFiles>) -> Result<Arc<Serving>, Arc<Refusal>> {
        if let Some(files) = &mut data {
            self.complete(files).await;
        }
        match self.consider(data).await {
            Considered::Unchanged(result) => result,
            Considered::Swapped { serving, .. } => Ok(serving),
            Considered::Refused(refusal) => Err(refusal),
        }
    }

    /// Sends a plugin that nobody offers through the checks: as a policy of this
    /// kind, or (nothing) of each that it answers.
    pub async fn check(&self, kind: Option<Kind>, source: Source) -> Result<Vec<Arc<Policy>>, CheckError> {
        let host = self.0.checker.host.clone();
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

    /// Notes that a policy crashed, overran a limit or broke a rule under
    /// `serving`. What fails too often is taken back: what was in force before it
    /// is put into force again, if that would have been somebody else's decision.
    pub fn failed(&self, serving: &Serving, kind: Kind, error: &DecisionError) {
        let culprit = serving.set.get(kind);
        let is_own = serving.chosen_by.get(&kind).is_some_and(|by| by.config_map.is_some());
        match serving.own.as_ref().filter(|_| is_own) {
            Some(own) => own.book.failed_one(own.serving.generation, culprit, error),
            None => self.failed_one(serving.generation, culprit, error),
        }
    }

    /// The same of this book's own policies: in this generation of them this one failed.
    fn failed_one(&self, generation: u64, culprit: &Arc<Policy>, error: &DecisionError) {
        let kind = culprit.kind();
        let mut offers = self.offers();
        let old = self.in_force();
        // A pass keeps what it began with; that may be out of force already.
        if generation != old.generation || !offers.breaker.failed(Instant::now()) {
            return;
        }
        let other = offers.earlier.iter().position(|edition| !edition.asks(kind, culprit));
        let edition = other.and_then(|at| offers.earlier.drain(..=at).next_back());
        let edition = edition.or_else(|| match &self.0.whose {
            Whose::Administrator(_) => None,
            // There is what serves the others.
            Whose::Namespace { .. } => Some(Edition::builtin(old.builtin.clone())),
        });
        let Some(edition) = edition else {
            tracing::warn!(plugin = culprit.plugin(), %kind, %error, "fails again and again, and there is no other policy that was good before");
            return;
        };
        let breaker = offers.in_force.breaker;
        let data = offers.in_force.content.data.as_ref();
        let refusal = Refusal {
            stage: AT_WORK.to_owned(),
            plugin: culprit.plugin().to_owned(),
            message: format!(
                "{} times within {} s it gave no legal answer, at last for {kind}: {error}",
                breaker.failures, breaker.seconds
            ),
            remedy: "Correct it and edit the ConfigMap, or the folder: every change of the content is a new try. `vmgroup decisions export` has the questions that it failed at, and `vmgroup policy replay` asks them again.".to_owned(),
            resource_version: data.map(|data| data.resource_version.clone()).unwrap_or_default(),
        };
        let content = offers.in_force.content.fingerprint;
        // Nobody leaves by a policy that his namespace has not chosen.
        let chose = offers.in_force.names(Kind::Scaling);
        let lets_others = offers.in_force.content.lets_builtin_choose();
        let chooses = edition.names(Kind::Scaling);
        let withhold = matches!(self.0.whose, Whose::Namespace { .. }) && chose && !chooses && !lets_others;
        self.roll_back(&mut offers, RolledBack { content, refusal }, edition);
        if withhold {
            self.withhold_scaling(NOTHING_GOOD_OF_ITS_OWN);
        }
        drop(offers);
        self.tell_of_change();
    }

    fn withhold_scaling(&self, why: &str) {
        let mut serving = Serving::clone(&self.in_force());
        serving.withheld.insert(Kind::Scaling, why.to_owned());
        self.0.in_force.store(Arc::new(serving));
    }

    fn roll_back(&self, offers: &mut Offers, rolled_back: RolledBack, edition: Edition) {
        self.0.metrics.policy_swap("rolled-back");
        self.0.refusal.store(Some(Arc::new(rolled_back.refusal.clone())));
        offers.rolled_back = Some(rolled_back);
        let serving = self.install(offers, edition);
        tracing::warn!(generation = serving.generation, in_force = serving.told(), "policies rolled back");
    }

    /// Tells the book what an earlier process kept: before the first offer, as
    /// something to go back to.
    fn recall(&self, kept: Kept) {
        let mut offers = self.offers();
        if offers.concluded == 0 {
            offers.rolled_back.clone_from(&kept.rolled_back);
            offers.recalled = Some(kept);
        }
    }

    /// Takes over what another process, that led until now, has found out: that
    /// what is in force here fails at work.
    async fn learn(&self, kept: &Kept) {
        let Some(rolled_back) = kept.rolled_back.clone() else { return };
        if self.offers().in_force.content.fingerprint != rolled_back.content {
            return;
        }
        let Some(edition) = self.read_kept(kept).await.into_iter().next() else { return };
        let mut offers = self.offers();
        if offers.in_force.content.fingerprint != rolled_back.content {
            return;
        }
        self.roll_back(&mut offers, rolled_back, edition);
        drop(offers);
        self.tell_of_change();
    }

    /// What is to be kept over a restart; none: nothing has been accepted yet.
    fn keepsake(&self) -> Option<Kept> {
        let offers = self.offers();
        let accepted = *self.0.settled.borrow() && self.in_force().withheld.is_empty();
        accepted.then(|| Kept {
            in_force: Some(offers.in_force.content.clone()),
            previous: offers.earlier.front().map(|edition| edition.content.clone()),
            rolled_back: offers.rolled_back.clone(),
        })
    }

    /// What was kept and still passes its checks, the latest first.
    async fn read_kept(&self, kept: &Kept) -> Vec<Edition> {
        let (checker, builtin) = (self.0.checker.clone(), self.in_force().builtin.clone());
        let contents: Vec<Content> = kept.in_force.iter().chain(&kept.previous).cloned().collect();
        let read = move || {
            let read = |content| match Edition::read(&checker, &builtin, content, Reader::Administrator) {
                Ok(edition) => Some(edition),
                Err(refusal) => {
                    tracing::warn!(%refusal, "what was in force before does not pass its check any more");
                    None
                }
            };
            contents.iter().filter_map(read).collect()
        };
        self.0.offload.run(read).await
    }

    /// Adds what the policy file names by reference, from what is or was in force and
    /// otherwise from the registries; what cannot be had is noted in it.
    async fn complete(&self, files: &mut PolicyFiles) {
        if files.wanted().is_empty() {
            return;
        }
        let known: Vec<PolicyFiles> = {
            let offers = self.offers();
            let recalled = offers.recalled.iter().flat_map(|kept| kept.in_force.iter().chain(&kept.previous));
            let contents = recalled.chain([&offers.in_force.content]);
            contents.filter_map(|content| content.data.clone()).collect()
        };
        for others in &known {
            files.take_from(others);
        }
        let at_start = !*self.0.settled.borrow();
        self.0.supply.complete(files, at_start).await;
    }

    /// The same of what was kept, as far as there was no room for it.
    async fn completed(&self, mut kept: Kept) -> Kept {
        let contents = kept.in_force.iter_mut().chain(&mut kept.previous);
        for files in contents.filter_map(|content| content.data.as_mut()) {
            self.complete(files).await;
        }
        kept
    }

    async fn consider(&self, data: Option<PolicyFiles>) -> Considered {
        let content = Content::of(data);
        let (ticket, recalled, rolled_back) = {
            let mut offers = self.offers();
            if offers.content == Some(content.fingerprint) {
                return Considered::Unchanged(self.standing());
            }
            offers.begun += 1;
            (offers.begun, offers.recalled.clone(), offers.rolled_back.clone())
        };
        let proposal = match rolled_back {
            Some(rolled_back) if rolled_back.content == content.fingerprint => Err(rolled_back.refusal),
            _ => {
                let (checker, builtin, content) =
                    (self.0.checker.clone(), self.in_force().builtin.clone(), content.clone());
                let reader = match self.0.whose {
                    Whose::Administrator(_) => Reader::Administrator,
                    Whose::Namespace { .. } => Reader::Namespace,
                };
                self.0.offload.run(move || Edition::read(&checker, &builtin, &content, reader)).await
            }
        };
        let recalled = match recalled {
            Some(kept) => self.read_kept(&kept).await,
            None => Vec::new(),
        };
        self.conclude(ticket, &content, proposal, recalled)
    }

    /// Swaps, or notes the refusal: the only place where either changes by an offer.
    /// `recalled` is what an earlier process left, the latest first.
    fn conclude(
        &self,
        ticket: u64,
        content: &Content,
        proposal: Result<Edition, Refusal>,
        recalled: Vec<Edition>,
    ) -> Considered {
        let mut offers = self.offers();
        if ticket < offers.concluded {
            return Considered::Unchanged(self.standing());
        }
        let first = offers.concluded == 0;
        offers.concluded = ticket;
        // What could not be had may be there the next time.
        let whole = content.data.as_ref().is_none_or(|files| files.absent.is_empty());
        offers.content = whole.then_some(content.fingerprint);
        offers.recalled = None;
        if first {
            let others = recalled.into_iter().filter(|edition| edition.content.fingerprint != content.fingerprint);
            offers.earlier = others.collect();
        }
        let considered = match proposal {
            Err(refusal) if !first && self.refusal().is_some_and(|standing| *standing == refusal) => {
                Considered::Unchanged(self.standing())
            }
            Err(refusal) => {
                self.0.metrics.policy_swap(&refusal.stage);
                let refusal = Arc::new(refusal);
                self.0.refusal.store(Some(refusal.clone()));
                if first {
                    self.make_do(&mut offers, content);
                }
                Considered::Refused(refusal)
            }
            Ok(edition) => self.accept(&mut offers, edition, first),
        };
        drop(offers);
        if !matches!(considered, Considered::Unchanged(_)) {
            self.tell_of_change();
        }
        self.0.settled.send_replace(true);
        considered
    }

    /// What is offered first cannot be used: the last that could serves, and if
    /// none is known, the built-in policies, who choose nobody to leave unless the
    /// policy file lets them.
    fn make_do(&self, offers: &mut Offers, content: &Content) {
        if let Some(edition) = offers.earlier.pop_front() {
            self.install(offers, edition);
        } else if !content.lets_builtin_choose() {
            self.withhold_scaling(NOTHING_GOOD);
        }
    }

    fn accept(&self, offers: &mut Offers, edition: Edition, first: bool) -> Considered {
        let healed = self.0.refusal.swap(None).is_some();
        offers.rolled_back = None;
        let old = self.in_force();
        let differences = edition.differences(&old);
        let missed = first && !offers.earlier.is_empty();
        if differences.is_empty() && old.withheld.is_empty() && !missed {
            if offers.in_force.breaker != edition.breaker {
                offers.breaker = Breaker::new(edition.breaker);
            }
            offers.in_force = edition;
            if !healed {
                return Considered::Unchanged(Ok(old));
            }
            self.0.metrics.policy_swap("swapped");
            return Considered::Swapped { serving: old, differences, healed };
        }
        // What fails just now, or never served, is nothing to go back to.
        if !first && old.withheld.is_empty() && !offers.breaker.doubtful(Instant::now()) {
            let before = offers.in_force.clone();
            offers.earlier.push_front(before);
            offers.earlier.truncate(match self.0.whose {
                Whose::Administrator(_) => EARLIER,
                Whose::Namespace { .. } => EARLIER_OF_NAMESPACE,
            });
        }
        let serving = self.install(offers, edition);
        self.0.metrics.policy_swap("swapped");
        Considered::Swapped { serving, differences, healed }
    }

    /// Puts an edition into force. What was before is the caller's business.
    fn install(&self, offers: &mut Offers, edition: Edition) -> Arc<Serving> {
        let old = self.in_force();
        let before = |kind: Kind| {
            let now = edition.set.get(kind);
            let mut earlier = offers.earlier.iter().map(|edition| edition.set.get(kind));
            earlier.find(|policy| !decides_alike(policy, now)).map(|policy| (kind, policy.clone()))
        };
        let serving = Arc::new(Serving {
            set: edition.set.clone(),
            builtin: old.builtin.clone(),
            previous: Kind::ALL.into_iter().filter_map(before).collect(),
            candidates: edition.candidates.clone(),
            rules: edition.rules.clone(),
            chosen_by: BTreeMap::new(),
            on_failure: edition.on_failure.clone(),
            generation: old.generation + 1,
            withheld: BTreeMap::new(),
            budget: edition.budget,
            partial: old.partial,
            tenants: edition.tenants.clone(),
            own: None,
            standing: (0, 0),
        });
        offers.breaker = Breaker::new(edition.breaker);
        offers.in_force = edition;
        self.0.in_force.store(serving.clone());
        serving
    }

    fn standing(&self) -> Result<Arc<Serving>, Arc<Refusal>> {
        self.refusal().map_or_else(|| Ok(self.in_force()), Err)
    }

    fn offers(&self) -> MutexGuard<'_, Offers> {
        self.0.offers.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A policy in a sentence: `ordinal.wasm 1.2.0 (sha256:0123456789ab)`. Twelve
/// digits tell two builds apart; the whole digest is in the groups' status.
fn label(policy: &Policy) -> String {
    format!("{} {} (sha256:{})", policy.plugin(), policy.description().version, policy.digest().short())
}

#[cfg(test)]
mod tests;

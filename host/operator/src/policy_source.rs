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
mod files;
mod folder;
mod keeper;
mod kept;
mod refusal;
mod rules;
mod serving;
mod supply;
mod tenants;
mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::time::Instant;
use vmgroup_api::policy_file;
use vmgroup_policy::{CheckError, DecisionError, Host, Kind, Policy, PolicySet, Source, shipped};

use crate::metrics::Metrics;
use crate::offload::Offload;
use crate::wake::Wake;

use self::breaker::Breaker;
use self::edition::{Content, Edition, Reader, decides_alike};
use self::files::Fingerprint;
use self::kept::{Kept, RolledBack};
use self::refusal::with_lines_below;
use self::serving::{NOTHING_GOOD, NOTHING_GOOD_OF_ITS_OWN, Own, label};
use self::supply::Checker;
use self::tenants::{Changes, Standing, Tenants};

pub use candidates::{Candidate, Candidates, Unfit};
pub use files::{Origin, PolicyFiles};
pub use folder::watch_folder;
pub use keeper::Keeper;
pub use refusal::{AT_WORK, Refusal, line_of, with_lines};
pub use rules::Who;
pub use serving::{Chosen, Serving};
pub use supply::{Absent, Registries, SIGNATURE_ANNOTATION, SIGNATURE_SUFFIX, Supply};
pub use tenants::follow_tenants;
pub use watch::watch_config_map;

/// How many editions before the one in force are remembered, to go back to.
const EARLIER: usize = 4;
/// The same of a namespace's: there are many of those.
const EARLIER_OF_NAMESPACE: usize = 1;

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
        let holds_scaling = matches!(self.0.whose, Whose::Namespace { .. }) && chose && !chooses && !lets_others;
        self.roll_back(&mut offers, RolledBack { content, refusal, holds_scaling }, edition);
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
        let holds_scaling = rolled_back.holds_scaling;
        offers.rolled_back = Some(rolled_back);
        self.install(offers, edition);
        if holds_scaling {
            self.withhold_scaling(NOTHING_GOOD_OF_ITS_OWN);
        }
        let serving = self.in_force();
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
        let taken_back = offers.rolled_back.as_ref().is_some_and(|rolled_back| rolled_back.holds_scaling);
        let accepted = *self.0.settled.borrow() && (self.in_force().withheld.is_empty() || taken_back);
        accepted.then(|| Kept {
            in_force: Some(offers.in_force.content.clone()),
            previous: offers.earlier.front().map(|edition| edition.content.clone()),
            rolled_back: offers.rolled_back.clone(),
        })
    }

    /// What was kept and still passes its checks, the latest first.
    async fn read_kept(&self, kept: &Kept) -> Vec<Edition> {
        let (checker, builtin, reader) = (self.0.checker.clone(), self.in_force().builtin.clone(), self.reader());
        let contents: Vec<Content> = kept.in_force.iter().chain(&kept.previous).cloned().collect();
        let read = move || {
            let read = |content| match Edition::read(&checker, &builtin, content, reader) {
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
                let reader = self.reader();
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
            if offers.rolled_back.as_ref().is_some_and(|rolled_back| rolled_back.holds_scaling) {
                self.withhold_scaling(NOTHING_GOOD_OF_ITS_OWN);
            }
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

    fn reader(&self) -> Reader {
        match self.0.whose {
            Whose::Administrator(_) => Reader::Administrator,
            Whose::Namespace { .. } => Reader::Namespace,
        }
    }

    fn standing(&self) -> Result<Arc<Serving>, Arc<Refusal>> {
        self.refusal().map_or_else(|| Ok(self.in_force()), Err)
    }

    fn offers(&self) -> MutexGuard<'_, Offers> {
        self.0.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;

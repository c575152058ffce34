//! The policies that serve, and which of them serve a group. Must not know how they
//! came to be in force, nor what is asked.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use vmgroup_api::OnFailure;
use vmgroup_api::policy_file;
use vmgroup_policy::{Kind, Policy, PolicySet};

use super::PolicyBook;
use super::candidates::Candidates;
use super::rules::{Rule, Served, Who};
use super::tenants::Standing;

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
    pub(super) rules: Arc<[Rule]>,
    /// Why these serve a group; none of a kind: it is everybody else's.
    pub chosen_by: BTreeMap<Kind, Chosen>,
    /// What happens when a policy gives no legal answer, where the file says so.
    pub(super) on_failure: BTreeMap<Kind, OnFailure>,
    /// Rises with every swap; 0 are the built-in defaults of the start.
    pub generation: u64,
    /// Which kinds are not asked, and why: who serves is not known.
    pub withheld: BTreeMap<Kind, String>,
    /// The time that policies may take for the groups of one namespace.
    pub budget: policy_file::Budget,
    /// These are a namespace's: what its file does not name is served as elsewhere.
    pub(super) partial: bool,
    /// Who may bring policies of his own.
    pub(super) tenants: Option<Arc<policy_file::Tenants>>,
    /// What the group's namespace has brought, if it may.
    pub(super) own: Option<Own>,
    /// Changes with what the group's namespace has brought.
    pub(super) standing: (u64, u64),
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
pub(super) struct Own {
    pub(super) book: PolicyBook,
    pub(super) serving: Arc<Serving>,
    pub(super) config_map: String,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").field("serving", &self.serving).finish_non_exhaustive()
    }
}

/// What is said where nobody may be chosen to leave: what is offered cannot be used,
/// and nothing is known that was good before. Who is destroyed in the meantime cannot
/// be brought back.
pub(super) const NOTHING_GOOD: &str =
    "the policy ConfigMap cannot be used (see PolicyRefused), and no policy is known that was good before: correct it";

/// The same of a namespace whose policy was taken back.
pub(super) const NOTHING_GOOD_OF_ITS_OWN: &str = "the policy of this namespace was taken back (see PolicyRolledBack), and none is known that was good before: correct it";

impl Serving {
    /// What serves this group: for each kind the first of the administrator's entries
    /// that selects it, then what its namespace has brought, then what serves all.
    pub(super) fn for_group(self: Arc<Self>, who: Who<'_>, standing: Standing) -> Arc<Self> {
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

/// A policy in a sentence: `ordinal.wasm 1.2.0 (sha256:0123456789ab)`. Twelve
/// digits tell two builds apart; the whole digest is in the groups' status.
pub(super) fn label(policy: &Policy) -> String {
    format!("{} {} (sha256:{})", policy.plugin(), policy.description().version, policy.digest().short())
}

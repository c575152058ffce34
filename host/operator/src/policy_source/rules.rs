//! Which groups other policies serve than the rest: by namespace, by labels, and
//! by a percentage that is the same at every look. Pure.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use vmgroup_api::OnFailure;
use vmgroup_api::policy_file::Select;
use vmgroup_policy::{Kind, Policy};

use super::edition::decides_alike;

/// What a group is chosen by.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// `metadata.uid`.
    pub uid: &'a str,
    /// `metadata.labels`.
    pub labels: &'a BTreeMap<String, String>,
}

/// A policy, and what happens when it gives no legal answer.
pub(super) type Served = (Arc<Policy>, OnFailure);

/// Policies for some groups, checked.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) select: Select,
    pub(super) percent: u8,
    pub(super) policies: BTreeMap<Kind, Served>,
}

impl Rule {
    /// Whether it is for this group.
    pub(super) fn selects(&self, who: Who<'_>) -> bool {
        self.select.fits(who.namespace, who.labels) && share(&self.name, who.uid) < u64::from(self.percent)
    }

    fn alike(&self, other: &Self) -> bool {
        let Self { name, select, percent, policies } = self;
        let same = |(one, other): (&Served, &Served)| {
            decides_alike(&one.0, &other.0) && one.0.plugin() == other.0.plugin() && one.1 == other.1
        };
        *name == other.name
            && *select == other.select
            && *percent == other.percent
            && policies.keys().eq(other.policies.keys())
            && policies.values().zip(other.policies.values()).all(same)
    }
}

/// Where a group stands among a hundred, for a rule: the same at every look, so
/// that a larger percentage has those of the smaller one in it. The rule's name
/// goes into it, lest it is always the same groups that try out what is new.
fn share(rule: &str, uid: &str) -> u64 {
    let hash: [u8; 32] = Sha256::new().chain_update(rule).chain_update([0]).chain_update(uid).finalize().into();
    hash.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte)) % 100
}

/// What is different from before, a phrase for each rule.
pub(super) fn differences(old: &[Rule], new: &[Rule]) -> Vec<String> {
    let find = |rules: &[Rule], name: &str| rules.iter().find(|rule| rule.name == name).cloned();
    let mut said = Vec::new();
    for rule in new {
        match find(old, &rule.name) {
            None => said.push(format!("groups: {} is new, {} %", rule.name, rule.percent)),
            Some(before) if !before.alike(rule) => {
                said.push(format!(
                    "groups: {} has changed, {} % (before: {} %)",
                    rule.name, rule.percent, before.percent
                ));
            }
            Some(_) => {}
        }
    }
    let names: HashSet<&str> = new.iter().map(|rule| rule.name.as_str()).collect();
    said.extend(
        old.iter()
            .filter(|rule| !names.contains(rule.name.as_str()))
            .map(|rule| format!("groups: {} is gone", rule.name)),
    );
    if said.is_empty() && !old.iter().map(|rule| &rule.name).eq(new.iter().map(|rule| &rule.name)) {
        said.push("groups: in another order".to_owned());
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(namespaces: &[&str], labels: &[(&str, &str)], percent: u8) -> Rule {
        Rule {
            name: "canary".to_owned(),
            select: Select {
                namespaces: namespaces.iter().map(|&it| it.to_owned()).collect(),
                match_labels: labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
            },
            percent,
            policies: BTreeMap::new(),
        }
    }

    #[test]
    fn namespaces_and_labels_both_have_to_fit() {
        let labels = BTreeMap::from([("tier".to_owned(), "web".to_owned())]);
        let who = |namespace| Who { namespace, uid: "u", labels: &labels };
        assert!(rule(&[], &[], 100).selects(who("any")));
        let both = rule(&["shop", "team-*"], &[("tier", "web")], 100);
        assert!(both.selects(who("shop")) && both.selects(who("team-a")));
        assert!(!both.selects(who("shop-2")));
        assert!(!rule(&["shop"], &[("tier", "db")], 100).selects(who("shop")));
        assert!(!rule(&["shop"], &[("other", "web")], 100).selects(who("shop")));
    }

    #[test]
    fn a_larger_percentage_has_the_smaller_in_it() {
        let labels = BTreeMap::new();
        let chosen = |percent| {
            let rule = rule(&[], &[], percent);
            let uids = (0..2_000).map(|number| format!("9f6cd4f6-{number}"));
            uids.filter(|uid| rule.selects(Who { namespace: "n", uid, labels: &labels })).collect::<HashSet<_>>()
        };
        let (none, ten, half, all) = (chosen(0), chosen(10), chosen(50), chosen(100));
        assert_eq!((none.len(), all.len()), (0, 2_000));
        assert!(ten.is_subset(&half));
        assert!((140..260).contains(&ten.len()) && (900..1_100).contains(&half.len()), "{} {}", ten.len(), half.len());
    }
}

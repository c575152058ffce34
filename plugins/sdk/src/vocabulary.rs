//! The contract's records under short names, and what policies ask them all the
//! time. Every type here is documented in `wit/`; nothing decides anything.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Deref;

use serde::Deserialize;

use crate::time::rfc3339;
use crate::{ConfigSchema, Protect};

/// What every question and answer is made of (`interface types`).
pub mod types {
    pub use crate::wire::vocabulary::vmgroup::policy::types::{
        Attribute, Cluster, Context, Datastore, EsxiHost as Host, Group, HostState, Index, Inventory, Member,
        PowerState, Purpose, Refusal,
    };
}

/// What new members are called (`interface naming`).
pub mod naming {
    pub use crate::wire::naming::exports::vmgroup::policy::naming::{Answer, Proposal, Request, Scope};
}

/// Where new members go (`interface placement`).
pub mod placement {
    pub use crate::wire::placement::exports::vmgroup::policy::placement::{Newcomer, Place, Request};
}

/// Who leaves (`interface scaling`).
pub mod scaling {
    pub use crate::wire::scaling::exports::vmgroup::policy::scaling::{Request, Victim};
}

use types::{Attribute, Cluster, Context, Datastore, Group, Host, HostState, Index, Inventory, Member, Refusal};

fn look_up<'a>(attributes: &'a [Attribute], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    Some(&found.value)
}

macro_rules! with_attributes {
    ($($record:ty),*) => { $(
        impl $record {
            /// The value of one of its attributes.
            pub fn attribute(&self, key: &str) -> Option<&str> {
                look_up(&self.attributes, key)
            }

            /// Gives it an attribute, or another value for one that it has.
            pub fn set_attribute(&mut self, key: &str, value: &str) {
                self.attributes.retain(|attribute| attribute.key != key);
                self.attributes.push(Attribute {
                    key: key.to_owned(),
                    value: value.to_owned(),
                });
            }
        }
    )* };
}
with_attributes!(Group, Cluster, Host, Datastore, Member, placement::Newcomer);

impl Group {
    /// One of the labels of the `VmGroup`.
    pub fn label(&self, key: &str) -> Option<&str> {
        look_up(&self.labels, key)
    }
}

impl Host {
    /// In maintenance, or on the way there.
    pub fn is_leaving(&self) -> bool {
        matches!(self.state, HostState::EnteringMaintenance | HostState::InMaintenance)
    }
}

impl Context {
    /// What the site's clocks show, in seconds since 1970 as if they were in UTC: for
    /// [`Moment`](crate::time::Moment). Where the operator knows no time zone, UTC.
    pub fn local_time(&self) -> u64 {
        let offset = i64::from(self.utc_offset_minutes.unwrap_or(0)) * 60;
        self.now.saturating_add_signed(offset)
    }
}

impl Inventory {
    /// The cluster at `index`, where there is one.
    pub fn cluster(&self, index: Index) -> Option<&Cluster> {
        self.clusters.get(index as usize)
    }

    /// The host at `index`, where there is one.
    pub fn host(&self, index: Index) -> Option<&Host> {
        self.hosts.get(index as usize)
    }

    /// The datastore at `index`, where there is one.
    pub fn datastore(&self, index: Index) -> Option<&Datastore> {
        self.datastores.get(index as usize)
    }
}

impl Member {
    /// The number at the end of its name: 12 of `web-012`.
    pub fn ordinal(&self) -> Option<u64> {
        self.name[self.stem().len()..].parse().ok()
    }

    /// When it was made, in words for a reason.
    pub fn made(&self) -> String {
        self.created_at.map_or_else(|| "at an unknown time".to_owned(), rfc3339)
    }

    /// By name as people count: `web-9` before `web-10`. A total order, as names
    /// within a group differ.
    pub fn by_name(&self, other: &Self) -> Ordering {
        let key = |member: &Self| (member.stem().len(), member.ordinal());
        self.stem().cmp(other.stem()).then_with(|| key(self).cmp(&key(other))).then_with(|| self.name.cmp(&other.name))
    }

    /// The youngest first, of the same age the highest name first (those that were
    /// made in one go), those of unknown age last.
    pub fn newest_first(&self, other: &Self) -> Ordering {
        other.created_at.cmp(&self.created_at).then_with(|| other.by_name(self))
    }

    fn stem(&self) -> &str {
        self.name.trim_end_matches(|c: char| c.is_ascii_digit())
    }
}

/// A member that may leave, with its position in the request.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// In `request.members`.
    pub index: Index,
    /// The member itself; its fields are reached through the candidate as well.
    pub member: &'a Member,
}

impl Deref for Candidate<'_> {
    type Target = Member;

    fn deref(&self) -> &Member {
        self.member
    }
}

impl Candidate<'_> {
    /// It leaves, and why, in words for the event.
    pub fn leaves(&self, reason: impl Into<String>) -> scaling::Victim {
        scaling::Victim { member: self.index, reason: reason.into() }
    }
}

impl scaling::Request {
    /// The members that may leave, by name (so that whatever sorts them with a
    /// stable sort breaks ties by name). Refuses if they are fewer than asked for.
    pub fn candidates(&self, protect: &Protect) -> Result<Vec<Candidate<'_>>, Refusal> {
        self.candidates_of(|member| !protect.protects(member)).map_err(|few| {
            let by_rule =
                self.members.iter().filter(|member| !member.protected && protect.rule_for(member).is_some()).count();
            let all = self.members.len();
            Refusal::Unsatisfiable(format!(
                "{} of {all} members have to leave, but {} are protected ({by_rule} of them by \
                 this policy's `protect`) and only {few} may go",
                self.count,
                all - few,
            ))
        })
    }

    /// As [`candidates`](Self::candidates), by a rule of the policy's own; those whom
    /// the operator protects never are. If they are fewer than asked for, how many
    /// there are.
    pub fn candidates_of(&self, may_leave: impl Fn(&Member) -> bool) -> Result<Vec<Candidate<'_>>, usize> {
        let mut candidates: Vec<Candidate<'_>> = (0..)
            .zip(&self.members)
            .filter(|(_, member)| !member.protected && may_leave(member))
            .map(|(index, member)| Candidate { index, member })
            .collect();
        if candidates.len() < self.count as usize {
            return Err(candidates.len());
        }
        candidates.sort_by(|a, b| a.by_name(b));
        Ok(candidates)
    }

    /// The first `count` of `candidates`, each with its reason.
    pub fn take<'a>(
        &self,
        candidates: impl IntoIterator<Item = Candidate<'a>>,
        reason: impl Fn(&Candidate<'a>) -> String,
    ) -> Vec<scaling::Victim> {
        candidates.into_iter().take(self.count as usize).map(|candidate| candidate.leaves(reason(&candidate))).collect()
    }
}

impl naming::Request {
    /// The names that are not free: those in the group's folder and, where names
    /// have to be unique everywhere, the others that the operator knows of.
    pub fn taken(&self, scope: naming::Scope) -> BTreeSet<&str> {
        let elsewhere = match scope {
            naming::Scope::Group => &[][..],
            naming::Scope::Everywhere => &self.taken_elsewhere,
        };
        let names = self.taken_in_group.iter().chain(elsewhere);
        let members = self.members.iter().map(|member| &member.name);
        names.chain(members).map(String::as_str).collect()
    }
}

/// Where names have to be unique, in a configuration: `group` or `everywhere`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ConfigSchema)]
#[serde(rename_all = "camelCase")]
pub enum Unique {
    /// In the group's folder, as vCenter demands.
    #[default]
    Group,
    /// Over everything that the operator knows of on this vCenter.
    Everywhere,
}

impl From<Unique> for naming::Scope {
    fn from(unique: Unique) -> Self {
        match unique {
            Unique::Group => Self::Group,
            Unique::Everywhere => Self::Everywhere,
        }
    }
}

/// How long vCenter thinks that `name` is: it stores `%`, `/` and `\` as three
/// characters each.
pub fn name_length(name: &str) -> usize {
    name.chars().map(|c| if matches!(c, '%' | '/' | '\\') { 3 } else { 1 }).sum()
}

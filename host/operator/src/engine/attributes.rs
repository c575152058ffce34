//! The custom attributes of members: under which keys vCenter has what the spec names,
//! and what is to be taken away that an earlier spec has named.
//!
//! Must not write anything to anybody.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Pass;
use crate::link::Connected;
use crate::memory::{Patience, Topic, Why};
use crate::observe::{Observed, VmSeen};
use crate::validate::Desired;

/// How soon attributes that are not defined are looked for again.
const PATIENCE: Patience = Patience::seconds(8, 300);

/// How long the watch may take to tell of an attribute that was set.
const AWAITED: Duration = Duration::from_secs(60);

/// The reason of a group that names attributes which vCenter has not got.
const NOT_FOUND: &str = "CustomAttributeNotFound";

impl Pass<'_> {
    /// Finds the keys of the attributes that the spec names, and of those that it does
    /// not name any more. False if members have to be read anew before their attributes
    /// are known: the watch tells of that.
    pub(super) async fn find_fields(&mut self, connected: &Connected) -> bool {
        let recorded = self.written().0.custom_attributes.clone().unwrap_or_default();
        if self.desired.deleting || (self.desired.custom_attributes.is_empty() && recorded.is_empty()) {
            self.memory.clear(&Topic::Attributes);
            return true;
        }
        let vcenter = self.connection.link.vcenter();
        vcenter.watch_attributes();
        let members = connected.inventory().indexed(&self.desired.uid);
        if members.iter().any(|vm| vm.attributes.is_none()) {
            return false;
        }
        if self.memory.held(&Topic::Attributes, self.now) {
            return true;
        }
        let known = match connected.custom_fields(vcenter).await {
            Ok(known) => known,
            Err(error) => {
                self.fail_vc(Topic::Attributes, &error);
                return true;
            }
        };
        let wanted = &self.desired.custom_attributes;
        let taken_away = recorded.iter().filter(|name| !wanted.contains_key(*name)).map(|name| (name, ""));
        let wanted = wanted.iter().map(|(name, value)| (name, value.as_str())).chain(taken_away);
        self.desired.fields = wanted.filter_map(|(name, value)| Some((*known.get(name)?, value.to_owned()))).collect();
        let missing: Vec<&str> = self
            .desired
            .custom_attributes
            .keys()
            .filter(|name| !known.contains_key(*name))
            .map(String::as_str)
            .collect();
        if missing.is_empty() {
            return true;
        }
        let message = format!(
            "vCenter has no custom attribute for virtual machines with the name {}: an administrator defines it there (`govc fields.add -type VirtualMachine NAME`), or correct spec.customAttributes; members are made without it",
            missing.join(", ")
        );
        connected.forget_custom_fields();
        self.fail(Topic::Attributes, Why { reason: NOT_FOUND.to_owned(), message, stalled: true, patience: PATIENCE });
        true
    }

    /// Notes what a member was given just now, and the inventory need not show yet.
    pub(super) fn await_fields(&mut self, seen: &Observed, uuid: &str) {
        let member = seen.members.iter().find(|member| member.uuid == uuid);
        if let Some(vm) = member.and_then(|member| member.vm.as_ref()) {
            let until = self.engine.clock.now() + AWAITED;
            self.memory.fields_awaited.insert(uuid.to_owned(), (vm.fields_to_set(&self.desired), until));
        }
    }

    /// The names that are still to be recorded: those of the spec, and others as long as a
    /// member may have them.
    pub(super) fn attributes_to_keep(&mut self, seen: &Observed) -> Option<Vec<String>> {
        let now = self.now;
        self.memory.fields_awaited.retain(|uuid, (fields, until)| {
            let member = seen.members.iter().find(|member| member.uuid == *uuid);
            let vm = member.and_then(|member| member.vm.as_ref());
            *until > now && vm.is_some_and(|vm| !vm.has_fields(fields))
        });
        let mut recorded = self.written().0.custom_attributes.clone()?;
        let wanted = &self.desired.custom_attributes;
        if recorded.iter().all(|name| wanted.contains_key(name)) {
            return Some(recorded);
        }
        if let Some(until) = self.memory.fields_awaited.values().map(|(_, until)| *until).min() {
            self.look_again_at(until);
        } else if left(&self.desired, seen) == 0 && !self.desired.fields.is_empty() {
            recorded.retain(|name| wanted.contains_key(name));
        }
        Some(recorded)
    }
}

/// The names to be recorded before any of them is set.
pub(super) fn with(recorded: Option<&[String]>, desired: &Desired) -> Option<Vec<String>> {
    if desired.fields.is_empty() {
        return recorded.map(<[String]>::to_vec);
    }
    let names: BTreeSet<&String> =
        recorded.unwrap_or_default().iter().chain(desired.custom_attributes.keys()).collect();
    Some(names.into_iter().cloned().collect())
}

/// How many members have not got what they are to have.
pub(super) fn left(desired: &Desired, seen: &Observed) -> usize {
    let lacks = |vm: &VmSeen| vm.has_fields_to_set(desired);
    seen.members.iter().filter(|member| !member.leaving() && member.vm.as_ref().is_some_and(lacks)).count()
}

//! The tags of members: which ones the spec names and vCenter has, which ones an earlier
//! spec has named, and who has them. No watch tells of that: who has what is asked once,
//! for all members that nothing is known of in one call, and remembered.
//!
//! Must not write anything to anybody.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use vmgroup_api::TagSpec;
use vmgroup_vsphere::{Category, Error as VcError, TagName, VmRef};

use super::{Pass, why};
use crate::link::{Connected, chain};
use crate::memory::{Patience, Topic, Why};
use crate::observe::{Observed, VmSeen};
use crate::validate::{Desired, TagWish};

/// How soon it is tried again what somebody has to mend.
const PATIENCE: Patience = Patience::seconds(8, 300);

/// The reason of a group that names tags which vCenter has not got.
const NOT_FOUND: &str = "TagNotFound";

/// The reason of a group whose members vCenter does not let have a tag.
const REFUSED: &str = "TagRefused";

impl Pass<'_> {
    /// Finds the tags that the spec names, and those that it does not name any more, and
    /// which of them members have; those, too, who were moved to where no watch looks.
    pub(super) async fn find_tags(&mut self, connected: &Connected, members: HashSet<VmRef>) {
        let recorded = self.written().0.tags.clone().unwrap_or_default();
        if self.desired.deleting || (self.desired.tags.is_empty() && recorded.is_empty()) {
            self.memory.clear(&Topic::Tags);
            self.memory.tagged.clear();
            return;
        }
        if self.memory.held(&Topic::Tags, self.now) {
            return;
        }
        if let Err(error) = self.look_for_tags(connected, &recorded, members).await {
            self.fail_vc(Topic::Tags, &error);
            return;
        }
        let found = |tag: &&TagName| self.desired.tagging.iter().flatten().any(|(_, wish)| wish.tag == **tag);
        let missing: Vec<&TagName> = self.desired.tags.iter().filter(|tag| !found(tag)).collect();
        let Some(first) = missing.first() else { return };
        let message = format!(
            "vCenter has no tag {}: an administrator makes it there (`govc tags.create -c {} {}`, and before it a category that is new: `govc tags.category.create {}`), or correct spec.tags; members are made without it",
            missing.iter().map(|tag| called(tag)).collect::<Vec<_>>().join(", "),
            first.category,
            first.name,
            first.category,
        );
        self.fail(Topic::Tags, Why { reason: NOT_FOUND.to_owned(), message, stalled: true, patience: PATIENCE });
    }

    async fn look_for_tags(
        &mut self,
        connected: &Connected,
        recorded: &[TagSpec],
        members: HashSet<VmRef>,
    ) -> Result<(), VcError> {
        let vcenter = self.connection.link.vcenter();
        let wished = &self.desired.tags;
        let all: BTreeSet<TagName> = wished.iter().cloned().chain(recorded.iter().map(name_of)).collect();
        let tagging: BTreeMap<_, _> = connected
            .tags(vcenter, &all)
            .await?
            .into_iter()
            .map(|(tag, id)| (id, TagWish { attached: wished.contains(&tag), tag }))
            .collect();
        let ids = tagging.keys().cloned().collect();
        let tagged = &mut self.memory.tagged;
        tagged.keep(ids, &members);
        let unknown: Vec<VmRef> = members.into_iter().filter(|vm| !tagged.members.contains_key(vm)).collect();
        if !unknown.is_empty() && !tagging.is_empty() {
            for (vm, tags) in vcenter.attached_tags(&unknown).await? {
                tagged.note(vm, tags);
            }
        }
        self.desired.tagging = Some(tagging);
        Ok(())
    }

    /// Tells that a tag could not be attached or taken off. What is attached now is
    /// looked at before it is tried again.
    pub(super) fn not_tagged(&mut self, connected: &Connected, tag: Option<&TagName>, error: &VcError) {
        self.memory.tagged.clear();
        let Some(tag) = tag else { return self.fail_vc(Topic::Tags, error) };
        let category = error.category();
        if category == Category::Gone {
            // It may have been made anew.
            connected.forget_tags();
        }
        let what = format!("{}: {}", called(tag), chain(error));
        if category == Category::Configuration {
            let message = format!(
                "vCenter does not let members have the tag {what}. If its category allows one tag for each machine, take the other one off them, or out of spec.tags; and it has to be one for virtual machines. Nothing else of the members waits for it"
            );
            self.fail(Topic::Tags, Why { reason: REFUSED.to_owned(), message, stalled: true, patience: PATIENCE });
        } else {
            self.fail(Topic::Tags, why(category, format!("the tag {what}")));
        }
    }
}

/// A tag, in words.
fn called(tag: &TagName) -> String {
    format!("{} of the category {}", tag.name, tag.category)
}

fn name_of(TagSpec { category, name }: &TagSpec) -> TagName {
    TagName { category: category.clone(), name: name.clone() }
}

fn recorded_as(TagName { category, name }: &TagName) -> TagSpec {
    TagSpec { category: category.clone(), name: name.clone() }
}

/// The tags to be recorded before any of them is attached.
pub(super) fn with(recorded: Option<&[TagSpec]>, desired: &Desired) -> Option<Vec<TagSpec>> {
    if desired.tagging.as_ref().is_none_or(BTreeMap::is_empty) {
        return recorded.map(<[TagSpec]>::to_vec);
    }
    let all: BTreeSet<TagName> =
        recorded.unwrap_or_default().iter().map(name_of).chain(desired.tags.iter().cloned()).collect();
    Some(all.iter().map(recorded_as).collect())
}

/// The tags that are still to be recorded: those of the spec, and others as long as a
/// member may have them.
pub(super) fn kept(recorded: Option<&[TagSpec]>, desired: &Desired, seen: &Observed) -> Option<Vec<TagSpec>> {
    let recorded = recorded?;
    let all_done = left(desired, seen) == 0 && desired.tagging.is_some();
    let kept = recorded.iter().filter(|tag| !all_done || desired.tags.contains(&name_of(tag)));
    Some(kept.cloned().collect())
}

/// How many members have not got the tags that they are to have, or others of ours.
pub(super) fn left(desired: &Desired, seen: &Observed) -> usize {
    let lacks = |vm: &VmSeen| vm.has_tags_to_set(desired);
    seen.members.iter().filter(|member| !member.leaving() && member.vm.as_ref().is_some_and(lacks)).count()
}

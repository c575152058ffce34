//! Tags: categories, the tags in them, and what they are attached to
//! (`com.vmware.cis.tagging`).
//!
//! Must not know how it is asked for.

use std::collections::{BTreeMap, BTreeSet};

use super::entity::Moref;
use super::world::State;

/// A category.
#[derive(Debug)]
pub(super) struct Category {
    pub(super) name: String,
    /// An object may have one tag of it at most (`SINGLE`).
    pub(super) single: bool,
}

/// A tag.
#[derive(Debug)]
pub(super) struct Tag {
    pub(super) name: String,
    pub(super) category: String,
}

/// All of them, by identifier.
#[derive(Debug, Default)]
pub(super) struct Tagging {
    pub(super) categories: BTreeMap<String, Category>,
    pub(super) tags: BTreeMap<String, Tag>,
    attached: BTreeMap<Moref, BTreeSet<String>>,
}

/// Why a tag is not attached to one of several objects.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cardinality;

impl Tagging {
    pub(super) fn tags_in(&self, category: &str) -> Vec<&String> {
        self.tags.iter().filter(|(_, tag)| tag.category == category).map(|(id, _)| id).collect()
    }

    pub(super) fn of(&self, object: Moref) -> impl Iterator<Item = &String> {
        self.attached.get(&object).into_iter().flatten()
    }

    /// The names of an object's tags: category and tag.
    pub(super) fn names_of(&self, object: Moref) -> BTreeSet<(String, String)> {
        let named = |id: &String| {
            let tag = self.tags.get(id)?;
            Some((self.categories.get(&tag.category)?.name.clone(), tag.name.clone()))
        };
        self.of(object).filter_map(named).collect()
    }

    pub(super) fn find(&self, category: &str, name: &str) -> Option<String> {
        let category = self.categories.iter().find(|(_, known)| known.name == category)?.0;
        let tag = self.tags.iter().find(|(_, tag)| tag.category == *category && tag.name == name)?;
        Some(tag.0.clone())
    }
}

impl State {
    /// The category of this name; it is made if it is new.
    pub(super) fn define_category(&mut self, name: &str, single: bool) -> String {
        let known = self.tagging.categories.iter().find(|(_, category)| category.name == name);
        if let Some((id, _)) = known {
            return id.clone();
        }
        let id = format!("urn:vmomi:InventoryServiceCategory:{}:GLOBAL", self.new_uuid());
        self.tagging.categories.insert(id.clone(), Category { name: name.to_owned(), single });
        id
    }

    /// The tag of this name; it is made if it is new.
    pub(super) fn define_tag(&mut self, category: &str, name: &str) -> String {
        if let Some(known) = self.tagging.find(category, name) {
            return known;
        }
        let category = self.define_category(category, false);
        let id = format!("urn:vmomi:InventoryServiceTag:{}:GLOBAL", self.new_uuid());
        self.tagging.tags.insert(id.clone(), Tag { name: name.to_owned(), category });
        id
    }

    /// Deletes a tag, wherever it is attached.
    pub(super) fn delete_tag(&mut self, id: &str) {
        self.tagging.tags.remove(id);
        for tags in self.tagging.attached.values_mut() {
            tags.remove(id);
        }
        self.changes += 1;
    }

    /// Attaches a tag that is there to an object that is there. To who has it nothing
    /// happens.
    pub(super) fn attach(&mut self, id: &str, object: Moref) -> Result<(), Cardinality> {
        let tagging = &mut self.tagging;
        let category = tagging.tags.get(id).map(|tag| tag.category.clone()).unwrap_or_default();
        let has = tagging.attached.entry(object).or_default();
        let single = tagging.categories.get(&category).is_some_and(|category| category.single);
        let other = |own: &String| own != id && tagging.tags.get(own).is_some_and(|tag| tag.category == category);
        if single && has.iter().any(other) {
            return Err(Cardinality);
        }
        has.insert(id.to_owned());
        self.changes += 1;
        Ok(())
    }

    /// Takes a tag off an object; where it is not attached nothing happens.
    pub(super) fn detach(&mut self, id: &str, object: Moref) {
        if let Some(tags) = self.tagging.attached.get_mut(&object) {
            tags.remove(id);
        }
        self.changes += 1;
    }

    /// What is deleted has no tags any more.
    pub(super) fn forget_tags(&mut self, object: Moref) {
        self.tagging.attached.remove(&object);
    }
}

//! Tags: made by people for the whole vCenter, in categories, and attached to machines.
//! They are behind the REST API alone, and no property collector tells of them.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::{Purpose, Vcenter};
use crate::error::{Error, FaultKind};
use crate::read::VM;
use crate::refs::{TagRef, VmRef};
use crate::rest::{self, Operation};

const ATTACH: &str = "tag_association.attach_tag_to_multiple_objects";
const DETACH: &str = "tag_association.detach";
const CATEGORY: &str = "/tagging/category";
const TAG: &str = "/tagging/tag";
const ASSOCIATION: &str = "/tagging/tag-association";

/// A tag as people call it. A category's name is unique in vCenter, a tag's in its
/// category.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TagName {
    /// The category's name.
    pub category: String,
    /// The tag's own.
    pub name: String,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
}

#[derive(Deserialize)]
struct Attached {
    object_id: ObjectId,
    /// vcsim has none where there are none.
    tag_ids: Option<Vec<String>>,
}

/// An object as this API names it: what is a reference's value in SOAP is its `id` here.
#[derive(Deserialize)]
struct ObjectId {
    id: String,
}

#[derive(Deserialize)]
struct Batch {
    success: bool,
    #[serde(default)]
    error_messages: Value,
}

impl Vcenter {
    /// Whether the API that tags are behind answers, and lets us in.
    pub async fn tagging_answers(&self) -> Result<(), Error> {
        self.list("category.list", CATEGORY.to_owned(), Method::GET).await.map(drop)
    }

    /// The references of these tags, and of those that were come across on the way to
    /// them; who is not in the result does not exist. There is no search by name: it
    /// takes a call for each category, until all are found, and one for each tag in them.
    pub async fn find_tags(&self, wanted: &BTreeSet<TagName>) -> Result<BTreeMap<TagName, TagRef>, Error> {
        let mut found = BTreeMap::new();
        let mut categories: BTreeSet<&str> = wanted.iter().map(|tag| tag.category.as_str()).collect();
        if categories.is_empty() {
            return Ok(found);
        }
        for id in self.list("category.list", CATEGORY.to_owned(), Method::GET).await? {
            let Some(category) = self.name_of("category.get", CATEGORY, &id).await? else { continue };
            if !categories.remove(category.as_str()) {
                continue;
            }
            let mut left: BTreeSet<&str> =
                wanted.iter().filter(|tag| tag.category == category).map(|tag| tag.name.as_str()).collect();
            for id in self.tags_of(&id).await? {
                let Some(name) = self.name_of("tag.get", TAG, &id).await? else { continue };
                left.remove(name.as_str());
                found.insert(TagName { category: category.clone(), name }, TagRef::new(id));
                if left.is_empty() {
                    break;
                }
            }
            if categories.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// The tags that are attached to each of these machines, in one call; a machine that
    /// is gone has none.
    pub async fn attached_tags(&self, vms: &[VmRef]) -> Result<BTreeMap<VmRef, BTreeSet<TagRef>>, Error> {
        let operation = Operation {
            method: "tag_association.list_attached_tags_on_objects",
            verb: Method::POST,
            path: format!("{ASSOCIATION}?~action=list-attached-tags-on-objects"),
            body: Some(json!({"object_ids": objects(vms)})),
            privilege: "System.Read",
        };
        let listed: Option<Vec<Attached>> = self.operate(Purpose::Tag, &operation).await?;
        let mut attached: BTreeMap<VmRef, BTreeSet<TagRef>> =
            vms.iter().map(|vm| (vm.clone(), BTreeSet::new())).collect();
        for entry in listed.unwrap_or_default() {
            if let Some(tags) = attached.get_mut(&VmRef::new(&entry.object_id.id)) {
                tags.extend(entry.tag_ids.into_iter().flatten().map(TagRef::new));
            }
        }
        Ok(attached)
    }

    /// Attaches a tag to machines, in one call. To who has it already nothing happens.
    /// What vCenter refuses for some of them it may have done for the others.
    pub async fn attach_tag(&self, tag: &TagRef, vms: &[VmRef]) -> Result<(), Error> {
        let operation = Operation {
            method: ATTACH,
            verb: Method::POST,
            path: format!("{ASSOCIATION}{}?~action=attach-tag-to-multiple-objects", id(ATTACH, tag.as_str())?),
            body: Some(json!({"object_ids": objects(vms)})),
            privilege: "InventoryService.Tagging.AttachTag",
        };
        // vcsim answers nothing.
        let result: Option<Batch> = self.operate(Purpose::Write, &operation).await?;
        result.filter(|batch| !batch.success).map_or(Ok(()), |batch| Err(refused(&batch.error_messages)))
    }

    /// Takes a tag off a machine. Where it is not attached nothing happens. (Off several
    /// at a time only vCenter can take it, and not vcsim, which this has to be tried on.)
    pub async fn detach_tag(&self, tag: &TagRef, vm: &VmRef) -> Result<(), Error> {
        let operation = Operation {
            method: DETACH,
            verb: Method::POST,
            path: format!("{ASSOCIATION}{}?~action=detach", id(DETACH, tag.as_str())?),
            body: Some(json!({"object_id": object(vm)})),
            privilege: "InventoryService.Tagging.AttachTag",
        };
        self.operate::<Option<Value>>(Purpose::Write, &operation).await.map(drop)
    }

    async fn list(&self, method: &'static str, path: String, verb: Method) -> Result<Vec<String>, Error> {
        let operation = Operation { method, verb, path, body: None, privilege: "System.Read" };
        Ok(self.operate::<Option<Vec<String>>>(Purpose::Tag, &operation).await?.unwrap_or_default())
    }

    async fn tags_of(&self, category: &str) -> Result<Vec<String>, Error> {
        let method = "tag.list_tags_for_category";
        let path = format!("{TAG}{}?~action=list-tags-for-category", id(method, category)?);
        match self.list(method, path, Method::POST).await {
            Err(error) if error.is_missing() => Ok(Vec::new()),
            other => other,
        }
    }

    /// The name of a category or tag; none if it is gone.
    async fn name_of(&self, method: &'static str, kind: &str, of: &str) -> Result<Option<String>, Error> {
        let path = format!("{kind}{}", id(method, of)?);
        let operation = Operation { method, verb: Method::GET, path, body: None, privilege: "System.Read" };
        match self.operate::<Entry>(Purpose::Tag, &operation).await {
            Ok(entry) => Ok(Some(entry.name)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An identifier as part of a path.
fn id(method: &'static str, id: &str) -> Result<String, Error> {
    if !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.".contains(c)) {
        return Ok(format!("/id:{id}"));
    }
    Err(Error::Protocol { method, detail: format!("{id:?} is no identifier of a tag or category") })
}

fn object(vm: &VmRef) -> Value {
    json!({"type": VM, "id": vm.as_str()})
}

fn objects(vms: &[VmRef]) -> Vec<Value> {
    vms.iter().map(object).collect()
}

/// Part of a batch was refused, by errors whose identifiers tell them apart: such as
/// `cis.tagging.attach.invalidArgument.cardinality.error` where the category allows one
/// tag for each object, and `cis.tagging.objectNotFound.error`.
fn refused(errors: &Value) -> Error {
    let ids = errors.as_array().into_iter().flatten().filter_map(|error| error["id"].as_str());
    let mut gone = ids.map(|id| id.starts_with("cis.tagging.objectNotFound")).peekable();
    let all_gone = gone.peek().is_some() && gone.all(|gone| gone);
    let kind = if all_gone {
        FaultKind::ManagedObjectNotFound { object: None }
    } else {
        FaultKind::InvalidArgument { property: String::new() }
    };
    rest::fault(ATTACH, kind, rest::messages(errors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Category;

    #[test]
    fn what_a_batch_was_refused_for_is_told_by_its_identifier() {
        let error = |id: &str| json!({"id": id, "default_message": format!("about {id}"), "args": []});
        let cardinality = "cis.tagging.attach.invalidArgument.cardinality.error";
        let gone = "cis.tagging.objectNotFound.error";
        for (errors, category) in [
            (json!([error(cardinality)]), Category::Configuration),
            (json!([error(gone)]), Category::Gone),
            (json!([error(gone), error(cardinality)]), Category::Configuration),
            (json!([]), Category::Configuration),
        ] {
            assert_eq!(refused(&errors).category(), category, "{errors}");
        }
        assert!(refused(&json!([error(gone)])).to_string().contains("about cis"));
    }

    #[test]
    fn an_identifier_cannot_break_out_of_its_path() {
        assert_eq!(
            id("m", "urn:vmomi:InventoryServiceTag:1f-2:GLOBAL").unwrap(),
            "/id:urn:vmomi:InventoryServiceTag:1f-2:GLOBAL"
        );
        for bad in ["", "a/b", "a?b", "..%2f"] {
            assert!(id("m", bad).is_err(), "{bad}");
        }
    }
}

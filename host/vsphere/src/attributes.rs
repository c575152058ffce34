//! Custom attributes: defined once for the whole vCenter (`CustomFieldsManager`), and
//! carried by machines under the definitions' keys.

use std::collections::BTreeMap;

use crate::client::{Purpose, This, Vcenter};
use crate::error::Error;
use crate::property::{Paths, Query, Start};
use crate::read::VM;
use crate::refs::VmRef;
use crate::xml::Element;

const MANAGER: &str = "CustomFieldsManager";
const SET: &str = "SetField";

impl Vcenter {
    /// The definitions of custom attributes that machines can have, key by name: those
    /// for machines, and those for everything. Of two of one name that for machines.
    pub async fn custom_fields(&self) -> Result<BTreeMap<String, i32>, Error> {
        let session = self.session(Purpose::Read, "RetrievePropertiesEx").await?;
        // A bare `ESXi` has none.
        let Some(manager) = session.content.custom_fields.clone() else { return Ok(BTreeMap::new()) };
        let query = Query { paths: vec![Paths::new(MANAGER, &["field"])], starts: vec![Start::at(manager)] };
        let objects = self.retrieve(&query).await?;
        let fields = objects.first().and_then(|manager| manager.get("field"));
        Ok(fields.map_or_else(BTreeMap::new, fields_of))
    }

    /// `CustomFieldsManager.SetField` on a machine. An empty value takes the attribute
    /// away. It is done when it is answered; doing it twice is doing it once.
    pub async fn set_custom_field(&self, vm: &VmRef, key: i32, value: &str) -> Result<(), Error> {
        let session = self.session(Purpose::Write, SET).await?;
        let Some(manager) = session.content.custom_fields.clone() else {
            return Err(Error::Protocol { method: SET, detail: "this server has no custom attributes".to_owned() });
        };
        self.call(Purpose::Write, SET, This::Object(manager), |w| {
            w.reference("entity", VM, vm.as_str());
            w.value("key", key);
            w.text("value", value);
        })
        .await
        .map(drop)
    }
}

/// An `ArrayOfCustomFieldDef`.
fn fields_of(all: &Element) -> BTreeMap<String, i32> {
    let mut fields = BTreeMap::new();
    for own in [false, true] {
        let of_kind = all.children.iter().filter(|field| match field.text_of("managedObjectType").trim() {
            "" => !own,
            kind => own && kind == VM,
        });
        fields.extend(
            of_kind.filter_map(|field| {
                Some((field.text_of("name").to_owned(), field.text_of("key").trim().parse().ok()?))
            }),
        );
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml;

    #[test]
    fn only_what_machines_can_have_is_found_and_their_own_first() {
        let field = |key: i32, name: &str, kind: &str| {
            let kind =
                if kind.is_empty() { String::new() } else { format!("<managedObjectType>{kind}</managedObjectType>") };
            format!("<CustomFieldDef><key>{key}</key><name>{name}</name><type>string</type>{kind}</CustomFieldDef>")
        };
        let text = format!(
            "<val>{}{}{}{}</val>",
            field(101, "owner", VM),
            field(102, "owner", ""),
            field(103, "rack", "HostSystem"),
            field(104, "site", "")
        );
        let fields = fields_of(&xml::parse(text.as_bytes()).unwrap());
        assert_eq!(fields, BTreeMap::from([("owner".to_owned(), 101), ("site".to_owned(), 104)]));
    }
}

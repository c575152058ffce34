//! What our user may do on which objects (`AuthorizationManager`). Nothing that is done
//! waits for it: what is missing shows as a fault. It is for who wants to know before.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::{Purpose, This, Vcenter};
use crate::error::Error;
use crate::property::{Paths, Query, Start, Step};
use crate::read::VM;
use crate::refs::{ManagedObjectRef, VmRef};
use crate::site::Named;
use crate::soap::reference_of;

const METHOD: &str = "FetchUserPrivilegeOnEntities";

impl Vcenter {
    /// The privileges, by identifier (`VirtualMachine.Interact.PowerOn`), that the user
    /// who writes has on each of these objects. None if the server cannot be asked: a
    /// bare `ESXi`, or a vCenter before 6.5.
    pub async fn privileges_on(
        &self,
        objects: &[ManagedObjectRef],
    ) -> Result<Option<BTreeMap<ManagedObjectRef, BTreeSet<String>>>, Error> {
        let session = self.session(Purpose::Write, METHOD).await?;
        let Some(manager) = session.content.authorization.clone() else { return Ok(None) };
        let answer = self
            .call(Purpose::Write, METHOD, This::Object(manager), |w| {
                for object in objects {
                    w.reference("entities", &object.kind, &object.id);
                }
                w.text("userName", &session.user);
            })
            .await?;
        let of = |result: &crate::xml::Element| {
            let privileges =
                result.children_named("privileges").map(|privilege| privilege.text.trim().to_owned()).collect();
            Some((result.child("entity").and_then(reference_of)?, privileges))
        };
        Ok(Some(answer.children_named("returnval").filter_map(of).collect()))
    }

    /// The networks that a machine, or a template, is connected to.
    pub async fn networks_of(&self, vm: &VmRef) -> Result<Vec<Named<ManagedObjectRef>>, Error> {
        let query = Query {
            paths: vec![Paths::new("Network", &["name"])],
            starts: vec![Start::from(vm.managed_object(), vec![Step::along("networks", VM, "network", &[])])],
        };
        let objects = self.retrieve(&query).await?;
        Ok(objects.into_iter().map(|object| Named { name: object.name(), id: object.id }).collect())
    }

    /// The folder that everything of this vCenter lies in.
    pub async fn top(&self) -> Result<ManagedObjectRef, Error> {
        Ok(self.session(Purpose::Read, "RetrieveServiceContent").await?.content.root_folder.clone())
    }
}

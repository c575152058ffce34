//! What a `WaitForUpdatesEx` answer says, in our own words. It calls nobody.

use std::collections::BTreeMap;

use crate::error::{Error, FaultKind};
use crate::inventory::Folder;
use crate::model::{Vm, unescape_name};
use crate::property::session_lost_in;
use crate::read::{FOLDER, VM};
use crate::refs::{FolderRef, HostRef, TaskRef, VmRef};
use crate::soap::reference_of;
use crate::task::TASK;
use crate::texts::Texts;
use crate::watch::hosts::{CLUSTER, HOST, Hosts};
use crate::xml::Element;

pub(super) const METHOD: &str = "WaitForUpdatesEx";

/// An `UpdateSet`.
#[derive(Debug)]
pub(super) struct Updates {
    /// To be given back with the next call.
    pub(super) version: String,
    /// True if there is more to this one.
    pub(super) truncated: bool,
    /// What happened, in order.
    pub(super) objects: Vec<Update>,
}

/// What happened to one object.
#[derive(Debug)]
pub(super) enum Update {
    Vm(VmRef, Change),
    Folder(FolderRef, Change),
    Task(TaskRef, Change),
    Host(HostRef, Change),
    /// By the identifier.
    Cluster(String, Change),
}

#[derive(Debug)]
pub(super) enum Change {
    /// It came into view: these are all its properties.
    Enter(Vec<Property>),
    /// These of its properties are different.
    Modify(Vec<Property>),
    /// It is gone from view.
    Leave,
}

#[derive(Debug)]
pub(super) struct Property {
    pub(super) name: String,
    /// None if it is unset now.
    pub(super) value: Option<Element>,
}

/// `None`: the poll's time is over and nothing has happened.
pub(super) fn read(answer: &Element) -> Result<Option<Updates>, Error> {
    let Some(set) = answer.child("returnval") else {
        return Ok(None);
    };
    let mut objects = Vec::new();
    for filter in set.children_named("filterSet") {
        for update in filter.children_named("objectSet") {
            if update.children_named("missingSet").any(session_lost_in) {
                return Err(Error::from_fault(METHOD, FaultKind::NotAuthenticated));
            }
            objects.extend(object_update(update));
        }
        // An object that the filter began with and that is not there (any more).
        for missing in filter.children_named("missingObject") {
            let object = missing.child("obj").and_then(reference_of);
            if let Some(object) = object.filter(|object| object.kind == TASK) {
                objects.push(Update::Task(TaskRef::new(object.id), Change::Leave));
            }
        }
    }
    Ok(Some(Updates {
        version: set.text_of("version").to_owned(),
        truncated: set.child("truncated").is_some_and(Element::is_true),
        objects,
    }))
}

fn object_update(update: &Element) -> Option<Update> {
    let object = update.child("obj").and_then(reference_of)?;
    let properties = || {
        update
            .children_named("changeSet")
            .map(|change| Property {
                name: change.text_of("name").to_owned(),
                value: match change.text_of("op").trim() {
                    "remove" | "indirectRemove" => None,
                    _ => change.child("val").cloned(),
                },
            })
            .collect()
    };
    let change = match update.text_of("kind").trim() {
        "enter" => Change::Enter(properties()),
        "leave" => Change::Leave,
        _ => Change::Modify(properties()),
    };
    match object.kind.as_str() {
        VM => Some(Update::Vm(VmRef::new(object.id), change)),
        FOLDER => Some(Update::Folder(FolderRef::new(object.id), change)),
        TASK => Some(Update::Task(TaskRef::new(object.id), change)),
        HOST => Some(Update::Host(HostRef::new(object.id), change)),
        CLUSTER => Some(Update::Cluster(object.id, change)),
        _ => None,
    }
}

/// A machine after a change; the flag tells that the change said something
/// that we cannot follow, so that it has to be read anew.
pub(super) fn vm_after(id: &VmRef, known: Option<&Vm>, change: &Change, extra_prefix: &str) -> Option<(Vm, bool)> {
    let (mut vm, properties, mut unclear) = match change {
        Change::Leave => return None,
        Change::Enter(properties) => (Vm::blank(id.clone()), properties, false),
        Change::Modify(properties) => match known {
            Some(known) => (known.clone(), properties, false),
            None => (Vm::blank(id.clone()), properties, true),
        },
    };
    for property in properties {
        // A part of a property, although we asked for whole ones.
        unclear |= !vm.set(&property.name, property.value.as_ref(), extra_prefix);
    }
    Some((vm, unclear))
}

/// A folder after a change.
pub(super) fn folder_after(id: &FolderRef, known: Option<&Folder>, change: &Change) -> Option<Folder> {
    let blank = || Folder { id: id.clone(), name: String::new(), parent: None };
    let (mut folder, properties) = match change {
        Change::Leave => return None,
        Change::Enter(properties) => (blank(), properties),
        Change::Modify(properties) => (known.cloned().unwrap_or_else(blank), properties),
    };
    for property in properties {
        let value = property.value.as_ref();
        match property.name.as_str() {
            "name" => {
                folder.name = unescape_name(value.map_or("", |value| value.text.as_str()));
            }
            "parent" => {
                folder.parent = value
                    .and_then(reference_of)
                    .filter(|parent| parent.kind == FOLDER)
                    .map(|parent| FolderRef::new(parent.id));
            }
            _ => {}
        }
    }
    Some(folder)
}

/// Everything in view, gathered over the pages of the first answer.
#[derive(Default)]
pub(super) struct Snapshot {
    pub(super) vms: BTreeMap<VmRef, Vm>,
    pub(super) folders: BTreeMap<FolderRef, Folder>,
    pub(super) tasks: Vec<(TaskRef, Change)>,
    pub(super) hosts: Hosts,
    pub(super) unclear: Vec<VmRef>,
    texts: Texts,
}

impl Snapshot {
    pub(super) fn take(&mut self, update: Update, extra_prefix: &str) {
        match update {
            Update::Vm(id, change) => match vm_after(&id, self.vms.get(&id), &change, extra_prefix) {
                Some((mut vm, unclear)) => {
                    if unclear {
                        self.unclear.push(id.clone());
                    }
                    // At once: what is let go of when all are there leaves holes between
                    // those that stay.
                    vm.share(&mut self.texts);
                    self.vms.insert(id, vm);
                }
                None => {
                    self.vms.remove(&id);
                }
            },
            Update::Folder(id, change) => {
                match folder_after(&id, self.folders.get(&id), &change) {
                    Some(folder) => self.folders.insert(id, folder),
                    None => self.folders.remove(&id),
                };
            }
            Update::Task(id, change) => {
                self.hosts.learn_task(&id, &change);
                self.tasks.push((id, change));
            }
            Update::Host(id, change) => self.hosts.learn_host(id, change),
            Update::Cluster(id, change) => self.hosts.learn_cluster(&id, change),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PowerState;
    use crate::xml;

    fn updates(inside: &str) -> Result<Option<Updates>, Error> {
        let text = format!(
            "<WaitForUpdatesExResponse xmlns:_XMLSchema-instance=\"http://www.w3.org/2001/XMLSchema-instance\">\
             <returnval><version>7</version><filterSet>{inside}</filterSet></returnval></WaitForUpdatesExResponse>"
        );
        read(&xml::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn a_machine_enters_changes_and_leaves() {
        let mut entered = updates(
            "<objectSet><kind>enter</kind><obj type=\"VirtualMachine\">vm-1</obj>\
             <changeSet><name>name</name><op>assign</op><val _XMLSchema-instance:type=\"string\">a%2fb</val></changeSet>\
             <changeSet><name>config.instanceUuid</name><op>assign</op><val>ABC</val></changeSet>\
             <changeSet><name>runtime.powerState</name><op>assign</op><val>poweredOff</val></changeSet>\
             <changeSet><name>resourcePool</name><op>assign</op><val/></changeSet>\
             <changeSet><name>config.extraConfig</name><op>assign</op><val>\
             <OptionValue><key>vg.uid</key><value>u</value></OptionValue>\
             <OptionValue><key>other</key><value>x</value></OptionValue></val></changeSet></objectSet>",
        )
        .unwrap()
        .unwrap();
        let mut snapshot = Snapshot::default();
        snapshot.take(entered.objects.remove(0), "vg.");
        let id = VmRef::new("vm-1");
        let vm = snapshot.vms[&id].clone();
        assert_eq!(vm.name, "a/b");
        assert_eq!(vm.instance_uuid, "abc");
        assert_eq!(vm.pool, None);
        assert_eq!(vm.extra.iter().collect::<Vec<_>>(), [("vg.uid", "u")]);

        let changed = updates(
            "<objectSet><kind>modify</kind><obj type=\"VirtualMachine\">vm-1</obj>\
             <changeSet><name>runtime.powerState</name><op>assign</op><val>poweredOn</val></changeSet>\
             <changeSet><name>config.extraConfig</name><op>remove</op></changeSet></objectSet>\
             <objectSet><kind>modify</kind><obj type=\"VirtualMachine\">vm-1</obj>\
             <changeSet><name>datastore[\"datastore-9\"]</name><op>add</op><val/></changeSet></objectSet>\
             <objectSet><kind>leave</kind><obj type=\"VirtualMachine\">vm-1</obj></objectSet>",
        )
        .unwrap()
        .unwrap();
        let mut following = changed.objects.into_iter();
        snapshot.take(following.next().unwrap(), "vg.");
        assert_eq!(snapshot.vms[&id].power, PowerState::On);
        assert!(snapshot.vms[&id].extra.iter().next().is_none());
        assert!(snapshot.unclear.is_empty());
        snapshot.take(following.next().unwrap(), "vg.");
        assert_eq!(snapshot.unclear, std::slice::from_ref(&id));
        snapshot.take(following.next().unwrap(), "vg.");
        assert!(snapshot.vms.is_empty());
    }

    #[test]
    fn a_session_lost_per_property_is_a_session_lost() {
        let error = updates(
            "<objectSet><kind>modify</kind><obj type=\"VirtualMachine\">vm-1</obj>\
             <missingSet><path>name</path><fault>\
             <fault _XMLSchema-instance:type=\"NotAuthenticated\"/></fault></missingSet></objectSet>",
        )
        .unwrap_err();
        assert!(error.is_session_lost());
    }
}

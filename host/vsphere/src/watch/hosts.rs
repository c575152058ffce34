//! How the site's hosts stand, by what the watch tells: who is on the way into
//! maintenance, or there, and whether DRS moves machines away. What changes all the
//! time of a host (`summary.quickStats`) is not watched. Plain data; it calls nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::capacity::ENTERING;
use crate::inventory::{Drs, Host, Maintenance};
use crate::model::unescape_name;
use crate::property::{Paths, Start, Step, references_in};
use crate::refs::{HostRef, TaskRef, VmRef};
use crate::site::Site;
use crate::soap::reference_of;
use crate::task::TASK;
use crate::watch::update::{Change, Property};
use crate::xml::Element;

pub(super) const HOST: &str = "HostSystem";
pub(super) const CLUSTER: &str = "ClusterComputeResource";
const COMPUTE: &str = "ComputeResource";
const FULLY_AUTOMATED: &str = "fullyAutomated";
const MANUAL: &str = "manual";

/// What is watched of hosts, of the tasks on them and of their clusters.
pub(super) fn paths() -> [Paths; 3] {
    [
        Paths::new(HOST, &["name", "parent", "runtime.inMaintenanceMode", "recentTask"]),
        Paths::new(CLUSTER, &["configurationEx"]),
        Paths::new(TASK, &["info.descriptionId", "info.state"]),
    ]
}

/// Where all that hangs on.
pub(super) fn starts(site: &Site) -> impl Iterator<Item = Start> + '_ {
    let tasks = Step::along("tasks", HOST, "recentTask", &[]);
    let hosts = Step::along("hosts", COMPUTE, "host", &[tasks]);
    let start = move |object| Start { skip: false, ..Start::from(object, vec![hosts.clone()]) };
    site.clusters.iter().map(move |cluster| start(cluster.id.managed_object()))
}

/// What was told.
#[derive(Default)]
pub(super) struct Hosts {
    told: BTreeMap<HostRef, Told>,
    /// By the cluster's identifier.
    drs: BTreeMap<String, Arc<Drs>>,
    /// Tasks that put a host into maintenance, and whether they have ended.
    entering: BTreeMap<TaskRef, bool>,
}

#[derive(Default)]
struct Told {
    name: String,
    cluster: String,
    in_maintenance: bool,
    tasks: BTreeSet<TaskRef>,
}

impl Hosts {
    /// Takes in what changed of a host.
    pub(super) fn learn_host(&mut self, id: HostRef, change: Change) {
        let Some((new, properties)) = properties(change) else {
            self.told.remove(&id);
            return;
        };
        let host = self.told.entry(id).or_default();
        if new {
            *host = Told::default();
        }
        for Property { name, value } in properties {
            let text = value.as_ref().map_or("", |value| value.text.trim());
            match name.as_str() {
                "name" => host.name = unescape_name(text),
                "parent" => host.cluster = value.as_ref().and_then(reference_of).map(|it| it.id).unwrap_or_default(),
                "runtime.inMaintenanceMode" => host.in_maintenance = value.as_ref().is_some_and(Element::is_true),
                "recentTask" => {
                    let tasks = value.as_ref().map(references_in).unwrap_or_default();
                    host.tasks = tasks.into_iter().map(|task| TaskRef::new(task.id)).collect();
                }
                _ => {}
            }
        }
    }

    /// Takes in what changed of a cluster.
    pub(super) fn learn_cluster(&mut self, id: &str, change: Change) {
        let Some((_, properties)) = properties(change) else {
            self.drs.remove(id);
            return;
        };
        for Property { name, value } in properties {
            if name == "configurationEx" {
                self.drs.insert(id.to_owned(), Arc::new(value.as_ref().map(drs).unwrap_or_default()));
            }
        }
    }

    /// Takes in what changed of a task, if it is one that puts a host into maintenance.
    pub(super) fn learn_task(&mut self, id: &TaskRef, change: &Change) {
        let properties = match change {
            Change::Leave => {
                self.entering.remove(id);
                return;
            }
            Change::Enter(properties) | Change::Modify(properties) => properties,
        };
        let told = |name: &str| {
            let property = properties.iter().find(|property| property.name == name);
            property.and_then(|property| property.value.as_ref()).map(|value| value.text.trim())
        };
        if told("info.descriptionId") == Some(ENTERING) {
            self.entering.entry(id.clone()).or_insert(false);
        }
        if let (Some(state), Some(ended)) = (told("info.state"), self.entering.get_mut(id)) {
            *ended = !matches!(state, "running" | "queued");
        }
    }

    /// How each host stands by all that.
    pub(super) fn standing(&self) -> BTreeMap<HostRef, Arc<Host>> {
        let none = Arc::new(Drs::default());
        let standing = |(id, told): (&HostRef, &Told)| {
            let enters = told.tasks.iter().any(|task| self.entering.get(task) == Some(&false));
            let maintenance = match (told.in_maintenance, enters) {
                (true, _) => Some(Maintenance::There),
                (false, true) => Some(Maintenance::Entering),
                (false, false) => None,
            };
            let drs = self.drs.get(&told.cluster).unwrap_or(&none).clone();
            (id.clone(), Arc::new(Host { id: id.clone(), name: told.name.clone(), maintenance, drs }))
        };
        self.told.iter().map(standing).collect()
    }
}

/// The properties of a change, and whether they are all that there are; nothing if the
/// object has left.
fn properties(change: Change) -> Option<(bool, Vec<Property>)> {
    match change {
        Change::Enter(properties) => Some((true, properties)),
        Change::Modify(properties) => Some((false, properties)),
        Change::Leave => None,
    }
}

/// DRS by a `ClusterConfigInfoEx`. What is not said is vCenter's default.
fn drs(config: &Element) -> Drs {
    let says = |path: &[&str]| config.at(path).map(|value| value.text.trim());
    if says(&["drsConfig", "enabled"]) != Some("true") {
        return Drs::default();
    }
    let default = says(&["drsConfig", "defaultVmBehavior"]).unwrap_or(FULLY_AUTOMATED);
    let overrides = says(&["drsConfig", "enableVmBehaviorOverrides"]) != Some("false");
    let mut exceptions = BTreeMap::new();
    let machines = config.child("drsVmConfig").map_or(&[][..], |machines| &machines.children);
    for machine in machines.iter().filter(|_| overrides) {
        let text = |name: &str| machine.child(name).map(|value| value.text.trim());
        let Some(id) = machine.child("key").and_then(reference_of) else { continue };
        let moves = text("enabled") != Some("false") && text("behavior").unwrap_or(default) == FULLY_AUTOMATED;
        exceptions.insert(VmRef::new(id.id), moves);
    }
    Drs { automatic: default == FULLY_AUTOMATED, places: default != MANUAL, exceptions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml;

    fn element(text: &str) -> Element {
        xml::parse(text.as_bytes()).unwrap()
    }

    fn property(name: &str, value: &str) -> Property {
        Property { name: name.to_owned(), value: Some(element(&format!("<val>{value}</val>"))) }
    }

    fn host(hosts: &mut Hosts, properties: Vec<Property>) -> Option<Maintenance> {
        hosts.learn_host("host-1".into(), Change::Modify(properties));
        hosts.standing()[&HostRef::new("host-1")].maintenance
    }

    #[test]
    fn a_host_enters_and_is_there_or_is_called_off() {
        let mut hosts = Hosts::default();
        let task = "<ManagedObjectReference type=\"Task\">task-1</ManagedObjectReference>";
        let listed = || vec![property("name", "esx-1"), property("recentTask", task)];
        assert_eq!(host(&mut hosts, listed()), None, "it may be any task");
        let id: TaskRef = "task-1".into();
        hosts.learn_task(&id, &Change::Enter(vec![property("info.descriptionId", "HostSystem.rescanVmfs")]));
        assert_eq!(host(&mut hosts, listed()), None);
        hosts.learn_task(
            &id,
            &Change::Enter(vec![property("info.descriptionId", ENTERING), property("info.state", "running")]),
        );
        assert_eq!(host(&mut hosts, vec![]), Some(Maintenance::Entering));
        hosts.learn_task(&id, &Change::Modify(vec![property("info.state", "error")]));
        assert_eq!(host(&mut hosts, vec![]), None);
        hosts.learn_task(&id, &Change::Leave);
        assert_eq!(host(&mut hosts, vec![property("runtime.inMaintenanceMode", "true")]), Some(Maintenance::There));
        hosts.learn_host("host-1".into(), Change::Leave);
        assert!(hosts.standing().is_empty());
    }

    #[test]
    fn drs_moves_whom_its_cluster_and_nobody_else_says() {
        let machine = |id: &str, more: &str| {
            format!("<ClusterDrsVmConfigInfo><key type=\"VirtualMachine\">{id}</key>{more}</ClusterDrsVmConfigInfo>")
        };
        let config = |own: &str, machines: &str| {
            drs(&element(&format!("<val><drsConfig>{own}</drsConfig><drsVmConfig>{machines}</drsVmConfig></val>")))
        };
        let (one, other) = (VmRef::new("vm-1"), VmRef::new("vm-2"));
        let on = "<enabled>true</enabled>";
        let full = config(on, &machine("vm-1", "<enabled>false</enabled>"));
        assert!(!full.moves(&one) && full.moves(&other));
        let partly = format!("{on}<defaultVmBehavior>partiallyAutomated</defaultVmBehavior>");
        let partly = config(&partly, &machine("vm-1", "<behavior>fullyAutomated</behavior>"));
        assert!(partly.moves(&one) && !partly.moves(&other) && partly.places());
        assert!(!config(&format!("{on}<defaultVmBehavior>manual</defaultVmBehavior>"), "").places());
        let no_overrides = format!("{on}<enableVmBehaviorOverrides>false</enableVmBehaviorOverrides>");
        assert!(config(&no_overrides, &machine("vm-1", "<behavior>manual</behavior>")).moves(&one));
        assert!(!config("<enabled>false</enabled>", "").moves(&one));
    }
}

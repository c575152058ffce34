//! Judges in which vCenter, and where in it, the machines of groups are, in runs with two
//! of them: by what users wished and administrators wrote until a group had its folder,
//! and from then on by its record, which has to stay as it is.
//!
//! Takes nothing from an operator but its record and its calls.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use vmgroup_sim::vcenter::{VcenterSim, VmView};

use super::judge::Violation;
use super::sites::{File, NAMES};
use super::vcenters::vcenter_of;
use crate::world::ROOT;

/// What has counted of the connections file, and since when.
#[derive(Debug, Default)]
struct Counted(Vec<(Duration, File)>);

impl Counted {
    /// Whether a group of this namespace may be given this vCenter by what has counted at
    /// some time since then.
    fn may(&self, since: Duration, namespace: &str, target: Option<&Value>, vcenter: usize) -> bool {
        let first = self.0.iter().rposition(|(at, _)| *at <= since).unwrap_or(0);
        self.0[first..].iter().any(|(_, file)| file.vcenter(namespace, target) == Some(vcenter))
    }
}

/// A group.
#[derive(Debug)]
struct Place {
    namespace: &'static str,
    made: Duration,
    /// What its target has been.
    targets: Vec<Option<Value>>,
    /// Its vCenter and target, since its record has a folder.
    stands: Option<(usize, Option<Value>)>,
}

/// Where all groups are.
#[derive(Debug, Default)]
pub struct Places {
    /// How old a file operators may go by.
    lag: Duration,
    counted: Counted,
    groups: BTreeMap<String, Place>,
}

fn wrong<T>(text: String) -> Result<T, Violation> {
    Err(Violation { property: "target", text })
}

fn target_of(status: &Value) -> Option<Value> {
    Some(&status["target"]).filter(|target| !target.is_null()).cloned()
}

fn connection_of(status: &Value) -> Option<usize> {
    NAMES.iter().position(|name| status["connection"]["name"] == *name)
}

impl Places {
    /// Operators may go by a file that is so old.
    pub fn new(lag: Duration) -> Self {
        Self { lag, ..Self::default() }
    }

    /// From now on this counts.
    pub fn counts(&mut self, now: Duration, file: File) {
        self.counted.0.push((now, file));
    }

    /// A user makes a group, or gives it another target when it has no folder yet.
    pub fn aimed(&mut self, uid: &str, namespace: &'static str, target: Option<Value>, now: Duration) {
        let place = Place { namespace, made: now, targets: Vec::new(), stands: None };
        self.groups.entry(uid.to_owned()).or_insert(place).targets.push(target);
    }

    /// The vCenter that a group stands in.
    pub fn vcenter(&self, uid: &str) -> Option<usize> {
        self.groups.get(uid)?.stands.as_ref().map(|(vcenter, _)| *vcenter)
    }

    /// A group with a folder is where it was to be when it got it, and stays there.
    pub fn record(&mut self, object: &Value) -> Result<(), Violation> {
        let (uid, status) = (object["metadata"]["uid"].as_str().unwrap_or_default(), &object["status"]);
        let Some(place) = self.groups.get_mut(uid).filter(|_| !status["folder"].is_null()) else { return Ok(()) };
        let (name, target) = (&object["metadata"]["name"], target_of(status));
        let Some(vcenter) = connection_of(status) else {
            return wrong(format!("{name} has a folder, and its record has {} as connection", status["connection"]));
        };
        if let Some(stands) = &place.stands {
            if *stands == (vcenter, target.clone()) {
                return Ok(());
            }
            return wrong(format!("{name} stood in {stands:?}, and its record says {vcenter} and {target:?}"));
        }
        let since = place.made.saturating_sub(self.lag);
        if !place.targets.contains(&target) || !self.counted.may(since, place.namespace, target.as_ref(), vcenter) {
            return wrong(format!(
                "{name} of {} was put into {} and {target:?}; its targets were {:?}, and since then counted {:?}",
                place.namespace, NAMES[vcenter], place.targets, self.counted
            ));
        }
        place.stands = Some((vcenter, target));
        Ok(())
    }

    /// A member is in the vCenter of its group.
    pub fn holds(&self, owner: &str, vm: &VmView) -> Result<(), Violation> {
        match self.vcenter(owner) {
            Some(vcenter) if vcenter != vcenter_of(&vm.moref) => wrong(format!(
                "{} ({}) is in another vCenter than its group, which is in {}",
                vm.path, vm.moref, NAMES[vcenter]
            )),
            _ => Ok(()),
        }
    }
}

/// Where a clone is to go, as its call has it: references.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The folder.
    pub folder: &'a str,
    /// The resource pool.
    pub pool: &'a str,
    /// The datastore, if it is said.
    pub datastore: Option<&'a str>,
    /// The host, if it is said.
    pub host: Option<&'a str>,
}

/// Whether a clone goes where its group's record says: into this vCenter, and what of it
/// the target leaves.
pub fn right_there(
    (number, vcenter): (usize, &VcenterSim),
    object: &Value,
    to: Destination<'_>,
) -> Result<(), Violation> {
    let (name, status) = (&object["metadata"]["name"], &object["status"]);
    if connection_of(status) != Some(number) {
        let said = &status["connection"];
        return wrong(format!("a member of {name} is cloned in {}, and its record says {said}", NAMES[number]));
    }
    let target = target_of(status).unwrap_or_default();
    let told = |field: &str| target[field].as_str();
    // What has just vanished cannot be told.
    let path = |kind: &str, id: Option<&str>| id.map(|id| vcenter.path(kind, id).unwrap_or_default());
    let pool = path("ResourcePool", Some(to.pool)).unwrap_or_default();
    let (host, datastore) = (path("HostSystem", to.host), path("Datastore", to.datastore));
    let within = |path: &str, part: &str| path.split('/').any(|name| name == part);
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let cluster = told("cluster").or_else(|| told("pool").and_then(|pool| pool.split('/').nth(3)));
    if cluster
        .is_some_and(|cluster| !within(&pool, cluster) || host.as_ref().is_some_and(|host| !within(host, cluster)))
    {
        return wrong(format!("a member of {name} goes to {pool} on {host:?}, and its target is {target}"));
    }
    if let Some(wanted) = told("datastore")
        && !datastore.as_ref().is_some_and(|path| within(path, &last(wanted)))
    {
        return wrong(format!("a member of {name} goes onto {datastore:?}, and its target is {target}"));
    }
    let below = told("folder").map(|folder| format!("/{folder}")).unwrap_or_default();
    let own = format!("{ROOT}{below}/{}", status["folder"]["name"].as_str().unwrap_or_default());
    match vcenter.path("Folder", to.folder) {
        Some(folder) if folder != own => wrong(format!("a member of {name} goes into {folder}, and its own is {own}")),
        _ => Ok(()),
    }
}

//! Looks at the world, again and again, and says what must not be.
//!
//! It knows what users wished and what the hostile client did, and takes nothing
//! from the operator but what it wrote into the record.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use vmgroup_sim::vcenter::VmView;

/// For how long an older wish may still show: a decision made on it is carried
/// out at last when the slowest fault is over.
const WINDOW: Duration = Duration::from_secs(240);

/// A property that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Its name in `properties.md`.
    pub property: &'static str,
    /// What was seen.
    pub text: String,
}

/// One group: an object in Kubernetes, from when it is made until it is gone.
struct Group {
    name: String,
    /// What users wished, and since when.
    wishes: Vec<(Duration, usize)>,
    deleted: bool,
    gone: bool,
    /// Members' UUIDs in the record, and whether they are leaving.
    record: BTreeMap<String, bool>,
    /// Members that were ever recorded as leaving.
    left: BTreeSet<String>,
    /// How many members there were.
    count: usize,
}

impl Group {
    fn wished(&self, now: Duration) -> impl Iterator<Item = usize> {
        let since = now.saturating_sub(WINDOW);
        let first = self.wishes.iter().rposition(|(at, _)| *at <= since).unwrap_or(0);
        self.wishes[first..].iter().map(|(_, count)| *count)
    }
}

/// A machine that is none of ours, and how it has to stay.
struct Foreign {
    name: String,
    on: bool,
}

/// The judge of a run.
#[derive(Default)]
pub struct Judge {
    groups: BTreeMap<String, Group>,
    foreign: BTreeMap<String, Foreign>,
    /// Members as they were at the last look, by reference: group, UUID, power.
    before: BTreeMap<String, (String, String, bool)>,
    /// Machines that somebody else has changed since the last look.
    touched: BTreeSet<String>,
    /// Machines that somebody moved out of the root folder.
    pub away: BTreeSet<String>,
    /// Calls may take effect when nobody expects it any more.
    pub late_effects: bool,
}

/// The group and UUID of a member; nothing if the machine is none.
pub fn member_of(vm: &VmView) -> Option<(&str, &str)> {
    let uid = vm.extra.get("vmgroup.group-uid")?;
    let own = vm.extra.get("vmgroup.member").is_some_and(|uuid| uuid.eq_ignore_ascii_case(&vm.instance_uuid));
    (own && !vm.template && !uid.is_empty()).then_some((uid.as_str(), vm.instance_uuid.as_str()))
}

impl Judge {
    /// A user made a group.
    pub fn made(&mut self, uid: &str, name: &str, replicas: usize, now: Duration) {
        let group = Group {
            name: name.to_owned(),
            wishes: vec![(now, replicas)],
            deleted: false,
            gone: false,
            record: BTreeMap::new(),
            left: BTreeSet::new(),
            count: 0,
        };
        self.groups.insert(uid.to_owned(), group);
    }

    /// A user scaled one.
    pub fn wished(&mut self, uid: &str, replicas: usize, now: Duration) {
        if let Some(group) = self.groups.get_mut(uid) {
            group.wishes.push((now, replicas));
        }
    }

    /// A user deleted one.
    pub fn deleted(&mut self, uid: &str, now: Duration) {
        if let Some(group) = self.groups.get_mut(uid) {
            group.deleted = true;
            group.wishes.push((now, 0));
        }
    }

    /// Somebody else changes a machine, and may do so.
    pub fn touch(&mut self, moref: &str) {
        self.touched.insert(moref.to_owned());
        self.foreign.remove(moref);
    }

    /// Somebody else's machine: it stays as it is.
    pub fn foreign(&mut self, vm: &VmView) {
        self.foreign.insert(vm.moref.clone(), Foreign { name: vm.name.clone(), on: vm.power_on });
    }

    /// Whether a machine is nobody's member and has to stay.
    pub fn is_foreign(&self, moref: &str) -> bool {
        self.foreign.contains_key(moref)
    }

    /// Whether a member is chosen to leave, or its group is going.
    pub fn leaving(&self, owner: &str, uuid: &str) -> bool {
        self.groups.get(owner).is_none_or(|group| group.deleted || group.left.contains(uuid))
    }

    /// Looks at the groups as Kubernetes has them.
    pub fn objects(&mut self, objects: &[Value], now: Duration) -> Result<(), Violation> {
        let strict = !self.late_effects;
        let mut there = BTreeSet::new();
        for object in objects {
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
            there.insert(uid.to_owned());
            let Some(group) = self.groups.get_mut(uid) else { continue };
            let members = object["status"]["members"].as_array().map(Vec::as_slice).unwrap_or_default();
            let record: BTreeMap<String, bool> = members
                .iter()
                .map(|member| (member["uuid"].as_str().unwrap_or_default().to_owned(), member["state"] == "Leaving"))
                .collect();
            let chosen = record.iter().any(|(uuid, leaving)| *leaving && !group.left.contains(uuid));
            let staying = record.values().filter(|leaving| !**leaving).count();
            let least = group.wished(now).min().unwrap_or(0);
            group.left.extend(record.iter().filter(|(_, leaving)| **leaving).map(|(uuid, _)| uuid.clone()));
            group.record = record;
            if strict && chosen && !group.deleted && staying < least {
                let text = format!("{}: {staying} stay, and never less than {least} were wished", group.name);
                return Err(Violation { property: "S5", text });
            }
        }
        for (uid, group) in &mut self.groups {
            group.gone |= !there.contains(uid);
            if group.gone && !group.deleted {
                return Err(Violation { property: "S6", text: format!("{} went without being deleted", group.name) });
            }
        }
        Ok(())
    }

    /// Looks at the machines.
    pub fn machines(&mut self, vms: &[VmView], now: Duration) -> Result<(), Violation> {
        self.theft(vms)?;
        let mut members = BTreeMap::new();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for vm in vms {
            let Some((owner, uuid)) = member_of(vm) else { continue };
            *counts.entry(owner).or_default() += 1;
            members.insert(vm.moref.clone(), (owner.to_owned(), uuid.to_owned(), vm.power_on));
            let Some(group) = self.groups.get(owner) else { continue };
            if group.gone && !self.away.contains(&vm.moref) && !self.late_effects {
                let text = format!("{} ({}) is left of {}, which is gone", vm.name, vm.moref, group.name);
                return Err(Violation { property: "S1", text });
            }
            if !self.late_effects && !group.gone && !group.record.contains_key(uuid) {
                let text = format!("{} ({}) of {} is not in its record", vm.name, vm.moref, group.name);
                return Err(Violation { property: "S1", text });
            }
        }
        for (moref, (owner, uuid, on)) in &self.before {
            let off = members.get(moref).is_none_or(|(_, _, now_on)| *on && !now_on);
            let Some(group) = self.groups.get(owner) else { continue };
            if off && !self.touched.contains(moref) && !group.left.contains(uuid) {
                let text = format!("{moref} of {} went or was powered off and was never chosen", group.name);
                return Err(Violation { property: "S5", text });
            }
        }
        for (uid, group) in &mut self.groups {
            let count = counts.get(uid.as_str()).copied().unwrap_or(0);
            let most = group.wished(now).max().unwrap_or(0);
            if count > group.count && count > most {
                let text = format!("{} has {count} members, and never more than {most} were wished", group.name);
                return Err(Violation { property: "S3", text });
            }
            group.count = count;
        }
        self.before = members;
        self.touched.clear();
        Ok(())
    }

    fn theft(&self, vms: &[VmView]) -> Result<(), Violation> {
        if self.foreign.is_empty() {
            return Ok(());
        }
        let there: BTreeMap<&str, &VmView> = vms.iter().map(|vm| (vm.moref.as_str(), vm)).collect();
        for (moref, foreign) in &self.foreign {
            let theft = match there.get(moref.as_str()) {
                None => "is gone",
                Some(vm) if foreign.on && !vm.power_on => "was powered off",
                Some(vm) if vm.name != foreign.name => "was renamed",
                Some(_) => continue,
            };
            let text = format!("{} ({moref}), which is none of ours, {theft}", foreign.name);
            return Err(Violation { property: "S2", text });
        }
        Ok(())
    }
}

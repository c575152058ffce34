//! Looks at the world, again and again, and says what must not be.
//!
//! It knows what users wished and what the hostile client did, and takes nothing
//! from the operator but what it wrote into the record. What the operators ask of
//! vCenter is judged call by call in [`super::witness`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::Value;
use vmgroup_sim::vcenter::VmView;

use super::places::Places;
use super::vcenters::reference;
use super::witness::Calls;

/// From a clone's call until its machine is there.
const CLONE: Duration = Duration::from_secs(10);

/// It takes so long until an operator has heard, chosen by what it heard, written that
/// down, and the judge has seen it.
const NEWS: Duration = Duration::from_secs(1);

/// Above this many members the record names only those in motion.
const LISTED: usize = 50;

/// Counts by the time since when they hold.
#[derive(Clone, Debug, Default)]
pub struct Wishes(VecDeque<(Duration, usize)>);

impl Wishes {
    /// From now on it is this many.
    pub fn push(&mut self, now: Duration, count: usize) {
        self.0.push_back((now, count));
    }

    /// All that held at some time in the window that ends now.
    fn within(&self, now: Duration, window: Duration) -> impl Iterator<Item = usize> {
        let since = now.saturating_sub(window);
        let first = self.0.iter().rposition(|(at, _)| *at <= since).unwrap_or(0);
        self.0.range(first..).map(|(_, count)| *count)
    }

    /// The largest of them.
    pub fn most(&self, now: Duration, window: Duration) -> usize {
        self.within(now, window).max().unwrap_or(0)
    }

    /// The smallest of them.
    pub fn least(&self, now: Duration, window: Duration) -> usize {
        self.within(now, window).min().unwrap_or(0)
    }
}

/// A property that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Its name in `docs/properties.md`.
    pub property: &'static str,
    /// What was seen.
    pub text: String,
}

/// One group: an object in Kubernetes, from when it is made until it is gone.
struct Group {
    name: String,
    /// What users wished, and since when.
    wishes: Wishes,
    deleted: bool,
    gone: bool,
    /// Members' UUIDs in the record, and whether they are leaving.
    record: BTreeMap<String, bool>,
    /// Members that were ever recorded.
    ever: BTreeSet<String>,
    /// Members that were ever recorded as leaving.
    left: BTreeSet<String>,
    /// Members that were ever recorded as being changed.
    changed: BTreeSet<String>,
    /// While the group is changed, how many of its members may be out of service, and
    /// how many there may be besides those that are wished.
    bounds: (usize, usize),
    /// The members that there were at the last look.
    members: BTreeSet<String>,
    /// Members that somebody else did something to, and when.
    struck: Vec<(Duration, String)>,
    /// How many machines there were, and since when.
    counts: Wishes,
    /// When each member was there last, by UUID.
    last: BTreeMap<String, Duration>,
    /// How many there are according to the status.
    told: u64,
    /// It says something else than before.
    news: bool,
}

impl Group {
    /// Whether the record need not name all members: those that there are, and
    /// those that are being made.
    fn is_large(&self, now: Duration, window: Duration) -> bool {
        let made = self.record.keys().filter(|uuid| !self.members.contains(*uuid)).count();
        (self.counts.most(now, window) + made).max(self.record.len()) > LISTED
    }
}

impl Group {
    fn take_record(&mut self, object: &Value, calls: &Calls) {
        let members = object["status"]["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        let vcenter = calls.vcenter_of(object);
        let tasks = members.iter().filter_map(|member| member["task"].as_str());
        tasks.for_each(|task| calls.recorded_task(reference(vcenter, task)));
        self.record = members
            .iter()
            .map(|member| (member["uuid"].as_str().unwrap_or_default().to_owned(), member["state"] == "Leaving"))
            .collect();
        let changing = members.iter().filter(|member| member["state"] == "Changing");
        self.changed.extend(changing.map(|member| member["uuid"].as_str().unwrap_or_default().to_owned()));
        self.ever.extend(self.record.keys().cloned());
        let told = object["status"]["currentReplicas"].as_u64().unwrap_or(0);
        self.news |= std::mem::replace(&mut self.told, told) != told;
    }

    /// S5: somebody was chosen to leave; `made` are the members that vCenter is
    /// making just now.
    fn choice(&self, made: &BTreeSet<String>, now: Duration, lag: Duration) -> Result<(), Violation> {
        let leaves = |uuid: &String| self.left.contains(uuid) || self.record.get(uuid) == Some(&true);
        let mut staying: BTreeSet<&String> = self.record.keys().collect();
        if self.is_large(now, lag) {
            staying.extend(&self.members);
        }
        // Who was taken away in the same moment could still be counted on.
        staying.extend(self.struck.iter().filter(|(at, _)| *at + NEWS >= now).map(|(_, uuid)| uuid));
        staying.retain(|uuid| !leaves(uuid));
        let least = self.wishes.least(now, lag).saturating_sub(self.bounds.0);
        if staying.len() < least {
            let text = format!("{}: {} stay, and never less than {least} were wished", self.name, staying.len());
            return Err(Violation { property: "S5", text });
        }
        // Whoever is replaced may go while another one's successor is being made.
        if self.bounds == (0, 0)
            && let Some(uuid) = made.iter().find(|uuid| !leaves(uuid))
        {
            let text = format!("{}: somebody is chosen while {uuid} is being made and cannot be", self.name);
            return Err(Violation { property: "S5", text });
        }
        Ok(())
    }

    /// The status tells what is, not what is to be.
    fn report(&mut self, now: Duration, lag: Duration) -> Result<(), Violation> {
        // What is told of one member can be older than what is told of another: who has just
        // come was looked for, and of who has just gone nobody may have heard.
        let since = now.saturating_sub(lag + CLONE);
        let most = self.last.values().filter(|at| **at >= since).count();
        if std::mem::take(&mut self.news) && self.told > most as u64 {
            let text = format!("{} says that it has {} members, and there are {most} at most", self.name, self.told);
            return Err(Violation { property: "truth", text });
        }
        Ok(())
    }
}

/// A machine that is none of ours, and how it has to stay.
struct Foreign {
    name: String,
    on: bool,
}

/// The judge of a run.
pub struct Judge {
    calls: Calls,
    /// How long an older wish may still show in what operators do.
    lag: Duration,
    groups: BTreeMap<String, Group>,
    /// How many machines all groups together may have, if that is limited, and since
    /// when.
    quota: Wishes,
    foreign: BTreeMap<String, Foreign>,
    /// Members as they were at the last look, by reference: group, UUID, power.
    before: BTreeMap<String, (String, String, bool)>,
    /// Machines that somebody else has changed since the last look.
    touched: BTreeSet<String>,
    /// Machines that somebody moved out of the root folder.
    pub away: BTreeSet<String>,
    /// Where groups are, if there is more than one vCenter.
    pub places: Places,
}

/// The group and UUID of a member; nothing if the machine is none.
pub fn member_of(vm: &VmView) -> Option<(&str, &str)> {
    let uid = vm.extra.get("vmgroup.group-uid")?;
    let own = vm.extra.get("vmgroup.member").is_some_and(|uuid| uuid.eq_ignore_ascii_case(&vm.instance_uuid));
    (own && !vm.template && !uid.is_empty()).then_some((uid.as_str(), vm.instance_uuid.as_str()))
}

impl Judge {
    /// A judge with this witness of what operators ask of vCenter.
    pub fn new(calls: Calls, lag: Duration, places: Places) -> Self {
        Self {
            calls,
            lag,
            groups: BTreeMap::new(),
            quota: Wishes::default(),
            foreign: BTreeMap::new(),
            before: BTreeMap::new(),
            touched: BTreeSet::new(),
            away: BTreeSet::new(),
            places,
        }
    }

    /// A user made a group.
    pub fn made(&mut self, uid: &str, name: &str, replicas: usize, now: Duration) {
        let group = Group {
            name: name.to_owned(),
            wishes: Wishes::default(),
            deleted: false,
            gone: false,
            record: BTreeMap::new(),
            ever: BTreeSet::new(),
            left: BTreeSet::new(),
            changed: BTreeSet::new(),
            bounds: (0, 0),
            members: BTreeSet::new(),
            struck: Vec::new(),
            counts: Wishes::default(),
            last: BTreeMap::new(),
            told: 0,
            news: false,
        };
        self.groups.insert(uid.to_owned(), group);
        self.wished(uid, replicas, now);
    }

    /// A user scaled one.
    pub fn wished(&mut self, uid: &str, replicas: usize, now: Duration) {
        if let Some(group) = self.groups.get_mut(uid) {
            group.wishes.push(now, replicas);
            self.calls.wished(uid, replicas);
        }
    }

    /// All groups together may have so many machines.
    pub fn limited(&mut self, vms: usize, now: Duration) {
        self.quota.push(now, vms);
    }

    /// A user is about to change one that stands, for the first time.
    pub fn changes(&mut self, uid: &str, bounds: (usize, usize)) {
        if let Some(group) = self.groups.get_mut(uid) {
            group.bounds = bounds;
            self.calls.may_surge(uid, bounds.1);
        }
    }

    /// A user deleted one.
    pub fn deleted(&mut self, uid: &str, now: Duration) {
        self.wished(uid, 0, now);
        if let Some(group) = self.groups.get_mut(uid) {
            group.deleted = true;
        }
    }

    /// Somebody else changes a machine, and may do so.
    pub fn touch(&mut self, moref: &str, now: Duration) {
        if let Some((owner, uuid, _)) = self.before.get(moref)
            && let Some(group) = self.groups.get_mut(owner)
        {
            group.struck.push((now, uuid.clone()));
        }
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

    /// Whether a member is chosen to leave or to be changed, or its group is going: it
    /// may be powered off.
    pub fn may_go_down(&self, owner: &str, uuid: &str) -> bool {
        let chosen = |group: &Group| group.left.contains(uuid) || group.changed.contains(uuid);
        self.groups.get(owner).is_none_or(|group| group.deleted || chosen(group))
    }

    /// Looks at the groups as Kubernetes has them.
    pub fn objects(&mut self, objects: &[Value], now: Duration) -> Result<(), Violation> {
        let mut there = BTreeSet::new();
        for object in objects {
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
            there.insert(uid.to_owned());
            self.places.record(object)?;
            let Some(group) = self.groups.get_mut(uid) else { continue };
            group.take_record(object, &self.calls);
            let chosen: Vec<&String> = group
                .record
                .iter()
                .filter(|(uuid, leaving)| **leaving && !group.left.contains(*uuid))
                .map(|(uuid, _)| uuid)
                .collect();
            if !chosen.is_empty() && !group.deleted && !self.calls.has_late(uid) {
                group.choice(&self.calls.clones(uid), now, self.lag)?;
            }
            let chosen: Vec<String> = chosen.into_iter().cloned().collect();
            group.left.extend(chosen);
        }
        for (uid, group) in &mut self.groups {
            if there.contains(uid) || group.gone {
                continue;
            }
            group.gone = true;
            if !group.deleted {
                return Err(Violation { property: "S6", text: format!("{} went without being deleted", group.name) });
            }
            self.calls.may_go(uid, &group.name)?;
        }
        Ok(())
    }

    /// Looks at the machines.
    pub fn machines(&mut self, vms: &[VmView], now: Duration) -> Result<(), Violation> {
        self.theft(vms)?;
        let mut members = BTreeMap::new();
        let mut of_groups: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for vm in vms {
            let Some((owner, uuid)) = member_of(vm) else { continue };
            members.insert(vm.moref.clone(), (owner.to_owned(), uuid.to_owned(), vm.power_on));
            of_groups.entry(owner).or_default().insert(uuid.to_owned());
            let Some(group) = self.groups.get(owner) else { continue };
            self.places.holds(owner, vm)?;
            // Who comes when everybody has given him up is found by his mark, and leaves.
            if group.gone && !self.away.contains(&vm.moref) && !self.calls.is_late(uuid) {
                let text = format!("{} ({}) is left of {}, which is gone", vm.name, vm.moref, group.name);
                return Err(Violation { property: "S1", text });
            }
            let known =
                group.record.contains_key(uuid) || group.is_large(now, self.lag + CLONE) && group.ever.contains(uuid);
            if !group.gone && !known && !self.calls.is_late(uuid) {
                let text = format!("{} ({}) of {} is not in its record", vm.name, vm.moref, group.name);
                return Err(Violation { property: "S1", text });
            }
        }
        for (moref, (owner, uuid, on)) in &self.before {
            let off = members.get(moref).is_none_or(|(_, _, now_on)| *on && !now_on);
            let Some(group) = self.groups.get(owner) else { continue };
            // Who comes late into a folder that was found empty goes with it.
            let late = group.deleted && self.calls.is_late(uuid);
            let gone = !members.contains_key(moref);
            let chosen = group.left.contains(uuid) || !gone && group.changed.contains(uuid);
            if off && !late && !self.touched.contains(moref) && !chosen {
                let text = format!("{moref} of {} went or was powered off and was never chosen", group.name);
                return Err(Violation { property: "S5", text });
            }
        }
        for (uid, group) in &mut self.groups {
            let there = of_groups.remove(uid.as_str()).unwrap_or_default();
            let most = group.wishes.most(now, self.lag + CLONE) + group.bounds.1;
            let expected = || there.iter().filter(|uuid| !self.calls.is_late(uuid)).count();
            if there.len() > most && there.len() > group.members.len() && expected() > most {
                let text =
                    format!("{} has {} members, and never more than {most} were wished", group.name, there.len());
                return Err(Violation { property: "S3", text });
            }
            if there.len() != group.members.len() {
                group.counts.push(now, there.len());
            }
            // Who is not there any more was until just now.
            group.last.extend(there.union(&group.members).map(|uuid| (uuid.clone(), now)));
            group.members = there;
            group.report(now, self.lag)?;
        }
        self.quota(&members, now)?;
        self.before = members;
        self.touched.clear();
        Ok(())
    }

    /// Nobody comes where there is no room.
    fn quota(&self, members: &BTreeMap<String, (String, String, bool)>, now: Duration) -> Result<(), Violation> {
        if self.quota.0.is_empty() {
            return Ok(());
        }
        let most = self.quota.most(now, self.lag + CLONE);
        let expected = members.values().filter(|(_, uuid, _)| !self.calls.is_late(uuid)).count();
        if expected > most && members.len() > self.before.len() {
            let text = format!("the namespace has {expected} machines, and may have {most}");
            return Err(Violation { property: "quota", text });
        }
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

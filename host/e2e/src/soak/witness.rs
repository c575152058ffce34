//! Judges each call that writes to vCenter at the moment it leaves its operator,
//! by what is true at that moment: in the simulated vCenter, in Kubernetes, and
//! in the reads that this operator has been served.
//!
//! What a call does later (it may be slow, or take effect when everybody has
//! given it up) is not its maker's fault; what he asked for is. So this holds
//! under every fault. Must not take anything from the operator but its calls.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use vmgroup_api::FINALIZER;
use vmgroup_sim::clock::Clock;
use vmgroup_sim::kube::KubeSim;
use vmgroup_sim::vcenter::{TaskState, TaskView, VmView};

use super::judge::{Violation, Wishes, member_of};
use super::places::{Destination, right_there};
use super::sites::NAMES;
use super::vcenters::{Vcenters, reference};
use crate::sabotage::{Line, Witness};
use crate::world::{OPERATOR_NAMESPACE, ROOT};

/// For how long a leader may believe in a renewal that it has sent.
const LEASE: Duration = Duration::from_secs(10);

/// What a run makes possible, and with it what is too much.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is possible without the others")]
pub struct Terms {
    /// How old may be what an operator knows of wishes, and for how long it may
    /// be at work on a decision.
    pub lag: Duration,
    /// Operators elect a leader.
    pub election: bool,
    /// No more of the tasks that stand in the record are at work than are allowed; not
    /// where an operator that has just come cannot know of all yet.
    pub limit: bool,
    /// There are two vCenters, and groups may name targets.
    pub sites: bool,
    /// Clones may come after their task has reported an error.
    pub late_clones: bool,
}

/// A group, as far as calls are concerned.
#[derive(Default)]
struct Group {
    wishes: Wishes,
    /// Clones that have left an operator who waits for them, and which one.
    on_the_way: BTreeMap<String, u64>,
    /// Something was asked of this vCenter for it.
    begun: Option<usize>,
    /// The last listing that an operator was served showed no member of it.
    empty: bool,
    /// Members that there may be besides those that are wished, while it is changed.
    surge: usize,
}

/// What an operator was told by a fresh read of one machine.
struct Read {
    at: Instant,
    /// The group and UUID of the member that it was then.
    member: Option<(String, String)>,
}

struct State {
    groups: BTreeMap<String, Group>,
    /// By operator and reference.
    reads: HashMap<(u64, String), Read>,
    /// Folders that were empty when an operator read them, by operator and reference.
    empty_folders: HashMap<(u64, String), bool>,
    /// The tasks that ever stood in a record.
    tasks: BTreeSet<String>,
    /// How many of them there may be at a time in each vCenter, and since when.
    limits: BTreeMap<usize, Wishes>,
    /// Members whose clone may come at any time, whatever its caller does, each
    /// with its group.
    late: BTreeMap<String, String>,
    /// When vCenter restarted last: its hosts go on with what it has forgotten.
    restarted: Option<Instant>,
    violation: Option<Violation>,
}

/// How long a task may take.
const TASK: Duration = Duration::from_secs(10);

/// The witness of a run. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Calls {
    kube: KubeSim,
    vcenters: Vcenters,
    clock: Clock,
    terms: Terms,
    state: Arc<Mutex<State>>,
}

/// What a call asks for, as far as it matters.
enum Asked<'a> {
    Clone {
        uid: &'a str,
        uuid: &'a str,
        to: Destination<'a>,
    },
    /// Something that cannot be undone, to a machine.
    Harm {
        vm: &'a str,
        method: &'a str,
    },
    RemoveFolder {
        folder: &'a str,
    },
    MakeFolder,
    /// Sets a custom attribute, or attaches or takes off a tag.
    Annotate {
        vms: Vec<&'a str>,
    },
    OtherTask,
    ReadVms {
        vms: Vec<&'a str>,
    },
    ReadFolder {
        folder: &'a str,
    },
    /// Every machine below the root folder.
    Listing,
    Other,
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(from)?;
    rest.split_once(to).map(|(inside, _)| inside)
}

fn all_between<'a>(text: &'a str, from: &str, to: &str) -> Vec<&'a str> {
    text.split(from).skip(1).filter_map(|rest| rest.split_once(to)).map(|(inside, _)| inside).collect()
}

/// The value of an `extraConfig` key.
fn extra<'a>(envelope: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = envelope.split_once(&format!("<key>{key}</key>"))?;
    let (_, rest) = rest.split_once("<value")?;
    between(rest, ">", "<")
}

impl<'a> Asked<'a> {
    fn of(envelope: &'a str) -> Self {
        let method = between(envelope, "Body><", " ").unwrap_or_default();
        let this = between(envelope, "<_this", "</_this>").unwrap_or_default();
        let (kind, target) = this.split_once('>').unwrap_or_default();
        match method {
            "CloneVM_Task" => Self::Clone {
                uid: extra(envelope, "vmgroup.group-uid").unwrap_or_default(),
                uuid: between(envelope, "<instanceUuid>", "<").unwrap_or_default(),
                to: Destination {
                    folder: between(envelope, "<folder type=\"Folder\">", "<").unwrap_or_default(),
                    pool: between(envelope, "<pool type=\"ResourcePool\">", "<").unwrap_or_default(),
                    datastore: between(envelope, "<datastore type=\"Datastore\">", "<"),
                    host: between(envelope, "<host type=\"HostSystem\">", "<"),
                },
            },
            "Destroy_Task" if kind.contains("\"Folder\"") => Self::RemoveFolder { folder: target },
            "Destroy_Task" | "PowerOffVM_Task" | "ShutdownGuest" => Self::Harm { vm: target, method },
            "RetrievePropertiesEx" => {
                let mut vms = all_between(envelope, "<obj type=\"VirtualMachine\">", "<");
                if !envelope.contains("config.extraConfig") {
                    // What is not asked for marks shows whose one machine is at most.
                    vms.truncate(1);
                }
                if !vms.is_empty() {
                    Self::ReadVms { vms }
                } else if envelope.contains("<name>folders</name>") {
                    Self::Listing
                } else if let Some(folder) = between(envelope, "<obj type=\"Folder\">", "<") {
                    Self::ReadFolder { folder }
                } else {
                    Self::Other
                }
            }
            "CreateFolder" => Self::MakeFolder,
            "SetField" => {
                let vm = between(envelope, "<entity type=\"VirtualMachine\">", "<").unwrap_or_default();
                Self::Annotate { vms: vec![vm] }
            }
            _ if envelope.starts_with("tag_association.attach") || envelope.starts_with("tag_association.detach") => {
                Self::Annotate { vms: all_between(envelope, "\"id\":\"", "\"") }
            }
            method if method.ends_with("_Task") => Self::OtherTask,
            _ => Self::Other,
        }
    }
}

/// The UUIDs of the members of a group that these tasks are making.
fn cloned_for(uid: &str, tasks: Vec<TaskView>) -> BTreeSet<String> {
    let running = tasks.into_iter().filter(|task| task.state == TaskState::Running).filter_map(|task| task.makes);
    running
        .filter(|made| made.extra.get("vmgroup.group-uid").is_some_and(|owner| owner == uid))
        .map(|made| made.instance_uuid)
        .collect()
}

fn wrong(property: &'static str, text: String) -> Violation {
    Violation { property, text }
}

impl Calls {
    /// The witness of what is asked of these.
    pub fn new(kube: KubeSim, vcenters: Vcenters, clock: Clock, terms: Terms) -> Self {
        let state = State {
            groups: BTreeMap::new(),
            reads: HashMap::new(),
            empty_folders: HashMap::new(),
            tasks: BTreeSet::new(),
            limits: BTreeMap::new(),
            late: BTreeMap::new(),
            restarted: None,
            violation: None,
        };
        Self { kube, vcenters, clock, terms, state: Arc::new(Mutex::new(state)) }
    }

    /// The vCenter that a group's record names, or the only one.
    pub fn vcenter_of(&self, object: &Value) -> usize {
        let name = &object["status"]["connection"]["name"];
        NAMES.iter().position(|known| name == *known).unwrap_or(0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A user wishes so many members of a group from now on.
    pub fn wished(&self, uid: &str, replicas: usize) {
        self.state().groups.entry(uid.to_owned()).or_default().wishes.push(self.clock.since_epoch(), replicas);
    }

    /// A group may have so many members more than it wishes while it is changed.
    pub fn may_surge(&self, uid: &str, surge: usize) {
        self.state().groups.entry(uid.to_owned()).or_default().surge = surge;
    }

    /// A task stands in the record.
    pub fn recorded_task(&self, task: String) {
        self.state().tasks.insert(task);
    }

    /// A vCenter may have so many of them at a time from now on.
    pub fn may_run(&self, vcenter: usize, tasks: usize) {
        self.state().limits.entry(vcenter).or_default().push(self.clock.since_epoch(), tasks);
    }

    /// What was seen first that must not be.
    pub fn violation(&self) -> Option<Violation> {
        self.state().violation.take()
    }

    /// A vCenter is about to restart: its hosts may finish what it forgets.
    pub fn restarts(&self, vcenter: usize) {
        let mut state = self.state();
        state.restarted = Some(Instant::now());
        for uid in state.groups.keys().cloned().collect::<Vec<_>>() {
            let running = cloned_for(&uid, self.vcenters.at(vcenter).tasks());
            state.late.extend(running.into_iter().map(|uuid| (uuid, uid.clone())));
        }
    }

    /// Whether a member's clone may come when nobody expects it any more: it is
    /// late, or its task has failed.
    pub fn is_late(&self, uuid: &str) -> bool {
        self.state().late.contains_key(uuid) || self.has_failed(uuid)
    }

    /// Whether vCenter has said of a member's clone that it failed.
    fn has_failed(&self, uuid: &str) -> bool {
        let failed = |task: &TaskView| {
            task.state == TaskState::Error && task.makes.as_ref().is_some_and(|made| made.instance_uuid == uuid)
        };
        self.vcenters.tasks().iter().any(failed)
    }

    /// Whether any member of a group may come late.
    pub fn has_late(&self, uid: &str) -> bool {
        self.state().late.values().any(|owner| owner == uid)
    }

    /// Whether something irrevocable may be on its way to a machine: a fresh look
    /// at it has been had, or a task is at work.
    pub fn is_doomed(&self, vm: &VmView) -> bool {
        let now = Instant::now();
        let read = |((_, moref), read): (&(u64, String), &Read)| {
            *moref == vm.moref && now.duration_since(read.at) <= self.terms.lag
        };
        let state = self.state();
        state.reads.iter().any(read)
            || state.restarted.is_some_and(|at| at.elapsed() <= TASK)
            || self.vcenters.tasks().iter().any(|task| task.state == TaskState::Running && task.entity == vm.name)
    }

    /// The UUIDs of the members of a group that vCenter is making.
    pub fn clones(&self, uid: &str) -> BTreeSet<String> {
        cloned_for(uid, self.vcenters.tasks())
    }

    fn object(&self, uid: &str) -> Option<Value> {
        self.kube.list("vmgroups", None).into_iter().find(|object| object["metadata"]["uid"] == uid)
    }

    fn recorded(object: &Value, uuid: &str) -> Option<String> {
        let members = object["status"]["members"].as_array()?;
        let member = members.iter().find(|member| member["uuid"].as_str().is_some_and(|own| own == uuid))?;
        member["state"].as_str().map(str::to_owned)
    }

    fn judge(&self, state: &mut State, line: Line, asked: &Asked<'_>) -> Result<(), Violation> {
        let Line { operator, vcenter } = line;
        match asked {
            Asked::ReadVms { .. } | Asked::ReadFolder { .. } | Asked::Listing | Asked::Other => return Ok(()),
            _ => {}
        }
        self.leads(operator)?;
        // Folders take no slot, and what is done when it is answered is no task.
        if !matches!(asked, Asked::RemoveFolder { .. } | Asked::MakeFolder | Asked::Annotate { .. }) {
            self.within_limit(state, vcenter)?;
        }
        match asked {
            Asked::Clone { uid, uuid, to } => {
                self.may_clone(state, line, uid, uuid)?;
                match self.object(uid).filter(|_| self.terms.sites) {
                    Some(object) => right_there((vcenter, self.vcenters.at(vcenter)), &object, *to),
                    None => Ok(()),
                }
            }
            Asked::Harm { vm, method } => self.may_harm(state, operator, &reference(vcenter, vm), method),
            Asked::Annotate { vms } => {
                let is_member = |vm: &&&str| {
                    let read = state.reads.get(&(operator, reference(vcenter, vm)));
                    read.is_some_and(|read| read.at.elapsed() <= self.terms.lag && read.member.is_some())
                };
                vms.iter().find(|vm| !is_member(vm)).map_or(Ok(()), |vm| {
                    let text = format!("{vm} gets an attribute or a tag, and was no member when it was looked at");
                    Err(wrong("S2", text))
                })
            }
            Asked::RemoveFolder { folder } => {
                let empty = state.empty_folders.get(&(operator, reference(vcenter, folder)));
                if empty == Some(&true) {
                    return Ok(());
                }
                let text = format!("folder {folder} is removed, and was never read and found empty");
                Err(wrong("S2", text))
            }
            _ => Ok(()),
        }
    }

    /// S7: whoever writes holds the lease.
    fn leads(&self, operator: u64) -> Result<(), Violation> {
        if !self.terms.election {
            return Ok(());
        }
        let lease = self.kube.get("leases", Some(OPERATOR_NAMESPACE), "vmgroup-operator");
        let spec = lease.map(|lease| lease["spec"].clone()).unwrap_or_default();
        let holder = spec["holderIdentity"].as_str().unwrap_or_default();
        let renewed: Option<jiff::Timestamp> = spec["renewTime"].as_str().and_then(|text| text.parse().ok());
        let age = renewed.and_then(|at| Duration::try_from(self.clock.now().duration_since(at)).ok());
        // Microseconds are all that a lease shows.
        let held = age.is_none_or(|age| age <= LEASE + Duration::from_millis(1));
        if holder.starts_with(&format!("operator-{operator}_")) && held {
            return Ok(());
        }
        let text = format!("operator {operator} writes to vCenter; {holder:?} has the lease, renewed {age:?} ago");
        Err(wrong("S7", text))
    }

    /// One limit for all groups of a vCenter, over restarts.
    fn within_limit(&self, state: &State, vcenter: usize) -> Result<(), Violation> {
        let Some(limits) = state.limits.get(&vcenter).filter(|_| self.terms.limit) else { return Ok(()) };
        let limit = limits.most(self.clock.since_epoch(), self.terms.lag);
        let running = |task: &TaskView| {
            task.state == TaskState::Running && state.tasks.contains(&reference(vcenter, &task.moref))
        };
        let count = self.vcenters.at(vcenter).tasks().iter().filter(|task| running(task)).count();
        if count >= limit {
            let text = format!("a task is begun while {count} in the record are at work, and {limit} are allowed");
            return Err(wrong("limit", text));
        }
        Ok(())
    }

    fn may_clone(&self, state: &mut State, line: Line, owner: &str, uuid: &str) -> Result<(), Violation> {
        let Line { operator, vcenter } = line;
        let now = self.clock.since_epoch();
        let group = state.groups.entry(owner.to_owned()).or_default();
        // This one leads, or it would have been stopped. What another one was about to
        // ask for when it was paused, it may ask for when it wakes up.
        let paused = group.on_the_way.extract_if(.., |_, asker| *asker != operator);
        state.late.extend(paused.map(|(uuid, _)| (uuid, owner.to_owned())));
        let late = state.late.clone();
        group.begun = Some(vcenter);
        let Some(object) = self.object(owner) else {
            return Err(wrong("S1", format!("{uuid} is cloned for a group that is gone ({owner})")));
        };
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let finalizers = object["metadata"]["finalizers"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return Err(wrong("S6", format!("{uuid} of {name} is cloned, and there is no finalizer")));
        }
        match Self::recorded(&object, uuid).as_deref() {
            Some("Planned" | "Cloning") => {}
            other => {
                let text = format!("{uuid} of {name} is cloned, and stands in the record as {other:?}");
                return Err(wrong("S1", text));
            }
        }
        let there: BTreeSet<String> = self
            .vcenters
            .vms()
            .iter()
            .filter_map(|vm| member_of(vm).filter(|(of, _)| *of == owner).map(|(_, uuid)| uuid.to_owned()))
            .collect();
        let mut making = self.clones(owner);
        making.extend(group.on_the_way.keys().cloned());
        if !late.contains_key(uuid) && (there.contains(uuid) || making.contains(uuid)) {
            let what = if there.contains(uuid) { "it exists" } else { "its clone is under way" };
            return Err(wrong("S3", format!("{uuid} of {name} is cloned, and {what}")));
        }
        group.on_the_way.insert(uuid.to_owned(), operator);
        let all: BTreeSet<&String> = there.iter().chain(&making).filter(|uuid| !late.contains_key(*uuid)).collect();
        let most = group.wishes.most(now, self.terms.lag) + group.surge;
        let count = all.len() + usize::from(!late.contains_key(uuid));
        if count > most && !all.iter().any(|uuid| self.has_failed(uuid)) {
            let text = format!(
                "{uuid} of {name} is cloned as number {count} ({} there, {} being made), and never more than {most} were wished",
                there.len(),
                making.len()
            );
            return Err(wrong("S3", text));
        }
        Ok(())
    }

    fn may_harm(&self, state: &State, operator: u64, vm: &str, method: &str) -> Result<(), Violation> {
        let read = state.reads.get(&(operator, vm.to_owned()));
        let fresh = read.filter(|read| read.at.elapsed() <= self.terms.lag);
        let Some(read) = fresh else {
            return Err(wrong("S5", format!("{method} of {vm} without a fresh look at it")));
        };
        let Some((owner, uuid)) = &read.member else {
            return Err(wrong("S2", format!("{method} of {vm}, which was no member when it was looked at")));
        };
        let object = self.object(owner);
        if object.is_none() && (state.late.contains_key(uuid) || self.has_failed(uuid)) {
            // It came when its group had gone, and there is no record any more.
            return Ok(());
        }
        let state = object.and_then(|object| Self::recorded(&object, uuid));
        let changing = state.as_deref() == Some("Changing") && method != "Destroy_Task";
        if state.as_deref() != Some("Leaving") && !changing {
            let text = format!("{method} of {vm} ({uuid}), which stands in the record as {state:?}");
            return Err(wrong("S5", text));
        }
        Ok(())
    }

    /// S6: a group goes after a listing that shows that nothing of it is left.
    pub fn may_go(&self, uid: &str, name: &str) -> Result<(), Violation> {
        match self.state().groups.get(uid) {
            Some(group) if group.begun.is_some() && !group.empty => {
                Err(wrong("S6", format!("{name} went, and nobody had made sure that nothing is left of it")))
            }
            _ => Ok(()),
        }
    }
}

impl Witness for Calls {
    fn leaves(&self, line: Line, envelope: &str) {
        let asked = Asked::of(envelope);
        let mut state = self.state();
        if let Err(violation) = self.judge(&mut state, line, &asked) {
            state.violation.get_or_insert(violation);
        }
    }

    fn served(&self, line: Line, envelope: &str, well: bool) {
        let Line { operator, vcenter } = line;
        match Asked::of(envelope) {
            Asked::ReadVms { vms } if well => {
                let there = self.vcenters.vms_of(vcenter);
                for vm in vms {
                    let vm = reference(vcenter, vm);
                    let found = there.iter().find(|found| found.moref == vm);
                    let member = found.and_then(member_of);
                    let member = member.map(|(uid, uuid)| (uid.to_owned(), uuid.to_owned()));
                    self.state().reads.insert((operator, vm), Read { at: Instant::now(), member });
                }
            }
            Asked::ReadFolder { folder } if well => {
                let empty = self.vcenters.at(vcenter).folder_is_empty(folder).unwrap_or(true);
                self.state().empty_folders.insert((operator, reference(vcenter, folder)), empty);
            }
            Asked::Listing if well => {
                let vms = self.vcenters.vms_of(vcenter);
                // Who came late, and was moved out of the root folder at once, is listed nowhere.
                let is_seen = |vm: &&VmView, uuid: &str| vm.folder.starts_with(ROOT) || !self.is_late(uuid);
                let left: BTreeSet<&str> = vms
                    .iter()
                    .filter_map(|vm| member_of(vm).filter(|(_, uuid)| is_seen(&vm, uuid)).map(|(uid, _)| uid))
                    .collect();
                let mut state = self.state();
                // In another one nothing of it was listed.
                for (uid, group) in &mut state.groups {
                    if group.begun.is_some_and(|begun| begun != vcenter) {
                        continue;
                    }
                    group.empty = !left.contains(uid.as_str());
                }
            }
            _ => {}
        }
    }

    fn ended(&self, _line: Line, envelope: &str) {
        if let Asked::Clone { uid, uuid, to: _ } = Asked::of(envelope) {
            let mut state = self.state();
            if let Some(group) = state.groups.get_mut(uid) {
                group.on_the_way.remove(uuid);
            }
            if self.terms.late_clones {
                state.late.insert(uuid.to_owned(), uid.to_owned());
            }
        }
    }

    fn late(&self, _line: Line, envelope: &str) {
        if let Asked::Clone { uid, uuid, to: _ } = Asked::of(envelope) {
            self.state().late.insert(uuid.to_owned(), uid.to_owned());
        }
    }
}

//! What a run is made of, drawn from its seed: the workload, the kinds of
//! faults, how often they strike, and who does what when.
//!
//! Must not do any of it.

use std::fmt;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use vmgroup_policy::Kind;
use vmgroup_sim::faults::Fault as ServerFault;
use vmgroup_sim::kube::WatchFault;
use vmgroup_sim::vcenter::TaskDurations;

use super::NAMESPACE;
use super::sites::{self, Edit, Sites};
use crate::sabotage::{Blow, Call, Side, Strike};

/// All that is random in a run comes from one of these.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// Those of a seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Others that depend on these alone.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self::new(self.0.next_u64())
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`, or 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap_or(1);
        usize::try_from(self.0.next_u64() % end).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True so many times in ten thousand.
    pub fn chance(&mut self, in_ten_thousand: u32) -> bool {
        self.0.next_u64() % 10_000 < u64::from(in_ten_thousand)
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// A time between two, in milliseconds.
    pub fn time(&mut self, low: usize, high: usize) -> Duration {
        Duration::from_millis(u64::try_from(self.between(low, high)).unwrap_or(0))
    }
}

macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }
        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $text,)* })
            }
        }
    };
}

kinds! {
    /// What the users do.
    Workload {
        /// One group is made.
        Create = "create",
        /// It grows.
        Out = "out",
        /// It shrinks.
        In = "in",
        /// It is scaled to and fro.
        Flap = "flap",
        /// It is deleted, sooner or later.
        Delete = "delete",
        /// It is deleted and made again under its name.
        Remake = "remake",
        /// Policies are swapped and refused meanwhile.
        Policy = "policy",
        /// It is edited on the way: scaled, annotated, labelled, and offered what
        /// the API server has to refuse.
        Edit = "edits",
        /// Two to four groups, of which each is scaled and some are deleted.
        Many = "many",
    }
}

kinds! {
    /// What goes wrong.
    Fault {
        /// The operator dies before or after calls take effect.
        Crash = "crash at calls",
        /// Answers are lost after calls took effect.
        Lost = "answers lost",
        /// The operator is killed, or told to stop, at any time.
        Restart = "operator restarted",
        /// Watches break, and history is forgotten (410).
        Watch = "watches broken, 410",
        /// Single events of watches are dropped, repeated, reordered, late.
        Events = "watch events lost, twice, late",
        /// 409, 429, 500, 503 from the API server.
        KubeErrors = "API 409 429 500 503",
        /// The API server is away.
        KubeDown = "API down",
        /// The API server takes its time.
        KubeSlow = "API slow",
        /// vCenter is away.
        VcDown = "vCenter down",
        /// 503 from vCenter.
        VcErrors = "vCenter 503",
        /// vCenter takes its time, now and then more than anybody waits.
        VcSlow = "vCenter slow to 70 s",
        /// vCenter tells late what has changed.
        VcStale = "vCenter tells late",
        /// Sessions end: from outside, by a fault, by a fault inside an answer.
        Sessions = "sessions lost",
        /// vCenter restarts, and what it was at is finished or not.
        VcRestart = "vCenter restarted",
        /// Tasks fail.
        TaskFails = "tasks fail",
        /// Task objects disappear.
        TaskLost = "tasks lost",
        /// Somebody cancels tasks.
        TaskCancelled = "tasks cancelled",
        /// Tasks report an error, and have done what they were to do.
        TaskDenied = "tasks fail, yet done",
        /// Tasks report an error, and do what they were to do some time later.
        TaskLate = "tasks fail, done later",
        /// A second client powers off, destroys, renames and moves members.
        Hostile = "hostile client",
        /// A second client puts machines into our folders and takes names.
        Intruder = "intruder, copies",
        /// A second client takes marks away.
        Unmark = "marks taken away",
        /// Two operators, of which one dies or is paused and wakes up.
        Leaders = "two leaders, pauses",
        /// Policies that pass their check crash, spin or answer nonsense at work.
        Policies = "policies fail at work",
        /// Guests without VMware Tools, and such that do not shut down when asked.
        Guests = "guests deaf or stubborn",
        /// Hosts go into maintenance with members on them, and come back. DRS moves nobody,
        /// and the groups evacuate.
        Maintenance = "hosts in maintenance",
        /// There are two vCenters, of which the others of these strike one or both; groups
        /// name targets, and the connections file and logins are edited.
        Sites = "two vCenters",
    }
}

impl Fault {
    /// Those that every seed draws from. Whether policies or guests fail, hosts leave, or
    /// there are two vCenters, hangs on the seed itself, so that seeds from before that was
    /// tried go on meaning what they meant.
    const DRAWN: &[Self] = Self::ALL.split_at(Self::ALL.len() - 4).0;

    /// Those of a vCenter.
    const OF_VCENTER: &[Self] = &[
        Self::VcDown,
        Self::VcErrors,
        Self::VcSlow,
        Self::VcStale,
        Self::Sessions,
        Self::VcRestart,
        Self::TaskFails,
        Self::TaskLost,
        Self::TaskCancelled,
        Self::TaskDenied,
        Self::TaskLate,
    ];
}

kinds! {
    /// How a policy fails.
    Failing {
        /// It crashes.
        Traps = "traps",
        /// It spins until its fuel is used up.
        Spins = "spins",
        /// It answers what no question was for.
        Lies = "lies",
    }
}

/// A policy file with a policy that passes its check, and fails whenever it is asked.
#[derive(Clone, Debug)]
pub struct Broken {
    /// What it is asked.
    pub kind: Kind,
    /// How it fails.
    pub how: Failing,
    /// `policy.yaml`, in which it is called [`BROKEN_PLUGIN`].
    pub file: String,
}

/// What a [`Broken`] file calls its plugin.
pub const BROKEN_PLUGIN: &str = "broken.wasm";

/// What somebody else does to a machine, picked by a number when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Powers a member off.
    PowerOff,
    /// Destroys a member.
    Destroy,
    /// Renames a member.
    Rename,
    /// Moves a member to the root folder.
    Move,
    /// Moves a member out of the root folder.
    MoveOut,
    /// Destroys a group's folder with all in it.
    DestroyFolder,
    /// Puts a foreign machine into a group's folder.
    Intrude,
    /// Destroys a member, and gives a foreign machine its name.
    TakeName,
    /// Copies a member with its marks.
    Copy,
    /// Takes a member's mark away.
    Unmark,
    /// Removes the tools from a member's guest.
    Deafen,
    /// Has a member's guest do nothing when it is asked to shut down.
    Harden,
}

/// What a user changes of a group that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The template: this one, or the one that all groups begin with.
    Template(bool),
    /// To one that does not exist.
    NoTemplate,
    /// Virtual CPUs.
    Cpu(usize),
    /// All are to be restarted.
    Restart(u64),
}

/// What happens at some time of a run.
#[derive(Clone, Debug)]
pub enum Act {
    /// A user makes a group; if one of its name is still going, as soon as it is gone.
    Make(usize, usize),
    /// A user scales one.
    Scale(usize, usize),
    /// A user deletes one.
    Delete(usize),
    /// A user writes something into its metadata that concerns nobody.
    Annotate(usize, u64),
    /// A user writes what cannot be, together with the count.
    Mistake(usize),
    /// A user changes what its members are to be.
    Change(usize, Change),
    /// A user gives the members of a group this custom attribute, or takes it away.
    Attribute(usize, Option<u64>),
    /// A user gives the members of a group the tag of this number, or none.
    Tag(usize, Option<usize>),
    /// A user writes the user data of all groups, or deletes it.
    Data(Option<u64>),
    /// The namespace may have so many machines from now on.
    Quota(usize),
    /// An administrator edits the connections file.
    Connections(Edit),
    /// A namespace is given the label by which it is served, or loses it.
    Label(bool),
    /// The password is another one in the vCenter of this number.
    Password(usize, u64),
    /// And in the Secret of its connection.
    Login(usize, u64),
    /// A user gives a group the target that the number picks, which is refused if it stands.
    Aim(usize, u64),
    /// A user writes the policy file.
    Policy(&'static str),
    /// A user writes one whose policy fails.
    Broken(Broken),
    /// Every watch breaks; with `true`, history is forgotten as well.
    Watches(bool),
    /// The API server is away, or back.
    KubeDown(bool),
    /// vCenter is away, or back: those that are struck, as with all of these.
    VcDown(bool),
    /// Every session ends.
    EndSessions,
    /// Every task that can be is cancelled.
    CancelTasks,
    /// vCenter restarts, and finishes what it was at if `true`.
    VcRestart(bool),
    /// An operator is killed, and comes again this much later.
    Kill(Duration),
    /// An operator is told to stop, and comes again when it has.
    Stop,
    /// An operator is paused for this long.
    Freeze(Duration),
    /// The host of this number, counted from 0, goes into maintenance, or comes back.
    Maintain(usize, bool),
    /// Somebody else does something to the machine that the number picks.
    Deed(Deed, u64),
}

/// What groups say of the guests of their members, in runs in which they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guests {
    /// `spec.readiness.type`, and how long a guest has, in seconds.
    pub readiness: Option<(&'static str, usize)>,
    /// `spec.minReadySeconds`.
    pub min_ready: usize,
    /// They have user data, out of one Secret.
    pub data: bool,
}

/// A run.
pub struct Script {
    /// What the users do.
    pub workload: Workload,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// What happens when, in order.
    pub acts: Vec<(Duration, Act)>,
    /// When faults end.
    pub ends: Duration,
    /// How many operators there are.
    pub operators: usize,
    /// How long tasks take.
    pub durations: TaskDurations,
    /// Tasks at the same time.
    pub max_tasks: usize,
    /// `spec.gracePeriodSeconds` of the groups.
    pub grace: Option<u32>,
    /// How many members of a group may be out of service while it is changed, and how
    /// many there may be besides, if groups are changed.
    pub changes: Option<(usize, usize)>,
    /// What groups say of their members' guests, if they do.
    pub guests: Option<Guests>,
    /// How many machines the namespace may have at first, if that is limited.
    pub quota: Option<usize>,
    /// The vCenters, if there are two.
    pub sites: Option<Sites>,
    /// How often calls are struck, in ten thousand.
    rate: u32,
    /// What strikes calls.
    dice: Dice,
}

/// Policy files that are in force or refused for a while; the first one is good.
const POLICIES: &[&str] = &[
    "{}",
    "naming: { plugin: ordinal, config: { pattern: \"{group}-{ordinal}\" } }",
    "naming: { plugin: ordinal, config: { pattern: \"vm-{ordinal}\" } }",
    "placement: { plugin: spread, config: { by: host, maxPerPlace: 1 } }",
    "placement: { plugin: spread, config: { by: host } }",
    "scaling: { plugin: ordered, config: { protect: [ \"pet=true\" ] } }",
    "scaling: { plugin: no-such-plugin }",
    "naming: [ this is no policy file",
];

/// Every seed that this divides has policies that fail.
const POLICIES_FAIL: u64 = 5;

/// Every seed that this divides has guests that do not shut down.
const GUESTS_FAIL: u64 = 3;

/// Every seed that the first divides, and the second does not, has hosts that go into
/// maintenance. None of those that are pinned is among them.
const HOSTS_LEAVE: (u64, u64) = (14, 5);

/// The hosts that there are.
pub const HOSTS: usize = 3;

/// How long guests have to, seed by seed.
const GRACES: [Option<u32>; 4] = [None, Some(0), Some(7), Some(40)];

/// Groups are changed in runs of seeds that leave one of these remainders. None of
/// those that are pinned does, so they go on meaning what they meant.
const CHANGED: (u64, [u64; 2]) = (7, [3, 5]);

/// Groups say something of their members' guests, and some namespaces have a quota, in
/// runs of seeds that leave one of these remainders, unless one of the others divides
/// them. None of those that are pinned does.
const GUESTED: (u64, [u64; 2], [u64; 2]) = (12, [3, 9], [5, 7]);

/// There are two vCenters in runs of seeds that leave one of these remainders, unless one
/// of the others divides them, or they are [`GUESTED`]. None of those that are pinned from
/// before does.
const SITES: (u64, [u64; 2], [u64; 2]) = (11, [2, 7], [5, 7]);

/// The policy file that every run ends with in which policies are swapped.
pub const LAST_POLICY: &str = "placement: { plugin: spread, config: { by: host } }";

impl Script {
    /// The run of a seed.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let workload = *dice.pick(Workload::ALL);
        let mut faults = Vec::new();
        // Few at a time: who is to blame shall be seen.
        for _ in 0..*dice.pick(&[1, 1, 2, 2, 3, 5]) {
            let fault = *dice.pick(Fault::DRAWN);
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        // The known limit of docs/reliability.md: a late clone in the folder of a group
        // that is gone, left because of strangers, has nobody to find it.
        if faults.contains(&Fault::TaskLate) {
            faults.retain(|fault| *fault != Fault::Intruder);
        }
        faults.sort();
        let ends = dice.time(20_000, 150_000);
        let mut acts = users(workload, &mut dice, ends);
        for fault in &faults {
            fates(*fault, &mut dice, ends, &mut acts);
        }
        acts.sort_by_key(|(at, _)| *at);
        let operators = if faults.contains(&Fault::Leaders) { 2 } else { 1 };
        let durations = TaskDurations {
            clone: dice.time(200, 8_000),
            // Longer than the judge looks away.
            power: dice.time(150, 3_000),
            destroy: dice.time(150, 3_000),
            ..TaskDurations::default()
        };
        let max_tasks = dice.between(1, 10);
        let rate = *dice.pick(&[50, 200, 500, 1000]);
        let strikes = dice.split();
        if seed.is_multiple_of(POLICIES_FAIL) {
            faults.push(Fault::Policies);
            policies_fail(&mut dice, ends, &mut acts);
            acts.sort_by_key(|(at, _)| *at);
        }
        if seed.is_multiple_of(GUESTS_FAIL) {
            faults.push(Fault::Guests);
            fates(Fault::Guests, &mut dice, ends, &mut acts);
            acts.sort_by_key(|(at, _)| *at);
        }
        if seed.is_multiple_of(HOSTS_LEAVE.0) && !seed.is_multiple_of(HOSTS_LEAVE.1) {
            faults.push(Fault::Maintenance);
            fates(Fault::Maintenance, &mut dice, ends, &mut acts);
            acts.sort_by_key(|(at, _)| *at);
        }
        let grace = GRACES[usize::try_from(seed / 2).unwrap_or(0) % GRACES.len()];
        let changes = CHANGED.1.contains(&(seed % CHANGED.0)).then(|| {
            changed(&mut dice, &mut acts);
            acts.sort_by_key(|(at, _)| *at);
            *dice.pick(&[(1, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 2)])
        });
        let (remainders, apart) = (GUESTED.1.contains(&(seed % GUESTED.0)), GUESTED.2);
        let guested = remainders && !apart.iter().any(|other| seed.is_multiple_of(*other));
        let guests = guested.then(|| guested_by(&mut dice, &mut acts));
        let quota = (guested && dice.chance(4000)).then(|| limited(&mut dice, &mut acts));
        let (remainders, apart) = (SITES.1.contains(&(seed % SITES.0)), SITES.2);
        let several = remainders && !GUESTED.1.contains(&(seed % GUESTED.0));
        let sites = (several && !apart.iter().any(|other| seed.is_multiple_of(*other))).then(|| {
            if !faults.iter().any(|fault| Fault::OF_VCENTER.contains(fault)) {
                faults.push(Fault::VcDown);
                fates(Fault::VcDown, &mut dice, ends, &mut acts);
            }
            faults.push(Fault::Sites);
            sites::drawn(&mut dice, ends, &mut acts)
        });
        if guested {
            tagged(&mut dice, &mut acts);
        }
        acts.sort_by_key(|(at, _)| *at);
        Self {
            workload,
            faults,
            acts,
            ends,
            operators,
            durations,
            max_tasks,
            grace,
            changes,
            guests,
            quota,
            sites,
            rate,
            dice: strikes,
        }
    }

    /// What it is about, in a line.
    pub fn title(&self) -> String {
        let faults: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        let changes = self.changes.map(|bounds| format!("; changes {bounds:?}")).unwrap_or_default();
        let guests = self.guests.map(|guests| format!("; {guests:?}")).unwrap_or_default();
        let quota = self.quota.map(|vms| format!("; quota {vms}")).unwrap_or_default();
        format!("{}; {}{changes}{guests}{quota}", self.workload, faults.join(", "))
    }

    /// How old what operators know may be, and how long they may be at work on what
    /// they decided: hardly at all, but for the faults that hold them up. Each of
    /// those has to be named here.
    pub fn lag(&self) -> Duration {
        let held_up = |fault: &Fault| match fault {
            // Watches are begun anew after a pause that grows to half a minute; the
            // longest pause of a leader, and what was cut off in it; the longest time
            // between a task's end and its effect.
            Fault::Watch | Fault::KubeErrors | Fault::Leaders | Fault::TaskLate => 60,
            // The longest outage besides; several calls of a pass, each of them slow.
            Fault::KubeDown | Fault::KubeSlow => 120,
            // An event that is lost is made up for when the faults end.
            Fault::Events => 180,
            // The longest wait for a poll.
            Fault::VcStale => 25,
            // As long as a pass may take.
            Fault::VcSlow => 130,
            _ => 0,
        };
        Duration::from_secs(2 + self.faults.iter().map(held_up).sum::<u64>())
    }

    /// Whether the limit of tasks in the record can be judged: not where an operator that
    /// has just come begins with one group before it knows another's tasks.
    pub fn is_limited(&self) -> bool {
        let another = [Fault::Crash, Fault::Restart, Fault::Leaders];
        let many = self.workload == Workload::Many || self.sites.is_some();
        let gone = |(_, act): &(Duration, Act)| matches!(act, Act::Connections(Edit::Gone(_)));
        // A connection that comes back is as new to the operator as he is to it.
        let comes = self.faults.iter().any(|fault| another.contains(fault)) || self.acts.iter().any(gone);
        let knows_all = !(many && comes);
        // The record goes on naming tasks that vCenter has forgotten until it is written;
        // and when a power-on that was reported as failed takes effect, its second try
        // counts as over.
        let unsure = [Fault::VcRestart, Fault::TaskLate];
        knows_all && !self.faults.iter().any(|fault| unsure.contains(fault))
    }

    /// The namespace of the group of this number.
    pub fn namespace(&self, group: usize) -> &'static str {
        self.sites.as_ref().map_or(NAMESPACE, |sites| sites.homes[group].namespace)
    }

    /// The vCenters that their faults strike.
    pub fn struck(&self) -> &'static [usize] {
        self.sites.as_ref().map_or(&[0], |sites| sites.struck)
    }

    /// How old a connections file may be that operators go by: whoever has just come, and
    /// finds one with a mistake, goes by what another kept when he still could.
    pub fn file_lag(&self) -> Duration {
        let another = [Fault::Crash, Fault::Restart, Fault::Leaders];
        if self.faults.iter().any(|fault| another.contains(fault)) { Duration::MAX } else { self.lag() }
    }

    /// The oracle of the watches, if they are disturbed.
    pub fn watches(&mut self) -> Option<impl FnMut(&str) -> Option<WatchFault> + Send + use<>> {
        let mut dice = self.dice.split();
        let often = *dice.pick(&[500, 2000, 6000]);
        self.faults
            .contains(&Fault::Events)
            .then_some(move |_: &str| if dice.chance(often) { Some(mishap(&mut dice)) } else { None })
    }

    /// The oracle of the saboteur.
    pub fn oracle(&mut self) -> impl FnMut(&Call) -> Option<Strike> + Send + use<> {
        let mut dice = self.dice.split();
        let faults: Vec<Fault> = self.faults.clone();
        let (rate, struck, mut crashes) = (self.rate, self.struck(), 15);
        move |call| {
            let mut found = None;
            for fault in &faults {
                // There are few polls.
                let rate = if *fault == Fault::VcStale { rate.max(3000) } else { rate };
                if found.is_none() && dice.chance(rate) {
                    found = strike(*fault, call, struck, &mut dice, &mut crashes);
                }
            }
            found
        }
    }
}

/// What happens to the events of watches.
fn mishap(dice: &mut Dice) -> WatchFault {
    match dice.below(4) {
        0 => WatchFault::Drop,
        1 => WatchFault::Repeat,
        2 => WatchFault::Late(dice.time(10, 30_000)),
        _ => WatchFault::Stall(dice.time(10, 30_000)),
    }
}

/// What a fault does to a call, if it is one for calls. Those of a vCenter strike these.
fn strike(fault: Fault, call: &Call, struck: &[usize], dice: &mut Dice, crashes: &mut u32) -> Option<Strike> {
    let kube = call.side == Side::Kubernetes;
    let vcenter = matches!(call.side, Side::Vcenter(number) if struck.contains(&number));
    let poll = call.name.starts_with("WaitForUpdatesEx");
    let task = vcenter && call.name.contains("_Task");
    let error = |text: &str| Some(Strike::Fault(ServerFault::Error(text.to_owned())));
    match fault {
        Fault::Crash if *crashes > 0 => {
            *crashes -= 1;
            Some(Strike::Blow(if dice.chance(5000) { Blow::CrashBefore } else { Blow::CrashAfter }))
        }
        Fault::Lost => Some(Strike::Blow(Blow::ReplyLost)),
        Fault::KubeErrors if kube => error(dice.pick::<&str>(&["409", "429", "500", "503"])),
        Fault::KubeSlow if kube => Some(Strike::Fault(ServerFault::Delay(dice.time(100, 20_000)))),
        Fault::VcErrors if vcenter => error("503"),
        Fault::VcSlow if vcenter && !poll => {
            let long = dice.chance(1500);
            let time = if long { dice.time(55_000, 70_000) } else { dice.time(50, 12_000) };
            Some(Strike::Fault(ServerFault::Delay(time)))
        }
        Fault::Sessions if vcenter && call.name.starts_with("RetrievePropertiesEx") && dice.chance(5000) => {
            error("missingSet:NotAuthenticated")
        }
        Fault::Sessions if vcenter && !call.name.starts_with("Login") && !call.name.starts_with("RetrieveService") => {
            error("NotAuthenticated")
        }
        Fault::TaskFails if task => {
            let types = [
                "NoDiskSpace",
                "InsufficientMemoryResourcesFault",
                "TaskInProgress",
                "InvalidState",
                "NoPermission",
                "RequestCanceled",
                "GenericVmConfigFault",
                "SystemError",
            ];
            Some(Strike::Fault(ServerFault::FailTask((*dice.pick(&types)).to_owned())))
        }
        Fault::VcStale if poll => Some(Strike::Fault(ServerFault::Delay(dice.time(50, 20_000)))),
        Fault::TaskDenied | Fault::TaskLate if task => {
            let types = ["GenericVmConfigFault", "SystemError", "Timedout"];
            let later = if fault == Fault::TaskLate { dice.time(100, 60_000) } else { Duration::ZERO };
            Some(Strike::Fault(ServerFault::DenyTask { fault: (*dice.pick(&types)).to_owned(), later }))
        }
        Fault::TaskLost if task => Some(Strike::Fault(ServerFault::LoseTask)),
        _ => None,
    }
}

fn users(workload: Workload, dice: &mut Dice, ends: Duration) -> Vec<(Duration, Act)> {
    let last = usize::try_from(ends.as_millis()).unwrap_or(0);
    let mut acts = Vec::new();
    let start = dice.time(0, 3_000);
    match workload {
        Workload::Create => acts.push((start, Act::Make(0, dice.between(0, 12)))),
        Workload::Out => {
            // Now and then across the size above which the record names only some.
            let mut size = if dice.chance(600) { dice.between(47, 52) } else { dice.between(0, 3) };
            acts.push((start, Act::Make(0, size)));
            for at in times(dice, 3, last) {
                size += dice.between(1, 3);
                acts.push((at, Act::Scale(0, size)));
            }
        }
        Workload::In => {
            let mut size = if dice.chance(600) { dice.between(48, 58) } else { dice.between(4, 12) };
            acts.push((start, Act::Make(0, size)));
            for at in times(dice, 3, last) {
                size = size.saturating_sub(dice.between(1, 4));
                acts.push((at, Act::Scale(0, size)));
            }
        }
        Workload::Flap => {
            acts.push((start, Act::Make(0, dice.between(0, 8))));
            for at in times(dice, 8, last) {
                acts.push((at, Act::Scale(0, dice.between(0, 10))));
            }
        }
        Workload::Delete => {
            acts.push((start, Act::Make(0, dice.between(0, 8))));
            if dice.chance(5000) {
                acts.push((start + dice.time(0, 20_000), Act::Scale(0, dice.between(0, 8))));
            }
            acts.push((start + dice.time(50, 30_000), Act::Delete(0)));
        }
        Workload::Remake => {
            acts.push((start, Act::Make(0, dice.between(0, 6))));
            for at in times(dice, 3, last) {
                acts.push((at, Act::Delete(0)));
                acts.push((at + dice.time(0, 3_000), Act::Make(0, dice.between(0, 6))));
            }
        }
        Workload::Policy => {
            acts.push((start, Act::Make(0, dice.between(0, 6))));
            for at in times(dice, 5, last) {
                acts.push((at, Act::Policy(dice.pick::<&str>(POLICIES))));
            }
            for at in times(dice, 3, last) {
                acts.push((at, Act::Scale(0, dice.between(0, 8))));
            }
        }
        Workload::Edit => {
            acts.push((start, Act::Make(0, dice.between(0, 6))));
            for at in times(dice, 10, last) {
                let act = match dice.below(3) {
                    0 => Act::Scale(0, dice.between(0, 8)),
                    1 => Act::Annotate(0, dice.any()),
                    _ => Act::Mistake(0),
                };
                acts.push((at, act));
            }
        }
        Workload::Many => {
            for group in 0..dice.between(2, 4) {
                acts.push((start + dice.time(0, 5_000), Act::Make(group, dice.between(0, 8))));
                let from = 6_000;
                for _ in 0..dice.between(0, 3) {
                    acts.push((start + dice.time(from, last.max(from)), Act::Scale(group, dice.between(0, 8))));
                }
                if dice.chance(3000) {
                    acts.push((start + dice.time(from, last.max(from)), Act::Delete(group)));
                }
            }
        }
    }
    acts
}

/// One to `most` times, close together or far apart.
fn times(dice: &mut Dice, most: usize, last: usize) -> Vec<Duration> {
    let span = if dice.chance(5000) { 20_000 } else { last };
    let count = dice.between(1, most);
    let mut times: Vec<Duration> = (0..count).map(|_| dice.time(3_100, span.max(3_200))).collect();
    times.sort();
    times
}

/// Now and then a policy fails for a while, mostly soon after somebody asked for
/// something; some are corrected by hand.
fn policies_fail(dice: &mut Dice, ends: Duration, acts: &mut Vec<(Duration, Act)>) {
    let busy: Vec<Duration> = acts.iter().map(|(at, _)| *at).filter(|at| *at < ends).collect();
    for _ in 0..dice.between(1, 3) {
        let at = *dice.pick(&busy) + dice.time(0, 5_000);
        acts.push((at, Act::Broken(broken(dice))));
        if dice.chance(6000) {
            acts.push((at + dice.time(500, 60_000), Act::Policy(dice.pick::<&str>(POLICIES))));
        }
    }
}

/// When somebody asked for members, and of which group.
pub(super) fn asked_for(acts: &[(Duration, Act)]) -> Vec<(Duration, usize)> {
    let asked = acts.iter().filter_map(|(at, act)| match act {
        Act::Make(group, _) | Act::Scale(group, _) => Some((*at, *group)),
        _ => None,
    });
    asked.collect()
}

/// Users change what members are to be, mostly while something else is going on.
fn changed(dice: &mut Dice, acts: &mut Vec<(Duration, Act)>) {
    let busy = asked_for(acts);
    for _ in 0..dice.between(1, 4) {
        let (at, group) = *dice.pick(&busy);
        let change = match dice.below(8) {
            0 | 1 => Change::Template(true),
            2 => Change::Template(false),
            3 => Change::NoTemplate,
            4..=6 => Change::Cpu(dice.between(1, 3)),
            _ => Change::Restart(dice.any()),
        };
        acts.push((at + dice.time(200, 60_000), Act::Change(group, change)));
    }
}

/// What groups say of guests, and how that is changed, mostly while something else is
/// going on.
fn guested_by(dice: &mut Dice, acts: &mut Vec<(Duration, Act)>) -> Guests {
    let busy = asked_for(acts);
    let kind = *dice.pick(&[None, Some("ToolsRunning"), Some("Address"), Some("Heartbeat")]);
    let guests = Guests {
        readiness: kind.map(|kind| (kind, dice.between(5, 120))),
        min_ready: *dice.pick(&[0, 0, 3, 15]),
        data: dice.chance(7000),
    };
    for _ in 0..dice.between(0, 3) {
        let at = dice.pick(&busy).0 + dice.time(200, 60_000);
        if guests.data {
            acts.push((at, Act::Data((!dice.chance(3000)).then(|| dice.any()))));
        }
    }
    for _ in 0..dice.between(0, 3) {
        let (at, group) = *dice.pick(&busy);
        let value = (!dice.chance(3000)).then(|| dice.any());
        acts.push((at + dice.time(200, 60_000), Act::Attribute(group, value)));
    }
    guests
}

/// Users tag members, mostly while something else is going on.
fn tagged(dice: &mut Dice, acts: &mut Vec<(Duration, Act)>) {
    let busy = asked_for(acts);
    for _ in 0..dice.between(0, 3) {
        let (at, group) = *dice.pick(&busy);
        let tag = (!dice.chance(3000)).then(|| dice.between(0, 1));
        acts.push((at + dice.time(200, 60_000), Act::Tag(group, tag)));
    }
}

/// How many machines the namespace may have, and how that changes.
fn limited(dice: &mut Dice, acts: &mut Vec<(Duration, Act)>) -> usize {
    let busy: Vec<Duration> = acts.iter().map(|(at, _)| *at).collect();
    for _ in 0..dice.between(0, 3) {
        let at = *dice.pick(&busy) + dice.time(200, 60_000);
        acts.push((at, Act::Quota(dice.between(0, 15))));
    }
    dice.between(1, 10)
}

fn broken(dice: &mut Dice) -> Broken {
    let (kind, how) = (*dice.pick(&Kind::ALL), *dice.pick(Failing::ALL));
    let on_failure = dice.pick::<&str>(&["hold", "hold", "builtin", "previous"]);
    let entry = format!("{kind}: {{ plugin: {BROKEN_PLUGIN}, onFailure: {on_failure} }}");
    let entry = if dice.chance(3000) { format!("groups:\n- {{ name: some, percent: 70, {entry} }}") } else { entry };
    let beside = dice.pick::<&str>(&["", "naming: { plugin: ordinal }", "placement: { plugin: spread }"]);
    let beside = if beside.starts_with(kind.as_str()) { "" } else { beside };
    let failures = dice.pick(&[0, 1, 3, 3]);
    Broken { kind, how, file: format!("{entry}\n{beside}\nbreaker: {{ failures: {failures} }}\n") }
}

/// What happens by itself because of a fault.
fn fates(fault: Fault, dice: &mut Dice, ends: Duration, acts: &mut Vec<(Duration, Act)>) {
    let last = usize::try_from(ends.as_millis()).unwrap_or(0);
    // Mostly while something is going on: soon after somebody did something.
    let busy: Vec<Duration> = acts.iter().map(|(at, _)| *at).collect();
    let often = |dice: &mut Dice, most: usize| -> Vec<Duration> {
        (0..dice.between(1, most))
            .map(|_| if dice.chance(7000) { *dice.pick(&busy) + dice.time(0, 10_000) } else { dice.time(0, last) })
            .collect()
    };
    let outage = |dice: &mut Dice, act: fn(bool) -> Act, acts: &mut Vec<(Duration, Act)>| {
        for at in often(dice, 3) {
            acts.push((at, act(true)));
            acts.push((at + dice.time(200, 40_000), act(false)));
        }
    };
    let deeds = |dice: &mut Dice, from: &[Deed], acts: &mut Vec<(Duration, Act)>| {
        for at in often(dice, 8) {
            acts.push((at, Act::Deed(*dice.pick(from), dice.any())));
        }
    };
    match fault {
        Fault::Restart => {
            for at in often(dice, 6) {
                let act = if dice.chance(3000) { Act::Stop } else { Act::Kill(dice.time(0, 10_000)) };
                acts.push((at, act));
            }
        }
        Fault::Watch => {
            for at in often(dice, 8) {
                acts.push((at, Act::Watches(dice.chance(4000))));
            }
        }
        Fault::KubeDown => outage(dice, Act::KubeDown, acts),
        Fault::VcDown => outage(dice, Act::VcDown, acts),
        Fault::Sessions => acts.extend(often(dice, 5).into_iter().map(|at| (at, Act::EndSessions))),
        Fault::TaskCancelled => acts.extend(often(dice, 8).into_iter().map(|at| (at, Act::CancelTasks))),
        Fault::VcRestart => {
            for at in often(dice, 3) {
                acts.push((at, Act::VcRestart(dice.chance(5000))));
            }
        }
        Fault::Hostile => {
            let from = [Deed::PowerOff, Deed::Destroy, Deed::Rename, Deed::Move, Deed::MoveOut, Deed::DestroyFolder];
            deeds(dice, &from, acts);
        }
        Fault::Intruder => deeds(dice, &[Deed::Intrude, Deed::TakeName, Deed::Copy], acts),
        Fault::Unmark => deeds(dice, &[Deed::Unmark], acts),
        Fault::Guests => deeds(dice, &[Deed::Deafen, Deed::Harden, Deed::Harden], acts),
        Fault::Maintenance => {
            for at in often(dice, 4) {
                let host = dice.below(HOSTS);
                acts.push((at, Act::Maintain(host, true)));
                acts.push((at + dice.time(3_000, 90_000), Act::Maintain(host, false)));
            }
        }
        Fault::Leaders => {
            for at in often(dice, 4) {
                let act = if dice.chance(5000) {
                    Act::Kill(dice.time(0, 30_000))
                } else {
                    Act::Freeze(dice.time(5_000, 40_000))
                };
                acts.push((at, act));
            }
        }
        _ => {}
    }
}

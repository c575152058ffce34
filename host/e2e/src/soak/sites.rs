//! The part of a run that is about two vCenters: which namespace uses which, what groups
//! name as their targets, how the connections file is edited, and what follows from all
//! that for where a group's machines may be.
//!
//! Must not look at what operators do.

use std::time::Duration;

use serde_json::{Value, json};

use super::script::{Act, Dice, asked_for};
use crate::sim::host_of;

/// The names of the connections, by the number of their vCenter.
pub const NAMES: [&str; 2] = ["muc", "ber"];

/// Where their logins are.
pub const SECRETS: [&str; 2] = ["vc-muc", "vc-ber"];

/// All namespaces: served by the first vCenter, by the second, by both; by the second as
/// soon as the file names it, as soon as it has the label, and else by the default.
pub const NAMESPACES: [&str; 5] = ["shop", "team-a", "both", "lab", "dev"];

/// The label by which the second vCenter serves.
pub const LABEL: (&str, &str) = ("site", "ber");

/// Folders below the root folder that targets name. They are there from the start.
pub const FOLDERS: [&str; 2] = ["team", "team/web"];

/// A datastore cluster, and what is in it.
pub const POD: (&str, [&str; 2]) = ("fast", ["LocalDS_1", "LocalDS_2"]);

/// Clusters and datastores of each vCenter.
pub const CLUSTERS: usize = 2;
/// See there.
pub const DATASTORES: usize = 3;

/// The two vCenters of a run.
#[derive(Clone, Debug)]
pub struct Sites {
    /// Where each of the groups is.
    pub homes: [Home; 4],
    /// Those that vCenter's faults strike.
    pub struck: &'static [usize],
    /// The one that is away for a while when all faults have ended.
    pub away: usize,
}

/// Where a group is.
#[derive(Clone, Debug)]
pub struct Home {
    /// Its namespace.
    pub namespace: &'static str,
    /// Its `spec.target`, if it names one.
    pub target: Option<Value>,
}

/// How an administrator edits the connections file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// With a mistake: it does not count.
    Mistake,
    /// A vCenter may have so many tasks at a time.
    Tasks(usize, usize),
    /// Whoever is served by none is served by this one.
    Default(usize),
    /// The second serves one namespace more, or does not any more.
    Lab(bool),
    /// The address of a vCenter is written in another way: it is connected anew.
    Anew(usize),
    /// A vCenter is not among them, or all are.
    Gone(Option<usize>),
}

/// What counts of a connections file, as far as it is ever edited, and of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// The limits of tasks.
    pub tasks: [usize; 2],
    default: usize,
    lab: bool,
    ports: [bool; 2],
    gone: Option<usize>,
    /// One namespace has the label.
    pub labelled: bool,
}

impl File {
    /// How it is at first, with this limit for both.
    pub fn new(tasks: usize) -> Self {
        Self { tasks: [tasks; 2], default: 0, lab: false, ports: [false; 2], gone: None, labelled: false }
    }

    /// Carries an edit out; nothing: it is a mistake.
    pub fn edit(&mut self, edit: Edit) -> Option<()> {
        match edit {
            Edit::Mistake => return None,
            Edit::Tasks(vcenter, tasks) => self.tasks[vcenter] = tasks,
            Edit::Default(vcenter) => self.default = vcenter,
            Edit::Lab(served) => self.lab = served,
            Edit::Anew(vcenter) => self.ports[vcenter] ^= true,
            Edit::Gone(vcenter) => self.gone = vcenter,
        }
        Some(())
    }

    /// `connections.yaml`.
    pub fn text(&self) -> String {
        let lab = if self.lab { ", lab" } else { "" };
        let serves = [
            "namespaces: [shop, both]".to_owned(),
            format!("namespaces: [\"team-*\", both{lab}], matchLabels: {{ {}: {} }}", LABEL.0, LABEL.1),
        ];
        let entry = |vcenter: usize| {
            let port = if self.ports[vcenter] { ":80" } else { "" };
            format!(
                "- name: {}\n  address: http://{}{port}\n  credentials: {{ secret: {} }}\n  cluster: \"*\"\n  datastore: \"*\"\n  limits: {{ tasks: {} }}\n  default: {}\n  serves: {{ {} }}\n",
                NAMES[vcenter],
                host_of(vcenter),
                SECRETS[vcenter],
                self.tasks[vcenter],
                self.default == vcenter,
                serves[vcenter],
            )
        };
        let there = (0..NAMES.len()).filter(|vcenter| self.gone != Some(*vcenter));
        format!("connections:\n{}", there.map(entry).collect::<String>())
    }

    /// A file with a mistake in it.
    pub fn mistaken(&self) -> String {
        self.text().replacen("serves:", "severs:", 1)
    }

    /// The vCenters that a namespace may use, the first that it gets first.
    fn usable(&self, namespace: &str) -> Vec<usize> {
        let serving: &[usize] = match namespace {
            "shop" => &[0],
            "both" => &[0, 1],
            "lab" if !self.lab => &[],
            "dev" if !self.labelled => &[],
            _ => &[1],
        };
        let there = |vcenters: &[usize]| -> Vec<usize> {
            vcenters.iter().copied().filter(|vcenter| self.gone != Some(*vcenter)).collect()
        };
        let serving = there(serving);
        if serving.is_empty() { there(&[self.default]) } else { serving }
    }

    /// The vCenter that a new group gets, if its target is for its namespace.
    pub fn vcenter(&self, namespace: &str, target: Option<&Value>) -> Option<usize> {
        let usable = self.usable(namespace);
        match target.and_then(|target| target["connection"].as_str()) {
            None => usable.first().copied(),
            Some(name) => usable.into_iter().find(|vcenter| NAMES[*vcenter] == name),
        }
    }
}

/// The namespace that is served by its label, with it or without.
pub fn namespace_of_label(given: bool) -> Value {
    let labels = if given { json!({LABEL.0: LABEL.1}) } else { json!({}) };
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACES[4], "labels": labels}})
}

/// Which of them vCenter's faults may strike.
const STRUCK: [&[usize]; 3] = [&[0], &[1], &[0, 1]];

/// Draws what there is of two vCenters in a run, and what is done about them.
pub fn drawn(dice: &mut Dice, ends: Duration, acts: &mut Vec<(Duration, Act)>) -> Sites {
    // One group in each of them, and two anywhere.
    let (first, second) = *dice.pick(&[("shop", "team-a"), ("team-a", "shop")]);
    let (third, fourth) = (*dice.pick(&NAMESPACES), *dice.pick(&NAMESPACES));
    let homes = [first, second, third, fourth].map(|namespace| home(dice, namespace));
    let sites = Sites { homes, struck: dice.pick::<&[usize]>(&STRUCK), away: dice.below(2) };
    others(dice, ends, acts);
    edits(dice, acts);
    sites
}

/// Where a group of this namespace is to be.
pub fn home(dice: &mut Dice, namespace: &'static str) -> Home {
    Home { namespace, target: (!dice.chance(3500)).then(|| target(dice, namespace)) }
}

fn target(dice: &mut Dice, namespace: &str) -> Value {
    let mut target = json!({});
    let connections: &[Option<&str>] = match namespace {
        "both" => &[None, Some(NAMES[0]), Some(NAMES[1]), Some(NAMES[1])],
        "shop" => &[None, None, Some(NAMES[0])],
        "team-a" => &[None, None, Some(NAMES[1])],
        _ => &[None],
    };
    let part = *dice.pick(&[None, Some("cluster"), Some("cluster"), Some("pool")]);
    let cluster = dice.below(CLUSTERS);
    let part = part.map(|part| match part {
        "pool" => (part, format!("/DC0/host/DC0_C{cluster}/Resources")),
        _ => (part, format!("DC0_C{cluster}")),
    });
    let datastores = [None, None, Some("LocalDS_0"), Some("LocalDS_1"), Some(POD.0), Some("/DC0/datastore/fast")];
    let folders = [None, None, Some(FOLDERS[0]), Some(FOLDERS[1])];
    for (field, name) in [
        ("connection", *dice.pick(connections)),
        ("datastore", *dice.pick(&datastores)),
        ("folder", *dice.pick(&folders)),
    ] {
        if let Some(name) = name {
            target[field] = json!(name);
        }
    }
    if let Some((field, name)) = part {
        target[field] = json!(name);
    }
    target
}

/// A merge patch of `spec` that makes the target this one, whatever it was.
pub fn retarget(target: Option<&Value>) -> Value {
    let Some(target) = target else { return json!({"target": null}) };
    let fields = ["connection", "cluster", "pool", "datastore", "folder"];
    let fields: serde_json::Map<String, Value> =
        fields.into_iter().map(|field| (field.to_owned(), target[field].clone())).collect();
    json!({"target": fields})
}

/// Where the workload is about one group, there are some besides.
fn others(dice: &mut Dice, ends: Duration, acts: &mut Vec<(Duration, Act)>) {
    if acts.iter().any(|(_, act)| matches!(act, Act::Make(1, _))) {
        return;
    }
    let last = usize::try_from(ends.as_millis()).unwrap_or(0);
    for group in 1..=dice.between(1, 3) {
        acts.push((dice.time(0, 6_000), Act::Make(group, dice.between(0, 6))));
        for _ in 0..dice.between(0, 3) {
            acts.push((dice.time(6_100, last.max(7_000)), Act::Scale(group, dice.between(0, 6))));
        }
        if dice.chance(2000) {
            acts.push((dice.time(6_100, last.max(7_000)), Act::Delete(group)));
        }
    }
}

/// Administrators edit the file and logins, and users try to move groups, mostly while
/// something else is going on.
fn edits(dice: &mut Dice, acts: &mut Vec<(Duration, Act)>) {
    let busy = asked_for(acts);
    let soon = |dice: &mut Dice| dice.pick(&busy).0 + dice.time(0, 20_000);
    for _ in 0..dice.between(1, 4) {
        let at = soon(dice);
        let act = match dice.below(8) {
            0 | 1 => Act::Connections(Edit::Mistake),
            2 => Act::Connections(Edit::Tasks(dice.below(2), dice.between(1, 10))),
            3 => Act::Connections(Edit::Default(dice.below(2))),
            4 => Act::Connections(Edit::Lab(dice.chance(6000))),
            5 => Act::Connections(Edit::Anew(dice.below(2))),
            6 => {
                acts.push((at + dice.time(200, 40_000), Act::Connections(Edit::Gone(None))));
                Act::Connections(Edit::Gone(Some(dice.below(2))))
            }
            _ => Act::Label(dice.chance(6000)),
        };
        acts.push((at, act));
    }
    if dice.chance(4000) {
        let (vcenter, password, at) = (dice.below(2), dice.any(), soon(dice));
        // The Secret follows, or is there before.
        let (first, second) = (Act::Password(vcenter, password), Act::Login(vcenter, password));
        let (first, second) = if dice.chance(7000) { (first, second) } else { (second, first) };
        acts.push((at, first));
        acts.push((at + dice.time(0, 20_000), second));
    }
    for _ in 0..dice.between(0, 2) {
        let (at, group) = *dice.pick(&busy);
        acts.push((at + dice.time(0, 20_000), Act::Aim(group, dice.any())));
    }
}

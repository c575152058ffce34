//! The random part of the deterministic simulation: one seed is one run, with a
//! workload, faults, and a judge who looks at the world ten times a second of
//! virtual time. Then the faults end, and everything has to come right, and to
//! rest.
//!
//! The same seed gives the same workload and faults. Runs of one group repeat
//! call for call as far as tokio does (its `select!` draws lots); with several
//! groups, kube-runtime's scheduler keeps them in a hash map with a seed of its
//! own, and their passes may begin in another order.

pub mod judge;
pub mod places;
pub mod script;
pub mod sites;
pub mod table;
pub mod vcenters;
pub mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read as _;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vmgroup_api::RESTARTED_AT_ANNOTATION;
use vmgroup_policy::{Host, Kind, Limits};
use vmgroup_sim::vcenter::{VcenterSim, VmView};
use vmgroup_vsphere::MAX_SESSIONS;

use crate::made::Made;
use crate::sabotage::{Call, Listener, Sabotage, Side};
use crate::sim::{self, EPOCH, SimWorld, everything, host_of};
use crate::world::{CONNECTIONS, OPERATOR_NAMESPACE, Options, ROOT, TEMPLATE, World};
use judge::{Judge, Violation, member_of};
use places::Places;
use script::{
    Act, BROKEN_PLUGIN, Broken, Change, Deed, Dice, Failing, Fault, Guests, HOSTS, LAST_POLICY, Script, Workload,
};
use sites::{Edit, Sites};
use vcenters::{Vcenters, vcenter_of};
use witness::{Calls, Terms};

/// How often the judge looks while something is going on.
const LOOK: Duration = Duration::from_millis(100);

/// And at machines of which none has changed.
const UNCHANGED: Duration = Duration::from_secs(1);

/// Within this time after the last fault everything is as wished.
const RECOVERY: Duration = Duration::from_secs(1800);

/// What was held back is tried for the last time within this.
const SETTLE: Duration = Duration::from_secs(420);

/// For how long nothing is to happen then.
const REST: Duration = Duration::from_secs(600);

/// More calls than this in one run are a storm.
const CALLS: u64 = 20_000;

const NAMESPACE: &str = "shop";
const GROUPS: [&str; 4] = ["web", "db", "cache", "queue"];
/// A template that groups are changed to.
const OTHER_TEMPLATE: &str = "another-template";
const PASSWORD: &str = "a password that must never be seen";
/// A custom attribute that members may have.
const ATTRIBUTE: &str = "owner";
/// The category of the tags that members may have, one at a time, and these.
const TAGS: (&str, [&str; 2]) = ("env", ["test", "prod"]);
/// Where user data lies, and what it begins with.
const DATA: (&str, &str) = ("init", "a token for guests alone: ");
/// How many machines a namespace may have that is not limited.
const UNLIMITED: usize = 1_000;

/// Where the policies of all runs are asked: with enough for the self-test, and little
/// for those who spin.
static SANDBOX: LazyLock<Host> =
    LazyLock::new(|| Host::new(Limits { fuel: 100_000_000, ..Limits::default() }).expect("a sandbox"));

/// How a run went.
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// What the users did.
    pub workload: Workload,
    /// What went wrong.
    pub faults: Vec<Fault>,
    /// What did not hold.
    pub violation: Option<Violation>,
    /// What happened, if it was written down.
    pub journal: Vec<String>,
    /// The calls that operators made.
    pub calls: u64,
}

impl Report {
    /// The command that makes this run alone, with its journal.
    pub fn replay(&self) -> String {
        format!("cargo run -p vmgroup-e2e --bin soak -- --seed {} --journal", self.seed)
    }
}

/// What happened, line by line, with the virtual time. Cheap to clone.
#[derive(Clone)]
struct Journal(Option<Arc<Mutex<Vec<String>>>>, Instant);

impl Journal {
    fn tell(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = &self.0 {
            let line = format!("{:>10.3}  {}", self.1.elapsed().as_secs_f64(), line());
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    fn listener(&self) -> Option<Listener> {
        self.0.as_ref()?;
        let journal = self.clone();
        Some(Box::new(move |call: &Call, outcome: &str| {
            let to = match call.side {
                Side::Kubernetes | Side::Vcenter(0) => String::new(),
                Side::Vcenter(number) => format!(" to vCenter {number}"),
            };
            journal.tell(|| format!("operator {}{to}: {} → {outcome}", call.operator, call.name));
        }))
    }
}

/// Makes the run of a seed on a runtime of its own.
pub fn run(seed: u64, journal: bool) -> Report {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let lines = journal.then(Arc::default);
        let journal = Journal(lines.clone(), Instant::now());
        let script = Script::of(seed);
        let (workload, faults) = (script.workload, script.faults.clone());
        let mut stage = Stage::new(seed, script, journal);
        let violation = stage.play().await.err();
        let calls = stage.world.sabotage.calls();
        let _ = stage.world.kill_operator().await;
        let journal = lines.map(|lines| std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner)));
        Report { seed, workload, faults, violation, journal: journal.unwrap_or_default(), calls }
    })
}

/// A group as the user knows it.
#[derive(Default)]
struct Wish {
    /// The object that he made last.
    uid: Option<String>,
    /// How many members there are to be; nothing: the group is to be gone.
    replicas: Option<usize>,
    /// The custom attribute that they are to have.
    attribute: Option<String>,
    /// The tag that they are to have.
    tag: Option<&'static str>,
}

struct Stage {
    world: SimWorld,
    vcenters: Vcenters,
    /// What the connections file says and counts, if there are two vCenters.
    file: sites::File,
    /// The passwords of all vCenters.
    passwords: Vec<String>,
    script: Script,
    judge: Judge,
    calls: Calls,
    journal: Journal,
    wishes: BTreeMap<usize, Wish>,
    /// Operators that are to run, by number, with the way to stop them.
    running: BTreeMap<u64, CancellationToken>,
    /// Operators that have been told to stop.
    stopping: Vec<u64>,
    /// When another operator is started.
    launches: Vec<Instant>,
    /// The version of Kubernetes that the judge has seen.
    version: u64,
    /// That of vCenter's inventory, and when; nothing if he has to look again.
    judged: Option<(u64, Duration)>,
    /// What the Secret of the user data holds.
    data: Option<String>,
    /// The status of each group as it was written down last.
    told: BTreeMap<String, String>,
    foreigners: u64,
}

fn violation<T>(property: &'static str, text: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { property, text: text.into() })
}

impl Stage {
    fn new(seed: u64, mut script: Script, journal: Journal) -> Self {
        let mut options = Options { max_tasks: script.max_tasks, ..Options::default() };
        options.connections = usize::from(script.quota.is_some());
        if script.sites.is_some() {
            let (clusters, datastores) = (sites::CLUSTERS, sites::DATASTORES);
            options = Options { connections: sites::NAMES.len(), clusters, datastores, ..options };
        }
        let mut world = SimWorld::with_tasks(options, seed, &script.durations).expect("a world");
        world.sandbox = SANDBOX.clone();
        let vcenters = Vcenters::new(world.vcenters.clone());
        if script.changes.is_some() {
            for (_, vcenter) in vcenters.each() {
                vcenter.add_template("/DC0/vm", OTHER_TEMPLATE).expect("a template");
            }
        }
        if script.sites.is_some() {
            prepare_sites(&world);
        }
        if script.faults.contains(&Fault::Maintenance) {
            world.vcenter.set_drs(true, false);
        }
        if script.guests.is_some() {
            world.vcenter.define_attribute(ATTRIBUTE);
            world.vcenter.define_category(TAGS.0, true);
            TAGS.1.iter().for_each(|tag| world.vcenter.define_tag(TAGS.0, tag));
        }
        world.sabotage = Sabotage::by(Box::new(script.oracle()), journal.listener(), CALLS);
        world.kube.create_namespace(NAMESPACE).expect("a namespace");
        if let Some(mut oracle) = script.watches() {
            let journal = journal.clone();
            world.kube.disturb_watches(move |kind| {
                let fault = oracle(kind)?;
                journal.tell(|| format!("an event of {kind}: {fault:?}"));
                Some(fault)
            });
        }
        let terms = Terms {
            lag: script.lag(),
            election: script.operators > 1,
            limit: script.is_limited(),
            sites: script.sites.is_some(),
            late_clones: script.faults.contains(&Fault::TaskLate),
        };
        let calls = Calls::new(world.kube.clone(), vcenters.clone(), world.clock, terms);
        vcenters.each().for_each(|(number, _)| calls.may_run(number, script.max_tasks));
        world.witness = Some(Arc::new(calls.clone()));
        let judge = Judge::new(calls.clone(), terms.lag, Places::new(script.file_lag()));
        journal.tell(|| {
            format!(
                "{}; until {:?}; a clone takes {:?}, power {:?}, destroy {:?}; {} tasks at a time",
                script.title(),
                script.ends,
                script.durations.clone,
                script.durations.power,
                script.durations.destroy,
                script.max_tasks
            )
        });
        Self {
            file: sites::File::new(script.max_tasks),
            passwords: vec![PASSWORD.to_owned(); world.vcenters.len()],
            world,
            vcenters,
            script,
            judge,
            calls,
            journal,
            wishes: BTreeMap::new(),
            running: BTreeMap::new(),
            stopping: Vec::new(),
            launches: Vec::new(),
            version: 0,
            judged: None,
            data: None,
            told: BTreeMap::new(),
            foreigners: 0,
        }
    }

    fn now(&self) -> Duration {
        self.journal.1.elapsed()
    }

    fn launch(&mut self) {
        let number = self.world.launched();
        let lease = (self.script.operators > 1).then_some("vmgroup-operator");
        let stop = self.world.launch(lease);
        self.running.insert(number, stop);
        self.journal.tell(|| format!("operator {number} starts"));
    }

    fn kill(&mut self, operator: u64, pause: Duration) {
        if self.running.remove(&operator).is_some() {
            self.world.kill(operator);
            self.launches.push(Instant::now() + pause);
            self.journal.tell(|| format!("operator {operator} dies"));
        }
    }

    /// The whole run.
    async fn play(&mut self) -> Result<(), Violation> {
        if self.script.guests.is_some_and(|guests| guests.data) {
            self.write_data(Some(0));
        }
        if let Some(quota) = self.script.quota {
            self.write_login("vc", PASSWORD);
            self.limit(quota);
        }
        if let Some(Sites { homes, struck, away }) = &self.script.sites {
            self.journal
                .tell(|| format!("two vCenters, of which {struck:?} are struck, and {away} is away last: {homes:?}"));
            for vcenter in 0..sites::NAMES.len() {
                self.write_login(sites::SECRETS[vcenter], PASSWORD);
            }
            self.write_connections();
        }
        for _ in 0..self.script.operators {
            self.launch();
        }
        let acts = std::mem::take(&mut self.script.acts);
        for (at, act) in acts {
            while self.now() < at {
                self.step(LOOK.min(at.saturating_sub(self.now()))).await?;
            }
            self.act(&act);
            self.look()?;
        }
        while self.now() < self.script.ends {
            self.step(LOOK).await?;
        }
        self.end_faults();
        self.one_is_away().await?;
        self.come_right(None).await?;
        self.rest().await
    }

    /// Lets some time go by, starts and buries operators, and has the judge look.
    async fn step(&mut self, time: Duration) -> Result<(), Violation> {
        let sabotage = self.world.sabotage.clone();
        let crashed = tokio::time::timeout(time, sabotage.crash()).await;
        if let Ok(operator) = crashed {
            self.kill(operator, time);
        }
        let now = Instant::now();
        let due = self.launches.iter().filter(|at| **at <= now).count();
        self.launches.retain(|at| *at > now);
        for _ in 0..due {
            self.launch();
        }
        for operator in std::mem::take(&mut self.stopping) {
            if self.world.runs(operator) {
                self.stopping.push(operator);
            } else {
                self.journal.tell(|| format!("operator {operator} has stopped"));
                self.launch();
            }
        }
        if let Some(operator) = self.running.keys().find(|operator| !self.world.runs(**operator)) {
            return violation("L14", format!("operator {operator} ended by itself"));
        }
        if self.world.sabotage.calls() >= CALLS {
            return violation("L1", format!("{CALLS} calls: a storm"));
        }
        self.make_what_is_missing();
        self.look()
    }

    fn look(&mut self) -> Result<(), Violation> {
        let now = self.now();
        if let Some(violation) = self.calls.violation() {
            return Err(violation);
        }
        let version = self.world.kube.version();
        if version != self.version {
            self.version = version;
            let objects = self.world.kube.list("vmgroups", None);
            self.write_down(&objects);
            self.judge.objects(&objects, now)?;
            self.judged = None;
        }
        let sessions = self.vcenters.each().map(|(_, vcenter)| vcenter.most_sessions()).max().unwrap_or_default();
        if sessions > MAX_SESSIONS {
            return violation("L10", format!("{sessions} sessions of one operator at the same time"));
        }
        // Half of a run's time would go into looking at what has not changed. Some of
        // what the judge grants runs out with time.
        let changes = self.vcenters.changes();
        if self.judged.is_some_and(|(seen, at)| seen == changes && now < at + UNCHANGED) {
            return Ok(());
        }
        self.judged = Some((changes, now));
        self.judge.machines(&self.machines(), now)
    }

    fn machines(&self) -> Vec<VmView> {
        self.vcenters.vms()
    }

    /// The namespace of a group.
    fn namespace(&self, group: usize) -> &'static str {
        self.script.namespace(group)
    }

    /// A group as Kubernetes has it.
    fn object(&self, group: usize) -> Option<Value> {
        self.world.kube.get("vmgroups", Some(self.namespace(group)), GROUPS[group])
    }

    /// Writes changed records into the journal.
    fn write_down(&mut self, objects: &[Value]) {
        if self.journal.0.is_none() {
            return;
        }
        for object in objects {
            let mut line =
                format!("{}: {} ", text(&object["metadata"]["name"]), text(&object["status"]["lastMessage"]));
            for member in object["status"]["members"].as_array().map(Vec::as_slice).unwrap_or_default() {
                let uuid: String = text(&member["uuid"]).chars().take(8).collect();
                let task = text(&member["task"]);
                let _ = write!(line, "[{} {uuid} {} {task}]", text(&member["name"]), text(&member["state"]));
            }
            let uid = text(&object["metadata"]["uid"]).to_owned();
            if self.told.get(&uid) != Some(&line) {
                self.journal.tell(|| line.clone());
                self.told.insert(uid, line);
            }
        }
    }

    /// Users do not wait: who made a group anew whose name was still in use asks
    /// until he gets it.
    fn make_what_is_missing(&mut self) {
        let now = self.now();
        for (index, wish) in &mut self.wishes {
            let (None, Some(replicas)) = (&wish.uid, wish.replicas) else { continue };
            let (name, namespace) = (GROUPS[*index], self.script.namespace(*index));
            if self.world.kube.get("vmgroups", Some(namespace), name).is_some() {
                continue;
            }
            let target = self.script.sites.as_ref().and_then(|sites| sites.homes[*index].target.clone());
            let mut spec = json!({"cpu": 1, "memory": 1, "replicas": replicas, "template": TEMPLATE});
            if let Some(seconds) = self.script.grace {
                spec["gracePeriodSeconds"] = json!(seconds);
            }
            let evacuates = self.script.faults.contains(&Fault::Maintenance);
            if evacuates {
                spec["evacuation"] = json!("Replace");
            }
            if let Some((max_unavailable, max_surge)) = self.script.changes {
                let bounds = json!({"maxUnavailable": max_unavailable, "maxSurge": max_surge});
                spec["updateStrategy"] = json!({"rollingUpdate": bounds});
            }
            if let Some(Guests { readiness, min_ready, data }) = self.script.guests {
                spec["minReadySeconds"] = json!(min_ready);
                if let Some((kind, seconds)) = readiness {
                    spec["readiness"] = json!({"type": kind, "timeoutSeconds": seconds});
                }
                if data {
                    let from = json!({"secretKeyRef": {"name": DATA.0, "key": "user-data"}});
                    spec["guest"] = json!({"cloudInit": {"userData": from}});
                }
            }
            if let Some(target) = &target {
                spec["target"] = target.clone();
            }
            (wish.attribute, wish.tag) = (None, None);
            let made = self.world.kube.apply(json!({
                "apiVersion": "vm.codeconnect.vmworld.com/v1alpha1", "kind": "VmGroup",
                "metadata": {"name": name, "namespace": namespace}, "spec": spec,
            }));
            let uid = text(&made.expect("a group can be made")["metadata"]["uid"]).to_owned();
            self.judge.made(&uid, name, replicas, now);
            if self.script.sites.is_some() {
                self.judge.places.aimed(&uid, namespace, target, now);
            }
            if evacuates {
                // As `updateStrategy` is by default.
                self.judge.changes(&uid, (1, 0));
            }
            if self.script.guests.is_some_and(|guests| guests.data) {
                // Those of a group that says nothing.
                self.judge.changes(&uid, self.script.changes.unwrap_or((1, 0)));
            }
            self.journal.tell(|| format!("user makes {name} with {replicas} ({uid})"));
            wish.uid = Some(uid);
        }
    }

    fn act(&mut self, act: &Act) {
        self.judged = None;
        let now = self.now();
        match act {
            Act::Make(group, replicas) => {
                let wish = self.wishes.entry(*group).or_default();
                if wish.replicas.is_none() {
                    *wish = Wish { replicas: Some(*replicas), ..Wish::default() };
                }
                self.make_what_is_missing();
            }
            Act::Scale(group, replicas) => {
                let Some(wish) = self.wishes.get_mut(group).filter(|wish| wish.replicas.is_some()) else { return };
                wish.replicas = Some(*replicas);
                let Some(uid) = &wish.uid else { return };
                let name = GROUPS[*group];
                self.judge.wished(uid, *replicas, now);
                self.journal.tell(|| format!("user scales {name} to {replicas}"));
                let spec = json!({"replicas": replicas});
                let namespace = Some(self.namespace(*group));
                self.world.kube.patch_spec("vmgroups", namespace, name, spec).expect("a group can be scaled");
            }
            Act::Delete(group) => {
                let Some(wish) = self.wishes.get_mut(group) else { return };
                wish.replicas = None;
                let Some(uid) = wish.uid.take() else { return };
                let name = GROUPS[*group];
                self.judge.deleted(&uid, now);
                self.journal.tell(|| format!("user deletes {name}"));
                let namespace = Some(self.namespace(*group));
                self.world.kube.delete("vmgroups", namespace, name).expect("a group can be deleted");
            }
            Act::Annotate(group, value) => self.edit(
                *group,
                &json!({"metadata": {"annotations": {"shop/note": value.to_string()}, "labels": {"tier": "front"}}}),
                true,
            ),
            Act::Mistake(group) => self.edit(*group, &json!({"spec": {"replicas": 7, "cpu": 0}}), false),
            Act::Change(group, change) => self.change(*group, *change),
            Act::Attribute(group, value) => self.give_attribute(*group, value.map(|value| value.to_string())),
            Act::Tag(group, tag) => self.give_tag(*group, tag.map(|tag| TAGS.1[tag])),
            Act::Data(value) => self.write_data(*value),
            Act::Quota(vms) => self.limit(*vms),
            Act::Connections(edit) => self.edit_connections(*edit),
            Act::Label(given) => self.label(*given),
            Act::Password(vcenter, number) => self.change_password(*vcenter, *number),
            Act::Login(vcenter, number) => {
                self.journal.tell(|| format!("the login of {} is written", sites::NAMES[*vcenter]));
                self.write_login(sites::SECRETS[*vcenter], &password(*number));
            }
            Act::Aim(group, number) => self.aim(*group, *number),
            Act::Policy(file) => self.policy(file, None),
            Act::Broken(Broken { kind, how, file }) => self.policy(file, Some((*kind, *how))),
            Act::Deed(deed, pick) => self.deed(*deed, *pick),
            _ => self.fate(act),
        }
    }

    /// A user edits a group, and the API server takes it or has to refuse it.
    fn edit(&self, group: usize, patch: &Value, fine: bool) {
        let name = GROUPS[group];
        if self.wishes.get(&group).is_none_or(|wish| wish.uid.is_none()) {
            return;
        }
        self.journal.tell(|| format!("user edits {name}: {patch}"));
        let edited = self.world.kube.patch("vmgroups", Some(self.namespace(group)), name, patch.clone());
        assert_eq!(edited.is_ok(), fine, "{edited:?}");
    }

    /// A user gives a group another target: it has to be refused if the group stands.
    fn aim(&mut self, group: usize, number: u64) {
        let uid = self.wishes.get(&group).and_then(|wish| wish.uid.clone());
        let (Some(uid), Some(object)) = (uid, self.object(group)) else { return };
        let namespace = self.namespace(group);
        let target = sites::home(&mut Dice::new(number), namespace).target;
        let same = target.as_ref() == object["spec"].get("target");
        let free = object["status"]["folder"].is_null();
        if free {
            self.judge.places.aimed(&uid, namespace, target.clone(), self.now());
        }
        self.edit(group, &json!({"spec": sites::retarget(target.as_ref())}), free || same);
    }

    /// A user changes what the members of a group are to be.
    fn change(&mut self, group: usize, change: Change) {
        let Some(wish) = self.wishes.get_mut(&group) else { return };
        let (Some(uid), Some(bounds)) = (&wish.uid, self.script.changes) else { return };
        self.judge.changes(uid, bounds);
        let patch = match change {
            Change::Template(other) => json!({"spec": {"template": if other { OTHER_TEMPLATE } else { TEMPLATE }}}),
            Change::NoTemplate => json!({"spec": {"template": "no-such-template"}}),
            Change::Cpu(cpus) => json!({"spec": {"cpu": cpus}}),
            Change::Restart(at) => json!({"metadata": {"annotations": {RESTARTED_AT_ANNOTATION: at.to_string()}}}),
        };
        self.edit(group, &patch, true);
    }

    fn give_attribute(&mut self, group: usize, value: Option<String>) {
        let Some(wish) = self.wishes.get_mut(&group).filter(|wish| wish.uid.is_some()) else { return };
        let patch = json!({"spec": {"customAttributes": {ATTRIBUTE: value}}});
        wish.attribute = value;
        self.edit(group, &patch, true);
    }

    fn give_tag(&mut self, group: usize, tag: Option<&'static str>) {
        let Some(wish) = self.wishes.get_mut(&group).filter(|wish| wish.uid.is_some()) else { return };
        let tags: Vec<Value> = tag.iter().map(|tag| json!({"category": TAGS.0, "name": tag})).collect();
        wish.tag = tag;
        self.edit(group, &json!({"spec": {"tags": tags}}), true);
    }

    /// A user writes the Secret of the user data, or deletes it.
    fn write_data(&mut self, value: Option<u64>) {
        self.journal.tell(|| format!("user writes the user data: {value:?}"));
        self.data = value.map(|value| format!("{}{value}", DATA.1));
        let Some(text) = &self.data else {
            // It may be gone already.
            let _ = self.world.kube.delete("secrets", Some(NAMESPACE), DATA.0);
            return;
        };
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": DATA.0, "namespace": NAMESPACE},
            "data": {"user-data": ByteString(text.clone().into_bytes())},
        });
        self.world.kube.apply(secret).expect("a Secret can be written");
    }

    /// The login of a connection.
    fn write_login(&self, secret: &str, password: &str) {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret, "namespace": OPERATOR_NAMESPACE},
            "stringData": {"VC_USER": sim::USER, "VC_PASS": password},
        });
        self.world.kube.apply(secret).expect("a Secret can be written");
    }

    /// An administrator writes the connections file: so many machines the namespace may
    /// have.
    fn limit(&mut self, vms: usize) {
        self.journal.tell(|| format!("the namespace may have {vms} machines"));
        self.judge.limited(vms, self.now());
        let file = format!(
            "connections:\n- name: muc\n  address: http://{}\n  credentials: {{ secret: vc }}\n  default: true\n  limits: {{ tasks: {} }}\nquotas:\n- {{ namespaces: [{NAMESPACE}], vms: {vms} }}\n",
            host_of(0),
            self.script.max_tasks,
        );
        self.write_file(&file);
    }

    fn write_file(&self, file: &str) {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": CONNECTIONS, "namespace": OPERATOR_NAMESPACE},
            "data": {"connections.yaml": file},
        });
        self.world.kube.apply(map).expect("a ConfigMap can be written");
    }

    /// The connections file of two vCenters, as it is to be.
    fn write_connections(&mut self) {
        self.write_file(&self.file.text());
        self.counts();
    }

    /// What the file and labels say counts from now on.
    fn counts(&mut self) {
        self.judge.places.counts(self.now(), self.file);
        for (vcenter, tasks) in self.file.tasks.into_iter().enumerate() {
            self.calls.may_run(vcenter, tasks);
        }
    }

    fn edit_connections(&mut self, edit: Edit) {
        self.journal.tell(|| format!("the connections file is edited: {edit:?}"));
        match self.file.edit(edit) {
            Some(()) => self.write_connections(),
            None => self.write_file(&self.file.mistaken()),
        }
    }

    fn label(&mut self, given: bool) {
        self.journal.tell(|| format!("the label of a namespace: {given}"));
        self.file.labelled = given;
        self.world.kube.apply(sites::namespace_of_label(given)).expect("a namespace can be labelled");
        self.counts();
    }

    fn change_password(&mut self, vcenter: usize, number: u64) {
        self.journal.tell(|| format!("the password of {} changes", sites::NAMES[vcenter]));
        self.passwords[vcenter] = password(number);
        self.vcenters.at(vcenter).set_password(&self.passwords[vcenter]);
    }

    fn policy(&self, file: &str, broken: Option<(Kind, Failing)>) {
        self.journal.tell(|| format!("user writes the policy file: {file:?}, {broken:?}"));
        let plugin = broken.map(|(kind, how)| (BROKEN_PLUGIN, ByteString(failing(kind, how))));
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "vmgroup-policy", "namespace": OPERATOR_NAMESPACE},
            "data": {"policy.yaml": file},
            "binaryData": plugin.into_iter().collect::<BTreeMap<_, _>>(),
        });
        self.world.kube.apply(map).expect("a ConfigMap can be written");
    }

    fn fate(&mut self, act: &Act) {
        self.journal.tell(|| format!("{act:?}"));
        match act {
            Act::Watches(forget) => {
                if *forget {
                    self.world.kube.expire_history();
                }
                self.world.kube.drop_watches();
            }
            Act::KubeDown(down) => {
                self.world.kube.faults().set_down(*down);
                if *down {
                    self.world.kube.drop_watches();
                }
            }
            Act::VcDown(down) => self.struck().for_each(|(_, vcenter)| vcenter.set_down(*down)),
            Act::EndSessions => self.struck().for_each(|(_, vcenter)| vcenter.terminate_sessions()),
            Act::Maintain(host, begins) => self.maintain(*host, *begins),
            Act::CancelTasks => {
                let _: usize = self.struck().map(|(_, vcenter)| vcenter.cancel_tasks()).sum();
            }
            Act::VcRestart(finish) => {
                for (number, vcenter) in self.struck() {
                    self.calls.restarts(number);
                    vcenter.restart(*finish);
                }
            }
            Act::Kill(pause) => {
                if let Some(operator) = self.running.keys().next().copied() {
                    self.kill(operator, *pause);
                }
            }
            Act::Stop => {
                if let Some((operator, stop)) = self.running.pop_first() {
                    stop.cancel();
                    self.stopping.push(operator);
                }
            }
            Act::Freeze(time) => {
                if let Some(operator) = self.running.keys().next() {
                    self.world.sabotage.freeze(*operator, Instant::now() + *time);
                }
            }
            _ => {}
        }
    }

    /// The vCenters that their faults strike.
    fn struck(&self) -> impl Iterator<Item = (usize, &VcenterSim)> {
        let struck = self.script.struck();
        self.vcenters.each().filter(|(number, _)| struck.contains(number))
    }

    /// A host goes into maintenance, or comes back.
    fn maintain(&self, host: usize, begins: bool) {
        let (name, vcenter) = (format!("DC0_C0_H{host}"), &self.world.vcenter);
        let done = if begins { vcenter.enter_maintenance(&name) } else { vcenter.set_maintenance(&name, false) };
        done.expect("there is such a host");
    }

    /// What somebody else does, who has every right in vCenter.
    fn deed(&mut self, deed: Deed, pick: u64) {
        let now = self.now();
        let vms = self.machines();
        let members: Vec<&VmView> =
            vms.iter().filter(|vm| member_of(vm).is_some() && !self.judge.away.contains(&vm.moref)).collect();
        let at = |count: usize| usize::try_from(pick).unwrap_or(0) % count.max(1);
        let folders = self.folders();
        self.foreigners += 1;
        let number = self.foreigners;
        match deed {
            Deed::DestroyFolder => {
                let Some((vcenter, folder)) = folders.get(at(folders.len())) else { return };
                self.journal.tell(|| format!("somebody destroys {folder} with all in it"));
                for vm in vms.iter().filter(|vm| vm.folder == *folder && vcenter_of(&vm.moref) == *vcenter) {
                    self.judge.touch(&vm.moref, now);
                }
                let _ = self.vcenters.at(*vcenter).destroy_folder(folder);
            }
            Deed::Intrude => {
                let Some((vcenter, folder)) = folders.get(at(folders.len())) else { return };
                self.journal.tell(|| format!("somebody puts foreign-{number} into {folder}"));
                let _ = self.vcenters.at(*vcenter).add_vm(folder, &format!("foreign-{number}"), &[]);
                self.mark_foreign(*vcenter, &format!("{folder}/foreign-{number}"));
            }
            _ => {
                let Some(vm) = members.get(at(members.len())).map(|vm| VmView::clone(vm)) else { return };
                self.deed_to(deed, &vm, number);
            }
        }
    }

    fn deed_to(&mut self, deed: Deed, vm: &VmView, number: u64) {
        let now = self.now();
        let (vcenter, at) = (self.vcenters.of(vm).clone(), vcenter_of(&vm.moref));
        self.journal.tell(|| format!("somebody: {deed:?} {} ({})", vm.name, vm.moref));
        if !matches!(deed, Deed::Copy | Deed::Unmark | Deed::Deafen | Deed::Harden) {
            self.judge.touch(&vm.moref, now);
        }
        match deed {
            Deed::PowerOff => drop(vcenter.power_off(&vm.path)),
            Deed::Destroy => drop(vcenter.destroy(&vm.path)),
            Deed::Rename => drop(vcenter.rename(&vm.path, &format!("renamed-{number}"))),
            Deed::Move => drop(vcenter.move_to(&vm.path, ROOT)),
            Deed::MoveOut => {
                if vcenter.move_to(&vm.path, "/DC0/vm").is_ok() {
                    self.judge.away.insert(vm.moref.clone());
                }
            }
            Deed::TakeName => {
                let _ = vcenter.destroy(&vm.path);
                let _ = vcenter.add_vm(&vm.folder, &vm.name, &[]);
                self.mark_foreign(at, &vm.path);
            }
            Deed::Copy => {
                let marks: Vec<(&str, &str)> =
                    vm.extra.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
                let _ = vcenter.add_vm(&vm.folder, &format!("copy-{number}"), &marks);
                self.mark_foreign(at, &format!("{}/copy-{number}", vm.folder));
            }
            Deed::Unmark => {
                let Some((owner, uuid)) = member_of(vm) else { return };
                // Who is being destroyed cannot be saved any more.
                let doomed = self.judge.may_go_down(owner, uuid) && self.calls.is_doomed(vm);
                if !doomed && vcenter.set_extra(&vm.path, "vmgroup.group-uid", "").is_ok() {
                    self.judge.touch(&vm.moref, now);
                    self.mark_foreign(at, &vm.path);
                }
            }
            Deed::Deafen => drop(vcenter.set_guest(&vm.path, false, true)),
            Deed::Harden => drop(vcenter.set_guest(&vm.path, true, false)),
            Deed::DestroyFolder | Deed::Intrude => {}
        }
    }

    fn mark_foreign(&mut self, vcenter: usize, path: &str) {
        if let Some(vm) = self.vcenters.vms_of(vcenter).into_iter().find(|vm| vm.path == path) {
            self.judge.foreign(&vm);
        }
    }

    /// The folders of groups, each with its vCenter.
    fn folders(&self) -> Vec<(usize, String)> {
        let mut folders = self.vcenters.folders();
        folders.retain(|(_, path)| {
            let below = path.strip_prefix(ROOT).and_then(|path| path.strip_prefix('/'));
            below.is_some_and(|below| !sites::FOLDERS.contains(&below))
        });
        folders
    }

    /// Templates that do not exist were a slip.
    fn correct_templates(&mut self) {
        for (index, wish) in &self.wishes {
            if wish.uid.is_some() {
                let object = self.object(*index);
                if object.is_some_and(|object| object["spec"]["template"] == "no-such-template") {
                    self.edit(*index, &json!({"spec": {"template": TEMPLATE}}), true);
                }
            }
        }
    }

    /// Guests are mended, user data is there, and there is room.
    fn mend_guests(&mut self) {
        if self.script.guests.is_some() {
            for vm in self.machines().iter().filter(|vm| member_of(vm).is_some()) {
                let _ = self.world.vcenter.set_guest(&vm.path, true, true);
            }
            if self.data.is_none() && self.script.guests.is_some_and(|guests| guests.data) {
                self.write_data(Some(1));
            }
        }
        if self.script.quota.is_some() {
            self.limit(UNLIMITED);
        }
    }

    fn end_faults(&mut self) {
        self.correct_templates();
        self.mend_guests();
        self.journal.tell(|| "the faults end".to_owned());
        self.world.sabotage.end();
        self.world.kube.calm_watches();
        self.world.kube.faults().clear();
        self.vcenters.each().for_each(|(_, vcenter)| vcenter.faults().clear());
        if self.script.sites.is_some() {
            for (secret, password) in sites::SECRETS.iter().zip(&self.passwords) {
                self.write_login(secret, password);
            }
            self.edit_connections(Edit::Gone(None));
        }
        if self.script.faults.contains(&Fault::Maintenance) {
            (0..HOSTS).for_each(|host| self.maintain(host, false));
        }
        if self.script.workload == Workload::Policy || self.script.faults.contains(&Fault::Policies) {
            self.policy(LAST_POLICY, None);
        }
    }

    /// Whoever is in the one vCenter does not need the other.
    async fn one_is_away(&mut self) -> Result<(), Violation> {
        let Some(away) = self.script.sites.as_ref().map(|sites| sites.away) else { return Ok(()) };
        self.journal.tell(|| format!("{} is away", sites::NAMES[away]));
        self.vcenters.at(away).set_down(true);
        let came = self.come_right(Some(away)).await;
        self.journal.tell(|| "and there again".to_owned());
        self.vcenters.at(away).set_down(false);
        came
    }

    /// L1: everything comes right, but for what is in a vCenter that is away.
    async fn come_right(&mut self, away: Option<usize>) -> Result<(), Violation> {
        let end = self.now() + RECOVERY;
        loop {
            let Err(wrong) = self.as_wished(away) else { return Ok(()) };
            if self.now() >= end {
                let meanwhile = if away.is_some() { ", with the other vCenter away" } else { "" };
                return violation(
                    "L1",
                    format!("not as wished {} s after the last fault{meanwhile}: {wrong}", RECOVERY.as_secs()),
                );
            }
            self.step(LOOK).await?;
        }
    }

    /// Whether a group is, or is to be, in the vCenter that is away.
    fn is_away(&self, group: usize, object: Option<&Value>, away: Option<usize>) -> bool {
        let Some(away) = away else { return false };
        let stands = object.and_then(|object| self.judge.places.vcenter(text(&object["metadata"]["uid"])));
        let target = object.and_then(|object| object["spec"].get("target"));
        stands.or_else(|| self.file.vcenter(self.namespace(group), target)) == Some(away)
    }

    /// Whether all is as users wish, but for what is in a vCenter that is away; else what
    /// is not.
    fn as_wished(&self, away: Option<usize>) -> Result<(), String> {
        if !(self.launches.is_empty() && self.stopping.is_empty()) {
            return Err("an operator is about to start".into());
        }
        let vms = self.machines();
        let mut uids = Vec::new();
        for (index, wish) in &self.wishes {
            let name = GROUPS[*index];
            let object = self.object(*index);
            if self.is_away(*index, object.as_ref(), away) {
                continue;
            }
            let Some(replicas) = wish.replicas else {
                if object.is_some_and(|object| !object["metadata"]["deletionTimestamp"].is_null()) {
                    return Err(format!("{name} is not gone"));
                }
                continue;
            };
            let (Some(object), Some(uid)) = (object, &wish.uid) else { return Err(format!("{name} is not there")) };
            uids.push(uid.as_str());
            let status = &object["status"];
            let says = format!("{name} says {}: {}", status["phase"], text(&status["lastMessage"]));
            if status["updatedReplicas"] != replicas {
                return Err(says);
            }
            if status["phase"] != "RUNNING"
                || status["currentReplicas"] != replicas
                || status["observedGeneration"] != object["metadata"]["generation"]
            {
                return Err(says);
            }
            let members: Vec<&VmView> =
                vms.iter().filter(|vm| member_of(vm).is_some_and(|(owner, _)| owner == uid)).collect();
            let made: BTreeSet<&str> =
                members.iter().filter_map(|vm| vm.extra.get("vmgroup.made")).map(String::as_str).collect();
            let other = members.iter().find(|vm| object["spec"]["cpu"] != vm.cpus);
            if made.len() > 1 || other.is_some() {
                return Err(format!("{says}; they were made as {made:?}, and {other:?} has other CPUs"));
            }
            self.as_told(wish, &members).map_err(|what| format!("{says}; {what}"))?;
            let off = members.iter().find(|vm| !vm.power_on && !self.judge.away.contains(&vm.moref));
            if members.len() != replicas || off.is_some() {
                return Err(format!("{says}; there are {} of {replicas}, and {off:?} is off", members.len()));
            }
        }
        let there = vms.iter().filter(|vm| away != Some(vcenter_of(&vm.moref)));
        let orphan = there.into_iter().find(|vm| member_of(vm).is_some_and(|(uid, _)| !uids.contains(&uid)));
        match orphan {
            Some(vm) => Err(format!("S1: {} ({}) is an orphan", vm.name, vm.path)),
            None => Ok(()),
        }
    }

    /// Whether the members of a group have the custom attribute, the tag and the user data that
    /// they are to have.
    fn as_told(&self, wish: &Wish, members: &[&VmView]) -> Result<(), String> {
        let other = |vm: &&&VmView| vm.attributes.get(ATTRIBUTE) != wish.attribute.as_ref();
        if let Some(vm) = members.iter().find(other) {
            return Err(format!("{} has the attributes {:?}, not {:?}", vm.name, vm.attributes, wish.attribute));
        }
        let tags = wish.tag.map(|tag| (TAGS.0.to_owned(), tag.to_owned()));
        if let Some(vm) = members.iter().find(|vm| !vm.tags.iter().eq(&tags)) {
            return Err(format!("{} has the tags {:?}, not {tags:?}", vm.name, vm.tags));
        }
        let Some(data) = self.data.as_ref() else { return Ok(()) };
        match members.iter().find(|vm| user_data(vm).as_ref() != Some(data)) {
            Some(vm) => Err(format!("{} was made with {:?}, not {data:?}", vm.name, user_data(vm))),
            None => Ok(()),
        }
    }

    /// L2: and then nothing happens any more.
    async fn rest(&mut self) -> Result<(), Violation> {
        self.journal.tell(|| "all is as wished".to_owned());
        let settled = self.now() + SETTLE;
        while self.now() < settled {
            // Who comes late is seen off within a second.
            let late = self.as_wished(None).is_err();
            self.step(if late { LOOK } else { Duration::from_secs(1) }).await?;
        }
        self.journal.tell(|| "rest".to_owned());
        let (writes, calls) = (self.writes(), self.vcenters.calls());
        let rested = self.now() + REST;
        while self.now() < rested {
            self.step(Duration::from_secs(10)).await?;
        }
        if let Err(wrong) = self.as_wished(None) {
            return violation("L1", format!("as wished, but not for long: {wrong}"));
        }
        for (what, count) in self.writes() {
            let before = writes.get(&what).copied().unwrap_or(0);
            if count > before {
                return violation("L2", format!("{} × {what} at rest", count - before));
            }
        }
        for (call, count) in self.vcenters.calls() {
            let (before, (_, method)) = (calls.get(&call).copied().unwrap_or(0), call);
            if count > before && method != "WaitForUpdatesEx" && method != "CurrentTime" {
                return violation("L2", format!("{} × {method} at rest", count - before));
            }
        }
        self.leftovers().await
    }

    fn writes(&self) -> BTreeMap<String, u64> {
        let mut calls = self.world.kube.faults().calls();
        calls.retain(|call, _| {
            !["GET ", "LIST ", "WATCH "].iter().any(|verb| call.starts_with(verb)) && !call.ends_with(" leases")
        });
        calls
    }

    /// Folders, sessions, secrets.
    async fn leftovers(&mut self) -> Result<(), Violation> {
        let vms = self.machines();
        for (vcenter, folder) in self.folders() {
            let name = folder.rsplit('/').next().unwrap_or_default();
            let used = self.wishes.iter().any(|(index, wish)| {
                wish.replicas.is_some() && name.starts_with(&format!("{}-{}", self.namespace(*index), GROUPS[*index]))
            });
            let held = vms.iter().any(|vm| vm.folder == folder && vcenter_of(&vm.moref) == vcenter);
            if !used && !held {
                return violation("S1", format!("the folder {folder} is left"));
            }
        }
        if everything(&self.world.kube).contains(PASSWORD) {
            return violation("S9", "the password is in Kubernetes");
        }
        let texts = everything(&self.world.kube);
        let mut marks = vms.iter().filter_map(|vm| vm.extra.get("vmgroup.user-data"));
        if texts.contains(DATA.1) || marks.any(|mark| texts.contains(mark)) {
            return violation("S9", "user data is in Kubernetes");
        }
        // Sessions that were lost end when they have been idle for half an hour.
        let end = self.now() + Duration::from_secs(1900);
        loop {
            let sessions = self.vcenters.each().map(|(_, vcenter)| vcenter.sessions()).max().unwrap_or_default();
            let operators = self.running.len();
            if sessions <= operators {
                return Ok(());
            }
            if self.now() >= end {
                return violation("L10", format!("{sessions} sessions of {operators} operators"));
            }
            self.step(Duration::from_secs(60)).await?;
        }
    }
}

/// What two vCenters have, and Kubernetes for them, before there is an operator.
fn prepare_sites(world: &SimWorld) {
    for vcenter in &world.vcenters {
        for folder in sites::FOLDERS {
            let path = format!("{ROOT}/{folder}");
            let (parent, name) = path.rsplit_once('/').expect("a path");
            vcenter.add_folder(parent, name).expect("a folder");
        }
        vcenter.add_storage_pod(sites::POD.0, &sites::POD.1).expect("a datastore cluster");
    }
    for namespace in sites::NAMESPACES.iter().filter(|namespace| **namespace != NAMESPACE) {
        world.kube.create_namespace(namespace).expect("a namespace");
    }
}

/// One of the passwords that there are besides the first.
fn password(number: u64) -> String {
    format!("{PASSWORD} {number}")
}

/// A plugin that passes its check, whose clock is later, and then fails like this.
fn failing(kind: Kind, how: Failing) -> Vec<u8> {
    let made = Made::new(kind).bad_before((EPOCH + Duration::from_hours(24)).as_secs());
    match (how, kind) {
        (Failing::Traps, _) => made.panics("no such member"),
        (Failing::Spins, _) => made.decides("(loop $l (br $l)) unreachable"),
        (Failing::Lies, Kind::Naming) => made.names(&["no/name", "\n"], false),
        (Failing::Lies, Kind::Placement) => made.places(&[[None, Some(9_999), None]]),
        (Failing::Lies, Kind::Scaling) => made.victims(&[9_999]),
    }
    .bytes()
}

/// What a machine's guest is told by cloud-init.
fn user_data(vm: &VmView) -> Option<String> {
    let packed = STANDARD.decode(vm.extra.get("guestinfo.userdata")?).ok()?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).ok()?;
    Some(text)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

//! What a person on call wants to see, in the Prometheus text format: under
//! controller-runtime's and client-go's names where they mean the same, ours for
//! vCenter and policies.
//!
//! Counts what it is told; must not know how a group is reconciled. No object
//! name is ever a label: a label's values are a small closed set.

mod catalogue;
mod process;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;

use vmgroup_records::{Standing, Verdict};
use vmgroup_vsphere::SessionCount;

use self::catalogue::{Catalogue, LabelNames};
use self::process::Process;
use crate::clock::Clock;

pub use self::catalogue::{Described, MetricKind};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The value of the label `controller`: there is only one.
const CONTROLLER: &str = "vmgroup";

/// A pass reads caches and submits tasks: 1 ms when there is nothing to do, a
/// few calls of 10 to 500 ms to a real vCenter when there is. Above 30 s its
/// deadline has ended it.
const PASS: &[f64] = &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// SOAP calls: 2 ms for a read on a quiet vCenter, seconds on a busy one; a call
/// times out after 60 s. The long poll is not counted in here.
const CALL: &[f64] = &[0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Power operations take seconds, linked clones half a minute, full clones of
/// large disks an hour.
const TASK: &[f64] = &[0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0];

/// One decision in a fresh sandbox: 30 µs for a small one, 5 ms for 10,000
/// members (measured), and the deadline of a runaway is a matter of a second.
const DECISION: &[f64] =
    &[0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];

/// How long a group waits for its pass: as long as all workers are busy.
const QUEUE: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Fuel is roughly one unit per WebAssembly instruction: 10⁵ for a small
/// decision, 10⁸ for 10,000 members; by powers of four up to 4·10⁹.
const FUEL: (f64, f64, u16) = (4_096.0, 4.0, 11);

/// Linear memory of a sandbox: from one WebAssembly page to 64 MiB.
const MEMORY: (f64, f64, u16) = (65_536.0, 2.0, 11);

/// A part of a pass, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Observes: caches, and fresh reads of what is in doubt.
    Look,
    /// Asks the policies, and reads what they need to know.
    Ask,
    /// Plans.
    Plan,
    /// Carries the plan out: calls to vCenter.
    Apply,
    /// Tells Kubernetes: intents before, status and events after.
    Tell,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Look, Self::Ask, Self::Plan, Self::Apply, Self::Tell];

    /// As in metrics and traces.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Ask => "ask",
            Self::Plan => "plan",
            Self::Apply => "apply",
            Self::Tell => "tell",
        }
    }
}

/// How a pass ended, as controller-runtime has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassResult {
    /// At rest.
    Success,
    /// Comes back by itself after a while.
    RequeueAfter,
    /// Could not be finished; comes back after a backoff.
    Error,
    /// The same, by a panic that was caught.
    Panic,
}

impl PassResult {
    const ALL: [Self; 4] = [Self::Success, Self::RequeueAfter, Self::Error, Self::Panic];

    /// The value of the label `result`: a panic is an error.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::RequeueAfter => "requeue_after",
            Self::Error | Self::Panic => "error",
        }
    }
}

/// Figures that are not counted as things happen but read when somebody asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Each vCenter's.
    pub connections: Vec<ConnectionFigures>,
    /// Members by state.
    pub members: Vec<(&'static str, usize)>,
    /// Groups by phase.
    pub phases: Vec<(&'static str, usize)>,
    /// Groups that are not ready, by the reason of their condition.
    pub not_ready: BTreeMap<String, usize>,
    /// For how long the one has not been ready that has not been so longest.
    pub longest_not_ready: Duration,
    /// The policies that were offered last are not in force.
    pub policy_refused: bool,
    /// The connections that were offered last do not count.
    pub connections_refused: bool,
    /// The most passes at the same time.
    pub workers: usize,
    /// Groups that wait for a pass.
    pub backlog: usize,
    /// Decision records, kept and lost.
    pub records: Standing,
    /// The lease, if there is an election.
    pub lease: Option<LeaseFigures>,
}

/// How one vCenter is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFigures {
    /// What it is called.
    pub name: String,
    /// It answers.
    pub connected: bool,
    /// Since the inventory last heard of it; before the first time: since the start.
    pub inventory_age: Duration,
    /// Tasks in flight, by what they do.
    pub tasks: Vec<(&'static str, usize)>,
    /// Groups that wait for a free task slot.
    pub tasks_waiting: usize,
    /// How many tasks may be in flight.
    pub tasks_limit: usize,
    /// Marked machines by how they stand to the groups; empty if that is not known.
    pub machines: Vec<(&'static str, usize)>,
    /// Sessions there.
    pub sessions: SessionCount,
}

/// How we stand to the lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseFigures {
    /// Its name.
    pub name: String,
    /// We may write.
    pub leading: bool,
    /// How often we came to hold it.
    pub gained: u64,
    /// How often we ceased to.
    pub lost: u64,
}

/// Who can tell the figures of this moment.
pub trait Source: Send + Sync {
    /// The figures of this moment. Must not wait for anybody.
    fn figures(&self) -> Figures;
}

/// All metrics of the process. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

type HistogramFamily<L> = Family<L, Histogram, Buckets>;
type FloatGauge = Gauge<f64, AtomicU64>;
type FloatCounter = Counter<f64, AtomicU64>;

struct Inner {
    catalogue: Mutex<Catalogue>,
    source: Mutex<Option<Weak<dyn Source>>>,
    reconciles: Family<ControllerResult, Counter>,
    reconcile_errors: Family<Controller, Counter>,
    reconcile_panics: Family<Controller, Counter>,
    reconcile_seconds: HistogramFamily<Controller>,
    workers: Family<Controller, Gauge>,
    max_workers: Family<Controller, Gauge>,
    queue_depth: Family<Queue, Gauge>,
    queue_adds: Family<Queue, Counter>,
    queue_seconds: HistogramFamily<Queue>,
    master: Family<Name, Gauge>,
    lease_changes: Family<NameChange, Counter>,
    rest_requests: Family<CodeMethod, Counter>,
    rest_seconds: HistogramFamily<Verb>,
    step_seconds: HistogramFamily<StepLabel>,
    groups: Family<Phase, Gauge>,
    not_ready: Family<Reason, Gauge>,
    longest_not_ready: FloatGauge,
    members: Family<State, Gauge>,
    machines: Family<ConnectionStanding, Gauge>,
    connected: Family<ConnectionLabel, Gauge>,
    inventory_age: Family<ConnectionLabel, FloatGauge>,
    sessions: Family<ConnectionState, Gauge>,
    calls: Family<Call, Counter>,
    call_seconds: HistogramFamily<Method>,
    tasks: Family<ConnectionKind, Gauge>,
    tasks_waiting: Family<ConnectionLabel, Gauge>,
    tasks_limit: Family<ConnectionLabel, Gauge>,
    task_seconds: HistogramFamily<Task>,
    decisions: Family<KindOutcome, Counter>,
    decision_seconds: HistogramFamily<Kind>,
    fuel: HistogramFamily<Kind>,
    memory: HistogramFamily<Kind>,
    fallbacks: Family<Kind, Counter>,
    shadow: Family<KindVerdict, Counter>,
    shadow_dropped: Family<Kind, Counter>,
    records: Gauge,
    records_dropped: Counter,
    records_unwritten: Counter,
    swaps: Family<Outcome, Counter>,
    refused: Gauge,
    connections_refused: Gauge,
    process: Process,
}

/// Makes the histograms of a family.
#[derive(Clone, Copy)]
enum Buckets {
    Fixed(&'static [f64]),
    Exponential(f64, f64, u16),
}

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        match *self {
            Self::Fixed(bounds) => Histogram::new(bounds.iter().copied()),
            Self::Exponential(start, factor, length) => {
                Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(start, factor, length))
            }
        }
    }
}

macro_rules! labels {
    ($($set:ident { $($field:ident: $type:ty),+ })+) => {
        $(#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $set { $($field: $type),+ }

        impl LabelNames for $set {
            const NAMES: &'static [&'static str] = &[$(stringify!($field)),+];
        })+
    };
}

labels! {
    Controller { controller: &'static str }
    ControllerResult { controller: &'static str, result: &'static str }
    Queue { name: &'static str, controller: &'static str }
    Name { name: String }
    NameChange { name: String, change: &'static str }
    CodeMethod { code: String, method: String }
    Verb { verb: String }
    ConnectionLabel { connection: String }
    ConnectionKind { connection: String, kind: &'static str }
    ConnectionState { connection: String, state: &'static str }
    ConnectionStanding { connection: String, standing: &'static str }
    Call { connection: String, method: String, outcome: String }
    Method { connection: String, method: String }
    Task { connection: String, kind: String, outcome: String }
    KindOutcome { kind: String, outcome: String }
    KindVerdict { kind: String, verdict: &'static str }
    Kind { kind: String }
    State { state: &'static str }
    Phase { phase: &'static str }
    Reason { reason: String }
    Outcome { outcome: String }
    StepLabel { step: &'static str }
    Build { version: &'static str }
}

const VMGROUP: Controller = Controller { controller: CONTROLLER };
const QUEUE_LABELS: Queue = Queue { name: CONTROLLER, controller: CONTROLLER };

impl Metrics {
    /// All metrics at zero. The clock gives the time of the process's start.
    #[allow(clippy::too_many_lines, reason = "a list")]
    pub fn new(clock: Clock) -> Self {
        let mut catalogue = Catalogue::default();
        let c = &mut catalogue;
        let inner = Inner {
            reconciles: c.add(
                "controller_runtime_reconcile",
                "Passes over a group, by result: success (at rest), requeue_after (comes back by itself), \
                 error",
                Family::default(),
            ),
            reconcile_errors: c.add(
                "controller_runtime_reconcile_errors",
                "Passes that could not be finished and are repeated after a backoff",
                Family::default(),
            ),
            reconcile_panics: c.add(
                "controller_runtime_reconcile_panics",
                "Passes that panicked, which is a bug; the panic is caught",
                Family::default(),
            ),
            reconcile_seconds: c.add(
                "controller_runtime_reconcile_time_seconds",
                "Duration of a pass",
                histogram(PASS),
            ),
            workers: c.add("controller_runtime_active_workers", "Passes under way", Family::default()),
            max_workers: c.add(
                "controller_runtime_max_concurrent_reconciles",
                "The most passes at the same time",
                Family::default(),
            ),
            queue_depth: c.add("workqueue_depth", "Groups that wait for a pass", Family::default()),
            queue_adds: c.add("workqueue_adds", "How often a group began to wait for a pass", Family::default()),
            queue_seconds: c.add(
                "workqueue_queue_duration_seconds",
                "How long a group waited for its pass",
                histogram(QUEUE),
            ),
            master: c.add(
                "leader_election_master_status",
                "1 while this process leads, by the name of the lease",
                Family::default(),
            ),
            lease_changes: c.add(
                "vmgroup_lease_changes",
                "How often this process came to hold the lease (change: gained) and ceased to (lost)",
                Family::default(),
            ),
            rest_requests: c.add(
                "rest_client_requests",
                "Requests to the Kubernetes API, by HTTP status (<error>: no answer) and method",
                Family::default(),
            ),
            rest_seconds: c.add(
                "rest_client_request_duration_seconds",
                "Time to the head of the Kubernetes API's answer, by HTTP method; watches apart",
                histogram(CALL),
            ),
            step_seconds: c.add(
                "vmgroup_pass_step_seconds",
                "Duration of a step of a pass: look, ask, plan, apply, tell",
                histogram(PASS),
            ),
            groups: c.add("vmgroup_groups", "Groups, by phase", Family::default()),
            not_ready: c.add(
                "vmgroup_groups_not_ready",
                "Groups whose condition Ready is not true, by its reason",
                Family::default(),
            ),
            longest_not_ready: c.add(
                "vmgroup_group_longest_not_ready_seconds",
                "How long the group has not been ready that has not been so longest; 0 if all are",
                FloatGauge::default(),
            ),
            members: c.add("vmgroup_members", "Members of all groups, by state", Family::default()),
            machines: c.add(
                "vmgroup_machines",
                "Machines in the inventory that carry marks, by how they stand to the groups of this cluster: \
                 member, orphan, doubtful, contested, copy, other-cluster, released; `vmgroup orphans` names them",
                Family::default(),
            ),
            connected: c.add("vmgroup_vcenter_connected", "1 while this vCenter answers", Family::default()),
            inventory_age: c.add(
                "vmgroup_inventory_age_seconds",
                "Time since the inventory cache last heard of vCenter; at rest that is up to the 300 s of a \
                 long poll",
                Family::default(),
            ),
            sessions: c.add(
                "vmgroup_vcenter_sessions",
                "Sessions at vCenter: open, or in-doubt, as the answer to a login or logout was lost",
                Family::default(),
            ),
            calls: c.add(
                "vmgroup_vcenter_calls",
                "Calls to vCenter, by vSphere method and outcome: ok, fault, unreachable, broken, timeout, \
                 http",
                Family::default(),
            ),
            call_seconds: c.add(
                "vmgroup_vcenter_call_seconds",
                "Duration of a call to vCenter, by vSphere method; without the long poll WaitForUpdatesEx",
                histogram(CALL),
            ),
            tasks: c.add(
                "vmgroup_vcenter_tasks",
                "Tasks in flight at vCenter, by what they do: clone, reconfigure, power-on, power-off, destroy",
                Family::default(),
            ),
            tasks_waiting: c.add(
                "vmgroup_vcenter_tasks_waiting",
                "Groups that wait for a free task slot",
                Family::default(),
            ),
            tasks_limit: c.add(
                "vmgroup_vcenter_tasks_limit",
                "The most tasks in flight (--max-tasks, or limits.tasks of the connection)",
                Family::default(),
            ),
            task_seconds: c.add(
                "vmgroup_vcenter_task_seconds",
                "Duration of a vCenter task from its submission to its end, by what it does and outcome: \
                 success, gone, or the category of its failure",
                histogram(TASK),
            ),
            decisions: c.add(
                "vmgroup_policy_decisions",
                "Questions to policies, by kind and outcome: answered, or the reason of the condition",
                Family::default(),
            ),
            decision_seconds: c.add(
                "vmgroup_policy_decision_seconds",
                "Duration of one decision, sandbox included, by kind",
                histogram(DECISION),
            ),
            fuel: c.add(
                "vmgroup_policy_fuel",
                "WebAssembly fuel used by one decision, answered or not, by kind",
                exponential(FUEL),
            ),
            memory: c.add(
                "vmgroup_policy_memory_bytes",
                "Linear memory of the sandbox at its largest in one decision, by kind",
                exponential(MEMORY),
            ),
            fallbacks: c.add(
                "vmgroup_policy_fallbacks",
                "Questions that were put to another policy, as onFailure says, because the chosen one gave no legal \
                 answer, by kind",
                Family::default(),
            ),
            shadow: c.add(
                "vmgroup_policy_shadow_decisions",
                "Questions that policies on trial were asked, by kind and by how their answers compare: same, \
                 other-reasons, differs, now-fails, now-answers, neither-answers",
                Family::default(),
            ),
            shadow_dropped: c.add(
                "vmgroup_policy_shadow_dropped",
                "Questions that policies on trial were not asked, because too many waited or the policy is set \
                 aside, by kind",
                Family::default(),
            ),
            records: c.add("vmgroup_decision_records", "Decision records in memory", Gauge::default()),
            records_dropped: c.add(
                "vmgroup_decision_records_dropped",
                "Decision records that were dropped because they came faster than they could be kept",
                Counter::default(),
            ),
            records_unwritten: c.add(
                "vmgroup_decision_records_unwritten",
                "Decision records that are in memory alone because the file could not be written",
                Counter::default(),
            ),
            swaps: c.add(
                "vmgroup_policy_swaps",
                "Editions of the policies, by what became of them: swapped, the stage that refused, or rolled-back",
                Family::default(),
            ),
            refused: c.add(
                "vmgroup_policy_refused",
                "1 while the last edit of the policy ConfigMap is not in force, because it was refused or taken back",
                Gauge::default(),
            ),
            connections_refused: c.add(
                "vmgroup_connections_refused",
                "1 while the last edit of the connections ConfigMap does not count, because it was refused",
                Gauge::default(),
            ),
            process: Process::register(c, clock.since_epoch().as_secs_f64()),
            catalogue: Mutex::default(),
            source: Mutex::default(),
        };
        c.keep("vmgroup_build", "The version of this operator", Info::new(Build { version: crate::cli::VERSION }));
        *inner.catalogue.lock().unwrap_or_else(PoisonError::into_inner) = catalogue;
        inner.begin_at_zero();
        Self(Arc::new(inner))
    }

    /// Whom to ask for [`Figures`] from now on, whenever metrics are read. A weak
    /// reference: who counts must not keep alive what is counted.
    pub fn read_from(&self, source: Weak<dyn Source>) {
        *self.0.source.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }

    /// What there is to know of each metric but its values.
    pub fn described(&self) -> Vec<Described> {
        self.catalogue().described()
    }

    /// A pass has ended.
    pub fn reconciled(&self, result: PassResult, took: Duration) {
        let label = ControllerResult { controller: CONTROLLER, result: result.as_str() };
        self.0.reconciles.get_or_create(&label).inc();
        if matches!(result, PassResult::Error | PassResult::Panic) {
            self.0.reconcile_errors.get_or_create(&VMGROUP).inc();
        }
        if result == PassResult::Panic {
            self.0.reconcile_panics.get_or_create(&VMGROUP).inc();
        }
        self.0.reconcile_seconds.get_or_create(&VMGROUP).observe(took.as_secs_f64());
    }

    /// A worker is busy for as long as the guard lives.
    pub fn worker(&self) -> Busy {
        let gauge = self.0.workers.get_or_create_owned(&VMGROUP);
        gauge.inc();
        Busy(gauge)
    }

    /// A group begins to wait for a pass.
    pub fn queued(&self) {
        self.0.queue_adds.get_or_create(&QUEUE_LABELS).inc();
    }

    /// The pass that a group waited for has begun.
    pub fn dequeued(&self, after: Duration) {
        self.0.queue_seconds.get_or_create(&QUEUE_LABELS).observe(after.as_secs_f64());
    }

    /// The Kubernetes API has answered with a status, or not at all. `watching`:
    /// the answer goes on for as long as something changes.
    pub fn kubernetes_call(&self, method: &str, code: Option<u16>, watching: bool, took: Duration) {
        let code = code.map_or_else(|| "<error>".to_owned(), |code| code.to_string());
        self.0.rest_requests.get_or_create(&CodeMethod { code, method: method.to_owned() }).inc();
        let verb = if watching { "WATCH" } else { method }.to_owned();
        self.0.rest_seconds.get_or_create(&Verb { verb }).observe(took.as_secs_f64());
    }

    /// A call to the vCenter of this name has ended. `method` is the vSphere method,
    /// `outcome` a category of the client's.
    pub fn vcenter_call(&self, connection: &str, method: &str, outcome: &str, took: Duration) {
        let (connection, method) = (connection.to_owned(), method.to_owned());
        let call = Call { connection: connection.clone(), method: method.clone(), outcome: outcome.to_owned() };
        self.0.calls.get_or_create(&call).inc();
        // A long poll takes as long as nothing happens: its time means nothing.
        if method != "WaitForUpdatesEx" {
            self.0.call_seconds.get_or_create(&Method { connection, method }).observe(took.as_secs_f64());
        }
    }

    /// A task of ours at the vCenter of this name has ended: `kind` is what it did (`clone`,
    /// `power-on`, …), `outcome` how (`success`, `gone`, a category).
    pub fn task(&self, connection: &str, kind: &str, outcome: &str, took: Duration) {
        let task = Task { connection: connection.to_owned(), kind: kind.to_owned(), outcome: outcome.to_owned() };
        self.0.task_seconds.get_or_create(&task).observe(took.as_secs_f64());
    }

    /// A policy was asked. `kind` is `naming`, `placement` or `scaling`; `outcome`
    /// is `answered` or the condition reason (`PolicyTrapped`); `fuel` and bytes
    /// of `memory` are what it cost, answered or not.
    pub fn decision(&self, kind: &str, outcome: &str, took: Duration, fuel: u64, memory: usize) {
        let kind = kind.to_owned();
        self.0.decisions.get_or_create(&KindOutcome { kind: kind.clone(), outcome: outcome.to_owned() }).inc();
        let label = Kind { kind };
        self.0.decision_seconds.get_or_create(&label).observe(took.as_secs_f64());
        #[allow(clippy::cast_precision_loss, reason = "a bucket's bound is nowhere near 2^52")]
        let (fuel, memory) = (fuel as f64, memory as f64);
        self.0.fuel.get_or_create(&label).observe(fuel);
        self.0.memory.get_or_create(&label).observe(memory);
    }

    /// The built-in policy is asked, because the chosen one gave no legal answer.
    pub fn fallback(&self, kind: &str) {
        self.0.fallbacks.get_or_create(&Kind { kind: kind.to_owned() }).inc();
    }

    /// A policy on trial was asked; `verdict` says how its answer compares.
    pub fn shadow_decision(&self, kind: &str, verdict: &'static str) {
        self.0.shadow.get_or_create(&KindVerdict { kind: kind.to_owned(), verdict }).inc();
    }

    /// A policy on trial was not asked.
    pub fn shadow_dropped(&self, kind: &str) {
        self.0.shadow_dropped.get_or_create(&Kind { kind: kind.to_owned() }).inc();
    }

    /// New policies were offered: `outcome` is `swapped`, or the stage that refused them.
    pub fn policy_swap(&self, outcome: &str) {
        self.0.swaps.get_or_create(&Outcome { outcome: outcome.to_owned() }).inc();
    }

    /// A step of a pass took so long.
    pub fn step(&self, step: Step, took: Duration) {
        self.0.step_seconds.get_or_create(&StepLabel { step: step.as_str() }).observe(took.as_secs_f64());
    }

    /// Everything, in the `OpenMetrics` text format.
    pub fn encode(&self) -> String {
        let source = self.0.source.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(Weak::upgrade);
        let figures = source.map(|source| source.figures());
        // One reader at a time: families are emptied and filled again.
        let catalogue = self.catalogue();
        if let Some(figures) = figures {
            self.0.take_over(figures);
        }
        self.0.process.read();
        // Writing to a String cannot fail.
        catalogue.encode().unwrap_or_else(|_| {
            tracing::error!("metrics could not be written down");
            String::new()
        })
    }

    fn catalogue(&self) -> MutexGuard<'_, Catalogue> {
        self.0.catalogue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// A counter that comes into being with its first event shows no rise then:
    /// where the values of the labels are known, they are there from the start.
    fn begin_at_zero(&self) {
        for result in PassResult::ALL {
            drop(self.reconciles.get_or_create(&ControllerResult { controller: CONTROLLER, result: result.as_str() }));
        }
        for counter in [&self.reconcile_errors, &self.reconcile_panics] {
            drop(counter.get_or_create(&VMGROUP));
        }
        drop(self.workers.get_or_create(&VMGROUP));
        drop(self.queue_adds.get_or_create(&QUEUE_LABELS));
        drop(self.queue_depth.get_or_create(&QUEUE_LABELS));
        for step in Step::ALL {
            drop(self.step_seconds.get_or_create(&StepLabel { step: step.as_str() }));
        }
        for kind in vmgroup_policy::Kind::ALL {
            let kind = kind.as_str().to_owned();
            drop(self.fallbacks.get_or_create(&Kind { kind: kind.clone() }));
            drop(self.shadow_dropped.get_or_create(&Kind { kind: kind.clone() }));
            for verdict in Verdict::ALL {
                drop(self.shadow.get_or_create(&KindVerdict { kind: kind.clone(), verdict: verdict.label() }));
            }
            drop(self.decisions.get_or_create(&KindOutcome { kind, outcome: "answered".to_owned() }));
        }
        drop(self.swaps.get_or_create(&Outcome { outcome: "swapped".to_owned() }));
    }

    /// Connections come and go.
    fn take_over_connections(&self, connections: Vec<ConnectionFigures>) {
        self.connected.clear();
        self.inventory_age.clear();
        self.sessions.clear();
        self.tasks.clear();
        self.tasks_waiting.clear();
        self.tasks_limit.clear();
        self.machines.clear();
        for figures in connections {
            let ConnectionFigures {
                name: connection,
                connected,
                inventory_age,
                tasks,
                tasks_waiting,
                tasks_limit,
                machines,
                sessions: SessionCount { open, in_doubt },
            } = figures;
            let label = ConnectionLabel { connection: connection.clone() };
            self.connected.get_or_create(&label).set(i64::from(connected));
            self.inventory_age.get_or_create(&label).set(inventory_age.as_secs_f64());
            for (state, count) in [("open", open), ("in-doubt", in_doubt)] {
                let label = ConnectionState { connection: connection.clone(), state };
                self.sessions.get_or_create(&label).set(number(count));
            }
            for (kind, count) in tasks {
                self.tasks.get_or_create(&ConnectionKind { connection: connection.clone(), kind }).set(number(count));
            }
            self.tasks_waiting.get_or_create(&label).set(number(tasks_waiting));
            self.tasks_limit.get_or_create(&label).set(number(tasks_limit));
            for (standing, count) in machines {
                let label = ConnectionStanding { connection: connection.clone(), standing };
                self.machines.get_or_create(&label).set(number(count));
            }
        }
    }

    fn take_over(&self, figures: Figures) {
        let Figures {
            connections,
            members,
            phases,
            not_ready,
            longest_not_ready,
            policy_refused,
            connections_refused,
            workers,
            backlog,
            records: Standing { kept, dropped, unwritten },
            lease,
        } = figures;
        self.take_over_connections(connections);
        for (state, count) in members {
            self.members.get_or_create(&State { state }).set(number(count));
        }
        for (phase, count) in phases {
            self.groups.get_or_create(&Phase { phase }).set(number(count));
        }
        // Reasons come and go.
        self.not_ready.clear();
        for (reason, count) in not_ready {
            self.not_ready.get_or_create(&Reason { reason }).set(number(count));
        }
        self.longest_not_ready.set(longest_not_ready.as_secs_f64());
        self.records.set(number(kept));
        self.records_dropped.inner().store(dropped, Ordering::Relaxed);
        self.records_unwritten.inner().store(unwritten, Ordering::Relaxed);
        self.refused.set(i64::from(policy_refused));
        self.connections_refused.set(i64::from(connections_refused));
        self.max_workers.get_or_create(&VMGROUP).set(number(workers));
        self.queue_depth.get_or_create(&QUEUE_LABELS).set(number(backlog));
        if let Some(LeaseFigures { name, leading, gained, lost }) = lease {
            for (change, count) in [("gained", gained), ("lost", lost)] {
                let label = NameChange { name: name.clone(), change };
                self.lease_changes.get_or_create(&label).inner().store(count, Ordering::Relaxed);
            }
            self.master.get_or_create(&Name { name }).set(i64::from(leading));
        }
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn histogram<L: Clone + std::hash::Hash + Eq>(bounds: &'static [f64]) -> HistogramFamily<L> {
    Family::new_with_constructor(Buckets::Fixed(bounds))
}

fn exponential<L: Clone + std::hash::Hash + Eq>((start, factor, length): (f64, f64, u16)) -> HistogramFamily<L> {
    Family::new_with_constructor(Buckets::Exponential(start, factor, length))
}

/// A busy worker, from [`Metrics::worker`].
#[must_use = "the worker counts as busy only while this lives"]
pub struct Busy(Gauge);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new(Clock::starting_at(Duration::from_secs(1_000)))
    }

    struct Fixed(Figures);

    impl Source for Fixed {
        fn figures(&self) -> Figures {
            self.0.clone()
        }
    }

    #[tokio::test]
    async fn what_is_told_is_shown() {
        let m = metrics();
        let busy = m.worker();
        m.reconciled(PassResult::Success, Duration::from_millis(3));
        m.reconciled(PassResult::Panic, Duration::from_millis(3));
        m.queued();
        m.dequeued(Duration::from_millis(2));
        m.kubernetes_call("GET", Some(200), false, Duration::from_millis(4));
        m.kubernetes_call("PATCH", None, false, Duration::from_millis(4));
        m.vcenter_call("muc", "CloneVM_Task", "ok", Duration::from_millis(40));
        m.task("muc", "clone", "success", Duration::from_secs(7));
        m.decision("scaling", "PolicyTrapped", Duration::from_micros(80), 0, 0);
        m.decision("scaling", "answered", Duration::from_micros(80), 100_000, 131_072);
        m.policy_swap("swapped");
        m.step(Step::Ask, Duration::from_millis(1));
        let text = m.encode();
        for line in [
            r#"controller_runtime_reconcile_total{controller="vmgroup",result="success"} 1"#,
            r#"controller_runtime_reconcile_total{controller="vmgroup",result="error"} 1"#,
            r#"controller_runtime_reconcile_errors_total{controller="vmgroup"} 1"#,
            r#"controller_runtime_reconcile_panics_total{controller="vmgroup"} 1"#,
            r#"controller_runtime_reconcile_time_seconds_count{controller="vmgroup"} 2"#,
            r#"controller_runtime_active_workers{controller="vmgroup"} 1"#,
            r#"workqueue_adds_total{name="vmgroup",controller="vmgroup"} 1"#,
            r#"workqueue_queue_duration_seconds_count{name="vmgroup",controller="vmgroup"} 1"#,
            r#"rest_client_requests_total{code="200",method="GET"} 1"#,
            r#"rest_client_requests_total{code="<error>",method="PATCH"} 1"#,
            r#"vmgroup_vcenter_calls_total{connection="muc",method="CloneVM_Task",outcome="ok"} 1"#,
            r#"vmgroup_vcenter_call_seconds_bucket{le="0.05",connection="muc",method="CloneVM_Task"} 1"#,
            r#"vmgroup_vcenter_task_seconds_count{connection="muc",kind="clone",outcome="success"} 1"#,
            r#"vmgroup_policy_decisions_total{kind="scaling",outcome="PolicyTrapped"} 1"#,
            r#"vmgroup_policy_decisions_total{kind="naming",outcome="answered"} 0"#,
            r#"vmgroup_policy_decision_seconds_count{kind="scaling"} 2"#,
            r#"vmgroup_policy_fuel_sum{kind="scaling"} 100000.0"#,
            r#"vmgroup_policy_memory_bytes_sum{kind="scaling"} 131072.0"#,
            r#"vmgroup_policy_swaps_total{outcome="swapped"} 1"#,
            r#"vmgroup_pass_step_seconds_count{step="ask"} 1"#,
            r#"vmgroup_pass_step_seconds_count{step="tell"} 0"#,
            "process_start_time_seconds 1000.0",
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "vmgroup_build_info{version=",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        drop(busy);
        assert!(m.encode().contains(r#"controller_runtime_active_workers{controller="vmgroup"} 0"#));
    }

    #[tokio::test]
    async fn figures_are_those_of_the_moment() {
        let m = metrics();
        let lease = LeaseFigures { name: "vmgroup-operator".into(), leading: true, gained: 2, lost: 1 };
        let mut figures = Figures {
            connections: vec![ConnectionFigures {
                name: "muc".into(),
                connected: true,
                inventory_age: Duration::from_millis(1_500),
                machines: vec![("orphan", 2)],
                sessions: SessionCount { open: 1, in_doubt: 2 },
                ..ConnectionFigures::default()
            }],
            members: vec![("Ready", 3)],
            phases: vec![("PENDING", 1)],
            not_ready: BTreeMap::from([("NoCapacity".to_owned(), 1)]),
            longest_not_ready: Duration::from_secs(9),
            backlog: 4,
            records: Standing { kept: 9, dropped: 2, unwritten: 1 },
            lease: Some(lease),
            ..Figures::default()
        };
        let now = Arc::new(Fixed(figures.clone()));
        let source: Weak<dyn Source> = Arc::<Fixed>::downgrade(&now);
        m.read_from(source);
        let text = m.encode();
        for line in [
            r#"vmgroup_vcenter_connected{connection="muc"} 1"#,
            r#"vmgroup_inventory_age_seconds{connection="muc"} 1.5"#,
            r#"vmgroup_machines{connection="muc",standing="orphan"} 2"#,
            r#"vmgroup_members{state="Ready"} 3"#,
            r#"vmgroup_groups{phase="PENDING"} 1"#,
            r#"vmgroup_groups_not_ready{reason="NoCapacity"} 1"#,
            "vmgroup_group_longest_not_ready_seconds 9.0",
            r#"workqueue_depth{name="vmgroup",controller="vmgroup"} 4"#,
            r#"vmgroup_vcenter_sessions{connection="muc",state="open"} 1"#,
            r#"vmgroup_vcenter_sessions{connection="muc",state="in-doubt"} 2"#,
            "vmgroup_decision_records 9",
            "vmgroup_decision_records_dropped_total 2",
            "vmgroup_decision_records_unwritten_total 1",
            r#"leader_election_master_status{name="vmgroup-operator"} 1"#,
            r#"vmgroup_lease_changes_total{name="vmgroup-operator",change="gained"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        figures.not_ready.clear();
        let later = Arc::new(Fixed(figures));
        let source: Weak<dyn Source> = Arc::<Fixed>::downgrade(&later);
        m.read_from(source);
        assert!(!m.encode().contains("NoCapacity"), "a reason that is over is not shown");
    }

    #[tokio::test]
    async fn the_long_poll_is_counted_but_not_timed() {
        let m = metrics();
        m.vcenter_call("muc", "WaitForUpdatesEx", "ok", Duration::from_mins(5));
        let text = m.encode();
        assert!(
            text.contains(r#"vmgroup_vcenter_calls_total{connection="muc",method="WaitForUpdatesEx",outcome="ok"} 1"#)
        );
        assert!(!text.contains(r#"vmgroup_vcenter_call_seconds_count{connection="muc",method="WaitForUpdatesEx"}"#));
    }

    /// What is described is what is encoded: names, kinds and labels.
    #[tokio::test]
    async fn descriptions_are_true() {
        let m = metrics();
        let text = m.encode();
        for described in m.described() {
            assert!(!described.help.is_empty() && !described.help.ends_with('.'), "{}", described.name());
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let (name, rest) = line.split_once(['{', ' ']).unwrap();
                if name == described.name() {
                    for label in described.labels {
                        assert!(rest.contains(&format!("{label}=")), "{line} has no {label}");
                    }
                }
            }
        }
    }
}

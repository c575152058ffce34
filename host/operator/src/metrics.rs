//! What a person on call wants to see, in the Prometheus text format: under
//! controller-runtime's names where they mean the same, ours for vCenter and
//! policies.
//!
//! Counts what it is told; must not know how a group is reconciled. No object
//! name is ever a label: a label's values are a small closed set.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::clock::Clock;

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

/// Fuel is roughly one unit per WebAssembly instruction: 10⁵ for a small
/// decision, 10⁸ for 10,000 members; by powers of four up to 4·10⁹.
const FUEL: (f64, f64, u16) = (4_096.0, 4.0, 11);

/// All metrics of the process. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

type HistogramFamily<L> = Family<L, Histogram, Buckets>;
type FloatGauge = Gauge<f64, AtomicU64>;
type FloatCounter = Counter<f64, AtomicU64>;

struct Inner {
    registry: Mutex<Registry>,
    reconciles: Family<ControllerResult, Counter>,
    reconcile_seconds: HistogramFamily<Controller>,
    workers: Family<Controller, Gauge>,
    master: Family<Name, Gauge>,
    calls: Family<MethodOutcome, Counter>,
    call_seconds: HistogramFamily<Method>,
    task_seconds: HistogramFamily<KindOutcome>,
    connected: Gauge,
    inventory_age: FloatGauge,
    members: Family<State, Gauge>,
    decisions: Family<KindOutcome, Counter>,
    decision_seconds: HistogramFamily<Kind>,
    fuel: HistogramFamily<Kind>,
    swaps: Family<Outcome, Counter>,
    step_seconds: HistogramFamily<Step>,
    cpu_seconds: FloatCounter,
    resident: Gauge,
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
        struct $set { $($field: $type),+ })+
    };
}

labels! {
    Controller { controller: &'static str }
    ControllerResult { controller: &'static str, result: &'static str }
    Name { name: String }
    Method { method: String }
    MethodOutcome { method: String, outcome: String }
    KindOutcome { kind: String, outcome: String }
    Kind { kind: String }
    State { state: String }
    Outcome { outcome: String }
    Step { step: &'static str }
}

const VMGROUP: Controller = Controller { controller: CONTROLLER };

impl Metrics {
    /// All metrics at zero. The clock gives the time of the process's start.
    pub fn new(clock: Clock) -> Self {
        let inner = Inner {
            registry: Mutex::new(Registry::default()),
            reconciles: Family::default(),
            reconcile_seconds: Family::new_with_constructor(Buckets::Fixed(PASS)),
            workers: Family::default(),
            master: Family::default(),
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(Buckets::Fixed(CALL)),
            task_seconds: Family::new_with_constructor(Buckets::Fixed(TASK)),
            connected: Gauge::default(),
            inventory_age: FloatGauge::default(),
            members: Family::default(),
            decisions: Family::default(),
            decision_seconds: Family::new_with_constructor(Buckets::Fixed(DECISION)),
            fuel: Family::new_with_constructor(Buckets::Exponential(FUEL.0, FUEL.1, FUEL.2)),
            swaps: Family::default(),
            step_seconds: Family::new_with_constructor(Buckets::Fixed(PASS)),
            cpu_seconds: FloatCounter::default(),
            resident: Gauge::default(),
        };
        let started = FloatGauge::default();
        started.set(clock.since_epoch().as_secs_f64());
        inner.register(started);
        Self(Arc::new(inner))
    }

    /// A pass has ended: `result` is `success`, `error`, `requeue` or `requeue_after`
    /// as in controller-runtime, or `panic`.
    pub fn reconciled(&self, result: &'static str, took: Duration) {
        self.0.reconciles.get_or_create(&ControllerResult { controller: CONTROLLER, result }).inc();
        self.0.reconcile_seconds.get_or_create(&VMGROUP).observe(took.as_secs_f64());
    }

    /// A worker is busy for as long as the guard lives.
    pub fn worker(&self) -> Busy {
        let gauge = self.0.workers.get_or_create_owned(&VMGROUP);
        gauge.inc();
        Busy(gauge)
    }

    /// Whether this process leads by the lease of this name.
    pub fn leading(&self, lease: &str, leading: bool) {
        self.0.master.get_or_create(&Name { name: lease.to_owned() }).set(i64::from(leading));
    }

    /// A call to vCenter has ended. `method` is the vSphere method, `outcome` a
    /// category of the client's.
    pub fn vcenter_call(&self, method: &str, outcome: &str, took: Duration) {
        let method = method.to_owned();
        self.0.calls.get_or_create(&MethodOutcome { method: method.clone(), outcome: outcome.to_owned() }).inc();
        // A long poll takes as long as nothing happens: its time means nothing.
        if method != "WaitForUpdatesEx" {
            self.0.call_seconds.get_or_create(&Method { method }).observe(took.as_secs_f64());
        }
    }

    /// A vCenter task of ours has ended: `kind` is what it did (`clone`,
    /// `power-on`, …), `outcome` how (`success`, `error`, `gone`).
    pub fn task(&self, kind: &str, outcome: &str, took: Duration) {
        self.0
            .task_seconds
            .get_or_create(&KindOutcome { kind: kind.to_owned(), outcome: outcome.to_owned() })
            .observe(took.as_secs_f64());
    }

    /// Whether the last exchange with vCenter went well.
    pub fn vcenter_connected(&self, connected: bool) {
        self.0.connected.set(i64::from(connected));
    }

    /// How old the inventory cache's last good exchange is. To be told before
    /// each [`Self::encode`].
    pub fn inventory_age(&self, age: Duration) {
        self.0.inventory_age.set(age.as_secs_f64());
    }

    /// How many members there are in this state, over all groups.
    pub fn members(&self, state: &str, count: usize) {
        self.0.members.get_or_create(&State { state: state.to_owned() }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A policy was asked. `kind` is `naming`, `placement` or `scaling`; `outcome`
    /// is `answered` or the condition reason (`PolicyTrapped`); fuel 0 is unknown
    /// and not counted.
    pub fn decision(&self, kind: &str, outcome: &str, took: Duration, fuel: u64) {
        let kind = kind.to_owned();
        self.0.decisions.get_or_create(&KindOutcome { kind: kind.clone(), outcome: outcome.to_owned() }).inc();
        let label = Kind { kind };
        self.0.decision_seconds.get_or_create(&label).observe(took.as_secs_f64());
        if fuel > 0 {
            #[allow(clippy::cast_precision_loss, reason = "a bucket's bound is nowhere near 2^52")]
            self.0.fuel.get_or_create(&label).observe(fuel as f64);
        }
    }

    /// New policies were offered: `outcome` is `swapped`, or the stage that refused them.
    pub fn policy_swap(&self, outcome: &str) {
        self.0.swaps.get_or_create(&Outcome { outcome: outcome.to_owned() }).inc();
    }

    /// A step of a pass (`observe`, `decide`, …) lasts as long as the guard lives.
    pub fn step(&self, step: &'static str) -> StepTimer {
        StepTimer { histogram: self.0.step_seconds.get_or_create_owned(&Step { step }), since: Instant::now() }
    }

    /// Everything, in the `OpenMetrics` text format.
    pub fn encode(&self) -> String {
        self.0.read_process();
        let mut text = String::new();
        let registry = self.0.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail; should it one day, half a page of
        // metrics is better than none.
        if encode(&mut text, &registry).is_err() {
            tracing::error!("metrics could not be written down in full");
        }
        text
    }
}

impl Inner {
    fn register(&self, started: FloatGauge) {
        let mut guard = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let r = &mut *guard;
        // Counters: the encoder adds `_total`.
        r.register("controller_runtime_reconcile", "Passes over a group, by result", self.reconciles.clone());
        r.register("controller_runtime_reconcile_time_seconds", "Duration of a pass", self.reconcile_seconds.clone());
        r.register("controller_runtime_active_workers", "Passes under way", self.workers.clone());
        r.register("leader_election_master_status", "1 while this process leads", self.master.clone());
        r.register("vmgroup_vcenter_calls", "Calls to vCenter, by vSphere method and outcome", self.calls.clone());
        r.register("vmgroup_vcenter_call_seconds", "Duration of a call to vCenter", self.call_seconds.clone());
        r.register(
            "vmgroup_vcenter_task_seconds",
            "Duration of a vCenter task, from its submission to its end",
            self.task_seconds.clone(),
        );
        r.register("vmgroup_vcenter_connected", "1 while vCenter answers", self.connected.clone());
        r.register(
            "vmgroup_inventory_age_seconds",
            "Time since the inventory cache last heard of vCenter",
            self.inventory_age.clone(),
        );
        r.register("vmgroup_members", "Members of all groups, by state", self.members.clone());
        r.register("vmgroup_policy_decisions", "Questions to policies, by kind and outcome", self.decisions.clone());
        r.register(
            "vmgroup_policy_decision_seconds",
            "Duration of one decision, sandbox included",
            self.decision_seconds.clone(),
        );
        r.register("vmgroup_policy_fuel", "WebAssembly fuel used by one decision", self.fuel.clone());
        r.register("vmgroup_policy_swaps", "Policies offered, by outcome", self.swaps.clone());
        r.register("vmgroup_pass_step_seconds", "Duration of one step of a pass", self.step_seconds.clone());
        r.register("process_cpu_seconds", "CPU time of this process", self.cpu_seconds.clone());
        r.register("process_resident_memory_bytes", "Resident memory of this process", self.resident.clone());
        r.register("process_start_time_seconds", "Start of this process, in seconds since 1970", started);
    }

    /// From Linux's /proc; elsewhere the values stay 0.
    fn read_process(&self) {
        let resident = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| resident_bytes(&status));
        if let Some(bytes) = resident {
            self.resident.set(bytes);
        }
        let cpu = std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_seconds(&stat));
        if let Some(seconds) = cpu {
            self.cpu_seconds.inner().store(seconds.to_bits(), std::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// `VmRSS` of /proc/PID/status, given in kB.
fn resident_bytes(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<i64>().ok().map(|kib| kib * 1024)
}

/// `utime` + `stime` of /proc/PID/stat, in ticks of 10 ms (`USER_HZ` is 100 on
/// every architecture that we build for).
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The command's name may contain blanks; it ends at the last parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / 100.0)
}

/// A busy worker, from [`Metrics::worker`].
#[must_use = "the worker counts as busy only while this lives"]
pub struct Busy(Gauge);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A step of a pass under way, from [`Metrics::step`]. Counts however the step
/// ends, by `?` too.
#[must_use = "the step lasts only while this lives"]
pub struct StepTimer {
    histogram: Histogram,
    since: Instant,
}

impl Drop for StepTimer {
    fn drop(&mut self) {
        self.histogram.observe(self.since.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new(Clock::starting_at(Duration::from_secs(1_000)))
    }

    #[tokio::test]
    async fn every_promised_name_is_there() {
        let m = metrics();
        let busy = m.worker();
        m.reconciled("success", Duration::from_millis(3));
        m.leading("vmgroup-operator", true);
        m.vcenter_call("CloneVM_Task", "ok", Duration::from_millis(40));
        m.task("clone", "success", Duration::from_secs(7));
        m.vcenter_connected(true);
        m.inventory_age(Duration::from_millis(1_500));
        m.members("Ready", 3);
        m.decision("scaling", "PolicyTrapped", Duration::from_micros(80), 100_000);
        m.policy_swap("swapped");
        drop(m.step("decide"));
        let text = m.encode();
        for line in [
            r#"controller_runtime_reconcile_total{controller="vmgroup",result="success"} 1"#,
            r#"controller_runtime_reconcile_time_seconds_count{controller="vmgroup"} 1"#,
            r#"controller_runtime_active_workers{controller="vmgroup"} 1"#,
            r#"leader_election_master_status{name="vmgroup-operator"} 1"#,
            r#"vmgroup_vcenter_calls_total{method="CloneVM_Task",outcome="ok"} 1"#,
            r#"vmgroup_vcenter_call_seconds_bucket{le="0.05",method="CloneVM_Task"} 1"#,
            r#"vmgroup_vcenter_task_seconds_count{kind="clone",outcome="success"} 1"#,
            "vmgroup_vcenter_connected 1",
            "vmgroup_inventory_age_seconds 1.5",
            r#"vmgroup_members{state="Ready"} 3"#,
            r#"vmgroup_policy_decisions_total{kind="scaling",outcome="PolicyTrapped"} 1"#,
            r#"vmgroup_policy_decision_seconds_count{kind="scaling"} 1"#,
            r#"vmgroup_policy_fuel_sum{kind="scaling"} 100000.0"#,
            r#"vmgroup_policy_swaps_total{outcome="swapped"} 1"#,
            r#"vmgroup_pass_step_seconds_count{step="decide"} 1"#,
            "process_start_time_seconds 1000.0",
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        drop(busy);
        assert!(m.encode().contains(r#"controller_runtime_active_workers{controller="vmgroup"} 0"#));
    }

    #[tokio::test]
    async fn the_long_poll_is_counted_but_not_timed() {
        let m = metrics();
        m.vcenter_call("WaitForUpdatesEx", "ok", Duration::from_mins(5));
        let text = m.encode();
        assert!(text.contains(r#"vmgroup_vcenter_calls_total{method="WaitForUpdatesEx",outcome="ok"} 1"#));
        assert!(!text.contains(r#"vmgroup_vcenter_call_seconds_count{method="WaitForUpdatesEx"}"#));
    }

    #[test]
    fn proc_files_are_understood() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2_097_152));
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 9 9 9";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("nonsense"), None);
    }
}

//! The main load: 20 groups of 10, from apply to Ready. Time beside its floor,
//! calls for each machine, and what the process took.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Options, User, World};
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::vcenter::TaskDurations;

use crate::Result;
use crate::machine::Usage;
use crate::stage::{Side, Stage, is_ready};
use crate::table::{Table, ratio, short, tenths};

const NAMESPACE: &str = "bench";
const GROUPS: u64 = 20;
const SIZE: u64 = 10;
const CLONE: Duration = Duration::from_secs(1);

/// How often is looked whether all is done. Costs the operator nothing.
const LOOK: Duration = Duration::from_millis(20);

/// What each call to either simulator takes in simulated time.
const AWAY: Duration = Duration::from_millis(2);

/// A run in simulated time.
pub struct Simulated {
    took: Duration,
    calls: BTreeMap<String, u64>,
}

/// The same in this process, in simulated time: no machine's load is in it.
pub fn run_simulated(limit: u32) -> Result<Simulated> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    runtime.block_on(async {
        let options = Options { max_tasks: usize::try_from(limit)?, ..Options::default() };
        let durations = TaskDurations { clone: CLONE, ..TaskDurations::all(Duration::ZERO) };
        let mut world = SimWorld::with_tasks(options, 1, &durations)?;
        for faults in [world.kube.faults(), world.vcenter.faults()] {
            faults.add(Rule::every("*", Fault::Delay(AWAY)));
        }
        world.launch(Some("vmgroup-operator"));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let (user, before) = (User::of(&world), world.calls().await?);
        let since = tokio::time::Instant::now();
        for number in 0..GROUPS {
            user.group(NAMESPACE, &format!("group-{number}"), usize::try_from(SIZE)?).await;
        }
        while !world.kube.list("vmgroups", Some(NAMESPACE)).iter().all(|group| is_ready(group, SIZE)) {
            tokio::time::sleep(LOOK).await;
        }
        let out = Simulated { took: since.elapsed(), calls: more(world.calls().await?, &before) };
        world.kill_operator().await?;
        Ok(out)
    })
}

/// What there is more of now than before.
fn more(mut now: BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    for (name, count) in before {
        now.entry(name.clone()).and_modify(|now| *now = now.saturating_sub(*count));
    }
    now.retain(|_, count| *count > 0);
    now
}

/// Adds the rows of a run in simulated time.
pub fn report_simulated(table: &mut Table, limit: u32, outcome: Result<Simulated>) {
    let floor = floor(limit);
    let name = format!("apply to Ready, {GROUPS} groups × {SIZE}, {limit} tasks at a time, simulated time");
    let how = format!(
        "both simulators in this process, every call takes {} ms and computing nothing; clones of 1 s; exact",
        AWAY.as_millis()
    );
    let goal = format!("goal: 1.10 × the floor of {} s", floor.as_secs());
    match outcome {
        Ok(Simulated { took, calls }) => {
            table.add(name, Ok(against_floor(took, floor)), goal, how);
            report_calls(table, &format!("simulated time, {limit}"), &calls);
        }
        Err(why) => table.add(name, Err(why), goal, how),
    }
}

fn floor(limit: u32) -> Duration {
    CLONE * u32::try_from(GROUPS * SIZE).unwrap_or(u32::MAX).div_ceil(limit)
}

fn against_floor(took: Duration, floor: Duration) -> String {
    format!("{:.1} s, ratio {}", took.as_secs_f64(), ratio(took, floor))
}

fn report_calls(table: &mut Table, run: &str, calls: &BTreeMap<String, u64>) {
    let (vms, total) = (GROUPS * SIZE, calls.values().sum());
    let mut by_count: Vec<(&String, &u64)> = calls.iter().collect();
    by_count.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let listed: Vec<String> = by_count.into_iter().map(|(method, count)| format!("{method} {count}")).collect();
    table.add(
        format!("vCenter calls per VM in it ({run})"),
        Ok(format!("{} ({total} in all)", tenths(total, vms))),
        "goal: 4; the original, somebody else's measurement: 25 (5,065)",
        format!("from apply to Ready: {}", listed.join(", ")),
    );
}

/// One run.
pub struct Filled {
    took: Duration,
    calls: BTreeMap<String, u64>,
    writes: u64,
    before: Usage,
    after: Usage,
    vcenter_cpu: Duration,
}

/// Makes one run with this limit of tasks.
pub async fn run(operator: &Path, side: Side, limit: u32) -> Result<Filled> {
    let stage = Stage::set(side, CLONE).await?;
    let mut process = stage.start(operator, limit)?;
    stage.at_rest(&mut process).await?;
    stage.user.namespace(NAMESPACE).await;
    let (calls_before, writes_before, before) = (stage.calls().await?, stage.kube.writes(), process.usage()?);
    let vcenter_cpu_before = stage.vcenter_cpu()?;
    let since = Instant::now();
    for number in 0..GROUPS {
        stage.apply(NAMESPACE, &format!("group-{number}"), SIZE)?;
    }
    stage.all_ready(&mut process, NAMESPACE, SIZE, LOOK).await?;
    let took = since.elapsed();
    let vcenter_cpu = stage.vcenter_cpu()?.saturating_sub(vcenter_cpu_before);
    let (calls, after) = (more(stage.calls().await?, &calls_before), process.usage()?);
    // Those of the applies are not the operator's.
    let writes = (stage.kube.writes() - writes_before).saturating_sub(GROUPS);
    Ok(Filled { took, calls, writes, before, after, vcenter_cpu })
}

/// Adds the rows of one run.
pub fn report(table: &mut Table, side: Side, limit: u32, outcome: Result<Filled>) {
    let vms = GROUPS * SIZE;
    let floor = floor(limit);
    let name = format!("apply to Ready, {GROUPS} groups × {SIZE}, {limit} tasks at a time, {side}");
    let theirs = if side == Side::Vcsim && limit == 3 {
        "; the original operator, somebody else's measurement: 93.8 s, ratio 1.40"
    } else {
        ""
    };
    let floor_text = format!("goal: 1.10 × the floor ⌈{vms}/{limit}⌉ × 1 s = {} s{theirs}", floor.as_secs());
    let how = format!(
        "operator process, simulated Kubernetes API over HTTP, {side} over HTTPS; clones of 1 s, power-on without delay; looked at every {} ms",
        LOOK.as_millis()
    );
    let Filled { took, calls, writes, before, after, vcenter_cpu } = match outcome {
        Ok(filled) => filled,
        Err(why) => return table.add(name, Err(why), floor_text, how),
    };
    let who = if side == Side::Vcsim { "vcsim" } else { "this process with both simulators" };
    let how = format!("{how}; {who} took {} of CPU", short(vcenter_cpu));
    table.add(name, Ok(against_floor(took, floor)), floor_text, how);

    report_calls(table, &format!("{side}, {limit}"), &calls);
    table.add(
        format!("memory and CPU at its end ({side}, {limit})"),
        Ok(format!(
            "{} MiB resident, peak {}; {} CPU",
            tenths(after.resident, 1024),
            tenths(after.peak, 1024),
            short(after.cpu.saturating_sub(before.cpu))
        )),
        format!("at rest before: {} MiB, {} CPU from the start", tenths(before.resident, 1024), short(before.cpu)),
        format!(
            "/proc of the operator; it wrote {} times for each VM to Kubernetes, leases and events included",
            tenths(writes, vms)
        ),
    );
}

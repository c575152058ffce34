//! 1,000 groups of 10 that stand: what the operator takes at rest, what a pass
//! costs beside as many, and how long a start takes with as many machines there.
//! The machines are put into the simulated vCenter with their marks, as an
//! operator before this one would have left them.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use vmgroup_e2e::world::{ROOT, TEMPLATE};
use vmgroup_operator::folder;
use vmgroup_operator::ownership::mark;
use vmgroup_operator::wake::GroupRef;

use crate::Result;
use crate::machine::Usage;
use crate::stage::{Operator, Side, Stage};
use crate::table::{Table, percentile, short, tenths};

const NAMESPACE: &str = "bench";
const SIZE: u64 = 10;
const FEW: u64 = 10;
const MANY: u64 = 1_000;

/// How long the process is looked at while it is at rest.
const LOOK: Duration = Duration::from_secs(120);

/// How long the last of what was begun may still be at work.
const SETTLE: Duration = Duration::from_secs(15);

const ROUNDS: usize = 9;
const POKES: usize = 50;

/// How long a pass is left alone: reading the metrics takes processors, too.
const PASS: Duration = Duration::from_millis(20);

/// What was seen.
pub struct Large {
    rest: Rest,
    restarted: Rest,
    passes: Result<(Duration, Duration)>,
    leading: Duration,
    ready: Duration,
    serving: Duration,
}

struct Rest {
    usage: Usage,
    cpu: Duration,
    within: Duration,
}

/// Measures all of it.
pub async fn run(operator: &Path) -> Result<Large> {
    let (few, many) = (standing(FEW).await?, standing(MANY).await?);
    let (mut beside_few, mut process) = (few.start(operator, 8)?, many.start(operator, 8)?);
    few.all_ready(&mut beside_few, NAMESPACE, SIZE, Duration::from_millis(100)).await?;
    many.all_ready(&mut process, NAMESPACE, SIZE, Duration::from_secs(1)).await?;
    let rest = at_rest(&process).await?;
    let passes = passes(&few, &beside_few, &many, &process).await;
    beside_few.end("TERM").await?;
    process.end("TERM").await?;

    // A group that came while nobody was there: its first clone call shows that
    // the operator is at work.
    many.apply(NAMESPACE, "waiting", SIZE)?;
    let before = many.clones().await?;
    let mut process = many.start(operator, 8)?;
    let leading = many.leading(&mut process).await?;
    let ready = process.ready().await?.max(leading);
    let since = process.since();
    let serving = many.next_clone(&mut process, before, since).await?;
    many.all_ready(&mut process, NAMESPACE, SIZE, Duration::from_secs(1)).await?;
    let restarted = at_rest(&process).await?;
    Ok(Large { rest, restarted, passes, leading, ready, serving })
}

/// A stage with groups that stand, and nobody who looks after them.
async fn standing(groups: u64) -> Result<Stage> {
    let stage = Stage::set(Side::Simulator, Duration::ZERO).await?;
    stage.user.namespace(NAMESPACE).await;
    let vcenter = stage.simulator()?;
    for number in 0..groups {
        let group = GroupRef { namespace: NAMESPACE.to_owned(), name: name(number) };
        let uid = stage.apply(NAMESPACE, &group.name, SIZE)?;
        let folder = folder::preferred(&group);
        vcenter.add_folder(ROOT, &folder)?;
        let marks = [(mark::GROUP_UID, uid.as_str()), (mark::GROUP, &group.to_string()), (mark::CREATED, "1767225600")];
        for member in 0..SIZE {
            vcenter.add_vm(&format!("{ROOT}/{folder}"), &format!("{}-{member}", group.name), &marks)?;
        }
    }
    for vm in vcenter.vms().into_iter().filter(|vm| !vm.template) {
        vcenter.set_extra(&vm.path, mark::MEMBER, &vm.instance_uuid)?;
    }
    Ok(stage)
}

fn name(number: u64) -> String {
    format!("group-{number}")
}

async fn at_rest(process: &Operator) -> Result<Rest> {
    tokio::time::sleep(SETTLE).await;
    let (before, since) = (process.usage()?, Instant::now());
    tokio::time::sleep(LOOK).await;
    let usage = process.usage()?;
    Ok(Rest { cpu: usage.cpu.saturating_sub(before.cpu), within: since.elapsed(), usage })
}

/// The mean time of a pass that finds nothing to do, beside few groups and beside
/// many: the median of several rounds, by turns.
async fn passes(
    few: &Stage,
    beside_few: &Operator,
    many: &Stage,
    beside_many: &Operator,
) -> Result<(Duration, Duration)> {
    let (mut with_few, mut with_many) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        with_few.push(pokes(few, beside_few, round).await?);
        with_many.push(pokes(many, beside_many, round).await?);
    }
    Ok((percentile(&with_few, 50), percentile(&with_many, 50)))
}

/// Has one group looked at again and again.
async fn pokes(stage: &Stage, process: &Operator, round: usize) -> Result<Duration> {
    let before = passes_so_far(process).await?;
    let mut after = before;
    for poke in 0..POKES {
        let patch = json!({"metadata": {"annotations": {"poke": format!("{round}-{poke}")}}});
        stage.kube.patch("vmgroups", Some(NAMESPACE), &name(0), patch).map_err(|error| format!("{error:?}"))?;
        let deadline = Instant::now() + Duration::from_secs(10);
        let seen = after.0;
        while after.0 <= seen {
            if Instant::now() > deadline {
                return Err("no pass was made".into());
            }
            tokio::time::sleep(PASS).await;
            after = passes_so_far(process).await?;
        }
    }
    Ok(Duration::from_secs_f64((after.1 - before.1) / (after.0 - before.0)))
}

/// How many passes there were, and the seconds that they took.
async fn passes_so_far(process: &Operator) -> Result<(f64, f64)> {
    let of = |what: &str| format!("controller_runtime_reconcile_time_seconds_{what}{{controller=\"vmgroup\"}}");
    Ok((process.metric(&of("count")).await?, process.metric(&of("sum")).await?))
}

/// Adds the rows.
pub fn report(table: &mut Table, outcome: Result<Large>) {
    let what = format!("{MANY} groups × {SIZE}");
    let Large { rest, restarted, passes, leading, ready, serving } = match outcome {
        Ok(large) => large,
        Err(why) => return table.add(format!("{what} at rest"), Err(why), "goal: 64 MiB and 1 % of a core", "/proc"),
    };
    for (Rest { usage, cpu, within }, when) in [(rest, "taken over"), (restarted, "after a start")] {
        let how = format!(
            "/proc of the operator, its own process, over {} s, {} s after all were Ready ({when}); both simulators in another; with leader election",
            within.as_secs(),
            SETTLE.as_secs()
        );
        table.add(
            format!("memory with {what} at rest, {when}"),
            Ok(format!("{} MiB resident, peak {}", tenths(usage.resident, 1024), tenths(usage.peak, 1024))),
            "goal: 64 MiB resident",
            how.clone(),
        );
        let share = cpu.as_secs_f64() / within.as_secs_f64() * 100.0;
        table.add(format!("CPU with {what} at rest, {when}"), Ok(format!("{share:.2} % of a core")), "goal: 1 %", how);
    }
    table.add(
        "a pass over one group",
        passes.map(|(few, many)| {
            let ratio = crate::table::ratio(many, few);
            format!("{} beside {FEW} groups, {} beside {MANY}, ratio {ratio}", short(few), short(many))
        }),
        "goal: the same",
        format!(
            "the operator's own histogram; one group of {SIZE} at rest is annotated {POKES} times a round, one pass each; median of {ROUNDS} rounds, by turns, both operators running"
        ),
    );
    table.add(
        format!("start with {} VMs in the inventory", MANY * SIZE),
        Ok(format!("leading {}, ready {}, first clone call {}", short(leading), short(ready), short(serving))),
        "the same with none: below",
        format!("from spawn; {what} stand, and one group more waits for its machines; template {TEMPLATE}"),
    );
}

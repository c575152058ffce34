//! From a machine deleted behind our back to the clone call for its successor.

use std::path::Path;
use std::time::{Duration, Instant};

use vmgroup_sim::vcenter::VcenterSim;

use crate::Result;
use crate::stage::{Operator, Side, Stage};
use crate::table::{Table, percentile, short};

const NAMESPACE: &str = "bench";
const SIZE: u64 = 10;
const TIMES: usize = 30;
const CLONE: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(20);

/// How long nothing has happened before a machine is deleted.
const QUIET: Duration = Duration::from_millis(500);

/// The time of each.
pub async fn run(operator: &Path) -> Result<Vec<Duration>> {
    let stage = Stage::set(Side::Simulator, CLONE).await?;
    let mut process = stage.start(operator, 8)?;
    stage.at_rest(&mut process).await?;
    stage.user.namespace(NAMESPACE).await;
    stage.apply(NAMESPACE, "web", SIZE)?;
    let vcenter = stage.simulator()?;
    let mut times = Vec::new();
    for number in 0..TIMES {
        let machines = standing(&stage, &mut process, vcenter).await?;
        let victim = machines.get(number % machines.len().max(1)).ok_or("there is no machine")?;
        let before = stage.clones().await?;
        let since = Instant::now();
        vcenter.power_off(victim)?;
        vcenter.destroy(victim)?;
        times.push(stage.next_clone(&mut process, before, since).await?);
    }
    Ok(times)
}

/// The machines, once all of them stand and that is known. The status alone may still
/// be of before the last deletion.
async fn standing(stage: &Stage, process: &mut Operator, vcenter: &VcenterSim) -> Result<Vec<String>> {
    loop {
        stage.all_ready(process, NAMESPACE, SIZE, LOOK).await?;
        tokio::time::sleep(QUIET).await;
        let machines = vcenter.vms().into_iter().filter(|vm| !vm.template && vm.power_on).map(|vm| vm.path);
        let machines: Vec<String> = machines.collect();
        if machines.len() as u64 == SIZE {
            return Ok(machines);
        }
    }
}

/// Adds the row.
pub fn report(table: &mut Table, outcome: Result<Vec<Duration>>) {
    let measured =
        outcome.map(|times| format!("p50 {}, p99 {}", short(percentile(&times, 50)), short(percentile(&times, 99))));
    let how = format!(
        "{TIMES} times; a machine of a group of {SIZE} at rest vanishes from our simulator; in between: seen, looked for afresh, named, placed, written down"
    );
    table.add(
        "a VM deleted behind our back to its successor's clone call",
        measured,
        "the next resync of the original: 5 min",
        how,
    );
}

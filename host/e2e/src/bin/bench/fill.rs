//! The main load: 20 groups of 10, from apply to Ready. Time beside its floor,
//! calls for each machine, and what the process took.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use kube::api::PostParams;
use serde_json::{Value, json};
use vmgroup_e2e::world::TEMPLATE;

use crate::Result;
use crate::machine::Usage;
use crate::stage::{Side, Stage};
use crate::table::{Table, ratio, short, tenths};

const NAMESPACE: &str = "bench";
const GROUPS: u64 = 20;
const SIZE: u64 = 10;
const CLONE: Duration = Duration::from_secs(1);

/// How often is looked whether all is done. Costs the operator nothing.
const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(600);

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
    let groups = stage.user.groups(NAMESPACE);
    let since = Instant::now();
    for number in 0..GROUPS {
        let group = json!({
            "apiVersion": "vm.codeconnect.vmworld.com/v1alpha1", "kind": "VmGroup",
            "metadata": {"name": format!("group-{number}"), "namespace": NAMESPACE},
            "spec": {"cpu": 2, "memory": 1, "replicas": SIZE, "template": TEMPLATE},
        });
        groups.create(&PostParams::default(), &serde_json::from_value(group)?).await?;
    }
    while !stage.kube.list("vmgroups", Some(NAMESPACE)).iter().all(ready) {
        process.must_run()?;
        if since.elapsed() > PATIENCE {
            return Err(format!("not Ready after {PATIENCE:?}").into());
        }
        tokio::time::sleep(LOOK).await;
    }
    let took = since.elapsed();
    let vcenter_cpu = stage.vcenter_cpu()?.saturating_sub(vcenter_cpu_before);
    let (mut calls, after) = (stage.calls().await?, process.usage()?);
    for (method, count) in calls_before {
        calls.entry(method).and_modify(|now| *now -= count.min(*now));
    }
    calls.retain(|_, count| *count > 0);
    // Those of the applies are not the operator's.
    let writes = (stage.kube.writes() - writes_before).saturating_sub(GROUPS);
    Ok(Filled { took, calls, writes, before, after, vcenter_cpu })
}

fn ready(group: &Value) -> bool {
    let status = &group["status"];
    let conditions = status["conditions"].as_array();
    let ready = conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True");
    ready && status["observedGeneration"] == group["metadata"]["generation"] && status["currentReplicas"] == SIZE
}

/// Adds the rows of one run.
pub fn report(table: &mut Table, side: Side, limit: u32, outcome: Result<Filled>) {
    let vms = GROUPS * SIZE;
    let floor = CLONE * u32::try_from(vms).unwrap_or(u32::MAX).div_ceil(limit);
    let name = format!("apply to Ready, {GROUPS} groups × {SIZE}, {limit} tasks at a time, {side}");
    let theirs = if side == Side::Vcsim && limit == 3 {
        "; the original operator, somebody else's measurement: 93.8 s, ratio 1.40"
    } else {
        ""
    };
    let floor_text = format!("floor ⌈{vms}/{limit}⌉ × 1 s = {} s{theirs}", floor.as_secs());
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
    table.add(name, Ok(format!("{:.1} s, ratio {}", took.as_secs_f64(), ratio(took, floor))), floor_text, how);

    let total: u64 = calls.values().sum();
    let mut by_count: Vec<(&String, &u64)> = calls.iter().collect();
    by_count.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let listed: Vec<String> = by_count.into_iter().map(|(method, count)| format!("{method} {count}")).collect();
    table.add(
        format!("vCenter calls per VM in it ({side}, {limit})"),
        Ok(format!("{} ({total} in all)", tenths(total, vms))),
        "the original, somebody else's measurement: 25 (5,065)",
        format!("from apply to Ready: {}", listed.join(", ")),
    );
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

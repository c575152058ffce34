//! From the edit of the policy `ConfigMap` to the first decision under the new
//! policy, while 50 other groups are in motion. A group has a question open that its
//! policy of before refuses, so the decision comes as soon as the new one is in force.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use vmgroup_e2e::component::{stamped, unpacked};

use crate::Result;
use crate::stage::{Operator, Side, Stage};
use crate::table::{Table, percentile, short};

const NAMESPACE: &str = "bench";
const GROUP: &str = "web";
const LOAD: &str = "load";
const SWAPS: usize = 50;
/// Groups that grow and shrink all the while, and how often one of them is scaled.
const OTHERS: usize = 50;
const SCALING: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(30);
/// As many tasks as anybody wants: waiting for vCenter is not what is measured.
const SLOTS: u32 = 200;
/// How long a clone takes, so that the new member is seen in the status.
const CLONE: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(1);

/// The plugin of the new policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// Its code has been in force before: only the configuration changes.
    Known,
    /// Its code was never seen: it is compiled.
    New,
}

/// Swaps `SWAPS` times.
pub async fn run(operator: &Path, plugin: Plugin) -> Result<Vec<Duration>> {
    let stage = Stage::set(Side::Simulator, CLONE).await?;
    let mut process = stage.start(operator, SLOTS)?;
    stage.at_rest(&mut process).await?;
    let ordinal = vmgroup_policy::shipped::find("ordinal").ok_or("the shipped policy `ordinal` is missing")?;
    let component = unpacked(&ordinal.bytes)?;
    stage.user.group(NAMESPACE, GROUP, 0).await;
    stage.user.namespace(LOAD).await;
    for other in 0..OTHERS {
        stage.apply(LOAD, &format!("web{other}"), 1)?;
    }
    tokio::select! {
        times = swaps(&stage, &mut process, &component, plugin) => times,
        () = motion(&stage) => Err("the others came to a stop".into()),
    }
}

/// Keeps the others in motion.
async fn motion(stage: &Stage) {
    for turn in 0.. {
        stage.user.scale(LOAD, &format!("web{}", turn % OTHERS), turn % 4).await;
        tokio::time::sleep(SCALING).await;
    }
}

/// A policy file whose rule for our group is this one.
fn policy_file(plugin: &str, pattern: &str) -> String {
    format!(
        "naming: {{ plugin: ordinal }}\ngroups:\n- name: {NAMESPACE}\n  select: {{ namespaces: [{NAMESPACE}] }}\n  naming: {{ plugin: {plugin}, config: {{ pattern: \"{pattern}\" }} }}\n"
    )
}

async fn swaps(stage: &Stage, process: &mut Operator, component: &[u8], plugin: Plugin) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for number in 0..SWAPS {
        // The name `refuses.wasm` tells it from the others in the status.
        let refuses = policy_file("refuses.wasm", "{label:missing}-{ordinal}");
        stage.user.policy(Some(&refuses), &[("refuses.wasm", component)]).await;
        wait(stage, process, |group| group["status"]["policies"]["naming"]["plugin"] == "refuses.wasm").await?;
        stage.user.scale(NAMESPACE, GROUP, 1).await;
        wait(stage, process, |group| text_of(&group["status"]["conditions"]).contains("PolicyConfig")).await?;

        let prefix = format!("swap{number}-");
        let (name, binaries) = match plugin {
            Plugin::Known => ("ordinal".to_owned(), Vec::new()),
            Plugin::New => (format!("new{number}.wasm"), vec![stamped(component, &prefix)]),
        };
        let file = policy_file(&name, &format!("{prefix}{{ordinal}}"));
        let binaries: Vec<(&str, &[u8])> = binaries.iter().map(|bytes| (name.as_str(), bytes.as_slice())).collect();
        let since = Instant::now();
        stage.user.policy(Some(&file), &binaries).await;
        wait(stage, process, |group| text_of(&group["status"]["members"]).contains(&prefix)).await?;
        times.push(since.elapsed());

        wait(stage, process, |group| group["status"]["currentReplicas"] == 1).await?;
        stage.user.scale(NAMESPACE, GROUP, 0).await;
        wait(stage, process, |group| {
            let status = &group["status"];
            status["currentReplicas"] == 0 && status["desiredReplicas"] == 0 && status["phase"] == "RUNNING"
        })
        .await?;
    }
    Ok(times)
}

fn text_of(value: &Value) -> String {
    value.to_string()
}

async fn wait(stage: &Stage, process: &mut Operator, holds: impl Fn(&Value) -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let group = stage.group(NAMESPACE, GROUP);
        if holds(&group) {
            return Ok(());
        }
        if Instant::now() > deadline {
            process.must_run()?;
            return Err(format!("the group stands still: {}", group["status"]).into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Adds the row.
pub fn report(table: &mut Table, plugin: Plugin, outcome: Result<Vec<Duration>>) {
    let (what, beside) = match plugin {
        Plugin::Known => (
            "new configuration",
            "goal: p99 of 250 ms; a kubelet refreshes a mounted ConfigMap after 60 to 90 s, somebody else's measurement",
        ),
        Plugin::New => ("new plugin", "goal: p99 of 250 ms, with a component to be compiled"),
    };
    let measured =
        outcome.map(|times| format!("p50 {}, p99 {}", short(percentile(&times, 50)), short(percentile(&times, 99))));
    let how = format!(
        "{SWAPS} swaps of `ordinal`, operator process, simulators over HTTP, {OTHERS} other groups in motion; from the PATCH to the status with the new member's name"
    );
    table.add(format!("ConfigMap edit to first decision, {what}"), measured, beside, how);
}

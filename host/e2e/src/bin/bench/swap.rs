//! From the edit of the policy `ConfigMap` to the first decision under the new
//! policy. A group has a question open that the policy of before refuses, so the
//! decision comes as soon as the new one is in force.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Result;
use crate::stage::{Operator, Side, Stage};
use crate::table::{Table, percentile, short};

const NAMESPACE: &str = "bench";
const GROUP: &str = "web";
const SWAPS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(30);
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

/// Swaps 50 times.
pub async fn run(operator: &Path, plugin: Plugin) -> Result<Vec<Duration>> {
    let stage = Stage::set(Side::Simulator, CLONE).await?;
    let mut process = stage.start(operator, 8)?;
    stage.at_rest(&mut process).await?;
    let ordinal = vmgroup_policy::shipped::find("ordinal").ok_or("the shipped policy `ordinal` is missing")?;
    let component = unpacked(&ordinal.bytes)?;
    stage.user.group(NAMESPACE, GROUP, 0).await;
    let mut times = Vec::new();
    for number in 0..SWAPS {
        // The name `refuses.wasm` tells it from the others in the status.
        let refuses = "naming: { plugin: refuses.wasm, config: { pattern: \"{label:missing}-{ordinal}\" } }\n";
        stage.user.policy(Some(refuses), &[("refuses.wasm", &component)]).await;
        wait(&stage, &mut process, |group| group["status"]["policies"]["naming"]["plugin"] == "refuses.wasm").await?;
        stage.user.scale(NAMESPACE, GROUP, 1).await;
        wait(&stage, &mut process, |group| text_of(&group["status"]["conditions"]).contains("PolicyConfig")).await?;

        let prefix = format!("swap{number}-");
        let (name, binaries) = match plugin {
            Plugin::Known => ("ordinal".to_owned(), Vec::new()),
            Plugin::New => (format!("new{number}.wasm"), vec![stamped(&component, &prefix)]),
        };
        let file = format!("naming: {{ plugin: {name}, config: {{ pattern: \"{prefix}{{ordinal}}\" }} }}\n");
        let binaries: Vec<(&str, &[u8])> = binaries.iter().map(|bytes| (name.as_str(), bytes.as_slice())).collect();
        let since = Instant::now();
        stage.user.policy(Some(&file), &binaries).await;
        wait(&stage, &mut process, |group| text_of(&group["status"]["members"]).contains(&prefix)).await?;
        times.push(since.elapsed());

        wait(&stage, &mut process, |group| group["status"]["currentReplicas"] == 1).await?;
        stage.user.scale(NAMESPACE, GROUP, 0).await;
        wait(&stage, &mut process, |group| {
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

/// A component that may be compressed, as it is.
fn unpacked(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut out)?;
    } else {
        out.extend_from_slice(bytes);
    }
    Ok(out)
}

/// The same component with a custom section more: to the host, another one.
fn stamped(component: &[u8], stamp: &str) -> Vec<u8> {
    let name = b"stamp";
    let mut section = vec![u8::try_from(name.len()).unwrap_or_default()];
    section.extend_from_slice(name);
    section.extend_from_slice(stamp.as_bytes());
    let mut out = component.to_vec();
    // Below 128 bytes a LEB128 length is the byte itself.
    out.extend_from_slice(&[0, u8::try_from(section.len()).unwrap_or_default()]);
    out.append(&mut section);
    out
}

/// Adds the row.
pub fn report(table: &mut Table, plugin: Plugin, outcome: Result<Vec<Duration>>) {
    let (what, beside) = match plugin {
        Plugin::Known => (
            "new configuration",
            "a kubelet refreshes a mounted ConfigMap after 60 to 90 s, somebody else's measurement",
        ),
        Plugin::New => ("new plugin", "the same, with a component to be compiled"),
    };
    let measured =
        outcome.map(|times| format!("p50 {}, p99 {}", short(percentile(&times, 50)), short(percentile(&times, 99))));
    let how = format!(
        "{SWAPS} swaps of `ordinal`, operator process, simulators over HTTP; from the PATCH to the status with the new member's name"
    );
    table.add(format!("ConfigMap edit to first decision, {what}"), measured, beside, how);
}

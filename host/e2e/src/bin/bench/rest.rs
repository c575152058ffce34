//! What the operator asks and writes when nothing happens: 100 groups of 10
//! that stand, for an hour of simulated time.

use std::collections::BTreeMap;
use std::time::Duration;

use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Options, User, World};

use crate::Result;
use crate::table::Table;

const NAMESPACE: &str = "bench";
const GROUPS: usize = 100;
const SIZE: usize = 10;
const MINUTES: [u64; 2] = [5, 60];

/// How long the last of what was begun may still be at work.
const SETTLE: Duration = Duration::from_secs(60);

/// What was asked and written in some minutes, by operation.
pub struct AtRest {
    minutes: u64,
    vcenter: BTreeMap<String, u64>,
    writes: u64,
    leases: u64,
}

/// Counts from the moment when all stand still.
pub fn run() -> Result<Vec<AtRest>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    runtime.block_on(async {
        let options = Options { clone_takes: Duration::from_secs(1), ..Options::default() };
        let mut world = SimWorld::seeded(options, 1)?;
        world.launch(Some("vmgroup-operator"));
        let user = User::of(&world);
        for number in 0..GROUPS {
            user.group(NAMESPACE, &format!("group-{number}"), SIZE).await;
        }
        for number in 0..GROUPS {
            let size = i32::try_from(SIZE)?;
            user.ready(NAMESPACE, &format!("group-{number}"), size, Duration::from_secs(3600)).await;
        }
        tokio::time::sleep(SETTLE).await;
        let since = tokio::time::Instant::now();
        let before = Counts::of(&world).await?;
        let mut out = Vec::new();
        for minutes in MINUTES {
            tokio::time::sleep_until(since + Duration::from_secs(60 * minutes)).await;
            out.push(Counts::of(&world).await?.since(&before, minutes));
        }
        world.kill_operator().await?;
        Ok(out)
    })
}

struct Counts {
    vcenter: BTreeMap<String, u64>,
    writes: u64,
    leases: u64,
}

impl Counts {
    async fn of(world: &SimWorld) -> Result<Self> {
        let kube = world.kube.faults().calls();
        let leases = kube.iter().filter(|(operation, _)| writes_a_lease(operation)).map(|(_, count)| count).sum();
        Ok(Self { vcenter: world.calls().await?, writes: world.kube.writes(), leases })
    }

    fn since(self, before: &Self, minutes: u64) -> AtRest {
        let mut vcenter = self.vcenter;
        for (method, count) in &before.vcenter {
            vcenter.entry(method.clone()).and_modify(|now| *now -= count);
        }
        vcenter.retain(|_, count| *count > 0);
        AtRest { minutes, vcenter, writes: self.writes - before.writes, leases: self.leases - before.leases }
    }
}

fn writes_a_lease(operation: &str) -> bool {
    let verb = operation.split(' ').next().unwrap_or_default();
    operation.ends_with(" leases") && ["PATCH", "UPDATE", "CREATE", "DELETE"].contains(&verb)
}

/// Adds the rows.
pub fn report(table: &mut Table, outcome: Result<Vec<AtRest>>) {
    let how = format!(
        "simulated time, in this process: {GROUPS} groups × {SIZE}, all Ready, one minute later; with leader election"
    );
    let goal = "goal: only the long poll and the keepalive";
    let rests = match outcome {
        Ok(rests) => rests,
        Err(why) => return table.add("calls and writes at rest", Err(why), goal, how),
    };
    for AtRest { minutes, vcenter, writes, leases } in rests {
        let calls: Vec<String> = vcenter.iter().map(|(method, count)| format!("{method} {count}")).collect();
        let calls = if calls.is_empty() { "none".to_owned() } else { calls.join(", ") };
        table.add(format!("calls to vCenter in {minutes} minutes at rest"), Ok(calls), goal, how.clone());
        table.add(
            format!("writes to Kubernetes in {minutes} minutes at rest"),
            Ok(format!("{} (and {leases} renewals of the lease)", writes.saturating_sub(leases))),
            "goal: none; the lease is renewed every 2 s",
            how.clone(),
        );
    }
}

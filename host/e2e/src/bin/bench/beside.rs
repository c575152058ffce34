//! One vCenter's groups beside another vCenter that is away, slow, or not what the
//! connections file says, with as many groups that wait for it. In simulated time.

use std::time::Duration;

use vmgroup_e2e::sim::{PASSWORD, SimWorld, USER, host_of};
use vmgroup_e2e::world::{Options, User, World};
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::vcenter::TaskDurations;

use crate::Result;
use crate::stage::is_ready;
use crate::table::{Table, ratio};

const GROUPS: usize = 20;
const SIZE: usize = 10;
const CLONE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(20);

/// What each call to the simulators takes.
const AWAY: Duration = Duration::from_millis(2);

/// What each call to a slow vCenter takes.
const SLOW: Duration = Duration::from_secs(10);

/// Until connections are up, or are known not to be, and waiting groups wait.
const SETTLE: Duration = Duration::from_mins(1);

/// How the other vCenter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// As it should be, and nobody wants anything of it.
    Idle,
    /// It cannot be reached.
    Down,
    /// It takes its time for every answer.
    Slow,
    /// The file names a datastore that it has not.
    Misconfigured,
}

/// How long the groups of the one took, by how the other was.
pub struct Beside(Vec<(Other, Duration)>);

/// All of it, in one run.
pub fn run() -> Result<Beside> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    let mut took = Vec::new();
    for other in [Other::Idle, Other::Down, Other::Slow, Other::Misconfigured] {
        took.push((other, runtime.block_on(one(other))?));
    }
    Ok(Beside(took))
}

async fn one(other: Other) -> Result<Duration> {
    let durations = TaskDurations { clone: CLONE, ..TaskDurations::all(Duration::ZERO) };
    let mut world = SimWorld::with_tasks(Options { connections: 2, ..Options::default() }, 1, &durations)?;
    for faults in [world.kube.faults(), world.vcenters[0].faults(), world.vcenters[1].faults()] {
        faults.add(Rule::every("*", Fault::Delay(AWAY)));
    }
    let user = User::of(&world);
    user.login("login", USER, PASSWORD).await;
    let datastore = if other == Other::Misconfigured { "  datastore: nowhere\n" } else { "" };
    user.connections(&format!(
        "connections:\n\
         - name: other\n  address: http://{}\n  credentials: {{ secret: login }}\n{datastore}  serves: {{ namespaces: [other] }}\n\
         - name: one\n  address: http://{}\n  credentials: {{ secret: login }}\n  default: true\n",
        host_of(0),
        host_of(1)
    ))
    .await;
    world.launch(Some("vmgroup-operator"));
    tokio::time::sleep(SETTLE).await;
    match other {
        Other::Idle | Other::Misconfigured => {}
        Other::Down => {
            world.vcenters[0].faults().set_down(true);
            world.vcenters[0].cut_connections();
        }
        Other::Slow => world.vcenters[0].faults().add(Rule::every("*", Fault::Delay(SLOW))),
    }
    if other != Other::Idle {
        apply(&user, "other").await;
        tokio::time::sleep(SETTLE).await;
    }
    let since = tokio::time::Instant::now();
    apply(&user, "one").await;
    let size = u64::try_from(SIZE)?;
    while !world.kube.list("vmgroups", Some("one")).iter().all(|group| is_ready(group, size)) {
        tokio::time::sleep(LOOK).await;
    }
    let took = since.elapsed();
    world.kill_operator().await?;
    Ok(took)
}

async fn apply(user: &User, namespace: &str) {
    for number in 0..GROUPS {
        user.group(namespace, &format!("group-{number}"), SIZE).await;
    }
}

/// Adds the rows.
pub fn report(table: &mut Table, outcome: Result<Beside>) {
    let how = format!(
        "simulated time, in this process; two connections, {GROUPS} groups × {SIZE} in the one, and as many that wait in the other unless it is idle; 8 tasks at a time, clones of 1 s; every call takes {} ms; exact",
        AWAY.as_millis()
    );
    let goal = "goal: 1.00 × as long as beside one that is idle";
    let Beside(took) = match outcome {
        Ok(beside) => beside,
        Err(why) => return table.add("apply to Ready beside another vCenter", Err(why), goal, how),
    };
    let idle = took.iter().find(|(other, _)| *other == Other::Idle).map(|(_, took)| *took).unwrap_or_default();
    for (other, took) in took {
        let name = match other {
            Other::Idle => "that is idle".to_owned(),
            Other::Down => "that is down".to_owned(),
            Other::Slow => format!("that takes {} s for every answer", SLOW.as_secs()),
            Other::Misconfigured => "whose connection is misconfigured".to_owned(),
        };
        let measured = format!("{:.2} s, ratio {}", took.as_secs_f64(), ratio(took, idle));
        table.add(format!("apply to Ready beside a vCenter {name}"), Ok(measured), goal, how.clone());
    }
}

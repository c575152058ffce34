//! What random runs found once, each as a small story of its own.
//! `docs/reliability.md` tells the causes.

use std::time::Duration;

use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Deed, Options, User, World, eventually};
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::vcenter::{TaskState, TaskView};

const SOON: Duration = Duration::from_secs(60);

/// Seed 363: told to stop while it was starting, before the first list of groups
/// had come, the operator waited for that list for ever, with its session open
/// and, of two operators, its lease held.
#[tokio::test(start_paused = true)]
async fn told_to_stop_while_it_starts() {
    for delay in [None, Some(0), Some(1), Some(500)] {
        let mut world = SimWorld::make(Options::default()).await.unwrap();
        world.start_operator().await.unwrap();
        let user = User::of(&world);
        user.group("shop", "web", 2).await;
        user.ready("shop", "web", 2, SOON).await;
        world.kill_operator().await.unwrap();
        world.vcenter.terminate_sessions();
        world.deed(Deed::LoseReplies { method: "FindChild", times: 1 }).await.unwrap();
        let stop = world.launch(None);
        if let Some(delay) = delay {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        stop.cancel();
        let stopped = async || if world.runs(1) { Err(format!("after {delay:?} ms")) } else { Ok(()) };
        eventually("it has stopped", SOON, stopped).await;
        assert_eq!(world.vcenter.sessions(), 0);
    }
}

/// Seeds 103, 173 and 205: a member that somebody moved out of the root folder
/// while it was being destroyed was taken for destroyed, and out of the record,
/// whatever became of the task.
#[tokio::test(start_paused = true)]
async fn s1_moved_out_while_it_is_destroyed() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    let fails = Rule::next("Destroy_Task", Fault::FailTask("SystemError".into()));
    world.vcenter.faults().add(fails);
    user.delete("shop", "web").await;
    let destroying = |task: &TaskView| task.method == "Destroy_Task" && task.state == TaskState::Running;
    while !world.vcenter.tasks().iter().any(destroying) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let path = world.vms().await.unwrap()[0].path.clone();
    world.vcenter.move_to(&path, "/DC0/vm").unwrap();
    user.gone("shop", "web", SOON * 10).await;
    assert_eq!(world.vms().await.unwrap().len(), 0);
}

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

/// Seeds 5579 and 5748: the call that makes the folder was given up, the group was
/// deleted and gone, and then vCenter made the folder.
#[tokio::test(start_paused = true)]
async fn s1_a_folder_that_comes_when_its_group_is_gone() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    world.vcenter.faults().add(Rule::next("CreateFolder", Fault::Delay(Duration::from_secs(100))));
    user.group("shop", "web", 1).await;
    let asked = async || match world.calls().await.unwrap().get("CreateFolder") {
        Some(1) => Ok(()),
        times => Err(format!("{times:?} calls")),
    };
    eventually("the folder is asked for", SOON, asked).await;
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON * 2).await;
    let folders = || world.vcenter.folders().iter().filter(|path| path.ends_with("/shop-web")).count();
    assert_eq!(folders(), 0, "vCenter is not that far yet");
    let came = async || if folders() > 0 { Ok(()) } else { Err("it has not come".into()) };
    eventually("the folder comes", SOON * 3, came).await;
    let left = async || if folders() == 0 { Ok(()) } else { Err("it is there".into()) };
    eventually("it is seen off", SOON, left).await;
}

/// Seed 70286: somebody destroyed a group's folder, and it was made again while the
/// record still had the old one; nobody knew of the new one when the operator had to
/// stop before it could write it down.
#[tokio::test(start_paused = true)]
async fn s1_a_folder_that_is_made_again_is_written_down_first() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 0).await;
    user.ready("shop", "web", 0, SOON).await;
    let folder = world.folders().await.unwrap().remove(0);
    world.kube.faults().set_down(true);
    world.vcenter.destroy_folder(&folder).unwrap();
    tokio::time::sleep(SOON).await;
    world.kill_operator().await.unwrap();
    world.kube.faults().set_down(false);
    user.delete("shop", "web").await;
    world.start_operator().await.unwrap();
    user.gone("shop", "web", SOON).await;
    assert_eq!(world.folders().await.unwrap(), Vec::<String>::new());
}

/// Seed 6868: a clone whose answer was lost ended while the operator was looking for
/// it: after it had asked for the machine, and before it asked for running tasks. It
/// was taken for lost, and asked for again.
#[tokio::test(start_paused = true)]
async fn s3_a_clone_that_ends_while_it_is_looked_for() {
    let clone_takes = Duration::from_secs(6);
    let mut world = SimWorld::make(Options { clone_takes, ..Options::default() }).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    world.deed(Deed::LoseReplies { method: "CloneVM_Task", times: 1 }).await.unwrap();
    user.group("shop", "web", 1).await;
    let running = |task: &TaskView| task.method == "CloneVM_Task";
    while !world.vcenter.tasks().iter().any(running) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // It looks every two seconds; one of these looks takes long.
    tokio::time::sleep(Duration::from_secs(4)).await;
    world.vcenter.faults().add(Rule::next("RetrievePropertiesEx", Fault::Delay(Duration::from_secs(8))));
    user.ready("shop", "web", 1, SOON * 2).await;
    assert_eq!(world.calls().await.unwrap()["CloneVM_Task"], 1);
}

/// Seed 14795: a pass that waited long for its folder began tasks on slots that had
/// gone to another group meanwhile.
#[tokio::test(start_paused = true)]
async fn the_limit_holds_for_a_pass_that_was_held_up() {
    let options = Options { max_tasks: 1, clone_takes: Duration::from_secs(50), ..Options::default() };
    let mut world = SimWorld::make(options).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    world.vcenter.faults().add(Rule::next("CreateFolder", Fault::Delay(Duration::from_secs(40))));
    user.group("shop", "slow", 1).await;
    let asked = async || match world.calls().await.unwrap().get("CreateFolder") {
        Some(1) => Ok(()),
        times => Err(format!("{times:?} calls")),
    };
    eventually("the folder is asked for", SOON, asked).await;
    user.group("shop", "quick", 1).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    // It looks again, and by now the other's slot has expired.
    user.scale("shop", "quick", 2).await;
    let ready = async {
        user.ready("shop", "quick", 2, SOON * 10).await;
        user.ready("shop", "slow", 1, SOON * 10).await;
    };
    let most = async {
        let mut most = 0;
        loop {
            let running = |task: &&TaskView| task.state == TaskState::Running;
            most = most.max(world.vcenter.tasks().iter().filter(running).count());
            assert!(most <= 1, "{most} tasks at a time");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = ready => {}
        () = most => {}
    }
}

/// Seeds 2657 and 2660: while a slow pass chose who should go, the group was scaled
/// out again; the choice was carried out for all that.
#[tokio::test(start_paused = true)]
async fn s5_a_change_of_mind_during_the_choice() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 4).await;
    user.ready("shop", "web", 4, SOON).await;
    // What the choice is made by.
    world.vcenter.faults().add(Rule::next("RetrievePropertiesEx", Fault::Delay(Duration::from_secs(10))));
    user.scale("shop", "web", 2).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    user.scale("shop", "web", 5).await;
    user.ready("shop", "web", 5, SOON).await;
    assert_eq!(world.calls().await.unwrap().get("PowerOffVM_Task"), None);
}

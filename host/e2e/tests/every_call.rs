//! L4: the operator dies at, or loses the answer of, every single call of a
//! reference story; each time the story ends as it should, and S1 to S3 hold.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::collections::BTreeSet;
use std::time::Duration;

use vmgroup_e2e::sabotage::{Blow, Sabotage};
use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Options, User, World};

const SOON: Duration = Duration::from_secs(600);

/// Up to two, three, down to one, gone.
async fn story(world: &SimWorld) {
    let user = User::of(world);
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    user.scale("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    let before: BTreeSet<String> = world.vcenter.vms().into_iter().map(|vm| vm.instance_uuid).collect();
    user.scale("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    for vm in world.vcenter.vms().iter().filter(|vm| !vm.template) {
        assert!(before.contains(&vm.instance_uuid), "S5: a member was replaced by a scale-in");
    }
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    assert!(world.vms().await.unwrap().is_empty(), "S1: {:?}", world.vms().await.unwrap());
    assert!(world.folders().await.unwrap().is_empty(), "{:?}", world.folders().await.unwrap());
}

/// Never more machines than the larger of the old and the new count (S3).
async fn never_more_than_three(world: &SimWorld) {
    loop {
        let count = world.vcenter.vms().iter().filter(|vm| !vm.template).count();
        assert!(count <= 3, "S3: {count} machines");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Kills the operator when its time has come, and starts another one.
async fn killer(world: &mut SimWorld) {
    let sabotage = world.sabotage.clone();
    sabotage.crash().await;
    world.kill_operator().await.unwrap();
    world.start_operator().await.unwrap();
    std::future::pending::<()>().await;
}

fn run(sabotage: Sabotage, seed: u64) -> Sabotage {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = SimWorld::seeded(Options::default(), seed).unwrap();
        world.sabotage = sabotage.clone();
        world.start_operator().await.unwrap();
        let watcher = world.onlooker();
        let teller = world.onlooker();
        tokio::select! {
            () = story(&teller) => {}
            () = never_more_than_three(&watcher) => {}
            () = killer(&mut world) => {}
        }
        world.kill_operator().await.unwrap();
    });
    sabotage
}

fn every_call(blow: Blow) {
    let calls = run(Sabotage::default(), 1).calls();
    assert!(calls > 60, "the story makes only {calls} calls");
    let mut struck = 0;
    for call in 0..calls {
        let sabotage = Sabotage::at(call, blow);
        let copy = sabotage.clone();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || run(copy, 1)));
        let what = sabotage.struck();
        assert!(result.is_ok(), "{blow:?} at call {call} ({what:?}): see above");
        struck += usize::from(what.is_some());
    }
    assert!(struck as u64 >= calls * 9 / 10, "only {struck} of {calls} calls were struck");
    println!("{blow:?}: {struck} of {calls} calls struck, no violation");
}

#[test]
fn l4_crash_before_every_call() {
    every_call(Blow::CrashBefore);
}

#[test]
fn l4_crash_after_every_call() {
    every_call(Blow::CrashAfter);
}

#[test]
fn l4_reply_lost_at_every_call() {
    every_call(Blow::ReplyLost);
}

/// The same seed gives the same run, call for call.
#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(Sabotage::default(), 5).calls(), run(Sabotage::default(), 5).calls());
}

/// The story itself, as a check of this file: it can fail.
#[test]
#[should_panic(expected = "not in time")]
fn a_story_without_an_operator_fails() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = SimWorld::make(Options::default()).await.unwrap();
        story(&world).await;
    });
}

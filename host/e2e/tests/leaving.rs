//! How members leave: their guests are asked, have their time, and go.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::time::Duration;

use serde_json::json;
use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Deed, Options, User, VmView, World, eventually};
use vmgroup_sim::faults::{Fault, Rule};

const SOON: Duration = Duration::from_secs(60);

/// The group `shop/web` with one member, ready, whose guest does not shut down.
async fn with_a_stubborn_guest(grace: Option<u32>) -> (SimWorld, User) {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 1).await;
    world.kube.patch_spec("vmgroups", Some("shop"), "web", json!({"gracePeriodSeconds": grace})).unwrap();
    user.ready("shop", "web", 1, SOON).await;
    world.vcenter.set_guest(&only(&world).await.path, true, false).unwrap();
    (world, user)
}

async fn only(world: &SimWorld) -> VmView {
    let vms = world.vms().await.unwrap();
    assert_eq!(vms.len(), 1, "{vms:?}");
    vms[0].clone()
}

async fn count(world: &SimWorld, method: &str) -> u64 {
    world.calls().await.unwrap().get(method).copied().unwrap_or(0)
}

async fn asked(world: &SimWorld) {
    eventually("its guest is asked", SOON, async || match count(world, "ShutdownGuest").await {
        0 => Err("not yet".to_owned()),
        _ => Ok(()),
    })
    .await;
}

fn stopping_since(world: &SimWorld) -> Option<String> {
    let object = world.kube.get("vmgroups", Some("shop"), "web").unwrap();
    object["status"]["members"][0]["stoppingSince"].as_str().map(str::to_owned)
}

/// A guest that does not shut down has its time, and no more; and all see why.
#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_obey_is_powered_off_when_its_time_is_up() {
    let (world, user) = with_a_stubborn_guest(None).await;
    user.scale("shop", "web", 0).await;
    asked(&world).await;
    assert!(stopping_since(&world).is_some(), "since when is written down");
    user.told("shop", "web", "Reconciling", "waiting for 1 guest to shut down", SOON).await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(only(&world).await.on, "it has a minute");
    user.ready("shop", "web", 0, Duration::from_secs(20)).await;
    assert_eq!((count(&world, "ShutdownGuest").await, count(&world, "PowerOffVM_Task").await), (1, 1));
    let events = user.events("shop", "web").await;
    assert!(events.iter().any(|event| event.starts_with("ShutdownTimedOut")), "{events:#?}");
}

/// The time goes on while no operator is there, and whoever comes goes by it.
#[tokio::test(start_paused = true)]
async fn l12_the_time_of_a_guest_survives_the_operator() {
    let (mut world, user) = with_a_stubborn_guest(Some(300)).await;
    user.scale("shop", "web", 0).await;
    asked(&world).await;
    let since = stopping_since(&world);
    world.kill_operator().await.unwrap();
    tokio::time::sleep(Duration::from_secs(200)).await;
    world.start_operator().await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(only(&world).await.on, "its time is not up");
    assert_eq!(stopping_since(&world), since, "it has not begun anew either");
    user.ready("shop", "web", 0, Duration::from_secs(60)).await;
}

/// Whoever finds that time was up while nobody was there asks nobody any more.
#[tokio::test(start_paused = true)]
async fn l12_whose_time_was_up_meanwhile_goes_at_once() {
    let (mut world, user) = with_a_stubborn_guest(Some(300)).await;
    user.scale("shop", "web", 0).await;
    asked(&world).await;
    world.kill_operator().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    world.start_operator().await.unwrap();
    user.ready("shop", "web", 0, Duration::from_secs(30)).await;
    assert_eq!(count(&world, "ShutdownGuest").await, 1);
}

/// Less patience counts for who is waited for already.
#[tokio::test(start_paused = true)]
async fn a_shorter_time_counts_at_once() {
    let (world, user) = with_a_stubborn_guest(Some(86_400)).await;
    user.scale("shop", "web", 0).await;
    asked(&world).await;
    tokio::time::sleep(SOON).await;
    assert!(only(&world).await.on);
    world.kube.patch_spec("vmgroups", Some("shop"), "web", json!({"gracePeriodSeconds": 1})).unwrap();
    user.ready("shop", "web", 0, Duration::from_secs(10)).await;
}

/// Where no tools run nobody would hear, and nobody waits; and while one is waited
/// for, nothing else is.
#[tokio::test(start_paused = true)]
async fn without_tools_there_is_nothing_to_wait_for() {
    let (world, user) = with_a_stubborn_guest(Some(600)).await;
    user.group("shop", "db", 1).await;
    user.ready("shop", "db", 1, SOON).await;
    let db = world.vms().await.unwrap().into_iter().find(|vm| vm.path.contains("shop-db")).unwrap();
    world.vcenter.set_guest(&db.path, false, true).unwrap();
    user.delete("shop", "web").await;
    asked(&world).await;
    user.delete("shop", "db").await;
    user.gone("shop", "db", Duration::from_secs(10)).await;
    assert_eq!(count(&world, "ShutdownGuest").await, 1, "only the one that can hear");
    user.gone("shop", "web", SOON * 11).await;
}

/// L2: while a guest is waited for nothing is written and nothing is asked.
#[tokio::test(start_paused = true)]
async fn l2_waiting_for_a_guest_costs_nothing() {
    let (world, user) = with_a_stubborn_guest(Some(3600)).await;
    user.scale("shop", "web", 0).await;
    asked(&world).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (writes, before) = (world.kube.writes(), world.calls().await.unwrap());
    tokio::time::sleep(Duration::from_secs(3000)).await;
    assert_eq!(world.kube.writes(), writes);
    let mut calls = world.calls().await.unwrap();
    calls.retain(|method, count| before.get(method) != Some(count));
    calls.retain(|method, _| method != "WaitForUpdatesEx" && method != "CurrentTime");
    assert!(calls.is_empty(), "{calls:?}");
    user.ready("shop", "web", 0, Duration::from_secs(700)).await;
}

/// S2: a machine that has lost its mark a moment ago is not asked to shut down.
#[tokio::test(start_paused = true)]
async fn s2_a_fresh_read_comes_before_a_shutdown() {
    let (world, user) = with_a_stubborn_guest(None).await;
    let vm = only(&world).await;
    world.vcenter.set_guest(&vm.path, true, true).unwrap();
    tokio::time::sleep(SOON).await;
    // The watch tells of it late.
    world.vcenter.faults().add(Rule::next("WaitForUpdatesEx", Fault::Delay(SOON)));
    world.vcenter.add_folder("/DC0/vm/vm-operator", "a-folder-that-is-seen").unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.vcenter.set_extra(&vm.path, "vmgroup.group-uid", "").unwrap();
    user.scale("shop", "web", 0).await;
    user.ready("shop", "web", 0, SOON * 3).await;
    assert!(only(&world).await.on);
    assert_eq!(count(&world, "ShutdownGuest").await, 0);
}

/// The answer to the question got lost: it is asked again, or has obeyed by then.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_of_a_guest_is_no_reason_to_pull_the_plug() {
    let (world, user) = with_a_stubborn_guest(None).await;
    world.vcenter.set_guest(&only(&world).await.path, true, true).unwrap();
    world.deed(Deed::LoseReplies { method: "ShutdownGuest", times: 1 }).await.unwrap();
    user.scale("shop", "web", 0).await;
    user.ready("shop", "web", 0, SOON).await;
    assert_eq!(count(&world, "PowerOffVM_Task").await, 0);
}

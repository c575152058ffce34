//! How members leave: their guests are asked, have their time, and go. And how they
//! stay: protected, held, retained, released.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::time::Duration;

use serde_json::json;
use vmgroup_api::{HOLD_SCALE_IN_ANNOTATION, ORPHAN_ANNOTATION, PROTECTED_MEMBERS_ANNOTATION};
use vmgroup_e2e::sabotage::{Blow, Sabotage};
use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Deed, Options, User, VmView, World, eventually};
use vmgroup_operator::cli::Output;
use vmgroup_operator::cli::orphans::{Deed as Deeds, Request, execute};
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

fn annotate(world: &SimWorld, key: &str, value: &str) {
    let patch = json!({"metadata": {"annotations": {key: value}}});
    world.kube.patch("vmgroups", Some("shop"), "web", patch).unwrap();
}

/// The group `shop/web` with three members, ready.
async fn three() -> (SimWorld, User, Vec<VmView>) {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    let vms = world.vms().await.unwrap();
    (world, user, vms)
}

/// What the command line says of orphans.
async fn orphans(world: &SimWorld) -> String {
    let hand = world.hand().await.unwrap();
    let request = Request { deed: Deeds::List, names: Vec::new(), all: false, yes: false, output: Output::Text };
    let mut out = Vec::new();
    execute(&hand, &request, &mut out).await.unwrap();
    hand.vcenter.logout().await;
    String::from_utf8(out).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_scale_in_is_held_as_long_as_the_group_says_so() {
    let (world, user, _) = three().await;
    annotate(&world, HOLD_SCALE_IN_ANNOTATION, "true");
    user.scale("shop", "web", 1).await;
    let message = user.told("shop", "web", "Reconciling", "scale-in is held", SOON).await;
    assert!(message.contains("2 members more than 1") && message.contains(HOLD_SCALE_IN_ANNOTATION), "{message}");
    tokio::time::sleep(SOON * 10).await;
    assert_eq!(world.vms().await.unwrap().len(), 3);
    user.scale("shop", "web", 4).await;
    user.ready("shop", "web", 4, SOON).await;
    user.scale("shop", "web", 1).await;
    annotate(&world, HOLD_SCALE_IN_ANNOTATION, "false");
    user.ready("shop", "web", 1, SOON).await;
}

/// S5: who is protected is never chosen, and the others go as far as they can.
#[tokio::test(start_paused = true)]
async fn s5_protected_members_outlast_every_scale_in() {
    let (world, user, vms) = three().await;
    annotate(&world, PROTECTED_MEMBERS_ANNOTATION, &vms[1].name);
    world.vcenter.set_extra(&vms[2].path, "vmgroup.attr.protected", "true").unwrap();
    tokio::time::sleep(SOON).await;
    user.scale("shop", "web", 0).await;
    user.told("shop", "web", "Reconciling", "2 members more than 0", SOON).await;
    let mut left: Vec<String> = world.vms().await.unwrap().into_iter().map(|vm| vm.name).collect();
    left.sort();
    let mut protected = vec![vms[1].name.clone(), vms[2].name.clone()];
    protected.sort();
    assert_eq!(left, protected);
    world.vcenter.set_extra(&vms[2].path, "vmgroup.attr.protected", "").unwrap();
    annotate(&world, PROTECTED_MEMBERS_ANNOTATION, "");
    user.ready("shop", "web", 0, SOON).await;
}

/// A group that retains its machines goes, and they stay, on and nobody's; all is told.
#[tokio::test(start_paused = true)]
async fn s1_retained_machines_are_released_and_named() {
    let (world, user, vms) = three().await;
    world.kube.patch_spec("vmgroups", Some("shop"), "web", json!({"deletionPolicy": "Retain"})).unwrap();
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    let left = world.vms().await.unwrap();
    assert_eq!(left.len(), 3);
    assert!(left.iter().all(|vm| vm.on && !vm.extra.contains_key("vmgroup.group-uid")), "{left:?}");
    let events = user.events("shop", "web").await;
    for vm in &vms {
        let named = |event: &String| event.starts_with("Released") && event.contains(&vm.name);
        assert!(events.iter().any(named), "{}: {events:#?}", vm.name);
    }
    assert!(events.iter().any(|event| event.starts_with("FolderLeft") && event.contains("released")), "{events:#?}");
    let listed = orphans(&world).await;
    assert_eq!(listed.matches("released ").count(), 3, "{listed}");
    // A group of the same name does not take them for its own, and harms none.
    user.group("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    assert_eq!(world.vms().await.unwrap(), left);
}

/// L4: wherever the operator dies or loses an answer, nobody is destroyed, and all
/// are released.
#[test]
fn l4_a_release_survives_every_blow() {
    let run = |sabotage: Sabotage| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = SimWorld::make(Options::default()).await.unwrap();
            world.sabotage = sabotage.clone();
            world.start_operator().await.unwrap();
            let onlooker = world.onlooker();
            let story = async {
                let user = User::of(&onlooker);
                user.group("shop", "web", 2).await;
                user.ready("shop", "web", 2, SOON * 10).await;
                annotate(&onlooker, ORPHAN_ANNOTATION, "true");
                user.delete("shop", "web").await;
                user.gone("shop", "web", SOON * 10).await;
                let left = onlooker.vms().await.unwrap();
                let released = |vm: &VmView| vm.extra.contains_key("vmgroup.released");
                assert!(left.len() == 2 && left.iter().all(|vm| vm.on && released(vm)), "{left:?}");
            };
            let killer = async {
                sabotage.crash().await;
                world.kill_operator().await.unwrap();
                world.start_operator().await.unwrap();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = story => {}
                () = killer => {}
            }
            world.kill_operator().await.unwrap();
        });
        sabotage
    };
    let calls = run(Sabotage::default()).calls();
    for call in 0..calls {
        for blow in [Blow::CrashBefore, Blow::CrashAfter, Blow::ReplyLost] {
            let sabotage = Sabotage::at(call, blow);
            let copy = sabotage.clone();
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || run(copy)));
            assert!(result.is_ok(), "{blow:?} at call {call} of {calls} ({:?}): see above", sabotage.struck());
        }
    }
}

/// L9: the way out. With vCenter away a deletion waits, also if its machines are to
/// be released; only who says so explicitly gives them up, and is told what is where.
#[tokio::test(start_paused = true)]
async fn l9_the_way_out_is_asked_for_and_never_silent() {
    let (world, user, vms) = three().await;
    world.deed(Deed::Down).await.unwrap();
    user.delete("shop", "web").await;
    user.told("shop", "web", "Reconciling", "orphan=unreachable", SOON).await;
    annotate(&world, ORPHAN_ANNOTATION, "true");
    tokio::time::sleep(SOON * 30).await;
    assert!(world.kube.get("vmgroups", Some("shop"), "web").is_some(), "it is not given up");
    annotate(&world, ORPHAN_ANNOTATION, "unreachable");
    user.gone("shop", "web", SOON).await;
    let events = user.events("shop", "web").await;
    let told = events.iter().find(|event| event.starts_with("Abandoned")).expect("an event");
    assert!(told.contains("shop-web") && vms.iter().all(|vm| told.contains(&vm.name)), "{told}");
    world.deed(Deed::Up).await.unwrap();
    tokio::time::sleep(SOON * 30).await;
    let left = world.vms().await.unwrap();
    assert!(left.len() == 3 && left.iter().all(|vm| vm.on), "{left:?}");
    let listed = orphans(&world).await;
    assert_eq!(listed.matches("orphan ").count(), 3, "{listed}");
}

/// With vCenter there, giving up is releasing.
#[tokio::test(start_paused = true)]
async fn l9_nobody_is_given_up_while_vcenter_is_there() {
    let (world, user, _) = three().await;
    annotate(&world, ORPHAN_ANNOTATION, "unreachable");
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    let left = world.vms().await.unwrap();
    assert!(left.len() == 3 && left.iter().all(|vm| vm.extra.contains_key("vmgroup.released")), "{left:?}");
}

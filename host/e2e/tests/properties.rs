//! The properties that no other suite shows by name, each as one story in the
//! simulated world. `ARCHITECTURE.md` lists all of them with their tests.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kube::CustomResourceExt;
use serde_json::{Value, json};
use tokio::sync::Notify;
use vmgroup_api::VmGroup;
use vmgroup_e2e::sabotage::{Line, Witness};
use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Deed, Options, TEMPLATE, User, World, eventually};
use vmgroup_sim::kube::WatchFault;

const SOON: Duration = Duration::from_secs(60);

async fn running(options: Options) -> (SimWorld, User) {
    let mut world = SimWorld::make(options).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    (world, user)
}

fn object(world: &SimWorld, name: &str) -> Option<Value> {
    world.kube.get("vmgroups", Some("shop"), name)
}

/// The calls to vCenter but those that there are at rest.
async fn calls(world: &SimWorld) -> BTreeMap<String, u64> {
    let mut calls = world.calls().await.unwrap();
    calls.retain(|method, _| method != "WaitForUpdatesEx" && method != "CurrentTime");
    calls
}

/// The CRD as somebody might have installed it who checks nothing.
async fn without_schema() -> SimWorld {
    let world = SimWorld::make(Options { crd: false, ..Options::default() }).await.unwrap();
    let mut crd = serde_json::to_value(VmGroup::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    world.kube.apply(crd).unwrap();
    world.kube.create_namespace("shop").unwrap();
    world
}

fn manifest(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "vm.codeconnect.vmworld.com/v1alpha1", "kind": "VmGroup",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}

/// S1: deleted in the middle of a scale-out while nobody was there to see it, a
/// group leaves nothing.
#[tokio::test(start_paused = true)]
async fn s1_nothing_is_left_of_a_group_that_is_gone() {
    let options = Options { clone_takes: Duration::from_secs(5), max_tasks: 3, ..Options::default() };
    let (mut world, user) = running(options).await;
    user.group("shop", "web", 8).await;
    eventually("some are there and some on the way", SOON, async || {
        let count = world.vms().await.unwrap().len();
        if count >= 4 { Ok(()) } else { Err(format!("{count}")) }
    })
    .await;
    world.kill_operator().await.unwrap();
    user.delete("shop", "web").await;
    world.start_operator().await.unwrap();
    user.gone("shop", "web", SOON * 2).await;
    // Clones that were under way have come to their end by then.
    tokio::time::sleep(SOON).await;
    assert_eq!(world.vms().await.unwrap().len(), 0);
    assert_eq!(world.folders().await.unwrap(), Vec::<String>::new());
}

/// S6: the finalizer is there before anything is in vCenter, and until nothing is.
#[tokio::test(start_paused = true)]
async fn s6_the_finalizer_comes_first_and_goes_last() {
    let (world, user) = running(Options::default()).await;
    let held = async {
        loop {
            let something = !world.vms().await.unwrap().is_empty() || !world.folders().await.unwrap().is_empty();
            let finalizers = object(&world, "web").map(|object| object["metadata"]["finalizers"].clone());
            let held = finalizers.as_ref().and_then(Value::as_array).is_some_and(|held| !held.is_empty());
            assert!(held || !something, "something is in vCenter, and nothing holds the group");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let story = async {
        user.group("shop", "web", 3).await;
        user.ready("shop", "web", 3, SOON).await;
        user.delete("shop", "web").await;
        user.gone("shop", "web", SOON).await;
    };
    tokio::select! {
        () = held => {}
        () = story => {}
    }
    assert_eq!(world.vms().await.unwrap().len(), 0);
}

/// S10: what cannot be is refused whole, with what to do.
#[tokio::test(start_paused = true)]
async fn s10_an_edit_that_cannot_be_changes_nothing() {
    let (world, user) = running(Options::default()).await;
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let before = object(&world, "web").unwrap();
    for (spec, word) in [
        (json!({"replicas": 5, "cpu": 0}), "cpu"),
        (json!({"replicas": 5, "template": ""}), "template"),
        (json!({"replicas": 5, "updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}), "maxUnavailable"),
        (json!({"replicas": 5, "updateStrategy": {"rollingUpdate": {"maxSurge": "200%"}}}), "maxSurge"),
        (json!({"replicas": 5, "memory": 0}), "memory"),
        (json!({"replicas": -1}), "replicas"),
        (json!({"replicas": 1001}), "replicas"),
    ] {
        let refused = world.kube.patch_spec("vmgroups", Some("shop"), "web", spec).unwrap_err();
        assert!(refused.message.contains(word), "{}", refused.message);
    }
    tokio::time::sleep(SOON).await;
    assert_eq!(object(&world, "web").unwrap(), before);
    assert_eq!(world.vms().await.unwrap().len(), 2);
}

/// S10 and L7: where the API server lets it pass, the operator refuses an invalid
/// spec whole; a valid one heals it without a hand.
#[tokio::test(start_paused = true)]
async fn l7_an_invalid_spec_heals_with_a_valid_one() {
    let mut world = without_schema().await;
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    world.kube.apply(manifest("web", &json!({"cpu": 0, "memory": 1, "replicas": 2, "template": TEMPLATE}))).unwrap();
    user.told("shop", "web", "Stalled", "cpu", SOON).await;
    assert_eq!(world.vms().await.unwrap().len(), 0, "nothing is half applied");
    world.kube.patch_spec("vmgroups", Some("shop"), "web", json!({"cpu": 1})).unwrap();
    user.ready("shop", "web", 2, SOON).await;
}

/// L3: looking again at what is as wished changes nothing, nor does another
/// operator that looks at it for the first time.
#[tokio::test(start_paused = true)]
async fn l3_twice_is_once() {
    let (mut world, user) = running(Options::default()).await;
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    tokio::time::sleep(SOON).await;
    let (status, machines) = (object(&world, "web").unwrap()["status"].clone(), world.vcenter.vms());
    let (writes, before) = (world.kube.writes(), calls(&world).await);
    let note = json!({"metadata": {"annotations": {"shop/note": "1"}}});
    world.kube.patch("vmgroups", Some("shop"), "web", note).unwrap();
    tokio::time::sleep(SOON).await;
    assert_eq!(world.kube.writes(), writes);
    assert_eq!(calls(&world).await, before);
    world.kill_operator().await.unwrap();
    world.start_operator().await.unwrap();
    tokio::time::sleep(SOON).await;
    assert_eq!(object(&world, "web").unwrap()["status"], status);
    assert_eq!(world.vcenter.vms(), machines);
}

/// Up, down and gone, with one event of a watch disturbed; returns how many events
/// there were.
fn disturbed(at: u64, fault: Option<WatchFault>) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (world, user) = running(Options::default()).await;
        let (count, struck) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let (counted, told) = (count.clone(), struck.clone());
        world.kube.disturb_watches(move |_| {
            let due = counted.fetch_add(1, Ordering::Relaxed) == at;
            if due {
                told.notify_one();
            }
            fault.filter(|_| due)
        });
        let story = async {
            for replicas in [2, 3, 1] {
                match object(&world, "web") {
                    None => drop(user.group("shop", "web", replicas).await),
                    Some(_) => user.scale("shop", "web", replicas).await,
                }
                user.ready("shop", "web", i32::try_from(replicas).unwrap(), SOON * 10).await;
            }
            user.delete("shop", "web").await;
            user.gone("shop", "web", SOON * 10).await;
            assert!(world.vms().await.unwrap().is_empty(), "S1");
        };
        let never_more = async {
            loop {
                let there = world.vms().await.unwrap().len();
                assert!(there <= 3, "S3: {there} machines");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        // A watch does not last for ever: that is when what was lost is made up for.
        let next_list = async {
            struck.notified().await;
            tokio::time::sleep(SOON).await;
            world.kube.calm_watches();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = story => {}
            () = never_more => {}
            () = next_list => {}
        }
        count.load(Ordering::Relaxed)
    })
}

/// L5: every single event of a story may be lost, repeated, overtaken or late.
#[test]
fn l5_any_watch_event_may_be_lost_repeated_or_reordered() {
    let events = disturbed(u64::MAX, None);
    assert!(events >= 8, "the story has only {events} events");
    let late = Duration::from_secs(20);
    for at in 0..events {
        for fault in [WatchFault::Drop, WatchFault::Repeat, WatchFault::Late(late), WatchFault::Stall(late)] {
            let told = std::panic::catch_unwind(|| disturbed(at, Some(fault)));
            assert!(told.is_ok(), "{fault:?} of event {at} of {events}: see above");
        }
    }
}

/// L9: deletion with vCenter away waits, says so, and comes to its end.
#[tokio::test(start_paused = true)]
async fn l9_deletion_waits_for_vcenter_and_says_so() {
    let (world, user) = running(Options::default()).await;
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    world.deed(Deed::Down).await.unwrap();
    user.delete("shop", "web").await;
    user.told("shop", "web", "Reconciling", "deletion waits", SOON).await;
    tokio::time::sleep(SOON * 30).await;
    assert!(object(&world, "web").is_some(), "it is not given up");
    world.deed(Deed::Up).await.unwrap();
    user.gone("shop", "web", SOON * 5).await;
    assert_eq!(world.vms().await.unwrap().len(), 0);
}

/// L14: an object that nobody can read, there from the start or made later, stops
/// nobody else, and is looked after when it can be read.
#[tokio::test(start_paused = true)]
async fn l14_one_unreadable_object_stops_nobody_else() {
    let mut world = without_schema().await;
    let good = json!({"cpu": 1, "memory": 1, "replicas": 2, "template": TEMPLATE});
    let bad = json!({"cpu": "many", "memory": [1], "replicas": {"a": "few"}, "template": 7});
    world.kube.apply(manifest("bad", &bad)).unwrap();
    world.kube.apply(manifest("web", &good)).unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.ready("shop", "web", 2, SOON).await;
    world.kube.apply(manifest("worse", &json!("no object at all"))).unwrap();
    user.scale("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    world.kube.apply(manifest("late", &good)).unwrap();
    user.ready("shop", "late", 2, SOON).await;
    world.kube.apply(manifest("bad", &good)).unwrap();
    user.ready("shop", "bad", 2, SOON * 5).await;
}

/// Panics in the midst of a pass: when the second clone call of a group goes out.
#[derive(Default)]
struct Panics {
    clones: AtomicU64,
}

impl Witness for Panics {
    fn leaves(&self, _line: Line, envelope: &str) {
        let of_bad = envelope.contains("<CloneVM_Task ") && envelope.contains(">shop/bad<");
        let second = of_bad && self.clones.fetch_add(1, Ordering::SeqCst) == 1;
        assert!(!second, "a bug in a pass, made by a test");
    }

    fn served(&self, _line: Line, _envelope: &str, _well: bool) {}

    fn ended(&self, _line: Line, _envelope: &str) {}

    fn late(&self, _line: Line, _envelope: &str) {}
}

/// L14: a panic ends the pass that it comes in, and nothing else. It is reported,
/// what the pass held is free again, and the group's next pass goes on from the
/// record.
#[tokio::test(start_paused = true)]
async fn l14_a_panic_in_the_middle_of_a_pass_ends_that_pass_alone() {
    let options = Options { clone_takes: Duration::from_secs(2), max_tasks: 2, ..Options::default() };
    let mut world = SimWorld::make(options).await.unwrap();
    let panics = Arc::new(Panics::default());
    world.witness = Some(panics.clone());
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "bad", 4).await;
    user.group("shop", "web", 4).await;
    user.ready("shop", "web", 4, SOON).await;
    user.ready("shop", "bad", 4, SOON * 5).await;
    assert!(panics.clones.load(Ordering::SeqCst) > 1, "it has come to that");
    assert_eq!(world.vms().await.unwrap().len(), 8, "nobody was made twice");
    let page = world.metrics(0).encode();
    for told in [
        r#"controller_runtime_reconcile_panics_total{controller="vmgroup"} 1"#,
        r#"controller_runtime_reconcile_errors_total{controller="vmgroup"} 1"#,
    ] {
        assert!(page.lines().any(|line| line == told), "{told}: {page}");
    }
    user.scale("shop", "bad", 1).await;
    user.ready("shop", "bad", 1, SOON).await;
}

/// L15: the calls to vCenter and the writes to Kubernetes do not grow with the
/// number of passes. `a_thousand_members` and `make bench` look at size.
#[tokio::test(start_paused = true)]
async fn l15_passes_cost_no_calls() {
    const COUNT: usize = 60;
    let options = Options { clone_takes: Duration::from_millis(100), max_tasks: 50, ..Options::default() };
    let (world, user) = running(options).await;
    for index in 0..COUNT {
        user.group("shop", &format!("web-{index}"), 2).await;
    }
    for index in 0..COUNT {
        user.ready("shop", &format!("web-{index}"), 2, SOON * 5).await;
    }
    tokio::time::sleep(SOON * 10).await;
    let (writes, before) = (world.kube.writes(), calls(&world).await);
    for round in 0..5 {
        for index in 0..COUNT {
            let note = json!({"metadata": {"annotations": {"shop/note": round.to_string()}}});
            world.kube.patch("vmgroups", Some("shop"), &format!("web-{index}"), note).unwrap();
        }
        tokio::time::sleep(SOON).await;
    }
    assert_eq!(calls(&world).await, before);
    assert_eq!(world.kube.writes(), writes);
}

//! When members count as ready: by what their guests say.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::time::Duration;

use serde_json::{Value, json};
use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Options, TEMPLATE, User, World, eventually};

const SOON: Duration = Duration::from_secs(60);

/// A group of two with this in its spec.
async fn group(world: &SimWorld, extra: Value) -> User {
    let mut spec = json!({"cpu": 1, "memory": 1, "replicas": 2, "template": TEMPLATE});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let user = User::of(world);
    user.namespace("shop").await;
    let group = json!({
        "apiVersion": "vm.codeconnect.vmworld.com/v1alpha1", "kind": "VmGroup",
        "metadata": {"name": "web", "namespace": "shop"}, "spec": spec,
    });
    world.kube.apply(group).unwrap();
    user
}

fn status(world: &SimWorld) -> Value {
    world.kube.get("vmgroups", Some("shop"), "web").unwrap()["status"].clone()
}

/// A member counts when its guest says so, and has its address in the status; one
/// whose guest is silent is named when its time is up, and waited for.
#[tokio::test(start_paused = true)]
async fn ready_is_who_says_so() {
    for gate in ["ToolsRunning", "Address", "Heartbeat"] {
        let mut world = SimWorld::make(Options::default()).await.unwrap();
        world.start_operator().await.unwrap();
        let user = group(&world, json!({"readiness": {"type": gate, "timeoutSeconds": 120}})).await;
        user.ready("shop", "web", 2, SOON).await;
        let told = status(&world);
        let members = told["members"].as_array().unwrap();
        assert!(
            members.iter().all(|member| member["address"].as_str().is_some_and(|it| it.starts_with("10."))),
            "{told}"
        );

        let mute = world.vms().await.unwrap()[0].clone();
        world.vcenter.set_guest(&mute.path, false, false).unwrap();
        let message = user.told("shop", "web", "Stalled", "not within spec.readiness.timeoutSeconds", SOON * 5).await;
        assert!(message.contains("1 of 2 members are ready") && message.contains(&mute.name), "{message}");
        assert_eq!(status(&world)["readyReplicas"], 1);
        let writes = world.kube.writes();
        tokio::time::sleep(SOON * 30).await;
        assert_eq!(world.kube.writes(), writes, "L2: who is late is waited for, not asked");
        world.vcenter.set_guest(&mute.path, true, true).unwrap();
        user.ready("shop", "web", 2, SOON).await;
    }
}

/// A rollout waits for guests, not for power: while new members are not ready
/// nobody else goes.
#[tokio::test(start_paused = true)]
async fn a_rollout_waits_until_guests_are_ready() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.vcenter.add_template("/DC0/vm", "mute").unwrap();
    world.vcenter.set_guest("/DC0/vm/mute", false, false).unwrap();
    world.start_operator().await.unwrap();
    let spec = json!({"readiness": {"type": "ToolsRunning", "timeoutSeconds": 60}, "progressDeadlineSeconds": 300});
    let user = group(&world, spec).await;
    user.ready("shop", "web", 2, SOON).await;
    let before = world.vms().await.unwrap();
    world.kube.patch_spec("vmgroups", Some("shop"), "web", json!({"template": "mute"})).unwrap();
    user.told("shop", "web", "Stalled", "the rollout has come no further", SOON * 10).await;
    let now = world.vms().await.unwrap();
    assert_eq!(now.iter().filter(|vm| before.contains(vm)).count(), 1, "no other goes: {now:#?}");
    assert!(now.len() == 2 && now.iter().all(|vm| vm.on));
    world.kube.patch_spec("vmgroups", Some("shop"), "web", json!({"template": TEMPLATE})).unwrap();
    user.ready("shop", "web", 2, SOON * 5).await;
    assert_eq!(world.vms().await.unwrap().iter().filter(|vm| before.contains(vm)).count(), 1);
}

/// `minReadySeconds` counts from when a member is ready, and an operator that comes
/// later neither forgets that nor takes those who were ready for new.
#[tokio::test(start_paused = true)]
async fn l3_min_ready_seconds_outlast_the_operator() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = group(&world, json!({"readiness": {"type": "Heartbeat"}, "minReadySeconds": 40})).await;
    let readied = async || {
        let since = status(&world)["members"][0]["readySince"].clone();
        if since.is_string() { Ok(since) } else { Err(status(&world).to_string()) }
    };
    let since = eventually("a member is ready", SOON, readied).await;
    world.kill_operator().await.unwrap();
    world.start_operator().await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let told = status(&world);
    assert_eq!((&told["members"][0]["readySince"], &told["readyReplicas"]), (&since, &json!(0)));
    user.ready("shop", "web", 2, SOON).await;

    let (told, machines) = (status(&world), world.vcenter.vms());
    world.kill_operator().await.unwrap();
    world.start_operator().await.unwrap();
    tokio::time::sleep(SOON * 2).await;
    assert_eq!(status(&world), told);
    assert_eq!(world.vcenter.vms(), machines);
}

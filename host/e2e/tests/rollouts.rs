//! Changes of groups that stand, where something is in the way of them: what a
//! shared scenario cannot have happen on the real components.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::time::Duration;

use serde_json::{Value, json};
use vmgroup_api::RESTARTED_AT_ANNOTATION;
use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Options, TEMPLATE, User, VmView, World, eventually};
use vmgroup_sim::faults::{Fault, Rule};

const SOON: Duration = Duration::from_secs(120);
const OTHER: &str = "another-template";
const FOLDER: &str = "/DC0/vm";

async fn running(replicas: usize) -> (SimWorld, User) {
    running_with(replicas, false).await
}

/// `hot_add`: what is cloned takes CPUs and memory while it runs.
async fn running_with(replicas: usize, hot_add: bool) -> (SimWorld, User) {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.vcenter.add_template(FOLDER, OTHER).unwrap();
    world.vcenter.set_hot_add(&format!("{FOLDER}/{TEMPLATE}"), hot_add, hot_add).unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", replicas).await;
    user.ready("shop", "web", i32::try_from(replicas).unwrap(), SOON).await;
    (world, user)
}

fn edit(world: &SimWorld, spec: Value) {
    world.kube.patch_spec("vmgroups", Some("shop"), "web", spec).unwrap();
}

fn object(world: &SimWorld) -> Value {
    world.kube.get("vmgroups", Some("shop"), "web").unwrap()
}

fn status(world: &SimWorld) -> Value {
    object(world)["status"].clone()
}

fn ids(vms: &[VmView]) -> Vec<String> {
    let mut ids: Vec<String> = vms.iter().map(|vm| vm.instance_uuid.clone()).collect();
    ids.sort();
    ids
}

async fn updated(world: &SimWorld, replicas: usize) {
    eventually("all are as the spec says", SOON * 5, async || {
        let object = object(world);
        let status = &object["status"];
        let done = status["phase"] == "RUNNING"
            && status["updatedReplicas"] == replicas
            && status["observedGeneration"] == object["metadata"]["generation"];
        if done { Ok(()) } else { Err(status["lastMessage"].to_string()) }
    })
    .await;
}

/// New members that never come up: one goes and no other, the rollout says that it
/// is stuck and on whom, and taking the change back heals it.
#[tokio::test(start_paused = true)]
async fn l6_a_rollout_that_fails_stops_says_so_and_is_taken_back() {
    let (world, user) = running(4).await;
    let before = world.vms().await.unwrap();
    world.vcenter.faults().add(Rule {
        on: "PowerOnVM_Task".into(),
        skip: 0,
        times: u32::MAX,
        fault: Fault::FailTask("GenericVmConfigFault".into()),
    });
    edit(&world, json!({"template": OTHER, "progressDeadlineSeconds": 120}));
    let told = user.told("shop", "web", "Stalled", "the rollout has come no further", SOON * 3).await;
    assert!(told.contains("3 of 4 members are ready") && told.contains("GenericVmConfigFault"), "{told}");
    tokio::time::sleep(SOON * 5).await;
    let stuck = world.vms().await.unwrap();
    assert_eq!(stuck.iter().filter(|vm| vm.on).count(), 3, "no other goes: {stuck:#?}");
    assert_eq!(stuck.iter().filter(|vm| before.contains(vm)).count(), 3);
    let events = user.events("shop", "web").await;
    assert_eq!(events.iter().filter(|event| event.starts_with("RolloutStalled")).count(), 1, "{events:#?}");

    world.vcenter.faults().clear();
    edit(&world, json!({"template": TEMPLATE}));
    updated(&world, 4).await;
    let after = world.vms().await.unwrap();
    assert_eq!(after.iter().filter(|vm| before.contains(vm)).count(), 3, "who stood stayed");
    assert!(after.len() == 4 && after.iter().all(|vm| vm.on));
    assert!(status(&world)["rollout"].is_null());
}

/// What is stuck goes on by itself when what was in the way is gone.
#[tokio::test(start_paused = true)]
async fn l1_a_stuck_rollout_goes_on() {
    let (world, user) = running(3).await;
    let before = world.vms().await.unwrap();
    world.vcenter.faults().add(Rule {
        on: "CloneVM_Task".into(),
        skip: 0,
        times: u32::MAX,
        fault: Fault::FailTask("NoDiskSpace".into()),
    });
    edit(&world, json!({"template": OTHER, "progressDeadlineSeconds": 60}));
    user.told("shop", "web", "Stalled", "the rollout has come no further", SOON * 3).await;
    world.vcenter.faults().clear();
    updated(&world, 3).await;
    let after = world.vms().await.unwrap();
    assert!(after.iter().all(|vm| !ids(&before).contains(&vm.instance_uuid)));
}

/// Where machines take more while they run nobody is powered off; where it turns out
/// that they do not, or there is to be less, they are.
#[tokio::test(start_paused = true)]
async fn hot_add_takes_nobody_down() {
    let (world, _) = running_with(3, true).await;
    let calls = async |methods: &[&str]| {
        let calls = world.calls().await.unwrap();
        methods.iter().filter_map(|method| calls.get(*method)).sum::<u64>()
    };
    let taken_down = async || calls(&["ShutdownGuest", "PowerOffVM_Task"]).await;
    edit(&world, json!({"cpu": 4, "memory": 2}));
    updated(&world, 3).await;
    let vms = world.vms().await.unwrap();
    assert!(vms.iter().all(|vm| vm.on && vm.cpus == 4 && vm.memory_mib == 2048), "{vms:#?}");
    assert_eq!((taken_down().await, calls(&["ReconfigVM_Task"]).await), (0, 3));

    // vCenter says that it would, and does not.
    world.vcenter.faults().add(Rule {
        on: "ReconfigVM_Task".into(),
        skip: 0,
        times: 3,
        fault: Fault::FailTask("CpuHotPlugNotSupported".into()),
    });
    edit(&world, json!({"cpu": 6}));
    updated(&world, 3).await;
    assert_eq!(taken_down().await, 3);
    edit(&world, json!({"cpu": 1}));
    updated(&world, 3).await;
    assert_eq!(taken_down().await, 6);
    assert!(world.vms().await.unwrap().iter().all(|vm| vm.cpus == 1 && vm.memory_mib == 2048));
}

/// Members that were made before there were revisions are of the revision that the
/// spec has when it is seen first: an upgrade replaces nobody, and a change does.
#[tokio::test(start_paused = true)]
async fn l13_members_without_a_revision_are_not_outdated() {
    let (mut world, user) = running(3).await;
    world.kill_operator().await.unwrap();
    let before = world.vms().await.unwrap();
    for vm in &before {
        world.vcenter.set_extra(&vm.path, "vmgroup.made", "").unwrap();
    }
    // As the version before wrote it.
    let mut former = status(&world);
    former["baseline"] = Value::Null;
    former["updatedReplicas"] = Value::Null;
    for member in former["members"].as_array_mut().unwrap() {
        member.as_object_mut().unwrap().remove("revision");
    }
    let groups = user.groups("shop");
    let patch = kube::api::Patch::Merge(json!({"status": former}));
    groups.patch_status("web", &kube::api::PatchParams::default(), &patch).await.unwrap();

    world.start_operator().await.unwrap();
    updated(&world, 3).await;
    tokio::time::sleep(SOON).await;
    assert_eq!(ids(&world.vms().await.unwrap()), ids(&before));
    assert!(world.vms().await.unwrap().iter().all(|vm| vm.on));
    edit(&world, json!({"template": OTHER}));
    updated(&world, 3).await;
    assert!(world.vms().await.unwrap().iter().all(|vm| !ids(&before).contains(&vm.instance_uuid)));
}

/// With `OnDelete` nobody is taken down for a change; who is deleted has a successor
/// of the new kind, who is powered off takes the new size along, and a restart
/// brings it to all.
#[tokio::test(start_paused = true)]
async fn on_delete_leaves_the_choice_to_people() {
    let (world, user) = running(3).await;
    let before = world.vms().await.unwrap();
    edit(&world, json!({"template": OTHER, "cpu": 4, "updateStrategy": {"type": "OnDelete"}}));
    tokio::time::sleep(SOON).await;
    assert_eq!(world.vms().await.unwrap(), before);
    let told = status(&world);
    assert!(told["phase"] == "RUNNING" && told["updatedReplicas"] == 0, "{told}");
    assert!(told["lastMessage"].as_str().unwrap().contains("OnDelete"), "{told}");

    world.vcenter.power_off(&before[0].path).unwrap();
    world.vcenter.power_off(&before[1].path).unwrap();
    world.vcenter.destroy(&before[0].path).unwrap();
    user.ready("shop", "web", 3, SOON).await;
    eventually("all are on", SOON, async || {
        let vms = world.vms().await.unwrap();
        if vms.len() == 3 && vms.iter().all(|vm| vm.on) { Ok(()) } else { Err(format!("{vms:?}")) }
    })
    .await;
    tokio::time::sleep(SOON).await;
    let cpus = async |path: &str| world.vms().await.unwrap().iter().find(|vm| vm.path == path).map(|vm| vm.cpus);
    assert_eq!((cpus(&before[1].path).await, cpus(&before[2].path).await), (Some(4), Some(2)));
    assert_eq!(status(&world)["updatedReplicas"], 1);

    edit(&world, json!({"template": TEMPLATE}));
    let restart = json!({"metadata": {"annotations": {RESTARTED_AT_ANNOTATION: "now"}}});
    world.kube.patch("vmgroups", Some("shop"), "web", restart).unwrap();
    eventually("the last one has it too", SOON, async || {
        let now = cpus(&before[2].path).await;
        if now == Some(4) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
}

/// Who goes first is the scaling policy's to say, and whom the site protects stays.
#[tokio::test(start_paused = true)]
async fn s5_the_policy_says_who_goes_first_and_the_protected_stay() {
    let (world, user) = running(3).await;
    let pet = world.vms().await.unwrap()[0].clone();
    world.vcenter.set_extra(&pet.path, "vmgroup.attr.protected", "true").unwrap();
    edit(&world, json!({"template": OTHER}));
    eventually("the others are new", SOON * 3, async || {
        let status = status(&world);
        let done = status["phase"] == "RUNNING" && status["updatedReplicas"] == 2;
        if done { Ok(()) } else { Err(status["lastMessage"].to_string()) }
    })
    .await;
    let message = status(&world)["lastMessage"].to_string();
    assert!(message.contains(&pet.name) && message.contains("protected"), "{message}");
    assert!(ids(&world.vms().await.unwrap()).contains(&pet.instance_uuid));
    let events = user.events("shop", "web").await;
    assert_eq!(events.iter().filter(|event| event.starts_with("Replacing")).count(), 2, "{events:#?}");
}

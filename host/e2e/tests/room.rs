//! More members than there is room for: who fits is made, who does not is not begun, and
//! follows when there is room.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::time::Duration;

use serde_json::{Value, json};
use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Options, User, World, eventually};
use vmgroup_sim::faults::{Fault, Rule};

const SOON: Duration = Duration::from_secs(120);
const STORE: &str = "LocalDS_0";
/// What a clone takes, and the template.
const DISK: u64 = 2 << 30;

/// Room for so many clones beside the template, and a bit.
async fn with_room(clones: u64) -> (SimWorld, User) {
    let mut world = SimWorld::make(Options { max_tasks: 2, ..Options::default() }).await.unwrap();
    world.vcenter.set_datastore_size(STORE, (clones + 1) * DISK + DISK / 2).unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    (world, user)
}

fn status(world: &SimWorld, name: &str) -> Value {
    world.kube.get("vmgroups", Some("shop"), name).unwrap()["status"].clone()
}

async fn short_of(world: &SimWorld, name: &str, ready: usize) -> String {
    eventually("the group is short", SOON, async || {
        let now = status(world, name);
        let waits = now["conditions"].as_array().is_some_and(|all| all.iter().any(|it| it["reason"] == "NoCapacity"));
        let message = now["lastMessage"].as_str().unwrap_or_default().to_owned();
        if now["readyReplicas"] == ready && waits && now["phase"] == "PENDING" {
            Ok(message)
        } else {
            Err(now.to_string())
        }
    })
    .await
}

async fn clones(world: &SimWorld) -> u64 {
    world.calls().await.unwrap().get("CloneVM_Task").copied().unwrap_or(0)
}

/// Of five that are wished three fit: three are begun and made, and no clone fails. It
/// waits without a storm, and goes on when the datastore has grown.
#[tokio::test(start_paused = true)]
async fn of_n_members_those_are_begun_that_fit() {
    let (world, user) = with_room(3).await;
    user.group("shop", "web", 5).await;
    let told = short_of(&world, "web", 3).await;
    assert!(told.contains("2048 MiB") && told.contains(STORE), "{told}");
    assert_eq!(clones(&world).await, 3, "who cannot fit is not begun");
    // Nor named: a name that is reserved for nobody is in nobody's way.
    assert_eq!(status(&world, "web")["members"].as_array().unwrap().len(), 3);
    tokio::time::sleep(SOON * 10).await;
    let before = world.calls().await.unwrap();
    tokio::time::sleep(Duration::from_hours(1)).await;
    let after = world.calls().await.unwrap();
    let reads = after["RetrievePropertiesEx"] - before["RetrievePropertiesEx"];
    assert!(reads <= 30, "{reads} reads in an hour");
    assert_eq!(clones(&world).await, 3);

    world.vcenter.set_datastore_size(STORE, 10 * DISK).unwrap();
    user.ready("shop", "web", 5, SOON * 4).await;
    assert_eq!(clones(&world).await, 5);
}

/// Room that another group leaves is taken at once.
#[tokio::test(start_paused = true)]
async fn who_waits_is_woken_when_a_machine_has_gone() {
    let (world, user) = with_room(4).await;
    user.group("shop", "old", 3).await;
    user.ready("shop", "old", 3, SOON).await;
    user.group("shop", "web", 4).await;
    short_of(&world, "web", 1).await;
    // Until its next try by itself takes minutes.
    tokio::time::sleep(SOON * 10).await;
    user.delete("shop", "old").await;
    user.gone("shop", "old", SOON).await;
    user.ready("shop", "web", 4, Duration::from_secs(20)).await;
    assert_eq!(clones(&world).await, 7, "none was begun in vain");
}

/// A group goes while a pass of it is under way, and its finalizer with it: the pass does
/// not bring it back.
#[tokio::test(start_paused = true)]
async fn a_pass_that_ends_too_late_brings_no_group_back() {
    let (world, user) = with_room(1).await;
    user.group("shop", "web", 2).await;
    short_of(&world, "web", 1).await;
    let slow = Fault::Delay(Duration::from_secs(30));
    world.vcenter.faults().add(Rule::every("RetrievePropertiesEx", slow));
    let before = world.calls().await.unwrap()["RetrievePropertiesEx"];
    eventually("it is looked for room again", SOON * 5, async || {
        let now = world.calls().await.unwrap()["RetrievePropertiesEx"];
        if now > before { Ok(()) } else { Err(format!("{now} reads")) }
    })
    .await;
    user.delete("shop", "web").await;
    world.kube.patch("vmgroups", Some("shop"), "web", json!({"metadata": {"finalizers": null}})).unwrap();
    user.gone("shop", "web", Duration::from_secs(1)).await;
    tokio::time::sleep(SOON).await;
    let page = world.metrics(0).encode();
    let mut groups = page.lines().filter(|line| line.starts_with("vmgroup_groups{"));
    assert!(groups.all(|line| line.ends_with(" 0")), "{page}");
}

/// Nobody is taken down whose successor would find no room; who makes room himself is.
#[tokio::test(start_paused = true)]
async fn a_full_datastore_is_enough_for_a_replacement() {
    let (world, user) = with_room(3).await;
    world.vcenter.add_template("/DC0/vm", "another-template").unwrap();
    world.vcenter.set_datastore_size(STORE, 5 * DISK + DISK / 2).unwrap();
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    let template = serde_json::json!({"template": "another-template"});
    world.kube.patch_spec("vmgroups", Some("shop"), "web", template).unwrap();
    eventually("all are new", SOON * 5, async || {
        let now = status(&world, "web");
        if now["updatedReplicas"] == 3 && now["phase"] == "RUNNING" { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

/// Who goes gives back what he has, which is not enough for a successor with a further
/// disk: nobody goes, and all do when there is room.
#[tokio::test(start_paused = true)]
async fn nobody_is_taken_down_for_a_successor_who_is_too_large() {
    let (world, user) = with_room(4).await;
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    let before = world.vms().await.unwrap();
    let edit = json!({"disks": [{"sizeGiB": 100}], "updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}});
    world.kube.patch_spec("vmgroups", Some("shop"), "web", edit).unwrap();
    let told = short_of(&world, "web", 3).await;
    assert!(told.contains("104448 MiB") && told.contains("0 of 1"), "{told}");
    tokio::time::sleep(SOON * 10).await;
    assert_eq!(world.vms().await.unwrap(), before);
    // For one at a time, beside those that stand.
    world.vcenter.set_datastore_size(STORE, 5 * DISK + (102 << 30)).unwrap();
    tokio::time::sleep(SOON * 10).await;
    let updated = |world: &SimWorld| status(world, "web")["updatedReplicas"].clone();
    assert_eq!((world.vms().await.unwrap().len(), updated(&world)), (3, json!(1)), "{}", status(&world, "web"));
    world.vcenter.set_datastore_size(STORE, 5 * DISK + (400 << 30)).unwrap();
    eventually("all have it", SOON * 10, async || {
        if updated(&world) == json!(3) { Ok(()) } else { Err(status(&world, "web").to_string()) }
    })
    .await;
    user.ready("shop", "web", 3, SOON).await;
}

/// Where no host is in service nobody is begun, and nobody is taken down.
#[tokio::test(start_paused = true)]
async fn without_a_host_nothing_is_begun() {
    let (world, user) = with_room(8).await;
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let before = world.vms().await.unwrap();
    for host in ["DC0_C0_H0", "DC0_C0_H1", "DC0_C0_H2"] {
        world.vcenter.set_drs(false, false);
        world.vcenter.enter_maintenance(host).unwrap();
    }
    tokio::time::sleep(SOON).await;
    let evacuate = serde_json::json!({"evacuation": "Replace", "replicas": 3});
    world.kube.patch_spec("vmgroups", Some("shop"), "web", evacuate).unwrap();
    let told = short_of(&world, "web", 2).await;
    assert!(told.contains("none of 3 hosts is in service"), "{told}");
    tokio::time::sleep(SOON * 10).await;
    assert_eq!(world.vms().await.unwrap(), before);
    for host in ["DC0_C0_H0", "DC0_C0_H1", "DC0_C0_H2"] {
        world.vcenter.set_maintenance(host, false).unwrap();
    }
    user.ready("shop", "web", 3, SOON).await;
}

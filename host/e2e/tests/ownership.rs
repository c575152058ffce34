//! Whose machines these are: several clusters on one vCenter, marks of the first
//! version, folders and machines of other people.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::collections::BTreeSet;
use std::time::Duration;

use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Options, ROOT, User, VmView, World, eventually};

const SOON: Duration = Duration::from_secs(60);

/// The uid of a cluster's Namespace kube-system.
fn identity(world: &SimWorld) -> String {
    let namespace = world.kube.get("namespaces", None, "kube-system").unwrap();
    namespace["metadata"]["uid"].as_str().unwrap().to_owned()
}

async fn of_cluster(world: &SimWorld, cluster: &str) -> Vec<VmView> {
    let mut vms = world.vms().await.unwrap();
    vms.retain(|vm| vm.extra.get("vmgroup.cluster").is_some_and(|mark| mark == cluster));
    vms
}

fn names(vms: &[VmView]) -> BTreeSet<&str> {
    vms.iter().map(|vm| vm.name.as_str()).collect()
}

fn folders(vms: &[VmView]) -> BTreeSet<&str> {
    vms.iter().map(VmView::folder).collect()
}

/// Two clusters under one root folder, each with a group of the same namespace
/// and name: each has its own machines in its own folder, and what one does with
/// its group the other's does not feel.
#[tokio::test(start_paused = true)]
async fn s2_two_clusters_with_a_group_of_the_same_name() {
    let mut one = SimWorld::make(Options::default()).await.unwrap();
    let mut two = one.neighbour().unwrap();
    assert_ne!(identity(&one), identity(&two));
    one.start_operator().await.unwrap();
    two.start_operator().await.unwrap();
    let (user_one, user_two) = (User::of(&one), User::of(&two));
    // In the same instant: whoever is second to make the folder must not move in.
    tokio::join!(user_one.group("shop", "web", 3), user_two.group("shop", "web", 2));
    user_one.ready("shop", "web", 3, SOON).await;
    user_two.ready("shop", "web", 2, SOON).await;
    let (ours, theirs) = (of_cluster(&one, &identity(&one)).await, of_cluster(&one, &identity(&two)).await);
    assert_eq!((ours.len(), theirs.len(), one.vms().await.unwrap().len()), (3, 2, 5));
    assert!(folders(&ours).is_disjoint(&folders(&theirs)), "{ours:?}\n{theirs:?}");

    user_one.scale("shop", "web", 1).await;
    user_one.ready("shop", "web", 1, SOON).await;
    assert_eq!(names(&of_cluster(&one, &identity(&two)).await), names(&theirs));
    user_two.scale("shop", "web", 4).await;
    user_two.ready("shop", "web", 4, SOON).await;
    user_one.delete("shop", "web").await;
    user_one.gone("shop", "web", SOON).await;
    let left = one.vms().await.unwrap();
    assert_eq!(left.len(), 4);
    assert!(left.iter().all(|vm| vm.on && vm.extra["vmgroup.cluster"] == identity(&two)), "{left:?}");
    assert_eq!(one.folders().await.unwrap().len(), 1);
    user_two.delete("shop", "web").await;
    user_two.gone("shop", "web", SOON).await;
    assert!(one.vms().await.unwrap().is_empty() && one.folders().await.unwrap().is_empty());
}

/// An empty folder of the group's name that somebody else made (another cluster's
/// operator, a moment before it fills it) is not moved into, and stays.
#[tokio::test(start_paused = true)]
async fn s2_an_empty_folder_of_our_name_is_not_ours() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.vcenter.add_folder(ROOT, "shop-web").unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 2).await;
    let group = user.ready("shop", "web", 2, SOON).await;
    let vms = world.vms().await.unwrap();
    assert!(vms.iter().all(|vm| vm.folder().starts_with(&format!("{ROOT}/shop-web-"))), "{vms:?}");
    let recorded = group.status.unwrap().folder.unwrap();
    assert!(recorded.id.is_some() && vms[0].folder().ends_with(&recorded.name), "{recorded:?}");
    let events = user.events("shop", "web").await;
    assert!(events.iter().any(|event| event.starts_with("FolderTaken")), "{events:#?}");
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    assert_eq!(world.folders().await.unwrap(), [format!("{ROOT}/shop-web")]);
}

/// Members of the first version carry no mark of their cluster: they are known by
/// the group's uid, and get the mark when something is done to them.
#[tokio::test(start_paused = true)]
async fn marks_of_the_first_version_are_known_and_mended() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    let operator = world.launch(None);
    let user = User::of(&world);
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    operator.cancel();
    eventually("the operator has stopped", SOON, async || if world.runs(0) { Err("runs".into()) } else { Ok(()) })
        .await;
    let before = world.vms().await.unwrap();
    for vm in &before {
        world.vcenter.set_extra(&vm.path, "vmgroup.cluster", "").unwrap();
    }
    world.vcenter.power_off(&before[0].path).unwrap();
    world.start_operator().await.unwrap();
    let mended = eventually("all are on", SOON, async || {
        let vms = world.vms().await.unwrap();
        if vms.iter().all(|vm| vm.on) { Ok(vms) } else { Err(format!("{vms:?}")) }
    })
    .await;
    assert_eq!(names(&mended), names(&before), "nobody was made anew");
    let marked: Vec<&str> =
        mended.iter().filter(|vm| vm.extra.contains_key("vmgroup.cluster")).map(|vm| vm.name.as_str()).collect();
    assert_eq!(marked, [before[0].name.as_str()]);
    for key in ["vmgroup.group-uid", "vmgroup.group", "vmgroup.member", "vmgroup.created"] {
        assert_eq!(mended[0].extra[key], before[0].extra[key], "{key}");
    }
    user.scale("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    assert!(world.vms().await.unwrap().is_empty());
}

/// A member with this group's uid and another cluster's mark (a cluster that was
/// copied): neither counted nor replaced nor touched, and the group says so.
#[tokio::test(start_paused = true)]
async fn s2_contested_members_stop_the_group() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let vms = world.vms().await.unwrap();
    world.vcenter.set_extra(&vms[0].path, "vmgroup.cluster", "another").unwrap();
    let message = user.told("shop", "web", "Stalled", "another cluster", SOON).await;
    assert!(message.contains(&vms[0].name) && message.contains("vmgroup adopt"), "{message}");
    user.scale("shop", "web", 4).await;
    tokio::time::sleep(SOON).await;
    let now = world.vms().await.unwrap();
    assert!(names(&now) == names(&vms) && now.iter().all(|vm| vm.on), "{now:?}");
    world.vcenter.set_extra(&vms[0].path, "vmgroup.cluster", &identity(&world)).unwrap();
    user.ready("shop", "web", 4, SOON).await;
}

/// Where the cluster's identity may not be read, the operator works without.
#[tokio::test(start_paused = true)]
async fn a_cluster_that_may_not_be_identified() {
    use vmgroup_sim::faults::{Fault, Rule};
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    let forbidden =
        Rule { on: "GET namespaces".into(), skip: 0, times: u32::MAX, fault: Fault::Error("403".to_owned()) };
    world.kube.faults().add(forbidden);
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let vms = world.vms().await.unwrap();
    assert!(vms.iter().all(|vm| !vm.extra.contains_key("vmgroup.cluster")));
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
}

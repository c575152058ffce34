//! Whose machines these are: several clusters on one vCenter, marks of the first
//! version, folders and machines of other people.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::collections::BTreeSet;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::json;
use vmgroup_api::DatacenterStatus;
use vmgroup_e2e::blind::{self, blind};
use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Deed, Options, ROOT, User, VmView, World, eventually};
use vmgroup_operator::config::Vcenters;
use vmgroup_sim::faults::{Fault, Rule};

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

/// A clone that vCenter carries out when its group is gone, into a folder that
/// was left because a stranger lies in it.
#[tokio::test(start_paused = true)]
async fn s1_a_late_clone_of_a_group_that_is_gone() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    let member = world.vms().await.unwrap().remove(0);
    let folder = format!("{ROOT}/shop-web");
    world.vcenter.add_vm(&folder, "stranger", &[]).unwrap();
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    let marks: Vec<(&str, &str)> = member.extra.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let path = format!("{folder}/{}", member.name);
    world.vcenter.add_vm(&folder, &member.name, &marks).unwrap();
    let uuid = world.vcenter.vm(&path).unwrap().instance_uuid;
    world.vcenter.set_extra(&path, "vmgroup.member", &uuid).unwrap();
    eventually("the late one is gone", SOON, async || {
        if world.vcenter.vm(&path).is_none() { Ok(()) } else { Err("it is there".into()) }
    })
    .await;
    let left = world.vms().await.unwrap();
    assert_eq!(names(&left), BTreeSet::from(["stranger"]));
    assert!(left[0].on);
}

/// The documented way out: who removes the finalizer gives the machines up, and
/// nobody touches them.
#[tokio::test(start_paused = true)]
async fn machines_that_were_given_up_by_hand_stay() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    world.deed(Deed::Down).await.unwrap();
    user.delete("shop", "web").await;
    let patch = json!({"metadata": {"finalizers": []}});
    user.groups("shop").patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    user.gone("shop", "web", SOON).await;
    world.deed(Deed::Up).await.unwrap();
    user.group("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON * 2).await;
    let vms = world.vms().await.unwrap();
    assert!(vms.len() == 3 && vms.iter().all(|vm| vm.on), "{vms:?}");
    // The person on call hears of them.
    let page = world.metrics(0).encode();
    for line in [
        r#"vmgroup_machines{connection="default",standing="member"} 1"#,
        r#"vmgroup_machines{connection="default",standing="orphan"} 2"#,
    ] {
        assert!(page.contains(line), "{line} is missing in:\n{page}");
    }
}

/// A group of more than 50 only counts its members in the record. Those that
/// somebody moves out of the root folder are known after a restart for all that,
/// moved before it or while nobody looked.
#[tokio::test(start_paused = true)]
async fn s1_members_of_a_large_group_that_were_moved_away() {
    let options = Options { max_tasks: 20, ..Options::default() };
    let mut world = SimWorld::make(options).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "herd", 60).await;
    user.ready("shop", "herd", 60, SOON * 5).await;
    let before = world.vms().await.unwrap();
    world.vcenter.move_to(&before[0].path, "/DC0/vm").unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.kill_operator().await.unwrap();
    world.vcenter.move_to(&before[1].path, "/DC0/vm").unwrap();
    world.start_operator().await.unwrap();
    tokio::time::sleep(SOON).await;
    assert_eq!(names(&world.vms().await.unwrap()), names(&before), "nobody was replaced");
    user.ready("shop", "herd", 60, SOON).await;
    user.delete("shop", "herd").await;
    user.gone("shop", "herd", SOON * 5).await;
    assert_eq!(world.vms().await.unwrap(), []);
}

/// Such a one is found by his UUID. While vCenter cannot be asked he is in doubt, and
/// neither forgotten nor replaced (seed 18716).
#[tokio::test(start_paused = true)]
async fn s1_a_moved_member_of_a_large_group_is_not_forgotten_when_he_cannot_be_read() {
    let options = Options { max_tasks: 20, ..Options::default() };
    let mut world = SimWorld::make(options).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "herd", 60).await;
    user.ready("shop", "herd", 60, SOON * 5).await;
    let before = world.vms().await.unwrap();
    world.vcenter.move_to(&before[0].path, "/DC0/vm").unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.vcenter.faults().add(Rule::every("FindAllByUuid", Fault::Error("503".into())));
    user.scale("shop", "herd", 61).await;
    tokio::time::sleep(SOON).await;
    world.vcenter.faults().clear();
    user.ready("shop", "herd", 61, SOON * 2).await;
    let after = world.vms().await.unwrap();
    assert_eq!(after.len(), 61, "{:?}", names(&after));
    assert!(names(&after).is_superset(&names(&before)), "nobody was replaced");
}

/// An operator that is told to use this datacenter; the one before is killed.
async fn restart_in(world: &mut SimWorld, datacenter: &str) {
    world.kill_operator().await.unwrap();
    let mut vcenters = world.operators_vcenters(false);
    if let Vcenters::One(one) = &mut vcenters {
        one.site.datacenter = Some(datacenter.to_owned());
    }
    world.launch_on(vcenters, None);
}

/// S3, S1: the operator is told to use another datacenter, where none of the machines are.
/// They are neither made again there, nor taken for gone.
#[tokio::test(start_paused = true)]
async fn s3_another_datacenter_gets_none_of_a_large_groups_machines() {
    let options = Options { max_tasks: 20, datacenters: 2, ..Options::default() };
    let mut world = SimWorld::make(options).await.unwrap();
    let user = User::of(&world);
    restart_in(&mut world, "DC0").await;
    user.group("shop", "herd", 60).await;
    user.ready("shop", "herd", 60, SOON * 5).await;
    let before = world.vms().await.unwrap();
    restart_in(&mut world, "DC1").await;
    let told = user.told("shop", "herd", "Stalled", "--datacenter (VC_DATACENTER)", SOON).await;
    assert!(told.contains("in the datacenter DC0 (") && told.contains("leads to DC1 ("), "{told}");
    user.scale("shop", "herd", 61).await;
    tokio::time::sleep(SOON).await;
    user.delete("shop", "herd").await;
    user.told("shop", "herd", "Stalled", "orphan=unreachable", SOON).await;
    tokio::time::sleep(SOON).await;
    assert_eq!(names(&world.vms().await.unwrap()), names(&before));
    restart_in(&mut world, "DC0").await;
    user.gone("shop", "herd", SOON * 5).await;
    assert_eq!(world.vms().await.unwrap(), []);
}

/// L13: a record from before datacenters were written down has its own from when something
/// of the group is seen, and no other.
#[tokio::test(start_paused = true)]
async fn l13_a_record_without_a_datacenter_gets_the_one_where_the_group_is() {
    let mut world = SimWorld::make(Options { datacenters: 2, ..Options::default() }).await.unwrap();
    let user = User::of(&world);
    restart_in(&mut world, "DC0").await;
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    world.kill_operator().await.unwrap();
    let none = json!({"status": {"connection": {"datacenter": null}}});
    user.groups("shop").patch_status("web", &PatchParams::default(), &Patch::Merge(none)).await.unwrap();
    let recorded = async || -> Option<DatacenterStatus> {
        user.groups("shop").get("web").await.unwrap().status.unwrap().connection.unwrap().datacenter
    };
    restart_in(&mut world, "DC1").await;
    tokio::time::sleep(SOON).await;
    assert_eq!(recorded().await, None);
    restart_in(&mut world, "DC0").await;
    let learned = eventually("it is known", SOON, async || recorded().await.ok_or_else(String::new)).await;
    assert_eq!(learned.name, "DC0");
    restart_in(&mut world, "DC1").await;
    user.told("shop", "web", "Stalled", "in the datacenter DC0", SOON).await;
    assert_eq!(world.vms().await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_vanished_machines_name_is_free_at_once() {
    blind::a_vanished_machines_name_is_free_at_once().await;
}

/// Before a machine is powered off it is read afresh: one that has lost its mark
/// a moment ago stays as it is.
#[tokio::test(start_paused = true)]
async fn s2_a_fresh_read_comes_before_a_power_off() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    blind(&world, SOON).await;
    for vm in world.vms().await.unwrap() {
        world.vcenter.set_extra(&vm.path, "vmgroup.group-uid", "").unwrap();
    }
    user.scale("shop", "web", 0).await;
    user.ready("shop", "web", 0, SOON * 3).await;
    let vms = world.vms().await.unwrap();
    assert!(vms.len() == 2 && vms.iter().all(|vm| vm.on), "{vms:?}");
}

/// The same before one is destroyed that the operator itself has powered off.
#[tokio::test(start_paused = true)]
async fn s2_a_fresh_read_comes_before_a_destruction() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    world.vcenter.faults().add(Rule::next("Destroy_Task", Fault::Error("503".to_owned())));
    user.scale("shop", "web", 0).await;
    let vm = eventually("it was to be destroyed", SOON, async || {
        let tried = world.calls().await.unwrap().contains_key("Destroy_Task");
        if tried { Ok(world.vms().await.unwrap().remove(0)) } else { Err("not yet".into()) }
    })
    .await;
    assert!(!vm.on);
    world.vcenter.faults().add(Rule::next("WaitForUpdatesEx", Fault::Delay(SOON)));
    world.vcenter.add_folder(ROOT, "a-folder-that-is-seen").unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.vcenter.set_extra(&vm.path, "vmgroup.group-uid", "").unwrap();
    tokio::time::sleep(SOON * 2).await;
    assert_eq!(names(&world.vms().await.unwrap()), BTreeSet::from([vm.name.as_str()]));
}

/// The same before a folder goes: vCenter would destroy all that is in it.
#[tokio::test(start_paused = true)]
async fn s2_a_fresh_listing_comes_before_a_folder_goes() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 0).await;
    user.ready("shop", "web", 0, SOON).await;
    eventually("it has a folder", SOON, async || {
        if world.folders().await.unwrap().is_empty() { Err("none".into()) } else { Ok(()) }
    })
    .await;
    blind(&world, SOON).await;
    world.vcenter.add_vm(&format!("{ROOT}/shop-web"), "stranger", &[]).unwrap();
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    let vms = world.vms().await.unwrap();
    assert!(names(&vms) == BTreeSet::from(["stranger"]) && vms[0].on, "{vms:?}");
}

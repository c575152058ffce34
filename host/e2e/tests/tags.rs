//! Tags of members in vCenter: attached, followed by the spec, and taken off, without
//! anybody being taken down, and without a call where nobody asks for tags.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Options, TEMPLATE, User, World, eventually, yaml};
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::vcenter::VmView;

const SOON: Duration = Duration::from_secs(60);
const LIST: &str = "tag_association.list_attached_tags_on_objects";
const ATTACH: &str = "tag_association.attach_tag_to_multiple_objects";
const DETACH: &str = "tag_association.detach";

/// Tags by category and name.
type Tags = [(&'static str, &'static str)];

fn spec_of(tags: &Tags) -> Value {
    tags.iter().map(|(category, name)| json!({"category": category, "name": name})).collect()
}

/// A group `shop/web` of two with these tags, where these are made.
async fn with(tags: &Tags, made: &Tags) -> (SimWorld, User) {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    for (category, name) in made {
        world.vcenter.define_tag(category, name);
    }
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.namespace("shop").await;
    let tags = spec_of(tags);
    let manifest = format!(
        "apiVersion: vm.codeconnect.vmworld.com/v1alpha1\nkind: VmGroup\nmetadata: {{name: web, namespace: shop}}\nspec: {{cpu: 1, memory: 1, replicas: 2, template: {TEMPLATE}, tags: {tags}}}\n"
    );
    world.kube.apply(yaml(&manifest)).unwrap();
    (world, user)
}

fn edit(world: &SimWorld, tags: &Tags) {
    world.kube.patch_spec("vmgroups", Some("shop"), "web", json!({"tags": spec_of(tags)})).unwrap();
}

fn status(world: &SimWorld) -> Value {
    world.kube.get("vmgroups", Some("shop"), "web").unwrap()["status"].clone()
}

fn members(world: &SimWorld) -> Vec<VmView> {
    world.vcenter.vms().into_iter().filter(|vm| !vm.template).collect()
}

async fn all_have(world: &SimWorld, expected: &Tags) {
    let expected: BTreeSet<(String, String)> =
        expected.iter().map(|(category, name)| ((*category).to_owned(), (*name).to_owned())).collect();
    eventually("all members have these tags", SOON * 10, async || {
        let all: Vec<_> = members(world).into_iter().map(|vm| vm.tags).collect();
        let done = !all.is_empty() && all.iter().all(|has| *has == expected);
        if done { Ok(()) } else { Err(format!("{all:?} {}", status(world)["lastMessage"])) }
    })
    .await;
}

async fn count(world: &SimWorld, method: &str) -> u64 {
    world.calls().await.unwrap().get(method).copied().unwrap_or(0)
}

/// The calls of the API that tags are behind.
async fn tag_calls(world: &SimWorld) -> BTreeMap<String, u64> {
    world.calls().await.unwrap().into_iter().filter(|(method, _)| method.contains('.')).collect()
}

/// The group says that it is done only when all have them; edits reach those who stand;
/// what somebody else attaches is his; at rest nobody is called.
#[tokio::test(start_paused = true)]
async fn members_have_the_tags_of_the_spec_and_stay_on() {
    let made: &Tags = &[("env", "prod"), ("env", "test"), ("owner", "shop"), ("backup", "daily")];
    let (world, user) = with(&[("env", "prod"), ("owner", "shop")], made).await;
    user.ready("shop", "web", 2, SOON).await;
    all_have(&world, &[("env", "prod"), ("owner", "shop")]).await;
    let before = members(&world);
    for vm in &before {
        world.vcenter.set_tag(&vm.path, "backup", "daily", true).unwrap();
    }
    edit(&world, &[("env", "test")]);
    all_have(&world, &[("env", "test"), ("backup", "daily")]).await;
    user.ready("shop", "web", 2, SOON).await;
    let ids = |vms: &[VmView]| vms.iter().map(|vm| (vm.instance_uuid.clone(), vm.power_on)).collect::<Vec<_>>();
    assert_eq!(ids(&members(&world)), ids(&before));
    assert!(!world.calls().await.unwrap().contains_key("PowerOffVM_Task"));
    user.scale("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    let with_test = |vm: &&VmView| vm.tags.contains(&("env".to_owned(), "test".to_owned()));
    assert_eq!(members(&world).iter().filter(with_test).count(), 3);

    tokio::time::sleep(SOON).await;
    let quiet = |calls: BTreeMap<String, u64>| -> BTreeMap<String, u64> {
        calls.into_iter().filter(|(method, _)| method != "WaitForUpdatesEx" && method != "CurrentTime").collect()
    };
    let calls = quiet(world.calls().await.unwrap());
    // Longer than a session of that API is used.
    tokio::time::sleep(SOON * 10).await;
    assert_eq!(quiet(world.calls().await.unwrap()), calls, "L2");

    edit(&world, &[]);
    let no_test = |vm: &VmView| !vm.tags.contains(&("env".to_owned(), "test".to_owned()));
    eventually("it is taken off", SOON, async || {
        let now = members(&world);
        if now.iter().all(no_test) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    eventually("nothing is recorded any more", SOON, async || {
        let recorded = status(&world)["tags"].clone();
        if recorded == json!([]) { Ok(()) } else { Err(recorded.to_string()) }
    })
    .await;
    assert!(
        members(&world).iter().filter(|vm| vm.tags.contains(&("backup".to_owned(), "daily".to_owned()))).count() == 2
    );
}

/// Who has what is asked in one call for all, a tag is attached by one call to all, and
/// where no group has tags there is no call and no session.
#[tokio::test(start_paused = true)]
async fn l15_few_calls_and_none_where_nobody_asks() {
    let (world, user) = with(&[], &[("env", "prod"), ("env", "test")]).await;
    user.scale("shop", "web", 20).await;
    user.ready("shop", "web", 20, SOON * 10).await;
    assert_eq!(tag_calls(&world).await, BTreeMap::new());
    assert_eq!(world.vcenter.api_sessions(), 0);
    edit(&world, &[("env", "prod")]);
    all_have(&world, &[("env", "prod")]).await;
    user.ready("shop", "web", 20, SOON).await;
    let expected = [("session.create", 1), ("category.list", 1), ("category.get", 1), (LIST, 1), (ATTACH, 1)];
    let calls = tag_calls(&world).await;
    for (method, times) in expected {
        assert_eq!(calls.get(method), Some(&times), "{method}: {calls:?}");
    }
    assert_eq!(world.vcenter.api_sessions(), 1);
    // Others are looked for, and the session is still there.
    edit(&world, &[("env", "test")]);
    all_have(&world, &[("env", "test")]).await;
    assert_eq!(count(&world, ATTACH).await, 2);
    assert_eq!(count(&world, DETACH).await, 20);
    assert_eq!(count(&world, "session.create").await, 1);
}

/// What is not there is named, with its category; members are made all the same; and it
/// heals.
#[tokio::test(start_paused = true)]
async fn l7_a_tag_that_is_not_there_is_named() {
    let (world, user) = with(&[("env", "prod"), ("owner", "shop")], &[("env", "prod"), ("owner", "others")]).await;
    let told = user.told("shop", "web", "Stalled", "shop of the category owner", SOON).await;
    assert!(told.contains("govc tags.create -c owner shop"), "{told}");
    all_have(&world, &[("env", "prod")]).await;
    assert_eq!(members(&world).len(), 2);
    world.vcenter.define_tag("owner", "shop");
    user.ready("shop", "web", 2, SOON * 10).await;
    all_have(&world, &[("env", "prod"), ("owner", "shop")]).await;
}

/// A tag that is deleted under us is named when it is needed, and found when it was made
/// anew.
#[tokio::test(start_paused = true)]
async fn l7_a_tag_that_is_made_anew_is_found() {
    let (world, user) = with(&[("env", "prod")], &[("env", "prod")]).await;
    user.ready("shop", "web", 2, SOON).await;
    world.vcenter.delete_tag("env", "prod").unwrap();
    user.scale("shop", "web", 3).await;
    user.told("shop", "web", "Stalled", "prod of the category env", SOON * 2).await;
    assert_eq!(members(&world).len(), 3);
    world.vcenter.define_tag("env", "prod");
    user.ready("shop", "web", 3, SOON * 10).await;
    all_have(&world, &[("env", "prod")]).await;
}

/// Where a category allows one tag and somebody has attached another, that is told; his
/// stays, and it goes on when he has taken it off.
#[tokio::test(start_paused = true)]
async fn l7_a_category_that_allows_one_tag() {
    let (world, user) = with(&[], &[]).await;
    world.vcenter.define_category("env", true);
    for tag in ["prod", "test", "dev"] {
        world.vcenter.define_tag("env", tag);
    }
    user.ready("shop", "web", 2, SOON).await;
    edit(&world, &[("env", "dev")]);
    all_have(&world, &[("env", "dev")]).await;
    // From one of ours to another one it takes no hand.
    edit(&world, &[("env", "prod")]);
    all_have(&world, &[("env", "prod")]).await;
    edit(&world, &[]);
    all_have(&world, &[]).await;
    let theirs = members(&world)[0].path.clone();
    world.vcenter.set_tag(&theirs, "env", "test", true).unwrap();
    edit(&world, &[("env", "prod")]);
    let told = user.told("shop", "web", "Stalled", "prod of the category env", SOON).await;
    assert!(told.contains("one tag for each machine"), "{told}");
    let has = |path: &str| world.vcenter.vm(path).unwrap().tags;
    assert_eq!(has(&theirs), BTreeSet::from([("env".to_owned(), "test".to_owned())]));
    assert_eq!(has(&members(&world)[1].path), BTreeSet::from([("env".to_owned(), "prod".to_owned())]));
    world.vcenter.set_tag(&theirs, "env", "test", false).unwrap();
    user.ready("shop", "web", 2, SOON * 10).await;
    all_have(&world, &[("env", "prod")]).await;
}

/// Without the privilege it is told; members are made all the same; and it heals. The
/// same of answers that are lost, of a vCenter that has too much to do, and of sessions
/// that it has forgotten.
#[tokio::test(start_paused = true)]
async fn l7_what_may_not_be_attached_is_told() {
    let (world, user) = with(&[], &[("env", "prod"), ("env", "test")]).await;
    user.ready("shop", "web", 2, SOON).await;
    for privilege in ["InventoryService.Tagging.AttachTag", "InventoryService.Tagging.ObjectAttachable"] {
        world.vcenter.withhold(privilege);
    }
    edit(&world, &[("env", "prod")]);
    user.told("shop", "web", "Stalled", "InventoryService.Tagging.AttachTag", SOON).await;
    for privilege in ["InventoryService.Tagging.AttachTag", "InventoryService.Tagging.ObjectAttachable"] {
        world.vcenter.grant(privilege);
    }
    for (method, fault) in [
        (ATTACH, Fault::Error("503".into())),
        (ATTACH, Fault::LoseReply),
        (ATTACH, Fault::Reset),
        (LIST, Fault::Error("NotAuthenticated".into())),
        (LIST, Fault::Error("503".into())),
    ] {
        world.vcenter.faults().add(Rule::next(method, fault));
    }
    user.ready("shop", "web", 2, SOON * 20).await;
    all_have(&world, &[("env", "prod")]).await;
    world.vcenter.restart(true);
    world.vcenter.faults().add(Rule::next(DETACH, Fault::LoseReply));
    edit(&world, &[("env", "test")]);
    all_have(&world, &[("env", "test")]).await;
    user.ready("shop", "web", 2, SOON * 20).await;
}

/// An answer that is lost: it has worked, and the group does not go on telling of it.
#[tokio::test(start_paused = true)]
async fn l10_a_lost_answer_is_not_told_of_for_long() {
    let (world, user) = with(&[], &[("env", "prod")]).await;
    user.ready("shop", "web", 2, SOON).await;
    world.vcenter.faults().add(Rule::next(ATTACH, Fault::LoseReply));
    edit(&world, &[("env", "prod")]);
    all_have(&world, &[("env", "prod")]).await;
    user.ready("shop", "web", 2, SOON).await;
}

/// However many logins' answers are lost, there are never more sessions than the fixed
/// number; and the last one ends with the operator.
#[tokio::test(start_paused = true)]
async fn l10_sessions_for_tags_are_bounded_and_end() {
    let (mut world, user) = with(&[], &[("env", "prod")]).await;
    user.ready("shop", "web", 2, SOON).await;
    for _ in 0..8 {
        world.vcenter.faults().add(Rule::next("session.create", Fault::LoseReply));
    }
    edit(&world, &[("env", "prod")]);
    user.ready("shop", "web", 2, SOON * 240).await;
    all_have(&world, &[("env", "prod")]).await;
    assert!(world.vcenter.most_sessions() <= vmgroup_vsphere::MAX_SESSIONS, "{}", world.vcenter.most_sessions());
    world.kill_operator().await.unwrap();
    world.vcenter.terminate_sessions();
    let stop = world.launch(None);
    user.scale("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    assert_eq!(world.vcenter.api_sessions(), 1);
    stop.cancel();
    eventually("it has logged out", SOON, async || {
        let left = world.vcenter.api_sessions();
        if left == 0 { Ok(()) } else { Err(format!("{left} sessions")) }
    })
    .await;
}

/// What was attached by an operator that is gone is taken off by the one that comes.
#[tokio::test(start_paused = true)]
async fn l12_what_was_attached_before_is_taken_off() {
    let (mut world, user) = with(&[("env", "prod")], &[("env", "prod"), ("env", "test")]).await;
    user.ready("shop", "web", 2, SOON).await;
    all_have(&world, &[("env", "prod")]).await;
    world.kill_operator().await.unwrap();
    edit(&world, &[("env", "test")]);
    world.start_operator().await.unwrap();
    all_have(&world, &[("env", "test")]).await;
    user.ready("shop", "web", 2, SOON).await;
}

/// Who was moved to where no watch looks has them, too. Found by random runs (seeds 25041
/// and 25719).
#[tokio::test(start_paused = true)]
async fn l1_who_was_moved_out_of_the_root_folder_has_them_too() {
    let (world, user) = with(&[], &[("env", "test"), ("env", "prod")]).await;
    user.ready("shop", "web", 2, SOON).await;
    world.vcenter.move_to(&members(&world)[0].path, "/DC0/vm").unwrap();
    edit(&world, &[("env", "test")]);
    all_have(&world, &[("env", "test")]).await;
    edit(&world, &[("env", "prod")]);
    all_have(&world, &[("env", "prod")]).await;
    user.ready("shop", "web", 2, SOON).await;
}

//! L4: the operator dies at, or loses the answer of, every single call of a
//! reference story; each time the story ends as it should, and S1 to S3 hold.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use vmgroup_e2e::sabotage::{Blow, Sabotage};
use vmgroup_e2e::sim::{PASSWORD, SimWorld, USER, host_of};
use vmgroup_e2e::world::{Options, ROOT, TEMPLATE, User, World, eventually};
use vmgroup_sim::vcenter::{VcenterSim, VmView};

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

/// Two members: another size, another template, and gone.
async fn story_of_changes(world: &SimWorld) {
    let user = User::of(world);
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    for (spec, stay) in [(json!({"cpu": 4}), true), (json!({"template": "another-template"}), false)] {
        let before: BTreeSet<String> = uuids(world);
        world.kube.patch_spec("vmgroups", Some("shop"), "web", spec).unwrap();
        user.ready("shop", "web", 2, SOON).await;
        let after = uuids(world);
        assert!(if stay { after == before } else { after.is_disjoint(&before) }, "{before:?}, {after:?}");
    }
    assert!(world.vcenter.vms().iter().all(|vm| vm.template || vm.power_on && vm.cpus == 4));
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    assert!(world.vms().await.unwrap().is_empty(), "S1: {:?}", world.vms().await.unwrap());
}

/// Two members whose guests have to say that they are ready, with a custom attribute, a tag
/// and user data that changes, vanishes for a while, and changes again; and gone.
async fn story_of_guests(world: &SimWorld) {
    let user = User::of(world);
    user.namespace("shop").await;
    let secret = |text: &str| {
        world.kube.apply(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "init", "namespace": "shop"},
            "stringData": {"user-data": text},
        }))
    };
    secret("one").unwrap();
    let spec = json!({
        "cpu": 1, "memory": 1, "replicas": 2, "template": TEMPLATE, "customAttributes": {"owner": "shop"},
        "tags": [{"category": "env", "name": "test"}],
        "readiness": {"type": "Address"}, "minReadySeconds": 3,
        "guest": {"cloudInit": {"userData": {"secretKeyRef": {"name": "init", "key": "user-data"}}}},
    });
    let group = json!({
        "apiVersion": "vm.codeconnect.vmworld.com/v1alpha1", "kind": "VmGroup",
        "metadata": {"name": "web", "namespace": "shop"}, "spec": spec,
    });
    world.kube.apply(group).unwrap();
    user.ready("shop", "web", 2, SOON).await;
    let before = uuids(world);
    secret("two").unwrap();
    eventually("both are others", SOON, async || {
        let now = uuids(world);
        if now.len() == 2 && now.is_disjoint(&before) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    user.ready("shop", "web", 2, SOON).await;
    let after = uuids(world);
    world.kube.delete("secrets", Some("shop"), "init").unwrap();
    user.told("shop", "web", "GuestDataMissing", "init", SOON).await;
    secret("two").unwrap();
    world.kube.patch_spec("vmgroups", Some("shop"), "web", json!({"customAttributes": {"owner": "web"}})).unwrap();
    eventually("both have the other attribute", SOON, async || {
        let members: Vec<_> = world.vcenter.vms().into_iter().filter(|vm| !vm.template).collect();
        let done = members.iter().all(|vm| vm.attributes.get("owner").is_some_and(|owner| owner == "web"));
        if done { Ok(()) } else { Err(format!("{members:?}")) }
    })
    .await;
    user.ready("shop", "web", 2, SOON).await;
    let theirs = ("backup".to_owned(), "daily".to_owned());
    for vm in world.vcenter.vms().iter().filter(|vm| !vm.template) {
        world.vcenter.set_tag(&vm.path, &theirs.0, &theirs.1, true).unwrap();
    }
    let tags = json!([{"category": "env", "name": "prod"}]);
    world.kube.patch_spec("vmgroups", Some("shop"), "web", json!({"tags": tags})).unwrap();
    eventually("both have the other tag, and what is not ours", SOON, async || {
        let members: Vec<_> = world.vcenter.vms().into_iter().filter(|vm| !vm.template).collect();
        let all = BTreeSet::from([("env".to_owned(), "prod".to_owned()), theirs.clone()]);
        if members.iter().all(|vm| vm.tags == all) { Ok(()) } else { Err(format!("{members:?}")) }
    })
    .await;
    user.ready("shop", "web", 2, SOON).await;
    assert_eq!(uuids(world), after, "nobody is replaced for that");
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    assert!(world.vms().await.unwrap().is_empty(), "S1: {:?}", world.vms().await.unwrap());
}

/// The connections of the story of two vCenters; new groups of `team-a` are made there.
fn connections(team_a: &str) -> String {
    let entry = |name: &str, vcenter: usize, serves: &str| {
        format!(
            "- {{ name: {name}, address: \"http://{}\", credentials: {{ secret: vc-{name} }}, cluster: \"*\", datastore: \"*\", serves: {{ namespaces: [{serves}] }} }}\n",
            host_of(vcenter)
        )
    };
    let of = |name: &str, serves: &str| if team_a == name { format!("{serves}, team-a") } else { serves.to_owned() };
    format!("connections:\n{}{}", entry("muc", 0, &of("muc", "shop")), entry("ber", 1, &of("ber", "lab")))
}

/// The machines of a group, in all vCenters, each with the number of its own.
fn of_group(world: &SimWorld, group: &str) -> Vec<(usize, VmView)> {
    let each = world.vcenters.iter().enumerate();
    let all = each.flat_map(|(number, vcenter)| vcenter.vms().into_iter().map(move |vm| (number, vm)));
    all.filter(|(_, vm)| vm.extra.get("vmgroup.group").is_some_and(|mark| mark == group)).collect()
}

/// A group in a part of one vCenter, and one in the other, whose namespace is given to the
/// first while they stand; it grows where it is, is not moved, and both go.
async fn story_of_sites(world: &SimWorld) {
    let user = User::of(world);
    let target = json!({"cluster": "DC0_C1", "datastore": "LocalDS_1", "folder": "team"});
    for (namespace, name, target) in [("shop", "web", Some(target)), ("team-a", "db", None)] {
        user.namespace(namespace).await;
        let mut spec = json!({"cpu": 1, "memory": 1, "replicas": 1, "template": TEMPLATE});
        if let Some(target) = target {
            spec["target"] = target;
        }
        let group = json!({
            "apiVersion": "vm.codeconnect.vmworld.com/v1alpha1", "kind": "VmGroup",
            "metadata": {"name": name, "namespace": namespace}, "spec": spec,
        });
        world.kube.apply(group).unwrap();
    }
    user.ready("shop", "web", 1, SOON).await;
    user.ready("team-a", "db", 1, SOON).await;
    user.connections(&connections("muc")).await;
    let elsewhere = json!({"target": {"connection": "muc"}});
    assert!(world.kube.patch_spec("vmgroups", Some("team-a"), "db", elsewhere).is_err(), "it stands");
    user.scale("shop", "web", 2).await;
    user.scale("team-a", "db", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    user.ready("team-a", "db", 2, SOON).await;
    user.told("team-a", "db", "ConnectionDiffers", "ber", SOON).await;
    assert_eq!((of_group(world, "shop/web").len(), of_group(world, "team-a/db").len()), (2, 2));
    for (namespace, name) in [("shop", "web"), ("team-a", "db")] {
        user.delete(namespace, name).await;
        user.gone(namespace, name, SOON).await;
        let left = of_group(world, &format!("{namespace}/{name}"));
        assert!(left.is_empty(), "S1: {left:?}");
    }
    let folders = world.vcenters.iter().flat_map(VcenterSim::folders);
    let left: Vec<String> = folders.filter(|path| path.starts_with(&format!("{ROOT}/"))).collect();
    assert_eq!(left, [format!("{ROOT}/team")]);
}

/// Before there is an operator: both logins, the file, and the folder of the target.
async fn prepare_sites(world: &SimWorld) {
    let user = User::of(world);
    for secret in ["vc-muc", "vc-ber"] {
        user.login(secret, USER, PASSWORD).await;
    }
    user.connections(&connections("ber")).await;
    world.vcenters[0].add_folder(ROOT, "team").unwrap();
}

/// At no time is one of the members of that story in another place than its own.
async fn always_in_their_places(world: &SimWorld) {
    loop {
        for (vcenter, vm) in of_group(world, "shop/web") {
            let place = (vcenter, vm.host.starts_with("DC0_C1"), vm.datastore.as_str(), vm.folder.as_str());
            assert_eq!(place, (0, true, "LocalDS_1", "/DC0/vm/vm-operator/team/shop-web"), "{vm:?}");
        }
        for (vcenter, vm) in of_group(world, "team-a/db") {
            assert_eq!((vcenter, vm.folder.as_str()), (1, "/DC0/vm/vm-operator/team-a-db"), "{vm:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn uuids(world: &SimWorld) -> BTreeSet<String> {
    world.vcenter.vms().into_iter().filter(|vm| !vm.template).map(|vm| vm.instance_uuid).collect()
}

/// Never more machines than the larger of the old and the new count (S3).
async fn never_more_than(most: usize, world: &SimWorld) {
    loop {
        let vms = world.vcenters.iter().flat_map(VcenterSim::vms);
        let count = vms.filter(|vm| !vm.template).count();
        assert!(count <= most, "S3: {count} machines");
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

/// What is told, and struck at each of its calls.
#[derive(Clone, Copy)]
enum Story {
    Life,
    Changes,
    Guests,
    Sites,
}

impl Story {
    /// The most machines that there may be.
    fn most(self) -> usize {
        match self {
            Self::Life => 3,
            Self::Changes | Self::Guests => 2,
            Self::Sites => 4,
        }
    }

    fn options(self) -> Options {
        match self {
            Self::Life | Self::Changes | Self::Guests => Options::default(),
            Self::Sites => Options { connections: 2, clusters: 2, datastores: 2, ..Options::default() },
        }
    }
}

fn run(which: Story, sabotage: Sabotage, seed: u64) -> Sabotage {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = SimWorld::seeded(which.options(), seed).unwrap();
        world.sabotage = sabotage.clone();
        world.vcenter.add_template("/DC0/vm", "another-template").unwrap();
        world.vcenter.define_attribute("owner");
        for tag in ["test", "prod"] {
            world.vcenter.define_tag("env", tag);
        }
        if matches!(which, Story::Sites) {
            prepare_sites(&world).await;
        }
        world.start_operator().await.unwrap();
        let watcher = world.onlooker();
        let teller = world.onlooker();
        let told = async {
            match which {
                Story::Life => story(&teller).await,
                Story::Changes => story_of_changes(&teller).await,
                Story::Guests => story_of_guests(&teller).await,
                Story::Sites => story_of_sites(&teller).await,
            }
        };
        tokio::select! {
            () = told => {}
            () = never_more_than(which.most(), &watcher) => {}
            () = always_in_their_places(&watcher), if matches!(which, Story::Sites) => {}
            () = killer(&mut world) => {}
        }
        world.kill_operator().await.unwrap();
    });
    sabotage
}

fn every_call(which: Story, blow: Blow) {
    let calls = run(which, Sabotage::default(), 1).calls();
    assert!(calls > 60, "the story makes only {calls} calls");
    let mut struck = 0;
    for call in 0..calls {
        let sabotage = Sabotage::at(call, blow);
        let copy = sabotage.clone();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || run(which, copy, 1)));
        let what = sabotage.struck();
        assert!(result.is_ok(), "{blow:?} at call {call} ({what:?}): see above");
        struck += usize::from(what.is_some());
    }
    assert!(struck as u64 >= calls * 9 / 10, "only {struck} of {calls} calls were struck");
    println!("{blow:?}: {struck} of {calls} calls struck, no violation");
}

#[test]
fn l4_crash_before_every_call() {
    every_call(Story::Life, Blow::CrashBefore);
}

#[test]
fn l4_crash_after_every_call() {
    every_call(Story::Life, Blow::CrashAfter);
}

#[test]
fn l4_reply_lost_at_every_call() {
    every_call(Story::Life, Blow::ReplyLost);
}

#[test]
fn l4_crash_before_every_call_of_a_change() {
    every_call(Story::Changes, Blow::CrashBefore);
}

#[test]
fn l4_crash_after_every_call_of_a_change() {
    every_call(Story::Changes, Blow::CrashAfter);
}

#[test]
fn l4_reply_lost_at_every_call_of_a_change() {
    every_call(Story::Changes, Blow::ReplyLost);
}

#[test]
fn l4_crash_before_every_call_about_guests() {
    every_call(Story::Guests, Blow::CrashBefore);
}

#[test]
fn l4_crash_after_every_call_about_guests() {
    every_call(Story::Guests, Blow::CrashAfter);
}

#[test]
fn l4_reply_lost_at_every_call_about_guests() {
    every_call(Story::Guests, Blow::ReplyLost);
}

#[test]
fn l4_crash_before_every_call_to_two_vcenters() {
    every_call(Story::Sites, Blow::CrashBefore);
}

#[test]
fn l4_crash_after_every_call_to_two_vcenters() {
    every_call(Story::Sites, Blow::CrashAfter);
}

#[test]
fn l4_reply_lost_at_every_call_to_two_vcenters() {
    every_call(Story::Sites, Blow::ReplyLost);
}

/// The same seed gives the same run, call for call.
#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(Story::Life, Sabotage::default(), 5).calls(), run(Story::Life, Sabotage::default(), 5).calls());
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

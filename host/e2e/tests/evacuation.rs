//! Hosts that go into maintenance while members are on them.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::time::Duration;

use axum::body::Body;
use serde_json::{Value, json};
use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Options, User, VmView, World, eventually};
use vmgroup_policy::wit::types::Purpose;

const SOON: Duration = Duration::from_secs(120);
/// So long nothing more happens.
const REST: Duration = Duration::from_secs(1_800);

/// A group without DRS, spread over the hosts, and the host that most of it is on.
async fn standing(replicas: usize, more: Value) -> (SimWorld, User, String) {
    let mut world = SimWorld::make(Options { record_bytes: 1 << 20, ..Options::default() }).await.unwrap();
    world.vcenter.set_drs(false, false);
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.policy(Some("placement: { plugin: spread }"), &[]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    user.group("shop", "web", replicas).await;
    user.ready("shop", "web", i32::try_from(replicas).unwrap(), SOON).await;
    world.kube.patch_spec("vmgroups", Some("shop"), "web", more).unwrap();
    tokio::time::sleep(SOON).await;
    let host = world.vms().await.unwrap()[0].host.clone();
    (world, user, host)
}

async fn on(world: &SimWorld, host: &str) -> Vec<VmView> {
    world.vms().await.unwrap().into_iter().filter(|vm| vm.host == host).collect()
}

fn ids(vms: &[VmView]) -> Vec<String> {
    let mut ids: Vec<String> = vms.iter().map(|vm| vm.instance_uuid.clone()).collect();
    ids.sort();
    ids
}

fn status(world: &SimWorld) -> Value {
    world.kube.get("vmgroups", Some("shop"), "web").unwrap()["status"].clone()
}

fn condition(world: &SimWorld) -> Option<Value> {
    let status = status(world);
    let conditions = status["conditions"].as_array().unwrap().clone();
    conditions.into_iter().find(|condition| condition["type"] == "HostLeaving")
}

async fn named(world: &SimWorld) -> String {
    eventually("the condition is there", SOON, async || {
        let told = condition(world).map(|condition| condition["message"].as_str().unwrap().to_owned());
        told.ok_or_else(|| status(world).to_string())
    })
    .await
}

async fn unnamed(world: &SimWorld) {
    eventually("nobody is named any more", SOON, async || match condition(world) {
        None => Ok(()),
        Some(condition) => Err(condition.to_string()),
    })
    .await;
}

async fn emptied(world: &SimWorld, host: &str) {
    eventually("the host is in maintenance", SOON * 5, async || {
        if world.vcenter.in_maintenance(host).unwrap() { Ok(()) } else { Err(status(world).to_string()) }
    })
    .await;
}

/// Why policies were asked, question by question.
async fn purposes(world: &SimWorld) -> Vec<Purpose> {
    let (_, exported) = world.ask(0, http::Request::get("/export").body(Body::empty()).unwrap()).await;
    let file = std::env::temp_dir().join(format!("vmgroup-evacuation-{}.jsonl.zst", std::process::id()));
    std::fs::write(&file, exported).unwrap();
    let records = vmgroup_records::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    records.iter().map(|record| record.question.context().purpose).collect()
}

async fn count(user: &User, reason: &str) -> usize {
    let events = user.events("shop", "web").await;
    events.iter().filter(|event| event.starts_with(reason)).count()
}

/// Unless it is asked for, nobody is replaced: the members are named, once, and the
/// group is as ready as before; at rest there are no calls. When it is called off,
/// nothing has happened.
#[tokio::test(start_paused = true)]
async fn members_on_a_host_that_enters_maintenance_are_named_once() {
    let (world, user, host) = standing(3, json!({})).await;
    let before = world.vms().await.unwrap();
    world.vcenter.enter_maintenance(&host).unwrap();
    let told = named(&world).await;
    let there = on(&world, &host).await;
    assert!(told.contains(&host) && told.contains(&there[0].name) && told.contains("spec.evacuation"), "{told}");
    world.vcenter.faults().reset_calls();
    tokio::time::sleep(REST).await;
    let calls = world.calls().await.unwrap();
    assert_eq!(calls.keys().collect::<Vec<_>>(), ["WaitForUpdatesEx"], "L2: {calls:?}");
    let now = status(&world);
    assert!(now["phase"] == "RUNNING" && now["lastMessage"].as_str().unwrap().contains(&there[0].name), "{now}");
    assert_eq!(count(&user, "HostLeaving").await, 1);
    assert!(!world.vcenter.in_maintenance(&host).unwrap(), "its machines are still there");

    world.vcenter.set_maintenance(&host, false).unwrap();
    unnamed(&world).await;
    tokio::time::sleep(SOON).await;
    assert_eq!(world.vms().await.unwrap(), before);
    // Another time is another event, and another host is one more.
    let other = before.iter().find(|vm| vm.host != host).unwrap().host.clone();
    world.vcenter.enter_maintenance(&host).unwrap();
    named(&world).await;
    world.vcenter.enter_maintenance(&other).unwrap();
    eventually("both are named", SOON, async || {
        let told = named(&world).await;
        if told.contains(&host) && told.contains(&other) { Ok(()) } else { Err(told) }
    })
    .await;
    assert_eq!(count(&user, "HostLeaving").await, 3);
}

/// Who moves the machines by hand is all that it takes.
#[tokio::test(start_paused = true)]
async fn whoever_is_moved_by_hand_stays() {
    let (world, _, host) = standing(3, json!({"evacuation": "None"})).await;
    let before = ids(&world.vms().await.unwrap());
    world.vcenter.enter_maintenance(&host).unwrap();
    named(&world).await;
    let to = world.vms().await.unwrap().iter().find(|vm| vm.host != host).unwrap().host.clone();
    for vm in on(&world, &host).await {
        world.vcenter.migrate(&vm.path, &to).unwrap();
    }
    emptied(&world, &host).await;
    unnamed(&world).await;
    assert_eq!(ids(&world.vms().await.unwrap()), before);
}

/// By option they are replaced: never more at a time than may be missed, and their
/// successors are elsewhere.
#[tokio::test(start_paused = true)]
async fn members_are_replaced_elsewhere_by_the_rules_of_an_update() {
    let (world, user, host) = standing(6, json!({"evacuation": "Replace"})).await;
    let (before, there) = (ids(&world.vms().await.unwrap()), on(&world, &host).await);
    assert!(there.len() >= 2, "{there:?}");
    let asked = purposes(&world).await.len();
    world.vcenter.enter_maintenance(&host).unwrap();
    let (mut fewest, mut told) = (usize::MAX, String::new());
    while !world.vcenter.in_maintenance(&host).unwrap() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let vms = world.vms().await.unwrap();
        fewest = fewest.min(vms.iter().filter(|vm| vm.on).count());
        assert!(vms.len() <= 6, "{vms:#?}");
        let now = status(&world);
        if now["conditions"].as_array().unwrap().iter().any(|it| it["reason"] == "Evacuating") {
            told = now["lastMessage"].to_string();
        }
    }
    assert_eq!(fewest, 5, "maxUnavailable is 1");
    assert!(told.contains("evacuating"), "{told}");
    user.ready("shop", "web", 6, SOON).await;
    let after = world.vms().await.unwrap();
    assert!(after.iter().all(|vm| vm.host != host && vm.on), "{after:#?}");
    let kept = after.iter().filter(|vm| before.contains(&vm.instance_uuid)).count();
    assert_eq!(kept, 6 - there.len(), "nobody else is replaced");
    assert_eq!(count(&user, "Replacing").await, there.len());
    let asked = purposes(&world).await.split_off(asked);
    assert!(asked.len() >= 3 * there.len() && asked.iter().all(|why| *why == Purpose::Evacuation), "{asked:?}");
    let events = user.events("shop", "web").await;
    let why = "its host is going into maintenance";
    assert!(events.iter().any(|event| event.starts_with("Replacing") && event.contains(why)), "{events:#?}");
    unnamed(&world).await;
    assert!(status(&world)["rollout"].is_null());

    world.vcenter.set_maintenance(&host, false).unwrap();
    tokio::time::sleep(SOON).await;
    assert_eq!(ids(&world.vms().await.unwrap()), ids(&after), "the host is back, and that is all");
}

/// With `maxSurge` and nobody to be missed, the successor comes first.
#[tokio::test(start_paused = true)]
async fn nobody_is_missed_where_successors_may_come_first() {
    let bounds = json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    let (world, _, host) = standing(4, json!({"evacuation": "Replace", "updateStrategy": bounds})).await;
    world.vcenter.enter_maintenance(&host).unwrap();
    let mut fewest = usize::MAX;
    while !world.vcenter.in_maintenance(&host).unwrap() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        fewest = fewest.min(world.vms().await.unwrap().iter().filter(|vm| vm.on).count());
    }
    assert_eq!(fewest, 4);
}

/// When it is called off in the middle, who was chosen goes, and nobody else.
#[tokio::test(start_paused = true)]
async fn called_off_in_the_middle_nobody_else_goes() {
    let (world, user, host) = standing(6, json!({"evacuation": "Replace"})).await;
    let before = ids(&world.vms().await.unwrap());
    world.vcenter.enter_maintenance(&host).unwrap();
    eventually("the first one goes", SOON, async || match count(&user, "Replacing").await {
        0 => Err(status(&world).to_string()),
        _ => Ok(()),
    })
    .await;
    world.vcenter.set_maintenance(&host, false).unwrap();
    tokio::time::sleep(REST).await;
    let after = world.vms().await.unwrap();
    assert_eq!(after.iter().filter(|vm| before.contains(&vm.instance_uuid)).count(), 5);
    assert!(after.len() == 6 && after.iter().all(|vm| vm.on));
    assert_eq!(status(&world)["phase"], "RUNNING");
    assert_eq!(count(&user, "Replacing").await, 1);
}

/// Fully automated DRS moves the machines: nobody is named, let alone replaced.
#[tokio::test(start_paused = true)]
async fn what_drs_does_is_left_to_it() {
    let (world, user, host) = standing(6, json!({"evacuation": "Replace"})).await;
    world.vcenter.set_drs(true, true);
    tokio::time::sleep(SOON).await;
    let before = ids(&world.vms().await.unwrap());
    world.vcenter.enter_maintenance(&host).unwrap();
    emptied(&world, &host).await;
    tokio::time::sleep(SOON).await;
    assert_eq!(ids(&world.vms().await.unwrap()), before);
    assert_eq!((count(&user, "HostLeaving").await, count(&user, "Replacing").await), (0, 0));
}

/// DRS that only advises is no DRS here; and what it is set to while the host waits
/// counts at once.
#[tokio::test(start_paused = true)]
async fn drs_that_only_advises_moves_nobody() {
    let (world, _, host) = standing(3, json!({})).await;
    world.vcenter.set_drs(true, false);
    world.vcenter.enter_maintenance(&host).unwrap();
    named(&world).await;
    world.vcenter.set_drs(true, true);
    unnamed(&world).await;
}

/// A protected member stays, is named as such, and holds nobody else.
#[tokio::test(start_paused = true)]
async fn s5_a_protected_member_is_named_and_left() {
    let (world, user, host) = standing(6, json!({"evacuation": "Replace"})).await;
    let there = on(&world, &host).await;
    world.vcenter.set_extra(&there[0].path, "vmgroup.attr.protected", "true").unwrap();
    world.vcenter.enter_maintenance(&host).unwrap();
    eventually("the others are elsewhere", SOON * 5, async || {
        let left = on(&world, &host).await;
        if ids(&left) == [there[0].instance_uuid.clone()] { Ok(()) } else { Err(format!("{left:#?}")) }
    })
    .await;
    user.ready("shop", "web", 6, SOON).await;
    tokio::time::sleep(REST).await;
    let told = condition(&world).unwrap()["message"].to_string();
    assert!(told.contains(&there[0].name) && told.contains("protected"), "{told}");
    assert_eq!(ids(&on(&world, &host).await), [there[0].instance_uuid.clone()]);
    assert!(!world.vcenter.in_maintenance(&host).unwrap());
}

/// Nobody can be powered on where a host is to be emptied, and so nobody is tried to
/// be, until it is called off.
#[tokio::test(start_paused = true)]
async fn who_is_off_waits_for_his_host() {
    let (world, user, host) = standing(3, json!({})).await;
    let there = on(&world, &host).await;
    world.vcenter.enter_maintenance(&host).unwrap();
    named(&world).await;
    world.vcenter.faults().reset_calls();
    world.vcenter.power_off(&there[0].path).unwrap();
    emptied(&world, &host).await;
    tokio::time::sleep(REST).await;
    let calls = world.calls().await.unwrap();
    assert!(!calls.keys().any(|method| method.starts_with("PowerOn")), "{calls:?}");
    let now = status(&world);
    assert!(now["lastMessage"].as_str().unwrap().contains("is in maintenance mode"), "{now}");
    world.vcenter.set_maintenance(&host, false).unwrap();
    user.ready("shop", "web", 3, SOON).await;
    assert!(on(&world, &host).await[0].on);
}

/// A change that has begun goes on after the host, and brings both together.
#[tokio::test(start_paused = true)]
async fn a_host_that_enters_goes_before_a_change_of_the_template() {
    let (world, user, host) = standing(6, json!({"evacuation": "Replace"})).await;
    world.vcenter.add_template("/DC0/vm", "another-template").unwrap();
    let there = ids(&on(&world, &host).await);
    world.vcenter.enter_maintenance(&host).unwrap();
    world.kube.patch_spec("vmgroups", Some("shop"), "web", json!({"template": "another-template"})).unwrap();
    emptied(&world, &host).await;
    let replaced = count(&user, "Replacing").await;
    assert!(replaced <= there.len() + 1, "{replaced} of {} were on the host", there.len());
    user.ready("shop", "web", 6, SOON * 5).await;
    eventually("all are as the spec says", SOON * 5, async || {
        let now = status(&world);
        if now["updatedReplicas"] == 6 && now["phase"] == "RUNNING" { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

//! Guests that differ: what they are told, what they are made of, and who may not
//! hear of it.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::io::{Read as _, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use vmgroup_e2e::sim::{SimWorld, everything};
use vmgroup_e2e::world::{Options, TEMPLATE, User, World, eventually, yaml};
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::vcenter::VmView;

const SOON: Duration = Duration::from_secs(60);

const CANARY: &str = "a token that only the guest may see";

async fn running(options: Options) -> (SimWorld, User) {
    let mut world = SimWorld::make(options).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.namespace("shop").await;
    (world, user)
}

/// Makes the group `shop/web` of two with these further fields in its spec.
fn make(world: &SimWorld, further: &str) {
    make_as(world, "web", further);
}

/// The same under another name.
fn make_as(world: &SimWorld, name: &str, further: &str) {
    let manifest = format!(
        "apiVersion: vm.codeconnect.vmworld.com/v1alpha1\nkind: VmGroup\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{cpu: 1, memory: 1, replicas: 2, template: {TEMPLATE}, {further}}}\n"
    );
    world.kube.apply(yaml(&manifest)).unwrap();
}

fn secret(world: &SimWorld, user_data: &str) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "web-init", "namespace": "shop"},
        "data": {"user-data": STANDARD.encode(user_data)},
    });
    world.kube.apply(secret).unwrap();
}

const FROM_SECRET: &str = "guest: {cloudInit: {userData: {secretKeyRef: {name: web-init, key: user-data}}}}";

/// The group stands, told `old: true` from its Secret.
async fn told_old() -> (SimWorld, User) {
    let (world, user) = running(Options::default()).await;
    secret(&world, "old: true");
    make(&world, FROM_SECRET);
    user.ready("shop", "web", 2, SOON).await;
    (world, user)
}

fn members(world: &SimWorld) -> Vec<VmView> {
    world.vcenter.vms().into_iter().filter(|vm| !vm.template).collect()
}

fn metadata(vm: &VmView) -> Value {
    assert_eq!(vm.extra["guestinfo.metadata.encoding"], "base64");
    serde_json::from_slice(&STANDARD.decode(&vm.extra["guestinfo.metadata"]).unwrap()).unwrap()
}

fn user_data(vm: &VmView) -> String {
    assert_eq!(vm.extra["guestinfo.userdata.encoding"], "gzip+base64");
    let packed = STANDARD.decode(&vm.extra["guestinfo.userdata"]).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(start_paused = true)]
async fn each_guest_learns_who_it_is() {
    let (world, user) = running(Options::default()).await;
    secret(&world, "#cloud-config\nhostname: ${VMGROUP_HOSTNAME}\n");
    make(&world, FROM_SECRET);
    user.ready("shop", "web", 2, SOON).await;
    for vm in members(&world) {
        assert_eq!(metadata(&vm), json!({"instance-id": vm.instance_uuid, "local-hostname": vm.name}));
        assert_eq!(user_data(&vm), format!("#cloud-config\nhostname: {}\n", vm.name));
    }
}

fn status(world: &SimWorld) -> Value {
    world.kube.get("vmgroups", Some("shop"), "web").unwrap()["status"].clone()
}

/// Waits until all members, so many, were told this and nothing else.
async fn so_many_told(world: &SimWorld, members_wished: usize, text: &str) {
    eventually("all are told the same", SOON * 10, async || {
        let told: Vec<String> = members(world).iter().map(user_data).collect();
        let done = told.len() == members_wished && told.iter().all(|told| told == text);
        if done { Ok(()) } else { Err(format!("{told:?} {}", status(world)["lastMessage"])) }
    })
    .await;
}

/// The same of those of the one group, which says that it is done.
async fn all_told(world: &SimWorld, user: &User, replicas: usize, text: &str) {
    so_many_told(world, replicas, text).await;
    user.ready("shop", "web", i32::try_from(replicas).unwrap(), SOON).await;
}

/// A changed Secret replaces those who stand, one after the other, and changing it back
/// does so again; another key of it, its labels, and a Secret that nobody names do not.
/// Then nobody is called but by the watches.
#[tokio::test(start_paused = true)]
async fn a_changed_secret_replaces_the_members() {
    let (world, user) = told_old().await;
    let before = members(&world);
    let further = json!({"metadata": {"labels": {"a": "b"}}, "data": {"other": STANDARD.encode("x")}});
    world.kube.patch("secrets", Some("shop"), "web-init", further).unwrap();
    tokio::time::sleep(SOON).await;
    assert_eq!(members(&world), before, "what it was made with has not changed");

    secret(&world, "new: true");
    let fewest = async {
        let mut fewest = 2;
        loop {
            fewest = fewest.min(members(&world).iter().filter(|vm| vm.power_on).count());
            tokio::time::sleep(Duration::from_millis(100)).await;
            if fewest == 0 {
                break;
            }
        }
    };
    tokio::select! {
        () = all_told(&world, &user, 2, "new: true") => {}
        () = fewest => panic!("both were taken down at once"),
    }
    let events = user.events("shop", "web").await;
    let replaced = events.iter().filter(|event| event.starts_with("Replacing") && event.contains("user data"));
    assert_eq!(replaced.count(), 2, "{events:#?}");

    tokio::time::sleep(SOON).await;
    let calls = |world: &SimWorld| {
        let mut calls = world.kube.faults().calls();
        calls.retain(|call, _| !call.starts_with("WATCH "));
        calls
    };
    let quiet = calls(&world);
    tokio::time::sleep(SOON * 10).await;
    assert_eq!(calls(&world), quiet, "at rest nobody is asked");

    secret(&world, "old: true");
    all_told(&world, &user, 2, "old: true").await;
}

/// The same of a ConfigMap; and with `OnDelete` it is for the next ones.
#[tokio::test(start_paused = true)]
async fn with_on_delete_changed_data_is_for_the_next_members() {
    let (world, user) = running(Options::default()).await;
    let map = |text: &str| {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web-init", "namespace": "shop"},
            "data": {"user-data": text},
        });
        world.kube.apply(map).unwrap();
    };
    map("old: true");
    make(
        &world,
        "updateStrategy: {type: OnDelete}, guest: {cloudInit: {userData: {configMapKeyRef: {name: web-init, key: user-data}}}}",
    );
    user.ready("shop", "web", 2, SOON).await;
    map("new: true");
    user.scale("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    tokio::time::sleep(SOON * 10).await;
    let told: Vec<String> = members(&world).iter().map(user_data).collect();
    assert_eq!(told.iter().filter(|text| text.contains("old")).count(), 2, "{told:?}");
    assert_eq!(status(&world)["updatedReplicas"], 1);
    world.kube.patch_spec("vmgroups", Some("shop"), "web", json!({"updateStrategy": null})).unwrap();
    all_told(&world, &user, 3, "new: true").await;
}

/// Data that is not there any more harms nobody: who stands stays and serves, why is
/// told, and what comes in its place counts.
#[tokio::test(start_paused = true)]
async fn l7_data_that_vanishes_leaves_the_members_as_they_are() {
    let (world, user) = told_old().await;
    let before = members(&world);
    world.kube.delete("secrets", Some("shop"), "web-init").unwrap();
    user.told("shop", "web", "GuestDataMissing", "there is no Secret web-init", SOON).await;
    secret(&world, &"x".repeat(64 * 1024 + 1));
    user.told("shop", "web", "GuestDataMissing", "65537 bytes", SOON).await;
    tokio::time::sleep(SOON * 10).await;
    assert_eq!(members(&world), before);
    assert_eq!(status(&world)["phase"], "RUNNING");
    secret(&world, "old: true");
    eventually("nothing is missing", SOON, async || {
        let conditions = status(&world)["conditions"].to_string();
        if conditions.contains("GuestDataMissing") { Err(conditions) } else { Ok(()) }
    })
    .await;
    assert_eq!(members(&world), before, "it is the same again");
    world.kube.delete("secrets", Some("shop"), "web-init").unwrap();
    secret(&world, "new: true");
    all_told(&world, &user, 2, "new: true").await;
}

/// A restart of the operator replaces nobody; what changed while it was away is seen.
#[tokio::test(start_paused = true)]
async fn l12_a_change_while_the_operator_is_away_counts() {
    let (mut world, user) = told_old().await;
    let before = members(&world);
    world.kill_operator().await.unwrap();
    world.start_operator().await.unwrap();
    tokio::time::sleep(SOON).await;
    assert_eq!(members(&world), before);
    world.kill_operator().await.unwrap();
    secret(&world, "new: true");
    world.start_operator().await.unwrap();
    all_told(&world, &user, 2, "new: true").await;
}

/// L13: members that were made before their data was marked count as made with what
/// there is, and are marked so without being taken down; a later change reaches them.
#[tokio::test(start_paused = true)]
async fn l13_members_without_the_mark_of_their_data_are_not_replaced() {
    const MARK: &str = "vmgroup.user-data";
    let (mut world, user) = told_old().await;
    let before = members(&world);
    world.kill_operator().await.unwrap();
    for vm in &before {
        world.vcenter.set_extra(&vm.path, MARK, "").unwrap();
    }
    world.start_operator().await.unwrap();
    eventually("they are marked again", SOON, async || {
        let now = members(&world);
        if now == before { Ok(()) } else { Err(format!("{now:#?}")) }
    })
    .await;
    secret(&world, "new: true");
    all_told(&world, &user, 2, "new: true").await;
    assert!(members(&world).iter().all(|vm| before.iter().all(|old| old.instance_uuid != vm.instance_uuid)));
}

/// A watch that lags behind what a fresh read says: nobody is replaced for being newer.
#[tokio::test(start_paused = true)]
async fn l5_a_watch_that_lags_behind_replaces_nobody_twice() {
    let (world, user) = told_old().await;
    world.kube.faults().add(Rule {
        on: "WATCH secrets".into(),
        skip: 0,
        times: u32::MAX,
        fault: Fault::Error("503".into()),
    });
    world.kube.drop_watches();
    secret(&world, "new: true");
    user.scale("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    world.kube.faults().clear();
    all_told(&world, &user, 3, "new: true").await;
    let made = user.events("shop", "web").await;
    let replaced = made.iter().filter(|event| event.starts_with("Replacing")).count();
    assert_eq!(replaced, 2, "who was made with the new data stays: {made:#?}");
}

/// One group hears of a changed Secret before the watch does, as it is scaled at the same
/// time; the others that name it hear of it all the same.
#[tokio::test(start_paused = true)]
async fn l1_whoever_hears_of_a_changed_secret_first_keeps_it_from_nobody() {
    let (world, user) = told_old().await;
    make_as(&world, "db", FROM_SECRET);
    user.ready("shop", "db", 2, SOON).await;
    world.kube.faults().add(Rule::every("WATCH secrets", Fault::Error("503".into())));
    world.kube.drop_watches();
    secret(&world, "new: true");
    user.scale("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    world.kube.faults().clear();
    so_many_told(&world, 5, "new: true").await;
    user.ready("shop", "web", 3, SOON).await;
    user.ready("shop", "db", 2, SOON).await;
}

/// What a member is made with is changed by replacing it.
#[tokio::test(start_paused = true)]
async fn a_change_of_networks_replaces_the_members() {
    let (world, user) = running(Options::default()).await;
    world.vcenter.add_network("storage").unwrap();
    make(&world, "gracePeriodSeconds: 0");
    user.ready("shop", "web", 2, SOON).await;
    let edit = json!({"networks": [{"name": "storage"}]});
    world.kube.patch_spec("vmgroups", Some("shop"), "web", edit).unwrap();
    eventually("both are on the other network", SOON * 5, async || {
        let now = members(&world);
        let all = now.len() == 2 && now.iter().all(|vm| vm.networks == ["storage"]);
        if all { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    user.ready("shop", "web", 2, SOON).await;
}

/// Nobody is made while its user data cannot be had; why is told; and it heals.
#[tokio::test(start_paused = true)]
async fn l7_user_data_that_cannot_be_had_is_named() {
    let (world, user) = running(Options::default()).await;
    make(&world, FROM_SECRET);
    let message = user.told("shop", "web", "Stalled", "web-init", SOON).await;
    assert!(message.contains("there is no Secret web-init, key user-data in namespace shop"), "{message}");
    assert_eq!(members(&world), []);
    let denied = Rule { on: "GET secrets".into(), skip: 0, times: 3, fault: Fault::Error("403".into()) };
    world.kube.faults().add(denied);
    secret(&world, "x");
    user.told("shop", "web", "Stalled", "deploy/components/guest-data", SOON * 10).await;
    user.ready("shop", "web", 2, SOON * 60).await;
    secret(&world, &"x".repeat(64 * 1024 + 1));
    user.scale("shop", "web", 3).await;
    user.told("shop", "web", "Stalled", "65537 bytes", SOON).await;
}

/// What a subscriber writes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// S9: user data is in the machine's configuration, and nowhere else: not in
/// Kubernetes but for the Secret, not in a log however loud, not in a record of a
/// decision, not in a metric; whatever goes wrong on the way.
#[tokio::test(start_paused = true)]
async fn s9_user_data_is_nowhere_but_in_its_guest() {
    let log = Log::default();
    let writer = log.clone();
    let loud = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(loud.finish());
    let (world, user) = running(Options { record_bytes: 1 << 20, ..Options::default() }).await;
    secret(&world, CANARY);
    for fault in [Fault::Error("503".into()), Fault::FailTask("GenericVmConfigFault".into()), Fault::LoseReply] {
        world.vcenter.faults().add(Rule::next("CloneVM_Task", fault));
    }
    make(&world, FROM_SECRET);
    user.ready("shop", "web", 2, SOON * 10).await;
    world.kube.patch_spec("vmgroups", Some("shop"), "web", json!({"replicas": 3})).unwrap();
    user.ready("shop", "web", 3, SOON).await;
    assert!(members(&world).iter().all(|vm| user_data(vm) == CANARY));
    let packed = members(&world)[0].extra["guestinfo.userdata"].clone();
    let mark = members(&world)[0].extra["vmgroup.user-data"].clone();
    let request = http::Request::get("/export").body(axum::body::Body::empty()).unwrap();
    let (_, records) = world.ask(0, request).await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("CloneVM_Task"), "it is loud");
    for (what, text) in [
        ("Kubernetes", everything(&world.kube)),
        ("the log", log),
        ("the records", String::from_utf8_lossy(&records).into_owned()),
        ("the metrics", world.metrics(0).encode()),
    ] {
        for form in [CANARY, &STANDARD.encode(CANARY), &packed, &mark] {
            assert!(!text.contains(form), "user data is in {what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn networks_disks_and_customization_are_as_the_group_says() {
    let (world, user) = running(Options::default()).await;
    world.vcenter.add_network("storage").unwrap();
    world.vcenter.add_customization("linux-dhcp");
    make(
        &world,
        "networks: [{name: VM Network}, {name: storage}], disks: [{sizeGiB: 20}, {sizeGiB: 5}], guest: {customizationSpec: linux-dhcp}",
    );
    user.ready("shop", "web", 2, SOON).await;
    for vm in members(&world) {
        assert_eq!(vm.networks, ["VM Network", "storage"]);
        assert_eq!(vm.disks[1..], [20 << 30, 5 << 30]);
        assert_eq!(vm.customized.as_deref(), Some("linux-dhcp.example.com"));
        assert!(!vm.extra.contains_key("guestinfo.metadata"), "nothing that was not asked for");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_named_and_nobody_is_made() {
    let (world, user) = running(Options::default()).await;
    make(&world, "networks: [{name: nowhere}]");
    let message = user.told("shop", "web", "Stalled", "nowhere", SOON).await;
    assert!(message.contains("VM Network"), "it names those there are: {message}");
    assert_eq!(members(&world), []);
    let edit = |spec: Value| world.kube.patch_spec("vmgroups", Some("shop"), "web", spec).unwrap();
    edit(json!({"networks": null, "guest": {"customizationSpec": "nobody"}}));
    user.told("shop", "web", "Stalled", "customization specification named \"nobody\"", SOON).await;
    assert_eq!(members(&world), []);
    edit(json!({"guest": null}));
    user.ready("shop", "web", 2, SOON).await;
}

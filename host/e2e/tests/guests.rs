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
    let manifest = format!(
        "apiVersion: vm.codeconnect.vmworld.com/v1alpha1\nkind: VmGroup\nmetadata: {{name: web, namespace: shop}}\nspec: {{cpu: 1, memory: 1, replicas: 2, template: {TEMPLATE}, {further}}}\n"
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

/// What is in a Secret counts for members made from then on; who stands stays as it is.
#[tokio::test(start_paused = true)]
async fn a_changed_secret_counts_for_new_members() {
    let (world, user) = running(Options::default()).await;
    secret(&world, "#cloud-config\nold: true\n");
    make(&world, FROM_SECRET);
    user.ready("shop", "web", 2, SOON).await;
    secret(&world, "#cloud-config\nnew: true\n");
    tokio::time::sleep(SOON * 10).await;
    user.scale("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    let told: Vec<String> = members(&world).iter().map(user_data).collect();
    assert_eq!(told.iter().filter(|text| text.contains("old")).count(), 2, "{told:?}");
    assert_eq!(told.iter().filter(|text| text.contains("new")).count(), 1, "{told:?}");
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
        for form in [CANARY, &STANDARD.encode(CANARY), &packed] {
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

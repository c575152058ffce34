//! Several vCenters, and whose machines are in which, on the simulators with time
//! paused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::time::Duration;

use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;
use vmgroup_api::{ORPHAN_ANNOTATION, VmGroup};
use vmgroup_e2e::sim::{PASSWORD, SimWorld, USER, host_of, with_connections};
use vmgroup_e2e::world::{CONNECTIONS, Deed, OPERATOR_NAMESPACE, Options, User, World, eventually, yaml};
use vmgroup_operator::connections::check;
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::kube::WatchFault;
use vmgroup_sim::vcenter::VcenterSim;

const SOON: Duration = Duration::from_mins(1);

/// `muc` is the first vCenter and serves `shop`, `ber` is the second one, serves the team
/// namespaces, and whoever is served by none.
fn two() -> String {
    format!(
        "connections:\n\
         - name: muc\n  address: http://{}\n  credentials: {{ secret: vc-muc }}\n  serves: {{ namespaces: [shop] }}\n\
         - name: ber\n  address: http://{}\n  credentials: {{ secret: vc-ber }}\n  serves: {{ namespaces: [\"team-*\"] }}\n  default: true\n",
        host_of(0),
        host_of(1),
    )
}

/// A world of two vCenters with an operator that knows both by this file.
async fn started(file: &str) -> (SimWorld, User) {
    with_connections(Options::default(), file, |_| {}).await.unwrap()
}

/// The machines of a vCenter that are no templates, by their folder's name.
fn machines(vcenter: &VcenterSim) -> Vec<String> {
    let vms = vcenter.vms().into_iter().filter(|vm| !vm.template);
    let mut folders: Vec<String> = vms.map(|vm| vm.path.rsplit('/').nth(1).unwrap().to_owned()).collect();
    folders.sort();
    folders
}

fn connection_of(group: &VmGroup) -> Option<String> {
    group.status.clone()?.connection?.name
}

async fn get(user: &User, namespace: &str, name: &str) -> VmGroup {
    user.groups(namespace).get(name).await.unwrap()
}

async fn event(user: &User, text: &str) -> String {
    eventually(&format!("an event with {text}"), SOON, async || {
        let events = user.events(OPERATOR_NAMESPACE, CONNECTIONS).await;
        events.iter().find(|event| event.contains(text)).cloned().ok_or(format!("{events:?}"))
    })
    .await
}

async fn label(world: &SimWorld, namespace: &str, key: &str, value: &str) {
    let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(world.kube());
    let patch = json!({"metadata": {"labels": {key: value}}});
    api.patch(namespace, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

/// What `examples/connections.yaml` shows is taken as it stands.
#[test]
fn the_example_is_taken() {
    let text = include_str!("../../../examples/connections.yaml");
    let objects: Vec<_> = text.split("\n---\n").map(yaml).collect();
    let map = objects.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    let file = check(map["data"]["connections.yaml"].as_str().unwrap()).unwrap();
    for entry in &file.connections {
        let secret = objects.iter().find(|it| it["metadata"]["name"] == entry.credentials.secret.as_str());
        assert_eq!(secret.unwrap()["kind"], "Secret");
    }
    assert!(file.needs_labels() && !file.quotas.is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_namespace_has_its_machines_in_its_own_vcenter() {
    let (world, user) = started(&two()).await;
    for namespace in ["shop", "team-a", "other"] {
        user.group(namespace, "web", 2).await;
    }
    for (namespace, connection) in [("shop", "muc"), ("team-a", "ber"), ("other", "ber")] {
        let group = user.ready(namespace, "web", 2, SOON).await;
        assert_eq!(connection_of(&group).as_deref(), Some(connection));
        let uuid = group.status.unwrap().connection.unwrap().instance_uuid;
        assert!(uuid.is_some_and(|uuid| !uuid.is_empty()));
    }
    assert_eq!(machines(&world.vcenters[0]), ["shop-web"; 2]);
    assert_eq!(machines(&world.vcenters[1]), ["other-web", "other-web", "team-a-web", "team-a-web"]);
    let page = world.metrics(0).encode();
    for name in ["muc", "ber"] {
        assert!(page.contains(&format!("vmgroup_vcenter_connected{{connection=\"{name}\"}} 1")), "{page}");
    }
    for namespace in ["shop", "team-a", "other"] {
        user.delete(namespace, "web").await;
        user.gone(namespace, "web", SOON).await;
    }
    assert!(world.vcenters.iter().all(|vcenter| machines(vcenter).is_empty()));
}

#[tokio::test(start_paused = true)]
async fn namespaces_are_served_by_their_labels_and_a_new_label_counts() {
    let file = two().replace("namespaces: [shop]", "matchLabels: { site: muc }");
    let (world, user) = started(&file).await;
    user.namespace("shop").await;
    label(&world, "shop", "site", "muc").await;
    user.group("shop", "web", 1).await;
    assert_eq!(connection_of(&user.ready("shop", "web", 1, SOON).await).as_deref(), Some("muc"));
    user.namespace("later").await;
    user.group("later", "one", 1).await;
    assert_eq!(connection_of(&user.ready("later", "one", 1, SOON).await).as_deref(), Some("ber"));
    label(&world, "later", "site", "muc").await;
    user.told("later", "one", "ConnectionDiffers", "muc", SOON).await;
    user.group("later", "two", 1).await;
    assert_eq!(connection_of(&user.ready("later", "two", 1, SOON).await).as_deref(), Some("muc"));
}

/// S3: a group is heard of before its namespace is, as when both come from one manifest.
/// Nobody guesses which vCenter is its own, nor what it may have.
#[tokio::test(start_paused = true)]
async fn s3_a_namespace_that_nobody_has_told_of_is_waited_for() {
    let served = two().replace("namespaces: [shop]", "matchLabels: { site: muc }");
    let (world, user) = started(&format!("{served}quotas:\n- {{ matchLabels: {{ site: muc }}, vms: 2 }}\n")).await;
    user.group("other", "first", 1).await;
    user.ready("other", "first", 1, SOON).await;
    world.kube.disturb_watches(|kind| (kind == "namespaces").then_some(WatchFault::Late(SOON / 2)));
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"site": "muc"}},
    });
    world.kube.apply(namespace).unwrap();
    user.group("shop", "web", 3).await;
    user.told("shop", "web", "Reconciling", "those of shop are not known yet", SOON / 3).await;
    user.told("shop", "web", "Reconciling", "2 VMs", SOON).await;
    tokio::time::sleep(SOON).await;
    assert_eq!(connection_of(&get(&user, "shop", "web").await).as_deref(), Some("muc"));
    assert_eq!(machines(&world.vcenters[0]), ["shop-web"; 2]);
    assert_eq!(machines(&world.vcenters[1]), ["other-first"]);
}

/// One vCenter is cut off while machines are made in both. Who is in the other one never
/// notices: no group there is other than on its way or ready, at any time.
#[tokio::test(start_paused = true)]
async fn l10_a_vcenter_that_is_cut_off_leaves_the_others_alone() {
    let (world, user) = started(&two()).await;
    for number in 0..6 {
        user.group("shop", &format!("g{number}"), 3).await;
        user.group("team-a", &format!("g{number}"), 3).await;
    }
    eventually("machines are made in both", SOON, async || {
        let counts = [0, 1].map(|number| machines(&world.vcenters[number]).len());
        if counts.iter().all(|count| *count > 2) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    world.vcenters[0].faults().set_down(true);
    world.vcenters[0].cut_connections();
    let mut reasons = BTreeSet::new();
    eventually("the groups of the other are ready", SOON, async || {
        let groups = user.groups("team-a").list(&ListParams::default()).await.unwrap().items;
        let ready = groups.iter().filter(|group| {
            let status = group.status.clone().unwrap_or_default();
            let not_ready = status.conditions.iter().filter(|it| it.type_ == "Ready" && it.status != "True");
            reasons.extend(not_ready.map(|it| it.reason.clone()));
            status.ready_replicas == Some(3)
        });
        let ready = ready.count();
        if ready == 6 { Ok(()) } else { Err(format!("{ready}")) }
    })
    .await;
    assert!(reasons.iter().all(|reason| reason == "ScalingOut" || reason == "Starting"), "{reasons:?}");
    for number in 0..6 {
        user.told("shop", &format!("g{number}"), "Reconciling", "vCenter is not available", SOON).await;
    }
    world.vcenters[0].faults().set_down(false);
    for number in 0..6 {
        user.ready("shop", &format!("g{number}"), 3, SOON * 3).await;
    }
    assert_eq!([0, 1].map(|number| machines(&world.vcenters[number]).len()), [18, 18]);
}

/// How long it takes until 40 groups of `team-a` are ready, with as many of `shop`.
async fn forty_groups(slow: bool) -> Duration {
    let (world, user) = started(&two()).await;
    user.group("shop", "first", 1).await;
    user.ready("shop", "first", 1, SOON).await;
    if slow {
        world.vcenters[0].faults().add(Rule::every("*", Fault::Delay(Duration::from_secs(50))));
    }
    for number in 0..40 {
        user.group("shop", &format!("g{number}"), 2).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let began = Instant::now();
    for number in 0..40 {
        user.group("team-a", &format!("g{number}"), 2).await;
    }
    for number in 0..40 {
        user.ready("team-a", &format!("g{number}"), 2, SOON * 5).await;
    }
    began.elapsed()
}

/// More groups than there are passes at a time wait for a vCenter that takes 50 s for
/// every answer: those of the other are as fast as ever.
#[tokio::test(start_paused = true)]
async fn a_slow_vcenter_does_not_slow_the_other() {
    let (alone, beside) = (forty_groups(false).await, forty_groups(true).await);
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    assert!(ratio < 1.1, "{beside:?} beside a slow one, {alone:?} otherwise: {ratio:.2}");
}

/// The namespace is given to another vCenter, and its connection taken away and given
/// back: the group stays where it is, and nothing is made or destroyed elsewhere.
#[tokio::test(start_paused = true)]
async fn a_standing_group_stays_where_it_is() {
    let (world, user) = started(&two()).await;
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let moved = two().replace("[shop]", "[nobody]").replace("[\"team-*\"]", "[shop]");
    user.connections(&moved).await;
    let told = user.told("shop", "web", "ConnectionDiffers", "stay there", SOON).await;
    assert!(told.contains("muc") && told.contains("ber"), "{told}");
    user.scale("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    user.group("shop", "new", 1).await;
    assert_eq!(connection_of(&user.ready("shop", "new", 1, SOON).await).as_deref(), Some("ber"));
    assert_eq!((machines(&world.vcenters[0]).len(), machines(&world.vcenters[1]).len()), (3, 1));

    // The whole connection goes, and the operator dies.
    let (_, ber) = moved.split_once("- name: ber").unwrap();
    let alone = format!("connections:\n- name: ber{ber}");
    user.connections(&alone).await;
    user.told("shop", "web", "Stalled", "connection muc, which is not among those", SOON).await;
    user.delete("shop", "web").await;
    user.told("shop", "web", "Stalled", "deletion waits", SOON).await;
    tokio::time::sleep(SOON).await;
    assert_eq!((machines(&world.vcenters[0]).len(), machines(&world.vcenters[1]).len()), (3, 1));
    user.connections(&two()).await;
    user.gone("shop", "web", SOON).await;
    assert_eq!((machines(&world.vcenters[0]).len(), machines(&world.vcenters[1]).len()), (0, 1));
}

/// The name `muc` leads to the second vCenter.
fn astray() -> String {
    let host = host_of(1);
    format!(
        "connections:\n- name: muc\n  address: http://{host}\n  credentials: {{ secret: vc-muc }}\n  default: true\n"
    )
}

/// S3: the name of the connection now leads to another vCenter, where none of the group's
/// machines are. They are not made again there.
#[tokio::test(start_paused = true)]
async fn s3_another_vcenter_under_the_same_name_gets_none_of_the_machines() {
    let (mut world, user) = started(&two()).await;
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    user.connections(&astray()).await;
    user.told("shop", "web", "Stalled", "leads to", SOON).await;
    // Whoever has just come knows it too.
    world.kill_operator().await.unwrap();
    world.start_operator().await.unwrap();
    user.scale("shop", "web", 3).await;
    tokio::time::sleep(SOON).await;
    assert_eq!((machines(&world.vcenters[0]).len(), machines(&world.vcenters[1]).len()), (2, 0));
    user.connections(&two()).await;
    user.ready("shop", "web", 3, SOON).await;
    assert_eq!((machines(&world.vcenters[0]).len(), machines(&world.vcenters[1]).len()), (3, 0));
}

/// L9: it leads to another one for good, as when vCenter was installed anew. Whoever knows
/// that has a way out, and is told which, and what is left where.
#[tokio::test(start_paused = true)]
async fn l9_there_is_a_way_out_of_another_vcenter() {
    let (world, user) = started(&two()).await;
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    user.connections(&astray()).await;
    user.told("shop", "web", "Stalled", "leads to", SOON).await;
    user.delete("shop", "web").await;
    user.told("shop", "web", "Stalled", "orphan=unreachable", SOON).await;
    tokio::time::sleep(SOON).await;
    let patch = json!({"metadata": {"annotations": {ORPHAN_ANNOTATION: "unreachable"}}});
    world.kube.patch("vmgroups", Some("shop"), "web", patch).unwrap();
    user.gone("shop", "web", SOON).await;
    let events = user.events("shop", "web").await;
    let told = events.iter().find(|event| event.starts_with("Abandoned")).expect("an event");
    assert!(told.contains("OtherVCenter") && told.contains("2 virtual machines"), "{told}");
    assert_eq!((machines(&world.vcenters[0]), machines(&world.vcenters[1])), (vec!["shop-web".to_owned(); 2], vec![]));
}

/// L9: what nothing was ever made of does not wait for a vCenter: nobody's, one without a
/// login, one that is away.
#[tokio::test(start_paused = true)]
async fn l9_a_group_of_which_nothing_was_made_goes_without_a_vcenter() {
    let file = two().replace("  default: true\n", "").replace("vc-muc", "vc-new");
    let (world, user) = started(&file).await;
    world.vcenters[1].faults().set_down(true);
    world.vcenters[1].cut_connections();
    let lacking = [
        ("other", "Stalled", "no connection serves"),
        ("shop", "Stalled", "there is no Secret vc-new"),
        ("team-a", "Reconciling", "vCenter is not available"),
    ];
    for (namespace, type_, text) in lacking {
        user.group(namespace, "web", 1).await;
        user.told(namespace, "web", type_, text, SOON).await;
    }
    for (namespace, _, _) in lacking {
        user.delete(namespace, "web").await;
        user.gone(namespace, "web", SOON).await;
    }
}

/// S1: what was asked for may be there, even if no answer came: a group whose folder was
/// being made waits for its vCenter.
#[tokio::test(start_paused = true)]
async fn s1_a_group_that_asked_for_its_folder_does_not_go_without_its_vcenter() {
    let (world, user) = started(&two()).await;
    let ber = &world.vcenters[1];
    let folder = || ber.folders().iter().any(|path| path.ends_with("/team-a-web"));
    ber.faults().add(Rule::every("CreateFolder", Fault::LoseReply));
    user.group("team-a", "web", 0).await;
    eventually("its folder is there", SOON, async || if folder() { Ok(()) } else { Err(String::new()) }).await;
    ber.faults().set_down(true);
    ber.cut_connections();
    user.delete("team-a", "web").await;
    user.told("team-a", "web", "Reconciling", "orphan=unreachable", SOON).await;
    tokio::time::sleep(SOON).await;
    ber.faults().clear();
    user.gone("team-a", "web", SOON * 2).await;
    assert!(!folder());
}

/// A connection is given a Secret that is not there: its groups say so, those too that are
/// to go, and all goes on when it is.
#[tokio::test(start_paused = true)]
async fn an_edit_to_a_secret_that_is_not_there_is_told() {
    let (world, user) = started(&two()).await;
    for name in ["web", "old"] {
        user.group("shop", name, 1).await;
        user.ready("shop", name, 1, SOON).await;
    }
    user.connections(&two().replace("vc-muc", "vc-new")).await;
    user.delete("shop", "old").await;
    for name in ["web", "old"] {
        user.told("shop", name, "Stalled", "there is no Secret vc-new", SOON).await;
    }
    assert_eq!(machines(&world.vcenters[0]).len(), 2);
    user.login("vc-new", USER, PASSWORD).await;
    user.gone("shop", "old", SOON).await;
    user.scale("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    assert_eq!(machines(&world.vcenters[0]), ["shop-web"; 2]);
}

/// A mistake is named with its line, and what counted before goes on counting.
#[tokio::test(start_paused = true)]
async fn a_file_with_a_mistake_changes_nothing() {
    let (world, user) = started(&two()).await;
    user.group("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    user.connections(&two().replace("  default: true\n", "  defualt: true\n")).await;
    let told = event(&user, "ConnectionsRefused").await;
    assert!(told.contains("defualt") && told.contains("10") && told.contains("What counted before does"), "{told}");
    assert!(world.metrics(0).encode().contains("vmgroup_connections_refused 1"));
    user.scale("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    user.connections(&two()).await;
    eventually("it is in force again", SOON, async || {
        let page = world.metrics(0).encode();
        if page.contains("vmgroup_connections_refused 0") { Ok(()) } else { Err(String::new()) }
    })
    .await;
}

/// An operator that starts with a broken file goes on with what counted before, and says
/// so everywhere; so it is with a file that is gone.
#[tokio::test(start_paused = true)]
async fn a_broken_file_at_the_start_leaves_what_counted_before() {
    let (mut world, user) = started(&two()).await;
    user.group("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    world.kill_operator().await.unwrap();
    user.connections(&two().replace("  default: true\n", "  defualt: true\n")).await;
    world.start_operator().await.unwrap();
    user.scale("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let told = event(&user, "What counted before the restart does").await;
    assert!(told.contains("ConnectionsRefused") && told.contains("defualt"), "{told}");
    user.told("shop", "web", "ConnectionsRefused", "defualt", SOON).await;
    assert!(world.metrics(1).encode().contains("vmgroup_connections_refused 1"));
    // New groups go by it too, and a quota.
    user.group("team-a", "new", 1).await;
    assert_eq!(connection_of(&user.ready("team-a", "new", 1, SOON).await).as_deref(), Some("ber"));

    world.kill_operator().await.unwrap();
    user.config_maps().delete(CONNECTIONS, &DeleteParams::default()).await.unwrap();
    world.start_operator().await.unwrap();
    user.scale("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    user.told("shop", "web", "ConnectionsRefused", "there is no ConfigMap", SOON).await;

    user.connections(&two()).await;
    eventually("it counts", SOON, async || {
        let conditions = get(&user, "shop", "web").await.status.unwrap().conditions;
        let silent = conditions.iter().all(|condition| condition.type_ != "ConnectionsRefused");
        if silent { Ok(()) } else { Err(format!("{conditions:?}")) }
    })
    .await;
}

/// Only who leads keeps what counts, and nothing that does not.
#[tokio::test(start_paused = true)]
async fn s7_what_counts_is_kept_by_who_leads() {
    let mut world = SimWorld::make(Options { connections: 2, ..Options::default() }).await.unwrap();
    let user = User::of(&world);
    user.connections(&two()).await;
    let first = world.launch(Some("lease"));
    let kept = async || {
        let map = user.config_maps().get_opt("vmgroup-connections-last-good").await.unwrap();
        map.and_then(|map| map.data).and_then(|mut data| data.remove("connections.yaml"))
    };
    let is_kept = async |what: &str| {
        eventually("it is kept", SOON, async || match kept().await {
            Some(text) if text == what => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    };
    is_kept(&two()).await;
    let _standby = world.launch(Some("lease"));
    user.connections("connections: []").await;
    tokio::time::sleep(SOON).await;
    assert_eq!(kept().await, Some(two()));
    let other = two().replace("[shop]", "[shop, more]");
    user.connections(&other).await;
    is_kept(&other).await;
    // Who takes over keeps what came when nobody led.
    first.cancel();
    let last = two().replace("[shop]", "[shop, most]");
    user.connections(&last).await;
    is_kept(&last).await;
}

/// Without a file, or a usable one, the groups say what is missing; and begin when it is
/// there.
#[tokio::test(start_paused = true)]
async fn a_group_without_a_connection_says_what_is_missing() {
    let mut world = SimWorld::make(Options { connections: 2, ..Options::default() }).await.unwrap();
    let user = User::of(&world);
    world.start_operator().await.unwrap();
    user.group("shop", "web", 1).await;
    user.told("shop", "web", "Stalled", "there is no ConfigMap vmgroup-connections", SOON).await;
    user.connections(&two().replace("  default: true\n", "").replace("[shop]", "[else]")).await;
    user.told("shop", "web", "Stalled", "no connection serves the namespace shop", SOON).await;
    user.connections(&two()).await;
    user.told("shop", "web", "Stalled", "there is no Secret vc-muc", SOON).await;
    user.login("vc-muc", USER, "wrong").await;
    user.told("shop", "web", "Stalled", "in the Secret vc-muc", SOON).await;
    user.login("vc-muc", USER, PASSWORD).await;
    user.ready("shop", "web", 1, SOON * 2).await;
    let status = get(&user, "shop", "web").await;
    assert_eq!(connection_of(&status).as_deref(), Some("muc"));
}

/// L10: a password is changed in vCenter and then in the Secret; no restart, and no
/// group of the other notices.
#[tokio::test(start_paused = true)]
async fn l10_a_login_is_rotated_by_its_secret() {
    let (world, user) = started(&two()).await;
    for namespace in ["shop", "team-a"] {
        user.group(namespace, "web", 1).await;
        user.ready(namespace, "web", 1, SOON).await;
    }
    let before = get(&user, "team-a", "web").await.metadata.resource_version;
    world.vcenters[0].set_password("another");
    user.login("vc-muc", USER, "another").await;
    world.vcenters[0].terminate_sessions();
    user.scale("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    assert_eq!(get(&user, "team-a", "web").await.metadata.resource_version, before);
}

/// Groups of `team-a` that were made in the first vCenter when the operator knew no other,
/// and had no name for it. The file that it will have says both.
async fn of_before() -> (SimWorld, User) {
    let mut world = SimWorld::make(Options { connections: 2, ..Options::default() }).await.unwrap();
    let user = User::of(&world);
    let only = world.operators_vcenters(false);
    world.launch_on(only, None);
    user.group("team-a", "web", 2).await;
    let group = user.ready("team-a", "web", 2, SOON).await;
    assert_eq!(connection_of(&group), None);
    user.group("team-a", "empty", 0).await;
    user.ready("team-a", "empty", 0, SOON).await;
    world.kill_operator().await.unwrap();
    for secret in ["vc-muc", "vc-ber"] {
        user.login(secret, USER, PASSWORD).await;
    }
    user.connections(&two()).await;
    (world, user)
}

/// L1: which vCenter is theirs is found out when all are there; then they go on, whichever
/// was the last.
#[tokio::test(start_paused = true)]
async fn l1_groups_of_before_go_on_when_the_last_vcenter_is_there() {
    for last in [0, 1] {
        let (mut world, user) = of_before().await;
        world.vcenters[last].faults().set_down(true);
        world.launch(None);
        user.told("team-a", "web", "Reconciling", "is found out when all are there", SOON).await;
        tokio::time::sleep(SOON).await;
        world.vcenters[last].faults().set_down(false);
        let group = user.ready("team-a", "web", 2, SOON * 2).await;
        assert_eq!(connection_of(&group).as_deref(), Some("muc"));
    }
}

/// L13: they are found where their machines are, whatever the file says of their namespace.
#[tokio::test(start_paused = true)]
async fn l13_groups_of_before_are_found_where_they_are() {
    let (mut world, user) = of_before().await;
    world.launch(None);
    user.scale("team-a", "web", 3).await;
    let group = user.ready("team-a", "web", 3, SOON).await;
    assert_eq!(connection_of(&group).as_deref(), Some("muc"));
    assert_eq!((machines(&world.vcenters[0]).len(), machines(&world.vcenters[1]).len()), (3, 0));
    user.told("team-a", "web", "ConnectionDiffers", "ber", SOON).await;
}

const QUOTA: &str =
    "quotas:\n- { namespaces: [shop], vms: 5, cpus: 100 }\n- { namespaces: [\"team-*\"], memoryGB: 2 }\n";

/// A namespace has a ceiling over all its groups. What exceeds it waits and says so, and
/// goes on by itself when there is room, or a higher ceiling; a restart forgets nothing.
#[tokio::test(start_paused = true)]
async fn a_quota_is_kept_over_all_groups_of_a_namespace() {
    let (mut world, user) = started(&format!("{}{QUOTA}", two())).await;
    user.group("shop", "a", 3).await;
    user.ready("shop", "a", 3, SOON).await;
    user.group("shop", "b", 4).await;
    let told = user.told("shop", "b", "Reconciling", "5 VMs", SOON).await;
    assert!(told.contains("connections.yaml"), "{told}");
    tokio::time::sleep(SOON).await;
    assert_eq!(machines(&world.vcenters[0]), ["shop-a", "shop-a", "shop-a", "shop-b", "shop-b"]);

    world.kill_operator().await.unwrap();
    world.start_operator().await.unwrap();
    user.scale("shop", "b", 5).await;
    tokio::time::sleep(SOON).await;
    assert_eq!(machines(&world.vcenters[0]).len(), 5);

    // Room, by another group's leaving.
    user.scale("shop", "b", 4).await;
    user.scale("shop", "a", 1).await;
    user.ready("shop", "b", 4, SOON).await;
    // A lower ceiling takes nothing away, a higher one lets the rest be made.
    user.connections(&format!("{}{}", two(), QUOTA.replace("vms: 5", "vms: 1"))).await;
    user.scale("shop", "a", 2).await;
    tokio::time::sleep(SOON).await;
    assert_eq!(machines(&world.vcenters[0]).len(), 5);
    user.connections(&format!("{}{}", two(), QUOTA.replace("vms: 5", "vms: 6"))).await;
    user.ready("shop", "a", 2, SOON).await;

    // The other namespace's is by memory, of which each member takes 1 GB.
    user.group("team-a", "web", 3).await;
    user.told("team-a", "web", "Reconciling", "GB of memory", SOON).await;
    tokio::time::sleep(SOON).await;
    assert_eq!(machines(&world.vcenters[1]).len(), 2);
}

/// A group that could not be seen off, as vCenter was away, and whose finalizer somebody took
/// away by hand, is forgotten at once: it counts neither for the quota nor in the metrics,
/// whether the watch tells of it or a new list does not have it any more.
#[tokio::test(start_paused = true)]
async fn a_group_whose_finalizer_was_taken_away_is_forgotten() {
    for missed in [false, true] {
        let (world, user) = started(&format!("{}{QUOTA}", two())).await;
        user.group("shop", "a", 3).await;
        user.ready("shop", "a", 3, SOON).await;
        user.group("shop", "b", 4).await;
        user.told("shop", "b", "Reconciling", "5 VMs", SOON).await;
        world.deed(Deed::Down).await.unwrap();
        user.delete("shop", "a").await;
        user.told("shop", "a", "Reconciling", "deletion waits", SOON).await;
        if missed {
            world.kube.faults().add(Rule::every("WATCH vmgroups", Fault::Error("503".into())));
            world.kube.drop_watches();
        }
        world.kube.patch("vmgroups", Some("shop"), "a", json!({"metadata": {"finalizers": null}})).unwrap();
        user.gone("shop", "a", SOON).await;
        if missed {
            world.kube.expire_history();
            world.kube.faults().clear();
        }
        tokio::time::sleep(SOON).await;
        world.deed(Deed::Up).await.unwrap();
        user.ready("shop", "b", 4, SOON * 5).await;
        let page = world.metrics(0).encode();
        let groups: Vec<&str> = page.lines().filter(|line| line.starts_with("vmgroup_groups{")).collect();
        assert!(groups.len() == 3 && groups.contains(&"vmgroup_groups{phase=\"RUNNING\"} 1"), "{groups:?}");
        assert_eq!(groups.iter().filter(|line| line.ends_with(" 0")).count(), 2, "{groups:?}");
    }
}

/// Machines count with all that they have until they are gone, those of a group that is
/// being deleted too, however long their guests take.
#[tokio::test(start_paused = true)]
async fn a_group_that_leaves_counts_with_its_size_until_it_is_gone() {
    let (world, user) = started(&format!("{}{}", two(), QUOTA.replace("cpus: 100", "cpus: 6"))).await;
    user.group("shop", "a", 3).await;
    world.kube.patch_spec("vmgroups", Some("shop"), "a", json!({"gracePeriodSeconds": 3600})).unwrap();
    user.ready("shop", "a", 3, SOON).await;
    user.group("shop", "b", 2).await;
    user.told("shop", "b", "Reconciling", "6 of 6 CPUs", SOON).await;
    for vm in world.vcenters[0].vms().into_iter().filter(|vm| !vm.template) {
        world.vcenters[0].set_guest(&vm.path, true, false).unwrap();
    }
    user.delete("shop", "a").await;
    tokio::time::sleep(SOON * 50).await;
    assert_eq!(machines(&world.vcenters[0]), ["shop-a"; 3], "they have 6 CPUs, and an hour");
    user.gone("shop", "a", SOON * 15).await;
    user.ready("shop", "b", 2, SOON).await;
}

/// Many groups ask at the same time: at no moment are there more than may be.
#[tokio::test(start_paused = true)]
async fn groups_that_ask_at_the_same_time_do_not_exceed_a_quota_together() {
    let (world, user) = started(&format!("{}{QUOTA}", two())).await;
    for number in 0..8 {
        user.group("shop", &format!("g{number}"), 2).await;
    }
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(machines(&world.vcenters[0]).len() <= 5);
    }
    assert_eq!(machines(&world.vcenters[0]).len(), 5);
    for number in 0..8 {
        user.delete("shop", &format!("g{number}")).await;
    }
    for number in 0..8 {
        user.gone("shop", &format!("g{number}"), SOON).await;
    }
}

/// Connections come and go while groups are in motion, limits and all, and the file's
/// order: every group gets ready, in one vCenter.
#[tokio::test(start_paused = true)]
async fn edits_under_load_make_nobody_twice() {
    let (world, user) = started(&two()).await;
    for number in 0..8 {
        user.group("shop", &format!("g{number}"), 4).await;
        user.group("team-a", &format!("g{number}"), 4).await;
    }
    for round in 0..20_u32 {
        let edited = match round % 4 {
            0 => two()
                .replace("  serves", &format!("  limits: {{ tasks: {}, callsPerSecond: 100 }}\n  serves", round + 1)),
            1 => two().replace("[shop]", "[shop, more]"),
            2 => two().replace("connections:\n", "connections:\n# a comment\n"),
            _ => two().replace(&format!("http://{}", host_of(0)), &format!("http://{}:80", host_of(0))),
        };
        user.connections(&edited).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    user.connections(&two()).await;
    for number in 0..8 {
        user.ready("shop", &format!("g{number}"), 4, SOON * 2).await;
        user.ready("team-a", &format!("g{number}"), 4, SOON * 2).await;
    }
    assert_eq!([0, 1].map(|number| machines(&world.vcenters[number]).len()), [32, 32]);
}

//! `spec.target`: whose machines go where, among what their namespace may use. On the
//! simulators with time paused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use kube::CustomResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use vmgroup_api::VmGroup;
use vmgroup_e2e::sim::{SimWorld, host_of, with_connections};
use vmgroup_e2e::world::{Options, ROOT, TEMPLATE, User, World, eventually};
use vmgroup_operator::preview::{Candidates, Preview, Wanted};
use vmgroup_sim::vcenter::VmView;

const SOON: Duration = Duration::from_mins(1);

/// `muc` and `ber` serve `shop` both, `ber` alone serves the team namespaces. All clusters
/// and datastores of both may be used.
fn two() -> String {
    format!(
        "connections:\n\
         - name: muc\n  address: http://{}\n  credentials: {{ secret: vc-muc }}\n  cluster: \"*\"\n  datastore: \"*\"\n  serves: {{ namespaces: [shop] }}\n\
         - name: ber\n  address: http://{}\n  credentials: {{ secret: vc-ber }}\n  cluster: \"*\"\n  datastore: \"*\"\n  serves: {{ namespaces: [shop, \"team-*\"] }}\n",
        host_of(0),
        host_of(1),
    )
}

/// Two vCenters with two clusters and three datastores each, and an operator at work.
async fn started(file: &str) -> (SimWorld, User) {
    started_with(file, |_| {}).await
}

/// The same, with something else in vCenter before the operator comes.
async fn started_with(file: &str, prepare: impl FnOnce(&SimWorld)) -> (SimWorld, User) {
    let options = Options { clusters: 2, datastores: 3, ..Options::default() };
    with_connections(options, file, prepare).await.unwrap()
}

async fn group(user: &User, namespace: &str, name: &str, replicas: usize, target: &str) -> VmGroup {
    user.apply(&format!(
        "apiVersion: vm.codeconnect.vmworld.com/v1alpha1\nkind: VmGroup\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{cpu: 2, memory: 1, replicas: {replicas}, template: {TEMPLATE}, target: {target}}}\n"
    ))
    .await
}

async fn edit(user: &User, namespace: &str, name: &str, spec: Value) -> Result<(), String> {
    let patch = Patch::Merge(json!({"spec": spec}));
    let edited = user.groups(namespace).patch(name, &PatchParams::default(), &patch).await;
    edited.map(drop).map_err(|error| error.to_string())
}

/// The machines of a group.
fn machines(world: &SimWorld, vcenter: usize, group: &str) -> Vec<VmView> {
    let of_group = |vm: &VmView| vm.extra.get("vmgroup.group").is_some_and(|mark| mark == group);
    world.vcenters[vcenter].vms().into_iter().filter(of_group).collect()
}

/// So many of a group, all on hosts of this cluster, on one of these datastores, in this
/// folder.
fn all_are(world: &SimWorld, group: &str, count: usize, cluster: &str, datastores: &[&str], folder: &str) {
    let vms = machines(world, 0, group);
    assert_eq!(vms.len(), count, "{vms:?}");
    for vm in vms {
        assert!(vm.host.starts_with(cluster) && datastores.contains(&vm.datastore.as_str()), "{vm:?}");
        assert_eq!(vm.folder, folder);
    }
}

/// What the placement policy would be given to choose from for a group of so many.
async fn candidates(world: &SimWorld, group: &str, replicas: usize) -> Candidates {
    let wanted = Wanted { group: group.to_owned(), replicas: Some(replicas), ..Wanted::default() };
    let uri = format!("/preview?{}", serde_urlencoded::to_string(&wanted).unwrap());
    let operator = usize::try_from(world.launched()).unwrap() - 1;
    let (status, answer) = world.ask(operator, Request::post(uri).body(Body::empty()).unwrap()).await;
    assert!(status.is_success(), "{answer:?}");
    serde_json::from_slice::<Preview>(&answer).unwrap().candidates.unwrap()
}

/// Whatever is made for a group is made in its target: at first, by a scale-out, for one
/// that was destroyed, and by a rollout.
#[tokio::test(start_paused = true)]
async fn two_groups_of_one_vcenter_stay_each_in_its_target() {
    let (mut world, user) = started(&two()).await;
    world.vcenters[0].add_folder(ROOT, "team").unwrap();
    world.vcenters[0].add_folder(&format!("{ROOT}/team"), "web").unwrap();
    world.vcenters[0].add_template("/DC0/vm", "newer").unwrap();
    let target = "{ connection: muc, cluster: DC0_C1, datastore: LocalDS_2, folder: team/web }";
    group(&user, "shop", "web", 3, target).await;
    group(&user, "shop", "db", 3, "{ pool: /DC0/host/DC0_C0/Resources }").await;
    let any = ["LocalDS_0", "LocalDS_1", "LocalDS_2"];
    let check = |world: &SimWorld, count| {
        let (web, db) = (format!("{ROOT}/team/web/shop-web"), format!("{ROOT}/shop-db"));
        all_are(world, "shop/web", count, "DC0_C1", &["LocalDS_2"], &web);
        all_are(world, "shop/db", count, "DC0_C0", &any, &db);
    };
    for name in ["web", "db"] {
        user.ready("shop", name, 3, SOON).await;
    }
    check(&world, 3);
    let web = user.groups("shop").get("web").await.unwrap();
    assert_eq!(web.status.unwrap().target, web.spec.target);

    world.kill_operator().await.unwrap();
    world.start_operator().await.unwrap();
    for name in ["web", "db"] {
        user.scale("shop", name, 5).await;
        user.ready("shop", name, 5, SOON).await;
        world.vcenters[0].destroy(&machines(&world, 0, &format!("shop/{name}"))[0].path).unwrap();
    }
    let web = candidates(&world, "shop/web", 7).await;
    assert_eq!((web.clusters, web.datastores), (vec!["DC0_C1".to_owned()], vec!["LocalDS_2".to_owned()]));
    assert_eq!(web.hosts, ["DC0_C1_H0", "DC0_C1_H1", "DC0_C1_H2"]);
    let before: Vec<String> = machines(&world, 0, "shop/web").into_iter().map(|vm| vm.instance_uuid).collect();
    for name in ["web", "db"] {
        edit(&user, "shop", name, json!({"template": "newer"})).await.unwrap();
        user.ready("shop", name, 5, SOON * 5).await;
    }
    check(&world, 5);
    assert!(machines(&world, 0, "shop/web").iter().all(|vm| !before.contains(&vm.instance_uuid)));

    for name in ["web", "db"] {
        user.scale("shop", name, 1).await;
        user.ready("shop", name, 1, SOON).await;
        user.delete("shop", name).await;
        user.gone("shop", name, SOON).await;
    }
    let folders = world.vcenters[0].folders();
    let left: Vec<&str> = folders.iter().filter_map(|path| path.strip_prefix(ROOT)).collect();
    assert_eq!(left, ["", "/team", "/team/web"]);
}

/// A target may name what the group's namespace may use, and nothing else; what that is
/// stands in the condition. As long as there is no folder it can be corrected.
#[tokio::test(start_paused = true)]
async fn what_is_not_for_the_namespace_is_named_and_can_be_corrected() {
    let (world, user) = started(&two()).await;
    group(&user, "shop", "web", 1, "{ connection: ber }").await;
    user.ready("shop", "web", 1, SOON).await;
    assert_eq!(machines(&world, 1, "shop/web").len(), 1);

    group(&user, "team-a", "web", 1, "{ connection: muc }").await;
    let told = user.told("team-a", "web", "Stalled", "spec.target.connection is muc", SOON).await;
    assert!(told.ends_with("may use: ber"), "{told}");
    for (wrong, says) in [
        (json!({"connection": "ber", "cluster": "DC0_C7"}), "there are: DC0_C0, DC0_C1"),
        (json!({"cluster": null, "pool": "dev"}), "/DC0/host/DC0_C0/Resources, /DC0/host/DC0_C1/Resources"),
        (json!({"pool": null, "datastore": "slow"}), "LocalDS_0, LocalDS_1, LocalDS_2"),
        (json!({"datastore": null, "folder": "a/b"}), "govc folder.create '/DC0/vm/vm-operator/a/b'"),
    ] {
        edit(&user, "team-a", "web", json!({"target": wrong})).await.unwrap();
        user.told("team-a", "web", "Stalled", says, SOON).await;
    }
    // Not even an empty group gets a folder somewhere else.
    user.scale("team-a", "web", 0).await;
    tokio::time::sleep(SOON).await;
    let stalled = user.groups("team-a").get("web").await.unwrap().status.unwrap();
    assert_eq!((stalled.folder, stalled.target), (None, None));
    assert_eq!(machines(&world, 1, "team-a/web").len(), 0);

    // Somebody makes the folder.
    user.scale("team-a", "web", 2).await;
    world.vcenters[1].add_folder(ROOT, "a").unwrap();
    world.vcenters[1].add_folder(&format!("{ROOT}/a"), "b").unwrap();
    user.ready("team-a", "web", 2, SOON * 2).await;
    assert!(machines(&world, 1, "team-a/web").iter().all(|vm| vm.folder == format!("{ROOT}/a/b/team-a-web")));

    // Nor does one lie in another group's folder.
    group(&user, "team-a", "inner", 1, "{ folder: a/b/team-a-web }").await;
    user.told("team-a", "inner", "Stalled", "a group's own folder", SOON).await;

    // What was never made can go, wherever it was to be.
    group(&user, "team-a", "lost", 1, "{ connection: nowhere }").await;
    user.told("team-a", "lost", "Stalled", "spec.target.connection is nowhere", SOON).await;
    for name in ["lost", "inner"] {
        user.delete("team-a", name).await;
        user.gone("team-a", name, SOON).await;
    }
}

/// With the flags' one vCenter the parts of a target are those of the flags.
#[tokio::test(start_paused = true)]
async fn one_vcenter_without_a_name_has_targets_too() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    group(&user, "shop", "web", 1, "{ connection: muc }").await;
    user.told("shop", "web", "Stalled", "leave spec.target.connection out", SOON).await;
    edit(&user, "shop", "web", json!({"target": {"connection": null, "cluster": "DC0_C0"}})).await.unwrap();
    user.ready("shop", "web", 1, SOON).await;
    group(&user, "shop", "db", 1, "{ datastore: other }").await;
    user.told("shop", "db", "Stalled", "there are: LocalDS_0", SOON).await;
}

/// A standing group's target can be neither changed nor added nor taken away: whoever tries
/// is told why.
#[tokio::test(start_paused = true)]
async fn a_standing_group_is_not_moved_and_says_why() {
    let (world, user) = started(&two()).await;
    group(&user, "shop", "web", 1, "{ cluster: DC0_C1 }").await;
    user.group("shop", "free", 1).await;
    for name in ["web", "free"] {
        user.ready("shop", name, 1, SOON).await;
    }
    for (name, target) in [
        ("web", json!({"cluster": "DC0_C0"})),
        ("web", json!({"folder": "elsewhere"})),
        ("web", Value::Null),
        ("free", json!({"cluster": "DC0_C0"})),
    ] {
        let refused = edit(&user, "shop", name, json!({"target": target, "replicas": 2})).await.unwrap_err();
        assert!(refused.contains("spec.target: Forbidden") && refused.contains("stay where they are"), "{refused}");
    }
    assert_eq!(machines(&world, 0, "shop/web").len(), 1);
    // Everything else can be edited, by whoever sends the target along, too.
    edit(&user, "shop", "web", json!({"target": {"cluster": "DC0_C1"}, "replicas": 2})).await.unwrap();
    user.ready("shop", "web", 2, SOON).await;

    // Made again, it goes where it is told to.
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    group(&user, "shop", "web", 2, "{ cluster: DC0_C0 }").await;
    user.ready("shop", "web", 2, SOON).await;
    assert!(machines(&world, 0, "shop/web").iter().all(|vm| vm.host.starts_with("DC0_C0")));
}

/// A CRD that knows no such rule: the operator holds by the record, and says so.
#[tokio::test(start_paused = true)]
async fn without_the_rule_the_operator_holds_by_its_record() {
    let (mut world, user) = started(&two()).await;
    let mut crd = serde_json::to_value(VmGroup::crd()).unwrap();
    let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema.as_object_mut().unwrap().remove("x-kubernetes-validations").unwrap();
    world.kube.apply(crd).unwrap();
    group(&user, "shop", "web", 1, "{ connection: muc, cluster: DC0_C1 }").await;
    user.ready("shop", "web", 1, SOON).await;
    edit(&user, "shop", "web", json!({"target": {"connection": "ber", "cluster": "DC0_C0"}})).await.unwrap();
    let told = user.told("shop", "web", "TargetDiffers", "that is refused", SOON).await;
    assert!(
        told.contains("connection muc, cluster DC0_C1") && told.contains("connection ber, cluster DC0_C0"),
        "{told}"
    );
    world.kill_operator().await.unwrap();
    world.start_operator().await.unwrap();
    user.scale("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    assert_eq!((machines(&world, 0, "shop/web").len(), machines(&world, 1, "shop/web").len()), (3, 0));
    assert!(machines(&world, 0, "shop/web").iter().all(|vm| vm.host.starts_with("DC0_C1")));
    edit(&user, "shop", "web", json!({"target": {"connection": "muc", "cluster": "DC0_C1"}})).await.unwrap();
    eventually("it is silent again", SOON, async || {
        let conditions = user.groups("shop").get("web").await.unwrap().status.unwrap().conditions;
        if conditions.iter().any(|it| it.type_ == "TargetDiffers") { Err(format!("{conditions:?}")) } else { Ok(()) }
    })
    .await;
}

/// The administrator takes a cluster away that a group is in: it stays, shrinks, and is
/// deleted as ever; only what would be made says that it has nowhere to go.
#[tokio::test(start_paused = true)]
async fn a_target_that_is_taken_away_holds_up_what_would_be_made_alone() {
    let (world, user) = started(&two()).await;
    group(&user, "shop", "web", 3, "{ cluster: DC0_C1, datastore: LocalDS_1 }").await;
    user.ready("shop", "web", 3, SOON).await;
    user.connections(&two().replace("cluster: \"*\"", "cluster: DC0_C0")).await;
    tokio::time::sleep(SOON).await;
    user.ready("shop", "web", 3, SOON).await;
    user.scale("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    user.scale("shop", "web", 4).await;
    user.told("shop", "web", "Stalled", "there are: DC0_C0", SOON).await;
    // Nobody is taken down for a template whose machines have nowhere to go.
    world.vcenters[0].add_template("/DC0/vm", "newer").unwrap();
    edit(&user, "shop", "web", json!({"template": "newer", "replicas": 2})).await.unwrap();
    tokio::time::sleep(SOON * 2).await;
    assert_eq!(machines(&world, 0, "shop/web").len(), 2);
    user.connections(&two()).await;
    user.ready("shop", "web", 2, SOON * 3).await;
    assert!(machines(&world, 0, "shop/web").iter().all(|vm| vm.host.starts_with("DC0_C1")));
}

/// A datastore cluster stands for the datastores in it, those in maintenance apart: in a
/// target, and as what a connection lets groups use at all.
#[tokio::test(start_paused = true)]
async fn a_datastore_cluster_stands_for_what_is_in_it() {
    let prepare = |world: &SimWorld| {
        for vcenter in &world.vcenters {
            vcenter.add_storage_pod("fast", &["LocalDS_1", "LocalDS_2"]).unwrap();
        }
    };
    let file = two().replacen("datastore: \"*\"", "datastore: fast", 1);
    let (world, user) = started_with(&file, prepare).await;
    let datastores = |vcenter: usize, group: &str| {
        let mut names: Vec<String> = machines(&world, vcenter, group).into_iter().map(|vm| vm.datastore).collect();
        names.sort();
        names
    };
    // By the connection, whose policy leaves the choice open; and by the target.
    group(&user, "shop", "all", 4, "{}").await;
    user.ready("shop", "all", 4, SOON).await;
    assert_eq!(datastores(0, "shop/all"), ["LocalDS_1", "LocalDS_1", "LocalDS_2", "LocalDS_2"]);
    group(&user, "shop", "one", 2, "{ datastore: LocalDS_2 }").await;
    user.ready("shop", "one", 2, SOON).await;
    assert_eq!(datastores(0, "shop/one"), ["LocalDS_2"; 2]);
    group(&user, "shop", "out", 1, "{ datastore: LocalDS_0 }").await;
    user.told("shop", "out", "Stalled", "there are: LocalDS_1, LocalDS_2, fast (datastore cluster)", SOON).await;

    world.vcenters[1].set_datastore_maintenance("/DC0/datastore/fast/LocalDS_1", true).unwrap();
    // Capacity that was read is good for some seconds.
    tokio::time::sleep(SOON).await;
    group(&user, "team-a", "web", 3, "{ datastore: /DC0/datastore/fast }").await;
    user.ready("team-a", "web", 3, SOON).await;
    assert_eq!(datastores(1, "team-a/web"), ["LocalDS_2"; 3]);
}

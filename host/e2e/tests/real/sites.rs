//! Several vCenters, each a vcsim of its own, under the rights of
//! deploy/components/connections.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use vmgroup_e2e::real::{RealWorld, Vcsim};
use vmgroup_e2e::world::{Options, User, VmView, World, eventually};

use super::{SOON, wanted};

/// A connection to a vcsim, trusting the authority that signed its certificate.
fn connection(name: &str, vcsim: &Vcsim, serves: &str) -> String {
    let ca = std::fs::read_to_string(vcsim.ca()).unwrap();
    let ca = ca.lines().map(|line| format!("      {line}\n")).collect::<Vec<_>>().concat();
    format!(
        "- name: {name}\n  address: {}\n  credentials: {{ secret: vc-{name} }}\n  trust:\n    ca: |\n{ca}  limits: {{ tasks: 4 }}\n  serves: {serves}\n",
        vcsim.url()
    )
}

fn in_folder<'a>(vms: &'a [VmView], folder: &str) -> Vec<&'a VmView> {
    vms.iter().filter(|vm| vm.folder().ends_with(folder)).collect()
}

/// Three namespaces with three mappings on two vCenters. One is cut off while machines
/// are made in both: whoever is in the other one never notices, and the rest is made when
/// it is back.
#[tokio::test(flavor = "multi_thread")]
async fn l10_one_of_two_vcenters_is_cut_off_and_the_other_never_notices() {
    if !wanted("l10_one_of_two_vcenters_is_cut_off_and_the_other_never_notices") {
        return;
    }
    let options = Options { connections: 2, clone_takes: Duration::from_secs(1), ..Options::default() };
    let mut world = RealWorld::make(options).await.unwrap();
    for part in [
        include_str!("../../../../deploy/components/connections/rbac.yaml"),
        include_str!("../../../../deploy/components/connections/last_good.yaml"),
    ] {
        world.kubectl(&["apply", "-f", "-"], Some(part)).await.unwrap().success().unwrap();
    }
    let user = User::of(&world);
    let [muc, ber] = [0, 1].map(|number| world.front_of(number));
    let file = format!(
        "connections:\n{}{}",
        connection("muc", muc, "{ namespaces: [shop], matchLabels: { site: muc } }"),
        connection("ber", ber, "{ namespaces: [\"team-*\"] }"),
    );
    for (secret, vcsim) in [("vc-muc", muc), ("vc-ber", ber)] {
        let (name, password) = vcsim.login();
        user.login(secret, name, password).await;
    }
    user.connections(&file).await;
    user.namespace("gold").await;
    let namespaces: Api<Namespace> = Api::all(world.kube());
    let label = json!({"metadata": {"labels": {"site": "muc"}}});
    namespaces.patch("gold", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    world.start_operator().await.unwrap();
    for namespace in ["shop", "gold", "team-a"] {
        user.group(namespace, "web", 8).await;
    }
    eventually("machines are made in both", SOON, async || {
        let counts = [world.vms_of(0).await.unwrap().len(), world.vms_of(1).await.unwrap().len()];
        if counts.iter().all(|count| *count > 0) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    world.front_of(0).outage(true).await.unwrap();
    user.ready("team-a", "web", 8, SOON).await;
    for namespace in ["shop", "gold"] {
        user.told(namespace, "web", "Reconciling", "vCenter", SOON).await;
    }
    user.scale("team-a", "web", 5).await;
    let group = user.ready("team-a", "web", 5, SOON).await;
    assert_eq!(group.status.unwrap().connection.unwrap().name.as_deref(), Some("ber"));
    let events = user.events("team-a", "web").await;
    assert!(events.iter().all(|event| !event.contains("VCenter") && !event.contains("not available")), "{events:#?}");

    world.front_of(0).outage(false).await.unwrap();
    for namespace in ["shop", "gold"] {
        user.ready(namespace, "web", 8, SOON * 2).await;
    }
    let (first, second) = (world.vms_of(0).await.unwrap(), world.vms_of(1).await.unwrap());
    assert_eq!((in_folder(&first, "shop-web").len(), in_folder(&first, "gold-web").len(), first.len()), (8, 8, 16));
    assert_eq!((in_folder(&second, "team-a-web").len(), second.len()), (5, 5));
    let kept = user.config_maps().get("vmgroup-connections-last-good").await.unwrap();
    assert!(format!("{kept:?}").contains("vc-ber"), "what counts is kept for a restart: {kept:?}");
    let log = world.log();
    assert!(!log.to_lowercase().contains("forbidden"), "{log}");
    for namespace in ["shop", "gold", "team-a"] {
        user.delete(namespace, "web").await;
        user.gone(namespace, "web", SOON).await;
    }
    assert!(world.vms_of(0).await.unwrap().is_empty() && world.vms_of(1).await.unwrap().is_empty());
}

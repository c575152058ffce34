//! How members come from their template.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::json;
use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Options, TEMPLATE, User, World};

const SOON: Duration = Duration::from_secs(600);

fn disks(world: &SimWorld) -> Vec<u64> {
    world.vcenter.vms().into_iter().filter(|vm| !vm.template).map(|vm| vm.disk_bytes).collect()
}

/// Linked clones begin with the template's snapshot, are not made without one, and
/// come by themselves once it is there; a change of mind is for those to come.
#[tokio::test(start_paused = true)]
async fn linked_clones_begin_with_a_snapshot() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.apply(&format!(
        "apiVersion: vm.codeconnect.vmworld.com/v1alpha1\nkind: VmGroup\nmetadata: {{name: web, namespace: shop}}\nspec: {{cpu: 2, memory: 1, replicas: 2, template: {TEMPLATE}, cloneMode: linked}}\n"
    ))
    .await;
    let told = user.told("shop", "web", "Stalled", "has no snapshot", SOON).await;
    assert!(told.contains(TEMPLATE) && told.contains("spec.cloneMode"), "{told}");
    assert!(disks(&world).is_empty(), "nothing was cloned in another way");

    world.vcenter.take_snapshot(&format!("/DC0/vm/{TEMPLATE}")).unwrap();
    user.ready("shop", "web", 2, SOON).await;
    assert_eq!(disks(&world), [0, 0]);

    let full = json!({"spec": {"cloneMode": "full", "replicas": 3}});
    user.groups("shop").patch("web", &PatchParams::default(), &Patch::Merge(full)).await.unwrap();
    user.ready("shop", "web", 3, SOON).await;
    let disks = disks(&world);
    assert_eq!((disks.len(), disks.iter().filter(|bytes| **bytes == 0).count()), (3, 2));
}

/// What is neither is refused by the API server.
#[tokio::test(start_paused = true)]
async fn s10_there_are_two_ways_to_clone() {
    let world = SimWorld::make(Options::default()).await.unwrap();
    let group = |mode| {
        json!({
            "apiVersion": "vm.codeconnect.vmworld.com/v1alpha1", "kind": "VmGroup",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"cpu": 1, "memory": 1, "replicas": 1, "template": TEMPLATE, "cloneMode": mode},
        })
    };
    let refused = format!("{:?}", world.kube.apply(group("instant")).unwrap_err());
    assert!(refused.contains("spec.cloneMode") && refused.contains("linked"), "{refused}");
    world.kube.apply(group("linked")).unwrap();
}

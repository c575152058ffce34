//! Groups that say where their machines go.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{SOON, of_group};
use crate::world::{Deed, Options, ROOT, TEMPLATE, User, World};

/// Edits a group's target; what the API server says if it refuses.
async fn aim(user: &User, target: Value) -> Result<(), String> {
    let patch = Patch::Merge(json!({"spec": {"target": target}}));
    let edited = user.groups("shop").patch("web", &PatchParams::default(), &patch).await;
    edited.map(drop).map_err(|error| error.to_string())
}

/// A target is corrected as long as nothing is there; then machines are made in it, and
/// it cannot be changed any more.
pub async fn a_group_goes_where_its_target_says_and_stays<W: World>() {
    let mut world = W::make(Options::default()).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.apply(&format!(
        "apiVersion: vm.codeconnect.vmworld.com/v1alpha1\nkind: VmGroup\nmetadata: {{name: web, namespace: shop}}\nspec: {{cpu: 2, memory: 1, replicas: 1, template: {TEMPLATE}, target: {{cluster: DC0_C9}}}}\n"
    ))
    .await;
    user.told("shop", "web", "Stalled", "DC0_C0", SOON).await;
    aim(&user, json!({"cluster": "DC0_C0", "folder": "../team"})).await.expect_err("a folder above the root");
    aim(&user, json!({"cluster": "DC0_C0", "pool": "Resources"})).await.expect_err("a cluster and a pool");
    aim(&user, json!({"cluster": "DC0_C0", "folder": "team/web"})).await.expect("a correction");
    user.told("shop", "web", "Stalled", &format!("{ROOT}/team/web"), SOON).await;
    for (parent, name) in [(ROOT.to_owned(), "team"), (format!("{ROOT}/team"), "web")] {
        world.deed(Deed::AddFolder { parent, name: name.to_owned() }).await.expect("a folder");
    }
    user.ready("shop", "web", 1, SOON * 2).await;
    for target in [json!({"cluster": null}), json!({"folder": "team"}), Value::Null] {
        let refused = aim(&user, target).await.expect_err("a group that stands");
        assert!(refused.contains("spec.target") && refused.contains("stay where they are"), "{refused}");
    }
    user.scale("shop", "web", 3).await;
    let group = user.ready("shop", "web", 3, SOON).await;
    assert_eq!(group.status.and_then(|status| status.target), group.spec.target);
    let vms = of_group(&world, "team/web/shop-web").await;
    assert!(vms.len() == 3 && vms.iter().all(|vm| vm.host.starts_with("DC0_C0")), "{vms:#?}");

    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
    assert_eq!(world.vms().await.expect("vCenter"), []);
    assert_eq!(world.folders().await.expect("vCenter"), [format!("{ROOT}/team"), format!("{ROOT}/team/web")]);
}

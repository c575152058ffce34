//! Tags on govmomi's simulator, where `govc` says who has which.

use serde_json::json;
use vmgroup_e2e::real::RealWorld;
use vmgroup_e2e::world::{Options, TEMPLATE, User, World, eventually};

use super::{SOON, wanted};

/// The tags that a machine has, as `govc` sees them.
async fn tags_of(world: &RealWorld, path: &str) -> Vec<String> {
    let listed = world.govc(&["tags.attached.ls", "-r", path]).await.unwrap();
    let mut tags: Vec<String> = listed.split_whitespace().map(str::to_owned).collect();
    tags.sort();
    tags
}

async fn all_have(world: &RealWorld, count: usize, expected: &[&str]) {
    eventually("govc sees these tags on all members", SOON, async || {
        let mut seen = Vec::new();
        for vm in world.vms().await.unwrap() {
            seen.push((tags_of(world, &vm.path).await, vm.path));
        }
        let done = seen.len() == count && seen.iter().all(|(tags, _)| tags == expected);
        if done { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

/// A group with a tag: it grows, gets another one, and loses it again, beside one that
/// somebody else has attached.
#[tokio::test(flavor = "multi_thread")]
async fn tags_as_govc_sees_them() {
    if !wanted("tags_as_govc_sees_them") {
        return;
    }
    let mut world = RealWorld::make(Options::default()).await.unwrap();
    for arguments in [
        &["tags.category.create", "-t", "VirtualMachine", "env"][..],
        &["tags.category.create", "-t", "VirtualMachine", "backup"],
        &["tags.create", "-c", "env", "prod"],
        &["tags.create", "-c", "env", "testing"],
        &["tags.create", "-c", "backup", "daily"],
    ] {
        world.govc(arguments).await.unwrap();
    }
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.namespace("shop").await;
    let group = |replicas: usize, tags: &[&str]| {
        let tags: Vec<_> = tags.iter().map(|tag| json!({"category": "env", "name": tag})).collect();
        json!({
            "apiVersion": "vm.codeconnect.vmworld.com/v1alpha1", "kind": "VmGroup",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"cpu": 1, "memory": 1, "replicas": replicas, "template": TEMPLATE, "tags": tags},
        })
        .to_string()
    };
    let apply = async |replicas, tags: &[&str]| {
        world.kubectl(&["apply", "-f", "-"], Some(&group(replicas, tags))).await.unwrap().success().unwrap();
    };

    apply(2, &["prod"]).await;
    user.ready("shop", "web", 2, SOON).await;
    all_have(&world, 2, &["prod"]).await;
    for vm in world.vms().await.unwrap() {
        world.govc(&["tags.attach", "-c", "backup", "daily", &vm.path]).await.unwrap();
    }
    apply(2, &["testing"]).await;
    all_have(&world, 2, &["daily", "testing"]).await;
    user.ready("shop", "web", 2, SOON).await;
    apply(2, &[]).await;
    all_have(&world, 2, &["daily"]).await;
    apply(2, &["none"]).await;
    user.told("shop", "web", "Stalled", "none of the category env", SOON).await;
    world.govc(&["tags.create", "-c", "env", "none"]).await.unwrap();
    all_have(&world, 2, &["daily", "none"]).await;
    user.ready("shop", "web", 2, SOON).await;
    user.delete("shop", "web").await;
    user.gone("shop", "web", SOON).await;
}

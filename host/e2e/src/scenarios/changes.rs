//! Changes of groups that stand: of their template, their size, and restarts.

use std::ops::RangeInclusive;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use vmgroup_api::{Phase, RESTARTED_AT_ANNOTATION, VmGroup};

use super::{SOON, of_group};
use crate::world::{Deed, ROOT, TEMPLATE, User, VmView, World, eventually};

const OTHER: &str = "another-template";

/// Edits a group as `kubectl edit` would.
async fn edit(user: &User, patch: Value) {
    let groups = user.groups("shop");
    groups.patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.expect("an edit");
}

fn uuids(vms: &[VmView]) -> Vec<&str> {
    let mut uuids: Vec<&str> = vms.iter().map(|vm| vm.instance_uuid.as_str()).collect();
    uuids.sort_unstable();
    uuids
}

/// How often members were shut down or powered off.
async fn taken_down(world: &impl World) -> u64 {
    let calls = world.calls().await.expect("calls");
    ["ShutdownGuest", "PowerOffVM_Task"].iter().filter_map(|method| calls.get(*method)).sum()
}

/// Waits until all members are as the spec says; on the way there are never more
/// machines, and never fewer that are on, than this.
async fn updated(world: &impl World, user: &User, replicas: i32, bounds: RangeInclusive<usize>) -> VmGroup {
    let groups = user.groups("shop");
    eventually("all are as the spec says", SOON * 5, async || {
        let vms = of_group(world, "shop-web").await;
        let on = vms.iter().filter(|vm| vm.on).count();
        assert!(on >= *bounds.start() && vms.len() <= *bounds.end(), "{on} are on of {vms:#?}");
        let group = groups.get("web").await.map_err(|error| error.to_string())?;
        let status = group.status.clone().unwrap_or_default();
        let done = status.phase == Some(Phase::Running)
            && status.updated_replicas == Some(replicas)
            && status.ready_replicas == Some(replicas)
            && status.observed_generation == group.metadata.generation;
        if done { Ok(group) } else { Err(format!("{:?}: {:?}", status.phase, status.last_message)) }
    })
    .await
}

/// A new template is rolled out member by member; one that does not exist takes
/// nobody down, and taking it back leaves everybody as he was.
pub async fn a_template_is_rolled_out_and_back<W: World>() {
    let mut world = W::make(crate::world::Options::default()).await.expect("world");
    world.deed(Deed::AddTemplate { folder: ROOT.into(), name: OTHER.into() }).await.expect("a template");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    let first = of_group(&world, "shop-web").await;

    edit(&user, json!({"spec": {"template": OTHER}})).await;
    let group = updated(&world, &user, 3, 2..=3).await;
    let second = of_group(&world, "shop-web").await;
    assert_eq!(second.len(), 3);
    assert!(first.iter().all(|old| !uuids(&second).contains(&old.instance_uuid.as_str())), "all are new: {second:#?}");
    let status = group.status.unwrap_or_default();
    let revisions: Vec<_> = status.members.iter().filter_map(|member| member.revision.clone()).collect();
    assert!(revisions.len() == 3 && revisions.iter().all(|one| *one == revisions[0]), "{revisions:?}");
    let events = user.events("shop", "web").await;
    let told = events.iter().filter(|event| event.contains("it was made from another template")).count();
    assert_eq!(told, 3, "{events:#?}");

    edit(&user, json!({"spec": {"template": "no-such-template"}})).await;
    user.told("shop", "web", "Stalled", "no-such-template", SOON).await;
    assert_eq!(uuids(&of_group(&world, "shop-web").await), uuids(&second), "nobody goes for what cannot be made");
    edit(&user, json!({"spec": {"template": OTHER}})).await;
    updated(&world, &user, 3, 3..=3).await;
    assert_eq!(uuids(&of_group(&world, "shop-web").await), uuids(&second));

    // With surge the successor comes first.
    let surge = json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    edit(&user, json!({"spec": {"template": TEMPLATE, "updateStrategy": surge}})).await;
    updated(&world, &user, 3, 3..=4).await;
    let third = of_group(&world, "shop-web").await;
    assert!(second.iter().all(|old| !uuids(&third).contains(&old.instance_uuid.as_str())), "{third:#?}");
}

/// CPU and memory of a group that stands: the members stay, and are powered off for
/// a moment, one after the other; a restart goes the same way.
pub async fn cpu_and_memory_of_a_standing_group<W: World>() {
    let mut world = W::make(crate::world::Options::default()).await.expect("world");
    world.start_operator().await.expect("operator");
    let user = User::of(&world);
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    let before = of_group(&world, "shop-web").await;

    edit(&user, json!({"spec": {"cpu": 4, "memory": 2}})).await;
    updated(&world, &user, 3, 2..=3).await;
    let after = of_group(&world, "shop-web").await;
    assert_eq!(uuids(&after), uuids(&before), "they are the same machines");
    assert!(after.iter().all(|vm| vm.on && vm.cpus == 4 && vm.memory_mib == 2048), "{after:#?}");
    assert_eq!(taken_down(&world).await, 3, "each once");

    edit(&user, json!({"metadata": {"annotations": {RESTARTED_AT_ANNOTATION: "2026-01-01T00:00:00Z"}}})).await;
    eventually("each is powered off once more", SOON * 5, async || {
        let vms = of_group(&world, "shop-web").await;
        assert!(vms.iter().filter(|vm| vm.on).count() >= 2, "{vms:#?}");
        let downs = taken_down(&world).await;
        if downs == 6 { Ok(()) } else { Err(format!("{downs} times")) }
    })
    .await;
    let group = updated(&world, &user, 3, 2..=3).await;
    assert_eq!(group.status.and_then(|status| status.restarted_at).as_deref(), Some("2026-01-01T00:00:00Z"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(taken_down(&world).await, 6, "and not again");
    assert_eq!(uuids(&of_group(&world, "shop-web").await), uuids(&before));
}

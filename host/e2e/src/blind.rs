//! What only the simulated world can show: an operator whose watch hears late of
//! what happens in vCenter.

use std::collections::BTreeSet;
use std::time::Duration;

use vmgroup_sim::faults::{Fault, Rule};

use crate::sim::SimWorld;
use crate::world::{Deed, Options, ROOT, User, World};

const SOON: Duration = Duration::from_secs(60);

/// From now on, and for so long, the operator's watch sees nothing of vCenter.
pub async fn blind(world: &SimWorld, time: Duration) {
    world.vcenter.faults().add(Rule::next("WaitForUpdatesEx", Fault::Delay(time)));
    // The poll under way ends with this; the next one is the slow one.
    world.vcenter.add_folder(ROOT, "a-folder-that-is-seen").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// A name is free when a fresh read has shown that its machine is gone, even if
/// the watch has not heard of it.
pub async fn a_vanished_machines_name_is_free_at_once() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.policy(Some("naming: { plugin: ordinal, config: { pattern: \"{group}-{ordinal}\" } }"), &[]).await;
    user.group("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    let first = world.vms().await.unwrap().remove(0);
    assert_eq!(first.name, "web-0");
    blind(&world, SOON).await;
    world.deed(Deed::Destroy(first.path)).await.unwrap();
    user.scale("shop", "web", 0).await;
    user.ready("shop", "web", 0, SOON / 3).await;
    user.scale("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON * 3).await;
    let vms = world.vms().await.unwrap();
    let names: BTreeSet<&str> = vms.iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["web-0"]));
}

//! What policies go by reaches them from vCenter: stories that only the simulated world
//! can set up.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::time::Duration;

use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Options, User, World, eventually};

const SOON: Duration = Duration::from_secs(60);
/// What was read of hosts is used for ten seconds.
const READ_AGAIN: Duration = Duration::from_secs(11);

/// A host that has been asked to empty itself gives first, and `kubectl describe` says
/// so, while it is only on its way into maintenance; and nobody new goes there.
#[tokio::test(start_paused = true)]
async fn who_is_on_a_host_that_enters_maintenance_leaves_first() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    let policies = "placement: { plugin: anti-affinity }\nscaling: { plugin: drain-first }\n";
    user.policy(Some(policies), &[]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    let mut hosts: Vec<String> = world.vms().await.unwrap().into_iter().map(|vm| vm.host).collect();
    hosts.sort();
    hosts.dedup();
    assert_eq!(hosts.len(), 3, "anti-affinity: each on a host of its own, and not on {hosts:?}");

    let leaving = hosts[1].clone();
    world.vcenter.set_drs(true, false);
    world.vcenter.enter_maintenance(&leaving).unwrap();
    tokio::time::sleep(READ_AGAIN).await;
    user.scale("shop", "web", 2).await;
    eventually("two are left", SOON, async || match world.vms().await.unwrap().len() {
        2 => Ok(()),
        count => Err(format!("{count} are there")),
    })
    .await;
    assert!(world.vms().await.unwrap().iter().all(|vm| vm.host != leaving), "somebody is still on {leaving}");
    let why = format!("its host {leaving} is entering maintenance");
    let events = user.events("shop", "web").await;
    assert!(events.iter().any(|event| event.contains(&why)), "{events:?}");

    user.scale("shop", "web", 4).await;
    user.ready("shop", "web", 4, SOON).await;
    assert!(world.vms().await.unwrap().iter().all(|vm| vm.host != leaving), "somebody was sent to {leaving}");
}

/// A plugin that was made for the first contract, as bytes of then, names, places and
/// lets go, in an operator whose own policies speak the next one.
#[tokio::test(start_paused = true)]
async fn a_plugin_of_the_contract_0_1_goes_on_working() {
    let veteran = include_bytes!("../../policy/tests/frozen/0.1/veteran.wasm.gz");
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    let policies = "naming: { plugin: veteran.wasm.gz, config: { suffix: x } }\n\
                    placement: { plugin: veteran.wasm.gz }\n\
                    scaling: { plugin: veteran.wasm.gz }\n";
    user.policy(Some(policies), &[("veteran.wasm.gz", veteran)]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;
    let names = async || -> Vec<String> {
        let mut names: Vec<String> = world.vms().await.unwrap().into_iter().map(|vm| vm.name).collect();
        names.sort();
        names
    };
    assert_eq!(names().await, ["web-0x", "web-1x", "web-2x"]);

    let host = world.vms().await.unwrap().into_iter().find(|vm| vm.name == "web-0x").unwrap().host;
    world.vcenter.set_drs(true, false);
    world.vcenter.enter_maintenance(&host).unwrap();
    tokio::time::sleep(READ_AGAIN).await;
    user.scale("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let events = user.events("shop", "web").await;
    assert!(events.iter().any(|event| event.contains("its host is in maintenance")), "{events:?}");
}

//! What the policies do to themselves, on the simulators with time paused: a broken
//! edit at the start, a plugin that turns bad at work.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use vmgroup_e2e::made::Made;
use vmgroup_e2e::sim::{EPOCH, SimWorld};
use vmgroup_e2e::world::{OPERATOR_NAMESPACE, Options, User, World, eventually};
use vmgroup_policy::Kind;

const SOON: Duration = Duration::from_mins(1);

async fn names(world: &SimWorld) -> Vec<String> {
    let mut names: Vec<String> = world.vms().await.unwrap().into_iter().map(|vm| vm.name).collect();
    names.sort();
    names
}

async fn scaling_plugin(user: &User) -> String {
    let group = user.groups("shop").get("web").await.unwrap();
    group.status.and_then(|status| status.policies).map(|policies| policies.scaling.plugin).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn s8_the_last_known_good_serves_after_a_restart_with_a_broken_config_map() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.policy(
        Some("naming: { plugin: mine.wasm, config: { pattern: \"{group}-{ordinal}\" } }\n"),
        &[("mine.wasm", &vmgroup_policy::shipped::find("ordinal").unwrap().bytes)],
    )
    .await;
    user.group("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    assert_eq!(names(&world).await, ["web-0"]);

    world.kill_operator().await.unwrap();
    user.policy(Some("naming: { plugin: absent.wasm }\n"), &[]).await;
    world.start_operator().await.unwrap();
    let told = user.told("shop", "web", "PolicyRefused", "absent.wasm", SOON).await;
    assert!(told.contains("In force: naming mine.wasm"), "the last known good is named: {told}");
    user.scale("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    assert_eq!(names(&world).await, ["web-0", "web-1"]);
    user.scale("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;

    // With nothing kept, nobody is chosen to leave.
    world.kill_operator().await.unwrap();
    world.kube.delete("configmaps", Some(OPERATOR_NAMESPACE), "vmgroup-policy-last-good").unwrap();
    world.start_operator().await.unwrap();
    user.scale("shop", "web", 0).await;
    user.told("shop", "web", "Stalled", "nobody leaves", SOON).await;
    assert_eq!(names(&world).await.len(), 1);
    user.policy(Some("naming: { plugin: ordinal }\n"), &[]).await;
    user.ready("shop", "web", 0, SOON).await;
}

#[tokio::test(start_paused = true)]
async fn s8_a_policy_that_turns_bad_is_rolled_back_and_a_restart_does_not_try_it_again() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.policy(Some("scaling: { plugin: ordered, config: { order: oldest } }\n"), &[]).await;
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;

    let bad = Made::new(Kind::Scaling)
        .panics("no such member")
        .bad_before((EPOCH + Duration::from_hours(24)).as_secs())
        .bytes();
    user.policy(Some("scaling: { plugin: bad.wasm }\n"), &[("bad.wasm", &bad)]).await;
    eventually("the bad one is in force", SOON, async || {
        let plugin = scaling_plugin(&user).await;
        if plugin == "bad.wasm" { Ok(()) } else { Err(plugin) }
    })
    .await;
    user.scale("shop", "web", 1).await;
    user.ready("shop", "web", 1, Duration::from_mins(5)).await;
    assert_eq!(scaling_plugin(&user).await, "ordered");
    let told = user.told("shop", "web", "PolicyRefused", "rolled back", SOON).await;
    for word in ["bad.wasm", "no such member", "every change of the content is a new try", "In force: "] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let events = user.events(OPERATOR_NAMESPACE, "vmgroup-policy").await;
    let rollbacks: Vec<&String> = events.iter().filter(|event| event.starts_with("PolicyRolledBack")).collect();
    assert_eq!(rollbacks.len(), 1, "{events:#?}");

    tokio::time::sleep(Duration::from_secs(2)).await;
    world.kill_operator().await.unwrap();
    world.start_operator().await.unwrap();
    user.scale("shop", "web", 0).await;
    user.ready("shop", "web", 0, SOON).await;
    assert_eq!(scaling_plugin(&user).await, "ordered", "not tried again");

    // An edit is a new try.
    user.policy(Some("# once more\nscaling: { plugin: bad.wasm }\n"), &[("bad.wasm", &bad)]).await;
    eventually("it is tried again", SOON, async || {
        let plugin = scaling_plugin(&user).await;
        if plugin == "bad.wasm" { Ok(()) } else { Err(plugin) }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn other_policies_serve_some_groups_and_their_status_says_so() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    let file = "naming: { plugin: ordinal }
groups:
  - { name: nobody, percent: 0, naming: { plugin: random-suffix } }
  - name: shops
    select: { namespaces: [\"shop-*\"] }
    naming: { plugin: ordinal, config: { pattern: \"s-{group}-{ordinal}\" } }
";
    user.policy(Some(file), &[]).await;
    user.group("shop-1", "web", 1).await;
    user.group("bank", "db", 1).await;
    let shop = user.ready("shop-1", "web", 1, SOON).await;
    let bank = user.ready("bank", "db", 1, SOON).await;
    assert_eq!(names(&world).await, ["db-0", "s-web-0"]);
    let rules = |group: vmgroup_api::VmGroup| {
        let policies = group.status.and_then(|status| status.policies).unwrap();
        (policies.naming.rule, policies.scaling.rule)
    };
    assert_eq!(rules(shop), (Some("shops".to_owned()), None));
    assert_eq!(rules(bank), (None, None));
}

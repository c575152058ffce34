//! What the policies do to themselves, on the simulators with time paused: a broken
//! edit at the start, a plugin that turns bad at work, swaps under load.

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
    for word in ["bad.wasm", "no such member", "every change of its content is a new try", "In force: "] {
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

/// Each edition gives names of its own; a name of none of them, a group that is
/// not as wished in the end, or a decision that failed would show a torn swap.
#[tokio::test(start_paused = true)]
async fn s8_swaps_under_load_fail_no_decision() {
    const GROUPS: usize = 50;
    const SWAPS: usize = 60;
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    for group in 0..GROUPS {
        user.group("shop", &format!("web{group}"), 1).await;
    }
    for swap in 0..SWAPS {
        let order = ["oldest", "newest"][swap % 2];
        let file = format!(
            "naming: {{ plugin: ordinal, config: {{ pattern: \"s{swap}-{{group}}-{{ordinal}}\" }} }}\nscaling: {{ plugin: ordered, config: {{ order: {order} }} }}\n"
        );
        user.policy(Some(&file), &[]).await;
        user.scale("shop", &format!("web{}", swap * 7 % GROUPS), swap % 4).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    for group in 0..GROUPS {
        user.scale("shop", &format!("web{group}"), 2).await;
    }
    for group in 0..GROUPS {
        user.ready("shop", &format!("web{group}"), 2, Duration::from_mins(10)).await;
    }
    let text = world.metrics(0).encode();
    let failed: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("vmgroup_policy_decisions_total") && !line.contains("\"answered\""))
        .filter(|line| !line.ends_with(" 0"))
        .collect();
    assert_eq!(failed, Vec::<&str>::new());
    assert!(text.contains(&format!("vmgroup_policy_swaps_total{{outcome=\"swapped\"}} {SWAPS}")), "{text}");
    let names = names(&world).await;
    assert_eq!(names.len(), 2 * GROUPS);
    assert!(names.iter().all(|name| name.starts_with('s') || name.contains("-replica-")), "{names:?}");
    let editions: std::collections::BTreeSet<&str> =
        names.iter().filter_map(|name| name.split_once("-web")).map(|(edition, _)| edition).collect();
    assert!(editions.len() > 1, "of several editions: {editions:?}");
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

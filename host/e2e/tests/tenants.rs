//! Namespaces that bring policies of their own, on the simulators with time paused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use vmgroup_api::VmGroup;
use vmgroup_e2e::made::Made;
use vmgroup_e2e::sim::{EPOCH, SimWorld};
use vmgroup_e2e::world::{OPERATOR_NAMESPACE, Options, User, World, eventually};
use vmgroup_policy::{Host, Kind, Limits};

const SOON: Duration = Duration::from_mins(1);

const TEAMS: &str = "tenants: { namespaces: [\"team-*\"] }\n";

/// A file that gives names with this beginning.
fn named(beginning: &str) -> String {
    format!("naming: {{ plugin: ordinal, config: {{ pattern: \"{beginning}-{{group}}-{{ordinal}}\" }} }}\n")
}

async fn names(world: &SimWorld) -> Vec<String> {
    let mut names: Vec<String> = world.vms().await.unwrap().into_iter().map(|vm| vm.name).collect();
    names.sort();
    names
}

async fn started(admin: &str) -> (SimWorld, User) {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    let user = User::of(&world);
    user.policy(Some(admin), &[]).await;
    world.start_operator().await.unwrap();
    (world, user)
}

/// Entry and ConfigMap that the naming policy of a group is from.
fn naming_from(group: VmGroup) -> (Option<String>, Option<String>) {
    let naming = group.status.and_then(|status| status.policies).unwrap().naming;
    (naming.rule, naming.config_map)
}

async fn event(user: &User, namespace: &str, beginning: &str) -> String {
    eventually(&format!("{namespace} has the event {beginning}"), SOON, async || {
        let events = user.events(namespace, "vmgroup-policy").await;
        events.iter().find(|event| event.starts_with(beginning)).cloned().ok_or(format!("{events:?}"))
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_config_map_serves_the_groups_of_its_namespace_alone_where_it_may() {
    let admin = format!("{TEAMS}{}", named("site"));
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    let user = User::of(&world);
    user.policy(Some(&admin), &[]).await;
    // Before the operator starts: what serves there is known before anything is decided.
    user.policy_of("team-a", Some(&named("a")), &[]).await;
    user.policy_of("shop", Some(&named("shop")), &[]).await;
    for namespace in ["team-a", "team-b", "shop"] {
        user.group(namespace, "web", 1).await;
    }
    world.start_operator().await.unwrap();
    let own = user.ready("team-a", "web", 1, SOON).await;
    assert_eq!(naming_from(own), (None, Some("team-a/vmgroup-policy".to_owned())));
    for namespace in ["team-b", "shop"] {
        assert_eq!(naming_from(user.ready(namespace, "web", 1, SOON).await), (None, None), "{namespace}");
    }
    assert_eq!(names(&world).await, ["a-web-0", "site-web-0", "site-web-0"]);
    let told = event(&user, "team-a", "PolicySwapped").await;
    assert!(told.contains("scaling as elsewhere"), "{told}");
    assert_eq!(user.events("shop", "vmgroup-policy").await, Vec::<String>::new());

    // An edit is taken at once, an entry of the administrator's that selects the group
    // comes before it, and without the ConfigMap all is as elsewhere.
    user.policy_of("team-a", Some(&named("b")), &[]).await;
    event(&user, "team-a", "PolicySwapped: Swap 2").await;
    user.scale("team-a", "web", 2).await;
    user.ready("team-a", "web", 2, SOON).await;
    user.policy(
        Some(&format!(
            "{admin}groups: [ {{ name: all, select: {{ namespaces: [team-a] }}, {} }} ]",
            named("rule").trim()
        )),
        &[],
    )
    .await;
    event(&user, OPERATOR_NAMESPACE, "PolicySwapped: Swap 2").await;
    user.scale("team-a", "web", 3).await;
    let ruled = user.ready("team-a", "web", 3, SOON).await;
    assert_eq!(naming_from(ruled), (Some("all".to_owned()), None));
    user.policy(Some(&admin), &[]).await;
    event(&user, OPERATOR_NAMESPACE, "PolicySwapped: Swap 3").await;
    world.kube.delete("configmaps", Some("team-a"), "vmgroup-policy").unwrap();
    event(&user, "team-a", "PolicySwapped: Swap 3: the ConfigMap is gone").await;
    user.scale("team-a", "web", 4).await;
    assert_eq!(naming_from(user.ready("team-a", "web", 4, SOON).await), (None, None));
    let mut wanted = ["a-web-0", "b-web-0", "rule-web-0", "site-web-0", "site-web-0", "site-web-0"].map(str::to_owned);
    wanted.sort();
    assert_eq!(names(&world).await, wanted);
}

#[tokio::test(start_paused = true)]
async fn s8_a_broken_config_map_of_a_namespace_harms_nobody_else() {
    let (world, user) = started(TEAMS).await;
    user.policy_of("team-a", Some("scaling: { plugin: absent.wasm }"), &[]).await;
    for namespace in ["team-a", "team-b"] {
        user.group(namespace, "web", 2).await;
        user.ready(namespace, "web", 2, SOON).await;
    }
    let told = event(&user, "team-a", "PolicyRefused").await;
    assert!(told.contains("absent.wasm") && told.contains("stage source"), "{told}");
    // Who leaves is known nowhere but there.
    for namespace in ["team-a", "team-b"] {
        user.scale(namespace, "web", 1).await;
    }
    user.ready("team-b", "web", 1, SOON).await;
    user.told("team-a", "web", "Stalled", "nobody leaves", SOON).await;
    user.told("team-a", "web", "PolicyRefused", "absent.wasm", SOON).await;
    let other = user.groups("team-b").get("web").await.unwrap().status.unwrap();
    assert!(other.conditions.iter().all(|condition| condition.type_ != "PolicyRefused" || condition.status != "True"));
    assert_eq!(
        user.events(OPERATOR_NAMESPACE, "vmgroup-policy").await.iter().filter(|it| it.contains("Refused")).count(),
        0
    );
    user.policy_of("team-a", Some("scaling: { plugin: ordered }"), &[]).await;
    user.ready("team-a", "web", 1, SOON).await;
    // And once something was good, it goes on serving.
    user.policy_of("team-a", Some("scaling: { plugin: absent.wasm }"), &[]).await;
    user.told("team-a", "web", "PolicyRefused", "In force: naming as elsewhere", SOON).await;
    user.scale("team-a", "web", 0).await;
    user.ready("team-a", "web", 0, SOON).await;
    assert_eq!(names(&world).await.len(), 1);
}

/// What is kept of a namespace's policies there.
fn last_good(world: &SimWorld, namespace: &str) -> Option<serde_json::Value> {
    world.kube.get("configmaps", Some(namespace), "vmgroup-policy-last-good")
}

async fn kept(world: &SimWorld, namespace: &str, part: &str) {
    eventually(&format!("{part} is kept"), SOON, async || {
        let kept = last_good(world, namespace).map(|map| map["data"].to_string()).unwrap_or_default();
        if kept.contains(part) { Ok(()) } else { Err(kept) }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn s8_the_last_known_good_of_a_namespace_serves_after_a_restart() {
    let (mut world, user) = started(TEAMS).await;
    let mine = vmgroup_policy::shipped::find("ordered").unwrap().bytes;
    let good = format!("{}scaling: {{ plugin: mine.wasm, config: {{ order: oldest }} }}\n", named("a"));
    user.policy_of("team-a", Some(&good), &[("mine.wasm", &mine)]).await;
    user.group("team-a", "web", 3).await;
    user.ready("team-a", "web", 3, SOON).await;
    kept(&world, "team-a", "mine.wasm").await;
    assert_eq!(last_good(&world, "team-b"), None, "who brings nothing has nothing kept");

    world.kill_operator().await.unwrap();
    user.policy_of("team-a", Some("scaling: { plugin: absent.wasm }"), &[]).await;
    world.start_operator().await.unwrap();
    let told = user.told("team-a", "web", "PolicyRefused", "absent.wasm", SOON).await;
    assert!(told.contains("scaling mine.wasm"), "the last known good is named: {told}");
    user.scale("team-a", "web", 4).await;
    user.ready("team-a", "web", 4, SOON).await;
    user.scale("team-a", "web", 2).await;
    let group = user.ready("team-a", "web", 2, SOON).await;
    assert_eq!(names(&world).await, ["a-web-2", "a-web-3"], "named and chosen by its own");
    assert_eq!(naming_from(group).1.as_deref(), Some("team-a/vmgroup-policy"));

    // One that was deleted and made again is another: nothing is known of it, and what
    // was kept goes with the one that it was kept for.
    world.kill_operator().await.unwrap();
    let owner = last_good(&world, "team-a").unwrap()["metadata"]["ownerReferences"][0].clone();
    let old = world.kube.get("configmaps", Some("team-a"), "vmgroup-policy").unwrap();
    assert_eq!((&owner["kind"], &owner["uid"]), (&serde_json::json!("ConfigMap"), &old["metadata"]["uid"]));
    world.kube.delete("configmaps", Some("team-a"), "vmgroup-policy").unwrap();
    user.policy_of("team-a", Some("scaling: { plugin: absent.wasm }"), &[]).await;
    world.start_operator().await.unwrap();
    user.scale("team-a", "web", 1).await;
    user.told("team-a", "web", "Stalled", "nobody leaves", SOON).await;
    assert_eq!(names(&world).await.len(), 2);
    user.policy_of("team-a", Some("scaling: { plugin: ordered }"), &[]).await;
    user.ready("team-a", "web", 1, SOON).await;
}

#[tokio::test(start_paused = true)]
async fn s8_what_was_taken_back_in_a_namespace_is_not_tried_again_after_a_restart() {
    let (mut world, user) = started(TEAMS).await;
    let bad = Made::new(Kind::Scaling)
        .panics("no such member")
        .bad_before((EPOCH + Duration::from_hours(24)).as_secs())
        .bytes();
    let file = "scaling: { plugin: bad.wasm }\n";
    user.policy_of("team-a", Some(file), &[("bad.wasm", &bad)]).await;
    for namespace in ["team-a", "team-b"] {
        user.group(namespace, "web", 2).await;
        user.ready(namespace, "web", 2, SOON).await;
        user.scale(namespace, "web", 1).await;
    }
    user.ready("team-b", "web", 1, SOON).await;
    let told = event(&user, "team-a", "PolicyRolledBack").await;
    assert!(told.contains("bad.wasm"), "{told}");
    kept(&world, "team-a", "no such member").await;
    assert!(decisions(&world, 0, "PolicyTrapped") >= 3, "it was tried");
    for restart in 1..=2 {
        world.kill_operator().await.unwrap();
        world.start_operator().await.unwrap();
        user.told("team-a", "web", "PolicyRefused", "rolled back", SOON).await;
        // Who leaves is known nowhere but there, and there it is not known any more.
        user.told("team-a", "web", "Stalled", "was taken back", SOON).await;
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert_eq!(decisions(&world, restart, "PolicyTrapped"), 0, "not tried again, restart {restart}");
        assert_eq!(names(&world).await.len(), 3);
    }
    // An edit is a new try.
    user.policy_of("team-a", Some(&format!("# mended\n{file}").replace("bad.wasm", "ordered")), &[]).await;
    user.ready("team-a", "web", 1, SOON).await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_cannot_speak_for_others_and_cannot_take_all_the_memory() {
    let (_world, user) = started(TEAMS).await;
    for (file, problem) in [
        (TEAMS, "`tenants` is the administrator's"),
        ("scaling: { plugin: ordered, shadow: { plugin: ordered } }", "on trial"),
    ] {
        user.policy_of("team-a", Some(file), &[]).await;
        eventually(problem, SOON, async || {
            let events = user.events("team-a", "vmgroup-policy").await;
            events.iter().find(|event| event.contains(problem)).map(|_| ()).ok_or(format!("{events:?}"))
        })
        .await;
    }
    let zeros = {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; 5 << 20]).unwrap();
        encoder.finish().unwrap()
    };
    user.policy_of("team-a", Some("scaling: { plugin: large.wasm }"), &[("large.wasm", &zeros)]).await;
    eventually("refused", SOON, async || {
        let events = user.events("team-a", "vmgroup-policy").await;
        events
            .iter()
            .find(|event| event.contains("`large.wasm`") && event.contains("stage tenants"))
            .map(|_| ())
            .ok_or(format!("{events:?}"))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn only_so_many_namespaces_may_and_whoever_comes_later_waits_for_room() {
    let (world, user) = started("tenants: { namespaces: [\"team-*\"], limit: 1 }").await;
    user.policy_of("team-a", Some(&named("a")), &[]).await;
    event(&user, "team-a", "PolicySwapped").await;
    user.policy_of("team-b", Some(&named("b")), &[]).await;
    let told = event(&user, "team-b", "PolicyRefused").await;
    assert!(told.contains("tenants.limit"), "{told}");
    user.group("team-b", "web", 1).await;
    user.told("team-b", "web", "Stalled", "tenants.limit", SOON).await;
    assert_eq!(names(&world).await.len(), 0, "nobody knows what it is to be called");
    world.kube.delete("configmaps", Some("team-a"), "vmgroup-policy").unwrap();
    user.ready("team-b", "web", 1, Duration::from_mins(6)).await;
    assert_eq!(names(&world).await, ["b-web-0"]);
}

/// Decisions of this outcome in a world, so far.
fn decisions(world: &SimWorld, operator: usize, outcome: &str) -> u64 {
    let text = world.metrics(operator).encode();
    let lines = text.lines().filter(|line| line.starts_with("vmgroup_policy_decisions_total"));
    let lines = lines.filter(|line| line.contains(&format!("outcome=\"{outcome}\"")));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Two namespaces with two groups each that grow and shrink; beside them, if there is
/// something for it, a namespace with twenty whose policy spins. Gives the decisions
/// that were answered.
async fn busy_world(spinning: Option<&str>) -> (SimWorld, User, u64) {
    let mut world = SimWorld::make(Options { max_tasks: 64, ..Options::default() }).await.unwrap();
    // A decision that spins is a tenth of a second.
    world.sandbox = Host::new(Limits { fuel: 100_000_000, ..Limits::default() }).unwrap();
    let user = User::of(&world);
    user.policy(Some(&format!("{TEAMS}budget: {{ seconds: 1, window: 60 }}\n")), &[]).await;
    if let Some(file) = spinning {
        let spins = Made::new(Kind::Naming).decides("(loop $l (br $l)) unreachable");
        let bytes = spins.bad_before((EPOCH + Duration::from_hours(24)).as_secs()).bytes();
        user.policy_of("team-spin", Some(file), &[("spin.wasm", &bytes)]).await;
        for number in 0..20 {
            user.group("team-spin", &format!("web{number}"), 1).await;
        }
    }
    let others = [("shop", "a"), ("shop", "b"), ("team-b", "a"), ("team-b", "b")];
    for (namespace, name) in others {
        user.group(namespace, name, 3).await;
    }
    world.start_operator().await.unwrap();
    for replicas in [3, 1, 2] {
        for (namespace, name) in others {
            user.scale(namespace, name, replicas).await;
        }
        for (namespace, name) in others {
            user.ready(namespace, name, i32::try_from(replicas).unwrap(), SOON).await;
        }
    }
    let answered = decisions(&world, 0, "answered");
    (world, user, answered)
}

#[tokio::test(start_paused = true)]
async fn s8_a_spinning_namespace_starves_nobody() {
    let (_, _, alone) = busy_world(None).await;
    // Without a breaker it goes on spinning, as far as its time goes.
    let (world, user, beside) = busy_world(Some("naming: { plugin: spin.wasm }\nbreaker: { failures: 0 }")).await;
    assert_eq!(beside, alone, "the others are asked as often as without it");
    let told = user.told("team-spin", "web7", "Stalled", "for this namespace within 60 s", SOON).await;
    assert!(told.contains("taken 1 s"), "{told}");
    let spun = decisions(&world, 0, "PolicyOutOfFuel");
    assert!((10..=30).contains(&spun), "cut off after a second of a core, twenty groups or not: {spun}");
    // By itself it comes to nothing more than its share.
    tokio::time::sleep(Duration::from_mins(10)).await;
    let later = decisions(&world, 0, "PolicyOutOfFuel") - spun;
    assert!((50..=130).contains(&later), "ten seconds of a core in ten minutes: {later}");
    // With a good policy all is well as soon as there is time.
    user.policy_of("team-spin", Some(&named("s")), &[]).await;
    for number in 0..20 {
        user.ready("team-spin", &format!("web{number}"), 1, Duration::from_mins(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn s8_a_spinning_namespace_is_taken_back_alone() {
    let (_, _, alone) = busy_world(None).await;
    let (world, user, beside) = busy_world(Some("naming: { plugin: spin.wasm }")).await;
    let told = event(&user, "team-spin", "PolicyRolledBack").await;
    assert!(told.contains("spin.wasm") && told.contains("naming as elsewhere"), "{told}");
    for number in 0..20 {
        user.ready("team-spin", &format!("web{number}"), 1, Duration::from_mins(5)).await;
    }
    // Those that were under way end as they began, and are bounded by the budget.
    let spun = decisions(&world, 0, "PolicyOutOfFuel");
    assert!((3..=11).contains(&spun), "the breaker is its own: {spun}");
    assert!(beside >= alone);
    let admins = user.events(OPERATOR_NAMESPACE, "vmgroup-policy").await;
    assert!(admins.iter().all(|event| !event.starts_with("PolicyRolledBack")), "{admins:?}");
    let other = user.groups("team-b").get("a").await.unwrap().status.unwrap();
    assert!(other.conditions.iter().all(|condition| condition.type_ != "PolicyRefused" || condition.status != "True"));
}

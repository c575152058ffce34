//! `vmgroup preview` beside a running operator: what it says is what happens, and
//! saying it changes nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use vmgroup_e2e::sim::{SimWorld, everything};
use vmgroup_e2e::world::{Deed, Options, User, World, eventually};
use vmgroup_operator::preview::{Preview, Wanted};
use vmgroup_policy::shipped;

const SOON: Duration = Duration::from_secs(120);

const POLICY: &str = "\
naming: { plugin: ordinal, config: { pattern: \"{group}-{ordinal}\" } }
placement: { plugin: spread, config: { by: host } }
scaling: { plugin: ordered, config: { order: newest } }
";

fn wanted(replicas: usize) -> Wanted {
    Wanted { group: "shop/web".to_owned(), replicas: Some(replicas), ..Wanted::default() }
}

async fn ask(world: &SimWorld, wanted: &Wanted, body: impl Into<Body>) -> Result<Preview, (StatusCode, String)> {
    let uri = format!("/preview?{}", serde_urlencoded::to_string(wanted).unwrap());
    let (status, answer) = world.ask(0, Request::post(uri).body(body.into()).unwrap()).await;
    if status.is_success() {
        return Ok(serde_json::from_slice(&answer).unwrap());
    }
    Err((status, String::from_utf8(answer.to_vec()).unwrap()))
}

async fn begun(replicas: usize, policy: &str) -> (SimWorld, User) {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    let user = User::of(&world);
    user.policy(Some(policy), &[]).await;
    world.start_operator().await.unwrap();
    user.group("shop", "web", replicas).await;
    user.ready("shop", "web", i32::try_from(replicas).unwrap(), SOON).await;
    (world, user)
}

/// Hosts by the machines' names.
async fn hosts(world: &SimWorld) -> BTreeMap<String, String> {
    world.vms().await.unwrap().into_iter().map(|vm| (vm.name, vm.host)).collect()
}

/// Who comes, where, and who goes, is as it was said before.
#[tokio::test(start_paused = true)]
async fn what_is_said_is_what_happens() {
    let (world, user) = begun(2, POLICY).await;
    let before = hosts(&world).await;

    let out = ask(&world, &wanted(12), "").await.unwrap();
    assert_eq!((out.members, out.wished_now, out.coming.len(), out.going.len()), (2, 2, 10, 0), "{out:?}");
    assert!(out.stopped.is_none() && out.under_way.is_empty(), "{out:?}");
    assert!(out.coming.iter().all(|one| !one.named.is_empty() && !one.placed.is_empty()), "{out:?}");
    assert_eq!(hosts(&world).await, before, "nobody was made");

    user.scale("shop", "web", 12).await;
    user.ready("shop", "web", 12, SOON).await;
    let after = hosts(&world).await;
    let came: BTreeMap<&str, &str> =
        out.coming.iter().map(|one| (one.name.as_str(), one.place.split('/').nth(1).unwrap())).collect();
    let new: BTreeMap<&str, &str> = after
        .iter()
        .filter(|(name, _)| !before.contains_key(*name))
        .map(|(name, host)| (name.as_str(), host.as_str()))
        .collect();
    assert_eq!(came, new);

    let back = ask(&world, &wanted(9), "").await.unwrap();
    assert_eq!((back.coming.len(), back.going.len()), (0, 3), "{back:?}");
    // Who is next is the first of them.
    let next = Wanted { group: "shop/web".to_owned(), one_fewer: true, ..Wanted::default() };
    let next = ask(&world, &next, "").await.unwrap();
    assert_eq!((next.replicas, &next.going[..]), (11, &back.going[..1]), "{next:?}");
    assert!(next.there.contains(&next.going[0].name) && next.there.len() == 12, "{next:?}");
    user.scale("shop", "web", 9).await;
    user.ready("shop", "web", 9, SOON).await;
    let left = hosts(&world).await;
    for (name, _) in after {
        assert_eq!(left.contains_key(&name), back.going.iter().all(|gone| gone.name != name), "{name}: {back:?}");
    }
}

/// Neither Kubernetes nor vCenter sees anything of it, however often it is asked.
#[tokio::test(start_paused = true)]
async fn saying_it_changes_nothing() {
    let (world, _user) = begun(3, POLICY).await;
    let (before, machines) = (everything(&world.kube), hosts(&world).await);
    let writes = |calls: BTreeMap<String, u64>| -> BTreeMap<String, u64> {
        let write = |method: &str| method.ends_with("_Task") || method.starts_with("Create");
        calls.into_iter().filter(|(method, _)| write(method) && method != "CreateContainerView").collect()
    };
    let calls = writes(world.calls().await.unwrap());
    let decided = |world: &SimWorld| {
        let text = world.metrics(0).encode();
        text.lines().filter(|line| line.starts_with("vmgroup_policy_decisions_total")).collect::<Vec<_>>().join("\n")
    };
    let decisions = decided(&world);
    for replicas in [0, 1, 3, 7, 100] {
        ask(&world, &wanted(replicas), "").await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(everything(&world.kube), before);
    assert_eq!(hosts(&world).await, machines);
    assert_eq!(writes(world.calls().await.unwrap()), calls);
    assert_eq!(decided(&world), decisions);
}

/// A policy that is not in force is asked instead of the one that is, and is still
/// not in force afterwards.
#[tokio::test(start_paused = true)]
async fn another_policy_is_tried() {
    let (world, user) = begun(3, POLICY).await;
    let newest = ask(&world, &wanted(1), "").await.unwrap();
    let candidate =
        |config: &str| Wanted { plugin: Some("mine.wasm".to_owned()), config: Some(config.to_owned()), ..wanted(1) };
    let bytes = shipped::find("ordered").unwrap().bytes;
    let oldest = ask(&world, &candidate(r#"{"order":"oldest"}"#), bytes.clone()).await.unwrap();
    let names = |preview: &Preview| preview.going.iter().map(|gone| gone.name.clone()).collect::<Vec<_>>();
    assert_ne!(names(&oldest), names(&newest));
    let asked: Vec<(&str, bool)> =
        oldest.asked.iter().map(|counsel| (counsel.policy.plugin.as_str(), counsel.tried)).collect();
    assert_eq!(asked, [("mine.wasm", true)]);
    let group = user.groups("shop").get("web").await.unwrap();
    assert_eq!(group.status.unwrap().policies.unwrap().scaling.plugin, "ordered");

    let (status, text) = ask(&world, &candidate(r#"{"order":"sideways"}"#), bytes.clone()).await.unwrap_err();
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY && text.contains("sideways"), "{status} {text}");
    let (status, text) = ask(&world, &candidate("{}"), bytes.slice(..1000)).await.unwrap_err();
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY && text.contains("stage parse"), "{status} {text}");
}

/// While nobody may be chosen, the preview chooses nobody; but a policy to come may be tried.
#[tokio::test(start_paused = true)]
async fn on_hold_it_says_so() {
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    let user = User::of(&world);
    user.policy(Some("naming: { plugin: absent.wasm }\n"), &[]).await;
    world.start_operator().await.unwrap();
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let held = ask(&world, &wanted(1), "").await.unwrap();
    assert!(held.going.is_empty() && held.stopped.unwrap().message.contains("on hold"));
    let tried = ask(&world, &wanted(1), shipped::find("ordered").unwrap().bytes).await.unwrap();
    assert_eq!((tried.going.len(), tried.stopped), (1, None));
}

/// More than leave at a time: all of them are named.
#[tokio::test(start_paused = true)]
async fn a_large_group_is_told_to_its_end() {
    let (world, _user) = begun(70, POLICY).await;
    let preview = ask(&world, &wanted(0), "").await.unwrap();
    assert_eq!((preview.members, preview.going.len()), (70, 70));
    let (status, _) = ask(&world, &wanted(1001), "").await.unwrap_err();
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

/// What is in the way is said, and so is what is under way already.
#[tokio::test(start_paused = true)]
async fn what_is_in_the_way_is_said() {
    let (world, user) = begun(2, POLICY).await;
    let (status, text) = ask(&world, &Wanted { group: "shop/no".to_owned(), ..wanted(1) }, "").await.unwrap_err();
    assert!(status == StatusCode::NOT_FOUND && text.contains("shop/no"), "{status} {text}");

    user.group_of("shop", "stuck", 1, "no-such-template").await;
    user.told("shop", "stuck", "Stalled", "no-such-template", SOON).await;
    let stuck = ask(&world, &Wanted { group: "shop/stuck".to_owned(), ..wanted(2) }, "").await.unwrap();
    assert!(stuck.stopped.unwrap().message.contains("no-such-template"));
    assert_eq!(stuck.troubles[0].reason, "TemplateNotFound");

    user.scale("shop", "web", 4).await;
    let preview = eventually("two are being made", SOON, async || {
        let preview = ask(&world, &wanted(3), "").await.unwrap();
        if preview.under_way.len() == 2 { Ok(preview) } else { Err(format!("{preview:?}")) }
    })
    .await;
    assert_eq!((preview.members, preview.going.len()), (4, 1), "{preview:?}");

    world.deed(Deed::Down).await.unwrap();
    let (status, text) = eventually("the link is lost", SOON * 5, async || {
        ask(&world, &wanted(3), "").await.err().ok_or_else(|| "it answers".to_owned())
    })
    .await;
    assert!(matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY), "{status} {text}");
    world.deed(Deed::Up).await.unwrap();
}

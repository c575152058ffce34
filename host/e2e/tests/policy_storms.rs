//! Policies in numbers, on the simulators with time paused: a thousand swaps under
//! the feet of fifty groups in motion, and hostile ones, one after the other.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::body::Body;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;
use serde_json::Value;
use vmgroup_e2e::component::stamped;
use vmgroup_e2e::made::{self, Made, SELF_TEST};
use vmgroup_e2e::sim::{EPOCH, SimWorld};
use vmgroup_e2e::world::{Options, User, VmView, World, eventually};
use vmgroup_policy::{Answer, Host, Kind, Limits, Question};
use vmgroup_records::{Outcome, Record};

#[allow(dead_code, reason = "made for the policy host's own storm, which uses all of it")]
#[path = "../../policy/tests/hostile/chance.rs"]
mod chance;

const GROUPS: usize = 50;
const SWAPS: usize = 1000;
/// Between two swaps.
const PAUSE: Duration = Duration::from_millis(250);
/// So long that many a swap comes in the middle of a pass.
const DECISION: Duration = Duration::from_millis(80);
/// So long that most groups are on their way at any time.
const CLONE: Duration = Duration::from_secs(20);
const LATE: Duration = Duration::from_mins(30);

/// So many editions have the same code, and differ in their configuration alone.
const OF_ONE_CODE: usize = 10;

/// Makes editions whose every answer tells of which one it is: the names by their
/// beginning, places and victims by their reasons.
struct Editions {
    places: Vec<u8>,
    leaves: Vec<u8>,
}

impl Editions {
    fn new() -> Self {
        let says = |kind| {
            let always = (EPOCH + Duration::from_hours(24)).as_secs();
            Made::new(kind).gives_its_config_as_reason().bad_before(always).bytes()
        };
        Self { places: says(Kind::Placement), leaves: says(Kind::Scaling) }
    }

    /// Puts one in.
    async fn put(&self, user: &User, edition: usize) {
        let code = (edition / OF_ONE_CODE).to_string();
        let (places, leaves) = (format!("places-{code}.wasm"), format!("leaves-{code}.wasm"));
        let file = format!(
            "naming: {{ plugin: ordinal, config: {{ pattern: \"e{edition}-{{group}}-{{ordinal}}\" }} }}
placement: {{ plugin: {places}, config: {{ edition: {edition} }} }}
scaling: {{ plugin: {leaves}, config: {{ edition: {edition} }} }}
"
        );
        let plugins = [(&places, stamped(&self.places, &code)), (&leaves, stamped(&self.leaves, &code))];
        let plugins = plugins.each_ref().map(|(name, bytes)| (name.as_str(), &bytes[..]));
        user.policy(Some(&file), &plugins).await;
    }
}

fn of_name(name: &str) -> Option<usize> {
    name.strip_prefix('e')?.split_once('-')?.0.parse().ok()
}

fn of_config(config: &Value) -> Option<usize> {
    config["edition"].as_u64()?.try_into().ok()
}

fn of_reason(reason: &str) -> Option<usize> {
    of_config(&serde_json::from_str(reason).ok()?)
}

/// How many groups are on their way. None has a status that names plugins of two
/// editions.
fn look(world: &SimWorld) -> usize {
    let groups = world.kube.list("vmgroups", Some("shop"));
    for group in &groups {
        let policies = &group["status"]["policies"];
        let code =
            |kind: &str| policies[kind]["plugin"].as_str()?.strip_suffix(".wasm")?.rsplit_once('-').map(|it| it.1);
        assert_eq!(code("placement"), code("scaling"), "{policies}");
    }
    groups.iter().filter(|group| group["status"]["phase"] != "RUNNING").count()
}

async fn records(world: &SimWorld) -> Vec<Record> {
    let (_, exported) = world.ask(0, http::Request::get("/export").body(Body::empty()).unwrap()).await;
    let file = std::env::temp_dir().join(format!("vmgroup-swaps-{}.jsonl.zst", std::process::id()));
    std::fs::write(&file, exported).unwrap();
    let records = vmgroup_records::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    records
}

/// What the records show.
#[derive(Default)]
struct Shown {
    editions: BTreeSet<usize>,
    groups: BTreeSet<String>,
    /// Passes that asked for names and for places, both of one edition.
    whole: usize,
}

fn judge(records: &[Record]) -> Shown {
    let mut shown = Shown::default();
    // What each group's last question for names gave, if no record after it is missing.
    let mut named: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut last = 0;
    for record in records {
        if record.number != last + 1 {
            named.clear();
        }
        last = record.number;
        let Outcome::Answered(answer) = &record.outcome else { panic!("a decision failed: {record:?}") };
        let config: Value = serde_json::from_str(&record.question.context().config).unwrap();
        let asked = config["pattern"].as_str().map_or_else(|| of_config(&config), of_name);
        // The built-in ones serve before the first swap.
        let Some(asked) = asked else { continue };
        let said: Vec<Option<usize>> = match answer {
            Answer::Naming(answer) => answer.proposals.iter().map(|it| of_name(&it.name)).collect(),
            Answer::Placement(places) => places.iter().map(|it| of_reason(&it.reason)).collect(),
            Answer::Scaling(victims) => victims.iter().map(|it| of_reason(&it.reason)).collect(),
        };
        assert!(said.iter().all(|edition| *edition == Some(asked)), "{asked} was asked: {record:?}");
        shown.editions.insert(asked);
        shown.groups.insert(record.group());
        if let Answer::Naming(answer) = answer {
            named.insert(record.group(), answer.proposals.iter().map(|it| it.name.as_str()).collect());
        }
        let Question::Placement(request) = &record.question else { continue };
        // Nobody gets a name without a place: the first question for places after one
        // for names is of the same pass.
        let Some(new) = named.remove(&record.group()) else { continue };
        assert!(new.iter().all(|name| request.newcomers.iter().any(|it| it.name == *name)), "{new:?}: {record:?}");
        assert!(new.iter().all(|name| of_name(name) == Some(asked)), "{new:?} and a place by {asked}: {record:?}");
        shown.whole += 1;
    }
    shown
}

/// A decision that fails, one that an edition answers with the words of another, a
/// pass that asks two of them, a status that names two, or a group that is not as
/// wished in the end would show a torn swap.
#[tokio::test(start_paused = true)]
async fn s8_a_thousand_swaps_under_load_fail_and_mix_no_decision() {
    let options =
        Options { clone_takes: CLONE, max_tasks: 100, busy: DECISION, record_bytes: 1 << 30, ..Options::default() };
    let mut world = SimWorld::make(options).await.unwrap();
    world.start_operator().await.unwrap();
    let (user, editions) = (User::of(&world), Editions::new());
    for group in 0..GROUPS {
        user.group("shop", &format!("web{group}"), 1).await;
    }
    let mut moving = 0;
    for swap in 0..SWAPS {
        editions.put(&user, swap).await;
        user.scale("shop", &format!("web{}", swap * 7 % GROUPS), swap % 4).await;
        tokio::time::sleep(PAUSE).await;
        if swap % OF_ONE_CODE == 0 {
            moving += look(&world);
        }
    }
    for group in 0..GROUPS {
        user.scale("shop", &format!("web{group}"), 2).await;
    }
    for group in 0..GROUPS {
        user.ready("shop", &format!("web{group}"), 2, LATE).await;
    }
    assert_eq!(world.vms().await.unwrap().len(), 2 * GROUPS);

    let text = world.metrics(0).encode();
    let of = |metric: &str| text.lines().filter(|line| line.starts_with(metric)).collect::<Vec<_>>();
    let failed: Vec<&str> = of("vmgroup_policy_decisions_total")
        .into_iter()
        .filter(|line| !line.contains("\"answered\"") && !line.ends_with(" 0"))
        .collect();
    assert_eq!(failed, Vec::<&str>::new());
    assert_eq!(
        of("vmgroup_policy_swaps_total{outcome=\"swapped\"}"),
        [format!("vmgroup_policy_swaps_total{{outcome=\"swapped\"}} {SWAPS}")]
    );

    // And it was a storm: everybody was in it, and most editions had something to say.
    let shown = judge(&records(&world).await);
    let looks = SWAPS / OF_ONE_CODE;
    assert!(moving / looks > GROUPS / 2, "{} groups on their way at a time", moving / looks);
    assert_eq!(shown.groups.len(), GROUPS);
    assert!(shown.editions.len() > SWAPS / 4, "{} editions decided", shown.editions.len());
    assert!(shown.whole > SWAPS / 4, "{} passes seen whole", shown.whole);
}

/// What vCenter has, and how often it was asked for something else.
async fn machines(world: &SimWorld) -> (Vec<VmView>, u64) {
    let calls = world.calls().await.unwrap();
    let asked = calls.iter().filter(|(method, _)| method.ends_with("_Task")).map(|(_, count)| count).sum();
    (world.vms().await.unwrap(), asked)
}

/// How many decisions of a kind there were, and how many of them gave an answer.
fn decisions(world: &SimWorld, kind: Kind) -> (u64, u64) {
    let text = world.metrics(0).encode();
    let of_kind = format!("kind=\"{kind}\"");
    let lines = || {
        let of = text.lines().filter(|line| line.starts_with("vmgroup_policy_decisions_total"));
        of.filter(|line| line.contains(&of_kind))
            .map(|line| (line, line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()))
    };
    let answered = lines().filter(|(line, _)| line.contains("\"answered\"")).map(|(_, count)| count).sum();
    (lines().map(|(_, count)| count).sum(), answered)
}

/// Each passes its checks, is in force and is asked, and nothing comes of it.
#[tokio::test(start_paused = true)]
async fn s8_hostile_plugins_change_nothing_in_vcenter() {
    const PLUGINS: u64 = 100;
    let mut world = SimWorld::make(Options::default()).await.unwrap();
    world.sandbox = Host::new(Limits { fuel: 50_000_000, ..Limits::default() }).unwrap();
    tokio::time::sleep(Duration::from_secs(SELF_TEST + 1).saturating_sub(EPOCH)).await;
    world.start_operator().await.unwrap();
    let user = User::of(&world);
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, LATE).await;
    let before = machines(&world).await;
    for number in 0..PLUGINS {
        let mut dice = ChaCha8Rng::seed_from_u64(number);
        let kind = *chance::pick(&mut dice, &Kind::ALL);
        let hostile = chance::made_up(kind, &mut dice).bytes();
        let file = format!("{kind}: {{ plugin: hostile-{number}.wasm }}\nbreaker: {{ failures: 0 }}\n");
        user.policy(Some(&file), &[(&format!("hostile-{number}.wasm"), &hostile)]).await;
        eventually("it is in force", LATE, async || {
            let group = world.kube.get("vmgroups", Some("shop"), "web").unwrap_or_default();
            let policies = &group["status"]["policies"];
            if policies.to_string().contains(&format!("hostile-{number}.wasm")) {
                Ok(())
            } else {
                Err(policies.to_string())
            }
        })
        .await;
        let (asked, answered) = decisions(&world, kind);
        user.scale("shop", "web", if kind == Kind::Scaling { 1 } else { 5 }).await;
        eventually("it is asked", LATE, async || {
            let (now, of_them) = decisions(&world, kind);
            assert_eq!(of_them, answered, "plugin {number} for {kind}");
            if now > asked { Ok(()) } else { Err(format!("{now} decisions")) }
        })
        .await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(machines(&world).await, before, "plugin {number} for {kind}");
        user.scale("shop", "web", 3).await;
        user.ready("shop", "web", 3, LATE).await;
    }
}

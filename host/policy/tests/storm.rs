//! A thousand hostile plugins: good ones with bytes flipped, sections cut and
//! instructions changed, and answers made up (property S8). None does harm: each is
//! refused, or gives legal answers, or none. Alone in its process, whose memory is
//! looked at.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;
use vmgroup_policy::{Answer, DecisionError, Host, Kind, Limits, Policy, Question, generate, shipped};

use crate::made::{Made, source};

#[path = "hostile/chance.rs"]
mod chance;
#[path = "common/mod.rs"]
mod common;
#[allow(dead_code, reason = "all of it is used by the tests that it is made for")]
#[path = "hostile/made.rs"]
mod made;
#[path = "hostile/questions.rs"]
mod questions;

const PLUGINS: u64 = 1_000;
/// Those that fill what is kept on purpose: threads, compiled components.
const FIRST: u64 = 200;
/// Far more than any call may take, and any of the compiler's.
const HANGS: Duration = Duration::from_mins(2);
/// A sandbox whose memory is not given back keeps 4 GiB of addresses.
const A_SANDBOX: u64 = 2 << 30;

/// What plugins are made of.
struct Good {
    small: Vec<(Kind, Vec<u8>)>,
    /// Real ones, which take a moment to compile.
    large: Vec<(Kind, Vec<u8>)>,
}

impl Good {
    fn new() -> Self {
        let c = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/c-policy/least-memory.wasm"));
        let says = |kind| (kind, Made::new(kind).gives_its_config_as_reason().bad_from_the_start().bytes());
        let small = vec![
            (Kind::Scaling, c.unwrap()),
            says(Kind::Scaling),
            says(Kind::Placement),
            (Kind::Naming, Made::new(Kind::Naming).names(&["web-7", "web-8"], false).bytes()),
        ];
        let large = ["ordinal", "pool-default", "ordered"].map(|name| {
            let shipped = shipped::all().iter().find(|shipped| shipped.name == name).unwrap();
            (shipped.kind, common::unpacked(shipped.bytes))
        });
        Self { small, large: large.to_vec() }
    }

    /// The plugin of a number, and how it was made.
    fn spoilt(&self, number: u64) -> (&'static str, Kind, Vec<u8>) {
        let mut dice = ChaCha8Rng::seed_from_u64(number);
        let (kind, good) = if number.is_multiple_of(20) {
            chance::pick(&mut dice, &self.large)
        } else {
            chance::pick(&mut dice, &self.small)
        };
        match number % 5 {
            0 | 1 => ("flipped", *kind, chance::flipped(good, &mut dice)),
            2 => ("cut", *kind, chance::cut(good, &mut dice)),
            3 => ("twisted", *kind, chance::twisted(good, &mut dice)),
            _ => {
                let kind = *chance::pick(&mut dice, &Kind::ALL);
                ("made up", kind, chance::made_up(kind, &mut dice).bytes())
            }
        }
    }
}

/// Small questions, and some by chance.
fn questions(kind: Kind, seed: u64) -> Vec<Question> {
    let small = |count| match kind {
        Kind::Naming => Question::Naming(questions::naming(count)),
        Kind::Placement => Question::Placement(questions::placement(count)),
        Kind::Scaling => Question::Scaling(questions::scaling(count)),
    };
    let random = (0..3).map(|number| generate::question(kind, seed, number));
    [small(1), small(2)].into_iter().chain(random).collect()
}

/// Whether whoever asked can live with it, as the contract says; not by the code that
/// is tried.
fn is_legal(question: &Question, answer: &Answer) -> bool {
    let fits = |index: Option<u32>, length: usize| index.is_none_or(|index| (index as usize) < length);
    match (question, answer) {
        (Question::Naming(asked), Answer::Naming(answer)) => {
            let names: BTreeSet<&str> = answer.proposals.iter().map(|proposal| proposal.name.as_str()).collect();
            names.len() == asked.count as usize
                && answer.proposals.len() == names.len()
                && names.iter().all(|name| !name.trim().is_empty() && !asked.taken_in_group.iter().any(|it| it == name))
        }
        (Question::Placement(asked), Answer::Placement(places)) => {
            let there = &asked.inventory;
            places.len() == asked.newcomers.len()
                && places.iter().all(|place| {
                    fits(place.cluster, there.clusters.len())
                        && fits(place.host, there.hosts.len())
                        && fits(place.datastore, there.datastores.len())
                        && place.host.is_none_or(|host| there.hosts[host as usize].usable)
                        && place.datastore.is_none_or(|store| there.datastores[store as usize].usable)
                })
        }
        (Question::Scaling(asked), Answer::Scaling(victims)) => {
            let members: BTreeSet<u32> = victims.iter().map(|victim| victim.member).collect();
            members.len() == asked.count as usize
                && victims.len() == members.len()
                && members.iter().all(|at| asked.members.get(*at as usize).is_some_and(|member| !member.protected))
        }
        _ => false,
    }
}

/// What became of a plugin: the stage that refused it, or of each question what it was
/// answered. Panics with what it did if that is none of the things that it may do.
fn try_out(hosts: &[Host; 2], good: &Good, number: u64) -> Vec<String> {
    let (how, kind, bytes) = good.spoilt(number);
    // By turns it is fuel and time that end it.
    let host = &hosts[usize::from(number.is_multiple_of(4))];
    let policy: Arc<Policy> = match host.check(kind, &source("hostile.wasm", bytes)) {
        Ok(checked) => checked.policy,
        Err(error) => return vec![format!("{how}: refused at {}", error.stage)],
    };
    let answered = |question: &Question| {
        let (first, again) = (policy.answer(question).outcome, policy.answer(question).outcome);
        let by_time = [&first, &again].iter().any(|outcome| matches!(outcome, Err(DecisionError::Deadline { .. })));
        assert!(by_time || first == again, "plugin {number} ({how}): {first:?} and then {again:?}");
        match first {
            Ok(answer) => {
                assert!(is_legal(question, &answer), "plugin {number} ({how}): {answer:?} to {question:?}");
                assert!(how != "made up", "plugin {number}: {answer:?} to {question:?}");
                format!("{how}: answered")
            }
            Err(DecisionError::Host(problem)) => panic!("plugin {number} ({how}): {problem}"),
            Err(error) => format!("{how}: {}", error.reason()),
        }
    };
    questions(kind, number).iter().map(answered).collect()
}

/// Tries plugins on two threads, and counts what became of them.
fn storm(good: &Arc<Good>, numbers: std::ops::Range<u64>) -> BTreeMap<String, usize> {
    let limits = Limits { fuel: 2_000_000, ..Limits::default() };
    let by_time = Limits { fuel: u64::MAX, deadline: Duration::from_millis(20), ..Limits::default() };
    let hosts = Arc::new([limits, by_time].map(|limits| Host::new(limits).unwrap()));
    let (done, results) = channel();
    let threads: Vec<_> = [0, 1]
        .into_iter()
        .map(|part| {
            let (hosts, good, done) = (hosts.clone(), good.clone(), done.clone());
            let mine: Vec<u64> = numbers.clone().filter(|number| number % 2 == part).collect();
            thread::spawn(move || {
                for number in mine {
                    done.send((number, try_out(&hosts, &good, number))).unwrap();
                }
            })
        })
        .collect();
    drop(done);
    let (mut tally, mut last) = (BTreeMap::new(), None);
    loop {
        match results.recv_timeout(HANGS) {
            Ok((number, outcomes)) => {
                last = Some(number);
                for outcome in outcomes {
                    *tally.entry(outcome).or_default() += 1;
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("one hangs, soon after {last:?}"),
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
    tally
}

/// The addresses that the process has, in bytes.
#[cfg(target_os = "linux")]
fn addresses() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 4096
}

#[cfg(not(target_os = "linux"))]
fn addresses() -> u64 {
    0
}

#[test]
fn s8_a_thousand_hostile_plugins_do_no_harm() {
    let good = Arc::new(Good::new());
    storm(&good, 0..FIRST);
    let before = addresses();
    let tally = storm(&good, FIRST..PLUGINS);
    let kept = addresses().saturating_sub(before);
    assert!(kept < A_SANDBOX, "{kept} bytes of addresses were not given back");
    for seen in [
        "flipped: refused at parse",
        "flipped: answered",
        "cut: refused at parse",
        "cut: refused at interface",
        "twisted: refused at self-test",
        "twisted: answered",
        "made up: PolicyBadAnswer",
        "made up: PolicyTrapped",
        "made up: PolicyOutOfFuel",
        "made up: PolicyTooSlow",
    ] {
        assert!(tally.contains_key(seen), "no storm without {seen}: {tally:#?}");
    }
}

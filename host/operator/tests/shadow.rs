//! Policies on trial: asked beside the one that decides, compared with it, and
//! unable to harm anything but their own report.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use vmgroup_operator::clock::Clock;
use vmgroup_operator::decisions;
use vmgroup_operator::metrics::Metrics;
use vmgroup_operator::offload::Offload;
use vmgroup_operator::policy_source::{PolicyBook, PolicyFiles};
use vmgroup_operator::shadow::{self, PATIENCE, Shadow, Trial};
use vmgroup_policy::generate::{self, Size};
use vmgroup_policy::{Host, Kind, Limits, Policy, Question};
use vmgroup_records::{Filter, Recorder, Role, Settings, Verdict};

struct Desk {
    book: PolicyBook,
    shadow: Shadow,
    recorder: Recorder,
    metrics: Metrics,
    stop: CancellationToken,
    worker: Option<vmgroup_operator::shadow::Worker>,
}

impl Desk {
    /// A host with these limits checks and runs all policies.
    fn new(limits: Limits) -> Self {
        let clock = Clock::starting_at(Duration::from_secs(1_000));
        let metrics = Metrics::new(clock);
        let recorder = Recorder::start(Settings { memory: 8 << 20, files: None }).unwrap();
        let book = PolicyBook::new(Host::new(limits).unwrap(), Offload::Inline, metrics.clone()).unwrap();
        let (shadow, worker) = Shadow::new(Offload::Inline, metrics.clone(), recorder.clone(), clock);
        Self { book, shadow, recorder, metrics, stop: CancellationToken::new(), worker: Some(worker) }
    }

    async fn offer(&self, policy_yaml: &str) {
        let data = PolicyFiles { policy_yaml: Some(policy_yaml.to_owned()), ..PolicyFiles::default() };
        self.book.offer(Some(data)).await.unwrap();
    }

    fn work(&mut self) {
        tokio::spawn(self.worker.take().unwrap().run(self.stop.clone()));
    }

    /// Asks the policy in force, and hands the question over as a pass does.
    fn decide(&self, question: Question) {
        let (serving, question) = (self.book.in_force(), Arc::new(question));
        let in_force = serving.set.get(question.kind());
        let tried = in_force.answer(&question);
        let candidate: &Arc<Policy> =
            serving.candidates.get(question.kind()).unwrap().checked.as_ref().expect("it passes");
        self.shadow.put(candidate, in_force, &question, tried.outcome.as_ref());
    }

    fn trial(&self) -> Trial {
        self.shadow.report(&self.book).into_iter().next().unwrap()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Trial) -> bool) -> Trial {
        for _ in 0..10_000 {
            let trial = self.trial();
            if holds(&trial) {
                return trial;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{what}: {:?}", self.trial());
    }

    fn metric(&self, line: &str) -> bool {
        self.metrics.encode().lines().any(|one| one == line)
    }
}

fn leave(members: u32) -> Question {
    generate::sample(Kind::Scaling, Size::of(members))
}

fn count(trial: &Trial, verdict: Verdict) -> u64 {
    trial.verdicts.iter().find(|(one, _)| *one == verdict).unwrap().1
}

#[tokio::test(start_paused = true)]
async fn what_it_would_have_done_is_compared_and_recorded() {
    let mut desk = Desk::new(Limits::default());
    desk.offer("scaling: { plugin: ordered, shadow: { plugin: ordered, config: { order: oldest } } }").await;
    desk.work();
    assert_eq!((desk.trial().asked, desk.trial().since_ms), (0, None));
    desk.decide(leave(5));
    desk.decide(leave(7));
    let trial = desk.until("two were asked", |trial| trial.asked == 2).await;
    assert_eq!((count(&trial, Verdict::Differs), trial.agreed, trial.recent.len()), (2, 0, 2), "{trial:?}");
    assert_ne!(trial.recent[0].in_force, trial.recent[0].on_trial);
    assert!(desk.metric(r#"vmgroup_policy_shadow_decisions_total{kind="scaling",verdict="differs"} 2"#));
    desk.recorder.flush(Duration::from_secs(60));
    let roles: Vec<Role> = desk.recorder.list(&Filter::default()).into_iter().map(|one| one.role).collect();
    assert_eq!(roles, [Role::Shadow, Role::Shadow]);

    // The same on trial as in force: it agrees, and that is a trial of its own.
    desk.offer("scaling: { plugin: ordered, shadow: { plugin: ordered } }").await;
    desk.decide(leave(5));
    let trial = desk.until("the new one was asked", |trial| trial.asked == 1).await;
    assert_eq!((count(&trial, Verdict::Same), trial.agreed, trial.over), (1, 1, false));
    let report = desk.shadow.report(&desk.book);
    assert!(report.len() == 2 && report[1].over && report[1].asked == 2, "{report:?}");

    // Promotion is one edit, and ends it.
    desk.offer("scaling: { plugin: ordered, config: { order: oldest } }").await;
    assert!(desk.shadow.report(&desk.book).iter().all(|trial| trial.over));
}

/// One that overruns again and again is not asked for ever.
#[tokio::test(start_paused = true)]
async fn s8_one_that_overruns_is_set_aside_and_only_its_report_says_so() {
    // Enough for the self-test and for small groups.
    let mut desk = Desk::new(Limits { fuel: 3_000_000, ..Limits::default() });
    desk.offer("scaling: { plugin: ordered, shadow: { plugin: ordered, config: { order: oldest } } }").await;
    desk.work();
    let rounds = u64::from(PATIENCE) + 4;
    for _ in 0..rounds {
        desk.decide(leave(3_000));
    }
    let trial = desk.until("all are dealt with", |trial| trial.asked + trial.dropped == rounds).await;
    assert_eq!((trial.asked, trial.dropped), (u64::from(PATIENCE), 4), "{trial:?}");
    assert!(trial.set_aside.unwrap().contains("budget"));
    // Until it changes.
    desk.offer("scaling: { plugin: ordered, shadow: { plugin: ordered, config: { order: newest } } }").await;
    desk.decide(leave(3));
    desk.until("the next is asked", |trial| trial.asked == 1 && trial.set_aside.is_none()).await;
}

/// Nobody waits for it: what is too much is dropped, and counted.
#[tokio::test(start_paused = true)]
async fn what_it_cannot_keep_up_with_is_dropped() {
    let mut desk = Desk::new(Limits::default());
    desk.offer("scaling: { plugin: ordered, shadow: { plugin: ordered } }").await;
    for _ in 0..100 {
        desk.decide(leave(3));
    }
    let dropped = desk.trial().dropped;
    assert!(dropped > 0 && dropped < 100, "{dropped}");
    assert!(desk.metric(&format!(r#"vmgroup_policy_shadow_dropped_total{{kind="scaling"}} {dropped}"#)));
    desk.work();
    desk.until("the rest is asked", |trial| trial.asked == 100 - dropped).await;
}

/// What is wrong with it is said, and what decides is in force all the same.
#[tokio::test]
async fn one_that_cannot_be_on_trial_harms_nobody() {
    let desk = Desk::new(Limits::default());
    let reason = |config: Value| -> String {
        format!("scaling:\n  plugin: ordered\n  shadow:\n    plugin: idle-first\n    config: {config}\n")
    };
    desk.offer(&reason(json!({ "protetc": [] }))).await;
    assert_eq!(desk.book.in_force().set.scaling.plugin(), "ordered");
    assert!(desk.book.refusal().is_none());
    let unfit = desk.trial().unfit.unwrap();
    assert!(unfit.stage == "config" && unfit.message.contains("(line 5)"), "{unfit:?}");
    assert!(unfit.remedy.contains("scaling.shadow"), "{unfit:?}");
    desk.offer("naming: { plugin: ordinal, shadow: { plugin: nowhere.wasm } }").await;
    assert_eq!(desk.trial().unfit.unwrap().stage, "source");
}

/// The report as people see it, from the real binary over the real socket.
#[tokio::test]
async fn the_report_is_printed() {
    let mut desk = Desk::new(Limits::default());
    let folder = std::env::temp_dir().join(format!("vmgroup-shadow-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("socket");
    let listener = decisions::listen(&socket).unwrap();
    let router = shadow::router(desk.shadow.clone(), desk.book.clone());
    let server = tokio::spawn(decisions::serve(listener, socket.clone(), router, desk.stop.clone()));
    let report = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_vmgroup"));
        let output = command.args(["shadow", "report"]).args(arguments).env("VMGROUP_SOCKET", &socket).output();
        let output = output.await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(report(&[]).await, "nothing is or was on trial\n");
    desk.offer("scaling: { plugin: ordered, shadow: { plugin: ordered, config: { order: oldest } } }").await;
    assert!(report(&[]).await.contains("no decision yet"));
    desk.work();
    desk.decide(leave(3));
    let trial = desk.until("it was asked", |trial| trial.asked == 1).await;
    let shown = report(&["--kind", "scaling"]).await;
    let (in_force, on_trial) = (&trial.recent[0].in_force, &trial.recent[0].on_trial);
    for part in ["scaling: ordered on trial beside ordered", "agrees in 0 % of 1 decisions", in_force, on_trial] {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}");
    }
    let for_programs: Vec<Trial> = serde_json::from_str(&report(&["--output", "json"]).await).unwrap();
    assert_eq!(for_programs, [trial]);
    assert_eq!(report(&["--kind", "naming"]).await, "nothing is or was on trial\n");
    desk.stop.cancel();
    server.await.unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}

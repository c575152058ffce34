//! Policies on trial: asked what the policies in force were asked, after these
//! have answered, and compared with them. Nobody does what they say.
//!
//! Who decides hands a question over and goes on; a full queue drops it and counts
//! it. One question at a time is put to a policy on trial, with a rest after each
//! as long as it took, so that the slowest costs half a core at most; and one
//! that crashes or overruns again and again is set aside. Served on the local
//! socket to `vmgroup shadow report`.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use futures::FutureExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vmgroup_policy::{Answer, DecisionError, Kind, Policy, Question, Tried};
use vmgroup_records::{Asked, Entry, Made, Outcome, Recorder, Role, Side, Verdict};

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::offload::Offload;
use crate::policy_source::{PolicyBook, Unfit};

/// Questions that wait. One of a group of 1,000 is some 300 KiB.
const QUEUE: usize = 32;

/// Trials that are remembered, those that are over included.
const TRIALS: usize = 12;

/// Differing decisions that are remembered of each trial.
const RECENT: usize = 20;

/// Lines of an answer that are remembered.
const LINES: usize = 5;

/// Crashes and overruns in a row after which a policy is not asked any more.
pub const PATIENCE: u32 = 5;

/// What was found out about one policy on trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// Which question it answers.
    pub kind: Kind,
    /// The policy on trial; nothing if it did not pass its checks.
    pub candidate: Option<Tested>,
    /// What the policy file calls it.
    pub plugin: String,
    /// The policy that decides.
    pub in_force: Tested,
    /// It is not on trial any more.
    pub over: bool,
    /// Why it cannot be on trial.
    pub unfit: Option<Unfit>,
    /// Why it is not asked any more, though it is on trial.
    pub set_aside: Option<String>,
    /// When the first question was put to it, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Questions that it was asked.
    pub asked: u64,
    /// Of these, those after which the same would have happened.
    pub agreed: u64,
    /// How its outcomes compare; `now` is the policy on trial.
    pub verdicts: Vec<(Verdict, u64)>,
    /// Questions that it was not asked, because too many waited or it is set aside.
    pub dropped: u64,
    /// The most fuel that it used.
    pub most_fuel: u64,
    /// The longest that it took, in microseconds.
    pub most_micros: u64,
    /// The latest decisions that would have gone another way, the latest last.
    pub recent: Vec<Differing>,
}

/// A policy with its configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tested {
    /// Which.
    #[serde(flatten)]
    pub policy: Asked,
    /// Its configuration, as JSON text.
    pub config: String,
}

impl Tested {
    fn of(policy: &Policy) -> Self {
        Self { policy: Asked::of(policy), config: policy.config_text().to_owned() }
    }
}

/// A decision that would have gone another way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Differing {
    /// When the policy on trial was asked, in milliseconds since 1970.
    pub at_ms: u64,
    /// `namespace/name`.
    pub group: String,
    /// How they compare.
    pub verdict: Verdict,
    /// What the policy in force said, and was done.
    pub in_force: String,
    /// What the policy on trial said.
    pub on_trial: String,
}

/// A question on its way to a policy on trial.
struct Put {
    candidate: Arc<Policy>,
    in_force: Arc<Policy>,
    question: Arc<Question>,
    outcome: Outcome,
}

/// Where questions for policies on trial are handed in. Cheap to clone; all clones
/// are the same.
#[derive(Clone)]
pub struct Shadow(Arc<Inner>);

struct Inner {
    queue: mpsc::Sender<Put>,
    trials: Mutex<VecDeque<Running>>,
    metrics: Metrics,
}

/// A trial with what only counts here.
struct Running {
    trial: Trial,
    failures_in_a_row: u32,
}

impl Running {
    fn new(candidate: &Policy, in_force: &Policy) -> Self {
        let trial = Trial {
            plugin: candidate.plugin().to_owned(),
            candidate: Some(Tested::of(candidate)),
            ..Trial::blank(candidate.kind(), in_force)
        };
        Self { trial, failures_in_a_row: 0 }
    }
}

impl Trial {
    fn blank(kind: Kind, in_force: &Policy) -> Self {
        Self {
            kind,
            candidate: None,
            plugin: String::new(),
            in_force: Tested::of(in_force),
            over: false,
            unfit: None,
            set_aside: None,
            since_ms: None,
            asked: 0,
            agreed: 0,
            verdicts: Verdict::ALL.map(|verdict| (verdict, 0)).to_vec(),
            dropped: 0,
            most_fuel: 0,
            most_micros: 0,
            recent: Vec::new(),
        }
    }

    fn is(&self, candidate: &Tested, in_force: &Tested) -> bool {
        self.candidate.as_ref() == Some(candidate) && self.in_force == *in_force
    }
}

impl Shadow {
    /// A desk and who works at it.
    pub fn new(offload: Offload, metrics: Metrics, recorder: Recorder, clock: Clock) -> (Self, Worker) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let shadow = Self(Arc::new(Inner { queue, trials: Mutex::default(), metrics }));
        let worker = Worker { shadow: shadow.clone(), waiting, offload, recorder, clock };
        (shadow, worker)
    }

    /// Hands over a question that `in_force` was asked, with what came of it.
    /// Never waits.
    pub fn put(
        &self,
        candidate: &Arc<Policy>,
        in_force: &Arc<Policy>,
        question: &Arc<Question>,
        outcome: Result<&Answer, &DecisionError>,
    ) {
        let sent = !self.is_set_aside(candidate, in_force) && {
            let put = Put {
                candidate: candidate.clone(),
                in_force: in_force.clone(),
                question: question.clone(),
                outcome: Outcome::of(outcome.cloned().map_err(DecisionError::clone)),
            };
            self.0.queue.try_send(put).is_ok()
        };
        if !sent {
            self.drop_one(candidate, in_force);
        }
    }

    fn is_set_aside(&self, candidate: &Policy, in_force: &Policy) -> bool {
        self.with(candidate, in_force, |running| running.trial.set_aside.is_some())
    }

    /// Counts a question that is not put.
    fn drop_one(&self, candidate: &Policy, in_force: &Policy) {
        self.0.metrics.shadow_dropped(candidate.kind().as_str());
        self.with(candidate, in_force, |running| running.trial.dropped += 1);
    }

    fn trials(&self) -> MutexGuard<'_, VecDeque<Running>> {
        self.0.trials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trial of this policy beside that one, begun if there is none; the oldest
    /// gives way.
    fn with<R>(&self, candidate: &Policy, in_force: &Policy, change: impl FnOnce(&mut Running) -> R) -> R {
        let (tested, beside) = (Tested::of(candidate), Tested::of(in_force));
        let mut trials = self.trials();
        let known = trials.iter().position(|running| running.trial.is(&tested, &beside));
        let mut running = known.and_then(|at| trials.remove(at)).unwrap_or_else(|| Running::new(candidate, in_force));
        let result = change(&mut running);
        trials.push_back(running);
        if trials.len() > TRIALS {
            trials.pop_front();
        }
        result
    }

    fn note(&self, put: &Put, at_ms: u64, took: Duration, tried: &Tried<Answer>) {
        let now = Outcome::of(tried.outcome.clone());
        let Put { candidate, in_force, question, outcome } = put;
        let verdict = Verdict::of(question, outcome, &now);
        self.0.metrics.shadow_decision(candidate.kind().as_str(), verdict.label());
        let failed = tried.outcome.as_ref().err().filter(|error| !error.is_refusal());
        self.with(candidate, in_force, |Running { trial, failures_in_a_row }| {
            trial.since_ms.get_or_insert(at_ms);
            trial.asked += 1;
            trial.agreed += u64::from(!verdict.matters());
            for (one, count) in &mut trial.verdicts {
                *count += u64::from(*one == verdict);
            }
            trial.most_fuel = trial.most_fuel.max(tried.fuel);
            trial.most_micros = trial.most_micros.max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            if verdict.matters() {
                let group = &question.context().group;
                if trial.recent.len() == RECENT {
                    trial.recent.remove(0);
                }
                trial.recent.push(Differing {
                    at_ms,
                    group: format!("{}/{}", group.namespace, group.name),
                    verdict,
                    in_force: Side::of(outcome, question).in_words(LINES),
                    on_trial: Side::of(&now, question).in_words(LINES),
                });
            }
            *failures_in_a_row = if failed.is_some() { *failures_in_a_row + 1 } else { 0 };
            if let Some(error) = failed
                && *failures_in_a_row >= PATIENCE
            {
                tracing::warn!(plugin = candidate.plugin(), %error, "a policy on trial is set aside: it fails again and again");
                trial.set_aside = Some(format!(
                    "it failed {PATIENCE} times in a row, at last: {error}; a change of it or of its configuration is a new trial"
                ));
            }
        });
    }

    /// All trials: those that go on first, those that are over after them.
    pub fn report(&self, policies: &PolicyBook) -> Vec<Trial> {
        let serving = policies.in_force();
        let mut ended: Vec<Trial> = self.trials().iter().rev().map(|running| running.trial.clone()).collect();
        let mut report = Vec::new();
        for (kind, candidate) in serving.candidates.iter() {
            let in_force = serving.set.get(kind);
            let blank = Trial { plugin: candidate.plugin.clone(), ..Trial::blank(kind, in_force) };
            report.push(match &candidate.checked {
                Err(unfit) => Trial { unfit: Some(unfit.clone()), ..blank },
                Ok(policy) => {
                    let (tested, beside) = (Tested::of(policy), Tested::of(in_force));
                    match ended.iter().position(|trial| trial.is(&tested, &beside)) {
                        Some(at) => ended.remove(at),
                        None => Trial { candidate: Some(tested), ..blank },
                    }
                }
            });
        }
        report.extend(ended.into_iter().map(|trial| Trial { over: true, ..trial }));
        report
    }
}

/// Puts the questions to the policies on trial.
pub struct Worker {
    shadow: Shadow,
    waiting: mpsc::Receiver<Put>,
    offload: Offload,
    recorder: Recorder,
    clock: Clock,
}

impl Worker {
    /// Works until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let put = tokio::select! {
                () = stop.cancelled() => return,
                put = self.waiting.recv() => put,
            };
            let Some(put) = put else { return };
            let took = self.ask(put).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(took) => {}
            }
        }
    }

    async fn ask(&self, put: Put) -> Duration {
        let (policy, question) = (put.candidate.clone(), put.question.clone());
        // It may have been set aside, by an earlier question, while this one waited.
        if self.shadow.is_set_aside(&policy, &put.in_force) {
            self.shadow.drop_one(&policy, &put.in_force);
            return Duration::ZERO;
        }
        let at_ms = u64::try_from(self.clock.since_epoch().as_millis()).unwrap_or(u64::MAX);
        let begin = Instant::now();
        let asked = AssertUnwindSafe(self.offload.run(move || policy.answer(&question))).catch_unwind().await;
        let took = begin.elapsed();
        match asked {
            Err(_) => tracing::error!("asking a policy on trial panicked; this is a bug of the operator"),
            Ok(tried) => {
                self.shadow.note(&put, at_ms, took, &tried);
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                let made = Made { at_ms, role: Role::Shadow, micros };
                self.recorder.record(Entry { policy: put.candidate, question: put.question, tried, made });
            }
        }
        took
    }
}

/// The page as a router.
pub fn router(shadow: Shadow, policies: PolicyBook) -> Router {
    Router::new()
        .route(
            "/shadow",
            get(|State((shadow, policies)): State<(Shadow, PolicyBook)>| async move { Json(shadow.report(&policies)) }),
        )
        .with_state((shadow, policies))
}

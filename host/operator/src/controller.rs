//! Has passes made: feeds the engine from the Kubernetes watch, from wake-ups
//! and from whatever concerns every group, one pass at a time per group.
//!
//! Here a pass is bounded in time, a panic is caught, and a failed pass is
//! repeated after a backoff. What a pass does is the engine's business.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt, TryStreamExt, future, stream};
use kube::api::{Api, ListParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Config, Error as ControllerError};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{Controller, Predicate, PredicateConfig, WatchStreamExt, predicates, watcher};
use kube::{Client, Resource};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use vmgroup_api::{VmGroup, VmGroupStatus};

use crate::backlog::Backlog;
use crate::cluster;
use crate::connection::Connection;
use crate::connections;
use crate::engine::{Engine, Outcome, PassError};
use crate::http::Health;
use crate::link::chain;
use crate::memory::{Patience, backoff};
use crate::metrics::PassResult;
use crate::roll_call::RollCall;
use crate::status::bounded;
use crate::wake::{GroupRef, Wake};

/// The longest a pass may take before it is cut off and begun afresh.
const PASS_DEADLINE: Duration = Duration::from_secs(120);

/// How long after the start no pass is made while the policies of namespaces are read:
/// then their groups alone wait.
const NAMESPACES_PATIENCE: Duration = Duration::from_secs(30);

/// How soon a pass that could not be finished is repeated.
const ERROR_PATIENCE: Patience = Patience::seconds(1, 300);

/// Groups in one answer of the API server. All at once would leave the process
/// large for good.
const PAGE: u32 = 25;

/// A group, or what is wrong with it.
pub type Guarded = DeserializeGuard<VmGroup>;

/// All groups as the watch has them, and who writes them there.
pub type Groups = (reflector::Store<Guarded>, reflector::store::Writer<Guarded>);

/// Why a pass gave nothing.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Pass(#[from] PassError),
    #[error("a pass took longer than {} s and was cut off", PASS_DEADLINE.as_secs())]
    Deadline,
    #[error("a pass panicked; this is a bug of the operator: {0}")]
    Panic(String),
    #[error(
        "the object cannot be decoded and is left alone: {0}; correct it with kubectl edit, or update the operator"
    )]
    Undecodable(String),
}

struct Context {
    engine: Engine,
    groups: reflector::Store<Guarded>,
    stop: CancellationToken,
    backlog: Backlog,
    health: Health,
    /// Numbers the passes of this process, for logs and traces.
    passes: AtomicU64,
    /// Passes are made: we lead, and know which folder names are taken.
    open: AtomicBool,
    failures: Mutex<HashMap<ObjectRef<Guarded>, u32>>,
}

/// Makes passes until told to stop, and then lets those under way end.
pub async fn run(
    engine: Engine,
    (reader, writer): Groups,
    wake: Wake,
    backlog: Backlog,
    health: Health,
    stop: CancellationToken,
) {
    let client = engine.kube.clone();
    if !wait_for_crd(&client, &health, &stop).await {
        return;
    }
    if !cluster::identify(&client, &engine.cluster, &health, &stop).await {
        return;
    }
    let context = Arc::new(Context {
        engine: engine.clone(),
        groups: reader.clone(),
        stop: stop.clone(),
        backlog: backlog.clone(),
        health: health.clone(),
        passes: AtomicU64::new(0),
        open: AtomicBool::new(false),
        failures: Mutex::default(),
    });
    let opened = watch::Sender::new(0u64);
    // A new list may put right what passes were made of: a watch that told too
    // little, or a list from an API server that lagged behind. It is no news to the
    // filter below if what it says now was said once before.
    let listed = watch::Sender::new(0u64);
    let everyone = stream::select_all([
        changes(engine.policies.changes()).boxed(),
        changes(engine.connections.changes()).boxed(),
        changes(opened.subscribe()).boxed(),
        changes(listed.subscribe()).boxed(),
    ]);

    let (seen, all, gone) = (backlog.clone(), backlog.clone(), backlog.clone());
    let (watched, mut roll, here) = (engine.clone(), RollCall::default(), reader.clone());
    let objects = watcher(Api::<Guarded>::all(client.clone()), watcher::Config::default().page_size(PAGE))
        .default_backoff()
        .modify(prune)
        .reflect(writer)
        .inspect_ok(move |event| {
            let known = || uids(&here).chain(watched.ledger.groups()).collect::<HashSet<_>>();
            roll.hear(event, known).iter().for_each(|uid| watched.forget(uid));
            if matches!(event, watcher::Event::InitDone) {
                listed.send_modify(|count| *count += 1);
            }
        })
        .applied_objects()
        .predicate_filter(
            predicates::generation
                .combine(predicates::finalizers)
                .combine(predicates::labels)
                .combine(predicates::annotations),
            PredicateConfig::default(),
        )
        .inspect_ok(move |object| seen.add(group_of(&ObjectRef::from_obj(object))));
    let known = reader.clone();
    let everyone = everyone.inspect(move |()| {
        for object in known.state() {
            all.add(group_of(&ObjectRef::from_obj(&*object)));
        }
    });
    let groups = reader.clone();
    let (first_list, stopping) = (reader.clone(), stop.clone());
    let never_begun = async move {
        tokio::select! {
            biased;
            _ = first_list.wait_until_ready() => {}
            () = stopping.cancelled() => return,
        }
        future::pending::<()>().await;
    };
    let asked = asked_for(&engine, &reader, &wake).inspect(move |group| backlog.add(group_of(group)));
    let controller = Controller::for_stream(objects, reader)
        // Not bounded here, but for each vCenter: see `reconcile`.
        .with_config(Config::default())
        .reconcile_on(asked)
        .reconcile_all_on(everyone)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(reconcile, on_error, context.clone());

    let opening = open_and_close(&context, &groups, &opened, &stop);
    let passes = controller.for_each(|result| {
        if let Err(error) = result {
            if let ControllerError::ObjectNotFound(object) = &error {
                gone.forget(&GroupRef {
                    namespace: object.namespace.clone().unwrap_or_default(),
                    name: object.name.clone(),
                });
            }
            tracing::debug!(error = %chain(&error), "controller");
        }
        future::ready(())
    });
    tokio::select! {
        // Ends by the stop that it was given, after the last pass.
        () = passes => {}
        () = opening => {}
        // kube's controller would wait for its first list, which does not come any more.
        () = never_begun => {}
    }
}

/// Groups that somebody wants looked at: for themselves, for what is new in their
/// namespace, or for what is new with their vCenter.
fn asked_for(
    engine: &Engine,
    known: &reflector::Store<Guarded>,
    wake: &Wake,
) -> impl Stream<Item = ObjectRef<Guarded>> + Send + use<> {
    let woken = wake.stream().map(|group| ObjectRef::new(&group.name).within(&group.namespace));
    let all = known.clone();
    let of_namespaces = engine
        .policies
        .changed_namespaces()
        .stream()
        .flat_map(move |namespace| those(&all, |object| object.meta().namespace.as_ref() == Some(&namespace)));
    let (all, connections) = (known.clone(), engine.connections.clone());
    let of_connections = engine.connections.stirred().stream().flat_map(move |name| {
        those(&all, |object| object.0.as_ref().is_ok_and(|group| connections.is_news_for(group, &name)))
    });
    stream::select_all([woken.boxed(), of_namespaces.boxed(), of_connections.boxed()])
}

fn those(
    known: &reflector::Store<Guarded>,
    wanted: impl Fn(&Guarded) -> bool,
) -> stream::Iter<std::vec::IntoIter<ObjectRef<Guarded>>> {
    let found = known.state().into_iter().filter(|object| wanted(object));
    stream::iter(found.map(|object| ObjectRef::from_obj(&*object)).collect::<Vec<_>>())
}

/// The uids of the groups that there are.
fn uids(known: &reflector::Store<Guarded>) -> impl Iterator<Item = String> {
    known.state().into_iter().filter_map(|object| object.meta().uid.clone())
}

/// Drops what is the largest part of an object at rest and no pass looks at: of the
/// record, which a pass reads afresh and then has in its memory, only the folder is
/// kept, as the names of all folders are claimed before the first pass, and which
/// vCenter and target it is in.
fn prune(group: &mut Guarded) {
    group.meta_mut().managed_fields = None;
    if let Ok(group) = &mut group.0 {
        let status = group.status.take().filter(|status| status.folder.is_some());
        group.status = status.map(|VmGroupStatus { folder, connection, target, .. }| VmGroupStatus {
            folder,
            connection,
            target,
            ..VmGroupStatus::default()
        });
    }
}

/// Ticks whenever a value is seen to have changed.
fn changes<T: Send + Sync + 'static>(receiver: watch::Receiver<T>) -> impl Stream<Item = ()> + Send {
    stream::unfold(receiver, |mut receiver| async move { receiver.changed().await.ok().map(|()| ((), receiver)) })
}

/// L11: the operator may start before its CRD is there.
async fn wait_for_crd(client: &Client, health: &Health, stop: &CancellationToken) -> bool {
    let api: Api<VmGroup> = Api::all(client.clone());
    let mut told = false;
    loop {
        let result = bounded(api.list_metadata(&ListParams::default().limit(1))).await;
        let Err(error) = result else {
            health.set_ready("crd", Ok(()));
            return true;
        };
        let missing = matches!(&error, crate::status::StatusError::Api(source) if matches!(&**source, kube::Error::Api(status) if status.code == 404));
        let message = if missing {
            "the CRD vmgroups.vm.codeconnect.vmworld.com is not installed: run `vmgroup crd | kubectl apply --server-side -f -`".to_owned()
        } else {
            chain(&error)
        };
        if !told {
            tracing::error!(error = %message, "waiting for the VmGroup API");
            told = true;
        }
        health.set_ready("crd", Err(message));
        health.beat();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(3)) => {}
            () = stop.cancelled() => return false,
        }
    }
}

/// Lets passes be made while we lead. What another leader has done meanwhile is
/// read afresh: nothing remembered from before counts.
async fn open_and_close(
    context: &Context,
    groups: &reflector::Store<Guarded>,
    opened: &watch::Sender<u64>,
    stop: &CancellationToken,
) {
    let mut leading = context.engine.fence.changed();
    let mut known = context.engine.connections.settled();
    tokio::select! {
        known = known.wait_for(|known| *known) => if known.is_err() { return },
        () = stop.cancelled() => return,
    }
    context.health.set_ready(connections::PART, Ok(()));
    let mut settled = context.engine.policies.settled();
    // The built-in defaults are not to decide only because nobody has looked yet.
    if settled.wait_for(|settled| *settled).await.is_err() {
        return;
    }
    // Nor what serves elsewhere where a namespace may have something of its own.
    let mut read = context.engine.policies.namespaces_read();
    tokio::select! {
        _ = tokio::time::timeout(NAMESPACES_PATIENCE, read.wait_for(|read| *read)) => {}
        () = stop.cancelled() => return,
    }
    // A standby is as ready as a leader.
    context.health.set_ready("policies", Ok(()));
    loop {
        if leading.wait_for(|leading| *leading).await.is_err() {
            return;
        }
        // The standby's watch has seen all groups already; a pass reads its own afresh.
        tokio::select! {
            known = groups.wait_until_ready() => if known.is_err() { return },
            () = stop.cancelled() => return,
        }
        context.engine.begin_term();
        context.engine.claim_known(groups.state().iter().filter_map(|group| group.0.as_ref().ok()));
        context.open.store(true, Ordering::SeqCst);
        opened.send_modify(|count| *count += 1);
        if leading.wait_for(|leading| !*leading).await.is_err() {
            return future::pending().await;
        }
        context.open.store(false, Ordering::SeqCst);
        context.engine.guest_data.clear();
        // Whoever leads now tells how they are.
        context.engine.population.clear();
    }
}

/// Whose pass is to be made now.
struct Turn {
    object: Arc<Guarded>,
    /// Where it is made, and that it may be; none: it cannot be decoded, and gets none.
    connection: Option<Connection>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// Waits for as long as so many passes are under way at the group's vCenter as may
    /// be: those of one that is slow take nobody else's turn. None: it is too late.
    async fn wait_for(object: Arc<Guarded>, context: &Context) -> Option<Self> {
        let connection = object.0.as_ref().ok().map(|group| context.engine.connections.of(group));
        let Some(turns) = connection.as_ref().map(|connection| connection.turns.clone()) else {
            return Some(Self { object, connection, permit: None });
        };
        if let Ok(permit) = turns.clone().try_acquire_owned() {
            return Some(Self { object, connection, permit: Some(permit) });
        }
        let permit = tokio::select! {
            permit = turns.acquire_owned() => permit.ok()?,
            () = context.stop.cancelled() => return None,
        };
        // What it came with may be old by now.
        let object = context.groups.get(&ObjectRef::from_obj(&*object)).unwrap_or(object);
        Some(Self { object, connection, permit: Some(permit) })
    }
}

async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Arc<Failure>> {
    context.health.beat();
    let reference = ObjectRef::from_obj(&*object);
    let name = group_of(&reference);
    let Some(Turn { object, connection, permit: _permit }) = Turn::wait_for(object, &context).await else {
        return Ok(Action::await_change());
    };
    context.backlog.begin(&name);
    if !context.open.load(Ordering::SeqCst) {
        return Ok(Action::await_change());
    }
    // A pass before the inventory is read would write into the status that vCenter is
    // not there yet, and the next one that it is.
    if let Some(left) = connection.and_then(|connection| connection.link.first_attempt()) {
        return Ok(Action::requeue(left));
    }
    let metrics = &context.engine.metrics;
    let _worker = metrics.worker();
    let begin = Instant::now();
    let span = tracing::info_span!(
        "pass",
        controller = "vmgroup",
        namespace = name.namespace,
        name = name.name,
        reconcile_id = context.passes.fetch_add(1, Ordering::Relaxed),
        generation = object.meta().generation,
        result = tracing::field::Empty,
        otel.status_code = tracing::field::Empty,
    );
    let result = bounded_pass(&object, &context.engine).instrument(span.clone()).await;
    let uid = &object.meta().uid;
    // If it has gone meanwhile it was forgotten, and the pass may have brought it back.
    if let Some(uid) = uid.as_ref().filter(|_| context.groups.get(&reference).is_none_or(|now| now.meta().uid != *uid))
    {
        context.engine.forget(uid);
    }
    let label = match &result {
        Ok(Outcome::AtRest) => PassResult::Success,
        Ok(Outcome::Again(_)) => PassResult::RequeueAfter,
        Err(Failure::Panic(_)) => PassResult::Panic,
        Err(Failure::Pass(_) | Failure::Deadline | Failure::Undecodable(_)) => PassResult::Error,
    };
    metrics.reconciled(label, begin.elapsed());
    span.record("result", label.as_str());
    if result.is_err() {
        span.record("otel.status_code", "ERROR");
    }
    span.in_scope(|| tracing::debug!(outcome = ?result.as_ref().ok(), took = ?begin.elapsed(), "pass ended"));
    match result {
        Ok(outcome) => {
            context.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&reference);
            Ok(match outcome {
                Outcome::AtRest => Action::await_change(),
                Outcome::Again(after) => {
                    context.backlog.add_after(name, after);
                    Action::requeue(after)
                }
            })
        }
        Err(failure) => Err(Arc::new(failure)),
    }
}

/// A pass that ends, however it goes.
async fn bounded_pass(object: &Guarded, engine: &Engine) -> Result<Outcome, Failure> {
    let group = object.0.as_ref().map_err(|invalid| Failure::Undecodable(invalid.error.clone()))?;
    // Large, with copies of the status in it: not on every stack that it passes.
    let pass = AssertUnwindSafe(Box::pin(engine.pass(group))).catch_unwind();
    match tokio::time::timeout(PASS_DEADLINE, pass).await {
        Ok(Ok(result)) => result.map_err(Failure::from),
        Ok(Err(panic)) => Err(Failure::Panic(panic_text(&*panic))),
        Err(_) => Err(Failure::Deadline),
    }
}

fn group_of(object: &ObjectRef<Guarded>) -> GroupRef {
    GroupRef { namespace: object.namespace.clone().unwrap_or_default(), name: object.name.clone() }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[allow(clippy::needless_pass_by_value, reason = "kube's signature")]
fn on_error(object: Arc<Guarded>, failure: &Arc<Failure>, context: Arc<Context>) -> Action {
    let reference = ObjectRef::from_obj(&*object);
    let name = group_of(&reference);
    let attempts = {
        let mut failures = context.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let attempts = failures.entry(reference).or_default();
        *attempts += 1;
        *attempts
    };
    tracing::error!(
        namespace = name.namespace,
        name = name.name,
        attempts,
        error = %chain(failure.as_ref()),
        "pass failed"
    );
    let pause = backoff(ERROR_PATIENCE, attempts, context.engine.random());
    context.backlog.add_after(name, pause);
    Action::requeue(pause)
}

//! `vmgroup run`: puts the parts together, starts them, and stops them in order.
//!
//! Everything that a test replaces (the Kubernetes client, the transport to
//! vCenter, clock and randomness, where sandboxes run) is in [`Parts`].

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use kube::ResourceExt as _;
use kube::runtime::reflector;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use vmgroup_policy::signature::Keys;
use vmgroup_records::Recorder;
use vmgroup_registry::{Cache, Registry, Settings};
use vmgroup_vsphere::{Agent, HttpTransport, Options, Tls, Transport, Vcenter};

use crate::backlog::Backlog;
use crate::budget::Budget;
use crate::clock::Clock;
use crate::cluster;
use crate::config::{OneVcenter, PolicySupply, RunConfig, VcenterConfig, Vcenters};
use crate::connection::{Connection, PASSES, UNNAMED};
use crate::connections::{self, Connections, Dial, MakeClient, Supplies};
use crate::controller::{self, Guarded};
use crate::decide::Decider;
use crate::decisions;
use crate::engine::Engine;
use crate::events::Events;
use crate::folder::ReservedNames;
use crate::guest::DataBook;
use crate::http::{self, Health};
use crate::lease::{self, Fence};
use crate::link::{Link, Origin};
use crate::logins;
use crate::memory::{Memories, Population};
use crate::metrics::{ConnectionFigures, Figures, LeaseFigures, Metrics, Source};
use crate::offload::Offload;
use crate::ownership::{Cluster, Standing, mark};
use crate::policy_source::{Keeper, PolicyBook, Registries, Supply, follow_tenants, watch_config_map, watch_folder};
use crate::preview;
use crate::quota::Ledger;
use crate::rest::CountCalls;
use crate::shadow::{self, Shadow};
use crate::tasks::TaskBook;
use crate::wake::Wake;

/// The loop is taken for dead when it has not turned for this long.
const STALL: Duration = Duration::from_secs(300);

/// How often the main loop shows that it turns. Costs no call to anybody.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Why the operator could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No way to the Kubernetes API.
    #[error("no way to the Kubernetes API: set KUBECONFIG, or run in a cluster with a service account")]
    Kube(#[source] Box<kube::Error>),
    /// The kubeconfig cannot be used.
    #[error("no way to the Kubernetes API: set KUBECONFIG, or run in a cluster with a service account")]
    KubeConfig(#[source] kube::config::InferConfigError),
    /// The CA file cannot be used, or the like.
    #[error("the connection to vCenter cannot be set up")]
    Vcenter(#[source] vmgroup_wire::SetupError),
    /// The CA file of registries cannot be used, or the like.
    #[error("the connection to registries cannot be set up")]
    Registry(#[source] vmgroup_wire::SetupError),
    /// The cache of policies cannot be used.
    #[error("the folder `{}` cannot be used for policies: choose another --policy-cache-dir", path.display())]
    Cache {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The keys cannot be read.
    #[error("the keys of --policy-keys cannot be read from `{}`", path.display())]
    KeyFile {
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// They are no keys.
    #[error("`{}` of --policy-keys cannot be used: it is to hold public keys in PEM, as `openssl pkey -pubout` writes them", path.display())]
    Keys {
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        source: vmgroup_policy::signature::KeyError,
    },
    /// The sandbox cannot be made on this machine.
    #[error("the WebAssembly sandbox cannot be made")]
    Sandbox(#[source] vmgroup_policy::HostError),
    /// A built-in policy does not pass its own check: a broken build.
    #[error("a built-in policy is broken; this is a bug of the operator")]
    Builtin(#[source] vmgroup_policy::CheckError),
    /// Records of decisions cannot be kept.
    #[error(transparent)]
    Recorder(#[from] vmgroup_records::RecorderError),
    /// The local socket cannot be had.
    #[error("cannot listen on the socket `{}`: choose another --socket, in a folder that exists", path.display())]
    Socket {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The port for metrics and health cannot be had.
    #[error("cannot listen on {addr}: choose another --metrics-addr")]
    Listen {
        /// The address.
        addr: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// What the operator is made of, and what a test replaces.
pub struct Parts {
    /// The Kubernetes API.
    pub kube: kube::Client,
    /// The way to a vCenter.
    pub dial: Dial,
    /// The clock.
    pub clock: Clock,
    /// Where everything is counted, the client's calls included.
    pub metrics: Metrics,
    /// Randomness.
    pub seed: u64,
    /// Where sandboxes run.
    pub offload: Offload,
    /// The policy host.
    pub sandbox: vmgroup_policy::Host,
    /// What policies may need beyond what they are named by.
    pub supply: Supply,
    /// Filled with the pages of the local socket, for who has no socket.
    pub pages: Arc<OnceLock<axum::Router>>,
}

/// The way to the Kubernetes API, its calls counted.
pub async fn kube_client(metrics: &Metrics) -> Result<kube::Client, RunError> {
    // Both TLS users of the process, kube and reqwest, take the same provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = kube::Config::infer().await.map_err(RunError::KubeConfig)?;
    Ok(kube::client::ClientBuilder::try_from(config)
        .map_err(|error| RunError::Kube(Box::new(error)))?
        .with_layer(&CountCalls::new(metrics.clone()))
        .build())
}

/// How vCenter is met, by whomever: what is read of each machine, and as whom.
fn vcenter_options(config: &VcenterConfig) -> Options {
    Options {
        extra_prefix: mark::PREFIX.to_owned(),
        index_key: mark::GROUP_UID.to_owned(),
        reader: config.reader.clone(),
        ..Options::new(config.endpoint.clone(), config.credentials.clone())
    }
}

/// A client of vCenter that keeps of `extraConfig` what the operator marks with.
pub fn vcenter_client(config: &VcenterConfig, transport: Arc<dyn Transport>) -> Vcenter {
    Vcenter::new(vcenter_options(config), transport)
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(config: RunConfig) -> Result<(), RunError> {
    let clock = Clock::system();
    let metrics = Metrics::new(clock);
    let kube = kube_client(&metrics).await?;
    let parts = Parts {
        kube,
        dial: Arc::new(|_, tls| Ok(Arc::new(HttpTransport::new(tls)?))),
        clock,
        metrics,
        seed: seed(),
        offload: Offload::Blocking,
        sandbox: vmgroup_policy::Host::new(vmgroup_policy::Limits::default()).map_err(RunError::Sandbox)?,
        supply: supply(&config.policy_supply, clock)?,
        pages: Arc::default(),
    };
    let stop = CancellationToken::new();
    let signal = stop.clone();
    tokio::spawn(async move {
        terminated().await;
        tracing::info!("stopping: passes under way are finished, then the lease is released");
        signal.cancel();
    });
    start(config, parts, stop).await
}

/// A client for registries, without a cache.
pub fn registry(config: &PolicySupply, cache: Option<Cache>) -> Result<Registry, RunError> {
    let PolicySupply { registry_ca, registry_logins, registry_plain_http, cache: _, keys: _ } = config;
    let tls = registry_ca.clone().map_or(Tls::System, Tls::CaFile);
    let transport = HttpTransport::new(&tls).map_err(RunError::Registry)?;
    let settings = Settings {
        logins: registry_logins.clone(),
        plain_http: *registry_plain_http,
        plain_http_if_local: registry_ca.is_none(),
        max_wasm: vmgroup_policy::Limits::default().wasm_bytes,
    };
    Ok(Registry::new(Arc::new(transport), settings, cache))
}

/// The public keys in a file.
pub fn keys(path: &Path) -> Result<Keys, RunError> {
    let pem = std::fs::read(path).map_err(|source| RunError::KeyFile { path: path.to_owned(), source })?;
    Keys::from_pem(&pem).map_err(|source| RunError::Keys { path: path.to_owned(), source })
}

/// What policies may need: registries, and the keys that they are signed by.
fn supply(config: &PolicySupply, clock: Clock) -> Result<Supply, RunError> {
    let cache = config.cache.as_ref().map(|(path, limit)| {
        Cache::open(path, *limit).map_err(|source| RunError::Cache { path: path.clone(), source })
    });
    let registry = registry(config, cache.transpose()?)?;
    let keys = config.keys.as_deref().map(keys).transpose()?.map(Arc::new);
    Ok(Supply { registries: Some(Registries { registry, clock }), keys })
}

/// Two operators that start at the same moment must not make the same UUIDs.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's hasher is keyed by the system's randomness.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

/// Runs until told to stop.
pub async fn start(config: RunConfig, parts: Parts, stop: CancellationToken) -> Result<(), RunError> {
    let Parts { kube, dial, clock, metrics, seed, offload, sandbox, supply, pages } = parts;
    let health = Health::new(&["crd", cluster::PART, connections::PART, "policies"], STALL);
    let fence = if config.leader_election.is_some() { Fence::new() } else { Fence::always() };
    let agent = Agent { instance: config.instance.clone(), process: seed };
    let client = operators_client(agent, metrics.clone(), fence.clone());
    let wake = Wake::default();
    let policies = PolicyBook::with(sandbox, supply, offload, metrics.clone()).map_err(RunError::Builtin)?;
    let events = Events::new(kube.clone(), clock, config.instance.clone(), seed, fence.clone());
    let recorder = config.decisions.clone().map_or(Ok(Recorder::off()), Recorder::start)?;
    let (shadow, trials) = Shadow::new(offload, metrics.clone(), recorder.clone(), clock);
    // Lease and sessions outlive the passes: what is under way still needs them.
    let after = CancellationToken::new();
    let supplies = Supplies {
        kube: kube.clone(),
        namespace: config.namespace.clone(),
        dial,
        client,
        wake: wake.clone(),
        events: events.clone(),
        fence: fence.clone(),
    };
    let (connections, keep_connected) = connect(&config.vcenters, supplies, stop.clone(), after.clone())?;
    let engine = Engine {
        kube: kube.clone(),
        cluster: Cluster::default(),
        connections,
        policies: policies.clone(),
        ledger: Ledger::new(wake.clone()),
        guest_data: DataBook::new(wake.clone()),
        reserved_names: ReservedNames::default(),
        memories: Memories::default(),
        population: Population::default(),
        fence: fence.clone(),
        decider: Decider {
            offload,
            metrics: metrics.clone(),
            recorder: recorder.clone(),
            clock,
            shadow: shadow.clone(),
            book: policies.clone(),
            budget: Budget::new(wake.clone()),
        },
        events: events.clone(),
        metrics: metrics.clone(),
        clock,
        time_zone: config.time_zone.clone(),
        random: Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed))),
    };
    let backlog = Backlog::new(metrics.clone());
    let (groups, writer) = reflector::store();
    let gauges = Arc::new(Gauges {
        engine: engine.clone(),
        backlog: backlog.clone(),
        groups: groups.clone(),
        lease: config.leader_election.clone(),
        started: tokio::time::Instant::now(),
    });
    metrics.read_from(Arc::<Gauges>::downgrade(&gauges));

    let mut background = tokio::task::JoinSet::new();
    if let Some(addr) = config.metrics_addr {
        background.spawn(metrics_pages(addr, health.clone(), metrics.clone(), stop.clone()).await?);
    }
    let router = decisions::router(recorder.clone(), offload)
        .merge(preview::router(engine.clone()))
        .merge(shadow::router(shadow, policies.clone()));
    // Nobody else fills it.
    let _ = pages.set(router.clone());
    if let Some(path) = config.socket.clone() {
        background.spawn(local_pages(path, router, stop.clone())?);
    }
    background.spawn(trials.run(stop.clone()));
    background.spawn(follow_policies(&config, kube.clone(), policies, events, fence.clone(), stop.clone()));
    background.spawn(keep_connected);
    background.spawn(engine.guest_data.clone().run(kube.clone(), stop.clone()));
    if let Some(name) = &config.leader_election {
        // A host name is not unique: two processes on one host must not take
        // each other's lease for their own.
        let identity = format!("{}_{seed:016x}", config.instance);
        let options = lease::Options::new(&config.namespace, name, identity);
        background.spawn(lease::run(kube.clone(), options, clock, fence.clone(), after.clone()));
    }
    background.spawn(heartbeat(health.clone(), stop.clone()));

    controller::run(engine, (groups, writer), wake, backlog, health, stop.clone()).await;
    stop.cancel();
    after.cancel();
    let ending = async { while background.join_next().await.is_some() {} };
    if tokio::time::timeout(Duration::from_secs(10), ending).await.is_err() {
        tracing::warn!("some parts did not stop in time");
    }
    if recorder.is_on() {
        offload.run(move || recorder.flush(Duration::from_secs(5))).await;
    }
    Ok(())
}

/// Recalls what was in force, then serves by the policy ConfigMap or the folder, and
/// by those of namespaces that may, and keeps what is in force.
fn follow_policies(
    config: &RunConfig,
    kube: kube::Client,
    book: PolicyBook,
    events: Events,
    fence: Fence,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let RunConfig { namespace, policy_config_map: name, policy_dir, .. } = config;
    let mut keeper = Keeper::new(kube.clone(), namespace, name, book.clone(), fence.clone());
    let tenants = follow_tenants(kube.clone(), namespace.clone(), book.clone(), events.clone(), fence, stop.clone());
    let watching = match policy_dir.clone() {
        Some(folder) => watch_folder(folder, book, stop.clone()).left_future(),
        None => watch_config_map(kube, namespace.clone(), name.clone(), book, events, stop.clone()).right_future(),
    };
    async move {
        keeper.recall(&stop).await;
        tokio::join!(watching, tenants, keeper.run(stop));
    }
}

/// The connections, and what keeps them up: until `after`, when all passes are over.
fn connect(
    vcenters: &Vcenters,
    supplies: Supplies,
    stop: CancellationToken,
    after: CancellationToken,
) -> Result<(Connections, impl Future<Output = ()> + Send + use<>), RunError> {
    let stirred = Wake::default();
    match vcenters {
        Vcenters::File { config_map } => {
            let connections = Connections::none_yet(stirred);
            let keeper = connections::Keeper::new(supplies, config_map, connections.clone(), after);
            // Large: what waits for it would be, too.
            Ok((connections, Box::pin(keeper.run(stop)).left_future()))
        }
        Vcenters::One(one) => {
            let OneVcenter { vcenter, site, max_tasks } = &**one;
            let name: Arc<str> = UNNAMED.into();
            let transport = (supplies.dial)(&vcenter.endpoint, &vcenter.tls).map_err(RunError::Vcenter)?;
            let client = (supplies.client)(&name, vcenter, transport);
            let login_dir = vcenter.login_dir.clone();
            let origin = if login_dir.is_some() { Origin::Folder } else { Origin::Environment };
            let link = Link::new(name, client, site.clone(), origin, stirred.clone());
            let connection = Connection::new(link, TaskBook::new(max_tasks.get(), supplies.wake.clone()));
            let connections = Connections::only(connection.clone(), stirred);
            let follow_logins = match login_dir {
                Some(folder) => logins::follow(folder, connection.link.clone(), stop).left_future(),
                None => std::future::ready(()).right_future(),
            };
            let keep = async move {
                tokio::join!(follow_logins, connection.keep(supplies.wake, supplies.fence, after));
            };
            Ok((connections, keep.right_future()))
        }
    }
}

/// Makes the operator's own clients: their calls are counted, and they write only as
/// long as the lease holds.
fn operators_client(agent: Agent, metrics: Metrics, fence: Fence) -> MakeClient {
    Arc::new(move |name, config, transport| {
        let vcenter = Vcenter::new(Options { agent: agent.clone(), ..vcenter_options(config) }, transport);
        let (counted, gate, name) = (metrics.clone(), fence.clone(), name.clone());
        vcenter.set_call_hook(Arc::new(move |method, outcome, took| {
            counted.vcenter_call(&name, method, outcome.as_str(), took);
        }));
        vcenter.set_write_gate(Arc::new(move || gate.holds()));
        vcenter
    })
}

/// Takes the port; what is given back serves metrics and health there.
async fn metrics_pages(
    addr: std::net::SocketAddr,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send, RunError> {
    let listener = TcpListener::bind(addr).await.map_err(|source| RunError::Listen { addr, source })?;
    Ok(async move {
        if let Err(error) = http::serve(listener, health, metrics, stop).await {
            tracing::error!(%error, "the metrics server ended");
        }
    })
}

/// Takes the socket; what is given back serves the pages there.
fn local_pages(
    path: std::path::PathBuf,
    router: axum::Router,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send, RunError> {
    let listener = decisions::listen(&path).map_err(|source| RunError::Socket { path: path.clone(), source })?;
    Ok(decisions::serve(listener, path, router, stop))
}

async fn heartbeat(health: Health, stop: CancellationToken) {
    let mut tick = tokio::time::interval(HEARTBEAT);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = tick.tick() => health.beat(),
            () = stop.cancelled() => return,
        }
    }
}

/// The operator as it is at this moment, in figures.
struct Gauges {
    engine: Engine,
    backlog: Backlog,
    groups: reflector::Store<Guarded>,
    lease: Option<String>,
    started: tokio::time::Instant,
}

impl Gauges {
    /// The marked machines by how they stand to the groups; nothing as long as one of
    /// the two is not known: everybody would be an orphan.
    fn machines(&self, connection: &Connection) -> Vec<(&'static str, usize)> {
        let Ok(connected) = connection.link.up() else { return Vec::new() };
        if self.groups.wait_until_ready().now_or_never().is_none() || self.engine.cluster.id().is_none() {
            return Vec::new();
        }
        let groups: HashSet<String> = self.groups.state().iter().filter_map(|group| group.uid()).collect();
        let machines = connected.inventory().vms();
        let census = Standing::census(&machines, self.engine.cluster.id(), &groups);
        census.map(|(standing, count)| (standing.as_str(), count)).to_vec()
    }

    fn of(&self, connection: &Connection) -> ConnectionFigures {
        let Connection { link, tasks, .. } = connection;
        ConnectionFigures {
            name: link.name().to_string(),
            connected: link.up().is_ok(),
            inventory_age: link.age().unwrap_or_else(|| self.started.elapsed()),
            tasks: tasks.running().map(|(kind, count)| (kind.as_str(), count)).to_vec(),
            tasks_waiting: tasks.waiting(),
            tasks_limit: tasks.limit(),
            machines: self.machines(connection),
            sessions: link.vcenter().sessions(),
        }
    }
}

impl Source for Gauges {
    fn figures(&self) -> Figures {
        let Engine { connections, population, fence, policies, clock, decider, .. } = &self.engine;
        let (not_ready, first) = population.not_ready();
        let (gained, lost) = fence.terms();
        Figures {
            connections: connections.all().iter().map(|connection| self.of(connection)).collect(),
            members: population.members().map(|(state, count)| (state.as_str(), count)).to_vec(),
            phases: population.phases().map(|(phase, count)| (phase.as_str(), count)).to_vec(),
            not_ready,
            longest_not_ready: first
                .and_then(|since| Duration::try_from(clock.now().duration_since(since)).ok())
                .unwrap_or_default(),
            policy_refused: policies.refusal().is_some(),
            connections_refused: connections.refused(),
            workers: connections.all().len() * usize::from(PASSES),
            backlog: self.backlog.depth(),
            records: decider.recorder.standing(),
            lease: self.lease.clone().map(|name| LeaseFigures { name, leading: fence.holds(), gained, lost }),
        }
    }
}

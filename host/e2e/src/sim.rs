//! The simulated world: both simulators and the operator in this process, on
//! tokio's paused time. An hour takes milliseconds, and the same seed gives the
//! same run.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::future::BoxFuture;
use kube::CustomResourceExt;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::{Layer as _, ServiceExt};
use vmgroup_api::VmGroup;
use vmgroup_operator::by_hand::{Hand, HandError};
use vmgroup_operator::clock::Clock;
use vmgroup_operator::config::{OneVcenter, PolicySupply, RunConfig, VcenterConfig, Vcenters};
use vmgroup_operator::connections::Dial;
use vmgroup_operator::logins;
use vmgroup_operator::metrics::Metrics;
use vmgroup_operator::offload::Offload;
use vmgroup_operator::policy_source::Supply;
use vmgroup_operator::rest::CountCalls;
use vmgroup_operator::run::{self, Parts};
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::kube::KubeSim;
use vmgroup_sim::vcenter::{TaskDurations, VcenterConfig as SimConfig, VcenterService, VcenterSim, rest_operation};
use vmgroup_vsphere::{
    Credentials, MAX_SESSIONS, SiteSelection, Tls, Transport, TransportError, TransportKind, Vcenter,
};

use crate::sabotage::{Call, Line, Sabotage, Side, Witness};
use crate::world::{CONNECTIONS, Deed, OPERATOR_NAMESPACE, Options, ROOT, TEMPLATE, User, VmView, World, WorldError};

/// The time at which every simulated story begins: 2026-01-01T00:00:00Z.
pub const EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// Who may do everything in the simulated vCenter.
pub const USER: &str = "operator@vsphere.local";
/// His password, until somebody changes it.
pub const PASSWORD: &str = "a password that must never be seen";

/// Compiled policies are kept in here for all stories of the process.
static SANDBOX: LazyLock<vmgroup_policy::Host> =
    LazyLock::new(|| vmgroup_policy::Host::new(vmgroup_policy::Limits::default()).expect("a sandbox"));

/// A transport that calls the simulated vCenter in this process.
pub struct InProcess {
    vcenter: VcenterSim,
    service: VcenterService,
    sabotage: Sabotage,
    witness: Option<Arc<dyn Witness>>,
    line: Line,
}

/// A call of an operator, as the witness hears of it.
#[derive(Clone)]
struct Seen {
    witness: Arc<dyn Witness>,
    line: Line,
    envelope: Bytes,
}

impl Seen {
    fn envelope(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.envelope)
    }
}

/// Tells the witness when its operator is done with a call, even by dying.
struct Waited(Option<Seen>);

impl Drop for Waited {
    fn drop(&mut self) {
        if let Some(seen) = &self.0 {
            seen.witness.ended(seen.line, &seen.envelope());
        }
    }
}

/// A call on its way through vCenter: if it is dropped there, it is late.
struct OnItsWay(Option<Seen>);

impl OnItsWay {
    fn served(mut self, well: bool) {
        if let Some(seen) = self.0.take() {
            seen.witness.served(seen.line, &seen.envelope(), well);
        }
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        if let Some(seen) = &self.0 {
            seen.witness.late(seen.line, &seen.envelope());
        }
    }
}

/// What a SOAP request asks for, in a few words: the method, its object, and the
/// name or UUID that it gives.
fn soap_call(body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body);
    let after = |tag: &str| body.split_once(tag).map_or("", |(_, rest)| rest);
    let word = |text: &str| text.split(['<', '>', ' ', '"']).next().unwrap_or_default().to_owned();
    let method = word(after("Body><"));
    let object = word(after("<_this").split_once('>').map_or("", |(_, rest)| rest));
    // Who logs in is nobody's business here.
    let detail = match method.as_str() {
        "CloneVM_Task" | "FindChild" | "CreateFolder" => word(after("<name>")),
        "FindAllByUuid" => word(after("<uuid>")),
        _ => String::new(),
    };
    [method, object, detail].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The same of any request.
fn name_of(request: &http::Request<Bytes>) -> String {
    let uri = request.uri();
    let operation = rest_operation(request.method(), uri.path(), uri.query());
    operation.map_or_else(|| soap_call(request.body()), str::to_owned)
}

/// What a request says: for SOAP its body; else its name stands before that.
fn said(request: &http::Request<Bytes>) -> Bytes {
    let uri = request.uri();
    match rest_operation(request.method(), uri.path(), uri.query()) {
        Some(name) => [name.as_bytes(), b" ", request.body()].concat().into(),
        None => request.body().clone(),
    }
}

impl Transport for InProcess {
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Bytes>, TransportError>> {
        let (vcenter, service, sabotage) = (self.vcenter.clone(), self.service.clone(), self.sabotage.clone());
        let Line { operator, vcenter: number } = self.line;
        let call = Call { operator, side: Side::Vcenter(number), name: name_of(&request) };
        let seen = self.witness.clone().map(|witness| Seen { witness, line: self.line, envelope: said(&request) });
        Box::pin(async move {
            let left_at = Instant::now();
            let _waited = Waited(seen.clone());
            if let Some(seen) = &seen {
                seen.witness.leaves(seen.line, &seen.envelope());
            }
            let service = tower::service_fn(move |request: http::Request<Body>| {
                let (service, seen) = (service.clone(), seen.clone());
                async move {
                    if let Some(seen) = &seen
                        && left_at != Instant::now()
                    {
                        seen.witness.late(seen.line, &seen.envelope());
                    }
                    let on_its_way = OnItsWay(seen);
                    let response = service.oneshot(request).await;
                    on_its_way.served(response.as_ref().is_ok_and(|response| response.status().is_success()));
                    response
                }
            });
            let broken =
                |error: Box<dyn std::error::Error + Send + Sync>| TransportError::new(TransportKind::Broken, error);
            let response = sabotage
                .call(call, vcenter.faults(), service, request.map(Body::from))
                .await
                .map_err(|error| broken(error.into()))?;
            let (parts, body) = response.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.map_err(|error| broken(error.into()))?;
            Ok(http::Response::from_parts(parts, body))
        })
    }
}

/// Where no vCenter is.
struct Nobody;

impl Transport for Nobody {
    fn call(&self, _: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Bytes>, TransportError>> {
        Box::pin(async { Err(TransportError::new(TransportKind::Connect, "nobody listens")) })
    }
}

/// The host of the vCenter of this number, counted from 0.
pub fn host_of(number: usize) -> String {
    if number == 0 { "vcenter.test".to_owned() } else { format!("vcenter-{number}.test") }
}

/// A world with an operator that knows two vCenters by a connections file, whose Secrets
/// are `vc-muc` and `vc-ber`. `prepare` is done before the operator comes.
pub async fn with_connections(
    options: Options,
    file: &str,
    prepare: impl FnOnce(&SimWorld),
) -> Result<(SimWorld, User), WorldError> {
    let mut world = SimWorld::make(Options { connections: 2, ..options }).await?;
    prepare(&world);
    let user = User::of(&world);
    for secret in ["vc-muc", "vc-ber"] {
        user.login(secret, USER, PASSWORD).await;
    }
    user.connections(file).await;
    world.start_operator().await?;
    Ok((world, user))
}

/// The simulated world.
pub struct SimWorld {
    /// The simulated Kubernetes API.
    pub kube: KubeSim,
    /// The simulated vCenter, the first if there are several.
    pub vcenter: VcenterSim,
    /// All of them, each under the host of [`host_of`].
    pub vcenters: Vec<VcenterSim>,
    /// Breaks one of the operator's calls.
    pub sabotage: Sabotage,
    /// Sees the calls of the operators that are launched from now on.
    pub witness: Option<Arc<dyn Witness>>,
    /// What time it is in this world.
    pub clock: vmgroup_sim::clock::Clock,
    /// Where the operators that are launched from now on ask policies.
    pub sandbox: vmgroup_policy::Host,
    options: Options,
    seed: u64,
    operators: Vec<tokio::task::AbortHandle>,
    metrics: Vec<Metrics>,
    /// What each operator serves, as long as it lives: pages know all of it, and would
    /// keep its session.
    pages: Vec<Weak<OnceLock<axum::Router>>>,
}

impl SimWorld {
    /// A world whose randomness starts from `seed`.
    pub fn seeded(options: Options, seed: u64) -> Result<Self, WorldError> {
        let durations = TaskDurations { clone: options.clone_takes, ..TaskDurations::default() };
        Self::with_tasks(options, seed, &durations)
    }

    /// The same with tasks that take so long; `clone_takes` does not count.
    pub fn with_tasks(options: Options, seed: u64, durations: &TaskDurations) -> Result<Self, WorldError> {
        // With RUST_LOG set, a failing story shows its log.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let clock = vmgroup_sim::clock::Clock::starting_at(EPOCH);
        let vcenter = |number: usize| {
            let config = SimConfig {
                user: USER.into(),
                password: PASSWORD.into(),
                seed: seed.wrapping_add(1_000 * number as u64),
                datacenters: options.datacenters,
                clusters: options.clusters,
                datastores: options.datastores,
                templates: vec![TEMPLATE.into()],
                durations: durations.clone(),
                ..SimConfig::default()
            };
            VcenterSim::new(config, clock)
        };
        let vcenters = (0..options.connections.max(1)).map(vcenter).collect();
        Self::on(vcenters, clock, options, seed)
    }

    /// A second cluster, with a Kubernetes API and operators of its own, on the
    /// same vCenter.
    pub fn neighbour(&self) -> Result<Self, WorldError> {
        Self::on(self.vcenters.clone(), self.clock, self.options.clone(), self.seed + 1)
    }

    /// A cluster on vCenters.
    fn on(
        vcenters: Vec<VcenterSim>,
        clock: vmgroup_sim::clock::Clock,
        options: Options,
        seed: u64,
    ) -> Result<Self, WorldError> {
        let kube = KubeSim::new(clock, seed);
        kube.create_namespace(OPERATOR_NAMESPACE).map_err(|error| format!("{error:?}"))?;
        if options.crd {
            kube.apply(serde_json::to_value(VmGroup::crd())?).map_err(|error| format!("{error:?}"))?;
        }
        Ok(Self {
            kube,
            vcenter: vcenters[0].clone(),
            vcenters,
            sabotage: Sabotage::default(),
            witness: None,
            clock,
            sandbox: SANDBOX.clone(),
            options,
            seed,
            operators: Vec::new(),
            metrics: Vec::new(),
            pages: Vec::new(),
        })
    }

    /// The same world in other hands, without the operators.
    #[must_use]
    pub fn onlooker(&self) -> Self {
        Self {
            kube: self.kube.clone(),
            vcenter: self.vcenter.clone(),
            vcenters: self.vcenters.clone(),
            sabotage: self.sabotage.clone(),
            witness: self.witness.clone(),
            clock: self.clock,
            sandbox: self.sandbox.clone(),
            options: self.options.clone(),
            seed: self.seed,
            operators: Vec::new(),
            metrics: Vec::new(),
            pages: Vec::new(),
        }
    }

    /// The operator's client: its calls pass the saboteur.
    fn operators_client(&self, operator: u64, metrics: &Metrics) -> kube::Client {
        let (kube, sabotage) = (self.kube.clone(), self.sabotage.clone());
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (kube, sabotage) = (kube.clone(), sabotage.clone());
            let name = format!("{} {}", request.method(), request.uri().path());
            let call = Call { operator, side: Side::Kubernetes, name };
            async move { sabotage.call(call, kube.faults(), kube.service(), request.map(Body::new)).await }
        });
        kube::Client::new(CountCalls::new(metrics.clone()).layer(service), "default")
    }

    /// Time since 1970 in this world.
    fn now(&self) -> Duration {
        self.clock.since_epoch()
    }

    fn client(&self) -> kube::Client {
        let service =
            self.kube.service().map_request(|request: http::Request<kube::client::Body>| request.map(Body::new));
        kube::Client::new(service, "default")
    }

    fn vcenter_config(&self) -> VcenterConfig {
        let credentials = match &self.options.login_dir {
            Some(folder) => logins::read(folder).expect("a login").writer,
            None => Credentials {
                user: USER.into(),
                password: self.options.password.clone().unwrap_or_else(|| PASSWORD.into()).into(),
            },
        };
        VcenterConfig {
            endpoint: format!("http://{}/sdk", host_of(0)).parse().expect("a URL"),
            credentials,
            reader: None,
            login_dir: self.options.login_dir.clone(),
            tls: Tls::System,
        }
    }

    /// The hands of a person with `vmgroup orphans` and `vmgroup adopt`.
    pub async fn hand(&self) -> Result<Hand, HandError> {
        Hand::new(self.client(), self.at_the_desk(), &SiteSelection::default()).await
    }

    /// A client of vCenter as a person at a desk has it.
    pub fn at_the_desk(&self) -> Vcenter {
        self.at_the_desk_of(&self.vcenter_config())
    }

    /// The same of the vCenter that is under this address.
    ///
    /// # Panics
    /// If there is none.
    pub fn at_the_desk_of(&self, config: &VcenterConfig) -> Vcenter {
        let host = config.endpoint.host().unwrap_or_default();
        let found = self.vcenters.iter().enumerate().find(|(number, _)| host_of(*number) == host);
        let (number, vcenter) = found.expect("a vCenter of this address");
        let transport = Arc::new(InProcess {
            vcenter: vcenter.clone(),
            service: vcenter.service(),
            sabotage: Sabotage::default(),
            witness: None,
            line: Line { operator: u64::MAX, vcenter: number },
        });
        run::vcenter_client(config, transport)
    }

    /// What an operator is told of its vCenters: those of the file, or just the first.
    pub fn operators_vcenters(&self, by_file: bool) -> Vcenters {
        if by_file {
            return Vcenters::File { config_map: CONNECTIONS.into() };
        }
        Vcenters::One(Box::new(OneVcenter {
            vcenter: self.vcenter_config(),
            site: SiteSelection::default(),
            max_tasks: self.options.max_tasks.try_into().expect("at least one task"),
        }))
    }

    /// An operator's way to the vCenters, by their hosts; what else is asked for is not
    /// there.
    fn dial(&self, operator: u64) -> Dial {
        let (vcenters, sabotage, witness) = (self.vcenters.clone(), self.sabotage.clone(), self.witness.clone());
        Arc::new(move |endpoint, _| {
            let host = endpoint.host().unwrap_or_default();
            let found = vcenters.iter().enumerate().find(|(number, _)| host_of(*number) == host);
            Ok(match found {
                Some((number, vcenter)) => Arc::new(InProcess {
                    vcenter: vcenter.clone(),
                    service: vcenter.service(),
                    sabotage: sabotage.clone(),
                    witness: witness.clone(),
                    line: Line { operator, vcenter: number },
                }),
                None => Arc::new(Nobody),
            })
        })
    }

    /// Starts an operator that takes part in leader election if `lease` says so.
    pub fn launch(&mut self, lease: Option<&str>) -> CancellationToken {
        let vcenters = self.operators_vcenters(self.options.connections > 0);
        self.launch_on(vcenters, lease)
    }

    /// The same with these vCenters.
    pub fn launch_on(&mut self, vcenters: Vcenters, lease: Option<&str>) -> CancellationToken {
        let number = self.operators.len() as u64;
        let config = RunConfig {
            vcenters,
            namespace: OPERATOR_NAMESPACE.into(),
            policy_config_map: "vmgroup-policy".into(),
            policy_dir: None,
            policy_supply: PolicySupply::default(),
            time_zone: None,
            metrics_addr: None,
            otlp_endpoint: None,
            leader_election: lease.map(str::to_owned),
            instance: format!("operator-{number}"),
            decisions: (self.options.record_bytes > 0)
                .then_some(vmgroup_records::Settings { memory: self.options.record_bytes, files: None }),
            socket: None,
        };
        let clock = Clock::starting_at(self.now());
        let metrics = Metrics::new(clock);
        self.metrics.push(metrics.clone());
        let parts = Parts {
            kube: self.operators_client(number, &metrics),
            dial: self.dial(number),
            clock,
            metrics,
            seed: self.seed.wrapping_mul(31).wrapping_add(number),
            offload: match self.options.busy {
                Duration::ZERO => Offload::Inline,
                busy => Offload::InlineAfter(busy),
            },
            sandbox: self.sandbox.clone(),
            supply: Supply::default(),
            pages: Arc::default(),
        };
        self.pages.push(Arc::downgrade(&parts.pages));
        let stop = CancellationToken::new();
        let token = stop.clone();
        // Everything of the operator hangs below one task in a local scope, so
        // that aborting it is as sudden as SIGKILL.
        let task = tokio::spawn(async move {
            if let Err(error) = run::start(config, parts, token).await {
                panic!("the operator did not start: {error}");
            }
        });
        self.operators.push(task.abort_handle());
        stop
    }

    /// How many operators were ever launched; the next one gets this number.
    pub fn launched(&self) -> u64 {
        self.operators.len() as u64
    }

    /// Whether the operator of this number is running.
    pub fn runs(&self, operator: u64) -> bool {
        usize::try_from(operator).ok().and_then(|at| self.operators.get(at)).is_some_and(|task| !task.is_finished())
    }

    /// The metrics of the operator of this number.
    ///
    /// # Panics
    /// If there never was one.
    pub fn metrics(&self, operator: usize) -> &Metrics {
        &self.metrics[operator]
    }

    /// Asks the operator of this number what it serves on its local socket.
    ///
    /// # Panics
    /// If it does not live, or has not come so far.
    pub async fn ask(&self, operator: usize, request: http::Request<Body>) -> (http::StatusCode, Bytes) {
        let pages = self.pages[operator].upgrade().expect("an operator that lives");
        let router = pages.get().expect("an operator that has begun").clone();
        let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
        let (parts, body) = response.into_parts();
        (parts.status, axum::body::to_bytes(body, usize::MAX).await.expect("a whole answer"))
    }

    /// Kills the operator of this number, without a word.
    pub fn kill(&self, operator: u64) {
        if let Some(task) = usize::try_from(operator).ok().and_then(|at| self.operators.get(at)) {
            task.abort();
        }
    }
}

/// L10 at the end of every story: no operator had more sessions than it may have.
impl Drop for SimWorld {
    fn drop(&mut self) {
        let most = self.vcenters.iter().map(VcenterSim::most_sessions).max().unwrap_or_default();
        assert!(std::thread::panicking() || most <= MAX_SESSIONS, "L10: {most} sessions of one operator");
    }
}

impl World for SimWorld {
    async fn make(options: Options) -> Result<Self, WorldError> {
        Self::seeded(options, 1)
    }

    fn kube(&self) -> kube::Client {
        self.client()
    }

    async fn start_operator(&mut self) -> Result<(), WorldError> {
        self.launch(None);
        Ok(())
    }

    async fn kill_operator(&mut self) -> Result<(), WorldError> {
        for operator in &self.operators {
            operator.abort();
        }
        self.vcenters.iter().for_each(VcenterSim::cut_connections);
        Ok(())
    }

    async fn vms(&self) -> Result<Vec<VmView>, WorldError> {
        Ok(self
            .vcenter
            .vms()
            .into_iter()
            .filter(|vm| !vm.template)
            .map(|vm| VmView {
                name: vm.name,
                path: vm.path,
                instance_uuid: vm.instance_uuid,
                on: vm.power_on,
                cpus: vm.cpus,
                memory_mib: vm.memory_mib,
                host: vm.host,
                extra: vm.extra,
            })
            .collect())
    }

    async fn folders(&self) -> Result<Vec<String>, WorldError> {
        Ok(self.vcenter.folders().into_iter().filter(|path| path.starts_with(&format!("{ROOT}/"))).collect())
    }

    async fn deed(&self, deed: Deed) -> Result<(), WorldError> {
        let faults = self.vcenter.faults();
        match deed {
            Deed::PowerOff(path) => self.vcenter.power_off(&path)?,
            Deed::Destroy(path) => {
                self.vcenter.power_off(&path)?;
                self.vcenter.destroy(&path)?;
            }
            Deed::AddVm { folder, name } => {
                self.vcenter.add_vm(&folder, &name, &[])?;
            }
            Deed::AddFolder { parent, name } => self.vcenter.add_folder(&parent, &name)?,
            Deed::AddTemplate { folder, name } => self.vcenter.add_template(&folder, &name)?,
            Deed::RunTools(path) => self.vcenter.set_guest(&path, true, true)?,
            Deed::SetExtra { path, key, value } => self.vcenter.set_extra(&path, &key, &value)?,
            Deed::Down => {
                faults.set_down(true);
                self.vcenter.cut_connections();
            }
            Deed::Up => faults.set_down(false),
            Deed::EndSessions => self.vcenter.terminate_sessions(),
            Deed::LoseReplies { method, times } => {
                faults.add(Rule { on: method.into(), skip: 0, times, fault: Fault::LoseReply });
            }
        }
        Ok(())
    }

    async fn calls(&self) -> Result<BTreeMap<String, u64>, WorldError> {
        Ok(self.vcenter.faults().calls())
    }
}

/// Everything that Kubernetes holds, as text: to look for what must not be there.
pub fn everything(kube: &KubeSim) -> String {
    let kinds = ["vmgroups", "events", "configmaps", "leases"];
    kinds.iter().flat_map(|kind| kube.list(kind, None)).map(|object| json!(object).to_string()).collect()
}

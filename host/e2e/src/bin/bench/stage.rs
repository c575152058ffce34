//! What a figure of the running operator is taken on: a simulated Kubernetes API
//! over HTTP, a vCenter over HTTPS, and the operator's own process. Must not
//! know what is measured.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kube::CustomResourceExt;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use vmgroup_api::VmGroup;
use vmgroup_e2e::real::{Vcsim, plain_http};
use vmgroup_e2e::world::{OPERATOR_NAMESPACE, TEMPLATE, User};
use vmgroup_sim::clock::Clock;
use vmgroup_sim::kube::KubeSim;
use vmgroup_sim::serve::{Server, TlsIdentity, kubeconfig, serve};
use vmgroup_sim::vcenter::{TaskDurations, VcenterConfig, VcenterSim};

use crate::Result;
use crate::machine::{self, Usage};

const LEASE: &str = "vmgroup-operator";
const USER: &str = "operator@vsphere.local";
const PASSWORD: &str = "bench";

/// How long anything may take that is not itself the figure.
const SOON: Duration = Duration::from_secs(60);

/// How long many groups may take to be Ready.
const PATIENCE: Duration = Duration::from_secs(600);

/// Which vCenter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// govmomi's.
    Vcsim,
    /// That of `host/sim`.
    Simulator,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vcsim => "vcsim",
            Self::Simulator => "our simulator",
        })
    }
}

enum Vcenter {
    Vcsim(Box<Vcsim>),
    Simulator(VcenterSim, Server),
}

/// Everything but the operator.
pub struct Stage {
    /// The Kubernetes API, seen from inside: looking costs no request.
    pub kube: KubeSim,
    /// A user, over HTTP.
    pub user: User,
    vcenter: Vcenter,
    _kube_server: Server,
    folder: Folder,
}

impl Stage {
    /// Sets one, with the CRD and the operator's namespace. Only clones take time.
    pub async fn set(side: Side, clone: Duration) -> Result<Self> {
        let folder = Folder::new()?;
        let clock = Clock::system();
        let kube = KubeSim::new(clock, 7);
        kube.create_namespace(OPERATOR_NAMESPACE).map_err(|error| format!("{error:?}"))?;
        kube.apply(serde_json::to_value(VmGroup::crd())?).map_err(|error| format!("{error:?}"))?;
        let kube_server = serve(kube.service(), None).await?;
        std::fs::write(folder.file("kubeconfig"), kubeconfig(kube_server.addr))?;
        let vcenter = match side {
            Side::Vcsim => Vcenter::Vcsim(Box::new(Vcsim::start(&folder.0, 1, clone).await?)),
            Side::Simulator => {
                let config = VcenterConfig {
                    user: USER.into(),
                    password: PASSWORD.into(),
                    templates: vec![TEMPLATE.into()],
                    durations: TaskDurations { clone, ..TaskDurations::all(Duration::ZERO) },
                    ..VcenterConfig::default()
                };
                let sim = VcenterSim::new(config, clock);
                let (identity, ca) = TlsIdentity::self_signed(&["localhost"])?;
                std::fs::write(folder.file("ca.pem"), ca)?;
                let server = serve(sim.service(), Some(&identity)).await?;
                Vcenter::Simulator(sim, server)
            }
        };
        let options = kube::config::KubeConfigOptions::default();
        let file = kube::config::Kubeconfig::read_from(folder.file("kubeconfig"))?;
        let config = kube::Config::from_custom_kubeconfig(file, &options).await?;
        let user = User::new(kube::Client::try_from(config)?);
        Ok(Self { kube, user, vcenter, _kube_server: kube_server, folder })
    }

    /// The calls that vCenter got, by SOAP method.
    pub async fn calls(&self) -> Result<BTreeMap<String, u64>> {
        match &self.vcenter {
            Vcenter::Vcsim(vcsim) => vcsim.calls().await,
            Vcenter::Simulator(sim, _) => Ok(sim.faults().calls()),
        }
    }

    /// The CPU time that vCenter took so far; of the simulator, that of this whole
    /// process, the Kubernetes API included.
    pub fn vcenter_cpu(&self) -> Result<Duration> {
        let pid = match &self.vcenter {
            Vcenter::Vcsim(vcsim) => vcsim.pid(),
            Vcenter::Simulator(..) => std::process::id(),
        };
        Ok(machine::usage(pid)?.cpu)
    }

    /// A group as it stands, without a request.
    pub fn group(&self, namespace: &str, name: &str) -> Value {
        self.kube.get("vmgroups", Some(namespace), name).unwrap_or_default()
    }

    /// The simulated vCenter, seen from inside.
    pub fn simulator(&self) -> Result<&VcenterSim> {
        match &self.vcenter {
            Vcenter::Simulator(sim, _) => Ok(sim),
            Vcenter::Vcsim(_) => Err("only on our simulator".into()),
        }
    }

    /// How often vCenter was asked for a clone.
    pub async fn clones(&self) -> Result<u64> {
        Ok(self.calls().await?.get("CloneVM_Task").copied().unwrap_or_default())
    }

    /// Applies a group, without a request. Returns its uid.
    pub fn apply(&self, namespace: &str, name: &str, replicas: u64) -> Result<String> {
        let group = json!({
            "apiVersion": "vm.codeconnect.vmworld.com/v1alpha1", "kind": "VmGroup",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"cpu": 2, "memory": 1, "replicas": replicas, "template": TEMPLATE},
        });
        let applied = self.kube.apply(group).map_err(|error| format!("{error:?}"))?;
        Ok(applied["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until all groups of a namespace are Ready with this many members.
    pub async fn all_ready(&self, operator: &mut Operator, namespace: &str, size: u64, look: Duration) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.kube.list("vmgroups", Some(namespace)).iter().all(|group| is_ready(group, size)) {
            operator.must_run()?;
            if Instant::now() > deadline {
                return Err(format!("not Ready after {PATIENCE:?}").into());
            }
            tokio::time::sleep(look).await;
        }
        Ok(())
    }

    /// Waits for one more clone call than `before`, and says how long that took since then.
    pub async fn next_clone(&self, operator: &mut Operator, before: u64, since: Instant) -> Result<Duration> {
        while self.clones().await? <= before {
            operator.must_run()?;
            if since.elapsed() > SOON {
                return Err("no clone call came".into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(since.elapsed())
    }

    /// Starts the operator.
    pub fn start(&self, binary: &Path, limit: u32) -> Result<Operator> {
        let (url, (user, password)) = match &self.vcenter {
            Vcenter::Vcsim(vcsim) => (vcsim.url().to_owned(), vcsim.login()),
            Vcenter::Simulator(_, server) => (format!("https://{}/sdk", server.addr), (USER, PASSWORD)),
        };
        let page = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = self.folder.file(&format!("{}.log", page.port()));
        let mut command = Command::new(binary);
        command
            .args(["run", "--leader-elect", "--namespace", OPERATOR_NAMESPACE, "--instance", "bench"])
            .args(["--metrics-addr", &page.to_string(), "--max-tasks", &limit.to_string()])
            .arg("--vc-ca-file")
            .arg(self.folder.file("ca.pem"))
            .env_clear()
            .env("HOME", &self.folder.0)
            .env("KUBECONFIG", self.folder.file("kubeconfig"))
            .env("VC_HOST", url)
            .env("VC_USER", user)
            .env("VC_PASS", password)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true);
        let since = Instant::now();
        let child = command.spawn()?;
        let pid = child.id().ok_or("the operator ended at once")?;
        Ok(Operator { child, pid, since, log, page: format!("http://{page}"), http: plain_http()? })
    }

    /// Waits until the operator leads and has nothing to do, which is how it is
    /// found by whoever applies something.
    pub async fn at_rest(&self, operator: &mut Operator) -> Result<()> {
        self.leading(operator).await?;
        let deadline = Instant::now() + SOON;
        let mut before = BTreeMap::new();
        loop {
            operator.must_run()?;
            let now = self.calls().await?;
            if now == before && now.contains_key("WaitForUpdatesEx") {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err("the operator did not come to rest".into());
            }
            before = now;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Waits until the operator holds the lease; how long that took from its start.
    pub async fn leading(&self, operator: &mut Operator) -> Result<Duration> {
        until(operator, Duration::from_millis(1), async |_| {
            let lease = self.kube.get("leases", Some(OPERATOR_NAMESPACE), LEASE).unwrap_or_default();
            lease["spec"]["holderIdentity"].as_str().is_some_and(|holder| !holder.is_empty())
        })
        .await
    }
}

/// Whether a group is Ready with this many members.
pub fn is_ready(group: &Value, size: u64) -> bool {
    let status = &group["status"];
    let conditions = status["conditions"].as_array();
    let ready = conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True");
    ready && status["observedGeneration"] == group["metadata"]["generation"] && status["currentReplicas"] == size
}

/// The operator's process. It ends with this.
pub struct Operator {
    child: Child,
    pid: u32,
    since: Instant,
    log: PathBuf,
    page: String,
    http: reqwest::Client,
}

impl Operator {
    /// What it has taken so far.
    pub fn usage(&self) -> Result<Usage> {
        machine::usage(self.pid)
    }

    /// An error with the end of its log if it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = log.lines().last().unwrap_or_default();
        Err(format!("the operator ended ({status}): {last}").into())
    }

    /// When it was started.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Ends it with a signal, such as `TERM`, and waits until it has ended.
    pub async fn end(&mut self, signal: &str) -> Result<()> {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.pid.to_string()).status().await?;
        if !status.success() {
            return Err(format!("kill -{signal}: {status}").into());
        }
        tokio::time::timeout(SOON, self.child.wait()).await??;
        Ok(())
    }

    /// A sample of `/metrics`, by its name and labels as they are written there.
    pub async fn metric(&self, sample: &str) -> Result<f64> {
        let page = self.http.get(format!("{}/metrics", self.page)).send().await?.text().await?;
        let value = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok());
        Ok(value.unwrap_or_default())
    }

    /// Waits until `/readyz` says yes; how long that took from its start.
    pub async fn ready(&mut self) -> Result<Duration> {
        let page = format!("{}/readyz", self.page);
        until(self, Duration::from_millis(2), async |operator| {
            operator.http.get(&page).send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await
    }
}

async fn until(
    operator: &mut Operator,
    every: Duration,
    condition: impl AsyncFn(&Operator) -> bool,
) -> Result<Duration> {
    loop {
        if condition(operator).await {
            return Ok(operator.since.elapsed());
        }
        operator.must_run()?;
        if operator.since.elapsed() > SOON {
            return Err("the operator was not up in time".into());
        }
        tokio::time::sleep(every).await;
    }
}

/// A folder of our own that goes with us.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("vmgroup-bench-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

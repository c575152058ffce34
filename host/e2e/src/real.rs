//! The real components: kube-apiserver, etcd, vcsim, and the operator as a
//! process of its own, under the service account and the rights of its manifest.
//!
//! A world has its own of each, so that no story sees another's. Time is real.

mod audit;
mod cluster;
mod process;
pub mod registry;
mod secret;
mod vcenter;
mod vcsim;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use self::cluster::Cluster;
use self::process::{Process, free_port, run, tail};
use self::secret::MountedSecret;
use self::vcenter::Vcenter;
use crate::world::{CONNECTIONS, Deed, OPERATOR_NAMESPACE, Options, ROOT, VmView, World, WorldError};

pub use self::audit::{Audit, Expected, Tally};
pub use self::process::Said;
pub use self::vcsim::{Fault, Vcsim, plain_http};

/// The service account of `deploy/base`.
const ACCOUNT: &str = "vmgroup-operator";

/// How many lines of each operator's log are shown.
const LOG_LINES: usize = 300;

/// The real world.
pub struct RealWorld {
    // Dropped from the first to the last: the folder goes when nobody writes to it.
    operators: BTreeMap<usize, Process>,
    vcenter: Vcenter,
    /// Further ones, for operators that know several.
    others: Vec<Vcenter>,
    cluster: Cluster,
    options: Options,
    operator_logs: Vec<PathBuf>,
    metrics: Option<String>,
    login: Option<MountedSecret>,
    flags: Vec<String>,
    folder: Folder,
}

impl RealWorld {
    /// kubectl as the administrator, and as a person would type it.
    pub async fn kubectl(&self, arguments: &[&str], stdin: Option<&str>) -> Result<Said, WorldError> {
        self.cluster.kubectl(arguments, stdin).await
    }

    /// `vmgroup` at the administrator's desk.
    pub async fn at_the_desk(&self, arguments: &[&str]) -> Result<Said, WorldError> {
        let vcsim = &self.vcenter.vcsim;
        let (user, password) = vcsim.login();
        let mut command = tokio::process::Command::new(operator()?);
        command
            .args(arguments)
            .env_clear()
            .envs(self.cluster.administrator())
            .env("VC_HOST", vcsim.url())
            .env("VC_USER", user)
            .env("VC_PASS", password)
            .env("VC_CA_FILE", vcsim.ca());
        run(command, None).await
    }

    /// What the operator's deployment consists of, as `kubectl kustomize` prints it.
    pub async fn manifests(&self) -> Result<String, WorldError> {
        let base = repository().join("deploy/base");
        self.kubectl(&["kustomize", &base.display().to_string()], None).await?.success()
    }

    /// The keys of the operators' sessions in vCenter.
    pub async fn sessions(&self) -> Result<Vec<String>, WorldError> {
        self.vcenter.sessions().await
    }

    /// A page of the operator that was started last, such as `/metrics`.
    pub async fn page(&self, path: &str) -> Result<(u16, String), WorldError> {
        let address = self.metrics.as_deref().ok_or("no operator was started")?;
        let response = plain_http()?.get(format!("http://{address}{path}")).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// The front of vCenter.
    pub fn front(&self) -> &Vcsim {
        &self.vcenter.vcsim
    }

    /// The front of the vCenter of this number, counted from 0.
    pub fn front_of(&self, number: usize) -> &Vcsim {
        &self.of(number).vcsim
    }

    /// The machines of the vCenter of this number that are no templates.
    pub async fn vms_of(&self, number: usize) -> Result<Vec<VmView>, WorldError> {
        self.of(number).vms().await
    }

    fn of(&self, number: usize) -> &Vcenter {
        number.checked_sub(1).map_or(&self.vcenter, |number| &self.others[number])
    }

    /// govc, past the front.
    pub async fn govc(&self, arguments: &[&str]) -> Result<String, WorldError> {
        self.vcenter.govc.run(arguments).await
    }

    /// kube-apiserver and etcd, to be killed and started again.
    pub fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// Starts an operator that trusts the certificates of a file; without one, those
    /// of the machine, among which vcsim's is not.
    pub async fn start_operator_trusting(&mut self, ca: Option<&Path>) -> Result<(), WorldError> {
        self.launch(ca, true).await
    }

    /// Mounts vCenter's login as a Secret with this password, for operators that are
    /// started from now on; or changes the Secret that is mounted.
    pub fn mount_login(&mut self, password: &str) -> Result<(), WorldError> {
        let vcsim = &self.vcenter.vcsim;
        let files = [("VC_HOST", vcsim.url()), ("VC_USER", vcsim.login().0), ("VC_PASS", password)];
        if let Some(login) = &mut self.login {
            login.change(&files)
        } else {
            self.login = Some(MountedSecret::mount(self.folder.0.join("login"), &files)?);
            Ok(())
        }
    }

    /// Further flags of operators that are started from now on.
    pub fn operator_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    }

    /// A command of the operator's binary, as a person would type it.
    pub async fn vmgroup(&self, arguments: &[&str]) -> Result<Said, WorldError> {
        let mut command = tokio::process::Command::new(operator()?);
        command.args(arguments).env_clear().env("HOME", &self.folder.0);
        process::run(command, None).await
    }

    /// A folder of this world, gone with it.
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// Starts an operator that takes part in no election: the only one there is, who
    /// need not wait until the lease of a killed one expires.
    pub async fn start_lone_operator(&mut self) -> Result<(), WorldError> {
        let ca = self.vcenter.vcsim.ca().to_owned();
        self.launch(Some(&ca), false).await
    }

    async fn launch(&mut self, ca: Option<&Path>, elect: bool) -> Result<(), WorldError> {
        self.cluster.must_run()?;
        let (user, password) = self.vcenter.vcsim.login();
        let number = self.operator_logs.len();
        let name = format!("operator-{number}");
        let log = self.folder.0.join(format!("{name}.log"));
        let metrics = format!("127.0.0.1:{}", free_port()?);
        let kubeconfig = self.cluster.kubeconfig_of(ACCOUNT).await?;
        let mut command = Command::new(operator()?);
        command
            .args(["run", "--log-format=text", "--namespace", OPERATOR_NAMESPACE])
            .args(elect.then_some("--leader-elect"))
            .args(&self.flags)
            .args(["--instance", &name, "--metrics-addr", &metrics])
            .args(["--max-tasks", &self.options.max_tasks.to_string()])
            // Nothing of whoever runs the tests reaches it but the wish for a longer log.
            .env_clear()
            .envs(std::env::var_os("RUST_LOG").map(|filter| ("RUST_LOG", filter)))
            .env("HOME", &self.folder.0)
            .env("KUBECONFIG", kubeconfig);
        if self.options.connections > 0 {
            command.args(["--connections", CONNECTIONS]);
            self.operators.insert(number, Process::start(&name, command, &log, None)?);
            self.operator_logs.push(log);
            self.metrics = Some(metrics);
            return Ok(());
        }
        command.args(ca.map(|ca| [OsStr::new("--vc-ca-file"), ca.as_os_str()]).into_iter().flatten());
        let login_dir = self.login.as_ref().map(MountedSecret::folder).or(self.options.login_dir.as_deref());
        match login_dir {
            Some(folder) => command.env("VC_LOGIN_DIR", folder),
            None => command
                .env("VC_HOST", self.vcenter.vcsim.url())
                .env("VC_USER", user)
                .env("VC_PASS", self.options.password.as_deref().unwrap_or(password)),
        };
        self.operators.insert(number, Process::start(&name, command, &log, None)?);
        self.operator_logs.push(log);
        self.metrics = Some(metrics);
        Ok(())
    }

    /// Ends the operator that was started first with SIGTERM, as Kubernetes does.
    pub async fn stop_operator(&mut self, within: Duration) -> Result<(ExitStatus, Duration), WorldError> {
        let (_, operator) = self.operators.pop_first().ok_or("no operator is running")?;
        operator.terminate(within).await
    }

    /// Kills the operator of this number, counted from 0, without a word.
    pub fn kill(&mut self, number: usize) -> Result<(), WorldError> {
        self.operators.remove(&number).map(drop).ok_or_else(|| format!("operator-{number} is not running").into())
    }

    /// Takes an operator's processor away, in the middle of whatever it does.
    pub async fn pause(&self, number: usize) -> Result<(), WorldError> {
        self.running(number)?.signal("STOP").await
    }

    /// Gives it back.
    pub async fn resume(&self, number: usize) -> Result<(), WorldError> {
        self.running(number)?.signal("CONT").await
    }

    fn running(&self, number: usize) -> Result<&Process, WorldError> {
        self.operators.get(&number).ok_or_else(|| format!("operator-{number} is not running").into())
    }

    /// The log of an operator so far.
    pub fn log_of(&self, number: usize) -> String {
        self.operator_logs.get(number).map(|log| tail(log, usize::MAX)).unwrap_or_default()
    }

    /// Applies `deploy/base`; the Deployment is stored, and nobody runs it.
    async fn deploy(&self) -> Result<(), WorldError> {
        let mut manifests = self.manifests().await?;
        if !self.options.crd {
            let kept = manifests.split("\n---\n").filter(|text| !text.contains("kind: CustomResourceDefinition"));
            manifests = kept.collect::<Vec<_>>().join("\n---\n");
        }
        self.kubectl(&["apply", "--server-side", "-f", "-"], Some(&manifests)).await?.success()?;
        if self.options.crd {
            let crd = "crd/vmgroups.vm.codeconnect.vmworld.com";
            let wait = ["wait", "--for=condition=Established", "--timeout=30s", crd];
            self.kubectl(&wait, None).await?.success()?;
        }
        // A story begins without policies of its own; one that is about those of
        // the deployment applies them.
        let policy = ["delete", "configmap", "vmgroup-policy", "-n", OPERATOR_NAMESPACE];
        self.kubectl(&policy, None).await?.success()?;
        Ok(())
    }
}

impl World for RealWorld {
    async fn make(options: Options) -> Result<Self, WorldError> {
        // kube and reqwest take the process's provider; it may be there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        operator()?;
        let folder = Folder::new()?;
        let (kubernetes, vcenter) = (folder.0.join("kubernetes"), folder.0.join("vcenter"));
        let (cluster, vcenter) = tokio::try_join!(Cluster::start(&kubernetes), Vcenter::start(&vcenter, &options))?;
        let mut others = Vec::new();
        for number in 1..options.connections {
            others.push(Vcenter::start(&folder.0.join(format!("vcenter-{number}")), &options).await?);
        }
        let world = Self {
            operators: BTreeMap::new(),
            vcenter,
            others,
            cluster,
            options,
            operator_logs: vec![],
            metrics: None,
            login: None,
            flags: vec![],
            folder,
        };
        world.deploy().await?;
        Ok(world)
    }

    fn kube(&self) -> kube::Client {
        self.cluster.client()
    }

    async fn start_operator(&mut self) -> Result<(), WorldError> {
        let ca = self.vcenter.vcsim.ca().to_owned();
        self.start_operator_trusting(Some(&ca)).await
    }

    async fn kill_operator(&mut self) -> Result<(), WorldError> {
        self.operators.clear();
        Ok(())
    }

    async fn vms(&self) -> Result<Vec<VmView>, WorldError> {
        self.vcenter.vms().await
    }

    async fn folders(&self) -> Result<Vec<String>, WorldError> {
        let below = format!("{ROOT}/");
        Ok(self.vcenter.folders().await?.into_iter().filter(|path| path.starts_with(&below)).collect())
    }

    async fn deed(&self, deed: Deed) -> Result<(), WorldError> {
        self.vcenter.deed(deed).await
    }

    async fn calls(&self) -> Result<BTreeMap<String, u64>, WorldError> {
        self.vcenter.vcsim.calls().await
    }

    fn log(&self) -> String {
        let logs = self.operator_logs.iter().map(|log| format!("--- {}\n{}\n", log.display(), tail(log, LOG_LINES)));
        logs.collect()
    }
}

impl Drop for RealWorld {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}\n--- kubectl describe vg -A\n{}", self.log(), self.cluster.describe_groups());
        }
    }
}

/// The folder of one world. It stays when its test fails, for its logs.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, WorldError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("vmgroup-e2e-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = std::fs::remove_dir_all(self.0.join("kubernetes/etcd"));
            eprintln!("the logs of all components are in {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A program that host/e2e/tools/build makes.
fn tool(name: &str) -> Result<PathBuf, WorldError> {
    let cache =
        std::env::var_os("VMGROUP_E2E_TOOLS").map_or_else(|| repository().join("target/e2e-tools"), PathBuf::from);
    let program = cache.join("bin").join(name);
    if program.exists() {
        Ok(program)
    } else {
        Err(format!("{} is not there; host/e2e/tools/build makes it", program.display()).into())
    }
}

/// The operator's binary, beside the folder of the test's.
pub fn operator() -> Result<PathBuf, WorldError> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).ok_or("the test has no target folder")?;
    let program = folder.join("vmgroup");
    if program.exists() {
        Ok(program)
    } else {
        let program = program.display();
        Err(format!("{program} is not there; `cargo build -p vmgroup-operator` or `make e2e` builds it").into())
    }
}

//! etcd, kube-apiserver, and kubectl to talk to them. Must not know of vCenter.
//!
//! There is no controller manager: nothing collects garbage, removes namespaces
//! or runs Deployments.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

use super::process::{Process, Said, free_port, run};
use super::tool;
use crate::world::{OPERATOR_NAMESPACE, WorldError};

const ADMIN_TOKEN: &str = "the-admin-of-a-test";
const READY: Duration = Duration::from_secs(60);

/// A Kubernetes API of its own.
pub struct Cluster {
    // Dropped before etcd, so that it has nothing to complain of.
    api_server: Option<Process>,
    etcd: Option<Process>,
    client: kube::Client,
    url: String,
    folder: PathBuf,
    ports: Ports,
}

struct Ports {
    clients: u16,
    peers: u16,
    api: u16,
}

impl Cluster {
    /// Starts one in a folder, and waits until it is ready.
    pub async fn start(folder: &Path) -> Result<Self, WorldError> {
        // A port that was free may be taken before its server gets to it.
        let mut attempts = 3;
        loop {
            attempts -= 1;
            match Self::attempt(folder).await {
                Err(error) if attempts > 0 => eprintln!("starting the API server once more: {error}"),
                outcome => return outcome,
            }
            let _ = std::fs::remove_dir_all(folder);
        }
    }

    async fn attempt(folder: &Path) -> Result<Self, WorldError> {
        std::fs::create_dir_all(folder.join("home"))?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        std::fs::write(folder.join("sa.key"), key.serialize_pem())?;
        std::fs::write(folder.join("sa.pub"), key.public_key_pem())?;
        std::fs::write(folder.join("tokens.csv"), format!("{ADMIN_TOKEN},admin,admin,system:masters\n"))?;
        let ports = Ports { clients: free_port()?, peers: free_port()?, api: free_port()? };
        let url = format!("https://127.0.0.1:{}", ports.api);
        write_kubeconfig(folder, "admin", &url, ADMIN_TOKEN)?;
        let (mut etcd, mut api_server) = (start_etcd(folder, &ports)?, start_api_server(folder, &ports)?);
        let client = until_ready(folder, &mut etcd, &mut api_server).await?;
        let (etcd, api_server) = (Some(etcd), Some(api_server));
        Ok(Self { api_server, etcd, client, url, folder: folder.to_owned(), ports })
    }

    /// Kills etcd, without a word. The API server stays, and can do nothing.
    pub fn kill_etcd(&mut self) {
        self.etcd = None;
    }

    /// Kills the API server, without a word.
    pub fn kill_api_server(&mut self) {
        self.api_server = None;
    }

    /// Starts what was killed again, on the same data and ports, and waits until
    /// it is ready.
    pub async fn restart(&mut self) -> Result<(), WorldError> {
        let mut etcd = match self.etcd.take() {
            Some(running) => running,
            None => start_etcd(&self.folder, &self.ports)?,
        };
        let mut api_server = match self.api_server.take() {
            Some(running) => running,
            None => start_api_server(&self.folder, &self.ports)?,
        };
        until_ready(&self.folder, &mut etcd, &mut api_server).await?;
        (self.etcd, self.api_server) = (Some(etcd), Some(api_server));
        Ok(())
    }

    /// A client with all rights.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// kubectl as the administrator.
    pub async fn kubectl(&self, arguments: &[&str], stdin: Option<&str>) -> Result<Said, WorldError> {
        let mut command = tokio::process::Command::from(self.command());
        command.args(arguments);
        run(command, stdin).await
    }

    /// All groups as kubectl describes them, for the output of a test that failed.
    /// Blocks; to be called where nothing can be awaited.
    pub fn describe_groups(&self) -> String {
        let output = self.command().args(["describe", "vg", "--all-namespaces", "--request-timeout=10s"]).output();
        output.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command(&self) -> Command {
        let mut command = Command::new("kubectl");
        command.envs(self.administrator());
        command
    }

    /// The environment of the administrator's commands.
    pub fn administrator(&self) -> [(&'static str, PathBuf); 2] {
        // kubectl's cache of what the API offers is in the home folder.
        [("HOME", self.folder.join("home")), ("KUBECONFIG", self.folder.join("admin.kubeconfig"))]
    }

    /// A kubeconfig with a fresh token of a service account of the operator's namespace.
    pub async fn kubeconfig_of(&self, account: &str) -> Result<PathBuf, WorldError> {
        let token = self.kubectl(&["create", "token", account, "-n", OPERATOR_NAMESPACE], None).await?.success()?;
        write_kubeconfig(&self.folder, account, &self.url, token.trim())
    }

    /// An error if the API server has ended.
    pub fn must_run(&mut self) -> Result<(), WorldError> {
        self.api_server.as_mut().ok_or("kube-apiserver was killed")?.must_run()
    }
}

fn start_etcd(folder: &Path, ports: &Ports) -> Result<Process, WorldError> {
    let Ports { clients, peers, .. } = ports;
    let mut etcd = Command::new(tool("etcd")?);
    etcd.arg("--data-dir")
        .arg(folder.join("etcd"))
        .arg("--unsafe-no-fsync")
        .arg(format!("--listen-client-urls=http://127.0.0.1:{clients}"))
        .arg(format!("--advertise-client-urls=http://127.0.0.1:{clients}"))
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{peers}"));
    Process::start("etcd", etcd, &folder.join("etcd.log"), None)
}

fn start_api_server(folder: &Path, ports: &Ports) -> Result<Process, WorldError> {
    let Ports { clients, api, .. } = ports;
    let at = |name: &str| folder.join(name).display().to_string();
    let mut api_server = Command::new(tool("kube-apiserver")?);
    api_server
        .args(["--bind-address=127.0.0.1", "--service-cluster-ip-range=10.0.0.0/24"])
        .args(["--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount"])
        .arg("--service-account-issuer=https://localhost")
        .arg(format!("--secure-port={api}"))
        .arg(format!("--etcd-servers=http://127.0.0.1:{clients}"))
        .arg(format!("--cert-dir={}", at("certificates")))
        .arg(format!("--service-account-key-file={}", at("sa.pub")))
        .arg(format!("--service-account-signing-key-file={}", at("sa.key")))
        .arg(format!("--token-auth-file={}", at("tokens.csv")));
    Process::start("kube-apiserver", api_server, &folder.join("kube-apiserver.log"), None)
}

/// Waits until the API server is ready, and gives a client to it.
async fn until_ready(folder: &Path, etcd: &mut Process, api_server: &mut Process) -> Result<kube::Client, WorldError> {
    let started = Instant::now();
    loop {
        etcd.must_run()?;
        api_server.must_run()?;
        match ready(&folder.join("admin.kubeconfig")).await {
            Ok(client) => return Ok(client),
            Err(error) if started.elapsed() > READY => {
                return Err(format!("kube-apiserver was not ready within {READY:?}: {error}").into());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// The client, if the API server is ready.
async fn ready(kubeconfig: &Path) -> Result<kube::Client, WorldError> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = kube::Client::try_from(config)?;
    let request = http::Request::get("/readyz").body(Vec::new())?;
    tokio::time::timeout(Duration::from_secs(5), client.request_text(request)).await??;
    Ok(client)
}

fn write_kubeconfig(folder: &Path, user: &str, url: &str, token: &str) -> Result<PathBuf, WorldError> {
    let file = folder.join(format!("{user}.kubeconfig"));
    let certificate = folder.join("certificates/apiserver.crt");
    let text = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": {"server": url, "certificate-authority": certificate}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": user, "namespace": "default"}}],
        "current-context": "e2e",
    });
    std::fs::write(&file, text.to_string())?;
    Ok(file)
}

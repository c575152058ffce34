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
    api_server: Process,
    _etcd: Process,
    client: kube::Client,
    url: String,
    folder: PathBuf,
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
        let at = |name: &str| folder.join(name).display().to_string();
        let (clients, peers, port) = (free_port()?, free_port()?, free_port()?);
        let mut etcd = Command::new(tool("etcd")?);
        etcd.args(["--data-dir", &at("etcd"), "--unsafe-no-fsync"])
            .arg(format!("--listen-client-urls=http://127.0.0.1:{clients}"))
            .arg(format!("--advertise-client-urls=http://127.0.0.1:{clients}"))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peers}"));
        let mut etcd = Process::start("etcd", etcd, &folder.join("etcd.log"), None)?;

        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        std::fs::write(at("sa.key"), key.serialize_pem())?;
        std::fs::write(at("sa.pub"), key.public_key_pem())?;
        std::fs::write(at("tokens.csv"), format!("{ADMIN_TOKEN},admin,admin,system:masters\n"))?;
        let mut api_server = Command::new(tool("kube-apiserver")?);
        api_server
            .args(["--bind-address=127.0.0.1", "--service-cluster-ip-range=10.0.0.0/24"])
            .args(["--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount"])
            .arg("--service-account-issuer=https://localhost")
            .arg(format!("--secure-port={port}"))
            .arg(format!("--etcd-servers=http://127.0.0.1:{clients}"))
            .arg(format!("--cert-dir={}", at("certificates")))
            .arg(format!("--service-account-key-file={}", at("sa.pub")))
            .arg(format!("--service-account-signing-key-file={}", at("sa.key")))
            .arg(format!("--token-auth-file={}", at("tokens.csv")));
        let mut api_server = Process::start("kube-apiserver", api_server, &folder.join("kube-apiserver.log"), None)?;

        let url = format!("https://127.0.0.1:{port}");
        write_kubeconfig(folder, "admin", &url, ADMIN_TOKEN)?;
        let started = Instant::now();
        let client = loop {
            etcd.must_run()?;
            api_server.must_run()?;
            match ready(&folder.join("admin.kubeconfig")).await {
                Ok(client) => break client,
                Err(error) if started.elapsed() > READY => {
                    return Err(format!("kube-apiserver was not ready within {READY:?}: {error}").into());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        Ok(Self { api_server, _etcd: etcd, client, url, folder: folder.to_owned() })
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
        // Its cache of what the API offers is in the home folder.
        command.env("HOME", self.folder.join("home")).env("KUBECONFIG", self.folder.join("admin.kubeconfig"));
        command
    }

    /// A kubeconfig with a fresh token of a service account of the operator's namespace.
    pub async fn kubeconfig_of(&self, account: &str) -> Result<PathBuf, WorldError> {
        let token = self.kubectl(&["create", "token", account, "-n", OPERATOR_NAMESPACE], None).await?.success()?;
        write_kubeconfig(&self.folder, account, &self.url, token.trim())
    }

    /// An error if the API server has ended.
    pub fn must_run(&mut self) -> Result<(), WorldError> {
        self.api_server.must_run()
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

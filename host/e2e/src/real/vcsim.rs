//! govmomi's vcsim behind its front, as host/e2e/tools builds it: its process and
//! its control API. Must not know what is done with it, nor of Kubernetes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::process::Process;
use super::tool;
use crate::world::{TEMPLATE, WorldError};

const READY: Duration = Duration::from_secs(30);
const CONTROL: Duration = Duration::from_secs(10);

/// A running vcsim, with the template and the root folder that every world has.
/// It ends with this.
pub struct Vcsim {
    process: Process,
    ready: Ready,
    ca: PathBuf,
    http: reqwest::Client,
}

/// The line that vcsim writes when it is ready.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ready {
    url: String,
    direct: String,
    user: String,
    pass: String,
    admin_user: String,
    admin_pass: String,
    control: String,
}

/// Whom a fault strikes, and how; the front's README has all of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// A SOAP method, or `*`.
    pub method: &'static str,
    /// How many calls; -1 for all until the faults are cleared.
    pub count: i32,
    /// The share of the calls that are struck; nothing for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// The seed of the lots; only with a chance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// `503`, `reset`, `delay`, `drop-reply`, `truncate`.
    pub action: &'static str,
    /// How long it waits before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
}

impl Fault {
    /// The next calls of a method.
    pub fn next(method: &'static str, times: u32, action: &'static str) -> Self {
        let count = i32::try_from(times).unwrap_or(i32::MAX);
        Self { method, count, chance: None, seed: None, action, delay_ms: None }
    }

    /// A share of all calls until the faults are cleared.
    pub fn share(chance: f64, seed: u64, action: &'static str) -> Self {
        Self { method: "*", count: -1, chance: Some(chance), seed: Some(seed), action, delay_ms: None }
    }

    /// The same, so much later.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { delay_ms: u64::try_from(delay.as_millis()).ok(), ..self }
    }
}

/// A fault as the front reports it.
#[derive(Deserialize)]
struct Pending {
    action: String,
    struck: u64,
}

/// A client for pages on loopback.
pub fn plain_http() -> Result<reqwest::Client, WorldError> {
    // Plain HTTP: no certificate is wanted.
    Ok(reqwest::Client::builder().no_proxy().timeout(CONTROL).tls_certs_only(std::iter::empty()).build()?)
}

impl Vcsim {
    /// Starts one in a folder, and waits until it is ready. Only clones take time.
    pub async fn start(folder: &Path, datacenters: usize, clone_takes: Duration) -> Result<Self, WorldError> {
        std::fs::create_dir_all(folder)?;
        let (ca, line) = (folder.join("ca.pem"), folder.join("ready.json"));
        let mut command = Command::new(tool("vcsim")?);
        command
            .args(["-die-with-stdin", "-template", TEMPLATE, "-folder", "vm-operator"])
            .args(["-dc", &datacenters.to_string()])
            .arg(format!("-task-delay=CloneVM:{}", clone_takes.as_millis()))
            .arg("-ca-out")
            .arg(&ca)
            // Its datastores: killed, it leaves them behind.
            .env("TMPDIR", folder);
        let mut process = Process::start("vcsim", command, &folder.join("vcsim.log"), Some(&line))?;
        let started = Instant::now();
        let ready = loop {
            process.must_run()?;
            let text = std::fs::read_to_string(&line)?;
            if text.ends_with('\n') {
                break serde_json::from_str(&text)?;
            }
            if started.elapsed() > READY {
                return Err(format!("vcsim was not ready within {READY:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        Ok(Self { process, ready, ca, http: plain_http()? })
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The endpoint that counts and breaks calls: that of the client under test.
    pub fn url(&self) -> &str {
        &self.ready.url
    }

    /// The same vCenter past the front.
    pub fn direct(&self) -> &str {
        &self.ready.direct
    }

    /// User and first password of the client under test.
    pub fn login(&self) -> (&str, &str) {
        (&self.ready.user, &self.ready.pass)
    }

    /// User and password of everybody else.
    pub fn admin(&self) -> (&str, &str) {
        (&self.ready.admin_user, &self.ready.admin_pass)
    }

    /// The file of the root certificate.
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// The calls that came through the front, by method.
    pub async fn calls(&self) -> Result<BTreeMap<String, u64>, WorldError> {
        Ok(serde_json::from_str(&self.control(http::Method::GET, "calls", None).await?)?)
    }

    /// The same, by the key of the session and by method.
    pub async fn calls_by_session(&self) -> Result<BTreeMap<String, BTreeMap<String, u64>>, WorldError> {
        Ok(serde_json::from_str(&self.control(http::Method::GET, "calls/by-session", None).await?)?)
    }

    /// Adds a fault behind those that there are.
    pub async fn fault(&self, fault: &Fault) -> Result<(), WorldError> {
        self.control(http::Method::POST, "faults", Some(serde_json::to_string(fault)?)).await.map(drop)
    }

    /// Ends all faults; how many calls each action has struck, of those faults
    /// that were not spent.
    pub async fn clear_faults(&self) -> Result<BTreeMap<String, u64>, WorldError> {
        let pending: Vec<Pending> = serde_json::from_str(&self.control(http::Method::GET, "faults", None).await?)?;
        self.control(http::Method::DELETE, "faults", None).await?;
        let mut struck = BTreeMap::new();
        for fault in pending {
            *struck.entry(fault.action).or_default() += fault.struck;
        }
        Ok(struck)
    }

    /// Cuts everybody off, or ends that.
    pub async fn outage(&self, on: bool) -> Result<(), WorldError> {
        self.control(http::Method::POST, if on { "down" } else { "up" }, None).await.map(drop)
    }

    /// Ends all sessions.
    pub async fn end_sessions(&self) -> Result<(), WorldError> {
        self.control(http::Method::DELETE, "sessions", None).await.map(drop)
    }

    /// Changes the password of the client under test. Its sessions stay.
    pub async fn set_password(&self, password: &str) -> Result<(), WorldError> {
        self.control(http::Method::PUT, "password", Some(password.to_owned())).await.map(drop)
    }

    async fn control(&self, method: http::Method, path: &str, body: Option<String>) -> Result<String, WorldError> {
        let request = self.http.request(method, format!("{}/{path}", self.ready.control));
        let request = body.into_iter().fold(request, reqwest::RequestBuilder::body);
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        if status.is_success() {
            Ok(text)
        } else {
            Err(format!("vcsim's control API on {path}: {status}: {text}").into())
        }
    }
}

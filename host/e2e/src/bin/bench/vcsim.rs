//! govmomi's vcsim behind its counting front, as `host/e2e/tools` builds it. It
//! ends when its standard input closes, so it never outlives this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use vmgroup_e2e::world::TEMPLATE;

use crate::Result;

/// A running vcsim.
pub struct Vcsim {
    child: Child,
    ready: Ready,
    http: reqwest::Client,
}

/// The line that it writes when it is ready.
#[derive(Deserialize)]
struct Ready {
    url: String,
    user: String,
    pass: String,
    control: String,
}

impl Vcsim {
    /// Starts one whose clones take this long; its CA is written to `ca`.
    pub async fn start(clone: Duration, ca: &Path) -> Result<Self> {
        let program = program();
        if !program.exists() {
            return Err("skipped: run host/e2e/tools/build".into());
        }
        let mut child = Command::new(program)
            .args(["-die-with-stdin", "-template", TEMPLATE, "-folder", "vm-operator"])
            .arg(format!("-task-delay=CloneVM:{}", clone.as_millis()))
            .arg("-ca-out")
            .arg(ca)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("vcsim has no output")?).lines();
        let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await??;
        let ready = serde_json::from_str(&line.ok_or("vcsim ended before it was ready")?)?;
        Ok(Self { child, ready, http: plain_http()? })
    }

    /// The number of its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The endpoint that counts.
    pub fn url(&self) -> &str {
        &self.ready.url
    }

    /// User and password.
    pub fn login(&self) -> (&str, &str) {
        (&self.ready.user, &self.ready.pass)
    }

    /// The calls so far, by SOAP method.
    pub async fn calls(&self) -> Result<BTreeMap<String, u64>> {
        let answer = self.http.get(format!("{}/calls", self.ready.control)).send().await?;
        Ok(serde_json::from_str(&answer.error_for_status()?.text().await?)?)
    }
}

/// A client for pages on loopback.
pub fn plain_http() -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10));
    Ok(builder.tls_certs_only(std::iter::empty()).build()?)
}

fn program() -> PathBuf {
    let tools = std::env::var_os("VMGROUP_E2E_TOOLS").map(PathBuf::from);
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/e2e-tools");
    tools.unwrap_or_else(default).join("bin/vcsim")
}

//! A real OCI registry (distribution), over TLS and with a login. Must not know what
//! is put into it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::{Process, free_port};
use super::tool;
use crate::world::{WorldError, eventually};

/// Who may push and pull.
pub const USER: &str = "robot";
/// His password.
pub const PASSWORD: &str = "a password of the registry";
/// Its bcrypt hash, the one form that the registry takes.
const HASH: &str = "$2a$04$KKECc3GHi6.27/moBREl5uedO3amJeQHLEPWviCl/ovE.XMMTxSii";

/// A registry with a folder, which it finds again when it is started again.
pub struct Registry {
    folder: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl Registry {
    /// Starts one, and waits until it listens.
    pub async fn start(folder: &Path) -> Result<Self, WorldError> {
        std::fs::create_dir_all(folder)?;
        let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        std::fs::write(folder.join("ca.pem"), certified.cert.pem())?;
        std::fs::write(folder.join("key.pem"), certified.signing_key.serialize_pem())?;
        std::fs::write(folder.join("htpasswd"), format!("{USER}:{HASH}\n"))?;
        let mut registry = Self { folder: folder.to_owned(), port: free_port()?, process: None };
        registry.restart().await?;
        Ok(registry)
    }

    /// `host:port`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The file of the certificate that it shows.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Ends it.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it again, with what was pushed before.
    pub async fn restart(&mut self) -> Result<(), WorldError> {
        self.stop();
        let at = |name: &str| self.folder.join(name).display().to_string();
        let config = serde_json::json!({
            "version": 0.1,
            "log": { "level": "warn" },
            "storage": { "filesystem": { "rootdirectory": at("storage") } },
            "http": {
                "addr": self.host(), "secret": "of one registry alone",
                "tls": { "certificate": at("ca.pem"), "key": at("key.pem") },
            },
            "auth": { "htpasswd": { "realm": "e2e", "path": at("htpasswd") } },
        });
        // YAML is a superset of JSON.
        std::fs::write(self.folder.join("config.yml"), config.to_string())?;
        let mut command = Command::new(tool("registry")?);
        command.arg("serve").arg(self.folder.join("config.yml")).env_clear().env("OTEL_TRACES_EXPORTER", "none");
        let process = Process::start("registry", command, &self.folder.join("registry.log"), None)?;
        self.process = Some(process);
        let host = self.host();
        eventually("the registry listens", Duration::from_secs(30), async || {
            tokio::net::TcpStream::connect(&host).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        Ok(())
    }

    /// Changes the last byte of a blob, behind its back.
    pub fn tamper(&self, digest: &str) -> Result<(), WorldError> {
        let hex = digest.strip_prefix("sha256:").ok_or("no sha256")?;
        let first = hex.get(..2).ok_or("too short")?;
        let path = self.folder.join(format!("storage/docker/registry/v2/blobs/sha256/{first}/{hex}/data"));
        let mut bytes = std::fs::read(&path)?;
        *bytes.last_mut().ok_or("an empty blob")? ^= 1;
        Ok(std::fs::write(path, bytes)?)
    }
}

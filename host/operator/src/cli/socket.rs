//! The way to the running operator: its local socket, or, from a desk, a
//! `kubectl exec` beside it. Must not know what is asked.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::Output;
use crate::decisions::SOCKET;

/// What this binary is called as a plugin of kubectl.
pub(super) const PLUGIN: &str = "kubectl-vmgroup";

/// An operator that is there answers at once: it does nothing but look.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Where the running operator is.
#[derive(Args, Debug)]
pub struct SocketArg {
    /// The socket of the running operator
    #[arg(long, env = "VMGROUP_SOCKET", value_name = "FILE", default_value = SOCKET)]
    socket: PathBuf,

    /// Reach it with `kubectl exec`; so does `kubectl vmgroup …`, if this binary is called kubectl-vmgroup
    #[arg(long, help_heading = "From a desk")]
    kubectl: bool,

    /// The operator's namespace
    #[arg(long, value_name = "NAMESPACE", default_value = "vmgroup-system", help_heading = "From a desk")]
    operator_namespace: String,

    /// Its Deployment, and the lease by which the leading pod is found
    #[arg(long, value_name = "NAME", default_value = "vmgroup-operator", help_heading = "From a desk")]
    operator_name: String,

    /// kubectl's context
    #[arg(long, value_name = "NAME", help_heading = "From a desk")]
    context: Option<String>,

    /// For people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(super) output: Output,
}

/// Why the running operator cannot be asked, or what it has against it.
#[derive(Debug, thiserror::Error)]
pub enum AskFailure {
    /// Nobody listens.
    #[error(
        "no operator listens on `{}`: run this beside it (kubectl exec deploy/vmgroup-operator -- /vmgroup …), reach it with --kubectl, or name its socket with --socket",
        .0.display()
    )]
    Absent(PathBuf, #[source] std::io::Error),
    /// kubectl is not there.
    #[error("kubectl cannot be started: install it, or run this beside the operator")]
    NoKubectl(#[source] std::io::Error),
    /// It does not answer, or breaks off.
    #[error("the operator does not answer on its socket")]
    Silent(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The same over kubectl, which has said more on standard error.
    #[error(
        "the operator does not answer through kubectl: can you exec into its pods? Does its version know `vmgroup tunnel`?"
    )]
    SilentKubectl(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It does not have what was asked for.
    #[error("{0}")]
    Denied(String),
    /// Records in a file.
    #[error(transparent)]
    Records(#[from] vmgroup_records::ReadError),
    /// A file that was to be sent along.
    #[error(transparent)]
    Input(#[from] super::policy::InputError),
    /// The result could not be written.
    #[error("the output could not be written")]
    Output(#[from] std::io::Error),
}

fn silent(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AskFailure {
    AskFailure::Silent(error.into())
}

/// The address of a page with its query.
pub(super) fn path(page: &str, query: &impl serde::Serialize) -> Result<String, AskFailure> {
    Ok(format!("{page}?{}", serde_urlencoded::to_string(query).map_err(silent)?))
}

impl SocketArg {
    /// Reads a page.
    pub(super) async fn ask<A: DeserializeOwned>(&self, path: &str) -> Result<A, AskFailure> {
        serde_json::from_slice(&self.fetch(path).await?).map_err(silent)
    }

    /// Reads a page as it comes.
    pub(super) async fn fetch(&self, path: &str) -> Result<Bytes, AskFailure> {
        let request = http::Request::get(path);
        self.exchange(request, Bytes::new(), PATIENCE).await
    }

    /// Sends a body along.
    pub(super) async fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<A, AskFailure> {
        let answer = self.exchange(http::Request::post(path), body, patience).await?;
        serde_json::from_slice(&answer).map_err(silent)
    }

    async fn exchange(
        &self,
        request: http::request::Builder,
        body: Bytes,
        patience: Duration,
    ) -> Result<Bytes, AskFailure> {
        let request = request
            .header(http::header::HOST, "vmgroup")
            // So that a tunnel ends with the answer.
            .header(http::header::CONNECTION, "close")
            .body(Full::new(body))
            .map_err(silent)?;
        let answered = async {
            if !self.kubectl {
                let stream = UnixStream::connect(&self.socket).await;
                return talk(stream.map_err(|error| AskFailure::Absent(self.socket.clone(), error))?, request).await;
            }
            let mut tunnel = self.tunnel().await?;
            let (Some(stdout), Some(stdin)) = (tunnel.stdout.take(), tunnel.stdin.take()) else {
                return Err(silent("kubectl has no standard input and output"));
            };
            match talk(tokio::io::join(stdout, stdin), request).await {
                Err(AskFailure::Silent(error)) => Err(AskFailure::SilentKubectl(error)),
                other => other,
            }
        };
        tokio::time::timeout(patience, answered).await.map_err(silent)?
    }

    fn kubectl(&self) -> Command {
        let mut kubectl = Command::new("kubectl");
        if let Some(context) = &self.context {
            kubectl.arg("--context").arg(context);
        }
        kubectl.arg("--namespace").arg(&self.operator_namespace).kill_on_drop(true);
        kubectl
    }

    /// `vmgroup tunnel` in the pod that leads; without an election, in any.
    async fn tunnel(&self) -> Result<Child, AskFailure> {
        let holder = self
            .kubectl()
            .args(["get", "lease", &self.operator_name, "--ignore-not-found", "-o", "jsonpath={.spec.holderIdentity}"])
            .stderr(Stdio::null())
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(AskFailure::NoKubectl)?;
        let holder = String::from_utf8_lossy(&holder.stdout).trim().to_owned();
        let pod = match pod_of(&holder) {
            Some(pod) => format!("pod/{pod}"),
            None => format!("deploy/{}", self.operator_name),
        };
        self.kubectl()
            .args(["exec", "--stdin", &pod, "--", "/vmgroup", "tunnel"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(AskFailure::NoKubectl)
    }
}

/// The pod of a lease's holder, `<pod>_<process>`.
fn pod_of(holder: &str) -> Option<&str> {
    holder.rsplit_once('_').map(|(pod, _)| pod).filter(|pod| !pod.is_empty())
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Full<Bytes>>,
) -> Result<Bytes, AskFailure> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(silent)?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(silent)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(silent)?.to_bytes();
    if status.is_success() { Ok(body) } else { Err(AskFailure::Denied(String::from_utf8_lossy(&body).into_owned())) }
}

/// `vmgroup tunnel`: standard input to the socket, and what comes back to standard
/// output, until the operator closes.
pub(super) async fn tunnel(socket: &Path) -> Result<(), AskFailure> {
    let stream = UnixStream::connect(socket).await.map_err(|error| AskFailure::Absent(socket.to_owned(), error))?;
    let (mut from, mut to) = stream.into_split();
    let (mut stdin, mut stdout) = (tokio::io::stdin(), tokio::io::stdout());
    let asking = tokio::spawn(async move { tokio::io::copy(&mut stdin, &mut to).await.map(|_| to) });
    tokio::io::copy(&mut from, &mut stdout).await?;
    asking.abort();
    Ok(())
}

/// Called as a plugin of kubectl, the commands that ask the operator (those of `all`
/// with a [`SocketArg`]) reach it through kubectl.
pub(super) fn as_plugin(mut arguments: Vec<OsString>, all: &clap::Command) -> Vec<OsString> {
    let called = arguments.first().and_then(|name| Path::new(name).file_stem()).is_some_and(|name| name == PLUGIN);
    let mut command = all;
    for word in arguments.iter().skip(1) {
        let Some(below) = command.find_subcommand(word) else { break };
        command = below;
    }
    if called && command.get_arguments().any(|flag| flag.get_long() == Some("kubectl")) {
        arguments.push("--kubectl".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn a_holder_is_a_pod_and_a_process() {
        assert_eq!(pod_of("vmgroup-operator-7c9-abc_00ff"), Some("vmgroup-operator-7c9-abc"));
        assert_eq!(pod_of(""), None);
    }

    #[test]
    fn as_a_plugin_it_goes_through_kubectl() {
        let all = Cli::command();
        let of = |line: &str| as_plugin(line.split(' ').map(OsString::from).collect(), &all);
        assert_eq!(of("/usr/bin/kubectl-vmgroup explain a/b c").last().unwrap(), "--kubectl");
        assert_eq!(of("kubectl-vmgroup policy check x").last().unwrap(), "x");
        assert_eq!(of("vmgroup explain a/b c").last().unwrap(), "c");
        assert_eq!(of("kubectl-vmgroup preview a/b").last().unwrap(), "--kubectl");
        for below in ["decisions list", "decisions show 7", "decisions export", "shadow report"] {
            assert_eq!(of(&format!("kubectl-vmgroup {below}")).last().unwrap(), "--kubectl", "{below}");
        }
        // What is lacking is named then, and not what was added.
        for lone in ["decisions", "shadow", "decisions help"] {
            let line = format!("kubectl-vmgroup {lone}");
            assert_eq!(of(&line), line.split(' ').map(OsString::from).collect::<Vec<_>>());
        }
    }
}

//! Both simulators over HTTP, and the operator's own binary beside them, for whoever
//! has kubectl. The operator has a pod in the simulated cluster, and what is exec'ed in
//! there runs on this machine. Must not know what it is played with.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kube::CustomResourceExt;
use serde_json::json;
use tokio::io::{AsyncWriteExt as _, copy};
use tokio::process::{Child, Command};
use vmgroup_api::VmGroup;
use vmgroup_sim::clock::Clock;
use vmgroup_sim::kube::{Exec, KubeSim};
use vmgroup_sim::serve::{Server, TlsIdentity, kubeconfig, serve};
use vmgroup_sim::vcenter::{TaskDurations, VcenterConfig, VcenterSim};

use crate::world::{OPERATOR_NAMESPACE, TEMPLATE, User, WorldError};

/// Who may do everything in the simulated vCenter.
pub const USER: &str = "operator@vsphere.local";
/// His password.
pub const PASSWORD: &str = "demo";
/// The operator's pod.
pub const POD: &str = "vmgroup-operator-0";

/// The simulators, as long as it lives, and their files.
pub struct Playground {
    /// The simulated Kubernetes API.
    pub kube: KubeSim,
    /// The simulated vCenter.
    pub vcenter: VcenterSim,
    /// Where the first is served.
    pub kube_server: Server,
    /// Where the second is, over TLS.
    pub vcenter_server: Server,
    /// Who may do everything in Kubernetes.
    pub user: User,
    folder: PathBuf,
}

impl Playground {
    /// The simulators up and running. In `folder` are what clients need, and the
    /// operator's log and socket.
    pub async fn set(folder: &Path) -> Result<Self, WorldError> {
        std::fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let clock = Clock::system();
        let kube = KubeSim::new(clock, 7);
        let vcenter = VcenterSim::new(
            VcenterConfig {
                user: USER.into(),
                password: PASSWORD.into(),
                // The original's text has a manifest with the one, and one with the other.
                templates: vec![TEMPLATE.into(), "my-operator-template".into()],
                durations: TaskDurations { clone: Duration::from_millis(600), ..TaskDurations::default() },
                ..VcenterConfig::default()
            },
            clock,
        );
        kube.create_namespace(OPERATOR_NAMESPACE).map_err(|error| format!("{error:?}"))?;
        kube.apply(serde_json::to_value(VmGroup::crd())?).map_err(|error| format!("{error:?}"))?;
        let (identity, ca) = TlsIdentity::self_signed(&["localhost"])?;
        let kube_server = serve(kube.service(), None).await?;
        let vcenter_server = serve(vcenter.service(), Some(&identity)).await?;
        let kubeconfig_file = folder.join("kubeconfig");
        std::fs::write(&kubeconfig_file, kubeconfig(kube_server.addr))?;
        std::fs::write(folder.join("vcenter-ca.pem"), ca)?;
        let config = kube::Config::from_custom_kubeconfig(
            kube::config::Kubeconfig::read_from(&kubeconfig_file)?,
            &kube::config::KubeConfigOptions::default(),
        )
        .await?;
        let user = User::new(kube::Client::try_from(config)?);
        Ok(Self { kube, vcenter, kube_server, vcenter_server, user, folder })
    }

    /// The whole path of one of its files: `kubeconfig`, `vcenter-ca.pem`, `socket`,
    /// `operator.log`.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Starts the operator, and puts it into its pod. It ends when it is dropped.
    pub fn operator(&self, binary: &Path, flags: &[&str]) -> Result<Child, WorldError> {
        self.pod(binary)?;
        let operator = Command::new(binary)
            .args(["run", "--log-format", "text", "--metrics-addr", "127.0.0.1:0"])
            .args(["--namespace", OPERATOR_NAMESPACE])
            .arg("--socket")
            .arg(self.path("socket"))
            .arg("--vc-ca-file")
            .arg(self.path("vcenter-ca.pem"))
            .args(flags)
            .env("KUBECONFIG", self.path("kubeconfig"))
            .env("POD_NAME", POD)
            .env("VC_HOST", format!("https://{}/sdk", self.vcenter_server.addr))
            .env("VC_USER", USER)
            .env("VC_PASS", PASSWORD)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.path("operator.log"))?)
            .kill_on_drop(true)
            .spawn()?;
        Ok(operator)
    }

    /// Deployment and pod, named as in `deploy/base`.
    fn pod(&self, binary: &Path) -> Result<(), WorldError> {
        let labels = json!({ "app.kubernetes.io/name": "vmgroup-operator" });
        let spec = json!({ "containers": [{ "name": "vmgroup", "image": "vmgroup-operator" }] });
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "vmgroup-operator", "namespace": OPERATOR_NAMESPACE, "labels": labels },
            "spec": {
                "replicas": 1, "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": spec },
            },
        });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": POD, "namespace": OPERATOR_NAMESPACE, "labels": labels },
            "spec": spec,
        });
        for object in [deployment, pod] {
            self.kube.apply(object).map_err(|error| format!("{error:?}"))?;
        }
        let running = json!({ "phase": "Running" });
        self.kube.set_status("pods", Some(OPERATOR_NAMESPACE), POD, running).map_err(|error| format!("{error:?}"))?;
        let (binary, socket) = (binary.to_owned(), self.path("socket"));
        self.kube.on_exec(move |exec| run_in_pod(exec, binary.clone(), socket.clone()));
        Ok(())
    }
}

/// The image has one program, and the operator's socket.
async fn run_in_pod(exec: Exec, binary: PathBuf, socket: PathBuf) -> i32 {
    let Exec { namespace: _, pod: _, command, mut stdin, mut stdout, mut stderr } = exec;
    let (program, arguments) = command.split_first().map_or(("", [].as_slice()), |(first, rest)| (first, rest));
    if program != "/vmgroup" {
        let said = format!("exec: \"{program}\": the image has nothing but /vmgroup\n");
        let _ = stderr.write_all(said.as_bytes()).await;
        return 127;
    }
    let child = Command::new(binary)
        .args(arguments)
        .env("VMGROUP_SOCKET", socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut child) = child else { return 126 };
    let (Some(mut input), Some(mut output), Some(mut errors)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return 126;
    };
    let feeding = async move {
        let _ = copy(&mut stdin, &mut input).await;
        drop(input);
        std::future::pending::<()>().await;
    };
    let working = async {
        let _ = tokio::join!(copy(&mut output, &mut stdout), copy(&mut errors, &mut stderr));
        child.wait().await.ok().and_then(|status| status.code()).unwrap_or(137)
    };
    tokio::select! {
        code = working => code,
        () = feeding => 137,
    }
}

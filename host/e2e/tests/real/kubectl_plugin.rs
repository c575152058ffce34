//! `kubectl vmgroup …` as a person uses it: the real kubectl finds the plugin, the plugin
//! execs through the real kubectl into the operator's pod, over a WebSocket. The cluster is
//! the simulated one: it needs a kubelet, which the API server alone does not bring.

#![allow(clippy::expect_used, reason = "helpers of a test, outside of #[test]")]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;

use tokio::process::Command;
use vmgroup_e2e::playground::{POD, Playground};
use vmgroup_e2e::world::{WorldError, eventually};

use super::SOON;

/// A folder with the plugin in it, and whatever a person has.
struct Desk {
    folder: PathBuf,
    ground: Playground,
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Desk {
    async fn new(binary: &Path) -> Result<Self, WorldError> {
        let folder = std::env::temp_dir().join(format!("vmgroup-kubectl-{}", std::process::id()));
        let ground = Playground::set(&folder).await?;
        symlink(binary, folder.join("kubectl-vmgroup"))?;
        Ok(Self { folder, ground })
    }

    async fn kubectl(&self, arguments: &[&str]) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut kubectl = Command::new("kubectl");
        kubectl
            .args(arguments)
            .env("KUBECONFIG", self.ground.path("kubeconfig"))
            .env("HOME", &self.folder)
            .env("PATH", format!("{}:{path}", self.folder.display()))
            .env_remove("VMGROUP_SOCKET")
            .kill_on_drop(true);
        tokio::time::timeout(SOON, kubectl.output()).await.expect("kubectl ends").expect("kubectl starts")
    }

    /// What a command prints that succeeds.
    async fn says(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.kubectl(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output.stdout
    }

    async fn tells(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.says(arguments).await).expect("text")
    }
}

pub async fn story(binary: &Path) -> Result<(), WorldError> {
    let desk = Desk::new(binary).await?;
    let mut operator = desk.ground.operator(binary, &["--leader-elect"])?;
    let user = &desk.ground.user;
    let policy = "naming: { plugin: ordinal }\nscaling: { plugin: ordered, shadow: { plugin: idle-first } }\n";
    user.policy(Some(policy), &[]).await;
    user.group("shop", "web", 3).await;
    user.ready("shop", "web", 3, SOON).await;

    // By the lease, to the pod that leads.
    let shown = desk.tells(&["vmgroup", "preview", "shop/web", "--replicas", "2"]).await;
    assert!(shown.contains("shop/web: 3 there, 2 wished instead of 3") && shown.contains("- web-2"), "{shown}");
    // A file of the desk goes along, byte for byte, or it would not pass its check.
    let mine = desk.folder.join("mine.wasm");
    std::fs::write(&mine, vmgroup_policy::shipped::find("ordered").expect("it is shipped").bytes)?;
    let mine = mine.display().to_string();
    let with_mine =
        ["vmgroup", "preview", "shop/web", "--replicas", "2", "--policy", &mine, "--config", r#"{"order":"oldest"}"#];
    let shown = desk.tells(&with_mine).await;
    assert!(shown.contains("- web-0"), "{shown}");

    user.scale("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    let listed = desk.tells(&["vmgroup", "decisions", "list", "--group", "shop/web"]).await;
    assert!(listed.contains("scaling") && listed.contains("naming"), "{listed}");
    let explained = desk.tells(&["vmgroup", "explain", "shop/web", "web-0"]).await;
    assert!(explained.contains("ordinal"), "{explained}");
    eventually("the policy on trial was asked", SOON, async || {
        let report = desk.tells(&["vmgroup", "shadow", "report"]).await;
        if report.contains("idle-first") && report.contains("of 1 decisions") { Ok(()) } else { Err(report) }
    })
    .await;
    // Bytes that are no text come through as they are.
    let exported = desk.says(&["vmgroup", "decisions", "export"]).await;
    let records = desk.folder.join("decisions.jsonl.zst");
    std::fs::write(&records, exported)?;
    let replay = ["policy", "replay", &records.display().to_string(), "--policy", "ordered"].map(str::to_owned);
    let replayed = Command::new(binary).args(replay).output().await?;
    assert!(replayed.status.success(), "{replayed:?}");

    // What the operator has against it, with its own code.
    let output = desk.kubectl(&["vmgroup", "preview", "shop/none"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("shop/none"), "{said}");

    // And without the plugin, as docs/operations.md has it.
    let exec = ["-n", "vmgroup-system", "exec", "deploy/vmgroup-operator", "--"];
    let listed = desk.tells(&[&exec[..], &["/vmgroup", "decisions", "list"]].concat()).await;
    assert!(listed.contains("scaling"), "{listed}");
    let output = desk.kubectl(&[&exec[..], &["/vmgroup", "explain", "shop/web", "nobody"]].concat()).await;
    assert_eq!(output.status.code(), Some(1), "the command's own code: {output:?}");
    let output = desk.kubectl(&[&exec[..], &["/bin/sh"]].concat()).await;
    assert_eq!(output.status.code(), Some(127), "{output:?}");

    // Nobody there: kubectl's words, and ours.
    let output = desk.kubectl(&["vmgroup", "shadow", "report", "--operator-name", "another"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("another") && said.contains("through kubectl"), "{said}");
    assert!(desk.ground.kube.get("pods", Some("vmgroup-system"), POD).is_some());
    operator.kill().await?;
    Ok(())
}

//! `make demo`: the main job from beginning to end, told in the terminal.
//!
//! Both simulators are served over HTTP, the operator is the very binary that
//! production runs, and every step is checked: the first that does not hold ends
//! the demo with an error. `--keep` leaves everything running to play with.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use vmgroup_api::PolicyStatus;
use vmgroup_e2e::made::{Made, SELF_TEST};
use vmgroup_e2e::playground::{PASSWORD, Playground, USER};
use vmgroup_e2e::world::{OPERATOR_NAMESPACE, ROOT};
use vmgroup_policy::Kind;
use vmgroup_sim::vcenter::VmView;

const SOON: Duration = Duration::from_secs(30);

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

#[derive(Parser)]
#[command(about = "The main job of the VmGroup operator, on simulators, in the terminal")]
struct Arguments {
    /// Leave everything running after the story, and say how to play with it
    #[arg(long)]
    keep: bool,

    /// No story: the inner loop of this policy's crate, with a group that it decides for
    #[arg(long, value_name = "FOLDER", conflicts_with = "keep")]
    serve: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let begin = Instant::now();
    let (mut stage, mut operator) = Stage::set().await?;
    let told = tokio::select! {
        told = async {
            match &arguments.serve {
                Some(folder) => stage.serve(folder).await,
                None => stage.story().await,
            }
        } => told,
        ended = operator.wait() => Err(format!("the operator ended: {ended:?}").into()),
    };
    if let Err(error) = told {
        eprintln!("\n{}", stage.paint.bad(&format!("the demo failed: {error}")));
        eprintln!("{}", std::fs::read_to_string(stage.ground.path("operator.log")).unwrap_or_default());
        // Exiting runs no destructors, and nothing may be left behind.
        let _ = operator.kill().await;
        std::process::exit(1);
    }
    if arguments.serve.is_some() {
        return Ok(());
    }
    println!("\n{}", stage.paint.good(&format!("Every step held. {:.1} s.", begin.elapsed().as_secs_f64())));
    if arguments.keep {
        stage.stay(&mut operator).await?;
    } else {
        println!("To play with it yourself: make demo KEEP=1. To use it: README.md.");
    }
    Ok(())
}

/// Colours, where there is a terminal.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    fn head(self, text: &str) -> String {
        self.with("1;36", text)
    }
    fn good(self, text: &str) -> String {
        self.with("1;32", text)
    }
    fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }
    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }
}

struct Stage {
    ground: Playground,
    paint: Paint,
    step: u32,
    seen_events: BTreeSet<String>,
}

impl Stage {
    /// Simulators and operator, up and running.
    async fn set() -> Result<(Self, Child)> {
        let paint = Paint(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none());
        let ground = Playground::set(Path::new(".vmgroup/demo")).await?;
        let operator = ground.operator(&binary()?, &[])?;
        Ok((Self { ground, paint, step: 0, seen_events: BTreeSet::new() }, operator))
    }

    async fn story(&mut self) -> Result<()> {
        println!(
            "{}",
            self.paint.head("VmGroup operator: virtual machines from Kubernetes, decided by your WebAssembly policies")
        );
        self.say("a simulated Kubernetes API, a simulated vCenter (DC0, three hosts), and the real operator binary are running");
        self.a_group_comes_up().await?;
        self.it_scales().await?;
        self.its_policies_are_swapped().await?;
        self.another_policy_is_weighed().await?;
        self.a_broken_plugin_is_refused().await?;
        self.a_policy_turns_bad().await?;
        self.a_machine_is_lost().await?;
        self.the_group_goes().await
    }

    /// The inner loop: a group, and `vmgroup policy serve --apply` beside it.
    async fn serve(&mut self, folder: &Path) -> Result<()> {
        self.head("A group of five on simulators, and the policy that is being written");
        self.ground.user.group("shop", "web", 5).await;
        self.ground.user.ready("shop", "web", 5, SOON).await;
        self.show_machines(&BTreeSet::new())?;
        self.say("what became of each swap, and what it would do, in another terminal:");
        println!("    export KUBECONFIG={} VMGROUP_SOCKET={}", self.path("kubeconfig"), self.path("socket"));
        println!("    kubectl -n {OPERATOR_NAMESPACE} describe configmap vmgroup-policy");
        println!("    kubectl -n shop scale vmgroup web --replicas=3; kubectl -n shop describe vmgroup web");
        println!("    {} preview shop/web --replicas 3", binary()?.display());
        let mut serve = Command::new(binary()?)
            .args(["policy", "serve", "--apply"])
            .arg(folder)
            .env("KUBECONFIG", self.path("kubeconfig"))
            .kill_on_drop(true)
            .spawn()?;
        let mut told = String::new();
        let mut look = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(()),
                ended = serve.wait() => return Err(format!("`vmgroup policy serve` ended: {}", ended?).into()),
                _ = look.tick() => {
                    let events = self.ground.user.events(OPERATOR_NAMESPACE, "vmgroup-policy").await;
                    if let Some(event) = events.last().filter(|event| **event != told) {
                        println!("  {} {event}", self.paint.head("operator"));
                        told.clone_from(event);
                    }
                }
            }
        }
    }

    async fn a_group_comes_up(&mut self) -> Result<()> {
        self.head("A group comes up");
        self.command("kubectl apply -f - <<< 'kind: VmGroup, name: web, cpu: 2, memory: 1, replicas: 3'");
        self.ground.user.group("shop", "web", 3).await;
        self.ground.user.ready("shop", "web", 3, SOON).await;
        self.show_group().await?;
        self.show_machines(&BTreeSet::new())?;
        let vms = self.machines();
        self.hold(
            "three machines, each powered on with 2 CPUs and 1 GB",
            vms.len() == 3 && vms.iter().all(|vm| vm.power_on && vm.cpus == 2 && vm.memory_mib == 1024),
        )?;
        self.hold("named as the built-in naming policy does", vms.iter().all(|vm| vm.name.starts_with("web-replica-")))
    }

    async fn it_scales(&mut self) -> Result<()> {
        self.head("It scales, and says why who had to go");
        let first = self.names();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        self.command("kubectl scale vmgroup web -n shop --replicas=5");
        self.ground.user.scale("shop", "web", 5).await;
        self.ground.user.ready("shop", "web", 5, SOON).await;
        self.show_machines(&first)?;
        self.say("who would go is known before");
        let foreseen = self.vmgroup(&["preview", "shop/web", "--replicas", "3"]).await?;
        self.hold("nobody is gone yet", self.names().len() == 5)?;
        self.command("kubectl scale vmgroup web -n shop --replicas=3");
        self.ground.user.scale("shop", "web", 3).await;
        self.ground.user.ready("shop", "web", 3, SOON).await;
        self.show_reasons().await;
        let left = self.names();
        self.hold("the two newest went (the built-in scaling policy), the first three stayed", left == first)?;
        let as_said = !left.iter().any(|name| foreseen.contains(name));
        self.hold("as the preview had said", as_said)
    }

    async fn its_policies_are_swapped(&mut self) -> Result<()> {
        self.head("Its policies are swapped while it runs");
        let policy = "naming:  { plugin: ordinal, config: { pattern: \"{namespace}-{group}-{ordinal}\", width: 2 } }\nplacement: { plugin: spread, config: { by: host } }\nscaling: { plugin: idle-first, shadow: { plugin: ordered, config: { order: oldest } } }\n";
        self.command("kubectl edit configmap vmgroup-policy -n vmgroup-system");
        for line in policy.lines() {
            println!("    {}", self.paint.dim(line));
        }
        self.ground.user.policy(Some(policy), &[]).await;
        self.wait_for_policy("ordinal", |policies| policies.naming.plugin).await;
        self.say("checked in stages, then swapped between two decisions; now the next decisions differ");
        let before = self.names();
        self.ground.user.scale("shop", "web", 6).await;
        self.ground.user.ready("shop", "web", 6, SOON).await;
        self.show_machines(&before)?;
        let new: Vec<String> = self.names().difference(&before).cloned().collect();
        self.hold("new members are named by the new pattern", new == ["shop-web-00", "shop-web-01", "shop-web-02"])?;
        for vm in self.machines() {
            let idle = vm.name.ends_with("01") || vm.name.ends_with("02");
            self.ground.vcenter.set_cpu_usage(&vm.path, if idle { 15 } else { 900 })?;
        }
        self.say("shop-web-01 and shop-web-02 have nothing to do, the others are busy");
        self.command("kubectl scale vmgroup web -n shop --replicas=4");
        self.ground.user.scale("shop", "web", 4).await;
        self.ground.user.ready("shop", "web", 4, SOON).await;
        self.show_reasons().await;
        let left = self.names();
        self.hold(
            "the two idle ones went",
            !left.contains("shop-web-01") && !left.contains("shop-web-02") && left.contains("shop-web-00"),
        )
    }

    async fn another_policy_is_weighed(&mut self) -> Result<()> {
        self.head("Another policy is weighed on what has happened");
        self.say("`ordered`, oldest first, was on trial all the while (shadow: in policy.yaml): asked the same, and not obeyed");
        // It is asked after the one that decides, whom nobody keeps waiting for it.
        let deadline = Instant::now() + SOON;
        let asked = async || -> Result<bool> {
            let report = self.ask_operator(&["shadow", "report", "--output", "json"]).await?;
            let trials: serde_json::Value = serde_json::from_str(&report)?;
            Ok(trials[0]["asked"].as_u64() > Some(0))
        };
        while !asked().await? && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let report = self.vmgroup(&["shadow", "report"]).await?;
        self.hold("it would have had others leave", report.contains("agrees in 0 % of 1 decisions"))?;
        let records = self.path("decisions.jsonl.zst");
        self.command("vmgroup decisions export > decisions.jsonl.zst");
        std::fs::write(&records, self.output(&["decisions", "export"]).await?)?;
        let page = self.path("replay.html");
        let replay = ["policy", "replay", &records, "--policy", "ordered", "--config", r#"{"order":"oldest"}"#];
        let replayed = self.vmgroup(&[&replay[..], &["--html", &page]].concat()).await?;
        self.hold(
            "yesterday's questions under tomorrow's policy: two would go another way",
            replayed.contains("2  another choice"),
        )
    }

    /// Shows a command and what it prints.
    async fn vmgroup(&self, arguments: &[&str]) -> Result<String> {
        let typed = |word: &&str| match word.rsplit_once("/demo/") {
            Some((_, file)) => file.to_owned(),
            None if word.contains('{') => format!("'{word}'"),
            None => (*word).to_owned(),
        };
        let typed: Vec<String> = arguments.iter().map(typed).collect();
        self.command(&format!("vmgroup {}", typed.join(" ")));
        let text = self.ask_operator(arguments).await?;
        for line in text.lines() {
            println!("    {}", self.paint.dim(line));
        }
        Ok(text)
    }

    async fn ask_operator(&self, arguments: &[&str]) -> Result<String> {
        Ok(String::from_utf8(self.output(arguments).await?)?)
    }

    /// What the operator's binary prints, asking the operator that runs.
    async fn output(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output =
            Command::new(binary()?).args(arguments).env("VMGROUP_SOCKET", self.path("socket")).output().await?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(format!("vmgroup {arguments:?} failed: {}", String::from_utf8_lossy(&output.stderr)).into())
    }

    async fn a_broken_plugin_is_refused(&mut self) -> Result<()> {
        self.head("A broken plugin is offered, and refused");
        self.command("kubectl create configmap vmgroup-policy --from-file=better.wasm …   # a truncated file");
        let good = vmgroup_policy::shipped::find("ordered").ok_or("the shipped policy `ordered` is missing")?;
        let half = &good.bytes[..good.bytes.len() / 2];
        let before = self.names();
        self.ground.user.policy(Some("scaling: { plugin: better.wasm }\n"), &[("better.wasm", half)]).await;
        let message = self.ground.user.told("shop", "web", "PolicyRefused", "better.wasm", SOON).await;
        println!("    {}", self.paint.bad(&message));
        self.hold("nothing happened to the group, and the policies of before are in force", self.names() == before)?;
        let group = self.ground.user.groups("shop").get("web").await?;
        let in_force = group.status.and_then(|status| status.policies).map(|policies| policies.scaling.plugin);
        self.hold("the status says so", in_force.as_deref() == Some("idle-first"))
    }

    async fn a_policy_turns_bad(&mut self) -> Result<()> {
        self.head("A policy passes its checks and turns bad at work");
        let bad = Made::new(Kind::Scaling).panics("index out of bounds").bad_since(SELF_TEST + 1).bytes();
        let policy = "naming:  { plugin: ordinal, config: { pattern: \"{namespace}-{group}-{ordinal}\", width: 2 } }\nplacement: { plugin: spread, config: { by: host } }\nscaling: { plugin: clever.wasm }\nbreaker: { failures: 2 }\n";
        self.command("kubectl edit configmap vmgroup-policy -n vmgroup-system   # scaling: { plugin: clever.wasm }, breaker: { failures: 2 }");
        self.ground.user.policy(Some(policy), &[("clever.wasm", &bad)]).await;
        self.wait_for_policy("clever.wasm", |policies| policies.scaling.plugin).await;
        self.say("it is in force, and crashes whenever somebody has to leave; nobody does");
        let before = self.names();
        self.command("kubectl scale vmgroup web -n shop --replicas=3");
        self.ground.user.scale("shop", "web", 3).await;
        let stalled = self.ground.user.told("shop", "web", "Stalled", "crashed", SOON).await;
        println!("    {}", self.paint.bad(&stalled));
        self.hold("nobody left", self.names() == before)?;
        self.wait_for_policy("idle-first", |policies| policies.scaling.plugin).await;
        let events = self.ground.user.events(OPERATOR_NAMESPACE, "vmgroup-policy").await;
        let taken_back = events.iter().filter(|event| event.starts_with("PolicyRolledBack"));
        for event in taken_back.clone() {
            println!("    {}", self.paint.bad(event));
        }
        self.hold("it was taken back by itself, and an event says so", taken_back.count() == 1)?;
        self.ground.user.ready("shop", "web", 3, SOON).await;
        self.show_reasons().await;
        self.hold("the policy of before chose who leaves", self.names().len() == 3)
    }

    async fn a_machine_is_lost(&mut self) -> Result<()> {
        self.head("A machine is lost behind the operator's back");
        let lost = self.machines().into_iter().next().ok_or("no machine")?;
        let before = self.names();
        self.command(&format!("govc vm.destroy {}", lost.path));
        self.ground.vcenter.power_off(&lost.path)?;
        self.ground.vcenter.destroy(&lost.path)?;
        let deadline = Instant::now() + SOON;
        let healed = |machines: &[VmView]| {
            machines.len() == before.len()
                && machines.iter().all(|vm| vm.power_on && vm.instance_uuid != lost.instance_uuid)
        };
        while !healed(&self.machines()) {
            if Instant::now() > deadline {
                return Err("the lost machine was not replaced".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.ground.user.ready("shop", "web", 3, SOON).await;
        self.show_machines(&before)?;
        let left = self.machines();
        let others = before.iter().filter(|name| **name != lost.name);
        let nobody_else = others.into_iter().all(|name| left.iter().any(|vm| vm.name == *name));
        self.hold(
            "it was replaced by a new one, and nobody else was touched",
            left.len() == before.len() && nobody_else,
        )
    }

    async fn the_group_goes(&mut self) -> Result<()> {
        self.head("The group goes");
        self.command("kubectl delete vmgroup web -n shop");
        self.ground.user.delete("shop", "web").await;
        self.ground.user.gone("shop", "web", SOON).await;
        let left = self.ground.vcenter.vms().into_iter().filter(|vm| !vm.template).count();
        let folders =
            self.ground.vcenter.folders().into_iter().filter(|path| path.starts_with(&format!("{ROOT}/"))).count();
        self.hold("no machine and no folder is left in vCenter", left == 0 && folders == 0)
    }

    fn head(&mut self, title: &str) {
        self.step += 1;
        println!("\n{}", self.paint.head(&format!("{}. {title}", self.step)));
    }

    #[allow(clippy::unused_self, reason = "reads like its sisters")]
    fn say(&self, text: &str) {
        println!("  {text}");
    }

    fn command(&self, line: &str) {
        println!("  {} {line}", self.paint.dim("$"));
    }

    fn hold(&self, what: &str, holds: bool) -> Result<()> {
        if !holds {
            return Err(format!("this does not hold: {what}").into());
        }
        println!("  {} {what}", self.paint.good("✓"));
        Ok(())
    }

    fn machines(&self) -> Vec<VmView> {
        let mut vms: Vec<VmView> = self.ground.vcenter.vms().into_iter().filter(|vm| !vm.template).collect();
        vms.sort_by(|a, b| a.name.cmp(&b.name));
        vms
    }

    fn names(&self) -> BTreeSet<String> {
        self.machines().into_iter().map(|vm| vm.name).collect()
    }

    async fn show_group(&self) -> Result<()> {
        let group = self.ground.user.groups("shop").get("web").await?;
        let status = group.status.unwrap_or_default();
        let number = |count: Option<i32>| count.map_or_else(String::new, |count| count.to_string());
        println!("    {}", self.paint.dim("NAME   PHASE     CURRENT   DESIRED   LAST_MESSAGE"));
        println!(
            "    web    {:<9} {:<9} {:<9} {}",
            status.phase.map_or_else(String::new, |phase| format!("{phase:?}").to_uppercase()),
            number(status.current_replicas),
            number(status.desired_replicas),
            status.last_message.unwrap_or_default()
        );
        Ok(())
    }

    fn show_machines(&self, known: &BTreeSet<String>) -> Result<()> {
        for vm in self.machines() {
            let new =
                if !known.is_empty() && !known.contains(&vm.name) { self.paint.good(" new") } else { String::new() };
            let mut line = String::new();
            write!(line, "    {:<55} {:<12}{}", vm.path, vm.host, new)?;
            println!("{line}");
        }
        Ok(())
    }

    async fn show_reasons(&mut self) {
        for event in self.ground.user.events("shop", "web").await {
            if event.contains(" leaves: ") && self.seen_events.insert(event.clone()) {
                println!("    {}", event.trim_start_matches("ScalingIn: "));
            }
        }
    }

    async fn wait_for_policy(&self, plugin: &str, of: impl Fn(PolicyStatus) -> String) {
        let api = self.ground.user.groups("shop");
        vmgroup_e2e::world::eventually("the policy is in force", SOON, async || {
            let group = api.get("web").await.map_err(|error| error.to_string())?;
            let in_force = of(group.status.and_then(|status| status.policies).ok_or("none")?);
            if in_force == plugin { Ok(()) } else { Err(in_force) }
        })
        .await;
    }

    /// The whole path of a file of the demo's.
    fn path(&self, file: &str) -> String {
        self.ground.path(file).display().to_string()
    }

    async fn stay(&self, operator: &mut Child) -> Result<()> {
        // Whoever plays begins with the built-in policies.
        self.ground.user.config_maps().delete("vmgroup-policy", &kube::api::DeleteParams::default()).await?;
        println!("\n{}", self.paint.head("It goes on running. In another terminal:"));
        println!("  export KUBECONFIG={} VMGROUP_SOCKET={}", self.path("kubeconfig"), self.path("socket"));
        println!(
            "  kubectl create namespace myoperator-vms; kubectl apply -f examples/vmgroup.yaml; kubectl get vg -A"
        );
        println!("  {} preview myoperator-vms/vmgroup-sample --replicas 5", binary()?.display());
        println!(
            "  export GOVC_URL=https://{}/sdk GOVC_USERNAME={USER} GOVC_PASSWORD={PASSWORD} GOVC_TLS_CA_CERTS={}",
            self.ground.vcenter_server.addr,
            self.path("vcenter-ca.pem")
        );
        println!("  govc ls {ROOT}");
        println!("  tail -f {}", self.path("operator.log"));
        println!("Kubernetes is at http://{}. Ctrl-C ends it.", self.ground.kube_server.addr);
        tokio::select! {
            _ = tokio::signal::ctrl_c() => Ok(()),
            ended = operator.wait() => Err(format!("the operator ended: {ended:?}").into()),
        }
    }
}

/// The operator's binary, beside this one.
fn binary() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let binary = here.parent().unwrap_or(Path::new(".")).join("vmgroup");
    if binary.exists() {
        Ok(binary)
    } else {
        Err(format!("{} is missing: run `make demo`, which builds it first", binary.display()).into())
    }
}

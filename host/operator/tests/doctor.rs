//! `vmgroup doctor` over the connections of a file, as a newcomer meets it: the real
//! binary, and both simulators over HTTP.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::PathBuf;
use std::process::Output;

use kube::CustomResourceExt as _;
use serde_json::{Value, json};
use tokio::process::Command;
use vmgroup_api::VmGroup;
use vmgroup_sim::clock::Clock;
use vmgroup_sim::kube::KubeSim;
use vmgroup_sim::serve::{Server, TlsIdentity, kubeconfig, serve};
use vmgroup_sim::vcenter::{VcenterConfig, VcenterSim};

const NAMESPACE: &str = "vmgroup-system";
const USER: &str = "operator@vsphere.local";
const TEMPLATE: &str = "golden";

/// Two vCenters, `muc` and `ber`, a Kubernetes API with a Secret for each, and a file that
/// names both.
struct Desk {
    kube: KubeSim,
    vcenters: [VcenterSim; 2],
    servers: [Server; 2],
    _kube_server: Server,
    folder: PathBuf,
    file: String,
}

impl Desk {
    async fn set(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let (clock, (identity, ca)) = (Clock::system(), TlsIdentity::self_signed(&["localhost"]).unwrap());
        let kube = KubeSim::new(clock, 1);
        kube.create_namespace(NAMESPACE).unwrap();
        kube.apply(serde_json::to_value(VmGroup::crd()).unwrap()).unwrap();
        let vcenter = |number: u64| {
            let config = VcenterConfig {
                user: USER.to_owned(),
                password: format!("secret-{number}"),
                seed: number,
                templates: vec![TEMPLATE.to_owned()],
                ..VcenterConfig::default()
            };
            VcenterSim::new(config, clock)
        };
        let vcenters = [vcenter(0), vcenter(1)];
        let servers = [
            serve(vcenters[0].service(), Some(&identity)).await.unwrap(),
            serve(vcenters[1].service(), Some(&identity)).await.unwrap(),
        ];
        let kube_server = serve(kube.service(), None).await.unwrap();
        std::fs::write(folder.join("kubeconfig"), kubeconfig(kube_server.addr)).unwrap();
        let file = json!({
            "connections": [entry("muc", &servers[0], &ca, true), entry("ber", &servers[1], &ca, false)],
        })
        .to_string();
        let desk = Self { kube, vcenters, servers, _kube_server: kube_server, folder, file };
        desk.login("muc", "secret-0");
        desk.login("ber", "secret-1");
        desk.write(&desk.file);
        desk
    }

    fn login(&self, connection: &str, password: &str) {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": format!("vc-{connection}"), "namespace": NAMESPACE},
            "stringData": {"VC_USER": USER, "VC_PASS": password},
        });
        self.kube.apply(secret).unwrap();
    }

    /// The file at the desk.
    fn write(&self, file: &str) {
        std::fs::write(self.folder.join("connections.yaml"), file).unwrap();
    }

    async fn doctor(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vmgroup"))
            .arg("doctor")
            .args(arguments)
            .current_dir(&self.folder)
            .env_clear()
            .env("KUBECONFIG", self.folder.join("kubeconfig"))
            .output()
            .await
            .unwrap()
    }

    /// What programs are told of the file's connections with this template, and whether
    /// the command said that all is well.
    async fn told(&self, more: &[&str]) -> (Value, bool) {
        let arguments = ["--connections", "connections.yaml", "--template", TEMPLATE, "--output", "json"];
        let output = self.doctor(&[&arguments, more].concat()).await;
        let told = serde_json::from_slice(&output.stdout);
        (told.unwrap_or_else(|_| panic!("{output:?}")), output.status.code() == Some(0))
    }
}

fn entry(name: &str, server: &Server, ca: &str, default: bool) -> Value {
    json!({
        "name": name, "address": format!("https://localhost:{}", server.addr.port()), "default": default,
        "credentials": {"secret": format!("vc-{name}")}, "trust": {"ca": ca},
        "serves": {"namespaces": [format!("{name}-*")]},
    })
}

/// The checks of a connection that are not well, each with its condition.
fn wrong(connection: &Value) -> Vec<(String, String)> {
    let findings = connection["findings"].as_array().unwrap().iter();
    let told = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
    findings
        .filter(|finding| finding["condition"] != "good")
        .map(|finding| (told(finding, "check"), told(finding, "condition")))
        .collect()
}

/// That a connection was looked at to the end.
fn is_well(connection: &Value, name: &str) {
    assert!(connection["connection"] == name && connection["well"] == true, "{connection:#}");
    assert!(wrong(connection).is_empty(), "{connection:#}");
    let checks: Vec<&Value> =
        connection["findings"].as_array().unwrap().iter().map(|finding| &finding["check"]).collect();
    for check in ["certificate", "login", "root folder", "template", "privileges"] {
        assert!(checks.contains(&&json!(check)), "{check} is missing: {checks:?}");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_connection_is_looked_at_and_one_can_be_named() {
    let desk = Desk::set("doctor-well").await;
    let (told, well) = desk.told(&[]).await;
    assert!(well && told["well"] == true, "{told:#}");
    is_well(&told["connections"][0], "muc");
    is_well(&told["connections"][1], "ber");
    let (told, well) = desk.told(&["--connection", "ber"]).await;
    assert!(well && told["connections"].as_array().unwrap().len() == 1, "{told:#}");
    is_well(&told["connections"][0], "ber");
    assert_eq!(desk.vcenters.each_ref().map(VcenterSim::sessions), [0, 0]);

    // As the operator has it, for people.
    desk.kube
        .apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "vmgroup-connections", "namespace": NAMESPACE},
            "data": {"connections.yaml": desk.file},
        }))
        .unwrap();
    let output = desk.doctor(&["--connections", "vmgroup-connections", "--template", TEMPLATE]).await;
    let said = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for name in ["muc", "ber"] {
        assert!(said.contains(&format!("Connection {name}\n")), "{said}");
        assert!(said.contains(&format!("The operator can work with the vCenter of {name}.")), "{said}");
    }
    assert!(!said.contains("secret-0") && !said.contains("secret-1"), "S9: {said}");
}

/// `ber` is not well, for this check alone, and `muc` is. What was found of `ber`.
async fn only_ber_is_bad(desk: &Desk, check: &str) -> String {
    let (told, well) = desk.told(&[]).await;
    assert!(!well && told["well"] == false, "{check}: {told:#}");
    is_well(&told["connections"][0], "muc");
    let other = &told["connections"][1];
    assert_eq!(wrong(other), [(check.to_owned(), "bad".to_owned())], "{other:#}");
    let (only, well) = desk.told(&["--connection", "muc"]).await;
    assert!(well && only["well"] == true, "{check}: {only:#}");
    other.to_string()
}

/// Whatever is wrong with one of them, the other is looked at to the end, and the command
/// says that something is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_not_well_does_not_hide_the_other() {
    let desk = Desk::set("doctor-one").await;
    desk.vcenters[1].withhold("VirtualMachine.Interact.PowerOn");
    let told = only_ber_is_bad(&desk, "privilege").await;
    assert!(told.contains("VirtualMachine.Interact.PowerOn"), "{told}");
    desk.vcenters[1].grant("VirtualMachine.Interact.PowerOn");

    let nowhere = desk.file.replacen("\"name\":\"ber\"", "\"name\":\"ber\",\"datastore\":\"nowhere\"", 1);
    desk.write(&nowhere);
    let told = only_ber_is_bad(&desk, "site").await;
    assert!(told.contains("LocalDS_0"), "{told}");
    desk.write(&desk.file);

    desk.login("ber", "wrong");
    only_ber_is_bad(&desk, "login").await;
    desk.kube.delete("secrets", Some(NAMESPACE), "vc-ber").unwrap();
    let told = only_ber_is_bad(&desk, "login").await;
    assert!(told.contains("vc-ber") && told.contains(NAMESPACE), "{told}");
    desk.login("ber", "secret-1");

    // Nobody listens there.
    let gone = desk.file.replace(&format!(":{}", desk.servers[1].addr.port()), ":1");
    desk.write(&gone);
    only_ber_is_bad(&desk, "address").await;
    let output = desk.doctor(&["--connections", "./connections.yaml", "--template", TEMPLATE]).await;
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("The operator can work with the vCenter of muc."), "{said}");
    assert!(said.contains("The operator cannot work with the vCenter of ber as it is."), "{said}");
}

/// Who names none of them is told which there are; and without a template, those that
/// are cloned there are looked at.
#[tokio::test(flavor = "multi_thread")]
async fn which_connection_and_which_templates() {
    let desk = Desk::set("doctor-which").await;
    let output = desk.doctor(&["--connections", "connections.yaml", "--connection", "hamburg"]).await;
    let told = text(&output.stderr);
    assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{output:?}");
    assert!(told.contains("no connection hamburg in connections.yaml; there are: muc, ber"), "{told}");
    desk.write(&desk.file.replacen("\"serves\"", "\"severs\"", 1));
    let output = desk.doctor(&["--connections", "connections.yaml"]).await;
    let told = text(&output.stderr);
    assert!(output.status.code() == Some(1) && told.contains("severs"), "{told}");
    desk.write(&desk.file);
    let output = desk.doctor(&["--connections", "vmgroup-connections"]).await;
    let told = text(&output.stderr);
    assert!(output.status.code() == Some(1) && told.contains("there is no ConfigMap vmgroup-connections"), "{told}");

    // A group of the first one, whose template is not there.
    desk.kube.create_namespace("muc-a").unwrap();
    desk.kube
        .apply(json!({
            "apiVersion": "vm.codeconnect.vmworld.com/v1alpha1", "kind": "VmGroup",
            "metadata": {"name": "web", "namespace": "muc-a"},
            "spec": {"cpu": 1, "memory": 1, "replicas": 1, "template": "silver"},
        }))
        .unwrap();
    desk.kube.set_status("vmgroups", Some("muc-a"), "web", json!({"connection": {"name": "muc"}})).unwrap();
    let output = desk.doctor(&["--connections", "connections.yaml", "--output", "json"]).await;
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told:#}");
    assert_eq!(wrong(&told["connections"][0]), [("template".to_owned(), "bad".to_owned())], "{told:#}");
    assert!(told["connections"][0].to_string().contains("silver"), "{told:#}");
    // Of the other one it is not known, which is nothing wrong.
    assert_eq!(wrong(&told["connections"][1]), [("template".to_owned(), "unknown".to_owned())], "{told:#}");
    assert_eq!(told["connections"][1]["well"], true);
}

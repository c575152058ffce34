//! The real binary, as a user meets it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn vmgroup(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmgroup"));
    for variable in
        ["VC_HOST", "VC_USER", "VC_PASS", "VC_LOGIN_DIR", "VC_CA_FILE", "VMGROUP_CONNECTIONS", "RUST_LOG", "KUBECONFIG"]
    {
        command.env_remove(variable);
    }
    command.args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What it prints when all is well.
fn prints(arguments: &[&str]) -> String {
    let output = vmgroup(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn help_teaches() {
    let help = prints(&["--help"]);
    for word in ["vmgroup crd | kubectl apply", "policy check", "VC_HOST", "completion"] {
        assert!(help.contains(word), "{word} is missing in:\n{help}");
    }
    let run = prints(&["run", "--help"]);
    for word in [
        "VC_HOST",
        "--vc-ca-file",
        "--datacenter",
        "--leader-elect",
        "--policy-config-map",
        "[default: 8]",
        "Examples:",
    ] {
        assert!(run.contains(word), "{word} is missing in:\n{run}");
    }
    let check = prints(&["policy", "check", "--help"]);
    assert!(check.contains("self-test") && check.contains("--config"), "{check}");
}

/// One of several vCenters is named with the file that they are in, and not besides one.
#[test]
fn which_vcenter_is_meant_is_said_in_one_way() {
    for (arguments, says) in [
        (
            ["doctor", "--connection", "muc", "--connections", ""],
            "--connections (VMGROUP_CONNECTIONS), which is not set",
        ),
        (["orphans", "--connections", "vmgroup-connections", "--datastore", "san-1"], "and VC_DATASTORE are set"),
    ] {
        let output = vmgroup(&arguments);
        let told = text(&output.stderr);
        assert!(output.status.code() == Some(1) && told.contains(says), "{arguments:?}: {told}");
    }
    assert!(prints(&["adopt", "--help"]).contains("--connection <NAME>"));
}

/// Each privilege that doctor may miss is in a role that it prints: on the datacenter, or
/// on vCenter alone.
#[test]
fn doctor_prints_both_roles() {
    let printed = prints(&["doctor", "--role"]);
    let (below, on_vcenter) = printed.split_once("\n\n").unwrap();
    assert!(below.contains("VirtualMachine.Inventory.Delete") && below.ends_with("-propagate=true /DATACENTER"));
    assert!(
        on_vcenter.contains("Sessions.TerminateSession") && on_vcenter.ends_with("-propagate=false /\n"),
        "{on_vcenter}"
    );
    let json: serde_json::Value = serde_json::from_str(&prints(&["doctor", "--role", "--output", "json"])).unwrap();
    assert!(json["privileges"].as_array().unwrap().len() > 10 && json["onVcenter"]["privileges"].is_array(), "{json}");
}

/// Manifests leave empty variables behind: they are as if they were not there, also
/// beside flags that do not go with them.
#[test]
fn an_empty_variable_is_one_that_is_not_set() {
    let empty = [
        "VC_HOST",
        "VC_USER",
        "VC_PASS",
        "VC_READ_USER",
        "VC_READ_PASS",
        "VC_LOGIN_DIR",
        "VC_CA_FILE",
        "VC_MAX_TASKS",
        "VMGROUP_TIME_ZONE",
        "VMGROUP_CONNECTIONS",
        "VMGROUP_POLICY_DIR",
        "VMGROUP_REGISTRY_CA_FILE",
        "VMGROUP_SOCKET",
    ];
    let flags = ["run", "--insecure", "--policy-config-map", "mine", "--registry-plain-http"];
    let output = command(&flags).envs(empty.map(|name| (name, ""))).output().unwrap();
    let told = text(&output.stderr);
    assert!(output.status.code() == Some(1) && told.contains("VC_PASS is not set"), "{told}");

    // The login is a folder's, which is no folder here.
    let beside = [("VC_LOGIN_DIR", "/nowhere"), ("VC_PASS", ""), ("VC_READ_PASS", "")];
    let told = text(&command(&["run"]).envs(beside).output().unwrap().stderr);
    assert!(told.contains("the folder of VC_LOGIN_DIR cannot be used"), "{told}");
}

#[test]
fn s9_help_shows_no_password() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_vmgroup")).args(["run", "--help"]).env("VC_PASS", "hunter2").output().unwrap();
    assert!(output.status.success());
    assert!(!text(&output.stdout).contains("hunter2"));
}

#[test]
fn version_is_the_crates() {
    assert_eq!(prints(&["version"]), format!("vmgroup {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(prints(&["--version"]), format!("vmgroup {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_deployed_crd_is_the_binarys() {
    let printed = prints(&["crd"]);
    let path = repository().join("deploy/base/crd.yaml");
    let deployed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        printed == deployed,
        "{} is out of date: run  cargo run -p vmgroup-operator -- crd > deploy/base/crd.yaml",
        path.display()
    );
    assert!(printed.starts_with("# Generated by `vmgroup crd`"));
    assert!(printed.contains("kind: CustomResourceDefinition"));
    assert!(printed.contains("name: vmgroups.vm.codeconnect.vmworld.com"));
}

#[test]
fn the_crd_survives_its_yaml() {
    let read: serde_json::Value = serde_saphyr::from_str(&prints(&["crd"])).unwrap();
    let meant = serde_json::to_value(<vmgroup_api::VmGroup as kube::CustomResourceExt>::crd()).unwrap();
    assert_eq!(read, meant);
}

#[test]
fn completion_knows_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(prints(&["completion", shell]).contains("policy"), "{shell}");
    }
}

#[test]
fn without_vcenter_run_says_what_to_set() {
    let output = vmgroup(&["run"]);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    for line in ["VC_HOST is not set", "export VC_HOST=vcenter.example.com", "VC_USER", "VC_PASS", "vmgroup run --help"]
    {
        assert!(message.contains(line), "{line} is missing in:\n{message}");
    }
}

#[test]
fn a_misspelt_flag_is_wrong_usage() {
    let output = vmgroup(&["run", "--datacentre", "Berlin"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--datacenter"), "{}", text(&output.stderr));
}

#[test]
fn a_host_that_is_none_is_named() {
    let output = vmgroup(&["run", "--vc-host", "ftp://vc", "--vc-user", "u", "--vc-pass", "hunter2"]);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.contains("ftp://vc") && message.contains("VC_HOST"), "{message}");
    assert!(!message.contains("hunter2"));
}

fn shipped(name: &str) -> Option<String> {
    let path = repository().join("target/plugins").join(name);
    path.exists().then(|| path.to_str().unwrap().to_owned())
}

#[test]
fn a_shipped_policy_passes_with_its_stages_and_costs() {
    let Some(file) = shipped("ordered.wasm") else {
        panic!("target/plugins/ordered.wasm is missing: run scripts/build-plugins");
    };
    let printed = prints(&["policy", "check", &file]);
    for word in [
        "ordered.wasm as a policy for scaling",
        "size",
        "parse",
        "interface",
        "compile",
        "instantiate",
        "describe",
        "config",
        "self-test",
        " ms",
        "accepted",
        "sha256:",
    ] {
        assert!(printed.contains(word), "{word} is missing in:\n{printed}");
    }
    assert!(!printed.contains('\x1b'), "no colours where there is no terminal");

    let json: serde_json::Value =
        serde_json::from_str(&prints(&["policy", "check", &file, "--output", "json"])).unwrap();
    assert_eq!(json["accepted"], true);
    assert_eq!(json["kind"], "scaling");
    assert_eq!(json["stages"].as_array().unwrap().len(), 8);

    let wrong = vmgroup(&["policy", "check", &file, "--config", r#"{"bye":"oldest"}"#, "--output", "json"]);
    assert_eq!(wrong.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&wrong.stdout).unwrap();
    assert_eq!(json["refusal"]["stage"], "config");
    assert!(json["refusal"]["problem"].as_str().unwrap().contains("bye"), "{json}");

    let mismatch = vmgroup(&["policy", "check", &file, "--kind", "naming"]);
    assert_eq!(mismatch.status.code(), Some(1));
    assert!(text(&mismatch.stdout).contains("refused at stage interface"), "{}", text(&mismatch.stdout));
}

#[test]
fn a_file_of_text_is_refused_with_a_remedy() {
    let file = repository().join("Cargo.toml");
    let output = vmgroup(&["policy", "check", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let printed = text(&output.stdout);
    assert!(printed.contains("refused at stage parse"), "{printed}");
    assert!(printed.contains("problem  ") && printed.contains("remedy   "), "{printed}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = vmgroup(&["policy", "check", "/does/not/exist.wasm"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/does/not/exist.wasm"), "{}", text(&output.stderr));
}

/// Programs that wanted JSON get their errors so too.
#[test]
fn errors_are_json_where_the_result_is() {
    let error = |arguments: &[&str], code: i32| -> serde_json::Value {
        let output = vmgroup(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stderr).expect("one object")["error"].take()
    };
    let absent = error(&["policy", "check", "/does/not/exist.wasm", "--output", "json"], 1);
    assert_eq!(absent["message"], "`/does/not/exist.wasm` cannot be read");
    assert!(absent["causes"][0].as_str().unwrap().contains("No such file"), "{absent}");
    let nobody = error(&["preview", "a/b", "--socket", "/does/not/exist", "--output=json"], 1);
    assert!(nobody["message"].as_str().unwrap().contains("no operator listens"), "{nobody}");
    let usage = error(&["decisions", "list", "--kind", "nothing", "--output", "json"], 2);
    assert!(usage["kind"] == "usage" && usage["message"].as_str().unwrap().contains("nothing"), "{usage}");
}

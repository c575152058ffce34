//! Every example of a `VmGroup` under `examples/` is taken by the API server as it
//! stands, and comes up.
//!
//! A namespace is there only if the file makes it: `kubectl apply` does no more.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{OPERATOR_NAMESPACE, Options, ROOT, TEMPLATE, User, World, yaml};

const SOON: Duration = Duration::from_secs(600);

fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    files
}

/// Makes the template that an example is about, by its name or its inventory path.
fn make_template(world: &SimWorld, template: &str) {
    let Some(path) = template.strip_prefix('/') else {
        if template != TEMPLATE {
            let _ = world.vcenter.add_template("/DC0/vm", template);
        }
        // Linked clones begin with one; full ones do not mind.
        world.vcenter.take_snapshot(&format!("/DC0/vm/{template}")).unwrap();
        return;
    };
    let mut parts: Vec<&str> = path.split('/').collect();
    let name = parts.pop().unwrap();
    let mut folder = format!("/{}/{}", parts[0], parts[1]);
    for part in &parts[2..] {
        // An example before may have made it.
        let _ = world.vcenter.add_folder(&folder, part);
        folder = format!("{folder}/{part}");
    }
    let _ = world.vcenter.add_template(&folder, name);
}

/// Makes the folder that a group's target names, with those on the way to it.
fn make_folder(world: &SimWorld, target: &Value) {
    let mut at = ROOT.to_owned();
    for name in target["folder"].as_str().into_iter().flat_map(|path| path.split('/')) {
        let _ = world.vcenter.add_folder(&at, name);
        at = format!("{at}/{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_example_comes_up() {
    let files = examples();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        let mut world = SimWorld::make(Options::default()).await.unwrap();
        world.start_operator().await.unwrap();
        let user = User::of(&world);
        let text = std::fs::read_to_string(&file).unwrap();
        let mut groups = Vec::new();
        let mut namespaces = vec!["default".to_owned(), OPERATOR_NAMESPACE.to_owned()];
        if file.ends_with("vmgroup.yaml") {
            // The original's manifest, before which its namespace is made by hand.
            namespaces.push("myoperator-vms".to_owned());
            user.namespace("myoperator-vms").await;
        }
        for object in text.split("\n---\n").map(yaml) {
            let metadata = &object["metadata"];
            let at = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
            match object["kind"].as_str().unwrap() {
                "Namespace" => {
                    user.namespace(&at("name")).await;
                    namespaces.push(at("name"));
                }
                "VmGroup" => {
                    assert!(namespaces.contains(&at("namespace")), "{} makes no {}", file.display(), at("namespace"));
                    user.namespace(&at("namespace")).await;
                    make_template(&world, object["spec"]["template"].as_str().unwrap());
                    make_folder(&world, &object["spec"]["target"]);
                    for name in object["spec"]["customAttributes"].as_object().into_iter().flatten() {
                        world.vcenter.define_attribute(name.0);
                    }
                    for tag in object["spec"]["tags"].as_array().into_iter().flatten() {
                        let named = |field: &str| tag[field].as_str().unwrap();
                        world.vcenter.define_tag(named("category"), named("name"));
                    }
                    groups.push((at("namespace"), at("name"), object["spec"]["replicas"].as_i64().unwrap()));
                    apply(&world, &file, object);
                }
                _ => apply(&world, &file, object),
            }
        }
        assert!(!groups.is_empty(), "{} has no VmGroup", file.display());
        for (namespace, name, replicas) in groups {
            user.ready(&namespace, &name, i32::try_from(replicas).unwrap(), SOON).await;
        }
        world.kill_operator().await.unwrap();
    }
}

fn apply(world: &SimWorld, file: &Path, object: Value) {
    if let Err(error) = world.kube.apply(object) {
        panic!("{}: {error:?}", file.display());
    }
}

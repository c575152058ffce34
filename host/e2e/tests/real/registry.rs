//! Policies from a real registry: pushed and pulled by our commands, served by the
//! operator; and all that a registry can do to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::api::DeleteParams;
use serde_json::Value;
use vmgroup_e2e::real::registry::{PASSWORD, Registry, USER};
use vmgroup_e2e::real::{RealWorld, Said};
use vmgroup_e2e::world::{Options, User, World, eventually};
use vmgroup_policy::{Host, Limits, shipped};

use crate::{SOON, wanted};

/// The operator looks again after half a minute where somebody has to do something.
const LATER: Duration = Duration::from_secs(90);

struct Story {
    world: RealWorld,
    registry: Registry,
    folder: PathBuf,
    plugin: PathBuf,
}

impl Story {
    async fn begin() -> Self {
        let world = RealWorld::make(Options::default()).await.unwrap();
        let folder = world.folder().join("policies");
        std::fs::create_dir_all(&folder).unwrap();
        let registry = Registry::start(&folder.join("registry")).await.unwrap();
        let host = Host::new(Limits::default()).unwrap();
        let plugin = folder.join("mine.wasm");
        std::fs::write(&plugin, host.component(&shipped::find("ordered").unwrap()).unwrap()).unwrap();
        Self { world, registry, folder, plugin }
    }

    /// Where the login of the registry is.
    fn logins(&self, password: &str) -> String {
        let path = self.folder.join("config.json");
        let host = self.registry.host();
        let text = format!(r#"{{"auths":{{"{host}":{{"username":"{USER}","password":"{password}"}}}}}}"#);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn ca(&self) -> String {
        self.registry.ca().display().to_string()
    }

    async fn policy(&self, arguments: &[&str], flags: &[&str]) -> Said {
        let command = [&["policy"], arguments, flags, &["--output", "json"]].concat();
        self.world.vmgroup(&command).await.unwrap()
    }

    /// Pushes the plugin under another tag, as an artifact of its own.
    async fn push(&self, tag: &str, flags: &[&str]) -> Value {
        // What is signed is another artifact; whose signature it is, nobody asks here.
        let signature = self.folder.join(format!("{tag}.sig"));
        std::fs::write(&signature, tag).unwrap();
        let (plugin, signature) = (self.plugin.display().to_string(), signature.display().to_string());
        let to = format!("oci://{}/policies/mine:{tag}", self.registry.host());
        let said = self.policy(&["push", &plugin, &to, "--signature", &signature], flags).await;
        serde_json::from_str(&said.success().unwrap()).unwrap()
    }

    /// An operator that is new to everything but this.
    async fn new_operator(&mut self, flags: &[&str]) {
        self.world.kill_operator().await.unwrap();
        let cache = self.folder.join("cache").display().to_string();
        let always = ["--policy-cache-dir", &cache];
        self.world.operator_flags(&[&always, flags].concat());
        self.world.start_lone_operator().await.unwrap();
    }

    /// Nothing of the policies is kept in the cluster either.
    async fn forget(&self) {
        let maps = User::of(&self.world).config_maps();
        let _ = maps.delete("vmgroup-policy-last-good", &DeleteParams::default()).await;
    }
}

fn scaling(reference: &str, order: &str) -> String {
    format!("scaling: {{ plugin: \"{reference}\", config: {{ order: {order} }} }}\n")
}

async fn serves(world: &RealWorld, plugin: &str) {
    let groups = User::of(world).groups("shop");
    eventually(&format!("{plugin} serves"), SOON, async || {
        let group = groups.get("web").await.map_err(|error| error.to_string())?;
        let status = serde_json::to_value(group.status).map_err(|error| error.to_string())?;
        let refused = status["conditions"].as_array().into_iter().flatten().any(|it| it["type"] == "PolicyRefused");
        if status["policies"]["scaling"]["plugin"] == plugin && !refused { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_from_a_real_registry() {
    if !wanted("policies_from_a_real_registry") {
        return;
    }
    let mut story = Story::begin().await;
    let (ca, logins) = (story.ca(), story.logins(PASSWORD));
    let flags = ["--registry-ca-file", &ca, "--registry-auth-file", &logins];

    // Our commands: what is pushed comes back, and what is wrong has its name.
    let pushed = story.push("1", &flags).await;
    let reference = pushed["reference"].as_str().unwrap().to_owned();
    assert_eq!(story.push("1", &flags).await["reference"], reference, "the same again is the same artifact");
    let back = story.folder.join("back.wasm");
    let by_tag = format!("oci://{}/policies/mine:1", story.registry.host());
    let pulled = story.policy(&["pull", &by_tag, &back.display().to_string()], &flags).await.success().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&pulled).unwrap()["reference"], reference);
    assert_eq!(std::fs::read(&back).unwrap(), std::fs::read(&story.plugin).unwrap());
    let said = story
        .policy(&["pull", &by_tag], &["--registry-auth-file", &logins, "--registry-ca-file", other_ca(&story.folder)])
        .await;
    assert!(!said.ok && said.err.contains("certificate is not trusted"), "{said:?}");
    story.logins("wrong");
    let said = story.policy(&["pull", &by_tag], &flags).await;
    assert!(!said.ok && said.err.contains("`robot`") && !said.err.contains("wrong"), "{said:?}");
    story.logins(PASSWORD);

    // The operator serves by it, and goes on without the registry, after a restart too.
    story.new_operator(&flags).await;
    let user = User::of(&story.world);
    user.policy(Some(&scaling(&reference, "oldest")), &[]).await;
    user.group("shop", "web", 2).await;
    user.ready("shop", "web", 2, SOON).await;
    serves(&story.world, &reference).await;
    story.registry.stop();
    story.world.kill_operator().await.unwrap();
    story.forget().await;
    user.policy(Some(&scaling(&reference, "newest")), &[]).await;
    story.new_operator(&flags).await;
    user.scale("shop", "web", 1).await;
    user.ready("shop", "web", 1, SOON).await;
    serves(&story.world, &reference).await;

    // A registry that is down changes nothing; when it is back, so is all else.
    story.registry.restart().await.unwrap();
    let second = story.push("2", &flags).await["reference"].as_str().unwrap().to_owned();
    let third = story.push("3", &flags).await["reference"].as_str().unwrap().to_owned();
    story.registry.stop();
    user.policy(Some(&scaling(&second, "newest")), &[]).await;
    user.told("shop", "web", "PolicyRefused", "stage pull: registry", SOON).await;
    story.registry.restart().await.unwrap();
    serves(&story.world, &second).await;

    // A wrong password and an unknown certificate are named, and corrected where they are.
    story.logins("wrong");
    user.policy(Some(&scaling(&third, "newest")), &[]).await;
    user.told("shop", "web", "PolicyRefused", "lets `robot` not in", SOON).await;
    story.logins(PASSWORD);
    eventually("the corrected password counts", LATER, async || {
        let groups = user.groups("shop");
        let group = groups.get("web").await.map_err(|error| error.to_string())?;
        let text = serde_json::to_string(&group.status).map_err(|error| error.to_string())?;
        if text.contains(&third) && !text.contains("PolicyRefused") { Ok(()) } else { Err(text) }
    })
    .await;
    let fourth = story.push("4", &flags).await["reference"].as_str().unwrap().to_owned();
    let other = other_ca(&story.folder).to_owned();
    story.new_operator(&["--registry-ca-file", &other, "--registry-auth-file", &logins]).await;
    user.policy(Some(&scaling(&fourth, "newest")), &[]).await;
    user.told("shop", "web", "PolicyRefused", "certificate is not trusted", SOON).await;

    // Somebody has changed the component in the registry, and nothing is cached.
    story.world.kill_operator().await.unwrap();
    story.forget().await;
    std::fs::remove_dir_all(story.folder.join("cache")).unwrap();
    story.registry.tamper(pushed["component"].as_str().unwrap()).unwrap();
    story.new_operator(&flags).await;
    let told = user.told("shop", "web", "PolicyRefused", "changed it on its way", SOON).await;
    assert!(told.contains("sha256:"), "{told}");
}

/// Somebody else's certificate.
fn other_ca(folder: &Path) -> &'static str {
    let path = folder.join("other-ca.pem");
    if !path.exists() {
        let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(&path, other.cert.pem()).unwrap();
    }
    path.display().to_string().leak()
}

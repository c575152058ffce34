//! What a scenario can see and do: Kubernetes through a client, vCenter from
//! outside as a second client would, and the operator as something that is
//! started and killed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use vmgroup_api::{Phase, VmGroup};

/// The namespace that the operator runs in.
pub const OPERATOR_NAMESPACE: &str = "vmgroup-system";

/// The folder under which all groups have theirs.
pub const ROOT: &str = "/DC0/vm/vm-operator";

/// The ConfigMap with the connections file, where there is one.
pub const CONNECTIONS: &str = "vmgroup-connections";

/// The template that every world has.
pub const TEMPLATE: &str = "vm-operator-template";

/// A virtual machine as seen from outside; templates are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmView {
    /// Its name.
    pub name: String,
    /// Its inventory path.
    pub path: String,
    /// Its instance UUID.
    pub instance_uuid: String,
    /// Powered on.
    pub on: bool,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The name of its host.
    pub host: String,
    /// Entries of `extraConfig`.
    pub extra: BTreeMap<String, String>,
}

impl VmView {
    /// The inventory path of its folder.
    pub fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

/// What a second client, or the fates, do to vCenter. Paths are inventory paths.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Powers a virtual machine off.
    PowerOff(String),
    /// Destroys one, whether it is on or off.
    Destroy(String),
    /// Makes one that is nobody's.
    AddVm {
        /// Its folder.
        folder: String,
        /// Its name.
        name: String,
    },
    /// Makes a folder.
    AddFolder {
        /// The folder that it lies in.
        parent: String,
        /// Its name.
        name: String,
    },
    /// Makes a template.
    AddTemplate {
        /// Its folder.
        folder: String,
        /// Its name.
        name: String,
    },
    /// Sets an entry of a virtual machine's `extraConfig`.
    SetExtra {
        /// The virtual machine.
        path: String,
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// VMware Tools run in a machine's guest from now on.
    RunTools(String),
    /// vCenter cannot be reached from now on.
    Down,
    /// It can again.
    Up,
    /// Every session ends.
    EndSessions,
    /// The next calls of a method take effect, and their answers are lost.
    LoseReplies {
        /// The vim25 method.
        method: &'static str,
        /// How many.
        times: u32,
    },
}

/// How a world is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a clone takes.
    pub clone_takes: Duration,
    /// Tasks at the same time.
    pub max_tasks: usize,
    /// The password that the operator is given; nothing: the right one.
    pub password: Option<String>,
    /// The folder that the operator reads its login from, and reads again.
    pub login_dir: Option<PathBuf>,
    /// Whether the CRD is installed from the start.
    pub crd: bool,
    /// Datacenters.
    pub datacenters: usize,
    /// Clusters and datastores in each of them. On the simulators.
    pub clusters: usize,
    /// See there.
    pub datastores: usize,
    /// vCenters that the operator knows by a connections file, which the story has to
    /// write ([`User::connections`]), with a Secret each ([`User::login`]); 0: just one,
    /// without.
    pub connections: usize,
    /// How long a decision takes, and whatever else keeps a core busy. On the simulators.
    pub busy: Duration,
    /// Memory for records of decisions, in bytes; 0: none are kept. On the simulators.
    pub record_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clone_takes: Duration::from_millis(500),
            max_tasks: 8,
            password: None,
            login_dir: None,
            crd: true,
            datacenters: 1,
            clusters: 1,
            datastores: 1,
            connections: 0,
            busy: Duration::ZERO,
            record_bytes: 0,
        }
    }
}

/// Something went wrong in the world itself, not in the operator.
pub type WorldError = Box<dyn std::error::Error + Send + Sync>;

/// One world.
#[allow(async_fn_in_trait, reason = "used with static dispatch in this crate alone")]
pub trait World: Sized {
    /// Makes one, with the operator's namespace and without an operator.
    async fn make(options: Options) -> Result<Self, WorldError>;
    /// A client with all rights.
    fn kube(&self) -> kube::Client;
    /// Starts an operator (a second one if one is running).
    async fn start_operator(&mut self) -> Result<(), WorldError>;
    /// Kills the operator without a word.
    async fn kill_operator(&mut self) -> Result<(), WorldError>;
    /// All virtual machines.
    async fn vms(&self) -> Result<Vec<VmView>, WorldError>;
    /// The inventory paths of all folders under [`ROOT`].
    async fn folders(&self) -> Result<Vec<String>, WorldError>;
    /// Has something happen in vCenter.
    async fn deed(&self, deed: Deed) -> Result<(), WorldError>;
    /// The calls that vCenter got from the operator so far, by method.
    async fn calls(&self) -> Result<BTreeMap<String, u64>, WorldError>;
    /// The operator's log as far as it is kept, to be shown when a scenario fails.
    fn log(&self) -> String {
        String::new()
    }
}

/// Waits until a condition holds; panics with `what` if it does not in time.
/// In the simulated world the time is virtual.
pub async fn eventually<T>(what: &str, within: Duration, mut condition: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(state) => assert!(tokio::time::Instant::now() < deadline, "not in time: {what}; at last: {state}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What users do in Kubernetes.
pub struct User {
    client: kube::Client,
}

impl User {
    /// A user of a world.
    pub fn of(world: &impl World) -> Self {
        Self::new(world.kube())
    }

    /// A user with this client.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// The API of `VmGroup`s in a namespace.
    pub fn groups(&self, namespace: &str) -> Api<VmGroup> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The API of `ConfigMap`s in the operator's namespace.
    pub fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), OPERATOR_NAMESPACE)
    }

    /// Makes a namespace, if it is not there.
    pub async fn namespace(&self, name: &str) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        api.patch(name, &PatchParams::apply("user").force(), &Patch::Apply(namespace)).await.expect("namespace");
    }

    /// Applies a manifest.
    pub async fn apply(&self, manifest: &str) -> VmGroup {
        let group: VmGroup = serde_json::from_value(yaml(manifest)).expect("a VmGroup");
        let namespace = group.metadata.namespace.clone().expect("a namespace");
        self.namespace(&namespace).await;
        let api = self.groups(&namespace);
        api.create(&PostParams::default(), &group).await.expect("create")
    }

    /// Makes a small group.
    pub async fn group(&self, namespace: &str, name: &str, replicas: usize) -> VmGroup {
        self.group_of(namespace, name, replicas, TEMPLATE).await
    }

    /// Makes a small group from a template.
    pub async fn group_of(&self, namespace: &str, name: &str, replicas: usize, template: &str) -> VmGroup {
        self.apply(&format!(
            "apiVersion: vm.codeconnect.vmworld.com/v1alpha1\nkind: VmGroup\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{cpu: 2, memory: 1, replicas: {replicas}, template: {template}}}\n"
        ))
        .await
    }

    /// Scales by the scale subresource, as `kubectl scale` does.
    pub async fn scale(&self, namespace: &str, name: &str, replicas: usize) {
        let patch = json!({"spec": {"replicas": replicas}});
        let api = self.groups(namespace);
        api.patch_scale(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("scale");
    }

    /// Asks for deletion.
    pub async fn delete(&self, namespace: &str, name: &str) {
        self.groups(namespace).delete(name, &DeleteParams::default()).await.expect("delete");
    }

    /// Writes the policy ConfigMap.
    pub async fn policy(&self, policy_yaml: Option<&str>, plugins: &[(&str, &[u8])]) {
        self.policy_of(OPERATOR_NAMESPACE, policy_yaml, plugins).await;
    }

    /// Writes the policy ConfigMap of a namespace.
    pub async fn policy_of(&self, namespace: &str, policy_yaml: Option<&str>, plugins: &[(&str, &[u8])]) {
        use k8s_openapi::ByteString;
        let map = ConfigMap {
            metadata: kube::api::ObjectMeta { name: Some("vmgroup-policy".into()), ..Default::default() },
            data: policy_yaml.map(|text| BTreeMap::from([("policy.yaml".to_owned(), text.to_owned())])),
            binary_data: Some(
                plugins.iter().map(|(key, bytes)| ((*key).to_owned(), ByteString(bytes.to_vec()))).collect(),
            ),
            ..Default::default()
        };
        let params = PatchParams::apply("user").force();
        self.namespace(namespace).await;
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        api.patch("vmgroup-policy", &params, &Patch::Apply(&map)).await.expect("policy ConfigMap");
    }

    /// Writes the connections file.
    pub async fn connections(&self, connections_yaml: &str) {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": CONNECTIONS, "namespace": OPERATOR_NAMESPACE},
            "data": {"connections.yaml": connections_yaml},
        });
        let params = PatchParams::apply("user").force();
        self.config_maps().patch(CONNECTIONS, &params, &Patch::Apply(map)).await.expect("connections ConfigMap");
    }

    /// Writes a Secret with a login to a vCenter.
    pub async fn login(&self, secret: &str, user: &str, password: &str) {
        let object = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": secret, "namespace": OPERATOR_NAMESPACE},
            "stringData": {"VC_USER": user, "VC_PASS": password},
        });
        let api: Api<Secret> = Api::namespaced(self.client.clone(), OPERATOR_NAMESPACE);
        api.patch(secret, &PatchParams::apply("user").force(), &Patch::Apply(object)).await.expect("Secret");
    }

    /// The events about an object, as `reason: note`.
    pub async fn events(&self, namespace: &str, name: &str) -> Vec<String> {
        let api: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(self.client.clone(), namespace);
        let events = api.list(&ListParams::default()).await.expect("events");
        events
            .items
            .into_iter()
            .filter(|event| event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some(name))
            .map(|event| format!("{}: {}", event.reason.unwrap_or_default(), event.note.unwrap_or_default()))
            .collect()
    }

    /// Waits until a group is as wished and says so.
    pub async fn ready(&self, namespace: &str, name: &str, replicas: i32, within: Duration) -> VmGroup {
        let api = self.groups(namespace);
        eventually(&format!("{namespace}/{name} is RUNNING with {replicas}"), within, async || {
            let group = api.get(name).await.map_err(|error| error.to_string())?;
            let status = group.status.clone().unwrap_or_default();
            let as_wished = status.phase == Some(Phase::Running)
                && status.current_replicas == Some(replicas)
                && status.desired_replicas == Some(replicas)
                && status.observed_generation == group.metadata.generation;
            if as_wished { Ok(group) } else { Err(format!("{:?} {:?}", status.phase, status.last_message)) }
        })
        .await
    }

    /// Waits until a condition of a group has this status and its message has this text.
    pub async fn told(&self, namespace: &str, name: &str, type_: &str, text: &str, within: Duration) -> String {
        let api = self.groups(namespace);
        eventually(&format!("{namespace}/{name} says {type_}: {text}"), within, async || {
            let group = api.get(name).await.map_err(|error| error.to_string())?;
            let conditions = group.status.map(|status| status.conditions).unwrap_or_default();
            conditions
                .iter()
                .find(|condition| {
                    condition.type_ == type_ && condition.status == "True" && condition.message.contains(text)
                })
                .map(|condition| condition.message.clone())
                .ok_or_else(|| format!("{conditions:?}"))
        })
        .await
    }

    /// Waits until a group is gone.
    pub async fn gone(&self, namespace: &str, name: &str, within: Duration) {
        let api = self.groups(namespace);
        eventually(&format!("{namespace}/{name} is gone"), within, async || {
            match api.get_opt(name).await.map_err(|error| error.to_string())? {
                None => Ok(()),
                Some(group) => Err(format!("{:?}", group.status.and_then(|status| status.last_message))),
            }
        })
        .await;
    }
}

/// Parses a manifest.
pub fn yaml(text: &str) -> serde_json::Value {
    serde_saphyr::from_str(text).expect("YAML")
}

//! vCenter as a second client sees and changes it, with govc. Must not know of
//! Kubernetes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::Deserialize;
use serde_json::Value;

use super::process::run;
use super::tool;
use super::vcsim::{Fault, Vcsim};
use crate::world::{Deed, Options, VmView, WorldError};

/// govc past the front: what it asks is not counted, and no fault strikes it.
#[derive(Clone)]
pub struct Govc {
    program: PathBuf,
    url: String,
    user: String,
    password: String,
    ca: PathBuf,
}

impl Govc {
    /// The standard output of a command, which must not fail.
    pub async fn run(&self, arguments: &[&str]) -> Result<String, WorldError> {
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(arguments)
            .env("GOVC_URL", &self.url)
            .env("GOVC_USERNAME", &self.user)
            .env("GOVC_PASSWORD", &self.password)
            .env("GOVC_TLS_CA_CERTS", &self.ca)
            .env("GOVC_PERSIST_SESSION", "false");
        run(command, None).await?.success()
    }
}

/// A vCenter of its own.
pub struct Vcenter {
    /// The server.
    pub vcsim: Vcsim,
    /// The second client, who is another user.
    pub govc: Govc,
    made: AtomicU32,
}

impl Vcenter {
    /// Starts one in a folder, and waits until it is ready.
    pub async fn start(folder: &Path, options: &Options) -> Result<Self, WorldError> {
        let vcsim = Vcsim::start(folder, options.datacenters, options.clone_takes).await?;
        let (user, password) = vcsim.admin();
        let govc = Govc {
            program: tool("govc")?,
            url: vcsim.direct().to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
            ca: vcsim.ca().to_owned(),
        };
        Ok(Self { vcsim, govc, made: AtomicU32::new(0) })
    }

    /// The keys of the sessions of the user who is given to the operator.
    pub async fn sessions(&self) -> Result<Vec<String>, WorldError> {
        let answer: Value = serde_json::from_str(&self.govc.run(&["session.ls", "-json"]).await?)?;
        let all = answer["sessionList"].as_array().into_iter().flatten();
        let (user, _) = self.vcsim.login();
        Ok(all.filter(|session| session["userName"] == user).map(|session| text(&session["key"])).collect())
    }

    /// All virtual machines that are no templates.
    pub async fn vms(&self) -> Result<Vec<VmView>, WorldError> {
        let inventory = self.inventory().await?;
        let machines = inventory.values().filter(|entity| entity.kind == "VirtualMachine");
        let mut vms: Vec<VmView> = machines
            .filter(|entity| entity.values.get("config.template") != Some(&Value::Bool(true)))
            .map(|entity| {
                let value = |name: &str| entity.values.get(name).unwrap_or(&Value::Null);
                let host = inventory.get(&text(&value("runtime.host")["value"]));
                let extra = value("config.extraConfig")["_value"].as_array().into_iter().flatten();
                VmView {
                    name: entity.name(),
                    path: path(&inventory, entity),
                    instance_uuid: text(value("config.instanceUuid")),
                    on: value("runtime.powerState") == "poweredOn",
                    cpus: value("config.hardware.numCPU").as_u64().and_then(|n| n.try_into().ok()).unwrap_or_default(),
                    memory_mib: value("config.hardware.memoryMB").as_u64().unwrap_or_default(),
                    host: host.map(Entity::name).unwrap_or_default(),
                    extra: extra.map(|entry| (text(&entry["key"]), text(&entry["value"]))).collect(),
                }
            })
            .collect();
        vms.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(vms)
    }

    /// The inventory paths of all folders.
    pub async fn folders(&self) -> Result<Vec<String>, WorldError> {
        let inventory = self.inventory().await?;
        let folders = inventory.values().filter(|entity| entity.kind == "Folder");
        let mut paths: Vec<String> = folders.map(|folder| path(&inventory, folder)).collect();
        paths.sort();
        Ok(paths)
    }

    /// Everything that has a place, by its reference.
    async fn inventory(&self) -> Result<HashMap<String, Entity>, WorldError> {
        let kinds = ["-type", "m", "-type", "f", "-type", "d", "-type", "h"];
        let properties = [
            "name",
            "parent",
            "runtime.powerState",
            "runtime.host",
            "config.template",
            "config.instanceUuid",
            "config.hardware.numCPU",
            "config.hardware.memoryMB",
            "config.extraConfig",
        ];
        // One that goes between the listing and the reading fails the whole.
        let mut attempts = 5;
        let text = loop {
            attempts -= 1;
            let arguments = [&["object.collect", "-json"][..], &kinds, &["/"], &properties].concat();
            match self.govc.run(&arguments).await {
                Err(error) if attempts > 0 && error.to_string().contains("ManagedObjectNotFound") => {}
                outcome => break outcome?,
            }
        };
        let updates = serde_json::Deserializer::from_str(&text).into_iter::<Update>();
        updates
            .map(|update| {
                let update = update?;
                let values = update.change_set.into_iter().map(|change| (change.name, change.val)).collect();
                Ok((update.obj.value, Entity { kind: update.obj.kind, values }))
            })
            .collect()
    }

    /// Destroys a machine. The operator may power it on between the two calls:
    /// then once more.
    async fn destroy(&self, path: &str) -> Result<(), WorldError> {
        let mut tries = 0;
        loop {
            // It may be off already.
            let _ = self.govc.run(&["vm.power", "-off", "-force", path]).await;
            match self.govc.run(&["object.destroy", path]).await {
                Err(error) if tries == 20 => return Err(error),
                Err(_) => tries += 1,
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Has something happen.
    pub async fn deed(&self, deed: Deed) -> Result<(), WorldError> {
        match deed {
            Deed::PowerOff(path) => drop(self.govc.run(&["vm.power", "-off", "-force", &path]).await?),
            Deed::Destroy(path) => self.destroy(&path).await?,
            Deed::AddVm { folder, name } => self.create(&folder, &name, true).await?,
            Deed::AddFolder { parent, name } => {
                self.govc.run(&["folder.create", &format!("{parent}/{name}")]).await?;
            }
            Deed::AddTemplate { folder, name } => {
                self.create(&folder, &name, false).await?;
                self.govc.run(&["vm.markastemplate", &format!("{folder}/{name}")]).await?;
            }
            Deed::RunTools(path) => {
                // vcsim's way to have a guest tell something.
                let told = "SET.guest.toolsRunningStatus=guestToolsRunning";
                self.govc.run(&["vm.change", "-vm", &path, "-e", told]).await?;
            }
            Deed::SetExtra { path, key, value } => {
                self.govc.run(&["vm.change", "-vm", &path, "-e", &format!("{key}={value}")]).await?;
            }
            Deed::Down => self.vcsim.outage(true).await?,
            Deed::Up => self.vcsim.outage(false).await?,
            Deed::EndSessions => self.vcsim.end_sessions().await?,
            Deed::LoseReplies { method, times } => {
                self.vcsim.fault(&Fault::next(method, times, "drop-reply")).await?;
            }
        }
        Ok(())
    }

    async fn create(&self, folder: &str, name: &str, on: bool) -> Result<(), WorldError> {
        let datacenter = folder.split('/').nth(1).unwrap_or_default();
        let pool = format!("/{datacenter}/host/{datacenter}_C0/Resources");
        let datastore = format!("/{datacenter}/datastore/LocalDS_0");
        let network = format!("/{datacenter}/network/VM Network");
        let on = format!("-on={on}");
        let places = ["-dc", datacenter, "-pool", &pool, "-ds", &datastore, "-net", &network];
        // vcsim names the machine's files after it and, unlike a vCenter, does not
        // step aside when another folder's machine has them already.
        let files = format!("made-by-hand-{}", self.made.fetch_add(1, Ordering::Relaxed));
        let arguments = [&["vm.create", "-folder", folder, &on][..], &places, &[&files]].concat();
        self.govc.run(&arguments).await?;
        self.govc.run(&["object.rename", &format!("{folder}/{files}"), name]).await.map(drop)
    }
}

/// What `govc object.collect -json` writes for each object.
#[derive(Deserialize)]
struct Update {
    obj: Reference,
    #[serde(rename = "changeSet", default)]
    change_set: Vec<Change>,
}

#[derive(Deserialize)]
struct Reference {
    #[serde(rename = "type")]
    kind: String,
    value: String,
}

#[derive(Deserialize)]
struct Change {
    name: String,
    #[serde(default)]
    val: Value,
}

/// An object with the properties that it has.
struct Entity {
    kind: String,
    values: HashMap<String, Value>,
}

impl Entity {
    fn name(&self) -> String {
        self.values.get("name").map(text).unwrap_or_default()
    }
}

/// The inventory path: the names from the datacenter down.
fn path(inventory: &HashMap<String, Entity>, entity: &Entity) -> String {
    let parent = entity.values.get("parent").and_then(|parent| inventory.get(&text(&parent["value"])));
    // The root folder is not among what is read, and has no name in a path.
    let above = parent.map(|parent| path(inventory, parent)).unwrap_or_default();
    format!("{above}/{}", entity.name())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

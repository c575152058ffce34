//! A story as a whole, by two witnesses who miss nothing: vCenter's own log of
//! events, and every version of every group's record. Must not ask the operator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use kube::Api;
use kube::runtime::watcher;
use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinSet;
use vmgroup_api::{MemberState, VmGroup};

use super::RealWorld;
use super::vcenter::Govc;
use crate::world::{ROOT, TEMPLATE, World as _, WorldError, eventually};

/// vcsim keeps its last 1000 events; a story of the wildest makes some 100 a second.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How long a record that was written may take to be seen.
const SEEN_WITHIN: Duration = Duration::from_secs(20);

/// Listens from when it is made, which is before the first group is.
pub struct Audit {
    govc: Govc,
    heard: Arc<Mutex<Heard>>,
    _witnesses: JoinSet<()>,
}

#[derive(Default)]
struct Heard {
    log: BTreeMap<u64, Happening>,
    /// What users wished for, all groups together, and the last event before it.
    wishes: Vec<(u64, usize)>,
    /// UUID and name of everybody who was ever in a record.
    recorded: BTreeSet<(String, String)>,
    /// The names of those who were ever recorded as leaving.
    leaving: BTreeSet<String>,
}

/// One event of vCenter.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Happening {
    Made(String),
    GivenUuid {
        uuid: String,
        name: String,
    },
    On(String),
    Off(String),
    Gone(String),
    /// Nothing of interest.
    Other,
}

/// A line of `govc events -l -json`.
#[derive(Deserialize)]
struct Line {
    key: u64,
    #[serde(rename = "type")]
    kind: String,
    message: String,
}

impl Happening {
    fn of(line: &Line) -> Self {
        let after = |prefix: &str| line.message.strip_prefix(prefix).map(first_word);
        let happening = match line.kind.as_str() {
            "VmCreatedEvent" => after("Created virtual machine ").map(Self::Made),
            "VmInstanceUuidAssignedEvent" => {
                let rest = line.message.strip_prefix("Assign a new instance UUID (");
                let split = rest.and_then(|rest| rest.split_once(") to "));
                split.map(|(uuid, name)| Self::GivenUuid { uuid: uuid.to_owned(), name: name.to_owned() })
            }
            "VmPoweredOnEvent" => Some(Self::On(first_word(&line.message))),
            "VmPoweredOffEvent" => Some(Self::Off(first_word(&line.message))),
            "VmRemovedEvent" => after("Removed ").map(Self::Gone),
            _ => Some(Self::Other),
        };
        happening.unwrap_or_else(|| panic!("vcsim words {} in another way now: {}", line.kind, line.message))
    }
}

fn first_word(text: &str) -> String {
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// How many machines came and went over a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Made.
    pub made: usize,
    /// Powered on.
    pub on: usize,
    /// Powered off.
    pub off: usize,
    /// Destroyed.
    pub gone: usize,
}

impl Audit {
    /// Begins to listen.
    pub async fn of(world: &RealWorld) -> Self {
        let heard = Arc::<Mutex<Heard>>::default();
        let govc = world.vcenter.govc.clone();
        listen(&govc, &heard).await.expect("vCenter's events");
        let mut witnesses = JoinSet::new();
        witnesses.spawn(watch_records(Api::all(world.kube()), heard.clone()));
        let (asked, told) = (govc.clone(), heard.clone());
        witnesses.spawn(async move {
            loop {
                tokio::time::sleep(ASK_EVERY).await;
                listen(&asked, &told).await.expect("vCenter's events");
            }
        });
        Self { govc, heard, _witnesses: witnesses }
    }

    /// From now on users wish for so many members, all groups together.
    pub async fn wish(&self, members: usize) {
        listen(&self.govc, &self.heard).await.expect("vCenter's events");
        let mut heard = lock(&self.heard);
        let last = heard.log.last_key_value().map_or(0, |(key, _)| *key);
        heard.wishes.push((last, members));
    }

    /// Whether the story kept the properties of safety; panics with the one that it
    /// did not. To be asked when all is at rest, and with no machines but templates
    /// and those of groups.
    pub async fn verdict(&self) -> Tally {
        listen(&self.govc, &self.heard).await.expect("vCenter's events");
        eventually("the record names everybody, and as leaving everybody who left", SEEN_WITHIN, async || {
            lock(&self.heard).unrecorded()
        })
        .await;
        lock(&self.heard).tally()
    }
}

impl Heard {
    /// S1, S5: nobody is made who was not written down, and nobody goes or is
    /// powered off who was not chosen.
    fn unrecorded(&self) -> Result<(), String> {
        for happening in self.log.values() {
            match happening {
                Happening::GivenUuid { uuid, name }
                    if name != TEMPLATE && !self.recorded.contains(&(uuid.clone(), name.clone())) =>
                {
                    return Err(format!("S1: {name} ({uuid}) was made and never recorded"));
                }
                Happening::Off(name) | Happening::Gone(name) if !self.leaving.contains(name) => {
                    return Err(format!("S5: {happening:?}, and was never chosen"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Counts, and S3 on the way: nobody twice, and never more than wished.
    fn tally(&self) -> Tally {
        let mut tally = Tally { made: 0, on: 0, off: 0, gone: 0 };
        let (mut names, mut uuids) = (BTreeSet::new(), BTreeSet::new());
        for (key, happening) in &self.log {
            match happening {
                Happening::Made(name) if name != TEMPLATE => {
                    tally.made += 1;
                    assert!(names.insert(name), "S4: {name} was made twice");
                    let (there, most) = (tally.made - tally.gone, self.most(*key));
                    assert!(there <= most, "S3: {there} members with {name}, and never more than {most} were wished");
                }
                Happening::GivenUuid { uuid, name } => {
                    assert!(uuids.insert(uuid), "S3: {uuid} ({name}) was made twice");
                }
                Happening::On(_) => tally.on += 1,
                Happening::Off(_) => tally.off += 1,
                Happening::Gone(_) => tally.gone += 1,
                Happening::Made(_) | Happening::Other => {}
            }
        }
        tally
    }

    /// The larger of the wish in force at an event and of the one before.
    fn most(&self, key: u64) -> usize {
        let before = self.wishes.iter().rev().filter(|(since, _)| *since < key);
        before.take(2).map(|(_, members)| *members).max().unwrap_or(0)
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hears what has happened in vCenter since.
async fn listen(govc: &Govc, heard: &Mutex<Heard>) -> Result<(), WorldError> {
    let text = govc.run(&["events", "-n", "1000", "-l", "-json"]).await?;
    let lines: Vec<Line> = serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>()?;
    let mut heard = lock(heard);
    heard.log.extend(lines.iter().map(|line| (line.key, Happening::of(line))));
    let (first, last) = (heard.log.first_key_value(), heard.log.last_key_value());
    if let (Some((first, _)), Some((last, _))) = (first, last) {
        let missed = last - first + 1 - heard.log.len() as u64;
        assert_eq!(missed, 0, "vcsim has forgotten events before they were heard");
    }
    Ok(())
}

/// Hears every version of every record, over outages of the API server too.
async fn watch_records(api: Api<VmGroup>, heard: Arc<Mutex<Heard>>) {
    let mut events = watcher(api, watcher::Config::default()).boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(group) | watcher::Event::InitApply(group)) => {
                let mut heard = lock(&heard);
                for member in group.status.into_iter().flat_map(|status| status.members) {
                    if member.state == MemberState::Leaving {
                        heard.leaving.insert(member.name.clone());
                    }
                    heard.recorded.insert((member.uuid, member.name));
                }
            }
            Ok(_) => {}
            // The API server is away.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A group as it has to be in the end.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Its namespace.
    pub namespace: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its members.
    pub members: usize,
}

impl RealWorld {
    /// kubectl and govc agree that there are these groups with all their members,
    /// and nothing and nobody else; and that the operator has so many sessions at most.
    pub async fn agrees(&self, groups: &[Expected], sessions: usize) {
        let listed = self.kubectl(&["get", "vg", "-A", "-o", "json"], None).await.and_then(super::Said::success);
        let listed: Value = serde_json::from_str(&listed.expect("groups")).expect("JSON");
        let listed = listed["items"].as_array().expect("items");
        assert_eq!(listed.len(), groups.len(), "{listed:#?}");
        let mut vms = self.vms().await.expect("vCenter");
        let mut folders = self.folders().await.expect("vCenter");
        for Expected { namespace, name, members } in groups.iter().copied() {
            let group = listed
                .iter()
                .find(|group| group["metadata"]["namespace"] == namespace && group["metadata"]["name"] == name)
                .unwrap_or_else(|| panic!("{namespace}/{name} is not listed"));
            let (meta, status) = (&group["metadata"], &group["status"]);
            let counts = ["currentReplicas", "desiredReplicas", "readyReplicas"].map(|count| status[count].as_u64());
            assert_eq!(counts, [Some(members as u64); 3], "{status:#}");
            assert_eq!(status["phase"], "RUNNING", "{status:#}");
            assert_eq!(status["observedGeneration"], meta["generation"], "{status:#}");
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let recorded: BTreeSet<(String, String)> = status["members"]
                .as_array()
                .into_iter()
                .flatten()
                .inspect(|member| assert!(members > 50 || member["state"] == "Ready", "{member}"))
                .map(|member| (text(&member["uuid"]), text(&member["name"])))
                .collect();

            let folder = format!("{ROOT}/{namespace}-{name}");
            let (own, others): (Vec<_>, Vec<_>) = vms.into_iter().partition(|vm| vm.folder() == folder);
            vms = others;
            let found: BTreeSet<(String, String)> =
                own.iter().map(|vm| (vm.instance_uuid.clone(), vm.name.clone())).collect();
            assert_eq!((own.len(), found.len()), (members, members), "S3, S4: {own:#?}");
            assert!(members > 50 || recorded == found, "S1: {recorded:#?}\n{found:#?}");
            for vm in &own {
                let suffix = vm.name.strip_prefix(&format!("{name}-replica-")).unwrap_or_default();
                assert!(suffix.len() == 8 && suffix.chars().all(|c| c.is_ascii_lowercase()), "{}", vm.name);
                assert!(vm.on && vm.cpus == 2 && vm.memory_mib == 1024, "{vm:?}");
                assert_eq!(vm.extra.get("vmgroup.group-uid"), Some(&text(&meta["uid"])), "{vm:?}");
                assert_eq!(vm.extra.get("vmgroup.member"), Some(&vm.instance_uuid), "{vm:?}");
            }
            let before = folders.len();
            folders.retain(|path| *path != folder);
            assert_eq!(before - folders.len(), 1, "{folder} is not there once");
        }
        assert_eq!(vms, [], "S1: these are nobody's");
        assert_eq!(folders, Vec::<String>::new(), "these are nobody's");
        let open = self.sessions().await.expect("sessions");
        assert!(open.len() <= sessions, "L10: {} sessions, and not more than {sessions} should be", open.len());
    }
}

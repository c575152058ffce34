//! Asks the policies: builds the question from what was observed, has it
//! answered in a sandbox, and turns the checked answer back into the planner's
//! terms.
//!
//! The building and turning back are pure. Must not call vCenter or Kubernetes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;
use vmgroup_api::policy_file::Budget as Allowance;
use vmgroup_policy::{Answer, DecisionError, Kind, Policy, Question as Asked, wit};
use vmgroup_records::{Entry, Made, Recorder, Role};
use vmgroup_vsphere::{
    Capacity, DatastoreCapacity, DatastoreRef, HostCapacity, HostRef, HostState, PowerState, Usage, VmRef,
};

use crate::budget::Budget;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::observe::{Observed, Seen, VmSeen};
use crate::offload::Offload;
use crate::plan::{Newcomer, Place, Victim};
use crate::policy_source::{PolicyBook, Serving};
use crate::shadow::Shadow;
use crate::validate::Desired;

/// The longest name that the host accepts (vCenter's limit).
const NAME_LIMIT: u32 = 80;

/// What every question is made from.
pub struct Question<'a> {
    /// The group as wished.
    pub desired: &'a Desired,
    /// The group as seen.
    pub seen: &'a Observed,
    /// The places there are.
    pub capacity: &'a Capacity,
    /// Present use of members, where it was read.
    pub usage: &'a HashMap<VmRef, Usage>,
    /// Seconds since 1970.
    pub now: u64,
    /// How far the site's clocks are ahead of UTC now, if the operator knows its time zone.
    pub utc_offset_minutes: Option<i32>,
    /// Randomness for this question.
    pub seed: u64,
    /// Disk space that a member will take, in MiB, where it is known.
    pub disk_mib: Option<u64>,
    /// How often it was asked without success.
    pub attempt: u32,
    /// Why it is asked.
    pub purpose: wit::types::Purpose,
}

impl Question<'_> {
    /// As it is put to a naming policy: so many names.
    pub fn for_names(&self, count: usize, taken: Taken) -> Asked {
        Asked::Naming(wit::naming::Request {
            context: context(self),
            count: u32::try_from(count).unwrap_or(u32::MAX),
            members: members(self).0,
            taken_in_group: taken.in_group,
            taken_elsewhere: taken.elsewhere,
            max_length: NAME_LIMIT,
        })
    }

    /// As it is put to a placement policy: places for these, by UUID and name.
    pub fn for_places(&self, newcomers: &[(String, String)]) -> Asked {
        Asked::Placement(wit::placement::Request {
            context: context(self),
            inventory: inventory(self.capacity),
            members: members(self).0,
            newcomers: newcomers
                .iter()
                .map(|(_, name)| wit::placement::Newcomer {
                    name: name.clone(),
                    cpus: self.desired.cpus,
                    memory_mib: self.desired.memory_mib,
                    disk_mib: self.disk_mib,
                    attributes: Vec::new(),
                })
                .collect(),
        })
    }

    /// As it is put to a scaling policy: so many have to leave. With the UUIDs of
    /// its members, in their order.
    pub fn for_victims(&self, count: usize) -> (Asked, Vec<String>) {
        let (table, uuids) = members(self);
        let request = wit::scaling::Request {
            context: context(self),
            count: u32::try_from(count).unwrap_or(u32::MAX),
            members: table,
            inventory: inventory(self.capacity),
        };
        (Asked::Scaling(request), uuids)
    }
}

/// The new members of these UUIDs, by an answer to [`Question::for_names`].
pub fn newcomers(uuids: Vec<String>, answer: wit::naming::Answer) -> Vec<Newcomer> {
    uuids
        .into_iter()
        .zip(answer.proposals)
        .map(|(uuid, proposal)| Newcomer { uuid, name: proposal.name, reason: proposal.reason })
        .collect()
}

/// Where each goes, by an answer to [`Question::for_places`].
pub fn places(
    capacity: &Capacity,
    newcomers: &[(String, String)],
    places: Vec<wit::placement::Place>,
) -> BTreeMap<String, Place> {
    let at = |index: Option<u32>| index.map(|index| index as usize);
    newcomers
        .iter()
        .zip(places)
        .map(|((uuid, _), place)| {
            let host = at(place.host).and_then(|index| capacity.hosts.get(index));
            // A host is of one cluster, and a clone needs that one's pool.
            let cluster = at(place.cluster).or(host.map(|host| host.cluster));
            let place = Place {
                cluster: cluster.and_then(|index| capacity.clusters.get(index)).map(|cluster| cluster.id.clone()),
                host: host.map(|host| host.id.clone()),
                datastore: at(place.datastore)
                    .and_then(|index| capacity.datastores.get(index))
                    .map(|datastore| datastore.id.clone()),
                reason: place.reason,
            };
            (uuid.clone(), place)
        })
        .collect()
}

/// Gives those a datastore whom the policy gave none, unless any will do, because none
/// were named: what vCenter would choose by itself need not be one of those. It is the one with most room
/// of those that their host, or cluster, has; each takes so much of it.
pub fn onto_named_datastores(
    any: bool,
    capacity: &Capacity,
    disk_mib: Option<u64>,
    places: &mut BTreeMap<String, Place>,
) {
    if any {
        return;
    }
    let mut left: HashMap<DatastoreRef, u64> =
        capacity.datastores.iter().map(|store| (store.id.clone(), store.free_mib)).collect();
    for place in places.values_mut() {
        if place.datastore.is_none() {
            let fits = |host: &HostCapacity| {
                let cluster = capacity.clusters.get(host.cluster).map(|cluster| &cluster.id);
                place.host.as_ref().is_none_or(|id| host.id == *id)
                    && (place.cluster.is_none() || place.cluster.as_ref() == cluster)
            };
            let reached =
                |store: &DatastoreCapacity| store.hosts.iter().filter_map(|at| capacity.hosts.get(*at)).any(fits);
            // Of several alike the first by name. One that cannot be used is better than
            // one that nobody named: vCenter says so.
            let best =
                capacity.datastores.iter().rev().max_by_key(|store| {
                    (reached(store), store.usable, left.get(&store.id).copied().unwrap_or_default())
                });
            place.datastore = best.map(|store| store.id.clone());
        }
        if let Some(left) = place.datastore.as_ref().and_then(|id| left.get_mut(id)) {
            *left = left.saturating_sub(disk_mib.unwrap_or(1));
        }
    }
}

/// Who leaves, by an answer to [`Question::for_victims`].
pub fn victims(uuids: &[String], answer: Vec<wit::scaling::Victim>) -> Vec<Victim> {
    answer
        .into_iter()
        .filter_map(|victim| Some(Victim { uuid: uuids.get(victim.member as usize)?.clone(), reason: victim.reason }))
        .collect()
}

/// A policy that gave no legal answer.
#[derive(Debug)]
pub struct NoAnswer {
    /// The plugin.
    pub plugin: String,
    /// Why.
    pub error: DecisionError,
}

/// Asks policies under the rules of the policy file.
#[derive(Clone)]
pub struct Decider {
    /// Where sandboxes run.
    pub offload: Offload,
    /// Counts decisions.
    pub metrics: Metrics,
    /// Keeps a record of each.
    pub recorder: Recorder,
    /// Says when each was made.
    pub clock: Clock,
    /// Where policies on trial hear of the questions.
    pub shadow: Shadow,
    /// Is told of policies that fail.
    pub book: PolicyBook,
    /// Is charged for each.
    pub budget: Budget,
}

impl Decider {
    /// Names for new members, and whether they have to be unique everywhere.
    /// `uuids` are theirs; one name for each.
    pub async fn name(
        &self,
        serving: &Serving,
        question: &Question<'_>,
        uuids: Vec<String>,
        taken: Taken,
    ) -> Result<(Vec<Newcomer>, bool), NoAnswer> {
        let asked = question.for_names(uuids.len(), taken);
        let (plugin, answer) = self.ask(serving, asked).await?;
        let Answer::Naming(answer) = answer else { return Err(beside_the_point(plugin)) };
        let everywhere = answer.scope == wit::naming::Scope::Everywhere;
        Ok((newcomers(uuids, answer), everywhere))
    }

    /// Places for members that are about to be made.
    pub async fn place(
        &self,
        serving: &Serving,
        question: &Question<'_>,
        newcomers: &[(String, String)],
    ) -> Result<BTreeMap<String, Place>, NoAnswer> {
        let asked = question.for_places(newcomers);
        let (plugin, answer) = self.ask(serving, asked).await?;
        let Answer::Placement(places) = answer else { return Err(beside_the_point(plugin)) };
        Ok(self::places(question.capacity, newcomers, places))
    }

    /// Who leaves.
    pub async fn choose(
        &self,
        serving: &Serving,
        question: &Question<'_>,
        count: usize,
    ) -> Result<Vec<Victim>, NoAnswer> {
        let (asked, uuids) = question.for_victims(count);
        let (plugin, answer) = self.ask(serving, asked).await?;
        let Answer::Scaling(victims) = answer else { return Err(beside_the_point(plugin)) };
        Ok(self::victims(&uuids, victims))
    }

    /// Asks as if nobody had: nothing is counted or recorded.
    pub async fn try_out(&self, policy: &Arc<Policy>, question: &Arc<Asked>) -> Result<Answer, NoAnswer> {
        let (asked, put) = (policy.clone(), question.clone());
        let tried = self.offload.run(move || asked.answer(&put)).await;
        tried.outcome.map_err(|error| NoAnswer { plugin: policy.plugin().to_owned(), error })
    }

    /// Asks, and where the policy file says so another policy after it. Gives the
    /// answer with the plugin whose it is.
    async fn ask(&self, serving: &Serving, question: Asked) -> Result<(String, Answer), NoAnswer> {
        let kind = question.kind();
        if let Some(why) = serving.withheld.get(&kind) {
            return Err(withheld(why));
        }
        let (policy, question) = (serving.set.get(kind), Arc::new(question));
        let told = self.ask_one(kind, Role::InForce, policy, &question).await;
        if let Some(Ok(candidate)) = serving.candidates.get(kind).map(|candidate| &candidate.checked) {
            let outcome = told.as_ref().map(|(_, answer)| answer).map_err(|failed| &failed.error);
            self.shadow.put(candidate, policy, &question, outcome);
        }
        let failed = match told {
            Err(failed) => failed,
            answered => return answered,
        };
        if failed.error.is_fault() {
            self.book.failed(serving, kind, &failed.error);
        }
        let Some(other) = serving.instead(kind) else { return Err(failed) };
        tracing::warn!(plugin = %failed.plugin, error = %failed.error, other = other.plugin(), "asking another policy instead");
        self.metrics.fallback(kind.as_str());
        self.ask_one(kind, Role::Fallback, other, &question).await
    }

    async fn ask_one(
        &self,
        kind: Kind,
        role: Role,
        policy: &Arc<Policy>,
        question: &Arc<Asked>,
    ) -> Result<(String, Answer), NoAnswer> {
        let (begin, at) = (Instant::now(), self.clock.since_epoch());
        let (asked, put) = (policy.clone(), question.clone());
        let span = tracing::debug_span!(
            "decision",
            kind = kind.as_str(),
            plugin = policy.plugin(),
            outcome = tracing::field::Empty,
            fuel = tracing::field::Empty,
        );
        let tried = self.offload.run(move || asked.answer(&put)).instrument(span.clone()).await;
        let took: Duration = begin.elapsed();
        let namespace = &question.context().group.namespace;
        self.budget.charge(namespace, took.max(Duration::from_nanos(tried.fuel)));
        let outcome = tried.outcome.as_ref().map_or_else(DecisionError::reason, |_| "answered");
        span.record("outcome", outcome);
        span.record("fuel", tried.fuel);
        self.metrics.decision(kind.as_str(), outcome, took, tried.fuel, tried.memory);
        let result = tried.outcome.clone();
        if self.recorder.is_on() {
            let made = Made { at_ms: whole(at.as_millis()), role, micros: whole(took.as_micros()) };
            self.recorder.record(Entry { policy: policy.clone(), question: question.clone(), tried, made });
        }
        let plugin = policy.plugin().to_owned();
        match result {
            Ok(answer) => Ok((plugin, answer)),
            Err(error) => Err(NoAnswer { plugin, error }),
        }
    }
}

fn whole(figure: u128) -> u64 {
    u64::try_from(figure).unwrap_or(u64::MAX)
}

/// Nobody is asked, for this reason.
pub fn withheld(why: &str) -> NoAnswer {
    NoAnswer {
        plugin: "on hold".to_owned(),
        error: DecisionError::Refused(wit::types::Refusal::NotNow(why.to_owned())),
    }
}

/// The namespace has no time left that policies may take.
pub fn over_budget(Allowance { seconds, window }: Allowance) -> NoAnswer {
    let text = format!(
        "policies have taken {seconds} s for this namespace within {window} s, and may not take more (`budget` of the administrator's policy.yaml); they are asked again when there is time"
    );
    NoAnswer { plugin: "on hold".to_owned(), error: DecisionError::Refused(wit::types::Refusal::NotNow(text)) }
}

/// The policy host answers each question in kind; this is for the compiler.
fn beside_the_point(plugin: String) -> NoAnswer {
    NoAnswer { plugin, error: DecisionError::Host("it answered another question".to_owned()) }
}

/// Names that are not free.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// In the group's folder.
    pub in_group: Vec<String>,
    /// Elsewhere on this vCenter.
    pub elsewhere: Vec<String>,
}

/// A figure of a virtual machine; the contract has 32 bits for it.
fn small(figure: u64) -> u32 {
    u32::try_from(figure).unwrap_or(u32::MAX)
}

fn attributes(map: &BTreeMap<String, String>) -> Vec<wit::types::Attribute> {
    map.iter().map(|(key, value)| wit::types::Attribute { key: key.clone(), value: value.clone() }).collect()
}

fn context(question: &Question<'_>) -> wit::types::Context {
    let desired = question.desired;
    wit::types::Context {
        now: question.now,
        utc_offset_minutes: question.utc_offset_minutes,
        seed: question.seed,
        attempt: question.attempt,
        purpose: question.purpose,
        // The policy fills in its own.
        config: String::new(),
        group: wit::types::Group {
            namespace: desired.group.namespace.clone(),
            name: desired.group.name.clone(),
            uid: desired.uid.clone(),
            labels: attributes(&desired.labels),
            template: desired.template.clone(),
            cpus: desired.cpus,
            memory_mib: desired.memory_mib,
            replicas: u32::try_from(desired.replicas).unwrap_or(u32::MAX),
            attributes: attributes(&desired.attributes),
        },
    }
}

/// The members that exist or are being made, and stay, with their UUIDs in the
/// same order.
fn members(question: &Question<'_>) -> (Vec<wit::types::Member>, Vec<String>) {
    let hosts: HashMap<_, _> = (0u32..).zip(&question.capacity.hosts).map(|(index, host)| (&host.id, index)).collect();
    let stores: HashMap<_, _> =
        (0u32..).zip(&question.capacity.datastores).map(|(index, store)| (&store.id, index)).collect();
    let place = |host: Option<&HostRef>, store: Option<&DatastoreRef>| {
        (host.and_then(|host| hosts.get(host).copied()), store.and_then(|store| stores.get(store).copied()))
    };
    question
        .seen
        .members
        .iter()
        .filter(|member| !member.leaving() && (member.vm.is_some() || member.being_made()))
        .map(|member| {
            let record = if let Some(vm) = &member.vm {
                let protected = question.desired.protects(member);
                existing(member, vm, place(vm.host.as_ref(), vm.datastore.as_ref()), question.usage, protected)
            } else {
                let bound_for = member.bound_for.as_ref();
                let host = bound_for.and_then(|bound_for| bound_for.host.as_ref());
                being_made(member, place(host, bound_for.and_then(|bound_for| bound_for.datastore.as_ref())))
            };
            (record, member.uuid.clone())
        })
        .unzip()
}

type Indices = (Option<u32>, Option<u32>);

fn existing(
    member: &Seen,
    vm: &VmSeen,
    (host, datastore): Indices,
    usage: &HashMap<VmRef, Usage>,
    protected: bool,
) -> wit::types::Member {
    let usage = usage.get(&vm.id);
    wit::types::Member {
        name: member.name.clone(),
        uuid: member.uuid.clone(),
        created_at: vm.created_at,
        power: match vm.power {
            PowerState::On => wit::types::PowerState::PoweredOn,
            PowerState::Off => wit::types::PowerState::PoweredOff,
            PowerState::Suspended => wit::types::PowerState::Suspended,
            PowerState::Unknown => wit::types::PowerState::Unknown,
        },
        host,
        datastore,
        cpu_used_mhz: usage.and_then(|usage| usage.cpu_mhz).map(small),
        memory_used_mib: usage.and_then(|usage| usage.memory_mib).map(small),
        ready: vm.on() && member.waits.ready,
        protected,
        attributes: attributes(&vm.attributes),
    }
}

fn being_made(member: &Seen, (host, datastore): Indices) -> wit::types::Member {
    wit::types::Member {
        name: member.name.clone(),
        uuid: member.uuid.clone(),
        created_at: None,
        power: wit::types::PowerState::Unknown,
        host,
        datastore,
        cpu_used_mhz: None,
        memory_used_mib: None,
        ready: false,
        protected: false,
        attributes: Vec::new(),
    }
}

fn inventory(capacity: &Capacity) -> wit::types::Inventory {
    let index = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    wit::types::Inventory {
        clusters: capacity
            .clusters
            .iter()
            .map(|cluster| wit::types::Cluster {
                name: cluster.name.clone(),
                drs: cluster.drs,
                attributes: attributes(&cluster.attributes),
            })
            .collect(),
        hosts: capacity
            .hosts
            .iter()
            .map(|host| wit::types::Host {
                name: host.name.clone(),
                cluster: index(host.cluster),
                usable: host.usable(),
                state: match host.state {
                    HostState::InService => wit::types::HostState::InService,
                    HostState::EnteringMaintenance => wit::types::HostState::EnteringMaintenance,
                    HostState::InMaintenance => wit::types::HostState::InMaintenance,
                    HostState::Quarantined => wit::types::HostState::Quarantined,
                    HostState::Unreachable => wit::types::HostState::Unreachable,
                },
                cpu_capacity_mhz: host.cpu_mhz,
                cpu_used_mhz: host.cpu_used_mhz,
                memory_capacity_mib: host.memory_mib,
                memory_used_mib: host.memory_used_mib,
                vms: Some(host.vms),
                attributes: attributes(&host.attributes),
            })
            .collect(),
        datastores: capacity
            .datastores
            .iter()
            .map(|store| wit::types::Datastore {
                name: store.name.clone(),
                usable: store.usable,
                capacity_mib: store.capacity_mib,
                free_mib: store.free_mib,
                uncommitted_mib: store.uncommitted_mib,
                kind: store.kind.clone(),
                hosts: store.hosts.iter().map(|at| index(*at)).collect(),
                attributes: attributes(&store.attributes),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vmgroup_vsphere::{ClusterCapacity, ClusterRef, PoolRef};

    use super::*;

    fn store(name: &str, free_mib: u64, hosts: &[usize]) -> DatastoreCapacity {
        DatastoreCapacity {
            id: DatastoreRef::new(name),
            name: name.to_owned(),
            usable: name != "maintained",
            capacity_mib: 1000,
            free_mib,
            uncommitted_mib: None,
            kind: None,
            hosts: hosts.to_vec(),
            attributes: BTreeMap::new(),
        }
    }

    fn host(cluster: usize) -> HostCapacity {
        HostCapacity {
            id: HostRef::new(format!("h{cluster}")),
            name: format!("h{cluster}"),
            cluster,
            state: HostState::InService,
            cpu_mhz: 1,
            cpu_used_mhz: None,
            memory_mib: 1,
            memory_used_mib: None,
            vms: 0,
            attributes: BTreeMap::new(),
        }
    }

    /// Two clusters with a host each, which share some datastores.
    fn capacity() -> Capacity {
        let cluster = |number: usize| ClusterCapacity {
            id: ClusterRef::new("ClusterComputeResource", &format!("c{number}")),
            name: format!("c{number}"),
            drs: true,
            pool: PoolRef::new(format!("p{number}")),
            attributes: BTreeMap::new(),
        };
        Capacity {
            clusters: vec![cluster(0), cluster(1)],
            hosts: vec![host(0), host(1)],
            datastores: vec![
                store("a", 500, &[0, 1]),
                store("b", 600, &[0, 1]),
                store("maintained", 900, &[0, 1]),
                store("of-1", 700, &[1]),
            ],
        }
    }

    fn chosen(any: bool, places: &[Place]) -> Vec<Option<String>> {
        let mut places = places.iter().enumerate().map(|(at, place)| (at.to_string(), place.clone())).collect();
        onto_named_datastores(any, &capacity(), Some(200), &mut places);
        places.into_values().map(|place| place.datastore.map(|id| id.as_str().to_owned())).collect()
    }

    #[test]
    fn a_datastore_that_was_left_open_is_one_of_those_that_were_named() {
        let open = Place::default();
        let told = |places: &[Place]| chosen(false, places).into_iter().map(Option::unwrap).collect::<Vec<_>>();
        // By room, of which each takes some; the policy's own choices too.
        assert_eq!(told(&[open.clone(), open.clone(), open.clone()]), ["of-1", "b", "a"]);
        let own = Place { datastore: Some(DatastoreRef::new("of-1")), ..open.clone() };
        assert_eq!(told(&[own, open.clone()]), ["of-1", "b"]);
        // What the host and the cluster have.
        let on_host = Place { host: Some(HostRef::new("h0")), ..open.clone() };
        let in_cluster = Place { cluster: Some(capacity().clusters[0].id.clone()), ..open.clone() };
        assert_eq!(told(&[on_host, in_cluster]), ["b", "a"]);
        assert_eq!(chosen(true, &[open]), [None]);
    }
}

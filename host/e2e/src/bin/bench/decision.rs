//! One decision of the shipped policy `ordered` in a fresh sandbox, beside the
//! same code called natively, by turns in one run: the ratio is what counts.

use std::hint::black_box;
use std::time::{Duration, Instant};

use policy_ordered::Ordered;
use vmgroup_policy::wit::{scaling as wit, types as host};
use vmgroup_policy::{Host, Kind, Limits, Policy, shipped};
use vmgroup_policy_sdk::scaling::Request;
use vmgroup_policy_sdk::types::{self as sdk, PowerState};
use vmgroup_policy_sdk::{Scaling, parse_config, testing};

use crate::Result;
use crate::table::{Table, percentile, ratio, short};

const CASES: [(usize, usize); 2] = [(100, 2_001), (10_000, 101)];
const HOSTS: usize = 40;

/// The times of one size.
pub struct Decisions {
    members: usize,
    runs: usize,
    outcome: Result<(Duration, Duration)>,
}

/// Measures both sides at each size.
pub fn run() -> Vec<Decisions> {
    CASES.iter().map(|&(members, runs)| Decisions { members, runs, outcome: measure(members, runs) }).collect()
}

/// The medians: in the sandbox and native.
fn measure(members: usize, runs: usize) -> Result<(Duration, Duration)> {
    let source = shipped::find("ordered").ok_or("the shipped policy `ordered` is missing")?;
    let checked = Host::new(Limits::default())?.check(Kind::Scaling, &source)?;
    let policy: &Policy = &checked.policy;
    let mut native =
        testing::group("web").hosts(HOSTS).datastores(1).members(members).remove(u32::try_from(members / 10)?);
    policy.config_text().clone_into(&mut native.context.config);
    let question = translate(&native);
    let decided = policy.choose(&question)?.answer;
    let chosen = decide(&native)?;
    if decided.iter().map(|victim| victim.member).ne(chosen.iter().copied()) {
        return Err("the two sides do not decide alike".into());
    }
    let (mut sandboxed, mut alone) = (Vec::with_capacity(runs), Vec::with_capacity(runs));
    for _ in 0..runs {
        let since = Instant::now();
        black_box(policy.choose(black_box(&question))?);
        sandboxed.push(since.elapsed());
        let since = Instant::now();
        black_box(decide(black_box(&native))?);
        alone.push(since.elapsed());
    }
    Ok((percentile(&sandboxed, 50), percentile(&alone, 50)))
}

/// What the component does for a question: its configuration is parsed each time.
fn decide(request: &Request) -> Result<Vec<u32>> {
    let policy: Ordered = parse_config(&request.context.config).map_err(|problems| format!("{problems:?}"))?;
    let victims = policy.choose(request).map_err(|refusal| format!("{refusal:?}"))?;
    Ok(victims.iter().map(|victim| victim.member).collect())
}

/// Adds the rows.
pub fn report(table: &mut Table, decisions: &[Decisions]) {
    for Decisions { members, runs, outcome } in decisions {
        let (measured, beside) = match outcome {
            Ok((sandboxed, native)) => (
                Ok(format!("{}, ratio {}", short(*sandboxed), ratio(*sandboxed, *native))),
                format!("the same code native: {}", short(*native)),
            ),
            Err(why) => (Err(why.to_string().into()), "the same code native".to_owned()),
        };
        let how = format!(
            "median of {runs}, by turns; `ordered` chooses a tenth, {HOSTS} hosts; the sandbox's side has a new store, the question copied in and the answer checked, its code is built for size"
        );
        table.add(format!("one decision among {members} members, in a fresh sandbox"), measured, beside, how);
    }
}

/// The same question in the host's types.
fn translate(request: &Request) -> wit::Request {
    let Request { context, count, members, inventory } = request;
    let sdk::Context { now, utc_offset_minutes, seed, attempt, purpose: _, config, group } = context;
    wit::Request {
        context: host::Context {
            now: *now,
            utc_offset_minutes: *utc_offset_minutes,
            seed: *seed,
            attempt: *attempt,
            purpose: host::Purpose::ScaleIn,
            config: config.clone(),
            group: host::Group {
                namespace: group.namespace.clone(),
                name: group.name.clone(),
                uid: group.uid.clone(),
                labels: attributes(&group.labels),
                template: group.template.clone(),
                cpus: group.cpus,
                memory_mib: group.memory_mib,
                replicas: group.replicas,
                attributes: attributes(&group.attributes),
            },
        },
        count: *count,
        members: members.iter().map(member).collect(),
        inventory: places(inventory),
    }
}

fn places(inventory: &sdk::Inventory) -> host::Inventory {
    let cluster = |one: &sdk::Cluster| host::Cluster {
        name: one.name.clone(),
        drs: one.drs,
        attributes: attributes(&one.attributes),
    };
    let esxi = |one: &sdk::Host| host::Host {
        name: one.name.clone(),
        cluster: one.cluster,
        usable: one.usable,
        state: match one.state {
            sdk::HostState::InService => host::HostState::InService,
            sdk::HostState::EnteringMaintenance => host::HostState::EnteringMaintenance,
            sdk::HostState::InMaintenance => host::HostState::InMaintenance,
            sdk::HostState::Quarantined => host::HostState::Quarantined,
            sdk::HostState::Unreachable => host::HostState::Unreachable,
        },
        cpu_capacity_mhz: one.cpu_capacity_mhz,
        cpu_used_mhz: one.cpu_used_mhz,
        memory_capacity_mib: one.memory_capacity_mib,
        memory_used_mib: one.memory_used_mib,
        vms: one.vms,
        attributes: attributes(&one.attributes),
    };
    let datastore = |one: &sdk::Datastore| host::Datastore {
        name: one.name.clone(),
        usable: one.usable,
        capacity_mib: one.capacity_mib,
        free_mib: one.free_mib,
        uncommitted_mib: one.uncommitted_mib,
        kind: one.kind.clone(),
        hosts: one.hosts.clone(),
        attributes: attributes(&one.attributes),
    };
    host::Inventory {
        clusters: inventory.clusters.iter().map(cluster).collect(),
        hosts: inventory.hosts.iter().map(esxi).collect(),
        datastores: inventory.datastores.iter().map(datastore).collect(),
    }
}

fn member(one: &sdk::Member) -> host::Member {
    host::Member {
        name: one.name.clone(),
        uuid: one.uuid.clone(),
        created_at: one.created_at,
        power: match one.power {
            PowerState::PoweredOn => host::PowerState::PoweredOn,
            PowerState::PoweredOff => host::PowerState::PoweredOff,
            PowerState::Suspended => host::PowerState::Suspended,
            PowerState::Unknown => host::PowerState::Unknown,
        },
        host: one.host,
        datastore: one.datastore,
        cpu_used_mhz: one.cpu_used_mhz,
        memory_used_mib: one.memory_used_mib,
        ready: one.ready,
        protected: one.protected,
        attributes: attributes(&one.attributes),
    }
}

fn attributes(list: &[sdk::Attribute]) -> Vec<host::Attribute> {
    list.iter().map(|one| host::Attribute { key: one.key.clone(), value: one.value.clone() }).collect()
}

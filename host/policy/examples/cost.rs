//! What the shipped policies cost: size, check, and one decision in a fresh
//! sandbox at 1 to 10,000 members. Prints a table, asserts nothing.
//!
//! `cargo run --release -p vmgroup-policy --example cost`

use std::error::Error;
use std::time::{Duration, Instant};

use vmgroup_policy::wit::types::{
    Cluster, Context, Datastore, Group, Host as Esxi, HostState, Inventory, Member, PowerState, Purpose,
};
use vmgroup_policy::wit::{naming, placement, scaling};
use vmgroup_policy::{DecisionError, Host, Kind, Limits, Policy, Stage, shipped};

const SIZES: [u32; 5] = [1, 10, 100, 1_000, 10_000];

fn main() -> Result<(), Box<dyn Error>> {
    let host = Host::new(Limits::default())?;
    println!("{:<15} {:>8} {:>10} {:>10}", "policy", "KiB", "compile", "the rest");
    let mut policies = Vec::new();
    for one in shipped::all() {
        let Some(source) = shipped::find(one.name) else { continue };
        let checked = host.check(one.kind, &source)?;
        let total: Duration = checked.stages.iter().map(|report| report.took).sum();
        let compile: Duration =
            checked.stages.iter().filter(|report| report.stage == Stage::Compile).map(|report| report.took).sum();
        println!(
            "{:<15} {:>8} {:>10} {:>10}",
            one.name,
            one.bytes.len() / 1024,
            show(compile),
            show(total.saturating_sub(compile))
        );
        policies.push(checked.policy);
    }
    println!("\n{:<15} {:>8} {:>10} {:>12} {:>10}", "policy", "members", "median", "fuel", "KiB");
    for policy in &policies {
        for size in SIZES {
            match ask(policy, size) {
                Ok((median, fuel, memory)) => {
                    println!("{:<15} {size:>8} {:>10} {fuel:>12} {:>10}", policy.plugin(), show(median), memory / 1024);
                }
                Err(error) => println!("{:<15} {size:>8} {error}", policy.plugin()),
            }
        }
    }
    Ok(())
}

fn show(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros < 10_000 { format!("{micros} µs") } else { format!("{} ms", micros / 1000) }
}

/// Asks for a tenth of `size` (at least one), in a group of `size`.
fn ask(policy: &Policy, size: u32) -> Result<(Duration, u64, usize), DecisionError> {
    let count = size.div_ceil(10);
    let inventory = inventory();
    let members = members(size);
    let cost = match policy.kind() {
        Kind::Naming => {
            let request = naming::Request {
                context: context(policy),
                count,
                taken_in_group: members.iter().map(|member| member.name.clone()).collect(),
                members,
                taken_elsewhere: Vec::new(),
                max_length: 80,
            };
            measured(|| policy.name(&request).map(|decided| (decided.fuel, decided.memory)))
        }
        Kind::Placement => {
            let newcomer = |index| placement::Newcomer {
                name: format!("new-{index}"),
                cpus: 2,
                memory_mib: 2048,
                disk_mib: Some(1),
                attributes: Vec::new(),
            };
            let newcomers = (0..count).map(newcomer).collect();
            let request = placement::Request { context: context(policy), inventory, members, newcomers };
            measured(|| policy.place(&request).map(|decided| (decided.fuel, decided.memory)))
        }
        Kind::Scaling => {
            let request = scaling::Request { context: context(policy), count, members, inventory };
            measured(|| policy.choose(&request).map(|decided| (decided.fuel, decided.memory)))
        }
    };
    cost.map(|(median, (fuel, memory))| (median, fuel, memory))
}

/// The median of 21 runs.
fn measured<T>(ask: impl Fn() -> Result<T, DecisionError>) -> Result<(Duration, T), DecisionError> {
    let mut last = ask()?;
    let mut times = Vec::new();
    for _ in 0..21 {
        let since = Instant::now();
        last = ask()?;
        times.push(since.elapsed());
    }
    times.sort_unstable();
    Ok((times[times.len() / 2], last))
}

fn context(policy: &Policy) -> Context {
    Context {
        now: 1_800_000_000,
        utc_offset_minutes: None,
        seed: 1,
        attempt: 0,
        purpose: Purpose::ScaleIn,
        config: policy.config_text().to_owned(),
        group: Group {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u".into(),
            labels: Vec::new(),
            template: "t".into(),
            cpus: 2,
            memory_mib: 2048,
            replicas: 1,
            attributes: Vec::new(),
        },
    }
}

fn inventory() -> Inventory {
    Inventory {
        clusters: vec![Cluster { name: "c".into(), drs: true, attributes: Vec::new() }],
        hosts: (0..40)
            .map(|index| Esxi {
                name: format!("esx-{index}.example.com"),
                cluster: 0,
                usable: true,
                state: HostState::InService,
                cpu_capacity_mhz: 100_000,
                cpu_used_mhz: Some(1000 * index),
                memory_capacity_mib: 1 << 20,
                memory_used_mib: Some(1000 * index),
                vms: Some(10),
                attributes: Vec::new(),
            })
            .collect(),
        datastores: vec![Datastore {
            name: "d".into(),
            usable: true,
            capacity_mib: 1 << 30,
            free_mib: 1 << 30,
            uncommitted_mib: None,
            kind: None,
            hosts: (0..40).collect(),
            attributes: Vec::new(),
        }],
    }
}

fn members(size: u32) -> Vec<Member> {
    (0..size)
        .map(|index| Member {
            name: format!("web-replica-{index:08}"),
            uuid: format!("00000000-0000-4000-8000-{index:012}"),
            created_at: Some(1_700_000_000 + u64::from(index)),
            power: PowerState::PoweredOn,
            host: Some(index % 40),
            datastore: Some(0),
            cpu_used_mhz: Some(index % 1000),
            memory_used_mib: Some(index % 1000),
            ready: true,
            protected: false,
            attributes: Vec::new(),
        })
        .collect()
}

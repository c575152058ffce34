//! The shipped policies, by the path that anybody's plugin takes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::LazyLock;

use vmgroup_policy::wit::types::{
    Cluster, Context, Datastore, Host as Esxi, HostState, Inventory, Member, PowerState, Purpose,
};
use vmgroup_policy::wit::{naming, placement, scaling};
use vmgroup_policy::{Host, Kind, Limits, Problem, Stage, shipped};

static HOST: LazyLock<Host> = LazyLock::new(|| Host::new(Limits::default()).unwrap());

fn context(seed: u64) -> Context {
    common::context(Purpose::ScaleIn, seed, 0)
}

fn inventory() -> Inventory {
    Inventory {
        clusters: vec![Cluster { name: "c".into(), drs: true, attributes: Vec::new() }],
        hosts: (0..2)
            .map(|index| Esxi {
                name: format!("esx-{index}"),
                cluster: 0,
                usable: true,
                state: HostState::InService,
                cpu_capacity_mhz: 10_000,
                cpu_used_mhz: None,
                memory_capacity_mib: 65_536,
                memory_used_mib: None,
                vms: None,
                attributes: Vec::new(),
            })
            .collect(),
        datastores: vec![Datastore {
            name: "d".into(),
            usable: true,
            capacity_mib: 1 << 20,
            free_mib: 1 << 20,
            uncommitted_mib: None,
            kind: None,
            hosts: vec![0, 1],
            attributes: Vec::new(),
        }],
    }
}

fn members(count: u64) -> Vec<Member> {
    (0..count)
        .map(|index| Member {
            name: format!("web-{index}"),
            uuid: format!("uuid-{index}"),
            created_at: Some(1_700_000_000 + index),
            power: PowerState::PoweredOn,
            host: Some(0),
            datastore: Some(0),
            cpu_used_mhz: Some(100),
            memory_used_mib: Some(100),
            ready: true,
            protected: false,
            attributes: Vec::new(),
        })
        .collect()
}

fn naming(seed: u64) -> naming::Request {
    naming::Request {
        context: context(seed),
        count: 3,
        members: members(2),
        taken_in_group: vec!["web-0".into(), "web-1".into()],
        taken_elsewhere: Vec::new(),
        max_length: 80,
    }
}

#[test]
fn the_list_is_the_one_of_the_documentation() {
    let mut names: Vec<_> = shipped::all().iter().map(|one| (one.kind, one.name)).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            (Kind::Naming, "ordinal"),
            (Kind::Naming, "random-suffix"),
            (Kind::Placement, "anti-affinity"),
            (Kind::Placement, "cheapest-datastore"),
            (Kind::Placement, "pack"),
            (Kind::Placement, "pool-default"),
            (Kind::Placement, "spread"),
            (Kind::Scaling, "balanced"),
            (Kind::Scaling, "drain-first"),
            (Kind::Scaling, "idle-first"),
            (Kind::Scaling, "ordered"),
            (Kind::Scaling, "pets"),
        ]
    );
}

#[test]
fn each_passes_its_check_and_imports_nothing_but_the_contract() {
    for one in shipped::all() {
        let source = shipped::find(one.name).unwrap();
        let checked = HOST.check(one.kind, &source).unwrap_or_else(|error| {
            panic!("{error}\n{}", error.remedy());
        });
        assert_eq!(checked.policy.kind(), one.kind);
        assert_eq!(checked.policy.description().name, one.name);
        let answered = &checked.stages.last().unwrap().detail;
        assert!(!answered.starts_with("0 questions answered"), "{}: {answered}", one.name);
    }
}

#[test]
fn each_names_a_misspelt_field_of_its_configuration() {
    for one in shipped::all() {
        let mut source = shipped::find(one.name).unwrap();
        source.config = serde_json::json!({ "surely-no-such-field": 1 });
        let error = HOST.check(one.kind, &source).unwrap_err();
        assert_eq!(error.stage, Stage::Config, "{error}");
        let Problem::Config(problems) = &*error.problem else { panic!("{error}") };
        assert!(!problems.is_empty());
        assert!(error.to_string().contains("surely-no-such-field"), "{error}");
    }
}

#[test]
fn a_shipped_one_is_found_with_and_without_its_ending() {
    let digest = |name: &str| {
        let source = shipped::find(name).unwrap();
        HOST.check(Kind::Scaling, &source).unwrap().policy.digest().clone()
    };
    assert_eq!(digest("ordered"), digest("ordered.wasm"));
    assert!(shipped::find("no-such").is_none());
    let error = shipped::not_shipped("no-such.wasm");
    assert!(error.to_string().contains("it ships anti-affinity, balanced"), "{error}");
}

#[test]
fn the_defaults_decide() {
    let set = shipped::default_set(&HOST).unwrap();
    let named = set.naming.name(&naming(1)).unwrap();
    for proposal in &named.answer.proposals {
        let suffix = proposal.name.strip_prefix("web-replica-").unwrap();
        assert!(suffix.len() == 8 && suffix.bytes().all(|b| b.is_ascii_lowercase()), "{suffix}");
    }
    assert_eq!(named, set.naming.name(&naming(1)).unwrap(), "the same question, the same answer");
    assert_ne!(named.answer, set.naming.name(&naming(2)).unwrap().answer, "another seed");
    let placed = set.placement.place(&placement::Request {
        context: context(1),
        inventory: inventory(),
        members: members(2),
        newcomers: vec![placement::Newcomer {
            name: "web-2".into(),
            cpus: 1,
            memory_mib: 1024,
            disk_mib: None,
            attributes: Vec::new(),
        }],
    });
    assert_eq!(placed.unwrap().answer[0].host, None, "left to vCenter");
    let chosen = set.scaling.choose(&scaling::Request {
        context: context(1),
        count: 1,
        members: members(3),
        inventory: inventory(),
    });
    let victims = chosen.unwrap().answer;
    assert_eq!(victims[0].member, 2, "the newest");
    assert!(!victims[0].reason.is_empty());
}

//! Small questions to put to made plugins.

use vmgroup_policy::wit::types::{
    Cluster, Context, Datastore, Host, HostState, Inventory, Member, PowerState, Purpose,
};
use vmgroup_policy::wit::{naming, placement, scaling};

use crate::common;
use crate::made::NOW_BE_BAD;

fn context() -> Context {
    let config = "left to the policy".into();
    Context { config, ..common::context(Purpose::ScaleOut, 7, NOW_BE_BAD) }
}

/// Three members, the last of them protected.
fn members() -> Vec<Member> {
    (0..3)
        .map(|index| Member {
            name: format!("web-{index}"),
            uuid: format!("uuid-{index}"),
            created_at: None,
            power: PowerState::PoweredOn,
            host: Some(0),
            datastore: Some(0),
            cpu_used_mhz: None,
            memory_used_mib: None,
            ready: true,
            protected: index == 2,
            attributes: Vec::new(),
        })
        .collect()
}

/// Two clusters; hosts 0 and 1 in the first (1 not usable), 2 in the second and
/// tiny; datastore 0 on hosts 0 and 1 with 100 MiB free, 1 not usable.
fn inventory() -> Inventory {
    let cluster = |name: &str| Cluster { name: name.into(), drs: false, attributes: Vec::new() };
    let host = |name: &str, cluster, usable, memory_capacity_mib| Host {
        name: name.into(),
        cluster,
        usable,
        state: if usable { HostState::InService } else { HostState::InMaintenance },
        cpu_capacity_mhz: 1000,
        cpu_used_mhz: None,
        memory_capacity_mib,
        memory_used_mib: None,
        vms: None,
        attributes: Vec::new(),
    };
    let datastore = |name: &str, usable| Datastore {
        name: name.into(),
        usable,
        capacity_mib: 1000,
        free_mib: 100,
        uncommitted_mib: None,
        kind: None,
        hosts: vec![0, 1],
        attributes: Vec::new(),
    };
    Inventory {
        clusters: vec![cluster("gold"), cluster("silver")],
        hosts: vec![host("esx-0", 0, true, 8192), host("esx-1", 0, false, 8192), host("esx-2", 1, true, 512)],
        datastores: vec![datastore("fast", true), datastore("broken", false)],
    }
}

/// For `count` names of at most 10 characters.
pub fn naming(count: u32) -> naming::Request {
    naming::Request {
        context: context(),
        count,
        members: members(),
        taken_in_group: vec!["foreign".into()],
        taken_elsewhere: vec!["db-0".into()],
        max_length: 10,
    }
}

/// For places of `count` newcomers of 1024 MiB and 60 MiB of disk.
pub fn placement(count: u32) -> placement::Request {
    placement::Request {
        context: context(),
        inventory: inventory(),
        members: members(),
        newcomers: (0..count)
            .map(|index| placement::Newcomer {
                name: format!("new-{index}"),
                cpus: 1,
                memory_mib: 1024,
                disk_mib: Some(60),
                attributes: Vec::new(),
            })
            .collect(),
    }
}

/// For `count` of the three members.
pub fn scaling(count: u32) -> scaling::Request {
    scaling::Request { context: context(), count, members: members(), inventory: inventory() }
}

//! The questions that every policy is asked before it counts: small ones and
//! awkward ones, all of them legal. An answer has to be legal too; a refusal is
//! fine; a crash, an overrun or an illegal answer is not.

use crate::check::Problem;
use crate::wit::types::{
    Attribute, Cluster, Context, Datastore, Group, Host, HostState, Inventory, Member, PowerState, Purpose,
};
use crate::wit::{naming, placement, scaling};
use crate::{Decided, DecisionError, Kind, Policy};

/// Asks all questions of the policy's kind, twice each. Gives a summary and the
/// fuel used.
pub(crate) fn run(policy: &Policy) -> Result<(String, u64), Problem> {
    let mut tally = Tally::default();
    match policy.kind() {
        Kind::Naming => {
            for (case, request) in naming_questions() {
                tally.twice(case, || policy.name(&request))?;
            }
        }
        Kind::Placement => {
            for (case, request) in placement_questions() {
                tally.twice(case, || policy.place(&request))?;
            }
        }
        Kind::Scaling => {
            for (case, request) in scaling_questions() {
                tally.twice(case, || policy.choose(&request))?;
            }
        }
    }
    let Tally { answered, refused, fuel } = tally;
    Ok((format!("{answered} questions answered, {refused} refused, each twice the same"), fuel))
}

#[derive(Default)]
struct Tally {
    answered: usize,
    refused: usize,
    fuel: u64,
}

impl Tally {
    fn twice<A: PartialEq>(
        &mut self,
        case: &'static str,
        ask: impl Fn() -> Result<Decided<A>, DecisionError>,
    ) -> Result<(), Problem> {
        let (first, second) = (ask(), ask());
        for outcome in [&first, &second] {
            match outcome {
                Ok(decided) => self.fuel += decided.fuel,
                Err(error) if error.is_refusal() => {}
                Err(error) => return Err(Problem::SelfTest { case, error: error.clone() }),
            }
        }
        let same = match (&first, &second) {
            (Ok(first), Ok(second)) => first.answer == second.answer && first.fuel == second.fuel,
            (Err(first), Err(second)) => first == second,
            _ => false,
        };
        if !same {
            return Err(Problem::NotRepeatable { case });
        }
        if first.is_ok() {
            self.answered += 1;
        } else {
            self.refused += 1;
        }
        Ok(())
    }
}

/// 2026-01-05T10:00:00Z, a Monday.
const NOW: u64 = 1_767_607_200;

fn context(purpose: Purpose, replicas: u32) -> Context {
    Context {
        now: NOW,
        utc_offset_minutes: Some(60),
        seed: 0x5eed_0001,
        attempt: 0,
        purpose,
        config: String::new(),
        group: Group {
            namespace: "self-test".into(),
            name: "web".into(),
            uid: "00000000-0000-4000-8000-000000000001".into(),
            labels: vec![attribute("app", "web")],
            template: "template".into(),
            cpus: 2,
            memory_mib: 2048,
            replicas,
            attributes: Vec::new(),
        },
    }
}

fn attribute(key: &str, value: &str) -> Attribute {
    Attribute { key: key.into(), value: value.into() }
}

fn inventory(hosts: u32) -> Inventory {
    Inventory {
        clusters: vec![Cluster { name: "cluster-a".into(), drs: true, attributes: Vec::new() }],
        hosts: (0..hosts)
            .map(|index| Host {
                name: format!("esx-{index}"),
                cluster: 0,
                usable: true,
                state: HostState::InService,
                cpu_capacity_mhz: 48_000,
                cpu_used_mhz: (index % 2 == 0).then_some(1_200),
                memory_capacity_mib: 1 << 20,
                memory_used_mib: (index % 2 == 0).then_some(4_096),
                vms: None,
                attributes: vec![attribute("rack", if index % 2 == 0 { "r1" } else { "r2" })],
            })
            .collect(),
        datastores: vec![Datastore {
            name: "store-a".into(),
            usable: true,
            capacity_mib: 1 << 30,
            free_mib: 1 << 29,
            uncommitted_mib: None,
            kind: None,
            hosts: (0..hosts).collect(),
            attributes: Vec::new(),
        }],
    }
}

fn nowhere() -> Inventory {
    Inventory { clusters: Vec::new(), hosts: Vec::new(), datastores: Vec::new() }
}

fn full_house() -> Inventory {
    let mut inventory = inventory(2);
    for host in &mut inventory.hosts {
        host.usable = false;
        host.state = HostState::InMaintenance;
    }
    for datastore in &mut inventory.datastores {
        datastore.usable = false;
        datastore.free_mib = 0;
    }
    inventory
}

/// Members as a running group has them; the first is protected, every third
/// has no statistics yet.
fn members(count: u32, hosts: u32) -> Vec<Member> {
    (0..count)
        .map(|index| {
            let known = index % 3 != 2;
            Member {
                name: format!("web-replica-{index:08}"),
                uuid: format!("00000000-0000-4000-8000-{index:012}"),
                created_at: known.then_some(NOW - 3_600 * u64::from(index + 1)),
                power: if known { PowerState::PoweredOn } else { PowerState::Unknown },
                host: (hosts > 0 && known).then(|| index % hosts.max(1)),
                datastore: (hosts > 0 && known).then_some(0),
                cpu_used_mhz: known.then_some(100 * (index % 7)),
                memory_used_mib: known.then_some(256),
                ready: known,
                protected: index == 0 && count > 1,
                attributes: Vec::new(),
            }
        })
        .collect()
}

/// A member of which nothing is known, with a name that no policy gave.
fn strangers() -> Vec<Member> {
    vec![Member {
        name: "Ω %2f — 名前".into(),
        uuid: "00000000-0000-4000-8000-000000000099".into(),
        created_at: None,
        power: PowerState::Unknown,
        host: None,
        datastore: None,
        cpu_used_mhz: None,
        memory_used_mib: None,
        ready: false,
        protected: false,
        attributes: Vec::new(),
    }]
}

fn naming_questions() -> Vec<(&'static str, naming::Request)> {
    let question = |count: u32, members: Vec<Member>, taken_elsewhere: &[&str], attempt: u32| {
        let mut context = context(Purpose::ScaleOut, count);
        context.attempt = attempt;
        naming::Request {
            context,
            count,
            taken_in_group: members.iter().map(|member| member.name.clone()).collect(),
            members,
            taken_elsewhere: taken_elsewhere.iter().map(|name| (*name).to_owned()).collect(),
            max_length: 80,
        }
    };
    vec![
        ("for the first name", question(1, Vec::new(), &[], 0)),
        ("for a name beside three members", question(1, members(3, 2), &["db-0"], 0)),
        ("for a name beside a foreign one", question(1, strangers(), &[], 3)),
        ("for 200 names", question(200, members(3, 2), &[], 0)),
    ]
}

fn placement_questions() -> Vec<(&'static str, placement::Request)> {
    let question = |newcomers: u32, inventory: Inventory, members: Vec<Member>| placement::Request {
        context: context(Purpose::ScaleOut, newcomers),
        inventory,
        members,
        newcomers: (0..newcomers)
            .map(|index| placement::Newcomer {
                name: format!("web-{index}"),
                cpus: 2,
                memory_mib: 2048,
                disk_mib: (index % 2 == 0).then_some(1024),
                attributes: Vec::new(),
            })
            .collect(),
    };
    vec![
        ("for a place where there are none", question(1, nowhere(), Vec::new())),
        ("for a place where nothing is usable", question(1, full_house(), members(3, 2))),
        ("for a place on the only host", question(1, inventory(1), Vec::new())),
        ("for three places on two hosts", question(3, inventory(2), members(3, 2))),
        ("for a place beside a foreign member", question(1, inventory(2), strangers())),
        ("for 200 places on 40 hosts", question(200, inventory(40), members(100, 40))),
    ]
}

fn scaling_questions() -> Vec<(&'static str, scaling::Request)> {
    let question = |count: u32, members: Vec<Member>, inventory: Inventory, purpose| {
        let left = u32::try_from(members.len()).unwrap_or(u32::MAX).saturating_sub(count);
        scaling::Request { context: context(purpose, left), count, members, inventory }
    };
    vec![
        ("to choose the only member", question(1, members(1, 1), inventory(1), Purpose::ScaleIn)),
        ("to choose one of three on two hosts", question(1, members(3, 2), inventory(2), Purpose::ScaleIn)),
        ("to choose all that are not protected", question(2, members(3, 2), inventory(2), Purpose::ScaleIn)),
        ("to choose without an inventory", question(1, members(3, 0), nowhere(), Purpose::ScaleIn)),
        ("to choose a member of which nothing is known", question(1, strangers(), inventory(2), Purpose::ScaleIn)),
        ("to choose whom to replace", question(1, members(3, 2), inventory(2), Purpose::Replacement)),
        ("to choose 50 of 200", question(50, members(200, 4), inventory(4), Purpose::ScaleIn)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check_answer;
    use crate::wit::naming::Scope;

    #[test]
    fn every_question_has_a_legal_answer_or_says_why_not() {
        for (case, request) in naming_questions() {
            let proposals = (0..request.count)
                .map(|index| naming::Proposal { name: format!("fresh-{index}"), reason: String::new() })
                .collect();
            let answer = naming::Answer { proposals, scope: Scope::Everywhere };
            assert!(check_answer::naming(&request, answer).is_ok(), "{case}");
        }
        for (case, request) in scaling_questions() {
            let free = request.members.iter().filter(|member| !member.protected).count();
            assert!(free >= usize::try_from(request.count).unwrap(), "{case}");
        }
        for (case, request) in placement_questions() {
            let nowhere = placement::Place { cluster: None, host: None, datastore: None, reason: String::new() };
            let answer = vec![nowhere; request.newcomers.len()];
            assert!(check_answer::placement(&request, answer).is_ok(), "{case}");
        }
    }
}

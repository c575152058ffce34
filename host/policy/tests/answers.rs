//! S8 as a property: whatever an answer is, what passes the check keeps every
//! rule of the contract, restated here in other words; and what keeps the rules
//! passes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use vmgroup_policy::check_answer;
use vmgroup_policy::wit::types::{
    Cluster, Context, Datastore, Group, Host, HostState, Inventory, Member, PowerState, Purpose,
};
use vmgroup_policy::wit::{naming, placement, scaling};

fn context() -> Context {
    Context {
        now: 0,
        utc_offset_minutes: None,
        seed: 0,
        attempt: 0,
        purpose: Purpose::ScaleIn,
        config: "{}".into(),
        group: Group {
            namespace: "n".into(),
            name: "g".into(),
            uid: "u".into(),
            labels: Vec::new(),
            template: "t".into(),
            cpus: 1,
            memory_mib: 1,
            replicas: 1,
            attributes: Vec::new(),
        },
    }
}

/// Short names over a small alphabet collide often and break rules often.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ab]{1,3}",
        2 => "[a%/ ]{0,6}",
        1 => any::<String>(),
        1 => "[\\x00-\\x20\u{200b}a]{0,3}",
    ]
}

fn member() -> impl Strategy<Value = Member> {
    (name(), any::<bool>()).prop_map(|(name, protected)| Member {
        name,
        uuid: String::new(),
        created_at: None,
        power: PowerState::Unknown,
        host: None,
        datastore: None,
        cpu_used_mhz: None,
        memory_used_mib: None,
        ready: false,
        protected,
        attributes: Vec::new(),
    })
}

prop_compose! {
    fn naming_question()(
        count in 0_u32..4,
        members in vec(member(), 0..3),
        taken_in_group in vec(name(), 0..3),
        taken_elsewhere in vec(name(), 0..3),
        max_length in 0_u32..8,
    ) -> naming::Request {
        naming::Request { context: context(), count, members, taken_in_group, taken_elsewhere, max_length }
    }
}

prop_compose! {
    fn naming_answer()(
        names in vec((name(), any::<String>()), 0..4),
        everywhere in any::<bool>(),
    ) -> naming::Answer {
        naming::Answer {
            proposals: names.into_iter().map(|(name, reason)| naming::Proposal { name, reason }).collect(),
            scope: if everywhere { naming::Scope::Everywhere } else { naming::Scope::Group },
        }
    }
}

fn names_are_legal(request: &naming::Request, answer: &naming::Answer) -> bool {
    let names: Vec<&String> = answer.proposals.iter().map(|proposal| &proposal.name).collect();
    let everywhere = answer.scope == naming::Scope::Everywhere;
    names.len() == request.count as usize
        && names.iter().collect::<HashSet<_>>().len() == names.len()
        && names.iter().all(|name| {
            let escaped = name.replace('%', "%25").replace('/', "%2f").replace('\\', "%5c");
            !name.trim().is_empty()
                && name.trim() == name.as_str()
                && escaped.chars().count() <= request.max_length as usize
                && !name.chars().any(char::is_control)
                && !request.taken_in_group.contains(name)
                && !request.members.iter().any(|member| member.name == **name)
                && !(everywhere && request.taken_elsewhere.contains(name))
        })
}

prop_compose! {
    fn inventory()(
        clusters in 0_usize..3,
        hosts in vec((0_u32..4, any::<bool>(), 0_u64..4), 0..4),
        datastores in vec((any::<bool>(), 0_u64..8, vec(0_u32..5, 0..4)), 0..3),
    ) -> Inventory {
        Inventory {
            clusters: (0..clusters)
                .map(|index| Cluster { name: format!("c{index}"), drs: true, attributes: Vec::new() })
                .collect(),
            hosts: hosts
                .into_iter()
                .map(|(cluster, usable, memory)| Host {
                    name: "h".into(),
                    cluster,
                    usable,
                    state: HostState::InService,
                    cpu_capacity_mhz: 0,
                    cpu_used_mhz: None,
                    memory_capacity_mib: memory,
                    memory_used_mib: None,
                    vms: None,
                    attributes: Vec::new(),
                })
                .collect(),
            datastores: datastores
                .into_iter()
                .map(|(usable, free_mib, hosts)| Datastore {
                    name: "d".into(),
                    usable,
                    capacity_mib: 8,
                    free_mib,
                    uncommitted_mib: None,
                    kind: None,
                    hosts,
                    attributes: Vec::new(),
                })
                .collect(),
        }
    }
}

prop_compose! {
    fn placement_question()(
        inventory in inventory(),
        newcomers in vec((0_u64..4, option::of(0_u64..5)), 0..4),
    ) -> placement::Request {
        placement::Request {
            context: context(),
            inventory,
            members: Vec::new(),
            newcomers: newcomers
                .into_iter()
                .map(|(memory_mib, disk_mib)| placement::Newcomer {
                    name: "n".into(),
                    cpus: 1,
                    memory_mib,
                    disk_mib,
                    attributes: Vec::new(),
                })
                .collect(),
        }
    }
}

fn index() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![3 => Just(None), 6 => (0_u32..4).prop_map(Some), 1 => any::<u32>().prop_map(Some)]
}

prop_compose! {
    fn placement_answer()(
        places in vec((index(), index(), index(), any::<String>()), 0..4),
    ) -> Vec<placement::Place> {
        places
            .into_iter()
            .map(|(cluster, host, datastore, reason)| placement::Place { cluster, host, datastore, reason })
            .collect()
    }
}

fn places_are_legal(request: &placement::Request, answer: &[placement::Place]) -> bool {
    let Inventory { clusters, hosts, datastores } = &request.inventory;
    let pairs = || request.newcomers.iter().zip(answer);
    let one = |(newcomer, place): (&placement::Newcomer, &placement::Place)| {
        let host = place.host.map(|index| hosts.get(index as usize));
        let datastore = place.datastore.map(|index| datastores.get(index as usize));
        let has_mount = |datastore: &Datastore| match (place.host, place.cluster) {
            (Some(host), _) => datastore.hosts.contains(&host),
            (None, Some(cluster)) => {
                let members: Vec<u32> =
                    (0_u32..).zip(hosts).filter(|(_, host)| host.cluster == cluster).map(|(index, _)| index).collect();
                members.is_empty() || members.iter().any(|host| datastore.hosts.contains(host))
            }
            (None, None) => true,
        };
        place.cluster.is_none_or(|index| (index as usize) < clusters.len())
            && host.is_none_or(|host| {
                host.is_some_and(|host| {
                    host.usable
                        && host.memory_capacity_mib >= newcomer.memory_mib
                        && place.cluster.is_none_or(|cluster| cluster == host.cluster)
                })
            })
            && datastore
                .is_none_or(|datastore| datastore.is_some_and(|datastore| datastore.usable && has_mount(datastore)))
    };
    answer.len() == request.newcomers.len()
        && pairs().all(one)
        && (0_u32..).zip(datastores).all(|(index, datastore)| {
            let there = pairs().filter(|(_, place)| place.datastore == Some(index));
            let needed: u64 = there.map(|(newcomer, _)| newcomer.disk_mib.unwrap_or(0)).sum();
            needed <= datastore.free_mib
        })
}

prop_compose! {
    fn scaling_question()(members in vec(member(), 0..5), count in 0_u32..4) -> scaling::Request {
        let inventory = Inventory { clusters: Vec::new(), hosts: Vec::new(), datastores: Vec::new() };
        scaling::Request { context: context(), count, members, inventory }
    }
}

prop_compose! {
    fn scaling_answer()(
        victims in vec((prop_oneof![9 => 0_u32..5, 1 => any::<u32>()], any::<String>()), 0..4),
    ) -> Vec<scaling::Victim> {
        victims.into_iter().map(|(member, reason)| scaling::Victim { member, reason }).collect()
    }
}

fn victims_are_legal(request: &scaling::Request, answer: &[scaling::Victim]) -> bool {
    let members: HashSet<usize> = answer.iter().map(|victim| victim.member as usize).collect();
    members.len() == answer.len()
        && members.len() == request.count as usize
        && members.iter().all(|index| request.members.get(*index).is_some_and(|member| !member.protected))
}

fn is_one_short_line(reason: &str) -> bool {
    reason.chars().count() <= vmgroup_policy::REASON_CHARS
        && !reason.contains(char::is_control)
        && reason.trim() == reason
}

/// The generators above have to reach both sides of the wall, or the properties
/// below would hold for want of trying.
fn share<Q: Strategy, A: Strategy>(question: &Q, answer: &A, legal: impl Fn(&Q::Value, &A::Value) -> bool) -> usize {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    (0..2000)
        .filter(|_| {
            let question = question.new_tree(&mut runner).unwrap().current();
            let answer = answer.new_tree(&mut runner).unwrap().current();
            legal(&question, &answer)
        })
        .count()
}

#[test]
fn the_generators_give_legal_and_illegal_answers() {
    let shares = [
        share(&naming_question(), &naming_answer(), names_are_legal),
        share(&placement_question(), &placement_answer(), |q, a| places_are_legal(q, a)),
        share(&scaling_question(), &scaling_answer(), |q, a| victims_are_legal(q, a)),
    ];
    assert!(shares.iter().all(|legal| (50..1950).contains(legal)), "{shares:?} of 2000 are legal");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn s8_names(request in naming_question(), answer in naming_answer()) {
        let legal = names_are_legal(&request, &answer);
        match check_answer::naming(&request, answer.clone()) {
            Ok(checked) => {
                prop_assert!(legal);
                for (checked, given) in checked.proposals.iter().zip(&answer.proposals) {
                    prop_assert_eq!(&checked.name, &given.name);
                    prop_assert!(is_one_short_line(&checked.reason), "{:?}", checked.reason);
                }
            }
            // Invisible characters are refused beyond what is restated above.
            Err(vmgroup_policy::BadAnswer::NameCharacter { .. }) => {}
            Err(error) => prop_assert!(!legal, "{}", error),
        }
    }

    #[test]
    fn s8_places(request in placement_question(), answer in placement_answer()) {
        let legal = places_are_legal(&request, &answer);
        match check_answer::placement(&request, answer) {
            Ok(checked) => {
                prop_assert!(legal);
                prop_assert!(places_are_legal(&request, &checked));
                prop_assert!(checked.iter().all(|place| is_one_short_line(&place.reason)));
            }
            Err(error) => prop_assert!(!legal, "{}", error),
        }
    }

    #[test]
    fn s8_victims(request in scaling_question(), answer in scaling_answer()) {
        let legal = victims_are_legal(&request, &answer);
        match check_answer::scaling(&request, answer) {
            Ok(checked) => {
                prop_assert!(legal);
                prop_assert!(victims_are_legal(&request, &checked));
                prop_assert!(checked.iter().all(|victim| is_one_short_line(&victim.reason)));
            }
            Err(error) => prop_assert!(!legal, "{}", error),
        }
    }
}

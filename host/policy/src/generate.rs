//! Legal questions without a vCenter: plain ones of a given size, and random
//! ones that leave out, repeat and overdo whatever the contract allows to. The
//! same seed gives the same questions everywhere. Knows no policy and no engine.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use crate::wit::types::{
    Attribute, Cluster, Context, Datastore, Group, Host, HostState, Inventory, Member, PowerState, Purpose,
};
use crate::wit::{naming, placement, scaling};
use crate::{Kind, Question};

/// 2026-01-05T10:00:00Z, a Monday.
const NOW: u64 = 1_767_607_200;
const HOUR: u64 = 3_600;
/// Random questions are asked within ten years from [`NOW`], so that a policy
/// that only answers at certain hours is asked at some of them.
const YEARS: u64 = 10 * 365 * 24 * HOUR;

/// How much there is in a plain question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Members of the group.
    pub members: u32,
    /// Hosts, with a cluster for each sixteen and a datastore for each four.
    pub hosts: u32,
    /// Names or places wanted, or members that have to leave; at least one.
    pub count: u32,
}

impl Size {
    /// A group of `members` on a site of fitting size, of which a tenth is asked
    /// for, as the operator asks in steps: at least one and at most a hundred.
    pub fn of(members: u32) -> Self {
        Self { members, hosts: members.div_ceil(10).clamp(2, 200), count: members.div_ceil(10).clamp(1, 100) }
    }
}

/// A question as the operator asks it on a good day: everything is known, usable
/// and has room. Members are called `web-1` and so on, hosts `esx-1`.
pub fn sample(kind: Kind, size: Size) -> Question {
    Question::from(kind, plain(kind, size))
}

/// A random legal question. `number` tells the questions of one `seed` apart; the
/// first ones are the smallest that there can be, one in 250 is huge.
pub fn question(kind: Kind, seed: u64, number: u32) -> Question {
    let mut dice = Dice::new(seed, number);
    let size = random_size(&mut dice, number);
    Question::from(kind, random(kind, size, &mut dice))
}

/// The same question with its tables in another order, and all that points into
/// them pointing to the same as before.
pub fn reordered(question: &Question, seed: u64) -> Question {
    let mut dice = Dice::new(seed, u32::MAX);
    let mut question = question.clone();
    match &mut question {
        Question::Naming(request) => {
            dice.shuffle(&mut request.members);
            dice.shuffle(&mut request.taken_in_group);
            dice.shuffle(&mut request.taken_elsewhere);
        }
        Question::Placement(request) => {
            dice.shuffle(&mut request.members);
            reorder_places(&mut request.inventory, &mut request.members, &mut dice);
        }
        Question::Scaling(request) => {
            dice.shuffle(&mut request.members);
            reorder_places(&mut request.inventory, &mut request.members, &mut dice);
        }
    }
    question
}

/// What questions of all kinds are made from.
struct Parts {
    context: Context,
    inventory: Inventory,
    members: Vec<Member>,
    count: u32,
    taken_in_group: Vec<String>,
    taken_elsewhere: Vec<String>,
    max_length: u32,
    newcomers: Vec<placement::Newcomer>,
}

impl Question {
    fn from(kind: Kind, parts: Parts) -> Self {
        let Parts { mut context, inventory, members, count, taken_in_group, taken_elsewhere, max_length, newcomers } =
            parts;
        let standing = u32::try_from(members.len()).unwrap_or(u32::MAX);
        context.group.replicas = match kind {
            Kind::Naming => standing.saturating_add(count),
            Kind::Placement => standing.saturating_add(u32::try_from(newcomers.len()).unwrap_or(u32::MAX)),
            Kind::Scaling => standing.saturating_sub(count),
        };
        match kind {
            Kind::Naming => {
                // Newcomers and places are no part of this question.
                let members = members
                    .into_iter()
                    .map(|member| Member { host: None, datastore: None, ..member })
                    .collect::<Vec<_>>();
                Self::Naming(naming::Request { context, count, members, taken_in_group, taken_elsewhere, max_length })
            }
            Kind::Placement => Self::Placement(placement::Request { context, inventory, members, newcomers }),
            Kind::Scaling => Self::Scaling(scaling::Request { context, count, members, inventory }),
        }
    }
}

fn plain(kind: Kind, size: Size) -> Parts {
    let Size { members, hosts, count } = size;
    let clusters = hosts.div_ceil(16);
    let datastores = hosts.div_ceil(4);
    let inventory = Inventory {
        clusters: (0..clusters)
            .map(|index| Cluster { name: format!("cluster-{}", index + 1), drs: true, attributes: Vec::new() })
            .collect(),
        hosts: (0..hosts)
            .map(|index| Host {
                name: format!("esx-{}", index + 1),
                cluster: index % clusters.max(1),
                usable: true,
                state: HostState::InService,
                cpu_capacity_mhz: 64_000,
                cpu_used_mhz: Some(1_000 + u64::from(index * 37 % 9_000)),
                memory_capacity_mib: 1 << 20,
                memory_used_mib: Some(1 << 17),
                vms: Some(members / hosts.max(1)),
                attributes: vec![attribute("rack", &format!("r{}", index % 8))],
            })
            .collect(),
        datastores: (0..datastores)
            .map(|index| Datastore {
                name: format!("ds-{}", index + 1),
                usable: true,
                capacity_mib: 1 << 26,
                free_mib: 1 << 25,
                uncommitted_mib: Some(1 << 24),
                kind: Some("VMFS".to_owned()),
                hosts: (0..hosts).collect(),
                attributes: Vec::new(),
            })
            .collect(),
    };
    let members: Vec<Member> = (0..members)
        .map(|index| Member {
            name: format!("web-{}", index + 1),
            uuid: uuid(index),
            created_at: Some(NOW - 1_000_000 - HOUR * u64::from(index % 97)),
            power: PowerState::PoweredOn,
            host: (hosts > 0).then(|| index % hosts.max(1)),
            datastore: (datastores > 0).then(|| index % datastores.max(1)),
            cpu_used_mhz: Some(index * 7_919 % 2_000),
            memory_used_mib: Some(512 + index * 131 % 1_500),
            ready: true,
            protected: false,
            attributes: vec![attribute("app", "web")],
        })
        .collect();
    let purpose = if kind == Kind::Scaling { Purpose::ScaleIn } else { Purpose::ScaleOut };
    Parts {
        context: context(purpose, "web", 42),
        inventory,
        count: if kind == Kind::Scaling {
            count.min(u32::try_from(members.len()).unwrap_or(u32::MAX)).max(1)
        } else {
            count.max(1)
        },
        taken_in_group: members.iter().map(|member| member.name.clone()).collect(),
        taken_elsewhere: vec!["db-1".to_owned()],
        max_length: 80,
        newcomers: (0..count.max(1))
            .map(|index| newcomer(format!("web-new-{}", index + 1), 2, 4_096, Some(40_960)))
            .collect(),
        members,
    }
}

fn context(purpose: Purpose, group: &str, seed: u64) -> Context {
    Context {
        now: NOW,
        utc_offset_minutes: Some(60),
        seed,
        attempt: 0,
        purpose,
        config: "{}".to_owned(),
        group: Group {
            namespace: "shop".to_owned(),
            name: group.to_owned(),
            uid: "00000000-0000-4000-8000-00000000beef".to_owned(),
            labels: vec![attribute("app", group), attribute("site", "ber"), attribute("role", "front")],
            template: "ubuntu-24.04".to_owned(),
            cpus: 2,
            memory_mib: 4_096,
            replicas: 0,
            attributes: Vec::new(),
        },
    }
}

fn attribute(key: &str, value: &str) -> Attribute {
    Attribute { key: key.to_owned(), value: value.to_owned() }
}

fn newcomer(name: String, cpus: u32, memory_mib: u64, disk_mib: Option<u64>) -> placement::Newcomer {
    placement::Newcomer { name, cpus, memory_mib, disk_mib, attributes: Vec::new() }
}

fn uuid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

/// Small ones above all, where mistakes are easy to read; a few large ones.
fn random_size(dice: &mut Dice, number: u32) -> Size {
    let (members, hosts, count) = match number {
        // The smallest legal question, with and without places.
        0 => (0, 0, 1),
        1 => (1, 0, 1),
        2 => (1, 1, 1),
        3 => (2, 1, 2),
        number if number % 250 == 249 => (10_000, dice.below(1_000), 1 + dice.below(200)),
        number => match number % 10 {
            0..=4 => (dice.below(6), dice.below(5), 1 + dice.below(4)),
            5..=7 => (dice.below(40), dice.below(20), 1 + dice.below(20)),
            8 => (dice.below(300), dice.below(64), 1 + dice.below(60)),
            _ => (dice.below(1_500), dice.below(200), 1 + dice.below(200)),
        },
    };
    Size { members, hosts, count }
}

fn random(kind: Kind, size: Size, dice: &mut Dice) -> Parts {
    let Size { members, hosts, count } = size;
    let group =
        dice.pick(&["web", "db", "a", "UPPER-Case", "a-rather-long-name-of-a-group-for-the-winter-sale", "x1", "7"]);
    let mut context = context(purpose(kind, dice), group, dice.next());
    context.now = NOW + dice.next() % YEARS;
    context.utc_offset_minutes = (!dice.percent(30)).then(|| [-300, 0, 60, 330][dice.index(4)]);
    context.attempt = if dice.percent(10) { dice.below(6) } else { 0 };
    if dice.percent(20) {
        context.group.labels.clear();
    }
    context.group.attributes = attributes(dice);
    context.group.cpus = 1 + dice.below(64);
    context.group.memory_mib = [512, 2_048, 4_096, 65_536, 1 << 20][dice.index(5)];
    let inventory = inventory(hosts, dice);
    let members = random_members(kind, group, members, &inventory, context.now, dice);
    let free = members.iter().filter(|member| !member.protected).count();
    let count = match kind {
        Kind::Scaling => count.min(u32::try_from(free).unwrap_or(u32::MAX)).max(1),
        Kind::Naming | Kind::Placement => count,
    };
    let mut taken_in_group: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    for _ in 0..dice.below(4) {
        taken_in_group.push(format!("{group}-{}", dice.below(2_000)));
    }
    taken_in_group.sort();
    taken_in_group.dedup();
    let newcomers = (0..count)
        .map(|index| {
            let memory = context.group.memory_mib;
            let disk = (!dice.percent(20)).then(|| [0, 1_024, 40_960, 1 << 21][dice.index(4)]);
            newcomer(format!("{group}-new-{}", index + 1), context.group.cpus, memory, disk)
        })
        .collect();
    Parts {
        taken_elsewhere: (0..dice.below(50)).map(|_| format!("{group}-{}", dice.below(500))).collect(),
        max_length: if dice.percent(80) { 80 } else { 15 + dice.below(65) },
        context,
        inventory,
        members,
        count,
        taken_in_group,
        newcomers,
    }
}

fn purpose(kind: Kind, dice: &mut Dice) -> Purpose {
    let usual = if kind == Kind::Scaling { Purpose::ScaleIn } else { Purpose::ScaleOut };
    [usual, usual, usual, Purpose::Replacement, Purpose::Evacuation][dice.index(5)]
}

fn inventory(hosts: u32, dice: &mut Dice) -> Inventory {
    let clusters = if hosts == 0 { dice.below(2) } else { 1 + dice.below(4) };
    let datastores = dice.below(1 + hosts.min(20));
    Inventory {
        clusters: (0..clusters)
            .map(|index| Cluster {
                name: format!("cluster {index}"),
                drs: dice.percent(70),
                attributes: attributes(dice),
            })
            .collect(),
        hosts: (0..hosts)
            .map(|index| {
                let state = host_state(dice);
                let memory = [4_096, 65_536, 1 << 20][dice.index(3)];
                Host {
                    name: format!("esx-{index}.example.com"),
                    cluster: dice.below(clusters),
                    usable: matches!(state, HostState::InService | HostState::Quarantined),
                    state,
                    cpu_capacity_mhz: [2_000, 48_000, 400_000][dice.index(3)],
                    cpu_used_mhz: (!dice.percent(20)).then(|| u64::from(dice.below(400_000))),
                    memory_capacity_mib: memory,
                    // vCenter can report more than there is.
                    memory_used_mib: (!dice.percent(20)).then(|| dice.next() % (memory + memory / 8)),
                    vms: (!dice.percent(20)).then(|| dice.below(500)),
                    attributes: attributes(dice),
                }
            })
            .collect(),
        datastores: (0..datastores)
            .map(|index| {
                let capacity = [0, 102_400, 1 << 24][dice.index(3)];
                Datastore {
                    name: format!("ds-{index}"),
                    usable: dice.percent(85),
                    capacity_mib: capacity,
                    free_mib: dice.next() % (capacity + 1),
                    // Thin disks can be promised more than there is.
                    uncommitted_mib: (!dice.percent(20)).then(|| dice.next() % (2 * capacity + 1)),
                    kind: (!dice.percent(20))
                        .then(|| dice.pick(&["VMFS", "NFS41", "vsan", "something new"]).to_owned()),
                    hosts: (0..hosts).filter(|_| dice.percent(70)).collect(),
                    attributes: attributes(dice),
                }
            })
            .collect(),
    }
}

fn host_state(dice: &mut Dice) -> HostState {
    match dice.below(20) {
        0 => HostState::EnteringMaintenance,
        1 => HostState::InMaintenance,
        2 => HostState::Quarantined,
        3 => HostState::Unreachable,
        _ => HostState::InService,
    }
}

fn random_members(
    kind: Kind,
    group: &str,
    count: u32,
    inventory: &Inventory,
    now: u64,
    dice: &mut Dice,
) -> Vec<Member> {
    // Somebody has to be there to leave.
    let count = if kind == Kind::Scaling { count.max(1) } else { count };
    let hosts = u32::try_from(inventory.hosts.len()).unwrap_or(u32::MAX);
    let datastores = u32::try_from(inventory.datastores.len()).unwrap_or(u32::MAX);
    let first = if dice.percent(50) { 1 } else { dice.below(100_000) };
    let mut members: Vec<Member> = (0..count)
        .map(|index| {
            let number = first + index;
            let name = match dice.below(10) {
                0 => format!("{group}-{number:05}"),
                1 => format!("{group}{number} Ω %2f"),
                2 => format!("{number}"),
                _ => format!("{group}-{number}"),
            };
            // Being made: nothing is known of it yet.
            let new = dice.percent(8);
            Member {
                name,
                uuid: uuid(index),
                created_at: (!new && !dice.percent(5))
                    .then(|| now.saturating_sub(HOUR * u64::from(dice.below(20_000)))),
                power: if new {
                    PowerState::Unknown
                } else {
                    [PowerState::PoweredOn, PowerState::PoweredOn, PowerState::PoweredOff, PowerState::Suspended]
                        [dice.index(4)]
                },
                host: (hosts > 0 && !dice.percent(10)).then(|| dice.below(hosts)),
                datastore: (datastores > 0 && !dice.percent(10)).then(|| dice.below(datastores)),
                cpu_used_mhz: (!new && !dice.percent(15)).then(|| match dice.below(10) {
                    0 => 0,
                    1 => u32::MAX,
                    _ => dice.below(5_000),
                }),
                memory_used_mib: (!new && !dice.percent(15)).then(|| dice.below(65_536)),
                ready: !new && dice.percent(90),
                protected: kind == Kind::Scaling && dice.percent(10),
                attributes: attributes(dice),
            }
        })
        .collect();
    if let Some(last) = members.last_mut().filter(|_| kind == Kind::Scaling) {
        last.protected = false;
    }
    members
}

fn attributes(dice: &mut Dice) -> Vec<Attribute> {
    let mut attributes = Vec::new();
    if dice.percent(30) {
        attributes.push(attribute("rack", ["r1", "r2", "r3", ""][dice.index(4)]));
    }
    if dice.percent(10) {
        attributes.push(attribute("pet", ["true", "false"][dice.index(2)]));
    }
    if dice.percent(3) {
        attributes.push(attribute("κλειδί with blanks", "a value\nof two lines"));
    }
    attributes
}

fn reorder_places(inventory: &mut Inventory, members: &mut [Member], dice: &mut Dice) {
    let clusters = dice.reorder(&mut inventory.clusters);
    let hosts = dice.reorder(&mut inventory.hosts);
    let datastores = dice.reorder(&mut inventory.datastores);
    let moved = |index: &mut u32, to: &[u32]| {
        if let Some(new) = usize::try_from(*index).ok().and_then(|old| to.get(old)) {
            *index = *new;
        }
    };
    for host in &mut inventory.hosts {
        moved(&mut host.cluster, &clusters);
    }
    for datastore in &mut inventory.datastores {
        for host in &mut datastore.hosts {
            moved(host, &hosts);
        }
    }
    for member in members {
        if let Some(host) = &mut member.host {
            moved(host, &hosts);
        }
        if let Some(datastore) = &mut member.datastore {
            moved(datastore, &datastores);
        }
    }
}

/// Randomness from a seed, the same on every machine.
struct Dice(ChaCha8Rng);

impl Dice {
    fn new(seed: u64, number: u32) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::from(number));
        Self(rng)
    }

    fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`; 0 if that is 0.
    fn below(&mut self, bound: u32) -> u32 {
        let wide = u64::from(self.0.next_u32()) * u64::from(bound);
        u32::try_from(wide >> 32).unwrap_or(0)
    }

    fn index(&mut self, length: usize) -> usize {
        let below = self.below(u32::try_from(length).unwrap_or(u32::MAX));
        usize::try_from(below).unwrap_or(0)
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from.get(self.index(from.len())).copied().unwrap_or_default()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }

    /// Shuffles, and says where each went: the new index by the old one.
    fn reorder<T>(&mut self, items: &mut Vec<T>) -> Vec<u32> {
        let mut numbered: Vec<(usize, T)> = std::mem::take(items).into_iter().enumerate().collect();
        self.shuffle(&mut numbered);
        let mut to = vec![0; numbered.len()];
        for (new, (old, item)) in numbered.into_iter().enumerate() {
            to[old] = u32::try_from(new).unwrap_or(u32::MAX);
            items.push(item);
        }
        to
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What the contract promises to a policy about a question.
    fn assert_legal(question: &Question) {
        let indices =
            |inventory: &Inventory, members: &[Member]| {
                let (clusters, hosts) = (inventory.clusters.len(), inventory.hosts.len());
                assert!(inventory.hosts.iter().all(|host| (host.cluster as usize) < clusters));
                assert!(inventory.datastores.iter().flat_map(|d| &d.hosts).all(|host| (*host as usize) < hosts));
                assert!(members.iter().filter_map(|m| m.host).all(|host| (host as usize) < hosts));
                let stores = inventory.datastores.len();
                assert!(members.iter().filter_map(|m| m.datastore).all(|one| (one as usize) < stores));
                assert!(inventory.datastores.iter().all(|one| one.free_mib <= one.capacity_mib));
                assert!(inventory.hosts.iter().all(|host| {
                    host.usable == matches!(host.state, HostState::InService | HostState::Quarantined)
                }));
            };
        let members = match question {
            Question::Naming(request) => {
                assert!(request.count >= 1);
                assert!(request.members.iter().all(|m| request.taken_in_group.contains(&m.name)));
                &request.members
            }
            Question::Placement(request) => {
                assert!(!request.newcomers.is_empty());
                indices(&request.inventory, &request.members);
                &request.members
            }
            Question::Scaling(request) => {
                let free = request.members.iter().filter(|member| !member.protected).count();
                assert!(request.count >= 1 && request.count as usize <= free);
                indices(&request.inventory, &request.members);
                &request.members
            }
        };
        let names: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names.len(), members.len(), "members have names of their own");
    }

    #[test]
    fn every_question_keeps_what_the_contract_promises() {
        for kind in Kind::ALL {
            for number in 0..400 {
                let question = question(kind, 7, number);
                assert_legal(&question);
                assert_legal(&reordered(&question, 3));
            }
            for size in [0, 1, 10, 1_000] {
                assert_legal(&sample(kind, Size::of(size.max(u32::from(kind == Kind::Scaling)))));
            }
        }
    }

    #[test]
    fn a_seed_and_a_number_are_one_question() {
        assert_eq!(question(Kind::Scaling, 7, 12), question(Kind::Scaling, 7, 12));
        assert_ne!(question(Kind::Scaling, 7, 12), question(Kind::Scaling, 8, 12));
        assert_ne!(question(Kind::Scaling, 7, 12), question(Kind::Scaling, 7, 22));
    }

    #[test]
    fn there_are_empty_and_huge_ones() {
        let sizes: Vec<usize> = (0..500).map(|number| question(Kind::Placement, 1, number).members()).collect();
        assert_eq!(sizes[0], 1, "nobody there, one to come");
        assert!(sizes.iter().filter(|size| **size >= 10_000).count() == 2);
    }

    #[test]
    fn another_order_is_the_same_question() {
        let Question::Scaling(request) = question(Kind::Scaling, 1, 29) else { panic!("another kind") };
        let Question::Scaling(other) = reordered(&Question::Scaling(request.clone()), 5) else {
            panic!("another kind")
        };
        let seen = |request: &scaling::Request| -> BTreeSet<(String, Option<String>, Option<String>)> {
            let host = |index: u32| &request.inventory.hosts[index as usize];
            let cluster = |index: u32| request.inventory.clusters[host(index).cluster as usize].name.clone();
            let of = |m: &Member| (m.uuid.clone(), m.host.map(|h| host(h).name.clone()), m.host.map(cluster));
            request.members.iter().map(of).collect()
        };
        assert_eq!(seen(&request), seen(&other));
        assert_ne!(request.members, other.members);
    }
}

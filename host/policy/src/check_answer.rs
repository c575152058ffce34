//! Checks an answer against its question: the wall behind which a plugin may
//! return what it likes (property S8). Pure functions over plain data; whoever
//! acts on an answer has it from here.
//!
//! Each function takes the answer and gives it back with its reasons tidied, so
//! that an unchecked answer is not lying around to be used by mistake.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::text::{REASON_CHARS, is_invisible, quoted, tidy};
use crate::wit::naming::{self, Scope};
use crate::wit::placement::{self, Newcomer, Place};
use crate::wit::scaling::{self, Victim};
use crate::wit::types::Inventory;

/// A rule of the contract that an answer breaks. `Display` says what was asked
/// and what came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum BadAnswer {
    /// Not as many as asked.
    #[error("it was asked for {wanted} {what} and gave {got}")]
    Count {
        /// `names`, `places` or `victims`.
        what: String,
        /// How many were asked for.
        wanted: u64,
        /// How many came.
        got: u64,
    },
    /// A name of no characters, or of blanks alone.
    #[error("name {position} is empty")]
    NameEmpty {
        /// Counted from 1.
        position: usize,
    },
    /// A name that starts or ends with a blank: nobody can see it, and tools trim it.
    #[error("the name {} begins or ends with a blank", quoted(.name))]
    NameBlankEdge {
        /// The name.
        name: String,
    },
    /// A name with a character that must not be in it.
    #[error("the name {} has the character {:?}, which cannot be part of a name", quoted(.name), .character)]
    NameCharacter {
        /// The name.
        name: String,
        /// The first such character.
        character: char,
    },
    /// A name that is too long.
    #[error("the name {} has {length} characters (each %, / and \\ counts as three), at most {limit} are allowed", quoted(.name))]
    NameTooLong {
        /// The name.
        name: String,
        /// Its length as vCenter counts.
        length: usize,
        /// `max-length` of the question.
        limit: u32,
    },
    /// Two names alike.
    #[error("it gave the name {} twice", quoted(.name))]
    NameTwice {
        /// The name.
        name: String,
    },
    /// A name that is taken in the scope that the answer itself demands.
    #[error("the name {} is taken {}", quoted(.name), if *.elsewhere { "elsewhere on this vCenter" } else { "in the group's folder" })]
    NameTaken {
        /// The name.
        name: String,
        /// Taken outside the group's folder.
        elsewhere: bool,
    },
    /// An index outside its table.
    #[error("it points to {table} {index}, and there are {size} (counted from 0)")]
    NoSuch {
        /// `cluster`, `host`, `datastore` or `member`.
        table: String,
        /// The index given.
        index: u32,
        /// How many entries the table has.
        size: usize,
    },
    /// A host that cannot take a VM now.
    #[error("it puts {} on the host {}, which is not usable now", quoted(.newcomer), quoted(.host))]
    HostUnusable {
        /// Who was to go there.
        newcomer: String,
        /// The host.
        host: String,
    },
    /// A host that is not part of the cluster given with it.
    #[error("it puts {} on the host {}, which is not in the cluster {}", quoted(.newcomer), quoted(.host), quoted(.cluster))]
    HostNotInCluster {
        /// Who was to go there.
        newcomer: String,
        /// The host.
        host: String,
        /// The cluster.
        cluster: String,
    },
    /// A host that is smaller than the VM.
    #[error("it puts {} with {wanted_mib} MiB of memory on the host {}, which has {capacity_mib}", quoted(.newcomer), quoted(.host))]
    HostTooSmall {
        /// Who was to go there.
        newcomer: String,
        /// The host.
        host: String,
        /// Memory of the newcomer in MiB.
        wanted_mib: u64,
        /// Memory of the host in MiB.
        capacity_mib: u64,
    },
    /// A datastore that cannot take a disk now.
    #[error("it puts {} on the datastore {}, which is not usable now", quoted(.newcomer), quoted(.datastore))]
    DatastoreUnusable {
        /// Who was to go there.
        newcomer: String,
        /// The datastore.
        datastore: String,
    },
    /// A datastore that the host, or every host of the cluster, cannot reach.
    #[error("it puts {} on the datastore {}, which is not mounted on {}", quoted(.newcomer), quoted(.datastore), quoted(.place))]
    DatastoreNotMounted {
        /// Who was to go there.
        newcomer: String,
        /// The datastore.
        datastore: String,
        /// The host, or the cluster, that has no mount of it.
        place: String,
    },
    /// A datastore without room for all whom the answer puts there.
    #[error("it puts {} on the datastore {}, where {wanted_mib} MiB would be needed for this answer and {free_mib} are free", quoted(.newcomer), quoted(.datastore))]
    DatastoreFull {
        /// Who did not fit any more.
        newcomer: String,
        /// The datastore.
        datastore: String,
        /// Disks of all newcomers put there up to this one, in MiB.
        wanted_mib: u64,
        /// Free space in MiB.
        free_mib: u64,
    },
    /// One member chosen twice.
    #[error("it chose {} twice", quoted(.member))]
    MemberTwice {
        /// The member's name.
        member: String,
    },
    /// A member that must not be chosen.
    #[error("it chose {}, which is protected", quoted(.member))]
    MemberProtected {
        /// The member's name.
        member: String,
    },
    /// Something that is no answer at all: text that is not UTF-8, a list
    /// outside of memory.
    #[error("it cannot be read: {problem}")]
    Unreadable {
        /// What the engine says.
        problem: String,
    },
}

/// Checks names: as many as asked, legal, all different, free in the scope that
/// the answer demands.
///
/// Lengths are counted as vCenter counts: in characters, after `%`, `/` and `\`
/// are escaped as `%25`, `%2f`, `%5c`.
pub fn naming(request: &naming::Request, mut answer: naming::Answer) -> Result<naming::Answer, BadAnswer> {
    count("names", request.count, answer.proposals.len())?;
    let mut taken: BTreeSet<&str> = request.taken_in_group.iter().map(String::as_str).collect();
    taken.extend(request.members.iter().map(|member| member.name.as_str()));
    let elsewhere: BTreeSet<&str> = match answer.scope {
        Scope::Group => BTreeSet::new(),
        Scope::Everywhere => request.taken_elsewhere.iter().map(String::as_str).collect(),
    };
    let mut given = BTreeSet::new();
    for (index, proposal) in answer.proposals.iter().enumerate() {
        let name = proposal.name.as_str();
        legal_name(name, index + 1, request.max_length)?;
        if taken.contains(name) || elsewhere.contains(name) {
            return Err(BadAnswer::NameTaken { name: name.to_owned(), elsewhere: !taken.contains(name) });
        }
        if !given.insert(name) {
            return Err(BadAnswer::NameTwice { name: name.to_owned() });
        }
    }
    for proposal in &mut answer.proposals {
        proposal.reason = tidy(&proposal.reason, REASON_CHARS);
    }
    Ok(answer)
}

/// The length of a name as vCenter counts it.
pub fn escaped_length(name: &str) -> usize {
    name.chars().map(|c| if matches!(c, '%' | '/' | '\\') { 3 } else { 1 }).sum()
}

fn legal_name(name: &str, position: usize, limit: u32) -> Result<(), BadAnswer> {
    let trimmed = name.trim();
    if trimmed.is_empty() {
        return Err(BadAnswer::NameEmpty { position });
    }
    if trimmed.len() != name.len() {
        return Err(BadAnswer::NameBlankEdge { name: name.to_owned() });
    }
    if let Some(character) = name.chars().find(|c| c.is_control() || is_invisible(*c)) {
        return Err(BadAnswer::NameCharacter { name: name.to_owned(), character });
    }
    let length = escaped_length(name);
    if length > usize::try_from(limit).unwrap_or(usize::MAX) {
        return Err(BadAnswer::NameTooLong { name: name.to_owned(), length, limit });
    }
    Ok(())
}

/// Checks places: one for each newcomer, each of them exists, is usable, agrees
/// with itself (host in cluster, datastore mounted), and has room: a host's
/// memory for each of them, a datastore's free space for all of them together.
pub fn placement(request: &placement::Request, mut answer: Vec<Place>) -> Result<Vec<Place>, BadAnswer> {
    count("places", len_u32(request.newcomers.len()), answer.len())?;
    let mut filled: BTreeMap<u32, u64> = BTreeMap::new();
    for (newcomer, place) in request.newcomers.iter().zip(&answer) {
        fits(&request.inventory, newcomer, place)?;
        if let Some(index) = place.datastore {
            let sum = filled.entry(index).or_default();
            *sum = sum.saturating_add(newcomer.disk_mib.unwrap_or(0));
            let datastore = entry("datastore", &request.inventory.datastores, index)?;
            if *sum > datastore.free_mib {
                return Err(BadAnswer::DatastoreFull {
                    newcomer: newcomer.name.clone(),
                    datastore: datastore.name.clone(),
                    wanted_mib: *sum,
                    free_mib: datastore.free_mib,
                });
            }
        }
    }
    for place in &mut answer {
        place.reason = tidy(&place.reason, REASON_CHARS);
    }
    Ok(answer)
}

fn fits(inventory: &Inventory, newcomer: &Newcomer, place: &Place) -> Result<(), BadAnswer> {
    let cluster = place.cluster.map(|index| entry("cluster", &inventory.clusters, index)).transpose()?;
    if let Some(index) = place.host {
        let host = entry("host", &inventory.hosts, index)?;
        if !host.usable {
            return Err(BadAnswer::HostUnusable { newcomer: newcomer.name.clone(), host: host.name.clone() });
        }
        if let Some(cluster) = cluster.filter(|_| place.cluster != Some(host.cluster)) {
            return Err(BadAnswer::HostNotInCluster {
                newcomer: newcomer.name.clone(),
                host: host.name.clone(),
                cluster: cluster.name.clone(),
            });
        }
        if newcomer.memory_mib > host.memory_capacity_mib {
            return Err(BadAnswer::HostTooSmall {
                newcomer: newcomer.name.clone(),
                host: host.name.clone(),
                wanted_mib: newcomer.memory_mib,
                capacity_mib: host.memory_capacity_mib,
            });
        }
    }
    let Some(index) = place.datastore else { return Ok(()) };
    let datastore = entry("datastore", &inventory.datastores, index)?;
    if !datastore.usable {
        return Err(BadAnswer::DatastoreUnusable {
            newcomer: newcomer.name.clone(),
            datastore: datastore.name.clone(),
        });
    }
    let unreachable_from = match (place.host, place.cluster) {
        (Some(host), _) => {
            (!datastore.hosts.contains(&host)).then(|| entry("host", &inventory.hosts, host).map(|host| &host.name))
        }
        // Hosts that the group may not use are not in the table, so a cluster
        // without any says nothing about its mounts.
        (None, Some(index)) => {
            let of_cluster = |host: &u32| {
                let host = usize::try_from(*host).ok().and_then(|host| inventory.hosts.get(host));
                host.is_some_and(|host| host.cluster == index)
            };
            let has_hosts = inventory.hosts.iter().any(|host| host.cluster == index);
            (has_hosts && !datastore.hosts.iter().any(of_cluster))
                .then(|| entry("cluster", &inventory.clusters, index).map(|cluster| &cluster.name))
        }
        (None, None) => None,
    };
    match unreachable_from.transpose()? {
        Some(place) => Err(BadAnswer::DatastoreNotMounted {
            newcomer: newcomer.name.clone(),
            datastore: datastore.name.clone(),
            place: place.clone(),
        }),
        None => Ok(()),
    }
}

/// Checks victims: exactly as many as asked, all different, all of them members
/// of the question, none of them protected (property S5).
pub fn scaling(request: &scaling::Request, mut answer: Vec<Victim>) -> Result<Vec<Victim>, BadAnswer> {
    count("victims", request.count, answer.len())?;
    let mut chosen = BTreeSet::new();
    for victim in &answer {
        let member = entry("member", &request.members, victim.member)?;
        if member.protected {
            return Err(BadAnswer::MemberProtected { member: member.name.clone() });
        }
        if !chosen.insert(victim.member) {
            return Err(BadAnswer::MemberTwice { member: member.name.clone() });
        }
    }
    for victim in &mut answer {
        victim.reason = tidy(&victim.reason, REASON_CHARS);
    }
    Ok(answer)
}

fn count(what: &str, wanted: u32, got: usize) -> Result<(), BadAnswer> {
    let got = u64::try_from(got).unwrap_or(u64::MAX);
    if got == u64::from(wanted) {
        Ok(())
    } else {
        Err(BadAnswer::Count { what: what.to_owned(), wanted: u64::from(wanted), got })
    }
}

fn entry<'a, T>(table: &str, entries: &'a [T], index: u32) -> Result<&'a T, BadAnswer> {
    usize::try_from(index).ok().and_then(|index| entries.get(index)).ok_or_else(|| BadAnswer::NoSuch {
        table: table.to_owned(),
        index,
        size: entries.len(),
    })
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

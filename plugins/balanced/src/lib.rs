//! Scaling policy `balanced`: members leave so that the rest are spread as evenly
//! as can be.
//!
//! ```yaml
//! scaling:
//!   plugin: balanced
//!   config:
//!     by: host               # host (default) | cluster | datastore | {attribute: rack}
//!     protect: ["pet=true"]  # members with such an attribute never leave
//! ```
//!
//! One after the other, a member leaves the place that has most of them: the
//! newest there. Where several places have most, the newest of them all leaves.
//! Members that are protected count where they are. An attribute is looked for on
//! the host, then on its cluster. Members of whom no place is known count as if
//! they were in one of their own.

use std::collections::BTreeMap;

use serde::Deserialize;
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::scaling::{Request, Victim};
use vmgroup_policy_sdk::{Candidate, Spot};

/// The configuration; see the crate.
#[derive(Clone, Debug, Default, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Balanced {
    /// What counts as a place.
    pub by: By,
    /// Who never leaves.
    pub protect: Protect,
}

/// Members in a place, and those of them that may leave, the next to leave last.
struct Crowd<'a> {
    /// None: wherever they are, it is not known.
    spot: Option<Spot<'a>>,
    members: usize,
    may_leave: Vec<Candidate<'a>>,
}

impl Scaling for Balanced {
    const NAME: &'static str = "balanced";
    const SUMMARY: &'static str =
        "Members leave the places that have most of them, so that the rest are spread evenly.";
    const ORDER_FREE: bool = true;

    fn choose(&self, request: &Request) -> Result<Vec<Victim>, Refusal> {
        let mut candidates = request.candidates(&self.protect)?;
        candidates.sort_by(|a, b| b.newest_first(a));
        let mut crowds = self.crowds(request, candidates);
        let mut victims = Vec::new();
        for _ in 0..request.count {
            let Some(fullest) = fullest(&crowds) else { break };
            let reason = self.reason(&crowds, fullest);
            let crowd = &mut crowds[fullest];
            crowd.members -= 1;
            victims.extend(crowd.may_leave.pop().map(|candidate| candidate.leaves(reason)));
        }
        Ok(victims)
    }
}

/// Where most members are, of the places where anybody may leave.
fn fullest(crowds: &[Crowd<'_>]) -> Option<usize> {
    let open =
        crowds.iter().enumerate().filter_map(|(index, crowd)| Some((index, crowd.members, crowd.may_leave.last()?)));
    let most = open.max_by(|(_, many, next), (_, others, other_next)| {
        many.cmp(others).then_with(|| other_next.newest_first(next))
    });
    most.map(|(index, ..)| index)
}

impl Balanced {
    /// By place, in the order of their names; `candidates` keep their order.
    fn crowds<'a>(&self, request: &'a Request, candidates: Vec<Candidate<'a>>) -> Vec<Crowd<'a>> {
        let spot_of = |member| self.by.spot_of(&request.inventory, member);
        let mut crowds: BTreeMap<_, (usize, Vec<_>)> = BTreeMap::new();
        for member in &request.members {
            crowds.entry(spot_of(member)).or_default().0 += 1;
        }
        for candidate in candidates {
            crowds.entry(spot_of(candidate.member)).or_default().1.push(candidate);
        }
        let crowds = crowds.into_iter().map(|(spot, (members, may_leave))| Crowd { spot, members, may_leave });
        crowds.collect()
    }

    fn reason(&self, crowds: &[Crowd<'_>], chosen: usize) -> String {
        let here = crowds[chosen].members;
        let noun = if here == 1 { "member" } else { "members" };
        let place = match crowds[chosen].spot {
            Some(spot) => format!("{} {} has {here} {noun}", self.by, spot.name),
            None => format!("{here} {noun} without a known {}", self.by),
        };
        let others = || {
            let others = crowds.iter().enumerate().filter(|(index, _)| *index != chosen);
            others.map(|(_, crowd)| crowd.members)
        };
        match (others().min(), others().max()) {
            (Some(least), Some(most)) if least == most => format!("{place}, the others {most}"),
            (Some(least), Some(most)) => format!("{place}, the others {least} to {most}"),
            _ => format!("{place}, there is no other"),
        }
    }
}

vmgroup_policy_sdk::export!(Balanced: scaling);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::parse_config;
    use vmgroup_policy_sdk::testing::{Question, assert_legal_victims, group, names_of};
    use vmgroup_policy_sdk::types::Member;

    /// Ten members: four on esx-1, three each on esx-2 and esx-3.
    fn ten() -> Question {
        group("web").hosts(3).datastores(2).members(10)
    }

    fn choose(config: &str, request: &Request) -> Vec<Victim> {
        let policy: Balanced = parse_config(config).unwrap();
        let victims = policy.choose(request).unwrap();
        assert_legal_victims(request, &victims);
        victims
    }

    fn left_by_host(request: &Request, victims: &[Victim]) -> Vec<usize> {
        let gone = |index: usize| victims.iter().any(|v| v.member as usize == index);
        (0..request.inventory.hosts.len())
            .map(|host| {
                let here = |member: &Member| member.host.is_some_and(|h| h as usize == host);
                let members = request.members.iter().enumerate();
                members.filter(|(index, member)| here(member) && !gone(*index)).count()
            })
            .collect()
    }

    #[test]
    fn the_fullest_place_gives_first() {
        let request = ten().remove(1);
        let victims = choose("{}", &request);
        assert_eq!(names_of(&request, &victims), ["web-10"]);
        assert_eq!(victims[0].reason, "host esx-1 has 4 members, the others 3");
    }

    #[test]
    fn what_is_left_is_level_whatever_leaves() {
        for count in 1..=10 {
            let request = ten().remove(count);
            let left = left_by_host(&request, &choose("{}", &request));
            let (least, most) = (left.iter().min().unwrap(), left.iter().max().unwrap());
            assert!(most - least <= 1, "{count} removed: {left:?}");
        }
    }

    #[test]
    fn protected_members_count_where_they_are() {
        // All of esx-1 is protected: the other two give, although it has most.
        let mut question = ten();
        for name in ["web-1", "web-4", "web-7", "web-10"] {
            question = question.member(name, |m| m.protected = true);
        }
        let request = question.remove(2);
        let victims = choose("{}", &request);
        assert_eq!(names_of(&request, &victims), ["web-9", "web-8"]);
        assert_eq!(left_by_host(&request, &victims), [4, 2, 2]);
        assert_eq!(victims[0].reason, "host esx-3 has 3 members, the others 3 to 4");
    }

    #[test]
    fn by_rack_of_the_host_or_its_cluster() {
        let request = group("web")
            .clusters(2)
            .hosts(4)
            .members(5)
            .cluster("cluster-1", |c| c.set_attribute("rack", "a"))
            .host("esx-2", |h| h.set_attribute("rack", "b"))
            .host("esx-4", |h| h.set_attribute("rack", "b"))
            .remove(1);
        // Rack a has web-1, web-3, web-5; rack b has web-2, web-4.
        let victims = choose(r#"{"by": {"attribute": "rack"}}"#, &request);
        assert_eq!(names_of(&request, &victims), ["web-5"]);
        assert_eq!(victims[0].reason, "rack a has 3 members, the others 2");
    }

    #[test]
    fn by_datastore_and_by_cluster() {
        let request = ten().member("web-2", |m| m.datastore = Some(0)).remove(1);
        let victims = choose(r#"{"by": "datastore"}"#, &request);
        assert_eq!(victims[0].reason, "datastore ds-1 has 6 members, the others 4");
        let victims = choose(r#"{"by": "cluster"}"#, &request);
        assert_eq!(victims[0].reason, "cluster cluster-1 has 10 members, there is no other");
    }

    #[test]
    fn without_places_the_newest_leaves() {
        let request = group("web").members(3).remove(2);
        let victims = choose("{}", &request);
        assert_eq!(names_of(&request, &victims), ["web-3", "web-2"]);
        assert!(victims[0].reason.starts_with("3 members without a known host"));
    }

    #[test]
    fn a_wrong_place_is_told_what_is_right() {
        let problems = parse_config::<Balanced>(r#"{"by": "hosts"}"#).unwrap_err();
        assert_eq!(problems[0].path, "/by");
        assert_eq!(
            problems[0].message,
            "unknown variant `hosts`, expected one of `host`, `cluster`, `datastore`, `attribute`"
        );
    }
}

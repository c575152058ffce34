//! A scaling policy as a site would write it: a host that is to be emptied gives
//! first, then the newest leave; the oldest members stay whatever happens.

use serde::Deserialize;
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::scaling::{Request, Victim};
use vmgroup_policy_sdk::types::Member;

/// `config: { drain: esx-7.example.com, keepOldest: 2 }`
#[derive(Default, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct EmptyHost {
    /// The name of the host that is to be emptied.
    drain: Option<String>,
    /// How many of the oldest members stay.
    keep_oldest: usize,
    /// Who never leaves, such as `["pet=true"]`.
    protect: Protect,
}

impl Scaling for EmptyHost {
    const NAME: &'static str = "empty-host";
    const SUMMARY: &'static str = "Members on a given host leave first, the oldest stay.";
    const ORDER_FREE: bool = true;

    fn choose(&self, request: &Request) -> Result<Vec<Victim>, Refusal> {
        let mut oldest: Vec<&Member> = request.members.iter().collect();
        oldest.sort_by(|a, b| b.newest_first(a));
        oldest.truncate(self.keep_oldest);

        let mut candidates = request.candidates(&self.protect)?;
        candidates.retain(|candidate| !oldest.contains(&candidate.member));
        if candidates.len() < request.count as usize {
            return Err(Refusal::Unsatisfiable(format!(
                "{} have to leave, but {} of those that may are left when the {} oldest stay",
                request.count,
                candidates.len(),
                self.keep_oldest
            )));
        }

        let drained = |member: &Member| {
            let host = member.host.and_then(|index| request.inventory.host(index));
            host.is_some_and(|host| Some(&host.name) == self.drain.as_ref())
        };
        candidates.sort_by(|a, b| a.newest_first(b));
        candidates.sort_by_key(|candidate| !drained(candidate));
        Ok(request.take(candidates, |candidate| match &self.drain {
            Some(host) if drained(candidate) => format!("{host} is to be emptied"),
            _ => format!("newest: made {}", candidate.made()),
        }))
    }
}

vmgroup_policy_sdk::export!(EmptyHost: scaling);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::testing::{group, names_of};

    #[test]
    fn the_drained_host_gives_first_the_oldest_stay() {
        // web-1, web-3 and web-5 are on esx-1; web-1 is the oldest.
        let question = group("web").hosts(2).members(5);
        let policy: EmptyHost = vmgroup_policy_sdk::parse_config(r#"{"drain": "esx-1", "keepOldest": 1}"#).unwrap();

        let request = question.clone().remove(3);
        let victims = policy.choose(&request).unwrap();
        assert_eq!(names_of(&request, &victims), ["web-5", "web-3", "web-4"]);
        assert_eq!(victims[0].reason, "esx-1 is to be emptied");

        // web-1 stays, even when all that are younger are protected.
        let request = question.member("web-2", |m| m.protected = true).remove(4);
        assert!(policy.choose(&request).is_err());
    }
}

//! Policy `my-policy`: says who leaves when a group shrinks.

use serde::Deserialize;
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::scaling::{Request, Victim};

/// The configuration, as it stands under `config:` in policy.yaml.
#[derive(Debug, Default, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct MyPolicy {
    /// Members that use more CPU than this, in MHz, leave after all others.
    busy_above: Option<u32>,
    /// Who never leaves, such as `["pet=true"]`.
    protect: Protect,
}

impl Scaling for MyPolicy {
    const NAME: &'static str = "my-policy";
    const SUMMARY: &'static str = "The newest members leave first, the busy ones last.";
    const ORDER_FREE: bool = true;

    fn choose(&self, request: &Request) -> Result<Vec<Victim>, Refusal> {
        let busy = |use_mhz: Option<u32>| self.busy_above.is_some_and(|limit| use_mhz.is_some_and(|mhz| mhz > limit));
        let mut candidates = request.candidates(&self.protect)?;
        candidates.sort_by(|a, b| a.newest_first(b));
        candidates.sort_by_key(|candidate| busy(candidate.cpu_used_mhz));
        Ok(request.take(candidates, |candidate| {
            let newest = format!("newest: made {}", candidate.made());
            if busy(candidate.cpu_used_mhz) { format!("busy, but nobody else is left; {newest}") } else { newest }
        }))
    }
}

vmgroup_policy_sdk::export!(MyPolicy: scaling);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::testing::{assert_legal_victims, group, names_of};

    #[test]
    fn the_newest_leaves_unless_it_is_busy() {
        let policy: MyPolicy = vmgroup_policy_sdk::parse_config(r#"{"busyAbove": 500}"#).unwrap();
        let request = group("web").members(3).member("web-3", |m| m.cpu_used_mhz = Some(900)).remove(2);
        let victims = policy.choose(&request).unwrap();
        assert_legal_victims(&request, &victims);
        assert_eq!(names_of(&request, &victims), ["web-2", "web-1"]);
    }
}

//! Placement policy `pool-default`, the default: leaves the place of each new
//! member to vCenter, which with DRS knows best. It goes into the operator's
//! resource pool, onto its datastore.
//!
//! ```yaml
//! placement:
//!   plugin: pool-default     # has no configuration
//! ```

use serde::Deserialize;
use vmgroup_policy_sdk::placement::{Place, Request};
use vmgroup_policy_sdk::prelude::*;

/// There is nothing to configure.
#[derive(Clone, Debug, Default, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolDefault {}

impl Placement for PoolDefault {
    const NAME: &'static str = "pool-default";
    const SUMMARY: &'static str = "Leaves the place of new members to vCenter and DRS.";
    const ORDER_FREE: bool = true;

    fn place(&self, request: &Request) -> Result<Vec<Place>, Refusal> {
        let anywhere = Place { cluster: None, host: None, datastore: None, reason: "left to vCenter".to_owned() };
        Ok(vec![anywhere; request.newcomers.len()])
    }
}

vmgroup_policy_sdk::export!(PoolDefault: placement);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::parse_config;
    use vmgroup_policy_sdk::testing::{assert_legal_places, group, hosts_of};

    #[test]
    fn all_is_left_to_vcenter() {
        let policy: PoolDefault = parse_config("{}").unwrap();
        for request in [group("web").place(1), group("web").hosts(3).datastores(2).place(3)] {
            let places = policy.place(&request).unwrap();
            assert_legal_places(&request, &places);
            assert!(hosts_of(&request, &places).iter().all(|host| *host == "-"));
            assert!(places.iter().all(|place| place.datastore.is_none()));
        }
    }

    #[test]
    fn what_it_cannot_do_is_not_ignored() {
        let problems = parse_config::<PoolDefault>(r#"{"by": "host"}"#).unwrap_err();
        assert_eq!(problems[0].path, "/by");
        assert_eq!(problems[0].message, "unknown field `by`, there are no fields");
    }
}

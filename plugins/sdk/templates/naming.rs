//! Policy `my-policy`: says what new members are called.

use serde::Deserialize;
use vmgroup_policy_sdk::naming::{Answer, Proposal, Request};
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::{Unique, name_length};

/// The configuration, as it stands under `config:` in policy.yaml.
#[derive(Debug, Default, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct MyPolicy {
    /// What each name begins with, such as the code of a site.
    prefix: String,
    /// Where names have to be unique: in the `group`, or `everywhere` on the vCenter.
    unique: Unique,
}

impl Naming for MyPolicy {
    const NAME: &'static str = "my-policy";
    const SUMMARY: &'static str = "Names are a prefix, the group's name and the lowest free number.";
    const ORDER_FREE: bool = true;

    fn name(&self, request: &Request) -> Result<Answer, Refusal> {
        let scope = self.unique.into();
        let taken = request.taken(scope);
        let stem = format!("{}{}", self.prefix, request.context.group.name);
        let proposals: Vec<Proposal> = (1..=u32::MAX)
            .map(|number| format!("{stem}-{number}"))
            .filter(|name| !taken.contains(name.as_str()))
            .take(request.count as usize)
            .map(|name| Proposal { name, reason: "the lowest number that is free".to_owned() })
            .collect();
        match proposals.iter().find(|proposal| name_length(&proposal.name) > request.max_length as usize) {
            Some(long) => {
                Err(Refusal::Unsatisfiable(format!("`{}` is longer than {} characters", long.name, request.max_length)))
            }
            None => Ok(Answer { proposals, scope }),
        }
    }
}

vmgroup_policy_sdk::export!(MyPolicy: naming);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::testing::{assert_legal_names, group};

    #[test]
    fn the_lowest_free_numbers() {
        let policy: MyPolicy = vmgroup_policy_sdk::parse_config(r#"{"prefix": "ber-"}"#).unwrap();
        let request = group("web").taken("ber-web-2").names(2);
        let answer = policy.name(&request).unwrap();
        assert_legal_names(&request, &answer);
        assert_eq!([&*answer.proposals[0].name, &*answer.proposals[1].name], ["ber-web-1", "ber-web-3"]);
    }
}

//! One component that answers two questions: what a member is called and who
//! leaves belong together here. Each policy has a configuration of its own, under
//! its own kind in `policy.yaml`:
//!
//! ```yaml
//! naming:  { plugin: site.wasm, config: { site: FRA } }
//! scaling: { plugin: site.wasm, config: { keepSite: FRA } }
//! ```
//!
//! `scripts/build-plugins --example site` builds it.

use serde::Deserialize;
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::{naming, scaling};

/// Names with the code of a site in front: `FRA-web-001`.
#[derive(Debug, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SiteNames {
    /// The code.
    site: String,
}

impl Naming for SiteNames {
    const NAME: &'static str = "site";
    const SUMMARY: &'static str = "Names carry the code of a site.";
    const ORDER_FREE: bool = true;

    fn name(&self, request: &naming::Request) -> Result<naming::Answer, Refusal> {
        let taken = request.taken(naming::Scope::Group);
        let proposals = (1..=u32::MAX)
            .map(|number| format!("{}-{}-{number:03}", self.site, request.context.group.name))
            .filter(|name| !taken.contains(name.as_str()))
            .take(request.count as usize)
            .map(|name| naming::Proposal { name, reason: format!("site {}", self.site) })
            .collect();
        Ok(naming::Answer { proposals, scope: naming::Scope::Group })
    }
}

/// Members that are named for another site leave first.
#[derive(Debug, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SiteStays {
    /// The code of the site whose members leave last.
    keep_site: String,
}

impl Scaling for SiteStays {
    const NAME: &'static str = "site-stays";
    const SUMMARY: &'static str = "Members of another site leave first.";
    const ORDER_FREE: bool = true;

    fn choose(&self, request: &scaling::Request) -> Result<Vec<scaling::Victim>, Refusal> {
        let stays = |name: &str| name.split('-').next() == Some(self.keep_site.as_str());
        let mut candidates = request.candidates(&Protect::default())?;
        candidates.sort_by_key(|candidate| stays(&candidate.name));
        Ok(request.take(candidates, |candidate| {
            if stays(&candidate.name) {
                "nobody of another site is left".to_owned()
            } else {
                format!("not of site {}", self.keep_site)
            }
        }))
    }
}

vmgroup_policy_sdk::export!(SiteNames: naming, SiteStays: scaling);

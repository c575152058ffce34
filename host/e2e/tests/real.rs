//! The scenarios on the real components, and what can only be tried there:
//! kubectl as a person uses it, the operator's rights, and its end by SIGTERM.
//!
//! `make e2e` builds all that they need and sets VMGROUP_E2E; without it they say
//! so and do nothing.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use vmgroup_e2e::real::RealWorld;
use vmgroup_e2e::scenarios;
use vmgroup_e2e::world::{OPERATOR_NAMESPACE, Options, User, World, eventually};

const SOON: Duration = Duration::from_secs(60);

/// Whether the real components are wanted.
fn wanted(story: &str) -> bool {
    let wanted = std::env::var_os("VMGROUP_E2E").is_some_and(|value| value == "1");
    if !wanted {
        println!("{story}: left out; `make e2e` runs it on the real components (it sets VMGROUP_E2E=1)");
    }
    wanted
}

macro_rules! stories {
    ($($name:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            if wanted(stringify!($name)) {
                scenarios::$name::<RealWorld>().await;
            }
        }
    )*};
}

stories! {
    the_sample_lives_and_dies,
    what_is_missing_or_off_is_healed,
    policies_are_swapped_while_running,
    a_broken_policy_is_refused_and_nothing_happens,
    l4_killed_in_the_middle_of_a_scale_out,
    l10_vcenter_is_away_for_a_while,
    s2_foreign_machines_are_left_alone,
    two_groups_of_one_folder_name,
    templates_that_cannot_be_used_are_named,
    a_name_that_is_taken_by_a_stranger,
    protected_members_stay,
    a_large_group_does_not_starve_a_small_one,
    s3_lost_replies_make_nobody_twice,
    l6_a_change_of_mind,
}

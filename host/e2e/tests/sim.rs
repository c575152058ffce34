//! The scenarios in the simulated world, with time paused.

use vmgroup_e2e::scenarios;
use vmgroup_e2e::sim::SimWorld;

macro_rules! stories {
    ($($name:ident),* $(,)?) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            scenarios::$name::<SimWorld>().await;
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
    spread_is_even_however_it_is_made,
}

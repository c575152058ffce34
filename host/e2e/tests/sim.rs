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

vmgroup_e2e::every_scenario!(stories);

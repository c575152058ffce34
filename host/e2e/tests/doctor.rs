//! `vmgroup doctor` on the simulated vCenter, and whether what it says of privileges is
//! so: without one, exactly that fails, and heals once it is given.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

use std::time::Duration;

use vmgroup_e2e::sim::SimWorld;
use vmgroup_e2e::world::{Options, TEMPLATE, User, World};
use vmgroup_operator::doctor::{Condition, Finding, NEEDS, Need, On, examine};
use vmgroup_vsphere::SiteSelection;

const SOON: Duration = Duration::from_secs(60);

/// How long a lack of privileges is waited out before it is tried again.
const LATER: Duration = Duration::from_secs(3_600);

async fn findings(world: &SimWorld, site: &SiteSelection, template: &str) -> Vec<Finding> {
    let vcenter = world.at_the_desk();
    let findings = examine(&vcenter, ("vcenter.test", "trusted"), site, &[template.to_owned()]).await;
    vcenter.logout().await;
    findings
}

async fn bad(world: &SimWorld, site: &SiteSelection, template: &str) -> Vec<Finding> {
    let mut findings = findings(world, site, template).await;
    findings.retain(|finding| finding.condition != Condition::Good);
    findings
}

#[tokio::test(start_paused = true)]
async fn a_vcenter_as_it_should_be() {
    let world = SimWorld::make(Options::default()).await.unwrap();
    let findings = findings(&world, &SiteSelection::default(), TEMPLATE).await;
    assert!(findings.iter().all(|finding| finding.condition == Condition::Good), "{findings:#?}");
    let checks: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
    let site =
        ["address", "certificate", "login", "datacenter", "pool", "datastore", "root folder", "tags", "template"];
    assert_eq!(checks[..9], site);
    assert_eq!(checks[9..], ["privileges"; 6], "root folder, pool, datastore, template, network, vCenter");
    assert_eq!((world.vcenter.sessions(), world.vcenter.api_sessions()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_first_trouble_is_named_and_what_to_do() {
    let world = SimWorld::make(Options { password: Some("wrong".to_owned()), ..Options::default() }).await.unwrap();
    let found = findings(&world, &SiteSelection::default(), TEMPLATE).await;
    let last = found.last().unwrap();
    assert_eq!((found.len(), last.check, last.condition), (3, "login", Condition::Bad));
    assert!(last.remedy.as_ref().is_some_and(|remedy| remedy.contains("domain")), "{last:?}");

    let world = SimWorld::make(Options::default()).await.unwrap();
    let site = SiteSelection { datastore: Some("nowhere".to_owned()), ..SiteSelection::default() };
    let found = bad(&world, &site, TEMPLATE).await;
    assert!(found.len() == 1 && found[0].check == "site" && found[0].detail.contains("LocalDS_0"), "{found:?}");
    let found = bad(&world, &SiteSelection::default(), "golden").await;
    assert!(found.len() == 1 && found[0].check == "template" && found[0].detail.contains(TEMPLATE), "{found:?}");
}

/// Those that the story below meets: a source that is a template, and no second
/// network, session or hand at work.
fn met(need: &Need) -> bool {
    !need.optional && need.on != On::Network && need.privilege != "VirtualMachine.Provisioning.Clone"
}

/// L7: what doctor says is missing is what the group then waits for, and it goes on by
/// itself once it is given.
#[tokio::test(start_paused = true)]
async fn l7_without_a_privilege_that_fails_which_doctor_says() {
    for need in NEEDS.iter().filter(|need| met(need)) {
        let mut world = SimWorld::make(Options::default()).await.unwrap();
        world.start_operator().await.unwrap();
        let user = User::of(&world);
        let leaving = need.without.contains("leave") || need.without.contains("a deleted group");
        if leaving {
            user.group("shop", "web", 1).await;
            user.ready("shop", "web", 1, SOON).await;
        }
        world.vcenter.withhold(need.privilege);
        let found = bad(&world, &SiteSelection::default(), TEMPLATE).await;
        let [only] = &found[..] else { panic!("{found:?}") };
        assert!(only.condition == Condition::Bad && only.detail.contains(need.privilege), "{only:?}");
        assert!(only.detail.contains(need.without), "{only:?}");

        if leaving {
            user.delete("shop", "web").await;
        } else {
            user.group("shop", "web", 1).await;
        }
        user.told("shop", "web", "Stalled", need.privilege, SOON).await;
        world.vcenter.grant(need.privilege);
        if leaving {
            user.gone("shop", "web", LATER).await;
        } else {
            user.ready("shop", "web", 1, LATER).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_only_a_wish_is_told_as_one() {
    let world = SimWorld::make(Options::default()).await.unwrap();
    world.vcenter.withhold("VirtualMachine.Inventory.Move");
    let found = bad(&world, &SiteSelection::default(), TEMPLATE).await;
    assert!(found.len() == 1 && found[0].condition == Condition::Wish, "{found:?}");
}

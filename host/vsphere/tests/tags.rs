//! Tags, against the simulated vCenter in-process with time paused: they are found,
//! attached and taken off, in a session of their own.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "of the other tests")]
mod common;
mod simulated;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use simulated::{client, credentials, simulated};
use vmgroup_sim::faults::{Fault, Rule};
use vmgroup_sim::vcenter::{VcenterConfig, VcenterSim};
use vmgroup_vsphere::{Category, Error, MAX_SESSIONS, TagName, TagRef, Vcenter, VmRef};

const ROOT: &str = "/DC0/vm/vm-operator";
const ATTACH: &str = "tag_association.attach_tag_to_multiple_objects";

fn tag(category: &str, name: &str) -> TagName {
    TagName { category: category.to_owned(), name: name.to_owned() }
}

/// Three machines, and tags `env/prod`, `env/test` (one of which may be attached) and
/// `owner/shop`.
fn tagged() -> (VcenterSim, Vcenter, Vec<VmRef>) {
    let (sim, vcenter) = simulated(VcenterConfig::default());
    sim.define_category("env", true);
    for (category, name) in [("env", "prod"), ("env", "test"), ("owner", "shop")] {
        sim.define_tag(category, name);
    }
    let vms = ["a", "b", "c"].map(|name| {
        sim.add_vm(ROOT, name, &[]).unwrap();
        VmRef::new(sim.vm(&format!("{ROOT}/{name}")).unwrap().moref)
    });
    (sim, vcenter, vms.into())
}

async fn find(vcenter: &Vcenter, category: &str, name: &str) -> TagRef {
    let wanted = tag(category, name);
    vcenter.find_tags(&[wanted.clone()].into()).await.unwrap()[&wanted].clone()
}

fn has(sim: &VcenterSim, name: &str) -> Vec<String> {
    sim.vm(&format!("{ROOT}/{name}")).unwrap().tags.into_iter().map(|(_, tag)| tag).collect()
}

fn logins(sim: &VcenterSim) -> u64 {
    sim.faults().calls().get("session.create").copied().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn tags_are_found_attached_and_taken_off() {
    let (sim, vcenter, vms) = tagged();
    let wanted = [tag("env", "prod"), tag("owner", "shop"), tag("env", "none"), tag("none", "prod")].into();
    let found = vcenter.find_tags(&wanted).await.unwrap();
    assert!(found.contains_key(&tag("env", "prod")) && found.contains_key(&tag("owner", "shop")), "{found:?}");
    assert!(!found.contains_key(&tag("env", "none")) && !found.contains_key(&tag("none", "prod")), "{found:?}");
    let (prod, shop) = (&found[&tag("env", "prod")], &found[&tag("owner", "shop")]);

    vcenter.attach_tag(prod, &vms[..2]).await.unwrap();
    vcenter.attach_tag(prod, &vms[..2]).await.unwrap();
    vcenter.attach_tag(shop, &vms[1..2]).await.unwrap();
    let attached = vcenter.attached_tags(&vms).await.unwrap();
    assert_eq!(attached[&vms[0]], BTreeSet::from([prod.clone()]));
    assert_eq!(attached[&vms[1]], BTreeSet::from([prod.clone(), shop.clone()]));
    assert_eq!(attached[&vms[2]], BTreeSet::new());
    vcenter.detach_tag(prod, &vms[1]).await.unwrap();
    vcenter.detach_tag(prod, &vms[1]).await.unwrap();
    assert_eq!((has(&sim, "a"), has(&sim, "b")), (vec!["prod".to_owned()], vec!["shop".to_owned()]));

    // Who is gone has none, and neither has who comes after him.
    sim.destroy(&format!("{ROOT}/a")).unwrap();
    assert_eq!(vcenter.attached_tags(&vms[..1]).await.unwrap()[&vms[0]], BTreeSet::new());
    assert_eq!(logins(&sim), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_told_by_its_type() {
    let (sim, vcenter, vms) = tagged();
    let (prod, test) = (find(&vcenter, "env", "prod").await, find(&vcenter, "env", "test").await);
    vcenter.attach_tag(&test, &vms[..1]).await.unwrap();
    let error = vcenter.attach_tag(&prod, &vms).await.unwrap_err();
    assert_eq!(error.category(), Category::Configuration, "{error}");
    assert!(error.to_string().contains("cardinality"), "{error}");
    assert_eq!((has(&sim, "a"), has(&sim, "b")), (vec!["test".to_owned()], vec!["prod".to_owned()]));

    sim.withhold("InventoryService.Tagging.AttachTag");
    let error = vcenter.detach_tag(&prod, &vms[1]).await.unwrap_err();
    assert_eq!(error.category(), Category::Permission, "{error}");
    assert!(error.to_string().contains("InventoryService.Tagging.AttachTag"), "{error}");
    sim.grant("InventoryService.Tagging.AttachTag");

    sim.delete_tag("env", "prod").unwrap();
    let error = vcenter.attach_tag(&prod, &vms).await.unwrap_err();
    assert_eq!(error.category(), Category::Gone, "{error}");
    sim.faults().add(Rule::next(ATTACH, Fault::Error("503".into())));
    let error = vcenter.attach_tag(&test, &vms).await.unwrap_err();
    assert!(error.category() == Category::Transient && error.outcome_unknown(), "{error}");
}

/// L10: a session that vCenter has ended is had again, by one login however many ask.
#[tokio::test(start_paused = true)]
async fn l10_a_lost_session_is_had_again() {
    let (sim, vcenter, vms) = tagged();
    let prod = find(&vcenter, "env", "prod").await;
    let ways: [&dyn Fn(); 3] = [&|| sim.terminate_sessions(), &|| sim.restart(true), &|| {
        sim.faults().add(Rule::next(ATTACH, Fault::Error("NotAuthenticated".into())));
    }];
    for (lost, way) in ways.iter().enumerate() {
        way();
        let many = (0..10).map(|_| vcenter.attach_tag(&prod, &vms));
        for result in futures::future::join_all(many).await {
            result.unwrap();
        }
        assert_eq!(logins(&sim), 2 + lost as u64);
        assert_eq!(sim.api_sessions(), 1);
    }
    // Nobody keeps it alive.
    tokio::time::sleep(Duration::from_mins(30)).await;
    vcenter.attached_tags(&vms).await.unwrap();
    assert_eq!(logins(&sim), 5);
    vcenter.logout().await;
    assert_eq!((sim.api_sessions(), sim.sessions()), (0, 0));
    assert!(matches!(vcenter.attached_tags(&vms).await, Err(Error::Session { .. })));
}

/// L10: there are never more sessions than the fixed number, however many answers to
/// logins are lost.
#[tokio::test(start_paused = true)]
async fn l10_never_more_sessions_than_the_fixed_number() {
    let (sim, vcenter, vms) = tagged();
    for _ in 0..MAX_SESSIONS {
        sim.faults().add(Rule::next("session.create", Fault::LoseReply));
        vcenter.attached_tags(&vms).await.unwrap_err();
    }
    let error = vcenter.attached_tags(&vms).await.unwrap_err();
    let Error::Session { source, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(**source, Error::TooManySessions { .. }), "{error:?}");
    assert_eq!((sim.most_sessions(), logins(&sim)), (MAX_SESSIONS, MAX_SESSIONS as u64));
    tokio::time::sleep(Duration::from_mins(31)).await;
    vcenter.attached_tags(&vms).await.unwrap();
}

/// L10: a login that is refused is not tried again and again; another one is at once,
/// and a changed one leaves no session behind.
#[tokio::test(start_paused = true)]
async fn l10_a_changed_password() {
    let (sim, vcenter, vms) = tagged();
    vcenter.connect().await.unwrap();
    sim.set_password("other");
    for _ in 0..5 {
        let error = vcenter.attached_tags(&vms).await.unwrap_err();
        assert_eq!(error.category(), Category::Credentials, "{error}");
    }
    assert_eq!(logins(&sim), 1);
    assert!(vcenter.set_credentials(credentials("other")));
    vcenter.attached_tags(&vms).await.unwrap();
    assert_eq!(sim.api_sessions(), 1);
    sim.set_password("third");
    assert!(vcenter.set_credentials(credentials("third")));
    tokio::time::sleep(Duration::from_mins(1)).await;
    vcenter.attached_tags(&vms).await.unwrap();
    assert_eq!((sim.api_sessions(), sim.sessions()), (1, 1));
}

/// S7: writes pass the gate, again before they are repeated; reads do not ask.
#[tokio::test(start_paused = true)]
async fn s7_a_tag_is_not_attached_past_the_gate() {
    let (sim, vcenter, vms) = tagged();
    let prod = find(&vcenter, "env", "prod").await;
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    vcenter.set_write_gate(Arc::new(move || tokio::time::Instant::now() < until));
    vcenter.attach_tag(&prod, &vms[..1]).await.unwrap();
    sim.terminate_sessions();
    sim.faults().add(Rule::next("session.create", Fault::Delay(Duration::from_secs(20))));
    let error = vcenter.attach_tag(&prod, &vms[1..]).await.unwrap_err();
    assert!(matches!(error, Error::Withheld { .. }), "{error:?}");
    let error = vcenter.detach_tag(&prod, &vms[0]).await.unwrap_err();
    assert!(matches!(error, Error::Withheld { .. }), "{error:?}");
    assert_eq!((has(&sim, "a"), has(&sim, "b")), (vec!["prod".to_owned()], Vec::new()));
    vcenter.attached_tags(&vms).await.unwrap();
}

/// Who never asks for tags never logs in for them; a reader's account does not either.
#[tokio::test(start_paused = true)]
async fn without_tags_there_is_no_session_for_them() {
    let (sim, vcenter, _) = tagged();
    vcenter.connect().await.unwrap();
    let second = client(&sim, |_| {});
    second.connect().await.unwrap();
    assert_eq!((sim.api_sessions(), logins(&sim)), (0, 0));
}

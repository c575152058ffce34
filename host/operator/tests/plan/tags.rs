//! Tags: one step for all who want some, and never for who leaves or is at work.

use vmgroup_operator::plan::TagsOf;
use vmgroup_operator::validate::TagWish;
use vmgroup_vsphere::{TagName, TagRef};

use super::*;

/// A group whose members are to have `new`, and `old` no more.
fn wished(replicas: usize) -> Desired {
    let wish = |name: &str, attached| {
        let tag = TagName { category: "env".into(), name: name.into() };
        (TagRef::new(format!("urn:{name}")), TagWish { tag, attached })
    };
    Desired { tagging: Some([wish("new", true), wish("old", false)].into()), ..desired(replicas) }
}

fn tagged(mut seen: Seen, tags: &[&str]) -> Seen {
    seen.vm.as_mut().unwrap().tags = Some(tags.iter().map(|name| TagRef::new(format!("urn:{name}"))).collect());
    seen
}

/// Who is given or loses what, and how many slots that would take.
fn step(desired: &Desired, members: Vec<Seen>) -> (Vec<TagsOf>, usize) {
    let seen = seen(members);
    let asked = demand(desired, &seen, NOW);
    let slots = asked.slots();
    let mut steps = plan(desired, &seen, &asked, &Decisions::default(), slots, NOW).steps;
    match steps.pop() {
        Some(Step::Tag { members }) if steps.is_empty() => (members, slots),
        None => (Vec::new(), slots),
        other => panic!("{other:?} after {steps:?}"),
    }
}

#[test]
fn all_who_want_some_are_in_one_step() {
    let members = vec![
        tagged(on(0), &["new"]),
        tagged(on(1), &[]),
        tagged(on(2), &["old"]),
        tagged(on(3), &["new", "theirs"]),
        // Nothing is known of it yet.
        on(4),
        Seen { flight: Some(TaskKind::Reconfigure), ..tagged(on(5), &[]) },
        Seen { recorded: Some(MemberState::Leaving), flight: Some(TaskKind::PowerOff), ..tagged(on(6), &[]) },
    ];
    let (members, slots) = step(&wished(6), members);
    assert_eq!(slots, 1);
    let found: Vec<_> = members.into_iter().map(|member| (member.uuid, member.tags)).collect();
    let (new, old) = (TagRef::new("urn:new"), TagRef::new("urn:old"));
    assert_eq!(
        found,
        [
            ("uuid-001".to_owned(), [(new.clone(), true)].into()),
            ("uuid-002".to_owned(), [(new, true), (old, false)].into()),
        ]
    );
}

#[test]
fn nothing_is_done_while_nothing_is_known_of_the_tags() {
    let desired = Desired { tagging: None, ..wished(1) };
    assert_eq!(step(&desired, vec![tagged(on(0), &[])]), (Vec::new(), 0));
}

#[test]
fn of_many_who_lose_some_a_part_waits_for_the_next_pass() {
    let members = |tags: &[&str]| (0..120).map(|index| tagged(on(index), tags)).collect::<Vec<_>>();
    assert_eq!(step(&wished(120), members(&[])).0.len(), 120);
    assert_eq!(step(&wished(120), members(&["old"])).0.len(), 50);
}

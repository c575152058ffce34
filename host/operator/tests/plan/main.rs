//! The planner: golden plans for the cases that people will ask about, and
//! properties over whatever it may be given.
//!
//! A plan is plain data, so a golden file is its JSON. To accept a new one, look
//! at it and run with `UPDATE_GOLDEN=1`.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

mod rollout;
mod tags;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use vmgroup_api::MemberState;
use vmgroup_operator::observe::{Birth, FolderSeen, Observed, Seen, Stranded, VmSeen};
use vmgroup_operator::plan::{Decisions, Demand, Newcomer, Place, Plan, Step, Victim, demand, plan};
use vmgroup_operator::readiness::{Terms, Waits};
use vmgroup_operator::revision::Made;
use vmgroup_operator::strategy::{Share, Strategy as Bounds};
use vmgroup_operator::tasks::TaskKind;
use vmgroup_operator::validate::{Desired, Farewell, Make};
use vmgroup_operator::wake::GroupRef;
use vmgroup_vsphere::{FolderRef, PowerState, VmRef};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const LONG_AGO: Timestamp = Timestamp::constant(-86_400, 0);

fn desired(replicas: usize) -> Desired {
    Desired {
        group: GroupRef { namespace: "shop".into(), name: "web".into() },
        uid: "uid-1".into(),
        generation: Some(1),
        labels: BTreeMap::new(),
        attributes: BTreeMap::new(),
        adopting: BTreeSet::new(),
        cpus: 2,
        memory_mib: 1024,
        replicas,
        template: "small".into(),
        linked: false,
        grace: Duration::from_secs(60),
        custom_attributes: BTreeMap::new(),
        fields: BTreeMap::new(),
        tags: BTreeSet::new(),
        tagging: None,
        make: Make::default(),
        hold_scale_in: false,
        protected: BTreeSet::new(),
        revision: "new".into(),
        data: None,
        restarted_at: None,
        strategy: Bounds::default(),
        evacuate: false,
        readiness: Terms::default(),
        progress_deadline: Duration::from_mins(10),
        destination: None,
        deleting: false,
        farewell: Farewell::Destroy,
    }
}

fn member(index: usize, recorded: Option<MemberState>, power: Option<PowerState>) -> Seen {
    Seen {
        uuid: format!("uuid-{index:03}"),
        name: format!("web-{index:03}"),
        recorded,
        reason: None,
        waits: Waits { ready: power == Some(PowerState::On), ..Waits::default() },
        revision: None,
        vm: power.map(|power| VmSeen {
            id: VmRef::new(format!("vm-{index:03}")),
            power,
            host: None,
            datastore: None,
            created_at: None,
            made: desired(0).made(),
            data: None,
            restarted: None,
            cpus: 2,
            memory_mib: 1024,
            cpu_hot_add: false,
            memory_hot_add: false,
            guest: None,
            stranded: None,
            attributes: BTreeMap::new(),
            fields: None,
            tags: None,
            outdated: false,
        }),
        bound_for: None,
        flight: None,
        birth: Birth::Absent,
        held_until: None,
        stopping_since: None,
        asked_to_stop: false,
    }
}

fn on(index: usize) -> Seen {
    member(index, Some(MemberState::Ready), Some(PowerState::On))
}

fn seen(members: Vec<Seen>) -> Observed {
    Observed {
        folder: FolderSeen {
            name: "shop-web".into(),
            id: Some(FolderRef::new("group-v1")),
            parent: Some(FolderRef::new("group-v0")),
        },
        members,
        progressed_at: None,
        hosts_leave: false,
    }
}

/// Policies that answer every question: fresh names, no place in particular,
/// the last members first.
fn answer(observed: &Observed, demand: &Demand, slots: usize, fresh: &mut usize) -> Decisions {
    let mut decisions = Decisions::default();
    for _ in 0..demand.births(slots) {
        *fresh += 1;
        let newcomer = member(900 + *fresh, None, None);
        decisions.newcomers.push(Newcomer { uuid: newcomer.uuid, name: newcomer.name, reason: "fresh".into() });
    }
    let to_place = demand.resumed(slots).iter().cloned().chain(decisions.newcomers.iter().map(|new| new.uuid.clone()));
    decisions.places = to_place.map(|uuid| (uuid, Place::default())).collect();
    decisions.victims = observed
        .members
        .iter()
        .rev()
        .filter(|member| member.vm.is_some() && !member.leaving())
        .take(demand.excess)
        .map(|member| Victim { uuid: member.uuid.clone(), reason: "last".into() })
        .collect();
    if let Some(turn) = &demand.turn {
        let last = turn.from.iter().rev().take(turn.count);
        decisions.turns = last.map(|uuid| Victim { uuid: uuid.clone(), reason: "its turn".into() }).collect();
    }
    decisions
}

fn planned(desired: &Desired, observed: &Observed, slots: usize) -> Plan {
    let demand = demand(desired, observed, NOW);
    let decisions = answer(observed, &demand, slots, &mut 0);
    plan(desired, observed, &demand, &decisions, slots, NOW)
}

fn golden(name: &str, plan: &Plan) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/plans").join(format!("{name}.json"));
    let now = serde_json::to_string_pretty(plan).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(now, golden, "the plan differs from {}; if that is right, run with UPDATE_GOLDEN=1", path.display());
}

#[test]
fn a_new_group() {
    let mut observed = seen(vec![]);
    observed.folder.id = None;
    golden("a_new_group", &planned(&desired(2), &observed, 8));
}

/// While a machine is being adopted its place is kept, and nobody leaves for it.
#[test]
fn a_newcomer_who_is_adopted_keeps_his_place() {
    let group = Desired { adopting: BTreeSet::from(["uuid-003".to_owned()]), ..desired(3) };
    let two = seen(vec![on(1), on(2)]);
    assert_eq!(demand(&group, &two, NOW), Demand::default());
    assert_eq!(demand(&desired(3), &two, NOW).missing, 1);
    let full = Desired { adopting: BTreeSet::from(["uuid-009".to_owned()]), ..desired(2) };
    let three = seen(vec![on(1), on(2), on(3)]);
    assert_eq!(demand(&full, &three, NOW).excess, 0, "not while the count is about to change");
    assert_eq!(demand(&group, &three, NOW), Demand::default(), "he has come");
}

#[test]
fn an_empty_group_has_a_folder() {
    let mut observed = seen(vec![]);
    observed.folder.id = None;
    golden("an_empty_group_has_a_folder", &planned(&desired(0), &observed, 0));
}

#[test]
fn only_as_many_intents_as_there_are_slots() {
    golden("only_as_many_intents_as_there_are_slots", &planned(&desired(100), &seen(vec![on(1)]), 3));
}

#[test]
fn scale_in_writes_down_the_chosen_first() {
    golden("scale_in_writes_down_the_chosen_first", &planned(&desired(1), &seen(vec![on(1), on(2), on(3)]), 8));
}

#[test]
fn the_chosen_are_powered_off_and_then_destroyed() {
    let leaving = |index, power| member(index, Some(MemberState::Leaving), Some(power));
    let observed = seen(vec![on(1), leaving(2, PowerState::On), leaving(3, PowerState::Off)]);
    golden("the_chosen_are_powered_off_and_then_destroyed", &planned(&desired(1), &observed, 8));
}

/// Whoever says that members stay is heard, whatever else they were about to do.
#[test]
fn who_is_to_stay_is_released_and_nothing_else() {
    let mut group = Desired { farewell: Farewell::Release, ..desired(0) };
    group.deleting = true;
    let observed = seen(vec![
        on(1),
        member(2, Some(MemberState::Planned), None),
        member(3, Some(MemberState::Leaving), Some(PowerState::Off)),
    ]);
    golden("who_is_to_stay_is_released_and_nothing_else", &planned(&group, &observed, 8));
}

#[test]
fn s5_a_scale_in_that_is_held_removes_nobody() {
    let three = seen(vec![on(1), on(2), on(3)]);
    let held = Desired { hold_scale_in: true, ..desired(1) };
    let demanded = demand(&held, &three, NOW);
    assert_eq!((demanded.excess, demanded.held_back), (0, 2));
    let protected = Desired { protected: BTreeSet::from(["web-001".into(), "uuid-003".into()]), ..desired(0) };
    let demanded = demand(&protected, &three, NOW);
    assert_eq!((demanded.excess, demanded.held_back), (1, 2), "the others may go");
    // Who was chosen before goes on: it is written down, and half gone.
    let leaving = seen(vec![on(1), member(2, Some(MemberState::Leaving), Some(PowerState::Off))]);
    assert_eq!(demand(&held, &leaving, NOW).remove.len(), 1);
}

#[test]
fn a_guest_is_asked_first_and_has_its_time() {
    let asked = |index, since| {
        let mut member = member(index, Some(MemberState::Leaving), Some(PowerState::On));
        member.stopping_since = Some(Timestamp::from_second(since).unwrap());
        member.asked_to_stop = true;
        member
    };
    let observed = seen(vec![asked(1, -60), asked(2, -59), asked(3, -20)]);
    golden("a_guest_is_asked_first_and_has_its_time", &planned(&desired(0), &observed, 8));
    let demand = demand(&desired(0), &observed, NOW);
    assert_eq!(demand.grace_ends, Some(Timestamp::from_second(1).unwrap()));
    assert_eq!(demand.slots(), 1, "who is waited for takes no slot");
}

/// Its time begins when it is asked, and it is asked when there is a slot.
#[test]
fn a_guest_that_has_to_wait_for_its_turn_loses_no_time() {
    let leaving = |index| member(index, Some(MemberState::Leaving), Some(PowerState::On));
    let plan = planned(&desired(0), &seen(vec![leaving(1), leaving(2)]), 1);
    let since: Vec<bool> = plan.record.iter().map(|entry| entry.stopping_since.is_some()).collect();
    assert_eq!(since, [true, false]);
}

#[test]
fn without_a_grace_period_nobody_is_asked() {
    let group = Desired { grace: Duration::ZERO, ..desired(0) };
    let plan = planned(&group, &seen(vec![member(1, Some(MemberState::Leaving), Some(PowerState::On))]), 8);
    assert!(matches!(plan.steps[..], [Step::PowerOff { .. }]), "{:?}", plan.steps);
}

#[test]
fn the_unborn_go_first_and_nobody_is_asked() {
    let mut cloning = member(3, Some(MemberState::Cloning), None);
    cloning.birth = Birth::Awaited;
    cloning.flight = Some(TaskKind::Clone);
    let observed = seen(vec![on(1), member(2, Some(MemberState::Planned), None), cloning]);
    golden("the_unborn_go_first_and_nobody_is_asked", &planned(&desired(1), &observed, 8));
}

#[test]
fn what_is_off_is_powered_on() {
    let observed =
        seen(vec![on(1), member(2, None, Some(PowerState::Off)), member(3, None, Some(PowerState::Suspended))]);
    golden("what_is_off_is_powered_on", &planned(&desired(3), &observed, 8));
}

#[test]
fn a_group_being_deleted_lets_everybody_go() {
    let mut gone = desired(0);
    gone.deleting = true;
    let observed = seen(vec![
        on(1),
        member(2, Some(MemberState::Planned), None),
        member(3, Some(MemberState::Leaving), Some(PowerState::Off)),
    ]);
    golden("a_group_being_deleted_lets_everybody_go", &planned(&gone, &observed, 8));
    golden("nothing_left_of_a_deleted_group", &planned(&gone, &seen(vec![]), 8));
}

fn any_member(index: usize) -> impl Strategy<Value = Seen> {
    let recorded = prop_oneof![
        Just(None),
        Just(Some(MemberState::Planned)),
        Just(Some(MemberState::Cloning)),
        Just(Some(MemberState::Starting)),
        Just(Some(MemberState::Ready)),
        Just(Some(MemberState::Changing)),
        Just(Some(MemberState::Leaving)),
    ];
    let power = prop_oneof![
        Just(None),
        Just(Some(PowerState::On)),
        Just(Some(PowerState::Off)),
        Just(Some(PowerState::Suspended))
    ];
    let flight = prop_oneof![3 => Just(None), 1 => Just(Some(())),];
    let birth = prop_oneof![Just(Birth::Absent), Just(Birth::Awaited), Just(Birth::Unresolved)];
    // Since when its guest is to shut down, and whether it was asked by this process.
    let stopping = prop_oneof![2 => Just(None), 1 => (any::<bool>(), any::<bool>()).prop_map(Some)];
    let as_made = (any::<bool>(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.1));
    (recorded, power, flight, birth, any::<bool>(), stopping, as_made).prop_map(move |it| {
        let (recorded, power, flight, birth, held, stopping, (revision, size, hot_add, protected)) = it;
        let mut seen = member(index, recorded, power);
        if let Some(vm) = &mut seen.vm {
            if revision {
                vm.made.revision = "old".into();
            }
            if size {
                (vm.cpus, vm.made.cpus) = (1, 1);
            }
            vm.cpu_hot_add = hot_add;
            if protected {
                vm.attributes.insert("protected".into(), "true".into());
            }
        }
        // Who is not recorded is known because it exists.
        if seen.recorded.is_none() && seen.vm.is_none() {
            seen.recorded = Some(MemberState::Planned);
        }
        seen.flight = flight.map(|()| if seen.vm.is_some() { TaskKind::PowerOn } else { TaskKind::Clone });
        seen.birth = if seen.flight == Some(TaskKind::Clone) { Birth::Awaited } else { birth };
        seen.held_until = held.then(|| Timestamp::from_second(60).unwrap());
        if let Some((long_ago, asked)) = stopping {
            seen.stopping_since = Some(if long_ago { LONG_AGO } else { NOW });
            seen.asked_to_stop = asked;
        }
        seen
    })
}

fn any_observed() -> impl Strategy<Value = Observed> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..30)
        .prop_flat_map(|indices| (0..indices.len()).map(any_member).collect::<Vec<_>>())
        .prop_map(seen)
}

fn any_bounds() -> impl Strategy<Value = Bounds> {
    let share = || prop_oneof![(0usize..4).prop_map(Share::Count), (0usize..=100).prop_map(Share::Percent)];
    (any::<bool>(), share(), share()).prop_map(|(rolling, max_unavailable, max_surge)| Bounds {
        rolling,
        max_unavailable,
        max_surge,
    })
}

/// A group that asks for whatever can be asked of one that stands.
fn any_desired() -> impl Strategy<Value = Desired> {
    (0usize..30, any_bounds(), any::<bool>()).prop_map(|(replicas, strategy, restart)| Desired {
        strategy,
        restarted_at: restart.then(|| "now".to_owned()),
        ..desired(replicas)
    })
}

/// What may exist or come to exist: machines, tasks that make some, and what is
/// not known to be absent.
fn live(observed: &Observed) -> usize {
    observed
        .members
        .iter()
        .filter(|member| member.vm.is_some() || member.flight.is_some() || member.birth != Birth::Absent)
        .count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn s3_never_more_than_wished_or_there_already(observed in any_observed(), desired in any_desired(), slots in 0usize..40) {
        let plan = planned(&desired, &observed, slots);
        let clones = plan.steps.iter().filter(|step| matches!(step, Step::Clone { .. })).count();
        let most = desired.replicas + desired.strategy.bounds(desired.replicas).1;
        prop_assert!(clones == 0 || live(&observed) + clones <= most, "{} + {clones} > {most}", live(&observed));
    }

    #[test]
    fn s5_only_the_written_down_are_removed(observed in any_observed(), desired in any_desired(), slots in 0usize..40) {
        let plan = planned(&desired, &observed, slots);
        let leaving: HashSet<&str> = observed.members.iter().filter(|member| member.leaving()).map(|member| member.uuid.as_str()).collect();
        for step in &plan.steps {
            if let Step::Stop { uuid, .. } | Step::Shutdown { uuid, stays: true, .. } = step {
                let chosen = observed.members.iter().any(|member| member.uuid == *uuid && member.changing());
                prop_assert!(chosen, "{uuid} is not written down as changing");
            }
            if let Step::Shutdown { uuid, stays: false, .. } | Step::PowerOff { uuid, .. } | Step::Destroy { uuid, .. } = step {
                prop_assert!(leaving.contains(uuid.as_str()), "{uuid} is not written down as leaving");
            }
        }
        // Nobody who exists is dropped from the record, and nobody comes back from leaving.
        for member in &observed.members {
            let entry = plan.record.iter().find(|entry| entry.uuid == member.uuid);
            if member.vm.is_some() || member.birth != Birth::Absent {
                prop_assert!(entry.is_some(), "{} is forgotten", member.name);
            }
            if member.leaving() && entry.is_some() {
                prop_assert_eq!(entry.map(|entry| entry.state), Some(MemberState::Leaving));
            }
        }
    }

    #[test]
    fn s5_no_more_leave_than_there_are_too_many(observed in any_observed(), desired in any_desired()) {
        let plan = planned(&desired, &observed, 40);
        let staying = observed.members.iter().filter(|member| !member.leaving()).count();
        let stay_now = plan.record.iter().filter(|entry| entry.state != MemberState::Leaving).count();
        // And those whose successors may be made now.
        let least = desired.replicas.saturating_sub(desired.strategy.bounds(desired.replicas).0);
        prop_assert!(stay_now >= staying.min(least), "{stay_now} of {staying} stay, {least} are wished");
    }

    #[test]
    fn steps_keep_to_the_slots_and_to_one_a_member(observed in any_observed(), mut desired in any_desired(), slots in 0usize..40, deleting: bool) {
        if deleting {
            (desired.replicas, desired.deleting) = (0, true);
        }
        let plan = planned(&desired, &observed, slots);
        let about: Vec<&str> = plan.steps.iter().filter_map(|step| step.task().map(|(uuid, _)| uuid)).collect();
        prop_assert!(about.len() <= slots);
        prop_assert_eq!(about.iter().collect::<BTreeSet<_>>().len(), about.len());
        for member in &observed.members {
            let busy = member.flight.is_some() || member.held_until.is_some();
            prop_assert!(!(busy && about.contains(&member.uuid.as_str())), "{} is busy or held", member.name);
        }
    }

    /// L1, L3, L6: whatever is there, a world that does what it is told reaches
    /// the wish within a bounded number of passes, and then there is nothing to do.
    #[test]
    fn l1_the_wish_is_reached_and_kept(observed in any_observed(), mut desired in any_desired(), slots in 1usize..10, deleting: bool) {
        if deleting {
            (desired.replicas, desired.deleting) = (0, true);
        }
        let mut world = observed;
        let mut fresh = 0;
        for pass in 0.. {
            prop_assert!(pass < 500, "no end: {world:?}");
            obey_time(&mut world);
            let demand = demand(&desired, &world, NOW);
            let decisions = answer(&world, &demand, slots, &mut fresh);
            let plan = plan(&desired, &world, &demand, &decisions, slots, NOW);
            let idle = plan.steps.iter().all(|step| matches!(step, Step::Finish)) && plan.record.iter().all(|entry| {
                world.members.iter().any(|member| {
                    let chosen = |state| matches!(state, MemberState::Leaving | MemberState::Changing).then_some(state);
                    member.uuid == entry.uuid && member.recorded.and_then(chosen) == chosen(entry.state)
                })
            }) && plan.record.len() == world.members.len();
            if idle {
                let ready = world.members.iter().filter(|member| member.vm.as_ref().is_some_and(VmSeen::on)).count();
                // Whoever is protected outlasts every scale-in.
                let protected = world.members.iter().filter(|member| desired.protects(member)).count();
                let most = if desired.deleting { 0 } else { desired.replicas.max(protected) };
                prop_assert_eq!(ready, most);
                prop_assert_eq!(world.members.len(), most);
                for member in &world.members {
                    let vm = member.vm.as_ref();
                    let left = !desired.strategy.rolling || desired.protects(member);
                    let is = vm.is_some_and(|vm| vm.made == desired.made() && vm.restarted == desired.restarted_at);
                    prop_assert!(left || is, "{member:?} is not as the spec says");
                }
                break;
            }
            obey(&desired, &mut world, &plan);
        }
    }
}

/// Everything in flight ends, what was held or waited for is due, and what was in
/// doubt is known.
fn obey_time(world: &mut Observed) {
    world.members.retain_mut(|member| {
        if member.flight.take().is_some() && member.vm.is_none() {
            member.vm = self::member(0, None, Some(PowerState::Off)).vm;
        }
        member.held_until = None;
        member.waits.ready = member.vm.as_ref().is_some_and(VmSeen::on);
        member.stopping_since = member.stopping_since.map(|_| LONG_AGO);
        member.birth = Birth::Absent;
        let was_there = !matches!(member.recorded, Some(MemberState::Planned | MemberState::Cloning));
        member.vm.is_some() || !was_there
    });
}

fn obey(desired: &Desired, world: &mut Observed, plan: &Plan) {
    let old = std::mem::take(&mut world.members);
    for entry in &plan.record {
        let mut now = old.iter().find(|member| member.uuid == entry.uuid).cloned().unwrap_or_else(|| Seen {
            uuid: entry.uuid.clone(),
            name: entry.name.clone(),
            ..member(0, None, None)
        });
        now.recorded = Some(entry.state);
        now.stopping_since = entry.stopping_since.as_ref().map(|since| since.0);
        world.members.push(now);
    }
    for step in &plan.steps {
        let Some((uuid, _)) = step.task() else { continue };
        let Some(now) = world.members.iter_mut().find(|member| member.uuid == uuid) else { continue };
        match step {
            Step::Clone { .. } => {
                now.vm = member(0, None, Some(PowerState::Off)).vm;
                let vm = now.vm.as_mut().unwrap();
                (vm.made, vm.restarted) = (desired.made(), desired.restarted_at.clone());
            }
            Step::Reconfigure { change, .. } => {
                let vm = now.vm.as_mut().unwrap();
                let Made { cpus, memory_mib, .. } = change.made;
                let grows = vm.cpu_hot_add && cpus > vm.cpus;
                assert!(!vm.on() || cpus == vm.cpus || grows, "{vm:?} does not take {change:?} while it runs");
                (vm.cpus, vm.memory_mib, vm.made) = (cpus, memory_mib, change.made.clone());
                vm.restarted = change.restarted.clone().or(vm.restarted.take());
            }
            Step::PowerOn { .. } => now.vm.as_mut().unwrap().power = PowerState::On,
            Step::Shutdown { .. } | Step::Stop { .. } | Step::PowerOff { .. } => {
                now.vm.as_mut().unwrap().power = PowerState::Off;
            }
            Step::Destroy { .. } | Step::Release { .. } => now.vm = None,
            Step::Annotate { .. } | Step::Tag { .. } | Step::CreateFolder { .. } | Step::Finish => {}
        }
    }
}

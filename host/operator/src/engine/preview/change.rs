//! The part of a rehearsal that is about members that stand: who is changed while it
//! runs, who is powered off for it, who is replaced, and in which order.
//!
//! Each change is taken to go well at once. Must not write anything to anybody.

use std::sync::Arc;

use vmgroup_api::MemberState;
use vmgroup_policy::Answer;
use vmgroup_vsphere::PowerState;

use super::{Rehearsal, beside_the_point, imagined, trouble};
use crate::clock;
use crate::decide::{Question, victims};
use crate::engine::ask::{question_of_turn, running};
use crate::observe::VmSeen;
use crate::plan::rollout::{self, Need, Turn, Why};
use crate::preview::{Changed, How, Said, Trouble};
use crate::revision::Made;
use crate::validate::Desired;

/// How many turns are rehearsed: with each the policy is asked about all who are left.
pub(super) const TURNS: usize = 50;

/// What becomes of a machine that is powered off and changed, or takes what it can.
pub(super) fn take_on(vm: &mut VmSeen, desired: &Desired) {
    vm.made = Made { revision: vm.made.revision.clone(), ..desired.made() };
    (vm.cpus, vm.memory_mib) = (desired.cpus, desired.memory_mib);
    vm.restarted.clone_from(&desired.restarted_at);
    vm.power = PowerState::On;
}

impl Rehearsal<'_> {
    /// Those who were being made are there, and serve. True if there were any.
    pub(super) fn come_up(&mut self) -> bool {
        let (made, data) = (self.desired.made(), self.desired.data.clone());
        let (restarted, now) = (self.desired.restarted_at.clone(), clock::seconds(self.engine.clock.now()));
        let mut any = false;
        for member in self.seen.members.iter_mut().filter(|member| member.being_made()) {
            let vm = imagined(member, made.clone(), data.clone(), now);
            member.vm = Some(VmSeen { restarted: restarted.clone(), ..vm });
            member.recorded = Some(MemberState::Ready);
            member.waits.ready = true;
            any = true;
        }
        any
    }

    /// What needs no turn: who takes the new size while it runs, and who is off and
    /// powered on. True if there was anybody.
    pub(super) fn change_at_once(&mut self) -> bool {
        let mut any = false;
        for member in &mut self.seen.members {
            let Some(vm) = &member.vm else { continue };
            let (on, due) = (vm.on(), rollout::due(&self.desired, member));
            // Who is to go is not powered on for that.
            if (on && due != Need::Resize) || matches!(due, Need::Successor(_)) {
                continue;
            }
            let how = if on { How::InPlace } else { How::BeforeItStarts };
            let why = match rollout::need(&self.desired, vm) {
                Need::Resize => Some(Why::Size),
                Need::Cycle(why) => Some(why),
                Need::Nothing | Need::Successor(_) => None,
            };
            self.preview.changed.extend(why.map(|why| Changed {
                name: member.name.clone(),
                how,
                why: why.as_str().to_owned(),
                turn: None,
                reason: None,
            }));
            if let Some(vm) = &mut member.vm {
                take_on(vm, &self.desired);
            }
            member.waits.ready = true;
            any = true;
        }
        any
    }

    /// Has the policy say whose turn it is, and takes it as over.
    pub(super) async fn take_turn(&mut self, turn: &Turn) -> Result<(), Trouble> {
        self.turns += 1;
        if turn.successors {
            // Nobody goes whose successor cannot be made.
            self.template().await?;
        }
        let usage =
            self.connection.link.vcenter().usage(&running(&self.seen)).await.map_err(|error| trouble(&error))?;
        let (candidates, purpose) = question_of_turn(turn, &self.seen);
        let question = Question { seen: &candidates, ..self.question(&usage, None, purpose) };
        let (asked, uuids) = question.for_victims(turn.count);
        let Answer::Scaling(chosen) = self.ask(&Arc::new(asked)).await? else { return Err(beside_the_point()) };
        let mut progress = false;
        for victim in victims(&uuids, chosen) {
            let Some(at) = self.seen.members.iter().position(|member| member.uuid == victim.uuid) else { continue };
            let Some((state, why)) = rollout::taken_down(&self.desired, &self.seen.members[at]) else { continue };
            let member = &mut self.seen.members[at];
            let name = member.name.clone();
            let how = if state == MemberState::Leaving {
                self.part_with(at);
                How::Replacement
            } else {
                member.vm.iter_mut().for_each(|vm| take_on(vm, &self.desired));
                How::PowerCycle
            };
            progress = true;
            let (why, reason) = (why.as_str().to_owned(), Some(victim.reason));
            self.preview.changed.push(Changed { name, how, why, turn: Some(self.turns), reason });
        }
        if progress { Ok(()) } else { Err(beside_the_point()) }
    }

    /// Names who would not be as the spec says in the end, and why; and counts those
    /// whose turn was not rehearsed.
    pub(super) fn tell_who_is_left(&mut self) {
        for member in &self.seen.members {
            let Some(vm) = &member.vm else { continue };
            if rollout::due(&self.desired, member) != Need::Nothing {
                self.preview.further += 1;
                continue;
            }
            let why = match rollout::need(&self.desired, vm) {
                Need::Nothing => continue,
                Need::Resize => Why::Size,
                Need::Cycle(why) | Need::Successor(why) => why,
            };
            let rolls = self.desired.strategy.rolling;
            let left = if rolls { "it is protected" } else { "updateStrategy.type is OnDelete" };
            let reason = format!("{}; {left}", why.as_str());
            self.preview.left.push(Said { name: member.name.clone(), reason });
        }
    }
}

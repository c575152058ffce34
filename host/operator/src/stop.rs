//! How a running machine is stopped: its guest is asked to shut down, and when
//! its time is up the plug is pulled.
//!
//! Pure. Asking has no task: that a guest has obeyed shows in the power state
//! alone. Since when it is asked stands in the record, so the time is up for
//! whoever leads by then. Must not know why the machine is stopped.

use std::time::Duration;

use jiff::Timestamp;
use vmgroup_vsphere::PowerState;

use crate::observe::{Seen, VmSeen};

/// What is to be done next to stop a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It is stopped.
    Off,
    /// Ask its guest, after writing down since when.
    Ask,
    /// It was asked; there is nothing to do before this time.
    Wait(Timestamp),
    /// Power it off the hard way.
    Force,
}

/// What is to be done next to stop a member's machine, whose guest has `grace` to
/// shut down.
pub fn stop(member: &Seen, vm: &VmSeen, grace: Duration, now: Timestamp) -> Stop {
    match vm.power {
        PowerState::Off => return Stop::Off,
        PowerState::On if !grace.is_zero() => {}
        // A guest that is suspended hears nothing.
        _ => return Stop::Force,
    }
    match deadline(member, grace) {
        None => Stop::Ask,
        Some(deadline) if deadline <= now => Stop::Force,
        // Asked by who led before, or not any more: asking twice does no harm.
        Some(_) if !member.asked_to_stop => Stop::Ask,
        Some(deadline) => Stop::Wait(deadline),
    }
}

/// When the time of a member's guest is up; nothing if it has not begun.
pub fn deadline(member: &Seen, grace: Duration) -> Option<Timestamp> {
    member.stopping_since.map(|since| since.saturating_add(grace).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vmgroup_api::MemberState;
    use vmgroup_vsphere::VmRef;

    use super::*;
    use crate::observe::Birth;

    const GRACE: Duration = Duration::from_secs(60);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn next(power: PowerState, since: Option<i64>, asked: bool, grace: Duration, now: i64) -> Stop {
        let vm = VmSeen {
            id: VmRef::new("vm-1"),
            power,
            host: None,
            datastore: None,
            created_at: None,
            made: crate::revision::Made::default(),
            data: None,
            restarted: None,
            cpus: 1,
            memory_mib: 1024,
            cpu_hot_add: false,
            memory_hot_add: false,
            guest: None,
            stranded: None,
            attributes: BTreeMap::new(),
            fields: None,
            tags: None,
            outdated: false,
        };
        let member = Seen {
            uuid: "u".into(),
            name: "n".into(),
            recorded: Some(MemberState::Leaving),
            reason: None,
            waits: crate::readiness::Waits::default(),
            revision: None,
            vm: Some(vm.clone()),
            bound_for: None,
            flight: None,
            birth: Birth::Absent,
            held_until: None,
            stopping_since: since.map(at),
            asked_to_stop: asked,
        };
        stop(&member, &vm, grace, at(now))
    }

    #[test]
    fn a_guest_is_asked_once_and_has_its_time_from_then_on() {
        let on = |since, asked, now| next(PowerState::On, since, asked, GRACE, now);
        assert_eq!(on(None, false, 1000), Stop::Ask);
        assert_eq!(on(Some(1000), true, 1059), Stop::Wait(at(1060)));
        assert_eq!(on(Some(1000), true, 1060), Stop::Force);
        // Another process goes on where the one before was, and asks for itself.
        assert_eq!(on(Some(1000), false, 1030), Stop::Ask);
        assert_eq!(on(Some(1000), false, 5000), Stop::Force);
    }

    #[test]
    fn who_cannot_hear_or_is_given_no_time_is_not_asked() {
        assert_eq!(next(PowerState::Off, Some(1000), true, GRACE, 1001), Stop::Off);
        assert_eq!(next(PowerState::Suspended, None, false, GRACE, 1000), Stop::Force);
        assert_eq!(next(PowerState::On, None, false, Duration::ZERO, 1000), Stop::Force);
        assert_eq!(next(PowerState::On, Some(1000), true, Duration::ZERO, 1000), Stop::Force);
    }
}

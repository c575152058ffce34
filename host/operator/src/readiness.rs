//! When a member that is powered on counts as ready: by what its guest says, and
//! after how long.
//!
//! Pure. What the guest says comes with the inventory, and only where a group has
//! asked for it; until it is known, a member stays what the record says of it.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use vmgroup_api::{MemberState, MemberStatus, ReadinessType};
use vmgroup_vsphere::Guest;

/// What is asked of a member, parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What its guest has to say.
    pub type_: ReadinessType,
    /// How long it may take to.
    pub timeout: Duration,
    /// For how long it has to have said it.
    pub min_ready: Duration,
}

/// How long a guest may take if the group does not say, in seconds.
pub const TIMEOUT: i32 = 300;

impl Terms {
    /// Whether the guest is asked at all.
    pub fn asks_guests(&self) -> bool {
        self.type_ != ReadinessType::PoweredOn
    }

    /// What a guest has to have said; nothing while nothing is known of it.
    fn signal(&self, guest: Option<&Guest>) -> Option<bool> {
        Some(match self.type_ {
            ReadinessType::PoweredOn => true,
            ReadinessType::ToolsRunning => guest?.tools_running,
            ReadinessType::Address => guest?.address.is_some(),
            ReadinessType::Heartbeat => guest?.heartbeat_green,
        })
    }

    /// What is missing of a member that is not ready, after its name.
    pub fn missing(&self) -> &'static str {
        match self.type_ {
            ReadinessType::PoweredOn => "is not powered on",
            ReadinessType::ToolsRunning => "VMware Tools do not run in its guest",
            ReadinessType::Address => "its guest has no address",
            ReadinessType::Heartbeat => "its guest's heartbeat is not green",
        }
    }
}

/// How far a member that is on has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Waits {
    /// It counts as ready.
    pub ready: bool,
    /// Since when it is waited for.
    pub waiting_since: Option<Timestamp>,
    /// Since when its guest says what it has to, while that is not long enough.
    pub ready_since: Option<Timestamp>,
}

impl Waits {
    /// By what the record says of it (`recorded`; whether it was `Ready` there, or
    /// need not be named there) and by its guest.
    pub fn of(terms: &Terms, recorded: Self, guest: Option<&Guest>, now: Timestamp) -> Self {
        let since = |since: Option<Timestamp>| Some(since.unwrap_or(now));
        match terms.signal(guest) {
            // Nothing is known yet: who was ready is.
            None if recorded.ready => Self { ready: true, ..Self::default() },
            None | Some(false) => {
                Self { ready: false, waiting_since: since(recorded.waiting_since), ready_since: None }
            }
            Some(true) if recorded.ready || terms.min_ready.is_zero() => Self { ready: true, ..Self::default() },
            Some(true) => {
                let ready_since = recorded.ready_since.unwrap_or(now);
                if ready_since.saturating_add(terms.min_ready).is_ok_and(|until| until <= now) {
                    Self { ready: true, ..Self::default() }
                } else {
                    Self { ready: false, waiting_since: None, ready_since: Some(ready_since) }
                }
            }
        }
    }

    /// What the record says of a member.
    pub fn recorded(entry: &MemberStatus) -> Self {
        Self {
            ready: entry.state == MemberState::Ready,
            waiting_since: entry.waiting_since.as_ref().map(|since| since.0),
            ready_since: entry.ready_since.as_ref().map(|since| since.0),
        }
    }

    /// When it is to be looked at again, if nothing happens.
    pub fn until(&self, terms: &Terms) -> Option<Timestamp> {
        let after = |since: Timestamp, time: Duration| since.saturating_add(time).ok();
        match (self.ready_since, self.waiting_since) {
            (Some(since), _) => after(since, terms.min_ready),
            (None, Some(since)) => after(since, terms.timeout),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    const TERMS: Terms =
        Terms { type_: ReadinessType::Address, timeout: Duration::from_secs(60), min_ready: Duration::from_secs(10) };

    fn guest(address: Option<&str>) -> Guest {
        Guest { address: address.map(str::to_owned), ..Guest::default() }
    }

    #[test]
    fn a_member_is_waited_for_and_then_has_to_stay_ready() {
        let none = guest(None);
        let first = Waits::of(&TERMS, Waits::default(), Some(&none), at(100));
        assert_eq!((first.ready, first.until(&TERMS)), (false, Some(at(160))));
        let still = Waits::of(&TERMS, first, Some(&none), at(150));
        assert_eq!(still, first, "its time runs from when it was seen first");
        let some = guest(Some("10.0.0.1"));
        let ready = Waits::of(&TERMS, still, Some(&some), at(155));
        assert_eq!((ready.ready, ready.until(&TERMS)), (false, Some(at(165))));
        assert!(!Waits::of(&TERMS, ready, Some(&some), at(164)).ready);
        let counts = Waits::of(&TERMS, ready, Some(&some), at(165));
        assert_eq!(counts, Waits { ready: true, ..Waits::default() });
        // A break begins it all anew.
        assert_eq!(Waits::of(&TERMS, ready, Some(&none), at(160)).until(&TERMS), Some(at(220)));
    }

    #[test]
    fn who_was_ready_is_until_his_guest_says_otherwise() {
        let ready = Waits { ready: true, ..Waits::default() };
        assert_eq!(Waits::of(&TERMS, ready, None, at(100)), ready);
        assert_eq!(Waits::of(&TERMS, ready, Some(&guest(Some("10.0.0.1"))), at(100)), ready);
        assert!(!Waits::of(&TERMS, ready, Some(&guest(None)), at(100)).ready);
        assert!(Waits::of(&Terms::default(), Waits::default(), None, at(100)).ready, "powered on is enough");
    }

    #[test]
    fn each_type_asks_for_its_own() {
        let asks = |type_, guest: &Guest| {
            Waits::of(&Terms { type_, ..Terms::default() }, Waits::default(), Some(guest), at(0)).ready
        };
        let tools = Guest { tools_running: true, ..Guest::default() };
        let green = Guest { heartbeat_green: true, ..Guest::default() };
        for (guest, ready) in [
            (&tools, [true, false, false]),
            (&guest(Some("::1")), [false, true, false]),
            (&green, [false, false, true]),
        ] {
            let types = [ReadinessType::ToolsRunning, ReadinessType::Address, ReadinessType::Heartbeat];
            assert_eq!(types.map(|type_| asks(type_, guest)), ready, "{guest:?}");
        }
    }
}

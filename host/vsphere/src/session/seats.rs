//! How many sessions an account of this process may have at vCenter: a fixed
//! number, those included of which nobody can say whether they exist. Whatever
//! goes wrong, vCenter is never filled up.
//!
//! Knows sessions by their number only, and no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The most sessions that one account of one process has at vCenter at any
/// time, whatever happens: one in use, one that takes over from it when the
/// login is rotated, and two whose end or beginning is in doubt because an
/// answer was lost.
pub const MAX_SESSIONS: usize = 4;

/// When vCenter has ended a session that nobody uses: its default is 30
/// minutes. Where an administrator made that longer, a session in doubt may
/// outlive its seat.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_mins(31);

/// How soon to ask again when every seat is taken by a session on its way in or out.
const SOON: Duration = Duration::from_secs(1);

/// How many sessions there are at vCenter, as far as we know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionCount {
    /// In use, being opened or being closed.
    pub open: usize,
    /// Maybe still there: the answer to a login or a logout was lost.
    pub in_doubt: usize,
}

impl SessionCount {
    /// The most that there can be.
    pub fn most(self) -> usize {
        self.open + self.in_doubt
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seat {
    Open,
    /// Gone at that time at the latest.
    InDoubt(Instant),
}

/// The seats of one account, by the generation of the session that has them.
#[derive(Debug, Default)]
pub(super) struct Seats(BTreeMap<u64, Seat>);

impl Seats {
    /// Takes a seat; if there is none, how long to wait for one.
    pub(super) fn take(&mut self, generation: u64, now: Instant) -> Result<(), Duration> {
        self.0.retain(|_, seat| !matches!(seat, Seat::InDoubt(until) if *until <= now));
        if self.0.len() < MAX_SESSIONS {
            self.0.insert(generation, Seat::Open);
            return Ok(());
        }
        let free = self.0.values().map(|seat| match seat {
            Seat::InDoubt(until) => until.saturating_duration_since(now),
            Seat::Open => SOON,
        });
        Err(free.min().unwrap_or(SOON))
    }

    /// The session surely is not at vCenter.
    pub(super) fn free(&mut self, generation: u64) {
        self.0.remove(&generation);
    }

    /// Nobody can say whether the session is at vCenter.
    pub(super) fn doubt(&mut self, generation: u64, now: Instant) {
        if let Some(seat) = self.0.get_mut(&generation) {
            *seat = Seat::InDoubt(now + FORGOTTEN_AFTER);
        }
    }

    /// The sessions in doubt.
    pub(super) fn in_doubt(&self) -> Vec<u64> {
        self.0.iter().filter(|(_, seat)| matches!(seat, Seat::InDoubt(_))).map(|(generation, _)| *generation).collect()
    }

    pub(super) fn count(&self, now: Instant) -> SessionCount {
        let mut count = SessionCount::default();
        for seat in self.0.values() {
            match seat {
                Seat::Open => count.open += 1,
                Seat::InDoubt(until) if *until > now => count.in_doubt += 1,
                Seat::InDoubt(_) => {}
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l10_there_are_never_more_than_there_are_seats() {
        let (mut seats, start) = (Seats::default(), Instant::now());
        for generation in 1..=4 {
            seats.take(generation, start).unwrap();
            seats.doubt(generation, start + Duration::from_mins(generation));
        }
        let now = start + Duration::from_mins(5);
        assert_eq!(seats.count(now), SessionCount { open: 0, in_doubt: 4 });
        assert_eq!(seats.take(5, now), Err(Duration::from_mins(27)));
        // vCenter has ended the first of them by now.
        seats.take(5, start + Duration::from_mins(1) + FORGOTTEN_AFTER).unwrap();
        assert_eq!(seats.in_doubt(), [2, 3, 4]);
        seats.free(3);
        seats.take(6, now).unwrap();
        assert_eq!(seats.take(7, now).unwrap_err(), SOON);
    }
}

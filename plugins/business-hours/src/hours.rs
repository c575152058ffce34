//! Times of day, dates and offsets, as a configuration writes them. Knows nothing of
//! who leaves.

use std::fmt;

use serde::Deserialize;
use vmgroup_policy_sdk::ConfigSchema;
use vmgroup_policy_sdk::schema::Part;
use vmgroup_policy_sdk::time::Moment;

/// A time of day, to the minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Clock {
    minutes: u64,
}

impl Clock {
    /// A full hour.
    pub const fn hour(hour: u64) -> Self {
        Self { minutes: hour * 60 }
    }

    /// Since midnight.
    pub const fn seconds(self) -> u64 {
        self.minutes * 60
    }
}

/// Hours and minutes of `08:30`.
fn hours_and_minutes(text: &str) -> Option<(u64, u64)> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |digits: &str| {
        let right = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        right.then(|| digits.parse::<u64>().ok()).flatten()
    };
    Some((two(hours)?, two(minutes).filter(|minutes| *minutes < 60)?))
}

impl TryFrom<String> for Clock {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let minutes = hours_and_minutes(&text).map(|(hours, minutes)| hours * 60 + minutes);
        let minutes = minutes.filter(|minutes| *minutes <= 24 * 60);
        let clock = minutes.map(|minutes| Self { minutes });
        clock.ok_or_else(|| format!("`{text}` is no time of day, expected `08:00`, from `00:00` to `24:00`"))
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.minutes / 60, self.minutes % 60)
    }
}

/// A day, `2026-12-25`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Date(String);

impl Date {
    /// Whether it is this moment's.
    pub fn is(&self, moment: Moment) -> bool {
        moment.date() == self.0
    }
}

impl TryFrom<String> for Date {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let figures: Option<Vec<u64>> = text.split('-').map(|figure| figure.parse().ok()).collect();
        let is_date = |figures: &[u64]| {
            let [year, month, day] = *figures else { return false };
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let days = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            text.len() == 10 && (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=days).contains(&day)
        };
        if figures.is_some_and(|figures| is_date(&figures)) {
            Ok(Self(text))
        } else {
            Err(format!("`{text}` is no date, expected one like `2026-12-25`"))
        }
    }
}

/// How far a site's clocks are ahead of UTC, `+01:00`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Offset {
    seconds: u64,
    behind: bool,
}

impl Offset {
    /// Of so many minutes; negative to the west.
    pub const fn of(minutes: i32) -> Self {
        Self { seconds: minutes.unsigned_abs() as u64 * 60, behind: minutes < 0 }
    }

    /// What the site's clocks show at a time in UTC, both in seconds since 1970.
    pub const fn local(self, utc: u64) -> u64 {
        if self.behind { utc.saturating_sub(self.seconds) } else { utc.saturating_add(self.seconds) }
    }

    /// The reverse of [`local`](Self::local).
    pub const fn utc(self, local: u64) -> u64 {
        Self { behind: !self.behind, ..self }.local(local)
    }
}

impl TryFrom<String> for Offset {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let read = || {
            let behind = text.starts_with('-');
            let (hours, minutes) = hours_and_minutes(text.strip_prefix(['+', '-'])?)?;
            let seconds = hours * 3_600 + minutes * 60;
            (hours <= 14).then_some(Self { seconds, behind })
        };
        read().ok_or_else(|| format!("`{text}` is no offset, expected `+01:00` or `-05:00`"))
    }
}

macro_rules! written {
    ($($of:ty => $pattern:literal),+) => { $(
        impl ConfigSchema for $of {
            const SCHEMA: &'static [Part] =
                &[Part::Text(concat!(r#"{"type":"string","minLength":5,"description":"Such as `"#, $pattern, r#"`."}"#))];
        }
    )+ };
}

written!(Clock => "08:00", Date => "2026-12-25", Offset => "+01:00");

//! Times as people write them. A policy has no clock; it only takes apart what it
//! was told.

use std::fmt;

use serde::Deserialize;

use crate::ConfigSchema;

/// A day of the week, in a configuration by its first three letters: `mon`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, ConfigSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "everybody knows them")]
pub enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Weekday {
    /// All, from Monday on.
    pub const ALL: [Self; 7] = [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];
}

/// A moment as a calendar and a clock show it. `Display` is RFC 3339 without a
/// zone: `2026-11-22T10:00:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Such as 2026.
    pub year: u64,
    /// 1 to 12.
    pub month: u64,
    /// 1 to 31.
    pub day: u64,
    /// Since midnight.
    pub second_of_day: u64,
    /// Of this day.
    pub weekday: Weekday,
}

impl Moment {
    /// Of seconds since 1970 in UTC. For another zone, add its offset before.
    pub fn of(seconds: u64) -> Self {
        let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
        // Howard Hinnant's civil_from_days, for days since 1970 that are not
        // negative: eras of 400 years that begin on the first of March.
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let (month, next_year) = match month_from_march {
            0..=9 => (month_from_march + 3, 0),
            _ => (month_from_march - 9, 1),
        };
        // 1970 began on a Thursday.
        let weekday = Weekday::ALL[usize::try_from((days + 3) % 7).unwrap_or(0)];
        Self {
            year: year_of_era + era * 400 + next_year,
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            second_of_day,
            weekday,
        }
    }

    /// `2026-11-22`.
    pub fn date(&self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, second_of_day, .. } = self;
        let (hour, minute, second) = (second_of_day / 3_600, second_of_day % 3_600 / 60, second_of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

/// Seconds since 1970 as `2026-11-22T10:00:00Z`.
pub fn rfc3339(seconds: u64) -> String {
    format!("{}Z", Moment::of(seconds))
}

#[cfg(test)]
mod tests {
    use super::{Moment, Weekday, rfc3339};

    #[test]
    fn days_of_the_week() {
        assert_eq!(Moment::of(0).weekday, Weekday::Thu);
        let sunday = Moment::of(1_795_341_600);
        assert_eq!((sunday.weekday, sunday.second_of_day), (Weekday::Sun, 10 * 3_600));
        assert_eq!(sunday.date(), "2026-11-22");
        assert_eq!(Moment::of(1_795_341_600 + 86_400).weekday, Weekday::Mon);
    }

    #[test]
    fn known_days() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_341_600), "2026-11-22T10:00:00Z");
        assert_eq!(rfc3339(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}

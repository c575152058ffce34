//! Scaling policy `business-hours`: members only leave at certain hours, the newest
//! first. A group that has to shrink at another time waits, and says until when.
//!
//! ```yaml
//! scaling:
//!   plugin: business-hours.wasm
//!   config:
//!     leave: outside             # outside (default): when nobody works | inside: when somebody looks on
//!     from: "08:00"              # the default
//!     to: "18:00"                # the default; 24:00 is midnight
//!     days: [mon, tue, wed, thu, fri]   # the default
//!     holidays: ["2026-12-25"]   # days on which nobody works; default none
//!     utcOffset: "+01:00"        # of the site's clocks; default: the operator's `--time-zone`
//!     protect: ["pet=true"]      # members with such an attribute never leave
//!   onFailure: hold              # `builtin` would let them go at once
//! ```
//!
//! The time is that of the request, so a recorded decision replays at any hour.
//! The operator's time zone knows daylight saving time; `utcOffset` is fixed, and for
//! groups elsewhere. Where neither is given, it is UTC.

mod hours;

use serde::Deserialize;
use vmgroup_policy_sdk::prelude::*;
use vmgroup_policy_sdk::scaling::{Request, Victim};
use vmgroup_policy_sdk::time::{Moment, Weekday, rfc3339};

pub use hours::{Clock, Date, Offset};

const DAY: u64 = 86_400;

/// The configuration; see the crate.
#[derive(Clone, Debug, Deserialize, ConfigSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct BusinessHours {
    /// When members leave.
    pub leave: When,
    /// When work begins.
    pub from: Clock,
    /// When it ends.
    pub to: Clock,
    /// The days on which there is work.
    pub days: Vec<Weekday>,
    /// Those on which there is none all the same.
    pub holidays: Vec<Date>,
    /// Of the site's clocks, if not the operator's.
    pub utc_offset: Option<Offset>,
    /// Who never leaves.
    pub protect: Protect,
}

/// When members leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ConfigSchema)]
#[serde(rename_all = "camelCase")]
pub enum When {
    /// When nobody works.
    #[default]
    Outside,
    /// When somebody works, who can look on.
    Inside,
}

impl Default for BusinessHours {
    fn default() -> Self {
        Self {
            leave: When::Outside,
            from: Clock::hour(8),
            to: Clock::hour(18),
            days: Weekday::ALL[..5].to_vec(),
            holidays: Vec::new(),
            utc_offset: None,
            protect: Protect::default(),
        }
    }
}

impl Scaling for BusinessHours {
    const NAME: &'static str = "business-hours";
    const SUMMARY: &'static str = "Members leave at certain hours only, the newest first.";
    const ORDER_FREE: bool = true;

    fn validate(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        problems.unless(
            self.from < self.to,
            "/to",
            format!("{} is not after `from`, {}: a night shift is `leave: inside` of the day", self.to, self.from),
        );
        problems.unless(!self.days.is_empty(), "/days", "expected at least one of mon, tue, wed, thu, fri, sat, sun");
        problems.into()
    }

    fn choose(&self, request: &Request) -> Result<Vec<Victim>, Refusal> {
        let now = request.context.now;
        let offset = self.utc_offset.unwrap_or_else(|| Offset::of(request.context.utc_offset_minutes.unwrap_or(0)));
        if !self.may_leave(offset.local(now)) {
            return Err(Refusal::NotNow(self.wait(now, offset, request.count)));
        }
        let mut candidates = request.candidates(&self.protect)?;
        candidates.sort_by(|a, b| a.newest_first(b));
        let when = match self.leave {
            When::Outside => "outside",
            When::Inside => "inside",
        };
        Ok(request.take(candidates, |c| format!("newest, {when} business hours: made {}", c.made())))
    }
}

impl BusinessHours {
    /// `local` in seconds since 1970, by the site's clocks.
    fn may_leave(&self, local: u64) -> bool {
        self.is_open(Moment::of(local)) == (self.leave == When::Inside)
    }

    fn is_open(&self, local: Moment) -> bool {
        self.days.contains(&local.weekday)
            && self.from.seconds() <= local.second_of_day
            && local.second_of_day < self.to.seconds()
            && !self.holidays.iter().any(|holiday| holiday.is(local))
    }

    fn wait(&self, now: u64, offset: Offset, count: u32) -> String {
        let what = match self.leave {
            When::Outside => "business hours",
            When::Inside => "not business hours",
        };
        let next = self.next_change(offset.local(now)).map(|local| rfc3339(offset.utc(local)));
        let until = next.map_or_else(String::new, |next| format!(", until {next}"));
        format!("{count} have to leave, but it is {what} ({}){until}", Moment::of(offset.local(now)))
    }

    /// When members may leave next, if that is within a year: hours only begin and
    /// end, and days only change, at these times of a day.
    fn next_change(&self, local: u64) -> Option<u64> {
        let midnight = local / DAY * DAY;
        let edges = [0, self.from.seconds(), self.to.seconds()];
        let times = (0..366).flat_map(|day| edges.map(|edge| midnight + day * DAY + edge));
        times.filter(|then| *then > local && self.may_leave(*then)).min()
    }
}

vmgroup_policy_sdk::export!(BusinessHours: scaling);

#[cfg(test)]
mod tests {
    use super::*;
    use vmgroup_policy_sdk::parse_config;
    use vmgroup_policy_sdk::testing::{NOW, assert_legal_victims, group, names_of};

    const HOUR: u64 = 3_600;
    /// `NOW` is a Sunday, 10:00 UTC.
    const MONDAY: u64 = NOW + DAY;

    fn ask(config: &str, now: u64) -> Result<Vec<String>, Refusal> {
        let policy: BusinessHours = parse_config(config).unwrap();
        assert_eq!(policy.validate(), []);
        ask_at(config, now, None)
    }

    fn ask_at(config: &str, now: u64, minutes: Option<i32>) -> Result<Vec<String>, Refusal> {
        let policy: BusinessHours = parse_config(config).unwrap();
        let question = group("web").members(3);
        let request = question.context(|c| (c.now, c.utc_offset_minutes) = (now, minutes)).remove(2);
        let victims = policy.choose(&request)?;
        assert_legal_victims(&request, &victims);
        Ok(names_of(&request, &victims).into_iter().map(str::to_owned).collect())
    }

    fn waits(config: &str, now: u64) -> String {
        match ask(config, now) {
            Err(Refusal::NotNow(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nobody_leaves_while_others_work() {
        assert_eq!(ask("{}", NOW).unwrap(), ["web-3", "web-2"], "on a Sunday");
        assert_eq!(
            waits("{}", MONDAY),
            "2 have to leave, but it is business hours (2026-11-23T10:00:00), until 2026-11-23T18:00:00Z"
        );
        assert!(ask("{}", MONDAY + 8 * HOUR).is_ok(), "at 18:00");
        assert!(ask("{}", MONDAY - 2 * HOUR - 1).is_ok(), "before 8:00");
        waits("{}", MONDAY - 2 * HOUR);
    }

    #[test]
    fn or_only_then() {
        let inside = r#"{"leave": "inside"}"#;
        assert!(ask(inside, MONDAY).is_ok());
        assert!(waits(inside, NOW).ends_with("until 2026-11-23T08:00:00Z"));
        assert!(waits(inside, MONDAY + 8 * HOUR).ends_with("until 2026-11-24T08:00:00Z"));
    }

    #[test]
    fn the_sites_clocks_count() {
        // 18:30 in Berlin in winter is 17:30 UTC, and 13:30 in New York's.
        let evening = MONDAY + 7 * HOUR + 1_800;
        waits("{}", evening);
        assert!(ask(r#"{"utcOffset": "+01:00"}"#, evening).is_ok());
        assert!(waits(r#"{"utcOffset": "-05:00"}"#, evening).ends_with("until 2026-11-23T23:00:00Z"));
    }

    #[test]
    fn they_are_the_operators_unless_the_configuration_says_otherwise() {
        let evening = MONDAY + 7 * HOUR + 1_800;
        assert!(ask_at("{}", evening, Some(60)).is_ok());
        assert!(ask_at("{}", evening, Some(-300)).is_err());
        assert!(ask_at(r#"{"utcOffset": "+00:00"}"#, evening, Some(60)).is_err());
    }

    #[test]
    fn holidays_are_free() {
        assert!(ask(r#"{"holidays": ["2026-11-23"]}"#, MONDAY).is_ok());
        let inside = r#"{"leave": "inside", "holidays": ["2026-11-23", "2026-11-24"]}"#;
        assert!(waits(inside, MONDAY).ends_with("until 2026-11-25T08:00:00Z"));
    }

    #[test]
    fn around_the_clock_there_is_no_until() {
        let config = r#"{"from": "00:00", "to": "24:00", "days": ["mon","tue","wed","thu","fri","sat","sun"]}"#;
        assert!(waits(config, NOW).ends_with("(2026-11-22T10:00:00)"));
    }

    #[test]
    fn mistakes_in_the_configuration() {
        let policy: BusinessHours = parse_config(r#"{"from": "18:00", "to": "08:00", "days": []}"#).unwrap();
        let paths: Vec<String> = policy.validate().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["/to", "/days"]);
        for (config, path) in [
            (r#"{"from": "8"}"#, "/from"),
            (r#"{"from": "24:01"}"#, "/from"),
            (r#"{"holidays": ["25.12."]}"#, "/holidays/0"),
            (r#"{"holidays": ["2026-02-30"]}"#, "/holidays/0"),
            (r#"{"utcOffset": "CET"}"#, "/utcOffset"),
            (r#"{"days": ["monday"]}"#, "/days/0"),
        ] {
            assert_eq!(parse_config::<BusinessHours>(config).unwrap_err()[0].path, path, "{config}");
        }
    }
}

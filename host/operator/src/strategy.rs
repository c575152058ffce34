//! How many members may be out of service for a change, and how many there may be
//! besides: `spec.updateStrategy`, parsed.
//!
//! Pure.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use vmgroup_api::{UpdateStrategy, UpdateType};

/// A number of members: counted, or a part of those that are wished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// So many.
    Count(usize),
    /// So many of a hundred.
    Percent(usize),
}

impl Share {
    /// Nothing if it is neither a number nor a percentage up to 100.
    fn parse(value: &IntOrString) -> Option<Self> {
        match value {
            IntOrString::Int(count) => usize::try_from(*count).ok().map(Self::Count),
            IntOrString::String(text) => {
                let percent = text.strip_suffix('%')?.parse().ok()?;
                (percent <= 100).then_some(Self::Percent(percent))
            }
        }
    }

    fn is_none(self) -> bool {
        matches!(self, Self::Count(0) | Self::Percent(0))
    }
}

/// How changes reach the members that stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strategy {
    /// By themselves; else nobody is taken down for a change of the spec.
    pub rolling: bool,
    /// At most so many are out of service at a time.
    pub max_unavailable: Share,
    /// At most so many are there besides those that are wished.
    pub max_surge: Share,
}

impl Default for Strategy {
    fn default() -> Self {
        Self { rolling: true, max_unavailable: Share::Count(1), max_surge: Share::Count(0) }
    }
}

/// What is wrong with a strategy: the field, its value, and what it may be.
pub type Wrong = (&'static str, String, &'static str);

impl Strategy {
    /// Parses it.
    pub fn of(spec: Option<&UpdateStrategy>) -> Result<Self, Wrong> {
        let Some(spec) = spec else { return Ok(Self::default()) };
        let bounds = spec.rolling_update.clone().unwrap_or_default();
        let share = |field, given: Option<IntOrString>, default: Share| match given {
            None => Ok(default),
            Some(given) => {
                let wrong = || (field, shown(&given), "a number from 0, or a percentage up to 100%");
                Share::parse(&given).ok_or_else(wrong)
            }
        };
        let Self { max_unavailable, max_surge, .. } = Self::default();
        let strategy = Self {
            rolling: spec.type_ == UpdateType::RollingUpdate,
            max_unavailable: share(
                "updateStrategy.rollingUpdate.maxUnavailable",
                bounds.max_unavailable,
                max_unavailable,
            )?,
            max_surge: share("updateStrategy.rollingUpdate.maxSurge", bounds.max_surge, max_surge)?,
        };
        if strategy.max_unavailable.is_none() && strategy.max_surge.is_none() {
            let field = "updateStrategy.rollingUpdate.maxUnavailable";
            return Err((field, "0".to_owned(), "more than 0 where maxSurge is 0"));
        }
        Ok(strategy)
    }

    /// How many of so many may be out of service, and how many there may be besides.
    /// One of the two is more than 0.
    pub fn bounds(&self, replicas: usize) -> (usize, usize) {
        let unavailable = match self.max_unavailable {
            Share::Count(count) => count,
            Share::Percent(percent) => replicas * percent / 100,
        };
        let surge = match self.max_surge {
            Share::Count(count) => count,
            Share::Percent(percent) => (replicas * percent).div_ceil(100),
        };
        // A percentage of few can be nothing, and then nothing would ever be changed.
        (if surge == 0 { unavailable.max(1) } else { unavailable }, surge)
    }
}

fn shown(value: &IntOrString) -> String {
    match value {
        IntOrString::Int(count) => count.to_string(),
        IntOrString::String(text) => text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strategy(max_unavailable: &serde_json::Value, max_surge: &serde_json::Value) -> Result<Strategy, Wrong> {
        let spec = serde_json::json!({"rollingUpdate": {"maxUnavailable": max_unavailable, "maxSurge": max_surge}});
        Strategy::of(Some(&serde_json::from_value(spec).unwrap()))
    }

    #[test]
    fn percentages_are_rounded_so_that_something_can_be_done() {
        let bounds = |unavailable: &str, surge: &str, replicas| {
            strategy(&unavailable.into(), &surge.into()).unwrap().bounds(replicas)
        };
        assert_eq!(bounds("25%", "25%", 10), (2, 3));
        assert_eq!(bounds("25%", "0%", 3), (1, 0));
        assert_eq!(bounds("0%", "10%", 1), (0, 1));
        assert_eq!(bounds("100%", "100%", 4), (4, 4));
        assert_eq!(bounds("10%", "10%", 0), (1, 0));
    }

    #[test]
    fn what_is_not_given_is_one_at_a_time() {
        let default = Strategy::of(None).unwrap();
        assert_eq!((default.rolling, default.bounds(5)), (true, (1, 0)));
        let by_hand: UpdateStrategy = serde_json::from_value(serde_json::json!({"type": "OnDelete"})).unwrap();
        assert!(!Strategy::of(Some(&by_hand)).unwrap().rolling);
        assert_eq!(strategy(&serde_json::Value::Null, &2.into()).unwrap().bounds(5), (1, 2));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for bad in [(0.into(), 0.into()), ("0%".into(), serde_json::Value::Null), ((-1).into(), 1.into())] {
            assert!(strategy(&bad.0, &bad.1).is_err());
        }
        for bad in ["101%", "x", "5", "%", "-1%"] {
            let (field, value, _) = strategy(&bad.into(), &1.into()).unwrap_err();
            assert!(field.ends_with("maxUnavailable") && value == bad);
        }
    }
}

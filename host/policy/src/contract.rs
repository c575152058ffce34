//! The versions of the contract in `wit/` that this host speaks, all at once. Knows
//! nothing of what is in them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A released minor version of `vmgroup:policy`. The patch level may be any: growth
/// inside a minor version is compatible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Contract {
    /// `wit/0.1`.
    #[serde(rename = "0.1")]
    V0_1,
    /// `wit/0.2`.
    #[serde(rename = "0.2")]
    V0_2,
}

impl Contract {
    /// All that are spoken, the newest first.
    pub const ALL: [Self; 2] = [Self::V0_2, Self::V0_1];
    /// The one in whose terms everybody else thinks.
    pub const LATEST: Self = Self::ALL[0];

    /// `0.2`, also the name of its folder in `wit/`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1 => "0.1",
            Self::V0_2 => "0.2",
        }
    }

    /// The one that an interface's version belongs to: `0.1.7`, and nothing like
    /// `0.10.0`.
    pub(crate) fn of_interface(version: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|contract| {
            let patch = version.strip_prefix(contract.as_str()).and_then(|rest| rest.strip_prefix('.'));
            patch.is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit()))
        })
    }

    /// All that are spoken, in words: `0.2 and 0.1`.
    pub(crate) fn spoken() -> String {
        Self::ALL.map(Self::as_str).join(" and ")
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_level_may_be_any_and_nothing_else_may() {
        assert_eq!(Contract::of_interface("0.1.7"), Some(Contract::V0_1));
        assert_eq!(Contract::of_interface("0.2.0"), Some(Contract::V0_2));
        for other in ["0.10.0", "0.2", "0.2.", "0.3.0", "1.0.0", "0.2.0-rc1", ""] {
            assert_eq!(Contract::of_interface(other), None, "{other}");
        }
    }
}

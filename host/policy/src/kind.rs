//! The three questions a policy can answer.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::wit::lifecycle;

/// Which question a policy answers; one interface of the contract each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What a new virtual machine is called.
    Naming,
    /// Where it goes.
    Placement,
    /// Who leaves.
    Scaling,
}

impl Kind {
    /// All of them, in the order of the policy file.
    pub const ALL: [Self; 3] = [Self::Naming, Self::Placement, Self::Scaling];

    /// As the policy file and the metrics spell it: `naming`, `placement`, `scaling`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Naming => "naming",
            Self::Placement => "placement",
            Self::Scaling => "scaling",
        }
    }

    /// As `lifecycle` of the contract spells it.
    pub(crate) const fn in_contract(self) -> lifecycle::Kind {
        match self {
            Self::Naming => lifecycle::Kind::Naming,
            Self::Placement => lifecycle::Kind::Placement,
            Self::Scaling => lifecycle::Kind::Scaling,
        }
    }

    /// The function of its interface that answers it.
    pub(crate) const fn function(self) -> &'static str {
        match self {
            Self::Naming => "name",
            Self::Placement => "assign",
            Self::Scaling => "choose",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

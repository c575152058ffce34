//! What a member was made as, and what it was changed to since: by that it is told
//! whether a change of the spec has reached it.
//!
//! It is written into a member's mark with the call that makes or changes it, so it
//! tells what this operator has applied. What somebody changes by hand in vCenter
//! does not show in it, and is left alone.
//!
//! Pure. Must not know how a change is carried out.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::hash;
use crate::validate::Make;

/// What only a replacement can change of a member.
///
/// A field that comes with a later version is left out of the serialised form
/// where a group does not use it: then the revisions of all groups that stand stay
/// what they were.
#[derive(Serialize)]
pub struct MadeFrom<'a> {
    /// `spec.template`, as it is written.
    pub template: &'a str,
    /// What else goes into a clone. Not what is in Secrets and `ConfigMap`s.
    #[serde(flatten)]
    pub make: &'a Make,
}

impl MadeFrom<'_> {
    /// A short name for all of it.
    pub fn revision(&self) -> String {
        hash::short(&serde_json::to_vec(self).unwrap_or_default())
    }
}

/// What a member was made as. Its text is `REVISION.CPUS.MIB`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Made {
    /// What only a replacement can change ([`MadeFrom::revision`]).
    pub revision: String,
    /// Virtual CPUs that it was given.
    pub cpus: u32,
    /// Memory that it was given, in MiB.
    pub memory_mib: u64,
}

impl Made {
    /// Whether two have the same CPUs and memory.
    pub fn same_size(&self, other: &Self) -> bool {
        (self.cpus, self.memory_mib) == (other.cpus, other.memory_mib)
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.revision, self.cpus, self.memory_mib)
    }
}

/// A text that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not REVISION.CPUS.MIB")]
pub struct NotMade;

impl FromStr for Made {
    type Err = NotMade;

    fn from_str(text: &str) -> Result<Self, NotMade> {
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().filter(|part| !part.is_empty()).ok_or(NotMade);
        Ok(Self {
            revision: part()?.to_owned(),
            cpus: part()?.parse().map_err(|_| NotMade)?,
            memory_mib: part()?.parse().map_err(|_| NotMade)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_from<'a>(template: &'a str, make: &'a Make) -> MadeFrom<'a> {
        MadeFrom { template, make }
    }

    #[test]
    fn what_was_made_is_read_back() {
        let made = Made { revision: made_from("small", &Make::default()).revision(), cpus: 2, memory_mib: 4096 };
        assert_eq!(made.to_string().parse(), Ok(made.clone()));
        assert!(made.same_size(&Made { revision: "other".into(), ..made.clone() }));
        for bad in ["", "a", "a.1", "a.1.", ".1.2", "a.b.2", "a.1.2.3", "a.-1.2"] {
            assert_eq!(bad.parse::<Made>(), Err(NotMade), "{bad}");
        }
    }

    /// A revision is in the marks of machines for years: it must not change under them.
    #[test]
    fn the_revision_of_a_template_stays() {
        assert_eq!(made_from("small", &Make::default()).revision(), "0a6a0befa1");
        assert_ne!(made_from("small", &Make::default()).revision(), made_from("large", &Make::default()).revision());
    }

    #[test]
    fn each_thing_that_a_clone_is_made_with_counts() {
        let plain = Make::default();
        let others = [
            Make { cloud_init: true, ..plain.clone() },
            Make { customization: Some("linux".into()), ..plain.clone() },
            Make { networks: vec!["lan".into()], ..plain.clone() },
            Make { disks_gib: vec![20], ..plain.clone() },
        ];
        let mut all: Vec<String> = others.iter().map(|make| made_from("small", make).revision()).collect();
        all.push(made_from("small", &plain).revision());
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 5);
    }
}

//! What user data a member was made with, as its mark tells.
//!
//! User data may hold a password of few possibilities, so whoever has a hash of it can
//! find it by trying, however the hash is made: a salt has to lie beside it, and so has a
//! key. So the mark lies where the data itself lies, in the machine's `extraConfig`, and
//! nowhere else: who can read the one can read the other. It is no part of a member's
//! revision, which stands in the status, and it cannot be printed or serialised.

use std::fmt;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// How many bytes of a hash make a mark.
const LENGTH: usize = 16;

/// What is kept of user data that is watched, in the process alone.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(data: &[u8]) -> Self {
        Self(Sha256::digest(data).into())
    }

    /// The mark of members of the group with this uid.
    pub(super) fn mark(&self, uid: &str) -> DataMark {
        let digest = Sha256::new().chain_update(uid).chain_update([0_u8]).chain_update(self.0).finalize();
        DataMark(digest.iter().take(LENGTH).fold(String::new(), |mut text, byte| {
            // A String takes whatever is written into it.
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }
}

/// Tells user data from other user data, among the members of one group.
#[derive(Clone, PartialEq, Eq)]
pub struct DataMark(String);

impl DataMark {
    /// As it was found in a machine's `extraConfig`.
    pub fn found(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// As it is written there, and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DataMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataMark(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Marks are in machines for years: they must not change under them.
    #[test]
    fn a_mark_stays_and_tells_data_and_groups_apart() {
        let mark = |data: &str, uid: &str| Fingerprint::of(data.as_bytes()).mark(uid);
        assert_eq!(mark("hunter2", "u-1").expose(), "1549df156ae3735af498a93d298b69ec");
        assert_ne!(mark("hunter2", "u-1"), mark("hunter3", "u-1"));
        assert_ne!(mark("hunter2", "u-1"), mark("hunter2", "u-2"));
    }

    #[test]
    fn s9_a_mark_cannot_be_printed() {
        assert_eq!(format!("{:?}", DataMark::found("0123")), "DataMark(***)");
    }
}

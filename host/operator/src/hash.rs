//! Short hashes that tell one text from another, in names that people read.
//!
//! Pure. They are written down for years: they must not change.

use sha2::{Digest, Sha256};

/// Ten hexadecimal digits.
pub fn short(text: &[u8]) -> String {
    let digest = Sha256::digest(text);
    let hash = digest.iter().take(5).fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
    format!("{hash:010x}")
}

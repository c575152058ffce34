//! A folder that may be a mounted ConfigMap or Secret. Must not know what lies in it.

use std::path::{Path, PathBuf};

/// The folder as it is at this moment: all files of a mounted ConfigMap or Secret
/// change at once, when the link `..data` does, so it is followed once for what
/// belongs together.
pub fn at_this_moment(folder: &Path) -> PathBuf {
    folder.join("..data").canonicalize().unwrap_or_else(|_| folder.to_owned())
}

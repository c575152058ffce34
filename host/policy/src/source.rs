//! A plugin as it arrives: bytes with a name, perhaps compressed, and the
//! configuration it is to run with. Unpacks and identifies; looks at no
//! WebAssembly beyond its first bytes.

use std::fmt;
use std::io::{ErrorKind, Read};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::Limits;

/// A plugin to check, and the configuration for it.
#[derive(Clone, Debug)]
pub struct Source {
    /// As in the policy file: `idle-first.wasm`, or the name of a shipped one.
    pub name: String,
    /// A component, raw or compressed with gzip; told apart by the first bytes.
    pub bytes: Bytes,
    /// A JSON object. `null` counts as an empty one.
    pub config: serde_json::Value,
}

/// What identifies a plugin's code: the SHA-256 of its unpacked bytes, written
/// `sha256:<64 hexadecimal digits>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use fmt::Write as _;
        let mut text = String::from("sha256:");
        for byte in Sha256::digest(bytes) {
            // Writing into a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// `sha256:…`, 71 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve hexadecimal digits, for people.
    pub fn short(&self) -> &str {
        self.0.get(7..19).unwrap_or(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a plugin's bytes cannot even be unpacked. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeProblem {
    /// There is nothing.
    #[error("the file is empty")]
    Empty,
    /// Larger as stored than allowed.
    #[error("the file has {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// What there is.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Larger once unpacked than allowed.
    #[error("the file unpacks to more than the {limit} bytes that are allowed")]
    UnpacksTooLarge {
        /// What is allowed.
        limit: usize,
    },
    /// A gzip stream that ends early.
    #[error("the gzip stream ends before its end: the file is truncated")]
    TruncatedGzip,
    /// A gzip stream that is damaged.
    #[error("the gzip stream is damaged: {0}")]
    BadGzip(String),
}

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// How many bytes these are once unpacked, if no more than `limit`.
pub fn unpacked_size(bytes: &Bytes, limit: usize) -> Result<usize, SizeProblem> {
    let limits = Limits { wasm_bytes: usize::MAX, unpacked_bytes: limit, ..Limits::default() };
    unpack(bytes, &limits).map(|unpacked| unpacked.len())
}

/// The plugin's bytes, unpacked if they are compressed, within the limits.
pub(crate) fn unpack(bytes: &Bytes, limits: &Limits) -> Result<Bytes, SizeProblem> {
    if bytes.is_empty() {
        return Err(SizeProblem::Empty);
    }
    if bytes.len() > limits.wasm_bytes {
        return Err(SizeProblem::TooLarge { bytes: bytes.len(), limit: limits.wasm_bytes });
    }
    if !bytes.starts_with(&GZIP) {
        return if bytes.len() > limits.unpacked_bytes {
            Err(SizeProblem::TooLarge { bytes: bytes.len(), limit: limits.unpacked_bytes })
        } else {
            Ok(bytes.clone())
        };
    }
    let mut unpacked = Vec::new();
    // One byte more than allowed tells "exactly full" from "too much" without
    // ever holding more.
    let cap = u64::try_from(limits.unpacked_bytes).unwrap_or(u64::MAX).saturating_add(1);
    flate2::read::MultiGzDecoder::new(bytes.as_ref()).take(cap).read_to_end(&mut unpacked).map_err(
        |error| match error.kind() {
            ErrorKind::UnexpectedEof => SizeProblem::TruncatedGzip,
            _ => SizeProblem::BadGzip(error.to_string()),
        },
    )?;
    if unpacked.len() > limits.unpacked_bytes {
        return Err(SizeProblem::UnpacksTooLarge { limit: limits.unpacked_bytes });
    }
    if unpacked.is_empty() {
        return Err(SizeProblem::Empty);
    }
    Ok(Bytes::from(unpacked))
}

//! Where an artifact is: `oci://registry/repository[:tag][@sha256:…]`.

use std::fmt;
use std::str::FromStr;

use crate::Digest;

/// What a reference begins with.
pub const SCHEME: &str = "oci://";

/// A parsed reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// `host` or `host:port`.
    pub host: String,
    /// `team/policies/drain-first`.
    pub repository: String,
    /// A name that may mean something else tomorrow.
    pub tag: Option<String>,
    /// Of the manifest.
    pub digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not begin so.
    #[error("it does not begin with {SCHEME}")]
    Scheme,
    /// The part before the first slash.
    #[error("it names no registry: write {SCHEME}registry.example.com/repository@sha256:…")]
    Host,
    /// The part after it.
    #[error("`{0}` is no repository: lower-case letters, digits, and . _ - / between them")]
    Repository(String),
    /// What follows the colon.
    #[error("`{0}` is no tag: letters, digits, and . _ - after the first, 128 at most")]
    Tag(String),
    /// What follows the `@`.
    #[error("`{0}` is no digest: sha256: and 64 hexadecimal digits, in lower case")]
    Digest(String),
}

impl Reference {
    /// The same by another digest, without a tag.
    #[must_use]
    pub fn pinned(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// Whether the registry is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        let name = match self.host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|it| it.is_ascii_digit()) => name,
            _ => self.host.as_str(),
        };
        name == "localhost" || name.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let rest = text.strip_prefix(SCHEME).ok_or(ReferenceError::Scheme)?;
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => {
                let parsed = Digest::parse(digest).ok_or_else(|| ReferenceError::Digest(digest.to_owned()))?;
                (rest, Some(parsed))
            }
            None => (rest, None),
        };
        let (host, path) = rest.split_once('/').ok_or(ReferenceError::Host)?;
        let legal_host = |it: u8| it.is_ascii_alphanumeric() || b".-:[]".contains(&it);
        if host.is_empty() || !host.bytes().all(legal_host) {
            return Err(ReferenceError::Host);
        }
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        let part = |part: &str| {
            let inner = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || b"._-".contains(&it);
            let edge = |it: Option<u8>| it.is_some_and(|it| it.is_ascii_lowercase() || it.is_ascii_digit());
            part.bytes().all(inner) && edge(part.bytes().next()) && edge(part.bytes().next_back())
        };
        if repository.len() > 255 || !repository.split('/').all(part) {
            return Err(ReferenceError::Repository(repository.to_owned()));
        }
        let legal_tag = |tag: &str| {
            let word = |it: u8| it.is_ascii_alphanumeric() || it == b'_';
            tag.len() <= 128
                && tag.bytes().next().is_some_and(word)
                && tag.bytes().all(|it| word(it) || b".-".contains(&it))
        };
        if let Some(tag) = tag.filter(|tag| !legal_tag(tag)) {
            return Err(ReferenceError::Tag(tag.to_owned()));
        }
        Ok(Self { host: host.to_owned(), repository: repository.to_owned(), tag: tag.map(str::to_owned), digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, repository, tag, digest } = self;
        write!(f, "{SCHEME}{host}/{repository}")?;
        if let Some(tag) = tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Reference, ReferenceError> {
        text.parse()
    }

    #[test]
    fn what_people_write_is_understood_and_written_again() {
        let digest = Digest::of(b"manifest");
        for text in [
            "oci://registry.example.com/policies/drain-first:1.2".to_owned(),
            "oci://127.0.0.1:5000/drain_first".to_owned(),
            format!("oci://ghcr.io/team/a.b/c@{digest}"),
            format!("oci://localhost:5000/a:v1@{digest}"),
            "oci://[::1]:5000/a".to_owned(),
        ] {
            assert_eq!(parse(&text).unwrap().to_string(), text);
        }
        assert!(parse("oci://127.0.0.1:5000/a").unwrap().is_local());
        assert!(parse("oci://localhost/a").unwrap().is_local() && parse("oci://[::1]:5000/a").unwrap().is_local());
        assert!(!parse("oci://registry/a").unwrap().is_local());
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(parse("docker://a/b"), Err(ReferenceError::Scheme));
        assert_eq!(parse("oci://only-a-name"), Err(ReferenceError::Host));
        assert_eq!(parse("oci:///a"), Err(ReferenceError::Host));
        assert_eq!(parse("oci://user:secret@host/a"), Err(ReferenceError::Digest("host/a".to_owned())));
        assert!(matches!(parse("oci://r/Upper"), Err(ReferenceError::Repository(_))));
        assert!(matches!(parse("oci://r/a/../b"), Err(ReferenceError::Repository(_))));
        assert!(matches!(parse("oci://r/a?x=1"), Err(ReferenceError::Repository(_))));
        assert!(matches!(parse("oci://r/a:-"), Err(ReferenceError::Tag(_))));
        assert!(matches!(parse("oci://r/a@sha256:12"), Err(ReferenceError::Digest(_))));
        assert!(matches!(parse("oci://r/a@sha512:12"), Err(ReferenceError::Digest(_))));
    }
}

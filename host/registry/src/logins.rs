//! Who logs in to which registry: docker's `config.json`, as `docker login` writes
//! it and a Secret of the type `kubernetes.io/dockerconfigjson` holds it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use vmgroup_wire::{Credentials, Password};

/// The largest file that is read.
const MAX_FILE: usize = 1 << 20;

/// Credentials by registry.
#[derive(Clone, Debug, Default)]
pub struct Logins(BTreeMap<String, Credentials>);

/// Why such a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoginsError {
    /// It cannot be read.
    #[error("the logins to registries cannot be read from {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no config.json. Without the parser's words: they may quote a secret.
    #[error("{} is no docker config.json: it needs `auths`, and in it `auth` or `username` and `password` for each registry (line {line})", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// Where it stops to be one.
        line: usize,
    },
    /// An entry has neither user nor password.
    #[error("{} has no user and password for `{host}`: `auth` is base64 of user:password. Credential helpers and identity tokens are not spoken", path.display())]
    Entry {
        /// Which file.
        path: PathBuf,
        /// Which registry.
        host: String,
    },
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// Lest anybody prints one.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entry(***)")
    }
}

impl Logins {
    /// Reads a file. Blocks.
    pub fn read(path: &Path) -> Result<Self, LoginsError> {
        use std::io::Read as _;
        let fail = |source| LoginsError::File { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        std::fs::File::open(path).map_err(fail)?.take(MAX_FILE as u64).read_to_end(&mut bytes).map_err(fail)?;
        let File { auths } = serde_json::from_slice(&bytes)
            .map_err(|error| LoginsError::Format { path: path.to_owned(), line: error.line() })?;
        let mut logins = BTreeMap::new();
        for (key, entry) in auths {
            let host = host_of(&key).to_owned();
            let empty = matches!(&entry, Entry { auth: None, username: None, password: None });
            match entry.credentials() {
                Some(credentials) => {
                    logins.insert(host, credentials);
                }
                // What `docker login` leaves behind where a helper has the password.
                None if empty => {}
                None => return Err(LoginsError::Entry { path: path.to_owned(), host }),
            }
        }
        Ok(Self(logins))
    }

    /// For this registry, if there are any.
    pub fn of(&self, host: &str) -> Option<&Credentials> {
        self.0.get(host)
    }
}

impl Entry {
    fn credentials(self) -> Option<Credentials> {
        if let Some(auth) = self.auth.filter(|auth| !auth.is_empty()) {
            let text = String::from_utf8(BASE64_STANDARD.decode(auth.trim()).ok()?).ok()?;
            let (user, password) = text.split_once(':')?;
            // docker pads it with zeros on some systems.
            let password = password.trim_end_matches('\0');
            return Some(Credentials { user: user.to_owned(), password: Password::from(password) });
        }
        Some(Credentials { user: self.username?, password: Password::from(self.password?) })
    }
}

/// `https://index.docker.io/v1/` and the like: the registry alone counts.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Logins, LoginsError> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vmgroup-registry-logins-{}-{number}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let read = Logins::read(&path);
        std::fs::remove_file(path).unwrap();
        read
    }

    #[test]
    fn both_ways_of_writing_it_are_read() {
        let logins = read(
            r#"{"auths": {
                "registry.example.com:5000": {"auth": "dXNlcjpwYXNzOndvcmQ="},
                "https://other.example.com/v1/": {"username": "me", "password": "secret", "email": "x"},
                "helped.example.com": {}
            }, "credsStore": "desktop"}"#,
        )
        .unwrap();
        let of = |host: &str| logins.of(host).map(|it| (it.user.clone(), it.password.clone()));
        assert_eq!(of("registry.example.com:5000"), Some(("user".into(), Password::from("pass:word"))));
        assert_eq!(of("other.example.com"), Some(("me".into(), Password::from("secret"))));
        assert_eq!(of("helped.example.com"), None);
    }

    #[test]
    fn s9_what_cannot_be_read_is_named_without_a_secret() {
        for text in [
            r#"{"auths": {"r": {"auth": "hunter2"}}}"#,
            r#"{"auths": {"r": {"username": "hunter2"}}}"#,
            r#"{"auths": {"r": "hunter2"}}"#,
            "hunter2",
        ] {
            let error = read(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        let logins = read(r#"{"auths": {"r": {"username": "me", "password": "hunter2"}}}"#).unwrap();
        assert!(!format!("{logins:?}").contains("hunter2"));
    }
}

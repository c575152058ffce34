//! The login of a connection, out of its Secret. Must not know what it is used for.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use vmgroup_api::connections_file::Trust;
use vmgroup_vsphere::{Credentials, Password, Tls};

/// Who logs in, and whom to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Who logs in.
    pub writer: Credentials,
    /// Who logs in for what only reads; none: the same.
    pub reader: Option<Credentials>,
    /// Whose certificate is trusted.
    pub tls: Tls,
}

/// Why a Secret gives no login. Names keys, and nothing of what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// A key is not there.
    #[error("it has no key {0}")]
    Missing(&'static str),
    /// What is under a key is empty, or no text.
    #[error("what is under the key {0} is empty, or no text")]
    Empty(&'static str),
    /// The key that `trust.caSecretKey` names.
    #[error("the key that trust.caSecretKey names is not there, or holds no text")]
    Ca,
}

impl Login {
    /// Reads a Secret.
    pub fn of(secret: &Secret, trust: &Trust) -> Result<Self, SecretError> {
        let none = BTreeMap::new();
        let data = secret.data.as_ref().unwrap_or(&none);
        let optional = |key: &'static str| match data.get(key).map(text) {
            None => Ok(None),
            Some(None) => Err(SecretError::Empty(key)),
            Some(Some(text)) => Ok(Some(text)),
        };
        let needed = |key| optional(key)?.ok_or(SecretError::Missing(key));
        let reader = match (optional("VC_READ_USER")?, optional("VC_READ_PASS")?) {
            (Some(user), Some(password)) => Some(Credentials { user, password: Password::from(password) }),
            (None, None) => None,
            (Some(_), None) => return Err(SecretError::Missing("VC_READ_PASS")),
            (None, Some(_)) => return Err(SecretError::Missing("VC_READ_USER")),
        };
        let writer = Credentials { user: needed("VC_USER")?, password: Password::from(needed("VC_PASS")?) };
        let ca_of_secret = trust.ca_secret_key.as_ref().map(|key| data.get(key).and_then(text).ok_or(SecretError::Ca));
        let tls = match ca_of_secret.transpose()? {
            Some(ca) => Tls::CaPem(ca.into()),
            None => tls(trust),
        };
        Ok(Self { writer, reader, tls })
    }
}

/// What is trusted by the connections file alone.
pub(super) fn tls(trust: &Trust) -> Tls {
    match (&trust.ca, trust.fingerprint()) {
        (Some(ca), _) => Tls::CaPem(Arc::from(ca.as_str())),
        (None, Some(fingerprint)) => Tls::Thumbprint(fingerprint),
        (None, None) if trust.insecure => Tls::Insecure,
        (None, None) => Tls::System,
    }
}

/// Without the end of its line, which editors put there.
fn text(bytes: &ByteString) -> Option<String> {
    let text = std::str::from_utf8(&bytes.0).ok()?.trim_end_matches(['\r', '\n']);
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(entries: &[(&str, &str)]) -> Secret {
        let data = entries.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        Secret { data: Some(data.collect()), ..Secret::default() }
    }

    #[test]
    fn a_login_is_whole_or_none() {
        let trust = Trust::default();
        let login = Login::of(&secret(&[("VC_USER", "me\n"), ("VC_PASS", "hunter2")]), &trust).unwrap();
        assert_eq!((login.writer.user.as_str(), login.reader, login.tls), ("me", None, Tls::System));
        assert_eq!(Login::of(&secret(&[("VC_USER", "me")]), &trust), Err(SecretError::Missing("VC_PASS")));
        let half = secret(&[("VC_USER", "me"), ("VC_PASS", "x"), ("VC_READ_USER", "you")]);
        assert_eq!(Login::of(&half, &trust), Err(SecretError::Missing("VC_READ_PASS")));
        assert_eq!(Login::of(&secret(&[("VC_USER", "\n")]), &trust), Err(SecretError::Empty("VC_USER")));
    }

    #[test]
    fn trust_may_come_from_the_secret() {
        let trust = Trust { ca_secret_key: Some("ca.crt".to_owned()), ..Trust::default() };
        let with = secret(&[("VC_USER", "me"), ("VC_PASS", "x"), ("ca.crt", "PEM")]);
        assert_eq!(Login::of(&with, &trust).unwrap().tls, Tls::CaPem("PEM".into()));
        assert_eq!(Login::of(&secret(&[("VC_USER", "me"), ("VC_PASS", "x")]), &trust), Err(SecretError::Ca));
    }

    #[test]
    fn s9_a_login_is_in_no_debug_output() {
        let login = Login::of(&secret(&[("VC_USER", "me"), ("VC_PASS", "hunter2")]), &Trust::default()).unwrap();
        assert!(!format!("{login:?}").contains("hunter2"));
    }
}

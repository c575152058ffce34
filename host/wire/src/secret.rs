//! What must never be printed has a type that cannot be.

use std::fmt;

/// A password. It can be compared and sent, not printed: `Debug` shows
/// `Password(***)`, and there is no `Display` and no `Serialize`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The secret itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Password {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl From<&str> for Password {
    fn from(value: &str) -> Self {
        Self(value.to_owned())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

/// Who logs in, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name; for vCenter as `user@domain` or `DOMAIN\user`.
    pub user: String,
    /// Its password.
    pub password: Password,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s9_a_password_cannot_be_printed() {
        let credentials = Credentials { user: "admin".to_owned(), password: Password::from("hunter2") };
        let printed = format!("{credentials:?} {credentials:#?}");
        assert!(printed.contains("Password(***)"), "{printed}");
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}

//! What our sessions call themselves at vCenter, so that they can be told from
//! everybody else's: `vmgroup/0.1.0 (operator-7f9c; 00000000000000a1; all)`.
//!
//! It is the `User-Agent` of every request, and `UserSession.userAgent` in
//! vCenter's list of sessions.

/// Which process this is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Agent {
    /// A name that outlives a restart, such as the pod's. Sessions of this name
    /// that were left behind by an earlier process are ended. Empty: nobody's.
    pub instance: String,
    /// Tells this process from every other one of that name.
    pub process: u64,
}

impl Agent {
    /// The user agent of a session that is for this.
    pub(super) fn header(&self, purpose: &str) -> String {
        format!("vmgroup/{} ({}; {:016x}; {purpose})", env!("CARGO_PKG_VERSION"), plain(&self.instance), self.process)
    }

    /// Whether a session calls itself by our instance's name, without being of
    /// this process.
    pub(super) fn is_predecessor(&self, header: &str) -> bool {
        let inside = header
            .strip_prefix("vmgroup/")
            .and_then(|rest| rest.split_once(" ("))
            .and_then(|(_, rest)| rest.strip_suffix(')'));
        let Some(inside) = inside else { return false };
        let mut parts = inside.split("; ");
        let (instance, process) = (parts.next(), parts.next());
        !self.instance.is_empty()
            && instance == Some(plain(&self.instance).as_str())
            && process.is_some_and(|process| process != format!("{:016x}", self.process))
    }
}

/// Such characters as a header may have and that are no marks of ours.
fn plain(name: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    name.chars().map(|c| if keep(c) { c } else { '-' }).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_predecessor_has_our_name_and_is_not_us() {
        let us = Agent { instance: "operator-0 (x; y)".to_owned(), process: 7 };
        let before = Agent { process: 6, ..us.clone() };
        let other = Agent { instance: "operator-1".to_owned(), process: 6 };
        assert!(us.is_predecessor(&before.header("all")));
        assert!(!us.is_predecessor(&us.header("read")));
        assert!(!us.is_predecessor(&other.header("all")));
        assert!(!us.is_predecessor("govc/0.37.0"));
        let nobody = Agent::default();
        assert!(!nobody.is_predecessor(&Agent { process: 1, ..nobody.clone() }.header("all")));
    }
}

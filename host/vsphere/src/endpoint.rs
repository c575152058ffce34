//! The address of vCenter's SDK, out of what people write.

use crate::error::Error;

/// Makes the full SDK address of what people write for a vCenter: `vc.example`,
/// `vc:8989`, `https://vc/sdk`, `http://127.0.0.1:1/sdk`. The scheme defaults
/// to https and the path to `/sdk`. User and password do not belong in it.
pub fn endpoint(host: &str) -> Result<http::Uri, Error> {
    let host = host.trim();
    let fail = |why: &str| {
        Error::Config(format!(
            "the vCenter address cannot be used: {why}; write it as vc.example or https://vc.example:443/sdk"
        ))
    };
    if host.is_empty() {
        return Err(fail("it is empty"));
    }
    // Said before the text is put into any message.
    if host.contains('@') {
        return Err(fail("user and password do not belong in it"));
    }
    let with_scheme = if host.contains("://") { host.to_owned() } else { format!("https://{host}") };
    let uri: http::Uri = with_scheme.parse().map_err(|_| fail(&format!("{host:?} is not a host, host:port or URL")))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(fail("its scheme is neither https nor http"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(fail(&format!("{host:?} names no host")));
    }
    if uri.query().is_some() {
        return Err(fail("a query does not belong in it"));
    }
    let path = uri.path().trim_end_matches('/');
    let path = if path.is_empty() { "/sdk" } else { path };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.parse().map_err(|_| fail("its path is not legal"))?);
    http::Uri::from_parts(parts).map_err(|_| fail("it is not a URL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_vc_host_is_understood() {
        for (host, want) in [
            ("vc.example", "https://vc.example/sdk"),
            ("vc:8989", "https://vc:8989/sdk"),
            ("10.186.34.28", "https://10.186.34.28/sdk"),
            ("[::1]:443", "https://[::1]:443/sdk"),
            ("https://vc/sdk", "https://vc/sdk"),
            ("https://vc/sdk/", "https://vc/sdk"),
            ("https://vc", "https://vc/sdk"),
            (" http://127.0.0.1:1/sdk ", "http://127.0.0.1:1/sdk"),
            ("https://proxy/vc1/sdk", "https://proxy/vc1/sdk"),
        ] {
            assert_eq!(endpoint(host).unwrap().to_string(), want, "{host}");
        }
    }

    #[test]
    fn a_bad_vc_host_is_refused_with_a_remedy() {
        for host in ["", "  ", "ftp://vc", "vc name", "https://", "vc/sdk?x=1"] {
            let message = endpoint(host).unwrap_err().to_string();
            assert!(message.contains("write it as"), "{host}: {message}");
        }
    }

    #[test]
    fn s9_a_password_in_the_address_is_refused_and_not_repeated() {
        let message = endpoint("https://admin:hunter2@vc/sdk").unwrap_err().to_string();
        assert!(!message.contains("hunter2"), "{message}");
    }
}

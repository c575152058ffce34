//! `WWW-Authenticate`: what a registry wants to see (RFC 9110, 11.6.1; the
//! distribution specification's token authentication).

/// What it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token, to be had there.
    Bearer {
        /// The URL of the token service.
        realm: String,
        /// Passed on to it.
        service: Option<String>,
        /// Passed on to it.
        scope: Option<String>,
    },
}

impl Challenge {
    /// Of one header's value.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        let mut rest = rest.trim_start();
        while let Some((name, after)) = rest.split_once('=') {
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_at(after.find(',').unwrap_or(after.len())),
            };
            let name = name.trim();
            let field = if name.eq_ignore_ascii_case("realm") {
                Some(&mut realm)
            } else if name.eq_ignore_ascii_case("service") {
                Some(&mut service)
            } else if name.eq_ignore_ascii_case("scope") {
                Some(&mut scope)
            } else {
                None
            };
            if let Some(field) = field {
                *field = Some(value.trim().to_owned());
            }
            rest = after.trim_start_matches([',', ' ']);
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_ask_in_these_ways() {
        assert_eq!(Challenge::parse(r#"Basic realm="registry""#), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("basic"), Some(Challenge::Basic));
        let bearer = r#"Bearer realm="https://auth.example.com/token",service="registry.example.com",scope="repository:a/b:pull,push",error="invalid_token""#;
        assert_eq!(
            Challenge::parse(bearer),
            Some(Challenge::Bearer {
                realm: "https://auth.example.com/token".to_owned(),
                service: Some("registry.example.com".to_owned()),
                scope: Some("repository:a/b:pull,push".to_owned()),
            })
        );
        assert_eq!(
            Challenge::parse("Bearer realm=https://a/t, service=s"),
            Some(Challenge::Bearer { realm: "https://a/t".to_owned(), service: Some("s".to_owned()), scope: None })
        );
        assert_eq!(Challenge::parse("Bearer scope=\"x\""), None);
        assert_eq!(Challenge::parse("Bearer realm=\"open"), None);
        assert_eq!(Challenge::parse("Negotiate"), None);
    }
}

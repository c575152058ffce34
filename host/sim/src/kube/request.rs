//! A request's line and headers: route, query, what the client accepts, and the
//! operation's name for the fault script.
//!
//! Knows HTTP alone.

use http::{HeaderMap, Method, Uri, header};

use super::status::ApiError;
use super::table::Include;
use super::watch::View;

/// A request's target.
#[derive(Debug, PartialEq)]
pub(super) enum Route {
    Root,
    Version,
    Health,
    Core,
    Groups,
    Group(String),
    Resources { group: String, version: String },
    OpenApiIndex,
    OpenApi(String),
    Resource(Target),
    Unknown,
}

/// Part of an API resource's URL.
#[derive(Debug, PartialEq)]
pub(super) struct Target {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub namespace: String,
    pub name: String,
    pub sub: String,
}

impl Target {
    pub(super) fn is_exec(&self) -> bool {
        self.group.is_empty() && self.plural == "pods" && self.sub == "exec"
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = (first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        if let Some(byte) = hex {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn route(path: &str) -> Route {
    let parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(decoded).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        [] => return Route::Root,
        ["version"] => return Route::Version,
        ["healthz" | "livez" | "readyz", ..] => return Route::Health,
        ["api"] => return Route::Core,
        ["apis"] => return Route::Groups,
        ["apis", group] => return Route::Group((*group).to_owned()),
        ["openapi", "v3"] => return Route::OpenApiIndex,
        ["openapi", "v3", rest @ ..] => return Route::OpenApi(rest.join("/")),
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Route::Unknown,
    };
    let own = |sub: &str| matches!(sub, "status" | "finalize");
    let (namespace, rest) = match rest {
        ["namespaces", namespace, plural, ..] if !own(plural) => (*namespace, &rest[2..]),
        rest => ("", rest),
    };
    let (plural, name, sub) = match rest {
        [] => {
            return Route::Resources { group: group.to_owned(), version: version.to_owned() };
        }
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, sub] => (*plural, *name, *sub),
        _ => return Route::Unknown,
    };
    Route::Resource(Target {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: plural.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        sub: sub.to_owned(),
    })
}

/// The query's parameters.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(uri: &Uri) -> Self {
        let pairs = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|p| !p.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decoded(&key.replace('+', " ")), decoded(&value.replace('+', " ")))
            })
            .collect();
        Self(pairs)
    }

    pub(super) fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str())
    }

    pub(super) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub(super) fn on(&self, key: &str) -> bool {
        self.0.iter().any(|(k, v)| k == key && matches!(v.as_str(), "" | "1" | "true"))
    }
}

/// The operation's name for the fault script.
pub(super) fn operation(method: &Method, route: &Route, path: &str, query: &Query) -> String {
    let Route::Resource(target) = route else {
        return format!("{method} {path}");
    };
    let one = !target.name.is_empty();
    let verb = match *method {
        Method::GET | Method::HEAD if query.on("watch") => "WATCH",
        Method::GET | Method::HEAD if one => "GET",
        Method::GET | Method::HEAD => "LIST",
        Method::POST => "CREATE",
        Method::PUT => "UPDATE",
        Method::PATCH => "PATCH",
        Method::DELETE if one => "DELETE",
        Method::DELETE => "DELETECOLLECTION",
        _ => method.as_str(),
    };
    if target.sub.is_empty() {
        format!("{verb} {}", target.plural)
    } else {
        format!("{verb} {}/{}", target.plural, target.sub)
    }
}

/// What the client wants to read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Accepted {
    pub view: View,
    pub aggregated: bool,
}

pub(super) fn accepted(headers: &HeaderMap, query: &Query) -> Result<Accepted, ApiError> {
    let include = match query.get("includeObject") {
        "None" => Include::None,
        "Object" => Include::Object,
        _ => Include::Metadata,
    };
    let plain = Accepted { view: View::Whole, aggregated: false };
    let Some(header) = headers.get(header::ACCEPT).and_then(|h| h.to_str().ok()) else {
        return Ok(plain);
    };
    for range in header.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        if !matches!(media, "application/json" | "application/*" | "*/*" | "application/yaml") {
            continue;
        }
        let parameters: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
        let get = |key: &str| parameters.iter().find(|(k, _)| *k == key).map_or("", |(_, value)| *value);
        return Ok(match (get("as"), get("g"), get("v")) {
            ("", ..) => plain,
            ("Table", "meta.k8s.io", "v1") => Accepted { view: View::Table(include), ..plain },
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
                Accepted { view: View::Partial, ..plain }
            }
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Accepted { aggregated: true, ..plain },
            _ => continue,
        });
    }
    Err(ApiError::new(406, "NotAcceptable", "only the following media types are accepted: application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_by_name() {
        for (method, uri, expected) in [
            (Method::GET, "/apis/g/v1/namespaces/n/vmgroups", "LIST vmgroups"),
            (Method::GET, "/apis/g/v1/vmgroups?watch=true", "WATCH vmgroups"),
            (Method::GET, "/apis/g/v1/namespaces/n/vmgroups/x", "GET vmgroups"),
            (Method::PATCH, "/apis/g/v1/namespaces/n/vmgroups/x/status", "PATCH vmgroups/status"),
            (Method::PUT, "/apis/c/v1/namespaces/n/leases/x", "UPDATE leases"),
            (Method::GET, "/api/v1/namespaces/n", "GET namespaces"),
            (Method::PUT, "/api/v1/namespaces/n/status", "UPDATE namespaces/status"),
            (Method::DELETE, "/api/v1/namespaces/n/configmaps", "DELETECOLLECTION configmaps"),
            (Method::GET, "/api/v1/namespaces/n/pods/x/exec?command=ls", "GET pods/exec"),
            (Method::GET, "/version", "GET /version"),
        ] {
            let uri: Uri = uri.parse().unwrap();
            let found = operation(&method, &route(uri.path()), uri.path(), &Query::of(&uri));
            assert_eq!(found, expected);
        }
    }
}

//! `connections.yaml`: the vCenters, which namespaces each of them serves, and how much
//! a namespace may have.
//!
//! Parsing and what can be judged by the text alone; whether a vCenter is there, and
//! takes the login, is found out by whoever connects. No secret stands in here: it
//! names Secrets.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy_file::{is_default, line_of, names};

/// The key of the connections file in its ConfigMap.
pub const FILE_NAME: &str = "connections.yaml";

/// The most connections: each has sessions, an inventory and passes of its own.
const MAX_CONNECTIONS: usize = 64;

/// The most entries under `quotas`.
const MAX_QUOTAS: usize = 1000;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConnectionsFile {
    /// The vCenters. Where several serve a namespace, the first counts, unless a
    /// VmGroup names another one of them in `spec.target`.
    pub connections: Vec<ConnectionEntry>,
    /// What a namespace may have at most. The first entry counts that is for it; without
    /// one there is no ceiling.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quotas: Vec<QuotaEntry>,
}

/// A vCenter, and what of it may be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConnectionEntry {
    /// Stands in the status of its groups, in metrics and in `spec.target`: lower case
    /// letters, digits and `-`. A group stays with the name that it was made under.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// A host name, with a port if need be, or a URL.
    pub address: String,
    /// Who logs in.
    pub credentials: CredentialsRef,
    /// Whose certificate is trusted. Default: the system's certificate authorities.
    #[serde(default, skip_serializing_if = "is_default")]
    pub trust: Trust,
    /// The datacenter, by name or inventory path. Default: the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<String>,
    /// The cluster, by name or inventory path; several with commas between them, or `*`
    /// for all. Default: the only one. Groups may choose one of them in `spec.target`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The same as a resource pool. Not together with `cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The datastore or datastore cluster, by name or inventory path; several with commas
    /// between them, or `*`. Default: the only one. Groups may choose one of them in
    /// `spec.target`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<String>,
    /// The folder under which each group gets its own. Default: `vm-operator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_folder: Option<String>,
    /// What vCenter is spared.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: ConnectionLimits,
    /// Which namespaces may use it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub serves: Namespaces,
    /// It serves the namespaces that no connection serves. One at most is that.
    #[serde(default, skip_serializing_if = "is_default")]
    pub default: bool,
}

/// Where a login is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CredentialsRef {
    /// A Secret in the operator's namespace with the keys `VC_USER` and `VC_PASS`, and
    /// `VC_READ_USER` and `VC_READ_PASS` if reads have a user of their own. A change of
    /// it takes no restart.
    pub secret: String,
}

/// Whose certificate is trusted: one of these, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Trust {
    /// The certificate authorities that count, in PEM, and no others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The same, as a key of the Secret that the login is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_key: Option<String>,
    /// vCenter's own certificate, by the SHA-256 of it, in hexadecimal, with colons or
    /// without (`openssl x509 -noout -fingerprint -sha256`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thumbprint: Option<String>,
    /// Anybody's. Whoever sits on the wire can read the password.
    #[serde(skip_serializing_if = "is_default")]
    pub insecure: bool,
}

/// What a vCenter is spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct ConnectionLimits {
    /// How many tasks it may be working on for us at the same time. Default 8.
    #[schemars(range(min = 1, max = 1000))]
    pub tasks: u32,
    /// How many calls it gets in a second, the long poll apart. Default: no limit.
    #[schemars(range(min = 1, max = 10000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_per_second: Option<u32>,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { tasks: 8, calls_per_second: None }
    }
}

/// Namespaces: those that are named, and those that have all of the labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Namespaces {
    /// By name; a `*` at the end stands for the rest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// By `metadata.labels` of the Namespace, all of these. None: nobody by labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
}

impl Namespaces {
    /// Whether a namespace with these labels is among them.
    pub fn have(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let Self { namespaces, match_labels } = self;
        let by_labels =
            !match_labels.is_empty() && match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        names(namespaces, namespace) || by_labels
    }

    fn is_nobody(&self) -> bool {
        *self == Self::default()
    }
}

/// What each of some namespaces may have, over all its groups: machines that exist or
/// are being made, those that leave until they are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct QuotaEntry {
    /// By name; a `*` at the end stands for the rest. Each has the whole of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// By labels of the Namespace, all of these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// The most virtual machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vms: Option<u64>,
    /// The most virtual CPUs, of all machines together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u64>,
    /// The most memory in GB, of all machines together.
    #[serde(default, rename = "memoryGB", skip_serializing_if = "Option::is_none")]
    pub memory_gb: Option<u64>,
}

impl QuotaEntry {
    /// Whose it is.
    pub fn whose(&self) -> Namespaces {
        Namespaces { namespaces: self.namespaces.clone(), match_labels: self.match_labels.clone() }
    }
}

/// Something that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line, counted from 1, as far as it is known.
    pub line: Option<u64>,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.problem)
    }
}

/// Why a connections file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionsFileError {
    /// Not YAML, or not of this shape; the message has line, column and what was expected.
    #[error("connections.yaml cannot be read: {0}")]
    Parse(String),
    /// Of this shape, and it cannot be meant.
    #[error("connections.yaml: {}", listed(.0))]
    Mistakes(Vec<Mistake>),
}

fn listed(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Judges a file further: what is wrong with it, each with its JSON pointer.
pub type Judge<'a> = &'a dyn Fn(&ConnectionsFile) -> Vec<(String, String)>;

impl ConnectionsFile {
    /// Parses the text of a connections file, and judges all of it. `further` may know
    /// more than can be told by the text alone.
    pub fn parse(text: &str, further: Judge<'_>) -> Result<Self, ConnectionsFileError> {
        let file: Self =
            serde_saphyr::from_str(text).map_err(|error| ConnectionsFileError::Parse(error.to_string()))?;
        let mut found = file.mistakes();
        found.extend(further(&file));
        if found.is_empty() {
            return Ok(file);
        }
        let mistakes =
            found.into_iter().map(|(pointer, problem)| Mistake { line: line_of(text, &pointer), problem }).collect();
        Err(ConnectionsFileError::Mistakes(mistakes))
    }

    /// Whether anybody is chosen by the labels of his namespace.
    pub fn needs_labels(&self) -> bool {
        self.connections.iter().any(|entry| !entry.serves.match_labels.is_empty())
            || self.quotas.iter().any(|entry| !entry.match_labels.is_empty())
    }

    fn mistakes(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        if self.connections.is_empty() {
            found.push(("/connections".to_owned(), "no connection: give one at least".to_owned()));
        }
        if self.connections.len() > MAX_CONNECTIONS {
            let problem = format!("{} connections, and {MAX_CONNECTIONS} are the most", self.connections.len());
            found.push(("/connections".to_owned(), problem));
        }
        if self.quotas.len() > MAX_QUOTAS {
            let problem = format!("{} quotas, and {MAX_QUOTAS} are the most", self.quotas.len());
            found.push(("/quotas".to_owned(), problem));
        }
        for (index, entry) in self.connections.iter().enumerate() {
            entry.mistakes(|field, problem| {
                let problem = format!("connection {:?} {problem}", entry.name);
                found.push((format!("/connections/{index}{field}"), problem));
            });
        }
        found.extend(self.repeated());
        for (index, quota) in self.quotas.iter().enumerate() {
            let at = format!("/quotas/{index}");
            if quota.whose().is_nobody() {
                found.push((at.clone(), "a quota is nobody's: give it `namespaces` or `matchLabels`".to_owned()));
            }
            if quota.vms.is_none() && quota.cpus.is_none() && quota.memory_gb.is_none() {
                found.push((at, "a quota without a ceiling: give it `vms`, `cpus` or `memoryGB`".to_owned()));
            }
        }
        found
    }

    /// What may be there once only.
    fn repeated(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let (mut names, mut places) = (HashMap::new(), HashMap::new());
        let mut default = None;
        for (index, entry) in self.connections.iter().enumerate() {
            let at = |field: &str| format!("/connections/{index}{field}");
            if names.insert(&entry.name, index).is_some() {
                found.push((at("/name"), format!("the name {:?} is there twice: give each its own", entry.name)));
            }
            let place = (&entry.address, &entry.datacenter, &entry.root_folder);
            if let Some(other) = places.insert(place, &entry.name) {
                let problem = format!(
                    "connections {other:?} and {:?} have the same root folder of the same vCenter: give each its own `rootFolder`",
                    entry.name
                );
                found.push((at(""), problem));
            }
            if entry.default
                && let Some(other) = default.replace(&entry.name)
            {
                let problem = format!("{other:?} and {:?} are both the default: one is", entry.name);
                found.push((at("/default"), problem));
            }
        }
        found
    }
}

impl ConnectionEntry {
    fn mistakes(&self, mut tell: impl FnMut(&str, String)) {
        let Self { name, address, credentials, trust, cluster, pool, limits, serves, default, .. } = self;
        if !is_label(name) {
            tell("/name", "needs a name of 1 to 63 lower case letters, digits and `-`".to_owned());
        }
        if address.trim().is_empty() {
            tell("/address", "needs the address of a vCenter, such as vcenter.example.com".to_owned());
        }
        if credentials.secret.is_empty() || credentials.secret.len() > 253 {
            tell("/credentials/secret", "needs the name of a Secret in the operator's namespace".to_owned());
        }
        if let Some(problem) = trust.problem() {
            tell("/trust", problem);
        }
        if cluster.is_some() && pool.is_some() {
            tell("/pool", "has a `cluster` and a `pool`: give one of them".to_owned());
        }
        if !(1..=1000).contains(&limits.tasks) {
            tell("/limits/tasks", format!("has {} as limits.tasks: 1 to 1000 may be", limits.tasks));
        }
        if let Some(calls) = limits.calls_per_second.filter(|calls| !(1..=10_000).contains(calls)) {
            tell("/limits/callsPerSecond", format!("has {calls} as limits.callsPerSecond: 1 to 10000 may be"));
        }
        if serves.is_nobody() && !default {
            tell("", "serves nobody: give it `serves`, or make it the default".to_owned());
        }
    }
}

impl Trust {
    fn problem(&self) -> Option<String> {
        let Self { ca, ca_secret_key, thumbprint, insecure } = self;
        let given = [ca.is_some(), ca_secret_key.is_some(), thumbprint.is_some(), *insecure];
        if given.into_iter().filter(|given| *given).count() > 1 {
            return Some("trusts in several ways: give one of ca, caSecretKey, thumbprint and insecure".to_owned());
        }
        if thumbprint.is_some() && self.fingerprint().is_none() {
            return Some(
                "has a thumbprint that is no SHA-256: 64 hexadecimal digits, with colons or without".to_owned(),
            );
        }
        None
    }

    /// The bytes of the thumbprint, if it is one.
    pub fn fingerprint(&self) -> Option<[u8; 32]> {
        let digits: Vec<u8> = self
            .thumbprint
            .as_deref()?
            .chars()
            .filter(|character| !matches!(character, ':' | ' '))
            .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<_>>()?;
        let bytes: Vec<u8> =
            digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
        if digits.len() == 64 { bytes.try_into().ok() } else { None }
    }
}

/// A DNS label, as Kubernetes has them.
fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConnectionsFile, String> {
        ConnectionsFile::parse(text, &|_| Vec::new()).map_err(|error| error.to_string())
    }

    const TWO: &str = "\
connections:
- name: muc
  address: vcenter-muc.example.com
  credentials: { secret: vc-muc }
  trust: { ca: PEM }
  cluster: A, B
  limits: { tasks: 4, callsPerSecond: 20 }
  serves: { namespaces: [shop, team-*] }
- name: ber
  address: https://vcenter-ber.example.com/sdk
  credentials: { secret: vc-ber }
  serves: { matchLabels: { site: ber } }
  default: true
quotas:
- { namespaces: [shop], vms: 50, cpus: 100, memoryGB: 400 }
";

    #[test]
    fn the_example_parses() {
        let file = parse(TWO).unwrap();
        assert_eq!(file.connections[0].limits.calls_per_second, Some(20));
        assert_eq!((file.connections[1].limits.tasks, file.quotas[0].memory_gb), (8, Some(400)));
        assert!(file.needs_labels());
    }

    #[test]
    fn namespaces_are_named_or_have_all_the_labels() {
        let file = parse(TWO).unwrap();
        let label = BTreeMap::from([("site".to_owned(), "ber".to_owned())]);
        let (muc, ber) = (&file.connections[0].serves, &file.connections[1].serves);
        assert!(muc.have("shop", &label) && muc.have("team-a", &BTreeMap::new()) && !muc.have("shops", &label));
        assert!(ber.have("any", &label) && !ber.have("any", &BTreeMap::new()));
    }

    #[test]
    fn every_mistake_is_named_with_its_line() {
        for (from, to, line, word) in [
            ("name: muc", "name: Muc", 2, "lower case"),
            ("name: ber", "name: muc", 9, "twice"),
            ("address: vcenter-muc.example.com", "address: ' '", 3, "address"),
            ("{ ca: PEM }", "{ ca: PEM, insecure: true }", 5, "several ways"),
            ("{ ca: PEM }", "{ thumbprint: 'AB:CD' }", 5, "no SHA-256"),
            ("cluster: A, B", "cluster: A\n  pool: B", 7, "give one of them"),
            ("tasks: 4", "tasks: 0", 7, "1 to 1000"),
            ("  serves: { namespaces: [shop, team-*] }\n", "", 2, "serves nobody"),
            ("  cluster: A, B\n", "  default: true\n", 13, "both the default"),
            ("https://vcenter-ber.example.com/sdk", "vcenter-muc.example.com", 9, "same root folder"),
            ("namespaces: [shop], vms", "vms", 15, "nobody's"),
            ("vms: 50, cpus: 100, memoryGB: 400", "", 15, "without a ceiling"),
        ] {
            let error = parse(&TWO.replace(from, to)).unwrap_err();
            assert!(error.contains(word) && error.contains(&format!("line {line}")), "{to}: {error}");
        }
        let error = parse(&TWO.replace("cluster:", "clutser:")).unwrap_err();
        assert!(error.contains("clutser") && error.contains('6'), "{error}");
        // All of them at once.
        let error = parse(&TWO.replace("name: muc", "name: Muc").replace("tasks: 4", "tasks: 0")).unwrap_err();
        assert!(error.contains("line 2") && error.contains("line 7"), "{error}");
        assert!(parse("").is_err());
    }

    #[test]
    fn a_thumbprint_is_read_with_and_without_colons() {
        let of = |text: &str| Trust { thumbprint: Some(text.to_owned()), ..Trust::default() }.fingerprint();
        let (plain, colons) = ("ab".repeat(32), ["AB"; 32].join(":"));
        assert_eq!(of(&plain), Some([0xab; 32]));
        assert_eq!(of(&colons), Some([0xab; 32]));
        assert_eq!(of(&plain[..62]), None);
    }
}

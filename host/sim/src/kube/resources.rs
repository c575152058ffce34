//! What kinds the API serves: the built-in ones, and those that a
//! `CustomResourceDefinition` adds.
//!
//! Knows shapes only; no objects, no requests.

use std::sync::Arc;

use kube_cel::CompiledSchema;
use serde_json::{Value, json};

use super::json::{array, field, object_mut, text};
use super::schema;

/// A column of `kubectl get`.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub name: String,
    pub kind: String,
    pub format: String,
    pub description: String,
    pub priority: i64,
    pub path: String,
}

/// Where the scale subresource reads and writes.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    pub spec: String,
    pub status: String,
    pub selector: Option<String>,
}

/// The schema of one version of a custom resource.
pub(super) struct Schema {
    /// `openAPIV3Schema` as the CRD states it.
    pub raw: Value,
    /// Its CEL rules.
    pub rules: CompiledSchema,
    /// The fields of the object that have rules in them, or that rules of the object as a
    /// whole are about; none if such a rule is about all of it.
    pub ruled: Option<Vec<String>>,
}

impl Schema {
    fn new(raw: Value) -> Self {
        let mut root = raw.clone();
        object_mut(&mut root).shift_remove("properties");
        let of_root = array(&raw, "x-kubernetes-validations");
        object_mut(&mut root).shift_remove("x-kubernetes-validations");
        let about: Option<Vec<String>> = of_root
            .iter()
            .map(|rule| schema::is_about(text(rule, "rule")))
            .collect::<Option<Vec<_>>>()
            .map(|it| it.concat());
        let properties = field(&raw, "properties").as_object().into_iter().flatten();
        let inside = properties.filter(|(_, below)| schema::has_rules(below)).map(|(name, _)| name.clone());
        let ruled = about.filter(|_| !schema::has_rules(&root)).map(|about| about.into_iter().chain(inside).collect());
        Self { rules: kube_cel::compile_schema(&raw), ruled, raw }
    }
}

/// One served kind in one version.
#[allow(clippy::struct_excessive_bools, reason = "independent traits of a kind, as discovery lists them")]
pub(super) struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub list_kind: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    pub status: bool,
    pub scale: Option<Scale>,
    /// Whether `metadata.generation` is kept.
    pub generation: bool,
    /// Whether a PUT without resourceVersion is accepted.
    pub unconditional_update: bool,
    pub schema: Option<Arc<Schema>>,
    pub columns: Vec<Column>,
    pub selectable: Vec<String>,
    /// A custom resource: strategic merge is refused, unknown fields pruned.
    pub custom: bool,
    /// The group that its objects are stored under: `core/v1` events are a view
    /// of `events.k8s.io`.
    pub storage_group: String,
}

impl Resource {
    /// `v1` or `group/version`.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The key of its objects in the store.
    pub(super) fn storage_key(&self) -> String {
        storage_key(&self.storage_group, &self.plural)
    }

    /// `core/v1` events, stored as `events.k8s.io/v1`.
    pub(super) fn is_core_event(&self) -> bool {
        self.plural == "events" && self.group.is_empty()
    }

    /// A key such as `vmgroups` of the raw schema, as JSON; `None` for the
    /// built-in kinds.
    pub(super) fn raw_schema(&self) -> Option<&Value> {
        self.schema.as_ref().map(|s| &s.raw)
    }

    pub(super) fn is(&self, plural: &str) -> bool {
        !self.custom && self.plural == plural
    }
}

/// The key of a group's resource in the store.
pub(super) fn storage_key(group: &str, plural: &str) -> String {
    format!("{plural}.{group}")
}

/// Group, version, plural, kind, short names, flags: `n`amespaced, `s`tatus,
/// `c`ale (replicas), `g`eneration.
type BuiltIn = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

const BUILT_IN: &[BuiltIn] = &[
    ("", "v1", "configmaps", "ConfigMap", "cm", "n"),
    ("", "v1", "events", "Event", "ev", "n"),
    ("", "v1", "namespaces", "Namespace", "ns", "s"),
    ("", "v1", "nodes", "Node", "no", "s"),
    ("", "v1", "pods", "Pod", "po", "nsg"),
    ("", "v1", "secrets", "Secret", "", "n"),
    ("", "v1", "serviceaccounts", "ServiceAccount", "sa", "n"),
    ("", "v1", "services", "Service", "svc", "ns"),
    ("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", "", "sg"),
    (
        "admissionregistration.k8s.io",
        "v1",
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        "",
        "g",
    ),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", "crd,crds", "sg"),
    ("apps", "v1", "deployments", "Deployment", "deploy", "nscg"),
    ("coordination.k8s.io", "v1", "leases", "Lease", "", "n"),
    ("events.k8s.io", "v1", "events", "Event", "ev", "n"),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", "netpol", "ng"),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", "pdb", "nsg"),
    ("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", "", ""),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", "", ""),
    ("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", "", "n"),
    ("rbac.authorization.k8s.io", "v1", "roles", "Role", "", "n"),
];

/// The built-in kinds.
pub(super) fn built_in() -> Vec<Arc<Resource>> {
    BUILT_IN
        .iter()
        .map(|&(group, version, plural, kind, short, flags)| {
            let event = plural == "events";
            Arc::new(Resource {
                group: group.to_owned(),
                version: version.to_owned(),
                plural: plural.to_owned(),
                singular: kind.to_lowercase(),
                kind: kind.to_owned(),
                list_kind: format!("{kind}List"),
                short_names: short.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect(),
                categories: if matches!(plural, "pods" | "services" | "deployments") {
                    vec!["all".to_owned()]
                } else {
                    Vec::new()
                },
                namespaced: flags.contains('n'),
                status: flags.contains('s'),
                scale: flags.contains('c').then(|| Scale {
                    spec: ".spec.replicas".to_owned(),
                    status: ".status.replicas".to_owned(),
                    selector: None,
                }),
                generation: flags.contains('g'),
                unconditional_update: plural != "customresourcedefinitions" && plural != "leases",
                schema: None,
                columns: Vec::new(),
                selectable: Vec::new(),
                custom: false,
                storage_group: if event { "events.k8s.io".to_owned() } else { group.to_owned() },
            })
        })
        .collect()
}

fn column(value: &Value) -> Column {
    let get = |key: &str| text(value, key).to_owned();
    Column {
        name: get("name"),
        kind: get("type"),
        format: get("format"),
        description: get("description"),
        priority: value.get("priority").and_then(Value::as_i64).unwrap_or(0),
        path: get("jsonPath"),
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// The resources that a CRD serves, one for each served version.
pub(super) fn of_definition(crd: &Value) -> Vec<Arc<Resource>> {
    let spec = field(crd, "spec");
    let names = field(spec, "names");
    let group = text(spec, "group");
    array(spec, "versions")
        .iter()
        .filter(|v| v.get("served") == Some(&json!(true)))
        .map(|v| {
            let raw = v.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_else(|| json!({}));
            let kind = text(names, "kind");
            let sub = field(v, "subresources");
            let or = |key: &str, default: String| match text(names, key) {
                "" => default,
                given => given.to_owned(),
            };
            let mut columns: Vec<Column> = array(v, "additionalPrinterColumns").iter().map(column).collect();
            if columns.is_empty() {
                columns.push(Column {
                    name: "Age".to_owned(),
                    kind: "date".to_owned(),
                    format: String::new(),
                    description:
                        "CreationTimestamp is a timestamp representing the server time when this object was created."
                            .to_owned(),
                    priority: 0,
                    path: ".metadata.creationTimestamp".to_owned(),
                });
            }
            Arc::new(Resource {
                group: group.to_owned(),
                version: text(v, "name").to_owned(),
                plural: text(names, "plural").to_owned(),
                singular: or("singular", kind.to_lowercase()),
                kind: kind.to_owned(),
                list_kind: or("listKind", format!("{kind}List")),
                short_names: strings(field(names, "shortNames")),
                categories: strings(field(names, "categories")),
                namespaced: text(spec, "scope") == "Namespaced",
                status: sub.get("status").is_some_and(|s| !s.is_null()),
                scale: sub.get("scale").filter(|s| !s.is_null()).map(|s| Scale {
                    spec: text(s, "specReplicasPath").to_owned(),
                    status: text(s, "statusReplicasPath").to_owned(),
                    selector: s.get("labelSelectorPath").and_then(Value::as_str).map(str::to_owned),
                }),
                generation: true,
                unconditional_update: false,
                schema: Some(Arc::new(Schema::new(raw))),
                columns,
                selectable: array(v, "selectableFields")
                    .iter()
                    .map(|f| text(f, "jsonPath").trim_start_matches('.').to_owned())
                    .collect(),
                custom: true,
                storage_group: group.to_owned(),
            })
        })
        .collect()
}

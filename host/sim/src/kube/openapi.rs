//! `/openapi/v3`: schemas of the custom resources from their CRDs, open ones
//! for the built-in kinds, and the paths in which kubectl looks for
//! `fieldValidation`.
//!
//! Knows the resources; nothing of objects.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::resources::Resource;

fn path_of(resource: &Resource) -> String {
    if resource.group.is_empty() {
        format!("api/{}", resource.version)
    } else {
        format!("apis/{}/{}", resource.group, resource.version)
    }
}

/// `/openapi/v3`. `hash` changes when the resources do.
pub(super) fn index(resources: &[Arc<Resource>], hash: u64) -> Value {
    let mut paths = Map::new();
    for r in resources {
        let path = path_of(r);
        let url = format!("/openapi/v3/{path}?hash={hash:016X}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// `/openapi/v3/api/v1` or `/openapi/v3/apis/GROUP/VERSION`; `path` without
/// the prefix.
pub(super) fn document(resources: &[Arc<Resource>], path: &str) -> Option<Value> {
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for r in resources.iter().filter(|r| path_of(r) == path) {
        let name = schema_name(&r.group, &r.version, &r.kind);
        schemas.insert(name.clone(), schema(r));
        schemas.insert(format!("{name}List"), list_schema(r, &name));
        let base = if r.namespaced {
            format!("/{path}/namespaces/{{namespace}}/{}", r.plural)
        } else {
            format!("/{path}/{}", r.plural)
        };
        let item = format!("{base}/{{name}}");
        paths.insert(
            base,
            json!({
                "get": operation(r, "list", &format!("{name}List"), &[]),
                "post": operation(r, "post", &name, &[]),
            }),
        );
        paths.insert(
            item.clone(),
            json!({
                "get": operation(r, "get", &name, &[]),
                "put": operation(r, "put", &name, &[]),
                "patch": operation(r, "patch", &name, PATCHES),
                "delete": operation(r, "delete", &name, &[]),
            }),
        );
        if r.status {
            paths.insert(
                format!("{item}/status"),
                json!({
                    "get": operation(r, "get", &name, &[]),
                    "put": operation(r, "put", &name, &[]),
                    "patch": operation(r, "patch", &name, PATCHES),
                }),
            );
        }
    }
    if schemas.is_empty() {
        return None;
    }
    schemas.insert(META.to_owned(), object_meta());
    schemas.insert(LIST_META.to_owned(), json!({
        "type": "object",
        "description": "ListMeta describes metadata that synthetic resources must have, including lists and various status objects.",
        "properties": {
            "continue": {"type": "string"},
            "remainingItemCount": {"type": "integer", "format": "int64"},
            "resourceVersion": {"type": "string"},
        },
    }));
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.33.0+vmgroup-sim"},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

/// Strategic merge is left out: with it kubectl would compute patches from
/// these open schemas instead of from the types that it knows.
const PATCHES: &[&str] =
    &["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

fn schema_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').filter(|p| !p.is_empty()).rev().collect();
    if parts.is_empty() {
        parts = vec!["io", "k8s", "api", "core"];
    }
    parts.extend([version, kind]);
    parts.join(".")
}

fn gvk(r: &Resource) -> Value {
    json!({"group": r.group, "version": r.version, "kind": r.kind})
}

fn reference(name: &str) -> Value {
    json!({"allOf": [{"$ref": format!("#/components/schemas/{name}")}], "default": {}})
}

fn schema(r: &Resource) -> Value {
    let mut schema = r.raw_schema().cloned().unwrap_or_else(|| {
        json!({
            "type": "object",
            "description": format!("{} as {} has it; the simulator carries no schema of the built-in kinds.", r.kind, r.api_version()),
            "x-kubernetes-preserve-unknown-fields": true,
        })
    });
    if !schema.is_object() {
        schema = json!({"type": "object"});
    }
    strip(&mut schema);
    let properties = super::json::child_mut(&mut schema, "properties");
    properties.insert("apiVersion".to_owned(), json!({
        "type": "string",
        "description": "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
    }));
    properties.insert("kind".to_owned(), json!({
        "type": "string",
        "description": "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
    }));
    let mut metadata = reference(META);
    metadata["description"] = json!(
        "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
    );
    properties.insert("metadata".to_owned(), metadata);
    schema["x-kubernetes-group-version-kind"] = json!([gvk(r)]);
    schema
}

/// `OpenAPI` clients have no use for the rules, and some stumble over them.
fn strip(schema: &mut Value) {
    if let Value::Object(map) = schema {
        map.shift_remove("x-kubernetes-validations");
        map.values_mut().for_each(strip);
    }
}

fn list_schema(r: &Resource, name: &str) -> Value {
    json!({
        "type": "object",
        "description": format!("{} is a list of {}", r.list_kind, r.kind),
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": reference(LIST_META),
            "items": {"type": "array", "items": reference(name)},
        },
        "x-kubernetes-group-version-kind": [
            {"group": r.group, "version": r.version, "kind": r.list_kind}
        ],
    })
}

fn operation(r: &Resource, action: &str, schema: &str, patches: &[&str]) -> Value {
    let parameter =
        |name: &str, kind: &str| json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}});
    let content =
        |name: &str| json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{name}")}}});
    let mut parameters = vec![parameter("pretty", "string")];
    let mut operation = json!({
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(r),
        "responses": {"200": {"description": "OK", "content": content(schema)}},
    });
    if matches!(action, "post" | "put" | "patch") {
        parameters.push(parameter("dryRun", "string"));
        parameters.push(parameter("fieldManager", "string"));
        parameters.push(parameter("fieldValidation", "string"));
    }
    match action {
        "post" | "put" => operation["requestBody"] = json!({"required": true, "content": content(schema)}),
        "patch" => {
            parameters.push(parameter("force", "boolean"));
            let content: Map<String, Value> =
                patches.iter().map(|p| ((*p).to_owned(), json!({"schema": {"type": "object"}}))).collect();
            operation["requestBody"] = json!({"required": true, "content": content});
        }
        "delete" => parameters.push(parameter("dryRun", "string")),
        _ => {}
    }
    operation["parameters"] = Value::Array(parameters);
    operation
}

fn object_meta() -> Value {
    let map = || json!({"type": "object", "additionalProperties": {"type": "string", "default": ""}});
    let time = || json!({"type": "string", "format": "date-time"});
    json!({
        "type": "object",
        "description": "ObjectMeta is metadata that all persisted resources must have, which includes all objects users must create.",
        "properties": {
            "annotations": map(),
            "creationTimestamp": time(),
            "deletionGracePeriodSeconds": {"type": "integer", "format": "int64"},
            "deletionTimestamp": time(),
            "finalizers": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set", "x-kubernetes-patch-strategy": "merge"},
            "generateName": {"type": "string"},
            "generation": {"type": "integer", "format": "int64"},
            "labels": map(),
            "managedFields": {"type": "array", "items": {"type": "object"}},
            "name": {"type": "string"},
            "namespace": {"type": "string"},
            "ownerReferences": {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"], "x-kubernetes-patch-merge-key": "uid", "x-kubernetes-patch-strategy": "merge"},
            "resourceVersion": {"type": "string"},
            "selfLink": {"type": "string"},
            "uid": {"type": "string"},
        },
    })
}

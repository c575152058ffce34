//! Reads the protobuf in which kubectl, from 1.33 on, sends what `kubectl
//! create configmap` and its like make. Answers are always JSON, which it
//! accepts.
//!
//! Carries the field numbers (`generated.proto` of k8s.io/api) of the kinds that
//! kubectl can make; a message with something else in it is refused rather
//! than half read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// Why a message was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProtoError {
    #[error("not a Kubernetes protobuf message")]
    Malformed,
    #[error("the simulator reads {0} as JSON only")]
    Kind(String),
    #[error("the simulator does not know field {0} of this message; send JSON")]
    Field(u64),
}

#[derive(Clone, Copy)]
enum Type {
    Text,
    Int,
    /// An integer behind a pointer: zero means zero.
    OptInt,
    Bool,
    Time,
    Message(&'static [Field]),
    TextMap,
    /// Base64 in JSON.
    BytesMap,
}

struct Field(u64, &'static str, Type, bool);

use Type::{Bool, BytesMap, Int, Message, OptInt, Text, TextMap, Time};

const OWNER: &[Field] = &[
    Field(1, "kind", Text, false),
    Field(3, "name", Text, false),
    Field(4, "uid", Text, false),
    Field(5, "apiVersion", Text, false),
    Field(6, "controller", Bool, false),
    Field(7, "blockOwnerDeletion", Bool, false),
];
const META: &[Field] = &[
    Field(1, "name", Text, false),
    Field(2, "generateName", Text, false),
    Field(3, "namespace", Text, false),
    Field(5, "uid", Text, false),
    Field(6, "resourceVersion", Text, false),
    Field(7, "generation", Int, false),
    Field(8, "creationTimestamp", Time, false),
    Field(9, "deletionTimestamp", Time, false),
    Field(11, "labels", TextMap, false),
    Field(12, "annotations", TextMap, false),
    Field(13, "ownerReferences", Message(OWNER), true),
    Field(14, "finalizers", Text, true),
];
const CONFIG_MAP: &[Field] = &[
    Field(1, "metadata", Message(META), false),
    Field(2, "data", TextMap, false),
    Field(3, "binaryData", BytesMap, false),
    Field(4, "immutable", Bool, false),
];
const SECRET: &[Field] = &[
    Field(1, "metadata", Message(META), false),
    Field(2, "data", BytesMap, false),
    Field(3, "type", Text, false),
    Field(4, "stringData", TextMap, false),
    Field(5, "immutable", Bool, false),
];
const NAMESPACE: &[Field] = &[
    Field(1, "metadata", Message(META), false),
    Field(2, "spec", Message(&[Field(1, "finalizers", Text, true)]), false),
    Field(3, "status", Message(&[Field(1, "phase", Text, false)]), false),
];
const NAMED: &[Field] = &[Field(1, "name", Text, false)];
const SERVICE_ACCOUNT: &[Field] = &[
    Field(1, "metadata", Message(META), false),
    Field(3, "imagePullSecrets", Message(NAMED), true),
    Field(4, "automountServiceAccountToken", Bool, false),
];
const RULE: &[Field] = &[
    Field(1, "verbs", Text, true),
    Field(2, "apiGroups", Text, true),
    Field(3, "resources", Text, true),
    Field(4, "resourceNames", Text, true),
    Field(5, "nonResourceURLs", Text, true),
];
const ROLE: &[Field] = &[Field(1, "metadata", Message(META), false), Field(2, "rules", Message(RULE), true)];
const SUBJECT: &[Field] = &[
    Field(1, "kind", Text, false),
    Field(2, "apiGroup", Text, false),
    Field(3, "name", Text, false),
    Field(4, "namespace", Text, false),
];
const ROLE_REF: &[Field] =
    &[Field(1, "apiGroup", Text, false), Field(2, "kind", Text, false), Field(3, "name", Text, false)];
const ROLE_BINDING: &[Field] = &[
    Field(1, "metadata", Message(META), false),
    Field(2, "subjects", Message(SUBJECT), true),
    Field(3, "roleRef", Message(ROLE_REF), false),
];
const PORT: &[Field] =
    &[Field(1, "name", Text, false), Field(3, "containerPort", Int, false), Field(4, "protocol", Text, false)];
const ENV: &[Field] = &[Field(1, "name", Text, false), Field(2, "value", Text, false)];
const CONTAINER: &[Field] = &[
    Field(1, "name", Text, false),
    Field(2, "image", Text, false),
    Field(3, "command", Text, true),
    Field(4, "args", Text, true),
    Field(6, "ports", Message(PORT), true),
    Field(7, "env", Message(ENV), true),
    Field(14, "imagePullPolicy", Text, false),
];
const POD_SPEC: &[Field] = &[
    Field(2, "containers", Message(CONTAINER), true),
    Field(3, "restartPolicy", Text, false),
    Field(8, "serviceAccountName", Text, false),
];
const TEMPLATE: &[Field] = &[Field(1, "metadata", Message(META), false), Field(2, "spec", Message(POD_SPEC), false)];
const LABELS: &[Field] = &[Field(1, "matchLabels", TextMap, false)];
const DEPLOYMENT_SPEC: &[Field] = &[
    Field(1, "replicas", OptInt, false),
    Field(2, "selector", Message(LABELS), false),
    Field(3, "template", Message(TEMPLATE), false),
];
const DEPLOYMENT: &[Field] =
    &[Field(1, "metadata", Message(META), false), Field(2, "spec", Message(DEPLOYMENT_SPEC), false)];
const PRECONDITIONS: &[Field] = &[Field(1, "uid", Text, false), Field(2, "resourceVersion", Text, false)];
const DELETE_OPTIONS: &[Field] = &[
    Field(1, "gracePeriodSeconds", OptInt, false),
    Field(2, "preconditions", Message(PRECONDITIONS), false),
    Field(3, "orphanDependents", Bool, false),
    Field(4, "propagationPolicy", Text, false),
    Field(5, "dryRun", Text, true),
];
const TYPE_META: &[Field] = &[Field(1, "apiVersion", Text, false), Field(2, "kind", Text, false)];

/// One field on the wire.
enum Wire<'a> {
    Number(u64),
    Data(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, ProtoError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(ProtoError::Malformed)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtoError::Malformed)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], ProtoError> {
        let length = usize::try_from(length).map_err(|_| ProtoError::Malformed)?;
        let (data, rest) = self.0.split_at_checked(length).ok_or(ProtoError::Malformed)?;
        self.0 = rest;
        Ok(data)
    }

    fn field(&mut self) -> Result<Option<(u64, Wire<'a>)>, ProtoError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Number(self.varint()?),
            2 => {
                let length = self.varint()?;
                Wire::Data(self.take(length)?)
            }
            _ => return Err(ProtoError::Malformed),
        };
        Ok(Some((key >> 3, wire)))
    }
}

fn utf8(data: &[u8]) -> Result<&str, ProtoError> {
    std::str::from_utf8(data).map_err(|_| ProtoError::Malformed)
}

/// Whether a field holds nothing: Go writes empty texts and zeros too.
fn empty(wire: &Wire<'_>) -> bool {
    match wire {
        Wire::Number(n) => *n == 0,
        Wire::Data(data) => {
            let mut reader = Reader(data);
            while !reader.0.is_empty() {
                match reader.field() {
                    Ok(Some((_, inner))) if empty(&inner) => {}
                    _ => return false,
                }
            }
            true
        }
    }
}

fn message(data: &[u8], fields: &[Field]) -> Result<Value, ProtoError> {
    let mut object = Map::new();
    let mut reader = Reader(data);
    while let Some((number, wire)) = reader.field()? {
        let Some(Field(_, name, kind, repeated)) = fields.iter().find(|f| f.0 == number) else {
            if empty(&wire) {
                continue;
            }
            return Err(ProtoError::Field(number));
        };
        if let (TextMap | BytesMap, Wire::Data(entry)) = (kind, &wire) {
            let (key, value) = map_entry(entry, matches!(kind, BytesMap))?;
            let map = object.entry((*name).to_owned()).or_insert_with(|| json!({}));
            super::json::object_mut(map).insert(key, value);
            continue;
        }
        let Some(value) = scalar(*kind, &wire, *repeated)? else { continue };
        if *repeated {
            let list = object.entry((*name).to_owned()).or_insert_with(|| json!([]));
            if let Value::Array(list) = list {
                list.push(value);
            }
        } else {
            object.insert((*name).to_owned(), value);
        }
    }
    Ok(Value::Object(object))
}

/// A field's value; `None` for the empty ones that JSON leaves out.
fn scalar(kind: Type, wire: &Wire<'_>, repeated: bool) -> Result<Option<Value>, ProtoError> {
    Ok(match (kind, wire) {
        (Text, Wire::Data(data)) => Some(json!(utf8(data)?)).filter(|_| repeated || !data.is_empty()),
        (Int | OptInt, Wire::Number(n)) => Some(json!(n.cast_signed())).filter(|_| *n != 0 || matches!(kind, OptInt)),
        (Bool, Wire::Number(n)) => Some(json!(*n != 0)),
        (Time, Wire::Data(data)) => {
            let mut reader = Reader(data);
            let mut seconds = 0;
            while let Some((number, wire)) = reader.field()? {
                if let (1, Wire::Number(n)) = (number, wire) {
                    seconds = n.cast_signed();
                }
            }
            let time = jiff::Timestamp::from_second(seconds).map_err(|_| ProtoError::Malformed)?;
            Some(json!(super::store::rfc3339(time))).filter(|_| seconds != 0)
        }
        (Message(fields), Wire::Data(data)) => {
            Some(message(data, fields)?).filter(|m| repeated || m.as_object().is_some_and(|m| !m.is_empty()))
        }
        _ => return Err(ProtoError::Malformed),
    })
}

fn map_entry(data: &[u8], bytes: bool) -> Result<(String, Value), ProtoError> {
    let (mut key, mut value) = (String::new(), json!(""));
    let mut reader = Reader(data);
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Data(data)) => utf8(data)?.clone_into(&mut key),
            (2, Wire::Data(data)) if bytes => value = json!(STANDARD.encode(data)),
            (2, Wire::Data(data)) => value = json!(utf8(data)?),
            _ => return Err(ProtoError::Malformed),
        }
    }
    Ok((key, value))
}

/// Reads a message: the magic number, then `runtime.Unknown` around the object.
pub(super) fn decode(body: &[u8]) -> Result<Value, ProtoError> {
    let body = body.strip_prefix(b"k8s\0").ok_or(ProtoError::Malformed)?;
    let (mut meta, mut raw): (Value, &[u8]) = (json!({}), &[]);
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Data(data)) => meta = message(data, TYPE_META)?,
            (2, Wire::Data(data)) => raw = data,
            _ => {}
        }
    }
    let kind = super::json::text(&meta, "kind").to_owned();
    let fields = match kind.as_str() {
        "ConfigMap" => CONFIG_MAP,
        "Secret" => SECRET,
        "Namespace" => NAMESPACE,
        "ServiceAccount" => SERVICE_ACCOUNT,
        "Role" | "ClusterRole" => ROLE,
        "RoleBinding" | "ClusterRoleBinding" => ROLE_BINDING,
        "Deployment" => DEPLOYMENT,
        "DeleteOptions" => DELETE_OPTIONS,
        _ => return Err(ProtoError::Kind(kind)),
    };
    let mut object = message(raw, fields)?;
    for (key, value) in meta.as_object().into_iter().flatten() {
        super::json::object_mut(&mut object).insert(key.clone(), value.clone());
    }
    Ok(object)
}

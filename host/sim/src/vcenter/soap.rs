//! SOAP envelopes: reads a request into a tree by local names, writes answers
//! and faults.
//!
//! Must not know what a method means.

use std::borrow::Cow;
use std::fmt::Write as _;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::entity::Moref;
use super::value::{Field, Val, text};

/// The deepest nesting of elements that is read.
const MAX_DEPTH: usize = 64;

/// An element of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// The local name.
    pub(super) name: String,
    /// The local part of `xsi:type`.
    pub(super) xsi_type: Option<String>,
    /// The attribute `type` of a reference.
    pub(super) ref_type: Option<String>,
    pub(super) text: String,
    pub(super) children: Vec<Node>,
}

impl Node {
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    pub(super) fn str(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.str(name).is_some_and(|value| matches!(value.trim(), "true" | "1"))
    }

    /// A number, or the fault that says which one is not.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, VimFault> {
        self.str(name).map(|value| value.trim().parse().map_err(|_| VimFault::invalid_argument(name))).transpose()
    }

    /// What the element itself refers to.
    pub(super) fn as_moref(&self) -> Result<Moref, VimFault> {
        let type_name = self.ref_type.as_deref().unwrap_or_default();
        Moref::parse(type_name, self.text.trim()).ok_or_else(|| {
            VimFault::new(
                "ManagedObjectNotFound",
                "The object has already been deleted or has not been completely created",
            )
            .unknown_reference(type_name, self.text.trim())
        })
    }

    /// An optional reference in a child.
    pub(super) fn moref(&self, name: &str) -> Result<Option<Moref>, VimFault> {
        self.child(name).map(Self::as_moref).transpose()
    }
}

/// Why a body is not a SOAP request.
#[derive(Debug, thiserror::Error)]
pub(super) enum ParseError {
    #[error("not well-formed XML")]
    Xml(#[from] quick_xml::Error),
    #[error("a malformed attribute")]
    Attribute(#[from] quick_xml::events::attributes::AttrError),
    #[error("not UTF-8")]
    Encoding(#[from] quick_xml::encoding::EncodingError),
    #[error("no request in a SOAP body")]
    NoRequest,
    #[error("elements nest too deeply")]
    TooDeep,
}

/// The request in a SOAP envelope: the first element of its body.
pub(super) fn parse(body: &str) -> Result<Node, ParseError> {
    let mut reader = Reader::from_str(body);
    let mut open: Vec<Node> = vec![Node::default()];
    loop {
        match reader.read_event()? {
            Event::Start(start) => {
                if open.len() > MAX_DEPTH {
                    return Err(ParseError::TooDeep);
                }
                open.push(element(&start)?);
            }
            Event::Empty(start) => {
                let node = element(&start)?;
                if let Some(parent) = open.last_mut() {
                    parent.children.push(node);
                }
            }
            Event::End(_) => {
                let node = open.pop().ok_or(ParseError::NoRequest)?;
                open.last_mut().ok_or(ParseError::NoRequest)?.children.push(node);
            }
            Event::Text(content) => {
                if let Some(node) = open.last_mut() {
                    node.text.push_str(&content);
                }
            }
            Event::CData(content) => {
                if let Some(node) = open.last_mut() {
                    node.text.push_str(&content);
                }
            }
            Event::GeneralRef(reference) => {
                let resolved = match reference.resolve_char_ref()? {
                    Some(char) => Some(char),
                    None => match &*reference {
                        "lt" => Some('<'),
                        "gt" => Some('>'),
                        "amp" => Some('&'),
                        "quot" => Some('"'),
                        "apos" => Some('\''),
                        _ => None,
                    },
                };
                if let Some(node) = open.last_mut() {
                    node.text.extend(resolved);
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    let envelope = open.into_iter().next().unwrap_or_default();
    envelope
        .children
        .into_iter()
        .find(|node| node.name == "Envelope")
        .and_then(|envelope| envelope.children.into_iter().find(|node| node.name == "Body"))
        .and_then(|body| body.children.into_iter().next())
        .ok_or(ParseError::NoRequest)
}

fn local(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

fn element(start: &BytesStart<'_>) -> Result<Node, ParseError> {
    let mut node = Node { name: local(start.name().as_ref()).to_owned(), ..Node::default() };
    for attribute in start.attributes() {
        let attribute = attribute?;
        let key = attribute.key.as_ref();
        let value = attribute.normalized_value(XmlVersion::Implicit1_0)?;
        if key == "type" {
            node.ref_type = Some(value.into_owned());
        } else if local(key) == "type" {
            node.xsi_type = Some(local(&value).to_owned());
        }
    }
    Ok(node)
}

/// Appends `raw` with XML's special characters escaped. What XML cannot hold
/// at all becomes a space.
pub(super) fn escape(raw: &str, out: &mut String) {
    for char in raw.chars() {
        match char {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\r' => out.push_str("&#xd;"),
            '\t' | '\n' => out.push(char),
            char if char < ' ' => out.push(' '),
            char => out.push(char),
        }
    }
}

/// A vim25 fault: its type, its own fields, and a text for people.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct VimFault {
    pub(super) kind: Cow<'static, str>,
    fields: Vec<Field>,
    message: Cow<'static, str>,
    /// A reference that cannot be a [`Moref`] of ours.
    unknown: Option<(String, String)>,
}

impl VimFault {
    pub(super) fn new(kind: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: kind.into(), fields: Vec::new(), message: message.into(), unknown: None }
    }

    pub(super) fn with(mut self, field: &'static str, value: Val) -> Self {
        self.fields.push((field, value));
        self
    }

    fn unknown_reference(mut self, type_name: &str, value: &str) -> Self {
        self.unknown = Some((type_name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn invalid_argument(property: &str) -> Self {
        Self::new("InvalidArgument", format!("A specified parameter was not correct: {property}"))
            .with("invalidProperty", text(property.to_owned()))
    }

    pub(super) fn not_found(moref: Moref) -> Self {
        Self::new(
            "ManagedObjectNotFound",
            format!(
                "The object 'vim.{}:{moref}' has already been deleted or has not been completely created",
                moref.kind.name()
            ),
        )
        .with("obj", Val::Ref(moref))
    }

    pub(super) fn not_authenticated(object: Moref) -> Self {
        Self::new("NotAuthenticated", "The session is not authenticated.")
            .with("object", Val::Ref(object))
            .with("privilegeId", text("System.View"))
    }

    pub(super) fn no_permission(object: Moref, privilege: &'static str) -> Self {
        Self::new("NoPermission", "Permission to perform this operation was denied.")
            .with("object", Val::Ref(object))
            .with("privilegeId", text(privilege))
    }

    /// A fault of the script, with the fields that its type requires.
    pub(super) fn scripted(kind: &str, object: Option<Moref>) -> Self {
        let object = object.unwrap_or_else(|| Moref::singleton(super::Kind::ServiceInstance));
        match kind {
            "NotAuthenticated" => Self::not_authenticated(object),
            "ManagedObjectNotFound" => Self::not_found(object),
            "NoPermission" => Self::no_permission(object, "VirtualMachine.Inventory.Create"),
            "InvalidArgument" => Self::invalid_argument("spec"),
            "InvalidPowerState" => Self::new(kind.to_owned(), "Not in the current state.")
                .with("existingState", Val::Enum("VirtualMachinePowerState", "poweredOff")),
            "DuplicateName" => Self::new(kind.to_owned(), "The name already exists.")
                .with("name", text("name"))
                .with("object", Val::Ref(object)),
            "InvalidName" => Self::new(kind.to_owned(), "The name is not valid.").with("name", text("name")),
            "NoDiskSpace" => Self::new(kind.to_owned(), "Insufficient disk space.")
                .with("file", text(""))
                .with("datastore", text("LocalDS_0")),
            "InsufficientMemoryResourcesFault" => {
                Self::new(kind.to_owned(), "The host does not have sufficient memory resources.")
                    .with("unreserved", Val::Long(0))
                    .with("requested", Val::Long(1 << 30))
            }
            "TaskInProgress" => Self::new(kind.to_owned(), "Another task is already in progress.")
                .with("task", Val::Ref(Moref::new(super::Kind::Task, 1))),
            _ => Self::new(kind.to_owned(), format!("A simulated fault: {kind}")),
        }
    }

    fn write_fields(&self, out: &mut String) {
        if let Some((type_name, value)) = &self.unknown {
            let _ = write!(out, "<obj type=\"");
            escape(type_name, out);
            out.push_str("\">");
            escape(value, out);
            out.push_str("</obj>");
        }
        for (name, value) in &self.fields {
            value.write(name, false, out);
        }
    }

    /// What a `LocalizedMethodFault` holds.
    pub(super) fn write_localized(&self, out: &mut String) {
        let _ = write!(out, "<fault xsi:type=\"{}\">", self.kind);
        self.write_fields(out);
        out.push_str("</fault><localizedMessage>");
        escape(&self.message, out);
        out.push_str("</localizedMessage>");
    }

    /// As a SOAP envelope.
    pub(super) fn envelope(&self) -> String {
        let mut out = String::from(HEAD);
        out.push_str("<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>");
        escape(&self.message, &mut out);
        let _ = write!(out, "</faultstring><detail><{0}Fault xmlns=\"urn:vim25\" xsi:type=\"{0}\">", self.kind);
        self.write_fields(&mut out);
        let _ = write!(out, "</{}Fault></detail></soapenv:Fault>", self.kind);
        out.push_str(TAIL);
        out
    }
}

const HEAD: &str = concat!(
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soapenv:Envelope",
    " xmlns:soapenc=\"http://schemas.xmlsoap.org/soap/encoding/\"",
    " xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\"",
    " xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\"",
    " xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\n<soapenv:Body>\n",
);
const TAIL: &str = "\n</soapenv:Body>\n</soapenv:Envelope>";

/// The answer to `method` as a SOAP envelope; `content` is what the response
/// element holds.
pub(super) fn answer(method: &str, content: &str) -> String {
    format!("{HEAD}<{method}Response xmlns=\"urn:vim25\">{content}</{method}Response>{TAIL}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_request_whatever_its_prefixes() {
        let node = parse(
            r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
            <v:Find xmlns:v="urn:vim25" xmlns:i="http://www.w3.org/2001/XMLSchema-instance">
            <v:_this type="SearchIndex">SearchIndex</v:_this>
            <v:spec i:type="v:Spec"><v:name>a &amp; &#98;</v:name></v:spec></v:Find></s:Body></s:Envelope>"#,
        )
        .unwrap();
        assert_eq!(node.name, "Find");
        assert_eq!(node.moref("_this").unwrap().unwrap().value(), "SearchIndex");
        let spec = node.child("spec").unwrap();
        assert_eq!(spec.xsi_type.as_deref(), Some("Spec"));
        assert_eq!(spec.str("name"), Some("a & b"));
    }

    #[test]
    fn refuses_what_is_no_request() {
        assert!(parse("<a>").is_err());
        assert!(parse("<a></b>").is_err());
        assert!(parse("hello").is_err());
        assert!(parse(&"<a>".repeat(10_000)).is_err());
    }
}

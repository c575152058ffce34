//! XML in and out, as far as SOAP needs it: a small element tree, types by
//! namespace and local name, text escaped. It knows no vim25.

use std::fmt::Write as _;

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, NamespaceResolver, ResolveResult};
use quick_xml::reader::NsReader;

const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// vim25 nests some ten levels; a tree much deeper is an attack on the stack.
const MAX_DEPTH: usize = 128;

/// An element: its name without prefix, its type, its text, its children.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Element {
    /// Local name.
    pub(crate) name: String,
    /// The local part of `xsi:type`, under whatever prefix it came.
    pub(crate) xsi_type: Option<String>,
    /// The plain attribute `type`, which managed object references carry.
    pub(crate) ref_type: Option<String>,
    /// The element's own text, unescaped, blank text dropped if it has children.
    pub(crate) text: String,
    /// Children in order.
    pub(crate) children: Vec<Element>,
}

impl Element {
    /// The first child of this name.
    pub(crate) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All children of this name.
    pub(crate) fn children_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> + 'a {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the first child of this name; empty if there is none.
    pub(crate) fn text_of(&self, name: &str) -> &str {
        self.child(name).map_or("", |child| child.text.as_str())
    }

    /// The element at a path of names.
    pub(crate) fn at(&self, path: &[&str]) -> Option<&Element> {
        path.iter().try_fold(self, |element, name| element.child(name))
    }

    /// `true` or `1`.
    pub(crate) fn is_true(&self) -> bool {
        matches!(self.text.trim(), "true" | "1")
    }
}

/// Reads a document into its root element.
pub(crate) fn parse(document: &[u8]) -> Result<Element, String> {
    let text = std::str::from_utf8(document).map_err(|error| error.to_string())?;
    let mut reader = NsReader::from_str(text);
    let mut open: Vec<Element> = Vec::new();
    loop {
        let event = reader.read_event().map_err(|error| error.to_string())?;
        match event {
            Event::Start(start) => {
                if open.len() >= MAX_DEPTH {
                    return Err("it is nested too deeply".to_owned());
                }
                let element = element_of(&start, reader.resolver())?;
                open.push(element);
            }
            Event::Empty(start) => {
                let element = element_of(&start, reader.resolver())?;
                if let Some(root) = close(element, &mut open) {
                    return Ok(root);
                }
            }
            Event::End(_) => {
                let Some(element) = open.pop() else {
                    return Err("it ends an element that it did not begin".to_owned());
                };
                if let Some(root) = close(element, &mut open) {
                    return Ok(root);
                }
            }
            Event::Text(text) => add_text(&mut open, &text.xml_content(XmlVersion::Implicit1_0)),
            Event::CData(data) => add_text(&mut open, &data.xml_content(XmlVersion::Implicit1_0)),
            Event::GeneralRef(reference) => {
                let resolved = match reference.resolve_char_ref().map_err(|error| error.to_string())? {
                    Some(c) => c,
                    None => match reference.as_ref() {
                        "lt" => '<',
                        "gt" => '>',
                        "amp" => '&',
                        "apos" => '\'',
                        "quot" => '"',
                        other => return Err(format!("it has the unknown entity {other:?}")),
                    },
                };
                add_text(&mut open, resolved.encode_utf8(&mut [0; 4]));
            }
            Event::Eof => return Err("it ends too early".to_owned()),
            Event::DocType(_) => return Err("it has a document type".to_owned()),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
}

fn add_text(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

/// Hangs a finished element into its parent, or gives it back as the root.
fn close(mut element: Element, open: &mut [Element]) -> Option<Element> {
    if !element.children.is_empty() && element.text.trim().is_empty() {
        element.text.clear();
    }
    match open.last_mut() {
        Some(parent) => {
            parent.children.push(element);
            None
        }
        None => Some(element),
    }
}

fn element_of(start: &BytesStart<'_>, resolver: &NamespaceResolver) -> Result<Element, String> {
    let mut element = Element { name: start.local_name().as_ref().to_owned(), ..Element::default() };
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        let (namespace, local) = resolver.resolve_attribute(attribute.key);
        if local.as_ref() != "type" {
            continue;
        }
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| error.to_string())?;
        match namespace {
            ResolveResult::Bound(Namespace(namespace)) if namespace == XSI => {
                let local = value.rsplit(':').next().unwrap_or(&value);
                element.xsi_type = Some(local.to_owned());
            }
            ResolveResult::Unbound => element.ref_type = Some(value.into_owned()),
            _ => {}
        }
    }
    Ok(element)
}

/// Writes XML. Elements nest by closures, so that what is opened is closed.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    out: String,
}

impl Writer {
    /// An element with children.
    pub(crate) fn node(&mut self, name: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.tag(name, "", inside)
    }

    /// An element with children and an `xsi:type` of vim25.
    pub(crate) fn typed(&mut self, name: &str, xsi_type: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.tag(name, &format!(" xsi:type=\"{xsi_type}\""), inside)
    }

    /// An element with text.
    pub(crate) fn text(&mut self, name: &str, text: &str) -> &mut Self {
        self.tag(name, "", |w| {
            w.out.push_str(&quick_xml::escape::escape(text));
        })
    }

    /// An element with text and an `xsi:type` of XML Schema.
    pub(crate) fn xsd_string(&mut self, name: &str, text: &str) -> &mut Self {
        self.tag(name, " xsi:type=\"xsd:string\"", |w| {
            w.out.push_str(&quick_xml::escape::escape(text));
        })
    }

    /// An element with a number or a truth value.
    pub(crate) fn value(&mut self, name: &str, value: impl std::fmt::Display) -> &mut Self {
        self.tag(name, "", |w| {
            let _ = write!(w.out, "{value}");
        })
    }

    /// A managed object reference.
    pub(crate) fn reference(&mut self, name: &str, kind: &str, id: &str) -> &mut Self {
        let kind = quick_xml::escape::escape(kind).into_owned();
        self.tag(name, &format!(" type=\"{kind}\""), |w| {
            w.out.push_str(&quick_xml::escape::escape(id));
        })
    }

    /// An element as it was read, under another name. Types are vim25's own.
    pub(crate) fn element(&mut self, name: &str, element: &Element) -> &mut Self {
        let escaped = |text: &str| quick_xml::escape::escape(text).into_owned();
        let xsi = element.xsi_type.as_deref().map(|name| format!(" xsi:type=\"{}\"", escaped(name)));
        let reference = element.ref_type.as_deref().map(|name| format!(" type=\"{}\"", escaped(name)));
        let attributes = format!("{}{}", xsi.unwrap_or_default(), reference.unwrap_or_default());
        self.tag(name, &attributes, |w| {
            w.out.push_str(&escaped(&element.text));
            for child in &element.children {
                w.element(&child.name, child);
            }
        })
    }

    /// The document so far.
    pub(crate) fn into_string(self) -> String {
        self.out
    }

    fn tag(&mut self, name: &str, attributes: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let _ = write!(self.out, "<{name}{attributes}>");
        inside(self);
        let _ = write!(self.out, "</{name}>");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_by_namespace_whatever_the_prefix() {
        for attribute in [
            "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"vim25:ManagedObjectReference\"",
            "xmlns:_XMLSchema-instance=\"http://www.w3.org/2001/XMLSchema-instance\" _XMLSchema-instance:type=\"ManagedObjectReference\"",
        ] {
            let root = parse(format!("<val {attribute} type=\"Folder\">group-v3</val>").as_bytes()).unwrap();
            assert_eq!(root.xsi_type.as_deref(), Some("ManagedObjectReference"));
            assert_eq!(root.ref_type.as_deref(), Some("Folder"));
            assert_eq!(root.text, "group-v3");
        }
    }

    #[test]
    fn text_survives_the_way_there_and_back() {
        let text = "a<b>&\"c' \u{e9}\n";
        let mut writer = Writer::default();
        writer.node("a", |w| {
            w.text("b", text);
        });
        let root = parse(writer.into_string().as_bytes()).unwrap();
        assert_eq!(root.text_of("b"), text);
    }

    #[test]
    fn what_is_cut_or_hostile_is_an_error() {
        let deep = "<a>".repeat(100_000);
        for document in
            ["", "<a>", "<a><b></a>", "<a>&nope;</a>", "not xml", "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>", &deep]
        {
            assert!(parse(document.as_bytes()).is_err(), "{document:.40}");
        }
    }
}

//! vim25 values and how they are written as XML.
//!
//! A struct's fields are listed in the order of the schema, base type first;
//! an unset field is known, and left out when written.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use super::entity::Moref;
use super::soap::{VimFault, escape};

pub(super) type Field = (&'static str, Val);

/// A value of vim25's type system.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Val {
    Unset,
    Bool(bool),
    Short(i16),
    Int(i32),
    Long(i64),
    Str(Cow<'static, str>),
    /// A member of an enumeration: the enumeration's type name and the member.
    Enum(&'static str, &'static str),
    /// Time since 1970.
    Time(Duration),
    Ref(Moref),
    Struct(&'static str, Vec<Field>),
    /// The declared element type and the elements.
    List(&'static str, Vec<Val>),
    /// Where the schema declares a base type or `anyType`: written with its type.
    Poly(Box<Val>),
    /// A `LocalizedMethodFault`.
    Fault(Box<VimFault>),
}

pub(super) fn text(value: impl Into<Cow<'static, str>>) -> Val {
    Val::Str(value.into())
}

pub(super) fn int(value: impl TryInto<i32>) -> Val {
    Val::Int(value.try_into().unwrap_or(i32::MAX))
}

pub(super) fn short(value: impl TryInto<i16>) -> Val {
    Val::Short(value.try_into().unwrap_or(i16::MAX))
}

pub(super) fn long(value: impl TryInto<i64>) -> Val {
    Val::Long(value.try_into().unwrap_or(i64::MAX))
}

pub(super) fn refs(morefs: impl IntoIterator<Item = Moref>) -> Val {
    Val::List("ManagedObjectReference", morefs.into_iter().map(Val::Ref).collect())
}

pub(super) fn poly(value: Val) -> Val {
    Val::Poly(Box::new(value))
}

/// An `OptionValue` with a string.
pub(super) fn option_value(key: &str, value: &str) -> Val {
    Val::Struct("OptionValue", vec![("key", text(key.to_owned())), ("value", poly(text(value.to_owned())))])
}

/// The references in a value, for a traversal.
pub(super) fn references(value: &Val, into: &mut Vec<Moref>) {
    match value {
        Val::Ref(moref) => into.push(*moref),
        Val::List(_, items) => items.iter().for_each(|item| references(item, into)),
        Val::Poly(inner) => references(inner, into),
        _ => {}
    }
}

impl Val {
    /// The type name with its prefix, as `xsi:type` has it.
    fn type_name(&self) -> Cow<'static, str> {
        match self {
            Self::Unset => Cow::Borrowed("xsd:anyType"),
            Self::Bool(_) => Cow::Borrowed("xsd:boolean"),
            Self::Short(_) => Cow::Borrowed("xsd:short"),
            Self::Int(_) => Cow::Borrowed("xsd:int"),
            Self::Long(_) => Cow::Borrowed("xsd:long"),
            Self::Str(_) => Cow::Borrowed("xsd:string"),
            Self::Time(_) => Cow::Borrowed("xsd:dateTime"),
            Self::Ref(_) => Cow::Borrowed("ManagedObjectReference"),
            Self::Enum(name, _) | Self::Struct(name, _) => Cow::Borrowed(name),
            Self::List(element, _) => {
                let mut name = String::from("ArrayOf");
                let mut chars = element.chars();
                name.extend(chars.next().map(|first| first.to_ascii_uppercase()));
                name.push_str(chars.as_str());
                Cow::Owned(name)
            }
            Self::Poly(inner) => inner.type_name(),
            Self::Fault(_) => Cow::Borrowed("LocalizedMethodFault"),
        }
    }

    /// Writes the value as an element; `typed` adds its `xsi:type`. A list
    /// that is not typed is a repeated element, as in a struct.
    pub(super) fn write(&self, name: &str, typed: bool, out: &mut String) {
        match self {
            Self::Unset => return,
            Self::Poly(inner) => return inner.write_poly(name, out),
            Self::List(_, items) if !typed => {
                for item in items {
                    item.write(name, false, out);
                }
                return;
            }
            _ => {}
        }
        let _ = write!(out, "<{name}");
        if let Self::Ref(moref) = self {
            let _ = write!(out, " type=\"{}\"", moref.kind.name());
        }
        if typed {
            let _ = write!(out, " xsi:type=\"{}\"", self.type_name());
        }
        out.push('>');
        self.write_content(out);
        let _ = write!(out, "</{name}>");
    }

    /// A list of polymorphic values has the type on each of its elements.
    fn write_poly(&self, name: &str, out: &mut String) {
        if let Self::List(_, items) = self {
            for item in items {
                item.write(name, true, out);
            }
        } else {
            self.write(name, true, out);
        }
    }

    fn write_content(&self, out: &mut String) {
        match self {
            Self::Unset | Self::Poly(_) => {}
            Self::Fault(fault) => fault.write_localized(out),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Short(value) => {
                let _ = write!(out, "{value}");
            }
            Self::Int(value) => {
                let _ = write!(out, "{value}");
            }
            Self::Long(value) => {
                let _ = write!(out, "{value}");
            }
            Self::Str(value) => escape(value, out),
            Self::Enum(_, value) => out.push_str(value),
            Self::Time(since) => out.push_str(&timestamp(*since)),
            Self::Ref(moref) => {
                let _ = write!(out, "{moref}");
            }
            Self::Struct(_, fields) => {
                for (name, value) in fields {
                    value.write(name, false, out);
                }
            }
            Self::List(element, items) => {
                for item in items {
                    item.write(element, true, out);
                }
            }
        }
    }

    /// The part of a value that the rest of a property path names:
    /// `powerState`, `extraConfig["key"].value`, `device[2000]`. `Err` if there
    /// can be no such part.
    pub(super) fn descend(&self, path: &str) -> Result<Self, ()> {
        let (head, rest) = split_path(path);
        let (name, key) = match head.split_once('[') {
            Some((name, key)) => (name, Some(key.trim_end_matches(']').trim_matches('"'))),
            None => (head, None),
        };
        let found = match self {
            Self::Unset | Self::Fault(_) => return Ok(Self::Unset),
            Self::Poly(inner) => return inner.descend(path),
            Self::Struct(_, fields) => &fields.iter().find(|(field, _)| *field == name).ok_or(())?.1,
            _ => return Err(()),
        };
        let keyed = match key {
            None => found.clone(),
            Some(key) => found.by_key(key)?,
        };
        match rest {
            None => Ok(keyed.unwrapped()),
            Some(rest) => keyed.descend(rest),
        }
    }

    /// The element of a list whose `key` this is.
    pub(super) fn by_key(&self, key: &str) -> Result<Self, ()> {
        let items = match self {
            Self::Unset => return Ok(Self::Unset),
            Self::Poly(inner) => return inner.by_key(key),
            Self::List(_, items) => items,
            _ => return Err(()),
        };
        let found = items.iter().find(|item| {
            matches!(item, Self::Struct(_, fields) if fields.iter().any(|(name, value)| {
                *name == "key" && {
                    let mut written = String::new();
                    value.write_content(&mut written);
                    written == key
                }
            }))
        });
        Ok(found.cloned().unwrap_or(Self::Unset))
    }

    fn unwrapped(self) -> Self {
        match self {
            Self::Poly(inner) => *inner,
            other => other,
        }
    }
}

/// The first segment of a property path, and the rest. A dot within a key's
/// brackets is part of the key.
pub(super) fn split_path(path: &str) -> (&str, Option<&str>) {
    let mut quoted = false;
    for (at, byte) in path.bytes().enumerate() {
        match byte {
            b'[' => quoted = true,
            b']' => quoted = false,
            b'.' if !quoted => return (&path[..at], Some(&path[at + 1..])),
            _ => {}
        }
    }
    (path, None)
}

/// Time since 1970 as `xsd:dateTime`.
pub(super) fn timestamp(since: Duration) -> String {
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let micros = i32::try_from(since.subsec_micros()).unwrap_or(0);
    jiff::Timestamp::new(seconds, micros * 1_000).map(|at| format!("{at:.6}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_descends_into_structs_and_by_key() {
        let config = Val::Struct(
            "VirtualMachineConfigInfo",
            vec![("annotation", Val::Unset), ("extraConfig", Val::List("OptionValue", vec![option_value("a.b", "1")]))],
        );
        assert_eq!(config.descend("annotation"), Ok(Val::Unset));
        assert_eq!(config.descend("extraConfig[\"a.b\"].value"), Ok(text("1")));
        assert_eq!(config.descend("extraConfig[\"none\"].value"), Ok(Val::Unset));
        assert_eq!(config.descend("nonsense"), Err(()));
    }

    #[test]
    fn lists_are_arrays_at_the_top_and_repeated_inside() {
        let list = Val::List("string", vec![text("a"), text("<b>")]);
        let mut out = String::new();
        list.write("val", true, &mut out);
        assert_eq!(
            out,
            "<val xsi:type=\"ArrayOfString\"><string xsi:type=\"xsd:string\">a</string>\
             <string xsi:type=\"xsd:string\">&lt;b&gt;</string></val>"
        );
        out.clear();
        list.write("path", false, &mut out);
        assert_eq!(out, "<path>a</path><path>&lt;b&gt;</path>");
    }

    #[test]
    fn times_are_in_utc() {
        assert_eq!(timestamp(Duration::from_millis(1_500)), "1970-01-01T00:00:01.500000Z");
    }
}

//! What a plugin is and says of itself, without a configuration and without
//! asking it anything: for whoever has the file and wonders what it is.

use std::collections::BTreeMap;

use serde::Serialize;
use wasmparser::{KnownCustom, Parser, Payload};

use crate::check::{CheckError, Stage};
use crate::shape::{self, Shape};
use crate::wit::lifecycle::Description;
use crate::{Digest, Host, Kind, Source, source};

/// What there is to know of a plugin. Sizes in bytes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// The questions that it answers in a version that this host speaks.
    pub kinds: Vec<Kind>,
    /// The world of the contract that has these exports, where there is one.
    pub world: Option<&'static str>,
    /// Imports with their versions, as in the component.
    pub imports: Vec<String>,
    /// Exports with their versions, as in the component.
    pub exports: Vec<String>,
    /// What it says of itself; why not, where it does not get as far.
    #[serde(skip)]
    pub description: Result<Description, CheckError>,
    /// Who made it: field (`language`, `processed-by`), name and version.
    pub producers: Vec<Producer>,
    /// What identifies its code.
    pub digest: Digest,
    /// As stored.
    pub stored_bytes: usize,
    /// Unpacked.
    pub bytes: usize,
    /// Functions with code.
    pub functions: usize,
    /// Bytes by kind of section, over all modules inside, largest first.
    pub sections: Vec<Section>,
}

/// An entry of the `producers` sections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Producer {
    /// `language`, `processed-by` or `sdk`.
    pub field: String,
    /// `Rust`, `wit-bindgen-rust`, …
    pub name: String,
    /// Its version, in its own way of counting.
    pub version: String,
}

/// How much of one kind of section there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Section {
    /// `code`, `data`, `custom name`, …
    pub name: String,
    /// Bytes in all of them.
    pub bytes: usize,
}

impl Host {
    /// The questions that a plugin answers in a version that this host speaks, by
    /// its exports; none where it is no component. Compiles nothing.
    pub fn answers(&self, source: &Source) -> Vec<Kind> {
        let unpacked = source::unpack(&source.bytes, self.limits()).ok();
        let shape = unpacked.and_then(|bytes| shape::parse(&bytes, self.limits()).ok());
        shape.map_or_else(Vec::new, |shape| kinds(&shape))
    }

    /// Looks at a plugin. Fails where it is no component at all; a component that
    /// is no policy is told apart by its description, which is then an error.
    ///
    /// Blocks as [`check`](Self::check) does.
    pub fn inspect(&self, source: &Source) -> Result<Inspection, CheckError> {
        let limits = self.limits();
        let kind = Kind::Naming;
        let bytes = source::unpack(&source.bytes, limits)
            .map_err(|problem| CheckError::at(Stage::Size, problem.into(), kind, source, Vec::new()))?;
        let shape = shape::parse(&bytes, limits)
            .map_err(|problem| CheckError::at(Stage::Parse, problem.into(), kind, source, Vec::new()))?;
        let kinds = kinds(&shape);
        let description = self.describe(kinds.first().copied().unwrap_or(kind), source);
        let (producers, sections) = contents(&bytes);
        let names = |items: &[shape::Extern]| items.iter().map(ToString::to_string).collect();
        Ok(Inspection {
            world: world(&shape, &kinds),
            kinds,
            imports: names(&shape.imports),
            exports: names(&shape.exports),
            description,
            producers,
            digest: Digest::of(&bytes),
            stored_bytes: source.bytes.len(),
            bytes: bytes.len(),
            functions: shape.functions,
            sections,
        })
    }
}

fn kinds(shape: &Shape) -> Vec<Kind> {
    Kind::ALL.into_iter().filter(|kind| shape::interfaces(shape, *kind).is_ok()).collect()
}

/// The world with just these exports: `lifecycle` and the questions.
fn world(shape: &Shape, kinds: &[Kind]) -> Option<&'static str> {
    if shape.exports.len() != kinds.len() + 1 {
        return None;
    }
    match kinds {
        [Kind::Naming] => Some("naming-policy"),
        [Kind::Placement] => Some("placement-policy"),
        [Kind::Scaling] => Some("scaling-policy"),
        [Kind::Naming, Kind::Placement, Kind::Scaling] => Some("full-policy"),
        _ => None,
    }
}

/// Producers and section sizes of a component that has been validated; what
/// cannot be read is left out.
fn contents(bytes: &[u8]) -> (Vec<Producer>, Vec<Section>) {
    let mut producers = Vec::new();
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    let mut add = |name: &str, bytes: usize| *sizes.entry(name.to_owned()).or_default() += bytes;
    for payload in Parser::new(0).parse_all(bytes).map_while(Result::ok) {
        match &payload {
            Payload::CustomSection(section) => {
                add(&format!("custom {}", section.name()), section.range().len());
                if let KnownCustom::Producers(fields) = section.as_known() {
                    for field in fields.into_iter().map_while(Result::ok) {
                        for value in field.values.into_iter().map_while(Result::ok) {
                            producers.push(Producer {
                                field: field.name.to_owned(),
                                name: value.name.to_owned(),
                                version: value.version.to_owned(),
                            });
                        }
                    }
                }
            }
            Payload::CodeSectionStart { range, .. } => add("code", range.len()),
            Payload::DataSection(section) => add("data", section.range().len()),
            // Containers: what is in them is counted by itself.
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } | Payload::CodeSectionEntry(_) => {}
            other => {
                if let Some((_, range)) = other.as_section() {
                    add("types, tables and the like", range.len());
                }
            }
        }
    }
    producers.sort();
    producers.dedup();
    let mut sections: Vec<Section> = sizes.into_iter().map(|(name, bytes)| Section { name, bytes }).collect();
    sections.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    (producers, sections)
}

//! Reads what a plugin is before any of it is compiled: whether it is a valid
//! component at all, what it imports and exports, and whether its size is spread
//! so that a compiler can cope. Knows wasmparser, runs nothing.

use std::fmt;

use wasmparser::{ComponentInstance, ComponentTypeRef, Encoding, Parser, Payload, Validator, WasmFeatures};

use crate::{Contract, Kind, Limits};

/// The package of the contract.
const PACKAGE: &str = "vmgroup:policy";

/// Why bytes are not a plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseProblem {
    /// Something else altogether.
    #[error("it is not WebAssembly: it looks like {0}")]
    NotWasm(&'static str),
    /// Machine code, precompiled by wasmtime or another compiler.
    #[error("it is native code (ELF), as a precompiled .cwasm is; native code is never loaded")]
    Native,
    /// A WebAssembly module without the component around it.
    #[error("it is a WebAssembly core module, not a component")]
    CoreModule,
    /// The end is missing.
    #[error("it ends after {bytes} bytes in the middle of a section: the file is truncated")]
    Truncated {
        /// What there is.
        bytes: usize,
    },
    /// Damaged, or made with features that are not allowed.
    #[error("it is not a valid component: {message} (at byte {offset})")]
    Invalid {
        /// What the validator says.
        message: String,
        /// Where.
        offset: usize,
    },
    /// One function that is too large to compile in reasonable time.
    #[error("one of its functions has {bytes} bytes of code, at most {limit} are allowed")]
    FunctionTooLarge {
        /// Its size.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Too many functions.
    #[error("it has more than the {limit} functions that are allowed")]
    TooManyFunctions {
        /// What is allowed.
        limit: usize,
    },
    /// Components that instantiate components that instantiate components:
    /// thirty lines of that unfold to a billion instances.
    #[error("it instantiates components inside a nested component, which is not allowed")]
    NestedInstances,
    /// Too many instances of nested components.
    #[error("it instantiates more than {limit} nested components")]
    TooManyInstances {
        /// What is allowed.
        limit: usize,
    },
}

/// Why a plugin cannot serve the question that it was named for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceProblem {
    /// Imports beyond the contract's.
    #[error("it imports what a policy may not have: {}", .imports.join(", "))]
    ForbiddenImports {
        /// Their names as in the component.
        imports: Vec<String>,
    },
    /// Made for another version of the contract.
    #[error("it was made for {PACKAGE} {found}, this operator speaks {}: {}", Contract::spoken(), .interfaces.join(", "))]
    OtherVersion {
        /// The version it was made for.
        found: String,
        /// The interfaces that say so.
        interfaces: Vec<String>,
    },
    /// It does not answer this question.
    #[error("it does not answer {kind}: it exports {}", list(.exports))]
    NotExported {
        /// What it was to answer.
        kind: Kind,
        /// What it exports.
        exports: Vec<String>,
    },
    /// It does not describe itself.
    #[error("it does not export {PACKAGE}/lifecycle")]
    NoLifecycle,
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// What a component imports and exports, and how much of it there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) imports: Vec<Extern>,
    pub(crate) exports: Vec<Extern>,
    pub(crate) functions: usize,
}

/// An import or export of the outermost component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extern {
    name: String,
    instance: bool,
}

impl Extern {
    /// Interface and version, if it is one of the contract's package.
    fn of_contract(&self) -> Option<(&str, Option<&str>)> {
        let rest = self.name.strip_prefix(PACKAGE)?.strip_prefix('/')?;
        Some(match rest.split_once('@') {
            Some((interface, version)) => (interface, Some(version)),
            None => (rest, None),
        })
    }

    /// The spoken version that it belongs to.
    fn contract(&self) -> Option<Contract> {
        let (_, version) = self.of_contract()?;
        Contract::of_interface(version?)
    }

    fn is(&self, interface: &str, contract: Contract) -> bool {
        self.instance
            && self.contract() == Some(contract)
            && self.of_contract().is_some_and(|(name, _)| name == interface)
    }
}

impl fmt::Display for Extern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// WebAssembly as the engine takes it: no threads, nothing that differs from
/// machine to machine.
fn features() -> WasmFeatures {
    WasmFeatures::WASM3
        .difference(WasmFeatures::THREADS)
        .difference(WasmFeatures::RELAXED_SIMD)
        .difference(WasmFeatures::GC_TYPES)
        .difference(WasmFeatures::EXCEPTIONS)
        .difference(WasmFeatures::MEMORY64)
        .difference(WasmFeatures::MULTI_MEMORY)
        .union(WasmFeatures::COMPONENT_MODEL)
}

/// Parses and validates the whole file.
pub(crate) fn parse(bytes: &[u8], limits: &Limits) -> Result<Shape, ParseProblem> {
    if Parser::is_core_wasm(bytes) {
        return Err(ParseProblem::CoreModule);
    }
    if !Parser::is_component(bytes) {
        return Err(other_than_wasm(bytes));
    }
    let shape = outline(bytes, limits).map_err(|stop| match stop {
        Stop::Problem(problem) => problem,
        Stop::Broken(error) => broken(bytes, &error),
    })?;
    Validator::new_with_features(features()).validate_all(bytes).map_err(|error| broken(bytes, &error))?;
    Ok(shape)
}

enum Stop {
    Problem(ParseProblem),
    Broken(wasmparser::BinaryReaderError),
}

impl From<wasmparser::BinaryReaderError> for Stop {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        Self::Broken(error)
    }
}

/// Walks over the sections before they are validated, so that the validator
/// only sees what is within the limits.
fn outline(bytes: &[u8], limits: &Limits) -> Result<Shape, Stop> {
    /// wit-component makes one for each exported interface.
    const INSTANCES: usize = 32;
    let mut shape = Shape::default();
    let mut components = 0_usize;
    let mut open = Vec::new();
    let mut instances = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version { encoding, .. } => {
                components += usize::from(encoding == Encoding::Component);
                open.push(encoding);
            }
            Payload::End(_) => {
                components -= usize::from(open.pop() == Some(Encoding::Component));
            }
            Payload::CodeSectionEntry(body) => {
                shape.functions += 1;
                if shape.functions > limits.functions {
                    return Err(Stop::Problem(ParseProblem::TooManyFunctions { limit: limits.functions }));
                }
                let bytes = body.range().len();
                if bytes > limits.function_bytes {
                    return Err(Stop::Problem(ParseProblem::FunctionTooLarge { bytes, limit: limits.function_bytes }));
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    if !matches!(instance?, ComponentInstance::Instantiate { .. }) {
                        continue;
                    }
                    instances += 1;
                    if components > 1 {
                        return Err(Stop::Problem(ParseProblem::NestedInstances));
                    }
                    if instances > INSTANCES {
                        return Err(Stop::Problem(ParseProblem::TooManyInstances { limit: INSTANCES }));
                    }
                }
            }
            Payload::ComponentImportSection(section) if open.len() == 1 => {
                for import in section {
                    let import = import?;
                    shape.imports.push(Extern {
                        name: import.name.name.to_owned(),
                        instance: matches!(import.ty, ComponentTypeRef::Instance(_)),
                    });
                }
            }
            Payload::ComponentExportSection(section) if open.len() == 1 => {
                for export in section {
                    let export = export?;
                    shape.exports.push(Extern {
                        name: export.name.name.to_owned(),
                        instance: export.kind == wasmparser::ComponentExternalKind::Instance,
                    });
                }
            }
            _ => {}
        }
    }
    Ok(shape)
}

fn broken(bytes: &[u8], error: &wasmparser::BinaryReaderError) -> ParseProblem {
    if is_truncated(bytes) {
        return ParseProblem::Truncated { bytes: bytes.len() };
    }
    ParseProblem::Invalid { message: error.message().to_owned(), offset: error.offset() }
}

/// Whether more bytes could make it whole: asked of the parser as if it were
/// reading from a stream that goes on.
fn is_truncated(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut parser = Parser::new(0);
    let mut outer = Vec::new();
    loop {
        // What is nested says how long it is, and is whole if the file is that long.
        match parser.parse(rest, !outer.is_empty()) {
            // At a boundary of the outermost component nothing need follow.
            Ok(wasmparser::Chunk::NeedMoreData(_)) => return !rest.is_empty(),
            Ok(wasmparser::Chunk::Parsed { consumed, payload }) => {
                rest = rest.get(consumed..).unwrap_or_default();
                match payload {
                    Payload::ModuleSection { parser: inner, unchecked_range }
                    | Payload::ComponentSection { parser: inner, unchecked_range } => {
                        if unchecked_range.end > bytes.len() {
                            return true;
                        }
                        outer.push(std::mem::replace(&mut parser, inner));
                    }
                    Payload::End(_) => match outer.pop() {
                        Some(enclosing) => parser = enclosing,
                        None => return false,
                    },
                    _ => {}
                }
            }
            Err(_) => return false,
        }
    }
}

fn other_than_wasm(bytes: &[u8]) -> ParseProblem {
    let start = bytes.get(..64.min(bytes.len())).unwrap_or(bytes);
    if start.starts_with(b"\x7fELF") {
        return ParseProblem::Native;
    }
    if b"\0asm\x0d\0\x01\0".starts_with(start) {
        return ParseProblem::Truncated { bytes: bytes.len() };
    }
    ParseProblem::NotWasm(if start.starts_with(b"\0asm") {
        "WebAssembly of a version from before or after this host"
    } else if start.starts_with(b"AGFzbQ") || start.starts_with(b"H4sI") {
        "base64 text; put it into binaryData, not data"
    } else if start.starts_with(b"(component") || start.starts_with(b"(module") {
        "WebAssembly text; it has to be assembled"
    } else if start.starts_with(b"version https://git-lfs") {
        "a Git LFS pointer; the file itself was not fetched"
    } else if start.starts_with(b"PK") {
        "a ZIP archive"
    } else if std::str::from_utf8(start).is_ok_and(|text| text.trim_start().starts_with('<')) {
        "HTML or XML; was it downloaded from an error page?"
    } else if start.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        "text"
    } else {
        "some other binary file"
    })
}

/// How a component answers a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interfaces {
    /// In which version of the contract.
    pub(crate) contract: Contract,
    /// The export that has the function.
    pub(crate) answer: String,
    /// Its `lifecycle` of the same version.
    pub(crate) lifecycle: String,
}

/// Compares imports with the allow-list and exports with what `kind` needs, in the
/// newest version that the component has it in.
pub(crate) fn interfaces(shape: &Shape, kind: Kind) -> Result<Interfaces, InterfaceProblem> {
    let foreign: Vec<&Extern> = shape
        .imports
        .iter()
        .chain(&shape.exports)
        .filter(|item| item.of_contract().is_some() && item.contract().is_none())
        .collect();
    let export = |wanted: &str, contract| shape.exports.iter().find(|export| export.is(wanted, contract));
    let answers: Vec<(Contract, &Extern)> =
        Contract::ALL.into_iter().filter_map(|contract| Some((contract, export(kind.as_str(), contract)?))).collect();
    // A plugin may speak several versions: what counts is that it speaks one of ours.
    let import_of_other_version = foreign.iter().any(|item| shape.imports.iter().any(|import| import == *item));
    if !foreign.is_empty() && (import_of_other_version || answers.is_empty()) {
        let version = foreign[0].of_contract().and_then(|(_, version)| version);
        return Err(InterfaceProblem::OtherVersion {
            found: version.unwrap_or("without a version").to_owned(),
            interfaces: foreign.iter().map(ToString::to_string).collect(),
        });
    }
    let forbidden: Vec<String> = shape
        .imports
        .iter()
        .filter(|import| {
            let allowed =
                import.instance && import.of_contract().is_some_and(|(name, _)| matches!(name, "log" | "types"));
            !allowed
        })
        .map(ToString::to_string)
        .collect();
    if !forbidden.is_empty() {
        return Err(InterfaceProblem::ForbiddenImports { imports: forbidden });
    }
    if answers.is_empty() {
        return Err(InterfaceProblem::NotExported {
            kind,
            exports: shape.exports.iter().map(ToString::to_string).collect(),
        });
    }
    let whole = answers.into_iter().find_map(|(contract, answer)| {
        let lifecycle = export("lifecycle", contract)?.name.clone();
        Some(Interfaces { contract, answer: answer.name.clone(), lifecycle })
    });
    whole.ok_or(InterfaceProblem::NoLifecycle)
}

/// The first question that a component answers, if any.
pub(crate) fn first_kind(shape: &Shape) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| interfaces(shape, *kind).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exporting(names: &[&str]) -> Shape {
        let exports = names.iter().map(|name| Extern { name: format!("{PACKAGE}/{name}"), instance: true }).collect();
        Shape { exports, ..Shape::default() }
    }

    #[test]
    fn of_several_versions_the_newest_that_is_whole_counts() {
        let both = exporting(&["lifecycle@0.1.0", "naming@0.1.3", "naming@0.2.0", "lifecycle@0.2.1", "naming@0.9.0"]);
        let spoken = interfaces(&both, Kind::Naming).unwrap();
        assert_eq!((spoken.contract, spoken.answer.as_str()), (Contract::V0_2, "vmgroup:policy/naming@0.2.0"));
        assert_eq!(spoken.lifecycle, "vmgroup:policy/lifecycle@0.2.1");
        let half = exporting(&["lifecycle@0.1.0", "naming@0.1.0", "naming@0.2.0"]);
        assert_eq!(interfaces(&half, Kind::Naming).unwrap().contract, Contract::V0_1);
        let none = exporting(&["lifecycle@0.1.0", "naming@0.2.0"]);
        assert_eq!(interfaces(&none, Kind::Naming), Err(InterfaceProblem::NoLifecycle));
    }
}

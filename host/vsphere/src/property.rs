//! The property collector's language: what to read of which objects, and what
//! comes back. Bulk reads follow every page.

use std::collections::HashMap;

use crate::client::{Purpose, This, Vcenter};
use crate::error::{Error, FaultKind};
use crate::refs::ManagedObjectRef;
use crate::session::Session;
use crate::soap::{localized_fault, reference_of};
use crate::xml::{Element, Writer};

/// Which properties of objects of one type (`PropertySpec`).
pub(crate) struct Paths {
    pub(crate) kind: &'static str,
    pub(crate) paths: Vec<&'static str>,
}

impl Paths {
    pub(crate) fn new(kind: &'static str, paths: &[&'static str]) -> Self {
        Self { kind, paths: paths.to_vec() }
    }
}

/// Where to go on from an object (`SelectionSpec`, `TraversalSpec`).
#[derive(Clone)]
pub(crate) enum Step {
    /// Along a property that holds references.
    Along {
        /// By which another step may point here.
        name: &'static str,
        kind: &'static str,
        path: &'static str,
        then: Vec<Step>,
    },
    /// As the step of that name says.
    Again(&'static str),
}

impl Step {
    pub(crate) fn along(name: &'static str, kind: &'static str, path: &'static str, then: &[Step]) -> Self {
        Self::Along { name, kind, path, then: then.to_vec() }
    }
}

/// Where to begin (`ObjectSpec`).
pub(crate) struct Start {
    pub(crate) object: ManagedObjectRef,
    /// Whether the object itself is left out.
    pub(crate) skip: bool,
    pub(crate) steps: Vec<Step>,
}

impl Start {
    pub(crate) fn at(object: ManagedObjectRef) -> Self {
        Self { object, skip: false, steps: Vec::new() }
    }

    pub(crate) fn from(object: ManagedObjectRef, steps: Vec<Step>) -> Self {
        Self { object, skip: true, steps }
    }
}

/// What to read of what (`PropertyFilterSpec`).
pub(crate) struct Query {
    pub(crate) paths: Vec<Paths>,
    pub(crate) starts: Vec<Start>,
}

impl Query {
    /// Writes it as an element; order is the XSD's.
    pub(crate) fn write(&self, writer: &mut Writer, name: &str) {
        writer.node(name, |w| self.write_inside(w));
    }

    /// The same, and what it begins with that is not there (any more) is passed over.
    pub(crate) fn write_lenient(&self, writer: &mut Writer, name: &str) {
        writer.node(name, |w| {
            self.write_inside(w);
            w.value("reportMissingObjectsInResults", true);
        });
    }

    fn write_inside(&self, w: &mut Writer) {
        for paths in &self.paths {
            w.node("propSet", |w| {
                w.text("type", paths.kind);
                w.value("all", false);
                for path in &paths.paths {
                    w.text("pathSet", path);
                }
            });
        }
        for start in &self.starts {
            w.node("objectSet", |w| {
                w.reference("obj", &start.object.kind, &start.object.id);
                w.value("skip", start.skip);
                for step in &start.steps {
                    write_step(step, w);
                }
            });
        }
    }
}

fn write_step(step: &Step, writer: &mut Writer) {
    match step {
        Step::Along { name, kind, path, then } => {
            writer.typed("selectSet", "TraversalSpec", |w| {
                w.text("name", name);
                w.text("type", kind);
                w.text("path", path);
                w.value("skip", false);
                for step in then {
                    write_step(step, w);
                }
            });
        }
        Step::Again(name) => {
            writer.typed("selectSet", "SelectionSpec", |w| {
                w.text("name", name);
            });
        }
    }
}

/// One object's properties (`ObjectContent`). A property that is unset, or that
/// may not be read, is simply not there.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) id: ManagedObjectRef,
    properties: HashMap<String, Element>,
}

impl Object {
    pub(crate) fn get(&self, path: &str) -> Option<&Element> {
        self.properties.get(path)
    }

    pub(crate) fn text(&self, path: &str) -> &str {
        self.get(path).map_or("", |value| value.text.trim())
    }

    pub(crate) fn name(&self) -> String {
        crate::model::unescape_name(self.get("name").map_or("", |value| value.text.as_str()))
    }

    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        self.text(path).parse().ok()
    }

    pub(crate) fn is_true(&self, path: &str) -> bool {
        self.get(path).is_some_and(Element::is_true)
    }

    pub(crate) fn reference(&self, path: &str) -> Option<ManagedObjectRef> {
        self.get(path).and_then(reference_of)
    }

    pub(crate) fn references(&self, path: &str) -> Vec<ManagedObjectRef> {
        self.get(path).map_or_else(Vec::new, references_in)
    }

    pub(crate) fn properties(&self) -> impl Iterator<Item = (&str, &Element)> {
        self.properties.iter().map(|(path, value)| (path.as_str(), value))
    }

    fn read(content: &Element) -> Option<Self> {
        Some(Self {
            id: content.child("obj").and_then(reference_of)?,
            properties: content
                .children_named("propSet")
                .filter_map(|property| {
                    let value = property.child("val")?.clone();
                    Some((property.text_of("name").to_owned(), value))
                })
                .collect(),
        })
    }
}

/// The references of an `ArrayOfManagedObjectReference`.
pub(crate) fn references_in(array: &Element) -> Vec<ManagedObjectRef> {
    array.children.iter().filter_map(reference_of).collect()
}

/// True if a property is missing because the session is: vCenter answers
/// `RetrievePropertiesEx` with 200 then, and says so per property.
pub(crate) fn session_lost_in(missing: &Element) -> bool {
    missing.child("fault").is_some_and(|fault| localized_fault(fault).kind == FaultKind::NotAuthenticated)
}

impl Vcenter {
    /// `RetrievePropertiesEx`, every page of it; in one session, or from the
    /// start in a new one.
    pub(crate) async fn retrieve(&self, query: &Query) -> Result<Vec<Object>, Error> {
        match self.retrieve_once(query).await {
            Err(error) if error.is_session_lost() => self.retrieve_once(query).await,
            other => other,
        }
    }

    async fn retrieve_once(&self, query: &Query) -> Result<Vec<Object>, Error> {
        let session = self.session(Purpose::Read, "RetrievePropertiesEx").await?;
        self.retrieve_in(&session, query).await
    }

    /// The same in just this session.
    pub(crate) async fn retrieve_in(&self, session: &Session, query: &Query) -> Result<Vec<Object>, Error> {
        let method = "RetrievePropertiesEx";
        let this = This::PropertyCollector;
        let page_size = self.inner.options.page_size;
        let mut answer = self
            .call_in(session, method, &this, |w| {
                query.write(w, "specSet");
                w.node("options", |w| {
                    w.value("maxObjects", page_size);
                });
            })
            .await?;
        let mut objects = Vec::new();
        loop {
            // No `returnval` at all: nothing was selected.
            let Some(page) = answer.child("returnval") else {
                return Ok(objects);
            };
            for content in page.children_named("objects") {
                if content.children_named("missingSet").any(session_lost_in) {
                    self.inner.invalidate(session);
                    return Err(Error::from_fault(method, FaultKind::NotAuthenticated));
                }
                objects.extend(Object::read(content));
            }
            let token = page.text_of("token").to_owned();
            if token.is_empty() {
                return Ok(objects);
            }
            answer = self
                .call_in(session, "ContinueRetrievePropertiesEx", &this, |w| {
                    w.text("token", &token);
                })
                .await?;
        }
    }

    /// Reads just these objects. One that is gone fails the whole call at
    /// vCenter, so it is left out and the rest is asked again.
    pub(crate) async fn retrieve_each(
        &self,
        mut objects: Vec<ManagedObjectRef>,
        paths: &Paths,
    ) -> Result<Vec<Object>, Error> {
        loop {
            if objects.is_empty() {
                return Ok(Vec::new());
            }
            let query = Query {
                paths: vec![Paths::new(paths.kind, &paths.paths)],
                starts: objects.iter().cloned().map(Start::at).collect(),
            };
            let error = match self.retrieve(&query).await {
                Ok(read) => return Ok(read),
                Err(error) => error,
            };
            let before = objects.len();
            match error.missing_object() {
                Some(gone) => objects.retain(|object| object.id != gone.id),
                // The fault does not say which; with one there is no doubt.
                None if before == 1 && error.is_missing() => objects.clear(),
                None => {}
            }
            if objects.len() == before {
                return Err(error);
            }
        }
    }
}

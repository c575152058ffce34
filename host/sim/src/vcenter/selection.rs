//! What a `PropertyFilterSpec` selects: which objects, by traversals, and which
//! of their properties.
//!
//! Must not know whether it is asked once or watched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::entity::{Kind, Moref};
use super::properties;
use super::session::SessionId;
use super::soap::{Node, VimFault};
use super::value::{Val, references, split_path, text};
use super::world::State;

/// A `PropertyFilterSpec`.
#[derive(Debug)]
pub(super) struct FilterSpec {
    pub(super) objects: Vec<ObjectSpec>,
    /// The property paths asked for, by type; a type that is not here is not
    /// reported at all.
    pub(super) paths: BTreeMap<Kind, Vec<String>>,
    /// Objects that do not exist are passed over instead of refused.
    pub(super) report_missing: bool,
}

#[derive(Debug)]
pub(super) struct ObjectSpec {
    pub(super) object: Moref,
    skip: bool,
    select: Vec<Arc<Selection>>,
}

/// A `SelectionSpec`: a reference by name, or a `TraversalSpec`.
#[derive(Debug)]
pub(super) enum Selection {
    Named(String),
    Traversal { type_name: String, path: String, skip: bool, select: Vec<Arc<Selection>> },
}

/// The traversals of an object spec that have a name.
pub(super) type Names = BTreeMap<String, Arc<Selection>>;

fn selections(node: &Node, names: &mut Names, depth: usize) -> Result<Vec<Arc<Selection>>, VimFault> {
    if depth > 32 {
        return Err(VimFault::invalid_argument("selectSet"));
    }
    let mut found = Vec::new();
    for child in node.all("selectSet") {
        let name = child.str("name").unwrap_or_default();
        let Some(path) = child.str("path") else {
            found.push(Arc::new(Selection::Named(name.to_owned())));
            continue;
        };
        let selection = Arc::new(Selection::Traversal {
            type_name: child.str("type").unwrap_or_default().to_owned(),
            path: path.to_owned(),
            skip: child.flag("skip"),
            select: selections(child, names, depth + 1)?,
        });
        if !name.is_empty() {
            names.insert(name.to_owned(), selection.clone());
        }
        found.push(selection);
    }
    Ok(found)
}

impl FilterSpec {
    /// Reads a spec, and checks that its properties exist.
    pub(super) fn parse(node: &Node) -> Result<(Self, Names), VimFault> {
        let mut names = Names::new();
        let mut objects = Vec::new();
        for object in node.all("objectSet") {
            objects.push(ObjectSpec {
                object: object.moref("obj")?.ok_or_else(|| VimFault::invalid_argument("objectSet.obj"))?,
                skip: object.flag("skip"),
                select: selections(object, &mut names, 0)?,
            });
        }
        let mut paths: BTreeMap<Kind, Vec<String>> = BTreeMap::new();
        for spec in node.all("propSet") {
            let type_name = spec.str("type").unwrap_or_default();
            for kind in properties::KINDS.iter().copied().filter(|kind| kind.is_a(type_name)) {
                let known = properties::names(kind);
                let wanted = paths.entry(kind).or_default();
                if spec.flag("all") {
                    wanted.extend(known.iter().map(|name| (*name).to_owned()));
                }
                for path in spec.all("pathSet").map(|node| node.text.trim()) {
                    let (head, _) = split_path(path);
                    let head = head.split('[').next().unwrap_or_default();
                    if !known.contains(&head) {
                        return Err(invalid_property(path));
                    }
                    wanted.push(path.to_owned());
                }
                wanted.sort();
                wanted.dedup();
            }
        }
        let report_missing = node.flag("reportMissingObjectsInResults");
        Ok((Self { objects, paths, report_missing }, names))
    }

    pub(super) fn covers(&self, object: Moref) -> bool {
        self.paths.contains_key(&object.kind)
    }

    /// The one reference that all of the selection hangs on, if it is that
    /// simple: one start that is not reported itself, one traversal, nothing beyond.
    pub(super) fn single_hop(&self) -> Option<(Moref, String)> {
        let [ObjectSpec { object, skip, select }] = &self.objects[..] else { return None };
        let [only] = &select[..] else { return None };
        if !*skip && self.covers(*object) {
            return None;
        }
        match &**only {
            Selection::Traversal { type_name, path, skip: false, select }
                if select.is_empty() && object.kind.is_a(type_name) =>
            {
                Some((*object, path.clone()))
            }
            _ => None,
        }
    }
}

pub(super) fn invalid_property(path: &str) -> VimFault {
    VimFault::new("InvalidProperty", format!("The property '{path}' is not valid.")).with("name", text(path.to_owned()))
}

/// What a spec selects just now.
pub(super) struct Selected {
    pub(super) objects: Vec<Moref>,
    /// Everything that the traversals went through.
    pub(super) reached: BTreeSet<Moref>,
}

struct Walk<'a> {
    state: &'a State,
    session: SessionId,
    spec: &'a FilterSpec,
    names: &'a Names,
    seen: BTreeSet<Moref>,
    /// Which traversals have been done from where: recursion ends there.
    done: BTreeSet<(Moref, *const Selection)>,
    selected: Selected,
}

impl Walk<'_> {
    fn visit(&mut self, object: Moref, skip: bool, select: &[Arc<Selection>]) {
        if !skip && self.spec.covers(object) && self.seen.insert(object) {
            self.selected.objects.push(object);
        }
        self.selected.reached.insert(object);
        for selection in select {
            let names = self.names;
            let selection = match &**selection {
                Selection::Named(name) => match names.get(name) {
                    Some(found) => found,
                    None => continue,
                },
                Selection::Traversal { .. } => selection,
            };
            let Selection::Traversal { type_name, path, skip, select } = &**selection else {
                continue;
            };
            if !object.kind.is_a(type_name) || !self.done.insert((object, Arc::as_ptr(selection))) {
                continue;
            }
            let mut next = Vec::new();
            if let Ok(value) = properties::property(self.state, Some(self.session), object, path) {
                references(&value, &mut next);
            }
            for object in next {
                self.visit(object, *skip, select);
            }
        }
    }
}

pub(super) fn select(state: &State, session: SessionId, spec: &FilterSpec, names: &Names) -> Selected {
    let mut walk = Walk {
        state,
        session,
        spec,
        names,
        seen: BTreeSet::new(),
        done: BTreeSet::new(),
        selected: Selected { objects: Vec::new(), reached: BTreeSet::new() },
    };
    for object in &spec.objects {
        walk.visit(object.object, object.skip, &object.select);
    }
    walk.selected
}

/// The values of an object's properties, those that a filter asks for; each
/// top-level property is computed once.
pub(super) fn values<'a>(
    state: &State,
    session: SessionId,
    object: Moref,
    paths: &'a [String],
) -> Vec<(&'a str, Result<Val, ()>)> {
    let mut tops: Vec<(&str, Option<Val>)> = Vec::new();
    let mut found = Vec::with_capacity(paths.len());
    for path in paths {
        let (head, rest) = split_path(path);
        let (name, key) = match head.split_once('[') {
            Some((name, key)) => (name, Some(key.trim_end_matches(']').trim_matches('"'))),
            None => (head, None),
        };
        let at = tops.iter().position(|(top, _)| *top == name).unwrap_or_else(|| {
            tops.push((name, properties::top(state, Some(session), object, name)));
            tops.len() - 1
        });
        let value = match (&tops[at].1, key, rest) {
            (None, _, _) => Err(()),
            (Some(top), None, None) => Ok(top.clone()),
            (Some(top), None, Some(rest)) => top.descend(rest),
            (Some(top), Some(key), None) => top.by_key(key),
            (Some(top), Some(key), Some(rest)) => top.by_key(key).and_then(|value| value.descend(rest)),
        };
        found.push((path.as_str(), value));
    }
    found
}

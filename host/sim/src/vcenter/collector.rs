//! The property collector: which objects a filter selects, which properties it
//! reports, and what has changed since it last did.
//!
//! A change marks the objects concerned in the filters that select them
//! ([`Collector::touched`]); a report looks at marked objects only. So seeing
//! one change costs the same whether ten machines are watched or ten thousand.
//! What has been reported is remembered as a hash per property.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
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
    objects: Vec<ObjectSpec>,
    /// The property paths asked for, by type; a type that is not here is not
    /// reported at all.
    paths: BTreeMap<Kind, Vec<String>>,
    /// Objects that do not exist are passed over instead of refused.
    report_missing: bool,
}

#[derive(Debug)]
struct ObjectSpec {
    object: Moref,
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
                object: object
                    .moref("obj")?
                    .ok_or_else(|| VimFault::invalid_argument("objectSet.obj"))?,
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

    fn covers(&self, object: Moref) -> bool {
        self.paths.contains_key(&object.kind)
    }

    /// The one reference that all of the selection hangs on, if it is that
    /// simple: one start that is not reported itself, one traversal, nothing beyond.
    fn single_hop(&self) -> Option<(Moref, String)> {
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
    VimFault::new("InvalidProperty", format!("The property '{path}' is not valid."))
        .with("name", text(path.to_owned()))
}

/// What a spec selects just now.
struct Selected {
    objects: Vec<Moref>,
    /// Everything that the traversals went through.
    reached: BTreeSet<Moref>,
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

fn select(state: &State, session: SessionId, spec: &FilterSpec, names: &Names) -> Selected {
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
fn values<'a>(
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
            (Some(top), Some(key), Some(rest)) => {
                top.by_key(key).and_then(|value| value.descend(rest))
            }
        };
        found.push((path.as_str(), value));
    }
    found
}

/// A retrieval that has more pages.
#[derive(Debug)]
pub(super) struct Rest {
    left: Vec<(Moref, Arc<FilterSpec>)>,
    page: usize,
    missing: Option<String>,
}

/// `RetrievePropertiesEx`: what is asked, and how much of it in one page.
pub(super) struct Retrieval<'a> {
    pub(super) specs: Vec<&'a Node>,
    pub(super) page: usize,
    /// A fault type to answer each property with, by the fault script.
    pub(super) missing: Option<String>,
}

/// A filter of a collector.
#[derive(Debug)]
struct Filter {
    spec: Arc<FilterSpec>,
    names: Names,
    single_hop: Option<(Moref, String)>,
    selected: BTreeSet<Moref>,
    reached: BTreeSet<Moref>,
    reselect: bool,
    /// What must be looked at with the next report.
    marked: BTreeSet<Moref>,
    /// The hashes of what has been reported, in the order of the paths.
    reported: BTreeMap<Moref, Vec<u64>>,
}

impl Filter {
    fn touched(&mut self, object: Moref) -> bool {
        self.selected.contains(&object) && {
            self.marked.insert(object);
            true
        }
    }

    fn relinked(&mut self, from: Moref, path: &str, to: Moref, linked: bool) -> bool {
        match &self.single_hop {
            Some((start, hop)) if *start == from && hop == path => {
                if linked && self.spec.covers(to) {
                    self.selected.insert(to);
                } else {
                    self.selected.remove(&to);
                }
                self.marked.insert(to);
                true
            }
            Some(_) => false,
            None => {
                let concerned = self.reached.contains(&from);
                self.reselect |= concerned;
                concerned
            }
        }
    }

    fn forgot(&mut self, object: Moref) -> bool {
        if self.single_hop.as_ref().is_some_and(|(start, _)| *start == object) {
            self.marked.append(&mut self.selected);
            return true;
        }
        if self.reached.contains(&object) && self.single_hop.is_none() {
            self.reselect = true;
        }
        let was = self.selected.remove(&object);
        if was {
            self.marked.insert(object);
        }
        was || self.reselect
    }

    fn refresh(&mut self, state: &State, session: SessionId) {
        if !std::mem::take(&mut self.reselect) {
            return;
        }
        let found = select(state, session, &self.spec, &self.names);
        let selected: BTreeSet<Moref> = found
            .objects
            .into_iter()
            .filter(|object| state.exists(*object, Some(session)))
            .collect();
        self.marked.extend(self.selected.symmetric_difference(&selected));
        self.selected = selected;
        self.reached = found.reached;
    }

    /// Writes what has changed, `room` objects at most; returns how many.
    fn report(
        &mut self,
        state: &State,
        session: SessionId,
        room: usize,
        out: &mut String,
    ) -> usize {
        let mut count = 0;
        while count < room
            && let Some(object) = self.marked.pop_first()
        {
            if self.selected.contains(&object) {
                count += usize::from(self.report_object(state, session, object, out));
            } else if self.reported.remove(&object).is_some() {
                write_update("leave", object, "", out);
                count += 1;
            }
        }
        count
    }

    fn report_object(
        &mut self,
        state: &State,
        session: SessionId,
        object: Moref,
        out: &mut String,
    ) -> bool {
        let paths = self.spec.paths.get(&object.kind).map_or(&[][..], Vec::as_slice);
        let before = self.reported.get(&object);
        let mut hashes = Vec::with_capacity(paths.len());
        let mut changes = String::new();
        let mut written = String::new();
        for (index, (path, value)) in
            values(state, session, object, paths).into_iter().enumerate()
        {
            written.clear();
            // A path that does not exist was refused when the filter was made,
            // as far as that could be known.
            value.unwrap_or(Val::Unset).write("val", true, &mut written);
            let mut hasher = DefaultHasher::new();
            written.hash(&mut hasher);
            let hash = hasher.finish();
            hashes.push(hash);
            let is_new = match before {
                None => !written.is_empty(),
                Some(before) => before.get(index) != Some(&hash),
            };
            if is_new {
                changes.push_str("<changeSet><name>");
                super::soap::escape(path, &mut changes);
                let _ = write!(changes, "</name><op>assign</op>{written}</changeSet>");
            }
        }
        let entered = self.reported.insert(object, hashes).is_none();
        if entered || !changes.is_empty() {
            write_update(if entered { "enter" } else { "modify" }, object, &changes, out);
            return true;
        }
        false
    }
}

fn write_update(kind: &str, object: Moref, changes: &str, out: &mut String) {
    let _ = write!(out, "<objectSet><kind>{kind}</kind>");
    Val::Ref(object).write("obj", false, out);
    let _ = write!(out, "{changes}</objectSet>");
}

/// A property collector of a session.
#[derive(Debug, Default)]
pub(super) struct Collector {
    filters: BTreeMap<Moref, Filter>,
    version: u64,
    /// The last report and the version that it was made from: a client that
    /// lost the answer asks for the same again.
    last: Option<(String, String)>,
    /// Rises with `CancelWaitForUpdates`.
    pub(super) cancels: u64,
    rest: BTreeMap<String, Rest>,
    last_token: u64,
}

impl Collector {
    pub(super) fn has_filter(&self, filter: Moref) -> bool {
        self.filters.contains_key(&filter)
    }

    pub(super) fn filters(&self) -> impl Iterator<Item = Moref> {
        self.filters.keys().copied()
    }

    pub(super) fn destroy_filter(&mut self, filter: Moref) {
        self.filters.remove(&filter);
    }

    pub(super) fn cancel_retrieval(&mut self, token: &str) -> bool {
        self.rest.remove(token).is_some()
    }

    pub(super) fn touched(&mut self, object: Moref) -> bool {
        self.filters.values_mut().fold(false, |any, filter| filter.touched(object) | any)
    }

    pub(super) fn relinked(&mut self, from: Moref, path: &str, to: Moref, linked: bool) -> bool {
        self.filters
            .values_mut()
            .fold(false, |any, filter| filter.relinked(from, path, to, linked) | any)
    }

    pub(super) fn forgot(&mut self, object: Moref) -> bool {
        self.filters.values_mut().fold(false, |any, filter| filter.forgot(object) | any)
    }

    fn report(
        &mut self,
        state: &State,
        session: SessionId,
        version: &str,
        room: usize,
    ) -> Result<Option<String>, VimFault> {
        let known = version == self.version.to_string() && self.version > 0;
        if version.is_empty() {
            for filter in self.filters.values_mut() {
                filter.reported.clear();
                filter.reselect = true;
                filter.marked = std::mem::take(&mut filter.selected);
            }
        } else if !known {
            return match &self.last {
                Some((from, report)) if from == version => Ok(Some(report.clone())),
                _ => Err(VimFault::new(
                    "InvalidCollectorVersion",
                    "The data version of the collector is out of date or invalid.",
                )),
            };
        }
        let mut sets = String::new();
        let mut left = room;
        let mut truncated = false;
        for (moref, filter) in &mut self.filters {
            filter.refresh(state, session);
            let mut objects = String::new();
            left -= filter.report(state, session, left, &mut objects).min(left);
            truncated |= !filter.marked.is_empty();
            if !objects.is_empty() {
                sets.push_str("<filterSet>");
                Val::Ref(*moref).write("filter", false, &mut sets);
                let _ = write!(sets, "{objects}</filterSet>");
            }
        }
        if sets.is_empty() && !version.is_empty() {
            return Ok(None);
        }
        self.version += 1;
        let report = format!(
            "<returnval><version>{}</version>{sets}<truncated>{truncated}</truncated></returnval>",
            self.version
        );
        self.last = Some((version.to_owned(), report.clone()));
        Ok(Some(report))
    }
}

impl State {
    /// Makes sure that a session's collector exists; its default one always does.
    fn check_collector(&mut self, session: SessionId, collector: Moref) -> Result<(), VimFault> {
        if collector.kind != Kind::PropertyCollector {
            return Err(VimFault::invalid_argument("_this"));
        }
        if collector.number == 0 {
            self.collectors.entry((session, collector)).or_default();
        }
        if self.collectors.contains_key(&(session, collector)) {
            Ok(())
        } else {
            Err(VimFault::not_found(collector))
        }
    }

    pub(super) fn collector(
        &mut self,
        session: SessionId,
        collector: Moref,
    ) -> Result<&mut Collector, VimFault> {
        self.check_collector(session, collector)?;
        self.collectors
            .get_mut(&(session, collector))
            .ok_or_else(|| VimFault::not_found(collector))
    }

    pub(super) fn create_filter(
        &mut self,
        session: SessionId,
        collector: Moref,
        spec: &Node,
    ) -> Result<Moref, VimFault> {
        let (spec, names) = FilterSpec::parse(spec)?;
        self.check_objects(session, &spec)?;
        self.check_collector(session, collector)?;
        let moref = self.new_ref(Kind::PropertyFilter);
        let filter = Filter {
            single_hop: spec.single_hop(),
            spec: Arc::new(spec),
            names,
            selected: BTreeSet::new(),
            reached: BTreeSet::new(),
            reselect: true,
            marked: BTreeSet::new(),
            reported: BTreeMap::new(),
        };
        self.collector(session, collector)?.filters.insert(moref, filter);
        // A wait that is under way takes the new filter in.
        self.wake();
        Ok(moref)
    }

    fn check_objects(&self, session: SessionId, spec: &FilterSpec) -> Result<(), VimFault> {
        for object in &spec.objects {
            if !spec.report_missing && !self.exists(object.object, Some(session)) {
                return Err(VimFault::not_found(object.object));
            }
        }
        Ok(())
    }

    /// One update calculation; nothing if there is nothing to say.
    pub(super) fn updates(
        &mut self,
        session: SessionId,
        collector: Moref,
        version: &str,
        most: Option<usize>,
    ) -> Result<Option<String>, VimFault> {
        self.check_collector(session, collector)?;
        // Taken out for the while, so that it can look at the rest of the world.
        let mut own = self
            .collectors
            .remove(&(session, collector))
            .ok_or_else(|| VimFault::not_found(collector))?;
        let page = self.config.page_size.max(1);
        let room = most.filter(|most| *most > 0).map_or(page, |most| most.min(page));
        let report = own.report(self, session, version, room);
        self.collectors.insert((session, collector), own);
        report
    }

    /// `RetrievePropertiesEx` and its predecessor: the first page, and a token
    /// if there are more.
    pub(super) fn retrieve(
        &mut self,
        session: SessionId,
        collector: Moref,
        retrieval: &Retrieval<'_>,
    ) -> Result<(String, Option<String>), VimFault> {
        self.check_collector(session, collector)?;
        let mut found = Vec::new();
        for node in &retrieval.specs {
            let (spec, names) = FilterSpec::parse(node)?;
            self.check_objects(session, &spec)?;
            let spec = Arc::new(spec);
            let selected = select(self, session, &spec, &names);
            found.extend(selected.objects.into_iter().map(|object| (object, spec.clone())));
        }
        let rest =
            Rest { left: found, page: retrieval.page, missing: retrieval.missing.clone() };
        self.next_page(session, collector, rest)
    }

    pub(super) fn continue_retrieval(
        &mut self,
        session: SessionId,
        collector: Moref,
        token: &str,
    ) -> Result<(String, Option<String>), VimFault> {
        let rest = self
            .collector(session, collector)?
            .rest
            .remove(token)
            .ok_or_else(|| VimFault::invalid_argument("token"))?;
        self.next_page(session, collector, rest)
    }

    fn next_page(
        &mut self,
        session: SessionId,
        collector: Moref,
        mut rest: Rest,
    ) -> Result<(String, Option<String>), VimFault> {
        let mut out = String::new();
        let later = rest.left.split_off(rest.left.len().min(rest.page));
        for (object, spec) in &rest.left {
            // It may have gone since the first page.
            if self.exists(*object, Some(session)) {
                self.write_content(session, *object, spec, rest.missing.as_deref(), &mut out)?;
            }
        }
        if later.is_empty() {
            return Ok((out, None));
        }
        rest.left = later;
        let own = self.collector(session, collector)?;
        own.last_token += 1;
        let token = own.last_token.to_string();
        own.rest.insert(token.clone(), rest);
        Ok((out, Some(token)))
    }

    /// Writes an `ObjectContent` as an element `objects`.
    fn write_content(
        &self,
        session: SessionId,
        object: Moref,
        spec: &FilterSpec,
        missing: Option<&str>,
        out: &mut String,
    ) -> Result<(), VimFault> {
        let paths = spec.paths.get(&object.kind).map_or(&[][..], Vec::as_slice);
        out.push_str("<objects>");
        Val::Ref(object).write("obj", false, out);
        let mut missed = String::new();
        for (path, value) in values(self, session, object, paths) {
            let value = value.map_err(|()| invalid_property(path))?;
            if let Some(kind) = missing {
                missed.push_str("<missingSet>");
                text(path.to_owned()).write("path", false, &mut missed);
                let fault = VimFault::scripted(kind, Some(object));
                Val::Fault(Box::new(fault)).write("fault", false, &mut missed);
                missed.push_str("</missingSet>");
            } else if value != Val::Unset {
                out.push_str("<propSet>");
                text(path.to_owned()).write("name", false, out);
                value.write("val", true, out);
                out.push_str("</propSet>");
            }
        }
        out.push_str(&missed);
        out.push_str("</objects>");
        Ok(())
    }
}

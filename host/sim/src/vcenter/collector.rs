//! The property collector: retrievals in pages, and what has changed in the
//! objects that a filter selects since it last reported them.
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
use super::selection::{FilterSpec, Names, invalid_property, select, values};
use super::session::SessionId;
use super::soap::{Node, VimFault};
use super::value::{Val, text};
use super::world::State;

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
        let selected: BTreeSet<Moref> =
            found.objects.into_iter().filter(|object| state.exists(*object, Some(session))).collect();
        self.marked.extend(self.selected.symmetric_difference(&selected));
        self.selected = selected;
        self.reached = found.reached;
    }

    /// Writes what has changed, `room` objects at most; returns how many.
    fn report(&mut self, state: &State, session: SessionId, room: usize, out: &mut String) -> usize {
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

    fn report_object(&mut self, state: &State, session: SessionId, object: Moref, out: &mut String) -> bool {
        let paths = self.spec.paths.get(&object.kind).map_or(&[][..], Vec::as_slice);
        let before = self.reported.get(&object);
        let mut hashes = Vec::with_capacity(paths.len());
        let mut changes = String::new();
        let mut written = String::new();
        for (index, (path, value)) in values(state, session, object, paths).into_iter().enumerate() {
            written.clear();
            // A path that does not exist was refused when the filter was made,
            // as far as that could be known.
            value.unwrap_or(Val::Unset).write("val", true, &mut written);
            let mut digest = DefaultHasher::new();
            written.hash(&mut digest);
            let hash = digest.finish();
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
        self.filters.values_mut().fold(false, |any, filter| filter.relinked(from, path, to, linked) | any)
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
        if self.collectors.contains_key(&(session, collector)) { Ok(()) } else { Err(VimFault::not_found(collector)) }
    }

    pub(super) fn collector(&mut self, session: SessionId, collector: Moref) -> Result<&mut Collector, VimFault> {
        self.check_collector(session, collector)?;
        self.collectors.get_mut(&(session, collector)).ok_or_else(|| VimFault::not_found(collector))
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
        let mut own = self.collectors.remove(&(session, collector)).ok_or_else(|| VimFault::not_found(collector))?;
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
        let rest = Rest { left: found, page: retrieval.page, missing: retrieval.missing.clone() };
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

//! An open watch: the changes of one kind as JSON lines, with bookmarks, until
//! its time is over or it breaks.
//!
//! Knows the store's history; nothing of writing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::json::meta_mut;
use super::resources::Resource;
use super::select::Selector;
use super::status::ApiError;
use super::store::{Change, Event, Signal, State};
use super::table::{self, Include};
use crate::faults::Cut;

/// How often an idle watch that wants bookmarks gets one, as the real cache
/// does.
const BOOKMARK: Duration = Duration::from_mins(1);

/// How many changes one turn of a watch delivers at most.
const BATCH: usize = 100;

/// What goes wrong with one event on its way to one watch. To a client that holds
/// what it is told for a cache, and no more, all of it is staleness: whoever was
/// told less than all has to list anew when his watch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFault {
    /// It is never told. A later event of the same object makes up for it.
    Drop,
    /// It is told twice.
    Repeat,
    /// It is told this much later, after those that came meanwhile: what the
    /// client knows of the object goes back to an older state.
    Late(Duration),
    /// It and all after it are told this much later, in their order.
    Stall(Duration),
}

/// How objects are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Whole,
    Partial,
    Table(Include),
}

/// What a watch asks for.
pub(super) struct Wish {
    pub resource: Arc<Resource>,
    pub namespace: String,
    pub selector: Selector,
    pub view: View,
    pub bookmarks: bool,
    pub timeout: Duration,
    pub start: Start,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// After this version.
    After(u64),
    /// With all that there is, as ADDED, then on; a bookmark that says so in
    /// between if it is a streaming list.
    Present { streaming: bool },
}

struct Watch {
    state: Arc<Mutex<State>>,
    wish: Wish,
    signal: watch::Receiver<Signal>,
    epoch: u64,
    position: u64,
    ends: Instant,
    next_bookmark: Instant,
    initial: VecDeque<Bytes>,
    columns_sent: bool,
    done: bool,
    disturbed: Disturbed,
}

/// What faults have made of a watch.
struct Disturbed {
    /// The signal's count when the watch was opened.
    calm: u64,
    /// The client was told less than all, or in the wrong order.
    tainted: bool,
    /// Lines that are told late, and when.
    late: Vec<(Instant, Bytes)>,
    /// Nothing is told before.
    stalled: Option<Instant>,
    /// The event on which the oracle has spoken and which is told now.
    judged: u64,
}

/// Opens a watch. The caller holds the state's lock.
pub(super) fn open(state: &State, shared: Arc<Mutex<State>>, wish: Wish) -> Body {
    let mut signal = state.signal();
    let Signal { epoch, calm, .. } = *signal.borrow_and_update();
    let now = Instant::now();
    let mut watch = Watch {
        state: shared,
        signal,
        epoch,
        position: state.version,
        ends: now + wish.timeout,
        next_bookmark: now + BOOKMARK,
        initial: VecDeque::new(),
        columns_sent: false,
        done: false,
        disturbed: Disturbed { calm, tainted: false, late: Vec::new(), stalled: None, judged: 0 },
        wish,
    };
    match watch.wish.start {
        Start::After(version) if version < state.compacted => {
            let error = ApiError::expired(format!("too old resource version: {version} ({})", state.compacted));
            watch.initial.push_back(line("ERROR", &error.to_status()));
            watch.done = true;
        }
        Start::After(version) => watch.position = version,
        Start::Present { streaming } => {
            let objects: Vec<Value> = state
                .all(&watch.wish.resource.storage_key())
                .filter(|(key, _)| watch.wish.namespace.is_empty() || key.0 == watch.wish.namespace)
                .map(|(_, stored)| State::present(&watch.wish.resource, stored))
                .filter(|object| watch.wish.selector.matches(object))
                .collect();
            for object in objects {
                let event = watch.shown("ADDED", object, state);
                watch.initial.push_back(event);
            }
            if streaming && watch.wish.bookmarks {
                let bookmark = watch.bookmark(state, true);
                watch.initial.push_back(bookmark);
            }
        }
    }
    Body::from_stream(stream::unfold(watch, |mut watch| async move {
        let next = watch.next().await?;
        Some((next, watch))
    }))
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({"type": kind, "object": object}).to_string();
    text.push('\n');
    Bytes::from(text)
}

impl Watch {
    /// The next lines; `None` when the watch is over.
    async fn next(&mut self) -> Option<Result<Bytes, Cut>> {
        loop {
            if let Some(event) = self.initial.pop_front() {
                return Some(Ok(event));
            }
            if self.done {
                return None;
            }
            let signal = *self.signal.borrow_and_update();
            if signal.epoch != self.epoch {
                self.done = true;
                return Some(Err(Cut));
            }
            if signal.calm != self.disturbed.calm && self.disturbed.tainted {
                self.done = true;
                return Some(Ok(line("ERROR", &ApiError::expired("the watch was disturbed").to_status())));
            }
            let now = Instant::now();
            if let Some(at) = self.disturbed.late.iter().position(|(due, _)| *due <= now) {
                return Some(Ok(self.disturbed.late.remove(at).1));
            }
            if self.disturbed.stalled.is_none_or(|until| until <= now)
                && let Some(lines) = self.pending()
            {
                return Some(Ok(lines));
            }
            if self.done {
                continue;
            }
            let mut until = if self.wish.bookmarks { self.ends.min(self.next_bookmark) } else { self.ends };
            let stalled = self.disturbed.stalled.filter(|stalled| *stalled > now);
            for due in self.disturbed.late.iter().map(|(due, _)| *due).chain(stalled) {
                until = until.min(due);
            }
            match tokio::time::timeout_at(until, self.signal.changed()).await {
                Ok(Ok(())) => {}
                // The server is gone.
                Ok(Err(_)) => return None,
                Err(_) if Instant::now() >= self.ends => {
                    self.done = true;
                }
                // What is told late has come due.
                Err(_) if !self.wish.bookmarks || Instant::now() < self.next_bookmark => {}
                Err(_) => {
                    self.next_bookmark = Instant::now() + BOOKMARK;
                    let shared = self.state.clone();
                    let state = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    return Some(Ok(self.bookmark(&state, false)));
                }
            }
        }
    }

    /// The lines of the changes since the last look.
    fn pending(&mut self) -> Option<Bytes> {
        let shared = self.state.clone();
        let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(events) = state.since(self.position, BATCH) else {
            self.done = true;
            let error = ApiError::expired(format!("too old resource version: {} ({})", self.position, state.version));
            return Some(line("ERROR", &error.to_status()));
        };
        let mut lines = Vec::new();
        let complete = events.len() < BATCH;
        for event in events {
            self.position = event.version;
            let Some(change) = self.event(&event, &state) else { continue };
            let oracle = state.mischief.as_mut().filter(|_| self.disturbed.judged != event.version);
            match oracle.and_then(|oracle| oracle(&self.wish.resource.plural)) {
                None => lines.extend_from_slice(&change),
                Some(WatchFault::Drop) => self.disturbed.tainted = true,
                Some(WatchFault::Repeat) => {
                    lines.extend_from_slice(&change);
                    lines.extend_from_slice(&change);
                }
                Some(WatchFault::Late(time)) => {
                    self.disturbed.tainted = true;
                    self.disturbed.late.push((Instant::now() + time, change));
                }
                Some(WatchFault::Stall(time)) => {
                    self.disturbed.stalled = Some(Instant::now() + time);
                    self.disturbed.judged = event.version;
                    self.position = event.version - 1;
                    return (!lines.is_empty()).then(|| Bytes::from(lines));
                }
            }
        }
        if complete {
            self.position = self.position.max(state.version);
        } else if lines.is_empty() {
            // All of a full batch concerned others: look again at once.
            drop(state);
            return self.pending();
        }
        (!lines.is_empty()).then(|| Bytes::from(lines))
    }

    /// A change as this watch sees it, with objects that enter or leave its
    /// selection.
    fn event(&mut self, event: &Event, state: &State) -> Option<Bytes> {
        let wish = &self.wish;
        if event.storage != wish.resource.storage_key() || !(wish.namespace.is_empty() || event.key.0 == wish.namespace)
        {
            return None;
        }
        let object = State::present(&wish.resource, &event.object);
        let before = event.before.as_ref().map(|b| State::present(&wish.resource, b));
        let selected = wish.selector.matches(&object);
        let was_selected = before.as_ref().is_some_and(|b| wish.selector.matches(b));
        match (event.change, was_selected, selected) {
            (Change::Deleted, true, _) => Some(self.shown("DELETED", object, state)),
            (Change::Added | Change::Modified, false, true) => Some(self.shown("ADDED", object, state)),
            (Change::Modified, true, true) => Some(self.shown("MODIFIED", object, state)),
            (Change::Modified, true, false) => {
                let mut left = before?;
                meta_mut(&mut left).insert("resourceVersion".to_owned(), json!(event.version.to_string()));
                Some(self.shown("DELETED", left, state))
            }
            _ => None,
        }
    }

    fn shown(&mut self, kind: &str, object: Value, state: &State) -> Bytes {
        let resource = &self.wish.resource;
        match self.wish.view {
            View::Whole => line(kind, &object),
            View::Partial => line(kind, &table::partial(&object)),
            View::Table(include) => {
                let metadata = json!({"resourceVersion": super::json::meta(&object, "resourceVersion")});
                let first = !std::mem::replace(&mut self.columns_sent, true);
                let now = state.clock.now();
                line(kind, &table::table(resource, &[object], &metadata, now, include, first))
            }
        }
    }

    fn bookmark(&self, state: &State, initial: bool) -> Bytes {
        let resource = &self.wish.resource;
        let mut metadata = json!({
            "resourceVersion": self.position.to_string(), "creationTimestamp": null,
        });
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({
            "kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata,
        });
        match self.wish.view {
            View::Whole => line("BOOKMARK", &object),
            View::Partial => line("BOOKMARK", &table::partial(&object)),
            View::Table(include) => {
                let list = json!({"resourceVersion": self.position.to_string()});
                let now = state.clock.now();
                line("BOOKMARK", &table::table(resource, &[object], &list, now, include, false))
            }
        }
    }
}

impl Drop for Watch {
    /// Who was told less than all must not go on from where he believes to be.
    fn drop(&mut self) {
        if self.disturbed.tainted {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).compact();
        }
    }
}

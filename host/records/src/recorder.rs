//! Keeps records without ever holding up who decides: a decision hands its record
//! to a bounded queue and goes on. A thread of the recorder's own turns it into
//! bytes, keeps the latest in memory, and writes them to files by option. When it
//! cannot keep up, or the disk is full, records are dropped and counted.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use vmgroup_policy::{Answer, Policy, Question, Tried};

use crate::files::{FileSettings, Files};
use crate::ring::{Kept, Ring};
use crate::{Filter, Made, Record, Summary};

/// Records that wait to be kept. One of a group of 1,000 is some 300 KiB, so this
/// bounds what a burst takes.
const QUEUE: usize = 64;

/// zstd's own default: 10 to 20 times smaller for JSON, at hundreds of MB/s.
const LEVEL: i32 = 3;

/// How much is kept and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Memory for the latest records, compressed, in bytes.
    pub memory: usize,
    /// Files, if they are wanted.
    pub files: Option<FileSettings>,
}

/// Why records cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// The folder.
    #[error("decision records cannot be written to `{}`: make it a folder that the operator may write to", folder.display())]
    Folder {
        /// Which.
        folder: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread.
    #[error("the thread that keeps decision records cannot be started")]
    Thread(#[source] io::Error),
}

/// What the recorder has and has lost, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Records in memory.
    pub kept: usize,
    /// Dropped because they came faster than they could be kept.
    pub dropped: u64,
    /// Kept in memory, but not written to the file.
    pub unwritten: u64,
}

/// Keeps records. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Recorder(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    last: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    unwritten: AtomicU64,
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Message {
    Keep(Box<Entry>, u64),
    /// Answered when all before it is kept.
    Flush(SyncSender<()>),
}

/// A decision as it was made; becomes a [`Record`] off the path of decisions.
#[derive(Debug)]
pub struct Entry {
    /// Who was asked.
    pub policy: Arc<Policy>,
    /// What. Shared, so that nothing is copied while somebody waits for the answer.
    pub question: Arc<Question>,
    /// What came of it.
    pub tried: Tried<Answer>,
    /// When, as what, how long.
    pub made: Made,
}

impl Recorder {
    /// Keeps nothing.
    pub const fn off() -> Self {
        Self(None)
    }

    /// Whether anything is kept: what a record is made of need not be copied if not.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Starts to keep records; the thread ends with the last clone.
    pub fn start(settings: Settings) -> Result<Self, RecorderError> {
        let files = match settings.files {
            None => None,
            Some(wanted) => {
                let folder = wanted.folder.clone();
                Some(Files::new(wanted).map_err(|source| RecorderError::Folder { folder, source })?)
            }
        };
        let shared = Arc::new(Shared { ring: Mutex::new(Ring::new(settings.memory)), unwritten: AtomicU64::new(0) });
        let (queue, waiting) = sync_channel(QUEUE);
        let of_thread = shared.clone();
        thread::Builder::new()
            .name("decision-records".to_owned())
            .spawn(move || keep(&waiting, &of_thread, files))
            .map_err(RecorderError::Thread)?;
        let inner = Inner { queue, shared, last: AtomicU64::new(0), dropped: AtomicU64::new(0) };
        Ok(Self(Some(Arc::new(inner))))
    }

    /// Hands over a decision, or drops it: never waits.
    pub fn record(&self, entry: Entry) {
        let Some(inner) = &self.0 else { return };
        let number = inner.last.fetch_add(1, Ordering::Relaxed) + 1;
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            inner.queue.try_send(Message::Keep(Box::new(entry), number))
        {
            inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all that was handed over before is kept, at most so long. For
    /// the end of the process and for tests; blocks.
    pub fn flush(&self, limit: Duration) {
        let Some(inner) = &self.0 else { return };
        let (done, kept) = sync_channel(1);
        if inner.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = kept.recv_timeout(limit);
        }
    }

    /// The latest records that fit, the oldest of them first.
    pub fn list(&self, filter: &Filter) -> Vec<Summary> {
        let Some(inner) = &self.0 else { return Vec::new() };
        inner.shared.ring().select(filter).iter().map(|kept| kept.summary.clone()).collect()
    }

    /// The records that fit, as a file of them (`.jsonl.zst`).
    pub fn export(&self, filter: &Filter) -> Vec<u8> {
        let Some(inner) = &self.0 else { return Vec::new() };
        // Copied outside the lock: an export of everything is megabytes.
        let selected = inner.shared.ring().select(filter);
        selected.iter().flat_map(|kept| kept.frame.iter().copied()).collect()
    }

    /// One record, if it is still there.
    pub fn get(&self, number: u64) -> Option<Record> {
        let kept = self.0.as_ref()?.shared.ring().get(number)?;
        kept.record()
    }

    /// The latest records that fit, whole, the oldest of them first. Blocks for
    /// as long as unpacking takes.
    pub fn records(&self, filter: &Filter) -> Vec<Record> {
        let Some(inner) = &self.0 else { return Vec::new() };
        let selected = inner.shared.ring().select(filter);
        selected.iter().filter_map(|kept| kept.record()).collect()
    }

    /// What there is and what was lost.
    pub fn standing(&self) -> Standing {
        let Some(inner) = &self.0 else { return Standing::default() };
        Standing {
            kept: inner.shared.ring().len(),
            dropped: inner.dropped.load(Ordering::Relaxed),
            unwritten: inner.shared.unwritten.load(Ordering::Relaxed),
        }
    }
}

/// The thread. Ends when nobody can hand over anything any more.
fn keep(waiting: &Receiver<Message>, shared: &Shared, mut files: Option<Files>) {
    let mut failing = false;
    for message in waiting {
        let (entry, number) = match message {
            Message::Keep(entry, number) => (*entry, number),
            Message::Flush(done) => {
                let _ = done.try_send(());
                continue;
            }
        };
        let Entry { policy, question, tried, made } = entry;
        let record = Record::new(&policy, Arc::unwrap_or_clone(question), tried, made, number);
        let Ok(frame) = zstd::bulk::compress(&record.to_line(), LEVEL) else { continue };
        if let Some(files) = &mut files {
            let result = files.append(&frame);
            if let Err(error) = &result {
                shared.unwritten.fetch_add(1, Ordering::Relaxed);
                if !failing {
                    tracing::warn!(%error, "decision records cannot be written; they are kept in memory alone");
                }
            }
            failing = result.is_err();
        }
        shared.ring().push(Kept { summary: Summary::of(&record), frame });
    }
}

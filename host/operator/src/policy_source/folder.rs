//! Feeds the policy book from a folder: at the author's desk, or where a mount is
//! preferred to a watch of the API. Must not know Kubernetes.
//!
//! A folder tells little of what happens in it: a mounted ConfigMap is exchanged by
//! a link, an editor writes in pieces, and watches get lost. So each notice is but
//! a hint to read it again, when it has been quiet for a moment, and it is read
//! every now and then without any.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use vmgroup_api::policy_file::FILE_NAME;
use vmgroup_policy::Limits;

use super::desk::Desk;
use super::supply::SIGNATURE_SUFFIX;
use super::{Origin, PolicyBook, PolicyFiles};
use crate::mounted;
use crate::offload::Offload;

/// A folder is read when nothing has happened in it for this long: writing a file
/// is many notices.
const QUIET: Duration = Duration::from_millis(200);
/// And after this long, however busy it is.
const BUSY: Duration = Duration::from_secs(2);
/// Without any notice, this often: where watches are used up, or the folder was
/// exchanged for another one.
const EVERY: Duration = Duration::from_secs(5);
/// When a folder (a network's) has not answered for this long, that is said.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// The largest policy file, as in a ConfigMap.
const MAX_POLICY_FILE: u64 = 1 << 20;
/// All plugins together, as they are stored.
const MAX_PLUGINS: u64 = 128 << 20;

/// Reads a folder at each change, and offers what it has to the book, until
/// `shutdown`. It has a `policy.yaml` and, beside it, the plugins that it names.
pub async fn watch_folder(folder: PathBuf, book: PolicyBook, shutdown: CancellationToken) {
    let mut changes = book.changes();
    let mut desk = Desk::new(book, None);
    let mut watch = Watch::new(folder);
    let mut shown = None;
    loop {
        let reading = Offload::Blocking.run(move || {
            watch.renew();
            let files = read(&watch.folder);
            (watch, files)
        });
        let mut reading = pin!(reading);
        let files;
        (watch, files) = loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                // One at a time: a folder that does not answer holds one thread.
                read = &mut reading => break read,
                () = tokio::time::sleep(READ_WITHIN) => tracing::warn!("the folder of policies does not answer"),
            }
        };
        // The same again must not begin to pull all over.
        if shown.as_ref() != Some(&files) {
            desk.take(Some(files.clone())).await;
            shown = Some(files);
        }
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Ok(()) = changes.changed() => desk.tell_of_rollback().await,
                arrived = desk.arrived() => desk.accept(arrived).await,
                () = watch.changed() => break,
                () = tokio::time::sleep(EVERY) => break,
            }
        }
    }
}

/// What there is in the folder. What is wrong with it is told in it. Blocks.
fn read(folder: &Path) -> PolicyFiles {
    let mut files = PolicyFiles { origin: Origin::Folder { problem: None }, ..PolicyFiles::default() };
    if let Err(problem) = read_into(&mounted::at_this_moment(folder), &mut files) {
        files = PolicyFiles {
            origin: Origin::Folder { problem: Some(format!("{}: {problem}", folder.display())) },
            ..PolicyFiles::default()
        };
    }
    files
}

fn read_into(folder: &Path, files: &mut PolicyFiles) -> Result<(), String> {
    let Some(text) = read_at_most(&folder.join(FILE_NAME), MAX_POLICY_FILE)? else {
        // Whether the folder or the file is missing is worth telling.
        std::fs::read_dir(folder).map_err(|error| format!("the folder cannot be read: {error}"))?;
        return Ok(());
    };
    let text = String::from_utf8(text).map_err(|_| format!("`{FILE_NAME}` is no text"))?;
    let mut left = MAX_PLUGINS;
    let entries = std::fs::read_dir(folder).map_err(|error| format!("the folder cannot be read: {error}"))?;
    for entry in entries.flatten() {
        // What the policy file does not even mention is nobody's.
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| *name != FILE_NAME) else { continue };
        if !text.contains(name.strip_suffix(SIGNATURE_SUFFIX).unwrap_or(name)) {
            continue;
        }
        // One byte more than a plugin may have, so that its check says that it is too large.
        let most = u64::try_from(Limits::default().wasm_bytes).unwrap_or(u64::MAX).saturating_add(1);
        let Some(bytes) = read_at_most(&entry.path(), most)? else { continue };
        left = u64::try_from(bytes.len())
            .ok()
            .and_then(|taken| left.checked_sub(taken))
            .ok_or_else(|| format!("its plugins take more than {} MiB", MAX_PLUGINS >> 20))?;
        files.binaries.insert(name.to_owned(), bytes.into());
    }
    files.policy_yaml = Some(text);
    Ok(())
}

/// A file's first bytes; none if it is not there, or is no file.
fn read_at_most(path: &Path, most: u64) -> Result<Option<Vec<u8>>, String> {
    let fail = |error: std::io::Error| format!("`{}` cannot be read: {error}", path.display());
    let file = match std::fs::metadata(path)
        .and_then(|there| there.is_file().then(|| std::fs::File::open(path)).transpose())
    {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map_err(fail)?;
    Ok(Some(bytes))
}

/// Which folder it is, whatever it is called: device and inode.
type Identity = (u64, u64);

/// The watch on the folder itself. One on a file in it, or on `..data`, would see
/// the first exchange of a mount and no other.
struct Watch {
    folder: PathBuf,
    hints: Arc<Notify>,
    /// With the folder that it looks at.
    watcher: Option<(RecommendedWatcher, Identity)>,
    /// It cannot be watched, and that was said.
    told: bool,
}

impl Watch {
    fn new(folder: PathBuf) -> Self {
        Self { folder, hints: Arc::default(), watcher: None, told: false }
    }

    /// Watches the folder that is there now, if it can be watched.
    fn renew(&mut self) {
        let identity = std::fs::metadata(&self.folder).map(|there| (there.dev(), there.ino())).ok();
        if identity.is_some() && identity == self.watcher.as_ref().map(|(_, watched)| *watched) {
            return;
        }
        self.watcher = None;
        let Some(identity) = identity else { return };
        let hints = Arc::clone(&self.hints);
        let notice = move |event: notify::Result<notify::Event>| {
            // Reading the folder makes notices too.
            if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
                hints.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(notice).and_then(|mut watcher| {
            watcher.watch(&self.folder, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => {
                self.watcher = Some((watcher, identity));
                self.told = false;
            }
            Err(error) if !self.told => {
                tracing::warn!(folder = %self.folder.display(), %error, every = ?EVERY, "the folder of policies cannot be watched, and is read every now and then instead");
                self.told = true;
            }
            Err(_) => {}
        }
    }

    /// Something has happened in the folder, and now it is quiet.
    async fn changed(&self) {
        self.hints.notified().await;
        let quiet = async { while tokio::time::timeout(QUIET, self.hints.notified()).await.is_ok() {} };
        // However busy it is, it is read now and then.
        let _ = tokio::time::timeout(BUSY, quiet).await;
    }
}

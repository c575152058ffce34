//! Records in files: frames of zstd one behind the other, so that
//! `zstd -dc decisions-*.jsonl.zst` shows one JSON object a line. A file that
//! has its size is followed by the next, and the oldest are removed.
//!
//! Blocks: only the recorder's own thread comes here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// What each file's name begins and ends with; between them stand the number of the
/// file, so that they sort by age.
const PREFIX: &str = "decisions-";
pub(crate) const SUFFIX: &str = ".jsonl.zst";

/// Where records are written, and how much of them is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// A folder of their own; made if it is not there.
    pub folder: PathBuf,
    /// A file that has reached so many bytes is followed by the next.
    pub file_bytes: u64,
    /// At most so many files.
    pub files: usize,
}

/// The file that is being written, and those before it.
#[derive(Debug)]
pub(crate) struct Files {
    settings: FileSettings,
    open: Option<(File, u64)>,
    next: u64,
}

impl Files {
    /// Looks what is there, and goes on behind it. A file of an earlier run is
    /// not written to: its last record may be cut.
    pub(crate) fn new(settings: FileSettings) -> io::Result<Self> {
        fs::create_dir_all(&settings.folder)?;
        let next = list(&settings.folder)?.last().map_or(1, |(number, _)| number + 1);
        Ok(Self { settings, open: None, next })
    }

    pub(crate) fn append(&mut self, frame: &[u8]) -> io::Result<()> {
        let result = self.try_append(frame);
        if result.is_err() {
            // What was written of it is a cut frame; nothing may follow it.
            self.open = None;
        }
        result
    }

    fn try_append(&mut self, frame: &[u8]) -> io::Result<()> {
        if self.open.as_ref().is_none_or(|(_, size)| *size >= self.settings.file_bytes) {
            self.open = Some((self.begin()?, 0));
        }
        if let Some((file, size)) = &mut self.open {
            file.write_all(frame)?;
            *size += frame.len() as u64;
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<File> {
        let before = list(&self.settings.folder)?;
        let surplus = (before.len() + 1).saturating_sub(self.settings.files.max(1));
        for (_, path) in before.iter().take(surplus) {
            fs::remove_file(path)?;
        }
        let path = self.settings.folder.join(format!("{PREFIX}{:08}{SUFFIX}", self.next));
        self.next += 1;
        OpenOptions::new().write(true).create_new(true).open(path)
    }
}

/// The files of a folder by number, the oldest first. What has another name is
/// somebody else's.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

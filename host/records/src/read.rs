//! Reading records again: a file (`.jsonl.zst` or `.jsonl`), or a folder of them.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files::list;
use crate::{FormatError, Record};

/// The first bytes of each zstd frame.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Why records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file or folder.
    #[error("`{}` cannot be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One line of it.
    #[error("`{}`, line {line}, cannot be used", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        source: FormatError,
    },
    /// There is nothing in the folder that has a record file's name.
    #[error("there are no records in `{}`: expected decisions-*.jsonl.zst", .0.display())]
    Empty(PathBuf),
}

/// Reads a file, or the files of a folder from the oldest on. A record that is
/// cut off at the end of a file (the operator was killed) is left out.
pub fn read(path: &Path) -> Result<Vec<Record>, ReadError> {
    lines(path)?.map(|line| line?.record()).filter_map(Result::transpose).collect()
}

/// The same line by line, for who does not want all of it in memory at once.
pub fn lines(path: &Path) -> Result<Lines, ReadError> {
    let failed = |source| ReadError::File { path: path.to_owned(), source };
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(Lines { files: [path.to_owned()].into(), open: None });
    }
    let files: VecDeque<PathBuf> = list(path).map_err(failed)?.into_iter().map(|(_, file)| file).collect();
    if files.is_empty() {
        return Err(ReadError::Empty(path.to_owned()));
    }
    Ok(Lines { files, open: None })
}

/// Lines of files, one file after the other.
pub struct Lines {
    files: VecDeque<PathBuf>,
    open: Option<Open>,
}

struct Open {
    path: Arc<Path>,
    from: Box<dyn BufRead + Send>,
    number: usize,
}

/// A line that is no record yet.
#[derive(Debug)]
pub struct Line {
    path: Arc<Path>,
    /// From 1.
    number: usize,
    bytes: Vec<u8>,
}

impl Line {
    /// The record; none if the line is cut off.
    pub fn record(&self) -> Result<Option<Record>, ReadError> {
        match Record::from_line(&self.bytes) {
            Ok(record) => Ok(Some(record)),
            Err(_) if !self.bytes.ends_with(b"\n") => Ok(None),
            Err(source) => Err(ReadError::Line { path: self.path.to_path_buf(), line: self.number, source }),
        }
    }
}

impl Open {
    fn new(path: PathBuf) -> Result<Self, ReadError> {
        let failed = |source| ReadError::File { path: path.clone(), source };
        let mut file = BufReader::new(File::open(&path).map_err(failed)?);
        let from: Box<dyn BufRead + Send> = if file.fill_buf().map_err(failed)?.starts_with(&ZSTD) {
            Box::new(BufReader::new(zstd::stream::read::Decoder::with_buffer(file).map_err(failed)?))
        } else {
            Box::new(file)
        };
        Ok(Self { path: path.into(), from, number: 0 })
    }

    /// The next line; none at the end of the file.
    fn line(&mut self) -> Result<Option<Line>, ReadError> {
        let mut bytes = Vec::new();
        self.number += 1;
        match self.from.read_until(b'\n', &mut bytes) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(Line { path: self.path.clone(), number: self.number, bytes })),
            // The last frame is incomplete.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(source) => Err(ReadError::File { path: self.path.to_path_buf(), source }),
        }
    }
}

impl Iterator for Lines {
    type Item = Result<Line, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let open = match &mut self.open {
                Some(open) => open,
                None => match Open::new(self.files.pop_front()?) {
                    Ok(open) => self.open.insert(open),
                    Err(error) => return Some(Err(error)),
                },
            };
            match open.line() {
                Ok(Some(line)) => return Some(Ok(line)),
                Ok(None) => self.open = None,
                Err(error) => {
                    // What follows in this file makes no sense any more.
                    self.open = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

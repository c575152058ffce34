//! Reading records again: a file (`.jsonl.zst` or `.jsonl`), or a folder of them.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

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
    let failed = |source| ReadError::File { path: path.to_owned(), source };
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return read_file(path);
    }
    let files = list(path).map_err(failed)?;
    if files.is_empty() {
        return Err(ReadError::Empty(path.to_owned()));
    }
    let mut records = Vec::new();
    for (_, file) in files {
        records.extend(read_file(&file)?);
    }
    Ok(records)
}

fn read_file(path: &Path) -> Result<Vec<Record>, ReadError> {
    let failed = |source| ReadError::File { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    if !file.fill_buf().map_err(failed)?.starts_with(&ZSTD) {
        return parse(path, file);
    }
    let decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(failed)?;
    parse(path, BufReader::new(decoder))
}

fn parse(path: &Path, mut from: BufReader<impl Read>) -> Result<Vec<Record>, ReadError> {
    let mut records = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        match from.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {}
            // The last frame is incomplete.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(source) => return Err(ReadError::File { path: path.to_owned(), source }),
        }
        match Record::from_line(&line) {
            Ok(record) => records.push(record),
            Err(_) if !line.ends_with(b"\n") => break,
            Err(source) => return Err(ReadError::Line { path: path.to_owned(), line: number, source }),
        }
    }
    Ok(records)
}

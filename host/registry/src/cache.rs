//! A folder of content by its digest, as in an OCI image layout (`blobs/sha256/…`),
//! bounded in size: what was not used for the longest time goes first. What is read
//! from it is compared with its digest, so nothing in there has to be trusted.
//! All of it blocks.

use std::fs::{self, File, FileTimes};
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::time::SystemTime;

use bytes::Bytes;

use crate::Digest;

/// Content that was pulled once.
#[derive(Clone, Debug)]
pub struct Cache {
    blobs: PathBuf,
    /// Bytes, over all files.
    limit: u64,
}

impl Cache {
    /// In this folder, which is made if it is not there.
    pub fn open(folder: &std::path::Path, limit: u64) -> io::Result<Self> {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        Ok(Self { blobs, limit })
    }

    /// What has this digest, if it is there, whole, and no larger than that.
    pub fn get(&self, digest: &Digest, at_most: usize, now: SystemTime) -> Option<Bytes> {
        let path = self.blobs.join(digest.hex());
        let file = File::open(&path).ok()?;
        let mut bytes = Vec::new();
        file.take(at_most as u64 + 1).read_to_end(&mut bytes).ok()?;
        if bytes.len() > at_most {
            return None;
        }
        if Digest::of(&bytes) != *digest {
            tracing::warn!(path = %path.display(), "a file of the cache is damaged, and is thrown away");
            let _ = fs::remove_file(&path);
            return None;
        }
        // Whoever shares the folder and may only read it can still use it.
        if let Ok(file) = File::options().append(true).open(&path) {
            let _ = file.set_times(FileTimes::new().set_modified(now));
        }
        Some(bytes.into())
    }

    /// Keeps it, and makes room for it. What is larger than all the room is not kept.
    pub fn put(&self, digest: &Digest, bytes: &[u8], now: SystemTime) -> io::Result<()> {
        let room = self.limit.checked_sub(bytes.len() as u64);
        let Some(room) = room else { return Ok(()) };
        self.shrink_to(room)?;
        // Under its name there is never a part of it. Two processes that write the
        // same content at once write the same bytes.
        let unfinished = self.blobs.join(format!("{}.{}.unfinished", digest.hex(), std::process::id()));
        let written = fs::write(&unfinished, bytes)
            .and_then(|()| File::options().append(true).open(&unfinished))
            .and_then(|file| file.set_times(FileTimes::new().set_modified(now)))
            .and_then(|()| fs::rename(&unfinished, self.blobs.join(digest.hex())));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    fn shrink_to(&self, room: u64) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.blobs)? {
            let entry = entry?;
            // Another process may throw it away in this moment.
            let Ok(about) = entry.metadata() else { continue };
            files.push((about.modified()?, about.len(), entry.path()));
        }
        files.sort();
        let mut taken: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if taken <= room {
                break;
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => taken -= size,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A folder of its own, gone with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("vmgroup-cache-{}-{name}", std::process::id())))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600 + seconds)
    }

    #[test]
    fn what_was_used_last_stays_and_the_size_is_held() {
        let folder = Folder::new("bound");
        let cache = Cache::open(&folder.0, 100).unwrap();
        let contents = [b'a', b'b', b'c', b'd'].map(|letter| vec![letter; 40]);
        let digests = contents.each_ref().map(|bytes| Digest::of(bytes));
        cache.put(&digests[0], &contents[0], at(0)).unwrap();
        cache.put(&digests[1], &contents[1], at(1)).unwrap();
        assert!(cache.get(&digests[0], 100, at(2)).is_some(), "used: the other one is the oldest now");
        cache.put(&digests[2], &contents[2], at(3)).unwrap();
        let there = |at_time| digests.each_ref().map(|digest| cache.get(digest, 100, at(at_time)).is_some());
        assert_eq!(there(4), [true, false, true, false]);
        let large = vec![b'x'; 101];
        cache.put(&Digest::of(&large), &large, at(5)).unwrap();
        assert_eq!(there(6), [true, false, true, false], "what has no room at all throws nothing out");
        // Another process, later.
        let again = Cache::open(&folder.0, 100).unwrap();
        assert_eq!(again.get(&digests[2], 100, at(7)).as_deref(), Some(&contents[2][..]));
    }

    #[test]
    fn what_is_damaged_or_too_large_is_not_given() {
        let folder = Folder::new("damage");
        let cache = Cache::open(&folder.0, 1_000).unwrap();
        let digest = Digest::of(b"content");
        cache.put(&digest, b"content", at(0)).unwrap();
        assert!(cache.get(&digest, 6, at(1)).is_none() && cache.get(&digest, 7, at(1)).is_some());
        fs::write(cache.blobs.join(digest.hex()), b"c0ntent").unwrap();
        assert!(cache.get(&digest, 100, at(2)).is_none());
        assert!(!cache.blobs.join(digest.hex()).exists());
        cache.put(&digest, b"content", at(3)).unwrap();
        assert!(cache.get(&digest, 100, at(4)).is_some());
    }
}

//! The logins to vCenter that lie in a folder, such as a mounted Secret: read at
//! the start, and read anew for as long as the operator runs, so that a rotation
//! takes no restart.
//!
//! Must not know what the logins are used for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use vmgroup_vsphere::{Credentials, Password, Vcenter};

use crate::link::Link;
use crate::mounted;

/// How often the folder is looked at. The kubelet brings a changed Secret within
/// a minute or two. Not by inotify: its watches are used up on many nodes, and
/// what a folder looks like while the kubelet changes it is no hint at all.
const EVERY: Duration = Duration::from_secs(5);

/// A folder that does not answer within this is tried again later.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// What lies in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logins {
    /// vCenter, from the file `VC_HOST`, if there is one.
    pub host: Option<String>,
    /// Who logs in, from `VC_USER` and `VC_PASS`.
    pub writer: Credentials,
    /// Who logs in for what only reads, from `VC_READ_USER` and `VC_READ_PASS`,
    /// if both are there.
    pub reader: Option<Credentials>,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// A file is missing or cannot be read.
    #[error("vCenter's login cannot be read from {path}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is empty, or is no text.
    #[error("vCenter's login cannot be read: {path} is empty", path = .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the folder. Blocks.
pub fn read(folder: &Path) -> Result<Logins, LoginError> {
    // User and password are to be of the same moment.
    let folder = mounted::at_this_moment(folder);
    let reader = match (optional(&folder, "VC_READ_USER")?, optional(&folder, "VC_READ_PASS")?) {
        (Some(user), Some(password)) => Some(Credentials { user, password: Password::from(password) }),
        (None, None) => None,
        (Some(_), None) => return Err(missing(folder.join("VC_READ_PASS"))),
        (None, Some(_)) => return Err(missing(folder.join("VC_READ_USER"))),
    };
    let needed = |name: &str| optional(&folder, name)?.ok_or_else(|| missing(folder.join(name)));
    let writer = Credentials { user: needed("VC_USER")?, password: Password::from(needed("VC_PASS")?) };
    Ok(Logins { host: optional(&folder, "VC_HOST")?, writer, reader })
}

fn missing(path: PathBuf) -> LoginError {
    LoginError::File { path, source: std::io::ErrorKind::NotFound.into() }
}

/// The text of a file without the end of its line, which editors put there.
fn optional(folder: &Path, name: &str) -> Result<Option<String>, LoginError> {
    let path = folder.join(name);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LoginError::File { path, source }),
    };
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() { Err(LoginError::Empty { path }) } else { Ok(Some(text.to_owned())) }
}

/// Gives the client what lies in the folder whenever that has changed, until told
/// to stop. A folder that cannot be used changes nothing.
pub async fn follow(folder: PathBuf, link: Link, stop: CancellationToken) {
    let mut told = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
        let path = folder.clone();
        let reading = tokio::task::spawn_blocking(move || read(&path));
        match tokio::time::timeout(READ_WITHIN, reading).await {
            Ok(Ok(Ok(logins))) => {
                told = None;
                if take_over(link.vcenter(), logins) {
                    tracing::info!(folder = %folder.display(), "vCenter's login has changed and is tried");
                    link.retry();
                }
            }
            Ok(Ok(Err(error))) => {
                let text = crate::link::chain(&error);
                if told.as_ref() != Some(&text) {
                    tracing::error!(error = %text, "vCenter's login stays as it was");
                    told = Some(text);
                }
            }
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(folder = %folder.display(), "the folder of vCenter's login does not answer");
            }
        }
    }
}

fn take_over(vcenter: &Vcenter, logins: Logins) -> bool {
    let writer = vcenter.set_credentials(logins.writer);
    let reader = logins.reader.is_some_and(|reader| vcenter.set_reader(reader));
    writer || reader
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder of its own, gone with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("vmgroup-logins-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.0.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn files_are_read_with_and_without_the_end_of_a_line() {
        let folder = Folder::new("plain");
        folder.write("VC_USER", "me\n");
        folder.write("VC_PASS", " hunter2 \r\n");
        let logins = read(&folder.0).unwrap();
        assert_eq!(logins.writer, Credentials { user: "me".into(), password: " hunter2 ".into() });
        assert_eq!((logins.host, logins.reader), (None, None));
        folder.write("VC_HOST", "vc.example");
        folder.write("VC_READ_USER", "reader");
        folder.write("VC_READ_PASS", "read");
        let logins = read(&folder.0).unwrap();
        assert_eq!(logins.host.as_deref(), Some("vc.example"));
        assert_eq!(logins.reader.unwrap().user, "reader");
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_secret_is() {
        let folder = Folder::new("missing");
        folder.write("VC_USER", "me");
        folder.write("VC_PASS", "\n");
        let error = read(&folder.0).unwrap_err().to_string();
        assert!(error.contains("VC_PASS is empty"), "{error}");
        folder.write("VC_PASS", "hunter2");
        folder.write("VC_READ_PASS", "hunter3");
        let error = format!("{:?}", read(&folder.0).unwrap_err());
        assert!(error.contains("VC_READ_USER") && !error.contains("hunter"), "{error}");
    }

    /// As the kubelet does it: a new folder, and a link that is swapped.
    #[test]
    fn a_mounted_secret_is_read_through_its_link() {
        let folder = Folder::new("mounted");
        folder.write("..2026_1/VC_USER", "old");
        folder.write("..2026_1/VC_PASS", "old");
        folder.write("..2026_2/VC_USER", "new");
        folder.write("..2026_2/VC_PASS", "new");
        symlink("..2026_1", folder.0.join("..data")).unwrap();
        symlink("..data/VC_USER", folder.0.join("VC_USER")).unwrap();
        symlink("..data/VC_PASS", folder.0.join("VC_PASS")).unwrap();
        assert_eq!(read(&folder.0).unwrap().writer.user, "old");
        symlink("..2026_2", folder.0.join("..data_tmp")).unwrap();
        std::fs::rename(folder.0.join("..data_tmp"), folder.0.join("..data")).unwrap();
        let logins = read(&folder.0).unwrap();
        assert_eq!(logins.writer, Credentials { user: "new".into(), password: "new".into() });
    }
}

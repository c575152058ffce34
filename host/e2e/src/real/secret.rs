//! A Secret as the kubelet mounts it: files behind one link, which is swapped when
//! the Secret changes. Must not know what is in it.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::world::WorldError;

/// A mounted Secret.
pub struct MountedSecret {
    folder: PathBuf,
    version: u32,
}

impl MountedSecret {
    /// Mounts one with these files.
    pub fn mount(folder: PathBuf, files: &[(&str, &str)]) -> Result<Self, WorldError> {
        std::fs::create_dir_all(&folder)?;
        let mut secret = Self { folder, version: 0 };
        secret.change(files)?;
        for (name, _) in files {
            symlink(Path::new("..data").join(name), secret.folder.join(name))?;
        }
        Ok(secret)
    }

    /// Where it is mounted.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All files change in one moment.
    pub fn change(&mut self, files: &[(&str, &str)]) -> Result<(), WorldError> {
        let old = self.folder.join(format!("..{}", self.version));
        self.version += 1;
        let version = format!("..{}", self.version);
        std::fs::create_dir(self.folder.join(&version))?;
        for (name, text) in files {
            std::fs::write(self.folder.join(&version).join(name), text)?;
        }
        let link = self.folder.join("..data_tmp");
        symlink(version, &link)?;
        std::fs::rename(link, self.folder.join("..data"))?;
        if self.version > 1 {
            std::fs::remove_dir_all(old)?;
        }
        Ok(())
    }
}

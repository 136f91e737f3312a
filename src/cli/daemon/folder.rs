//! A new folder that is removed with everything in it when it is dropped.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::env;

use super::DaemonError;

pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes it inside `parent`, for this user only.
    pub(crate) fn make(parent: &Path) -> Result<Self, DaemonError> {
        let name: String = env::random_bytes::<6>().map(|byte| format!("{byte:02x}")).concat();
        let path = parent.join(format!("terrace-{name}"));
        // An existing folder is refused: nobody else may have prepared it.
        DirBuilder::new().mode(0o700).create(&path).map_err(|source| {
            let what = format!("make {} (set TMPDIR to a folder you can write)", path.display());
            DaemonError::io(what, source)
        })?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_and_goes_with_its_contents() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::make(parent.path()).unwrap();
        let path = folder.path().to_owned();
        fs::write(path.join("file"), "x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
        let said = Folder::make(&path).err().map(|error| error.to_string()).unwrap();
        assert!(said.contains("TMPDIR"), "{said}");
    }
}

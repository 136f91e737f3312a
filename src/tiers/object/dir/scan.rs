//! What lies in the folder: the header of every object, in no order.
//!
//! Reads headers only, and notes none of them as to be flushed. Follows no links; what is no block's object
//! is passed over.

use std::ffi::OsStr;
use std::{fs, io};

use super::{FORMAT_PREFIX, Folder, foreign, guard};
use crate::domain::block::Key;
use crate::tiers::store::{FoundFrame, StoreError};

impl Folder {
    /// # Errors
    /// The folder is out; or something in it can't be read, and all else was reported.
    pub(super) fn scan(&self, found: &mut dyn FnMut(FoundFrame)) -> Result<(), StoreError> {
        let mut unread = Ok(());
        for digits in 0..=u8::MAX {
            let keys = self.guarded(guard::Way::Read, || self.keys_below(digits));
            for key in passed_over(keys, &mut unread)?.unwrap_or_default() {
                let header = self.guarded(guard::Way::Read, || self.header(key));
                if let Some(header) = passed_over(header, &mut unread)? {
                    found(FoundFrame::object(header));
                }
            }
        }
        unread
    }

    /// The blocks that objects are called after whose keys begin with these two digits.
    fn keys_below(&self, digits: u8) -> Result<Vec<Key>, StoreError> {
        let path = self.root.join(FORMAT_PREFIX).join(format!("{digits:02x}"));
        let entries = match fs::read_dir(&path).map_err(self.failed("list", &path)) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotADirectory => {
                return Err(foreign(&path, "is not a folder"));
            }
            entries => entries?,
        };
        let mut keys = Vec::new();
        for entry in entries {
            let entry = entry.map_err(self.failed("list", &path))?;
            keys.extend(key_of(&entry.file_name()).filter(|key| key.0[0] == digits));
        }
        Ok(keys)
    }
}

/// What was read. What is not there, or is nobody's, is passed over; what can't be read is noted.
fn passed_over<T>(
    read: Result<T, StoreError>,
    unread: &mut Result<(), StoreError>,
) -> Result<Option<T>, StoreError> {
    match read {
        Ok(read) => return Ok(Some(read)),
        Err(StoreError::Missing(_) | StoreError::Corrupt(_)) => {}
        Err(error @ StoreError::TierLost(_)) => return Err(error),
        Err(error) => *unread = Err(error),
    }
    Ok(None)
}

/// The block that the object of this name is of: its key in hex, as `object_name` writes it.
fn key_of(name: &OsStr) -> Option<Key> {
    let name = name.to_str()?;
    let key = Key(u128::from_str_radix(name, 16).ok()?.to_be_bytes());
    (key.to_string() == name).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_called_as_an_object_is_one() {
        let key = Key([0xab; 16]);
        assert_eq!(key_of(OsStr::new(&key.to_string())), Some(key));
        for other in ["", "ab", "+bababababababababababababababab", "unfinished"] {
            assert_eq!(key_of(OsStr::new(other)), None, "{other}");
        }
        assert_eq!(key_of(OsStr::new(&key.to_string().to_uppercase())), None);
        assert_eq!(key_of(OsStr::new(&format!("{key}.old"))), None);
    }
}

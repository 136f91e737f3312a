//! What lies in the folder: the header of every object, in no order.
//!
//! Reads headers only, and notes none of them as to be flushed. Follows no links; what is no block's object
//! is passed over.

use std::ffi::OsStr;
use std::fs;

use super::{FORMAT_PREFIX, Folder, guard};
use crate::domain::block::Key;
use crate::tiers::store::{FoundFrame, StoreError};

impl Folder {
    /// # Errors
    /// The folder can't be read; or one of its objects can't, and all others were reported.
    pub(super) fn scan(&self, found: &mut dyn FnMut(FoundFrame)) -> Result<(), StoreError> {
        let mut unread = Ok(());
        for digits in 0..=u8::MAX {
            for key in self.guarded(guard::Way::Read, || self.keys_below(digits))? {
                match self.guarded(guard::Way::Read, || self.header(key)) {
                    Ok(header) => found(FoundFrame::object(header)),
                    Err(StoreError::Missing(_) | StoreError::Corrupt(_)) => {}
                    Err(error @ StoreError::TierLost(_)) => return Err(error),
                    Err(error) => unread = Err(error),
                }
            }
        }
        unread
    }

    /// The blocks that objects are called after whose keys begin with these two digits.
    fn keys_below(&self, digits: u8) -> Result<Vec<Key>, StoreError> {
        let path = self.root.join(FORMAT_PREFIX).join(format!("{digits:02x}"));
        let entries = match fs::read_dir(&path).map_err(self.failed("list", &path)) {
            // Nobody has written there.
            Err(StoreError::Missing(_)) => return Ok(Vec::new()),
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

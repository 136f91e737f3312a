//! What objects of packs are called.
//!
//! Every writer has a folder of its own and numbers what it writes there, so who has read up to a number
//! finds what came since. The name also says how long the object's head is: one request reads it.

use std::fmt;

use super::FOLDER;
use crate::env;
use crate::tiers::frame::HEADER_BYTES;

/// Who wrote: the node's id.
pub(super) type Writer = [u8; 16];

/// Longer heads nobody writes: a pack of 8 MiB has at most 2,047 frames.
const HEAD_PAGES_MAX: u16 = 256;

/// Numbers from here on nobody gives: they begin as microseconds since 1970.
const NUMBER_MAX: u64 = 1 << 62;

/// What an object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holds {
    /// A table of contents, then frames.
    Frames,
    /// Changes of frames that lie in packs.
    Changes,
}

/// An object's name. Of two of one writer the later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub writer: Writer,
    pub number: u64,
    /// Drawn at random: two processes that take themselves for one writer do not meet.
    pub salt: u32,
    pub head_pages: u16,
    pub holds: Holds,
}

impl Name {
    pub fn new(writer: Writer, number: u64, holds: Holds, head_pages: u16) -> Self {
        let salt = u32::from_le_bytes(env::random_bytes());
        Self { writer, number, salt, head_pages, holds }
    }

    pub const fn head_bytes(&self) -> usize {
        self.head_pages as usize * HEADER_BYTES
    }

    /// Reads the last part of a name in `writer`'s folder; nothing if it is none of ours.
    pub fn parse(writer: Writer, text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let number = u64::from_str_radix(parts.next()?, 16).ok()?;
        let salt = u32::from_str_radix(parts.next()?, 16).ok()?;
        let (kind, pages) = parts.next()?.split_at_checked(1)?;
        let holds = match kind {
            "p" => Holds::Frames,
            "c" => Holds::Changes,
            _ => return None,
        };
        let name =
            Self { writer, number, salt, head_pages: u16::from_str_radix(pages, 16).ok()?, holds };
        let is_possible =
            (1..=HEAD_PAGES_MAX).contains(&name.head_pages) && name.number < NUMBER_MAX;
        // Only one spelling is ours.
        (parts.next().is_none() && is_possible && name.last_part() == text).then_some(name)
    }

    fn last_part(&self) -> String {
        let kind = match self.holds {
            Holds::Frames => 'p',
            Holds::Changes => 'c',
        };
        format!("{:016x}-{:08x}-{kind}{:04x}", self.number, self.salt, self.head_pages)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", folder_of(self.writer), self.last_part())
    }
}

/// A writer's folder.
pub(super) fn folder_of(writer: Writer) -> String {
    format!("{FOLDER}{:032x}/", u128::from_be_bytes(writer))
}

/// The writer whose folder has this name; nothing if it is none of ours.
pub(super) fn writer_of(folder: &str) -> Option<Writer> {
    let writer = u128::from_str_radix(folder, 16).ok()?.to_be_bytes();
    (folder_of(writer).strip_prefix(FOLDER)?.strip_suffix('/')? == folder).then_some(writer)
}

/// Names behind it have this number or a greater one.
pub(super) fn before(number: u64) -> String {
    format!("{number:016x}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_back_and_sort_by_number() {
        let name = Name { salt: 7, ..Name::new([9; 16], 0x12, Holds::Frames, 3) };
        let text = name.to_string();
        assert_eq!(text, format!("v1/packs/{}/0000000000000012-00000007-p0003", "09".repeat(16)));
        let last = text.rsplit('/').next().unwrap();
        assert_eq!(Name::parse([9; 16], last), Some(name));
        assert_eq!(writer_of(&"09".repeat(16)), Some([9; 16]));
        let next = Name::new([9; 16], 0x13, Holds::Changes, 1);
        assert!(next > name && next.to_string() > text);
        assert!(*last > *before(0x12) && *last < *before(0x13));
    }

    #[test]
    fn what_is_spelled_otherwise_is_not_ours() {
        for text in [
            "",
            "a note",
            "0000000000000012-00000007-q0003",
            "0000000000000012-00000007-p0000",
            "0000000000000012-00000007-pffff",
            "ffffffffffffffff-00000007-p0003",
            "0000000000000012-00000007-p3",
            "12-00000007-p0003",
            "0000000000000012-00000007-p0003-x",
            "0000000000000012-+0000007-p0003",
            "000000000000ABCD-00000007-p0003",
        ] {
            assert_eq!(Name::parse([9; 16], text), None, "{text}");
        }
        assert_eq!(writer_of("lost+found"), None);
        assert_eq!(writer_of("9"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-fpc+-]{0,40}") {
            let read = Name::parse([1; 16], &text);
            prop_assert!(read.is_none_or(|name| name.to_string().ends_with(&text)));
        }
    }
}

//! Lines from a file, plain or zstd, each of bounded length.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::error::{Fault, TraceError};

/// The longest line read, in bytes: a request of a million blocks with ids of ten digits is 11 MB.
pub(super) const LINE_BYTES_MAX: usize = 16 << 20;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Frames that a reader passes over begin with one of sixteen numbers; `pzstd` writes such a one first. Source: RFC
/// 8878, section 3.1.2.
const SKIPPED: u32 = 0x184d_2a50;
const SKIPPED_MASK: u32 = 0xffff_fff0;

/// The longest window that zstd makes, with `--long=31`: its reader takes 128 MiB unless told. What
/// the file itself doesn't fill of it costs no memory.
const WINDOW_LOG_MAX: u32 = 31;

/// First bytes of files that people feed to a trace reader by mistake.
const PACKED: [(&[u8], &str); 4] =
    [(&[0x1f, 0x8b], "gzip"), (b"PK\x03\x04", "zip"), (b"\xfd7zXZ", "xz"), (b"BZh", "bzip2")];

/// A file's lines, in order, without their ends.
pub(super) struct Lines {
    bytes: Box<dyn BufRead>,
    is_zstd: bool,
    line: Vec<u8>,
}

impl Lines {
    pub(super) fn open(path: &Path) -> Result<Self, TraceError> {
        Self::open_file(path).map_err(|fault| TraceError::new(path, None, fault))
    }

    fn open_file(path: &Path) -> Result<Self, Fault> {
        let found = path.metadata().map_err(Fault::Open)?;
        if found.is_dir() {
            return Err(Fault::Folder);
        }
        if !found.is_file() {
            return Err(Fault::NoFile);
        }
        let file = File::open(path).map_err(Fault::Open)?;
        Self::new(BufReader::with_capacity(1 << 16, file))
    }

    fn new(mut file: impl BufRead + 'static) -> Result<Self, Fault> {
        // A reader may hand out its first bytes one by one, so the magic is collected, then put back.
        let mut head = Vec::with_capacity(8);
        file.by_ref().take(8).read_to_end(&mut head).map_err(Fault::Read)?;
        if head.is_empty() {
            return Err(Fault::Empty);
        }
        if let Some((_, name)) = PACKED.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(Fault::Packed(name));
        }
        let is_zstd = is_zstd(&head);
        let file = io::Cursor::new(head).chain(file);
        let bytes: Box<dyn BufRead> = if is_zstd {
            let mut unpacked = zstd::Decoder::with_buffer(file).map_err(Fault::BadZstd)?;
            unpacked.window_log_max(WINDOW_LOG_MAX).map_err(Fault::BadZstd)?;
            Box::new(BufReader::with_capacity(1 << 16, unpacked))
        } else {
            Box::new(file)
        };
        Ok(Self { bytes, is_zstd, line: Vec::new() })
    }

    /// The next line and whether it had its end, or nothing at the file's end.
    pub(super) fn read(&mut self) -> Result<Option<(&[u8], bool)>, Fault> {
        self.line.clear();
        let limit = LINE_BYTES_MAX as u64 + 1;
        let is_zstd = self.is_zstd;
        self.bytes.by_ref().take(limit).read_until(b'\n', &mut self.line).map_err(
            |error| match (is_zstd, error.kind()) {
                (true, io::ErrorKind::UnexpectedEof) => Fault::CutZstd,
                (true, _) => Fault::BadZstd(error),
                (false, _) => Fault::Read(error),
            },
        )?;
        let ended = self.line.pop_if(|byte| *byte == b'\n').is_some();
        if self.line.is_empty() && !ended {
            return Ok(None);
        }
        if self.line.len() >= LINE_BYTES_MAX {
            return Err(Fault::LongLine);
        }
        Ok(Some((&self.line, ended)))
    }
}

fn is_zstd(head: &[u8]) -> bool {
    let first = head.first_chunk().map(|magic| u32::from_le_bytes(*magic));
    first.is_some_and(|magic| {
        magic == u32::from_le_bytes(ZSTD_MAGIC) || magic & SKIPPED_MASK == SKIPPED
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Result<Vec<(Vec<u8>, bool)>, Fault> {
        let mut lines = Lines::new(io::Cursor::new(bytes.to_vec()))?;
        let mut all = Vec::new();
        while let Some((line, ended)) = lines.read()? {
            all.push((line.to_vec(), ended));
        }
        Ok(all)
    }

    #[test]
    fn zstd_is_told_by_its_bytes() {
        let plain = b"one\n\nthree";
        let packed = zstd::encode_all(&plain[..], 3).unwrap();
        let expected = [(b"one".to_vec(), true), (vec![], true), (b"three".to_vec(), false)];
        assert_eq!(lines(plain).unwrap(), expected);
        assert_eq!(lines(&packed).unwrap(), expected);
    }

    /// As `pzstd` packs: it says first how long the frame is.
    #[test]
    fn a_zstd_file_may_begin_with_what_is_passed_over() {
        let packed = zstd::encode_all(&b"one\ntwo\n"[..], 3).unwrap();
        let length = u32::try_from(packed.len()).unwrap().to_le_bytes();
        let head = [&SKIPPED.to_le_bytes()[..], &4_u32.to_le_bytes(), &length].concat();
        let expected = [(b"one".to_vec(), true), (b"two".to_vec(), true)];
        assert_eq!(lines(&[head, packed].concat()).unwrap(), expected);
    }

    /// As `zstd --long=30` packs what it does not know the length of.
    #[test]
    fn a_zstd_frame_may_have_a_long_window() {
        let text = b"one\ntwo\n";
        let window = (30 - 10) << 3;
        let block = u8::try_from(text.len()).unwrap() << 3 | 1;
        let head = [&ZSTD_MAGIC[..], &[0, window, block, 0, 0]].concat();
        let expected = [(b"one".to_vec(), true), (b"two".to_vec(), true)];
        assert_eq!(lines(&[&head, &text[..]].concat()).unwrap(), expected);
    }

    #[test]
    fn every_cut_of_a_zstd_file_is_a_fault() {
        let packed = zstd::encode_all(&b"one\ntwo\nthree\n"[..], 3).unwrap();
        for len in 4..packed.len() {
            assert!(matches!(lines(&packed[..len]), Err(Fault::CutZstd)), "{len} bytes");
        }
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let endless = vec![b'x'; LINE_BYTES_MAX + 10];
        assert!(matches!(lines(&endless), Err(Fault::LongLine)));
    }

    #[test]
    fn files_of_other_kinds_are_named() {
        assert!(matches!(lines(b""), Err(Fault::Empty)));
        assert!(matches!(lines(&[0x1f, 0x8b, 8, 0]), Err(Fault::Packed("gzip"))));
    }
}

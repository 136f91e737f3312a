//! The engine's block hashes, as bytes and as text, made into keys.
//!
//! Counts what it makes: one call names so many blocks and no more.

use crate::domain::block::Key;
use crate::domain::namespace::NamespaceDigest;

/// Makes keys of one namespace's hashes, a bounded number of them.
#[derive(Clone, Debug)]
pub struct Hashes {
    digest: NamespaceDigest,
    width: usize,
    blocks_max: usize,
    blocks_left: usize,
}

impl Hashes {
    /// For hashes of `hash_bytes` each, at most `blocks_max` in all.
    #[must_use]
    pub fn new(digest: NamespaceDigest, hash_bytes: u32, blocks_max: u32) -> Self {
        let (width, blocks_max) = (hash_bytes as usize, blocks_max as usize);
        Self { digest, width, blocks_max, blocks_left: blocks_max }
    }

    /// The keys of hashes that stand one after the other.
    ///
    /// # Errors
    /// There are none, or too many, or the length is no multiple of a hash's.
    pub fn run(&mut self, hashes: &[u8]) -> Result<Vec<Key>, String> {
        let width = self.width;
        if hashes.is_empty() {
            return Err(format!("hashes is empty: send at least one hash of {width} bytes"));
        }
        if !hashes.len().is_multiple_of(width) {
            return Err(format!(
                "hashes is {} bytes long: this namespace declared hash_bytes {width}, so the \
                 length must be a multiple of {width}",
                hashes.len()
            ));
        }
        self.take(hashes.len() / width)?;
        Ok(hashes.chunks_exact(width).map(|hash| self.digest.key(hash)).collect())
    }

    /// The keys of hashes in hex or base64 (with either alphabet, padded or not).
    ///
    /// # Errors
    /// There are none, or too many, or one is not of this namespace's width.
    pub fn texts(&mut self, hashes: &[String]) -> Result<Vec<Key>, String> {
        if hashes.is_empty() {
            return Err("target.hashes is empty: name at least one block".into());
        }
        self.take(hashes.len())?;
        let keys = hashes.iter().enumerate().map(|(index, text)| {
            let hash = from_hex(text, self.width).or_else(|| from_base64(text, self.width));
            hash.map(|hash| self.digest.key(&hash)).ok_or_else(|| {
                format!(
                    "target.hashes[{index}] is no hash of this namespace: write its {} bytes in \
                     hex, or in base64",
                    self.width
                )
            })
        });
        keys.collect()
    }

    fn take(&mut self, blocks: usize) -> Result<(), String> {
        self.blocks_left = self.blocks_left.checked_sub(blocks).ok_or_else(|| {
            format!(
                "hashes names {blocks} blocks: one call takes at most {} in all; send several",
                self.blocks_max
            )
        })?;
        Ok(())
    }
}

fn from_hex(text: &str, width: usize) -> Option<Vec<u8>> {
    if text.len() != width * 2 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Base64 as RFC 4648 has it. Text of another width than a hash's is none.
fn from_base64(text: &str, width: usize) -> Option<Vec<u8>> {
    let bare = text.trim_end_matches('=');
    if text.len() - bare.len() > 2 || bare.len() != (width * 8).div_ceil(6) {
        return None;
    }
    let mut bytes = Vec::with_capacity(width);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in bare.bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).expect("eight bits"));
        }
        bits &= (1 << count) - 1;
    }
    // Bits left over belong to no byte: two texts for one hash would be two names.
    (bits == 0 && bytes.len() == width).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_same_hash_is_read_from_every_spelling() {
        // "Man" and its neighbours stand in RFC 4648, section 10.
        for (text, bytes) in [
            ("Zg==", &b"f"[..]),
            ("Zg", b"f"),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("666f6f", b"foo"),
            ("666F6F", b"foo"),
            ("-_-_", b"\xfb\xff\xbf"),
            ("+/+/", b"\xfb\xff\xbf"),
        ] {
            let width = bytes.len();
            let read = from_hex(text, width).or_else(|| from_base64(text, width));
            assert_eq!(read.as_deref(), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for text in ["", "Zh==", "Zg===", "Zm9", "666f6g", "Zm9v!", "été", "=", "Zm 9v"] {
            assert_eq!(from_hex(text, 3).or_else(|| from_base64(text, 3)), None, "{text}");
        }
        // The bits that are left over must be zero.
        assert_eq!(from_base64("Zh", 1), None);
    }

    proptest! {
        #[test]
        fn prop_hex_is_read_back(bytes in prop::collection::vec(any::<u8>(), 1..64)) {
            let digit = |bits: u8| char::from_digit(bits.into(), 16).unwrap();
            let text: String =
                bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
            prop_assert_eq!(from_hex(&text, bytes.len()), Some(bytes));
        }

        #[test]
        fn prop_any_text_is_a_hash_or_none(text in ".{0,90}", width in 1_usize..65) {
            let _ = from_hex(&text, width);
            let _ = from_base64(&text, width);
        }
    }
}

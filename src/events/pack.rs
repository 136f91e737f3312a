//! Writes the few kinds of MessagePack values that events are made of, each as short as it goes.
//!
//! Source: <https://github.com/msgpack/msgpack/blob/master/spec.md>. Reads nothing.

/// Bytes of a value that is being written.
#[derive(Debug, Default)]
pub(super) struct Pack(Vec<u8>);

impl Pack {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The head of an array of so many values.
    pub(super) fn array(&mut self, len: usize) -> &mut Self {
        match len {
            0..16 => self.byte(0x90 | low(len)),
            16..0x1_0000 => self.head(0xdc, &two(len)),
            _ => self.head(0xdd, &four(len)),
        }
    }

    /// The head of a map of so many pairs: fewer than 16 here.
    pub(super) fn map(&mut self, len: u8) -> &mut Self {
        debug_assert!(len < 16, "an event has few fields");
        self.byte(0x80 | len)
    }

    pub(super) fn nil(&mut self) -> &mut Self {
        self.byte(0xc0)
    }

    pub(super) fn float(&mut self, value: f64) -> &mut Self {
        self.head(0xcb, &value.to_be_bytes())
    }

    pub(super) fn uint(&mut self, value: u64) -> &mut Self {
        let [.., c1, c0] = value.to_be_bytes();
        match value {
            0..0x80 => self.byte(c0),
            0x80..0x100 => self.head(0xcc, &[c0]),
            0x100..0x1_0000 => self.head(0xcd, &[c1, c0]),
            0x1_0000..0x1_0000_0000 => self.head(0xce, &value.to_be_bytes()[4..]),
            _ => self.head(0xcf, &value.to_be_bytes()),
        }
    }

    /// The number, or nil.
    pub(super) fn maybe_uint(&mut self, value: Option<u64>) -> &mut Self {
        match value {
            Some(value) => self.uint(value),
            None => self.nil(),
        }
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        match text.len() {
            len @ 0..32 => self.byte(0xa0 | low(len)),
            len @ 32..0x100 => self.head(0xd9, &[low(len)]),
            len @ 0x100..0x1_0000 => self.head(0xda, &two(len)),
            len => self.head(0xdb, &four(len)),
        };
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn byte(&mut self, byte: u8) -> &mut Self {
        self.0.push(byte);
        self
    }

    fn head(&mut self, kind: u8, bytes: &[u8]) -> &mut Self {
        self.0.push(kind);
        self.0.extend_from_slice(bytes);
        self
    }
}

fn low(len: usize) -> u8 {
    len.to_be_bytes()[size_of::<usize>() - 1]
}

fn two(len: usize) -> [u8; 2] {
    u16::try_from(len).expect("the caller chose the width").to_be_bytes()
}

fn four(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("nothing here has 2^32 parts").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(write: impl FnOnce(&mut Pack) -> &mut Pack, wanted: &[u8]) {
        let mut pack = Pack::default();
        write(&mut pack);
        assert_eq!(pack.into_bytes(), wanted);
    }

    #[test]
    fn every_width_is_the_shortest() {
        // The formats' own table in the specification.
        check(|p| p.uint(127), &[0x7f]);
        check(|p| p.uint(128), &[0xcc, 0x80]);
        check(|p| p.uint(255), &[0xcc, 0xff]);
        check(|p| p.uint(256), &[0xcd, 1, 0]);
        check(|p| p.uint(65_536), &[0xce, 0, 1, 0, 0]);
        check(|p| p.uint(1 << 32), &[0xcf, 0, 0, 0, 1, 0, 0, 0, 0]);
        check(|p| p.maybe_uint(None), &[0xc0]);
        check(|p| p.array(15), &[0x9f]);
        check(|p| p.array(16), &[0xdc, 0, 16]);
        check(|p| p.array(65_536), &[0xdd, 0, 1, 0, 0]);
        check(|p| p.float(1.5), &[0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]);
        check(|p| p.map(8), &[0x88]);
        check(|p| p.text("GPU"), &[0xa3, b'G', b'P', b'U']);
        let mut long = vec![0xd9, 32];
        long.extend([b'x'; 32]);
        check(|p| p.text(&"x".repeat(32)), &long);
    }
}

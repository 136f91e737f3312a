//! A digest of a run: every event and every effect, as they print.

use std::fmt::{self, Debug, Write};

/// BLAKE3 over what is said, in order.
#[derive(Default)]
pub(super) struct Digest(blake3::Hasher);

impl Digest {
    pub(super) fn add(&mut self, said: &dyn Debug) {
        writeln!(self, "{said:?}").expect("hashing does not fail");
    }

    pub(super) fn hex(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

//! Hints as they are written outside: the engines' envelope, and the cache fields of request bodies,
//! both lowered to the domain's actions and directives.
//!
//! Pure: text in, values out. Never looks at a block, a session or a clock, carries nothing out, and
//! knows no protobuf. `docs/hints.md` shows both spellings.

pub mod batch;
pub mod claim;
pub mod envelope;
mod hashes;
pub mod lower;

pub use batch::{Asked, Batch, Unanswered};
pub use claim::{ClaimedLift, ClaimedWish, forward};
pub use hashes::Hashes;
pub use lower::{Lowered, Part, Place, lower};

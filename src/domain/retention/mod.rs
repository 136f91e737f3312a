//! What decides how long a block is kept: its record, and the policies that rank blocks.

pub mod record;

pub mod policy;

pub mod lru;

pub use policy::Policy;
pub use record::{Kind, RetentionRecord, Scope};

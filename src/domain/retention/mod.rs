//! What decides how long a block is kept: its record, and the policies that rank blocks.

pub mod record;

mod words;

pub mod directive;

pub mod merge;

pub mod promise;

pub mod policy;

pub mod banded;

pub mod lru;

pub mod s3fifo;

pub mod value;

pub use directive::{Directive, Directives, Shield, TokenRange, Wish};
pub use merge::Ownership;
pub use policy::{Policy, PolicyName, Standing, Verdict};
pub use promise::NewRecord;
pub use record::{Kind, RetentionRecord, Scope};

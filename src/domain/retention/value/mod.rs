//! The value policy: what is least likely to be asked for again soon goes first.
//!
//! The unit of decision is a chain's tip: the deepest block a request reached. A request that finds
//! a tip goes on from it, so chains are linked by content, and sessions only add to what is known.
//! How long tips of a kind wait for their return is learned online ([`survival`]); from it follows
//! each tip's index ([`index`]): the best chance of a return for the time it takes to wait for it.
//! A copy stands as high as the best tip that claims it ([`rank`]), and a newcomer competes with
//! what is there. Where leaf-first LRU would have found more, it decides instead ([`guard`]).
//!
//! Reads no clock and draws nothing: the same calls give the same order.

mod ages;

pub mod index;

pub mod survival;

mod noise;

mod classes;

mod tips;

mod reuse;

mod link;

pub mod rank;

pub mod guard;

pub use guard::Guard;
pub use index::{Level, Worth};
pub use rank::Value;
pub use reuse::{Linked, Reuse, Seen};
pub use tips::TipId;

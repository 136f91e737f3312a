//! A question about one object's header, on its way to whoever reads it.

use crate::domain::block::Key;
use crate::tiers::frame::FrameHeader;
use crate::tiers::store::{Peeked, StoreError};

/// Dropped without an answer, it answers `Busy`: so one that finds no room in a queue, or whose
/// thread died, is still answered, and none is answered twice.
pub(super) struct Question {
    pub key: Key,
    told: Option<Peeked>,
}

impl Question {
    pub fn new(key: Key, told: Peeked) -> Self {
        Self { key, told: Some(told) }
    }

    pub fn answer(mut self, found: Result<FrameHeader, StoreError>) {
        if let Some(told) = self.told.take() {
            told(found);
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if let Some(told) = self.told.take() {
            told(Err(StoreError::Busy));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn a_question_is_answered_once_also_when_it_is_dropped() {
        let (tell, told) = sync_channel(2);
        let ask = || {
            let tell = tell.clone();
            Question::new(Key([1; 16]), Box::new(move |found| tell.send(found).unwrap()))
        };
        drop(ask());
        assert!(matches!(told.try_recv(), Ok(Err(StoreError::Busy))));
        ask().answer(Err(StoreError::Missing("no".into())));
        assert!(matches!(told.try_recv(), Ok(Err(StoreError::Missing(_)))));
        assert!(told.try_recv().is_err());
    }
}

//! A frame lent to whoever writes it, without a copy.
//!
//! They may keep it longer than the operation: the frame's owner waits until it is returned.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::tiers::dram::Arena;
use crate::tiers::store::FrameSpan;

/// The frame, out on loan. Made into `Bytes`; returned when the last clone of those is dropped.
pub struct LentFrame {
    arena: Arc<Arena>,
    span: FrameSpan,
    _on_loan: oneshot::Sender<()>,
}

/// Hears when the frame is returned.
pub struct Returned(oneshot::Receiver<()>);

impl LentFrame {
    /// The caller keeps writers away from the span until [`Returned::wait`] ends.
    pub fn new(arena: &Arc<Arena>, span: FrameSpan) -> (Self, Returned) {
        let (on_loan, returned) = oneshot::channel();
        (Self { arena: Arc::clone(arena), span, _on_loan: on_loan }, Returned(returned))
    }
}

impl AsRef<[u8]> for LentFrame {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the operation that lends the span shares it until it is done, and it waits for
        // `Returned`: nobody writes to the span while `self` lives.
        unsafe { self.arena.bytes(self.span) }
    }
}

impl Returned {
    /// Ends when nobody holds the frame any more.
    pub async fn wait(self) {
        // The only message is that the sending end was dropped with the frame.
        let _ = self.0.await;
    }
}

//! A request's body made of pieces that lie where they are.
//!
//! The HTTP client may keep what it was given long after the request: a connection to a server that
//! went silent is not over before its buffer is sent. So it gets copies, a bounded piece at a time, and
//! none once whoever sends has given up.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// What a client gets at a time, in bytes. Not little: the more often it sends, the more likely it is that the
/// answer of a server which refuses a body unread is lost with the connection.
const COPY_BYTES: usize = 2 << 20;

/// One behind the other.
#[derive(Clone)]
pub struct Pieces(VecDeque<Bytes>);

impl Pieces {
    pub fn len_bytes(&self) -> u64 {
        self.0.iter().map(|piece| piece.len() as u64).sum()
    }

    /// The body, and what must live as long as it is to be read.
    pub fn lend(self) -> (ByteStream, Loan) {
        let (body, loan) = self.into_body();
        (ByteStream::from_body_1_x(body), loan)
    }

    fn into_body(self) -> (Body, Loan) {
        let left_bytes = self.len_bytes();
        let pieces = Lent(Arc::new(Mutex::new(self.0)));
        (Body { pieces: pieces.clone(), left_bytes }, Loan(pieces))
    }
}

impl From<Bytes> for Pieces {
    fn from(piece: Bytes) -> Self {
        Self(VecDeque::from([piece]))
    }
}

impl From<Vec<Bytes>> for Pieces {
    fn from(pieces: Vec<Bytes>) -> Self {
        Self(pieces.into())
    }
}

/// What was not read yet.
#[derive(Clone)]
struct Lent(Arc<Mutex<VecDeque<Bytes>>>);

impl Lent {
    fn pieces(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        // Every change under this lock is one step, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When it goes nobody reads the pieces any more, whoever keeps the body.
pub struct Loan(Lent);

impl Drop for Loan {
    fn drop(&mut self) {
        self.0.pieces().clear();
    }
}

struct Body {
    pieces: Lent,
    left_bytes: u64,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left_bytes == 0 {
            return Poll::Ready(None);
        }
        let mut pieces = self.pieces.pieces();
        while pieces.pop_front_if(|piece| piece.is_empty()).is_some() {}
        let Some(first) = pieces.front_mut() else {
            let over = io::Error::new(io::ErrorKind::BrokenPipe, "whoever sent it has given up");
            return Poll::Ready(Some(Err(over)));
        };
        let copy = Bytes::copy_from_slice(&first.split_to(first.len().min(COPY_BYTES)));
        drop(pieces);
        self.left_bytes -= copy.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(copy))))
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn read(body: &mut Body) -> Option<io::Result<Bytes>> {
        let polled =
            http_body::Body::poll_frame(Pin::new(body), &mut Context::from_waker(Waker::noop()));
        let Poll::Ready(frame) = polled else { panic!("it never waits") };
        frame.map(|frame| frame.map(|frame| frame.into_data().expect("it has no trailers")))
    }

    #[test]
    fn it_is_the_pieces_one_behind_the_other() {
        let long: Vec<u8> = (0..=250).cycle().take(3 * COPY_BYTES + 7).collect();
        let pieces = vec![Bytes::from("head"), Bytes::new(), Bytes::from(long.clone())];
        let (mut body, _loan) = Pieces::from(pieces).into_body();
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(long.len() as u64 + 4));
        let mut all = Vec::new();
        while let Some(piece) = read(&mut body) {
            let piece = piece.unwrap();
            assert!(piece.len() <= COPY_BYTES);
            all.extend_from_slice(&piece);
        }
        assert!(all == [b"head".as_slice(), &long].concat() && body.left_bytes == 0);
        let (mut nothing, _loan) = Pieces::from(Vec::new()).into_body();
        assert!(read(&mut nothing).is_none());
    }

    /// Says whether somebody still has it.
    struct Counted(Arc<[u8]>);

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    #[test]
    fn whoever_keeps_the_body_keeps_no_piece() {
        let frame: Arc<[u8]> = vec![1; 2 * COPY_BYTES].into();
        let piece = Bytes::from_owner(Counted(Arc::clone(&frame)));
        let (mut body, loan) = Pieces::from(piece).into_body();
        let kept = read(&mut body).unwrap().unwrap();
        assert_eq!(Arc::strong_count(&frame), 2);
        drop(loan);
        assert_eq!(
            Arc::strong_count(&frame),
            1,
            "it is given back, though {} bytes are not",
            kept.len()
        );
        assert_eq!(read(&mut body).unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}

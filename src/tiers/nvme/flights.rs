//! What the ring has in hand: operations cut into pieces, pieces in flight, and what became of
//! them.
//!
//! Pure bookkeeping: never touches a ring, a file or memory.

use std::collections::VecDeque;
use std::io;

use crate::tiers::frame::HEADER_SPAN_BYTES;
use crate::tiers::store::StoreOp;
use crate::tiers::ticket::Ticket;

/// Times in a row that the kernel may put a piece off (`EINTR`, `EAGAIN`) before it counts as
/// failed.
const PUT_OFF_MAX: u16 = 10_000;

/// One IO for the kernel. Offsets and lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    pub kind: IoKind,
    pub file_offset: u64,
    /// Where in the arena; for an erase, where in the erased page.
    pub memory_offset: u64,
    pub bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoKind {
    Read,
    Write,
    /// A write from the erased page.
    Erase,
}

/// How operations are cut.
#[derive(Clone, Copy, Debug)]
pub struct Cutting {
    /// Pieces in flight at most: the ring's depth.
    pub pieces_max: usize,
    pub io_bytes: u32,
    /// A piece never crosses a multiple of this in the arena: registered buffers end there.
    pub region_bytes: u64,
}

struct Flight {
    ticket: Ticket,
    io: Io,
    /// Bytes already cut into pieces.
    cut: u32,
    pieces: u32,
    failed: Option<io::Error>,
}

#[derive(Clone, Copy)]
struct Piece {
    flight: usize,
    io: Io,
    put_off: u16,
}

/// Operations and their pieces, by index into two tables.
#[expect(clippy::struct_field_names, reason = "flights in their own table")]
pub struct Flights {
    cutting: Cutting,
    flights: Vec<Option<Flight>>,
    pieces: Vec<Option<Piece>>,
    free_pieces: Vec<usize>,
    /// Flights with bytes that are not in a piece yet, oldest first.
    uncut: VecDeque<usize>,
    /// Pieces that must go to the kernel again.
    again: VecDeque<usize>,
}

impl Flights {
    /// # Panics
    /// The cutting allows no piece at all.
    #[must_use]
    pub fn new(cutting: Cutting) -> Self {
        assert!(cutting.pieces_max > 0 && cutting.io_bytes > 0 && cutting.region_bytes > 0);
        let pieces_max = cutting.pieces_max;
        Self {
            cutting,
            flights: (0..pieces_max).map(|_| None).collect(),
            pieces: vec![None; pieces_max],
            free_pieces: (0..pieces_max).rev().collect(),
            uncut: VecDeque::new(),
            again: VecDeque::new(),
        }
    }

    /// Whether another operation could start now; the rest waits in the queue, in order.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        self.uncut.is_empty() && self.again.is_empty() && !self.free_pieces.is_empty()
    }

    /// Whether nothing is in hand.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.free_pieces.len() == self.cutting.pieces_max && self.uncut.is_empty()
    }

    /// Takes an operation in.
    ///
    /// # Panics
    /// [`Self::wants_more`] was not asked.
    pub fn add(&mut self, ticket: Ticket) {
        // A flight holds a piece or waits uncut, and then none was added: so there is room.
        let index = self.flights.iter().position(Option::is_none).expect("wants_more was asked");
        let io = whole(&ticket.op);
        self.flights[index] = Some(Flight { ticket, io, cut: 0, pieces: 0, failed: None });
        self.uncut.push_back(index);
    }

    /// The next IO for the kernel and its tag, or nothing for now.
    pub fn next_io(&mut self) -> Option<(usize, Io)> {
        let tag = self.again.pop_front().or_else(|| self.cut_piece())?;
        Some((tag, self.pieces[tag].as_ref().expect("a piece that waits is there").io))
    }

    fn cut_piece(&mut self) -> Option<usize> {
        let &index = self.uncut.front()?;
        let tag = self.free_pieces.pop()?;
        let flight = self.flights[index].as_mut().expect("an uncut flight is there");
        let memory_offset = flight.io.memory_offset + u64::from(flight.cut);
        let to_region_end = self.cutting.region_bytes - memory_offset % self.cutting.region_bytes;
        let left = flight.io.bytes - flight.cut;
        let bytes =
            left.min(self.cutting.io_bytes).min(u32::try_from(to_region_end).unwrap_or(u32::MAX));
        let file_offset = flight.io.file_offset + u64::from(flight.cut);
        let io = Io { kind: flight.io.kind, file_offset, memory_offset, bytes };
        self.pieces[tag] = Some(Piece { flight: index, io, put_off: 0 });
        flight.cut += bytes;
        flight.pieces += 1;
        if flight.cut == flight.io.bytes {
            self.uncut.pop_front();
        }
        Some(tag)
    }

    /// Takes the kernel's answer to a piece: bytes moved, or a negated errno. When that was its
    /// operation's last piece, the operation comes back with its outcome.
    ///
    /// # Panics
    /// No piece with this tag is in flight.
    pub fn landed(&mut self, tag: usize, answer: i32) -> Option<(Ticket, io::Result<()>)> {
        let piece = self.pieces[tag].as_mut().expect("the kernel answers what it was asked");
        let flight = self.flights[piece.flight].as_mut().expect("a piece's flight is there");
        match outcome(piece, answer) {
            Outcome::Again if flight.failed.is_none() => {
                self.again.push_back(tag);
                return None;
            }
            // Of an operation that failed already, what is left is not worth another IO.
            Outcome::Whole | Outcome::Again => {}
            Outcome::Failed(error) => {
                flight.failed.get_or_insert(error);
            }
        }
        let index = piece.flight;
        self.free(tag);
        self.ended(index)
    }

    fn free(&mut self, tag: usize) {
        self.pieces[tag] = None;
        self.free_pieces.push(tag);
    }

    /// The flight, if it is over.
    fn ended(&mut self, index: usize) -> Option<(Ticket, io::Result<()>)> {
        let flight = self.flights[index].as_mut().expect("its last piece just landed");
        flight.pieces -= 1;
        if flight.failed.is_some() && flight.cut < flight.io.bytes {
            flight.cut = flight.io.bytes;
            self.uncut.retain(|uncut| *uncut != index);
        }
        if flight.pieces > 0 || flight.cut < flight.io.bytes {
            return None;
        }
        let flight = self.flights[index].take()?;
        Some((flight.ticket, flight.failed.map_or(Ok(()), Err)))
    }
}

enum Outcome {
    Whole,
    Again,
    Failed(io::Error),
}

fn outcome(piece: &mut Piece, answer: i32) -> Outcome {
    match u32::try_from(answer) {
        Ok(0) => Outcome::Failed(match piece.io.kind {
            IoKind::Read => io::ErrorKind::UnexpectedEof.into(),
            IoKind::Write | IoKind::Erase => io::ErrorKind::WriteZero.into(),
        }),
        Ok(moved) if moved < piece.io.bytes => {
            piece.io.file_offset += u64::from(moved);
            piece.io.memory_offset += u64::from(moved);
            piece.io.bytes -= moved;
            piece.put_off = 0;
            Outcome::Again
        }
        Ok(_) => Outcome::Whole,
        Err(_) if matches!(-answer, libc::EINTR | libc::EAGAIN) && piece.put_off < PUT_OFF_MAX => {
            piece.put_off += 1;
            Outcome::Again
        }
        Err(_) => Outcome::Failed(io::Error::from_raw_os_error(-answer)),
    }
}

/// The operation as one IO.
fn whole(op: &StoreOp) -> Io {
    let (kind, place, memory_offset, bytes) = match *op {
        StoreOp::Write { place, frame, .. } => (IoKind::Write, place, frame.offset, frame.bytes),
        StoreOp::Read { place, frame, .. } => (IoKind::Read, place, frame.offset, frame.bytes),
        StoreOp::Erase { place, .. } => (IoKind::Erase, place, 0, HEADER_SPAN_BYTES),
        StoreOp::Restamp { .. } => unreachable!("the stampers serve restamps"),
    };
    Io { kind, file_offset: place.offset, memory_offset, bytes }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;
    use crate::domain::block::Key;
    use crate::tiers::store::{FrameSpan, Place, StoreError};
    use crate::tiers::ticket::Gate;

    const PAGE: u32 = 4096;

    fn flights(pieces_max: usize, io_pages: u32, region_pages: u64) -> Flights {
        let region_bytes = region_pages * u64::from(PAGE);
        Flights::new(Cutting { pieces_max, io_bytes: io_pages * PAGE, region_bytes })
    }

    /// A read of `pages` pages of the file from page 100, into the arena from page `to`.
    fn read(to: u64, pages: u32) -> (Ticket, Receiver<Result<(), StoreError>>) {
        let (tell, told) = sync_channel(1);
        let place = Place { offset: 100 * u64::from(PAGE), slot_bytes: pages * PAGE };
        let frame = FrameSpan { offset: to * u64::from(PAGE), bytes: pages * PAGE };
        let op = StoreOp::Read { key: Key([1; 16]), place, frame };
        let done = Box::new(move |result| tell.send(result).unwrap_or_default());
        (Gate::new(1).admit(op, done).expect("there is room"), told)
    }

    /// The IOs handed out now, as (file page, arena page, pages).
    fn handed_out(flights: &mut Flights) -> Vec<(usize, (u64, u64, u32))> {
        let page = u64::from(PAGE);
        std::iter::from_fn(|| flights.next_io())
            .map(|(tag, io)| {
                (tag, (io.file_offset / page, io.memory_offset / page, io.bytes / PAGE))
            })
            .collect()
    }

    fn check_pieces(mut flights: Flights, to: u64, pages: u32, wanted: &[(u64, u64, u32)]) {
        flights.add(read(to, pages).0);
        let found: Vec<_> = handed_out(&mut flights).into_iter().map(|(_, io)| io).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn operations_are_cut_at_the_io_length_and_at_region_ends() {
        check_pieces(flights(8, 4, 64), 0, 2, &[(100, 0, 2)]);
        check_pieces(flights(8, 4, 64), 0, 9, &[(100, 0, 4), (104, 4, 4), (108, 8, 1)]);
        check_pieces(flights(8, 4, 64), 62, 8, &[(100, 62, 2), (102, 64, 4), (106, 68, 2)]);
        // The depth bounds what is handed out.
        check_pieces(flights(2, 1, 64), 0, 9, &[(100, 0, 1), (101, 1, 1)]);
    }

    #[test]
    fn a_short_answer_is_asked_for_again_from_where_it_stopped() {
        let mut flights = flights(4, 8, 64);
        flights.add(read(0, 8).0);
        let [(tag, _)] = handed_out(&mut flights)[..] else { panic!("one piece") };
        assert!(flights.landed(tag, 3 * PAGE.cast_signed()).is_none());
        assert_eq!(handed_out(&mut flights), [(tag, (103, 3, 5))]);
        let (_, outcome) = flights.landed(tag, 5 * PAGE.cast_signed()).expect("all of it landed");
        assert!(outcome.is_ok());
        assert!(flights.is_empty());
    }

    #[test]
    fn what_is_put_off_is_asked_again_but_not_for_ever() {
        let mut flights = flights(1, 8, 64);
        flights.add(read(0, 8).0);
        for put_off in 0_u32.. {
            let (tag, _) = flights.next_io().expect("it is asked again");
            if let Some((_, outcome)) = flights.landed(tag, -libc::EAGAIN) {
                assert_eq!(put_off, u32::from(PUT_OFF_MAX));
                assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EAGAIN));
                break;
            }
        }
        assert!(flights.is_empty() && flights.wants_more());
    }

    #[test]
    fn an_error_ends_the_operation_once_nothing_of_it_is_in_flight() {
        let mut flights = flights(2, 1, 64);
        flights.add(read(0, 9).0);
        let pieces = handed_out(&mut flights);
        assert!(flights.landed(pieces[0].0, -libc::EIO).is_none(), "one is still in flight");
        assert!(flights.next_io().is_none(), "the rest is not tried");
        let (_, outcome) =
            flights.landed(pieces[1].0, PAGE.cast_signed()).expect("the last in flight");
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(flights.is_empty());
    }

    #[test]
    fn the_end_of_the_file_is_an_error() {
        let mut flights = flights(2, 8, 64);
        flights.add(read(0, 8).0);
        let (tag, _) = flights.next_io().expect("one piece");
        let (_, outcome) = flights.landed(tag, 0).expect("it ended");
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn dropped_flights_answer_their_operations() {
        let mut flights = flights(2, 1, 64);
        let (ticket, told) = read(0, 9);
        flights.add(ticket);
        handed_out(&mut flights);
        drop(flights);
        assert!(matches!(told.try_recv(), Ok(Err(StoreError::TierLost(_)))));
    }
}

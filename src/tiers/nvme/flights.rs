//! What the ring has in hand: operations cut into pieces or, where they are neighbours in the file
//! and in memory, made one piece; pieces in flight, and what became of them.
//!
//! Writes have half of the pieces at most. What is behind them in the device's queue waits for them:
//! a read that a request waits for, and the flush that a durable store waits for.
//!
//! Pure bookkeeping: never touches a ring, a file or memory. Never has an operation answer for its
//! neighbour: what fails as one is tried again one by one.

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

/// Which way an operation moves bytes; what comes first is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the device.
    In,
    /// To it.
    Out,
}

impl Way {
    pub const ALL: [Self; 2] = [Self::In, Self::Out];

    #[must_use]
    pub fn of(op: &StoreOp) -> Self {
        match op {
            StoreOp::Read { .. } => Self::In,
            StoreOp::Write { .. } | StoreOp::Erase { .. } | StoreOp::Restamp { .. } => Self::Out,
        }
    }
}

impl IoKind {
    fn way(self) -> Way {
        match self {
            Self::Read => Way::In,
            Self::Write | Self::Erase => Way::Out,
        }
    }
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
    /// One operation, or neighbours in their order.
    tickets: Vec<Ticket>,
    io: Io,
    /// Bytes already cut into pieces.
    cut: u32,
    pieces: u32,
    failed: Option<io::Error>,
}

/// An operation that is over, and how that went.
pub type Ended = (Ticket, io::Result<()>);

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
    free_flights: Vec<usize>,
    pieces: Vec<Option<Piece>>,
    free_pieces: Vec<usize>,
    /// Pieces in flight each way.
    moving: [usize; Way::ALL.len()],
    /// Flights each way with bytes that are not in a piece yet, oldest first.
    uncut: [VecDeque<usize>; Way::ALL.len()],
    /// Pieces that must go to the kernel again.
    again: VecDeque<usize>,
    /// Operations of a flight that failed as one.
    alone: VecDeque<Ticket>,
}

impl Flights {
    /// # Panics
    /// The cutting allows no piece at all.
    #[must_use]
    pub fn new(cutting: Cutting) -> Self {
        assert!(cutting.pieces_max > 0 && cutting.io_bytes > 0 && cutting.region_bytes > 0);
        let pieces_max = cutting.pieces_max;
        // Each holds a piece, but for one a way that waits for its first.
        let flights_max = pieces_max + Way::ALL.len();
        Self {
            cutting,
            flights: (0..flights_max).map(|_| None).collect(),
            free_flights: (0..flights_max).rev().collect(),
            pieces: vec![None; pieces_max],
            free_pieces: (0..pieces_max).rev().collect(),
            moving: Default::default(),
            uncut: Default::default(),
            again: VecDeque::new(),
            alone: VecDeque::new(),
        }
    }

    /// Whether another operation could start now this way; the rest waits in the queue, in order.
    #[must_use]
    pub fn takes(&self, way: Way) -> bool {
        self.again.is_empty() && self.alone.is_empty() && self.has_room(way)
    }

    /// Whether what moves this way has its half of the pieces.
    #[must_use]
    pub fn has_half(&self, way: Way) -> bool {
        self.moving[way as usize] >= self.cutting.pieces_max.div_ceil(2)
    }

    fn has_room(&self, way: Way) -> bool {
        self.uncut[way as usize].is_empty() && self.has_piece(way)
    }

    fn has_piece(&self, way: Way) -> bool {
        !self.free_pieces.is_empty() && (way == Way::In || !self.has_half(way))
    }

    /// Whether nothing is in hand.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let waits = !self.alone.is_empty() || self.uncut.iter().any(|uncut| !uncut.is_empty());
        !waits && self.free_pieces.len() == self.cutting.pieces_max
    }

    /// Takes an operation in.
    ///
    /// # Panics
    /// [`Self::takes`] was not asked.
    pub fn add(&mut self, ticket: Ticket) {
        // A flight holds a piece or waits uncut, and then none was added: so there is room.
        let index = self.free_flights.pop().expect("takes was asked");
        let io = whole(&ticket.op);
        let tickets = vec![ticket];
        self.flights[index] = Some(Flight { tickets, io, cut: 0, pieces: 0, failed: None });
        self.uncut[io.kind.way() as usize].push_back(index);
    }

    /// Takes in what is one IO with the operations that were just added, and gives anything else
    /// back. To be asked before the next piece.
    pub fn join(&mut self, ticket: Ticket) -> Option<Ticket> {
        let io = whole(&ticket.op);
        let last = self.uncut[io.kind.way() as usize].back();
        let last = last.and_then(|index| self.flights[*index].as_mut());
        let Some(flight) =
            last.filter(|flight| flight.cut == 0 && is_next(flight.io, io, self.cutting.io_bytes))
        else {
            return Some(ticket);
        };
        flight.io.bytes += io.bytes;
        flight.tickets.push(ticket);
        None
    }

    /// The next IO for the kernel and its tag, or nothing for now.
    pub fn next_io(&mut self) -> Option<(usize, Io)> {
        let tag = self.again.pop_front().or_else(|| self.cut_piece())?;
        Some((tag, self.pieces[tag].as_ref().expect("a piece that waits is there").io))
    }

    fn cut_piece(&mut self) -> Option<usize> {
        let has_room = self.alone.front().is_some_and(|next| self.has_room(Way::of(&next.op)));
        if has_room && let Some(ticket) = self.alone.pop_front() {
            self.add(ticket);
        }
        let waits = |way: &Way| !self.uncut[*way as usize].is_empty() && self.has_piece(*way);
        let way = Way::ALL.into_iter().find(waits)?;
        let &index = self.uncut[way as usize].front()?;
        let tag = self.free_pieces.pop()?;
        self.moving[way as usize] += 1;
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
            self.uncut[way as usize].pop_front();
        }
        Some(tag)
    }

    /// Takes the kernel's answer to a piece: bytes moved, or a negated errno. Operations of which
    /// that was the last piece come back, each with its outcome.
    ///
    /// # Panics
    /// No piece with this tag is in flight.
    pub fn landed(&mut self, tag: usize, answer: i32) -> Vec<Ended> {
        let piece = self.pieces[tag].as_mut().expect("the kernel answers what it was asked");
        let flight = self.flights[piece.flight].as_mut().expect("a piece's flight is there");
        match outcome(piece, answer) {
            Outcome::Again if flight.failed.is_none() => {
                self.again.push_back(tag);
                return Vec::new();
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
        let piece = self.pieces[tag].take().expect("a piece that landed was in flight");
        self.moving[piece.io.kind.way() as usize] -= 1;
        self.free_pieces.push(tag);
    }

    /// The flight's operations, if it is over.
    fn ended(&mut self, index: usize) -> Vec<Ended> {
        let flight = self.flights[index].as_mut().expect("its last piece just landed");
        flight.pieces -= 1;
        if flight.failed.is_some() && flight.cut < flight.io.bytes {
            flight.cut = flight.io.bytes;
            self.uncut[flight.io.kind.way() as usize].retain(|uncut| *uncut != index);
        }
        if flight.pieces > 0 || flight.cut < flight.io.bytes {
            return Vec::new();
        }
        let Flight { mut tickets, failed, .. } =
            self.flights[index].take().expect("it was there above");
        self.free_flights.push(index);
        match failed {
            None => tickets.into_iter().map(|ticket| (ticket, Ok(()))).collect(),
            Some(_) if tickets.len() > 1 => {
                // The kernel does not say which of them it was.
                self.alone.extend(tickets);
                Vec::new()
            }
            Some(error) => tickets.pop().map(|ticket| (ticket, Err(error))).into_iter().collect(),
        }
    }
}

/// Whether `io` goes on where `row` ends, and both are short enough for one.
fn is_next(row: Io, io: Io, io_bytes: u32) -> bool {
    let bytes = u64::from(row.bytes);
    // Erases share the page that they are written from.
    row.kind == io.kind
        && row.kind != IoKind::Erase
        && row.file_offset + bytes == io.file_offset
        && row.memory_offset + bytes == io.memory_offset
        && row.bytes.saturating_add(io.bytes) <= io_bytes
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
mod tests;

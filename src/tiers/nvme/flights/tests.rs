//! Pieces and neighbours, without a kernel.

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

/// A read of `pages` pages of the file from page `from`, into the arena from page `to`.
fn read_from(from: u64, to: u64, pages: u32) -> (Ticket, Receiver<Result<(), StoreError>>) {
    let (tell, told) = sync_channel(1);
    let place = Place { offset: from * u64::from(PAGE), slot_bytes: pages * PAGE };
    let frame = FrameSpan { offset: to * u64::from(PAGE), bytes: pages * PAGE };
    let op = StoreOp::Read { key: Key([1; 16]), place, frame };
    let done = Box::new(move |result| tell.send(result).unwrap_or_default());
    (Gate::new(1).admit(op, done).expect("there is room"), told)
}

/// The same from page 100.
fn read(to: u64, pages: u32) -> (Ticket, Receiver<Result<(), StoreError>>) {
    read_from(100, to, pages)
}

/// A write the other way.
fn write(to: u64, from: u64, pages: u32) -> Ticket {
    let (mut ticket, _) = read_from(to, from, pages);
    let StoreOp::Read { key, place, frame } = ticket.op else { unreachable!("a read was made") };
    ticket.op = StoreOp::Write { key, place, frame };
    ticket
}

/// How the one operation that is over went.
fn only(mut ended: Vec<Ended>) -> io::Result<()> {
    assert_eq!(ended.len(), 1);
    ended.remove(0).1
}

/// The IOs handed out now, as (file page, arena page, pages).
fn handed_out(flights: &mut Flights) -> Vec<(usize, (u64, u64, u32))> {
    let page = u64::from(PAGE);
    std::iter::from_fn(|| flights.next_io())
        .map(|(tag, io)| (tag, (io.file_offset / page, io.memory_offset / page, io.bytes / PAGE)))
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
    assert!(flights.landed(tag, 3 * PAGE.cast_signed()).is_empty());
    assert_eq!(handed_out(&mut flights), [(tag, (103, 3, 5))]);
    let outcome = only(flights.landed(tag, 5 * PAGE.cast_signed()));
    assert!(outcome.is_ok());
    assert!(flights.is_empty());
}

#[test]
fn what_is_put_off_is_asked_again_but_not_for_ever() {
    let mut flights = flights(1, 8, 64);
    flights.add(read(0, 8).0);
    for put_off in 0_u32.. {
        let (tag, _) = flights.next_io().expect("it is asked again");
        if let Some((_, outcome)) = flights.landed(tag, -libc::EAGAIN).pop() {
            assert_eq!(put_off, u32::from(PUT_OFF_MAX));
            assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EAGAIN));
            break;
        }
    }
    assert!(flights.is_empty() && flights.takes(Way::In));
}

#[test]
fn an_error_ends_the_operation_once_nothing_of_it_is_in_flight() {
    let mut flights = flights(2, 1, 64);
    flights.add(read(0, 9).0);
    let pieces = handed_out(&mut flights);
    assert!(flights.landed(pieces[0].0, -libc::EIO).is_empty(), "one is still in flight");
    assert!(flights.next_io().is_none(), "the rest is not tried");
    let outcome = only(flights.landed(pieces[1].0, PAGE.cast_signed()));
    assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(flights.is_empty());
}

#[test]
fn the_end_of_the_file_is_an_error() {
    let mut flights = flights(2, 8, 64);
    flights.add(read(0, 8).0);
    let (tag, _) = flights.next_io().expect("one piece");
    let outcome = only(flights.landed(tag, 0));
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

/// File page, arena page, pages.
type Span = (u64, u64, u32);

/// Takes in the first read and those that go on from it; gives how many joined it.
fn join_all(flights: &mut Flights, reads: &[Span]) -> usize {
    let mut tickets = reads.iter().map(|(from, to, pages)| read_from(*from, *to, *pages).0);
    flights.add(tickets.next().expect("at least one"));
    tickets.map_while(|ticket| flights.join(ticket).is_none().then_some(())).count()
}

#[test]
fn neighbours_in_the_file_and_in_memory_are_one_io() {
    let cases: [(&str, &[Span], usize); 5] = [
        ("both", &[(100, 0, 2), (102, 2, 2), (104, 4, 3)], 2),
        ("a gap in the file", &[(100, 0, 2), (103, 2, 2)], 0),
        ("elsewhere in memory", &[(100, 0, 2), (102, 3, 2)], 0),
        ("the other way round", &[(102, 2, 2), (100, 0, 2)], 0),
        ("longer than an IO", &[(100, 0, 4), (104, 4, 4), (108, 8, 1)], 1),
    ];
    for (what, reads, joined) in cases {
        let mut flights = flights(4, 8, 64);
        assert_eq!(join_all(&mut flights, reads), joined, "{what}");
        let pages = reads[..=joined].iter().map(|(.., pages)| pages).sum();
        let [(tag, io)] = handed_out(&mut flights)[..] else { panic!("{what}: not one IO") };
        assert_eq!(io, (reads[0].0, reads[0].1, pages), "{what}");
        let ended = flights.landed(tag, (pages * PAGE).cast_signed());
        assert_eq!(ended.len(), joined + 1, "{what}");
        assert!(ended.iter().all(|(_, outcome)| outcome.is_ok()) && flights.is_empty(), "{what}");
    }
}

#[test]
fn nothing_joins_what_was_handed_out_and_reads_join_no_writes() {
    let mut flights = flights(4, 8, 64);
    assert_eq!(join_all(&mut flights, &[(100, 0, 2)]), 0);
    let ticket = write(102, 2, 2);
    assert!(flights.join(ticket).is_some(), "another kind");
    handed_out(&mut flights);
    assert!(flights.join(read_from(102, 2, 2).0).is_some(), "it is with the kernel");
}

#[test]
fn neighbours_that_fail_as_one_are_tried_one_by_one() {
    let mut flights = flights(4, 8, 64);
    assert_eq!(join_all(&mut flights, &[(100, 0, 2), (102, 2, 2), (104, 4, 2)]), 2);
    let [(tag, _)] = handed_out(&mut flights)[..] else { panic!("one IO") };
    // A page of the first has landed already: it is asked for again all the same.
    assert!(flights.landed(tag, PAGE.cast_signed()).is_empty());
    let [(tag, io)] = handed_out(&mut flights)[..] else { panic!("the rest of it") };
    assert_eq!(io, (101, 1, 5));
    assert!(flights.landed(tag, -libc::EIO).is_empty(), "nobody knows whose error that is");
    assert!(!flights.takes(Way::In) && !flights.is_empty());
    let again = handed_out(&mut flights);
    let ios: Vec<_> = again.iter().map(|(_, io)| *io).collect();
    assert_eq!(ios, [(100, 0, 2), (102, 2, 2), (104, 4, 2)]);
    let answers = [(2 * PAGE).cast_signed(), -libc::EIO, (2 * PAGE).cast_signed()];
    let ends =
        again.iter().zip(answers).map(|((tag, _), answer)| only(flights.landed(*tag, answer)));
    let errors: Vec<_> = ends.map(|end| end.err().and_then(|error| error.raw_os_error())).collect();
    assert_eq!(errors, [None, Some(libc::EIO), None]);
    assert!(flights.is_empty());
}

#[test]
fn those_to_be_tried_alone_wait_for_a_free_piece_and_are_answered_when_dropped() {
    let mut flights = flights(1, 8, 64);
    let (first, told_first) = read_from(100, 0, 2);
    let (second, told_second) = read_from(102, 2, 2);
    flights.add(first);
    assert!(flights.join(second).is_none());
    let [(tag, _)] = handed_out(&mut flights)[..] else { panic!("one IO") };
    assert!(flights.landed(tag, -libc::EIO).is_empty());
    assert_eq!(handed_out(&mut flights).len(), 1, "the depth is one");
    drop(flights);
    for told in [told_first, told_second] {
        assert!(matches!(told.try_recv(), Ok(Err(StoreError::TierLost(_)))));
    }
}

#[test]
fn writes_have_half_of_the_pieces_and_reads_what_is_left() {
    let mut flights = flights(4, 1, 64);
    // Longer than the whole depth.
    flights.add(write(200, 10, 9));
    assert_eq!(handed_out(&mut flights).len(), 2, "half of them");
    assert!(!flights.takes(Way::Out) && flights.takes(Way::In));
    flights.add(read(0, 9).0);
    let reads = handed_out(&mut flights);
    assert_eq!(reads.iter().map(|(_, io)| io.0).collect::<Vec<_>>(), [100, 101]);
    assert!(flights.has_half(Way::In) && !flights.takes(Way::In), "none is free");
    assert!(flights.landed(reads[0].0, PAGE.cast_signed()).is_empty());
    let next = handed_out(&mut flights);
    assert_eq!(next[0].1.0, 102, "the write has its half");
    drop(flights);
}

#[test]
fn of_one_piece_a_write_may_have_it() {
    let mut flights = flights(1, 8, 64);
    flights.add(write(200, 0, 2));
    let [(tag, _)] = handed_out(&mut flights)[..] else { panic!("one IO") };
    assert!(only(flights.landed(tag, (2 * PAGE).cast_signed())).is_ok());
    assert!(flights.takes(Way::Out) && flights.is_empty());
}

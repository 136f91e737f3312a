//! The bucket against servers that answer oddly, or not at all.

use super::canned::Canned;
use super::*;
use crate::domain::retention::RetentionRecord;
use crate::domain::units::Time;

#[test]
fn a_store_that_knows_no_conditions_is_written_without() {
    let server = Canned::start(|head| {
        if head.contains("if-none-match: *") {
            Canned::error(501, "NotImplemented")
        } else {
            Canned::ok()
        }
    });
    let (runtime, arena) = (runtime(), sample::arena());
    let store = server.store(&arena, &runtime);
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    // Asked twice the first time, and then it is known.
    assert_eq!(server.requests(), 3);
}

/// A whole answer with these bytes as its body.
fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    let bytes = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {bytes}\r\netag: \"e\"\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The block's frame with another record than it is written with.
fn restamped() -> Vec<u8> {
    let mut frame = BLOCK.bytes();
    let record = RetentionRecord { priority: 80, ..RetentionRecord::default() };
    frame::restamp(&mut frame, BLOCK.key(), &record).unwrap();
    frame
}

#[test]
fn a_write_whose_answer_is_lost_counts_when_the_object_is_there_with_its_record() {
    let check = |there: Vec<u8>, restamps: usize, wanted: fn(&Result<(), StoreError>) -> bool| {
        let writes = Arc::new(AtomicUsize::new(0));
        let (counted, bytes_there) = (Arc::clone(&writes), there.len());
        let server = Canned::start(move |head: &str| -> Vec<u8> {
            if head.starts_with("head ") {
                return format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes_there}\r\n\r\n").into();
            }
            if head.contains("range: bytes=0-4095") {
                let range =
                    format!("206 Partial Content\r\ncontent-range: bytes 0-4095/{bytes_there}");
                return answer(&range, &there[..HEADER_BYTES.min(there.len())]);
            }
            if head.starts_with("get ") {
                return answer("200 OK", &there);
            }
            if head.contains("if-match: ") {
                counted.fetch_add(1, Ordering::Relaxed);
                return Canned::ok().into();
            }
            // Closes without a word, as a connection does that is reset while the body is sent.
            Vec::new()
        });
        let (runtime, arena) = (runtime(), sample::arena());
        let result = sample::write(&server.store(&arena, &runtime), &arena, BLOCK, ANYWHERE);
        assert!(wanted(&result), "{bytes_there} bytes there: {result:?}");
        assert_eq!(writes.load(Ordering::Relaxed), restamps);
    };
    check(BLOCK.bytes(), 0, Result::is_ok);
    // An earlier write's object: the new one's record takes the place of its.
    check(restamped(), 1, Result::is_ok);
    check(vec![7; 7], 0, |result| matches!(result, Err(StoreError::Io { .. })));
}

/// Another node erases what was there in between: the write begins anew, and the store is not held for lost.
#[test]
fn what_went_before_it_was_written_over_is_written_as_new() {
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&writes);
    let server = Canned::start(move |head: &str| -> Vec<u8> {
        if head.starts_with("get ") {
            return answer("200 OK", &[7; 5000]);
        }
        if head.contains("if-match: \"e\"") {
            return Canned::error(404, "NoSuchKey").into();
        }
        assert!(head.contains("if-none-match: *"), "{head}");
        match counted.fetch_add(1, Ordering::Relaxed) {
            0 => Canned::error(412, "PreconditionFailed").into(),
            _ => Canned::ok().into(),
        }
    });
    let (runtime, arena) = (runtime(), sample::arena());
    let store = server.store(&arena, &runtime);
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    assert_eq!(writes.load(Ordering::Relaxed), 2);
    assert!(!store.health().is_out(), "{}", store.health());
}

#[test]
fn a_record_goes_only_into_the_object_that_was_read_and_is_tried_again() {
    let puts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&puts);
    let server = Canned::start(move |head: &str| -> Vec<u8> {
        if head.starts_with("get ") {
            return answer("200 OK", &BLOCK.bytes());
        }
        assert!(head.contains("if-match: \"e\""), "{head}");
        match counted.fetch_add(1, Ordering::Relaxed) {
            0 => Canned::error(412, "PreconditionFailed").into(),
            _ => Canned::ok().into(),
        }
    });
    let (runtime, arena) = (runtime(), sample::arena());
    sample::restamp(&server.store(&arena, &runtime), BLOCK, ANYWHERE, 80).unwrap();
    assert_eq!(puts.load(Ordering::Relaxed), 2);
}

#[test]
fn a_server_that_knows_no_ranges_sends_long_frames_whole() {
    let frame = BLOCK.bytes();
    let server = Canned::start(move |_| answer("200 OK", &frame));
    let (runtime, arena) = (runtime(), sample::arena());
    let options = ObjectOptions { range_bytes: 8192, ..ObjectOptions::default() };
    let store = server.store_with(options, &arena, &runtime);
    sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap();
    sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap();
    assert!(server.requests() <= 3 + 1 + 1, "it is asked for ranges once: {}", server.requests());
}

#[test]
fn answers_are_named_by_what_to_do_next() {
    let check = |status, code: &'static str, wanted: fn(&StoreError) -> bool| {
        let server = Canned::start(move |_| Canned::error(status, code));
        let (runtime, arena) = (runtime(), sample::arena());
        let store = server.store(&arena, &runtime);
        let error = sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap_err();
        assert!(wanted(&error), "{status} {code} became {error:?}");
    };
    check(503, "SlowDown", |error| matches!(error, StoreError::Busy));
    check(429, "TooManyRequests", |error| matches!(error, StoreError::Busy));
    check(404, "NoSuchKey", |error| matches!(error, StoreError::Missing(_)));
    check(404, "NoSuchBucket", |error| matches!(error, StoreError::TierLost(_)));
    check(403, "AccessDenied", |error| matches!(error, StoreError::Io { .. }));
    check(403, "InvalidAccessKeyId", |error| matches!(error, StoreError::TierLost(_)));
    check(500, "InternalError", |error| matches!(error, StoreError::Io { .. }));
}

/// Closes with the request unread, which resets the connection.
#[test]
fn a_request_whose_connection_is_cut_is_made_again_after_a_pause() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, cuts) = crossbeam_channel::bounded(16);
    // Ends with the test's process.
    env::spawn_thread("cutter", move || {
        let watch = Stopwatch::start();
        for socket in listener.incoming().flatten() {
            // Something of the request has come.
            socket.peek(&mut [0]).unwrap_or_default();
            drop(socket);
            if tell.send(watch.elapsed().as_millis()).is_err() {
                return;
            }
        }
    })
    .unwrap();
    let (runtime, arena) = (runtime(), sample::arena());
    let options = ObjectOptions::default();
    let store = store_at(&server::bucket_at(port, "p"), "secret", options, &arena, &runtime);
    let (done, _told) = sample::heard();
    let (key, frame) = (BLOCK.key(), BLOCK.span(0));
    store.submit(StoreOp::Read { key, place: ANYWHERE, frame }, done);
    let cut_at_ms: Vec<_> = (0..4).map(|_| cuts.recv().unwrap()).collect();
    let pauses: Vec<_> = cut_at_ms.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (pause, least_ms) in pauses.iter().zip([50, 100, 200]) {
        // The server's clock starts a moment after the client's.
        assert!(*pause >= least_ms - 10, "{pauses:?}");
    }
}

#[test]
fn an_object_cut_short_on_its_way_is_no_corrupt_copy() {
    let server = Canned::start(|_| "HTTP/1.1 200 OK\r\ncontent-length: 24576\r\n\r\nhalf");
    let (runtime, arena) = (runtime(), sample::arena());
    let store = server.store(&arena, &runtime);
    let error = sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}

#[test]
fn a_server_that_knows_no_ranges_is_not_listened_to_for_longer_than_a_header() {
    let server = Canned::start(|head| {
        assert!(head.contains("range: bytes=0-4095"), "{head}");
        format!("HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n{}", "\0".repeat(8192))
    });
    let (runtime, arena) = (runtime(), sample::arena());
    let error = sample::peek(&server.store(&arena, &runtime), BLOCK).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
}

#[test]
fn objects_with_a_promise_are_tagged_where_the_operator_wants_it() {
    let tags = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tags);
    let server = Canned::start(move |head: &str| -> Vec<u8> {
        counted.fetch_add(head.matches("x-amz-tagging: terrace-days").count(), Ordering::Relaxed);
        if head.starts_with("get ") {
            answer("200 OK", &BLOCK.bytes())
        } else {
            Canned::ok().into()
        }
    });
    let (runtime, arena) = (runtime(), sample::arena());
    for (lifecycle_tags, wanted) in [(false, 0), (true, 1)] {
        let options = ObjectOptions { lifecycle_tags, ..ObjectOptions::default() };
        let store = server.store_with(options, &arena, &runtime);
        sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
        sample::restamp(&store, BLOCK, ANYWHERE, 80).unwrap();
        assert_eq!(tags.load(Ordering::Relaxed), 0, "without a promise");
        let delete_after = env::SystemClock::start().now() + Duration::from_mins(90);
        let record = RetentionRecord { delete_after, ..RetentionRecord::default() };
        let (key, place) = (BLOCK.key(), ANYWHERE);
        let restamp = StoreOp::Restamp { key, place, record, known: Time::ZERO };
        sample::run(&store, restamp).unwrap();
        assert_eq!(tags.load(Ordering::Relaxed), wanted);
    }
}

//! Handshakes and frames, as bytes: those of a subscriber are what libzmq sends.

use tokio::io::duplex;

use super::*;

/// The greeting of a peer of this version and mechanism.
fn greeting_of(version: [u8; 2], mechanism: &str) -> Vec<u8> {
    let mut greeting = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f];
    greeting.extend(version);
    greeting.extend(mechanism.as_bytes());
    greeting.resize(64, 0);
    greeting
}

/// libzmq's READY of a socket of this type: `Socket-Type`, and for some an empty `Identity`.
fn ready_of(kind: &str, identity: bool) -> Vec<u8> {
    let mut body = b"\x05READY\x0bSocket-Type\0\0\0".to_vec();
    body.push(u8::try_from(kind.len()).unwrap());
    body.extend(kind.as_bytes());
    if identity {
        body.extend(b"\x08Identity\0\0\0\0");
    }
    let mut frame = vec![4, u8::try_from(body.len()).unwrap()];
    frame.extend(body);
    frame
}

fn writer<W>(stream: W) -> Writer<W> {
    Writer { stream, patience: Duration::from_millis(50) }
}

/// How a connection ends whose peer sends this and then nothing; what it was sent.
async fn talk(kind: Kind, sent: &[u8]) -> (Result<Vec<Incoming>, String>, Vec<u8>) {
    let (mut peer, own) = duplex(1 << 16);
    peer.write_all(sent).await.unwrap();
    peer.shutdown().await.unwrap();
    let talked = async {
        let (read, write) = tokio::io::split(own);
        let (mut reader, _writer) = accept((read, write), kind).await?;
        let mut heard = Vec::new();
        loop {
            match reader.next().await {
                Ok(incoming) => heard.push(incoming),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(heard),
                Err(error) => return Err(error),
            }
        }
    };
    let heard = talked.await.map_err(|error: io::Error| error.to_string());
    let mut received = Vec::new();
    peer.read_to_end(&mut received).await.unwrap();
    (heard, received)
}

fn hello(kind: &str) -> Vec<u8> {
    [greeting_of([3, 1], "NULL"), ready_of(kind, false)].concat()
}

#[tokio::test]
async fn a_subscriber_is_greeted_and_heard() {
    let sent = [hello("SUB"), b"\0\x04\x01kv@".to_vec(), b"\x04\x0e\x09SUBSCRIBEkv@x".to_vec()];
    let (heard, received) = talk(Kind::Pub, &sent.concat()).await;
    let message = Incoming::Message(vec![b"\x01kv@".to_vec()]);
    let command = Incoming::Command { name: b"SUBSCRIBE".to_vec(), body: b"kv@x".to_vec() };
    assert_eq!(heard.unwrap(), [message, command]);
    let mut wanted = b"\xff\0\0\0\0\0\0\0\0\x7f\x03\0NULL".to_vec();
    wanted.resize(64, 0);
    wanted.extend(b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB");
    assert_eq!(received, wanted);
}

#[tokio::test]
async fn a_message_of_several_frames_comes_whole() {
    let long = vec![7; 300];
    let sent = [
        greeting_of([3, 0], "NULL"),
        ready_of("DEALER", true),
        b"\x01\0".to_vec(),
        [&b"\x02\0\0\0\0\0\0\x01\x2c"[..], &long[..]].concat(),
    ];
    let (heard, _) = talk(Kind::Router, &sent.concat()).await;
    assert_eq!(heard.unwrap(), [Incoming::Message(vec![vec![], long])]);
}

#[tokio::test]
async fn a_heartbeat_is_answered_with_its_context() {
    let longest = [&b"\x04\x17\x04PING\0\0"[..], &[7; 16]].concat();
    let too_long = [&b"\x04\x18\x04PING\0\0"[..], &[7; 17]].concat();
    let sent = [hello("SUB"), b"\x04\x0b\x04PING\0\x0aabcd".to_vec(), longest, too_long];
    let (heard, _) = talk(Kind::Pub, &sent.concat()).await;
    let ping = |context: &[u8]| Incoming::Ping { context: context.to_vec() };
    assert_eq!(heard.unwrap(), [ping(b"abcd"), ping(&[7; 16]), ping(&[7; 16])]);
    let mut written = Vec::new();
    writer(&mut written).pong(b"abcd").await.unwrap();
    assert_eq!(written, b"\x04\x09\x04PONGabcd");
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_let_go() {
    let plain = [greeting_of([3, 0], "PLAIN"), ready_of("SUB", false)].concat();
    let old = [greeting_of([2, 0], "NULL"), ready_of("SUB", false)].concat();
    let mute = [greeting_of([3, 0], "NULL"), b"\x04\x06\x05READY".to_vec()].concat();
    let rude = [greeting_of([3, 0], "NULL"), b"\0\x01\x01".to_vec()].concat();
    let endless = [hello("SUB"), b"\x02\0\0\0\x01\0\0\0\0".to_vec()].concat();
    let many = [hello("SUB"), b"\x01\0".repeat(9)].concat();
    let nameless = [hello("SUB"), b"\x04\x02\x09S".to_vec()].concat();
    let timeless = [hello("SUB"), b"\x04\x06\x04PING\0".to_vec()].concat();
    for (sent, says) in [
        (b"GET / HTTP/1.1\r\n".repeat(5), "does not speak ZMTP"),
        (plain, "security mechanism"),
        (old, "older than 3.0"),
        (mute, "did not say its socket type"),
        (rude, "did not begin with READY"),
        (hello("PUSH"), "does not fit"),
        (hello("REQ"), "does not fit"),
        (endless, "frame is longer"),
        (many, "too many frames"),
        (nameless, "command has no name"),
        (timeless, "PING has no time"),
    ] {
        let (heard, _) = talk(Kind::Pub, &sent).await;
        let said = heard.expect_err(says);
        assert!(said.contains(says), "{said}, not {says}");
    }
}

#[tokio::test]
async fn a_peer_that_does_not_fit_is_told_why() {
    let (_, received) = talk(Kind::Pub, &hello("PUSH")).await;
    let wanted = b"\x04\x23\x05ERROR\x1cits socket type does not fit";
    assert!(received.ends_with(wanted), "{received:?}");
    // Who speaks something else would not understand it.
    let (_, received) = talk(Kind::Pub, &b"GET / HTTP/1.1\r\n".repeat(5)).await;
    assert_eq!(received.len(), 64, "a greeting and nothing else");
}

#[tokio::test]
async fn any_bytes_after_the_handshake_are_bounded() {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    for _ in 0..200 {
        let strategy = prop::collection::vec(any::<u8>(), 0..200);
        let bytes = strategy.new_tree(&mut runner).unwrap().current();
        let _ = talk(Kind::Pub, &[hello("SUB"), bytes].concat()).await;
    }
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_given_up() {
    let (_peer, own) = duplex(16);
    let ended = writer(own).send(&[&[7; 100]]).await;
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn frames_are_as_short_as_they_go() {
    let long = [7; 256];
    let mut wanted = b"\x01\0\x01\x02ab\x02\0\0\0\0\0\0\x01\0".to_vec();
    wanted.extend(long);
    assert_eq!(message(&[b"", b"ab", &long]), wanted);
    assert_eq!(message(&[b"x"]), b"\0\x01x");
}

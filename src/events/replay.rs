//! One peer of the ROUTER socket: asks for the messages from a number on, and gets those that are
//! left, then an end.
//!
//! Source: `ZmqEventPublisher._service_replay` of vLLM 0.32.0: the request is a number of eight bytes,
//! each answer `(topic, sequence, payload)`, and the end has the sequence -1 and no payload.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncWrite;
use tokio::time::timeout;

use super::listen::Halves;
use super::publish::HANDSHAKE_TIMEOUT;
use super::vllm::{Feed, Found, Message};
use super::zmtp::{self, Incoming, Kind, Writer, broken};

const END: [u8; 8] = (-1_i64).to_be_bytes();

pub(super) async fn serve(halves: Halves, feed: Arc<Feed>) -> io::Result<()> {
    let (mut reader, mut writer) =
        timeout(HANDSHAKE_TIMEOUT, zmtp::accept(halves, Kind::Router)).await??;
    loop {
        let frames = match reader.next().await? {
            Incoming::Message(frames) => frames,
            Incoming::Ping { context } => {
                writer.pong(&context).await?;
                continue;
            }
            Incoming::Command { .. } => continue,
        };
        let (envelope, mut next) = request(&frames)?;
        // What comes meanwhile comes over the PUB socket: a slow peer is not to be served for ever.
        let end = feed.next_sequence();
        while next < end {
            match feed.at(next).expect("what has a number was appended") {
                Found::Lost { oldest } => next = oldest,
                Found::Message(Message { topic, sequence, payload }) => {
                    next = sequence + 1;
                    let sequence = sequence.to_be_bytes();
                    answer(&mut writer, envelope, [&topic, &sequence, &payload]).await?;
                }
            }
        }
        answer(&mut writer, envelope, [b"", &END, b""]).await?;
    }
}

async fn answer<W: AsyncWrite + Unpin>(
    writer: &mut Writer<W>,
    envelope: &[&[u8]],
    frames: [&[u8]; 3],
) -> io::Result<()> {
    writer.send(&[envelope, &frames].concat()).await
}

/// The frames that an answer begins with, and the first number that is wanted. A REQ socket puts an
/// empty frame before its request and wants it back; a DEALER may leave it out.
fn request(frames: &[Vec<u8>]) -> io::Result<(&'static [&'static [u8]], u64)> {
    let (envelope, number): (&[&[u8]], _) = match frames {
        [empty, number] if empty.is_empty() => (&[b""], number),
        [number] => (&[], number),
        _ => return Err(broken("its request is no single number")),
    };
    let number = number.as_slice().try_into().map(u64::from_be_bytes);
    Ok((envelope, number.map_err(|_| broken("its number has not eight bytes"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_number_with_or_without_an_empty_frame() {
        let seven = 7_u64.to_be_bytes().to_vec();
        assert_eq!(request(&[vec![], seven.clone()]).unwrap(), (&[&b""[..]][..], 7));
        assert_eq!(request(std::slice::from_ref(&seven)).unwrap(), (&[][..], 7));
        for wrong in [vec![], vec![vec![]], vec![seven.clone(), seven.clone()], vec![vec![1, 2]]] {
            assert!(request(&wrong).is_err(), "{wrong:?}");
        }
    }
}

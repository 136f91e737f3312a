//! One subscriber of the PUB socket: the messages whose topic it wants, from its first subscription
//! on, at its own pace.
//!
//! One that is too slow finds messages gone, and sees it by the gap in the numbers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::listen::Halves;
use super::vllm::{Feed, Found, Message};
use super::zmtp::{self, Incoming, Kind, broken};

/// A peer that has not shaken hands by then is let go.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Subscriptions of one peer.
const TOPICS_MAX: usize = 64;

pub(super) async fn serve(halves: Halves, feed: Arc<Feed>) -> io::Result<()> {
    let (mut reader, mut writer) =
        timeout(HANDSHAKE_TIMEOUT, zmtp::accept(halves, Kind::Pub)).await??;
    let mut topics = Topics::default();
    let mut next = feed.next_sequence();
    loop {
        let hears = !topics.0.is_empty();
        tokio::select! {
            incoming = reader.next() => {
                match incoming? {
                    Incoming::Ping { context } => writer.pong(&context).await?,
                    said => topics.take(said)?,
                }
                if !hears {
                    next = feed.next_sequence();
                }
            }
            found = feed.follow(next, |topic| topics.want(topic)), if hears => match found {
                Some(Found::Lost { oldest }) => next = oldest,
                Some(Found::Message(Message { topic, sequence, payload })) => {
                    next += 1;
                    writer.send(&[&topic, &sequence.to_be_bytes(), &payload]).await?;
                }
                None => next += 1,
            },
        }
    }
}

/// The beginnings of topics that a peer wants; one said twice must be taken back twice.
#[derive(Debug, Default)]
struct Topics(Vec<Vec<u8>>);

impl Topics {
    fn want(&self, topic: &[u8]) -> bool {
        self.0.iter().any(|wanted| topic.starts_with(wanted))
    }

    /// A subscription or its end: a message in 3.0, a command in 3.1.
    fn take(&mut self, incoming: Incoming) -> io::Result<()> {
        match incoming {
            Incoming::Message(frames) => match frames.first().and_then(|frame| frame.split_first())
            {
                Some((1, topic)) => self.add(topic)?,
                Some((0, topic)) => self.remove(topic),
                _ => {}
            },
            Incoming::Command { name, body } => match name.as_slice() {
                b"SUBSCRIBE" => self.add(&body)?,
                b"CANCEL" => self.remove(&body),
                _ => {}
            },
            Incoming::Ping { .. } => {}
        }
        Ok(())
    }

    fn add(&mut self, topic: &[u8]) -> io::Result<()> {
        if self.0.len() >= TOPICS_MAX {
            return Err(broken("it has more than 64 subscriptions"));
        }
        self.0.push(topic.to_vec());
        Ok(())
    }

    fn remove(&mut self, topic: &[u8]) {
        if let Some(index) = self.0.iter().position(|wanted| wanted == topic) {
            self.0.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_wanted_while_a_beginning_of_it_is_subscribed() {
        let mut topics = Topics::default();
        let said = |bytes: &[u8]| Incoming::Message(vec![bytes.to_vec()]);
        let command = |name: &[u8], body: &[u8]| Incoming::Command {
            name: name.to_vec(),
            body: body.to_vec(),
        };
        assert!(!topics.want(b""));
        topics.take(said(b"\x01kv@")).unwrap();
        topics.take(command(b"SUBSCRIBE", b"kv@")).unwrap();
        assert!(topics.want(b"kv@a@m") && !topics.want(b"k"));
        topics.take(said(b"\0kv@")).unwrap();
        assert!(topics.want(b"kv@"), "it was said twice");
        topics.take(command(b"CANCEL", b"kv@")).unwrap();
        assert!(!topics.want(b"kv@"));
        for nothing in [said(b""), said(b"\x02x"), command(b"ERROR", b""), said(b"\0kv@")] {
            topics.take(nothing).unwrap();
        }
        for _ in 0..TOPICS_MAX {
            topics.take(said(b"\x01")).unwrap();
        }
        assert!(topics.want(b"") && topics.take(said(b"\x01")).is_err());
    }
}

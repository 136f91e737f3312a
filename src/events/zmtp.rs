//! ZMTP 3.0, the ZeroMQ message transport protocol, as far as a PUB or ROUTER socket needs it: the
//! greeting, the NULL handshake, frames, and the heartbeats of 3.1, which libzmq sends whatever version
//! the other end has.
//!
//! Sources: <https://rfc.zeromq.org/spec/23/>, and <https://rfc.zeromq.org/spec/37/> for heartbeats. No
//! security mechanism. Sends no heartbeats of its own. Whatever comes in is bounded, and a peer that
//! breaks the protocol is let go.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// The longest frame that a peer may send: topics and requests are short.
const FRAME_BYTES_MAX: usize = 4096;
/// Frames of one message of a peer.
const FRAMES_MAX: usize = 8;
/// What a PING may carry to be sent back.
const CONTEXT_BYTES_MAX: usize = 16;

/// A peer that does not take a message in this time holds a place for nothing: its process is stopped, or gone
/// without a word.
const SEND_PATIENCE: Duration = Duration::from_mins(5);

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

const GREETING_BYTES: usize = 64;

/// What kind of socket this end is, and which it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Pub,
    Router,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Pub => "PUB",
            Self::Router => "ROUTER",
        }
    }

    const fn peers(self) -> &'static [&'static str] {
        match self {
            Self::Pub => &["SUB", "XSUB"],
            Self::Router => &["REQ", "DEALER", "ROUTER"],
        }
    }
}

/// What a peer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A whole message: its frames.
    Message(Vec<Vec<u8>>),
    /// A heartbeat, to be answered by [`Writer::pong`] with its context.
    Ping { context: Vec<u8> },
    /// Another command: its name, and the rest.
    Command { name: Vec<u8>, body: Vec<u8> },
}

/// The half of a connection that reads.
pub(super) struct Reader<R> {
    stream: R,
    buffer: Vec<u8>,
    /// Frames of a message whose last one has not come.
    frames: Vec<Vec<u8>>,
}

/// The half of a connection that writes.
pub(super) struct Writer<W> {
    stream: W,
    /// How long a peer may take for what is sent at once.
    patience: Duration,
}

/// Greets the peer and shakes hands; gives both halves.
///
/// # Errors
/// The peer speaks another version or mechanism, is no socket for this one, or went.
pub(super) async fn accept<R, W>(
    (read, write): (R, W),
    kind: Kind,
) -> io::Result<(Reader<R>, Writer<W>)>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut writer = Writer { stream: write, patience: SEND_PATIENCE };
    let mut reader = Reader { stream: read, buffer: Vec::new(), frames: Vec::new() };
    writer.write(&greeting()).await?;
    let peers = reader.take(GREETING_BYTES).await?;
    check_greeting(&peers)?;
    writer.write(&ready(kind)).await?;
    let agreed = match reader.next().await? {
        Incoming::Command { name, body } if name == b"READY" => check_ready(&body, kind),
        _ => Err(broken("it did not begin with READY")),
    };
    if let Err(error) = agreed {
        writer.refuse(&error.to_string()).await?;
        return Err(error);
    }
    Ok((reader, writer))
}

fn greeting() -> [u8; GREETING_BYTES] {
    let mut greeting = [0; GREETING_BYTES];
    (greeting[0], greeting[9]) = (0xff, 0x7f);
    // Version 3.0, mechanism NULL, as no server.
    greeting[10] = 3;
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

fn check_greeting(greeting: &[u8]) -> io::Result<()> {
    if greeting[0] != 0xff || greeting[9] & 1 == 0 {
        return Err(broken("it does not speak ZMTP"));
    }
    if greeting[10] < 3 {
        return Err(broken("it speaks ZMTP older than 3.0"));
    }
    let mechanism = greeting[12..32].split(|byte| *byte == 0).next();
    if mechanism == Some(b"NULL") { Ok(()) } else { Err(broken("it wants a security mechanism")) }
}

/// The READY command of a socket of this kind.
fn ready(kind: Kind) -> Vec<u8> {
    let (property, value) = (b"Socket-Type", kind.name().as_bytes());
    let mut body = vec![11];
    body.extend_from_slice(property);
    body.extend_from_slice(&u32::try_from(value.len()).expect("a word").to_be_bytes());
    body.extend_from_slice(value);
    short_command(b"READY", &body)
}

/// A command's frame; its name and body have fewer than 255 bytes together.
fn short_command(name: &[u8], body: &[u8]) -> Vec<u8> {
    let short = |len: usize| u8::try_from(len).expect("a short command");
    let head = [COMMAND, short(1 + name.len() + body.len()), short(name.len())];
    [&head, name, body].concat()
}

/// The peer must say that it is a socket which this one talks to.
fn check_ready(mut body: &[u8], kind: Kind) -> io::Result<()> {
    while let Some((name, value, rest)) = property(body) {
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            let fits = kind.peers().iter().any(|peer| peer.as_bytes() == value);
            return if fits { Ok(()) } else { Err(broken("its socket type does not fit")) };
        }
        body = rest;
    }
    Err(broken("it did not say its socket type"))
}

/// The first property of a command's metadata: its name, its value, and what follows.
fn property(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name_len, rest) = body.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*name_len))?;
    let (value_len, rest) = rest.split_first_chunk::<4>()?;
    let value_len = usize::try_from(u32::from_be_bytes(*value_len)).ok()?;
    let (value, rest) = rest.split_at_checked(value_len)?;
    Some((name, value, rest))
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// What the peer sends next. Given up half-way it loses nothing.
    ///
    /// # Errors
    /// The peer went, or broke the protocol.
    pub(super) async fn next(&mut self) -> io::Result<Incoming> {
        loop {
            while let Some((flags, body)) = self.frame()? {
                if flags & COMMAND != 0 {
                    return command(&body);
                }
                self.frames.push(body);
                if flags & MORE == 0 {
                    return Ok(Incoming::Message(std::mem::take(&mut self.frames)));
                }
                if self.frames.len() >= FRAMES_MAX {
                    return Err(broken("its message has too many frames"));
                }
            }
            self.fill().await?;
        }
    }

    /// A whole frame, if the buffer begins with one.
    fn frame(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        let Some(flags) = self.buffer.first().copied() else { return Ok(None) };
        let head = if flags & LONG != 0 { 9 } else { 2 };
        let Some(size) = self.buffer.get(1..head) else { return Ok(None) };
        let size = size.iter().fold(0_u64, |size, byte| size << 8 | u64::from(*byte));
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > FRAME_BYTES_MAX {
            return Err(broken("its frame is longer than 4096 bytes"));
        }
        if self.buffer.len() < head + size {
            return Ok(None);
        }
        let body = self.buffer.drain(..head + size).skip(head).collect();
        Ok(Some((flags, body)))
    }

    async fn take(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < bytes {
            self.fill().await?;
        }
        Ok(self.buffer.drain(..bytes).collect())
    }

    /// Reads more; what is not parsed yet stays below a frame and what came with it.
    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

fn command(frame: &[u8]) -> io::Result<Incoming> {
    let split = frame.split_first().and_then(|(len, rest)| rest.split_at_checked((*len).into()));
    let (name, body) = split.ok_or_else(|| broken("its command has no name"))?;
    if name == b"PING" {
        // The time that it allows until it hears again is for who sends heartbeats, too.
        let (_ttl, context) =
            body.split_first_chunk::<2>().ok_or_else(|| broken("its PING has no time"))?;
        let context = &context[..context.len().min(CONTEXT_BYTES_MAX)];
        return Ok(Incoming::Ping { context: context.to_vec() });
    }
    Ok(Incoming::Command { name: name.to_vec(), body: body.to_vec() })
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Sends one message; waits while the peer's side is full.
    ///
    /// # Errors
    /// The peer went, or reads nothing.
    pub(super) async fn send(&mut self, frames: &[&[u8]]) -> io::Result<()> {
        self.write(&message(frames)).await
    }

    /// Answers a PING: without it the peer takes this end for dead and drops the connection.
    ///
    /// # Errors
    /// The peer went, or reads nothing.
    pub(super) async fn pong(&mut self, context: &[u8]) -> io::Result<()> {
        self.write(&short_command(b"PONG", context)).await
    }

    /// Tells the peer why it is let go: it need not come again.
    async fn refuse(&mut self, why: &str) -> io::Result<()> {
        let len = u8::try_from(why.len()).expect("a short reason");
        self.write(&short_command(b"ERROR", &[&[len], why.as_bytes()].concat())).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(self.patience, self.stream.write_all(bytes)).await?
    }
}

fn message(frames: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(frames.iter().map(|frame| frame.len() + 9).sum());
    for (index, frame) in frames.iter().enumerate() {
        let more = if index + 1 < frames.len() { MORE } else { 0 };
        match u8::try_from(frame.len()) {
            Ok(size) => bytes.extend([more, size]),
            Err(_) => {
                bytes.push(more | LONG);
                bytes.extend((frame.len() as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(frame);
    }
    bytes
}

/// The peer is not to be talked to.
pub(super) fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests;

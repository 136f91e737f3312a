//! Sends and receives the descriptor socket's messages, with the descriptors that ride on them.
//!
//! Holds no connection open and interprets no message.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::fd_message::{MESSAGE_BYTES, Message};

/// Descriptors that one message may bring before the kernel itself closes the rest.
pub const DESCRIPTORS_MAX: usize = 4;

/// A message and the descriptors that came with it.
#[derive(Debug)]
pub struct Received {
    pub message: Message,
    pub descriptors: Vec<OwnedFd>,
    /// The kernel could not give this process one of them: mostly because it has as many as it may.
    pub is_cut: bool,
}

/// Sends one message, with a descriptor if there is one.
///
/// # Errors
/// The connection is gone.
pub async fn send(
    stream: &UnixStream,
    message: &Message,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut sent = 0;
    while sent < MESSAGE_BYTES {
        // The descriptor rides on the first byte, once.
        let riding = if sent == 0 { descriptor } else { None };
        let rest = &message[sent..];
        sent += stream.async_io(Interest::WRITABLE, || send_some(stream, rest, riding)).await?;
    }
    Ok(())
}

/// Receives one message; nothing if the other end closed between messages.
///
/// # Errors
/// The connection broke, or closed within a message.
pub async fn receive(stream: &UnixStream) -> io::Result<Option<Received>> {
    let (message, descriptors) = ([0; MESSAGE_BYTES], Vec::new());
    let mut received = Received { message, descriptors, is_cut: false };
    let mut filled = 0;
    while filled < MESSAGE_BYTES {
        // Never reads past this message's end, so that descriptors found belong to it.
        let count = stream
            .async_io(Interest::READABLE, || receive_some(stream, filled, &mut received))
            .await?;
        match (count, filled) {
            (0, 0) => return Ok(None),
            (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => filled += count,
        }
    }
    Ok(Some(received))
}

fn send_some(
    stream: &UnixStream,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let riding = descriptor.as_slice();
    if !riding.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(riding));
        assert!(fits, "the buffer has room for one descriptor");
    }
    // A closed peer is an error here, never a SIGPIPE for the whole process.
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(stream.as_fd(), &[IoSlice::new(bytes)], &mut control, flags)?)
}

fn receive_some(stream: &UnixStream, filled: usize, received: &mut Received) -> io::Result<usize> {
    let bytes = &mut received.message[filled..];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let read = recvmsg(stream.as_fd(), &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            received.descriptors.extend(rights);
        }
    }
    received.is_cut |= read.flags.contains(ReturnFlags::CTRUNC);
    Ok(read.bytes)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[tokio::test]
    async fn a_descriptor_arrives_with_its_message_only() {
        let (left, right) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        send(&left, &[1; MESSAGE_BYTES], None).await.unwrap();
        send(&left, &[2; MESSAGE_BYTES], Some(file.as_fd())).await.unwrap();
        send(&left, &[3; MESSAGE_BYTES], None).await.unwrap();
        for (mark, descriptors) in [(1, 0), (2, 1), (3, 0)] {
            let received = receive(&right).await.unwrap().unwrap();
            assert_eq!(received.message, [mark; MESSAGE_BYTES]);
            assert_eq!(received.descriptors.len(), descriptors);
            assert!(received.descriptors.iter().all(|fd| fd.as_raw_fd() != file.as_raw_fd()));
        }
    }

    #[tokio::test]
    async fn the_end_between_messages_is_no_error_within_one_it_is() {
        let (left, right) = UnixStream::pair().unwrap();
        drop(left);
        assert!(receive(&right).await.unwrap().is_none());

        let (left, right) = UnixStream::pair().unwrap();
        left.try_write(&[1; MESSAGE_BYTES - 1]).unwrap();
        drop(left);
        let error = receive(&right).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

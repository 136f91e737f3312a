//! The messages of the descriptor socket: 32 bytes each way, little-endian.
//!
//! ```text
//! request   0      4        6     8                24               32
//!           | TRFD | version | kind | token (16)    | tag            |
//! reply     0      4        6     8        12       16     24        32
//!           | TRFD | version | kind | status | zero  | value | tag    |
//! ```
//! Decoding never panics on any bytes, and knows nothing of descriptors or sockets.

use super::{TOKEN_BYTES, Token};

/// Bytes of every message.
pub const MESSAGE_BYTES: usize = 32;

/// One message as it travels.
pub type Message = [u8; MESSAGE_BYTES];

const MAGIC: [u8; 4] = *b"TRFD";
const VERSION: u16 = 1;

/// What a client asks of the descriptor socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum FdKind {
    /// Binds the connection to the session: when it closes, the client is gone. First message of
    /// every connection.
    Attach = 1,
    /// Brings one descriptor, kept under the tag for the `RegisterPool` call that names it.
    Pool = 2,
    /// Asks for the arena; the reply brings a read-only descriptor and its length as the value.
    Arena = 3,
    /// Asks for the HBM tier's memory, where that is this machine's; answered as `Arena` is.
    Hbm = 4,
}

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FdStatus {
    Ok = 0,
    /// Not a message of this protocol and version, or the wrong number of descriptors. The daemon
    /// closes the connection after it.
    Malformed = 1,
    /// No living session has this token: say Hello again. Closed after it.
    UnknownToken = 2,
    /// Another connection is bound to this session. Closed after it.
    AlreadyAttached = 3,
    /// The first message was not ATTACH, or the token is not the attached one. Closed after it.
    NotAttached = 4,
    /// Too many descriptors wait for their `RegisterPool`: register or reconnect.
    TooManyPending = 5,
    /// A descriptor waits under this tag: choose another.
    TagInUse = 6,
    /// The daemon cannot give its arena away.
    NoArena = 7,
    /// There is no HBM tier in this machine's memory, or it can't be given away.
    NoHbm = 8,
    /// The descriptor did not get through: the daemon has as many as it may.
    NoDescriptors = 9,
}

/// A client's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdRequest {
    pub kind: FdKind,
    pub token: Token,
    /// Names the descriptor of a `Pool`; zero otherwise.
    pub tag: u64,
}

/// The daemon's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdReply {
    pub kind: FdKind,
    pub status: FdStatus,
    /// The memory's length in bytes for `Arena` and `Hbm`; zero otherwise.
    pub value: u64,
    pub tag: u64,
}

impl FdRequest {
    #[must_use]
    pub fn encode(&self) -> Message {
        let mut message = head(self.kind);
        message[8..8 + TOKEN_BYTES].copy_from_slice(&self.token);
        message[24..].copy_from_slice(&self.tag.to_le_bytes());
        message
    }

    /// The request in `message`, or nothing if it is not one of this protocol and version.
    #[must_use]
    pub fn decode(message: &Message) -> Option<Self> {
        let kind = checked_kind(message)?;
        Some(Self { kind, token: field(message, 8), tag: u64::from_le_bytes(field(message, 24)) })
    }
}

impl FdReply {
    #[must_use]
    pub fn encode(&self) -> Message {
        let mut message = head(self.kind);
        message[8..12].copy_from_slice(&(self.status as u32).to_le_bytes());
        message[16..24].copy_from_slice(&self.value.to_le_bytes());
        message[24..].copy_from_slice(&self.tag.to_le_bytes());
        message
    }

    /// The reply in `message`, or nothing if it is not one of this protocol and version.
    #[must_use]
    pub fn decode(message: &Message) -> Option<Self> {
        let kind = checked_kind(message)?;
        Some(Self {
            kind,
            status: FdStatus::from_number(u32::from_le_bytes(field(message, 8)))?,
            value: u64::from_le_bytes(field(message, 16)),
            tag: u64::from_le_bytes(field(message, 24)),
        })
    }
}

impl FdKind {
    fn from_number(number: u16) -> Option<Self> {
        let all = [Self::Attach, Self::Pool, Self::Arena, Self::Hbm];
        all.into_iter().find(|kind| *kind as u16 == number)
    }
}

impl FdStatus {
    const ALL: [Self; 10] = [
        Self::Ok,
        Self::Malformed,
        Self::UnknownToken,
        Self::AlreadyAttached,
        Self::NotAttached,
        Self::TooManyPending,
        Self::TagInUse,
        Self::NoArena,
        Self::NoHbm,
        Self::NoDescriptors,
    ];

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|status| *status as u32 == number)
    }

    /// What happened and what to do, for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Malformed => {
                "the daemon could not read the message: send 32-byte messages of version 1, with \
                 one descriptor for POOL and none otherwise"
            }
            Self::UnknownToken => "no living session has this token: say Hello again",
            Self::AlreadyAttached => {
                "another connection is attached to this session: use that one, or say Hello again"
            }
            Self::NotAttached => "the connection is not attached to this token: send ATTACH first",
            Self::TooManyPending => {
                "too many descriptors wait to be registered: call RegisterPool for them first"
            }
            Self::TagInUse => "a descriptor already waits under this tag: choose another tag",
            Self::NoArena => "the daemon cannot give its arena away: see its log",
            Self::NoHbm => {
                "the daemon has no HBM tier in this machine's memory: ask HbmMemory where it is"
            }
            Self::NoDescriptors => {
                "the daemon has as many descriptors open as it may: raise its limit (`ulimit -Hn`, or \
                 LimitNOFILE in its service's unit), or try again when others have left"
            }
        }
    }
}

fn head(kind: FdKind) -> Message {
    let mut message = [0; MESSAGE_BYTES];
    message[..4].copy_from_slice(&MAGIC);
    message[4..6].copy_from_slice(&VERSION.to_le_bytes());
    message[6..8].copy_from_slice(&(kind as u16).to_le_bytes());
    message
}

fn checked_kind(message: &Message) -> Option<FdKind> {
    let ours = message.starts_with(&MAGIC) && u16::from_le_bytes(field(message, 4)) == VERSION;
    ours.then(|| FdKind::from_number(u16::from_le_bytes(field(message, 6)))).flatten()
}

fn field<const N: usize>(message: &Message, start: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&message[start..start + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_kind() -> impl Strategy<Value = FdKind> {
        prop::sample::select(vec![FdKind::Attach, FdKind::Pool, FdKind::Arena])
    }

    proptest! {
        #[test]
        fn requests_come_back_as_sent(kind in any_kind(), token: [u8; 16], tag: u64) {
            let request = FdRequest { kind, token, tag };
            prop_assert_eq!(FdRequest::decode(&request.encode()), Some(request));
        }

        #[test]
        fn replies_come_back_as_sent(
            kind in any_kind(),
            status in prop::sample::select(FdStatus::ALL.to_vec()),
            value: u64,
            tag: u64,
        ) {
            let reply = FdReply { kind, status, value, tag };
            prop_assert_eq!(FdReply::decode(&reply.encode()), Some(reply));
        }

        #[test]
        fn any_bytes_decode_to_what_encodes_alike_or_to_nothing(bytes: [u8; MESSAGE_BYTES]) {
            if let Some(request) = FdRequest::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes);
            }
        }
    }

    #[test]
    fn every_changed_byte_of_the_head_is_refused() {
        let message = FdRequest { kind: FdKind::Pool, token: [7; 16], tag: 9 }.encode();
        for place in 0..8 {
            let mut altered = message;
            altered[place] ^= 0x40;
            assert_eq!(FdRequest::decode(&altered), None, "byte {place}");
        }
    }
}

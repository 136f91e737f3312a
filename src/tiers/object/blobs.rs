//! Object storage as packs need it: named objects that are written once, read in parts, listed and
//! deleted. A folder and a bucket both are.
//!
//! Knows neither blocks nor frames, and never says what bytes mean.

use std::ops::Range;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::tiers::dram::Arena;
use crate::tiers::store::{FrameSpan, StoreError};

/// What a call ends as.
pub(super) type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A part of an object, and where in the arena it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// From the object's start.
    pub at: u64,
    pub into: FrameSpan,
}

impl Piece {
    pub const fn end(&self) -> u64 {
        self.at + self.into.bytes as u64
    }
}

/// What lies directly below a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listed {
    /// Without what stands before it.
    pub name: String,
    pub is_folder: bool,
}

/// Names are relative to the store's own prefix, with `/` between their parts.
pub(super) trait Blobs: Send + Sync + 'static {
    /// Writes an object that nobody has written: whole, or not at all. The pieces of its body are let
    /// go of when the last of their clones is, which may be later than this ends.
    fn put<'a>(&'a self, name: &'a str, body: Vec<Bytes>) -> Answer<'a, ()>;

    /// The same, and it outlasts a power cut once this has ended.
    fn put_lasting<'a>(&'a self, name: &'a str, body: Vec<Bytes>) -> Answer<'a, ()> {
        self.put(name, body)
    }

    /// These objects, whoever wrote them, outlast a power cut once this has ended. One that is not there is
    /// no error.
    fn settle(&self, _names: Vec<String>) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The object's first bytes: as many as asked for, or all of a shorter one. More than that come from a
    /// server that knows no ranges.
    fn head<'a>(&'a self, name: &'a str, bytes: u64) -> Answer<'a, Vec<u8>>;

    /// Fetches pieces of one object, by one request, into the arena. They lie one behind the other in
    /// the object; what lies between them is passed over. The caller owns their spans until it ends.
    fn fetch<'a>(&'a self, name: &'a str, pieces: &'a [Piece]) -> Answer<'a, ()>;

    /// What lies directly below `folder` with names behind `after`, in order.
    fn list<'a>(&'a self, folder: &'a str, after: &'a str) -> Answer<'a, Vec<Listed>>;

    /// Deletes the object; one that is not there is no error.
    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()>;
}

/// Bytes of an object on their way to where its pieces go.
pub(super) struct Scatter<'a> {
    arena: &'a Arena,
    pieces: &'a [Piece],
    /// Where in the object the next byte lies.
    at: u64,
    /// The first piece that is not whole yet.
    next: usize,
}

impl<'a> Scatter<'a> {
    /// The caller owns the pieces' spans while this lives, and there is one at least.
    pub fn new(arena: &'a Arena, pieces: &'a [Piece]) -> Self {
        Self { arena, pieces, at: pieces[0].at, next: 0 }
    }

    /// What is to be fetched.
    pub fn range(&self) -> Range<u64> {
        self.at..self.pieces.last().map_or(self.at, Piece::end)
    }

    /// The bytes that come begin elsewhere.
    pub const fn starts_at(&mut self, at: u64) {
        self.at = at;
    }

    pub const fn is_done(&self) -> bool {
        self.next == self.pieces.len()
    }

    /// The next bytes.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while let Some(piece) = self.pieces.get(self.next) {
            let before = piece.at.saturating_sub(self.at);
            let skipped = usize::try_from(before).unwrap_or(usize::MAX).min(bytes.len());
            bytes = &bytes[skipped..];
            self.at += skipped as u64;
            if bytes.is_empty() {
                return;
            }
            let left = usize::try_from(piece.end() - self.at).unwrap_or(usize::MAX);
            let (here, rest) = bytes.split_at(left.min(bytes.len()));
            self.keep(piece, here);
            self.at += here.len() as u64;
            self.next += usize::from(self.at == piece.end());
            bytes = rest;
        }
    }

    fn keep(&self, piece: &Piece, bytes: &[u8]) {
        let offset = piece.into.offset + (self.at - piece.at);
        let span = FrameSpan { offset, bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX) };
        // SAFETY: the caller owns the piece's span, of which this is a part.
        unsafe { self.arena.bytes_mut(span) }.copy_from_slice(bytes);
    }
}

//! The memory that responses are read into.
//!
//! | read | into | why |
//! |---|---|---|
//! | a head, a body of up to 16 KiB | a block that all connections of the thread share | nothing is copied, the block stays in the cache |
//! | a larger body | a block of 32 KiB for this read | a slow client would keep the shared block from being reused |
//! | behind bytes that are left | the connection's own buffer | an element must be in one piece |
//!
//! An idle connection has no buffer at all.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::pin,
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::io::AsyncReadExt;

use super::Conn;
use crate::connect::Stream;

impl<A> Conn<A> {
    /// Reads what the socket has. An idle connection holds no buffer: data is read into a block of the
    /// thread, and the connection takes the part that was filled.
    ///
    /// Returns 0 at the end of the stream. Never reads more than 32 KiB at once.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !self.read.is_empty() {
            // The rest of a head, or of the line of a chunk, must follow it without a gap.
            if self.read.capacity() - self.read.len() < READ_LEAST {
                self.read.reserve(READ);
            }
            return pin!(self.stream.read_buf(&mut self.read)).poll(cx);
        }
        // The old buffer may still point into the block of the last read.
        self.read = BytesMut::new();
        let is_large = self.decoder.left().is_some_and(|left| left > READ as u64);
        match is_large {
            false => BLOCK.with_borrow_mut(|block| self.fill_small(block, cx)),
            true => LARGE.with_borrow_mut(|block| self.fill_large(block, cx)),
        }
    }

    /// Reads into a block that many connections share. Nothing is copied, and the block stays in the
    /// cache of the processor.
    fn fill_small(
        &mut self,
        block: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // Starts over at the beginning of the block once no part of it is in use.
        if !block.try_reclaim(READ) && block.capacity() < ROOM {
            *block = BytesMut::with_capacity(READ);
        }
        self.fill(block, cx)
    }

    /// Reads into a block that no other connection shares, as a slow client may hold it for long. If the
    /// block of the thread is in use, the thread gets a new one.
    fn fill_large(
        &mut self,
        block: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if !block.try_reclaim(READ_LARGE) {
            // The former block lives on with the frames that point into it.
            *block = BytesMut::with_capacity(READ_LARGE);
        }
        let read = self.fill(block, cx);
        if (1..COPIED).contains(&self.read.len()) {
            // A small part would keep the whole block alive.
            self.read = BytesMut::from(&self.read[..]);
        }
        read
    }

    fn fill(&mut self, block: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = read(&mut self.stream, block, cx);
        if !block.is_empty() {
            self.read = block.split();
        }
        read
    }
}

fn read(
    stream: &mut Stream,
    block: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    pin!(stream.read_buf(block)).poll(cx)
}

thread_local! {
    /// The block that all connections of the thread read heads and small bodies into.
    static BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    /// The block that the connections of the thread read large bodies into, one after the other.
    static LARGE: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Most responses fit into this.
const READ: usize = 16 * 1024;
/// Takes fewer system calls, and is still small if a slow client holds it.
const READ_LARGE: usize = 32 * 1024;
/// A part of a large body that is shorter than this is copied out of its block.
const COPIED: usize = 4 * 1024;
/// Less room than this is not worth a system call.
const READ_LEAST: usize = 1024;
/// A block that is in use is replaced once less than this is left of it.
const ROOM: usize = 8 * 1024;

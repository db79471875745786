//! The memory that responses are read into.

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
    /// Reads what the socket has. A connection that waits holds no memory for it: what it reads
    /// goes into a block of the thread, and the connection takes the part that was filled.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !self.read.is_empty() {
            // The rest of a head or of a chunk's line follows what is there.
            if self.read.capacity() - self.read.len() < READ_LEAST {
                self.read.reserve(READ);
            }
            return pin!(self.stream.read_buf(&mut self.read)).poll(cx);
        }
        // It may still point to where the last part was.
        self.read = BytesMut::new();
        let is_large = self.decoder.left().is_some_and(|left| left > READ as u64);
        match is_large {
            false => BLOCK.with_borrow_mut(|block| self.fill_small(block, cx)),
            true => LARGE.with_borrow_mut(|block| self.fill_large(block, cx)),
        }
    }

    /// Nothing is copied, and the memory is in the processor's cache: parts of many connections
    /// lie in one block.
    fn fill_small(
        &mut self,
        block: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // From its beginning again, where all that was read into it is gone.
        if !block.try_reclaim(READ) && block.capacity() < ROOM {
            *block = BytesMut::with_capacity(READ);
        }
        self.fill(block, cx)
    }

    /// A part of a large body has a block of its own, as a slow client may hold it for long: where
    /// the block of the thread is still held, the connection that holds it keeps it alone.
    fn fill_large(
        &mut self,
        block: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if !block.try_reclaim(READ_LARGE) {
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
    /// What every connection of the thread reads heads and small bodies into.
    static BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    /// What the connections of the thread read large bodies into, one after the other.
    static LARGE: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Most responses fit into this.
const READ: usize = 16 * 1024;
/// For larger bodies: fewer system calls, and still little where a slow client holds it.
const READ_LARGE: usize = 32 * 1024;
/// A part of a large body that is shorter than this is copied out of its block.
const COPIED: usize = 4 * 1024;
/// Less room than this is not worth a system call.
const READ_LEAST: usize = 1024;
/// With less than this left of a block that is in use, the next block is begun.
const ROOM: usize = 8 * 1024;

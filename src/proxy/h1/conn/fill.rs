//! How the bytes of an answer come in.

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

impl Conn {
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let wanted = match self.decoder.left() {
            Some(left) if left > READ as u64 => READ_LARGE,
            _ => READ,
        };
        if wanted == READ && self.read.is_empty() {
            return self.poll_fill_new(cx);
        }
        if self.read.capacity() - self.read.len() < READ_LEAST {
            self.read.reserve(wanted);
        }
        pin!(self.stream.read_buf(&mut self.read)).poll(cx)
    }

    /// Reads into the thread's block and takes the part that was filled: nothing is copied, the
    /// memory is in the cache, and a connection that waits holds none.
    fn poll_fill_new(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // It may still point to where the last part was.
        self.read = BytesMut::new();
        let mut block = BLOCK.take();
        // From its beginning again, where all that was read into it is gone.
        if !block.try_reclaim(READ) && block.capacity() < ROOM {
            block = BytesMut::with_capacity(READ);
        }
        let read = pin!(self.stream.read_buf(&mut block)).poll(cx);
        if !block.is_empty() {
            self.read = block.split();
        }
        BLOCK.set(block);
        read
    }
}

thread_local! {
    /// What every connection of the thread reads the beginning of an answer into.
    static BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// What most answers fit into.
const READ: usize = 16 * 1024;
/// For bodies that do not: fewer system calls, and what tokio reads in one go.
const READ_LARGE: usize = 64 * 1024;
/// Less room than this is not worth a system call.
const READ_LEAST: usize = 1024;
/// With less than this left of a block that is in use, the next one is begun.
const ROOM: usize = 8 * 1024;

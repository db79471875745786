//! How the bytes of an answer come in.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

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

    /// Reads into the thread's buffer, which is in the cache, and keeps what came: a connection
    /// needs no more memory than its answers are long.
    fn poll_fill_new(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = READ_BUF.take().unwrap_or_else(|| vec![0; READ].into());
        let mut buf = ReadBuf::new(&mut scratch);
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut buf);
        let filled = buf.filled();
        if !filled.is_empty() {
            // What the last answer left here is used again, where its parts are gone.
            self.read.reserve(filled.len().max(READ_KEPT));
            self.read.extend_from_slice(filled);
        }
        let came = filled.len();
        READ_BUF.set(Some(scratch));
        read.map_ok(|()| came)
    }
}

thread_local! {
    /// What every connection of the thread reads the beginning of an answer into.
    static READ_BUF: RefCell<Option<Box<[u8]>>> = const { RefCell::new(None) };
}

/// What most answers fit into.
const READ: usize = 8 * 1024;
/// For bodies that do not: fewer system calls, and what tokio reads in one go.
const READ_LARGE: usize = 64 * 1024;
/// Less room than this is not worth a system call.
const READ_LEAST: usize = 1024;
/// Many answers fit into it, and an idle connection may keep as much.
const READ_KEPT: usize = 2 * 1024;

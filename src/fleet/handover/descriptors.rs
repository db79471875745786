//! Descriptors over a Unix socket (`SCM_RIGHTS`, see unix(7)).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use tokio::{io::Interest, net::UnixStream};

/// Sends descriptors, each batch of them with one byte.
pub(super) async fn send(stream: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    for batch in descriptors.chunks(BATCH) {
        let write = || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(BATCH))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(batch)) {
                return Err(io::Error::other("a batch of descriptors is too long"));
            }
            let byte = [IoSlice::new(MARK)];
            Ok(sendmsg(stream, &byte, &mut control, SendFlags::NOSIGNAL)?)
        };
        stream.async_io(Interest::WRITABLE, write).await?;
    }
    Ok(())
}

/// Receives descriptors until there are `count` in `received`. If that fails, those that came stay
/// there.
pub(super) async fn receive(
    stream: &UnixStream,
    count: usize,
    received: &mut Vec<OwnedFd>,
) -> io::Result<()> {
    while received.len() < count {
        let batch = stream.async_io(Interest::READABLE, || read(stream)).await?;
        received.extend(batch);
    }
    match received.len() == count {
        true => Ok(()),
        false => Err(invalid("more descriptors than were announced")),
    }
}

/// Reads the byte of one batch, and its descriptors. They are closed when another program is run.
fn read(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut into = [IoSliceMut::new(&mut byte)];
    let message = recvmsg(stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut batch = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            batch.extend(descriptors);
        }
    }
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other(
            "descriptors were cut off: this process may not open as many (RLIMIT_NOFILE)",
        ));
    }
    match batch.is_empty() {
        true => Err(invalid("a batch without descriptors")),
        false => Ok(batch),
    }
}

pub(super) fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Linux takes 253 descriptors in one message (`SCM_MAX_FD`), other systems fewer.
const BATCH: usize = 64;
const MARK: &[u8] = b"D";

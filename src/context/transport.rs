//! `Transport`: the byte streams that come from the operating system.
//!
//! The alternative is a check at run time, which a test would have to reach: a PROXY protocol header
//! that is read inside TLS is never there, and every connection would fail.

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::{TcpStream, UnixStream},
};

/// A byte stream as the operating system delivers it, without TLS.
///
/// A layer that reads the first bytes of a connection takes only such a stream. A stack in the wrong
/// order, such as the PROXY protocol inside TLS, then does not compile.
///
/// Implement it for a stream of your own that wraps a socket and changes no byte.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {}

impl Transport for TcpStream {}
impl Transport for UnixStream {}
/// For tests in memory.
impl Transport for DuplexStream {}
impl<T: Transport + ?Sized> Transport for Box<T> {}

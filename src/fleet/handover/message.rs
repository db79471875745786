//! The messages of a hand-over.
//!
//! ```text
//!  new process                      running process
//!      │ ── Hello: versions, pid ─────▶ │
//!      │ ◀───── Offer: sockets, state ─ │
//!      │ ◀──────────────── descriptors ─│
//!      │   (binds, starts to accept)    │   (serves on)
//!      │ ── Ready ────────────────────▶ │
//!      │ ◀──────────── Final: state ─── │
//!      │   (its socket is at the path)  │   (serves on)
//!      │ ── Taken ────────────────────▶ │
//!      │ ◀──────────────────── Release ─│
//!      │   (its program goes on)        │   (serves on)
//!      │ ── Serving ──────────────────▶ │   (stops accepting, drains, ends)
//! ```
//!
//! Both processes accept until the last message, so a death at any point leaves one that serves:
//!
//! - The running process stops at `Serving` alone, and only if the new one still holds the connection
//!   then. If anything else happens before, it serves on, and its socket is at the path again.
//! - The new process serves on by itself if the running one dies. If that one refuses or is silent, the
//!   new process has to end, which it may do until it sent `Serving`.
//!
//! The running process may answer `Refused` in place of each of its messages. A message is its length
//! in four bytes, then JSON; a reader ignores fields that it does not know.

use std::{io, net::SocketAddr};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{descriptors::invalid, state::State};

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    Hello {
        protocol: String,
        versions: Vec<u32>,
        process: u32,
    },
    Offer {
        version: u32,
        process: u32,
        sockets: Vec<SocketGroup>,
        state: State,
    },
    Ready,
    Final {
        state: State,
    },
    Taken,
    Release,
    Serving,
    Refused {
        reason: String,
    },
}

/// The sockets of one listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SocketGroup {
    /// The address in the settings; its port may be 0.
    pub(super) address: SocketAddr,
    pub(super) count: usize,
}

impl Message {
    pub(super) fn hello() -> Self {
        Self::Hello {
            protocol: PROTOCOL.to_owned(),
            versions: vec![VERSION],
            process: std::process::id(),
        }
    }

    pub(super) async fn send(&self, stream: &mut UnixStream) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let length = u32::try_from(text.len()).ok();
        let Some(length) = length.filter(|_| text.len() <= MAX_MESSAGE) else {
            return Err(invalid("a message of a hand-over is over 16 MiB"));
        };
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(&text).await
    }

    pub(super) async fn receive(stream: &mut UnixStream, limit: usize) -> io::Result<Self> {
        let mut length = [0; 4];
        stream.read_exact(&mut length).await?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > limit {
            let message = format!("a message of {length} bytes: up to {limit} are accepted");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let mut text = vec![0; length];
        stream.read_exact(&mut text).await?;
        serde_json::from_slice(&text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// Chooses the version that both processes speak; returns why there is none.
pub(super) fn version_of(protocol: &str, versions: &[u32]) -> Result<u32, String> {
    if protocol != PROTOCOL {
        return Err(format!("{protocol:?} is not the protocol {PROTOCOL:?}"));
    }
    match versions.contains(&VERSION) {
        true => Ok(VERSION),
        false => Err(format!(
            "the new process speaks versions {versions:?} of the protocol, the running one \
             {VERSION}: stop the running one first"
        )),
    }
}

const PROTOCOL: &str = "evenkeel-handover";
pub(super) const VERSION: u32 = 1;
/// Beyond the state of 50,000 backends.
pub(super) const MAX_MESSAGE: usize = 16 << 20;
/// Enough for a message of the new process, which has no state in it.
pub(super) const MAX_REQUEST: usize = 4 << 10;

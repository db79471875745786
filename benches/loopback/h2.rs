//! A client of HTTP/2 that does next to nothing, so that the figures are the server's: its requests
//! are the same bytes over and over, and of the answers it reads no more than the frames' heads.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::Result;

/// Streams at once, asked for in one write.
pub(crate) const AT_ONCE: usize = 4;

pub(crate) struct Streams {
    next: u32,
    out: Vec<u8>,
    read: Vec<u8>,
}

impl Streams {
    /// Opens the connection, and makes a first request: from then on its fields are in the
    /// server's table (RFC 7541 §2.3.2), as with any client that asks twice.
    pub(crate) async fn open(stream: &mut UnixStream) -> Result<Self> {
        let mut streams = Self {
            next: 1,
            out: PREFACE.to_vec(),
            read: Vec::new(),
        };
        // No window is ever shut.
        let window = [&[0, INITIAL_WINDOW_SIZE][..], &WIDE.to_be_bytes()].concat();
        streams.frame(SETTINGS, 0, 0, &window);
        let rest = WIDE - 65_535;
        streams.frame(WINDOW_UPDATE, 0, 0, &rest.to_be_bytes());
        let mut block = vec![0x82, 0x86];
        for (name, value) in [
            (0x44, "/path/to/something?query=1"),
            (0x41, "shop.example"),
            (0x7a, "bench/1.0"),
        ] {
            block.extend_from_slice(&[name, u8::try_from(value.len())?]);
            block.extend_from_slice(value.as_bytes());
        }
        streams.ask(&block);
        streams.answers(stream, 1).await?;
        Ok(streams)
    }

    /// Makes `count` requests, [`AT_ONCE`] at a time.
    pub(crate) async fn requests(&mut self, stream: &mut UnixStream, count: usize) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let now = left.min(AT_ONCE);
            for _ in 0..now {
                self.ask(&AGAIN);
            }
            self.answers(stream, now).await?;
            left -= now;
        }
        Ok(())
    }

    fn ask(&mut self, block: &[u8]) {
        self.frame(HEADERS, END_STREAM | END_HEADERS, self.next, block);
        self.next += 2;
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.out
            .extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        self.out.extend_from_slice(&[kind, flags]);
        self.out.extend_from_slice(&stream.to_be_bytes());
        self.out.extend_from_slice(payload);
    }

    /// Reads until so many streams have ended.
    async fn answers(&mut self, stream: &mut UnixStream, mut left: usize) -> Result<()> {
        loop {
            if !self.out.is_empty() {
                stream.write_all(&self.out).await?;
                self.out.clear();
            }
            if left == 0 {
                return Ok(());
            }
            self.read.reserve(64 * 1024);
            if stream.read_buf(&mut self.read).await? == 0 {
                return Err("closed early".into());
            }
            let mut at = 0;
            while let Some((head, rest)) = self.read[at..].split_at_checked(HEAD) {
                let size = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let Some(payload) = rest.get(..size) else {
                    break;
                };
                let (kind, flags) = (head[3], head[4]);
                match kind {
                    HEADERS if !payload.contains(&STATUS_200) => return Err("not 200".into()),
                    DATA | HEADERS => left -= usize::from(flags & END_STREAM != 0),
                    SETTINGS if flags & ACK == 0 => {
                        self.out
                            .extend_from_slice(&[0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]);
                    }
                    SETTINGS | WINDOW_UPDATE => {}
                    _ => return Err(format!("a frame of type {kind}").into()),
                }
                at += HEAD + size;
            }
            self.read.drain(..at);
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
// RFC 9113 §6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const INITIAL_WINDOW_SIZE: u8 = 4;
const WIDE: u32 = (1 << 31) - 1;
/// Of RFC 7541's table.
const STATUS_200: u8 = 0x88;
/// The fields of the first request, by their places in the tables.
const AGAIN: [u8; 5] = [0x82, 0x86, 0xc0, 0xbf, 0xbe];

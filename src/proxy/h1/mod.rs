//! The HTTP/1.1 exchange with a backend: our own, with no task and no channel in between.

mod conn;
mod decode;
pub(super) mod head;
mod send;
#[cfg(test)]
mod tests;

pub(super) use conn::{Answer, AnswerBody, Conn, Start, Timeouts};
#[cfg(feature = "http2")]
pub(super) use decode::is_trailer;

//! One HTTP/1.1 exchange with a backend: what the proxy and the checks share.
//!
//! No task and no channel stands between the caller and the socket: the caller's task writes the
//! request, reads the response and passes its body on. What a message means is read by
//! [`wire`](crate::wire); this module moves the bytes and holds the deadlines.
//!
//! | file | content |
//! |---|---|
//! | `conn` | the connection, the response head, the frames of the response body |
//! | `fill` | the memory that responses are read into |
//! | `out` | what is to be written next |
//! | `send` | the request on its way out |
//! | `sending` | its body, by length or in chunks |
//! | `body` | request bodies, without their type |
//! | `wait` | the phases of an exchange and their deadlines |

mod body;
mod conn;
mod fill;
mod out;
mod send;
mod sending;
#[cfg(test)]
mod tests;
mod wait;

pub(crate) use body::Outgoing;
#[cfg(feature = "proxy")]
pub(crate) use body::erase;
#[cfg(feature = "proxy")]
pub(crate) use conn::Answer;
pub(crate) use conn::{AnswerBody, Attached, Conn, Start};
pub(crate) use wait::Timeouts;

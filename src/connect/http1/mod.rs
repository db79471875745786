//! One HTTP/1.1 exchange with a backend: what the proxy and the checks share.
//!
//! No task and no channel stands between the caller and the socket: the caller's task writes the
//! request, reads the response and passes its body on. What a message means is read by
//! [`wire`](crate::wire); this module moves the bytes and holds the deadlines.
//!
//! | file | content |
//! |---|---|
//! | `conn` | the connection: how an exchange begins and ends, the frames of the response body |
//! | `answer` | the response head, and the interim ones before it |
//! | `fill` | the memory that responses are read into |
//! | `out` | what is to be written next |
//! | `send` | the request on its way out |
//! | `sending` | its body, by length or in chunks |
//! | `body` | request bodies, without their type |
//! | `wait` | the phases of an exchange and their deadlines |

mod answer;
mod body;
mod conn;
mod fill;
mod out;
mod send;
mod sending;
#[cfg(test)]
mod tests;
mod wait;

#[cfg(feature = "proxy")]
pub(crate) use answer::Answer;
pub(crate) use answer::AnswerBody;
pub(crate) use body::Outgoing;
#[cfg(feature = "proxy")]
pub(crate) use body::erase;
pub(crate) use conn::{Attached, Conn, Start};
pub(crate) use wait::Timeouts;

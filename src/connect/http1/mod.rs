//! One HTTP/1.1 exchange with a backend: what the proxy and the checks share.
//!
//! No task and no channel stands between the caller and the socket: the caller's task writes the
//! request, reads the response and passes its body on. What a message means is read by
//! [`wire`](crate::wire); this module moves the bytes and holds the deadlines.
//!
//! | file | content |
//! |---|---|
//! | `conn` | the connection: how an exchange begins and ends, the frames of the response body |
//! | `response_head` | the response head, and the interim ones before it |
//! | `read_buffer` | the memory that responses are read into |
//! | `write_queue` | what is to be written next |
//! | `request_writer` | the request on its way out |
//! | `request_body_writer` | its body, by length or in chunks |
//! | `erased_body` | request bodies, without their type |
//! | `phases` | the phases of an exchange and their deadlines |

mod conn;
mod erased_body;
mod phases;
mod read_buffer;
mod request_body_writer;
mod request_writer;
mod response_head;
#[cfg(test)]
mod tests;
mod write_queue;

pub(crate) use conn::{Conn, ConnOwner, Start};
pub(crate) use erased_body::ErasedBody;
pub(crate) use erased_body::erase;
pub(crate) use phases::Timeouts;
pub(crate) use response_head::ResponseContent;
pub(crate) use response_head::ResponseHead;

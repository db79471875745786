//! One HTTP/1.1 exchange with a backend, which the proxy and the checks share.
//!
//! No task and no channel stands between the caller and the socket: the caller's task writes the request,
//! reads the response and passes the body on. [`wire`](crate::wire) parses and writes the messages; this
//! module moves the bytes and holds the deadlines.
//!
//! | file | content |
//! |---|---|
//! | `conn` | the connection: the beginning and end of an exchange, the frames of the response body |
//! | `response_head` | the response head, and the interim responses before it |
//! | `read_buffer` | the memory that responses are read into |
//! | `write_queue` | the bytes that are written next |
//! | `request_writer` | writing of the request while its response is awaited |
//! | `request_body_writer` | framing of the request body, by length or in chunks |
//! | `erased_body` | request bodies without their type |
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

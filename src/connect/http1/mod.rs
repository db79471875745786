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
//!
//! ```text
//!    call                            future of the response              response body
//!    start ─▶ send ────────────────▶ poll_response_head ───────────────▶ poll_frame ─▶ … ─▶ end
//!    first frame, one write          rest of the request, 1xx, head      rest of the request, frames
//! ```
//!
//! The connection is in one box, which each part passes to the next. A box that is dropped in the
//! middle closes the socket; only `end` says that it may be used again.
//!
//! Request and response run at the same time in both futures: a backend may answer before it has read
//! the request, and may go on reading it (RFC 9112 §9.5: a client that sends a body should watch for an
//! early response).

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

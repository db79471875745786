//! Responses that say nothing about a backend.

/// The response was made without its backend; a response extension.
///
/// The proxy leaves it where it is itself the last recipient of a request (`Max-Forwards: 0`). A
/// layer between balance and proxy that answers for a backend, such as a cache, does the same: the
/// attempt ends as [`Outcome::Cancelled`](super::Outcome::Cancelled), health judges nothing by it,
/// and no strategy takes its time for that of the backend.
#[derive(Clone, Copy, Debug)]
pub struct LocalReply;

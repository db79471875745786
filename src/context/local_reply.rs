//! `LocalReply`: the mark of a response that no backend sent.

/// The mark of a response that was made without asking the selected backend: a response extension.
///
/// The proxy inserts it if it is itself the last recipient of a request (`Max-Forwards: 0`). A layer
/// between balancer and proxy that answers in a backend's stead, such as a cache, inserts it as well.
/// The attempt then ends as [`Outcome::Cancelled`](super::Outcome::Cancelled), outlier detection
/// does not count the response, and strategies that measure latency ignore its time.
///
/// ```
/// use evenkeel::context::LocalReply;
///
/// let mut response = http::Response::new("from the cache");
/// response.extensions_mut().insert(LocalReply);
/// assert!(response.extensions().get::<LocalReply>().is_some());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LocalReply;

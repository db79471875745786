//! The backend that one attempt goes to: as a request extension, and as an argument of a call.
//!
//! A balancer passes its pick on in one of two ways. [`Selected`] is the public one: a request
//! extension, which works through any layers between balancer and proxy, and costs an allocation for
//! each attempt and a look-up in each service that reads it. [`CallSelected`] is for the built-in
//! stack, where the types show that no other layer stands between: balancer, health and proxy hand
//! the pick on as an argument. Measured over a whole request, leaving `CallSelected` out costs 650
//! instructions more, which is 2.8 %; that is why both exist.

use tower_service::Service;

use super::Exchange;
use crate::pool::Backend;

/// The backend of this attempt: a request extension that the balancer writes, and that health and
/// the proxy read. Without it the proxy fails with
/// [`ErrorKind::NotRouted`](crate::ErrorKind::NotRouted).
///
/// It holds no lease. A program that inserts it itself, without a balancer, does not count towards
/// the backend's requests in flight.
///
/// ```
/// use evenkeel::{Backend, context::Selected};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(Selected(Backend::new("a", "http://127.0.0.1:9001")?));
/// let Selected(backend) = request.extensions().get::<Selected>().unwrap();
/// assert_eq!(backend.id(), "a");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Selected(pub Backend);

/// The argument of [`CallSelected::call_selected`].
#[derive(Clone, Copy)]
pub(crate) struct Selection<'a> {
    /// The backend of this attempt.
    pub(crate) backend: &'a Backend,
    /// The record of the request; the request's extensions hold a handle of it.
    pub(crate) exchange: &'a Exchange,
    /// The number of the attempt in that record.
    pub(crate) number: usize,
}

/// A service that takes the pick as an argument.
///
/// [`call_selected`](Self::call_selected) does what [`Service::call`] does for a request with
/// [`Selected`] in its extensions, and does not look for the extension. Balancers that use it
/// (`StackBalance`) call it for each attempt; health passes it on, and the proxy ends it.
pub(crate) trait CallSelected<R>: Service<R> {
    /// Sends the request to the backend of `selection`.
    fn call_selected(&mut self, request: R, selection: Selection<'_>) -> Self::Future;
}

//! Where one attempt goes.

use tower_service::Service;

use super::Exchange;
use crate::pool::Backend;

/// The backend of this attempt; a request extension that balance writes and proxy reads.
///
/// Holds no lease: whoever inserts it by hand, without balance, counts for itself.
#[derive(Clone, Debug)]
pub struct Selected(pub Backend);

/// What the note says, for who can be told it in a call.
#[derive(Clone, Copy)]
pub(crate) struct Selection<'a> {
    pub(crate) backend: &'a Backend,
    /// The one in the request's extensions.
    pub(crate) exchange: &'a Exchange,
    /// The attempt's number in it.
    pub(crate) number: usize,
}

/// A service that takes the selection with the call: the canonical stack, where nobody stands
/// between who selects and who is told, saves the note's allocation and the looks for it.
///
/// Does what [`Service::call`] does with a [`Selected`] in the extensions, and does not look for
/// one.
pub(crate) trait CallSelected<R>: Service<R> {
    fn call_selected(&mut self, request: R, selection: Selection<'_>) -> Self::Future;
}

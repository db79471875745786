//! Where one attempt goes.

use crate::pool::Backend;

/// The backend of this attempt; a request extension that balance writes and proxy reads.
///
/// Holds no lease: whoever inserts it by hand, without balance, counts for itself.
#[derive(Clone, Debug)]
pub struct Selected(pub Backend);

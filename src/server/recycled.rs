//! Recycled extension tables: those of responses that were sent serve the next requests.
//!
//! A new table costs an allocation and its growth. A service may put the emptied table of the request
//! into its response, as the proxy does.
//!
//! ```text
//!   request ──(take)──▶ extensions of the request ──▶ service ──▶ extensions of the response
//!                                                                         │
//!                     TABLES of this thread ◀──(keep: clear)──────────────┘
//! ```
//!
//! A response whose service put no table into it brings an empty one without memory, which is kept
//! as well and saves nothing. Under HTTP/2 on a `multi_thread` runtime a stream may end on another
//! thread than it began on: each thread keeps what ended there.

use std::cell::RefCell;

use http::Extensions;

/// Returns an empty table.
///
/// Never blocks. A table that was used before has its capacity and no content: `keep` cleared it,
/// so no request sees the extensions of an earlier one.
pub(super) fn take() -> Extensions {
    // An error means that the thread is ending.
    let table = TABLES.try_with(|tables| tables.borrow_mut().pop());
    table.ok().flatten().unwrap_or_default()
}

/// Keeps the table of a response that was sent, and drops its contents.
///
/// Called when a response head is written. The drop of an extension may run any code, so it happens
/// before the stack of tables is borrowed.
pub(super) fn keep(mut table: Extensions) {
    // Cleared before the borrow: the drop of an extension can run code that uses this table again.
    table.clear();
    let _ = TABLES.try_with(|tables| {
        let mut tables = tables.borrow_mut();
        if tables.len() < MAX_TABLES {
            tables.push(table);
        }
    });
}

thread_local! {
    static TABLES: RefCell<Vec<Extensions>> = const { RefCell::new(Vec::new()) };
}

/// As many requests, streams of HTTP/2 included, usually end between two that begin. A table has a few
/// hundred bytes.
const MAX_TABLES: usize = 256;

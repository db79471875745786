//! The extensions of responses that were sent: the requests that come next use their memory.
//!
//! A table of extensions costs an allocation and its growth. A service that answers may put the
//! emptied table of the request into the response, as the proxy does.

use std::cell::RefCell;

use http::Extensions;

/// Returns an empty table.
pub(super) fn take() -> Extensions {
    // An error says that the thread is about to end.
    let table = TABLES.try_with(|tables| tables.borrow_mut().pop());
    table.ok().flatten().unwrap_or_default()
}

/// Takes the table of a response that was sent, and drops what is in it.
pub(super) fn keep(mut table: Extensions) {
    // What the extensions drop may be anything, a request of its own included.
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

/// As many as requests usually end between two that begin, streams of HTTP/2 included; each is
/// some hundred bytes.
const MAX_TABLES: usize = 256;

//! Extensions whose request is over: the next one's notes go where its were.
//!
//! The table that holds the notes costs two allocations, and a request is put into one of its own
//! whenever it comes to a server. What is cleared here keeps its table.

use std::cell::RefCell;

use http::Extensions;

/// Returns extensions without notes.
#[cfg(feature = "server")]
pub(crate) fn take() -> Extensions {
    // An error says that the thread is about to end.
    let spare = SPARE.try_with(|spare| spare.borrow_mut().pop());
    spare.ok().flatten().unwrap_or_default()
}

/// Takes extensions that nobody needs any more; their notes are dropped.
#[cfg(feature = "proxy")]
pub(crate) fn keep(mut extensions: Extensions) {
    // What the notes drop may be anything, a request of its own included.
    extensions.clear();
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT {
            spare.push(extensions);
        }
    });
}

thread_local! {
    static SPARE: RefCell<Vec<Extensions>> = const { RefCell::new(Vec::new()) };
}

/// As many as requests usually end between two that begin, streams of HTTP/2 included; each is
/// some hundred bytes.
#[cfg(feature = "proxy")]
const KEPT: usize = 256;

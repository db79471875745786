//! Extensions whose request is over: the next one's notes go where its were.
//!
//! The table that holds the notes costs an allocation, and so does each note; a request is put into
//! a table of its own whenever it comes to a server. What is kept here keeps its memory: the places
//! of the two notes that every request has stay, empty, and other notes are dropped.

use std::cell::RefCell;

use http::Extensions;

#[cfg(feature = "proxy")]
use super::{ConnInfo, Exchange, Interim, Selected};

/// Returns extensions without notes, but for the places of a connection and of a record: the
/// connection's is to be filled.
pub(crate) fn take() -> Extensions {
    // An error says that the thread is about to end.
    let spare = SPARE.try_with(|spare| spare.borrow_mut().pop());
    spare.ok().flatten().unwrap_or_default()
}

/// Takes extensions that nobody needs any more; their notes are dropped.
#[cfg(feature = "proxy")]
pub(crate) fn keep(mut extensions: Extensions) {
    // What the notes drop may be anything, a request of its own included.
    let places = usize::from(ConnInfo::leave_place(&mut extensions))
        + usize::from(Exchange::leave_place(&mut extensions))
        + usize::from(Interim::leave_place(&mut extensions));
    if extensions.len() > places {
        // Of a stack by hand. Notes of others cannot be told apart from the places.
        extensions.remove::<Selected>();
        if extensions.len() > places {
            extensions.clear();
        }
    }
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

#[cfg(all(test, feature = "proxy"))]
mod tests {
    use super::*;
    use crate::context::Peer;

    #[derive(Clone)]
    struct Foreign;

    fn conn() -> ConnInfo {
        ConnInfo::new(Peer::Unknown, Peer::Unknown)
    }

    /// Lets a request come by a connection and end.
    fn request(conn: &ConnInfo) -> Exchange {
        let mut extensions = take();
        conn.note(&mut extensions);
        let exchange = Exchange::of(&mut extensions);
        keep(extensions);
        exchange
    }

    #[test]
    fn a_place_says_nothing_of_who_had_it_before() {
        let (first, second) = (conn(), conn());
        let old = request(&first);
        old.add_received(7);
        assert!(first.is_last(), "a kept place holds no connection");
        let mut extensions = take();
        second.note(&mut extensions);
        assert_eq!(extensions.len(), 2, "both places are there");
        let found = ConnInfo::of(&extensions).map(ConnInfo::number);
        assert_eq!(found, Some(second.number()));
        // Whoever looks first, by whichever way, sees what the others see.
        let looked = extensions.get::<Exchange>().map(|new| {
            new.add_received(1);
            new.received()
        });
        assert_eq!(looked, Some(1));
        let copied = extensions.clone().get::<Exchange>().map(Exchange::received);
        assert_eq!(copied, Some(1));
        assert_eq!(Exchange::of(&mut extensions).received(), 1);
        assert_eq!(old.received(), 7);
    }

    #[test]
    fn copies_of_a_request_without_a_record_get_records_of_their_own() {
        let conn = conn();
        request(&conn);
        let mut extensions = take();
        conn.note(&mut extensions);
        let mut copy = extensions.clone();
        Exchange::of(&mut copy).add_received(7);
        assert_eq!(Exchange::of(&mut extensions).received(), 0);
        let mut later = extensions.clone();
        Exchange::of(&mut later).add_received(1);
        assert_eq!(
            Exchange::of(&mut extensions).received(),
            1,
            "begun, it is one"
        );
    }

    #[test]
    fn notes_of_others_are_dropped() {
        let conn = conn();
        for _ in 0..2 {
            let mut extensions = take();
            conn.note(&mut extensions);
            assert!(extensions.get::<Foreign>().is_none());
            assert_eq!(Exchange::of(&mut extensions).received(), 0);
            extensions.insert(Foreign);
            keep(extensions);
        }
        assert!(conn.is_last());
    }

    #[test]
    fn in_a_place_a_request_costs_its_record() {
        let conn = conn();
        request(&conn);
        let cost = allocation_counter::measure(|| drop(request(&conn)));
        assert_eq!(cost.count_total, 1);
    }
}

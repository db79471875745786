//! The tables of the room's documentation.

use super::{authorize, event_stream, future, order, service};

#[test]
fn the_defaults_are_those_of_the_docs() {
    let docs = include_str!("mod.rs");
    let (_, table) = docs.split_once("//! | what | default |").unwrap();
    for (what, value) in [
        (
            "a token has at least",
            format!("{} characters", authorize::MIN_TOKEN_LENGTH),
        ),
        (
            "deadline of a drain",
            format!("{} s", order::DEFAULT_DEADLINE.as_secs()),
        ),
        ("viewers of live updates", service::MAX_VIEWERS.to_string()),
        (
            "the body of an order has at most",
            format!("{} bytes", future::MAX_BODY),
        ),
    ] {
        let row = format!("//! | {what} | {value} |\n");
        assert!(table.contains(&row), "{row}");
    }
    assert!(docs.contains("within 100 ms of a change"));
    assert_eq!(event_stream::AFTER_A_CHANGE.as_millis(), 100);
}

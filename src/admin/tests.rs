//! The tables of the room's documentation.

use super::{authorize, event_stream, future, order, service};

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let compared = [
        ("orders", "none are accepted: read-only".to_owned()),
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
    ];
    crate::default_table::compare(include_str!("mod.rs"), &compared);
    assert!(include_str!("mod.rs").contains("within 100 ms of a change"));
    assert_eq!(event_stream::AFTER_A_CHANGE.as_millis(), 100);
}

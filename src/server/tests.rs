use std::time::Duration;

use super::{
    http::{DEFAULT_HEAD_TIMEOUT, DEFAULT_IDLE_TIMEOUT, DEFAULT_MIN_RATE, MAX_STREAMS, WINDOW},
    http2::{RESET_BURST, RESETS_PER_SECOND},
    serve::{DEFAULT_DRAIN_TIMEOUT, DEFAULT_MAX_CONNECTIONS, MIN_USER_TIMEOUT},
};
use crate::{context::IDLE_GRACE, wire::fields::MAX_HEAD};

#[test]
fn the_defaults_table_matches_the_code() {
    let seconds = |d: Duration| format!("{} s", d.as_secs());
    let thousands = format!(
        "{},{:03}",
        DEFAULT_MAX_CONNECTIONS / 1_000,
        DEFAULT_MAX_CONNECTIONS % 1_000
    );
    for (row, value) in [
        ("connections at once", thousands),
        ("time for a request head", seconds(DEFAULT_HEAD_TIMEOUT)),
        ("idle between requests", seconds(DEFAULT_IDLE_TIMEOUT)),
        ("a client that acknowledges", seconds(MIN_USER_TIMEOUT)),
        ("request head", format!("{} KiB", MAX_HEAD / 1_024)),
        ("least rate", format!("{DEFAULT_MIN_RATE} bytes")),
        ("HTTP/2 streams at once", MAX_STREAMS.to_string()),
        (
            "HTTP/2 streams that a client resets",
            format!("{RESET_BURST}"),
        ),
        (
            "HTTP/2 streams that a client resets",
            format!("{RESETS_PER_SECOND} a second"),
        ),
        (
            "HTTP/2 flow control",
            format!("{} MiB a stream", WINDOW >> 20),
        ),
        (
            "HTTP/2 flow control",
            format!("{} MiB a connection", (4 * WINDOW) >> 20),
        ),
        ("a connection that waits", seconds(IDLE_GRACE)),
        ("graceful end", seconds(DEFAULT_DRAIN_TIMEOUT)),
    ] {
        let line = include_str!("mod.rs")
            .lines()
            .find(|line| line.starts_with(&format!("//! | {row}")))
            .unwrap_or_else(|| panic!("{row} has a row"));
        assert!(line.contains(&value), "{row} is {value}: {line}");
    }
}

//! The table of defaults is compared with the code.

use std::time::Duration;

use super::{
    dial::{ATTEMPT_DELAY, DEFAULT_TIMEOUT},
    resolve::{HOLD_TIME, MAX_MISSES, MISS_INTERVAL, RESOLVER_WAIT},
};

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let seconds = |time: Duration| format!("{} s", time.as_secs());
    let millis = |time: Duration| format!("{} ms", time.as_millis());
    let rows = [
        ("time-out, from the look-up", seconds(DEFAULT_TIMEOUT)),
        ("wait for the resolver", millis(RESOLVER_WAIT)),
        (
            "last good addresses stay in use while the name is denied",
            seconds(HOLD_TIME),
        ),
        (
            "an address that answers leave out",
            format!("after {MAX_MISSES} answers"),
        ),
        ("an address that answers leave out", millis(MISS_INTERVAL)),
        ("an address that answers leave out", seconds(HOLD_TIME)),
        #[cfg(feature = "__sockets")]
        (
            "a backend that acknowledges nothing",
            seconds(crate::tcp_timeout::DEFAULT),
        ),
        ("delay before the next address", millis(ATTEMPT_DELAY)),
    ];
    for (row, value) in rows {
        let line = include_str!("mod.rs")
            .lines()
            .find(|line| line.starts_with(&format!("//! | {row}")))
            .unwrap_or_else(|| panic!("{row} has a row"));
        assert!(line.contains(&value), "{row} is {value}: {line}");
    }
}

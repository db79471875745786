//! The table of defaults is compared with the code.

use std::time::Duration;

use super::{
    Connector,
    dial::DEFAULT_TIMEOUT,
    race::ATTEMPT_DELAY,
    resolve::{HOLD_TIME, MAX_MISSES, MISS_INTERVAL, RESOLVER_WAIT},
};
use crate::{default_table, pool::Backend};

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let seconds = |time: Duration| format!("{} s", time.as_secs());
    let millis = |time: Duration| format!("{} ms", time.as_millis());
    let text = str::to_owned;
    #[cfg(feature = "__sockets")]
    let unacknowledged = seconds(crate::tcp_timeout::DEFAULT);
    #[cfg(not(feature = "__sockets"))]
    let unacknowledged = "after".to_owned();
    let backend = Backend::new("a", "http://127.0.0.1:1").unwrap();
    let sent = match Connector::new().names_client(&backend) {
        true => "sent",
        false => "none",
    };
    let compared = [
        ("time-out", seconds(DEFAULT_TIMEOUT)),
        ("names are looked up by", text("the operating system")),
        ("wait for the resolver", millis(RESOLVER_WAIT)),
        (
            "last good addresses stay in use while the resolver fails",
            text("without a limit"),
        ),
        (
            "last good addresses stay in use while the name is denied",
            seconds(HOLD_TIME),
        ),
        ("an address", format!("after {MAX_MISSES} answers")),
        ("an address", millis(MISS_INTERVAL)),
        ("an address", seconds(HOLD_TIME)),
        ("a backend that acknowledges nothing", unacknowledged),
        ("delay before the next address", millis(ATTEMPT_DELAY)),
        ("roots", text("`webpki-roots`")),
        ("certificate of this client", text("none")),
        ("TLS versions", text("1.2 and 1.3")),
        ("ALPN", text("`h2` and `http/1.1`")),
        ("PROXY protocol header to backends", sent.to_owned()),
    ];
    default_table::compare(include_str!("mod.rs"), &compared);
}

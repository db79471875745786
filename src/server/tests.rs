use std::time::Duration;

use tokio::net::TcpListener;

use super::{
    Http,
    http::{MAX_STREAMS, WINDOW},
    http1::{Http1, MAX_DISCARDED},
    http2::{RESET_BURST, RESETS_PER_SECOND},
    serve,
    serve::MIN_USER_TIMEOUT,
    state::BODY_REST_TIMEOUT,
};
use crate::{
    context::{IDLE_GRACE, MAX_INTERIM_BYTES, MAX_INTERIM_RESPONSES},
    default_table,
    wire::fields::{MAX_FIELDS, MAX_HEAD},
};

#[tokio::test]
async fn the_documented_defaults_are_those_of_the_code() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let serve = serve(listener, ());
    let timeouts = Http::new(()).timeouts;
    assert!(timeouts.request.is_none() && !Http1::default().half_close);
    let seconds = |time: Duration| format!("{} s", time.as_secs());
    let (thousands, rest) = (serve.max_connections / 1_000, serve.max_connections % 1_000);
    let text = str::to_owned;
    let compared = [
        ("connections at once", format!("{thousands},{rest:03}")),
        ("time for a request head", seconds(timeouts.head)),
        ("idle between requests", seconds(timeouts.idle)),
        (
            "least rate",
            format!("{} bytes a second", timeouts.min_rate),
        ),
        ("a request and its response in all", text("no limit")),
        ("a client that acknowledges nothing", text("as idle")),
        (
            "a client that acknowledges nothing",
            seconds(MIN_USER_TIMEOUT),
        ),
        ("request head", format!("{MAX_FIELDS} fields")),
        ("request head", format!("{} KiB", MAX_HEAD / 1_024)),
        ("an HTTP/1.1 client that closes", text("cancelled")),
        (
            "a request body that",
            format!("{} KiB", MAX_DISCARDED / 1_024),
        ),
        (
            "a request body that",
            format!("within {}", seconds(BODY_REST_TIMEOUT)),
        ),
        ("interim responses", MAX_INTERIM_RESPONSES.to_string()),
        (
            "interim responses",
            format!("{} KiB", MAX_INTERIM_BYTES / 1_024),
        ),
        ("HTTP/2 streams at once", MAX_STREAMS.to_string()),
        (
            "HTTP/2 streams that a client resets",
            RESET_BURST.to_string(),
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
        ("lame duck", seconds(serve.lame_duck)),
        ("a connection that waits", seconds(IDLE_GRACE)),
        ("graceful end", seconds(serve.drain_timeout)),
    ];
    default_table::compare(include_str!("mod.rs"), &compared);
}

//! An access log around an axum router: one JSON line for each request on the standard output.
//!
//! ```sh
//! cargo run --example access_log
//! curl -s http://127.0.0.1:3000/hello?name=x
//! printf 'nonsense\r\n\r\n' | nc 127.0.0.1 3000      # a refused request has a line, too
//! ```
//!
//! The line of the first command, in part. The query is absent, as the default is not to log it:
//!
//! ```json
//! {"time":"2025-01-31T12:00:00.000Z","node":"lb-1","listener":"127.0.0.1:3000","client":"127.0.0.1",
//!  "method":"GET","path":"/hello","status":200,"duration_ms":0.231,"sent":6,"outcome":"ok"}
//! ```

use std::error::Error;

use axum::{Router, routing::get};
use evenkeel::access_log::{AccessLogLayer, JsonLines};
use tower::Layer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let log = AccessLogLayer::new(JsonLines::stdout()?).node("lb-1");
    let app = Router::new().route("/hello", get(|| async { "hello\n" }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    evenkeel::serve(listener, log.layer(app))
        // The layer also logs connections that end without a request.
        .events(log)
        .await?;
    Ok(())
}

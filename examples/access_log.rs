//! One JSON line a request on the standard output, around somebody else's service.
//!
//! ```sh
//! cargo run --example access_log
//! curl -s http://127.0.0.1:3000/hello?name=x
//! printf 'nonsense\r\n\r\n' | nc 127.0.0.1 3000      # has its line, too
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
        .events(log)
        .await?;
    Ok(())
}

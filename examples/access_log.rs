//! An access log around an axum router: one JSON line for each request on the standard output, and one
//! in logfmt in a file that is rotated.
//!
//! ```sh
//! cargo run --example access_log
//! cargo run --example access_log -- 127.0.0.1:514    # a sample to a syslog server, too
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

use std::{env, error::Error};

use axum::{Router, routing::get};
use evenkeel::access_log::{
    AccessLogLayer, Format, Lines, Output, Rotation, Sampled, Sink, Syslog,
};
use tower::Layer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = env::temp_dir().join("evenkeel-access.log");
    let rotation = Rotation::new().size(10 * 1024 * 1024)?.keep(3)?;
    let file = Lines::new(Format::Logfmt, Output::rotated_file(path, rotation))?;
    let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(Lines::stdout()?), Box::new(file)];
    if let Some(address) = env::args().nth(1) {
        let syslog = Syslog::udp(address).app_name("shop")?.cee(true);
        let lines = Lines::new(Format::Json, syslog.into())?;
        // One in ten, and each request that failed or was slow.
        sinks.push(Box::new(Sampled::new(lines).ratio(0.1)?));
    }
    let log = AccessLogLayer::new(sinks).node("lb-1");
    let app = Router::new().route("/hello", get(|| async { "hello\n" }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    evenkeel::serve(listener, log.layer(app))
        // The layer also logs connections that end without a request.
        .events(log)
        .await?;
    Ok(())
}
